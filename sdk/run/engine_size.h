// What keel_plan, keel_plan_ops, keel_plan_buffers and keel_engine_init need to know first: the size of everything.
#pragma once
#include "sdk/plan/memory.h"

namespace keel {

struct EngineSize {
    keel_reader reader;
    PlanConfig config;
    keel_hooks hooks;
    uint32_t op_counts[kOpLists];
    uint64_t scratch_bytes;
    uint32_t scratch_count;  // values that scratch buffers have one after another
    Arena arenas[KEEL_REGION_COUNT];
    Layout layout;

    LayoutRequest request(const keel_model& model, uint64_t load_bytes, const PlanObservers& observers = {}) const;
};

// How closely the reader is compared with the file that was inspected: by its size, or by fingerprint, which reads the
// whole header.
enum class SameFile { kBySize, kByFingerprint };

// Errors as keel_plan.
keel_status size_engine(const keel_reader* reader, const keel_model* model, const keel_config* config, SameFile same,
                        EngineSize* out, keel_error* error);

}  // namespace keel
