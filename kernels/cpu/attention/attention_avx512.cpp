#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/attention/attention_lanes.h"
#include "kernels/cpu/attention/kv_fields_avx512.h"

namespace keel::kernels {
using KvIntegers = KvIntegersAvx512<KvFieldsAvx512>;
KEEL_DEFINE_ATTENTION(avx512, FloatAvx512, KvIntegers)
}  // namespace keel::kernels
#endif
