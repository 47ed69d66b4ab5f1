#include "sdk/tools/lab/quantize/trellis_gptq.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

// weight and ratio of TrellisFeedback, of a block of columns.
struct BlockFeedback {
    std::vector<float> weight;
    FloatRows ratio;  // [later][earlier]
    BlockFeedback(const FloatRows& upper, Eigen::Index begin, Eigen::Index n) : ratio(FloatRows::Zero(n, n)) {
        for (Eigen::Index j = 0; j < n; ++j) {
            const float u = upper(begin + j, begin + j);
            weight.push_back(1 / (u * u));
            for (Eigen::Index k = j + 1; k < n; ++k) ratio(k, j) = upper(begin + j, begin + k) / u;
        }
        // Only their proportions matter: largest 1.
        const float most = *std::max_element(weight.begin(), weight.end());
        for (float& w : weight) w /= most;
    }
    TrellisFeedback view() const { return {weight.data(), ratio.data(), static_cast<size_t>(ratio.cols())}; }
};

}  // namespace

Eigen::MatrixXd moment_in_coding_order(const Eigen::MatrixXd& hessian) {
    const Eigen::Index n = hessian.rows();
    std::vector<float> identity(static_cast<size_t>(n * n));
    for (Eigen::Index i = 0; i < n; ++i) identity[static_cast<size_t>(i * n + i)] = 1;
    to_coding_order(identity, static_cast<uint64_t>(n));  // row i: unit vector i
    const Eigen::MatrixXd r = Eigen::Map<const FloatRows>(identity.data(), n, n).cast<double>();
    const Eigen::MatrixXd out = r.transpose() * hessian * r;
    return (out + out.transpose()) / 2;
}

std::vector<uint8_t> quantize_trellis(const GptqFactor& factor, uint32_t type, std::span<const float> values,
                                      uint32_t threads) {
    constexpr Eigen::Index kBlock = kernels::kTrellisBlock;
    const uint64_t columns = factor.columns(), row_bytes = kernels::weight_row_bytes(type, columns);
    for (const float v : values)
        if (!std::isfinite(v)) throw std::invalid_argument("a value that is not finite");
    std::vector<float> x(values.begin(), values.end());
    to_coding_order(x, columns);
    const Eigen::Index n = static_cast<Eigen::Index>(columns);
    Eigen::Map<FloatRows> w(x.data(), static_cast<Eigen::Index>(values.size()) / n, n);
    std::vector<uint8_t> out(values.size() / columns * row_bytes);
    for (Eigen::Index begin = 0; begin < n; begin += kBlock) {
        const Eigen::Index rest = n - begin - kBlock;
        const BlockFeedback feedback(factor.upper(), begin, kBlock);
        const TrellisFeedback view = feedback.view();
        const uint64_t at = kernels::weight_row_bytes(type, static_cast<uint64_t>(begin));
        FloatRows errors(w.rows(), kBlock);
        in_parallel(threads, static_cast<size_t>(w.rows()), [&](size_t first, size_t last) {
            TrellisCoder coder(type);
            float value[kBlock];
            for (size_t row = first; row < last; ++row) {
                const Eigen::Index r = static_cast<Eigen::Index>(row);
                const float* const left = w.row(r).data() + begin;
                coder.code(left, &view, out.data() + row * row_bytes + at, value);
                // The errors as the columns of the block have passed them on.
                for (Eigen::Index j = 0; j < kBlock; ++j)
                    errors(r, j) =
                        left[j] - (j ? errors.row(r).head(j).dot(feedback.ratio.row(j).head(j)) : 0.0f) - value[j];
            }
        });
        if (rest == 0) continue;
        for (Eigen::Index j = 0; j < kBlock; ++j) errors.col(j) /= factor.upper()(begin + j, begin + j);
        w.rightCols(rest).noalias() -= errors * factor.upper().block(begin, begin + kBlock, kBlock, rest);
    }
    return out;
}

}  // namespace keel::tools
