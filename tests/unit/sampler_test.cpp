// The sampler against two implementations of its own: a sort-based one that follows NUMERICS section 6 literally, with
// the platform's exp, and a textbook one in long double that knows probabilities and entropies but no masses.
#include "sdk/run/sampler.h"

#include <gtest/gtest.h>
#include <math.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "kernels/formats/race.h"
#include "tests/unit/kernels_test_support.h"

namespace keel {
namespace {

__extension__ using u128 = unsigned __int128;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- one case: everything a draw depends on ----

struct Case {
    std::vector<float> logits;
    keel_sampling sampling = {};
    std::vector<int32_t> bias_ids, excluded, history, ends;
    std::vector<float> bias_values;
    std::vector<uint8_t> mask;
    uint32_t sampled = 0;

    Case() { sampling.struct_size = sizeof sampling; }
    uint32_t vocabulary() const { return static_cast<uint32_t>(logits.size()); }
    keel_sampling filled() const {
        keel_sampling s = sampling;
        s.bias_ids = bias_ids.data(), s.bias_values = bias_values.data();
        s.bias_count = static_cast<uint32_t>(bias_ids.size());
        s.excluded_ids = excluded.data(), s.excluded_count = static_cast<uint32_t>(excluded.size());
        return s;
    }
};

// Work memory of exactly the promised size between two canaries, filled with a pattern: nothing may depend on its
// content.
class GuardedWork {
  public:
    explicit GuardedWork(uint32_t vocabulary)
        : bytes_(sampler_work_bytes(vocabulary)), memory_(new (std::align_val_t{64}) uint8_t[bytes_ + 2 * kGuard]) {
        memset(memory_, 0xa5, bytes_ + 2 * kGuard);
    }
    ~GuardedWork() { ::operator delete[](memory_, std::align_val_t{64}); }
    GuardedWork(const GuardedWork&) = delete;
    GuardedWork& operator=(const GuardedWork&) = delete;
    void* data() { return memory_ + kGuard; }
    bool intact() const {
        for (uint64_t i = 0; i < kGuard; ++i)
            if (memory_[i] != 0xa5 || memory_[kGuard + bytes_ + i] != 0xa5) return false;
        return true;
    }

  private:
    static constexpr uint64_t kGuard = 4096;
    uint64_t bytes_;
    uint8_t* memory_;
};

// Every kernel set that this machine has, in turn.
const kernels::KernelSet* next_set() {
    static const std::vector<const kernels::KernelSet*> sets = [] {
        std::vector<const kernels::KernelSet*> all = keel_test::fast_sets();
        all.push_back(&kernels::kScalarSet);
        return all;
    }();
    static size_t turn = 0;
    return sets[turn++ % sets.size()];
}

keel_status draw(const Case& c, int32_t* token) {
    const keel_sampling s = c.filled();
    SamplerParams params;
    if (const keel_status status = sampler_set(&s, c.vocabulary(), &params); status != KEEL_OK) return status;
    SamplerInput in = {};
    in.logits = c.logits.data();
    in.vocabulary = c.vocabulary();
    in.history = c.history.data();
    in.history_count = static_cast<uint32_t>(c.history.size());
    in.sampled_count = c.sampled;
    in.end_ids = c.ends.data();
    in.end_count = static_cast<uint32_t>(c.ends.size());
    in.mask = c.mask.empty() ? nullptr : c.mask.data();
    in.kernel = next_set();
    GuardedWork work(c.vocabulary());
    const std::vector<float> before = c.logits;
    const keel_status status = sampler_draw(params, in, work.data(), token);
    EXPECT_TRUE(work.intact());
    EXPECT_EQ(0, memcmp(before.data(), c.logits.data(), before.size() * sizeof(float)));
    return status;
}

// ---- oracles ----

// Philox4x32-10, written once more.
std::array<uint32_t, 4> oracle_philox(uint64_t key, std::array<uint32_t, 4> counter) {
    for (uint64_t round = 0; round < 10; ++round) {
        const auto k0 = static_cast<uint32_t>(key + round * 0x9e3779b9),
                   k1 = static_cast<uint32_t>((key >> 32) + round * 0xbb67ae85);
        const uint64_t a = 0xd2511f53ull * counter[0], b = 0xcd9e8d57ull * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(a)};
    }
    return counter;
}

// -ln(1 - x) of the token's 64 bits.
long double oracle_exponential(uint64_t seed, uint32_t position, uint32_t id) {
    const auto word = [&](uint32_t half) { return oracle_philox(seed, {position, id / 4, half, 0})[id % 4]; };
    const long double x = ldexpl((uint64_t{word(0)} << 32 | word(1)) | 1, -64);
    return -log1pl(-x);
}
long double oracle_exponential(const Case& c, int32_t id) {
    return oracle_exponential(c.sampling.seed, static_cast<uint32_t>(c.history.size()), static_cast<uint32_t>(id));
}

// Values after bias, exclusion, guard, mask and penalties.
std::vector<double> oracle_values(const Case& c) {
    std::vector<double> v(c.logits.begin(), c.logits.end());
    for (size_t i = 0; i < c.bias_ids.size(); ++i) v[c.bias_ids[i]] += c.bias_values[i];
    for (int32_t id : c.excluded) v[id] = -INFINITY;
    if (c.sampled < c.sampling.min_tokens)
        for (int32_t id : c.ends)
            if (id >= 0 && static_cast<size_t>(id) < v.size()) v[id] = -INFINITY;
    for (size_t i = 0; i < v.size() && !c.mask.empty(); ++i)
        if (!(c.mask[i / 8] & (1 << (i % 8)))) v[i] = -INFINITY;
    const size_t window =
        std::min<size_t>(c.sampling.penalty_window ? c.sampling.penalty_window : 64, c.history.size());
    std::map<int32_t, uint32_t> counts;
    for (size_t i = c.history.size() - window; i < c.history.size(); ++i) ++counts[c.history[i]];
    const double repetition = c.sampling.repetition_penalty == 0 ? 1 : c.sampling.repetition_penalty;
    for (const auto& [id, n] : counts) {
        v[id] = v[id] > 0 ? v[id] / repetition : v[id] * repetition;
        v[id] -= static_cast<double>(c.sampling.frequency_penalty) * n + c.sampling.presence_penalty;
    }
    return v;
}

struct Token {
    double d;
    int32_t id;
    u128 mass;
};

bool reaches(u128 mass, float fraction, u128 total) {  // mass >= fraction * total, exactly
    int exponent;
    const auto mantissa = static_cast<uint64_t>(ldexp(frexp(fraction, &exponent), 24));
    const int shift = 24 - exponent;
    const u128 product = total * mantissa;
    const u128 whole = shift > 127 ? 0 : product >> shift;
    const bool rest = shift > 127 ? product != 0 : (whole << shift) != product;
    return mass > whole || (mass == whole && !rest);
}

u128 total_of(const std::vector<Token>& tokens) {
    return std::accumulate(tokens.begin(), tokens.end(), u128{0},
                           [](u128 sum, const Token& t) { return sum + t.mass; });
}

void cut_prefix(std::vector<Token>& tokens, float fraction) {
    const u128 total = total_of(tokens);
    u128 sum = 0;
    size_t n = 0;
    while (n < tokens.size()) {
        sum += tokens[n++].mass;
        if (reaches(sum, fraction, total)) break;
    }
    tokens.resize(n);
}

// Greedy or a full sort, as section 6 reads. -1: nothing allowed.
int32_t oracle_draw(const Case& c) {
    const std::vector<double> v = oracle_values(c);
    const size_t best = std::max_element(v.begin(), v.end()) - v.begin();  // the first largest
    if (v[best] == -INFINITY) return -1;
    if (c.sampling.temperature == 0) return static_cast<int32_t>(best);
    std::vector<Token> tokens;
    for (size_t i = 0; i < v.size(); ++i) {
        if (v[i] == -INFINITY) continue;
        const double d = (v[best] - v[i]) / c.sampling.temperature;
        tokens.push_back({d, static_cast<int32_t>(i), static_cast<u128>(nearbyint(ldexp(exp(-d), 52)))});
    }
    const auto by_distance = [](const Token& a, const Token& b) { return a.d < b.d; };
    std::stable_sort(tokens.begin(), tokens.end(), by_distance);
    if (c.sampling.top_k && c.sampling.top_k < tokens.size()) tokens.resize(c.sampling.top_k);
    if (c.sampling.typical_p > 0 && c.sampling.typical_p < 1) {
        u128 weighted = 0;
        for (const Token& t : tokens) weighted += static_cast<u128>(nearbyint(ldexp(exp(-t.d) * t.d, 52)));
        const double mean = static_cast<double>(weighted) / static_cast<double>(total_of(tokens));
        std::stable_sort(tokens.begin(), tokens.end(),
                         [=](const Token& a, const Token& b) { return fabs(a.d - mean) < fabs(b.d - mean); });
        cut_prefix(tokens, c.sampling.typical_p);
        std::sort(tokens.begin(), tokens.end(), [](const Token& a, const Token& b) { return a.id < b.id; });
        std::stable_sort(tokens.begin(), tokens.end(), by_distance);
    }
    if (c.sampling.top_p > 0 && c.sampling.top_p < 1) cut_prefix(tokens, c.sampling.top_p);
    if (c.sampling.min_p > 0) {
        const u128 first = tokens[0].mass;
        std::erase_if(tokens, [&](const Token& t) { return t.mass == 0 || !reaches(t.mass, c.sampling.min_p, first); });
    }
    int32_t winner = -2;
    long double least = INFINITY;
    for (const Token& t : tokens) {
        if (t.mass == 0) continue;
        const long double score = t.d + logl(oracle_exponential(c, t.id));
        if (score < least || (score == least && t.id < winner)) least = score, winner = t.id;
    }
    return winner;
}

// The same filters as a paper would write them: probabilities, surprisals, entropy, renormalised in long double.
int32_t textbook_draw(const Case& c) {
    const std::vector<double> v = oracle_values(c);
    struct P {
        long double p;
        int32_t id;
    };
    std::vector<P> t;
    const double best = *std::max_element(v.begin(), v.end());
    for (size_t i = 0; i < v.size(); ++i)
        if (v[i] != -INFINITY)
            t.push_back(
                {expl((static_cast<long double>(v[i]) - best) / c.sampling.temperature), static_cast<int32_t>(i)});
    const auto normalise = [&] {
        std::sort(t.begin(), t.end(), [](const P& a, const P& b) { return a.p > b.p || (a.p == b.p && a.id < b.id); });
        long double sum = 0;
        for (const P& x : t) sum += x.p;
        for (P& x : t) x.p /= sum;
    };
    const auto cut = [&](float p) {
        long double sum = 0;
        size_t n = 0;
        while (n < t.size() && sum < p) sum += t[n++].p;
        t.resize(n);
    };
    normalise();
    if (c.sampling.top_k && c.sampling.top_k < t.size()) t.resize(c.sampling.top_k);
    normalise();
    if (c.sampling.typical_p > 0 && c.sampling.typical_p < 1) {
        long double entropy = 0;
        for (const P& x : t) entropy -= x.p > 0 ? x.p * logl(x.p) : 0;
        std::sort(t.begin(), t.end(),
                  [&](const P& a, const P& b) { return fabsl(-logl(a.p) - entropy) < fabsl(-logl(b.p) - entropy); });
        cut(c.sampling.typical_p);
        normalise();
    }
    if (c.sampling.top_p > 0 && c.sampling.top_p < 1) cut(c.sampling.top_p);
    normalise();
    if (c.sampling.min_p > 0) {
        const long double least = c.sampling.min_p * t[0].p;
        std::erase_if(t, [&](const P& x) { return x.p < least; });
        normalise();
    }
    // The Gumbel-max trick.
    const auto log_chance = [&](const P& x) { return logl(x.p) - logl(oracle_exponential(c, x.id)); };
    return std::max_element(t.begin(), t.end(), [&](const P& a, const P& b) { return log_chance(a) < log_chance(b); })
        ->id;
}

// ---- random cases ----

using Rng = std::mt19937_64;
uint32_t below(Rng& rng, uint32_t n) {
    return static_cast<uint32_t>(rng() % n);
}
float real(Rng& rng, float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(rng);
}
template <class T>
T pick(Rng& rng, std::initializer_list<T> values) {
    return values.begin()[below(rng, static_cast<uint32_t>(values.size()))];
}

enum Shape { kContinuous, kTies, kFlat, kPeaked, kWide, kCluster, kShapes };  // kCluster: one far above the others
void fill_logits(Rng& rng, Shape shape, uint32_t vocabulary, std::vector<float>& logits) {
    std::normal_distribution<float> normal(0, 3);
    logits.resize(vocabulary);
    const float level = normal(rng);
    for (float& x : logits) switch (shape) {
            case kTies:
                x = static_cast<float>(below(rng, 5)) - 2;
                break;
            case kFlat:
                x = level;
                break;
            case kPeaked:
                x = normal(rng) + (below(rng, 100) ? 0.f : 20.f);
                break;
            case kCluster:
                x = &x == &logits[vocabulary / 2] ? level + 7 : level + 1e-4f * normal(rng);
                break;
            case kWide:
                x = ldexpf(normal(rng), static_cast<int>(below(rng, 200)) - 100);
                break;
            default:
                x = normal(rng);
        }
}

Case random_case(Rng& rng, Shape shape, uint32_t vocabulary) {
    Case c;
    fill_logits(rng, shape, vocabulary, c.logits);
    keel_sampling& s = c.sampling;
    s.seed = rng();
    s.temperature = pick(rng, {0.f, 1.f, 0.7f, real(rng, 0.05f, 3), real(rng, 0.05f, 3), 1e-30f, 1e30f});
    if (below(rng, 2)) s.top_k = pick(rng, {1u, 2u, 40u, vocabulary, 1 + below(rng, vocabulary), UINT32_MAX});
    if (below(rng, 2)) s.typical_p = pick(rng, {0.5f, 0.95f, real(rng, 0, 1), 1e-38f, 1.f});
    if (below(rng, 2)) s.top_p = pick(rng, {0.5f, 0.95f, real(rng, 0, 1), 1e-42f, 0.999999f, 1.f});
    if (below(rng, 2)) s.min_p = pick(rng, {0.05f, 1.f, real(rng, 0, 1), 1e-42f, 1e-12f});
    if (below(rng, 2)) s.repetition_penalty = real(rng, 0.5f, 2);
    if (below(rng, 2)) s.frequency_penalty = real(rng, -1, 2);
    if (below(rng, 2)) s.presence_penalty = real(rng, -1, 2);
    s.penalty_window = pick(rng, {0u, 1u, 5u, 300u, UINT32_MAX});
    s.min_tokens = below(rng, 3);
    c.sampled = below(rng, 3);
    const auto ids = [&](std::vector<int32_t>& out, uint32_t n) {
        for (uint32_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>(below(rng, vocabulary)));
    };
    ids(c.history, below(rng, 400));
    ids(c.ends, below(rng, 3));
    if (below(rng, 4) == 0) c.ends.push_back(-1);
    if (below(rng, 2)) ids(c.excluded, below(rng, 20));
    if (below(rng, 2)) ids(c.bias_ids, below(rng, 20));
    for (size_t i = 0; i < c.bias_ids.size(); ++i) c.bias_values.push_back(pick(rng, {1.f, -kInf, real(rng, -9, 9)}));
    if (below(rng, 3) == 0) {
        c.mask.resize((vocabulary + 7) / 8);
        for (uint8_t& byte : c.mask) byte = pick<uint8_t>(rng, {0xff, 0, static_cast<uint8_t>(rng())});
    }
    if (below(rng, 4) == 0)
        for (float& x : c.logits)
            if (below(rng, 3) == 0) x = -kInf;
    return c;
}

void expect_oracle(const Case& c, const char* what, int number) {
    const int32_t expected = oracle_draw(c);
    int32_t token = -7;
    const keel_status status = draw(c, &token);
    if (expected == -1) {
        ASSERT_EQ(status, KEEL_E_NUMERIC) << what << number;
        ASSERT_EQ(token, -7);
    } else {
        ASSERT_EQ(status, KEEL_OK) << what << number;
        ASSERT_EQ(token, expected) << what << number;
    }
}

TEST(Sampler, EqualsSortOracleOnRandomCases) {
    Rng rng(1);
    for (int i = 0; i < 30000; ++i) {
        const auto shape = static_cast<Shape>(below(rng, kShapes));
        const uint32_t vocabulary = pick(rng, {1u, 2u, 7u, 8u, 1 + below(rng, 300), 1 + below(rng, 300), 1000u});
        ASSERT_NO_FATAL_FAILURE(expect_oracle(random_case(rng, shape, vocabulary), "case ", i));
    }
}

TEST(Sampler, EqualsSortOracleOnLargeVocabularies) {
    Rng rng(2);
    for (int i = 0; i < 60; ++i) {
        const auto shape = static_cast<Shape>(i % kShapes);
        const Case c = random_case(rng, shape, pick(rng, {32000u, 152064u}));
        ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "large ", i));
    }
}

// Vocabularies large enough for the head to be looked at alone: as a model's logits are, with and without a tail that
// matters, and with many values that are equal or nearly so at every edge.
TEST(Sampler, TheHeadAloneTellsTheSame) {
    Rng rng(4);
    for (int i = 0; i < 1500; ++i) {
        const auto shape = pick(rng, {kContinuous, kContinuous, kPeaked, kTies, kWide});
        Case c = random_case(rng, shape, 4096 + below(rng, 3000));
        c.sampling.temperature = pick(rng, {1.f, 0.8f, 0.3f, real(rng, 0.05f, 3), 1e-20f, 3e38f});
        c.sampling.typical_p = 0;
        if (below(rng, 2)) c.sampling.top_k = 0;
        if (c.sampling.top_k) c.sampling.top_k = pick(rng, {1u, 40u, 256u, 257u, 1 + below(rng, 300)});
        if (shape == kContinuous && below(rng, 2))  // halves and quarters: many ties
            for (float& x : c.logits) x = rintf(4 * x) / 4;
        ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "head ", i));
    }
}

TEST(Sampler, FlatVocabularyOf152k) {
    Case c;
    c.logits.assign(152064, 1.25f);
    c.sampling.temperature = 1;
    for (float top_p : {0.f, 0.95f, 0.5f, 1e-6f})
        for (float typical_p : {0.f, 0.9f})
            for (uint32_t top_k : {0u, 1000u})
                for (uint64_t seed : {1, 2, 3}) {
                    c.sampling.top_p = top_p, c.sampling.typical_p = typical_p, c.sampling.top_k = top_k;
                    c.sampling.seed = seed;
                    ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "flat ", static_cast<int>(seed)));
                }
}

// Values that agree in their leading bits force the selection through many rounds.
TEST(Sampler, NearlyEqualAndTinyDistances) {
    Rng rng(3);
    for (int i = 0; i < 300; ++i) {
        Case c;
        c.logits.resize(2000);
        for (float& x : c.logits) {
            x = 8;
            for (uint32_t steps = below(rng, 4); steps; --steps) x = nextafterf(x, kInf);
            if (below(rng, 4) == 0) x = ldexpf(1, -static_cast<int>(below(rng, 140)));
        }
        c.sampling.temperature = pick(rng, {1.f, 3.3e38f, 1e-38f, 1e10f});
        c.sampling.top_p = real(rng, 0, 1), c.sampling.typical_p = real(rng, 0, 1);
        c.sampling.top_k = 1 + below(rng, 2000);
        c.sampling.seed = rng();
        ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "near ", i));
    }
}

TEST(Sampler, EqualsTextbookOnDistinctLogits) {
    Rng rng(4);
    for (int i = 0; i < 20000; ++i) {
        Case c = random_case(rng, kContinuous, 2 + below(rng, 300));
        c.sampling.temperature = real(rng, 0.3f, 3);
        // Parameters near 0 are decided among masses of 0, which long double does not know.
        if (c.sampling.top_p > 0) c.sampling.top_p = real(rng, 0.01f, 1);
        if (c.sampling.typical_p > 0) c.sampling.typical_p = real(rng, 0.01f, 1);
        if (c.sampling.min_p > 0) c.sampling.min_p = real(rng, 0.001f, 0.9f);
        const std::vector<double> v = oracle_values(c);
        if (*std::max_element(v.begin(), v.end()) == -INFINITY) continue;
        int32_t token = -7;
        ASSERT_EQ(draw(c, &token), KEEL_OK);
        ASSERT_EQ(token, textbook_draw(c)) << i;
    }
}

// ---- what each step promises, by hand ----

using Ids = std::set<int32_t>;
Ids reachable(Case c, int draws = 2000) {
    Ids seen;
    for (int i = 0; i < draws; ++i) {
        c.sampling.seed = static_cast<uint64_t>(i);
        int32_t token = -7;
        EXPECT_EQ(draw(c, &token), KEEL_OK);
        seen.insert(token);
    }
    return seen;
}
int32_t drawn(const Case& c) {
    int32_t token = -7;
    EXPECT_EQ(draw(c, &token), KEEL_OK);
    return token;
}

TEST(Sampler, TopKBreaksTiesByLowestId) {
    Case c;
    c.logits = {-1, 0, 0, 0};
    c.sampling.temperature = 1;
    c.sampling.top_k = 2;
    EXPECT_EQ(reachable(c), (Ids{1, 2}));
    c.sampling.top_k = 1;
    EXPECT_EQ(reachable(c), (Ids{1}));
}

TEST(Sampler, TopPKeepsTheSmallestPrefixThatReachesP) {
    Case c;
    c.logits.assign(4, 2.f);
    c.sampling.temperature = 1;
    c.sampling.top_p = 0.5f;  // exactly two of four
    EXPECT_EQ(reachable(c), (Ids{0, 1}));
    c.sampling.top_p = nextafterf(0.5f, 1.f);
    EXPECT_EQ(reachable(c), (Ids{0, 1, 2}));
    c.sampling.top_p = 1e-45f;
    EXPECT_EQ(reachable(c), (Ids{0}));
}

TEST(Sampler, MinPIsRelativeToTheLargest) {
    Case c;
    c.logits = {0, 0, -0.68f, -0.70f, -5};  // e^-0.68 = 0.507, e^-0.70 = 0.497
    c.sampling.temperature = 1;
    c.sampling.min_p = 0.5f;
    EXPECT_EQ(reachable(c), (Ids{0, 1, 2}));
    c.sampling.min_p = 1;
    EXPECT_EQ(reachable(c), (Ids{0, 1}));
}

// One token of probability 0.3 and twenty of 0.035: surprisals 1.20 and 3.35, entropy 2.71, so the twenty come first.
TEST(Sampler, TypicalMayDropTheMostProbable) {
    Case c;
    c.logits.assign(21, static_cast<float>(log(0.035)));
    c.logits[0] = static_cast<float>(log(0.3));
    c.sampling.temperature = 1;
    c.sampling.typical_p = 0.5f;  // 15 of the twenty reach it
    Ids expected;
    for (int32_t id = 1; id <= 15; ++id) expected.insert(id);
    EXPECT_EQ(reachable(c), expected);
    c.sampling.typical_p = 0.999f;
    EXPECT_TRUE(reachable(c).contains(0));
}

TEST(Sampler, PenaltiesCountTheWindowOnly) {
    Case c;
    c.logits = {1.0f, 1.5f, 2.0f, -1.0f};
    c.history = {2, 2, 1, 0, 0};
    c.sampling.presence_penalty = 5;
    for (const auto& [window, expected] : std::map<uint32_t, int32_t>{{2, 2}, {3, 2}, {4, 3}, {UINT32_MAX, 3}}) {
        c.sampling.penalty_window = window;
        EXPECT_EQ(drawn(c), expected) << window;
    }
    c.sampling.presence_penalty = 0;
    c.sampling.frequency_penalty = 0.6f;  // 1 - 1.2, 1.5 - 0.6, 2 - 1.2
    EXPECT_EQ(drawn(c), 1);
    c.sampling.frequency_penalty = 0;
    c.logits = {-1, -1.5f, -2, -2.5f};
    c.history = {0, 1};
    c.sampling.repetition_penalty = 2;  // -2, -3, -2, -2.5: lowest id on the tie
    EXPECT_EQ(drawn(c), 0);
    c.logits = {3, 2.9f, 2, 1};
    EXPECT_EQ(drawn(c), 2);  // 1.5, 1.45, 2, 1
}

TEST(Sampler, WindowDefaultsTo64) {
    Case c;
    c.logits = {2, 1, 0};
    c.sampling.presence_penalty = 5;
    c.history.assign(64, 2);
    c.history.insert(c.history.begin(), 0);
    EXPECT_EQ(drawn(c), 0);
    c.history.pop_back();
    EXPECT_EQ(drawn(c), 1);
}

TEST(Sampler, GreedyExcludingASet) {
    Case c;
    c.logits = {1, 5, 4, 5, 3};
    for (int32_t expected : {1, 3, 2, 4, 0}) {
        EXPECT_EQ(drawn(c), expected);
        c.excluded.push_back(expected);
    }
    int32_t token = -7;
    EXPECT_EQ(draw(c, &token), KEEL_E_NUMERIC);
    EXPECT_EQ(token, -7);
}

TEST(Sampler, MinTokensGuardsEndIds) {
    Case c;
    c.logits = {1, 9, 8};
    c.ends = {1, 2, -1, 77};
    c.sampling.min_tokens = 2;
    for (uint32_t sampled : {0u, 1u, 2u}) {
        c.sampled = sampled;
        EXPECT_EQ(drawn(c), sampled < 2 ? 0 : 1);
    }
}

TEST(Sampler, OneTokenAllowed) {
    Case c;
    c.logits.assign(1000, 0);
    c.logits[637] = -1e30f;
    c.mask.assign(125, 0);
    c.mask[637 / 8] = 1 << (637 % 8);
    c.sampling.top_k = 40, c.sampling.top_p = 0.1f, c.sampling.min_p = 1, c.sampling.typical_p = 0.1f;
    for (float temperature : {0.f, 1e-40f, 1.f, 3e38f}) {
        c.sampling.temperature = temperature;
        EXPECT_EQ(drawn(c), 637);
    }
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
    for (float bad : {kNan, kInf, -kNan})
        for (uint32_t at : {0u, 5u, 256u, 299u})
            for (float temperature : {0.f, 1.f}) {
                Case c;
                c.logits.assign(300, 1);
                c.logits[at] = bad;
                c.excluded = {static_cast<int32_t>(at)};  // no excuse
                c.sampling.temperature = temperature;
                int32_t token = -7;
                EXPECT_EQ(draw(c, &token), KEEL_E_NUMERIC);
                EXPECT_EQ(token, -7);
                GuardedWork work(300);
                int32_t ids[3];
                float logprobs[3];
                EXPECT_EQ(top_logprobs(*next_set(), c.logits.data(), 300, 3, work.data(), ids, logprobs),
                          KEEL_E_NUMERIC);
            }
    Case c;
    c.logits.assign(300, -kInf);
    int32_t token;
    EXPECT_EQ(draw(c, &token), KEEL_E_NUMERIC);
}

TEST(Sampler, HistoryOutsideTheVocabulary) {
    Case c;
    c.logits = {1, 2};
    c.sampling.presence_penalty = 1;
    int32_t token = -7;
    for (int32_t id : {2, -1}) {
        c.history = {0, id};
        EXPECT_EQ(draw(c, &token), KEEL_E_ARGUMENT);
    }
    c.history = {2, 0};
    c.sampling.penalty_window = 1;
    EXPECT_EQ(draw(c, &token), KEEL_OK);
}

// A window longer than the vocabulary.
TEST(Sampler, WindowLargerThanVocabulary) {
    Rng rng(7);
    for (int i = 0; i < 200; ++i) {
        Case c = random_case(rng, kContinuous, 3 + below(rng, 30));
        c.history.clear();
        for (int t = 0; t < 5000; ++t) c.history.push_back(static_cast<int32_t>(below(rng, c.vocabulary())));
        c.sampling.penalty_window = pick(rng, {UINT32_MAX, 4999u});
        c.sampling.repetition_penalty = 1.1f, c.sampling.frequency_penalty = 0.01f;
        ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "window ", i));
    }
}

// ---- the draw ----

TEST(Sampler, PhiloxKnownAnswers) {  // kat_vectors of Random123
    const struct {
        uint64_t key;
        uint32_t counter[4], expected[4];
    } vectors[] = {
        {0, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (const auto& v : vectors) {
        uint32_t out[4] = {v.counter[0], v.counter[1], v.counter[2], v.counter[3]};
        kernels::philox4x32(v.key, out[0], out[1], out[2], out[3]);
        const auto oracle = oracle_philox(v.key, {v.counter[0], v.counter[1], v.counter[2], v.counter[3]});
        for (int i = 0; i < 4; ++i) {
            EXPECT_EQ(out[i], v.expected[i]);
            EXPECT_EQ(oracle[i], v.expected[i]);
        }
    }
}

// E against long double: 1 ulp of log_f64 and the roundings around it; never below x. Bounds of scores are bounds.
TEST(Race, ExponentialsAndTheirBounds) {
    Rng rng(10);
    double worst = 0;
    for (int i = 0; i < 400000; ++i) {
        uint64_t w = rng() >> below(rng, 64);
        if (i % 3 == 1) w = ~w;
        if (i < 64) w = i % 2 ? (uint64_t{1} << i) - 1 : uint64_t{1} << i;
        const long double x = ldexpl(w | 1, -64), expected = w >> 63 ? -logl(ldexpl(~w | 1, -64)) : -log1pl(-x);
        const double e = kernels::race_exponential(w);
        worst = std::max(worst, static_cast<double>(fabsl(e - expected) / expected));
        ASSERT_GE(e, static_cast<double>(x)) << w;
        const double d = real(rng, 0, i % 2 ? 40.f : 1e-3f);
        const float bound = kernels::race_bound(static_cast<float>(d), static_cast<uint32_t>(w >> 32));
        ASSERT_LE(static_cast<double>(bound), kernels::race_score(d, w)) << w << " " << d;
        const double slack = w >> 40 && e < 0.05 ? 0.1 : INFINITY;  // near, where winners are
        ASSERT_GE(static_cast<double>(bound), kernels::race_score(d, w) - slack) << w << " " << d;
    }
    EXPECT_LT(worst, 4e-16);
    EXPECT_GT(kernels::race_exponential(0), 0);
    EXPECT_LT(kernels::race_exponential(UINT64_MAX), 45);
}

TEST(Race, NoMassBeyondItsReach) {
    Rng rng(11);
    for (int i = 0; i < 20000; ++i) {
        const uint64_t least = 1 + (rng() >> 12 >> below(rng, 53));
        ASSERT_LT(kernels::mass_of(kernels::race_reach(least)), least);
        ASSERT_LT(kernels::race_reach(least), 38);
    }
}

// Shapes on which a scan could find every token worth a closer look. What its bounds say is counted here.
TEST(Race, FewContendersInAnyOrder) {
    constexpr uint32_t kVocabulary = 262144;
    enum { kSame, kUp, kSteep, kDown, kRuns, kLast };
    for (int shape = kSame; shape < kLast; ++shape) {
        Case c;
        c.logits.assign(kVocabulary, 0.f);
        for (uint32_t i = 0; i < kVocabulary; ++i) {
            const auto at = static_cast<float>(i);
            c.logits[i] = shape == kUp      ? at * 1e-3f
                          : shape == kSteep ? at * 0.5f
                          : shape == kDown  ? at * -1e-3f
                          : shape == kRuns  ? (i / 1000 % 3 ? -kInf : 1e-4f * at)
                                            : 0.f;
        }
        c.sampling.temperature = 0.8f;
        const double largest = *std::max_element(c.logits.begin(), c.logits.end());
        for (uint64_t seed : {1, 2, 3}) {
            c.sampling.seed = seed;
            double best = INFINITY;
            uint32_t contenders = 0;
            for (uint32_t id = 0; id < kVocabulary; ++id) {
                const double d = (largest - c.logits[id]) / c.sampling.temperature;
                if (!(d <= kernels::race_reach(1))) continue;
                const uint32_t high = kernels::race_word(seed, 0, id, 0), low = kernels::race_word(seed, 0, id, 1);
                if (kernels::race_bound(static_cast<float>(d), high) > static_cast<float>(best)) continue;
                ++contenders;
                best = std::min(best, kernels::race_score(d, uint64_t{high} << 32 | low));
            }
            EXPECT_LT(contenders, 120u) << shape;
            ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "shape ", shape));
        }
    }
}

// Logits that know the bits: every token leads when it comes. Slow, and right.
TEST(Race, EveryTokenAContender) {
    Case c;
    c.logits.resize(20000);
    c.sampling.temperature = 1, c.sampling.seed = 5;
    for (uint32_t id = 0; id < c.vocabulary(); ++id)
        c.logits[id] = static_cast<float>(logl(oracle_exponential(c, static_cast<int32_t>(id)))) + 1e-4f * id;
    ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "contenders ", 0));
    std::reverse(c.logits.begin(), c.logits.end());
    ASSERT_NO_FATAL_FAILURE(expect_oracle(c, "contenders ", 1));
}

// Who did not win may go: the same token is drawn. That is what makes drafts of another model come true.
TEST(Race, LosersDoNotMatter) {
    Rng rng(12);
    for (int i = 0; i < 300; ++i) {
        Case c;
        fill_logits(rng, kContinuous, 1000, c.logits);
        c.sampling.temperature = 0.8f, c.sampling.seed = rng();
        c.history.assign(below(rng, 9), 1);
        const int32_t token = drawn(c);
        const float largest = *std::max_element(c.logits.begin(), c.logits.end());
        for (uint32_t id = 0; id < c.vocabulary(); ++id)
            if (id != static_cast<uint32_t>(token) && c.logits[id] < largest && below(rng, 2)) c.logits[id] = -kInf;
        ASSERT_EQ(drawn(c), token) << i;
    }
}

TEST(Sampler, DrawDependsOnSeedAndPositionOnly) {
    Case c;
    c.logits.assign(50000, 0.f);
    c.sampling.temperature = 1;
    std::set<int32_t> distinct;
    for (uint64_t seed : {1ull, 2ull, 1ull << 40})
        for (size_t position = 0; position < 20; ++position) {
            c.sampling.seed = seed;
            c.history.assign(position, 3);
            c.sampled = 0;
            const int32_t token = drawn(c);
            c.history.assign(position, 4);  // other tokens, same position
            c.sampled = 7;
            EXPECT_EQ(drawn(c), token);
            distinct.insert(token);
        }
    EXPECT_GT(distinct.size(), 55u);  // 60 draws of 50,000
}

TEST(Sampler, ChiSquareOfTheDraw) {
    Rng rng(6);
    Case c;
    fill_logits(rng, kContinuous, 24, c.logits);
    for (float& x : c.logits) x *= 0.25f;
    for (float temperature : {0.7f, 1.f, 2.f}) {
        c.sampling.temperature = temperature;
        c.sampling.seed = 42;
        std::vector<double> p, count(24);
        for (float x : c.logits) p.push_back(exp(x / temperature));
        const double sum = std::accumulate(p.begin(), p.end(), 0.0);
        constexpr int kDraws = 40000;
        for (int i = 0; i < kDraws; ++i) {
            if (i % 200 == 0) ++c.sampling.seed, c.history.clear();
            ++count[drawn(c)];
            c.history.push_back(0);  // the position moves on
        }
        double chi2 = 0;
        for (int i = 0; i < 24; ++i) {
            const double expected = kDraws * p[i] / sum;
            ASSERT_GT(expected, 5);
            chi2 += (count[i] - expected) * (count[i] - expected) / expected;
        }
        EXPECT_LT(chi2, 49.7);  // 23 degrees of freedom: exceeded once in 1,000
        EXPECT_GT(chi2, 7.5);   // and below this once in 1,000
    }
}

// ---- parameters ----

TEST(SamplerSet, DefaultsAndCopies) {
    SamplerParams p;
    ASSERT_EQ(sampler_set(nullptr, 10, &p), KEEL_OK);
    EXPECT_EQ(p.temperature, 0);
    EXPECT_EQ(p.penalty_window, 64u);
    EXPECT_EQ(p.repetition_penalty, 1);
    keel_sampling s = {};
    s.struct_size = sizeof s;
    int32_t ids[] = {9, 0};
    float values[] = {-kInf, 2};
    s.bias_ids = ids, s.bias_values = values, s.bias_count = 2;
    s.excluded_ids = ids, s.excluded_count = 1;
    s.seed = 0x123456789abcdef0;
    ASSERT_EQ(sampler_set(&s, 10, &p), KEEL_OK);
    ids[0] = 5, values[1] = 7;
    EXPECT_EQ(p.bias_ids[0], 9);
    EXPECT_EQ(p.bias_values[1], 2);
    EXPECT_EQ(p.excluded_ids[0], 9);
    EXPECT_EQ(p.seed, 0x123456789abcdef0u);
    EXPECT_EQ(sampler_check(p, 10), KEEL_OK);
    EXPECT_EQ(sampler_check(p, 9), KEEL_E_ARGUMENT);
}

TEST(SamplerSet, OlderAndNewerCallers) {
    struct {
        keel_sampling s;
        uint64_t extra;
    } newer = {};
    SamplerParams p;
    newer.s.struct_size = sizeof newer;
    newer.s.top_k = 3;
    ASSERT_EQ(sampler_set(&newer.s, 10, &p), KEEL_OK);
    EXPECT_EQ(p.top_k, 3u);
    newer.extra = 1;
    EXPECT_EQ(sampler_set(&newer.s, 10, &p), KEEL_E_ABI);
    keel_sampling s = {};
    EXPECT_EQ(sampler_set(&s, 10, &p), KEEL_E_ABI);  // struct_size 0
    s.struct_size = offsetof(keel_sampling, top_p);
    s.top_k = 5;
    s.min_p = kNan;  // beyond what this caller knows
    ASSERT_EQ(sampler_set(&s, 10, &p), KEEL_OK);
    EXPECT_EQ(p.top_k, 5u);
    EXPECT_EQ(p.min_p, 0);
}

TEST(SamplerSet, RefusesWhatIsOutOfRange) {
    static int32_t ids[257] = {};
    static float values[257] = {};
    static const int32_t outside[] = {10}, negative[] = {-1};
    static const float nan[] = {kNan}, inf[] = {kInf};
    const std::function<void(keel_sampling&)> bad[] = {
        [](auto& s) { s.temperature = kNan; },
        [](auto& s) { s.temperature = -0.1f; },
        [](auto& s) { s.temperature = kInf; },
        [](auto& s) { s.top_p = kNan; },
        [](auto& s) { s.top_p = -0.1f; },
        [](auto& s) { s.top_p = 1.001f; },
        [](auto& s) { s.min_p = kNan; },
        [](auto& s) { s.min_p = -1e-40f; },
        [](auto& s) { s.min_p = 1.001f; },
        [](auto& s) { s.typical_p = kNan; },
        [](auto& s) { s.typical_p = -1; },
        [](auto& s) { s.typical_p = 2; },
        [](auto& s) { s.repetition_penalty = kNan; },
        [](auto& s) { s.repetition_penalty = -1; },
        [](auto& s) { s.repetition_penalty = kInf; },
        [](auto& s) { s.frequency_penalty = kNan; },
        [](auto& s) { s.frequency_penalty = kInf; },
        [](auto& s) { s.frequency_penalty = -kInf; },
        [](auto& s) { s.presence_penalty = kNan; },
        [](auto& s) { s.presence_penalty = kInf; },
        [](auto& s) { s.presence_penalty = -kInf; },
        [](auto& s) { s.bias_count = 257, s.bias_ids = ids, s.bias_values = values; },
        [](auto& s) { s.bias_count = 1, s.bias_values = values; },
        [](auto& s) { s.bias_count = 1, s.bias_ids = ids; },
        [](auto& s) { s.bias_count = 1, s.bias_ids = outside, s.bias_values = values; },
        [](auto& s) { s.bias_count = 1, s.bias_ids = negative, s.bias_values = values; },
        [](auto& s) { s.bias_count = 1, s.bias_ids = ids, s.bias_values = nan; },
        [](auto& s) { s.bias_count = 1, s.bias_ids = ids, s.bias_values = inf; },
        [](auto& s) { s.excluded_count = 257, s.excluded_ids = ids; },
        [](auto& s) { s.excluded_count = 1; },
        [](auto& s) { s.excluded_count = 1, s.excluded_ids = outside; },
        [](auto& s) { s.excluded_count = 1, s.excluded_ids = negative; },
    };
    int number = 0;
    for (const auto& spoil : bad) {
        keel_sampling s = {};
        s.struct_size = sizeof s;
        SamplerParams p, before;
        memset(&p, 0x5a, sizeof p);
        memcpy(&before, &p, sizeof p);
        spoil(s);
        EXPECT_EQ(sampler_set(&s, 10, &p), KEEL_E_ARGUMENT) << number;
        EXPECT_EQ(0, memcmp(&p, &before, sizeof p)) << number;
        ++number;
    }
    keel_sampling s = {};
    s.struct_size = sizeof s;
    s.reserved = 1;
    SamplerParams p;
    EXPECT_EQ(sampler_set(&s, 10, &p), KEEL_E_ABI);
    s.reserved = 0;
    s.bias_count = 256, s.bias_ids = ids, s.bias_values = values;
    s.excluded_count = 256, s.excluded_ids = ids;
    s.top_p = 1, s.min_p = 1, s.typical_p = 1, s.top_k = UINT32_MAX;
    EXPECT_EQ(sampler_set(&s, 10, &p), KEEL_OK);
}

// What a hostile session file could hold.
TEST(SamplerSet, CheckRefusesCountsOverTheLimit) {
    SamplerParams p;
    ASSERT_EQ(sampler_set(nullptr, 10, &p), KEEL_OK);
    p.bias_count = kMaxBias + 1;
    EXPECT_EQ(sampler_check(p, 10), KEEL_E_ARGUMENT);
    p.bias_count = 0, p.excluded_count = UINT32_MAX;
    EXPECT_EQ(sampler_check(p, 10), KEEL_E_ARGUMENT);
    p.excluded_count = 0, p.repetition_penalty = 0;  // -inf * 0 would be NaN
    EXPECT_EQ(sampler_check(p, 10), KEEL_E_ARGUMENT);
}

TEST(SamplerWork, SmallAndMonotone) {
    for (uint32_t n : {1u, 32000u, 152064u, 1u << 20}) EXPECT_LE(sampler_work_bytes(n), 14ull * n + 25 * 1024);
    EXPECT_EQ(sampler_work_bytes(UINT32_MAX) % 64, 0u);
    EXPECT_GT(sampler_work_bytes(UINT32_MAX), 14ull * UINT32_MAX);
}

// ---- log-probabilities ----

TEST(TopLogprobs, EqualsSortedLogSoftmax) {
    Rng rng(8);
    for (int i = 0; i < 400; ++i) {
        std::vector<float> logits;
        const uint32_t vocabulary = i % 40 == 0 ? 152064 : 1 + below(rng, 600);
        fill_logits(rng, static_cast<Shape>(i % kWide), vocabulary, logits);
        if (below(rng, 3) == 0)
            for (size_t j = 1; j < logits.size(); ++j)
                if (below(rng, 2)) logits[j] = -kInf;
        const uint32_t n = std::min(vocabulary, pick(rng, {1u, 5u, 256u, 1 + below(rng, 256)}));
        std::vector<int32_t> order(vocabulary), ids(n);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        const long double largest = logits[order[0]];
        long double sum = 0;
        for (float x : logits) sum += expl(x - largest);
        std::vector<float> logprobs(n);
        GuardedWork work(vocabulary);
        ASSERT_EQ(top_logprobs(*next_set(), logits.data(), vocabulary, n, work.data(), ids.data(), logprobs.data()),
                  KEEL_OK);
        EXPECT_TRUE(work.intact());
        for (uint32_t j = 0; j < n; ++j) {
            ASSERT_EQ(ids[j], order[j]) << i << " " << j;
            if (logits[ids[j]] == -kInf) {
                ASSERT_EQ(logprobs[j], -kInf);
            } else {
                const auto expected = static_cast<float>(logits[ids[j]] - largest - logl(sum));
                ASSERT_NEAR(logprobs[j], expected, fabsf(expected) * 1.2e-7f + 1e-10f);
            }
        }
    }
}

TEST(TopLogprobs, RefusesBadCounts) {
    const std::vector<float> logits(300, 0.f);
    GuardedWork work(300);
    int32_t ids[257];
    float logprobs[257];
    EXPECT_EQ(top_logprobs(*next_set(), logits.data(), 300, 257, work.data(), ids, logprobs), KEEL_E_ARGUMENT);
    EXPECT_EQ(top_logprobs(*next_set(), logits.data(), 4, 5, work.data(), ids, logprobs), KEEL_E_ARGUMENT);
    EXPECT_EQ(top_logprobs(*next_set(), logits.data(), 300, 256, work.data(), ids, logprobs), KEEL_OK);
    EXPECT_EQ(top_logprobs(*next_set(), logits.data(), 300, 0, work.data(), ids, logprobs), KEEL_OK);
}

TEST(MathF64, ExpAndLogAgainstLongDouble) {
    Rng rng(9);
    double worst_exp = 0, worst_log = 0;
    const auto ulps = [](double got, long double expected) {
        int exponent;
        frexpl(expected, &exponent);
        return static_cast<double>(fabsl(got - expected) / ldexpl(1, exponent - 53));
    };
    for (int i = 0; i < 400000; ++i) {
        const double x = std::uniform_real_distribution<double>(i % 2 ? -708 : -64, i % 2 ? 709 : 0)(rng);
        worst_exp = std::max(worst_exp, ulps(kernels::exp_f64(x), expl(x)));
        const double y = i % 2 ? exp(x) : std::uniform_real_distribution<double>(0.5, 2)(rng);
        if (y != 1) worst_log = std::max(worst_log, ulps(kernels::log_f64(y), logl(y)));
    }
    EXPECT_LT(worst_exp, 1);
    EXPECT_LT(worst_log, 1);
    EXPECT_EQ(kernels::exp_f64(0), 1);
    EXPECT_EQ(kernels::exp_f64(-0.0), 1);
    EXPECT_EQ(kernels::log_f64(1), 0);
    RecordProperty("worst_exp_milli_ulp", static_cast<int>(worst_exp * 1000));
    RecordProperty("worst_log_milli_ulp", static_cast<int>(worst_log * 1000));
}

}  // namespace
}  // namespace keel
