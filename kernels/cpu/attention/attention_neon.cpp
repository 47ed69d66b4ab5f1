#include "kernels/cpu/vector/float_neon.h"
#if defined(__aarch64__)
#include "kernels/cpu/attention/attention_lanes.h"
#include "kernels/cpu/attention/kv_integers_neon.h"

namespace keel::kernels {
using KvIntegers = KvIntegersRows<FloatNeon, KvIntegersNeon>;
KEEL_DEFINE_ATTENTION(neon, FloatNeon, KvIntegers)
}  // namespace keel::kernels
#endif
