#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_BF16(avx512, Pairs<FloatAvx512>)
}  // namespace keel::kernels
#endif
