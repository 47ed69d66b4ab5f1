// Curvature: the sphere's closed form, and the symmetries that every metric has.
#include "sdk/tools/lab/geodesic/curvature.h"

#include <gtest/gtest.h>

#include "tests/geodesic/made_up_field.h"

namespace keel::geodesic {
namespace {

// All indices down: R_abcd = g_ae R^e_bcd. [a][b][c][d]
std::vector<double> riemann_lowered(const Metric& metric, const double* x) {
    const size_t n = metric.dim(), cube = n * n * n;
    const std::vector<double> up = riemann(LeviCivita(metric), x);
    MetricJet jet;
    metric.jet(x, 0, jet);
    std::vector<double> down(up.size(), 0);
    for (size_t a = 0; a < n; ++a)
        for (size_t e = 0; e < n; ++e)
            for (size_t rest = 0; rest < cube; ++rest) down[a * cube + rest] += jet.g[a * n + e] * up[e * cube + rest];
    return down;
}

// R_abcd = (g_ac g_bd - g_ad g_bc) / r^2.
TEST(Curvature, OfASphereIsThatOfItsRadius) {
    constexpr size_t n = 3;
    const SphereMetric sphere(n, 2.5);
    const double x[] = {0.7, -1.1, 0.4};
    MetricJet jet;
    sphere.jet(x, 0, jet);
    const std::vector<double> r = riemann_lowered(sphere, x);
    const auto g = [&](size_t i, size_t j) { return jet.g[i * n + j]; };
    for (size_t a = 0; a < n; ++a)
        for (size_t b = 0; b < n; ++b)
            for (size_t c = 0; c < n; ++c)
                for (size_t d = 0; d < n; ++d)
                    EXPECT_NEAR(r[((a * n + b) * n + c) * n + d], (g(a, c) * g(b, d) - g(a, d) * g(b, c)) / (2.5 * 2.5),
                                1e-12);
}

TEST(Curvature, HasTheSymmetriesOfRiemannAndBianchi) {
    constexpr size_t n = 4;
    const MetricField field = keel_test::made_up_field(n, 12, 0.9, 3);
    Random random(4);
    double largest = 0;
    for (int trial = 0; trial < 3; ++trial) {
        std::vector<double> x(n);
        for (double& e : x) e = random.normal();
        const std::vector<double> r = riemann_lowered(field, x.data());
        const auto at = [&](size_t a, size_t b, size_t c, size_t d) { return r[((a * n + b) * n + c) * n + d]; };
        for (size_t a = 0; a < n; ++a)
            for (size_t b = 0; b < n; ++b)
                for (size_t c = 0; c < n; ++c)
                    for (size_t d = 0; d < n; ++d) {
                        EXPECT_NEAR(at(a, b, c, d), -at(b, a, c, d), 1e-11);
                        EXPECT_NEAR(at(a, b, c, d), -at(a, b, d, c), 1e-11);
                        EXPECT_NEAR(at(a, b, c, d), at(c, d, a, b), 1e-11);
                        EXPECT_NEAR(at(a, b, c, d) + at(a, c, d, b) + at(a, d, b, c), 0, 1e-11);
                        largest = std::max(largest, std::abs(at(a, b, c, d)));
                    }
    }
    EXPECT_GT(largest, 0.1);  // or the symmetries are those of zeros
}

TEST(Curvature, ChristoffelDerivativesAreThoseOfDifferences) {
    constexpr size_t n = 3, cube = n * n * n;
    const MetricField field = keel_test::made_up_field(n, 10, 0.9, 5);
    const LeviCivita connection(field);
    std::vector<double> x = {0.2, -0.5, 0.9};
    Christoffel here, low, high;
    connection.at(x.data(), 1, here);
    constexpr double h = 1e-5;
    for (size_t m = 0; m < n; ++m) {
        const double kept = x[m];
        x[m] = kept - h;
        connection.at(x.data(), 0, low);
        x[m] = kept + h;
        connection.at(x.data(), 0, high);
        x[m] = kept;
        for (size_t i = 0; i < cube; ++i)
            EXPECT_NEAR(here.gamma_1[m * cube + i], (high.gamma[i] - low.gamma[i]) / (2 * h), 1e-7);
    }
}

}  // namespace
}  // namespace keel::geodesic
