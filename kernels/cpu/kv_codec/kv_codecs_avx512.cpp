// KV row codecs, AVX-512.
#if defined(__AVX512F__)
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_lanes.h"
#include "kernels/cpu/vector/float_avx512.h"

namespace keel::kernels {
KEEL_DEFINE_KV_CODECS_LANES(avx512, FloatAvx512)
#define KEEL_INSTANTIATE(format, ...) KEEL_INSTANTIATE_KV(avx512, kKv##format)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
