// Products of bf16 pairs on machines with AVX512-BF16, whose instruction is the two fmas of NUMERICS section 1. (The
// matrix instruction of AMX sums the elements of even and of odd index apart: other bits.)
#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512BF16__)
#include "kernels/cpu/matmul/matmul_f32_lanes.h"
#include "kernels/cpu/matmul/quant_blocks.h"

namespace keel::kernels {
namespace {

// Lanes are pairs.
struct PairsAvx512 : FloatAvx512 {
    KEEL_INLINE F fma(F w, F x, F sum) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
    }
};

// 16 pairs of a row of weights or activations: what a Load of float_vector.h is for floats.
template <WeightType T>
struct LoadPairs {
    using Load = typename LoadOf<FloatAvx512, T>::Type;
    static constexpr uint32_t kBytes = 2 * Load::kBytes;
    KEEL_INLINE __m512 load(const uint8_t* p) {
        if constexpr (T == kBF16) return counted(_mm512_loadu_si512(p));
        const __m512bh v = _mm512_cvtne2ps_pbh(Load::load(p + 16 * Load::kBytes), Load::load(p));
        return T == kF16 ? reinterpret_cast<__m512>(v) : counted(reinterpret_cast<__m512i>(v));  // none of F16 is small
    }
    // 0 for magnitudes that are too small to count.
    KEEL_INLINE __m512 counted(__m512i v) {
        const __m512i magnitude = _mm512_and_si512(v, _mm512_set1_epi16(0x7fff));
        return _mm512_castsi512_ps(
            _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(magnitude, _mm512_set1_epi16(kSmallestBf16Pair)), v));
    }
};

// k elements as bf16, and zeros up to the next multiple of 32.
template <WeightType T>
void round_pairs(const void* source, float* to, uint32_t k) {
    using Load = LoadPairs<T>;
    const uint8_t* from = static_cast<const uint8_t*>(source);
    for (; k >= kBf16Block; k -= kBf16Block, from += 16 * Load::kBytes, to += 16)
        FloatAvx512::store(to, Load::load(from));
    if (!k) return;
    float rest[kBf16Block] = {};
    decode_weights<T>(from, rest, k);
    FloatAvx512::store(to, LoadPairs<kF32>::load(reinterpret_cast<const uint8_t*>(rest)));
}

}  // namespace

void round_bf16_avx512bf16(const float* x, uint32_t begin, uint32_t end, void* token) {
    round_pairs<kF32>(x + begin, static_cast<float*>(token) + begin / 2, end - begin);
}

template <WeightType T>
void matmul_bf16_avx512bf16(const MatmulArgs& a) {
    MatmulArgs pairs = padded_to_blocks(a);
    pairs.k /= 2;
    if constexpr (T != kF32)
        if (a.k % kBf16Block == 0 && direct_tokens<PairsAvx512, LoadPairs<T>>(pairs)) return;
    multiply_decoded<PairsAvx512>(pairs, {T, a.k, 2, round_pairs<T>}, a.row_begin);
}
template void matmul_bf16_avx512bf16<kF32>(const MatmulArgs&);
template void matmul_bf16_avx512bf16<kF16>(const MatmulArgs&);
template void matmul_bf16_avx512bf16<kBF16>(const MatmulArgs&);

}  // namespace keel::kernels
#endif
