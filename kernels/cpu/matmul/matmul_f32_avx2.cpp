#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/matmul/matmul_f32_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(avx2, FloatAvx2)
#define KEEL_INSTANTIATE(type, ...) template void matmul_f32_avx2<k##type>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
