#include "sdk/tools/lab/quantize/site_coder.h"

#include "keel/keel_lab.h"
#include "sdk/tools/lab/quantize/fast_product.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_steps.h"
#include "sdk/tools/lab/quantize/trellis_gptq.h"

namespace keel::tools {

constexpr Eigen::Index kPanel = 128;  // rows of a moment computed together

uint32_t input_of(TensorSlot slot, bool tied) {
    switch (slot) {
        case kAttnQ:
        case kAttnK:
        case kAttnV:
        case kAttnQkv:
            return KEEL_LAB_ATTN_IN;
        case kAttnOutput:
            return KEEL_LAB_ATTN_OUT;
        case kFfnGate:
        case kFfnUp:
        case kFfnGateUp:
            return KEEL_LAB_FFN_IN;
        case kFfnDown:
            return KEEL_LAB_FFN_HIDDEN;
        case kTokenEmbedding:
            return tied ? kHeadInput : kNoInput;
        case kOutput:
            return kHeadInput;
        default:
            return kNoInput;
    }
}

void SecondMoment::add(std::span<const float> rows, uint32_t threads) {
    const Eigen::Index n = sum_.rows();
    const FloatRows x =
        Eigen::Map<const FloatRows>(rows.data(), static_cast<Eigen::Index>(rows.size()) / n, n).transpose();
    for (Eigen::Index begin = 0; begin < n; begin += kPanel) {
        const Eigen::Index count = std::min(kPanel, n - begin), end = begin + count;
        sum_.block(begin, 0, count, end) +=
            product_transposed(x.middleRows(begin, count), x.topRows(end), threads).cast<double>();
    }
    rows_ += static_cast<uint64_t>(x.cols());
}

SecondMoment SecondMoment::divided(std::span<const float> columns) const {
    SecondMoment out = *this;
    const Eigen::VectorXd inverse =
        Eigen::Map<const Eigen::VectorXf>(columns.data(), sum_.rows()).cast<double>().cwiseInverse();
    out.sum_ = inverse.asDiagonal() * sum_ * inverse.asDiagonal();
    return out;
}

const GptqFactor& SiteCoder::factor_of(bool trellis) {
    std::optional<GptqFactor>& factor = trellis ? coding_order_ : plain_;
    if (!factor) {
        GptqOptions options = options_;
        options.activation_order &= !trellis;
        factor.emplace(trellis ? moment_in_coding_order(moment_->mean()) : moment_->mean(), options);
    }
    return *factor;
}

CalibratedMatrix SiteCoder::code(uint32_t type, std::span<const float> values, uint64_t columns, double row_step) {
    const bool trellis = kernels::is_trellis(type);
    const GptqFactor& factor = factor_of(trellis);
    const auto loss_of = [&](std::vector<float> x) {
        if (trellis) to_coding_order(x, columns);
        return factor.loss(x);
    };
    const double all = loss_of({values.begin(), values.end()});
    const auto error_of = [&](const std::vector<uint8_t>& bytes) {
        std::vector<float> error = decode_rows(type, bytes, columns);
        for (size_t i = 0; i < error.size(); ++i) error[i] -= values[i];
        return all > 0 ? loss_of(std::move(error)) / all : 0;
    };
    const auto chosen = [&] {
        if (trellis) return quantize_trellis(factor, type, values, options_.threads);
        if (row_step == 0) return factor.quantize(type, values);
        return factor.quantize(type, values, [&](std::span<const float> row) { return row_step_grid(row, row_step); });
    };
    std::vector<uint8_t> nearest = row_step > 0 ? quantize_row_steps(values, columns, row_step)
                                                : quantize_matrix(type, values, columns, options_.threads);
    CalibratedMatrix out;
    out.nearest_error = out.error = error_of(nearest);
    out.bytes = std::move(nearest);
    if (nearest_) return out;
    std::vector<uint8_t> bytes = chosen();
    const double error = error_of(bytes);
    if (error > out.error) return out;
    out.error = error;
    out.bytes = std::move(bytes);
    return out;
}

void SiteCoder::correct(uint32_t type, std::span<const float> values, uint64_t columns, uint32_t rank,
                        CalibratedMatrix* matrix) {
    const Eigen::MatrixXd moment = moment_->mean();
    const auto rows_of = [&](const std::vector<float>& x) {
        return Eigen::Map<const FloatRows>(x.data(), static_cast<Eigen::Index>(x.size() / columns),
                                           static_cast<Eigen::Index>(columns));
    };
    const auto loss_of = [&](const FloatRows& x) {
        return product(x, moment.cast<float>(), options_.threads).cwiseProduct(x).cast<double>().sum();
    };
    std::vector<float> error = decode_rows(type, matrix->bytes, columns);
    for (size_t i = 0; i < error.size(); ++i) error[i] = values[i] - error[i];
    matrix->correction = correction_of(rows_of(error), moment, rank, options_.threads);
    const double all = loss_of(rows_of({values.begin(), values.end()}));
    matrix->corrected_error = all > 0 ? loss_of(rows_of(error) - matrix->correction.product()) / all : 0;
}

void SiteCoder::keep_scalar_codes() {
    moment_.reset();
    coding_order_.reset();
}

}  // namespace keel::tools
