#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/matmul/matmul_f32_impl.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_F32(avx512, FloatAvx512)
#define KEEL_INSTANTIATE(T) template void matmul_f32_avx512<T>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
