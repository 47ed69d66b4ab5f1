// Products of integer K and V rows in NEON with dotprod and i8mm: with kv_unpack_neon.h the P of kv_ints_rows.h.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention/kv_unpack_neon.h"
#include "kernels/cpu/vector/float_neon.h"

namespace keel::kernels {
namespace {

struct KvRowsNeon : KvUnpackNeon {
    struct I {
        int32x4_t high, low;
    };
    static constexpr uint32_t kGroup = 4;
    static constexpr int kValueRows = 2;
    struct Weights {
        alignas(16) uint8_t high[kMaxKvScales][kAttentionTile],
            low[kMaxKvScales][kAttentionTile];  // w = 256 high + low
    };

    KEEL_INLINE void interleave(const int8_t* rows, uint64_t stride, int8_t* to) {
        vst4q_s8(to, int8x16x4_t{{vld1q_s8(rows), vld1q_s8(rows + stride), vld1q_s8(rows + 2 * stride),
                                  vld1q_s8(rows + 3 * stride)}});
    }
    KEEL_INLINE void store_weights(const float32x4_t v[16], Weights& w, uint32_t scale) {
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint16x8_t words =
                vcombine_u16(vmovn_u32(vcvtnq_u32_f32(v[2 * i])), vmovn_u32(vcvtnq_u32_f32(v[2 * i + 1])));
            vst1_u8(w.low[scale] + 8 * i, vmovn_u16(words));
            vst1_u8(w.high[scale] + 8 * i, vshrn_n_u16(words, 8));
        }
    }
    template <int C>
    KEEL_INLINE void dots(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, float32x4_t* dot) {
        int32x4_t sum[C][4];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (int32x4_t& s : sum[c]) s = vdupq_n_s32(0);
        for (uint32_t i = 0; i < n; i += 16) {
            int8x16_t k[4];
            KEEL_UNROLL
            for (int r = 0; r < 4; ++r) k[r] = vld1q_s8(keys + static_cast<uint64_t>(r) * stride + i);
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) {
                const int8x16_t x = vld1q_s8(q[c] + i);
                KEEL_UNROLL
                for (int r = 0; r < 4; ++r) sum[c][r] = vdotq_s32(sum[c][r], k[r], x);
            }
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c)
            dot[c] = vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(sum[c][0], sum[c][1]), vpaddq_s32(sum[c][2], sum[c][3])));
    }
    KEEL_INLINE I zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
    template <int C>
    KEEL_INLINE void add(I (*sum)[4], const int8_t* x, const Weights* w, uint32_t scale, uint64_t j) {
        int8x16_t values[4];
        KEEL_UNROLL
        for (int k = 0; k < 4; ++k) values[k] = vld1q_s8(x + 16 * k);
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            const auto four = [j](const uint8_t* p) KEEL_ALWAYS_INLINE {
                uint32_t v;
                memcpy(&v, p + j, 4);
                return vreinterpretq_u8_u32(vdupq_n_u32(v));
            };
            const uint8x16_t high = four(w[i].high[scale]), low = four(w[i].low[scale]);
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
