// Matrix products of bf16 pairs (NUMERICS section 1): the panels of matmul_f32_lanes.h over vectors whose elements are
// pairs. Few tokens round weights in registers; more tokens share rows that are rounded once, in scratch. V has, beside
// what float_vector.h asks for,
//
//   pack(v, w)        the 2 kLanes lanes of both as bf16, rounded to nearest even, in order
//   counted(v)        of 2 kLanes bf16: 0 for those of a magnitude below 2^-56
//   fma(w, x, sum)    of pairs; or odd(v), even(v): of each pair the element of that index, exactly widened to f32
#pragma once
#include "kernels/cpu/matmul/matmul_f32_lanes.h"
#include "kernels/cpu/matmul/quant_blocks.h"

namespace keel::kernels {
namespace {

// V of an instruction set without an instruction for it.
template <class V>
struct TwoProducts : V {
    using F = typename V::F;
    KEEL_INLINE F fma(F w, F x, F sum) { return V::fma(V::even(w), V::even(x), V::fma(V::odd(w), V::odd(x), sum)); }
};

// kLanes pairs of a row of weights or activations: what a Load of float_vector.h is for floats.
template <class V, WeightType T>
struct LoadPairs {
    using Load = typename LoadOf<V, T>::Type;
    static constexpr uint32_t kBytes = 2 * Load::kBytes;
    KEEL_INLINE typename V::F load(const uint8_t* p) {
        if constexpr (T == kBF16) return V::counted(LoadF32<V>::load(p));
        const typename V::F v = V::pack(Load::load(p), Load::load(p + V::kLanes * Load::kBytes));
        return T == kF16 ? v : V::counted(v);  // none of F16 is too small
    }
};

// k elements as bf16, and zeros up to the next multiple of 32.
template <class V, WeightType T>
void round_to_bf16(const void* source, float* to, uint32_t k) {
    constexpr uint32_t kStep = 2 * V::kLanes, kBytes = LoadOf<V, T>::Type::kBytes;
    const uint8_t* from = static_cast<const uint8_t*>(source);
    uint32_t i = 0;
    for (; i + kStep <= k; i += kStep) V::store(to + i / 2, LoadPairs<V, T>::load(from + uint64_t{i} * kBytes));
    float rest[kStep];
    uint16_t* bf16 = reinterpret_cast<uint16_t*>(to);
    decode_weights<T>(from + uint64_t{i} * kBytes, rest, k - i);
    for (uint32_t j = i; j < k; ++j) bf16[j] = pair_element(rest[j - i]);
    memset(bf16 + k, 0, (0u - k) % kBf16Block * sizeof(uint16_t));
}

template <class V, WeightType T>
void matmul_bf16_lanes(const MatmulArgs& a) {
    MatmulArgs pairs = a;
    pairs.k = (a.k + kBf16Block - 1) / kBf16Block * 16;
    if (a.k % kBf16Block == 0 && direct_tokens<V, LoadPairs<V, T>>(pairs)) return;
    multiply_decoded<V>(pairs, {T, round_to_bf16<V, T>, a.k, 2}, a.row_begin);
}

#define KEEL_DEFINE_MATMUL_BF16(isa, V)                              \
    void round_bf16_##isa(const float* x, uint32_t k, void* token) { \
        round_to_bf16<V, kF32>(x, static_cast<float*>(token), k);    \
    }                                                                \
    template <WeightType T>                                          \
    void matmul_bf16_##isa(const MatmulArgs& a) {                    \
        matmul_bf16_lanes<V, T>(a);                                  \
    }                                                                \
    template void matmul_bf16_##isa<kF32>(const MatmulArgs&);        \
    template void matmul_bf16_##isa<kF16>(const MatmulArgs&);        \
    template void matmul_bf16_##isa<kBF16>(const MatmulArgs&);

}  // namespace
}  // namespace keel::kernels
