#include "sdk/tools/lab/quantize/gptq.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "kernels/formats/weight_types.h"
#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

constexpr Eigen::Index kBlock = 128;  // columns whose errors are passed on together
constexpr size_t kRowsAtATime = 64;
constexpr int kMostDampings = 8;

}  // namespace

GptqFactor::GptqFactor(const Eigen::MatrixXd& hessian, const GptqOptions& options) : options_(options) {
    const Eigen::Index n = hessian.rows();
    if (n == 0 || hessian.cols() != n || !hessian.allFinite())
        throw std::invalid_argument("a second moment that is not square or not finite");
    Eigen::MatrixXd h = hessian;
    // What never occurs costs nothing, whatever its weights become; alone it would make H singular.
    const double mean = h.diagonal().mean() > 0 ? h.diagonal().mean() : 1;
    for (Eigen::Index j = 0; j < n; ++j)
        if (!(h(j, j) > 0)) h(j, j) = mean;
    order_.resize(static_cast<size_t>(n));
    std::iota(order_.begin(), order_.end(), 0u);
    if (options.activation_order)
        std::stable_sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) { return h(a, a) > h(b, b); });
    Eigen::MatrixXd ordered(n, n);
    for (Eigen::Index i = 0; i < n; ++i)
        for (Eigen::Index j = 0; j < n; ++j)
            ordered(i, j) = h(order_[static_cast<size_t>(i)], order_[static_cast<size_t>(j)]);
    damping_ = options.damping * mean;
    for (int attempt = 0;; ++attempt) {
        Eigen::MatrixXd damped = ordered;
        damped.diagonal().array() += damping_;
        // Factored from the last column to the first, damped = V V^T with V upper triangular, and so U = V^-1.
        const Eigen::LLT<Eigen::MatrixXd> reversed(damped.reverse());
        if (reversed.info() == Eigen::Success) {
            Eigen::MatrixXd inverse = Eigen::MatrixXd::Identity(n, n);
            reversed.matrixL().solveInPlace(inverse);
            if (inverse.allFinite()) {
                const Eigen::MatrixXd upper = inverse.reverse();
                upper_ = upper.cast<float>();
                importance_.resize(static_cast<size_t>(n));
                for (Eigen::Index j = 0; j < n; ++j)
                    importance_[order_[static_cast<size_t>(j)]] = static_cast<float>(1 / (upper(j, j) * upper(j, j)));
                break;
            }
        }
        if (attempt == kMostDampings) throw std::invalid_argument("a second moment that cannot be inverted");
        damping_ = damping_ > 0 ? 10 * damping_ : 1e-6 * mean;
    }
    h.diagonal().array() += damping_;
    hessian_ = h.cast<float>();
}

double GptqFactor::loss(std::span<const float> error) const {
    const Eigen::Index n = hessian_.rows();
    const Eigen::Map<const FloatRows> e(error.data(), static_cast<Eigen::Index>(error.size()) / n, n);
    const FloatRows through = product_transposed(e, hessian_, options_.threads);  // symmetric
    return through.cwiseProduct(e).cast<double>().sum() - damping_ * e.squaredNorm();
}

std::vector<uint8_t> GptqFactor::quantize(uint32_t type, std::span<const float> values) const {
    if (!has_codes(type)) return quantize_rows(type, values, columns());
    return quantize(type, values, [&](std::span<const float> row) { return RowGrid(type, row, importance_); });
}

std::vector<uint8_t> GptqFactor::quantize(uint32_t type, std::span<const float> values,
                                          const GridOfRow& grid_of) const {
    const uint64_t n = columns(), row_bytes = kernels::weight_row_bytes(type, n);
    if (values.size() % n) throw std::invalid_argument("rows are no whole number of blocks");
    const size_t rows = values.size() / n, parts = (rows + kRowsAtATime - 1) / kRowsAtATime;
    std::vector<uint8_t> out(rows * row_bytes);
    in_parallel(options_.threads, parts, [&](size_t first, size_t last) {
        for (size_t part = first; part < last; ++part) {
            const size_t row = part * kRowsAtATime, count = std::min(kRowsAtATime, rows - row);
            quantize_part(type, values.subspan(row * n, count * n), grid_of, out.data() + row * row_bytes);
        }
    });
    return out;
}

void GptqFactor::quantize_part(uint32_t type, std::span<const float> values, const GridOfRow& grid_of,
                               uint8_t* out) const {
    const Eigen::Index n = hessian_.rows(), rows = static_cast<Eigen::Index>(values.size()) / n;
    std::vector<RowGrid> grids;
    for (Eigen::Index r = 0; r < rows; ++r)
        grids.push_back(grid_of(values.subspan(static_cast<size_t>(r * n), static_cast<size_t>(n))));
    const Eigen::Map<const FloatRows> original(values.data(), rows, n);
    FloatRows w(rows, n), chosen(rows, n);  // w in the order of columns
    for (Eigen::Index j = 0; j < n; ++j) w.col(j) = original.col(order_[static_cast<size_t>(j)]);
    FloatRows errors(rows, kBlock);
    for (Eigen::Index begin = 0; begin < n; begin += kBlock) {
        const Eigen::Index count = std::min(kBlock, n - begin), rest = n - begin - count;
        for (Eigen::Index j = begin; j < begin + count; ++j) {
            const uint32_t column = order_[static_cast<size_t>(j)];
            for (Eigen::Index r = 0; r < rows; ++r) {
                const float q = grids[static_cast<size_t>(r)].choose(column, static_cast<double>(w(r, j)));
                chosen(r, column) = q;
                errors(r, j - begin) = (w(r, j) - q) / upper_(j, j);
            }
            const Eigen::Index later = begin + count - j - 1;
            w.middleCols(j + 1, later).noalias() -= errors.col(j - begin) * upper_.row(j).segment(j + 1, later);
        }
        w.rightCols(rest).noalias() -= errors.leftCols(count) * upper_.block(begin, begin + count, count, rest);
    }
    // With every other column as it is, the best value of one is w_j - sum_k H_jk e_k / H_jj over the others' errors.
    const FloatRows error = chosen - original;
    FloatRows gradient = product_transposed(error, hessian_, 1);  // [rows][columns]
    for (uint32_t sweep = 0; sweep < options_.sweeps; ++sweep) {
        bool changed = false;
        for (const uint32_t column : order_) {
            const Eigen::Index c = column;
            for (Eigen::Index r = 0; r < rows; ++r) {
                const float best = chosen(r, c) - gradient(r, c) / hessian_(c, c);
                const float q = grids[static_cast<size_t>(r)].choose(column, static_cast<double>(best));
                const float step = q - chosen(r, c);
                if (step == 0) continue;
                chosen(r, c) = q;
                gradient.row(r) += step * hessian_.row(c);
                changed = true;
            }
        }
        if (!changed) break;
    }
    const uint64_t row_bytes = kernels::weight_row_bytes(type, columns());
    for (size_t r = 0; r < grids.size(); ++r) grids[r].write(out + r * row_bytes);
}

}  // namespace keel::tools
