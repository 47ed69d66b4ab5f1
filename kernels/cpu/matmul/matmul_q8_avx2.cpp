#include "kernels/cpu/matmul/q8_avx2.h"
#if defined(__AVX2__)

namespace keel::kernels {

template <WeightType T>
void matmul_q8_avx2(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx2, T, false>(a);
}
template <WeightType T>
void matmul_repacked_avx2(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx2, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                           \
    template void matmul_q8_avx2<k##type>(const MatmulArgs&); \
    template void matmul_repacked_avx2<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
