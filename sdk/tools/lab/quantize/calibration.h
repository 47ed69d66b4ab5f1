// Matrices of a model calibrated on a text: the second moments of what each multiplies, in all layers that it is of,
// streamed through a few blocks at a time, then codes by gptq.h. Needs Eigen.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sdk/tools/lab/kv/kv_text.h"
#include "sdk/tools/lab/quantize/channel_scales.h"
#include "sdk/tools/lab/quantize/gptq.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"
#include "sdk/tools/lab/quantize/site_coder.h"

namespace keel::tools {

struct CalibrationOptions {
    KvText text;                                // file, documents and tokens of each
    uint64_t moment_bytes = uint64_t{1} << 30;  // of the second moments held at once: blocks of a pass over the text
    GptqOptions gptq;
    bool nearest_codes = false;    // in place of GPTQ's
    bool scaling = false;          // of channels, by the power of least error of those tried (channel_scales.h)
    uint32_t correction_rank = 0;  // of matrices of layers (correction.h); 0: none
};

// Powers that scaling tries. The first is none.
constexpr double kScalingPowers[] = {0, 0.125, 0.25, 0.375, 0.5, 0.75, 1};

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
    // What scaling leaves as it is, a line for each reason.
    const std::vector<std::string>& not_scaled() const;
    // What a file of matrices() needs beside their bytes where scaling is asked for; valid as long as this.
    void use_scales(QuantizeRequest* request) const;
    // The matrices of the request, by number; of two codings the one of smaller error. row_step: of those that become
    // Q8_0 (row_steps.h); 0: they have scales of their own. The text is read once for all steps where moment_bytes hold
    // all second moments, since those of matrices that a step changes stay, factored; else once for each step. Valid
    // until the next call. Steps cannot be scaled nor corrected.
    const std::vector<CalibratedMatrix>& matrices(double row_step = 0);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace keel::tools
