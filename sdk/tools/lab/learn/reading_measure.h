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

// A document's tokens as they are, and as controls: in another order, the same one each time, or drawn from the whole
// vocabulary, others for every document.
enum class ReadingTokens { written, shuffled, random };

// Reads documents with an engine whose rows of logits are those of a step. `window`: positions a token sees at most,
// at least half of it but at the begin; 0: the context. `tokens`: of a document at most. With steps of one token the
// adapter scores every token by itself too, as it would in decoding.
class ReadingMeter {
  public:
    ReadingMeter(LoadedModel& model, const ReadingOptions& options, uint32_t window, uint32_t tokens,
                 ReadingTokens order);
    ReadingDocument read(const std::string& text);

  private:
    LoadedModel& model_;
    Session session_;
    ModelHead head_;
    ReadingOptions options_;
    ReadingAdapter adapter_;
    uint32_t window_, tokens_, scored_at_once_, documents_ = 0;
    ReadingTokens order_;
};

}  // namespace keel::tools
