#include "kernels/cpu/vector/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/matmul/matmul_f32_impl.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(neon, FloatNeon)
#define KEEL_INSTANTIATE(T) template void matmul_f32_neon<T>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
