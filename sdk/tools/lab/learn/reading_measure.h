// What learning while reading is worth: documents scored by the frozen model and by one that learns (ReadingAdapter).
#pragma once
#include <functional>
#include <string>

#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/lab/learn/reading_adapter.h"

namespace keel::tools {

// The head of a model in f32: its output matrix, or its embedding where that is tied.
class ModelHead {
  public:
    explicit ModelHead(const ModelFile& file);
    const Head<float>& get() const { return head_; }

  private:
    std::vector<float> rows_;
    Head<float> head_;
};

struct ReadingDocument {
    uint64_t tokens = 0;
    ReadingScore nll;  // sums
    uint64_t steps = 0, skipped = 0;
    double state_norm = 0;
    double model_seconds = 0, learn_seconds = 0;  // of processor time
};

// Reads documents with an engine whose rows of logits are those of a step. `window`: positions a token sees at most,
// at least half of it but at the begin; 0: the context. `tokens`: of a document at most. `shuffled`: its tokens in
// another order, the same one each time.
class ReadingMeter {
  public:
    ReadingMeter(LoadedModel& model, const ReadingOptions& options, uint32_t window, uint32_t tokens, bool shuffled);
    ReadingDocument read(const std::string& text);

  private:
    LoadedModel& model_;
    Session session_;
    ModelHead head_;
    ReadingOptions options_;
    ReadingAdapter adapter_;
    uint32_t window_, tokens_;
    bool shuffled_;
};

}  // namespace keel::tools
