// Products of f32 rows: OpenBLAS where the build found it, else Eigen. Their sums round differently, and so do sums of
// OpenBLAS on other processors. Needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>

namespace keel::tools {

using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowsView = Eigen::Ref<const FloatRows, 0, Eigen::OuterStride<>>;

// a b^T. a [m][k], b [n][k] -> [m][n]; here and below the same for any number of threads.
FloatRows product_transposed(const RowsView& a, const RowsView& b, uint32_t threads);

// a b. a [m][k], b [k][n] -> [m][n]
FloatRows product(const RowsView& a, const RowsView& b, uint32_t threads);

// a^T b. a [k][m], b [k][n] -> [m][n]
FloatRows product_of_transposed(const RowsView& a, const RowsView& b, uint32_t threads);

}  // namespace keel::tools
