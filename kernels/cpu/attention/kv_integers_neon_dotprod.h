// Products of integer K and V rows in NEON with dotprod: the P of kv_integers_rows_lanes.h.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention/kv_integers_neon.h"

namespace keel::kernels {
namespace {

// What the set with i8mm shares: a weight is two bytes, products of four go to a sum each.
struct KvDotsNeon : KvCodesNeon {
    struct I {
        int32x4_t high, low;
    };
    static constexpr uint32_t kGroup = 4;
    static constexpr bool kInterleaved = true;
    static constexpr int kValueRows = 2;
    struct Weights {
        alignas(16) uint8_t high[kMaxKvScales][kAttentionTile], low[kMaxKvScales][kAttentionTile];
    };

    KEEL_INLINE void interleave(const int8_t* rows, uint64_t stride, int8_t* to) {
        vst4q_s8(to, int8x16x4_t{{vld1q_s8(rows), vld1q_s8(rows + stride), vld1q_s8(rows + 2 * stride),
                                  vld1q_s8(rows + 3 * stride)}});
    }
    // w = 256 high + (low ^ flip).
    template <int flip>
    KEEL_INLINE void store_bytes(const float32x4_t v[16], Weights& w, uint32_t scale) {
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) {
            const uint16x8_t words =
                vcombine_u16(vmovn_u32(vcvtnq_u32_f32(v[2 * i])), vmovn_u32(vcvtnq_u32_f32(v[2 * i + 1])));
            vst1_u8(w.low[scale] + 8 * i, veor_u8(vmovn_u16(words), vdup_n_u8(flip)));
            vst1_u8(w.high[scale] + 8 * i, vshrn_n_u16(words, 8));
        }
    }
    // Four bytes, four times.
    KEEL_INLINE uint8x16_t four(const uint8_t* p) {
        uint32_t v;
        memcpy(&v, p, 4);
        return vreinterpretq_u8_u32(vdupq_n_u32(v));
    }
    template <int C, bool kUnsigned>
    KEEL_INLINE void dots(const int8_t* keys, uint64_t stride, const int8_t* const* q, const int32_t*, uint32_t n,
                          float32x4_t* dot) {
        static_assert(!kUnsigned);
        dots_by<C>(keys, stride, q, n, dot,
                   [](int32x4_t sum, int8x16_t k, int8x16_t x) KEEL_ALWAYS_INLINE { return vdotq_s32(sum, k, x); });
    }
    KEEL_INLINE I zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
};

// SDOT takes signed bytes only. 127 - low is one, and has the bits of low ^ 127; so I::low sums the products of
// 127 - low and of -127, which together are those of -low.
struct KvIntegersNeonDotprod : KvDotsNeon {
    KEEL_INLINE void store_weights(const float32x4_t v[16], Weights& w, uint32_t scale) {
        store_bytes<127>(v, w, scale);
    }
    template <int C>
    KEEL_INLINE void add(I (*sum)[4], const int8_t* x, uint64_t, const Weights* w, uint32_t scale, uint64_t j) {
        const int8x16_t minus_127 = vdupq_n_s8(-127);
        int8x16_t values[4];
        KEEL_UNROLL
        for (int k = 0; k < 4; ++k) values[k] = vld1q_s8(x + 16 * k);
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            const int8x16_t high = vreinterpretq_s8_u8(four(w[i].high[scale] + j)),
                            low = vreinterpretq_s8_u8(four(w[i].low[scale] + j));
            KEEL_UNROLL
            for (int k = 0; k < 4; ++k) {
                sum[i][k].high = vdotq_s32(sum[i][k].high, values[k], high);
                sum[i][k].low = vdotq_s32(vdotq_s32(sum[i][k].low, values[k], low), values[k], minus_127);
            }
        }
    }
    KEEL_INLINE float32x4_t total(I sum) { return vcvtq_f32_s32(vsubq_s32(vshlq_n_s32(sum.high, 8), sum.low)); }
};

}  // namespace
}  // namespace keel::kernels
#endif
