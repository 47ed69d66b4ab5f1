// What the laboratory says of drafts: counted by hand on texts that are known.
#include "sdk/tools/lab/geodesic/draft_measure.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>

#include "sdk/tools/lab/geodesic/draft_worth.h"
#include "sdk/tools/lab/geodesic/neighbour_text.h"
#include "sdk/tools/lab/geodesic/random.h"
#include "sdk/tools/lab/geodesic/record_builder.h"
#include "sdk/tools/lab/geodesic/velocity_surrogate.h"
#include "tests/geodesic/made_up_field.h"

namespace keel::geodesic {
namespace {

constexpr uint32_t kWidth = 8;

// Texts of 12 tokens t, t + a, t + 2 a ... (mod 30): the state of a step knows a and t, two tokens know them as well,
// one token alone knows t. With noise of `noise` in the states.
std::vector<unsigned char> tape(size_t texts, uint64_t seed, double noise) {
    const TraceHeader header{.dim = kWidth, .layer = 1, .width = kWidth, .fingerprint = 1, .tokenizer_hash = 2};
    std::vector<unsigned char> file(sizeof header);
    memcpy(file.data(), &header, sizeof header);
    Random random(seed);
    for (size_t i = 0; i < texts; ++i) {
        const size_t step = 1 + random.below(4), start = random.below(30);
        for (size_t p = 0; p < 12; ++p) {
            const size_t token = (start + p * step) % 30;
            float state[kWidth];
            for (uint32_t d = 0; d < kWidth; ++d)
                state[d] = static_cast<float>(
                    (d < 4 ? 3.0 * (d + 1 == step) : 2 * std::sin(static_cast<double>(token * (d - 3)) / 5)) +
                    noise * random.normal());
            append_trace_step(file, static_cast<int32_t>(p), static_cast<int32_t>(token), state, 1);
        }
    }
    return file;
}

struct Case {
    std::vector<unsigned char> store_tape, query_tape, file;
    TraceTape tapes, queries;
    RecordStore store;
    TokenTable table;
};
Case made(double noise, uint32_t waypoints = 0) {
    Case c;
    c.store_tape = tape(200, 1, noise), c.query_tape = tape(30, 2, noise);
    EXPECT_EQ(read_trace(c.store_tape, &c.tapes), nullptr);
    EXPECT_EQ(read_trace(c.query_tape, &c.queries), nullptr);
    c.file = build_store(std::span(&c.tapes, 1), {.waypoints = waypoints});
    EXPECT_EQ(read_store(c.file, {1, 2, 30}, &c.store), nullptr);
    c.table = token_table(std::span(&c.tapes, 1));
    return c;
}
DraftMeasure measured(const Case& c) {
    return measure_drafts(c.store, c.table, std::span(&c.queries, 1), 3);
}

double share(const DrafterScore& score) {
    return static_cast<double>(score.right) / static_cast<double>(score.drafted);
}

TEST(DraftMeasure, TwoTokensAndStatesThatKnowAllAreRightAndChanceIsNot) {
    const Case c = made(0.01, 1);
    const DraftMeasure m = measured(c);
    EXPECT_EQ(m.steps, 300u);
    EXPECT_EQ(c.store.header.records, 2000u);
    ASSERT_EQ(m.drafters.size(), 9u);
    for (const size_t known : {0, 1, 2, 3, 8}) EXPECT_EQ(share(m.drafters[known]), 1) << m.drafters[known].name;
    EXPECT_GT(share(m.drafters[6]), 0.97);
    EXPECT_NEAR(share(m.drafters[5]), 0.25, 0.1);  // one of four steps
    EXPECT_GT(m.surrogate_cosine, 0.8);
    // By texts it is the same: 30 of 12 tokens, of which ten have one before, one drawn and one to be drafted.
    ASSERT_EQ(m.texts.size(), 30u);
    for (size_t d = 0; d < m.drafters.size(); ++d) {
        uint64_t right = 0;
        for (const TextScore& text : m.texts) {
            EXPECT_EQ(text.steps, 10u);
            right += text.right[d];
        }
        EXPECT_EQ(right, m.drafters[d].right) << m.drafters[d].name;
    }
}

TEST(DraftMeasure, StatesThatKnowNothingAreChance) {
    const Case c = made(100);
    const DraftMeasure m = measured(c);
    EXPECT_EQ(share(m.drafters[1]), 1);
    for (const size_t lost : {2, 3, 5, 8}) EXPECT_NEAR(share(m.drafters[lost]), 0.25, 0.1) << m.drafters[lost].name;
}

TEST(TokenTable, SaysWhatFollowedMostOften) {
    TokenTable table;
    const int32_t text[] = {1, 2}, other[] = {9, 2}, unknown[] = {4, 3};
    const auto count = [&](const int32_t* tokens, int32_t next) {
        for (const uint32_t order : {1u, 2u}) table.count(tokens + 2, order, next);
    };
    for (const int32_t next : {7, 5, 7, 5, 3}) count(text, next);
    for (int i = 0; i < 4; ++i) count(other, 8);
    table.settle();
    const auto found = [&](const int32_t* tokens, uint32_t order) { return table.find(tokens + 2, order); };
    EXPECT_EQ(found(text, 2).token, 5);  // as often as 7
    EXPECT_EQ(found(text, 2).count, 2u);
    EXPECT_EQ(found(text, 2).of, 5u);
    EXPECT_EQ(found(other, 2).token, 8);
    EXPECT_EQ(found(text, 1).token, 8);
    EXPECT_EQ(found(text, 1).of, 9u);
    EXPECT_EQ(found(unknown, 2).token, -1);
    EXPECT_EQ(found(unknown, 1).token, -1);
    const int32_t mixed[] = {4, 2};
    EXPECT_EQ(table.longest(mixed + 2, 2, 2).token, 8) << "of one token where two are not known";
    EXPECT_EQ(table.longest(text + 2, 2, 2).token, 5);
    EXPECT_EQ(table.longest(text + 2, 2, 1).token, 8);
}

TEST(TokenTable, OwnSuffixesAreTheLongestAndLatest) {
    const auto found = [](const std::vector<int32_t>& text) {
        const EarlierSuffix suffix = earlier_suffix(text);
        return std::pair(suffix.next, suffix.length);
    };
    EXPECT_EQ(found({}), std::pair(size_t{0}, size_t{0}));
    EXPECT_EQ(found({1, 2, 3}), std::pair(size_t{0}, size_t{0}));
    EXPECT_EQ(found({3, 1, 2, 5, 1, 2, 6, 2, 1, 2}), std::pair(size_t{6}, size_t{2})) << "the latest of two";
    EXPECT_EQ(found({3, 1, 2, 5, 7, 2, 6, 3, 1, 2}), std::pair(size_t{3}, size_t{3})) << "the longest of two";
    EXPECT_EQ(found(std::vector<int32_t>(40, 4)), std::pair(size_t{39}, size_t{16}));
}

// Texts of 12 tokens without a suffix that comes again: from the third on each is a step of one, or, where the drafts
// are right, each two are one of two.
TEST(DraftWorth, IsTheTimeOfTheStepsThatAreLeft) {
    const WorthCosts costs{.steps = {1, 1.25, 1.5, 2}, .lookup = 0.25};
    const Case known = made(0.01);
    const DraftWorth all = draft_worth(known.queries, measured(known), known.table, costs);
    EXPECT_DOUBLE_EQ(all.suffixes, 1);
    EXPECT_DOUBLE_EQ(all.table, 2 / 1.25);
    EXPECT_DOUBLE_EQ(all.records, 2 / 1.5);
    EXPECT_DOUBLE_EQ(all.surer, 2 / 1.5);
    const Case noise = made(100);
    const DraftWorth lost = draft_worth(noise.queries, measured(noise), noise.table, costs);
    EXPECT_DOUBLE_EQ(lost.table, 2 / 1.25);
    EXPECT_LT(lost.records, 1);
    EXPECT_THROW(draft_worth(known.tapes, measured(known), known.table, costs), std::invalid_argument);
    EXPECT_THROW(draft_worth(known.queries, measured(known), known.table, {.steps = {1, 2}}), std::invalid_argument);
}

// A text that repeats itself is drafted by itself, three tokens at a time where five have come again.
TEST(DraftWorth, SuffixesGoFirst) {
    const TraceHeader header{.dim = kWidth, .layer = 1, .width = kWidth, .fingerprint = 1, .tokenizer_hash = 2};
    std::vector<unsigned char> file(sizeof header);
    memcpy(file.data(), &header, sizeof header);
    for (int32_t p = 0; p < 34; ++p) append_trace_step(file, p, p % 10, std::vector<float>(kWidth), 1);
    TraceTape repeated;
    ASSERT_EQ(read_trace(file, &repeated), nullptr);
    const Case c = made(100);
    const DraftMeasure m = measure_drafts(c.store, c.table, std::span(&repeated, 1), 3);
    // Known are 2, and 12 when tokens 0 and 1 have come again; then 14 and 16 by a draft each, and 20, 24, 28, 32 by
    // three; the last two take a step with three drafts.
    const WorthCosts costs{.steps = {1, 1.25, 1.5, 2}, .lookup = 0};
    EXPECT_DOUBLE_EQ(draft_worth(repeated, m, c.table, costs).suffixes, 32 / (10 + 2 * 1.25 + 5 * 2));
}

// A record at the query's own place gives its token; far from all others the mixture is the weight.
TEST(NeighbourText, GivesTheTokensOfTheNearest) {
    const Case c = made(0.01);
    const float* key = c.store.keys + 100 * kStoreDim;
    EXPECT_GT(neighbour_probability(c.store, key, c.store.gate[100], 8, 1), 0.99);
    double sum = 0;
    float middle[kStoreDim];
    for (uint32_t d = 0; d < kStoreDim; ++d) middle[d] = (key[d] + c.store.keys[1000 * kStoreDim + d]) / 2;
    for (int32_t token = 0; token < 30; ++token) sum += neighbour_probability(c.store, middle, token, 16, 10);
    EXPECT_NEAR(sum, 1, 1e-12);
    EXPECT_DOUBLE_EQ(mixed_probability(0.5, 1, 0.25), 0.625);
}

TEST(VelocitySurrogate, ShotsArriveAndStraightOnesMiss) {
    const MetricField field = keel_test::made_up_field(3, 10, 1.0, 6);
    const LeviCivita connection(field);
    const std::vector<double> x = {0.2, -0.4, 0.5}, y = {0.6, 0.1, 0.2};
    const Shot straight = shoot(connection, x.data(), y.data(), 16, 0),
               shot = shoot(connection, x.data(), y.data(), 16, 8);
    EXPECT_GT(straight.miss, 1e-3);
    EXPECT_LT(shot.miss, 1e-9);
    const auto cosine = [&](const std::vector<double>& v) {
        std::vector<double> sum(3);
        const std::vector<double> unit = unit_speed(field, x.data(), shot.velocity.data());
        for (size_t i = 0; i < 3; ++i) sum[i] = unit[i] + v[i];
        return std::pow(g_norm(field, x.data(), sum.data()), 2) / 2 - 1;  // |a + b|^2 = 2 + 2 cos
    };
    EXPECT_NEAR(cosine(unit_speed(field, x.data(), shot.velocity.data())), 1, 1e-12);
    EXPECT_GT(cosine(straight_velocity(field, x.data(), y.data())), 0.8);
    EXPECT_NEAR(g_norm(field, x.data(), bent_velocity(field, connection, x.data(), y.data()).data()), 1, 1e-12);
}

}  // namespace
}  // namespace keel::geodesic
