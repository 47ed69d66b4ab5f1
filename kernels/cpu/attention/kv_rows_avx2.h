// Products of integer K and V rows in AVX2: with kv_unpack_avx2.h the P of kv_ints_rows.h.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/attention/kv_unpack_avx2.h"
#include "kernels/cpu/vector/float_avx2.h"

namespace keel::kernels {
namespace {

struct KvRowsAvx2 : KvUnpackAvx2 {
    using I = __m256i;
    static constexpr uint32_t kGroup = 2;
    static constexpr int kValueRows = 4;
    struct Weights {
        alignas(32) int16_t w[kMaxKvScales][kAttentionTile];
    };

    KEEL_INLINE void interleave(const int8_t* rows, uint64_t stride, int8_t* to) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows)),
                      b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + stride));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi8(a, b));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16), _mm_unpackhi_epi8(a, b));
    }
    KEEL_INLINE void store_weights(const __m256 v[8], Weights& w, uint32_t scale) {
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2 * i]), _mm256_cvtps_epi32(v[2 * i + 1]));
            _mm256_store_si256(reinterpret_cast<__m256i*>(w.w[scale] + 16 * i), _mm256_permute4x64_epi64(words, 0xd8));
        }
    }
    // Four keys times C <= 2 queries: dword r of sum[c] is that of key r in two parts, 128-bit lanes. |k| is at most
    // 128 and |q| 127, so that two products fit 16 bits.
    template <int C>
    KEEL_INLINE void dots4(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, __m256i* sum) {
        __m256i part[C][4];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (__m256i& s : part[c]) s = _mm256_setzero_si256();
        const __m256i ones = _mm256_set1_epi16(1);
        for (uint32_t i = 0; i < n; i += 32) {
            __m256i x[C];
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) x[c] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q[c] + i));
            KEEL_UNROLL
            for (int r = 0; r < 4; ++r) {
                const __m256i k =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + static_cast<uint64_t>(r) * stride + i));
                const __m256i magnitude = _mm256_abs_epi8(k);
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) {
                    const __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x[c], k));
                    part[c][r] = _mm256_add_epi32(part[c][r], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        const auto add_across = [](__m256i a,
                                   __m256i b) KEEL_ALWAYS_INLINE {  // of dwords 2i and 2i + 1 half each: a, b, a, b
            return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        };
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) {
            const __m256i a = add_across(part[c][0], part[c][1]), b = add_across(part[c][2], part[c][3]);
            sum[c] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        }
    }
    template <int C>
    KEEL_INLINE void dots(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, __m256* dot) {
        __m256i low[C], high[C];
        dots4<C>(keys, stride, q, n, low);
        dots4<C>(keys + 4 * stride, stride, q, n, high);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c)
            dot[c] = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_permute2x128_si256(low[c], high[c], 0x20),
                                                         _mm256_permute2x128_si256(low[c], high[c], 0x31)));
    }
    KEEL_INLINE I zero() { return _mm256_setzero_si256(); }
    template <int C>
    KEEL_INLINE void add(I (*sum)[2], const int8_t* x, const Weights* w, uint32_t scale, uint64_t j) {
        __m256i pairs[2];
        KEEL_UNROLL
        for (int k = 0; k < 2; ++k)
            pairs[k] = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 16 * k)));
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            int32_t two;
            memcpy(&two, w[i].w[scale] + j, 4);
            KEEL_UNROLL
            for (int k = 0; k < 2; ++k)
                sum[i][k] = _mm256_add_epi32(sum[i][k], _mm256_madd_epi16(pairs[k], _mm256_set1_epi32(two)));
        }
    }
    KEEL_INLINE __m256 total(I sum) { return _mm256_cvtepi32_ps(sum); }
};

}  // namespace
}  // namespace keel::kernels
#endif
