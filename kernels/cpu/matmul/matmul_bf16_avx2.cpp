#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_BF16(avx2, Pairs<FloatAvx2>)
}  // namespace keel::kernels
#endif
