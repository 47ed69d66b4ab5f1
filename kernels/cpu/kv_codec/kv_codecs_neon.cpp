// KV row codecs, NEON.
#if defined(__aarch64__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_lanes.h"
#include "kernels/cpu/vector/float_neon.h"

namespace keel::kernels {
KEEL_DEFINE_KV_CODECS_LANES(neon, FloatNeon)
#define KEEL_INSTANTIATE(format, ...) KEEL_INSTANTIATE_KV(neon, kKv##format)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
