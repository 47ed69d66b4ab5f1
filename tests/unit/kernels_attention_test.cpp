// Attention: the scalar set against a softmax in double over the stored rows, other sets against the scalar one bit for
// bit, and independence of a query row from the rows and calls around it. Rows nobody sees hold NaN.
#include <algorithm>

#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

constexpr uint32_t kHeads = 2;  // heads per page, so that offsets matter; the second one is read

struct Problem {
    uint32_t head_dim, page_tokens, positions;
    std::vector<Buffer> storage;
    std::vector<const uint8_t*> pages;
    std::vector<float> q;
    std::vector<uint32_t> begin, end;
    float scale, softcap;
    KvPlane k_plane, v_plane;
    uint32_t mean_pairs = 0;
    std::vector<float> tile_rotations, offset_rotations, coefficients;

    Problem(uint32_t head_dim, uint32_t page_tokens, uint32_t positions, uint32_t k_format, uint32_t v_format,
            uint32_t rows, float softcap, Random& random)
        : head_dim(head_dim),
          page_tokens(page_tokens),
          positions(positions),
          q(random.normals(uint64_t{rows} * head_dim)),
          scale(1.0f / std::sqrt(static_cast<float>(head_dim))),
          softcap(softcap) {
        uint64_t page_bytes = 0;
        const auto plane = [&](uint32_t format) {
            const KvFormat f = static_cast<KvFormat>(format);
            KvPlane p = {f, kv_code_bytes(f, head_dim), kv_scale_bytes(f, head_dim), 0, 0};
            p.codes = page_bytes + uint64_t{page_tokens} * (p.code_bytes + p.scale_bytes);  // of the second head
            p.scales = p.codes + uint64_t{page_tokens} * p.code_bytes;
            page_bytes += uint64_t{kHeads} * page_tokens * (p.code_bytes + p.scale_bytes);
            return p;
        };
        k_plane = plane(k_format);
        v_plane = plane(v_format);
        for (uint32_t p = 0; p * page_tokens < positions; ++p) storage.emplace_back(page_bytes);
        for (Buffer& page : storage) {
            memset(page.data(), 0xff, page_bytes);  // NaN in f16 and f32
            pages.push_back(page.data());
        }
        // Sets code rows alike (kernels_kv_formats_test.cpp), and the scalar one takes long.
        const std::vector<const KernelSet*> fast = fast_sets();
        const KernelSet* coder = fast.empty() ? &kScalarSet : fast[0];
        for (uint32_t j = 0; j < positions; ++j) {
            std::vector<float> k = random.normals(head_dim), v = random.normals(head_dim);
            for (float& x : k) x *= 2.0f;
            coder->kv_encode[k_format](k.data(), head_dim, KvScaleMode::kLeastSquares, codes(k_plane, j),
                                       scales(k_plane, j));
            coder->kv_encode[v_format](v.data(), head_dim, KvScaleMode::kLeastSquares, codes(v_plane, j),
                                       scales(v_plane, j));
        }
        for (uint32_t r = 0; r < rows; ++r) {
            begin.push_back(0);
            end.push_back(positions);
        }
    }
    uint8_t* codes(const KvPlane& p, uint32_t j) {
        return storage[j / page_tokens].data() + p.codes + j % page_tokens * p.code_bytes;
    }
    uint8_t* scales(const KvPlane& p, uint32_t j) {
        return storage[j / page_tokens].data() + p.scales + j % page_tokens * p.scale_bytes;
    }
    std::vector<float> decoded(const KernelSet* set, const KvPlane& p, uint32_t j) {
        std::vector<float> row(head_dim);
        set->kv_decode[p.format](codes(p, j), scales(p, j), head_dim, row.data());
        return row;
    }

    // Removes a mean: frequencies, tables and coefficients that have nothing to do with the keys.
    std::vector<double> frequencies;
    void add_mean(uint32_t pairs, Random& random) {
        mean_pairs = pairs;
        for (uint32_t i = 0; i < pairs; ++i) frequencies.push_back(random.uniform(1e-3f, 1.0f));
        for (uint32_t tile = 0; tile * kAttentionTile < positions; ++tile)
            for (double f : frequencies) {
                tile_rotations.push_back(static_cast<float>(std::cos(f * tile * kAttentionTile)));
                tile_rotations.push_back(static_cast<float>(std::sin(f * tile * kAttentionTile)));
            }
        for (double f : frequencies) {
            for (uint32_t j = 0; j < kAttentionTile; ++j)
                offset_rotations.push_back(static_cast<float>(std::cos(f * j)));
            for (uint32_t j = 0; j < kAttentionTile; ++j)
                offset_rotations.push_back(static_cast<float>(std::sin(f * j)));
        }
        coefficients = random.normals(uint64_t{rows()} * 2 * pairs);
    }

    uint32_t rows() const { return static_cast<uint32_t>(begin.size()); }

    // Where rows of a tail lie: query row r reads position j from slot lists[r / rows_per_list][j - tail_first].
    uint32_t tail_first = UINT32_MAX, rows_per_list = 1;
    std::vector<std::vector<uint32_t>> lists;

    // Rows [first, first + count) in calls of at most `step` rows; the finished outputs.
    std::vector<float> run(const KernelSet* set, uint32_t first, uint32_t count, uint32_t step) {
        Buffer queries = fenced(q.data() + uint64_t{first} * head_dim, uint64_t{count} * head_dim),
               out = fenced(std::vector<float>(uint64_t{count} * head_dim, NAN));
        Buffer m = fenced(std::vector<float>(count, -INFINITY)), l = fenced(std::vector<float>(count, NAN));
        Buffer mean_tiles = fenced(tile_rotations), mean_offsets = fenced(offset_rotations),
               mean_coefficients = fenced(coefficients);
        Buffer scratch(attention_scratch_floats(head_dim) * 4);
        memset(scratch.data(), 0xff, attention_scratch_floats(head_dim) * 4);  // NaN
        for (uint32_t r = 0; r < count; r += step) {
            const uint32_t n = std::min(step, count - r);
            std::vector<const float*> qs(n);
            std::vector<float*> os(n);
            std::vector<const float*> means(n);
            std::vector<const uint32_t*> row_of(n);
            for (uint32_t i = 0; i < n; ++i) {
                means[i] = mean_coefficients.floats() + uint64_t{first + r + i} * 2 * mean_pairs;
                qs[i] = queries.floats() + uint64_t{r + i} * head_dim;
                os[i] = out.floats() + uint64_t{r + i} * head_dim;
                if (!lists.empty()) row_of[i] = lists[(first + r + i) / rows_per_list].data();
            }
            for (uint32_t split = 0; split * kKvSplitTokens < positions; ++split) {
                AttentionArgs a = {};
                a.pages = pages.data();
                a.page_tokens = page_tokens;
                a.k = k_plane;
                a.v = v_plane;
                a.mean = {mean_pairs, mean_tiles.floats(), mean_offsets.floats(), means.data()};
                a.head_dim = head_dim;
                a.split = split;
                a.rows = n;
                a.q = qs.data();
                a.begin = begin.data() + first + r;
                a.end = end.data() + first + r;
                a.tail_first = tail_first;
                a.row_of = row_of.data();
                a.scale = scale;
                a.softcap = softcap;
                a.m = m.floats() + r;
                a.l = l.floats() + r;
                a.o = os.data();
                a.scratch = scratch.floats();
                set->attention_split(a);
            }
            for (uint32_t i = 0; i < n; ++i) set->attention_finish(os[i], l.floats()[r + i], head_dim);
        }
        return std::vector<float>(out.floats(), out.floats() + uint64_t{count} * head_dim);
    }

    // Causal prefill: row r is position last - rows + 1 + r, with a window when window > 0.
    void causal(uint32_t last, uint32_t window) {
        for (uint32_t r = 0; r < rows(); ++r) {
            end[r] = last + 2 - rows() + r;
            begin[r] = window && end[r] > window ? end[r] - window : 0;
        }
    }
};

KvFormat random_format(Random& random, uint32_t head_dim) {
    for (;;) {
        const KvFormat format = static_cast<KvFormat>(random.below(kKvFormatCount));
        if (head_dim % kKvFormats[format].multiple == 0) return format;
    }
}

Problem random_problem(Random& random, uint32_t head_dim, uint32_t rows) {
    const uint32_t positions = std::max(rows + 1, random.between(1, 1300));
    const bool floats = random.below(3) == 0;
    const uint32_t k = floats ? random.below(2) : random_format(random, head_dim),
                   v = floats ? random.below(2) : random_format(random, head_dim);
    Problem p(head_dim, 64 * random.between(1, 5), positions, k, v, rows, random.below(3) ? 0.0f : 5.0f, random);
    if (random.below(3) == 0) p.add_mean(random.between(1, 20), random);
    if (random.below(2))
        p.causal(positions - 1, random.below(2) ? random.between(1, 700) : 0);
    else
        for (uint32_t r = 0; r < rows; ++r) {
            p.begin[r] = random.below(positions);
            p.end[r] = random.between(p.begin[r] + 1, positions);
        }
    return p;
}

// A query as attention on integer codes sees it: 8 bits, a scale for every scale of a K row.
std::vector<double> quantized(const float* q, uint32_t head_dim, uint32_t blocks) {
    std::vector<double> out(q, q + head_dim);
    const uint32_t block = head_dim / blocks;
    for (uint32_t b = 0; b < blocks; ++b) {
        double largest = 0;
        for (uint32_t i = b * block; i < (b + 1) * block; ++i) largest = std::max(largest, std::abs(out[i]));
        for (uint32_t i = b * block; i < (b + 1) * block; ++i)
            out[i] = std::rint(out[i] * 127 / largest) * largest / 127;
    }
    return out;
}

TEST(KernelsAttention, ScalarAgreesWithDoubleSoftmax) {
    const KernelSet* set = &kScalarSet;
    Random random(20);
    for (uint32_t head_dim : {32u, 64u, 80u, 96u, 128u, 256u})
        for (int round = 0; round < 12; ++round) {
            Problem p = random_problem(random, head_dim, random.between(1, 6));
            const std::vector<float> out = p.run(set, 0, p.rows(), p.rows());
            const bool integer_k = kKvFormats[p.k_plane.format].integer,
                       integer_v = kKvFormats[p.v_plane.format].integer;
            for (uint32_t r = 0; r < p.rows(); ++r) {
                std::vector<double> s, o(head_dim), q(p.q.begin() + r * head_dim, p.q.begin() + (r + 1) * head_dim);
                if (integer_k)
                    q = quantized(p.q.data() + r * head_dim, head_dim, kv_scales(p.k_plane.format, head_dim));
                for (uint32_t j = p.begin[r]; j < p.end[r]; ++j) {
                    const std::vector<float> k = p.decoded(set, p.k_plane, j);
                    double dot = 0;
                    for (uint32_t d = 0; d < head_dim; ++d) dot += static_cast<double>(k[d]) * q[d];
                    for (uint32_t i = 0; i < p.mean_pairs; ++i) {
                        const float* c = p.coefficients.data() + (r * p.mean_pairs + i) * 2;
                        dot += c[0] * std::cos(p.frequencies[i] * j) + c[1] * std::sin(p.frequencies[i] * j);
                    }
                    dot *= p.scale;
                    s.push_back(p.softcap > 0 ? p.softcap * std::tanh(dot / p.softcap) : dot);
                }
                const double top = *std::max_element(s.begin(), s.end());
                double sum = 0, magnitude = 0;
                for (uint32_t j = p.begin[r]; j < p.end[r]; ++j) {
                    const double e = std::exp(s[j - p.begin[r]] - top);
                    const std::vector<float> v = p.decoded(set, p.v_plane, j);
                    for (uint32_t d = 0; d < head_dim; ++d)
                        o[d] += e * v[d], magnitude = std::max(magnitude, std::abs(double{v[d]}));
                    sum += e;
                }
                // Weights of integer values have 15 bits of the largest in their tile: an error of half a step each, at
                // most.
                const double near = (5e-6 + (integer_v ? 64 * 0.5 / 32767 * magnitude : 0)) * (p.mean_pairs ? 4 : 1);
                for (uint32_t d = 0; d < head_dim; ++d)
                    ASSERT_NEAR(out[r * head_dim + d], o[d] / sum, near)
                        << "head_dim " << head_dim << " row " << r << " " << kKvFormats[p.k_plane.format].name << " "
                        << kKvFormats[p.v_plane.format].name << " mean pairs " << p.mean_pairs;
            }
        }
}

TEST(KernelsAttention, SetsAgreeBitForBit) {
    const KernelSet* scalar = &kScalarSet;
    Random random(21);
    for (const KernelSet* set : fast_sets())
        for (uint32_t head_dim : {8u, 24u, 32u, 40u, 64u, 80u, 96u, 128u, 192u, 256u})
            for (uint32_t rows : {1u, 2u, 3u, 7u, 16u, 33u, 128u}) {
                Problem p = random_problem(random, head_dim, rows);
                ASSERT_TRUE(same_floats(p.run(scalar, 0, rows, rows).data(), p.run(set, 0, rows, rows).data(),
                                        uint64_t{rows} * head_dim))
                    << set->name << " head_dim " << head_dim << " rows " << rows << " formats "
                    << kKvFormats[p.k_plane.format].name << " " << kKvFormats[p.v_plane.format].name << " mean pairs "
                    << p.mean_pairs << " softcap " << p.softcap;
            }
}

// Every integer format as K and as V, over row lengths that are no multiple of a register, any codes, and ranges that
// begin and end anywhere in a tile.
TEST(KernelsAttention, SetsAgreeOnEveryIntegerFormat) {
    const KernelSet* scalar = &kScalarSet;
    Random random(28);
    for (const KernelSet* set : fast_sets())
        for (uint32_t f = 0; f < kKvFormatCount; ++f)
            for (uint32_t head_dim : {8u, 32u, 40u, 64u, 88u, 96u, 128u, 160u, 200u, 256u}) {
                const KvFormat format = static_cast<KvFormat>(f);
                if (!kKvFormats[format].integer || head_dim % kKvFormats[format].multiple) continue;
                const KvFormat other = random_format(random, head_dim);
                const bool first = random.below(2);
                const uint32_t rows = random.between(1, 6), positions = random.between(1, 200);
                Problem p(head_dim, 64 * random.between(1, 5), positions, first ? format : other,
                          first ? other : format, rows, 0, random);
                for (uint32_t r = 0; r < rows; ++r) {
                    p.begin[r] = random.below(positions);
                    p.end[r] = random.between(p.begin[r] + 1, positions);
                }
                for (const KvPlane& plane : {p.k_plane, p.v_plane}) {
                    if (!kKvFormats[plane.format].integer) continue;
                    const KvFamily family = kKvFormats[plane.format].family;
                    for (uint32_t j = 0; j < positions; ++j) {
                        for (uint32_t i = 0; i < plane.code_bytes; ++i)
                            p.codes(plane, j)[i] = random.below(8) ? static_cast<uint8_t>(random.bits())
                                                                   : 0x80;  // -128 is no q8_0 of ours
                        for (uint32_t i = 0; family != KvFamily::kTrellis && i < plane.scale_bytes; i += 2)
                            p.scales(plane, j)[i + 1] ^= static_cast<uint8_t>(random.below(2) << 7);
                        if (family == KvFamily::kTrellis)
                            p.scales(plane, j)[0] ^= static_cast<uint8_t>(random.below(4));  // start bits
                    }
                }
                ASSERT_TRUE(same_floats(p.run(scalar, 0, rows, rows).data(), p.run(set, 0, rows, rows).data(),
                                        uint64_t{rows} * head_dim))
                    << set->name << " head_dim " << head_dim << " formats " << kKvFormats[p.k_plane.format].name << " "
                    << kKvFormats[p.v_plane.format].name;
            }
}

TEST(KernelsAttention, RowsNobodySeesDoNotMatter) {
    Random random(29);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t f = 0; f < kKvFormatCount; ++f) {
            const KvFormat format = static_cast<KvFormat>(f);
            if (!kKvFormats[format].integer) continue;
            Problem p(64, 64, 64, format, format, 3, 0, random);
            p.begin = {13, 20, 14};
            p.end = {45, 51, 22};
            const std::vector<float> want = p.run(set, 0, 3, 3);
            for (uint32_t j = 0; j < 64; ++j) {
                if (j >= 13 && j < 51) continue;
                for (const KvPlane& plane : {p.k_plane, p.v_plane}) {
                    memset(p.codes(plane, j), static_cast<int>(random.bits() & 255), plane.code_bytes);
                    memset(p.scales(plane, j), 0x7e, plane.scale_bytes);  // NaN, or large
                }
            }
            EXPECT_TRUE(same_floats(want.data(), p.run(set, 0, 3, 3).data(), want.size()))
                << set->name << " " << kKvFormats[format].name;
        }
}

// The last plane of a page, codes or scales, ends where the memory does.
TEST(KernelsAttention, NothingBehindAPageIsRead) {
    const FencedMemory memory(262144, 1, Fence::kBehind);
    Random random(30);
    for (const KernelSet* set : fast_sets())
        for (uint32_t f = 0; f < kKvFormatCount; ++f)
            for (uint32_t head_dim : {8u, 40u, 64u, 96u, 128u})
                for (bool scales_last : {false, true})
                    for (bool keys_last : {false, true}) {
                        const KvFormat format = static_cast<KvFormat>(f);
                        if (head_dim % kKvFormats[format].multiple) continue;
                        Problem p(head_dim, 64, 64, format, format, 2, 0, random);
                        const std::vector<float> want = p.run(set, 0, 2, 2);
                        uint64_t page_bytes = 0;
                        for (KvPlane* plane : {&p.k_plane, &p.v_plane})
                            page_bytes += 64 * uint64_t{plane->code_bytes + plane->scale_bytes};
                        uint8_t* page = memory.end() - page_bytes;
                        uint64_t at = 0;
                        for (KvPlane* plane :
                             keys_last ? std::vector{&p.v_plane, &p.k_plane} : std::vector{&p.k_plane, &p.v_plane}) {
                            const KvPlane from = *plane;
                            plane->codes = scales_last ? at : at + 64 * plane->scale_bytes;
                            plane->scales = scales_last ? at + 64 * plane->code_bytes : at;
                            at += 64 * uint64_t{plane->code_bytes + plane->scale_bytes};
                            memcpy(page + plane->codes, p.codes(from, 0), 64 * plane->code_bytes);
                            memcpy(page + plane->scales, p.scales(from, 0), 64 * plane->scale_bytes);
                        }
                        p.pages[0] = page;
                        ASSERT_TRUE(same_floats(want.data(), p.run(set, 0, 2, 2).data(), want.size()))
                            << set->name << " " << kKvFormats[format].name;
                    }
}

// Rows in front of the first visible one may be out of reach, though it is not the first of anything.
TEST(KernelsAttention, RowsNobodySeesAreNotRead) {
    constexpr uint64_t kUnit = 4096;
    const FencedMemory fenced_memory(64 * kUnit, kUnit, Fence::kInFront);
    uint8_t* page = fenced_memory.data() - kUnit;  // it begins with what nobody may touch
    Random random(31);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (uint32_t f = 0; f < kKvFormatCount; ++f)
            for (bool keys : {false, true}) {
                const KvFormat format = static_cast<KvFormat>(f);
                if (!kKvFormats[format].integer) continue;
                Problem p(128, 64, 64, format, format, 2, 0, random);
                p.begin = {21, 30};
                p.end = {40, 60};
                const std::vector<float> want = p.run(set, 0, 2, 2);
                // One plane's codes cross the end of the unreachable memory between rows 20 and 21.
                KvPlane& crossing = keys ? p.k_plane : p.v_plane;
                for (KvPlane* plane : {&p.k_plane, &p.v_plane}) {
                    const KvPlane from = *plane;
                    plane->codes = plane == &crossing ? kUnit - 21 * plane->code_bytes : 16 * kUnit;
                    plane->scales = plane == &crossing ? 32 * kUnit : 48 * kUnit;
                    memcpy(page + plane->codes + 21 * plane->code_bytes, p.codes(from, 21), 43 * plane->code_bytes);
                    memcpy(page + plane->scales, p.scales(from, 0), 64 * plane->scale_bytes);
                }
                p.pages[0] = page;
                ASSERT_TRUE(same_floats(want.data(), p.run(set, 0, 2, 2).data(), want.size()))
                    << set->name << " " << kKvFormats[format].name;
            }
}

TEST(KernelsAttention, SetsAgreeOnSpecialValues) {
    const KernelSet* scalar = &kScalarSet;
    Random random(22);
    for (const KernelSet* set : fast_sets())
        for (int round = 0; round < 60; ++round) {
            Problem p(64, 64, 200, random_format(random, 64), random_format(random, 64), 5, round % 3 ? 0.0f : 30.0f,
                      random);
            p.causal(199, 0);
            const float special[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f};
            p.q[random.below(static_cast<uint32_t>(p.q.size()))] = special[random.below(6)];
            if (round % 5 == 0) p.scale = 1e30f;
            if (round % 5 == 1) p.scale = 0.0f;
            ASSERT_TRUE(same_floats(p.run(scalar, 0, 5, 5).data(), p.run(set, 0, 5, 5).data(), 5 * 64)) << round;
        }
}

TEST(KernelsAttention, RowsAreIndependentOfTheirCall) {
    Random random(23);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets)
        for (int round = 0; round < 6; ++round) {
            Problem p = random_problem(random, 32 * random.between(1, 4), 23);
            const std::vector<float> all = p.run(set, 0, 23, 23);
            for (uint32_t step : {1u, 2u, 5u, 16u})
                ASSERT_TRUE(same_floats(all.data(), p.run(set, 0, 23, step).data(), all.size()))
                    << set->name << " step " << step;
            ASSERT_TRUE(same_floats(all.data() + 7 * p.head_dim, p.run(set, 7, 9, 4).data(), 9 * p.head_dim));
        }
}

// Query rows of a tree's nodes, against rows that lie in the order of each node's path: a node reads what is in front
// of the tree and its ancestors, wherever those are stored.
TEST(KernelsAttention, TreesHaveTheBitsOfPlainOrder) {
    const KernelSet* scalar = &kScalarSet;
    Random random(32);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(scalar);
    for (uint32_t round = 0; round < 4 * kKvFormatCount; ++round) {
        const KvFormat format = static_cast<KvFormat>(round % kKvFormatCount);
        const uint32_t usual[] = {64, 128, 8 * random.between(1, 32)};
        uint32_t head_dim = usual[round / kKvFormatCount % 3];
        while (head_dim % kKvFormats[format].multiple) head_dim = 8 * random.between(1, 32);
        const KvFormat other = random.below(2) ? format : random_format(random, head_dim);
        const uint32_t nodes = random.between(1, random.below(3) ? 12 : 100), group = random.between(1, 3);
        const uint32_t edge = random.below(2) ? 64 * random.between(1, 9) : 512 * random.between(1, 2);
        const uint32_t base = random.below(4) ? edge - random.below(6) : random.below(700);
        const uint32_t queries = std::min(nodes * group, kMaxQueryRows) / group * group;
        Problem p(head_dim, 64 * random.between(1, 5), base + nodes, random.below(2) ? format : other,
                  random.below(2) ? format : other, queries, random.below(3) ? 0.0f : 5.0f, random);
        if (random.below(2)) p.add_mean(random.between(1, 20), random);
        p.tail_first = base;
        p.rows_per_list = group;
        const uint32_t window = random.below(3) ? 0 : random.between(1, 600);
        std::vector<uint32_t> slot(nodes);
        for (uint32_t i = 0; i < nodes; ++i) slot[i] = base + i;
        for (uint32_t i = nodes; i > 1; --i) std::swap(slot[i - 1], slot[random.below(i)]);
        for (uint32_t i = 0; i * group < queries; ++i) {
            std::vector<uint32_t> path;
            if (const uint32_t parent = random.below(i + 1)) path = p.lists[random.below(3) ? parent - 1 : i - 1];
            path.push_back(slot[i]);
            for (uint32_t r = i * group; r < (i + 1) * group; ++r) {
                p.end[r] = base + static_cast<uint32_t>(path.size());
                p.begin[r] = window && p.end[r] > window ? p.end[r] - window : 0;
            }
            p.lists.push_back(path);
        }
        std::vector<std::vector<float>> got;
        for (const KernelSet* set : sets) {
            got.push_back(p.run(set, 0, queries, queries));
            ASSERT_TRUE(same_floats(got.back().data(), p.run(set, 0, queries, random.between(1, queries)).data(),
                                    got.back().size()));
        }

        struct Row {
            std::vector<uint8_t> codes, scales;
        };
        std::vector<Row> stored[2];  // of K and V
        const KvPlane planes[2] = {p.k_plane, p.v_plane};
        for (uint32_t plane = 0; plane < 2; ++plane)
            for (uint32_t j = base; j < base + nodes; ++j) {
                const uint8_t *codes = p.codes(planes[plane], j), *scales = p.scales(planes[plane], j);
                stored[plane].push_back(
                    {{codes, codes + planes[plane].code_bytes}, {scales, scales + planes[plane].scale_bytes}});
            }
        p.tail_first = UINT32_MAX;
        for (uint32_t i = 0; i * group < queries; ++i) {
            for (uint32_t plane = 0; plane < 2; ++plane)
                for (uint32_t j = 0; j < nodes; ++j) {
                    uint8_t *codes = p.codes(planes[plane], base + j), *scales = p.scales(planes[plane], base + j);
                    memset(codes, 0xff, planes[plane].code_bytes);
                    memset(scales, 0xff, planes[plane].scale_bytes);
                    if (j >= p.lists[i].size()) continue;
                    const Row& from = stored[plane][p.lists[i][j] - base];
                    std::copy(from.codes.begin(), from.codes.end(), codes);
                    std::copy(from.scales.begin(), from.scales.end(), scales);
                }
            const std::vector<float> want = p.run(scalar, i * group, group, group);
            for (uint32_t s = 0; s < sets.size(); ++s)
                ASSERT_TRUE(same_floats(want.data(), got[s].data() + uint64_t{i} * group * head_dim, want.size()))
                    << sets[s]->name << " node " << i << " of " << nodes << " behind " << base << " head_dim "
                    << head_dim << " formats " << kKvFormats[p.k_plane.format].name << " "
                    << kKvFormats[p.v_plane.format].name;
        }
    }
}

// Weights down to where exp gives 0, each made visible by a value of its own: position j alone fills element j.
TEST(KernelsAttention, SetsAgreeOnTheSmallestWeights) {
    const KernelSet* scalar = &kScalarSet;
    Random random(27);
    Problem p(64, 64, 64, kKvF32, kKvF32, 1, 0, random);
    p.scale = 1.0f;
    for (uint32_t d = 0; d < 64; ++d) p.q[d] = d == 0 ? 1.0f : 0.0f;
    for (uint32_t j = 0; j < 64; ++j) {
        std::vector<float> k(64), v(64);
        if (j > 0) {
            k[0] = -84.0f - 0.08f * static_cast<float>(j);
            v[j] = 1e30f;
        }
        memcpy(p.codes(p.k_plane, j), k.data(), 256);
        memcpy(p.codes(p.v_plane, j), v.data(), 256);
    }
    const std::vector<float> want = p.run(scalar, 0, 1, 1);
    EXPECT_GT(want[40], 0.0f);
    EXPECT_EQ(want[60], 0.0f);
    for (const KernelSet* set : fast_sets())
        ASSERT_TRUE(same_floats(want.data(), p.run(set, 0, 1, 1).data(), 64)) << set->name;
}

// A KV split of which every visible score is NaN must not pass for one nothing was seen of.
TEST(KernelsAttention, NanSplitStaysNan) {
    Random random(26);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets) {
        Problem p(64, 64, 600, kKvF16, kKvF16, 1, 0, random);
        p.begin[0] = 500;
        for (uint32_t j = 500; j < 512; ++j) memset(p.codes(p.k_plane, j), 0xff, p.k_plane.code_bytes);
        for (float x : p.run(set, 0, 1, 1)) ASSERT_TRUE(std::isnan(x)) << set->name;
    }
}

// Pages beyond what a query sees need not exist.
TEST(KernelsAttention, OnlyVisiblePagesAreTouched) {
    Random random(24);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    for (const KernelSet* set : sets) {
        Problem p(64, 64, 512, kKvF16, kKvF16, 2, 0, random);
        p.begin = {130, 140};
        p.end = {180, 192};
        const std::vector<float> want = p.run(set, 0, 2, 2);
        for (uint32_t page = 0; page < p.pages.size(); ++page)
            if (page != 2) p.pages[page] = nullptr;
        EXPECT_TRUE(same_floats(want.data(), p.run(set, 0, 2, 2).data(), want.size()));
    }
}

}  // namespace
}  // namespace keel_test
