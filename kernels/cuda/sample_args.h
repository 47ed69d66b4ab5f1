// Arguments of the kernels that draw a token (NUMERICS section 6), in the order in which they run: sample_adjust,
// sample_weigh, sample_select, sample_race, sample_finish; at temperature 0 only sample_adjust and sample_select.
#pragma once
#include "kernels/cuda/args.h"

namespace keel::cuda {

struct TokenBias {
    uint32_t id;
    float bias;
};
struct TokenCount {
    uint32_t id, count;
};
// The largest value of a block of tokens, the lowest id that has it; bad: a logit is NaN or +inf. In the race the value
// is the score with its sign changed.
struct SampleBest {
    double value;
    uint32_t id, bad;
};
enum class SampleStatus : uint32_t { kDrawn, kBadLogit, kNothingAllowed };
struct SampleResult {
    uint32_t token;
    SampleStatus status;
};

// What filters left: candidates with a mass of at least least_mass that are not behind the last one.
struct SampleLeft {
    double last_distance;
    uint64_t least_mass;
    uint32_t last_id;
};

struct SampleArgs {
    const float* logits;  // [vocabulary]
    const uint8_t* mask;  // allowed-token bits; null: all
    // Every id within the vocabulary. Biases are added in their order; ids of `forbidden` and of `window` are distinct.
    const TokenBias* bias;
    const uint32_t* forbidden;
    const TokenCount* window;
    uint32_t bias_count, forbidden_count, window_count, vocabulary;
    // "Off" as in SamplerParams.
    float repetition, frequency, presence, temperature, top_p, min_p, typical_p;
    uint32_t top_k;
    uint32_t position;  // absolute, of the token drawn
    uint64_t seed;
    // Work memory, sample_work of it.
    double* distance;    // [vocabulary]: values first
    uint64_t* mass;      // [vocabulary]
    uint64_t* weighted;  // [vocabulary]: rint(w * d * 2^52), with typical_p
    uint32_t* list;      // [vocabulary]
    SampleBest* best;    // [blocks]
    SampleLeft* left;
    SampleResult* result;
};
constexpr uint32_t kSampleThreads = 256, kSampleTokens = 1024;  // of a block
KEEL_DEVICE constexpr uint32_t sample_blocks(uint32_t vocabulary) {
    return divide_up(vocabulary, kSampleTokens);
}
// Shapes of sample_adjust, sample_weigh and sample_race; of sample_finish; of sample_select.
constexpr LaunchShape sample_shape(const SampleArgs& a) {
    return {sample_blocks(a.vocabulary), 1, kSampleThreads, kSampleThreads * sizeof(SampleBest)};
}
constexpr LaunchShape finish_shape(const SampleArgs&) {
    return {1, 1, kSampleThreads, kSampleThreads * sizeof(SampleBest)};
}
constexpr uint32_t kSelectThreads = 512, kSelectBins = 1024;
struct SelectShared {
    uint64_t low[kSelectBins], high[kSelectBins];  // sums of the lower 32 and the upper bits of weights
    uint32_t count[kSelectBins];
    uint64_t part_low[32], part_high[32];  // of 32 bins each
    uint64_t largest[kSelectThreads];
    uint32_t listed, cut;
};
constexpr LaunchShape select_shape(const SampleArgs&) {
    return {1, 1, kSelectThreads, sizeof(SelectShared)};
}

}  // namespace keel::cuda
