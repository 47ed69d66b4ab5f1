// KV row codecs, the reference for every other set.
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"

namespace keel::kernels {
KEEL_DEFINE_KV_CODECS(scalar)
#define KEEL_INSTANTIATE(format, ...) KEEL_INSTANTIATE_KV(scalar, kKv##format)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
