// The log-Euclidean metric field: what it is at points and far away, and its derivatives against differences.
#include "sdk/tools/lab/geodesic/metric_field.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "tests/geodesic/made_up_field.h"

namespace keel::geodesic {
namespace {

TEST(MetricField, DividedDifferencesOfExpAtAnyDistance) {
    EXPECT_DOUBLE_EQ(exp_difference(1, 1), std::exp(1));
    EXPECT_NEAR(exp_difference(2, -1), (std::exp(2) - std::exp(-1)) / 3, 1e-14);
    EXPECT_DOUBLE_EQ(exp_difference(1, 1, 1), std::exp(1) / 2);
    // exp[0, 0, x] = (e^x - 1 - x) / x^2, on both sides of the border between series and recursion.
    for (const double x : {1e-6, 0.1, 0.999999, 1.000001, 5.0, -3.0}) {
        const long double y = x;
        const double exact =
            std::abs(x) < 1e-3 ? 0.5 + x / 6 + x * x / 24 : static_cast<double>((expm1l(y) - y) / (y * y));
        EXPECT_NEAR(exp_difference(0, x, 0) / exact, 1, 1e-13) << x;
        EXPECT_DOUBLE_EQ(exp_difference(0, 0, x), exp_difference(x, 0, 0));
    }
}

TEST(MetricField, IsThatOfThePointWhereNoOtherReaches) {
    const std::vector<double> metrics = {2, 0.5, 0.5, 1, 3, -1, -1, 4};
    const MetricField field(2, {0, 0, 100, 0}, metrics, 1);
    MetricJet jet;
    const double near_first[] = {-500, 3}, near_second[] = {100.5, 1};
    field.jet(near_first, 1, jet);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(jet.g[i], metrics[i], 1e-13);
    for (const double d : jet.g_1) EXPECT_EQ(d, 0);
    field.jet(near_second, 0, jet);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(jet.g[i], metrics[4 + i], 1e-13);
}

// Half way between two commuting metrics lies their geometric mean.
TEST(MetricField, IsTheGeometricMeanHalfWay) {
    const MetricField field(2, {-1, 0, 1, 0}, {1, 0, 0, 4, 9, 0, 0, 16}, 2);
    MetricJet jet;
    const double middle[] = {0, 7};
    field.jet(middle, 0, jet);
    EXPECT_NEAR(jet.g[0], 3, 1e-13);
    EXPECT_NEAR(jet.g[3], 8, 1e-13);
    EXPECT_NEAR(jet.g[1], 0, 1e-13);
}

TEST(MetricField, DerivativesAreThoseOfDifferences) {
    constexpr size_t n = 4, square = n * n;
    const MetricField field = keel_test::made_up_field(n, 12, 0.9, 1);
    Random random(2);
    constexpr double h = 1e-5;
    for (int trial = 0; trial < 4; ++trial) {
        std::vector<double> x(n);
        for (double& e : x) e = random.normal();
        MetricJet here, low, high;
        field.jet(x.data(), 2, here);
        for (size_t m = 0; m < n; ++m) {
            const double kept = x[m];
            x[m] = kept - h;
            field.jet(x.data(), 1, low);
            x[m] = kept + h;
            field.jet(x.data(), 1, high);
            x[m] = kept;
            for (size_t i = 0; i < square; ++i)
                EXPECT_NEAR(here.g_1[m * square + i], (high.g[i] - low.g[i]) / (2 * h), 1e-8);
            for (size_t i = 0; i < n * square; ++i)
                EXPECT_NEAR(here.g_2[m * n * square + i], (high.g_1[i] - low.g_1[i]) / (2 * h), 1e-7);
        }
    }
}

TEST(MetricField, RefusesWhatIsNoField) {
    EXPECT_THROW(MetricField(2, {0, 0}, {1, 2, 2, 1}, 1), std::invalid_argument);  // indefinite
    EXPECT_THROW(MetricField(2, {0, 0}, {1, 0, 0, 1}, 0), std::invalid_argument);
    EXPECT_THROW(MetricField(2, {0, 0, 1}, {1, 0, 0, 1}, 1), std::invalid_argument);
    EXPECT_THROW(MetricField(2, {}, {}, 1), std::invalid_argument);
}

TEST(MetricField, MedianNearestDistance) {
    EXPECT_DOUBLE_EQ(median_nearest_distance(1, {0, 1, 3, 6, 100}), 2);  // 1, 1, 2, 3, 94
}

}  // namespace
}  // namespace keel::geodesic
