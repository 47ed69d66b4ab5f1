#include "kernels/cpu/matmul/q8_avx512.h"
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)

namespace keel::kernels {

template <WeightType T, bool kRepacked>
void multiply_many_avx512(const MatmulArgs& a, MatrixUnit unit) {
    multiply_many<Q8Avx512>(a, kPanelSource<Q8Avx512, T, kRepacked>, unit);
}
template <WeightType T>
void matmul_q8_avx512(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx512, T, false>(a);
}
template <WeightType T>
void matmul_repacked_avx512(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx512, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                                                    \
    template void multiply_many_avx512<k##type, false>(const MatmulArgs&, MatrixUnit); \
    template void multiply_many_avx512<k##type, true>(const MatmulArgs&, MatrixUnit);  \
    template void matmul_q8_avx512<k##type>(const MatmulArgs&);                        \
    template void matmul_repacked_avx512<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
