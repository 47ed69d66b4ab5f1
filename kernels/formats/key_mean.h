// A mean removed from keys (sdk/plan/kv_transform.h), on one head of one position: what host and GPU share.
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {

// The elements of RoPE pair i: (2i, 2i + 1), or with neox (i, i + pairs).
struct PairElements {
    uint32_t first, second;
};
KEEL_DEVICE constexpr PairElements pair_elements(uint32_t i, uint32_t rope_pairs, bool neox) {
    return neox ? PairElements{i, i + rope_pairs} : PairElements{2 * i, 2 * i + 1};
}

// The coefficients (A, B) that a removed mean of pair `at` has in the score of a rotated query q: KeyMean of
// kernels/cpu/kernel_set.h. `factor`: the rotation's attention factor.
KEEL_DEVICE static inline void key_mean_coefficient(const float* mean, PairElements at, float factor, const float* q,
                                                    float* a, float* b) {
    const float m0 = mul_f32(mean[at.first], factor), m1 = mul_f32(mean[at.second], factor), q0 = q[at.first],
                q1 = q[at.second];
    *a = add_f32(mul_f32(q0, m0), mul_f32(q1, m1));
    *b = add_f32(mul_f32(q1, m0), -mul_f32(q0, m1));
}

}  // namespace keel::kernels
