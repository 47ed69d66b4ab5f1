#include "kernels/cpu/matmul/q8_neon.h"
#if defined(__aarch64__)

namespace keel::kernels {

template <WeightType T>
void matmul_q8_neon(const MatmulArgs& a) {
    matmul_q8_rows<Q8Neon, T, false>(a);
}
template <WeightType T>
void matmul_repacked_neon(const MatmulArgs& a) {
    matmul_q8_rows<Q8Neon, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                           \
    template void matmul_q8_neon<k##type>(const MatmulArgs&); \
    template void matmul_repacked_neon<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
