#include "kernels/cpu/vector/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/attention/attention_lanes.h"
#include "kernels/cpu/attention/kv_fields_avx512.h"

namespace keel::kernels {
void attention_split_avx512_over(const AttentionArgs& a, UnpackKvTile keys, UnpackKvTile values) {
    attention_split_lanes<FloatAvx512>(a, KvIntegersAvx512{keys, values});
}
void attention_split_avx512(const AttentionArgs& a) {
    using Unpackers = KvUnpackersAvx512<KvFieldsAvx512>;
    attention_split_avx512_over(a, Unpackers::keys, Unpackers::values);
}
void attention_finish_avx512(float* o, float l, uint32_t head_dim) {
    scale_lanes<FloatAvx512>(o, 1.0f / l, head_dim);
}
}  // namespace keel::kernels
#endif
