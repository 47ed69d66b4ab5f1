// Products of bf16 pairs on machines with AVX512-BF16, whose instruction is the two fmas of NUMERICS section 1. (The
// matrix instruction of AMX sums the elements of even and of odd index apart: other bits.)
#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512BF16__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
namespace {

struct PairsAvx512Bf16 : FloatAvx512 {
    KEEL_INLINE F fma(F w, F x, F sum) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
    }
    KEEL_INLINE F pack(F first, F second) { return reinterpret_cast<F>(_mm512_cvtne2ps_pbh(second, first)); }
    KEEL_INLINE F counted(F v) {
        const __m512i bits = _mm512_castps_si512(v), magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
        return _mm512_castsi512_ps(
            _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(kSmallestPair)), bits));
    }
};

}  // namespace

KEEL_DEFINE_MATMUL_BF16(avx512bf16, PairsAvx512Bf16)
}  // namespace keel::kernels
#endif
