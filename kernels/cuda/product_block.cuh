// The integers of one block of weights in fragments and its part in the chain of a sum (NUMERICS section 2).
#pragma once
#include "kernels/cuda/fragments.cuh"

namespace keel::cuda {

// Of rows g, g, g + 8, g + 8 and tokens 2t, 2t + 1 in turn, for groups of 8 tokens: I and, for types with integer
// minima, M of the contract. With one token, COLUMNS 1, only those of 2t.
template <uint32_t GROUPS>
struct Integers {
    int32_t i[GROUPS][4], m[GROUPS][4];
};
// `x`: the words of codes of the token that this lane multiplies; sums0, sums1: pairs of sums of tokens 2t and 2t + 1.
// Those of the next group are `stride` words behind.
template <WeightType T, uint32_t GROUPS, uint32_t COLUMNS = 2>
KEEL_GPU Integers<GROUPS> multiply_block(const Fragment<T>& f, const uint32_t* x, const uint32_t* sums0,
                                         const uint32_t* sums1, uint32_t stride, uint32_t lane) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    const uint32_t t = lane % 4;
    Integers<GROUPS> n = {};
    KEEL_UNROLL
    for (uint32_t r = 0; r < FragmentShape<T>::kRuns; ++r) {
        uint32_t a[4];
        values_of_run<T>(f, r, a);
        KEEL_UNROLL
        for (uint32_t group = 0; group < GROUPS; ++group) {
            int32_t *i = n.i[group], *m = n.m[group];
            const uint32_t* codes = x + group * stride + 8 * r + t;
            if constexpr (kInfo.sub_block == 0) {
                mma_s8(i, a, codes[0], codes[4]);
            } else if constexpr (kInfo.sub_block == 32) {
                int32_t q[4] = {};
                mma_s8(q, a, codes[0], codes[4]);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; c += 3 - COLUMNS)
                    i[c] += byte_at(scales4<T>(f.scales[c / 2], r / 4), r) * q[c];
            } else {
                int32_t q[4] = {}, p[4] = {};
                mma_s8(q, a[0], a[1], codes[0]);
                mma_s8(p, a[2], a[3], codes[4]);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; c += 3 - COLUMNS) {
                    const uint32_t scales = scales4<T>(f.scales[c / 2], r / 2);
                    i[c] += byte_at(scales, 2 * r) * q[c] + byte_at(scales, 2 * r + 1) * p[c];
                }
            }
            if constexpr (kInfo.sub_block && kInfo.m_at != kernels::kNoField) {
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; c += 3 - COLUMNS) {
                    const uint32_t sums = (c % 2 ? sums1 : sums0)[group * stride + r];
                    if constexpr (kInfo.sub_block == 32) {
                        // Two sums of 16, and one minimum for both.
                        const uint32_t minimum = minima4<T>(f.scales[c / 2], r / 4) >> 8 * (r % 4) & 255;
                        m[c] = dp2a_lo(sums, minimum * 0x101, m[c]);
                    } else {
                        m[c] = dp2a_lo(sums, minima4<T>(f.scales[c / 2], r / 2) >> 16 * (r % 2), m[c]);
                    }
                }
            }
        }
    }
    return n;
}

// The end of a block's part in the chain of one row and token.
template <WeightType T>
KEEL_GPU float chain(float acc, uint32_t factors, float d_token, int32_t i, int32_t m) {
    acc = fma_f32(mul_f32(d_of<T>(factors), d_token), static_cast<float>(i), acc);
    if constexpr (kWeightTypes[T].m_at != kernels::kNoField) {
        const float minimum = mul_f32(minimum_of(factors), d_token);
        acc = fma_f32(kWeightTypes[T].sub_block ? -minimum : minimum, static_cast<float>(m), acc);
    }
    return acc;
}

// m of the contract for types without integer minima: the sum of 32 activations.
KEEL_GPU int32_t sum_of_pair(uint32_t sums) {
    return static_cast<int16_t>(sums) + static_cast<int16_t>(sums >> 16);
}

}  // namespace keel::cuda
