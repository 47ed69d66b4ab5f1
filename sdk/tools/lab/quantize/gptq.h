// Codes of a matrix chosen for what it computes, not for what it is (GPTQ, also known as LDLQ; Frantar et al. 2022,
// Chee et al. 2023): with H the second moment of what the rows multiply, the sum over rows of (w' - w) H (w' - w)^T is
// small where the columns, one by one, take over what their predecessors' rounding left:
//     U^T U = (H + damping)^-1, U upper triangular;  e = (w_j - q_j) / U_jj;  w_k -= e U_jk for all later k
// Scales are fixed before, from the unchanged row (static groups), so columns may come in any order and the file knows
// nothing of it. Needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>
#include <functional>
#include <span>
#include <vector>

#include "sdk/tools/lab/quantize/fast_product.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {

struct GptqOptions {
    double damping = 0.01;         // of the mean diagonal, added to it; ten times more each time it is not enough
    bool activation_order = true;  // columns of larger H_jj first; else in their own order
    uint32_t sweeps = 2;           // afterwards: every column again at its best beside all others
    uint32_t threads = 1;
};

// The factor of one H, for all matrices that multiply the same.
class GptqFactor {
  public:
    // hessian [columns][columns], symmetric, >= 0. std::invalid_argument: not square, or a number that is not finite.
    GptqFactor(const Eigen::MatrixXd& hessian, const GptqOptions& options);

    uint64_t columns() const { return static_cast<uint64_t>(hessian_.rows()); }
    double damping() const { return damping_; }  // what was added to the diagonal
    // U [columns][columns], in the order of columns that was chosen.
    const FloatRows& upper() const { return upper_; }
    // sum over rows of e H e^T, without damping. error [rows][columns]
    double loss(std::span<const float> error) const;

    // values [rows][columns] -> rows of `type`. Types without codes are rounded, which is the best for them.
    // std::invalid_argument as quantize_rows.
    std::vector<uint8_t> quantize(uint32_t type, std::span<const float> values) const;
    // The same beside other scales than quantize_rows': grid_of a row has codes of `type`.
    using GridOfRow = std::function<RowGrid(std::span<const float> row)>;
    std::vector<uint8_t> quantize(uint32_t type, std::span<const float> values, const GridOfRow& grid_of) const;

  private:
    void quantize_part(uint32_t type, std::span<const float> values, const GridOfRow& grid_of, uint8_t* out) const;

    GptqOptions options_;
    FloatRows hessian_;  // damped, as given
    double damping_ = 0;
    std::vector<uint32_t> order_;    // of columns
    FloatRows upper_;                // U, in that order
    std::vector<float> importance_;  // of columns: 1 / U_jj^2, the loss of a rounding that later columns take over
};

}  // namespace keel::tools
