// Weights to f32 (NUMERICS section 3). k * bits/8 bytes in, k * 4 out.
#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/quant_blocks.h"

namespace keel::kernels {

template <WeightType T>
void dequantize_scalar(const void* src, float* dst, uint32_t k) {
    decode_weights<T>(static_cast<const uint8_t*>(src), dst, k);
}

#define KEEL_INSTANTIATE(type, ...) template void dequantize_scalar<k##type>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
