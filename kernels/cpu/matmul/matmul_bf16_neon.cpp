#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/matmul/matmul_bf16_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_MATMUL_BF16(neon, Pairs<FloatNeon>)
}  // namespace keel::kernels
#endif
