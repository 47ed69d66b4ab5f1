// Grids of one scale a row, whose step decides how many bytes a file takes when its tensors are entropy coded.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "sdk/tools/files/byte_budget.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {

// Q8_0 whose blocks of a row all have one scale: `step` times the standard deviation of the row (about its mean, over
// n - 1), rounded to 5 significant bits; codes the nearest of -127 to 127. Entropy coded a weight takes about
// log2(sqrt(2 pi e) / step) bits, so that the step sets the bytes of the file, whatever the codes could hold (SDClip:
// step = k / 127). std::invalid_argument: columns that are no whole blocks, a value that is not finite.
std::vector<uint8_t> quantize_row_steps(std::span<const float> values, uint64_t columns, double step);
// All matrices that become Q8_0 so; the others as the request has them.
void use_row_steps(const ModelFile& source, double step, QuantizeRequest* request);

struct WrittenModel {
    double step;
    uint64_t packed_bytes;
    std::vector<QuantizedTensor> tensors;
};
// write_quantized with the smallest such step that keeps the budget. Throws ToolError: by how many bytes the largest,
// kLargestRowStep, exceeds it; no matrix becomes Q8_0.
constexpr double kSmallestRowStep = 1.0 / 32, kLargestRowStep = 4;
WrittenModel write_within(const ModelFile& source, QuantizeRequest request, const std::string& path,
                          const ByteBudget& budget, const QuantizeProgress& progress);

}  // namespace keel::tools
