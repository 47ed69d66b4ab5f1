#include "kernels/cpu/attention/kv_integers_neon_dotprod.h"
#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/cpu/attention/attention_lanes.h"

namespace keel::kernels {
void attention_split_neon_dotprod(const AttentionArgs& a) {
    attention_split_lanes<FloatNeon, KvIntegersRows<FloatNeon, KvIntegersNeonDotprod>>(a);
}
}  // namespace keel::kernels
#endif
