#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/dequantize_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_DEQUANTIZE(avx512, FloatAvx512)
#define KEEL_INSTANTIATE(type, ...) template void dequantize_avx512<k##type>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
