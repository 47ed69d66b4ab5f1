// Products of NEON with dotprod: SDOT takes sixteen activations from one register.
#pragma once
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/matmul/q8_neon.h"

namespace keel::kernels {
namespace {

struct Q8NeonDotprod : Q8NeonVectors {
    // t + the products of four rows, for 16 of 32 elements.
    template <class Codes>
    KEEL_INLINE I dot16(I t, Codes&& code, int half, int8x16_t x) {
        t = vdotq_laneq_s32(t, as8(code(0, 4 * half)), x, 0);
        t = vdotq_laneq_s32(t, as8(code(0, 4 * half + 1)), x, 1);
        t = vdotq_laneq_s32(t, as8(code(0, 4 * half + 2)), x, 2);
        return vdotq_laneq_s32(t, as8(code(0, 4 * half + 3)), x, 3);
    }
    // 32 elements; sub: elements that share a scale, 0 for none. All codes are at most 127.
    template <bool is_signed, int run, uint32_t sub, int N, int R, class Codes, class Scales, class Address>
    KEEL_INLINE void multiply_chunk(Codes&& code, Scales&& scale, Address&& q, I* sum) {
        static_assert(R == 1);
        I t[N];
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            KEEL_UNROLL
            for (int c = 0; c < N; ++c) {
                const int8x16_t x = vld1q_s8(reinterpret_cast<const int8_t*>(q(c)) + 16 * half);
                if (sub == 0) {
                    sum[c] = dot16(sum[c], code, half, x);
                } else {
                    t[c] = dot16(sub == 16 || half == 0 ? zero() : t[c], code, half, x);
                    if (sub == 16 || half == 1) sum[c] = vmlaq_s32(sum[c], t[c], scale(0, sub == 16 ? half : 0));
                }
            }
        }
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
