#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
namespace {

struct PairsNeon : FloatNeon {
    // Numbers carry into the exponent; a NaN, which could become an infinity, is made quiet.
    KEEL_INLINE uint16x4_t rounded(F v) {
        const uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t number = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
        return vshrn_n_u32(vbslq_u32(is_number(v), number, quiet), 16);
    }
    KEEL_INLINE F pack(F first, F second) {
        return vreinterpretq_f32_u16(vcombine_u16(rounded(first), rounded(second)));
    }
    KEEL_INLINE F counted(F v) {
        const uint16x8_t bits = vreinterpretq_u16_f32(v), magnitude = vandq_u16(bits, vdupq_n_u16(0x7fff));
        return vreinterpretq_f32_u16(vandq_u16(bits, vcgeq_u16(magnitude, vdupq_n_u16(kSmallestPair))));
    }
    KEEL_INLINE F odd(F v) {
        return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0xffff0000)));
    }
    KEEL_INLINE F even(F v) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(v), 16)); }
};

}  // namespace

KEEL_DEFINE_MATMUL_BF16(neon, TwoProducts<PairsNeon>)
}  // namespace keel::kernels
#endif
