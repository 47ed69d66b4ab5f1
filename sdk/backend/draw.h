// One draw, as a backend is asked for it: what the session's sampling makes of logits that the backend still has.
#pragma once
#include <stdint.h>

namespace keel {

constexpr uint32_t kMaxDrawBiases = 256, kMaxForbidden = 256 + 32;

struct TokenUses {
    uint32_t id, count;
};

// NUMERICS section 6. Parameters that are "off" are so as in SamplerParams; every id is within the vocabulary.
struct DrawRequest {
    uint32_t row;  // of Program::logits: whose logits
    float temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t top_k;
    uint64_t uniform;  // U
    uint32_t bias_count, forbidden_count, window_count;
    const int32_t* bias_ids;
    const float* bias_values;
    const uint32_t* forbidden;  // distinct ids
    const TokenUses* window;    // distinct ids of the penalty window; none where there is no penalty
    const uint8_t* mask;        // allowed-token bits, or null
};

}  // namespace keel
