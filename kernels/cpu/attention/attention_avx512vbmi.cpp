// Attention of the AVX-512 set on machines with VBMI.
#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512VBMI__)
#include "kernels/cpu/attention/attention_lanes.h"
#include "kernels/cpu/attention/kv_fields_avx512vbmi.h"

namespace keel::kernels {
void attention_split_avx512vbmi(const AttentionArgs& a) {
    attention_split_lanes<FloatAvx512, KvIntegersAvx512<KvFieldsVbmi>>(a);
}
}  // namespace keel::kernels
#endif
