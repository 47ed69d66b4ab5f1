#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/dequantize_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_DEQUANTIZE(neon, FloatNeon)
#define KEEL_INSTANTIATE(type, ...) template void dequantize_neon<k##type>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
