// Learning while reading, before the head: a matrix of hidden states (hidden_map.h) and a cache of them
// (neural_cache.h), beside the frozen model. A text is read in chunks; each is scored, then learned from, so that what
// is said of a token depends on nothing behind it.
//
//     adapted  = a Bayesian mixture of (1 - share) p(map) + share p(cache) over the shares below
//     mixture  = one of the frozen model and the adapted one, each half at first: at most ln 2 worse than either
#pragma once
#include "sdk/tools/lab/learn/hidden_map.h"
#include "sdk/tools/lab/learn/neural_cache.h"

namespace keel::tools {

struct ReadingOptions {
    uint32_t chunk = 48;  // tokens
    // Of the map: a step is rate over the mean norm of the first chunk's states, so that models with larger states take
    // smaller ones. 0: frozen.
    double rate = 0;
    HiddenMapOptions map;
    uint32_t cached_states = 2000;
    double sharpness = 30;  // of the cache
};

// Steps of 2.4e-5 with SmolLM2-135M, whose states have norm 50: of four rates the best one on two texts.
constexpr double kReadingRate = 1.2e-3;

// NLL of one token, or of several, in nats.
struct ReadingScore {
    double frozen = 0, cached = 0, mapped = 0, adapted = 0, mixture = 0;
};

class ReadingAdapter {
  public:
    ReadingAdapter(const Head<float>& head, const ReadingOptions& options);

    // A new text: as if nothing had been read.
    void reset();
    // The next `n` tokens of the text, at most what is left of a chunk: final hidden states, logits of the frozen
    // model, what followed. scores[n]: the same for a chunk at once and token by token.
    void score(const float* hidden, const float* logits, const int32_t* target, uint32_t n, ReadingScore* scores);
    // What was scored since the last time is a chunk: learns from it unless the text ends there.
    void end_chunk(bool last);
    uint32_t open_tokens() const { return static_cast<uint32_t>(target_.size()); }
    uint64_t steps() const { return steps_; }
    uint64_t skipped() const { return skipped_; }  // steps whose gradient was not finite
    double state_norm() const { return norm_; }    // of the first chunk
    double seconds() const { return seconds_; }    // of processor time spent here

  private:
    // Weights of what is mixed, and its probability of a token; learns from it.
    class Bayes {
      public:
        void reset(uint32_t count) { weight_.assign(count, 1.0 / count); }
        double see(const double* p);

      private:
        std::vector<double> weight_;
    };

    const Head<float>& head_;
    ReadingOptions options_;
    HiddenMap<float> map_;
    NeuralCache cache_;
    Bayes shares_, cached_shares_, frozen_or_not_;
    // Of the open chunk: states, logits, what followed.
    std::vector<float> hidden_, z_;
    std::vector<int32_t> target_;
    std::vector<float> moved_, gradient_;
    double norm_ = 0, seconds_ = 0;
    uint64_t steps_ = 0, skipped_ = 0;
};

}  // namespace keel::tools
