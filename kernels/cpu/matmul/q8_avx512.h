// The integer vectors of AVX-512 for q8_products.h: sixteen rows, products of four by VNNI.
#pragma once
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/matmul/q8_products.h"

namespace keel::kernels {
namespace {

struct Q8Avx512 {
    using I = __m512i;
    using F = __m512;
    static constexpr uint32_t kLanes = 16;
    static constexpr bool kHasDot4 = true, kSignedCodes = false, kSplitSigns = false, kInPlace = true;
    static constexpr uint32_t kFewTokens = 16, kInPlaceTokens = 8, kMaxPanels = 4;
    // One group a tile: work items of many tokens have 16 rows. Two are no faster, as their sums spill.
    static constexpr int kTileTokens = 8, kTilePanels = 1;

    KEEL_INLINE I load(const void* p) { return _mm512_loadu_si512(p); }
    // Row 4i + j goes to 128-bit lane i of vector j; the transposition inside the lanes then leaves rows in order.
    KEEL_INLINE void load_rows(const uint8_t* p, uint64_t stride, I out[4]) {
        I y[4];
        KEEL_UNROLL
        for (int j = 0; j < 4; ++j) {
            const auto row = [&](int i) KEEL_ALWAYS_INLINE {
                return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + (4 * i + j) * stride));
            };
            y[j] = _mm512_castsi128_si512(row(0));
            y[j] = _mm512_inserti32x4(y[j], row(1), 1);
            y[j] = _mm512_inserti32x4(y[j], row(2), 2);
            y[j] = _mm512_inserti32x4(y[j], row(3), 3);
        }
        const I a = _mm512_unpacklo_epi32(y[0], y[1]), b = _mm512_unpacklo_epi32(y[2], y[3]);
        const I c = _mm512_unpackhi_epi32(y[0], y[1]), d = _mm512_unpackhi_epi32(y[2], y[3]);
        out[0] = _mm512_unpacklo_epi64(a, b);
        out[1] = _mm512_unpackhi_epi64(a, b);
        out[2] = _mm512_unpacklo_epi64(c, d);
        out[3] = _mm512_unpackhi_epi64(c, d);
    }
    KEEL_INLINE I load_row_dwords(const uint8_t* p, uint64_t stride) {
        int32_t v[16];
        KEEL_UNROLL
        for (uint64_t i = 0; i < 16; ++i) memcpy(v + i, p + i * stride, 4);
        return _mm512_setr_epi32(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13],
                                 v[14], v[15]);
    }
    KEEL_INLINE I zero() { return _mm512_setzero_si512(); }
    KEEL_INLINE I set1_8(int v) { return _mm512_set1_epi8(static_cast<char>(v)); }
    KEEL_INLINE I set1_16(int v) { return _mm512_set1_epi16(static_cast<short>(v)); }
    KEEL_INLINE I set1_32(int v) { return _mm512_set1_epi32(v); }
    KEEL_INLINE I and_(I a, I b) { return _mm512_and_si512(a, b); }
    KEEL_INLINE I or_(I a, I b) { return _mm512_or_si512(a, b); }
    KEEL_INLINE I xor_(I a, I b) { return _mm512_xor_si512(a, b); }
    KEEL_INLINE I add8(I a, I b) { return _mm512_add_epi8(a, b); }
    KEEL_INLINE I sub8(I a, I b) { return _mm512_sub_epi8(a, b); }
    KEEL_INLINE I negate16(I a) { return _mm512_sub_epi16(_mm512_setzero_si512(), a); }
    template <int n>
    KEEL_INLINE I shift_left(I v) {
        return _mm512_slli_epi16(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_right(I v) {
        return _mm512_srli_epi16(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_left32(I v) {
        return _mm512_slli_epi32(v, n);
    }
    template <int n>
    KEEL_INLINE I shift_right32(I v) {
        return _mm512_srli_epi32(v, n);
    }
    KEEL_INLINE I look_up(const uint8_t table[16], I v) {
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), v);
    }
    // Bit i of qh is bit 4 of element i.
    KEEL_INLINE void add_fifth_bits(I qh, I code[8]) {
        KEEL_UNROLL
        for (int j = 0; j < 8; ++j) {
            const int first = j / 2 * 0x01010101;
            const I index = _mm512_broadcast_i32x4(
                _mm_setr_epi32(first, first + 0x04040404, first + 0x08080808, first + 0x0c0c0c0c));
            const I bits = _mm512_set1_epi32(static_cast<int>(j % 2 ? 0x80402010u : 0x08040201u));
            const __mmask64 set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(qh, index), bits);
            code[j] = _mm512_mask_add_epi8(code[j], set, code[j], _mm512_set1_epi8(16));
        }
    }
    // Every byte goes to one end of its element (0x80 fills the rest with zeros): to the lower one, or where it has a
    // sign to the upper one, whence a shift extends it. row0: where the bytes of row 0 come from.
    KEEL_INLINE I spread(I bytes, uint32_t row0, uint32_t row) {
        const auto of_row = [&](uint32_t r) KEEL_ALWAYS_INLINE { return static_cast<int>(row0 + r * row); };
        const I index = _mm512_broadcast_i32x4(_mm_setr_epi32(of_row(0), of_row(1), of_row(2), of_row(3)));
        return _mm512_shuffle_epi8(bytes, index);
    }
    template <bool is_signed>
    KEEL_INLINE I widen_scale(I bytes, int b) {
        const uint32_t byte = static_cast<uint32_t>(b);
        if (!is_signed) return spread(bytes, 0x80808000u | byte, 4);
        return _mm512_srai_epi32(spread(bytes, 0x00808080u | byte << 24, 4u << 24), 24);
    }
    template <bool is_signed>
    KEEL_INLINE I widen_pair(I bytes, int b) {
        const uint32_t both = static_cast<uint32_t>(b) | static_cast<uint32_t>(b + 1) << 16;
        if (!is_signed) return spread(bytes, 0x80008000u | both, 0x00040004u);
        return _mm512_srai_epi16(spread(bytes, 0x00800080u | both << 8, 0x04000400u), 8);
    }
    KEEL_INLINE F f16_low(I v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
    KEEL_INLINE F f16_high(I v) { return f16_low(_mm512_srli_epi32(v, 16)); }
    KEEL_INLINE void f16_halves(I v, F* low, F* high) {
        *low = f16_low(v);
        *high = f16_high(v);
    }
    KEEL_INLINE F load_f16(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }

    KEEL_INLINE I broadcast_dword(const uint8_t* p) {
        int32_t v;
        memcpy(&v, p, 4);
        return _mm512_set1_epi32(v);
    }
    KEEL_INLINE I dot4(I acc, I codes, I x) { return _mm512_dpbusd_epi32(acc, codes, x); }
    KEEL_INLINE I dot2(I acc, I pairs, const uint8_t* sums) {
        return _mm512_dpwssd_epi32(acc, pairs, broadcast_dword(sums));
    }
    KEEL_INLINE void add_neighbours(const uint8_t* sums, uint8_t* to) {
        const __m128i* s = reinterpret_cast<const __m128i*>(sums);
        _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_hadd_epi16(_mm_loadu_si128(s), _mm_loadu_si128(s + 1)));
    }
    KEEL_INLINE I multiply_add(I acc, I t, I scale) { return _mm512_add_epi32(acc, _mm512_mullo_epi32(t, scale)); }

    KEEL_INLINE F zero_floats() { return _mm512_setzero_ps(); }
    KEEL_INLINE F broadcast(const uint8_t* p) {
        float v;
        memcpy(&v, p, 4);
        return _mm512_set1_ps(v);
    }
    KEEL_INLINE F to_float(I v) { return _mm512_cvtepi32_ps(v); }
    KEEL_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    KEEL_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
    KEEL_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    KEEL_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
    KEEL_INLINE F load_floats(const float* p) { return _mm512_loadu_ps(p); }
    KEEL_INLINE void store_floats(float* p, F v) { _mm512_storeu_ps(p, v); }
};

}  // namespace

// Products of many tokens of the AVX-512 set, which the AMX set shares: unpacking, and what its tiles leave.
// Defined in matmul_q8_avx512.cpp.
template <WeightType T, bool kRepacked>
void multiply_many_avx512(const MatmulArgs& a, MatrixUnit unit);

}  // namespace keel::kernels
#endif
