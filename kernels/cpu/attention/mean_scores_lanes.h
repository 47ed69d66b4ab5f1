// The removed K mean's share of the scores (NUMERICS section 5, "Mean") over a vector type V of float_vector.h: the
// offset rotations of a pair are read once for several query rows, and a tile's sums stay in registers over all pairs.
#pragma once
#include "kernels/cpu/kernel_set.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

// What the cosines (even) and sines (odd) of every pair are multiplied with in one tile, for one query row:
// E = A c + B s and F = B c - A s with base = c, s and coefficients = A, B of pair after pair.
template <class V>
KEEL_INLINE void mean_factors(const float* base, const float* coefficients, uint32_t pairs, float* even, float* odd) {
    using F = typename V::F;
    uint32_t i = 0;
    for (; i + V::kLanes <= pairs; i += V::kLanes) {
        F ca, cb, c, s;
        V::load_pairs(coefficients + 2 * i, &ca, &cb);
        V::load_pairs(base + 2 * i, &c, &s);
        V::store(even + i, V::fma(ca, c, V::mul(cb, s)));
        V::store(odd + i, V::fma(cb, c, V::negate(V::mul(ca, s))));
    }
    for (; i < pairs; ++i) {
        const float ca = coefficients[2 * i], cb = coefficients[2 * i + 1], c = base[2 * i], s = base[2 * i + 1];
        even[i] = fma_f32(ca, c, cb * s);
        odd[i] = fma_f32(cb, c, -(ca * s));
    }
}

// Registers of one row's positions that are summed together, R rows side by side.
template <class V, int R>
constexpr int mean_registers() {
    constexpr int kFit = kAccumulators<V> / R, kTile = static_cast<int>(kAttentionTile) / V::kLanes;
    int registers = 1;
    while (2 * registers <= kFit && 2 * registers <= kTile) registers *= 2;
    return registers;
}

// s[r][j] += the mean's share for R rows of the call, rows[r], and all 64 positions of the tile that begins at `first`.
template <class V, int R>
KEEL_INLINE void add_mean_scores_rows(const AttentionArgs& a, const uint32_t* rows, uint32_t first, float* const* s) {
    using F = typename V::F;
    constexpr int kTogether = mean_registers<V, R>();
    const uint32_t pairs = a.mean.pairs;
    const float* base = a.mean.tile_rotations + uint64_t{first / kAttentionTile} * 2 * pairs;
    float even[R][kMaxMeanPairs], odd[R][kMaxMeanPairs];
    for (int r = 0; r < R; ++r) mean_factors<V>(base, a.mean.coefficients[rows[r]], pairs, even[r], odd[r]);
    for (uint32_t j = 0; j < kAttentionTile; j += kTogether * V::kLanes) {
        F sum[R][kTogether];
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) KEEL_UNROLL
        for (int k = 0; k < kTogether; ++k) sum[r][k] = V::zero();
        const float* rotations = a.mean.offset_rotations + j;
        for (uint32_t i = 0; i < pairs; ++i, rotations += 2 * kAttentionTile) {
            F cosines[kTogether], sines[kTogether];
            KEEL_UNROLL
            for (int k = 0; k < kTogether; ++k) {
                cosines[k] = V::load(rotations + k * V::kLanes);
                sines[k] = V::load(rotations + kAttentionTile + k * V::kLanes);
            }
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) {
                const F e = V::set1(even[r][i]), f = V::set1(odd[r][i]);
                KEEL_UNROLL
                for (int k = 0; k < kTogether; ++k) sum[r][k] = V::fma(f, sines[k], V::fma(e, cosines[k], sum[r][k]));
            }
        }
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) KEEL_UNROLL
        for (int k = 0; k < kTogether; ++k) {
            float* to = s[r] + j + k * V::kLanes;
            V::store(to, V::add(V::load(to), sum[r][k]));
        }
    }
}

// The same for `count` rows. Positions that a row does not see are added to as well: nobody reads their scores.
template <class V>
KEEL_INLINE void add_mean_scores_lanes(const AttentionArgs& a, const uint32_t* rows, uint32_t count, uint32_t first,
                                       float* const* s) {
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) add_mean_scores_rows<V, 4>(a, rows + i, first, s + i);
    for (; i + 2 <= count; i += 2) add_mean_scores_rows<V, 2>(a, rows + i, first, s + i);
    if (i < count) add_mean_scores_rows<V, 1>(a, rows + i, first, s + i);
}

}  // namespace
}  // namespace keel::kernels
