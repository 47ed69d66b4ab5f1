// Which ops run together. A dispatch is a range of ops whose work items all threads share between two barriers; this is
// the one place that decides, for `keel plan`, for lifetimes and for running:
//
//     products that write parts of one buffer, then their glu, then its quantizing
//     qk_norm + rope + kv_append, then in flat steps attention, then attention_finish
#pragma once
#include "sdk/plan/ops.h"

namespace keel {

constexpr uint32_t kMaxMatmuls = 3;  // products of one dispatch

// What joining depends on besides the ops.
struct StepShape {
    uint32_t tokens;
    bool flat;  // attention's work items are (KV head, token), each over all KV splits
    uint32_t threads, tile_us;
};
// No shape joins more ops than this one: what lifetimes are computed for.
constexpr StepShape most_joined_shape(uint32_t threads, uint32_t tile_us) {
    return {1, true, threads, tile_us};
}

// How many of the `left` ops from `ops` on are one dispatch; at least 1.
uint32_t dispatch_at(const Op* ops, uint32_t left, const StepShape& shape);

}  // namespace keel
