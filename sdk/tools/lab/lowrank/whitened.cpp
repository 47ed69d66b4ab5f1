#include "sdk/tools/lab/lowrank/whitened.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace keel::tools {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kDependent = 1e-6;     // of a direction left after the others are taken out
constexpr double kNothingLeft = 1e-14;  // of an eigenvalue against the trace

// L of S + ridge, [n][n]; the strictly upper triangle is zeros.
MatrixXd whitening_factor(const MatrixXd& covariance, double ridge) {
    const Index n = covariance.rows();
    const double mean_diagonal = covariance.trace() / static_cast<double>(n);
    if (covariance.isZero(0)) return MatrixXd::Identity(n, n);
    MatrixXd lower = covariance;
    lower.diagonal().array() += ridge * mean_diagonal;
    Eigen::LLT<Eigen::Ref<MatrixXd>> cholesky(lower);  // in place
    if (cholesky.info() != Eigen::Success)
        throw std::invalid_argument("a covariance that is not positive semidefinite");
    lower.triangularView<Eigen::StrictlyUpper>().setZero();
    return lower;
}

// Orthonormal columns that span L^-1 of the rows, in their order; twice orthogonalised.
MatrixXd whitened_directions(const MatrixXd& lower, const FloatRows& rows) {
    MatrixXd directions(lower.rows(), rows.rows());
    Index count = 0;
    for (Index i = 0; i < rows.rows(); ++i) {
        VectorXd d = lower.triangularView<Eigen::Lower>().solve(rows.row(i).transpose().cast<double>());
        if (!(d.norm() > 0)) continue;
        d.normalize();
        for (int pass = 0; pass < 2; ++pass)
            d -= directions.leftCols(count) * (directions.leftCols(count).transpose() * d);
        if (d.norm() <= kDependent) continue;
        directions.col(count++) = d.normalized();
    }
    return directions.leftCols(count);
}

// G <- (1 - Q Q^T) G (1 - Q Q^T)
void deflate(MatrixXd& g, const MatrixXd& q) {
    if (!q.cols()) return;
    g -= q * (q.transpose() * g).eval();
    g -= (g * q).eval() * q.transpose();
    g = ((g + g.transpose()) / 2).eval();
}

}  // namespace

NestedFactors whitened(const std::vector<SolverSlot>& slots, const MatrixXd& covariance,
                       const WhitenedOptions& options) {
    const Index n = solver_detail::checked_columns(slots);
    if (covariance.rows() != n || covariance.cols() != n || (options.forced.rows() && options.forced.cols() != n))
        throw std::invalid_argument("weights and moments of different columns");
    if (!covariance.allFinite() || !options.forced.allFinite())
        throw std::invalid_argument("moments that are not finite");
    if (options.max_rank < 1 || options.max_rank > n || !(options.ridge >= 0))
        throw std::invalid_argument("rank outside [1, columns], or a negative ridge");

    const MatrixXd lower = whitening_factor(covariance, options.ridge),
                   forced = whitened_directions(lower, options.forced);
    if (forced.cols() > options.max_rank) throw std::invalid_argument("more forced directions than ranks");
    MatrixXd m = MatrixXd::Zero(n, n);
    VectorXd energies(static_cast<Index>(slots.size()));
    for (size_t i = 0; i < slots.size(); ++i) {
        MatrixXd own = solver_detail::projected_gram(slots[i].counted_rows(), &lower);
        deflate(own, forced);
        const double energy = energies[static_cast<Index>(i)] = std::max(own.trace(), 0.0);
        const double alpha = !options.normalise ? slots[i].sensitivity : energy > 0 ? slots[i].sensitivity / energy : 0;
        m += alpha * own;
    }
    const double trace = m.trace();

    const Eigenpairs pairs = top_eigenpairs(m, options.max_rank - forced.cols(), options.method);

    NestedFactors out;
    out.forced = forced.cols();

    MatrixXd v = MatrixXd::Zero(n, options.max_rank);
    v.leftCols(forced.cols()) = forced;
    for (Index k = 0; k < pairs.values.size() && pairs.values[k] > kNothingLeft * trace; ++k)
        v.col(forced.cols() + k) = pairs.vectors.col(k);
    const MatrixXd rows =
        lower.transpose().triangularView<Eigen::Upper>().solve(v);  // columns are rows of Pt, unscaled
    const VectorXd norms = rows.colwise().norm();
    VectorXd inverse = VectorXd::Zero(norms.size());
    for (Index k = 0; k < norms.size(); ++k)
        if (norms[k] > 0) inverse[k] = 1 / norms[k];
    out.pt = (rows * inverse.asDiagonal()).transpose().cast<float>();
    out.second_moment = inverse.array().square();  // V^T L^-1 S L^-T V = 1
    solver_detail::project(slots, lower.triangularView<Eigen::Lower>() * v, norms, energies, &out);
    return out;
}

}  // namespace keel::tools
