#include "sdk/tools/lab/geodesic/metric.h"

#include <cmath>

namespace keel::geodesic {

double g_norm(const Metric& metric, const double* x, const double* v) {
    MetricJet jet;
    metric.jet(x, 0, jet);
    const size_t n = metric.dim();
    double sum = 0;
    for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < n; ++j) sum += v[i] * jet.g[i * n + j] * v[j];
    return std::sqrt(sum);
}

std::vector<double> unit_speed(const Metric& metric, const double* x, const double* v) {
    const double length = g_norm(metric, x, v);
    std::vector<double> out(v, v + metric.dim());
    for (double& e : out) e /= length;
    return out;
}

// With u = r^2 + |x|^2 and p = 4 r^4 / u^2: dp/dx_m = -4 p x_m / u, d2p/dx_l dx_m = p (24 x_l x_m / u^2 - 4 d_lm / u).
void SphereMetric::jet(const double* x, int order, MetricJet& out) const {
    const size_t n = dim_;
    double u = radius_ * radius_;
    for (size_t i = 0; i < n; ++i) u += x[i] * x[i];
    const double p = 4 * std::pow(radius_, 4) / (u * u);
    const auto diagonal = [n](std::vector<double>& to, size_t first, double value) {
        for (size_t i = 0; i < n; ++i) to[first + i * n + i] = value;
    };
    out.g.assign(n * n, 0);
    diagonal(out.g, 0, p);
    if (order < 1) return;
    out.g_1.assign(n * n * n, 0);
    for (size_t m = 0; m < n; ++m) diagonal(out.g_1, m * n * n, -4 * p * x[m] / u);
    if (order < 2) return;
    out.g_2.assign(n * n * n * n, 0);
    for (size_t l = 0; l < n; ++l)
        for (size_t m = 0; m < n; ++m)
            diagonal(out.g_2, (l * n + m) * n * n, p * (24 * x[l] * x[m] / (u * u) - (l == m ? 4 / u : 0)));
}

}  // namespace keel::geodesic
