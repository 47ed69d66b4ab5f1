// W_proj that is best for the activations: of all Pt [k][n] and W_proj_i, those that minimise
//     sum_i alpha_i E|W_i (x - m) - W_proj_i Pt (x - m)|^2,      alpha_i = sensitivity_i / tr(W_i S W_i^T)
// with m and S mean and centred covariance of x. With S = L L^T it is the truncated SVD of the stacked sqrt(alpha_i)
// W_i L, whose right singular vectors V are the eigenvectors of M = L^T (sum_i alpha_i W_i^T W_i) L:
//     Pt = V_k^T L^-1,   W_proj_i = W_i L V_k,
// (with counted rows G_i W_i in the place of W_i everywhere but in W_proj_i), then rows of Pt are scaled to norm 1 and
// columns of W_proj against them. With S = 1 and alpha = 1 this is weight PCA. Needs Eigen.
//
// A ridge of 1e-5 of the mean diagonal keeps S regular, so Pt is defined where calibration saw nothing. An S of zeros
// is taken as 1.
#pragma once
#include "sdk/tools/lab/lowrank/nested_factors.h"
#include "sdk/tools/lab/quantize/symmetric_top.h"

namespace keel::tools {

struct WhitenedOptions {
    Eigen::Index max_rank = 0;  // at most columns
    bool normalise = true;      // false: alpha_i = sensitivity_i
    double ridge = 1e-5;        // of tr(S) / n
    // Directions d [any][columns], in the coordinates of x - m, with W_i d = W_proj_i (Pt d) exactly (but for
    // rounding): they come first, as L^-1 d made orthonormal, and V goes on with the eigenvectors of M deflated by
    // them. What they hold is no part of energies, so a few huge tokens do not make the errors of all others look
    // small. Dependent and zero ones are left out.
    FloatRows forced;
    EigenMethod method = EigenMethod::kAutomatic;
};

// The bias is factor_bias() of the factors as stored. error and energy are those of x - m, ridge included.
// std::invalid_argument: solver_detail::checked_columns; shapes; S not finite or not positive semidefinite; more forced
// directions than max_rank.
NestedFactors whitened(const std::vector<SolverSlot>& slots, const Eigen::MatrixXd& covariance,
                       const WhitenedOptions& options);

}  // namespace keel::tools
