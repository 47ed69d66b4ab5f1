// Sixteen f32 lanes of AVX-512 (F, BW, DQ, VL): the interface of float_vector.h. Only *_avx512.cpp and *_amx.cpp files
// include this.
#pragma once
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
// GCC 12 warns about the undefined operands of its own intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <stdint.h>

#include "kernels/cpu/vector/inline.h"

namespace keel::kernels {
namespace {

struct FloatAvx512 {
    using F = __m512;
    using Mask = __mmask16;
    static constexpr int kLanes = 16;
    static constexpr int kRegisters = 32;

    KEEL_INLINE F zero() { return _mm512_setzero_ps(); }
    KEEL_INLINE F set1(float x) { return _mm512_set1_ps(x); }
    KEEL_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
    KEEL_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
    KEEL_INLINE Mask first(uint32_t n) { return static_cast<Mask>((1u << n) - 1); }
    KEEL_INLINE F load_first(const float* p, uint32_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    KEEL_INLINE void store_first(float* p, uint32_t n, F v) { _mm512_mask_storeu_ps(p, first(n), v); }
    KEEL_INLINE F load_f16(const void* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    }
    KEEL_INLINE F load_bf16(const void* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
    KEEL_INLINE void store_f16(void* p, F v) {
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    KEEL_INLINE void load_pairs(const float* p, F* even, F* odd) {
        const __m512i i = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const F a = load(p), b = load(p + 16);
        *even = _mm512_permutex2var_ps(a, i, b);
        *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(i, _mm512_set1_epi32(1)), b);
    }
    KEEL_INLINE void store_pairs(float* p, F even, F odd) {
        const __m512i i = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        store(p, _mm512_permutex2var_ps(even, i, odd));
        store(p + 16, _mm512_permutex2var_ps(even, _mm512_add_epi32(i, _mm512_set1_epi32(8)), odd));
    }

    KEEL_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
    KEEL_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    KEEL_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    KEEL_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    KEEL_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
    KEEL_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
    KEEL_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
    KEEL_INLINE F abs(F v) { return _mm512_andnot_ps(set1(-0.0f), v); }
    KEEL_INLINE F negate(F v) { return _mm512_xor_ps(set1(-0.0f), v); }
    KEEL_INLINE F with_sign(F magnitude, F sign) { return _mm512_or_ps(magnitude, _mm512_and_ps(sign, set1(-0.0f))); }
    // One rounding, as with two factors of which the first is exact.
    KEEL_INLINE F mul_pow2(F p, F n) { return _mm512_scalef_ps(p, n); }

    KEEL_INLINE Mask less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
    KEEL_INLINE Mask is_number(F v) { return _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q); }
    KEEL_INLINE Mask lanes_between(int lo, int hi) {
        const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_mask_cmplt_epi32_mask(_mm512_cmple_epi32_mask(_mm512_set1_epi32(lo), i), i,
                                            _mm512_set1_epi32(hi));
    }
    KEEL_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
    KEEL_INLINE bool all(Mask m) { return m == 0xffff; }
    KEEL_INLINE F select(Mask m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
    KEEL_INLINE F keep(Mask m, F v) { return _mm512_maskz_mov_ps(m, v); }

    KEEL_INLINE __m256 upper(F v) { return _mm512_extractf32x8_ps(v, 1); }
    KEEL_INLINE float max_across(F v) {
        const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(v), upper(v));
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    KEEL_INLINE float tree16_one(const F lanes[1]) {
        const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(lanes[0]), upper(lanes[0]));
        const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
    }
    // Quarter q of the four b registers holds the sums 4q, 4q + 1, 4q + 2 and 4q + 3, so that they come out in order.
    KEEL_INLINE F tree16(const F (*lanes)[1]) {
        F b[4], c[2];
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            const F l0 = lanes[i][0], l1 = lanes[i + 4][0], l2 = lanes[i + 8][0], l3 = lanes[i + 12][0];
            const F a01 = add(_mm512_shuffle_f32x4(l0, l1, 0x44), _mm512_shuffle_f32x4(l0, l1, 0xee));
            const F a23 = add(_mm512_shuffle_f32x4(l2, l3, 0x44), _mm512_shuffle_f32x4(l2, l3, 0xee));
            b[i] = add(_mm512_shuffle_f32x4(a01, a23, 0x88), _mm512_shuffle_f32x4(a01, a23, 0xdd));
        }
        KEEL_UNROLL
        for (int i = 0; i < 2; ++i) {
            const __m512d p = _mm512_castps_pd(b[2 * i]), q = _mm512_castps_pd(b[2 * i + 1]);
            c[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
        }
        return add(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
    }
    KEEL_INLINE int32_t store_codes16(const F v[1], int8_t* q) {
        const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v[0]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), codes);
        const __m128i eights = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        return _mm_cvtsi128_si32(eights) + _mm_extract_epi16(eights, 4) - 16 * 128;
    }

    // ---- words in the lower halves of 64-bit lanes, for race.h ----
    using Words = __m512i;
    KEEL_INLINE Words words1(uint32_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
    KEEL_INLINE Words load_wide(const uint64_t* p) { return _mm512_loadu_si512(p); }
    KEEL_INLINE Words mul_words(Words a, Words b) { return _mm512_mul_epu32(a, b); }
    KEEL_INLINE Words upper_words(Words v) { return _mm512_srli_epi64(v, 32); }
    KEEL_INLINE Words differ(Words a, Words b) { return _mm512_xor_si512(a, b); }
    KEEL_INLINE void store_fours(uint32_t* p, Words w0, Words w1, Words w2, Words w3) {
        const __m512i low = _mm512_mask_shuffle_epi32(w0, 0xaaaa, w1, _MM_PERM_CCAA),
                      high = _mm512_mask_shuffle_epi32(w2, 0xaaaa, w3, _MM_PERM_CCAA);
        const __m512i even = _mm512_unpacklo_epi64(low, high), odd = _mm512_unpackhi_epi64(low, high);
        const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                      last = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_storeu_si512(p, _mm512_permutex2var_epi64(even, first, odd));
        _mm512_storeu_si512(p + 16, _mm512_permutex2var_epi64(even, last, odd));
    }

    // ---- for kv_codecs_lanes.h ----
    template <int s>
    KEEL_INLINE F butterfly(F v) {
        const F swapped = s == 1   ? _mm512_permute_ps(v, 0xb1)
                          : s == 2 ? _mm512_permute_ps(v, 0x4e)
                          : s == 4 ? _mm512_shuffle_f32x4(v, v, 0xb1)
                                   : _mm512_shuffle_f32x4(v, v, 0x4e);
        constexpr Mask kUpper = s == 1 ? 0xaaaa : s == 2 ? 0xcccc : s == 4 ? 0xf0f0 : 0xff00;
        return _mm512_mask_sub_ps(_mm512_add_ps(v, swapped), kUpper, swapped, v);
    }
    template <int w>
    KEEL_INLINE F repeat(F v, int part) {
        const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_permutexvar_ps(
            _mm512_srli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(16 * part)), w == 4 ? 2 : 3), v);
    }
    KEEL_INLINE void store_words8(const F v[8], int16_t* p) {
        __m512i pair[4];  // pair[i], lane l: elements 2i and 2i + 1 of row l
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i)
            pair[i] = _mm512_mask_mov_epi16(_mm512_cvtps_epi32(v[2 * i]), 0xaaaaaaaa,
                                            _mm512_slli_epi32(_mm512_cvtps_epi32(v[2 * i + 1]), 16));
        const __m512i a = _mm512_unpacklo_epi32(pair[0], pair[1]), b = _mm512_unpacklo_epi32(pair[2], pair[3]);
        const __m512i c = _mm512_unpackhi_epi32(pair[0], pair[1]), d = _mm512_unpackhi_epi32(pair[2], pair[3]);
        const __m512i row[4] = {_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(c, d),
                                _mm512_unpackhi_epi64(c, d)};
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {  // row[i], 128-bit lane l: row 4l + i
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * i), _mm512_castsi512_si128(row[i]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * (4 + i)), _mm512_extracti32x4_epi32(row[i], 1));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * (8 + i)), _mm512_extracti32x4_epi32(row[i], 2));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * (12 + i)), _mm512_extracti32x4_epi32(row[i], 3));
        }
    }
    KEEL_INLINE F load_words(const int16_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
