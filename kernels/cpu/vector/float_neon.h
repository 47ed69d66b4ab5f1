// Four f32 lanes of NEON: the interface of float_vector.h. Only *_neon*.cpp files include this.
#pragma once
#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdint.h>

#include "kernels/cpu/vector/inline.h"

namespace keel::kernels {
namespace {

struct FloatNeon {
    using F = float32x4_t;
    using Mask = uint32x4_t;
    static constexpr int kLanes = 4;
    static constexpr int kRegisters = 32;

    // Bytes, whose alignment nobody assumes.
    KEEL_INLINE uint8x16_t bytes(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
    KEEL_INLINE uint8x8_t half_bytes(const void* p) { return vld1_u8(static_cast<const uint8_t*>(p)); }

    KEEL_INLINE F zero() { return vdupq_n_f32(0.0f); }
    KEEL_INLINE F set1(float x) { return vdupq_n_f32(x); }
    KEEL_INLINE F load(const float* p) { return vreinterpretq_f32_u8(bytes(p)); }
    KEEL_INLINE void store(float* p, F v) { vst1q_f32(p, v); }
    KEEL_INLINE F load_first(const float* p, uint32_t n) {
        F v = zero();
        if (n > 0) v = vsetq_lane_f32(p[0], v, 0);
        if (n > 1) v = vsetq_lane_f32(p[1], v, 1);
        if (n > 2) v = vsetq_lane_f32(p[2], v, 2);
        return v;
    }
    KEEL_INLINE void store_first(float* p, uint32_t n, F v) {
        if (n > 0) p[0] = vgetq_lane_f32(v, 0);
        if (n > 1) p[1] = vgetq_lane_f32(v, 1);
        if (n > 2) p[2] = vgetq_lane_f32(v, 2);
    }
    KEEL_INLINE F load_f16(const void* p) { return vcvt_f32_f16(vreinterpret_f16_u8(half_bytes(p))); }
    KEEL_INLINE F load_bf16(const void* p) {
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(half_bytes(p)), 16));
    }
    KEEL_INLINE void store_f16(void* p, F v) {
        vst1_u8(static_cast<uint8_t*>(p), vreinterpret_u8_f16(vcvt_f16_f32(v)));
    }
    KEEL_INLINE void load_pairs(const float* p, F* even, F* odd) {
        const float32x4x2_t v = vld2q_f32(p);
        *even = v.val[0];
        *odd = v.val[1];
    }
    KEEL_INLINE void store_pairs(float* p, F even, F odd) { vst2q_f32(p, float32x4x2_t{{even, odd}}); }

    KEEL_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
    KEEL_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
    KEEL_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
    KEEL_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    KEEL_INLINE F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
    KEEL_INLINE F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // the instruction would return a NaN
    KEEL_INLINE F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    KEEL_INLINE F abs(F v) { return vabsq_f32(v); }
    KEEL_INLINE F negate(F v) { return vnegq_f32(v); }
    KEEL_INLINE F with_sign(F magnitude, F sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
    KEEL_INLINE F mul_pow2(F p, F n) {
        const int32x4_t i = vcvtq_s32_f32(n), half = vshrq_n_s32(i, 1), bias = vdupq_n_s32(127);
        const int32x4_t low = vshlq_n_s32(vaddq_s32(half, bias), 23),
                        high = vshlq_n_s32(vaddq_s32(vsubq_s32(i, half), bias), 23);
        return mul(mul(p, vreinterpretq_f32_s32(low)), vreinterpretq_f32_s32(high));
    }

    KEEL_INLINE Mask less(F a, F b) { return vcltq_f32(a, b); }
    KEEL_INLINE Mask is_number(F v) { return vceqq_f32(v, v); }
    KEEL_INLINE Mask lanes_between(int lo, int hi) {
        const int32x4_t i = {0, 1, 2, 3};
        return vandq_u32(vcgeq_s32(i, vdupq_n_s32(lo)), vcltq_s32(i, vdupq_n_s32(hi)));
    }
    KEEL_INLINE Mask both(Mask a, Mask b) { return vandq_u32(a, b); }
    KEEL_INLINE bool all(Mask m) { return vminvq_u32(m) != 0; }
    KEEL_INLINE F select(Mask m, F a, F b) { return vbslq_f32(m, a, b); }
    KEEL_INLINE F keep(Mask m, F v) { return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(v))); }

    KEEL_INLINE float max_across(F v) { return vmaxvq_f32(v); }
    KEEL_INLINE F tree_b(const F lanes[4]) { return add(add(lanes[0], lanes[2]), add(lanes[1], lanes[3])); }
    KEEL_INLINE float tree16_one(const F lanes[4]) {
        const F b = tree_b(lanes);
        return vaddv_f32(vadd_f32(vget_low_f32(b), vget_high_f32(b)));
    }
    KEEL_INLINE F tree16(const F (*lanes)[4]) {
        F c[2];
        KEEL_UNROLL
        for (int i = 0; i < 2; ++i) {
            const float64x2_t p = vreinterpretq_f64_f32(tree_b(lanes[2 * i])),
                              q = vreinterpretq_f64_f32(tree_b(lanes[2 * i + 1]));
            c[i] = add(vreinterpretq_f32_f64(vzip1q_f64(p, q)), vreinterpretq_f32_f64(vzip2q_f64(p, q)));
        }
        return vpaddq_f32(c[0], c[1]);
    }
    KEEL_INLINE int32_t store_codes16(const F v[4], int8_t* q) {
        const auto words = [](F lo, F hi) KEEL_ALWAYS_INLINE {
            return vcombine_s16(vmovn_s32(vcvtnq_s32_f32(lo)), vmovn_s32(vcvtnq_s32_f32(hi)));
        };
        const int8x16_t codes = vcombine_s8(vmovn_s16(words(v[0], v[1])), vmovn_s16(words(v[2], v[3])));
        vst1q_s8(q, codes);
        return vaddlvq_s8(codes);
    }

    // ---- words in the lower halves of 64-bit lanes, for race.h ----
    using Words = uint64x2_t;
    KEEL_INLINE Words words1(uint32_t x) { return vdupq_n_u64(x); }
    KEEL_INLINE Words load_wide(const uint64_t* p) { return vld1q_u64(p); }
    KEEL_INLINE Words mul_words(Words a, Words b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
    KEEL_INLINE Words upper_words(Words v) { return vshrq_n_u64(v, 32); }
    KEEL_INLINE Words differ(Words a, Words b) { return veorq_u64(a, b); }
    KEEL_INLINE void store_fours(uint32_t* p, Words w0, Words w1, Words w2, Words w3) {
        vst4_u32(p, uint32x2x4_t{{vmovn_u64(w0), vmovn_u64(w1), vmovn_u64(w2), vmovn_u64(w3)}});
    }

    // ---- for kv_codecs_lanes.h ----
    template <int s>
    KEEL_INLINE F butterfly(F v) {
        const F swapped = s == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
        const uint32x4_t upper = s == 1 ? uint32x4_t{0, ~0u, 0, ~0u} : uint32x4_t{0, 0, ~0u, ~0u};
        return vbslq_f32(upper, vsubq_f32(swapped, v), vaddq_f32(v, swapped));
    }
    KEEL_INLINE void store_words8(const F v[8], int16_t* p) {
        const auto words = [](F x) KEEL_ALWAYS_INLINE { return vmovn_s32(vcvtnq_s32_f32(x)); };
        vst4_s16(p, int16x4x4_t{{words(v[0]), words(v[1]), words(v[2]), words(v[3])}});
        int16_t upper[16];
        vst4_s16(upper, int16x4x4_t{{words(v[4]), words(v[5]), words(v[6]), words(v[7])}});
        const int16x8_t low01 = vld1q_s16(p), low23 = vld1q_s16(p + 8), high01 = vld1q_s16(upper),
                        high23 = vld1q_s16(upper + 8);
        vst1q_s16(p, vcombine_s16(vget_low_s16(low01), vget_low_s16(high01)));
        vst1q_s16(p + 8, vcombine_s16(vget_high_s16(low01), vget_high_s16(high01)));
        vst1q_s16(p + 16, vcombine_s16(vget_low_s16(low23), vget_low_s16(high23)));
        vst1q_s16(p + 24, vcombine_s16(vget_high_s16(low23), vget_high_s16(high23)));
    }
    KEEL_INLINE F load_words(const int16_t* p) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(p))); }
};

}  // namespace
}  // namespace keel::kernels
#endif
