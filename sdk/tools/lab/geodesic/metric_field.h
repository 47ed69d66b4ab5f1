// A metric that is known at points, between them: g(x) = exp(sum_i p_i(x) log g_i), p_i(x) = w_i / sum w,
// w_i = exp(-|x - x_i|^2 / (2 sigma^2)). Log-Euclidean (Arsigny and others, 2006): g is positive definite everywhere,
// and far from all points it is that of the nearest one.
#pragma once
#include "sdk/tools/lab/geodesic/metric.h"

namespace keel::geodesic {

class MetricField : public Metric {
  public:
    // points: [count][dim]; metrics: [count][dim][dim], symmetric positive definite. sigma: of the weights, in the
    // unit of the points. std::invalid_argument: no point, sizes that do not fit, a metric that is not positive
    // definite, sigma not above 0.
    MetricField(size_t dim, std::vector<double> points, const std::vector<double>& metrics, double sigma);
    size_t dim() const override { return dim_; }
    size_t count() const { return points_.size() / dim_; }
    const double* point(size_t i) const { return points_.data() + i * dim_; }
    double sigma() const { return sigma_; }
    // Exact derivatives: of the weights, and of the exponential by the formula of Daleckii and Krein. In the
    // eigenbasis of A = sum p_i log g_i, with divided differences of exp,
    //     (d exp)_ij  = exp[a_i, a_j] B_ij,                                             B = dA
    //     (d2 exp)_ij = exp[a_i, a_j] (d_l d_m A)_ij
    //                   + sum_k exp[a_i, a_k, a_j] (B^l_ik B^m_kj + B^m_ik B^l_kj)   (Higham, Functions of Matrices, 3)
    void jet(const double* x, int order, MetricJet& out) const override;

  private:
    size_t dim_;
    double sigma_;
    std::vector<double> points_, logs_;  // [count][dim], [count][dim][dim]
};

// Divided differences of exp; equal arguments allowed, and close ones lose no digits.
double exp_difference(double a, double b);
double exp_difference(double a, double b, double c);

// sigma for a field over points: the median distance to the nearest other one. At least 2 points.
double median_nearest_distance(size_t dim, const std::vector<double>& points);

}  // namespace keel::geodesic
