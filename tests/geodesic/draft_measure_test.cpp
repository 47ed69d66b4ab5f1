// What the laboratory says of drafts: counted by hand on texts that are known.
#include "sdk/tools/lab/geodesic/draft_measure.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>

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
};
Case made(double noise, uint32_t waypoints = 0) {
    Case c;
    c.store_tape = tape(200, 1, noise), c.query_tape = tape(30, 2, noise);
    EXPECT_EQ(read_trace(c.store_tape, &c.tapes), nullptr);
    EXPECT_EQ(read_trace(c.query_tape, &c.queries), nullptr);
    c.file = build_store(std::span(&c.tapes, 1), {.waypoints = waypoints, .rank = 1});
    EXPECT_EQ(read_store(c.file, {1, 2, 30}, &c.store), nullptr);
    return c;
}

double share(const DrafterScore& score) {
    return static_cast<double>(score.right) / static_cast<double>(score.drafted);
}

TEST(DraftMeasure, TwoTokensAndStatesThatKnowAllAreRightAndChanceIsNot) {
    const Case c = made(0.01, 1);
    const DraftMeasure m = measure_drafts(c.store, std::span(&c.tapes, 1), std::span(&c.queries, 1), 3);
    EXPECT_EQ(m.steps, 300u);
    EXPECT_EQ(m.store_records, 2000u);
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
    const DraftMeasure m = measure_drafts(c.store, std::span(&c.tapes, 1), std::span(&c.queries, 1), 3);
    EXPECT_EQ(share(m.drafters[1]), 1);
    for (const size_t lost : {2, 3, 5, 8}) EXPECT_NEAR(share(m.drafters[lost]), 0.25, 0.1) << m.drafters[lost].name;
}

TEST(DraftMeasure, TheTableSaysWhatFollowedMostOften) {
    TwoTokenTable table;
    for (const int32_t next : {7, 5, 7, 5, 3}) table.count(1, 2, next);
    for (int i = 0; i < 4; ++i) table.count(9, 2, 8);
    table.settle();
    EXPECT_EQ(table.after(1, 2), 5);  // as often as 7
    EXPECT_EQ(table.after(9, 2), 8);
    EXPECT_EQ(table.after(2), 8);
    EXPECT_EQ(table.after(4, 2), -1);
    EXPECT_EQ(table.after(3), -1);
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
