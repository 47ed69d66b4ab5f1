// Sampling: logits in, one token out, no allocation. NUMERICS section 6 is the definition. Logits and exponentials are
// f64, probabilities are counted in integers: no result depends on the order of a sum, and every one equals that of a
// plain sort-based implementation exactly.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/backend/draw.h"

namespace keel {

constexpr uint32_t kMaxLogprobs = 256;

// Validates and copies; null source gives greedy. *out is untouched on error.
// KEEL_E_ABI from struct_size. KEEL_E_ARGUMENT: a NaN; temperature or repetition_penalty negative or infinite; top_p,
// min_p or typical_p outside [0, 1]; an infinite penalty; a bias of +inf; an id outside the vocabulary; a count over
// its limit or without its array; reserved not 0.
keel_status sampler_set(const keel_sampling* source, uint32_t vocabulary, SamplerParams* out,
                        keel_error* error = nullptr);
// The same checks for parameters from a saved session: KEEL_E_ARGUMENT, or KEEL_OK and sampler_draw may use them.
keel_status sampler_check(const SamplerParams& params, uint32_t vocabulary, keel_error* error = nullptr);

struct SamplerInput {
    const float* logits;  // vocabulary floats, not modified
    uint32_t vocabulary;
    const int32_t* history;  // all tokens of the session
    uint32_t history_count;  // the absolute position of the token drawn
    uint32_t sampled_count;  // for min_tokens
    const int32_t* end_ids;  // end-of-sequence ids suppressed while sampled_count < min_tokens
    uint32_t end_count;
    const uint8_t* mask;  // allowed-token bits, or null
    const kernels::KernelSet* kernel;
};

// Bytes of work memory sampler_draw needs for a vocabulary (64-byte aligned): 14 per entry and 24 KiB.
uint64_t sampler_work_bytes(uint32_t vocabulary);
// *token is untouched on error, the work memory is not. Time: greedy O(vocabulary + window); otherwise a filter takes a
// bounded number of passes over what the previous one left, for any logits, and the race one (race, sampler_passes.h).
// KEEL_E_NUMERIC when a logit is NaN or +inf (also one that is excluded), or nothing is allowed. -inf forbids a token.
// KEEL_E_ARGUMENT when a history id in the penalty window is outside the vocabulary; such end_ids are skipped.
keel_status sampler_draw(const SamplerParams& params, const SamplerInput& input, void* work, int32_t* token);

// As keel_session_top_logprobs; uses the same work memory. A logit of -inf has log-probability -inf.
// KEEL_E_ARGUMENT when n is over kMaxLogprobs or the vocabulary; KEEL_E_NUMERIC as above.
keel_status top_logprobs(const kernels::KernelSet& kernel, const float* logits, uint32_t vocabulary, uint32_t n,
                         void* work, int32_t* ids, float* logprobs);

}  // namespace keel
