// The products are q8_products.h's; here is also the quantization of activations.
#include "kernels/cpu/q8_avx2.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)

namespace keel::kernels {

// Two passes over a block: the largest magnitude, then the codes. Codes and sums as matmul_scalar.cpp defines them.
void quantize_q8_avx2(const float* x, uint32_t k, uint32_t block, void* column) {
    int8_t* q = q8_codes(column);
    float* d = q8_scales(column, k);
    int16_t* sums = q8_sums(column, k, block);
    const __m256 sign = _mm256_set1_ps(-0.0f), inf = _mm256_set1_ps(kInf32);
    const __m256 top = _mm256_set1_ps(127.0f), bottom = _mm256_set1_ps(-127.0f);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), flip = _mm256_set1_epi8(static_cast<char>(0x80));
    for (uint32_t b = 0; b < k / block; ++b) {
        __m256 largest = _mm256_setzero_ps(), below = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
        for (uint32_t i = 0; i < block; i += 8) {
            const __m256 m = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
            largest = _mm256_max_ps(m, largest);
            below = _mm256_and_ps(below, _mm256_cmp_ps(m, inf, _CMP_LT_OQ));
        }
        __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
        m4 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
        const float amax = _mm_cvtss_f32(_mm_max_ss(m4, _mm_movehdup_ps(m4)));
        const bool finite = _mm256_movemask_ps(below) == 255;
        d[b] = finite ? amax * (1.0f / 127.0f) : __builtin_nanf("");
        const __m256 inverse = _mm256_set1_ps(finite && amax > 0.0f ? 127.0f / amax : 0.0f);
        for (uint32_t i = 0; i < block; i += 32, x += 32, q += 32) {
            __m256i v[4];
            KEEL_UNROLL
            for (int j = 0; j < 4; ++j) {
                const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * j), inverse);
                const __m256 number = _mm256_cmp_ps(scaled, scaled, _CMP_ORD_Q);
                v[j] = _mm256_cvtps_epi32(_mm256_and_ps(_mm256_max_ps(_mm256_min_ps(scaled, top), bottom), number));
            }
            const __m256i codes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
            const __m256i ordered = _mm256_permutevar8x32_epi32(codes, order);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), ordered);
            // Sums of eight unsigned bytes q + 128 in the four quarters.
            const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(ordered, flip), _mm256_setzero_si256());
            alignas(32) uint64_t sum[4];
            _mm256_store_si256(reinterpret_cast<__m256i*>(sum), eights);
            *sums++ = static_cast<int16_t>(static_cast<int32_t>(sum[0] + sum[1]) - 16 * 128);
            *sums++ = static_cast<int16_t>(static_cast<int32_t>(sum[2] + sum[3]) - 16 * 128);
        }
    }
}

template <WeightType T>
void matmul_q8_avx2(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx2, T, false>(a);
}
template <WeightType T>
void matmul_repacked_avx2(const MatmulArgs& a) {
    matmul_q8_rows<Q8Avx2, T, true>(a);
}

#define KEEL_INSTANTIATE(T)                             \
    template void matmul_q8_avx2<T>(const MatmulArgs&); \
    template void matmul_repacked_avx2<T>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
