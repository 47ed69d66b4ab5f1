#include "sdk/tools/lab/codecs/block_pca.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>

#include "sdk/tools/common/random_sequence.h"
#include "sdk/tools/lab/codecs/row_bits.h"

namespace keel::tools {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;

constexpr uint64_t kSketchSeed = 0xCAFEBABE ^ 0x9E3779B97F4A7C15;
constexpr Index kOversampling = 8;
constexpr int kSubspaceIterations = 2;

double stored(double x) {
    return through_f16(static_cast<float>(x));
}

// Directions kept of ascending variances: the largest ones that hold the ratio, within [1, cap].
Index kept_directions(const Eigen::VectorXd& ascending, double variance_ratio, Index cap) {
    const Index n = ascending.size();
    double total = 0, held = 0;
    for (Index i = n; i-- > 0;) total += std::max(ascending[i], 0.0);
    Index kept = 0;
    while (kept < n) {
        held += std::max(ascending[n - 1 - kept], 0.0);
        ++kept;
        if (held >= variance_ratio * total) break;
    }
    return std::clamp<Index>(kept, 1, cap);
}

MatrixXd gaussian_sketch(Index rows, Index columns) {
    MatrixXd sketch(rows, columns);
    for (Index i = 0; i < sketch.size(); ++i) sketch.data()[i] = random_normal(kSketchSeed, static_cast<uint64_t>(i));
    return sketch;
}

// Orthonormal columns that span those of m.
MatrixXd orthonormal(const MatrixXd& m) {
    return Eigen::HouseholderQR<MatrixXd>(m).householderQ() *
           MatrixXd::Identity(m.rows(), std::min(m.rows(), m.cols()));
}

BlockBasis stored_basis(const Eigen::RowVectorXd& mean, const RowMatrix& directions) {
    return {mean.unaryExpr(&stored), directions.unaryExpr(&stored)};
}

}  // namespace

BlockBasis exact_pca(const RowMatrix& rows, double variance_ratio, uint32_t rank_cap) {
    const Eigen::RowVectorXd mean = rows.colwise().mean();
    const MatrixXd centred = rows.rowwise() - mean;
    const MatrixXd covariance = centred.transpose() * centred / static_cast<double>(rows.rows());
    const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(covariance);
    const Index dim = rows.cols(), kept = kept_directions(solver.eigenvalues(), variance_ratio,
                                                          rank_cap ? std::min<Index>(rank_cap, dim) : dim);
    return stored_basis(mean, solver.eigenvectors().rightCols(kept).rowwise().reverse().transpose());
}

BlockBasis randomized_pca(const RowMatrix& rows, double variance_ratio, uint32_t rank) {
    const Eigen::RowVectorXd mean = rows.colwise().mean();
    const MatrixXd centred = rows.rowwise() - mean;
    const Index width = std::min({static_cast<Index>(rank) + kOversampling, rows.cols(), rows.rows()});
    MatrixXd range = centred.transpose() * gaussian_sketch(rows.rows(), width);
    for (int i = 0; i < kSubspaceIterations; ++i)
        range = centred.transpose() * orthonormal(centred * orthonormal(range));
    const MatrixXd q = orthonormal(range);
    // Right singular vectors of B = A Q are the eigenvectors of B^T B, squared singular values its eigenvalues.
    const MatrixXd b = centred * q;
    const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(MatrixXd(b.transpose() * b));
    const Index kept = kept_directions(solver.eigenvalues(), variance_ratio, std::min<Index>(rank, width));
    return stored_basis(mean, (q * solver.eigenvectors().rightCols(kept).rowwise().reverse()).transpose());
}

}  // namespace keel::tools
