// Products of integer K and V rows in NEON with i8mm: the P of kv_integers_rows_lanes.h. USDOT takes the bytes of a
// weight as they are.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels/cpu/attention/kv_integers_neon_dotprod.h"

namespace keel::kernels {
namespace {

struct KvIntegersNeonI8mm : KvDotsNeon {
    KEEL_INLINE void store_weights(const float32x4_t v[16], Weights& w, uint32_t scale) { store_bytes<0>(v, w, scale); }
    template <int C>
    KEEL_INLINE void add(I (*sum)[4], const int8_t* x, uint64_t, const Weights* w, uint32_t scale, uint64_t j) {
        int8x16_t values[4];
        KEEL_UNROLL
        for (int k = 0; k < 4; ++k) values[k] = vld1q_s8(x + 16 * k);
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            const uint8x16_t high = four(w[i].high[scale] + j), low = four(w[i].low[scale] + j);
            KEEL_UNROLL
            for (int k = 0; k < 4; ++k) {
                sum[i][k].high = vusdotq_s32(sum[i][k].high, high, values[k]);
                sum[i][k].low = vusdotq_s32(sum[i][k].low, low, values[k]);
            }
        }
    }
    KEEL_INLINE float32x4_t total(I sum) { return vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(sum.high, 8), sum.low)); }
};

}  // namespace
}  // namespace keel::kernels
#endif
