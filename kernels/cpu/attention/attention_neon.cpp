#include "kernels/cpu/vector/float_neon.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention/attention_impl.h"
#include "kernels/cpu/attention/kv_rows_neon.h"

namespace keel::kernels {
using KvInts = KvIntsRows<FloatNeon, KvRowsNeon>;
KEEL_DEFINE_ATTENTION(neon, FloatNeon, KvInts)
}  // namespace keel::kernels
#endif
