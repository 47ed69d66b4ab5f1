// Integer K and V rows in NEON: the P of kv_integers_rows_lanes.h, without any extension. Sets with one share how
// integers come from codes and have products of their own (kv_integers_neon_dotprod.h).
#pragma once
#if defined(__aarch64__)
#include "kernels/cpu/attention/kv_integers_rows_lanes.h"
#include "kernels/cpu/vector/float_neon.h"

namespace keel::kernels {
namespace {

// Sixteen windows at bits 0, b, 2b .. of 16 bytes, the even ones and the odd ones a word each: where its two bytes are,
// and how far the word is shifted to the left, which is not positive.
struct WindowWords {
    alignas(16) uint8_t bytes[2][16];
    alignas(16) int16_t shifts[2][8];
};
constexpr WindowWords window_words(int b) {
    WindowWords w = {};
    for (int odd = 0; odd < 2; ++odd)
        for (int i = 0; i < 8; ++i) {
            const int at = (2 * i + odd) * b;
            w.bytes[odd][2 * i] = static_cast<uint8_t>(at / 8);
            w.bytes[odd][2 * i + 1] = static_cast<uint8_t>(at / 8 + 1);
            w.shifts[odd][i] = static_cast<int16_t>(-(at % 8));
        }
    return w;
}
template <int b>
constexpr WindowWords kWindowWords = window_words(b);

// Integers from codes, and the order of dots.
struct KvCodesNeon {
    template <KvFormat F>
    static constexpr uint32_t kReads = 2 * kKvFormats[F].bits + 16;
    template <KvFormat F>
    static constexpr int kKeyOffset = 0;
    template <KvFormat F>
    KEEL_INLINE void windows(const uint8_t* p, int8_t* q) {
        constexpr int b = kKvFormats[F].bits;
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            const uint8x16_t x = vld1q_u8(p + 2 * b * half);
            uint8x16_t words[2];
            KEEL_UNROLL
            for (int odd = 0; odd < 2; ++odd) {
                const uint16x8_t two = vreinterpretq_u16_u8(vqtbl1q_u8(x, vld1q_u8(kWindowWords<b>.bytes[odd])));
                words[odd] = vreinterpretq_u8_u16(vshlq_u16(two, vld1q_s16(kWindowWords<b>.shifts[odd])));
            }
            vst1q_s8(q + 16 * half, vreinterpretq_s8_u8(vtrn1q_u8(words[0], words[1])));  // lower bytes
        }
    }

    // 16 of the 256 entries: an index beyond 63 finds nothing in one quarter of them.
    KEEL_INLINE int8x16_t look_up(const int8_t* table, uint8x16_t index) {
        int8x16_t x = vqtbl4q_s8(vld1q_s8_x4(table), index);
        KEEL_UNROLL
        for (int quarter = 1; quarter < 4; ++quarter)
            x = vqtbx4q_s8(x, vld1q_s8_x4(table + 64 * quarter),
                           vsubq_u8(index, vdupq_n_u8(static_cast<uint8_t>(64 * quarter))));
        return x;
    }

    // The integers of two blocks of 8, from the windows of their u.
    template <int b>
    KEEL_INLINE int8x16_t lattice_integers(uint8x16_t windows) {
        constexpr uint8_t kMask = (1 << b) - 1, kOffset = (2 << b) - 1;
        const uint8x16_t one = vdupq_n_u8(1), last = {7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15};
        // How many are odd, the coset among them: the coset plus the parity, in bit 0.
        const uint64x2_t odd = vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vandq_u8(windows, one))));
        const uint8x16_t parity = vreinterpretq_u8_u64(vshlq_n_u64(vandq_u64(odd, vdupq_n_u64(1)), 56));
        const uint8x16_t u = veorq_u8(vandq_u8(windows, vdupq_n_u8(kMask)), parity);
        const uint8x16_t coset = vandq_u8(vqtbl1q_u8(windows, last), one);
        const uint8x16_t c = vorrq_u8(vshlq_n_u8(u, 2), vshlq_n_u8(coset, 1));
        return vreinterpretq_s8_u8(vsubq_u8(c, vdupq_n_u8(kOffset)));
    }

    template <KvFormat F, int offset>
    KEEL_INLINE void integers(int8_t* q) {
        static_assert(offset == 0);
        constexpr int b = kKvFormats[F].bits;
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half, q += 16) {
            const uint8x16_t w = vreinterpretq_u8_s8(vld1q_s8(q));
            if constexpr (kKvFormats[F].family == KvFamily::kTrellis)
                vst1q_s8(q, look_up(kTrellisTables[b - 2], w));
            else
                vst1q_s8(q, lattice_integers<b>(w));
        }
    }

    template <int b>
    KEEL_INLINE void unpack_block(const uint8_t* codes, uint16_t d, int8_t* q) {
        const int8x16_t negative = vdupq_n_s8(static_cast<int8_t>(-(d >> 15)));
        const uint8x16_t low = vld1q_u8(codes);
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            int8x16_t x;
            if constexpr (b == 8)
                x = vreinterpretq_s8_u8(half ? vld1q_u8(codes + 16) : low);
            else
                x = vsubq_s8(vreinterpretq_s8_u8(half ? vshrq_n_u8(low, 4) : vandq_u8(low, vdupq_n_u8(15))),
                             vdupq_n_s8(8));
            vst1q_s8(q + 16 * half, vqsubq_s8(veorq_s8(x, negative), negative));  // -(-128) is 127
        }
    }

    // dots, from what adds the products of sixteen elements to four sums, in any order.
    template <int C, class AddProducts>
    KEEL_INLINE void dots_by(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, float32x4_t* dot,
                             AddProducts&& add_products) {
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
                for (int r = 0; r < 4; ++r) sum[c][r] = add_products(sum[c][r], k[r], x);
            }
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c)
            dot[c] = vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(sum[c][0], sum[c][1]), vpaddq_s32(sum[c][2], sum[c][3])));
    }
};

struct KvIntegersNeon : KvCodesNeon {
    using I = int32x4_t;
    static constexpr uint32_t kGroup = 4;
    static constexpr bool kInterleaved = false;  // weights come from lanes
    static constexpr int kValueRows = 4;
    struct Weights {
        alignas(16) int16_t w[kMaxKvScales][kAttentionTile];
    };

    KEEL_INLINE void store_weights(const float32x4_t v[16], Weights& w, uint32_t scale) {
        KEEL_UNROLL
        for (int i = 0; i < 16; ++i) vst1_s16(w.w[scale] + 4 * i, vmovn_s32(vcvtnq_s32_f32(v[i])));
    }
    template <int C, bool kUnsigned>
    KEEL_INLINE void dots(const int8_t* keys, uint64_t stride, const int8_t* const* q, const int32_t*, uint32_t n,
                          float32x4_t* dot) {
        static_assert(!kUnsigned);
        // |k| is at most 128 and |q| 127, so that two products fit 16 bits.
        dots_by<C>(keys, stride, q, n, dot, [](int32x4_t sum, int8x16_t k, int8x16_t x) KEEL_ALWAYS_INLINE {
            return vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(k), vget_low_s8(x)), k, x));
        });
    }
    KEEL_INLINE I zero() { return vdupq_n_s32(0); }
    template <int C>
    KEEL_INLINE void add(I (*sum)[4], const int8_t* x, uint64_t stride, const Weights* w, uint32_t scale, uint64_t j) {
        int16x4_t weight[C];
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) weight[i] = vld1_s16(w[i].w[scale] + j);
        add_row<0, C>(sum, x, weight);
        add_row<1, C>(sum, x + stride, weight);
        add_row<2, C>(sum, x + 2 * stride, weight);
        add_row<3, C>(sum, x + 3 * stride, weight);
    }
    template <int r, int C>
    KEEL_INLINE void add_row(I (*sum)[4], const int8_t* x, const int16x4_t* weight) {
        const int8x16_t v = vld1q_s8(x);
        const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_high_s8(v);
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            sum[i][0] = vmlal_lane_s16(sum[i][0], vget_low_s16(low), weight[i], r);
            sum[i][1] = vmlal_high_lane_s16(sum[i][1], low, weight[i], r);
            sum[i][2] = vmlal_lane_s16(sum[i][2], vget_low_s16(high), weight[i], r);
            sum[i][3] = vmlal_high_lane_s16(sum[i][3], high, weight[i], r);
        }
    }
    KEEL_INLINE float32x4_t total(I sum) { return vcvtq_f32_s32(sum); }
};

}  // namespace
}  // namespace keel::kernels
#endif
