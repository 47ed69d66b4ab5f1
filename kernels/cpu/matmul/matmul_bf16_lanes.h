// Matrix products of bf16 pairs (NUMERICS section 1): the panels of matmul_f32_lanes.h over vectors whose elements are
// pairs. Rows are rounded to bf16 in scratch, once for a group of tokens.
#pragma once
#include "kernels/cpu/matmul/matmul_f32_lanes.h"
#include "kernels/cpu/matmul/quant_blocks.h"

namespace keel::kernels {
namespace {

// V for pairs, of an instruction set without a product of them.
template <class V>
struct Pairs : V {
    using F = typename V::F;
    KEEL_INLINE F fma(F w, F x, F sum) {
        sum = V::fma(V::upper_half(w), V::upper_half(x), sum);
        return V::fma(V::lower_half(w), V::lower_half(x), sum);
    }
};

// kLanes pairs of a row of weights or activations: what a Load of float_vector.h is for floats.
template <class V, WeightType T>
struct LoadPairs {
    using Load = typename LoadOf<V, T>::Type;
    static constexpr uint32_t kBytes = 2 * Load::kBytes;
    KEEL_INLINE typename V::F load(const uint8_t* p) {
        const typename V::F first = Load::load(p), second = Load::load(p + V::kLanes * Load::kBytes);
        return V::pack_bf16(keep(first), keep(second));
    }
    KEEL_INLINE typename V::F keep(typename V::F v) {
        return V::select(V::less(V::abs(v), V::set1(kSmallestBf16)), V::zero(), v);
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
