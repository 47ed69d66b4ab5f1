#include "sdk/tools/lab/quantize/row_steps.h"

#include <string.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stdexcept>

#include "kernels/formats/numeric.h"

namespace keel::tools {
namespace {

constexpr uint64_t kBlock = 32;  // weights of a block of Q8_0
constexpr double kCodes = 127;   // largest code
constexpr int kScaleBits = 5;    // significant ones: few scales are few bits of each block
constexpr int kMostRounds = 12;  // to find a step: each is a guess that is right for normal weights
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

std::vector<uint8_t> quantize_row_steps(std::span<const float> values, uint64_t columns, double step) {
    if (columns % kBlock != 0 || columns == 0 || values.size() % columns != 0)
        throw std::invalid_argument("rows are no whole blocks of 32");
    const uint64_t row_bytes = kernels::weight_row_bytes(kernels::kQ8_0, columns);
    std::vector<uint8_t> out(values.size() / columns * row_bytes);
    uint8_t* to = out.data();
    for (size_t row = 0; row < values.size(); row += columns) {
        const double scale = row_scale(values.subspan(row, columns), step);
        const uint16_t d = kernels::f32_to_f16(static_cast<float>(scale));
        for (uint64_t i = 0; i < columns; ++i) {
            if (i % kBlock == 0) {
                memcpy(to, &d, sizeof d);
                to += sizeof d;
            }
            const double code = scale > 0 ? nearbyint(values[row + i] / scale) : 0;
            *to++ = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(code, -kCodes, kCodes)));
        }
    }
    return out;
}

void use_row_steps(const ModelFile& source, double step, QuantizeRequest* request) {
    const QuantizeRequest kept = *request;
    request->quantize = [&source, step, kept](size_t matrix) {
        if (!has_row_steps(kept, matrix)) return kept.quantize ? kept.quantize(matrix) : std::vector<uint8_t>();
        const ModelMatrix& m = kept.matrices[matrix];
        return quantize_row_steps(matrix_values(source, m), m.columns, step);
    };
}

// Of normal weights the bytes fall by an eighth of them for every doubling of the step.
WrittenModel write_within(const ModelFile& source, QuantizeRequest request, const std::string& path,
                          const ByteBudget& budget, const QuantizeProgress& progress) {
    double weights = 0;
    for (size_t i = 0; i < request.matrices.size(); ++i)
        if (has_row_steps(request, i))
            weights += static_cast<double>(request.matrices[i].rows * request.matrices[i].columns);
    if (weights == 0) throw ToolError(kExitUsage, "no matrix becomes Q8_0, whose scales are what a budget decides");
    const double slack = kSlack * weights / 8;
    double step = 0.4, too_fine = 0, keeps = 0;  // the latter two: as far as is known
    for (int round = 0;; ++round) {
        QuantizeRequest now = request;
        use_row_steps(source, step, &now);
        WrittenModel written = {step, 0, write_quantized(source, now, path, progress)};
        written.packed_bytes = packed_bytes(path);
        const double left = static_cast<double>(budget.bytes) - static_cast<double>(budget.code + written.packed_bytes);
        (left < 0 ? too_fine : keeps) = step;
        if (left >= 0 && (left <= slack || step == kSmallestRowStep || round >= kMostRounds)) return written;
        if (left < 0 && step == kLargestRowStep) {
            std::filesystem::remove(path);
            throw ToolError(kExitMemory, budget_text(budget, written.packed_bytes) + " with the coarsest grid");
        }
        step = std::clamp(step * exp2((slack / 2 - left) * 8 / weights), kSmallestRowStep, kLargestRowStep);
        if (keeps > 0 && too_fine > 0 && (step <= too_fine || step >= keeps)) step = sqrt(too_fine * keeps);
        if (keeps > 0 && round + 1 >= kMostRounds) step = keeps;
    }
}

}  // namespace keel::tools
