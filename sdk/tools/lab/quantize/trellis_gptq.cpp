#include "sdk/tools/lab/quantize/trellis_gptq.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// weight and ratio of TrellisFeedback, of a block of columns.
struct BlockFeedback {
    std::vector<float> weight;
    Rows ratio;  // [later][earlier]
    BlockFeedback(const Rows& upper, Eigen::Index begin, Eigen::Index n) : ratio(Rows::Zero(n, n)) {
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

Eigen::MatrixXd rotated_moment(const Eigen::MatrixXd& hessian) {
    const Eigen::Index n = hessian.rows();
    std::vector<float> identity(static_cast<size_t>(n * n));
    for (Eigen::Index i = 0; i < n; ++i) identity[static_cast<size_t>(i * n + i)] = 1;
    rotate_weights(identity, static_cast<uint64_t>(n));  // row i: the rotated unit vector i
    const Eigen::MatrixXd r = Eigen::Map<const Rows>(identity.data(), n, n).cast<double>();
    const Eigen::MatrixXd out = r.transpose() * hessian * r;
    return (out + out.transpose()) / 2;
}

std::vector<uint8_t> quantize_trellis(const GptqFactor& factor, const TrellisCode& code, std::span<const float> values,
                                      uint32_t threads) {
    const uint64_t columns = factor.columns(), row_bytes = trellis_row_bytes(code, columns);
    if (values.size() % columns) throw std::invalid_argument("rows are no whole number of blocks");
    for (const float v : values)
        if (!std::isfinite(v)) throw std::invalid_argument("a value that is not finite");
    std::vector<float> rotated(values.begin(), values.end());
    rotate_weights(rotated, columns);
    const Eigen::Index n = static_cast<Eigen::Index>(columns);
    Eigen::Map<Rows> w(rotated.data(), static_cast<Eigen::Index>(values.size()) / n, n);
    std::vector<uint8_t> out(values.size() / columns * row_bytes);
    for (Eigen::Index begin = 0, at = 0; begin < n; begin += kTrellisBlock) {
        const Eigen::Index count = std::min<Eigen::Index>(kTrellisBlock, n - begin), rest = n - begin - count;
        const BlockFeedback feedback(factor.upper(), begin, count);
        const TrellisFeedback view = feedback.view();
        Eigen::Index bytes = 0;
        Rows errors(w.rows(), count);
        in_parallel(threads, static_cast<size_t>(w.rows()), [&](size_t first, size_t last) {
            TrellisCoder coder(code);
            float value[kTrellisBlock];
            for (size_t row = first; row < last; ++row) {
                const Eigen::Index r = static_cast<Eigen::Index>(row);
                const std::span<const float> x(rotated.data() + row * columns + begin, static_cast<size_t>(count));
                const std::vector<uint8_t> block = coder.code(x, &view, value);
                std::copy(block.begin(), block.end(), out.data() + row * row_bytes + at);
                if (row == 0) bytes = static_cast<Eigen::Index>(block.size());
                // The errors as the columns of the block have passed them on.
                for (Eigen::Index j = 0; j < count; ++j) {
                    const float x_j = x[static_cast<size_t>(j)] -
                                      (j ? errors.row(r).head(j).dot(feedback.ratio.row(j).head(j)) : 0.0f);
                    errors(r, j) = x_j - value[j];
                }
            }
        });
        at += bytes;
        if (rest == 0) continue;
        for (Eigen::Index j = 0; j < count; ++j) errors.col(j) /= factor.upper()(begin + j, begin + j);
        w.rightCols(rest).noalias() -= errors * factor.upper().block(begin, begin + count, count, rest);
    }
    return out;
}

}  // namespace keel::tools
