#include "kernels/cpu/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/kv_ints_rows.h"

namespace keel::kernels {
using KvInts = KvIntsRows<FloatNeon>;
KEEL_DEFINE_ATTENTION(neon, FloatNeon, KvInts)
}  // namespace keel::kernels
#endif
