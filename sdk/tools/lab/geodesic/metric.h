// A Riemannian metric in one chart: what curvature, geodesics and Jacobi fields are computed from.
#pragma once
#include <stddef.h>

#include <vector>

namespace keel::geodesic {

// g and its partial derivatives at a point, coordinates of n dimensions, rows first.
struct MetricJet {
    std::vector<double> g;    // [i][j]
    std::vector<double> g_1;  // [m][i][j]: d g_ij / d x_m
    std::vector<double> g_2;  // [l][m][i][j]: d^2 g_ij / d x_l d x_m
};

class Metric {
  public:
    virtual ~Metric() = default;
    virtual size_t dim() const = 0;
    // Fills g, from order 1 on g_1, from order 2 on g_2; the others keep what they had. x: [dim].
    virtual void jet(const double* x, int order, MetricJet& out) const = 0;
};

// sqrt(v^T g v): the length of v by the metric at x.
double g_norm(const Metric& metric, const double* x, const double* v);
// v scaled to g_norm 1.
std::vector<double> unit_speed(const Metric& metric, const double* x, const double* v);

// The sphere of dimension n and radius r by stereographic projection from the north pole: g = 4 r^4 / (r^2 + |x|^2)^2
// times the identity. Its geodesics are great circles, its sectional curvature 1 / r^2 everywhere: the reference of the
// other parts.
class SphereMetric : public Metric {
  public:
    SphereMetric(size_t dim, double radius) : dim_(dim), radius_(radius) {}
    size_t dim() const override { return dim_; }
    void jet(const double* x, int order, MetricJet& out) const override;

  private:
    size_t dim_;
    double radius_;
};

}  // namespace keel::geodesic
