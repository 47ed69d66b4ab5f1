// Bit fields of KV rows for AVX-512 without VBMI: the U of kv_integers_avx512.h in 16-bit lanes.
#pragma once
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include "kernels/cpu/attention/kv_integers_avx512.h"

namespace keel::kernels {
namespace {

struct FieldLanes {
    alignas(64) uint32_t dwords[2][16];  // [half]: of the row, the four that 128-bit lane l takes its bytes from
    alignas(64) uint8_t bytes[2][64];    // within the lane: both bytes that word i has its window in
    alignas(64) uint16_t shifts[2][32];
};
// Word i of half h: window 32h + i, at bit (32h + i) * b of the row. Its bytes are at most two.
constexpr FieldLanes field_lanes(int b) {
    FieldLanes f = {};
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const int lane = i / 8, first = (32 * h + 8 * lane) * b / 32, byte = (32 * h + i) * b / 8 - 4 * first;
            for (int k = 0; k < 4; ++k) f.dwords[h][4 * lane + k] = static_cast<uint32_t>((first + k) & 15);
            f.bytes[h][2 * i] = static_cast<uint8_t>(byte);
            f.bytes[h][2 * i + 1] = static_cast<uint8_t>(byte + 1);
            f.shifts[h][i] = static_cast<uint16_t>((32 * h + i) * b % 8);
        }
    return f;
}
template <int b>
constexpr FieldLanes kFieldLanes = field_lanes(b);

struct KvFieldsAvx512 {
    static constexpr bool kGroupsRows = false;

    struct Table {
        __m512i quarter[4];  // two entries a word
    };
    KEEL_INLINE Table load_table(const int8_t* table, int flip) {
        Table t;
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i)
            t.quarter[i] =
                _mm512_xor_si512(_mm512_loadu_si512(table + 64 * i), _mm512_set1_epi8(static_cast<char>(flip)));
        return t;
    }
    // Bytes of the words' lower halves in the order of the windows: half 0, half 1.
    KEEL_INLINE __m512i narrow(const __m512i half[2]) {
        const __m512i low = _mm512_set1_epi16(255);
        const __m512i mixed = _mm512_packus_epi16(_mm512_and_si512(half[0], low), _mm512_and_si512(half[1], low));
        return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), mixed);
    }
    KEEL_INLINE __m512i look_up(const Table& t, __m512i index) {
        __m512i half[2];
        KEEL_UNROLL
        for (int h = 0; h < 2; ++h) {
            const __m512i i =
                _mm512_cvtepu8_epi16(h ? _mm512_extracti64x4_epi64(index, 1) : _mm512_castsi512_si256(index));
            const __m512i word = _mm512_srli_epi16(i, 1);
            const __m512i low = _mm512_permutex2var_epi16(t.quarter[0], word, t.quarter[1]),
                          high = _mm512_permutex2var_epi16(t.quarter[2], word, t.quarter[3]);
            const __m512i both = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(i, _mm512_set1_epi16(128)), low, high);
            half[h] = _mm512_mask_srli_epi16(both, _mm512_test_epi16_mask(i, _mm512_set1_epi16(1)), both, 8);
        }
        return narrow(half);
    }
    // Eight bits at bit i * b of a row's bytes for i in 0..63, two further up where `first` is -2.
    template <int b, int first>
    KEEL_INLINE __m512i windows(__m512i row) {
        static_assert(first == 0 || first == -2);
        constexpr const FieldLanes& kAt = kFieldLanes<b>;
        __m512i half[2];
        KEEL_UNROLL
        for (int h = 0; h < 2; ++h) {
            const __m512i lanes = _mm512_permutexvar_epi32(_mm512_load_si512(kAt.dwords[h]), row);
            const __m512i words = _mm512_shuffle_epi8(lanes, _mm512_load_si512(kAt.bytes[h]));
            half[h] = _mm512_srlv_epi16(words, _mm512_load_si512(kAt.shifts[h]));
        }
        return first == 0 ? narrow(half) : _mm512_slli_epi16(narrow(half), 2);
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
