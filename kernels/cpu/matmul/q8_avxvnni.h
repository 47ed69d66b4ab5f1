// The integer vectors of AVX2 with VNNI (AVX-VNNI: Intel from the 12th generation, Zen 5) for q8_products.h: eight
// rows, products of four in one instruction. Dots is the two instructions that AVX2 lacks, or an emulation of them in
// tests: dot4(acc, codes, x) and dot2(acc, pairs, x), as in q8_products.h.
#pragma once
#include "kernels/cpu/matmul/q8_avx2.h"
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

namespace keel::kernels {
namespace {

template <class Dots>
struct Q8AvxVnni : Q8Avx2 {
    static constexpr bool kHasDot4 = true, kSignedCodes = false, kSplitSigns = false;
    KEEL_INLINE I xor_(I a, I b) { return _mm256_xor_si256(a, b); }
    template <bool>
    KEEL_INLINE I widen_scale(I bytes, int b) {
        return _mm256_srai_epi32(b < 3 ? _mm256_slli_epi32(bytes, 24 - 8 * b) : bytes, 24);
    }
    KEEL_INLINE I dot4(I acc, I codes, I x) { return Dots::dot4(acc, codes, x); }
    KEEL_INLINE I dot2(I acc, I pairs, const uint8_t* sums) { return Dots::dot2(acc, pairs, broadcast_dword(sums)); }
    KEEL_INLINE I multiply_add(I acc, I t, I scale) { return _mm256_add_epi32(acc, _mm256_mullo_epi32(t, scale)); }
};

}  // namespace
}  // namespace keel::kernels
#endif
