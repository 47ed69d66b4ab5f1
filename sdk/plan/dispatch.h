// Ops that run together. A dispatch is a range of ops whose work items all threads share between two barriers. Which
// ops join is the backend's decision (Backend::fuse), the same for `keel plan`, for lifetimes and for running.
#pragma once
#include "sdk/plan/ops.h"

namespace keel {

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

}  // namespace keel
