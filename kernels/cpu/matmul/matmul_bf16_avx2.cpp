#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
namespace {

struct PairsAvx2 : FloatAvx2 {
    // Numbers carry into the exponent; a NaN, which could become an infinity, is made quiet.
    KEEL_INLINE __m256i rounded(F v) {
        const __m256i bits = _mm256_castps_si256(v),
                      odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i number = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        return _mm256_srli_epi32(
            _mm256_castps_si256(select(is_number(v), _mm256_castsi256_ps(number), _mm256_castsi256_ps(quiet))), 16);
    }
    KEEL_INLINE F pack(F first, F second) {
        const __m256i halves = _mm256_packus_epi32(rounded(first), rounded(second));
        return _mm256_castsi256_ps(_mm256_permute4x64_epi64(halves, 0xd8));
    }
    KEEL_INLINE F counted(F v) {
        const __m256i bits = _mm256_castps_si256(v), magnitude = _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff));
        return _mm256_castsi256_ps(
            _mm256_and_si256(bits, _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(kSmallestPair - 1))));
    }
    KEEL_INLINE F odd(F v) { return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-0x10000))); }
    KEEL_INLINE F even(F v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16)); }
};

}  // namespace

KEEL_DEFINE_MATMUL_BF16(avx2, TwoProducts<PairsAvx2>)
}  // namespace keel::kernels
#endif
