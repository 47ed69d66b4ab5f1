// Weights to f32 (NUMERICS section 3): the portable decoder, compiled for the instruction set so that its loops become
// vector loops; half precision by its conversion instructions. k * bits/8 bytes in, k * 4 out.
#pragma once
#include "kernels/cpu/matmul/quant_blocks.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

template <class V, class Load>
KEEL_INLINE void widen_lanes(const uint8_t* src, float* dst, uint32_t k) {
    uint32_t i = 0;
    for (; i + V::kLanes <= k; i += V::kLanes) V::store(dst + i, Load::load(src + uint64_t{i} * Load::kBytes));
    if (i == k) return;
    uint8_t rest[V::kLanes * Load::kBytes] = {};
    memcpy(rest, src + uint64_t{i} * Load::kBytes, (k - i) * Load::kBytes);
    V::store_first(dst + i, k - i, Load::load(rest));
}

template <class V, WeightType T>
KEEL_INLINE void dequantize_lanes(const void* source, float* dst, uint32_t k) {
    const uint8_t* src = static_cast<const uint8_t*>(source);
    if constexpr (T == kF16)
        widen_lanes<V, LoadF16<V>>(src, dst, k);
    else if constexpr (T == kBF16)
        widen_lanes<V, LoadBF16<V>>(src, dst, k);
    else
        decode_weights<T>(src, dst, k);
}

#define KEEL_DEFINE_DEQUANTIZE(isa, V)                                  \
    template <WeightType T>                                             \
    void dequantize_##isa(const void* source, float* dst, uint32_t k) { \
        dequantize_lanes<V, T>(source, dst, k);                         \
    }

}  // namespace
}  // namespace keel::kernels
