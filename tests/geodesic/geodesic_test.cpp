// Geodesics against great circles, their order and speed, and how far their propagators may be trusted.
#include "sdk/tools/lab/geodesic/geodesic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/geodesic/made_up_field.h"

namespace keel::geodesic {
namespace {

constexpr double kRadius = 1.5;

// The point of the sphere in space that stereographic coordinates x stand for, and where a velocity points there.
std::vector<double> on_sphere(const std::vector<double>& x) {
    const double r2 = kRadius * kRadius;
    double s = 0;
    for (const double e : x) s += e * e;
    std::vector<double> out;
    for (const double e : x) out.push_back(2 * r2 * e / (r2 + s));
    out.push_back(kRadius * (s - r2) / (s + r2));
    return out;
}
std::vector<double> pushed(const std::vector<double>& x, const std::vector<double>& v) {
    constexpr double h = 1e-6;
    std::vector<double> low = x, high = x;
    for (size_t i = 0; i < x.size(); ++i) low[i] -= h * v[i], high[i] += h * v[i];
    low = on_sphere(low), high = on_sphere(high);
    for (size_t i = 0; i < low.size(); ++i) low[i] = (high[i] - low[i]) / (2 * h);
    return low;
}

// Least squares of log error over log step.
double slope(const std::vector<double>& at, const std::vector<double>& error) {
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (size_t i = 0; i < at.size(); ++i) {
        const double lx = std::log(at[i]), ly = std::log(error[i]);
        n += 1, x += lx, y += ly, xx += lx * lx, xy += lx * ly;
    }
    return (n * xy - x * y) / (n * xx - x * x);
}

const std::vector<double> kStart = {0.4, -0.3, 0.8}, kVelocity = {0.5, 1, -0.2};

double distance_to_great_circle(size_t steps) {
    const SphereMetric sphere(3, kRadius);
    const std::vector<double> v = unit_speed(sphere, kStart.data(), kVelocity.data());
    constexpr double kLength = 2;
    const Path path =
        geodesic(LeviCivita(sphere), kStart.data(), v.data(), kLength / static_cast<double>(steps), steps);
    const std::vector<double> a = on_sphere(kStart), b = pushed(kStart, v),
                              end = on_sphere({path.x.end() - 3, path.x.end()});
    double error = 0;
    for (size_t i = 0; i < 4; ++i) {
        const double expected = a[i] * std::cos(kLength / kRadius) + b[i] * kRadius * std::sin(kLength / kRadius);
        error += (end[i] - expected) * (end[i] - expected);
    }
    return std::sqrt(error);
}

TEST(Geodesic, OfASphereIsAGreatCircle) {
    EXPECT_LT(distance_to_great_circle(200), 1e-9);
}

TEST(Geodesic, ErrorFallsWithTheFourthPowerOfTheStep) {
    std::vector<double> step, error;
    for (const size_t steps : {5, 10, 20, 40}) {
        step.push_back(2.0 / static_cast<double>(steps));
        error.push_back(distance_to_great_circle(steps));
    }
    EXPECT_NEAR(slope(step, error), 4, 0.2);
}

TEST(Geodesic, SpeedStays) {
    const SphereMetric sphere(3, kRadius);
    const MetricField field = keel_test::made_up_field(3, 10, 1.0, 6);
    for (const Metric* metric : {static_cast<const Metric*>(&sphere), static_cast<const Metric*>(&field)}) {
        const std::vector<double> v = unit_speed(*metric, kStart.data(), kVelocity.data());
        const Path path = geodesic(LeviCivita(*metric), kStart.data(), v.data(), 0.02, 50);
        double moved = 0;
        for (size_t t = 0; t <= 50; ++t) {
            EXPECT_NEAR(g_norm(*metric, &path.x[t * 3], &path.v[t * 3]), 1, 1e-6);
            moved += std::abs(path.v[t * 3] - v[0]);
        }
        EXPECT_GT(moved, 0.5);  // it is no straight line
    }
}

TEST(Geodesic, FlowIsTheDerivativeOfThePath) {
    const MetricField field = keel_test::made_up_field(3, 10, 1.0, 7);
    const LeviCivita connection(field);
    std::vector<double> x = kStart, v = unit_speed(field, kStart.data(), kVelocity.data());
    constexpr size_t kSteps = 10;
    const Flow flow = geodesic_flow(connection, x.data(), v.data(), 0.1, kSteps);
    constexpr double h = 1e-5;
    for (size_t j = 0; j < 6; ++j) {
        double& start = j < 3 ? x[j] : v[j - 3];
        const double kept = start;
        start = kept - h;
        const Path low = geodesic(connection, x.data(), v.data(), 0.1, kSteps);
        start = kept + h;
        const Path high = geodesic(connection, x.data(), v.data(), 0.1, kSteps);
        start = kept;
        const std::vector<double>& by = j < 3 ? flow.by_x : flow.by_v;
        for (size_t t = 0; t <= kSteps; ++t)
            for (size_t i = 0; i < 3; ++i)
                EXPECT_NEAR(by[(t * 3 + i) * 3 + j % 3], (high.x[t * 3 + i] - low.x[t * 3 + i]) / (2 * h), 1e-8);
    }
}

// Phi of the flow is wrong by the square of the distance, the published one by the distance itself.
TEST(Geodesic, PropagatorErrorsFallAsTheyShould) {
    const SphereMetric sphere(3, kRadius);
    const LeviCivita connection(sphere);
    const std::vector<double> v = unit_speed(sphere, kStart.data(), kVelocity.data());
    constexpr size_t kSteps = 20;
    constexpr double kStep = 0.05;
    const Flow flow = geodesic_flow(connection, kStart.data(), v.data(), kStep, kSteps);
    const std::vector<double> published = published_propagator(connection, flow.path, kStep);
    std::vector<double> at, exact_error, published_error;
    for (const double distance : {0.005, 0.01, 0.02, 0.04, 0.08}) {
        at.push_back(distance);
        const auto error = [&](const std::vector<double>& phi) {
            return propagator_error(sphere, connection, flow, kStep, &phi[kSteps * 9], distance, 12, 8).mean;
        };
        exact_error.push_back(error(flow.by_x));
        published_error.push_back(error(published));
    }
    EXPECT_NEAR(slope(at, exact_error), 2, 0.1);
    EXPECT_NEAR(slope(at, published_error), 1, 0.1);
    const auto radius = [&](const std::vector<double>& phi) {
        return validity_radius(sphere, connection, flow, kStep, &phi[kSteps * 9], at, exact_error[2], 12, 8);
    };
    EXPECT_EQ(radius(flow.by_x), 0.02);
    EXPECT_EQ(radius(published), 0);
}

TEST(Geodesic, CorrectionOfManyIsThatOfEach) {
    const double point[] = {1, 2}, propagator[] = {1, 0.5, -2, 3}, start[] = {10, 20};
    EXPECT_EQ(corrected(point, propagator, start, 2, {10, 20, 11, 20, 10, 22}),
              (std::vector<double>{1, 2, 2, 0, 2, 8}));
}

}  // namespace
}  // namespace keel::geodesic
