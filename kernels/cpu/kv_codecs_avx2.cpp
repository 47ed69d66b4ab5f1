// KV row codecs, AVX2.
#if defined(__AVX2__)
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/kv_codecs_impl.h"

namespace keel::kernels {
KEEL_DEFINE_KV_CODECS(avx2)
#define KEEL_INSTANTIATE(F) KEEL_INSTANTIATE_KV(avx2, F)
KEEL_KV_FORMATS(KEEL_INSTANTIATE)
}  // namespace keel::kernels
#endif
