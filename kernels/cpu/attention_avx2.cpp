#include "kernels/cpu/float_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/attention_impl.h"

namespace keel::kernels {
KEEL_DEFINE_ATTENTION(avx2, FloatAvx2)
}  // namespace keel::kernels
#endif
