#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/dequantize_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_DEQUANTIZE(avx2, FloatAvx2)
#define KEEL_INSTANTIATE(type, ...) template void dequantize_avx2<k##type>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
