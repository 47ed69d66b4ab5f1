#include "kernels/cpu/matmul/q8_neon_dotprod.h"
#if defined(__ARM_FEATURE_DOTPROD)

namespace keel::kernels {

template <WeightType T>
void matmul_q8_neon_dotprod(const MatmulArgs& a) {
    matmul_q8_rows<Q8NeonDotprod, T, false>(a);
}
template <WeightType T>
void matmul_repacked_neon_dotprod(const MatmulArgs& a) {
    matmul_q8_rows<Q8NeonDotprod, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                                   \
    template void matmul_q8_neon_dotprod<k##type>(const MatmulArgs&); \
    template void matmul_repacked_neon_dotprod<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
