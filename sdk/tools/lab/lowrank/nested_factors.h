// Low-rank factors of all ranks at once: solutions whose first k directions are the solution of rank k. Needs Eigen.
//
//     y_i = W_i x   is approximated by   W_proj_i (Pt x) + bias_i
//     W_i [rows_i][columns], Pt [k][columns], W_proj_i [rows_i][k]
#pragma once
#include <stdint.h>

#include <Eigen/Core>
#include <optional>
#include <vector>

#include "sdk/tools/lab/lowrank/activation_moments.h"

namespace keel::tools {

using WeightView = Eigen::Map<const FloatRows>;  // [rows][columns], the caller's memory

// One of the matrices that multiply the same x.
struct SolverSlot {
    WeightView weight;
    double sensitivity = 1;  // what a relative output error of this slot costs, against the others
    // G W [any][columns]: errors of the output are counted as |G (y - y')|^2 instead of |y - y'|^2. The whitened solver
    // only.
    std::optional<WeightView> counted = {};
    const WeightView& counted_rows() const { return counted ? *counted : weight; }
};

struct LowRankFactors {
    FloatRows pt;                   // [rank][columns]
    std::vector<FloatRows> w_proj;  // by slot: [rows][rank]
};

struct NestedFactors {
    // Directions in order of what they contribute, forced ones first. Rows of Pt have norm 1; where nothing is left to
    // represent they are 0, and so are their columns of W_proj.
    FloatRows pt;                   // [max_rank][columns]
    std::vector<FloatRows> w_proj;  // by slot: [rows][max_rank]
    // Relative squared output error left at each rank, [slot][max_rank + 1], never rising, 1 at rank 0: 1 -
    // |W_proj_k|^2 / |W|^2 in the metric of the solver. 0 where the slot has no output energy.
    Eigen::MatrixXd error;
    Eigen::VectorXd energy;  // [slot]: the denominator, tr(W S W^T) without what forced directions hold, or |W|_F^2
    Eigen::VectorXd second_moment;  // [max_rank]: of an element of Pt x, or Pt (x - m) where the solution is centred
    Eigen::Index forced = 0;        // directions of massive activations among them

    Eigen::Index max_rank() const { return pt.rows(); }
    Eigen::Index columns() const { return pt.cols(); }
    // The first `rank` directions. std::invalid_argument for more than there are.
    LowRankFactors leading(Eigen::Index rank) const;
};

// What a constant part m of x adds: bias = W m - W_proj (Pt m), [rows]. With factors as they will be read (decoded),
// the error is that of x - m alone.
Eigen::VectorXf factor_bias(const WeightView& weight, const FloatRows& pt, const FloatRows& w_proj,
                            const Eigen::VectorXd& mean);

namespace solver_detail {
// `slots` share their columns, have rows, are finite and have sensitivities that are finite and >= 0; else
// std::invalid_argument. Returns columns.
Eigen::Index checked_columns(const std::vector<SolverSlot>& slots);
// sum (W T)^T (W T) for a slot, T lower triangular [columns][columns] or null for the identity: [columns][columns],
// both triangles.
Eigen::MatrixXd projected_gram(const WeightView& weight, const Eigen::MatrixXd* lower);
// Fills w_proj = W to_factor diag(scale), error and energy of `out`. to_factor [columns][max_rank]; |W_i to_factor_j|^2
// is what direction j holds of energies[i], but for the first out->forced.
void project(const std::vector<SolverSlot>& slots, const Eigen::MatrixXd& to_factor, const Eigen::VectorXd& scale,
             const Eigen::VectorXd& energies, NestedFactors* out);
}  // namespace solver_detail

}  // namespace keel::tools
