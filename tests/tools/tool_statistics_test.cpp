#include <gtest/gtest.h>
#include <math.h>

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

TEST(ToolStatistics, BootstrapMatchesTheNormalApproximation) {
    // 400 units of 10 tokens whose means alternate between 2 and 4: mean 3, standard error 1 / sqrt(400).
    std::vector<ScoredUnit> units;
    for (int i = 0; i < 400; ++i) units.push_back({i % 2 ? 20.0 : 40.0, 10});
    const Interval interval = bootstrap_mean_nll(units);
    EXPECT_NEAR(interval.low, 3 - 1.96 / 20, 0.012);
    EXPECT_NEAR(interval.high, 3 + 1.96 / 20, 0.012);
    const Interval again = bootstrap_mean_nll(units);
    EXPECT_EQ(interval.low, again.low);
    EXPECT_EQ(interval.high, again.high);
}

TEST(ToolStatistics, BootstrapWeighsUnitsByTheirTokens) {
    // A short unit with a bad mean hardly moves the interval; counted like the others it would move it by 8 / 21.
    std::vector<ScoredUnit> units(20, {1000, 1000});
    units.push_back({9, 1});
    const Interval interval = bootstrap_mean_nll(units);
    EXPECT_GE(interval.low, 1);
    EXPECT_LT(interval.high, 1.01);
    const Interval single = bootstrap_mean_nll(std::vector<ScoredUnit>{{6, 3}});
    EXPECT_EQ(single.low, 2);
    EXPECT_EQ(single.high, 2);
}

TEST(ToolStatistics, StreamReadsTheWorkingSetItReports) {
    const StreamBandwidth stream = measure_stream(1 << 20, 2, 3);
    EXPECT_EQ(stream.bytes, 1u << 20);
    ASSERT_EQ(stream.gb_per_s.size(), 3u);
    for (const double rate : stream.gb_per_s) EXPECT_GT(rate, 0);
    EXPECT_GE(last_level_cache_bytes(), 1u << 15);
}
