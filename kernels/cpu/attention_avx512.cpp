#include "kernels/cpu/float_avx512.h"
#if defined(__AVX512F__)
#include "kernels/cpu/attention_impl.h"

namespace keel::kernels {
KEEL_DEFINE_ATTENTION(avx512, FloatAvx512)
}  // namespace keel::kernels
#endif
