// Trellis codes of a matrix chosen for what it computes: the search of trellis_search.h in place of the rounding of
// gptq.h (QTIP, Tseng et al. 2024, codes tiles of 16 x 16 between passing errors on; here every path of the search
// passes its own errors on, column by column). Needs Eigen.
#pragma once
#include "sdk/tools/lab/quantize/gptq.h"
#include "sdk/tools/lab/quantize/trellis_code.h"

namespace keel::tools {

// The second moment of inputs in the order of coding (trellis_code.h), which is that of rows and columns here.
Eigen::MatrixXd moment_in_coding_order(const Eigen::MatrixXd& hessian);

// values [rows][columns], as they are -> rows of weight_row_bytes(type, columns). factor: of the moment in the order of
// coding, columns in their own order. Blocks of a row one after the other, each beside what the blocks before left it.
// std::invalid_argument as encode_trellis.
std::vector<uint8_t> quantize_trellis(const GptqFactor& factor, uint32_t type, std::span<const float> values,
                                      uint32_t threads);

}  // namespace keel::tools
