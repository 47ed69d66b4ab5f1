// Integers of KV rows in NEON: the unpacking half of the P of kv_ints_rows.h.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention/kv_ints_rows.h"
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

struct KvUnpackNeon {
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

    template <KvFormat F>
    KEEL_INLINE void integers(int8_t* q) {
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
};

}  // namespace
}  // namespace keel::kernels
#endif
