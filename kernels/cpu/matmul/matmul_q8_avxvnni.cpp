#include "kernels/cpu/matmul/q8_avxvnni.h"
#if defined(__AVXVNNI__)

namespace keel::kernels {
namespace {

struct HardwareDots {
    KEEL_INLINE __m256i dot4(__m256i acc, __m256i codes, __m256i x) { return _mm256_dpbusd_avx_epi32(acc, codes, x); }
    KEEL_INLINE __m256i dot2(__m256i acc, __m256i pairs, __m256i x) { return _mm256_dpwssd_avx_epi32(acc, pairs, x); }
};

}  // namespace

template <WeightType T>
void matmul_q8_avxvnni(const MatmulArgs& a) {
    matmul_q8_rows<Q8AvxVnni<HardwareDots>, T, false>(a);
}
template <WeightType T>
void matmul_repacked_avxvnni(const MatmulArgs& a) {
    matmul_q8_rows<Q8AvxVnni<HardwareDots>, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                              \
    template void matmul_q8_avxvnni<k##type>(const MatmulArgs&); \
    template void matmul_repacked_avxvnni<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
