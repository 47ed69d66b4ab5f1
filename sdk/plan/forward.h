// The forward pass as a plan. The one function behind counting, placing and listing it.
#pragma once
#include "sdk/plan/op_builder.h"

namespace keel {

// Who else wants to know, beside the plan; each may be null.
struct PlanObservers {
    const LifetimeObserver* lifetimes;
    const OpObserver* ops;
};

// Builds the ops of every variant of `model` and packs their buffers. Counting (weights.arena.counting()): `ops` may be
// null. Else it has room for all of them: as many of each variant, one variant behind the other, as a count run found.
// Failures are in weights.status.
void build_plan(const keel_reader& reader, const keel_model& model, const PlanConfig& config, WeightPlacer& weights,
                Op* ops, const uint32_t op_counts[kOpLists], const PlanObservers& observers, ExecutionPlan* plan);

}  // namespace keel
