// Eight f32 lanes of AVX2 with FMA and F16C: the interface of float_vector.h. Only *_avx2.cpp files include this.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/vector/inline.h"

namespace keel::kernels {
namespace {

struct FloatAvx2 {
    using F = __m256;
    using Mask = __m256;
    static constexpr int kLanes = 8;
    static constexpr int kRegisters = 16;

    KEEL_INLINE F zero() { return _mm256_setzero_ps(); }
    KEEL_INLINE F set1(float x) { return _mm256_set1_ps(x); }
    KEEL_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
    KEEL_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, v); }
    KEEL_INLINE __m256i first(uint32_t n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    KEEL_INLINE F load_first(const float* p, uint32_t n) { return _mm256_maskload_ps(p, first(n)); }
    KEEL_INLINE void store_first(float* p, uint32_t n, F v) { _mm256_maskstore_ps(p, first(n), v); }
    KEEL_INLINE F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
    KEEL_INLINE F load_bf16(const void* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    KEEL_INLINE void store_f16(void* p, F v) {
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    KEEL_INLINE void load_pairs(const float* p, F* even, F* odd) {
        const F a = load(p), b = load(p + 8);
        const auto in_order = [](F v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8)); };
        *even = in_order(_mm256_shuffle_ps(a, b, 0x88));
        *odd = in_order(_mm256_shuffle_ps(a, b, 0xdd));
    }
    KEEL_INLINE void store_pairs(float* p, F even, F odd) {
        const F lo = _mm256_unpacklo_ps(even, odd), hi = _mm256_unpackhi_ps(even, odd);
        store(p, _mm256_permute2f128_ps(lo, hi, 0x20));
        store(p + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
    }

    KEEL_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
    KEEL_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    KEEL_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    KEEL_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    KEEL_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
    KEEL_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
    KEEL_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
    KEEL_INLINE F abs(F v) { return _mm256_andnot_ps(set1(-0.0f), v); }
    KEEL_INLINE F negate(F v) { return _mm256_xor_ps(set1(-0.0f), v); }
    KEEL_INLINE F with_sign(F magnitude, F sign) { return _mm256_or_ps(magnitude, _mm256_and_ps(sign, set1(-0.0f))); }
    KEEL_INLINE F mul_pow2(F p, F n) {
        const __m256i i = _mm256_cvttps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
        const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
        const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23);
        return mul(mul(p, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
    }

    KEEL_INLINE Mask less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
    KEEL_INLINE Mask is_number(F v) { return _mm256_cmp_ps(v, v, _CMP_ORD_Q); }
    KEEL_INLINE Mask lanes_between(int lo, int hi) {
        const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), i),
                                                       _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), i)));
    }
    KEEL_INLINE Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
    KEEL_INLINE bool all(Mask m) { return _mm256_movemask_ps(m) == 255; }
    KEEL_INLINE F select(Mask m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
    KEEL_INLINE F keep(Mask m, F v) { return _mm256_and_ps(m, v); }

    KEEL_INLINE float max_across(F v) {
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
    KEEL_INLINE float tree16_one(const F lanes[2]) {
        const __m256 a = add(lanes[0], lanes[1]);
        const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
        return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
    }
    KEEL_INLINE F tree16(const F (*lanes)[2]) {
        F a[8], b[4], c[2];
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) a[i] = add(lanes[i][0], lanes[i][1]);
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i)  // b of the sums i | i + 4
            b[i] = add(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
        KEEL_UNROLL
        for (int i = 0; i < 2; ++i) {  // c of the sums 2i, 2i + 1 in each half
            const __m256d p = _mm256_castps_pd(b[2 * i]), q = _mm256_castps_pd(b[2 * i + 1]);
            c[i] = add(_mm256_castpd_ps(_mm256_unpacklo_pd(p, q)), _mm256_castpd_ps(_mm256_unpackhi_pd(p, q)));
        }
        return add(_mm256_shuffle_ps(c[0], c[1], 0x88), _mm256_shuffle_ps(c[0], c[1], 0xdd));
    }
    KEEL_INLINE int32_t store_codes16(const F v[2], int8_t* q) {
        const __m256i words =
            _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1])), 0xd8);
        const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), codes);
        const __m128i eights = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        return _mm_cvtsi128_si32(eights) + _mm_extract_epi16(eights, 4) - 16 * 128;
    }

    // ---- words in the lower halves of 64-bit lanes, for race.h ----
    using Words = __m256i;
    KEEL_INLINE Words words1(uint32_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
    KEEL_INLINE Words load_wide(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    KEEL_INLINE Words mul_words(Words a, Words b) { return _mm256_mul_epu32(a, b); }
    KEEL_INLINE Words upper_words(Words v) { return _mm256_srli_epi64(v, 32); }
    KEEL_INLINE Words differ(Words a, Words b) { return _mm256_xor_si256(a, b); }
    KEEL_INLINE void store_fours(uint32_t* p, Words w0, Words w1, Words w2, Words w3) {
        const __m256i low = _mm256_blend_epi32(w0, _mm256_slli_epi64(w1, 32), 0xaa),
                      high = _mm256_blend_epi32(w2, _mm256_slli_epi64(w3, 32), 0xaa);
        const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }

    // ---- for kv_codecs_lanes.h ----
    template <int s>
    KEEL_INLINE F butterfly(F v) {
        const F swapped = s == 1   ? _mm256_permute_ps(v, 0xb1)
                          : s == 2 ? _mm256_permute_ps(v, 0x4e)
                                   : _mm256_permute2f128_ps(v, v, 1);
        return _mm256_blend_ps(_mm256_add_ps(v, swapped), _mm256_sub_ps(swapped, v),
                               s == 1   ? 0xaa
                               : s == 2 ? 0xcc
                                        : 0xf0);
    }
    template <int w>
    KEEL_INLINE F repeat(F v, int part) {
        const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_permutevar8x32_ps(v, _mm256_srli_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(8 * part)), 2));
    }
    KEEL_INLINE void store_words8(const F v[8], int16_t* p) {
        __m256i pair[4];  // pair[i], lane l: elements 2i and 2i + 1 of row l
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i)
            pair[i] = _mm256_blend_epi16(_mm256_cvtps_epi32(v[2 * i]),
                                         _mm256_slli_epi32(_mm256_cvtps_epi32(v[2 * i + 1]), 16), 0xaa);
        const __m256i a = _mm256_unpacklo_epi32(pair[0], pair[1]), b = _mm256_unpacklo_epi32(pair[2], pair[3]);
        const __m256i c = _mm256_unpackhi_epi32(pair[0], pair[1]), d = _mm256_unpackhi_epi32(pair[2], pair[3]);
        const __m256i row[4] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), _mm256_unpacklo_epi64(c, d),
                                _mm256_unpackhi_epi64(c, d)};
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {  // row[i], 128-bit lane l: row 4l + i
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * i), _mm256_castsi256_si128(row[i]));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8 * (4 + i)), _mm256_extracti128_si256(row[i], 1));
        }
    }
    KEEL_INLINE F load_words(const int16_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
