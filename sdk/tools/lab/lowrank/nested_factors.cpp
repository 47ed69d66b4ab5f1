#include "sdk/tools/lab/lowrank/nested_factors.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace keel::tools {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {
constexpr Index kBlockRows = 256;  // of a weight as f64 at a time
}

LowRankFactors NestedFactors::leading(Index rank) const {
    if (rank < 0 || rank > max_rank()) throw std::invalid_argument("rank beyond the solution");
    LowRankFactors factors;
    factors.pt = pt.topRows(rank);
    for (const FloatRows& w : w_proj) factors.w_proj.push_back(w.leftCols(rank));
    return factors;
}

Eigen::VectorXf factor_bias(const WeightView& weight, const FloatRows& pt, const FloatRows& w_proj,
                            const VectorXd& mean) {
    const VectorXd projected = pt.cast<double>() * mean;
    VectorXd bias(weight.rows());
    for (Index r = 0; r < weight.rows(); ++r)
        bias[r] = weight.row(r).cast<double>().dot(mean) - w_proj.row(r).cast<double>().dot(projected);
    return bias.cast<float>();
}

namespace solver_detail {

Index checked_columns(const std::vector<SolverSlot>& slots) {
    if (slots.empty()) throw std::invalid_argument("no weights");
    for (const SolverSlot& slot : slots) {
        if (slot.weight.cols() != slots[0].weight.cols() || !slot.weight.size())
            throw std::invalid_argument("weights of different columns, or empty");
        if (slot.counted && (slot.counted->cols() != slot.weight.cols() || !slot.counted->allFinite()))
            throw std::invalid_argument("counted rows of other columns, or not finite");
        if (!slot.weight.allFinite()) throw std::invalid_argument("a weight that is not finite");
        if (!(std::isfinite(slot.sensitivity) && slot.sensitivity >= 0))
            throw std::invalid_argument("a sensitivity that is negative or not finite");
    }
    return slots[0].weight.cols();
}

MatrixXd projected_gram(const WeightView& weight, const MatrixXd* lower) {
    const Index n = weight.cols();
    MatrixXd gram = MatrixXd::Zero(n, n);
    for (Index r = 0; r < weight.rows(); r += kBlockRows) {
        MatrixXd block = weight.middleRows(r, std::min(kBlockRows, weight.rows() - r)).cast<double>();
        if (lower) block = block * lower->triangularView<Eigen::Lower>();
        gram.selfadjointView<Eigen::Lower>().rankUpdate(block.transpose());
    }
    gram.triangularView<Eigen::StrictlyUpper>() = gram.transpose();
    return gram;
}

void project(const std::vector<SolverSlot>& slots, const MatrixXd& to_factor, const VectorXd& scale,
             const VectorXd& energies, NestedFactors* out) {
    const Index rank = to_factor.cols();
    out->energy = energies;
    out->error = MatrixXd::Zero(static_cast<Index>(slots.size()), rank + 1);
    out->w_proj.clear();
    for (size_t i = 0; i < slots.size(); ++i) {
        const WeightView& weight = slots[i].weight;
        FloatRows factor(weight.rows(), rank);
        VectorXd held = VectorXd::Zero(rank);
        for (Index r = 0; r < weight.rows(); r += kBlockRows) {
            const Index count = std::min(kBlockRows, weight.rows() - r);
            const MatrixXd block = weight.middleRows(r, count).cast<double>() * to_factor;
            if (!slots[i].counted) held += block.colwise().squaredNorm().transpose();
            factor.middleRows(r, count) = (block * scale.asDiagonal()).cast<float>();
        }
        for (Index r = 0; slots[i].counted && r < slots[i].counted->rows(); r += kBlockRows)
            held +=
                (slots[i].counted->middleRows(r, std::min(kBlockRows, slots[i].counted->rows() - r)).cast<double>() *
                 to_factor)
                    .colwise()
                    .squaredNorm()
                    .transpose();
        out->w_proj.push_back(std::move(factor));
        const Index s = static_cast<Index>(i);
        if (!(energies[s] > 0)) continue;
        double left = energies[s];
        out->error(s, 0) = 1;
        for (Index k = 0; k < rank; ++k) {
            if (k >= out->forced) left -= held[k];
            out->error(s, k + 1) = std::max(left, 0.0) / energies[s];
        }
    }
}

}  // namespace solver_detail
}  // namespace keel::tools
