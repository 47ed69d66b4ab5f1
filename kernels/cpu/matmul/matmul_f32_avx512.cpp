#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/matmul/matmul_f32_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(avx512, FloatAvx512)
#define KEEL_INSTANTIATE(type, ...) template void matmul_f32_avx512<k##type>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
