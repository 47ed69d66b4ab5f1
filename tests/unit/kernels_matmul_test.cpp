// Matrix products: the scalar set against a straightforward double-precision oracle, every other set against the scalar
// one bit for bit, and independence of a result from its neighbours.
#include <algorithm>

#include "kernels/formats/rotation.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

constexpr float kCanary = -12345.5f;

// How a product reads activations.
enum Form { kFloats, kQ8, kPairs };
constexpr Form kForms[] = {kFloats, kQ8, kPairs};
constexpr const char* kFormNames[] = {" f32", " q8", " bf16"};
bool has_form(uint32_t type, Form form) {
    return form == kFloats || (form == kQ8) == (kWeightTypes[type].activation_block != 0);
}

// One product: weights, activations in every form, and what it writes.
struct Problem {
    uint32_t type, rows, k, columns, row_begin, row_end;
    bool bias, accumulate, from_memory;
    Buffer w;
    std::vector<float> x, b, y0;  // y0: what y holds before
    uint64_t w_row_bytes;

    Problem(uint32_t type, uint32_t rows, uint32_t k, uint32_t columns, Random& random, int fill = -1)
        : type(type),
          rows(rows),
          k(k),
          columns(columns),
          row_begin(0),
          row_end(rows),
          bias(false),
          accumulate(false),
          from_memory(false),
          w(rows * weight_row_bytes(type, k), 1),
          x(random.normals(uint64_t{columns} * k)),
          b(random.normals(rows)),
          y0(random.normals(uint64_t{columns} * rows)),
          w_row_bytes(weight_row_bytes(type, k)) {
        fill_weights(type, w.data(), rows * w_row_bytes, random, fill);
    }

    // Runs columns [first, first + count) and returns y, column by column, canary where nothing was written.
    std::vector<float> run(const KernelSet* set, Form form, uint32_t first, uint32_t count) {
        const uint32_t block = kWeightTypes[type].activation_block;
        const uint64_t stride = round64(form == kQ8      ? q8_token_bytes(k, block)
                                        : form == kPairs ? bf16_token_bytes(k)
                                                         : uint64_t{k} * 4);
        Buffer activations(stride * count);
        Buffer y = fenced(std::vector<float>(uint64_t{count} * rows, kCanary)), bias_values = fenced(b);
        std::vector<float*> out(count);
        for (uint32_t c = 0; c < count; ++c) {
            const float* source = x.data() + uint64_t{first + c} * k;
            uint8_t* column = activations.data() + c * stride;
            if (form == kQ8)
                set->quantize_q8(source, k, block, column);
            else if (form == kPairs)
                set->round_bf16(source, 0, k, column);
            else
                memcpy(column, source, uint64_t{k} * 4);
            out[c] = y.floats() + uint64_t{c} * rows;
            if (accumulate)
                std::copy_n(y0.data() + uint64_t{first + c} * rows + row_begin, row_end - row_begin,
                            out[c] + row_begin);
        }
        Buffer scratch(matmul_scratch_bytes(k));
        MatmulArgs args = {
            w.data(),   w_row_bytes,        row_begin,  row_end,    k,
            count,      activations.data(), stride,     out.data(), bias ? bias_values.floats() : nullptr,
            accumulate, scratch.data(),     from_memory};
        (form == kQ8 ? set->matmul_q8 : form == kPairs ? set->matmul_bf16 : set->matmul_f32)[type](args);
        return std::vector<float>(y.floats(), y.floats() + uint64_t{count} * rows);
    }
    std::vector<float> run(const KernelSet* set, Form form) { return run(set, form, 0, columns); }
};

uint32_t random_k(uint32_t type, Random& random) {
    const uint32_t block = kWeightTypes[type].block_elements;
    return block == 1 ? random.between(1, 700) : block * random.between(1, block == 32 ? 20 : 4);
}

TEST(KernelsMatmul, ScalarAgreesWithDoubleOracle) {
    const KernelSet* set = &kScalarSet;
    Random random(10);
    for (uint32_t type : weight_types())
        for (int round = 0; round < 6; ++round)
            for (Form form : kForms) {
                const uint32_t block = kWeightTypes[type].activation_block;
                if (!has_form(type, form)) continue;
                SCOPED_TRACE(std::string(kWeightTypes[type].name) + kFormNames[form]);
                Problem p(type, random.between(1, 9), random_k(type, random), random.between(1, 4), random);
                p.bias = round & 1;
                p.accumulate = round & 2;
                const std::vector<float> y = p.run(set, form);
                std::vector<float> w(p.k);
                for (uint32_t r = 0; r < p.rows; ++r) {
                    set->dequantize_row[type](p.w.data() + r * p.w_row_bytes, w.data(), p.k);
                    for (uint32_t i = 0; form == kQ8 && is_trellis(type) && i < p.k; i += 256)
                        rotate_row(w.data() + i, 256);
                    for (uint32_t c = 0; c < p.columns; ++c) {
                        const float* x = p.x.data() + c * p.k;
                        double dot = 0, magnitude = 0;
                        for (uint32_t i = 0; i < p.k; ++i) {
                            double a = x[i];
                            if (form == kPairs) {
                                a = bf16_to_f32(f32_to_bf16(x[i]));
                                w[i] = bf16_to_f32(f32_to_bf16(w[i]));
                            }
                            if (form == kQ8) {
                                double amax = 0;
                                for (uint32_t j = i / block * block; j < i / block * block + block; ++j)
                                    amax = std::max<double>(amax, std::abs(x[j]));
                                const float inverse = 127.0f / static_cast<float>(amax);
                                a = static_cast<float>(amax) * (1.0f / 127) * std::nearbyint(x[i] * inverse);
                            }
                            dot += a * w[i];
                            magnitude += std::abs(a * w[i]);
                        }
                        // The minimum enters by itself in the q8 form, so it counts by itself in the bound.
                        double want = dot + (p.bias ? p.b[r] : 0) + (p.accumulate ? p.y0[c * p.rows + r] : 0);
                        ASSERT_NEAR(y[c * p.rows + r], want, 4e-6 * (magnitude + std::abs(want) + p.k * 0.05))
                            << "row " << r << " column " << c << " k " << p.k;
                    }
                }
            }
}

// Of trellis types the product of rotated activations is that of the rows: within what 8 bits lose.
TEST(KernelsMatmul, RotatedProductsAreThoseOfTheRows) {
    Random random(17);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t type : {kWT2, kWT3}) {
            Problem p(type, 16, 1024, 3, random);
            std::vector<float> plain = p.x;
            for (size_t i = 0; i < p.x.size(); i += 256) set->kv_rotate(p.x.data() + i, 256);
            const std::vector<float> y = p.run(set, kQ8);
            std::vector<float> w(p.k);
            for (uint32_t r = 0; r < p.rows; ++r) {
                set->dequantize_row[type](p.w.data() + r * p.w_row_bytes, w.data(), p.k);
                for (uint32_t c = 0; c < p.columns; ++c) {
                    double dot = 0, square = 0;
                    for (uint32_t i = 0; i < p.k; ++i) {
                        dot += double{w[i]} * plain[c * p.k + i];
                        square += double{w[i]} * w[i];
                    }
                    EXPECT_NEAR(y[c * p.rows + r], dot, 0.04 * std::sqrt(square)) << set->name;
                }
            }
        }
}

TEST(KernelsMatmul, QuantizeQ8AgreesWithItsDefinition) {
    Random random(11);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t block : {32u, 256u})
            for (int round = 0; round < 200; ++round) {
                const uint32_t k = block * random.between(1, 6);
                std::vector<float> x = random.normals(k);
                const int kind = round % 8;
                for (float& v : x) {
                    if (kind == 1) v *= 1e-42f;  // subnormal: 127 / amax overflows
                    if (kind == 2) v *= 1e37f;
                    if (kind == 3) v = random.below(4) ? 0.0f : v;
                    if (kind == 4) v = 0.0f;
                    if (kind == 7) v = std::round(v * 40) * 0.5f;  // many ties
                }
                if (kind == 5) x[random.below(k)] = kInf32;
                if (kind == 6) x[random.below(k)] = NAN;
                Buffer column(q8_token_bytes(k, block)), input(k * 4);
                memcpy(input.data(), x.data(), k * 4);
                set->quantize_q8(input.floats(), k, block, column.data());
                for (uint32_t b = 0; b < k / block; ++b) {
                    float amax = 0;
                    for (uint32_t i = 0; i < block; ++i)
                        amax = std::isnan(x[b * block + i]) || std::isnan(amax)
                                   ? NAN
                                   : std::max(amax, std::abs(x[b * block + i]));
                    const float d = q8_scales(column.data(), k)[b];
                    ASSERT_TRUE(same_f32(d, std::isfinite(amax) ? amax * (1.0f / 127) : NAN))
                        << set->name << " " << kind;
                    int sum = 0;
                    for (uint32_t i = 0; i < block; ++i) {
                        float v = std::isfinite(amax) && amax > 0 ? x[b * block + i] * (127.0f / amax) : 0;
                        if (std::isnan(v)) v = 0;
                        const int want = static_cast<int>(std::nearbyint(std::clamp(v, -127.0f, 127.0f)));
                        const int got = q8_codes(column.data())[b * block + i];
                        ASSERT_EQ(got, want) << set->name << " kind " << kind << " x " << x[b * block + i];
                        sum += got;
                        if (i % 16 == 15) {
                            ASSERT_EQ(q8_sums(column.data(), k, block)[(b * block + i) / 16], sum);
                            sum = 0;
                        }
                    }
                }
            }
}

TEST(KernelsMatmul, SetsAgreeBitForBit) {
    const KernelSet* scalar = &kScalarSet;
    Random random(12);
    for (const KernelSet* set : fast_sets())
        for (uint32_t type : weight_types())
            for (Form form : kForms) {
                if (!has_form(type, form)) continue;
                for (uint32_t round = 0; round < 40; ++round) {
                    const uint32_t columns = round < 17    ? round + 1
                                             : round == 17 ? 33
                                             : round == 18 ? 130
                                                           : random.between(1, 17);
                    Problem p(type, random.between(1, 35), random_k(type, random), columns, random);
                    p.row_begin = random.below(p.rows);
                    p.row_end = random.between(p.row_begin, p.rows);
                    p.bias = random.below(2);
                    p.accumulate = random.below(2);
                    ASSERT_TRUE(
                        same_floats(p.run(scalar, form).data(), p.run(set, form).data(), uint64_t{columns} * p.rows))
                        << set->name << " " << kWeightTypes[type].name << kFormNames[form] << " rows [" << p.row_begin
                        << ", " << p.row_end << ") k " << p.k << " columns " << columns;
                }
            }
}

// Float weights whose rows are whole vectors take a way of their own: more than one panel of elements, more than one
// group of columns, rows that end within a block, and fetching ahead.
TEST(KernelsMatmul, SetsAgreeOnWholeVectors) {
    const KernelSet* scalar = &kScalarSet;
    Random random(15);
    for (const KernelSet* set : fast_sets())
        for (uint32_t type : {kF32, kF16, kBF16})
            for (uint32_t columns : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 13u, 24u, 161u, 193u, 400u})
                for (int round = 0; round < (columns < 100 ? 12 : 3); ++round) {
                    const uint32_t k = 16 * (round % 3 ? random.between(1, 20) : random.between(60, 140));
                    Problem p(type, columns < 100 ? random.between(1, 70) : random.between(1, 35), k, columns, random);
                    p.row_begin = random.below(2) ? 0 : random.below(p.rows);
                    p.bias = random.below(2);
                    p.accumulate = random.below(2);
                    for (Form form : {kFloats, kPairs}) {
                        const std::vector<float> want = p.run(scalar, form);
                        for (bool from_memory : {false, true}) {
                            p.from_memory = from_memory;
                            ASSERT_TRUE(same_floats(want.data(), p.run(set, form).data(), want.size()))
                                << set->name << " " << kWeightTypes[type].name << kFormNames[form] << " rows ["
                                << p.row_begin << ", " << p.rows << ") k " << k << " columns " << columns
                                << " from_memory " << from_memory;
                        }
                    }
                }
}

// bf16 pairs: every number of columns and length of row, ties, values that count as zero, and what overflows.
TEST(KernelsMatmul, RoundingToPairsAgreesWithItsDefinition) {
    Random random(18);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t k = 1; k <= 100; ++k) {
            Buffer x(k * 4), pairs(bf16_token_bytes(k));
            for (uint32_t i = 0; i < k; ++i) {
                uint32_t bits = random.bits();
                if (i % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;                       // a tie
                if (i % 5 == 0) bits = (bits & 0x807fffffu) | (70 + random.below(3)) << 23;  // about 2^-56
                if (i % 7 == 0) bits = (bits & 0x80000000u) | (random.below(2) ? 0x7f7fffffu : 0x7fffffffu);
                memcpy(x.data() + i * 4, &bits, 4);
            }
            const uint32_t cut = random.below(k / kBf16Block + 1) * kBf16Block;  // in two parts
            set->round_bf16(x.floats(), cut, k, pairs.data());
            set->round_bf16(x.floats(), 0, cut, pairs.data());
            for (uint32_t i = 0; i < bf16_token_bytes(k) / 4; ++i) {
                uint16_t bf16;
                memcpy(&bf16, pairs.data() + 2 * i, 2);
                const float got = set->multiplies_bf16 ? bf16_to_f32(bf16) : pairs.floats()[bf16_pair_place(i)];
                const float value = i < k ? x.floats()[i] : 0.0f;
                if (std::isnan(value)) {
                    ASSERT_TRUE(std::isnan(got)) << set->name;
                } else {
                    const float want = bf16_to_f32(f32_to_bf16(value));
                    ASSERT_TRUE(same_f32(got, std::abs(want) < 0x1p-56f ? 0.0f : want)) << set->name << " " << value;
                }
            }
        }
}

// Sums that cancel, of the smallest values that count: instructions that flush subnormals must not be seen to.
TEST(KernelsMatmul, SumsOfTheSmallestPairsAreExact) {
    Random random(19);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (int round = 0; round < 50; ++round) {
            Problem p(kF32, 3, 64, 5, random);
            const auto smallest = [&] {
                return (random.below(2) ? 0x1p-56f : -0x1p-56f) * (1 + random.below(128) / 128.0f);
            };
            for (uint32_t i = 0; i < p.rows * p.k; ++i) {
                const float w = smallest();
                memcpy(p.w.data() + i * 4, &w, 4);
            }
            for (float& x : p.x) x = smallest();
            const std::vector<float> y = p.run(set, kPairs);
            for (uint32_t c = 0; c < p.columns; ++c)
                for (uint32_t r = 0; r < p.rows; ++r) {
                    double dot = 0;  // exact: at most 64 multiples of 2^-126 below 2^-110
                    for (uint32_t i = 0; i < p.k; ++i) {
                        float w;
                        memcpy(&w, p.w.data() + (r * p.k + i) * 4, 4);
                        dot += double{w} * p.x[c * p.k + i];
                    }
                    ASSERT_EQ(y[c * p.rows + r], static_cast<float>(dot)) << set->name;
                }
        }
}

// Weights about 2^-56, of which smaller ones count as 0, on the ways of one token, of few and of many.
TEST(KernelsMatmul, SetsAgreeOnSmallWeightsInPairs) {
    Random random(20);
    for (const KernelSet* set : fast_sets())
        for (uint32_t type : {kF32, kF16, kBF16})
            for (uint32_t k : {64u, 75u})
                for (uint32_t columns : {1u, 5u, 40u}) {
                    Problem p(type, 9, k, columns, random);
                    for (uint32_t i = 0; i < p.rows * k; ++i) {
                        const float w = random.normal() * 0x1p-56f;
                        const uint16_t half =
                            type == kF16 ? static_cast<uint16_t>(random.bits() & 0x83ffu) : f32_to_bf16(w);
                        if (type == kF32)
                            memcpy(p.w.data() + 4 * i, &w, 4);
                        else
                            memcpy(p.w.data() + 2 * i, &half, 2);  // F16: subnormal
                    }
                    ASSERT_TRUE(same_floats(p.run(&kScalarSet, kPairs).data(), p.run(set, kPairs).data(),
                                            uint64_t{columns} * p.rows))
                        << set->name << " " << kWeightTypes[type].name << " k " << k << " columns " << columns;
                }
}

// Products below the smallest number leave -0 in every lane, and elements that pad a row to whole vectors must not turn
// it into +0.
TEST(KernelsMatmul, SetsKeepTheSignOfZero) {
    const KernelSet* scalar = &kScalarSet;
    Random random(16);
    for (const KernelSet* set : fast_sets())
        for (uint32_t k : {16u, 17u, 31u, 33u})
            for (uint32_t columns : {1u, 3u, 9u}) {
                Problem p(kF32, 5, k, columns, random);
                for (uint32_t i = 0; i < p.rows * k; ++i) {
                    const float w = -1e-30f;
                    memcpy(p.w.data() + i * 4, &w, 4);
                }
                for (float& x : p.x) x = 1e-30f;
                const std::vector<float> want = p.run(scalar, kFloats);
                EXPECT_TRUE(std::signbit(want[0]));
                ASSERT_TRUE(same_floats(want.data(), p.run(set, kFloats).data(), want.size()))
                    << set->name << " k " << k;
            }
}

// Codes at the ends of their ranges against activations at theirs: no intermediate saturates, no special value is lost.
TEST(KernelsMatmul, SetsAgreeOnExtremeValues) {
    const KernelSet* scalar = &kScalarSet;
    Random random(13);
    for (const KernelSet* set : fast_sets())
        for (uint32_t type : weight_types())
            for (Form form : kForms)
                for (int fill : {0, 255, 0x80, 0x7f, 0x0f, 0xf0, -1})
                    for (int kind = 0; kind < 8; ++kind)
                        for (uint32_t columns : {1u, 5u}) {
                            if (!has_form(type, form)) continue;
                            const uint32_t block = kWeightTypes[type].block_elements;
                            const uint32_t k = block > 1 ? 2 * block : form == kPairs ? 64 : 48;
                            Problem p(type, 9, k, columns, random, fill);
                            for (float& v : p.x) {
                                if (kind == 0) v = 1.0f;
                                if (kind == 1) v = -1.0f;
                                if (kind == 2) v = v < 0 ? -1.0f : 1.0f;
                                if (kind == 3) v *= 1e-41f;
                                if (kind == 4) v *= 1e37f;
                            }
                            if (kind == 5) p.x[random.below(p.k)] = kInf32;
                            if (kind == 6) p.x[random.below(p.k)] = NAN;
                            const WeightTypeInfo& info = kWeightTypes[type];
                            if (kind == 7 && info.activation_block && type != kQ8_F32) {
                                store_f16(p.w.data() + info.d_at, kInf32);
                                store_f16(p.w.data() + 3 * p.w_row_bytes + info.d_at, NAN);
                                store_f16(p.w.data() + 5 * p.w_row_bytes + info.d_at, 0x1p-24f);
                                if (info.has_minimum()) store_f16(p.w.data() + 6 * p.w_row_bytes + info.m_at, -kInf32);
                            }
                            ASSERT_TRUE(same_floats(p.run(scalar, form).data(), p.run(set, form).data(),
                                                    uint64_t{columns} * p.rows))
                                << set->name << " " << kWeightTypes[type].name << kFormNames[form] << " fill " << fill
                                << " kind " << kind;
                        }
}

TEST(KernelsMatmul, ColumnsAndRowsAreIndependent) {
    Random random(14);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t type : weight_types())
            for (Form form : kForms) {
                if (!has_form(type, form)) continue;
                SCOPED_TRACE(std::string(set->name) + " " + kWeightTypes[type].name + kFormNames[form]);
                Problem p(type, 21, random_k(type, random), 19, random);
                const std::vector<float> all = p.run(set, form);
                for (uint32_t c = 0; c < p.columns; ++c)
                    ASSERT_TRUE(same_floats(all.data() + c * p.rows, p.run(set, form, c, 1).data(), p.rows)) << c;
                for (int round = 0; round < 6; ++round) {  // any cut of the rows
                    p.row_begin = random.below(p.rows);
                    p.row_end = random.between(p.row_begin + 1, p.rows);
                    const std::vector<float> part = p.run(set, form);
                    for (uint32_t c = 0; c < p.columns; ++c)
                        for (uint32_t r = 0; r < p.rows; ++r)
                            ASSERT_TRUE(same_f32(part[c * p.rows + r],
                                                 r >= p.row_begin && r < p.row_end ? all[c * p.rows + r] : kCanary));
                }
            }
}

}  // namespace
}  // namespace keel_test
