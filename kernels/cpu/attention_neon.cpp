#include "kernels/cpu/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/kv_rows_neon.h"

namespace keel::kernels {
using KvInts = KvIntsRows<FloatNeon, KvRowsNeon>;
KEEL_DEFINE_ATTENTION(neon, FloatNeon, KvInts)
}  // namespace keel::kernels
#endif
