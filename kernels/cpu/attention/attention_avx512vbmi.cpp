// Attention of the AVX-512 set on machines with VBMI.
#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512VBMI__)
#include "kernels/cpu/attention/kv_fields_avx512vbmi.h"

namespace keel::kernels {
void attention_split_avx512vbmi(const AttentionArgs& a) {
    using Unpackers = KvUnpackersAvx512<KvFieldsVbmi>;
    attention_split_avx512_over(a, Unpackers::keys, Unpackers::values);
}
}  // namespace keel::kernels
#endif
