// Bit fields of KV rows with the byte permutations of VBMI: the U of kv_integers_avx512.h. Only *_avx512vbmi.cpp files
// include this.
#pragma once
#if defined(__AVX512VBMI__)
#include "kernels/cpu/attention/kv_integers_avx512.h"

namespace keel::kernels {
namespace {

struct ByteIndices {
    alignas(64) uint8_t at[64];
};
// Byte i of qword q: the byte at q * step + i, of a row.
constexpr ByteIndices field_bytes(int step) {
    ByteIndices b = {};
    for (int q = 0; q < 8; ++q)
        for (int i = 0; i < 8; ++i) b.at[8 * q + i] = static_cast<uint8_t>((q * step + i) & 63);
    return b;
}
// Of two rows side by side, qword 2g and 2g + 1: the bytes at (first + g) * step of the first row and of the second.
constexpr ByteIndices paired_field_bytes(int step, int first) {
    ByteIndices b = {};
    for (int q = 0; q < 8; ++q)
        for (int i = 0; i < 8; ++i)
            b.at[8 * q + i] = static_cast<uint8_t>((((first + q / 2) * step + i) & 63) | q % 2 * 64);
    return b;
}
template <int kStep>
constexpr ByteIndices kFieldBytes = field_bytes(kStep);
template <int kStep, int kFirst>
constexpr ByteIndices kPairedFieldBytes = paired_field_bytes(kStep, kFirst);

struct KvFieldsVbmi {
    struct Table {
        __m512i quarter[4];
    };
    KEEL_INLINE Table load_table(const int8_t* table, int flip) {
        Table t;
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i)
            t.quarter[i] =
                _mm512_xor_si512(_mm512_loadu_si512(table + 64 * i), _mm512_set1_epi8(static_cast<char>(flip)));
        return t;
    }
    KEEL_INLINE __m512i look_up(const Table& t, __m512i index) {
        const __m512i low = _mm512_permutex2var_epi8(t.quarter[0], index, t.quarter[1]);
        const __m512i high = _mm512_permutex2var_epi8(t.quarter[2], index, t.quarter[3]);
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
    }

    static constexpr bool kGroupsRows = true;  // has group_rows and windows_of_qwords

    // Eight bits at bits first, first + b, ... first + 7b of every qword, round about.
    template <int b, int first>
    KEEL_INLINE __m512i windows_of_qwords(__m512i x) {
        constexpr uint64_t kAt = [] {
            uint64_t at = 0;
            for (int i = 0; i < 8; ++i) at |= static_cast<uint64_t>((first + i * b) & 63) << 8 * i;
            return at;
        }();
        return _mm512_multishift_epi64_epi8(_mm512_set1_epi64(static_cast<long long>(kAt)), x);
    }
    // Eight bits at bit i * b + first of a row's bytes for i in 0..63.
    template <int b, int first>
    KEEL_INLINE __m512i windows(__m512i row) {
        return windows_of_qwords<b, first>(_mm512_permutexvar_epi8(_mm512_load_si512(kFieldBytes<b>.at), row));
    }
    // Of eight rows x[r]: x[g], qword r: eight bytes from byte g * step of row r on.
    template <int step>
    KEEL_INLINE void group_rows(__m512i x[8]) {
        const __m512i lower = _mm512_load_si512(kPairedFieldBytes<step, 0>.at),
                      upper = _mm512_load_si512(kPairedFieldBytes<step, 4>.at);
        __m512i y[8];  // y[2i], y[2i + 1]: groups 0..3 and 4..7 of rows 2i and 2i + 1
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            y[2 * i] = _mm512_permutex2var_epi8(x[2 * i], lower, x[2 * i + 1]);
            y[2 * i + 1] = _mm512_permutex2var_epi8(x[2 * i], upper, x[2 * i + 1]);
        }
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) KEEL_UNROLL
        for (int two = 0; two < 2; ++two) {  // two groups of four: rows 0..3 and 4..7
            const __m512i a = two ? _mm512_shuffle_i64x2(y[half], y[2 + half], 0xee)
                                  : _mm512_shuffle_i64x2(y[half], y[2 + half], 0x44);
            const __m512i c = two ? _mm512_shuffle_i64x2(y[4 + half], y[6 + half], 0xee)
                                  : _mm512_shuffle_i64x2(y[4 + half], y[6 + half], 0x44);
            x[4 * half + 2 * two] = _mm512_shuffle_i64x2(a, c, 0x88);
            x[4 * half + 2 * two + 1] = _mm512_shuffle_i64x2(a, c, 0xdd);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
