// The memory plan: what lies in which region, in count mode its size and in place mode its address.
#pragma once
#include "sdk/core/arena.h"
#include "sdk/kv/kv_arena.h"
#include "sdk/plan/config.h"
#include "sdk/plan/plan.h"

namespace keel {

struct Engine;

extern const char* const kRegionNames[KEEL_REGION_COUNT];

// Places everything of an engine into `arenas` (count mode: base null). The one function behind keel_plan and
// keel_engine_init. In count mode `engine` is the caller's; in place mode it is placed and returned through it.
struct PlaceResult {
    uint64_t mapped_weight_bytes;
    uint64_t load_bytes;  // what init will read from the file into memory: the total of the progress hook
    KvGeometry geometry;
    uint64_t kv_session_bytes, kv_side_bytes;
    ExecutionPlan plan;
};
keel_status place_engine(const keel_reader& reader, const keel_model& model, const PlanConfig& config,
                         const keel_hooks& hooks, const uint32_t op_counts[2], uint64_t load_bytes, Arena* arenas,
                         Engine** engine, PlaceResult* result, keel_error* error);

}  // namespace keel
