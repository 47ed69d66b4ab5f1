#include "sdk/tools/lab/quantize/symmetric_top.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "sdk/tools/common/random_sequence.h"

namespace keel::tools {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr Index kDenseColumns = 512, kOversampling = 32;
constexpr uint32_t kMinPasses = 2, kMaxPasses = 8;
constexpr double kConverged = 1e-12;
constexpr uint64_t kStartSeed = 0x510e527fade682d1;

MatrixXd gaussian_start(Index rows, Index columns) {
    MatrixXd start(rows, columns);
    for (Index i = 0; i < start.size(); ++i) start.data()[i] = random_normal(kStartSeed, static_cast<uint64_t>(i));
    return start;
}

MatrixXd orthonormal(const MatrixXd& m) {
    return Eigen::HouseholderQR<MatrixXd>(m).householderQ() * MatrixXd::Identity(m.rows(), m.cols());
}

void fix_signs(MatrixXd& vectors) {
    for (Index c = 0; c < vectors.cols(); ++c) {
        Index largest = 0;
        for (Index r = 1; r < vectors.rows(); ++r)
            if (std::abs(vectors(r, c)) > std::abs(vectors(largest, c))) largest = r;
        if (vectors(largest, c) < 0) vectors.col(c) *= -1;
    }
}

double largest_residual(const MatrixXd& product, const Eigenpairs& pairs) {
    if (!pairs.values.size() || !(pairs.values[0] > 0)) return 0;
    return std::sqrt((product - pairs.vectors * pairs.values.asDiagonal()).colwise().squaredNorm().maxCoeff()) /
           pairs.values[0];
}

Eigenpairs dense_pairs(const MatrixXd& matrix, Index k) {
    const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(matrix);
    Eigenpairs pairs;
    pairs.values = solver.eigenvalues().tail(k).reverse();
    pairs.vectors = solver.eigenvectors().rightCols(k).rowwise().reverse();
    pairs.method = EigenMethod::kDense;
    pairs.residual = largest_residual(matrix * pairs.vectors, pairs);
    return pairs;
}

Eigenpairs randomized_pairs(const MatrixXd& matrix, Index k) {
    Eigenpairs pairs;
    pairs.method = EigenMethod::kRandomized;
    pairs.converged = false;
    MatrixXd basis = orthonormal(gaussian_start(matrix.rows(), std::min(k + kOversampling, matrix.rows())));
    double held = 0;
    for (;;) {
        const MatrixXd product = matrix * basis;
        ++pairs.passes;
        const MatrixXd projected = basis.transpose() * product, small = (projected + projected.transpose()) / 2;
        Eigen::SelfAdjointEigenSolver<MatrixXd> ritz(small, Eigen::EigenvaluesOnly);
        const double sum = ritz.eigenvalues().tail(k).sum();
        // The first product belongs to the random start; Ritz values of later ones rise towards the eigenvalues.
        pairs.converged = pairs.passes > kMinPasses && sum - held <= kConverged * std::abs(sum);
        held = sum;
        if (pairs.converged || pairs.passes > kMaxPasses) {
            ritz.compute(small);
            const MatrixXd turn = ritz.eigenvectors().rightCols(k).rowwise().reverse();
            pairs.values = ritz.eigenvalues().tail(k).reverse();
            pairs.vectors = basis * turn;
            pairs.residual = largest_residual(product * turn, pairs);
            --pairs.passes;  // the last product only measured
            return pairs;
        }
        basis = orthonormal(product);
    }
}

}  // namespace

Eigenpairs top_eigenpairs(const MatrixXd& matrix, Index k, EigenMethod method) {
    const Index n = matrix.rows();
    if (matrix.cols() != n || k > n || k < 0) throw std::invalid_argument("top_eigenpairs: shape");
    if (!matrix.allFinite()) throw std::invalid_argument("top_eigenpairs: an entry is not finite");
    if (k == 0) return {VectorXd(0), MatrixXd(n, 0), EigenMethod::kDense};
    const bool dense = method == EigenMethod::kDense ||
                       (method == EigenMethod::kAutomatic && (n <= kDenseColumns || 4 * (k + kOversampling) >= n));
    Eigenpairs pairs = dense ? dense_pairs(matrix, k) : randomized_pairs(matrix, k);
    fix_signs(pairs.vectors);
    return pairs;
}

}  // namespace keel::tools
