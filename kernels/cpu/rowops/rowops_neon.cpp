#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/rowops/rowops_lanes.h"

namespace keel::kernels {
KEEL_DEFINE_ROWOPS(neon, FloatNeon)
}  // namespace keel::kernels
#endif
