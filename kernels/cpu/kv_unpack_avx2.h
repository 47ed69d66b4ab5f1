// Integers of KV rows in AVX2: the unpacking half of the P of kv_ints_rows.h.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/float_avx2.h"
#include "kernels/cpu/kv_ints_rows.h"

namespace keel::kernels {
namespace {

// Eight windows of b bits each from the bytes of a 128-bit lane, one a word: where its two bytes are, in lanes that begin with
// the first group and with the second one, and 2^(8 - s) for the bit s of the first byte at which the window begins.
struct WindowLanes {
    alignas(32) uint8_t bytes[2][32];
    alignas(32) uint16_t shifts[16];
};
constexpr WindowLanes window_lanes(int b) {
    WindowLanes w = {};
    for (int lane = 0; lane < 2; ++lane)
        for (int i = 0; i < 8; ++i) {
            for (int second = 0; second < 2; ++second) {
                w.bytes[second][16 * lane + 2 * i] = static_cast<uint8_t>(second * b + i * b / 8);
                w.bytes[second][16 * lane + 2 * i + 1] = static_cast<uint8_t>(second * b + i * b / 8 + 1);
            }
            w.shifts[8 * lane + i] = static_cast<uint16_t>(1 << (8 - i * b % 8));
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
    KEEL_INLINE __m256i windows(const uint8_t* p) {
        const __m128i *low = reinterpret_cast<const __m128i*>(p), *high = reinterpret_cast<const __m128i*>(p + 2 * b);
        const __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1);
        const __m256i shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindowLanes<b>.shifts));
        __m256i half[2];
        KEEL_UNROLL
        for (int h = 0; h < 2; ++h) {
            const __m256i words = _mm256_shuffle_epi8(x, _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindowLanes<b>.bytes[h])));
            half[h] = _mm256_srli_epi16(_mm256_mullo_epi16(words, shifts), 8);
        }
        return _mm256_packus_epi16(half[0], half[1]);
    }

    // table[index]: all entries with the lower half of the index, of which its upper bits choose. A byte shuffle gives 0 where
    // bit 7 of its index is set: bit 4 chooses in this way, the others by blending.
    template <int b>
    KEEL_INLINE __m256i look_up(__m256i index) {
        const auto table = [](int h) KEEL_LAMBDA { return _mm256_load_si256(reinterpret_cast<const __m256i*>(kNibbleTables<b>.of[h])); };
        const __m256i top = _mm256_set1_epi8(-128), bit4 = _mm256_and_si256(_mm256_slli_epi16(index, 3), top);
        const __m256i even = _mm256_or_si256(_mm256_and_si256(index, _mm256_set1_epi8(15)), bit4), odd = _mm256_xor_si256(even, top);
        const __m256i bit5 = _mm256_slli_epi16(index, 2), bit6 = _mm256_slli_epi16(index, 1);
        const auto of_bit5 = [&](int h) KEEL_LAMBDA {
            const __m256i low = _mm256_or_si256(_mm256_shuffle_epi8(table(h), even), _mm256_shuffle_epi8(table(h + 1), odd));
            const __m256i high = _mm256_or_si256(_mm256_shuffle_epi8(table(h + 2), even), _mm256_shuffle_epi8(table(h + 3), odd));
            return _mm256_blendv_epi8(low, high, bit5);
        };
        const __m256i low = _mm256_blendv_epi8(of_bit5(0), of_bit5(4), bit6), high = _mm256_blendv_epi8(of_bit5(8), of_bit5(12), bit6);
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
        const __m256i with_parity = _mm256_xor_si256(_mm256_and_si256(u4, _mm256_set1_epi8(static_cast<char>(kMask))), parity);
        const __m256i last = _mm256_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15, 7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15);
        const __m256i coset = _mm256_and_si256(_mm256_srli_epi16(_mm256_shuffle_epi8(u4, last), 1), _mm256_set1_epi8(2));
        return _mm256_sub_epi8(_mm256_or_si256(with_parity, coset), _mm256_set1_epi8(static_cast<char>(kOffset)));
    }

    template <KvFormat F>
    KEEL_INLINE void unpack32(const uint8_t* p, int8_t* q) {
        constexpr int b = kKvFormats[F].bits;
        const __m256i w = windows<b>(p);
        __m256i x;
        if constexpr (kKvFormats[F].family == KvFamily::kTrellis)
            x = look_up<b>(w);
        else
            x = lattice_integers<b>(w);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), x);
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
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_subs_epi8(_mm256_xor_si256(x, negative), negative));  // -(-128) is 127
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
