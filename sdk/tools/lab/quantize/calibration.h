// Matrices of a model calibrated on a text: the second moments of what each multiplies, in all layers that it is of,
// streamed through a few blocks at a time, then codes by gptq.h. Needs Eigen.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sdk/tools/lab/kv/kv_text.h"
#include "sdk/tools/lab/quantize/gptq.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"
#include "sdk/tools/lab/quantize/site_coder.h"

namespace keel::tools {

struct CalibrationOptions {
    KvText text;                                // file, documents and tokens of each
    uint64_t moment_bytes = uint64_t{1} << 30;  // of the second moments held at once: blocks of a pass over the text
    GptqOptions gptq;
};

// Done of all work. Throws what stops it.
using CalibrationProgress = std::function<void(const std::string& what, uint64_t done, uint64_t total)>;

// The model computes the text as it is: errors of earlier layers do not reach later moments. All calls throw ToolError.
class Calibrator {
  public:
    // work_file: matrices that are done are appended to it, and read from it by a later one that is asked for the same;
    // empty: none.
    Calibrator(const EngineOptions& options, const QuantizeRequest& request, const CalibrationOptions& calibration,
               const std::string& work_file, CalibrationProgress progress);
    ~Calibrator();
    uint64_t text_hash() const;  // of the token ids
    // The matrices of the request, by number; of two codings the one of smaller error. row_step: of those that become
    // Q8_0 (row_steps.h); 0: they have scales of their own. The text is read once for all steps where moment_bytes hold
    // all second moments, since those of matrices that a step changes stay, factored; else once for each step. Valid
    // until the next call.
    const std::vector<CalibratedMatrix>& matrices(double row_step = 0);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace keel::tools
