#include "kernels/cpu/attention/kv_integers_neon_i8mm.h"
#if defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels/cpu/attention/attention_lanes.h"

namespace keel::kernels {
void attention_split_neon_i8mm(const AttentionArgs& a) {
    attention_split_lanes<FloatNeon, KvIntegersRows<FloatNeon, KvIntegersNeonI8mm>>(a);
}
}  // namespace keel::kernels
#endif
