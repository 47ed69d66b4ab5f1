// KV row codecs: squared errors against the published figures of the same codebooks, exact searches against exhaustive
// ones, packing, rows that are no ordinary numbers, and agreement of the kernel sets.
#include <algorithm>

#include "kernels/cpu/kv_codec/kv_codecs_impl.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

constexpr KvScaleMode kLs = KvScaleMode::kLeastSquares;

const KernelSet* scalar_set() {
    return &kScalarSet;
}

// A coded row.
struct Coded {
    std::vector<uint8_t> codes, scales;
    bool operator==(const Coded&) const = default;
};
Coded encode(const KernelSet* set, KvFormat f, const std::vector<float>& x, KvScaleMode mode = kLs) {
    const uint32_t n = static_cast<uint32_t>(x.size());
    Coded c = {std::vector<uint8_t>(kv_code_bytes(f, n)), std::vector<uint8_t>(kv_scale_bytes(f, n))};
    set->kv_encode[f](x.data(), n, mode, c.codes.data(), c.scales.data());
    return c;
}
std::vector<float> decode(const KernelSet* set, KvFormat f, const Coded& c, uint32_t n) {
    std::vector<float> x(n);
    set->kv_decode[f](c.codes.data(), c.scales.data(), n, x.data());
    return x;
}
bool fits(KvFormat f, uint32_t n) {
    return n % kKvFormats[f].multiple == 0;
}
std::vector<KvFormat> all_formats() {
    std::vector<KvFormat> formats;
    for (uint32_t f = 0; f < kKvFormatCount; ++f) formats.push_back(static_cast<KvFormat>(f));
    return formats;
}

// The mean over rows of |x - decoded|^2 / |x|^2 for Gaussian rows.
double relative_error(KvFormat f, uint32_t n, uint32_t rows) {
    Random random(100 + f);
    double sum = 0;
    for (uint32_t r = 0; r < rows; ++r) {
        const std::vector<float> x = random.normals(n), y = decode(scalar_set(), f, encode(scalar_set(), f, x), n);
        double error = 0, square = 0;
        for (uint32_t i = 0; i < n; ++i) {
            error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
            square += double{x[i]} * x[i];
        }
        sum += error / square;
    }
    return sum / rows;
}

TEST(KernelsKvFormats, GaussianErrorsAreTheSpecifiedOnes) {
    // e8: search over 12 steps and least-squares scale, at 128 elements. tcq: at 64 elements, where annealed tables are
    // better than those the figures are from, by 5 % at 3 and 4 bits. A figure is met with 2 % to spare, and not by a
    // miracle.
    const struct {
        KvFormat format;
        uint32_t n, rows;
        double error;
    } rows[] = {
        {kKvE8_2, 128, 1500, 0.0995},  {kKvE8_3, 128, 1500, 0.0299},  {kKvE8_4, 128, 1500, 0.0086},
        {kKvE8_5, 128, 1500, 0.00229}, {kKvE8_6, 128, 1500, 0.00059}, {kKvE8_2, 64, 3000, 0.0968},
        {kKvE8_3, 64, 3000, 0.0281},   {kKvE8_4, 64, 3000, 0.0078},   {kKvTcq2, 64, 3000, 0.0719},
        {kKvTcq3, 64, 3000, 0.0202},   {kKvTcq4, 64, 3000, 0.0059},
    };
    for (const auto& row : rows) {
        const double error = relative_error(row.format, row.n, row.rows);
        EXPECT_LT(error / row.error, 1.02) << kKvFormats[row.format].name << " at " << row.n << ": " << error;
        EXPECT_GT(error / row.error, 0.93) << kKvFormats[row.format].name << " at " << row.n << ": " << error;
    }
    // No figure is published for a trellis of 5 or 6 bits; it has to be better than the lattice to be worth having.
    EXPECT_LT(relative_error(kKvTcq5, 64, 1000), 0.8 * relative_error(kKvE8_5, 64, 1000));
    EXPECT_LT(relative_error(kKvTcq6, 64, 1000), 0.95 * relative_error(kKvE8_6, 64, 1000));
    // 8 bits: a sixteenth of the error of 6 bits at most, of which the f16 scale is not yet a part worth mention.
    EXPECT_LT(relative_error(kKvE8_8, 128, 200), 0.00059 / 12);
    EXPECT_LT(relative_error(kKvQ8_0, 128, 200), 0.00006);
    EXPECT_LT(relative_error(kKvQ4_0, 128, 200), 0.013);
    EXPECT_LT(relative_error(kKvFp8, 128, 200), 0.0009);
}

TEST(KernelsKvFormats, RowBytes) {
    for (KvFormat f : all_formats()) {
        if (kKvFormats[f].family == KvFamily::kLattice || kKvFormats[f].family == KvFamily::kTrellis) {
            EXPECT_EQ(kv_code_bytes(f, 128) + kv_scale_bytes(f, 128), 16u * kKvFormats[f].bits + 2);
        }
    }
    EXPECT_EQ(kv_code_bytes(kKvQ8_0, 128) + kv_scale_bytes(kKvQ8_0, 128), 136u);
    EXPECT_EQ(kv_code_bytes(kKvQ4_0, 128) + kv_scale_bytes(kKvQ4_0, 128), 72u);
    EXPECT_EQ(kv_code_bytes(kKvTcq3, 64) + kv_scale_bytes(kKvTcq3, 64), 26u);
}

TEST(KernelsKvFormats, SetsCodeRowsAlike) {
    Random random(25);
    std::vector<float> odd = {0.0f, -0.0f, 1e-42f, -1e-42f, 1e30f, -3e38f, 65504.0f, 1e-8f};
    for (const KernelSet* set : fast_sets())
        for (uint32_t n : {8u, 24u, 64u, 80u, 96u, 128u, 256u})
            for (KvFormat f : all_formats())
                for (int round = 0; round < 8; ++round) {
                    if (!fits(f, n)) continue;
                    std::vector<float> x = random.normals(n);
                    if (round == 1)
                        for (float& v : x) v = f32_from_bits(random.bits());
                    if (round == 2)
                        for (float& v : x) v = odd[random.below(8)];
                    if (round == 3)
                        for (float& v : x) v = std::ldexp(v, static_cast<int>(random.below(60)) - 30);
                    if (round == 4)
                        for (float& v : x) v = std::rint(v * 2);  // ties
                    const KvScaleMode mode = random.below(2) ? kLs : KvScaleMode::kUnbiased;
                    const Coded want = encode(scalar_set(), f, x, mode);
                    ASSERT_EQ(want, encode(set, f, x, mode))
                        << set->name << " " << kKvFormats[f].name << " " << n << " round " << round;
                    const std::vector<float> a = decode(scalar_set(), f, want, n), b = decode(set, f, want, n);
                    ASSERT_TRUE(same_floats(a.data(), b.data(), n))
                        << set->name << " " << kKvFormats[f].name << " " << n;
                    Coded any = want;  // any bytes are a row
                    for (uint8_t& c : any.codes) c = static_cast<uint8_t>(random.bits());
                    for (uint8_t& c : any.scales) c = static_cast<uint8_t>(random.bits());
                    const std::vector<float> c = decode(scalar_set(), f, any, n), d = decode(set, f, any, n);
                    ASSERT_TRUE(same_floats(c.data(), d.data(), n))
                        << set->name << " " << kKvFormats[f].name << " " << n;
                    std::vector<float> y = x, z = x;
                    scalar_set()->kv_rotate(y.data(), n);
                    set->kv_rotate(z.data(), n);
                    ASSERT_TRUE(same_floats(y.data(), z.data(), n)) << set->name << " " << n;
                    scalar_set()->kv_unrotate(y.data(), n);
                    set->kv_unrotate(z.data(), n);
                    ASSERT_TRUE(same_floats(y.data(), z.data(), n)) << set->name << " " << n;
                }
}

TEST(KernelsKvFormats, RotationIsOrthogonalAndSpreads) {
    Random random(3);
    for (uint32_t n : {8u, 64u, 80u, 96u, 128u, 192u, 256u}) {
        const std::vector<float> x = random.normals(n);
        std::vector<float> y = x;
        scalar_set()->kv_rotate(y.data(), n);
        double before = 0, after = 0;
        for (uint32_t i = 0; i < n; ++i) before += double{x[i]} * x[i], after += double{y[i]} * y[i];
        EXPECT_NEAR(after / before, 1, 1e-5);
        scalar_set()->kv_unrotate(y.data(), n);
        for (uint32_t i = 0; i < n; ++i) EXPECT_NEAR(y[i], x[i], 1e-5f);
        // One element alone becomes a block of equal magnitudes.
        std::vector<float> one(n, 0.0f);
        one[n - 1] = 1.0f;
        scalar_set()->kv_rotate(one.data(), n);
        const uint32_t block = kv_rotation_block(n);
        for (uint32_t i = 0; i < n; ++i)
            EXPECT_NEAR(std::abs(one[i]), i < n - block ? 0.0 : 1 / std::sqrt(static_cast<double>(block)), 1e-6) << n;
    }
}

// What the states of tcq_b stand for.
std::vector<float> trellis_values(int bits) {
    return {std::begin(kTrellisTables[bits - 2]), std::end(kTrellisTables[bits - 2])};
}

// Every row that is coded at all has its codes back when its decoded numbers are coded at the same scale.
template <int kBits>
void check_trellis_codes(Random& random) {
    constexpr uint32_t n = 64;
    const std::vector<float> value = trellis_values(kBits);
    for (int round = 0; round < 50; ++round) {
        uint8_t codes[n * kBits / 8], again[n * kBits / 8];
        for (uint8_t& c : codes) c = static_cast<uint8_t>(random.bits());
        const uint32_t start = random.below(256 >> kBits);
        int8_t q[n];
        unpack_trellis<kBits>(codes, start, n, kTrellisTables[kBits - 2], q);
        float x[n];
        for (uint32_t i = 0; i < n; ++i) x[i] = q[i];
        uint8_t state[n];
        search_trellis<kBits>(x, n, value.data(), state);
        const uint32_t start_again = pack_trellis(state, n, kBits, again);
        int8_t q_again[n];
        unpack_trellis<kBits>(again, start_again, n, kTrellisTables[kBits - 2], q_again);
        ASSERT_EQ(0, memcmp(q, q_again, n)) << kBits;
        // Different codes with equal values would need equal entries of the table all along; a few elements at most
        // differ.
        for (uint32_t i = 0; i < n; ++i) ASSERT_EQ(value[state[i]], x[i]);
    }
}
TEST(KernelsKvFormats, TrellisCodesADecodedRowAsItself) {
    Random random(4);
    check_trellis_codes<2>(random);
    check_trellis_codes<3>(random);
    check_trellis_codes<4>(random);
    check_trellis_codes<5>(random);
    check_trellis_codes<6>(random);
}

// The Viterbi search against every path of three elements.
template <int kBits>
void check_trellis_search(Random& random) {
    const std::vector<float> value = trellis_values(kBits);
    for (int round = 0; round < 10; ++round) {
        float x[3];
        for (float& v : x) v = random.normal() * 40;
        double best = 1e30;
        for (int s2 = 0; s2 < 256; ++s2)
            for (int w1 = 0; w1 < 1 << kBits; ++w1)
                for (int w0 = 0; w0 < 1 << kBits; ++w0) {
                    const int s1 = (s2 << kBits | w1) & 255, s0 = (s1 << kBits | w0) & 255;
                    const double a = x[2] - value[s2], b = x[1] - value[s1], c = x[0] - value[s0];
                    best = std::min(best, a * a + b * b + c * c);
                }
        uint8_t state[3];
        search_trellis<kBits>(x, 3, value.data(), state);
        ASSERT_EQ(state[1] >> kBits, state[2] & ((256 >> kBits) - 1));
        ASSERT_EQ(state[0] >> kBits, state[1] & ((256 >> kBits) - 1));
        double cost = 0;
        for (int i = 0; i < 3; ++i) cost += (double{x[i]} - value[state[i]]) * (double{x[i]} - value[state[i]]);
        ASSERT_NEAR(cost, best, 1e-3 * (1 + best));
    }
}
TEST(KernelsKvFormats, TrellisSearchIsExact) {
    Random random(5);
    check_trellis_search<2>(random);
    check_trellis_search<3>(random);
    check_trellis_search<4>(random);
    check_trellis_search<5>(random);
}

// The nearest point of the box against every point: blocks of 8 with 2 bits have 2^16.
TEST(KernelsKvFormats, LatticeSearchIsExact) {
    Random random(6);
    for (int round = 0; round < 12; ++round) {
        float y[8];
        for (float& v : y) v = random.normal() * (round % 3 == 0 ? 0.5f : round % 3 == 1 ? 1.0f : 3.0f);
        double best = 1e30;
        for (uint32_t code = 0; code < 1u << 16; ++code) {
            uint32_t parity = 0;
            for (int i = 0; i < 8; ++i) parity ^= code >> 2 * i & 1;
            if (parity) continue;
            for (int c = 0; c < 2; ++c) {
                double cost = 0;
                for (int i = 0; i < 8; ++i) {
                    const double point = static_cast<int>(code >> 2 * i & 3) - 2 + 0.25 + 0.5 * c;
                    cost += (y[i] - point) * (y[i] - point);
                }
                best = std::min(best, cost);
            }
        }
        uint8_t u[8];
        int coset = 0;
        const float cost = nearest_e8(y, 2, u, &coset);
        ASSERT_NEAR(cost, best, 1e-4);
        double real = 0;
        int sum = 0;
        for (int i = 0; i < 8; ++i) {
            const double point = u[i] - 2 + 0.25 + 0.5 * coset;
            real += (y[i] - point) * (y[i] - point);
            sum += u[i];
            ASSERT_LE(u[i], 3);
        }
        ASSERT_EQ(sum % 2, 0);
        ASSERT_NEAR(real, best, 1e-4);
    }
}

template <int kBits>
void check_lattice_codes(Random& random) {
    for (int round = 0; round < 200; ++round) {
        uint8_t u[16], cosets[2], codes[2 * kBits];
        for (int b = 0; b < 2; ++b) {
            int sum = 0;
            for (int i = 0; i < 8; ++i) sum += u[8 * b + i] = static_cast<uint8_t>(random.below(1u << kBits));
            u[8 * b + 7] = static_cast<uint8_t>(u[8 * b + 7] ^ (sum & 1));
            cosets[b] = static_cast<uint8_t>(random.below(2));
        }
        pack_e8(u, cosets, 16, kBits, codes);
        int16_t q[16];
        unpack_e8_integers<kBits>(codes, 16, q);
        for (int i = 0; i < 16; ++i) ASSERT_EQ(q[i], e8_integer(u[i], cosets[i / 8], kBits));
        // Coded at its own step, a decoded row is itself: its points are the only ones at distance 0.
        float x[16], c[16];
        uint8_t u_again[16], cosets_again[2], codes_again[2 * kBits];
        for (int i = 0; i < 16; ++i) x[i] = 0.03f * static_cast<float>(q[i]);
        code_e8(x, 16, kBits, 0.12f, u_again, cosets_again, c);
        pack_e8(u_again, cosets_again, 16, kBits, codes_again);
        ASSERT_EQ(0, memcmp(codes, codes_again, sizeof codes)) << kBits;
        for (int i = 0; i < 16; ++i) ASSERT_EQ(c[i], q[i]);
    }
}
TEST(KernelsKvFormats, LatticePacksAndCodesADecodedRowAsItself) {
    Random random(7);
    check_lattice_codes<2>(random);
    check_lattice_codes<3>(random);
    check_lattice_codes<4>(random);
    check_lattice_codes<5>(random);
    check_lattice_codes<6>(random);
    check_lattice_codes<8>(random);
}

TEST(KernelsKvFormats, UnbiasedScalesKeepProducts) {
    Random random(8);
    for (KvFormat f : {kKvE8_2, kKvE8_4, kKvTcq2, kKvTcq3, kKvTcq4, kKvTcq5, kKvTcq6})
        for (int round = 0; round < 50; ++round) {
            const std::vector<float> x = random.normals(64),
                                     y = decode(scalar_set(), f, encode(scalar_set(), f, x, KvScaleMode::kUnbiased),
                                                64);
            double xx = 0, xy = 0;
            for (int i = 0; i < 64; ++i) xx += double{x[i]} * x[i], xy += double{x[i]} * y[i];
            // As exact as the stored scale: f16, or for tcq_b 1 + b mantissa bits fewer than its 8 + b leave.
            ASSERT_NEAR(xy / xx, 1, f == kKvTcq2 ? 0.017 : f == kKvTcq3 ? 0.009 : 0.005) << kKvFormats[f].name;
        }
}

TEST(KernelsKvFormats, RowsThatAreNoOrdinaryNumbers) {
    std::vector<float> x(64);
    const auto coded = [&](KvFormat f) { return decode(scalar_set(), f, encode(scalar_set(), f, x), 64); };
    Random random(9);
    for (KvFormat f : {kKvE8_2, kKvE8_4, kKvE8_8, kKvTcq2, kKvTcq3, kKvTcq4, kKvTcq5, kKvTcq6}) {
        SCOPED_TRACE(kKvFormats[f].name);
        for (float bad : {NAN, INFINITY, -INFINITY}) {
            x = random.normals(64);
            x[random.below(64)] = bad;
            for (float v : coded(f)) ASSERT_TRUE(std::isnan(v));
        }
        std::fill(x.begin(), x.end(), 0.0f);
        for (float v : coded(f)) ASSERT_EQ(v, 0.0f);
        for (float& v : x) v = random.normal() * 1e-40f;
        for (float v : coded(f)) ASSERT_EQ(v, 0.0f);
        for (float& v : x) v = random.normal() * 1e30f;  // beyond any scale: the largest one
        const std::vector<float> huge = coded(f);
        for (float v : huge) ASSERT_TRUE(std::isfinite(v));
        for (int i = 0; i < 64; ++i) {
            if (std::abs(x[i]) < 1.5e30f) continue;
            ASSERT_EQ(std::signbit(huge[i]), std::signbit(x[i]));
        }
    }
    for (KvFormat f : {kKvQ8_0, kKvQ4_0}) {
        SCOPED_TRACE(kKvFormats[f].name);
        x = random.normals(64);
        x[40] = INFINITY;
        const std::vector<float> y = coded(f);
        for (int i = 0; i < 64; ++i) ASSERT_EQ(std::isnan(y[i]), i >= 32);  // the block it is in
        for (float& v : x) v = random.normal() * 1e30f;
        for (float v : coded(f)) ASSERT_TRUE(std::isfinite(v));
    }
    for (int code = 0; code < 256; ++code) {  // every fp8 number is its own
        const float v = fp8_to_f32(static_cast<uint8_t>(code));
        EXPECT_EQ(std::isnan(v), (code & 0x7f) == 0x7f);
        EXPECT_EQ(f32_to_fp8(v) & (std::isnan(v) ? 0x7f : 0xff),
                  code & (std::isnan(v) ? 0x7f : 0xff));  // a NaN loses its sign
    }
    EXPECT_EQ(fp8_to_f32(f32_to_fp8(1e9f)), 448.0f);
    EXPECT_EQ(fp8_to_f32(f32_to_fp8(-INFINITY)), -448.0f);
    EXPECT_EQ(fp8_to_f32(f32_to_fp8(0.3f)), 0.3125f);
    EXPECT_EQ(fp8_to_f32(f32_to_fp8(17.0f)), 16.0f);  // a tie, to even
    EXPECT_EQ(fp8_to_f32(f32_to_fp8(0x1.8p-10f)), 0x1p-9f * 1.0f);
}

}  // namespace
}  // namespace keel_test
