// From a model and a text to W_proj caches: statistics once, then as many solutions as are asked for.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sdk/tools/lab/kv/kv_calibration.h"
#include "sdk/tools/lab/kv/kv_text.h"
#include "sdk/tools/lab/lowrank/wproj_meter.h"
#include "sdk/tools/lab/lowrank/wproj_solve.h"

namespace keel::tools {

struct WprojCalibrationText {
    KvText text;                     // file, documents and tokens of each; no file: weights only
    uint32_t held_out = 4;           // last documents of these, for errors and quality
    uint32_t measured_tokens = 512;  // of a held-out document, where predictions are measured
    // Errors of Q, K and V are counted where they matter: those of a query weighed by the keys' energy, those of a key
    // by its queries', pair by pair of RoPE, those of a value as O passes them on.
    bool attention_metric = true;
};

// Done of all, of the work under way; true cancels, and what runs throws ToolError (kExitCancelled).
using WprojStep = std::function<bool(const std::string& what, uint64_t done, uint64_t total)>;

class WprojBuilder {
  public:
    // slots: bits of those that may be low-rank; their inputs are watched. ToolError: no text where one is needed,
    // fused projections.
    WprojBuilder(const EngineOptions& options, const WprojCalibrationText& text, uint32_t slots, WprojStep step);
    ~WprojBuilder();

    // What an error of each slot costs: the KL of the predictions with this slot of this layer alone low-rank, as a
    // solution without sensitivities has it, over its relative squared output error. KL is not linear in errors, so the
    // measured ones are tried to powers from 0 (all 1) to 1, and the power whose solution has the least KL on the
    // held-out text is kept. Without this call all are 1. Returns the power.
    double choose_sensitivities(WprojSolveOptions options);
    double sensitivity(uint32_t layer, uint32_t slot) const { return sensitivity_[layer][slot]; }

    // key, quality: left to the caller.
    WprojImage build(const WprojSolveOptions& options, WprojSolution* solution = nullptr);
    const ModelFile& model() const { return *model_; }
    uint64_t calibration_hash() const {
        return calibration_hash_;
    }  // of token ids, and which documents are held out; 0: weights only
    uint64_t measured_hash() const { return measured_hash_; }  // of the ids predictions are measured on
    WprojMeter* meter() { return meter_.get(); }               // null without a text

  private:
    void watch(const EngineOptions& options, const WprojCalibrationText& text);
    WprojLayerInput input(uint32_t layer);
    void count_as_attention(uint32_t layer, WprojLayerInput* in);

    WprojStep step_;
    std::unique_ptr<ModelFile> model_;
    uint32_t slots_, layers_;
    std::vector<std::array<double, kWprojSlots>> sensitivity_;
    std::vector<std::array<std::unique_ptr<MomentSummary>, kWprojGroups>> moments_;  // by layer
    std::array<std::vector<float>, kWprojSlots> weights_, counted_;                  // of the current layer
    std::unique_ptr<KvStatistics> attention_;  // null: errors of outputs count as they are
    uint64_t calibration_hash_ = 0, measured_hash_ = 0;
    std::unique_ptr<WprojMeter> meter_;
};

}  // namespace keel::tools
