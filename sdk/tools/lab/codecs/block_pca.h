// Principal components of a block of rows, as they are stored: mean and directions rounded to f16. Needs Eigen.
#pragma once
#include <stdint.h>

#include <Eigen/Core>

namespace keel::tools {

using RowMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct BlockBasis {
    Eigen::RowVectorXd mean;  // [dim], f16 values
    RowMatrix directions;     // [rank][dim], f16 values, variance descending
    // <row - mean, direction> for every row and direction: [rows][rank].
    RowMatrix coefficients(const RowMatrix& rows) const { return (rows.rowwise() - mean) * directions.transpose(); }
};

// Eigenvectors of the covariance (divided by the number of rows), the largest first: as many as hold `variance_ratio`
// of the trace, at least 1, at most `rank_cap` (0: no cap).
BlockBasis exact_pca(const RowMatrix& rows, double variance_ratio, uint32_t rank_cap);

// The same from a Gaussian sketch with min(rank + 8, dim, rows) columns and two subspace iterations (Halko, Martinsson
// and Tropp). The variance ratio is that within the sketch, as published; at most `rank` directions.
BlockBasis randomized_pca(const RowMatrix& rows, double variance_ratio, uint32_t rank);

}  // namespace keel::tools
