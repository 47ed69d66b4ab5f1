#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/rowops/rowops_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_ROWOPS(avx2, FloatAvx2)
}  // namespace keel::kernels
#endif
