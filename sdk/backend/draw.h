// One draw, as a backend is asked for it: what the session's sampling makes of logits that the backend still has.
#pragma once
#include <stdint.h>

namespace keel {

constexpr uint32_t kMaxBias = 256;
constexpr uint32_t kMaxExcluded = 256;
constexpr uint32_t kMaxForbidden = kMaxExcluded + 32;  // and end-of-sequence ids

// A session's copy of keel_sampling: POD without padding, saved with the session. Defaults are filled in: "off" is 1
// for top_p, typical_p and repetition_penalty, 0 for the rest; unused entries of the arrays are 0.
struct SamplerParams {
    float temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t top_k, penalty_window, min_tokens;
    uint64_t seed;
    uint32_t bias_count, excluded_count;
    int32_t bias_ids[kMaxBias];
    float bias_values[kMaxBias];
    int32_t excluded_ids[kMaxExcluded];
};

struct TokenUses {
    uint32_t id, count;
};

// NUMERICS section 6. Every id is within the vocabulary.
struct DrawRequest {
    const SamplerParams& params;
    uint32_t row;  // of Program::logits: whose logits
    uint32_t forbidden_count, window_count;
    uint32_t position;          // absolute, of the token drawn
    const uint32_t* forbidden;  // distinct ids: the excluded ones, and ends where min_tokens holds them back
    const TokenUses* window;    // distinct ids of the penalty window; none where there is no penalty
    const uint8_t* mask;        // allowed-token bits, or null
};

}  // namespace keel
