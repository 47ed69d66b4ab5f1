#include "sdk/tools/lab/codecs/query_whitening.h"

#include <cmath>
#include <stdexcept>

namespace keel::tools {

QueryWhitening::QueryWhitening(std::span<const double> covariance, uint32_t dim)
    : dim_(dim),
      heads_(static_cast<uint32_t>(covariance.size() / (size_t{dim} * dim))),
      factors_(covariance.begin(), covariance.end()) {
    const size_t n = dim;
    if (heads_ == 0 || covariance.size() != heads_ * n * n)
        throw std::invalid_argument("query covariance of another head_dim");
    for (uint32_t h = 0; h < heads_; ++h) {
        double* const a = factors_.data() + h * n * n;
        double trace = 0;
        for (size_t i = 0; i < n; ++i) trace += a[i * n + i];
        const double mean = trace / static_cast<double>(n), unit = 1 / (mean * (1 + kRidge));
        if (!(mean > 0)) throw std::invalid_argument("query covariance is not positive definite");
        // Cholesky's factorisation, column by column, of the lower triangle.
        for (size_t j = 0; j < n; ++j) {
            for (size_t i = j; i < n; ++i) {
                double sum = (a[i * n + j] + (i == j ? kRidge * mean : 0)) * unit;
                for (size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
                if (i == j && !(sum > 0 && std::isfinite(sum)))
                    throw std::invalid_argument("query covariance is not positive definite");
                a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
            }
        }
    }
    for (double& x : factors_) x = static_cast<float>(x);  // as it is stored
}

void QueryWhitening::whiten(uint64_t index, std::span<double> row) const {
    const double* const l = factor(index);
    for (size_t j = 0; j < dim_; ++j) {  // row[j] is not needed after it has been replaced
        double sum = 0;
        for (size_t i = j; i < dim_; ++i) sum += row[i] * l[i * dim_ + j];
        row[j] = sum;
    }
}

void QueryWhitening::unwhiten(uint64_t index, std::span<double> row) const {
    const double* const l = factor(index);
    for (size_t j = dim_; j-- > 0;) {
        double sum = row[j];
        for (size_t i = j + 1; i < dim_; ++i) sum -= row[i] * l[i * dim_ + j];
        row[j] = sum / l[j * dim_ + j];
    }
}

}  // namespace keel::tools
