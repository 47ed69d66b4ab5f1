// Grids of one scale a row, whose step decides how many bytes a file takes when its tensors are entropy coded.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sdk/tools/files/byte_budget.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {

// Q8_0 whose blocks of a row all have one scale: `step` times the standard deviation of the row (about its mean, over
// n - 1), rounded to 5 significant bits; codes the nearest of -127 to 127. Entropy coded a weight takes about
// log2(sqrt(2 pi e) / step) bits, so that the step sets the bytes of the file, whatever the codes could hold (SDClip:
// step = k / 127). std::invalid_argument: columns that are no whole blocks, a value that is not finite.
std::vector<uint8_t> quantize_row_steps(std::span<const float> values, uint64_t columns, double step);
// One such row, whose codes may still be chosen.
RowGrid row_step_grid(std::span<const float> row, double step);
// Weights of the matrices that use_row_steps is for.
uint64_t row_step_weights(const QuantizeRequest& request);
// All matrices that become Q8_0 so; those that the request has bytes of, and the others, as it has them.
void use_row_steps(const ModelFile& source, double step, QuantizeRequest* request);

struct WrittenModel {
    double step;
    uint64_t packed_bytes;
    std::vector<QuantizedTensor> tensors;
};
// Gives a request the codes of matrices at a step.
using UseStep = std::function<void(double step, QuantizeRequest* request)>;
// write_quantized with the smallest such step that keeps the budget. Trials are written to PATH.trial and packed. Of
// other codes than the nearest, those of `calibrated`, which are dear and take nearly the same bytes, the search tries
// few: it begins at the step of the nearest codes; `calibrated` is called last for the step that is returned.
// Throws ToolError: by how many bytes the largest step, kLargestRowStep, exceeds the budget; no matrix becomes Q8_0.
constexpr double kSmallestRowStep = 1.0 / 32, kLargestRowStep = 4;
WrittenModel write_within(const ModelFile& source, const QuantizeRequest& request, const std::string& path,
                          const ByteBudget& budget, const QuantizeProgress& progress, const UseStep& calibrated = {});

}  // namespace keel::tools
