// What happens to q, k and v between their projections and the arena, beside coding (NUMERICS section 7):
//
//     k:  [- mean, listed RoPE pairs] -> RoPE -> [- mean, other elements] -> [/ gain] -> [rotation] -> arena
//     v:  [- mean] -> [rotation] -> arena
//     q:  RoPE -> coefficients of the removed mean -> [* gain] -> [rotation] -> attention
//     attention's output: -> [rotation back] -> [+ mean of v]
//
// Steps in brackets exist where a profile, a bias or the format asks for them. All of it is exact but for rounding: a
// mean subtracted after RoPE shifts all scores of a query alike, which softmax does not see; one subtracted before it
// comes back as a score of its own (kernels::KeyMean); the mean of v comes back because weights sum to 1.
#pragma once
#include "kernels/cpu/kernel_set.h"
#include "sdk/core/arena.h"
#include "sdk/kv/kv_profile.h"
#include "sdk/plan/config.h"
#include "sdk/plan/ops.h"

namespace keel {

// Most RoPE pairs of which a bias is removed before the rotation where no profile says more.
constexpr uint32_t kBiasMeanPairs = 16;

struct KvTransform {
    uint32_t pairs;  // listed RoPE pairs
    uint32_t* pair;  // [pairs], ascending
    // [layers][kv_heads][head_dim], or null
    float *key_mean, *value_mean, *gain, *inverse_gain;
    // Per rope set, tables of kernels::KeyMean: [sets][tiles][2 * pairs] and [sets][2 * pairs][kAttentionTile]
    float *tile_rotations, *offset_rotations;
    uint32_t tiles, kv_heads, head_dim;
    uint64_t bytes;  // of all of it, placed in the persistent region

    uint64_t at(uint32_t layer, uint32_t kv_head) const { return (uint64_t{layer} * kv_heads + kv_head) * head_dim; }
    const float* set_tile_rotations(uint32_t set) const { return tile_rotations + uint64_t{set} * tiles * 2 * pairs; }
    const float* set_offset_rotations(uint32_t set) const {
        return offset_rotations + uint64_t{set} * 2 * pairs * kernels::kAttentionTile;
    }
};

// RoPE pairs of which a K mean will be removed before the rotation. Known before anything is placed.
uint32_t kv_mean_pairs(const KvChoice& choice, const keel_model& model);

// Places the arrays and, in place mode, fills them from the profile or from the biases of `reader`.
keel_status place_kv_transform(const keel_reader& reader, const PlanConfig& config, const keel_model& model,
                               const ExecutionPlan& plan, const double* frequencies, Arena& arena, KvTransform* out,
                               keel_error* error);

// One head of one position, in place; `neox` as in KernelSet::rope.
void remove_key_mean_before_rope(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                                 float* k);
void remove_key_mean_after_rope(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                                float* k);
// coefficients f32[2 * pairs] of a rotated query; `factor`: the rotation's attention factor.
void key_mean_coefficients(const KvTransform& t, uint32_t layer, uint32_t kv_head, uint32_t rope_pairs, bool neox,
                           float factor, const float* q, float* coefficients);
// x[i] *= by[i], x[i] -= by[i], x[i] += by[i]
void multiply_row(float* x, const float* by, uint32_t n);
void subtract_row(float* x, const float* by, uint32_t n);
void add_row(float* x, const float* by, uint32_t n);

}  // namespace keel
