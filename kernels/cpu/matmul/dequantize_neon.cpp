#include "kernels/cpu/vector/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/dequantize_impl.h"

namespace keel::kernels {
KEEL_DEFINE_DEQUANTIZE(neon, FloatNeon)
#define KEEL_INSTANTIATE(T) template void dequantize_neon<T>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
