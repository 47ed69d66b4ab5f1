// AVX2 building blocks: the functions of kernels/numeric.h on eight lanes, with the same sequence of roundings in each,
// and the reduction of NUMERICS section 1. Only *_avx2.cpp files include this; everything is inlined into them.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/numeric.h"

#define KEEL_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define KEEL_UNROLL _Pragma("unroll")
#else
#define KEEL_UNROLL _Pragma("GCC unroll 16")
#endif

// Makes a vector opaque to the compiler at this point. Integer sums may be reordered, and are, into trees that need
// more registers than there are; this keeps the chain as written (and costs no instruction).
#define KEEL_KEEP_ORDER(v) __asm__("" : "+x"(v))

namespace keel::kernels {

// Sum of 16 lanes held as lanes 0..7 and 8..15.
KEEL_INLINE float tree16_avx2(__m256 lo, __m256 hi) {
    const __m256 a = _mm256_add_ps(lo, hi);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

// Four such sums at once, each from 16 consecutive floats: the same additions, transposed.
KEEL_INLINE __m128 tree16x4_avx2(const float lanes[4][16]) {
    __m256 a[4];
    KEEL_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = _mm256_add_ps(_mm256_loadu_ps(lanes[i]), _mm256_loadu_ps(lanes[i] + 8));
    const __m256 b01 =
        _mm256_add_ps(_mm256_permute2f128_ps(a[0], a[1], 0x20), _mm256_permute2f128_ps(a[0], a[1], 0x31));
    const __m256 b23 =
        _mm256_add_ps(_mm256_permute2f128_ps(a[2], a[3], 0x20), _mm256_permute2f128_ps(a[2], a[3], 0x31));
    const __m256d p01 = _mm256_castps_pd(b01), p23 = _mm256_castps_pd(b23);
    // Pairs of the sums 0, 2 | 1, 3.
    const __m256 c =
        _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(p01, p23)), _mm256_castpd_ps(_mm256_unpackhi_pd(p01, p23)));
    const __m256 s = _mm256_add_ps(c, _mm256_movehdup_ps(c));
    const __m128 s02 = _mm256_castps256_ps128(s), s13 = _mm256_extractf128_ps(s, 1);
    return _mm_unpacklo_ps(_mm_shuffle_ps(s02, s02, 0x08), _mm_shuffle_ps(s13, s13, 0x08));
}

KEEL_INLINE __m256 pow2_avx2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

KEEL_INLINE __m256 exp_avx2(__m256 x) {
    const __m256 round = _mm256_set1_ps(kRound32);
    const __m256 n = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(kLog2e32)), round), round);
    const __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Lo32), _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Hi32), x));
    __m256 p = _mm256_set1_ps(kExpC6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpC5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpC4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpC3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpC2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i i = _mm256_cvttps_epi32(n), half = _mm256_srai_epi32(i, 1);
    __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, pow2_avx2(half)), pow2_avx2(_mm256_sub_epi32(i, half)));
    // Lanes outside the range hold anything until here; NaN has stayed NaN.
    y = _mm256_blendv_ps(y, _mm256_set1_ps(kInf32), _mm256_cmp_ps(x, _mm256_set1_ps(kExpMax32), _CMP_GT_OQ));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(kExpMin32), _CMP_LT_OQ), y);
}

KEEL_INLINE __m256 tanh_avx2(__m256 x) {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f)), a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const __m256 u = _mm256_mul_ps(x, x), one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    __m256 p = _mm256_set1_ps(kTanhC5);
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(kTanhC4));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(kTanhC3));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(kTanhC2));
    p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(kTanhC1));
    const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(x, u), p, x);
    const __m256 e = exp_avx2(_mm256_mul_ps(two, a));
    const __m256 large = _mm256_or_ps(_mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(e, one))), sign);
    return _mm256_blendv_ps(large, small, _mm256_cmp_ps(a, _mm256_set1_ps(kTanhSplit), _CMP_LT_OQ));
}

KEEL_INLINE void prefetch_lines(const uint8_t* p, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T0);
}

// 8 weights as f32, by type.
struct LoadF32 {
    static constexpr uint32_t kBytes = 4;
    KEEL_INLINE __m256 load8(const uint8_t* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
    KEEL_INLINE float load1(const uint8_t* p) {
        float x;
        memcpy(&x, p, 4);
        return x;
    }
};
struct LoadF16 {
    static constexpr uint32_t kBytes = 2;
    KEEL_INLINE __m256 load8(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    KEEL_INLINE float load1(const uint8_t* p) { return f16_to_f32(static_cast<uint16_t>(p[0] | p[1] << 8)); }
};
struct LoadBF16 {
    static constexpr uint32_t kBytes = 2;
    KEEL_INLINE __m256 load8(const uint8_t* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    KEEL_INLINE float load1(const uint8_t* p) { return bf16_to_f32(static_cast<uint16_t>(p[0] | p[1] << 8)); }
};

// R weight rows times C columns over k elements (k a multiple of 8), continuing the 16 lanes of every product in
// lanes[c][r]. One half of the lanes at a time, so that R * C accumulators fill the registers; `Both` runs the two
// halves together where R * C is too small to hide the latency of fma.
template <class Load, int R, int C, bool Both>
KEEL_INLINE void tile_avx2(const uint8_t* w, uint64_t w_row_bytes, const float* const* x, uint32_t k,
                           float (*lanes)[R][16]) {
    constexpr int kHalves = Both ? 2 : 1;
    for (int first = 0; first < 2; first += kHalves) {
        __m256 acc[kHalves][C][R];
        KEEL_UNROLL
        for (int h = 0; h < kHalves; ++h) KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (int r = 0; r < R; ++r) acc[h][c][r] = _mm256_loadu_ps(lanes[c][r] + 8 * (first + h));
        const auto step = [&](int h, uint32_t i) __attribute__((always_inline)) {
            __m256 xs[C];
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) xs[c] = _mm256_loadu_ps(x[c] + i);
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) {
                const __m256 ws = Load::load8(w + r * w_row_bytes + uint64_t{i} * Load::kBytes);
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) acc[h][c][r] = _mm256_fmadd_ps(ws, xs[c], acc[h][c][r]);
            }
        };
        uint32_t i = 8 * static_cast<uint32_t>(first);
        if constexpr (Both) {
            for (; i + 16 <= k; i += 16) {
                step(0, i);
                step(1, i + 8);
            }
            if (i < k) step(0, i);
        } else {
            for (; i < k; i += 16) step(0, i);
        }
        KEEL_UNROLL
        for (int h = 0; h < kHalves; ++h) KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (int r = 0; r < R; ++r) _mm256_storeu_ps(lanes[c][r] + 8 * (first + h), acc[h][c][r]);
    }
}

}  // namespace keel::kernels
#endif
