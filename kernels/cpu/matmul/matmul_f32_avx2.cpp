#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/matmul/matmul_f32_impl.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(avx2, FloatAvx2)
#define KEEL_INSTANTIATE(T) template void matmul_f32_avx2<T>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
