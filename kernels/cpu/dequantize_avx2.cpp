// Weights to f32 (NUMERICS section 3): the portable decoder, compiled with AVX2 so that its loops become vector loops;
// half precision by its conversion instructions. k * bits/8 bytes in, k * 4 out.
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/quant_blocks.h"

namespace keel::kernels {
namespace {

template <class Load>
KEEL_INLINE void widen(const uint8_t* src, float* dst, uint32_t k) {
    uint32_t i = 0;
    for (; i + 8 <= k; i += 8) _mm256_storeu_ps(dst + i, Load::load8(src + uint64_t{i} * 2));
    for (; i < k; ++i) dst[i] = Load::load1(src + uint64_t{i} * 2);
}

}  // namespace

template <WeightType T>
void dequantize_avx2(const void* source, float* dst, uint32_t k) {
    const uint8_t* src = static_cast<const uint8_t*>(source);
    if constexpr (T == kF16)
        widen<LoadF16>(src, dst, k);
    else if constexpr (T == kBF16)
        widen<LoadBF16>(src, dst, k);
    else
        decode_weights<T>(src, dst, k);
}

#define KEEL_INSTANTIATE(T) template void dequantize_avx2<T>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
