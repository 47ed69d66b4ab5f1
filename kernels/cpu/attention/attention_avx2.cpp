#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/attention/attention_lanes.h"
#include "kernels/cpu/attention/kv_integers_avx2.h"

namespace keel::kernels {
using KvIntegers = KvIntegersRows<FloatAvx2, KvIntegersAvx2>;
KEEL_DEFINE_ATTENTION(avx2, FloatAvx2, KvIntegers)
}  // namespace keel::kernels
#endif
