#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/matmul/matmul_f32_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(neon, FloatNeon)
#define KEEL_INSTANTIATE(type, ...) template void matmul_f32_neon<k##type>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
