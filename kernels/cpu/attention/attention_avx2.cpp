#include "kernels/cpu/vector/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/attention/attention_impl.h"
#include "kernels/cpu/attention/kv_rows_avx2.h"

namespace keel::kernels {
using KvInts = KvIntsRows<FloatAvx2, KvRowsAvx2>;
KEEL_DEFINE_ATTENTION(avx2, FloatAvx2, KvInts)
}  // namespace keel::kernels
#endif
