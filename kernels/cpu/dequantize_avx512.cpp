#include "kernels/cpu/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/dequantize_impl.h"
#include "kernels/cpu/kernel_sets.h"

namespace keel::kernels {
KEEL_DEFINE_DEQUANTIZE(avx512, FloatAvx512)
#define KEEL_INSTANTIATE(T) template void dequantize_avx512<T>(const void*, float*, uint32_t);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
