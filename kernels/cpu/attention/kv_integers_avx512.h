// Integer K and V rows in AVX-512 with VNNI: the K of kv_integers_lanes.h, and what unpacks tiles for it over a type U
// that takes bit fields apart (with byte permutations of VBMI or without).
//
// A tile in the first-level cache, 64 bytes a group:
//   keys    [element / 8][position / 8] of 8 positions x 8 elements, unsigned: a query's 8 elements in every qword give
//           8 positions at once, in two halves, and no sum crosses a register before the last
//   values  [position / 4][element / 64][4] of 16 x 4 positions, signed: element 64c + 16l + 4t + e of the four
//           positions is dword e of 128-bit lane l of group t
#pragma once
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include "kernels/cpu/attention/kv_integers_lanes.h"
#include "kernels/cpu/vector/float_avx512.h"

namespace keel::kernels {
namespace {

// x[r], qword g -> x[g], qword r
KEEL_INLINE void transpose_qwords(__m512i x[8]) {
    __m512i y[8], z[8];
    KEEL_UNROLL
    for (int i = 0; i < 4; ++i) {  // y[i] and y[4 + i]: even and odd qwords of rows 2i and 2i + 1
        y[i] = _mm512_unpacklo_epi64(x[2 * i], x[2 * i + 1]);
        y[4 + i] = _mm512_unpackhi_epi64(x[2 * i], x[2 * i + 1]);
    }
    KEEL_UNROLL
    for (int i = 0; i < 4; ++i) {  // z[2i], z[2i + 1]: their lower and upper halves, of rows 0..3 for i even, else 4..7
        z[2 * i] = _mm512_shuffle_i64x2(y[2 * i], y[2 * i + 1], 0x44);
        z[2 * i + 1] = _mm512_shuffle_i64x2(y[2 * i], y[2 * i + 1], 0xee);
    }
    KEEL_UNROLL
    for (int odd = 0; odd < 2; ++odd) KEEL_UNROLL
    for (int half = 0; half < 2; ++half) {
        x[4 * half + odd] = _mm512_shuffle_i64x2(z[4 * odd + half], z[4 * odd + 2 + half], 0x88);
        x[4 * half + odd + 2] = _mm512_shuffle_i64x2(z[4 * odd + half], z[4 * odd + 2 + half], 0xdd);
    }
}

// Bit 2 of byte 7 of every qword as bit 1 of all its bytes; other bits are anything.
KEEL_INLINE __m512i spread_coset(__m512i x) {
    const __m512i last = _mm512_broadcast_i32x4(_mm_setr_epi8(7, 7, 7, 7, 7, 7, 7, 7, 15, 15, 15, 15, 15, 15, 15, 15));
    return _mm512_srli_epi16(_mm512_shuffle_epi8(x, last), 1);
}

// Bytes of four registers interleaved: x[t], lane l, dword e = byte 4t + e of lane l of all four.
KEEL_INLINE void interleave_bytes(__m512i x[4]) {
    const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpacklo_epi8(x[2], x[3]);
    const __m512i c = _mm512_unpackhi_epi8(x[0], x[1]), d = _mm512_unpackhi_epi8(x[2], x[3]);
    x[0] = _mm512_unpacklo_epi16(a, b);
    x[1] = _mm512_unpackhi_epi16(a, b);
    x[2] = _mm512_unpacklo_epi16(c, d);
    x[3] = _mm512_unpackhi_epi16(c, d);
}

// sum += products of four, codes unsigned and x signed. In assembly, as GCC 12 copies accumulators around the intrinsic
// and keeps some of them in memory.
KEEL_INLINE void dot4(__m512i& sum, __m512i codes, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(x));
}

KEEL_INLINE __mmask64 first_bytes(uint32_t n) {
    return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1;
}

// Byte 2r of a 128-bit lane in all 64: the lower byte of row r's scale field.
struct FieldBytes {
    alignas(64) uint8_t at[8][64];
};
constexpr FieldBytes field_bytes_of_rows() {
    FieldBytes f = {};
    for (int r = 0; r < 8; ++r)
        for (int i = 0; i < 64; ++i) f.at[r][i] = static_cast<uint8_t>(2 * r);
    return f;
}
constexpr FieldBytes kRowFields = field_bytes_of_rows();

// What is added to the integers of keys, which are then not negative, and below 256.
template <KvFormat F>
constexpr int kKeyOffset = kKvFormats[F].family == KvFamily::kLattice ? (2 << kKvFormats[F].bits) - 1 : 128;

// 64 elements of a row of format F and of eight rows, from the codes on; `n` elements a row.
template <class U, KvFormat F>
struct KvUnpackAvx512 {
    static constexpr KvFamily kFamily = kKvFormats[F].family;
    static constexpr int kBits = kKvFormats[F].bits;
    static constexpr uint32_t kChunkBytes = 8 * kBits;
    static constexpr int kOffset = kKeyOffset<F>;
    static constexpr bool kTrellis = kFamily == KvFamily::kTrellis;

    typename U::Table table;  // of a trellis
    uint32_t n, row_bytes;

    KEEL_INLINE KvUnpackAvx512 make(uint32_t n, bool keys) {
        KvUnpackAvx512 u;
        u.n = n;
        u.row_bytes = n * kBits / 8;
        if constexpr (kTrellis) u.table = U::load_table(kTrellisTables[kBits - 2], keys && U::kGroupsRows ? 0x80 : 0);
        return u;
    }

    // Bytes of eight rows from byte `at` on: of a chunk of `bytes` bytes and, of a trellis, the byte behind it.
    KEEL_INLINE void load_bytes(const KvUnpackAvx512& u, const KvRows8& rows, uint32_t at, uint32_t bytes,
                                __m512i x[8]) {
        const uint32_t left = u.row_bytes - at;
        const __mmask64 mask = first_bytes(left > bytes ? bytes + kTrellis : left);
        KEEL_UNROLL
        for (int r = 0; r < 8; ++r)
            x[r] = _mm512_maskz_loadu_epi8(mask, rows.codes + at + static_cast<uint64_t>(r) * rows.code_bytes);
    }
    // Behind the last code of a trellis row, at byte `at` of x, goes its scale field, whose lower bits are the start
    // bits; the other ones enter no window.
    KEEL_INLINE void add_start_bits(const KvRows8& rows, uint32_t at, __m512i x[8]) {
        const __mmask64 behind = __mmask64{1} << at;
        const __m512i fields = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.scales)));
        KEEL_UNROLL
        for (int r = 0; r < 8; ++r)
            x[r] = _mm512_mask_shuffle_epi8(x[r], behind, fields, _mm512_load_si512(kRowFields.at[r]));
    }
    // The same where row r is qword r.
    KEEL_INLINE __m512i with_start_bits(const KvRows8& rows, uint32_t at, __m512i x) {
        const __m512i fields = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.scales)));
        return _mm512_or_si512(x, _mm512_sll_epi64(fields, _mm_cvtsi32_si128(static_cast<int>(8 * at))));
    }

    // u[i] in bits 2.., the lowest of u[7] the coset: to 4 u + 2 c with the parity's bit in place, the integer +
    // kOffset. Eight elements a qword; other bits of `windows` may be anything.
    KEEL_INLINE __m512i lattice_integers(__m512i windows) {
        constexpr int kMask = ((1 << kBits) - 1) << 2;
        const __m512i last = _mm512_set1_epi64(int64_t{4} << 56);
        // Four times how many are odd, the coset among them: its lowest bit is the coset plus the parity.
        const __m512i odd = _mm512_sad_epu8(_mm512_and_si512(windows, _mm512_set1_epi8(4)), _mm512_setzero_si512());
        const __m512i u = _mm512_ternarylogic_epi64(
            _mm512_and_si512(windows, _mm512_set1_epi8(static_cast<char>(kMask))), _mm512_slli_epi64(odd, 56), last,
            0x78);  // windows & mask ^ (odd & last)
        return _mm512_ternarylogic_epi64(u, spread_coset(windows), _mm512_set1_epi8(2), 0xf8);  // u | (coset & 2)
    }
    // Where the windows of a format begin, of their code's lowest bit.
    static constexpr int kFirst = kTrellis ? 0 : -2;
    KEEL_INLINE __m512i integers(const KvUnpackAvx512& u, __m512i windows) {
        if constexpr (kTrellis)
            return U::look_up(u.table, windows);
        else
            return lattice_integers(windows);
    }

    // q8_0 and q4_0: 64 elements of a row. Blocks with a negative d have the signs of their integers turned.
    KEEL_INLINE __m512i block_integers(const KvUnpackAvx512& u, const KvRows8& rows, uint32_t r, uint32_t c) {
        const uint32_t left = u.row_bytes - c * kChunkBytes, scale_count = u.n / kKvBlock;
        const uint8_t *codes = rows.codes + r * rows.code_bytes + c * kChunkBytes,
                      *scale = rows.scales + 2 * (uint64_t{r} * scale_count + 2 * c);
        const __mmask64 mask = first_bytes(left > kChunkBytes ? kChunkBytes : left);
        __m512i q;
        if constexpr (kBits == 8) {
            q = _mm512_maskz_loadu_epi8(mask, codes);
        } else {
            const __m512i pairs = _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(static_cast<__mmask32>(mask), codes));
            const __m512i twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), pairs);
            const __m512i codes4 = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            q = _mm512_sub_epi8(_mm512_and_si512(codes4, _mm512_set1_epi8(15)), _mm512_set1_epi8(8));
        }
        uint32_t d;  // of both blocks
        if (left > kChunkBytes / 2)
            memcpy(&d, scale, 4);
        else
            d = kv_load_u16(scale);
        constexpr int64_t kFirst = 0x0101010101010101;
        const __m512i spread =
            _mm512_setr_epi64(kFirst, kFirst, kFirst, kFirst, 3 * kFirst, 3 * kFirst, 3 * kFirst, 3 * kFirst);
        const __mmask64 negative =
            _mm512_movepi8_mask(_mm512_shuffle_epi8(_mm512_set1_epi32(static_cast<int>(d)), spread));
        return _mm512_mask_subs_epi8(q, negative, _mm512_setzero_si512(), q);  // -(-128) is 127
    }

    // Calls put(g, x) for every 8 elements 8g.. of the eight rows, plus kOffset: a row a qword of x.
    template <class Put>
    KEEL_INLINE void keys(const KvUnpackAvx512& u, const KvRows8& rows, Put&& put) {
        if constexpr (kFamily != KvFamily::kBlock32 && U::kGroupsRows) {
            // Few bits: 16 elements fit a qword with their windows.
            constexpr bool kPairs = 16 * kBits + (kTrellis ? 8 - kBits : 0) <= 64;
            if (kPairs && u.n % 128 == 0) {
                for (uint32_t c = 0; 128 * c < u.n; ++c) key_chunk<(kPairs ? 2 : 1)>(u, rows, c, put);
                return;
            }
            for (uint32_t c = 0; 64 * c < u.n; ++c) key_chunk<1>(u, rows, c, put);
            return;
        }
        for (uint32_t c = 0; 64 * c < u.n; ++c) {
            __m512i x[8];
            values(u, rows, c, x);
            transpose_qwords(x);
            KEEL_UNROLL
            for (uint32_t g = 0; g < 8; ++g)
                put(8 * c + g, _mm512_add_epi8(x[g], _mm512_set1_epi8(static_cast<char>(kOffset))));
        }
    }
    // A chunk of 64 elements, or of 128 where a qword has two groups.
    template <int kGroups, class Put>
    KEEL_INLINE void key_chunk(const KvUnpackAvx512& u, const KvRows8& rows, uint32_t c, Put&& put) {
        constexpr uint32_t kBytes = kGroups * kChunkBytes;
        const uint32_t left = u.row_bytes - c * kBytes;
        __m512i x[8];
        load_bytes(u, rows, c * kBytes, kBytes, x);
        if (kTrellis && left < kBytes) add_start_bits(rows, left, x);
        U::template group_rows<kGroups * kBits>(x);
        if (kTrellis && left == kBytes) x[7] = with_start_bits(rows, kGroups * kBits, x[7]);
        KEEL_UNROLL
        for (uint32_t q = 0; q < 8; ++q) KEEL_UNROLL
        for (uint32_t i = 0; i < kGroups; ++i)
            put(kGroups * (8 * c + q) + i,
                integers(u, i == 0 ? U::template windows_of_qwords<kBits, kFirst>(x[q])
                                   : U::template windows_of_qwords<kBits, 8 * kBits + kFirst>(x[q])));
    }
    // out[r]: elements 64c.. of row r.
    KEEL_INLINE void values(const KvUnpackAvx512& u, const KvRows8& rows, uint32_t c, __m512i out[8]) {
        if constexpr (kFamily == KvFamily::kBlock32) {
            KEEL_UNROLL
            for (uint32_t r = 0; r < 8; ++r) out[r] = block_integers(u, rows, r, c);
        } else {
            const uint32_t left = u.row_bytes - c * kChunkBytes;
            load_bytes(u, rows, c * kChunkBytes, kChunkBytes, out);
            if (kTrellis && left <= kChunkBytes) add_start_bits(rows, left, out);
            KEEL_UNROLL
            for (int r = 0; r < 8; ++r) {
                out[r] = integers(u, U::template windows<kBits, kFirst>(out[r]));
                if constexpr (!kTrellis) out[r] = _mm512_sub_epi8(out[r], _mm512_set1_epi8(static_cast<char>(kOffset)));
            }
        }
    }
    // scales[b * 64 + r] of the eight rows
    KEEL_INLINE void scales(uint32_t n, const KvRows8& rows, float* scales) {
        const auto widen = [](__m128i halves, float* to)
                               KEEL_ALWAYS_INLINE { _mm256_storeu_ps(to, _mm256_cvtph_ps(halves)); };
        if constexpr (kFamily == KvFamily::kBlock32) {
            const uint32_t count = n / kKvBlock, bytes = 16 * count;
            const __m512i low = _mm512_maskz_loadu_epi8(first_bytes(bytes), rows.scales);
            const __m512i high = _mm512_maskz_loadu_epi8(bytes > 64 ? first_bytes(bytes - 64) : 0, rows.scales + 64);
            __m512i at = _mm512_mullo_epi16(_mm512_castsi128_si512(_mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7)),
                                            _mm512_set1_epi16(static_cast<short>(count)));
            for (uint32_t b = 0; b < count; ++b, at = _mm512_add_epi16(at, _mm512_set1_epi16(1))) {
                const __m128i halves = _mm512_castsi512_si128(_mm512_permutex2var_epi16(low, at, high));
                widen(_mm_and_si128(halves, _mm_set1_epi16(0x7fff)), scales + b * kAttentionTile);
            }
        } else {
            const __m128i fields = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.scales));
            if constexpr (kTrellis)  // without the start bits, at the place of an f16 without sign
                widen(_mm_and_si128(_mm_srli_epi16(fields, 1),
                                    _mm_set1_epi16(static_cast<short>(0x7fff << (7 - kBits) & 0x7fff))),
                      scales);
            else
                widen(_mm_and_si128(fields, _mm_set1_epi16(0x7fff)), scales);
        }
    }
};

// A tile's rows for K: all that depends on U.
template <class U>
struct KvUnpackersAvx512 {
    // kSize: head_dim, where it is one of the usual ones, so that masks, loops and steps are constants; else 0.
    template <KvFormat F, uint32_t kSize>
    static void unpack_keys_of(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        using Unpack = KvUnpackAvx512<U, F>;
        const uint32_t n = kSize ? kSize : source.args.head_dim;
        const Unpack u = Unpack::make(n, true);
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            Unpack::keys(u, rows, [&](uint32_t g, __m512i x) KEEL_ALWAYS_INLINE {
                _mm512_storeu_si512(tile + 512 * g + 64 * i, x);
            });
            Unpack::scales(n, rows, scales + 8 * i);
        });
    }
    template <KvFormat F, uint32_t kSize>
    static void unpack_values_of(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        using Unpack = KvUnpackAvx512<U, F>;
        const uint32_t n = kSize ? kSize : source.args.head_dim;
        const uint64_t quad_bytes = uint64_t{(n + 63) / 64} * 256;
        const Unpack u = Unpack::make(n, false);
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            for (uint32_t c = 0; 64 * c < n; ++c) {
                __m512i x[8];
                Unpack::values(u, rows, c, x);
                interleave_bytes(x);
                interleave_bytes(x + 4);
                uint8_t* to = tile + 2 * i * quad_bytes + c * 256;
                KEEL_UNROLL
                for (int t = 0; t < 4; ++t) {
                    _mm512_storeu_si512(to + 64 * t, x[t]);
                    _mm512_storeu_si512(to + quad_bytes + 64 * t, x[4 + t]);
                }
            }
            Unpack::scales(n, rows, scales + 8 * i);
        });
    }
    static void keys(const KvTile& rows, uint8_t* tile, float* scales) {
        const TileSource source(rows.args, rows.plane, rows.first, rows.row);
        for_integer_format(rows.plane.format, [&]<KvFormat F>() {
            if (rows.args.head_dim == 128)
                unpack_keys_of<F, 128>(source, {rows.lo, rows.hi}, tile, scales);
            else
                unpack_keys_of<F, 0>(source, {rows.lo, rows.hi}, tile, scales);
        });
    }
    static void values(const KvTile& rows, uint8_t* tile, float* scales) {
        const TileSource source(rows.args, rows.plane, rows.first, rows.row);
        for_integer_format(rows.plane.format, [&]<KvFormat F>() {
            if (rows.args.head_dim == 128)
                unpack_values_of<F, 128>(source, {rows.lo, rows.hi}, tile, scales);
            else
                unpack_values_of<F, 0>(source, {rows.lo, rows.hi}, tile, scales);
        });
    }
};

struct KvIntegersAvx512 {
    UnpackKvTile keys, values;  // of KvUnpackersAvx512

    // w = 256 high + low. As packing leaves them: the four of positions 16i + 4l.. are bytes 16l + 4i...
    struct Weights {
        alignas(64) uint8_t high[kMaxKvScales][kAttentionTile], low[kMaxKvScales][kAttentionTile];
    };
    KEEL_INLINE uint32_t weights_at(uint32_t j) { return j % 16 * 4 + j / 16 * 4; }

    KEEL_INLINE int32_t key_offset(KvFormat format) {
        int32_t offset = 0;
        for_integer_format(format, [&]<KvFormat F>() { offset = kKeyOffset<F>; });
        return offset;
    }

    const uint8_t* unpack_keys(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) const {
        keys({source.args, source.plane, source.first, source.row, any.lo, any.hi}, tile, scales);
        return tile;
    }
    const uint8_t* unpack_values(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) const {
        values({source.args, source.plane, source.first, source.row, any.lo, any.hi}, tile, scales);
        return tile;
    }

    // C queries against 8B positions from j on, j a multiple of 16: C * B accumulators.
    template <int C, int B>
    KEEL_INLINE void score_tile(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                                const IntQuery* queries, uint32_t j, float* const* s) {
        const uint32_t groups = n / 8 / scale_count;  // of 8 elements that share a scale
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const uint8_t* key = tile + j * 8;
        __m512 dot[C][B / 2];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (int b = 0; b < B / 2; ++b) dot[c][b] = _mm512_setzero_ps();
        uint64_t at = 0;  // element
        for (uint32_t scale = 0; scale < scale_count; ++scale) {
            __m512i acc[C][B];
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) KEEL_UNROLL
            for (int b = 0; b < B; ++b) acc[c][b] = _mm512_setzero_si512();
            for (uint32_t g = 0; g < groups; ++g, key += 512, at += 8) {
                __m512i x[B];
                KEEL_UNROLL
                for (int b = 0; b < B; ++b) x[b] = _mm512_loadu_si512(key + 64 * b);
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) {
                    int64_t eight;
                    memcpy(&eight, queries[c].q + at, 8);
                    const __m512i q = _mm512_set1_epi64(eight);
                    KEEL_UNROLL
                    for (int b = 0; b < B; ++b) dot4(acc[c][b], x[b], q);
                }
            }
            KEEL_UNROLL
            for (int b = 0; b < B / 2; ++b) {
                const __m512 d_k = _mm512_loadu_ps(scales + scale * kAttentionTile + j + 16 * b);
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) {
                    const __m512i low = _mm512_permutex2var_epi32(acc[c][2 * b], even, acc[c][2 * b + 1]);
                    const __m512i high = _mm512_permutex2var_epi32(acc[c][2 * b], odd, acc[c][2 * b + 1]);
                    const __m512i sum =
                        _mm512_sub_epi32(_mm512_add_epi32(low, high), _mm512_set1_epi32(queries[c].offset[scale]));
                    dot[c][b] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(queries[c].d[scale]), d_k),
                                                _mm512_cvtepi32_ps(sum), dot[c][b]);
                }
            }
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) KEEL_UNROLL
        for (int b = 0; b < B / 2; ++b) _mm512_storeu_ps(s[c] + j + 16 * b, dot[c][b]);
    }
    template <int C, int B>
    static void score_tiles(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                            const IntQuery* queries, VisibleRange visible, float* const* s) {
        for (uint32_t j = visible.lo / (8 * B) * (8 * B); j < visible.hi; j += 8 * B)
            score_tile<C, B>(tile, scales, n, scale_count, queries, j, s);
    }
    // A missing fourth query repeats the third.
    KEEL_INLINE void scores(KvFormat, const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                            const IntQuery* queries, uint32_t count, VisibleRange visible, float* const* s) {
        if (count == 1)
            score_tiles<1, 8>(tile, scales, n, scale_count, queries, visible, s);
        else if (count == 2)
            score_tiles<2, 8>(tile, scales, n, scale_count, queries, visible, s);
        else
            score_tiles<4, 4>(tile, scales, n, scale_count, queries, visible, s);
    }

    KEEL_INLINE void store_weights(const __m512 v[4], Weights& w, uint32_t scale) {
        const __m512i low = _mm512_set1_epi16(255);
        const __m512i a = _mm512_packus_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
        const __m512i b = _mm512_packus_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
        _mm512_store_si512(w.low[scale], _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
        _mm512_store_si512(w.high[scale], _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
    }

    // Four weights of positions j.. for every dword of chunk c: of the row's only scale, or of the two blocks of 32
    // elements.
    template <bool kBlocks>
    KEEL_INLINE __m512i four_weights(const uint8_t (*w)[kAttentionTile], uint32_t c, uint32_t last, uint32_t j) {
        const auto four = [&](uint32_t scale) KEEL_ALWAYS_INLINE {
            int32_t v;
            memcpy(&v, w[scale] + weights_at(j), 4);
            return v;
        };
        if constexpr (!kBlocks) return _mm512_set1_epi32(four(0));
        return _mm512_mask_set1_epi32(_mm512_set1_epi32(four(2 * c)), 0xff00,
                                      four(2 * c + 1 < last ? 2 * c + 1 : last));
    }
    // 64 elements of C query rows: 8C accumulators.
    template <int C, bool kBlocks>
    KEEL_INLINE void add_values_chunk(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w,
                                      const float (*unit)[kMaxKvScales], const float* rescale, VisibleRange visible,
                                      float* const* o, uint32_t c) {
        const uint64_t quad_bytes = uint64_t{(n + 63) / 64} * 256;
        const uint8_t* v = tile + c * 256 + visible.lo / 4 * quad_bytes;
        __m512i high[C][4], low[C][4];
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int t = 0; t < 4; ++t) high[i][t] = low[i][t] = _mm512_setzero_si512();
        for (uint32_t j = visible.lo & ~3u; j < visible.hi; j += 4, v += quad_bytes) {
            __m512i x[4];
            KEEL_UNROLL
            for (int t = 0; t < 4; ++t) x[t] = _mm512_loadu_si512(v + 64 * t);
            KEEL_UNROLL
            for (int i = 0; i < C; ++i) {
                const __m512i h = four_weights<kBlocks>(w[i].high, c, scale_count - 1, j),
                              l = four_weights<kBlocks>(w[i].low, c, scale_count - 1, j);
                KEEL_UNROLL
                for (int t = 0; t < 4; ++t) {
                    dot4(high[i][t], h, x[t]);
                    dot4(low[i][t], l, x[t]);
                }
            }
        }
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) {
            __m512i sum[4], in_order[4];
            KEEL_UNROLL
            for (int t = 0; t < 4; ++t) sum[t] = _mm512_add_epi32(_mm512_slli_epi32(high[i][t], 8), low[i][t]);
            KEEL_UNROLL
            for (int half = 0; half < 2; ++half) {
                const __m512i p =
                    half ? _mm512_shuffle_i32x4(sum[0], sum[1], 0xee) : _mm512_shuffle_i32x4(sum[0], sum[1], 0x44);
                const __m512i q =
                    half ? _mm512_shuffle_i32x4(sum[2], sum[3], 0xee) : _mm512_shuffle_i32x4(sum[2], sum[3], 0x44);
                in_order[2 * half] = _mm512_shuffle_i32x4(p, q, 0x88);
                in_order[2 * half + 1] = _mm512_shuffle_i32x4(p, q, 0xdd);
            }
            KEEL_UNROLL
            for (uint32_t l = 0; l < 4; ++l) {
                const uint32_t d = 64 * c + 16 * l;
                if (d >= n) break;
                const __m512 step = _mm512_set1_ps(unit[i][kBlocks ? d / kKvBlock : 0]);
                const __m512 older = _mm512_mul_ps(_mm512_loadu_ps(o[i] + d), _mm512_set1_ps(rescale[i]));
                _mm512_storeu_ps(o[i] + d, _mm512_fmadd_ps(step, _mm512_cvtepi32_ps(in_order[l]), older));
            }
        }
    }
    template <int C, bool kBlocks>
    static void add_values_of(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w,
                              const float (*unit)[kMaxKvScales], const float* rescale, VisibleRange visible,
                              float* const* o) {
        for (uint32_t c = 0; 64 * c < n; ++c)
            add_values_chunk<C, kBlocks>(tile, n, scale_count, w, unit, rescale, visible, o, c);
    }
    KEEL_INLINE void add_values(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w,
                                const float (*unit)[kMaxKvScales], const float* rescale, uint32_t count,
                                VisibleRange visible, float* const* o) {
        const auto add = [&]<bool kBlocks>() KEEL_ALWAYS_INLINE {
            uint32_t i = 0;
            for (; i + 2 <= count; i += 2)
                add_values_of<2, kBlocks>(tile, n, scale_count, w + i, unit + i, rescale + i, visible, o + i);
            if (i < count)
                add_values_of<1, kBlocks>(tile, n, scale_count, w + i, unit + i, rescale + i, visible, o + i);
        };
        if (scale_count == 1)
            add.template operator()<false>();
        else
            add.template operator()<true>();
    }
};

}  // namespace
}  // namespace keel::kernels
#endif
