// Matrices of a model calibrated on a text: the second moments of what each multiplies, in all layers that it is of,
// streamed through a few blocks at a time, then codes by gptq.h. Needs Eigen.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sdk/format/wproj.h"
#include "sdk/tools/lab/kv/kv_text.h"
#include "sdk/tools/lab/quantize/gptq.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {

struct CalibrationOptions {
    KvText text;                                // file, documents and tokens of each
    uint64_t moment_bytes = uint64_t{1} << 30;  // of the second moments held at once: blocks of a pass over the text
    GptqOptions gptq;
};

struct CalibratedMatrix {
    std::vector<uint8_t>
        bytes;  // empty: not calibrated, because its type does not change or nothing is multiplied by it
    // sum e H e^T / sum w H w^T over the rows: of nearest codes, and of these.
    double nearest_error = 0, error = 0;
};

// What a matrix multiplies: a site of its layer (keel_lab_site), the head's input, or nothing.
constexpr uint32_t kHeadInput = kWprojGroups, kNoInput = UINT32_MAX;
uint32_t input_of(TensorSlot slot, bool tied);

// Mean of x x^T over rows.
class SecondMoment {
  public:
    explicit SecondMoment(uint32_t columns) : sum_(Eigen::MatrixXd::Zero(columns, columns)) {}
    void add(std::span<const float> rows);  // f32[count][columns]
    Eigen::MatrixXd mean() const { return sum_ / static_cast<double>(std::max<uint64_t>(rows_, 1)); }

  private:
    Eigen::MatrixXd sum_;
    uint64_t rows_ = 0;
};

// Codes the matrices that multiply the same.
class SiteCoder {
  public:
    SiteCoder(const SecondMoment& moment, const GptqOptions& options) : moment_(moment.mean()), options_(options) {}
    // values [rows][columns] in codes of `type`: those by the moment or the nearest, whichever err less.
    // std::invalid_argument as GptqFactor and its quantize.
    CalibratedMatrix code(uint32_t type, std::span<const float> values, uint64_t columns);

  private:
    Eigen::MatrixXd moment_;
    GptqOptions options_;
    std::optional<GptqFactor> plain_, coding_order_;  // of trellis types, by the order in which they are coded
};

// Done of all work. Throws what stops it.
using CalibrationProgress = std::function<void(const std::string& what, uint64_t done, uint64_t total)>;

// The matrices of the request, by number; of two codings the one of smaller error. The model computes the text as it
// is: errors of earlier layers do not reach later moments.
//   work_file  matrices that are done are appended to it, and read from it by a later call that asks for the same;
//              empty: none
//   text_hash  receives the hash of the token ids
// Throws ToolError.
std::vector<CalibratedMatrix> calibrate_matrices(const EngineOptions& options, const QuantizeRequest& request,
                                                 const CalibrationOptions& calibration, const std::string& work_file,
                                                 const CalibrationProgress& progress, uint64_t* text_hash);

}  // namespace keel::tools
