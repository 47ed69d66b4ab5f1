// Products of f32 rows by the library's own kernels, which use what the processor has. Needs Eigen.
#pragma once
#include <Eigen/Core>

namespace keel::tools {

using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowsView = Eigen::Ref<const FloatRows, 0, Eigen::OuterStride<>>;

// a b^T. a [m][k], b [n][k] -> [m][n]; each element a dot product of NUMERICS section 1, whatever `threads` is.
FloatRows product_transposed(const RowsView& a, const RowsView& b, uint32_t threads);

// a b. a [m][k], b [k][n] -> [m][n]
FloatRows product(const RowsView& a, const RowsView& b, uint32_t threads);

// a^T b. a [k][m], b [k][n] -> [m][n]
FloatRows product_of_transposed(const RowsView& a, const RowsView& b, uint32_t threads);

}  // namespace keel::tools
