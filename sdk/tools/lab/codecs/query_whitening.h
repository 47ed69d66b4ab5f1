// Q-preconditioning: rows in coordinates where the mean squared error is the mean squared error of the scores. With the
// query
// covariance S = L L^T of a head, an error E (rows) costs tr(E S E^T) = ||E L||_F^2, so K L is coded, and what is
// decoded is multiplied by L^-1 from the right (L^-T, which some texts give, is wrong for rows).
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::tools {

class QueryWhitening {
  public:
    // `covariance` [heads][dim][dim]. kRidge times the mean of a head's diagonal is added to its diagonal, and the sum
    // is scaled to a mean diagonal of 1: rows keep their size (unscaled, rows of published models left the range of
    // f16). std::invalid_argument when there is no whole number of heads, or a matrix is not positive definite.
    QueryWhitening(std::span<const double> covariance, uint32_t dim);
    static constexpr double kRidge = 1e-3;

    uint32_t heads() const { return heads_; }
    // Row number `index` of a pooled call, head index mod heads, times L; in place.
    void whiten(uint64_t index, std::span<double> row) const;
    // Times L^-1, by substitution; in place.
    void unwhiten(uint64_t index, std::span<double> row) const;
    // Bytes of the triangles of L in f32, which is all that coding and decoding need.
    static uint64_t side_bytes(uint32_t heads, uint32_t dim) { return uint64_t{heads} * dim * (dim + 1) / 2 * 4; }

  private:
    const double* factor(uint64_t index) const { return factors_.data() + index % heads_ * dim_ * dim_; }
    uint32_t dim_, heads_;
    std::vector<double> factors_;  // [heads][dim][dim] lower triangles
};

}  // namespace keel::tools
