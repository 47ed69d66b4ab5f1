// Integers of KV rows in AVX2: the unpacking half of the P of kv_ints_rows.h.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/attention/kv_ints_rows.h"
#include "kernels/cpu/vector/float_avx2.h"

namespace keel::kernels {
namespace {

// Sixteen windows at bits 0, b, 2b .. of a 128-bit lane's bytes, the even ones and the odd ones a word each: where its
// two bytes are, and 2^(8 - s) for the bit s of the first byte at which the window begins.
struct WindowLanes {
    alignas(32) uint8_t bytes[2][32];
    alignas(32) uint16_t shifts[2][16];
};
constexpr WindowLanes window_lanes(int b) {
    WindowLanes w = {};
    for (int odd = 0; odd < 2; ++odd)
        for (int i = 0; i < 16; ++i) {
            const int at = (2 * (i % 8) + odd) * b;
            w.bytes[odd][2 * i] = static_cast<uint8_t>(at / 8);
            w.bytes[odd][2 * i + 1] = static_cast<uint8_t>(at / 8 + 1);
            w.shifts[odd][i] = static_cast<uint16_t>(1 << (8 - at % 8));
        }
    return w;
}
template <int b>
constexpr WindowLanes kWindowLanes = window_lanes(b);

// Tables of 16 entries, in both lanes: entries 16h.. of the table of b bits.
struct NibbleTables {
    alignas(32) int8_t of[16][32];
};
constexpr NibbleTables nibble_tables(const int8_t* table) {
    NibbleTables t = {};
    for (int h = 0; h < 16; ++h)
        for (int i = 0; i < 32; ++i) t.of[h][i] = table[16 * h + i % 16];
    return t;
}
template <int b>
constexpr NibbleTables kNibbleTables = nibble_tables(kTrellisTables[b - 2]);

struct KvUnpackAvx2 {
    // Eight bits at bit i * b of 4b bytes for i in 0..31. Reads 16 bytes from p and from p + 2b on.
    template <int b>
    KEEL_INLINE __m256i windows_of(const uint8_t* p) {
        const __m128i *low = reinterpret_cast<const __m128i*>(p), *high = reinterpret_cast<const __m128i*>(p + 2 * b);
        const __m256i x =
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
        __m256i half[2];  // each window in the upper byte of its word
        KEEL_UNROLL
        for (int odd = 0; odd < 2; ++odd) {
            const __m256i words =
                _mm256_shuffle_epi8(x, _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindowLanes<b>.bytes[odd])));
            half[odd] = _mm256_mullo_epi16(
                words, _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindowLanes<b>.shifts[odd])));
        }
        return _mm256_or_si256(_mm256_srli_epi16(half[0], 8), _mm256_and_si256(half[1], _mm256_set1_epi16(-256)));
    }

    // table[index]: all entries with the lower half of the index, of which its upper bits choose. A byte shuffle gives
    // 0 where bit 7 of its index is set: bits 4 and 5 choose in this way, 6 and 7 by blending.
    template <int b>
    KEEL_INLINE __m256i look_up(__m256i index) {
        const __m256i low6 = _mm256_and_si256(index, _mm256_set1_epi8(63));
        __m256i at[4];  // below 16 where bits 4 and 5 are k
        KEEL_UNROLL
        for (int k = 0; k < 4; ++k)
            at[k] = _mm256_add_epi8(_mm256_xor_si256(low6, _mm256_set1_epi8(static_cast<char>(16 * k))),
                                    _mm256_set1_epi8(0x70));
        const auto entry = [&](int h) KEEL_ALWAYS_INLINE {
            return _mm256_shuffle_epi8(_mm256_load_si256(reinterpret_cast<const __m256i*>(kNibbleTables<b>.of[h])),
                                       at[h % 4]);
        };
        const auto of_quarter = [&](int h) KEEL_ALWAYS_INLINE {
            return _mm256_or_si256(_mm256_or_si256(entry(h), entry(h + 1)),
                                   _mm256_or_si256(entry(h + 2), entry(h + 3)));
        };
        const __m256i bit6 = _mm256_add_epi8(index, index);
        const __m256i low = _mm256_blendv_epi8(of_quarter(0), of_quarter(4), bit6),
                      high = _mm256_blendv_epi8(of_quarter(8), of_quarter(12), bit6);
        return _mm256_blendv_epi8(low, high, index);
    }

    // The integers of four blocks of 8, from the windows of their u.
    template <int b>
    KEEL_INLINE __m256i lattice_integers(__m256i windows) {
        constexpr int kMask = ((1 << b) - 1) << 2, kOffset = (2 << b) - 1;
        const __m256i u4 = _mm256_slli_epi16(windows, 2), four = _mm256_set1_epi8(4);  // from bit 2 on
        // Four times how many are odd, the coset among them: its lowest bit is the coset plus the parity.
        const __m256i odd = _mm256_sad_epu8(_mm256_and_si256(u4, four), _mm256_setzero_si256());
        const __m256i parity = _mm256_and_si256(_mm256_slli_epi64(odd, 56), _mm256_set1_epi64x(int64_t{4} << 56));
        const __m256i with_parity =
            _mm256_xor_si256(_mm256_and_si256(u4, _mm256_set1_epi8(static_cast<char>(kMask))), parity);
        const __m256i last = _mm256_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15, 7, 7, 7, 7, 7, 7,
                                              7, 7, 15, 15, 15, 15, 15, 15, 15, 15);
        const __m256i coset =
            _mm256_and_si256(_mm256_srli_epi16(_mm256_shuffle_epi8(u4, last), 1), _mm256_set1_epi8(2));
        return _mm256_sub_epi8(_mm256_or_si256(with_parity, coset), _mm256_set1_epi8(static_cast<char>(kOffset)));
    }

    template <KvFormat F>
    KEEL_INLINE void windows(const uint8_t* p, int8_t* q) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), windows_of<kKvFormats[F].bits>(p));
    }
    template <KvFormat F>
    KEEL_INLINE void integers(int8_t* q) {
        constexpr int b = kKvFormats[F].bits;
        __m256i* at = reinterpret_cast<__m256i*>(q);
        if constexpr (kKvFormats[F].family == KvFamily::kTrellis)
            _mm256_storeu_si256(at, look_up<b>(_mm256_loadu_si256(at)));
        else
            _mm256_storeu_si256(at, lattice_integers<b>(_mm256_loadu_si256(at)));
    }
    template <int b>
    KEEL_INLINE void unpack_block(const uint8_t* codes, uint16_t d, int8_t* q) {
        __m256i x;
        if constexpr (b == 8) {
            x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
        } else {
            const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
            const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(pairs), _mm_srli_epi16(pairs, 4), 1);
            x = _mm256_sub_epi8(_mm256_and_si256(both, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
        }
        const __m256i negative = _mm256_set1_epi8(static_cast<char>(-(d >> 15)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                            _mm256_subs_epi8(_mm256_xor_si256(x, negative), negative));  // -(-128) is 127
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
