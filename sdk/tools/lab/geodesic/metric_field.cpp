#include "sdk/tools/lab/geodesic/metric_field.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<const Matrix>;
using Eigen::Index;

constexpr double kNoWeight = 1e-17;  // below this share a point changes no bit of the sum

double squared_distance(const double* a, const double* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

void store(const Matrix& m, std::vector<double>& to, size_t first) {
    std::copy(m.data(), m.data() + m.size(), to.begin() + static_cast<ptrdiff_t>(first));
}

}  // namespace

double exp_difference(double a, double b) {
    const double half = (a - b) / 2, square = half * half;
    const double sinhc = std::abs(half) < 0.01 ? 1 + square / 6 * (1 + square / 20) : std::sinh(half) / half;
    return std::exp((a + b) / 2) * sinhc;
}

// Apart, by recursion over the largest distance. Close, by the series about the middle: exp[a, b, c] =
// e^m sum_k h_k / (k + 2)!, h_k the complete homogeneous polynomials of a - m, b - m, c - m.
double exp_difference(double a, double b, double c) {
    double e[3] = {a, b, c};
    std::sort(e, e + 3);
    if (e[2] - e[0] >= 1) return (exp_difference(e[2], e[1]) - exp_difference(e[1], e[0])) / (e[2] - e[0]);
    const double m = (e[0] + e[2]) / 2, x = e[0] - m, y = e[1] - m, z = e[2] - m;
    double power = 1, pair = 1, h = 1, factorial = 2, sum = 0.5;
    for (int k = 1; k <= 18; ++k) {
        power *= x;
        pair = power + y * pair;
        h = pair + z * h;
        factorial *= k + 2;
        sum += h / factorial;
    }
    return std::exp(m) * sum;
}

double median_nearest_distance(size_t dim, const std::vector<double>& points) {
    const size_t count = points.size() / dim;
    std::vector<double> nearest(count, std::numeric_limits<double>::infinity());
    for (size_t i = 0; i < count; ++i)
        for (size_t j = 0; j < count; ++j)
            if (i != j) nearest[i] = std::min(nearest[i], squared_distance(&points[i * dim], &points[j * dim], dim));
    const auto middle = nearest.begin() + static_cast<ptrdiff_t>(count / 2);
    std::nth_element(nearest.begin(), middle, nearest.end());
    return std::sqrt(*middle);
}

MetricField::MetricField(size_t dim, std::vector<double> points, const std::vector<double>& metrics, double sigma)
    : dim_(dim), sigma_(sigma), points_(std::move(points)), logs_(metrics.size()) {
    if (!dim || points_.empty() || points_.size() % dim || metrics.size() != points_.size() * dim || !(sigma > 0))
        throw std::invalid_argument("a metric field needs points, a metric for each, and sigma above 0");
    const Index n = static_cast<Index>(dim);
    for (size_t i = 0; i < count(); ++i) {
        const Eigen::SelfAdjointEigenSolver<Matrix> eigen(Matrix(View(&metrics[i * dim * dim], n, n)));
        if (!(eigen.eigenvalues().minCoeff() > 0)) throw std::invalid_argument("a metric is not positive definite");
        const Matrix& q = eigen.eigenvectors();
        store(q * eigen.eigenvalues().array().log().matrix().asDiagonal() * q.transpose(), logs_, i * dim * dim);
    }
}

// Derivatives of the weights, with s_i = -(x - x_i) / sigma^2 and its mean s over p: dp_i = p_i (s_i - s), and
// d2 p_i = p_i ((s_i - s)(s_i - s)^T - C), C the covariance of the s_i over p; the parts -1 / sigma^2 cancel.
void MetricField::jet(const double* x, int order, MetricJet& out) const {
    const size_t n = dim_, square = n * n;
    const Index size = static_cast<Index>(n);
    std::vector<double> p(count());
    double nearest = std::numeric_limits<double>::infinity(), total = 0;
    for (size_t i = 0; i < p.size(); ++i) nearest = std::min(nearest, p[i] = squared_distance(x, point(i), n));
    for (double& w : p) total += w = std::exp((nearest - w) / (2 * sigma_ * sigma_));
    std::vector<size_t> near;
    for (size_t i = 0; i < p.size(); ++i)
        if ((p[i] /= total) > kNoWeight) near.push_back(i);

    Matrix a = Matrix::Zero(size, size);
    for (const size_t i : near) a += p[i] * View(&logs_[i * square], size, size);
    const Eigen::SelfAdjointEigenSolver<Matrix> eigen(a);
    const Matrix q = eigen.eigenvectors();
    const Eigen::VectorXd& value = eigen.eigenvalues();
    out.g.resize(square);
    store(q * value.array().exp().matrix().asDiagonal() * q.transpose(), out.g, 0);
    if (order < 1) return;

    Matrix slope(static_cast<Index>(near.size()), size);  // s_i - s
    Eigen::VectorXd share(static_cast<Index>(near.size()));
    for (size_t r = 0; r < near.size(); ++r) {
        share[static_cast<Index>(r)] = p[near[r]];
        for (size_t m = 0; m < n; ++m)
            slope(static_cast<Index>(r), static_cast<Index>(m)) = (point(near[r])[m] - x[m]) / (sigma_ * sigma_);
    }
    slope.rowwise() -= (share.transpose() * slope).eval().row(0);
    Matrix first(size, size);
    for (Index i = 0; i < size; ++i)
        for (Index j = 0; j < size; ++j) first(i, j) = exp_difference(value[i], value[j]);
    std::vector<Matrix> b(n);  // of each coordinate, in the eigenbasis
    out.g_1.resize(n * square);
    for (size_t m = 0; m < n; ++m) {
        Matrix d = Matrix::Zero(size, size);
        for (size_t r = 0; r < near.size(); ++r) {
            const Index row = static_cast<Index>(r);
            d += share[row] * slope(row, static_cast<Index>(m)) * View(&logs_[near[r] * square], size, size);
        }
        b[m] = q.transpose() * d * q;
        store(q * first.cwiseProduct(b[m]) * q.transpose(), out.g_1, m * square);
    }
    if (order < 2) return;

    std::vector<double> second(n * square);  // exp[a_i, a_k, a_j]
    for (size_t i = 0; i < n; ++i)
        for (size_t k = 0; k < n; ++k)
            for (size_t j = 0; j < n; ++j)
                second[(i * n + k) * n + j] = exp_difference(value[static_cast<Index>(i)], value[static_cast<Index>(k)],
                                                             value[static_cast<Index>(j)]);
    const Matrix covariance = slope.transpose() * share.asDiagonal() * slope;
    out.g_2.resize(square * square);
    for (size_t l = 0; l < n; ++l)
        for (size_t m = 0; m <= l; ++m) {
            const Index li = static_cast<Index>(l), mi = static_cast<Index>(m);
            Matrix d = Matrix::Zero(size, size);
            for (size_t r = 0; r < near.size(); ++r) {
                const Index row = static_cast<Index>(r);
                d += share[row] * (slope(row, li) * slope(row, mi) - covariance(li, mi)) *
                     View(&logs_[near[r] * square], size, size);
            }
            Matrix inner = first.cwiseProduct(q.transpose() * d * q);
            for (Index i = 0; i < size; ++i)
                for (Index j = 0; j < size; ++j) {
                    double sum = 0;
                    for (Index k = 0; k < size; ++k)
                        sum +=
                            second[(static_cast<size_t>(i) * n + static_cast<size_t>(k)) * n + static_cast<size_t>(j)] *
                            (b[l](i, k) * b[m](k, j) + b[m](i, k) * b[l](k, j));
                    inner(i, j) += sum;
                }
            const Matrix result = q * inner * q.transpose();
            store(result, out.g_2, (l * n + m) * square);
            store(result, out.g_2, (m * n + l) * square);
        }
}

}  // namespace keel::geodesic
