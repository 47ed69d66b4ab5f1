// Row operations: the scalar set against formulas in double, every other set against the scalar one bit for bit.
#include "kernels/formats/race.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

constexpr uint32_t kMaxTerms = 4;  // as in sdk/plan/ops.h

// Finite values over many magnitudes with some special ones among them.
std::vector<float> mixed_values(uint32_t n, Random& random, bool special) {
    static constexpr float kSpecial[] = {0.0f,    -0.0f,   kInf32,   -kInf32,     NAN,       1e-45f,
                                         -1e-40f, 3.4e38f, -3.4e38f, 88.7228f,    88.73f,    -87.3365f,
                                         -87.34f, 0.625f,  -0.625f,  0.62499994f, -88.7228f, 87.3365f};
    std::vector<float> x(n);
    for (float& v : x)
        v = special && random.below(4) == 0 ? kSpecial[random.below(18)]
                                            : random.normal() * std::exp2(random.uniform(-8, 6));
    return x;
}

TEST(KernelsRowops, ScalarAgreesWithDoubleFormulas) {
    const KernelSet* set = &kScalarSet;
    Random random(30);
    for (uint32_t n : {1u, 15u, 64u, 577u}) {
        const std::vector<float> x = random.normals(n), w = random.normals(n);
        std::vector<float> y(n);
        set->rms_norm(x.data(), w.data(), n, 1e-5f, y.data());
        double sum = 0;
        for (float v : x) sum += static_cast<double>(v) * v;
        for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(y[i], x[i] / std::sqrt(sum / n + 1e-5) * w[i], 2e-6);
        std::vector<float> z = x;
        set->add(z.data(), w.data(), n);
        for (uint32_t i = 0; i < n; ++i) ASSERT_EQ(z[i], x[i] + w[i]);
        z = x;
        set->scale(z.data(), 0.3f, n);
        for (uint32_t i = 0; i < n; ++i) ASSERT_EQ(z[i], x[i] * 0.3f);
        z = x;
        set->softcap(z.data(), 0.5f, n);
        for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(z[i], 0.5 * std::tanh(x[i] / 0.5), 2e-7);
        const std::vector<float> c = random.normals(3 * n);
        const float* terms[] = {x.data(), w.data(), x.data()};
        set->mix(terms, c.data(), 3, n, y.data());
        for (uint32_t i = 0; i < n; ++i)
            ASSERT_NEAR(y[i], (double{c[i]} + c[2 * n + i]) * x[i] + double{c[n + i]} * w[i], 4e-6);
        set->leaky_square(x.data(), 0.5f, n, y.data());
        for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(y[i], (x[i] > 0 ? 1 : 0.25) * double{x[i]} * x[i], 2e-6);
        z = x;
        const float gate = 0.7f;
        set->gate_rows(z.data(), &gate, 1, n);
        for (uint32_t i = 0; i < n; ++i) ASSERT_NEAR(z[i], x[i] / (1 + std::exp(-0.7)), 1e-6);
        z = x;
        set->exclude(z.data(), w.data(), n);
        double x_w = 0, w_w = 0, left = 0;
        for (uint32_t i = 0; i < n; ++i) x_w += double{x[i]} * w[i], w_w += double{w[i]} * w[i];
        for (uint32_t i = 0; i < n; ++i) {
            ASSERT_NEAR(z[i], x[i] - x_w / w_w * w[i], 2e-6);
            left += double{z[i]} * w[i];
        }
        ASSERT_NEAR(left / std::sqrt(w_w), 0, 1e-5);
        const std::vector<float> nothing(n);
        z = x;
        set->exclude(z.data(), nothing.data(), n);  // along no direction there is no part
        ASSERT_EQ(z, x);
        set->gate_silu(x.data(), w.data(), n, y.data());
        for (uint32_t i = 0; i < n; ++i)
            ASSERT_NEAR(y[i], x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * w[i], 2e-6);
        set->gate_gelu(x.data(), w.data(), n, y.data());
        for (uint32_t i = 0; i < n; ++i)
            ASSERT_NEAR(y[i], 0.5 * x[i] * (1 + std::tanh(0.7978845608 * (x[i] + 0.044715 * std::pow(x[i], 3)))) * w[i],
                        2e-6);
    }
    for (float factor : {1.0f, 1.19f}) {
        const double frequency[] = {1, 0.1, 1e-4, 3.7};
        float table[8];
        set->rope_table(frequency, 4, 100'003, factor, table);
        for (int i = 0; i < 4; ++i) {
            ASSERT_NEAR(table[2 * i], factor * std::cos(100'003 * frequency[i]), 2e-7);
            ASSERT_NEAR(table[2 * i + 1], factor * std::sin(100'003 * frequency[i]), 2e-7);
        }
    }
    for (bool neox : {false, true}) {
        const uint32_t pairs = 20, n = 48;  // 40 rotated, 8 left alone
        const std::vector<float> x = random.normals(n);
        std::vector<float> y = x, cos_sin(2 * pairs);
        for (uint32_t i = 0; i < pairs; ++i) {
            const double angle = random.uniform(0, 7);
            cos_sin[2 * i] = static_cast<float>(std::cos(angle));
            cos_sin[2 * i + 1] = static_cast<float>(std::sin(angle));
        }
        set->rope(y.data(), pairs, cos_sin.data(), neox);
        for (uint32_t i = 0; i < pairs; ++i) {
            const uint32_t a = neox ? i : 2 * i, b = neox ? i + pairs : 2 * i + 1;
            const double c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
            ASSERT_NEAR(y[a], x[a] * c - x[b] * s, 1e-6);
            ASSERT_NEAR(y[b], x[a] * s + x[b] * c, 1e-6);
        }
        for (uint32_t i = 2 * pairs; i < n; ++i) ASSERT_EQ(y[i], x[i]);
    }
}

TEST(KernelsRowops, SetsAgreeBitForBit) {
    const KernelSet* scalar = &kScalarSet;
    Random random(31);
    for (const KernelSet* set : fast_sets())
        for (int round = 0; round < 400; ++round) {
            const uint32_t n = round < 40 ? static_cast<uint32_t>(round) + 1 : random.between(1, 600);
            SCOPED_TRACE(std::string(set->name) + " n " + std::to_string(n));
            const std::vector<float> x = mixed_values(n, random, true), w = mixed_values(n, random, round & 1);
            std::vector<float> a(n + 1, 7.0f), b(n + 1, 7.0f);  // one past the end must stay
            scalar->gate_silu(x.data(), w.data(), n, a.data());
            set->gate_silu(x.data(), w.data(), n, b.data());
            ASSERT_TRUE(same_floats(a.data(), b.data(), n + 1)) << "silu";
            scalar->gate_gelu(x.data(), w.data(), n, a.data());
            set->gate_gelu(x.data(), w.data(), n, b.data());
            ASSERT_TRUE(same_floats(a.data(), b.data(), n + 1)) << "gelu";
            const std::vector<float> finite = mixed_values(n, random, false);
            scalar->rms_norm(finite.data(), w.data(), n, 1e-6f, a.data());
            set->rms_norm(finite.data(), w.data(), n, 1e-6f, b.data());
            ASSERT_TRUE(same_floats(a.data(), b.data(), n + 1)) << "rms_norm";
            const float factor = random.uniform(0.1f, 60.0f);
            const auto in_place = [&](const char* what, auto&& op) {
                std::copy(x.begin(), x.end(), a.begin());
                std::copy(x.begin(), x.end(), b.begin());
                op(scalar, a.data());
                op(set, b.data());
                ASSERT_TRUE(same_floats(a.data(), b.data(), n + 1)) << what;
            };
            in_place("softcap", [&](const KernelSet* s, float* p) { s->softcap(p, factor, n); });
            in_place("softcap 1", [&](const KernelSet* s, float* p) { s->softcap(p, 1.0f, n); });
            in_place("scale", [&](const KernelSet* s, float* p) { s->scale(p, factor, n); });
            in_place("add", [&](const KernelSet* s, float* p) { s->add(p, w.data(), n); });
            in_place("silu in place", [&](const KernelSet* s, float* p) { s->gate_silu(p, w.data(), n, p); });
            in_place("norm in place", [&](const KernelSet* s, float* p) { s->rms_norm(p, w.data(), n, 1e-6f, p); });
            in_place("leaky_square", [&](const KernelSet* s, float* p) { s->leaky_square(p, factor, n, p); });
            in_place("exclude", [&](const KernelSet* s, float* p) { s->exclude(p, finite.data(), n); });
            const uint32_t rows = random.between(1, n);
            in_place("gate_rows", [&](const KernelSet* s, float* p) { s->gate_rows(p, w.data(), rows, n / rows); });
            const std::vector<float> c = random.normals(kMaxTerms * n);
            const uint32_t count = random.between(1, kMaxTerms);
            in_place("mix", [&](const KernelSet* s, float* p) {
                const float* of[kMaxTerms] = {w.data(), p, finite.data(), w.data()};
                s->mix(of, c.data(), count, n, p);
            });
            in_place("finish", [&](const KernelSet* s, float* p) { s->attention_finish(p, factor, n); });
            const uint32_t masses = n < kMassBlock ? n : kMassBlock;
            std::vector<double> value((masses + kMassGroup - 1) / kMassGroup * kMassGroup, -INFINITY);
            for (uint32_t i = 0; i < masses; ++i)
                value[i] = i % 17 == 3 ? -INFINITY : -std::fabs(static_cast<double>(finite[i]));
            struct {
                uint64_t mass[kMassBlock + 1] = {}, weighted = 0;
                uint16_t bucket[kMassBlock + 1] = {};
            } of_scalar, of_set;
            const DistanceBuckets buckets = {(round & 2) != 0, 1, 3, 64, 191, 16};
            for (auto [s, out] : {std::pair{scalar, &of_scalar}, std::pair{set, &of_set}})
                s->exp_masses({value.data(), masses, 1.5, factor, &buckets, out->mass, out->bucket, round % 8 == 5,
                               round & 1 ? &out->weighted : nullptr});
            ASSERT_EQ(0, memcmp(of_scalar.mass, of_set.mass, sizeof of_set.mass));
            ASSERT_EQ(0, memcmp(of_scalar.bucket, of_set.bucket, sizeof of_set.bucket));
            ASSERT_EQ(of_scalar.weighted, of_set.weighted);
            const uint32_t pairs = random.between(0, n / 2);
            std::vector<double> frequency(pairs + 1);
            for (double& f : frequency) f = random.uniform(0, round & 1 ? 1.0f : 128.0f);
            const uint32_t position = random.between(0, 1u << 24);
            in_place("rope_table", [&](const KernelSet* s, float* p) {
                s->rope_table(frequency.data(), pairs, position, round & 2 ? 1.0f : factor, p);
            });
            const std::vector<float> cos_sin = random.normals(2 * pairs + 2);
            in_place("rope", [&](const KernelSet* s, float* p) { s->rope(p, pairs, cos_sin.data(), false); });
            in_place("rope neox", [&](const KernelSet* s, float* p) { s->rope(p, pairs, cos_sin.data(), true); });
        }
}

// The race against the scores of all: who wins, with which score, from any state before. `ids`: null, or where the
// candidates are.
RaceBest all_scored(const RaceArgs& a) {
    RaceBest best = *a.best;
    for (uint32_t i = 0; i < a.n; ++i) {
        const uint32_t id = a.ids ? a.ids[i] : a.first + i;
        const double d = (a.largest - a.value[i]) / a.temperature;
        if (mass_of(d) < a.least_mass) continue;
        const uint64_t w = uint64_t{race_word(a.seed, a.position, id, 0)} << 32 | race_word(a.seed, a.position, id, 1);
        const double score = race_score(d, w);
        if (score < best.score || (score == best.score && id < best.id)) best = {score, id};
    }
    return best;
}

TEST(KernelsRowops, RaceEqualsTheScoresOfAll) {
    Random random(5);
    std::vector<const KernelSet*> sets = fast_sets();
    sets.push_back(&kScalarSet);
    uint32_t ties = 0;
    for (uint32_t round = 0; round < 6000; ++round) {
        double value[kMassBlock];
        uint32_t ids[kMassBlock] = {};
        const uint32_t n = random.between(1, kMassBlock), shape = random.below(6);
        const double scale = random.uniform(0.01f, 20);
        for (uint32_t i = 0; i < n; ++i) {
            ids[i] = (i ? ids[i - 1] + 1 : random.below(1u << 20)) + (random.below(3) ? 0 : random.below(90));
            value[i] = shape == 0   ? 0.0
                       : shape == 1 ? -0.1 * scale * i
                       : shape == 2 ? 0.1 * scale * (i - 255.0)
                       : shape == 3 ? (random.below(3) ? -INFINITY : -std::fabs(scale * random.normal()))
                                    : -std::fabs(scale * random.normal());
        }
        for (uint32_t i = n; i < kMassBlock; ++i) value[i] = -INFINITY;
        const float min_p = random.below(3) ? 0 : random.uniform(0, 1);
        const uint64_t least = min_p > 0 ? static_cast<uint64_t>(ceil_fraction(min_p, uint64_t{1} << 52)) : 1;
        RaceBest before = kNobody;
        RaceArgs args = {value,
                         n,
                         random.below(4) ? 0.0 : 0.5,
                         std::exp2(random.uniform(-40, 40)),
                         random.below(2) ? ids : nullptr,
                         4 * random.below(1u << 18),
                         static_cast<uint32_t>(random.bits()),
                         random.bits(),
                         least,
                         race_reach(least),
                         &before};
        if (random.below(2)) args.temperature = random.uniform(0.3f, 2);
        RaceBest expected = all_scored(args);
        if (random.below(4) == 0 && expected.id != UINT32_MAX) {  // a tie with one of before, or who leads by little
            before = {expected.score, random.below(2) ? expected.id + 1 : expected.id - (expected.id != 0)};
            if (random.below(3) == 0) before.score = std::nextafter(before.score, 1e9);
            expected = all_scored(args);
            ++ties;
        }
        for (const KernelSet* set : sets) {
            RaceBest best = before;
            args.best = &best;
            set->race(args);
            ASSERT_EQ(best.id, expected.id) << set->name << " " << round;
            ASSERT_EQ(best.score, expected.score) << set->name << " " << round;
        }
    }
    EXPECT_GT(ties, 500u);
}

// Every 257th f32 bit pattern through the functions that contain exp and tanh.
TEST(KernelsRowops, ElementaryFunctionsAgreeOverAllMagnitudes) {
    const KernelSet* scalar = &kScalarSet;
    for (const KernelSet* set : fast_sets()) {
        constexpr uint32_t kChunk = 4096;
        std::vector<float> x(kChunk), one(kChunk, 1.0f), a(kChunk), b(kChunk);
        for (uint64_t bits = 0; bits < 1ull << 32;) {
            for (float& v : x) v = f32_from_bits(static_cast<uint32_t>(bits)), bits += 257;
            scalar->gate_silu(x.data(), one.data(), kChunk, a.data());
            set->gate_silu(x.data(), one.data(), kChunk, b.data());
            ASSERT_TRUE(same_floats(a.data(), b.data(), kChunk));
            a = x;
            b = x;
            scalar->softcap(a.data(), 1.0f, kChunk);
            set->softcap(b.data(), 1.0f, kChunk);
            ASSERT_TRUE(same_floats(a.data(), b.data(), kChunk));
        }
    }
}

}  // namespace
}  // namespace keel_test
