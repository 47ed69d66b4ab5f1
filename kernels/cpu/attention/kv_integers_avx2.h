// Integer K and V rows in AVX2: the P of kv_integers_rows_lanes.h.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/attention/kv_integers_rows_lanes.h"
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

struct KvIntegersAvx2 {
    // ---- integers from codes ----
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

    // Of keys of few bits, so that two products of a key and a query's codes fit 16 bits twice over.
    template <KvFormat F>
    static constexpr int kKeyOffset = kKvFormats[F].family == KvFamily::kLattice&& kKvFormats[F].bits <= 4
                                          ? (2 << kKvFormats[F].bits) - 1
                                          : 0;

    // The integers of four blocks of 8 plus `offset`, from 4 u.
    template <int b, int offset>
    KEEL_INLINE __m256i lattice_integers(__m256i u4) {
        constexpr int kLeast = offset - ((2 << b) - 1);
        // Four times how many are odd, the coset among them: its lowest bit is the coset plus the parity.
        const __m256i low = _mm256_and_si256(u4, _mm256_set1_epi8(4)),
                      odd = _mm256_sad_epu8(low, _mm256_setzero_si256());
        const __m256i parity = _mm256_and_si256(_mm256_slli_epi64(odd, 56), _mm256_set1_epi64x(int64_t{4} << 56));
        const __m256i last = _mm256_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15, 7, 7, 7, 7, 7, 7,
                                              7, 7, 15, 15, 15, 15, 15, 15, 15, 15);
        const __m256i coset = _mm256_srli_epi16(_mm256_shuffle_epi8(low, last), 1);
        return _mm256_add_epi8(_mm256_add_epi8(_mm256_xor_si256(u4, parity), coset),
                               _mm256_set1_epi8(static_cast<char>(kLeast)));
    }

    // A lattice of four bits has nibbles.
    template <KvFormat F>
    static constexpr bool kNibbles = kKvFormats[F].family == KvFamily::kLattice&& kKvFormats[F].bits == 4;
    template <KvFormat F>
    static constexpr uint32_t kReads = kNibbles<F> ? 16 : 2 * kKvFormats[F].bits + 16;
    // 4 u of 32 elements of a lattice, from their codes; and from windows, whose other bits may be anything.
    template <KvFormat F>
    KEEL_INLINE __m256i read_lattice(const uint8_t* p) {
        if constexpr (kNibbles<F>) {
            const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
            return _mm256_and_si256(_mm256_or_si256(_mm256_slli_epi16(pairs, 2), _mm256_slli_epi16(pairs, 6)),
                                    _mm256_set1_epi8(60));
        } else {
            return lattice_of_windows<F>(windows_of<kKvFormats[F].bits>(p));
        }
    }
    template <KvFormat F>
    KEEL_INLINE __m256i lattice_of_windows(__m256i windows) {
        constexpr int kMask = ((1 << kKvFormats[F].bits) - 1) << 2;
        return _mm256_and_si256(_mm256_slli_epi16(windows, 2), _mm256_set1_epi8(static_cast<char>(kMask)));
    }
    template <KvFormat F>
    KEEL_INLINE void windows(const uint8_t* p, int8_t* q) {
        __m256i x;
        if constexpr (kNibbles<F>)
            x = _mm256_srli_epi16(read_lattice<F>(p), 2);
        else
            x = windows_of<kKvFormats[F].bits>(p);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), x);
    }
    template <KvFormat F, int offset>
    KEEL_INLINE void lattice(const uint8_t* p, int8_t* q) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                            lattice_integers<kKvFormats[F].bits, offset>(read_lattice<F>(p)));
    }
    template <KvFormat F, int offset>
    KEEL_INLINE void integers(int8_t* q) {
        constexpr int b = kKvFormats[F].bits;
        __m256i* at = reinterpret_cast<__m256i*>(q);
        if constexpr (kKvFormats[F].family == KvFamily::kTrellis)
            _mm256_storeu_si256(at, look_up<b>(_mm256_loadu_si256(at)));
        else
            _mm256_storeu_si256(at, lattice_integers<b, offset>(lattice_of_windows<F>(_mm256_loadu_si256(at))));
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

    // ---- products ----
    using I = __m256i;
    static constexpr uint32_t kGroup = 2;
    static constexpr bool kInterleaved = false;
    static constexpr int kValueRows = 4;
    struct Weights {
        alignas(32) int16_t w[kMaxKvScales][kAttentionTile];
    };

    KEEL_INLINE void store_weights(const __m256 v[8], Weights& w, uint32_t scale) {
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2 * i]), _mm256_cvtps_epi32(v[2 * i + 1]));
            _mm256_store_si256(reinterpret_cast<__m256i*>(w.w[scale] + 16 * i), _mm256_permute4x64_epi64(words, 0xd8));
        }
    }
    // Two keys times C <= 3 queries: dwords 2i and 2i + 1 of sum[c] are parts of keys 0 and 1. Signed |k| is at most
    // 128 and |q| 127, so that two products fit 16 bits; unsigned k is at most 62, so that four do.
    template <int C, bool kUnsigned>
    KEEL_INLINE void dots2(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, __m256i* sum) {
        __m256i part[C][2];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) part[c][0] = part[c][1] = _mm256_setzero_si256();
        const __m256i ones = _mm256_set1_epi16(1);
        const auto load = [](const int8_t* p)
                              KEEL_ALWAYS_INLINE { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
        uint32_t i = 0;
        const auto add_64 = [&](bool first) KEEL_ALWAYS_INLINE {
            KEEL_UNROLL
            for (int r = 0; r < 2; ++r) {
                const int8_t* at = keys + static_cast<uint64_t>(r) * stride + i;
                const __m256i k[2] = {load(at), load(at + 32)};
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) {
                    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(k[0], load(q[c] + i)),
                                                           _mm256_maddubs_epi16(k[1], load(q[c] + i + 32)));
                    const __m256i sums = _mm256_madd_epi16(pairs, ones);
                    part[c][r] = first ? sums : _mm256_add_epi32(part[c][r], sums);
                }
            }
            i += 64;
        };
        if (kUnsigned && n >= 64) add_64(true);
        while (kUnsigned && i + 64 <= n) add_64(false);
        for (; i < n; i += 32) {
            KEEL_UNROLL
            for (int r = 0; r < 2; ++r) {
                const __m256i k = load(keys + static_cast<uint64_t>(r) * stride + i);
                const __m256i magnitude = kUnsigned ? k : _mm256_abs_epi8(k);
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) {
                    const __m256i x = load(q[c] + i),
                                  pairs = _mm256_maddubs_epi16(magnitude, kUnsigned ? x : _mm256_sign_epi8(x, k));
                    part[c][r] = _mm256_add_epi32(part[c][r], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c)
            sum[c] = _mm256_add_epi32(_mm256_unpacklo_epi32(part[c][0], part[c][1]),
                                      _mm256_unpackhi_epi32(part[c][0], part[c][1]));
    }
    // Four keys: dword r of sum[c] is that of key r in two parts, 128-bit lanes.
    template <int C, bool kUnsigned>
    KEEL_INLINE void dots4(const int8_t* keys, uint64_t stride, const int8_t* const* q, uint32_t n, __m256i* sum) {
        __m256i low[C], high[C];
        dots2<C, kUnsigned>(keys, stride, q, n, low);
        dots2<C, kUnsigned>(keys + 2 * stride, stride, q, n, high);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c)
            sum[c] = _mm256_add_epi32(_mm256_unpacklo_epi64(low[c], high[c]), _mm256_unpackhi_epi64(low[c], high[c]));
    }
    template <int C, bool kUnsigned>
    KEEL_INLINE void dots(const int8_t* keys, uint64_t stride, const int8_t* const* q, const int32_t* offset,
                          uint32_t n, __m256* dot) {
        __m256i low[C], high[C];
        dots4<C, kUnsigned>(keys, stride, q, n, low);
        dots4<C, kUnsigned>(keys + 4 * stride, stride, q, n, high);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) {
            __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(low[c], high[c], 0x20),
                                           _mm256_permute2x128_si256(low[c], high[c], 0x31));
            if constexpr (kUnsigned) sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(offset[c]));
            dot[c] = _mm256_cvtepi32_ps(sum);
        }
    }
    // sum + products of two. In assembly, as GCC 12 has more products under way than there are registers.
    KEEL_INLINE __m256i add_products(__m256i sum, __m256i x, __m256i w) {
        __m256i products;
        __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(x), "x"(w));
        return sum;
    }
    KEEL_INLINE I zero() { return _mm256_setzero_si256(); }
    template <int C>
    KEEL_INLINE void add(I (*sum)[2], const int8_t* x, uint64_t stride, const Weights* w, uint32_t scale, uint64_t j) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)),
                      b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + stride));
        const __m256i pairs[2] = {_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)),
                                  _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))};
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            int32_t two;
            memcpy(&two, w[i].w[scale] + j, 4);
            const __m256i weights = _mm256_set1_epi32(two);
            KEEL_UNROLL
            for (int k = 0; k < 2; ++k) sum[i][k] = add_products(sum[i][k], pairs[k], weights);
        }
    }
    KEEL_INLINE __m256 total(I sum) { return _mm256_cvtepi32_ps(sum); }
};

}  // namespace
}  // namespace keel::kernels
#endif
