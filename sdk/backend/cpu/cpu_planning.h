// What the CPU backend tells a plan (backend.h): products and layouts of weights, predicted times, working memory, and
// which ops run together:
//
//     products that write parts of one buffer, then their glu, then its quantizing
//     the A of products that read the same rows; the B of products that write parts of one buffer
//     qk_norm + rope + kv_append, then in flat steps attention, then attention_finish
#pragma once
#include "sdk/backend/backend.h"
#include "sdk/plan/dispatch.h"

namespace keel {

keel_status cpu_configure(PlanConfig* config, const ModelSpec& spec, keel_error* error);
WeightUse cpu_weights(const PlanConfig& config, keel_weights mode, uint32_t weight_type, uint64_t rows, bool lookup);
uint64_t cpu_cost(const PlanConfig& config, Op* op);
uint32_t cpu_fuse(const Op* ops, uint32_t left, const StepShape& shape);

}  // namespace keel
