#include <gtest/gtest.h>
#include <math.h>

#include <random>

#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/stream_bandwidth.h"

using namespace keel::tools;

TEST(ToolStatistics, PercentileIsNearestRank) {
    // The textbook example of the nearest-rank method: 15, 20, 35, 40, 50.
    const std::vector<double> samples = {35, 20, 15, 50, 40};
    EXPECT_EQ(percentile(samples, 0.05), 15);
    EXPECT_EQ(percentile(samples, 0.30), 20);
    EXPECT_EQ(percentile(samples, 0.40), 20);
    EXPECT_EQ(percentile(samples, 0.50), 35);
    EXPECT_EQ(percentile(samples, 1.00), 50);
    EXPECT_EQ(percentile(samples, 0), 15);
    EXPECT_EQ(percentile({}, 0.5), 0);
}

TEST(ToolStatistics, SpreadOfOddAndEvenCounts) {
    EXPECT_EQ(spread_of({3, 1, 2}).median, 2);
    const Spread even = spread_of({4, 1, 3, 2});
    EXPECT_EQ(even.median, 2.5);
    EXPECT_EQ(even.lowest, 1);
    EXPECT_EQ(even.highest, 4);
}

TEST(ToolStatistics, HistogramCountsEverySampleBetweenTheEdgesOfItsBin) {
    const std::vector<double> samples = {1, 1.5, 2, 3.9, 4.1, 1000, 0, NAN};
    const std::vector<HistogramBin> octaves = histogram_of(samples, 1);
    ASSERT_EQ(octaves.size(), 4u);
    const double low[] = {1, 2, 4, 512};
    const uint64_t count[] = {2, 2, 1, 1};
    for (size_t i = 0; i < octaves.size(); ++i) {
        EXPECT_EQ(octaves[i].low, low[i]);
        EXPECT_EQ(octaves[i].count, count[i]);
    }
    EXPECT_EQ(histogram_of({100, 101, 103}, 64).size(), 3u);  // 1 % apart is told apart
    EXPECT_TRUE(histogram_of({}, 8).empty());
}

TEST(ToolStatistics, LogSumExpNeitherOverflowsNorLosesSmallTerms) {
    const float large[] = {1000, 1000};
    EXPECT_NEAR(log_sum_exp(large), 1000 + log(2.0), 1e-9);
    const float low[] = {-1000, -1001};
    EXPECT_NEAR(log_sum_exp(low), -1000 + log1p(exp(-1.0)), 1e-9);
    const std::vector<float> uniform(4096, 0.0f);
    EXPECT_NEAR(log_sum_exp(uniform), log(4096.0), 1e-12);
    const float with_nan[] = {0, NAN};
    EXPECT_TRUE(isnan(log_sum_exp(with_nan)));
    const float forbidden[] = {-INFINITY, 0};
    EXPECT_EQ(log_sum_exp(forbidden), 0);
}

TEST(ToolStatistics, StudentsPointsAreThoseOfTheTables) {
    const std::pair<size_t, double> points[] = {{1, 12.706}, {2, 4.303}, {3, 3.182},  {4, 2.776},
                                                {5, 2.571},  {9, 2.262}, {30, 2.042}, {1000, 1.962}};
    for (const auto& [degrees, t] : points) EXPECT_NEAR(student_t_975(degrees), t, 0.002 * t) << degrees;
}

TEST(ToolStatistics, IntervalOfManyUnitsIsTheNormalOne) {
    // 400 units of 10 tokens whose means alternate between 2 and 4: mean 3, standard error 1 / sqrt(400).
    std::vector<ScoredUnit> units;
    for (int i = 0; i < 400; ++i) units.push_back({i % 2 ? 20.0 : 40.0, 10});
    const Interval interval = mean_nll_interval(units);
    EXPECT_NEAR(interval.low, 3 - 1.96 / 20, 0.001);
    EXPECT_NEAR(interval.high, 3 + 1.96 / 20, 0.001);
}

TEST(ToolStatistics, IntervalWeighsUnitsByTheirTokens) {
    // A short unit with a bad mean hardly moves the interval; counted like the others it would move it by 8 / 21.
    std::vector<ScoredUnit> units(20, {1000, 1000});
    units.push_back({9, 1});
    const Interval interval = mean_nll_interval(units);
    EXPECT_NEAR(interval.low, 1, 0.001);
    EXPECT_LT(interval.high, 1.01);
    const Interval single = mean_nll_interval(std::vector<ScoredUnit>{{6, 3}});
    EXPECT_EQ(single.low, 2);
    EXPECT_EQ(single.high, 2);
}

// How often an interval holds the mean that units were drawn around: skewed losses of sources of unequal length, each
// in two documents that share most of their deviation.
TEST(ToolStatistics, IntervalsCoverWhatTheySay) {
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    std::uniform_int_distribution<uint64_t> length(200, 400);
    for (const uint32_t sources : {2u, 4u, 8u, 24u}) {
        int held = 0, held_apart = 0;
        constexpr int kTrials = 2000;
        for (int trial = 0; trial < kTrials; ++trial) {
            std::vector<ScoredUnit> units;
            for (uint32_t s = 0; s < sources; ++s) {
                const double shared = exp(0.5 * normal(random));  // mean exp(1/8)
                for (int document = 0; document < 2; ++document) {
                    const uint64_t tokens = length(random);
                    units.push_back({(shared + 0.1 * normal(random)) * static_cast<double>(tokens), tokens, s});
                }
            }
            const double mean = exp(0.125);
            const Interval interval = mean_nll_interval(units);
            held += interval.low <= mean && mean <= interval.high;
            for (ScoredUnit& unit : units) unit.source = kOwnSource;
            const Interval apart = mean_nll_interval(units);
            held_apart += apart.low <= mean && mean <= apart.high;
        }
        EXPECT_GT(held, 0.90 * kTrials) << sources;  // the skew costs some of the 95 %
        EXPECT_LT(held, 0.98 * kTrials) << sources;
        EXPECT_LT(held_apart, 0.88 * kTrials) << sources;  // documents of one source are not independent
    }
}

TEST(ToolStatistics, StreamReadsTheWorkingSetItReports) {
    const StreamBandwidth stream = measure_stream(1 << 20, 2, 3);
    EXPECT_EQ(stream.bytes, 1u << 20);
    ASSERT_EQ(stream.gb_per_s.size(), 3u);
    for (const double rate : stream.gb_per_s) EXPECT_GT(rate, 0);
    EXPECT_GE(last_level_cache_bytes(), 1u << 15);
}
