#include "sdk/tools/lab/geodesic/curvature.h"

#include <Eigen/Cholesky>

namespace keel::geodesic {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigen::Index;

Matrix inverse_of(const std::vector<double>& g, size_t dim) {
    const Index n = static_cast<Index>(dim);
    return Eigen::Map<const Matrix>(g.data(), n, n).llt().solve(Matrix::Identity(n, n));
}

}  // namespace

// With S_lij = d_i g_jl + d_j g_il - d_l g_ij: Gamma^k_ij = g^kl S_lij / 2, and since the inverse's derivative is
// -g^-1 dg g^-1, d_m Gamma^k_ij = g^kl (d_m S_lij / 2 - d_m g_lp Gamma^p_ij).
void LeviCivita::at(const double* x, int order, Christoffel& out) const {
    const size_t n = dim(), square = n * n, cube = square * n;
    MetricJet jet;
    metric_.jet(x, order + 1, jet);
    const Matrix inverse = inverse_of(jet.g, n);
    const auto raise = [&](const std::vector<double>& low, double* high) {
        for (size_t k = 0; k < n; ++k)
            for (size_t ij = 0; ij < square; ++ij) {
                double sum = 0;
                for (size_t l = 0; l < n; ++l)
                    sum += inverse(static_cast<Index>(k), static_cast<Index>(l)) * low[l * square + ij];
                high[k * square + ij] = sum;
            }
    };
    std::vector<double> low(cube);
    const auto half_sum = [&](const double* d) {  // d: [m][i][j], derivatives of g or of one of its derivatives
        for (size_t l = 0; l < n; ++l)
            for (size_t i = 0; i < n; ++i)
                for (size_t j = 0; j < n; ++j)
                    low[(l * n + i) * n + j] =
                        (d[(i * n + j) * n + l] + d[(j * n + i) * n + l] - d[(l * n + i) * n + j]) / 2;
    };
    out.gamma.resize(cube);
    half_sum(jet.g_1.data());
    raise(low, out.gamma.data());
    if (order < 1) return;
    out.gamma_1.resize(n * cube);
    for (size_t m = 0; m < n; ++m) {
        half_sum(&jet.g_2[m * cube]);
        for (size_t l = 0; l < n; ++l)
            for (size_t p = 0; p < n; ++p)
                for (size_t ij = 0; ij < square; ++ij)
                    low[l * square + ij] -= jet.g_1[(m * n + l) * n + p] * out.gamma[p * square + ij];
        raise(low, &out.gamma_1[m * cube]);
    }
}

std::vector<double> riemann(const Connection& connection, const double* x) {
    const size_t n = connection.dim();
    Christoffel c;
    connection.at(x, 1, c);
    const auto gamma = [&](size_t k, size_t i, size_t j) { return c.gamma[(k * n + i) * n + j]; };
    const auto slope = [&](size_t m, size_t k, size_t i, size_t j) { return c.gamma_1[((m * n + k) * n + i) * n + j]; };
    std::vector<double> r(n * n * n * n);
    for (size_t a = 0; a < n; ++a)
        for (size_t b = 0; b < n; ++b)
            for (size_t k = 0; k < n; ++k)
                for (size_t d = 0; d < n; ++d) {
                    double sum = slope(k, a, b, d) - slope(d, a, b, k);
                    for (size_t e = 0; e < n; ++e)
                        sum += gamma(a, k, e) * gamma(e, b, d) - gamma(a, d, e) * gamma(e, b, k);
                    r[((a * n + b) * n + k) * n + d] = sum;
                }
    return r;
}

}  // namespace keel::geodesic
