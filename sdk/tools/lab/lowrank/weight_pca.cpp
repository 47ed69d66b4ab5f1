#include "sdk/tools/lab/lowrank/weight_pca.h"

#include <stdexcept>

#include "sdk/tools/lab/quantize/symmetric_top.h"

namespace keel::tools {

NestedFactors weight_pca(const std::vector<SolverSlot>& slots, Eigen::Index max_rank) {
    const Eigen::Index n = solver_detail::checked_columns(slots);
    if (max_rank < 1 || max_rank > n) throw std::invalid_argument("rank outside [1, columns]");
    Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(n, n);
    Eigen::VectorXd energies(static_cast<Eigen::Index>(slots.size()));
    for (size_t i = 0; i < slots.size(); ++i) {
        const Eigen::MatrixXd own = solver_detail::projected_gram(slots[i].weight, nullptr);
        energies[static_cast<Eigen::Index>(i)] = own.trace();
        gram += own;
    }
    const Eigenpairs pairs = top_eigenpairs(gram, max_rank);
    NestedFactors out;
    out.pt = pairs.vectors.transpose().cast<float>();
    out.second_moment = Eigen::VectorXd::Ones(max_rank);
    solver_detail::project(slots, pairs.vectors, out.second_moment, energies, &out);
    return out;
}

}  // namespace keel::tools
