#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/rowops/rowops_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_ROWOPS(avx512, FloatAvx512)
}  // namespace keel::kernels
#endif
