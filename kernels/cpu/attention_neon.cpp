#include "kernels/cpu/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention_impl.h"

namespace keel::kernels {
KEEL_DEFINE_ATTENTION(neon, FloatNeon)
}  // namespace keel::kernels
#endif
