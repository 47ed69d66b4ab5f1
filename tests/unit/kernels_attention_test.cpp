// Attention: the scalar set against a softmax in double over the stored rows, other sets against the scalar one bit for
// bit, and independence of a query row from the rows and calls around it. Rows nobody sees hold NaN.
#include <algorithm>

#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

constexpr uint32_t kHeads = 2;  // heads per page, so that offsets matter; the second one is read

struct Problem {
    uint32_t head_dim, page_tokens, positions, k_format, v_format;
    std::vector<Buffer> storage;
    std::vector<const uint8_t*> pages;
    std::vector<float> q;
    std::vector<uint32_t> begin, end;
    float scale, softcap;
    uint32_t k_row_bytes, v_row_bytes;
    uint64_t k_offset, v_offset;

    Problem(uint32_t head_dim, uint32_t page_tokens, uint32_t positions, uint32_t k_format, uint32_t v_format,
            uint32_t rows, float softcap, Random& random)
        : head_dim(head_dim),
          page_tokens(page_tokens),
          positions(positions),
          k_format(k_format),
          v_format(v_format),
          q(random.normals(uint64_t{rows} * head_dim)),
          scale(1.0f / std::sqrt(static_cast<float>(head_dim))),
          softcap(softcap),
          k_row_bytes(kKvFormats[k_format].row_bytes(head_dim)),
          v_row_bytes(kKvFormats[v_format].row_bytes(head_dim)) {
        k_offset = uint64_t{page_tokens} * k_row_bytes;
        v_offset = uint64_t{page_tokens} * kHeads * k_row_bytes + uint64_t{page_tokens} * v_row_bytes;
        const uint64_t page_bytes = uint64_t{page_tokens} * kHeads * (k_row_bytes + v_row_bytes);
        for (uint32_t p = 0; p * page_tokens < positions; ++p) storage.emplace_back(page_bytes);
        for (Buffer& page : storage) {
            memset(page.data(), 0xff, page_bytes);  // NaN in f16 and f32
            pages.push_back(page.data());
        }
        const KernelSet* scalar = find_kernel_set(kScalar);
        for (uint32_t j = 0; j < positions; ++j) {
            uint8_t* page = storage[j / page_tokens].data();
            std::vector<float> k = random.normals(head_dim), v = random.normals(head_dim);
            for (float& x : k) x *= 2.0f;
            scalar->kv_encode[k_format](k.data(), head_dim, page + k_offset + j % page_tokens * k_row_bytes);
            scalar->kv_encode[v_format](v.data(), head_dim, page + v_offset + j % page_tokens * v_row_bytes);
        }
        for (uint32_t r = 0; r < rows; ++r) {
            begin.push_back(0);
            end.push_back(positions);
        }
    }
    uint32_t rows() const { return static_cast<uint32_t>(begin.size()); }

    // Rows [first, first + count) in calls of at most `step` rows; the finished outputs.
    std::vector<float> run(const KernelSet* set, uint32_t first, uint32_t count, uint32_t step) {
        std::vector<float> out(uint64_t{count} * head_dim, NAN), m(count, -INFINITY), l(count, NAN);
        Buffer scratch(attention_scratch_floats(head_dim) * 4);
        for (uint32_t r = 0; r < count; r += step) {
            const uint32_t n = std::min(step, count - r);
            std::vector<const float*> qs(n);
            std::vector<float*> os(n);
            for (uint32_t i = 0; i < n; ++i) {
                qs[i] = q.data() + uint64_t{first + r + i} * head_dim;
                os[i] = out.data() + uint64_t{r + i} * head_dim;
            }
            for (uint32_t span = 0; span * kAttentionSpan < positions; ++span) {
                AttentionArgs a = {pages.data(),
                                   page_tokens,
                                   k_offset,
                                   v_offset,
                                   k_row_bytes,
                                   v_row_bytes,
                                   static_cast<KvFormat>(k_format),
                                   static_cast<KvFormat>(v_format),
                                   head_dim,
                                   span,
                                   n,
                                   qs.data(),
                                   begin.data() + first + r,
                                   end.data() + first + r,
                                   scale,
                                   softcap,
                                   m.data() + r,
                                   l.data() + r,
                                   os.data(),
                                   scratch.floats()};
                set->attention_span(a);
            }
            for (uint32_t i = 0; i < n; ++i) set->attention_finish(os[i], l[r + i], head_dim);
        }
        return out;
    }

    // Causal prefill: row r is position last - rows + 1 + r, with a window when window > 0.
    void causal(uint32_t last, uint32_t window) {
        for (uint32_t r = 0; r < rows(); ++r) {
            end[r] = last + 2 - rows() + r;
            begin[r] = window && end[r] > window ? end[r] - window : 0;
        }
    }
};

Problem random_problem(Random& random, uint32_t head_dim, uint32_t rows) {
    const uint32_t positions = std::max(rows + 1, random.between(1, 1300));
    Problem p(head_dim, 64 * random.between(1, 5), positions, random.below(2), random.below(2), rows,
              random.below(3) ? 0.0f : 5.0f, random);
    if (random.below(2))
        p.causal(positions - 1, random.below(2) ? random.between(1, 700) : 0);
    else
        for (uint32_t r = 0; r < rows; ++r) {
            p.begin[r] = random.below(positions);
            p.end[r] = random.between(p.begin[r] + 1, positions);
        }
    return p;
}

TEST(KernelsAttention, ScalarAgreesWithDoubleSoftmax) {
    const KernelSet* set = find_kernel_set(kScalar);
    Random random(20);
    for (uint32_t head_dim : {32u, 64u, 80u, 96u, 128u, 256u})
        for (int round = 0; round < 3; ++round) {
            Problem p = random_problem(random, head_dim, random.between(1, 6));
            const std::vector<float> out = p.run(set, 0, p.rows(), p.rows());
            std::vector<float> k(head_dim), v(head_dim);
            for (uint32_t r = 0; r < p.rows(); ++r) {
                std::vector<double> s, o(head_dim);
                for (uint32_t j = p.begin[r]; j < p.end[r]; ++j) {
                    set->kv_decode[p.k_format](
                        p.pages[j / p.page_tokens] + p.k_offset + j % p.page_tokens * p.k_row_bytes, head_dim,
                        k.data());
                    double dot = 0;
                    for (uint32_t d = 0; d < head_dim; ++d) dot += static_cast<double>(k[d]) * p.q[r * head_dim + d];
                    dot *= p.scale;
                    s.push_back(p.softcap > 0 ? p.softcap * std::tanh(dot / p.softcap) : dot);
                }
                const double top = *std::max_element(s.begin(), s.end());
                double sum = 0;
                for (uint32_t j = p.begin[r]; j < p.end[r]; ++j) {
                    const double e = std::exp(s[j - p.begin[r]] - top);
                    set->kv_decode[p.v_format](
                        p.pages[j / p.page_tokens] + p.v_offset + j % p.page_tokens * p.v_row_bytes, head_dim,
                        v.data());
                    for (uint32_t d = 0; d < head_dim; ++d) o[d] += e * v[d];
                    sum += e;
                }
                for (uint32_t d = 0; d < head_dim; ++d)
                    ASSERT_NEAR(out[r * head_dim + d], o[d] / sum, 5e-6) << "head_dim " << head_dim << " row " << r;
            }
        }
}

TEST(KernelsAttention, SetsAgreeBitForBit) {
    const KernelSet* scalar = find_kernel_set(kScalar);
    Random random(21);
    for (const KernelSet* set : fast_sets())
        for (uint32_t head_dim : {8u, 24u, 32u, 40u, 64u, 80u, 96u, 128u, 192u, 256u})
            for (uint32_t rows : {1u, 2u, 3u, 7u, 16u, 33u, 128u}) {
                Problem p = random_problem(random, head_dim, rows);
                ASSERT_TRUE(same_floats(p.run(scalar, 0, rows, rows).data(), p.run(set, 0, rows, rows).data(),
                                        uint64_t{rows} * head_dim))
                    << set->name << " head_dim " << head_dim << " rows " << rows << " formats " << p.k_format
                    << p.v_format << " softcap " << p.softcap;
            }
}

TEST(KernelsAttention, SetsAgreeOnSpecialValues) {
    const KernelSet* scalar = find_kernel_set(kScalar);
    Random random(22);
    for (const KernelSet* set : fast_sets())
        for (int round = 0; round < 60; ++round) {
            Problem p(64, 64, 200, round % 2, round / 2 % 2, 5, round % 3 ? 0.0f : 30.0f, random);
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
    sets.push_back(find_kernel_set(kScalar));
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

// Weights down to where exp gives 0, each made visible by a value of its own: position j alone fills element j.
TEST(KernelsAttention, SetsAgreeOnTheSmallestWeights) {
    const KernelSet* scalar = find_kernel_set(kScalar);
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
        memcpy(p.storage[0].data() + p.k_offset + j * p.k_row_bytes, k.data(), 256);
        memcpy(p.storage[0].data() + p.v_offset + j * p.v_row_bytes, v.data(), 256);
    }
    const std::vector<float> want = p.run(scalar, 0, 1, 1);
    EXPECT_GT(want[40], 0.0f);
    EXPECT_EQ(want[60], 0.0f);
    for (const KernelSet* set : fast_sets()) ASSERT_TRUE(same_floats(want.data(), p.run(set, 0, 1, 1).data(), 64)) << set->name;
}

// A span of which every visible score is NaN must not pass for one nothing was seen of.
TEST(KernelsAttention, NanSpanStaysNan) {
    Random random(26);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(find_kernel_set(kScalar));
    for (const KernelSet* set : sets) {
        Problem p(64, 64, 600, kKvF16, kKvF16, 1, 0, random);
        p.begin[0] = 500;
        for (uint32_t j = 500; j < 512; ++j)
            memset(p.storage[j / 64].data() + p.k_offset + j % 64 * p.k_row_bytes, 0xff, p.k_row_bytes);
        for (float x : p.run(set, 0, 1, 1)) ASSERT_TRUE(std::isnan(x)) << set->name;
    }
}

// Pages beyond what a query sees need not exist.
TEST(KernelsAttention, OnlyVisiblePagesAreTouched) {
    Random random(24);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(find_kernel_set(kScalar));
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

TEST(KernelsAttention, SetsCodeKvRowsAlike) {
    const KernelSet* scalar = find_kernel_set(kScalar);
    Random random(25);
    for (const KernelSet* set : fast_sets())
        for (uint32_t n : {8u, 24u, 64u, 80u, 256u})
            for (uint32_t format = 0; format < kKvFormatCount; ++format) {
                Buffer source(n * 4), a(n * 4), b(n * 4), x(n * 4), y(n * 4);
                for (uint32_t i = 0; i < n; ++i) source.floats()[i] = f32_from_bits(random.bits());
                const uint32_t bytes = kKvFormats[format].row_bytes(n);
                EXPECT_EQ(bytes, n * kKvFormats[format].element_bits / 8);
                scalar->kv_encode[format](source.floats(), n, a.data());
                set->kv_encode[format](source.floats(), n, b.data());
                ASSERT_EQ(0, memcmp(a.data(), b.data(), bytes));
                scalar->kv_decode[format](a.data(), n, x.floats());
                set->kv_decode[format](a.data(), n, y.floats());
                ASSERT_TRUE(same_floats(x.floats(), y.floats(), n));
            }
}

}  // namespace
}  // namespace keel_test
