// The integer vectors of NEON for q8_products.h: four rows. A pair of 16-bit factors lies apart: the first ones of the
// four rows, then the second ones. Products of bytes need no extension of NEON here; sets with one have their own
// (q8_neon_dotprod.h).
#pragma once
#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdint.h>

#include "kernels/cpu/matmul/q8_products.h"

namespace keel::kernels {
namespace {

// All but the products of codes and activations.
struct Q8NeonVectors {
    using I = int32x4_t;
    using F = float32x4_t;
    static constexpr uint32_t kLanes = 4;
    static constexpr bool kHasDot4 = false, kSignedCodes = true, kSplitSigns = false, kInPlace = false;
    static constexpr uint32_t kFewTokens = 16, kMaxPanels = 4;
    static constexpr int kTileTokens = 8, kTilePanels = 1;

    KEEL_INLINE int8x16_t as8(I v) { return vreinterpretq_s8_s32(v); }
    KEEL_INLINE int16x8_t as16(I v) { return vreinterpretq_s16_s32(v); }
    KEEL_INLINE uint32x4_t as_unsigned(I v) { return vreinterpretq_u32_s32(v); }
    KEEL_INLINE I of8(int8x16_t v) { return vreinterpretq_s32_s8(v); }
    KEEL_INLINE I of16(int16x8_t v) { return vreinterpretq_s32_s16(v); }

    KEEL_INLINE I load(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
    KEEL_INLINE void load_rows(const uint8_t* p, uint64_t stride, I out[4]) {
        const I y0 = load(p), y1 = load(p + stride), y2 = load(p + 2 * stride), y3 = load(p + 3 * stride);
        const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(y0, y1)), b = vreinterpretq_s64_s32(vtrn2q_s32(y0, y1));
        const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(y2, y3)), d = vreinterpretq_s64_s32(vtrn2q_s32(y2, y3));
        out[0] = vreinterpretq_s32_s64(vzip1q_s64(a, c));
        out[1] = vreinterpretq_s32_s64(vzip1q_s64(b, d));
        out[2] = vreinterpretq_s32_s64(vzip2q_s64(a, c));
        out[3] = vreinterpretq_s32_s64(vzip2q_s64(b, d));
    }
    KEEL_INLINE I load_row_dwords(const uint8_t* p, uint64_t stride) {
        int32_t v[4];
        KEEL_UNROLL
        for (uint64_t i = 0; i < 4; ++i) memcpy(v + i, p + i * stride, 4);
        return I{v[0], v[1], v[2], v[3]};
    }
    KEEL_INLINE I zero() { return vdupq_n_s32(0); }
    KEEL_INLINE I set1_8(int v) { return of8(vdupq_n_s8(static_cast<int8_t>(v))); }
    KEEL_INLINE I set1_16(int v) { return of16(vdupq_n_s16(static_cast<int16_t>(v))); }
    KEEL_INLINE I set1_32(int v) { return vdupq_n_s32(v); }
    KEEL_INLINE I and_(I a, I b) { return vandq_s32(a, b); }
    KEEL_INLINE I or_(I a, I b) { return vorrq_s32(a, b); }
    KEEL_INLINE I add8(I a, I b) { return of8(vaddq_s8(as8(a), as8(b))); }
    KEEL_INLINE I sub8(I a, I b) { return of8(vsubq_s8(as8(a), as8(b))); }
    KEEL_INLINE I negate16(I a) { return of16(vnegq_s16(as16(a))); }
    template <int n>
    KEEL_INLINE I shift_left(I v) {
        return of16(vshlq_n_s16(as16(v), n));
    }
    template <int n>
    KEEL_INLINE I shift_right(I v) {
        return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(v), n));
    }
    template <int n>
    KEEL_INLINE I shift_left32(I v) {
        return vshlq_n_s32(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_right32(I v) {
        if constexpr (n == 0)
            return v;
        else
            return vreinterpretq_s32_u32(vshrq_n_u32(as_unsigned(v), n));
    }
    KEEL_INLINE I look_up(const uint8_t table[16], I v) {
        return vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_s32(v)));
    }
    // Four dwords as bytes.
    KEEL_INLINE uint8x16_t dwords(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
        return vreinterpretq_u8_u32(uint32x4_t{a, b, c, d});
    }
    // Bit i of qh is bit 4 of element i.
    KEEL_INLINE void add_fifth_bits(I qh, I code[8]) {
        KEEL_UNROLL
        for (uint32_t j = 0; j < 8; ++j) {
            const uint32_t first = j / 2 * 0x01010101u;
            const uint8x16_t byte = vqtbl1q_u8(
                vreinterpretq_u8_s32(qh), dwords(first, first + 0x04040404u, first + 0x08080808u, first + 0x0c0c0c0cu));
            const uint8x16_t set = vtstq_u8(byte, vreinterpretq_u8_u32(vdupq_n_u32(j % 2 ? 0x80402010u : 0x08040201u)));
            code[j] = or_(code[j], vreinterpretq_s32_u8(vandq_u8(set, vdupq_n_u8(16))));
        }
    }
    template <bool>
    KEEL_INLINE I widen_scale(I bytes, int b) {
        return vshrq_n_s32(vshlq_s32(bytes, vdupq_n_s32(24 - 8 * b)), 24);
    }
    template <bool>
    KEEL_INLINE I widen_pair(I bytes, int b) {
        // Every byte goes to the upper half of its 16 bits (an index beyond 15 fills the lower one); the shift extends
        // its sign.
        const uint32_t f = 0x04ff00ffu + static_cast<uint32_t>(b) * 0x01000100u, s = f + 0x01000100u;
        const uint8x16_t spread =
            vqtbl1q_u8(vreinterpretq_u8_s32(bytes), dwords(f, f + 0x08000800u, s, s + 0x08000800u));
        return of16(vshrq_n_s16(vreinterpretq_s16_u8(spread), 8));
    }
    KEEL_INLINE F f16_low(I v) { return vcvt_f32_f16(vreinterpret_f16_s16(vmovn_s32(v))); }
    KEEL_INLINE F f16_high(I v) { return vcvt_f32_f16(vreinterpret_f16_s16(vshrn_n_s32(v, 16))); }
    KEEL_INLINE void f16_halves(I v, F* low, F* high) {
        *low = f16_low(v);
        *high = f16_high(v);
    }
    KEEL_INLINE F load_f16(const uint8_t* p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }

    KEEL_INLINE I dot2(I acc, I pairs, const uint8_t* sums) {
        uint32_t both;
        memcpy(&both, sums, 4);
        const int16x4_t s = vcreate_s16(both);
        return vmlal_high_lane_s16(vmlal_lane_s16(acc, vget_low_s16(as16(pairs)), s, 0), as16(pairs), s, 1);
    }
    template <int i>
    KEEL_INLINE I dot_pair(I acc, I pairs, int16x8_t sums) {
        return vmlal_high_laneq_s16(vmlal_laneq_s16(acc, vget_low_s16(as16(pairs)), sums, 2 * i), as16(pairs), sums,
                                    2 * i + 1);
    }
    template <int n>
    KEEL_INLINE I dot_sums(I acc, const I* pairs, const uint8_t* sums) {
        static_assert(n % 4 == 0);
        KEEL_UNROLL
        for (int i = 0; i < n; i += 4, pairs += 4) {
            const int16x8_t s = vreinterpretq_s16_u8(vld1q_u8(sums + 4 * i));
            acc = dot_pair<3>(dot_pair<2>(dot_pair<1>(dot_pair<0>(acc, pairs[0], s), pairs[1], s), pairs[2], s),
                              pairs[3], s);
        }
        return acc;
    }
    KEEL_INLINE void add_neighbours(const uint8_t* sums, uint8_t* to) {
        const int16x8_t low = vreinterpretq_s16_u8(vld1q_u8(sums)), high = vreinterpretq_s16_u8(vld1q_u8(sums + 16));
        vst1q_u8(to, vreinterpretq_u8_s16(vpaddq_s16(low, high)));
    }
    KEEL_INLINE F zero_floats() { return vdupq_n_f32(0.0f); }
    KEEL_INLINE F broadcast(const uint8_t* p) {
        float v;
        memcpy(&v, p, 4);
        return vdupq_n_f32(v);
    }
    KEEL_INLINE F to_float(I v) { return vcvtq_f32_s32(v); }
    KEEL_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
    KEEL_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    KEEL_INLINE F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
    KEEL_INLINE F load_floats(const float* p) { return vld1q_f32(p); }
    KEEL_INLINE void store_floats(float* p, F v) { vst1q_f32(p, v); }
};

// Products by SMULL and SMLAL: two halves of two rows each, their sums in 16 bits for as long as they fit (`run`).
struct Q8Neon : Q8NeonVectors {
    // 32 elements; sub: elements that share a scale, 0 for none.
    template <bool is_signed, int run, uint32_t sub, int N, int R, class Codes, class Scales, class Address>
    KEEL_INLINE void multiply_chunk(Codes&& code, Scales&& scale, Address&& q, I* sum) {
        static_assert(R == 1);
        constexpr int kScaled = sub == 16 ? 4 : 8, kChain = 2 * run < kScaled ? 2 * run : kScaled;
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) {
            KEEL_UNROLL
            for (int first = 0; first < 8; first += kScaled) {
                I low = zero(), high = zero();
                KEEL_UNROLL
                for (int start = first; start < first + kScaled; start += kChain) {
                    int16x8_t low16 = vdupq_n_s16(0), high16 = vdupq_n_s16(0);
                    KEEL_UNROLL
                    for (int j = start; j < start + kChain; ++j) {
                        int32_t dword;
                        memcpy(&dword, q(c) + 4 * j, 4);
                        const int8x16_t x = as8(vdupq_n_s32(dword)), w = as8(code(0, j));
                        low16 = j == start ? vmull_s8(vget_low_s8(w), vget_low_s8(x))
                                           : vmlal_s8(low16, vget_low_s8(w), vget_low_s8(x));
                        high16 = j == start ? vmull_high_s8(w, x) : vmlal_high_s8(high16, w, x);
                    }
                    low = start == first ? vpaddlq_s16(low16) : vpadalq_s16(low, low16);
                    high = start == first ? vpaddlq_s16(high16) : vpadalq_s16(high, high16);
                }
                const I t = vpaddq_s32(low, high);
                sum[c] = sub == 0 ? vaddq_s32(sum[c], t) : vmlaq_s32(sum[c], t, scale(0, first / 4));
            }
        }
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
