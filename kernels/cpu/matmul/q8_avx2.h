// The integer vectors of AVX2 for q8_products.h: eight rows. Products of four go through 16 bits: maddubs leaves sums
// of two, several of which are added there before the scale of their sub-block multiplies and widens them in madd.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/matmul/q8_products.h"

namespace keel::kernels {
namespace {

struct Q8Avx2 {
    using I = __m256i;
    using F = __m256;
    static constexpr uint32_t kLanes = 8;
    static constexpr bool kHasDot4 = false, kSignedCodes = true, kSplitSigns = true, kInPlace = true;
    static constexpr uint32_t kFewTokens = 16, kInPlaceTokens = 6, kMaxPanels = 4;
    static constexpr int kTileTokens = 4, kTilePanels = 2;

    KEEL_INLINE I load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    KEEL_INLINE void load_rows(const uint8_t* p, uint64_t stride, I out[4]) {
        I y[4];
        KEEL_UNROLL
        for (uint64_t i = 0; i < 4; ++i) {
            const __m128i lo = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * stride));
            const __m128i hi = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + (i + 4) * stride));
            y[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
        }
        const I a = _mm256_unpacklo_epi32(y[0], y[1]), b = _mm256_unpacklo_epi32(y[2], y[3]);
        const I c = _mm256_unpackhi_epi32(y[0], y[1]), d = _mm256_unpackhi_epi32(y[2], y[3]);
        out[0] = _mm256_unpacklo_epi64(a, b);
        out[1] = _mm256_unpackhi_epi64(a, b);
        out[2] = _mm256_unpacklo_epi64(c, d);
        out[3] = _mm256_unpackhi_epi64(c, d);
    }
    KEEL_INLINE I load_row_dwords(const uint8_t* p, uint64_t stride) {
        int32_t v[8];
        KEEL_UNROLL
        for (uint64_t i = 0; i < 8; ++i) memcpy(v + i, p + i * stride, 4);
        return _mm256_setr_epi32(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
    }
    KEEL_INLINE I zero() { return _mm256_setzero_si256(); }
    KEEL_INLINE I set1_8(int v) { return _mm256_set1_epi8(static_cast<char>(v)); }
    KEEL_INLINE I set1_16(int v) { return _mm256_set1_epi16(static_cast<short>(v)); }
    KEEL_INLINE I set1_32(int v) { return _mm256_set1_epi32(v); }
    KEEL_INLINE I and_(I a, I b) { return _mm256_and_si256(a, b); }
    KEEL_INLINE I or_(I a, I b) { return _mm256_or_si256(a, b); }
    KEEL_INLINE I add8(I a, I b) { return _mm256_add_epi8(a, b); }
    KEEL_INLINE I sub8(I a, I b) { return _mm256_sub_epi8(a, b); }
    KEEL_INLINE I negate16(I a) { return _mm256_sub_epi16(_mm256_setzero_si256(), a); }
    template <int n>
    KEEL_INLINE I shift_left(I v) {
        return _mm256_slli_epi16(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_right(I v) {
        return _mm256_srli_epi16(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_left32(I v) {
        return _mm256_slli_epi32(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_right32(I v) {
        return _mm256_srli_epi32(v, n);
    }
    KEEL_INLINE I look_up(const uint8_t table[16], I v) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table))),
                                   v);
    }
    // Bit i of qh is bit 4 of element i.
    KEEL_INLINE void add_fifth_bits(I qh, I code[8]) {
        KEEL_UNROLL
        for (int j = 0; j < 8; ++j) {
            const int first = j / 2 * 0x01010101;
            const I index = _mm256_broadcastsi128_si256(
                _mm_setr_epi32(first, first + 0x04040404, first + 0x08080808, first + 0x0c0c0c0c));
            const I bits = _mm256_set1_epi32(static_cast<int>(j % 2 ? 0x80402010u : 0x08040201u)),
                    byte = _mm256_shuffle_epi8(qh, index);
            const I set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, bits), bits);
            code[j] = _mm256_or_si256(code[j], _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
    }
    template <bool is_signed>
    KEEL_INLINE I widen_pair(I bytes, int first, int second) {
        // Every byte goes to one half of its 16 bits (0x80 fills the other one with zeros): to the lower one, or where
        // it has a sign to the upper one, whence the shift extends it.
        const int low = first | second << 16,
                  row0 = is_signed ? 0x00800080 | low << 8 : static_cast<int>(0x80008000u) | low,
                  row = is_signed ? 0x04000400 : 0x00040004;
        const I index = _mm256_broadcastsi128_si256(_mm_setr_epi32(row0, row0 + row, row0 + 2 * row, row0 + 3 * row));
        const I spread = _mm256_shuffle_epi8(bytes, index);
        return is_signed ? _mm256_srai_epi16(spread, 8) : spread;
    }
    template <bool is_signed>
    KEEL_INLINE I widen_pair(I bytes, int b) {
        return widen_pair<is_signed>(bytes, b, b + 1);
    }
    template <bool is_signed>
    KEEL_INLINE I widen_scale(I bytes, int b) {  // for madd
        return widen_pair<is_signed>(bytes, b, b);
    }
    KEEL_INLINE F f16_low(I v) {
        const I packed = _mm256_packus_epi32(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
        return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0xd8)));
    }
    KEEL_INLINE F f16_high(I v) { return f16_low(_mm256_srli_epi32(v, 16)); }
    KEEL_INLINE void f16_halves(I v, F* low, F* high) {
        const I apart = _mm256_shuffle_epi8(
            v, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
        const I halves = _mm256_permute4x64_epi64(apart, 0xd8);
        *low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        *high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
    }
    KEEL_INLINE F load_f16(const uint8_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }

    KEEL_INLINE I broadcast_dword(const uint8_t* p) {
        int32_t v;
        memcpy(&v, p, 4);
        return _mm256_set1_epi32(v);
    }
    KEEL_INLINE I dot2(I acc, I pairs, const uint8_t* sums) {
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, broadcast_dword(sums)));
    }
    KEEL_INLINE void add_neighbours(const uint8_t* sums, uint8_t* to) {
        const __m128i* s = reinterpret_cast<const __m128i*>(sums);
        _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_hadd_epi16(_mm_loadu_si128(s), _mm_loadu_si128(s + 1)));
    }
    // Products of bytes want one side unsigned, so a signed code w gives |w| and its sign to x. What is used once does
    // it by an instruction that takes the multipliers' place; panels hold both apart instead, the sign as a mask that
    // is all ones where w is negative. x ^ mask is then -x - 1, and |w| (x ^ mask) lacks |w|: add_lacking adds those
    // of a block to what its sums start from. Pairs lie within -2 * 128 * 128 .. 2 * 128 * 127, which is 16 bits.
    struct SplitCode {
        I magnitude, mask;
    };
    KEEL_INLINE SplitCode split(I code) {
        return {_mm256_abs_epi8(code), _mm256_cmpgt_epi8(_mm256_setzero_si256(), code)};
    }
    KEEL_INLINE I add_lacking(I start, SplitCode w, I factor) {
        return _mm256_sub_epi32(start, _mm256_madd_epi16(_mm256_maddubs_epi16(w.magnitude, w.mask), factor));
    }
    template <bool is_signed>
    KEEL_INLINE I products(I w, I x) {
        return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                         : _mm256_maddubs_epi16(w, x);
    }
    template <bool>
    KEEL_INLINE I products(SplitCode w, I x) {
        return _mm256_maddubs_epi16(w.magnitude, _mm256_xor_si256(x, w.mask));
    }
    // 32 elements; sub: elements that share a scale, 0 for none.
    template <bool is_signed, int run, uint32_t sub, int N, int R, class Codes, class Scales, class Address>
    KEEL_INLINE void multiply_chunk(Codes&& code, Scales&& scale, Address&& q, I* sum) {
        KEEL_UNROLL
        for (int first = 0; first < 8; first += run) {
            I t[R * N];
            KEEL_UNROLL
            for (int j = first; j < first + run; ++j) {
                decltype(code(0, 0)) w[R];
                KEEL_UNROLL
                for (int r = 0; r < R; ++r) w[r] = code(r, j);
                KEEL_UNROLL
                for (int c = 0; c < N; ++c) {
                    const I x = broadcast_dword(q(c) + 4 * j);
                    KEEL_UNROLL
                    for (int r = 0; r < R; ++r) {
                        const int i = r * N + c;
                        const I product = products<is_signed>(w[r], x);
                        t[i] = j == first ? product : _mm256_add_epi16(t[i], product);
                        // Integer sums may be reordered, and are, into trees that need more registers than there are;
                        // this keeps the chain as written (and costs no instruction).
                        __asm__("" : "+x"(t[i]));
                        if (j < first + run - 1) continue;
                        const I factor = sub == 0 ? set1_16(1) : scale(r, sub == 16 ? first / 4 : 0);
                        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(t[i], factor));
                        if (run == 1) __asm__("" : "+x"(sum[i]));
                    }
                }
            }
        }
    }

    KEEL_INLINE F zero_floats() { return _mm256_setzero_ps(); }
    KEEL_INLINE F broadcast(const uint8_t* p) {
        float v;
        memcpy(&v, p, 4);
        return _mm256_set1_ps(v);
    }
    KEEL_INLINE F to_float(I v) { return _mm256_cvtepi32_ps(v); }
    KEEL_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    KEEL_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    KEEL_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
    KEEL_INLINE F load_floats(const float* p) { return _mm256_loadu_ps(p); }
    KEEL_INLINE void store_floats(float* p, F v) { _mm256_storeu_ps(p, v); }
};

}  // namespace
}  // namespace keel::kernels
#endif
