// KV row codecs, AVX2.
#if defined(__AVX2__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_lanes.h"
#include "kernels/cpu/vector/float_avx2.h"

namespace keel::kernels {
KEEL_DEFINE_KV_CODECS_LANES(avx2, FloatAvx2)
#define KEEL_INSTANTIATE(format, ...) KEEL_INSTANTIATE_KV(avx2, kKv##format)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
