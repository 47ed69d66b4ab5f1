// Sampling: logits in, one token out, no allocation. NUMERICS section 6 is the definition; everything is in f64 and in a
// fixed order, so that it equals a plain sort-based implementation exactly.
#pragma once
#include "keel/keel.h"

namespace keel {

constexpr uint32_t kMaxBias = 256;
constexpr uint32_t kMaxExcluded = 256;
constexpr uint32_t kMaxTopLogprobs = 256;

// A session's copy of keel_sampling: POD, saved with the session.
struct SamplerParams {
    float temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t top_k, penalty_window, min_tokens;
    uint64_t seed;
    uint32_t bias_count, excluded_count;
    int32_t bias_ids[kMaxBias];
    float bias_values[kMaxBias];
    int32_t excluded_ids[kMaxExcluded];
};

// Validates and copies; null source gives greedy. KEEL_E_ARGUMENT, KEEL_E_ABI.
keel_status sampler_set(const keel_sampling* source, uint32_t vocabulary, SamplerParams* out);

struct SamplerInput {
    const float* logits;           // vocabulary floats, not modified
    uint32_t vocabulary;
    const int32_t* history;        // all tokens of the session
    uint32_t history_count;        // the absolute position of the token drawn: the RNG counter
    uint32_t sampled_count;        // for min_tokens
    const int32_t* end_ids;        // end-of-sequence ids suppressed while sampled_count < min_tokens
    uint32_t end_count;
    const uint8_t* mask;           // allowed-token bits, or null
};

// Bytes of work memory sampler_draw needs for a vocabulary (64-byte aligned).
uint64_t sampler_work_bytes(uint32_t vocabulary);
// KEEL_E_NUMERIC when a logit is NaN or +inf, or nothing is allowed. -inf forbids a token.
keel_status sampler_draw(const SamplerParams& params, const SamplerInput& input, void* work, int32_t* token);

// As keel_session_top_logprobs; uses the same work memory.
keel_status top_logprobs(const float* logits, uint32_t vocabulary, uint32_t n, void* work, int32_t* ids, float* logprobs);

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): counter-based, so a draw depends on (key, counter) alone.
void philox4x32(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

}  // namespace keel
