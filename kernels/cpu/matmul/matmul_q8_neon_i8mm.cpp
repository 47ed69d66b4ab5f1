#include "kernels/cpu/matmul/q8_neon_i8mm.h"
#if defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)

namespace keel::kernels {

template <WeightType T>
void matmul_q8_neon_i8mm(const MatmulArgs& a) {
    matmul_q8_rows<Q8NeonDotprod, T, false>(a, NeonMatrixUnit::multiply<panel_kind<Q8NeonDotprod>(T)>);
}
template <WeightType T>
void matmul_repacked_neon_i8mm(const MatmulArgs& a) {
    matmul_q8_rows<Q8NeonDotprod, T, true>(a, NeonMatrixUnit::multiply<panel_kind<Q8NeonDotprod>(T)>);
}

#define KEEL_INSTANTIATE(type, ...)                                \
    template void matmul_q8_neon_i8mm<k##type>(const MatmulArgs&); \
    template void matmul_repacked_neon_i8mm<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
