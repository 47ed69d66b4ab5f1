// Matrices coded one after the other, while what is not coded yet is trained to make good what codes lost: it learns to
// predict what the source predicts (distillation). Tseng et al. 2024 (QuIP#) also train between codes, there by the
// output of a block; here by the predictions of the whole model. The file has the same types and bytes as without;
// vectors that it keeps in F32 are trained too. Needs Eigen.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "sdk/tools/lab/quantize/calibration.h"

namespace keel::tools {

struct DistillationOptions {
    uint32_t steps = 10;       // after each site's codes
    uint32_t last_steps = 60;  // of the vectors, behind all codes
    uint32_t texts = 4;        // of a step: windows of the documents
    double rate = 0.004;       // of a step (Adam), as a part of a tensor's root mean square
};

struct DistilledModel {
    std::vector<CalibratedMatrix> matrices;                          // of the request, by number
    std::vector<std::pair<uint32_t, std::vector<uint8_t>>> vectors;  // trained ones: tensor of the file, its bytes
    double divergence = 0;  // nats of KL a token, on the texts of the last steps
};

constexpr uint32_t kDistillationWindow = 512;  // tokens of a window at most

// The matrices of the request that change their type: head and embedding first, then layer by layer the site's second
// moments as the coded model computes them, codes, and steps. Rows of all windows of the text, and up to six times all
// weights in f32, are held in memory.
//   work_file  is written behind each layer, and a later call that asks for the same goes on there; empty: none
// Throws ToolError as Calibrator, and for models whose layers share weights.
DistilledModel distill_matrices(const EngineOptions& options, const QuantizeRequest& request,
                                const CalibrationOptions& calibration, const DistillationOptions& distillation,
                                const std::string& work_file, const CalibrationProgress& progress, uint64_t* text_hash);

}  // namespace keel::tools
