// W_proj from weights alone, as published: the eigenvectors of sum_i W_i^T W_i, matrices not normalised against each
// other, span the best common row space of the stacked matrix (Eckart and Young), so a matrix of small norm beside
// large ones is represented badly: V starves beside Q and K. Pt is orthonormal, mean 0, no bias. Sensitivities are not
// used; any matrices of common columns may form the group. Needs Eigen.
#pragma once
#include "sdk/tools/lab/lowrank/nested_factors.h"

namespace keel::tools {

// Pt = V^T, W_proj_i = W_i V, V [columns][max_rank] the first eigenvectors; max_rank at most columns. error: 1 - |W_i
// V_k|_F^2 / |W_i|_F^2. second_moment is 1: nothing is known of x. std::invalid_argument:
// solver_detail::checked_columns; max_rank too large.
NestedFactors weight_pca(const std::vector<SolverSlot>& slots, Eigen::Index max_rank);

}  // namespace keel::tools
