#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
namespace {

struct PairsAvx512 : FloatAvx512 {
    // Numbers carry into the exponent; a NaN, which could become an infinity, is made quiet.
    KEEL_INLINE __m256i rounded(F v) {
        const __m512i bits = _mm512_castps_si512(v),
                      odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i number = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_number(v), quiet, number), 16));
    }
    KEEL_INLINE F pack(F first, F second) {
        return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(rounded(first)), rounded(second), 1));
    }
    KEEL_INLINE F counted(F v) {
        const __m512i bits = _mm512_castps_si512(v), magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
        return _mm512_castsi512_ps(
            _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(kSmallestPair)), bits));
    }
    KEEL_INLINE F odd(F v) {
        return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(-0x10000)));
    }
    KEEL_INLINE F even(F v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16)); }
};

}  // namespace

KEEL_DEFINE_MATMUL_BF16(avx512, TwoProducts<PairsAvx512>)
}  // namespace keel::kernels
#endif
