#include "sdk/tools/lab/quantize/row_steps.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "sdk/tools/common/atomic_file.h"

namespace keel::tools {
namespace {

constexpr int kScaleBits = 5;    // significant ones: few scales are few bits of each block
constexpr int kMostRounds = 12;  // to find a step: each is a guess that is right for normal weights
constexpr double kFirstStep = 0.4;
constexpr double kSlack = 1e-3;  // bits of a weight that may be left over

bool has_row_steps(const QuantizeRequest& request, size_t matrix) {
    const ModelMatrix& m = request.matrices[matrix];
    return request.types[matrix] == kernels::kQ8_0 && m.type != kernels::kQ8_0;
}

// The scale of a row, as f16 has it.
double row_scale(std::span<const float> row, double step) {
    double sum = 0, square = 0;
    for (const float x : row) {
        if (!std::isfinite(x)) throw std::invalid_argument("a value is not finite");
        sum += x;
    }
    const double mean = sum / static_cast<double>(row.size());
    for (const float x : row) square += (x - mean) * (x - mean);
    int exponent = 0;
    const double scale = step * sqrt(square / static_cast<double>(row.size() - 1)),
                 digits = ldexp(frexp(scale, &exponent), kScaleBits);
    return std::clamp(ldexp(nearbyint(digits), exponent - kScaleBits), scale > 0 ? 0x1p-14 : 0.0, 32768.0);
}

}  // namespace

RowGrid row_step_grid(std::span<const float> row, double step) {
    return RowGrid(row, static_cast<float>(row_scale(row, step)));
}

std::vector<uint8_t> quantize_row_steps(std::span<const float> values, uint64_t columns, double step) {
    if (columns == 0 || values.size() % columns != 0) throw std::invalid_argument("no whole number of rows");
    const uint64_t row_bytes = kernels::weight_row_bytes(kernels::kQ8_0, columns);
    std::vector<uint8_t> out(values.size() / columns * row_bytes);
    for (size_t row = 0; row < values.size() / columns; ++row)
        row_step_grid(values.subspan(row * columns, columns), step).write(out.data() + row * row_bytes);
    return out;
}

uint64_t row_step_weights(const QuantizeRequest& request) {
    uint64_t weights = 0;
    for (size_t i = 0; i < request.matrices.size(); ++i)
        if (has_row_steps(request, i)) weights += request.matrices[i].rows * request.matrices[i].columns;
    return weights;
}

void use_row_steps(const ModelFile& source, double step, QuantizeRequest* request) {
    const QuantizeRequest kept = *request;
    request->quantize = [&source, step, kept](size_t matrix) {
        std::vector<uint8_t> bytes = kept.quantize ? kept.quantize(matrix) : std::vector<uint8_t>();
        if (!bytes.empty() || !has_row_steps(kept, matrix)) return bytes;
        const ModelMatrix& m = kept.matrices[matrix];
        return quantize_row_steps(matrix_values(source, m), m.columns, step);
    };
}

WrittenModel write_within(const ModelFile& source, const QuantizeRequest& request, const std::string& path,
                          const ByteBudget& budget, const QuantizeProgress& progress, const UseStep& calibrated) {
    const double weights = static_cast<double>(row_step_weights(request));
    if (weights == 0) throw ToolError(kExitUsage, "no matrix becomes Q8_0, whose scales are what a budget decides");
    const std::string trial = path + ".trial";
    refuse_source(source, trial);
    const RemovedAtTheEnd removed = {trial};
    const double slack = kSlack * weights / 8;
    // Of normal weights the bytes fall by an eighth of them for every doubling of the step.
    const auto find = [&](double step, const UseStep& use) {
        double too_fine = 0, keeps = 0;  // as far as is known
        for (int round = 0;; ++round) {
            QuantizeRequest now = request;
            use(step, &now);
            write_quantized(source, now, trial, progress);
            const uint64_t packed = packed_bytes(trial);
            const double left = static_cast<double>(budget.bytes) - static_cast<double>(budget.code + packed);
            (left < 0 ? too_fine : keeps) = step;
            if (left >= 0 && (left <= slack || step == kSmallestRowStep || round >= kMostRounds))
                return std::pair(WrittenModel{step, packed, {}}, now);
            if (left < 0 && step == kLargestRowStep)
                throw ToolError(kExitMemory, budget_text(budget, packed) + " with the coarsest grid");
            step = std::clamp(step * exp2((slack / 2 - left) * 8 / weights), kSmallestRowStep, kLargestRowStep);
            if (keeps > 0 && too_fine > 0 && (step <= too_fine || step >= keeps)) step = sqrt(too_fine * keeps);
            if (keeps > 0 && round + 1 >= kMostRounds) step = keeps;
        }
    };
    auto [written, now] = find(kFirstStep, [&](double step, QuantizeRequest* of) { use_row_steps(source, step, of); });
    if (calibrated) std::tie(written, now) = find(written.step, calibrated);
    written.tensors = write_quantized(source, now, path, progress);
    return written;
}

}  // namespace keel::tools
