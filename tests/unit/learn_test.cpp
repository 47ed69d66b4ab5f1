// Learning while reading: gradients against central differences, and what a score may depend on.
#include <gtest/gtest.h>

#include <random>

#include "sdk/tools/lab/learn/reading_adapter.h"

namespace {

using namespace keel::tools;

// A made-up head, and a text of states, logits of that head and tokens.
template <class T>
struct Text {
    Head<T> head;
    std::vector<T> w, hidden, logits;
    std::vector<int32_t> target;

    Text(uint32_t vocabulary, uint32_t d, uint32_t tokens, uint32_t seed) {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        w.resize(size_t{vocabulary} * d);
        std::mt19937 of_head(1);
        for (T& x : w) x = static_cast<T>(normal(of_head));
        head = {vocabulary, d,
                [this, vocabulary, d](const T* h, uint32_t n, T* z) {
                    for (uint32_t t = 0; t < n; ++t)
                        for (uint32_t v = 0; v < vocabulary; ++v) {
                            T sum = 0;
                            for (uint32_t i = 0; i < d; ++i) sum += w[size_t{v} * d + i] * h[size_t{t} * d + i];
                            z[size_t{t} * vocabulary + v] = sum;
                        }
                },
                [this, d](uint32_t v, T* row) { std::copy_n(&w[size_t{v} * d], d, row); }};
        hidden.resize(size_t{tokens} * d);
        logits.resize(size_t{tokens} * vocabulary);
        for (T& x : hidden) x = static_cast<T>(normal(random));
        for (uint32_t t = 0; t < tokens; ++t) target.push_back(static_cast<int32_t>(random() % (vocabulary / 4)));
        head.multiply(hidden.data(), tokens, logits.data());
    }
    Text(const Text&) = delete;
};

constexpr uint32_t kVocabulary = 60, kHidden = 16, kTokens = 200, kChunk = 48;

std::vector<ReadingScore> read(ReadingAdapter& adapter, const Text<float>& text, uint32_t tokens = kTokens,
                               uint32_t at_once = kChunk) {
    std::vector<ReadingScore> scores(tokens);
    adapter.reset();
    for (uint32_t t = 0; t < tokens;) {
        const uint32_t n = std::min({at_once, kChunk - adapter.open_tokens(), tokens - t});
        adapter.score(&text.hidden[size_t{t} * kHidden], &text.logits[size_t{t} * kVocabulary], &text.target[t], n,
                      &scores[t]);
        t += n;
        if (t == tokens || adapter.open_tokens() == kChunk) adapter.end_chunk(t == tokens);
    }
    return scores;
}

void expect_same(const std::vector<ReadingScore>& a, const std::vector<ReadingScore>& b, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        EXPECT_EQ(a[i].frozen, b[i].frozen) << i;
        EXPECT_EQ(a[i].cached, b[i].cached) << i;
        EXPECT_EQ(a[i].mapped, b[i].mapped) << i;
        EXPECT_EQ(a[i].adapted, b[i].adapted) << i;
        EXPECT_EQ(a[i].mixture, b[i].mixture) << i;
    }
}

ReadingOptions options(double rate) {
    ReadingOptions o;
    o.rate = rate;
    o.cached_states = 64;
    return o;
}

TEST(Learn, GradientsAreCentralDifferences) {
    constexpr uint32_t n = 7;
    const Text<double> text(kVocabulary, kHidden, n, 2);
    HiddenMap<double> map(text.head, {});
    std::mt19937 random(3);
    std::normal_distribution<double> normal;
    for (double& m : map.matrix()) m = 0.05 * normal(random);
    std::vector<double> moved(n * kHidden), z(n * kVocabulary), g(kHidden * kHidden);
    const auto softmaxes = [&] {
        map.apply(text.hidden.data(), n, moved.data());
        text.head.multiply(moved.data(), n, z.data());
        for (uint32_t t = 0; t < n; ++t) softmax(&z[t * kVocabulary], kVocabulary);
    };
    const auto loss = [&] {
        softmaxes();
        double sum = 0;
        for (uint32_t t = 0; t < n; ++t) sum -= log(z[t * kVocabulary + static_cast<uint32_t>(text.target[t])]);
        return sum / n;
    };
    softmaxes();
    map.gradient(text.hidden.data(), z.data(), text.target.data(), n, g.data());
    double error = 0, largest = 0;
    for (size_t i = 0; i < g.size(); ++i) {
        const double step = 1e-5, before = map.matrix()[i];
        map.matrix()[i] = before + step;
        const double up = loss();
        map.matrix()[i] = before - step;
        const double down = loss();
        map.matrix()[i] = before;
        error = std::max(error, fabs(g[i] - (up - down) / (2 * step)));
        largest = std::max(largest, fabs(g[i]));
    }
    EXPECT_LT(error, 1e-6 * largest);
}

TEST(Learn, ScoresDependOnNothingBehind) {
    const Text<float> text(kVocabulary, kHidden, kTokens, 5);
    Text<float> other(kVocabulary, kHidden, kTokens, 5);
    ReadingAdapter adapter(text.head, options(0.05));
    const std::vector<ReadingScore> scores = read(adapter, text);
    for (const uint32_t from : {100u, 60u, 1u}) {  // later tokens become others
        for (uint32_t t = from; t < kTokens; ++t) other.target[t] = (text.target[t] + 7) % int32_t{kVocabulary};
        const std::vector<ReadingScore> changed = read(adapter, other);
        expect_same(scores, changed, from);
        EXPECT_NE(scores[from].adapted, changed[from].adapted);
    }
    expect_same(scores, read(adapter, text, 150), 150);
}

TEST(Learn, ATextBeforeLeavesNothing) {
    const Text<float> a(kVocabulary, kHidden, kTokens, 6), b(kVocabulary, kHidden, kTokens, 7);
    ReadingAdapter adapter(b.head, options(0.05)), alone(b.head, options(0.05));
    read(adapter, a);
    expect_same(read(alone, b), read(adapter, b), kTokens);
}

TEST(Learn, TokenByTokenIsTheSame) {
    const Text<float> text(kVocabulary, kHidden, kTokens, 4);
    ReadingAdapter adapter(text.head, options(0.05));
    const std::vector<ReadingScore> scores = read(adapter, text);
    const uint64_t steps = adapter.steps();
    for (const uint32_t at_once : {1u, 7u}) {
        expect_same(scores, read(adapter, text, kTokens, at_once), kTokens);
        EXPECT_EQ(adapter.steps(), steps);
    }
}

TEST(Learn, RateZeroIsTheFrozenModel) {
    const Text<float> text(kVocabulary, kHidden, kTokens, 8);
    ReadingAdapter adapter(text.head, options(0));
    for (const ReadingScore& s : read(adapter, text)) EXPECT_EQ(s.frozen, s.mapped);
    EXPECT_EQ(0u, adapter.steps());
}

// Tokens of a quarter of the vocabulary are learned; at no rate is the mixture worse than the frozen model by more than
// a bit.
TEST(Learn, HelpsAndHardlyHurts) {
    const Text<float> text(kVocabulary, kHidden, kTokens, 9);
    for (const double rate : {0.05, 1.0, 50.0}) {
        ReadingAdapter adapter(text.head, options(rate));
        ReadingScore sum;
        for (const ReadingScore& s : read(adapter, text)) {
            sum.frozen += s.frozen;
            sum.mapped += s.mapped;
            sum.mixture += s.mixture;
        }
        if (rate == 0.05) {
            EXPECT_LT(sum.mapped, sum.frozen);
        }
        EXPECT_LE(sum.mixture, sum.frozen + 0.6932) << rate;
        EXPECT_EQ(4u, adapter.steps()) << "one a chunk but for the last";
    }
}

TEST(Learn, StepsThatAreNotFiniteAreSkipped) {
    Text<float> text(kVocabulary, kHidden, kTokens, 10);
    ReadingAdapter adapter(text.head, options(0.05));
    const std::vector<ReadingScore> good = read(adapter, text);
    text.hidden[60 * kHidden] = INFINITY;
    read(adapter, text);
    EXPECT_GT(adapter.skipped(), 0u);
    EXPECT_GT(adapter.steps(), 0u);
    text.hidden[60 * kHidden] = 0.5f;
    text.head.multiply(text.hidden.data(), kTokens, text.logits.data());
    for (const ReadingScore& s : read(adapter, text)) EXPECT_TRUE(std::isfinite(s.adapted));
}

// The cache is the softmax over states that it says.
TEST(Learn, TheCacheIsASoftmaxOverTheNewestStates) {
    NeuralCache cache(2, 3, 5);
    const float states[][2] = {{9, 9}, {2, 0}, {0, 1}, {1, 1}};
    const int32_t next[] = {1, 4, 7, 4};
    EXPECT_EQ(0, cache.probability(states[0], 4));
    for (int i = 0; i < 4; ++i) cache.add(states[i], next[i]);  // the first one is forgotten
    const float h[] = {3, 0};
    const double a = exp(5.0), b = exp(0.0), c = exp(5 * sqrt(0.5));
    EXPECT_NEAR((a + c) / (a + b + c), cache.probability(h, 4), 1e-6);
    EXPECT_NEAR(b / (a + b + c), cache.probability(h, 7), 1e-6);
    EXPECT_EQ(0, cache.probability(h, 1));
}

}  // namespace
