// Matrix products with 8-bit activations (NUMERICS section 2).
//
// Eight rows at a time, lane = row. The bytes of eight rows are transposed in units of four (one dword per row), so
// that
//
//     codes:        | row 0: q[4j..4j+3] | row 1: q[4j..4j+3] | ... | row 7: q[4j..4j+3] |
//     activations:  | a[4j..4j+3]        | a[4j..4j+3]        | ... one dword, broadcast from memory
//
// and maddubs + madd leave the integer sums of eight rows in eight lanes: no horizontal additions, and the scales of a
// sub-block multiply in madd for free. Codes stay unsigned where that fits (the offset of the format is taken out
// afterwards through the activation sums), so that several maddubs can be added in 16 bits; types with signed tables
// use |code| and a sign transferred to the activation.
//
// One or two columns: codes go from the bytes to the products in registers; every weight byte is read once, the next
// eight rows are prefetched meanwhile. More columns: the codes of a block of eight rows are laid down once (a panel of
// at most 2 KiB) and used by all columns.
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)
#include "kernels/cpu/quant_blocks.h"

namespace keel::kernels {
namespace {

// ---- what distinguishes the types for the integer part ----
struct CodeTraits {
    bool is_signed;  // codes are signed values; else unsigned with `offset` to subtract
    int offset;
    int run;  // products (of four elements and eight rows) that can be added in 16 bits: 2 * 127 * max code * run <
              // 2^15
};
constexpr CodeTraits code_traits(WeightType type) {
    switch (type) {
        case kQ4_0:
            return {false, 8, 8};
        case kQ4_1:
            return {false, 0, 8};
        case kQ5_0:
            return {false, 16, 4};
        case kQ5_1:
            return {false, 0, 4};
        case kQ2_K:
            return {false, 0, 4};  // a sub-block has only four
        case kQ3_K:
            return {false, 4, 4};
        case kQ4_K:
            return {false, 0, 8};
        case kQ5_K:
            return {false, 0, 4};
        case kQ6_K:
            return {false, 32, 2};
        default:
            return {true, 0, 1};  // |code| 128 at most: 2 * 127 * 128 = 32512
    }
}

// Rows i and i + 4 of a group: lo + i * stride, hi + i * stride, i < 4.
struct Rows {
    const uint8_t *lo, *hi;
    uint64_t stride;
};

struct BlockScales {
    __m256i scale[16];  // per sub-block: its integer scale twice, as 16-bit pair
    __m256i pair[8];    // factors of the activation sums 2i and 2i + 1: minima, or scales where an offset is taken out
    __m256 d, m;
};

// 16 bytes of eight rows, transposed in dwords.
KEEL_INLINE void load_dwords(const Rows& rows, uint32_t offset, __m256i out[4]) {
    __m256i y[4];
    KEEL_UNROLL
    for (int i = 0; i < 4; ++i) {
        const __m128i lo = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.lo + i * rows.stride + offset));
        const __m128i hi = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.hi + i * rows.stride + offset));
        y[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(lo), hi, 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(y[0], y[1]), b = _mm256_unpacklo_epi32(y[2], y[3]);
    const __m256i c = _mm256_unpackhi_epi32(y[0], y[1]), d = _mm256_unpackhi_epi32(y[2], y[3]);
    out[0] = _mm256_unpacklo_epi64(a, b);
    out[1] = _mm256_unpackhi_epi64(a, b);
    out[2] = _mm256_unpacklo_epi64(c, d);
    out[3] = _mm256_unpackhi_epi64(c, d);
}
KEEL_INLINE void load_dwords_32(const Rows& rows, uint32_t offset, __m256i out[8]) {
    load_dwords(rows, offset, out);
    load_dwords(rows, offset + 16, out + 4);
}

KEEL_INLINE __m256i byte_mask(int v) {
    return _mm256_set1_epi8(static_cast<char>(v));
}
// (v >> shift) & mask in every byte; bits that cross bytes must be masked away.
KEEL_INLINE __m256i field(__m256i v, int shift, int mask) {
    return _mm256_and_si256(shift ? _mm256_srli_epi16(v, shift) : v, byte_mask(mask));
}
// (v & mask) << shift in every byte, mask << shift within the byte.
KEEL_INLINE __m256i field_up(__m256i v, int mask, int shift) {
    return _mm256_slli_epi16(_mm256_and_si256(v, byte_mask(mask)), shift);
}
// The lower and upper 16 bits of every dword as f16.
KEEL_INLINE void load_f16_pairs(__m256i v, __m256* low, __m256* high) {
    const __m256i packed =
        _mm256_packus_epi32(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(v, 16));
    const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xd8);
    *low = _mm256_cvtph_ps(_mm256_castsi256_si128(ordered));
    *high = _mm256_cvtph_ps(_mm256_extracti128_si256(ordered, 1));
}
// The dword at `offset` of eight rows.
KEEL_INLINE __m256i load_dword(const Rows& rows, uint32_t offset) {
    int32_t v[8];
    KEEL_UNROLL
    for (int i = 0; i < 4; ++i) {
        memcpy(v + i, rows.lo + i * rows.stride + offset, 4);
        memcpy(v + 4 + i, rows.hi + i * rows.stride + offset, 4);
    }
    return _mm256_setr_epi32(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
}

// From bytes (four sub-blocks of eight rows) to 16-bit pairs: (s[b], s[b]), and (s[b], s[b+1]).
KEEL_INLINE __m256i widen_pair(__m256i bytes, int first, int second) {
    // Every scale byte goes to the upper half of its 16 bits (0x80 fills the lower one); the shift extends its sign.
    const int row0 = 0x00800080 | first << 8 | second << 24, row = 0x04000400;
    const __m256i index = _mm256_broadcastsi128_si256(_mm_setr_epi32(row0, row0 + row, row0 + 2 * row, row0 + 3 * row));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(bytes, index), 8);
}
KEEL_INLINE void widen_scales(const __m256i* bytes, int sub_blocks, __m256i* scale) {
    KEEL_UNROLL
    for (int j = 0; j < sub_blocks; ++j) scale[j] = widen_pair(bytes[j / 4], j % 4, j % 4);
}
// 16 sub-blocks of 16 elements: one factor per activation sum.
KEEL_INLINE void widen_pairs(const __m256i* bytes, __m256i* pair) {
    KEEL_UNROLL
    for (int i = 0; i < 8; ++i) pair[i] = widen_pair(bytes[i / 2], 2 * (i % 2), 2 * (i % 2) + 1);
}

// ---- unpacking: sink(s, codes) gets elements 32s .. 32s + 31 as eight dword vectors ----

// Nibbles of 16 bytes: 32 elements, low ones first.
KEEL_INLINE void load_nibbles(const Rows& rows, uint32_t offset, __m256i code[8]) {
    __m256i t[4];
    load_dwords(rows, offset, t);
    KEEL_UNROLL
    for (int j = 0; j < 4; ++j) {
        code[j] = field(t[j], 0, 15);
        code[4 + j] = field(t[j], 4, 15);
    }
}
KEEL_INLINE void look_up_iq4_avx2(__m256i code[8]) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Values)));
    KEEL_UNROLL
    for (int j = 0; j < 8; ++j) code[j] = _mm256_shuffle_epi8(table, code[j]);
}
// Bit i of qh is bit 4 of element i.
KEEL_INLINE void add_fifth_bits_avx2(__m256i qh, __m256i code[8]) {
    const __m256i even = _mm256_set1_epi32(static_cast<int>(0x08040201u)),
                  odd = _mm256_set1_epi32(static_cast<int>(0x80402010u));
    KEEL_UNROLL
    for (int j = 0; j < 8; ++j) {
        const int first = j / 2 * 0x01010101;
        const __m256i index = _mm256_broadcastsi128_si256(
            _mm_setr_epi32(first, first + 0x04040404, first + 0x08080808, first + 0x0c0c0c0c));
        const __m256i bits = j % 2 ? odd : even, byte = _mm256_shuffle_epi8(qh, index);
        const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, bits), bits);
        code[j] = _mm256_or_si256(code[j], _mm256_and_si256(set, byte_mask(16)));
    }
}

template <WeightType T, class Sink>
KEEL_INLINE void unpack_rows(const Rows& rows, BlockScales& s, Sink&& sink) {
    __m256i head[4], code[8];
    if constexpr (T == kQ4_0 || T == kIQ4_NL || T == kQ8_0) {
        load_dwords(rows, 0, head);
        load_f16_pairs(head[0], &s.d, &s.m);
        if constexpr (T == kQ8_0)
            load_dwords_32(rows, 2, code);
        else
            load_nibbles(rows, 2, code);
        if constexpr (T == kIQ4_NL) look_up_iq4_avx2(code);
        sink(0, code);
    } else if constexpr (T == kQ4_1) {
        load_dwords(rows, 0, head);
        load_f16_pairs(head[0], &s.d, &s.m);
        load_nibbles(rows, 4, code);
        sink(0, code);
    } else if constexpr (T == kQ5_0) {
        load_dwords(rows, 0, head);
        load_f16_pairs(head[0], &s.d, &s.m);
        load_nibbles(rows, 6, code);
        add_fifth_bits_avx2(_mm256_or_si256(_mm256_srli_epi32(head[0], 16), _mm256_slli_epi32(head[1], 16)), code);
        sink(0, code);
    } else if constexpr (T == kQ5_1) {
        load_dwords(rows, 0, head);
        load_f16_pairs(head[0], &s.d, &s.m);
        load_nibbles(rows, 8, code);
        add_fifth_bits_avx2(head[1], code);
        sink(0, code);
    } else if constexpr (T == kQ4_K || T == kQ5_K) {
        load_dwords(rows, 0, head);
        load_f16_pairs(head[0], &s.d, &s.m);
        const __m256i scale[2] = {field(head[1], 0, 63),
                                  _mm256_or_si256(field(head[3], 0, 15), field_up(field(head[1], 6, 3), 3, 4))};
        const __m256i minimum[2] = {field(head[2], 0, 63),
                                    _mm256_or_si256(field(head[3], 4, 15), field_up(field(head[2], 6, 3), 3, 4))};
        widen_scales(scale, 8, s.scale);
        widen_scales(minimum, 8, s.pair);
        __m256i qh[8];
        if constexpr (T == kQ5_K) load_dwords_32(rows, 16, qh);
        KEEL_UNROLL
        for (int g = 0; g < 4; ++g) {
            __m256i t[8];
            load_dwords_32(rows, (T == kQ5_K ? 48u : 16u) + 32u * static_cast<uint32_t>(g), t);
            KEEL_UNROLL
            for (int half = 0; half < 2; ++half) {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) {
                    code[j] = field(t[j], 4 * half, 15);
                    if constexpr (T == kQ5_K) {
                        const int bit = 2 * g + half;
                        const __m256i high =
                            bit < 4 ? _mm256_slli_epi16(qh[j], 4 - bit) : _mm256_srli_epi16(qh[j], bit - 4);
                        code[j] = _mm256_or_si256(code[j], _mm256_and_si256(high, byte_mask(16)));
                    }
                }
                sink(2 * g + half, code);
            }
        }
    } else if constexpr (T == kQ2_K) {
        load_f16_pairs(load_dword(rows, 80), &s.d, &s.m);
        load_dwords(rows, 0, head);
        __m256i scale[4], minimum[4];
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            scale[i] = field(head[i], 0, 15);
            minimum[i] = field(head[i], 4, 15);
        }
        widen_scales(scale, 16, s.scale);
        widen_pairs(minimum, s.pair);
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            __m256i t[8];
            load_dwords_32(rows, 16 + 32 * static_cast<uint32_t>(half), t);
            KEEL_UNROLL
            for (int g = 0; g < 4; ++g) {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) code[j] = field(t[j], 2 * g, 3);
                sink(4 * half + g, code);
            }
        }
    } else if constexpr (T == kQ3_K) {
        // The last 16 bytes: two codes, twelve bytes of scales, d.
        load_dwords(rows, 94, head);
        __m256i u[3];
        KEEL_UNROLL
        for (int i = 0; i < 3; ++i)
            u[i] = _mm256_or_si256(_mm256_srli_epi32(head[i], 16), _mm256_slli_epi32(head[i + 1], 16));
        __m256 unused;
        load_f16_pairs(head[3], &unused, &s.d);
        __m256i scale[4];
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            const __m256i low = field(u[i % 2], 4 * (i / 2), 15), high = field_up(field(u[2], 2 * i, 3), 3, 4);
            scale[i] = _mm256_sub_epi8(_mm256_or_si256(low, high), byte_mask(32));
        }
        widen_scales(scale, 16, s.scale);
        widen_pairs(scale, s.pair);
        __m256i hmask[8];
        load_dwords_32(rows, 0, hmask);
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            __m256i t[8];
            load_dwords_32(rows, 32 + 32 * static_cast<uint32_t>(half), t);
            KEEL_UNROLL
            for (int g = 0; g < 4; ++g) {
                const int bit = 4 * half + g;
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) {
                    const __m256i high =
                        bit < 2 ? _mm256_slli_epi16(hmask[j], 2 - bit) : _mm256_srli_epi16(hmask[j], bit - 2);
                    code[j] = _mm256_or_si256(field(t[j], 2 * g, 3), _mm256_and_si256(high, byte_mask(4)));
                }
                sink(bit, code);
            }
        }
    } else if constexpr (T == kQ6_K) {
        load_dwords(rows, 194, head);  // the last 16 bytes: scales 2 .. 15, d
        __m256 unused;
        load_f16_pairs(head[3], &unused, &s.d);
        load_dwords(rows, 192, head);
        widen_scales(head, 16, s.scale);
        widen_pairs(head, s.pair);
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            __m256i qh[8];
            load_dwords_32(rows, 128 + 32 * static_cast<uint32_t>(half), qh);
            KEEL_UNROLL
            for (int side = 0; side < 2;
                 ++side) {  // ql[0..31]: elements 0..31 and 64..95; ql[32..63]: 32..63 and 96..127
                __m256i t[8];
                load_dwords_32(rows, 64 * static_cast<uint32_t>(half) + 32 * static_cast<uint32_t>(side), t);
                KEEL_UNROLL
                for (int nibble = 0; nibble < 2; ++nibble) {
                    const int g = 2 * nibble + side;
                    KEEL_UNROLL
                    for (int j = 0; j < 8; ++j) {
                        const __m256i high =
                            2 * g < 4 ? _mm256_slli_epi16(qh[j], 4 - 2 * g) : _mm256_srli_epi16(qh[j], 2 * g - 4);
                        code[j] = _mm256_or_si256(field(t[j], 4 * nibble, 15), _mm256_and_si256(high, byte_mask(48)));
                    }
                    sink(4 * half + g, code);
                }
            }
        }
    } else {
        static_assert(T == kIQ4_XS);
        load_dwords(rows, 0, head);
        __m256 unused;
        load_f16_pairs(head[0], &s.d, &unused);
        __m256i scale[2];
        KEEL_UNROLL
        for (int half = 0; half < 2; ++half) {
            scale[half] = _mm256_setzero_si256();
            KEEL_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int j = 4 * half + i;
                const __m256i low = _mm256_and_si256(_mm256_srli_epi32(head[1], 4 * j), _mm256_set1_epi32(15));
                const __m256i high = _mm256_and_si256(_mm256_srli_epi32(head[0], 16 + 2 * j), _mm256_set1_epi32(3));
                const __m256i both = _mm256_or_si256(low, _mm256_slli_epi32(high, 4));
                scale[half] = _mm256_or_si256(scale[half], _mm256_slli_epi32(both, 8 * i));
            }
            scale[half] = _mm256_sub_epi8(scale[half], byte_mask(32));
        }
        widen_scales(scale, 8, s.scale);
        KEEL_UNROLL
        for (int j = 0; j < 8; ++j) {
            load_nibbles(rows, 8 + 16 * static_cast<uint32_t>(j), code);
            look_up_iq4_avx2(code);
            sink(j, code);
        }
    }
}

// ---- products ----

KEEL_INLINE __m256i broadcast_dword(const void* p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

// 32 elements of eight rows and N columns; scale: the pairs of this chunk's sub-blocks (one or two).
template <WeightType T, int N>
KEEL_INLINE void multiply_chunk(const __m256i* code, const __m256i* scale, const int8_t* const* a, __m256i* sum) {
    constexpr CodeTraits kCodes = code_traits(T);
    KEEL_UNROLL
    for (int first = 0; first < 8; first += kCodes.run) {
        __m256i t[N];
        KEEL_UNROLL
        for (int j = first; j < first + kCodes.run; ++j) {
            const __m256i w = code[j];
            KEEL_UNROLL
            for (int c = 0; c < N; ++c) {
                const __m256i x = broadcast_dword(a[c] + 4 * j);
                __m256i product;
                if constexpr (kCodes.is_signed)
                    product = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                else
                    product = _mm256_maddubs_epi16(w, x);
                t[c] = j == first ? product : _mm256_add_epi16(t[c], product);
                KEEL_KEEP_ORDER(t[c]);
            }
        }
        const __m256i factor = scale[block_shape(T).sub == 16 ? first / 4 : 0];
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(t[c], factor));
    }
}

// The end of a block for one column: offset and minimum from the activation sums, then the f32 part.
template <WeightType T>
KEEL_INLINE __m256 finish_block(const BlockScales& s, __m256i sum, float d_a, const int16_t* sums, __m256 acc) {
    constexpr BlockShape kShape = block_shape(T);
    constexpr CodeTraits kCodes = code_traits(T);
    const __m256 da = _mm256_set1_ps(d_a);
    __m256i m = _mm256_setzero_si256();
    if constexpr (kShape.sub == 0) {
        if constexpr (kCodes.offset)
            m = _mm256_madd_epi16(broadcast_dword(sums), _mm256_set1_epi16(kCodes.offset));
        else if constexpr (kShape.minimum)
            m = _mm256_madd_epi16(broadcast_dword(sums), _mm256_set1_epi16(1));
    } else if constexpr (kCodes.offset || kShape.minimum) {
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i)
            m = _mm256_add_epi32(m, _mm256_madd_epi16(broadcast_dword(sums + 2 * i), s.pair[i]));
        if constexpr (kCodes.offset) m = _mm256_mullo_epi32(m, _mm256_set1_epi32(kCodes.offset));
    }
    if constexpr (kCodes.offset) sum = _mm256_sub_epi32(sum, m);
    acc = _mm256_fmadd_ps(_mm256_mul_ps(s.d, da), _mm256_cvtepi32_ps(sum), acc);
    if constexpr (kShape.minimum) {
        const __m256 factor = _mm256_mul_ps(s.m, da);
        if constexpr (kShape.sub == 0)
            acc = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(m), acc);
        else
            acc = _mm256_fnmadd_ps(factor, _mm256_cvtepi32_ps(m), acc);
    }
    return acc;
}

// ---- rows and columns ----

struct Columns {
    const uint8_t* base;
    uint64_t stride, d_offset, sums_offset;
    KEEL_INLINE Columns of(const MatmulArgs& a, uint32_t block) {
        const Q8Column x = q8_column(a.x, a.k, block);
        const uint8_t* base = static_cast<const uint8_t*>(a.x);
        return {base, a.x_column_bytes, static_cast<uint64_t>(reinterpret_cast<const uint8_t*>(x.d) - base),
                static_cast<uint64_t>(reinterpret_cast<const uint8_t*>(x.sums) - base)};
    }
    __attribute__((always_inline)) const int8_t* q(uint32_t c) const {
        return reinterpret_cast<const int8_t*>(base + c * stride);
    }
    __attribute__((always_inline)) const float* d(uint32_t c) const {
        return reinterpret_cast<const float*>(base + c * stride + d_offset);
    }
    __attribute__((always_inline)) const int16_t* sums(uint32_t c) const {
        return reinterpret_cast<const int16_t*>(base + c * stride + sums_offset);
    }
};

// Up to two columns, all blocks of eight rows; acc: N vectors.
template <WeightType T, int N>
KEEL_INLINE void few_columns(const MatmulArgs& a, Rows rows, __m256* result) {
    constexpr BlockShape kShape = block_shape(T);
    const Columns x = Columns::of(a, kShape.elements);
    const __m256i one[1] = {_mm256_set1_epi16(1)};
    __m256 acc[N];
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) acc[c] = _mm256_setzero_ps();
    const uint8_t* next = rows.lo + 8 * a.w_row_bytes;  // the next eight rows, contiguous
    for (uint32_t b = 0; b < a.k / kShape.elements; ++b) {
        prefetch_lines(next + uint64_t{b} * 8 * kShape.bytes, 8 * kShape.bytes);
        BlockScales s;
        __m256i sum[N];
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) sum[c] = _mm256_setzero_si256();
        unpack_rows<T>(
            rows, s, [&](int chunk, const __m256i* code) __attribute__((always_inline)) {
                const int8_t* q[N];
                KEEL_UNROLL
                for (int c = 0; c < N; ++c)
                    q[c] = x.q(static_cast<uint32_t>(c)) + uint64_t{b} * kShape.elements + 32 * chunk;
                const __m256i* scale = kShape.sub == 0 ? one : s.scale + (kShape.sub == 16 ? 2 * chunk : chunk);
                multiply_chunk<T, N>(code, scale, q, sum);
            });
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) {
            const uint32_t column = static_cast<uint32_t>(c);
            acc[c] = finish_block<T>(s, sum[c], x.d(column)[b], x.sums(column) + uint64_t{b} * (kShape.elements / 16),
                                     acc[c]);
        }
        rows.lo += kShape.bytes;
        rows.hi += kShape.bytes;
    }
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) result[c] = acc[c];
}

// N columns of one block against its panel.
template <WeightType T, int N>
KEEL_INLINE void panel_columns(const __m256i* panel, const BlockScales& s, const Columns& x, uint32_t b, uint32_t first,
                               __m256* acc) {
    constexpr BlockShape kShape = block_shape(T);
    const __m256i one[1] = {_mm256_set1_epi16(1)};
    __m256i sum[N];
    const int8_t* q[N];
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) {
        sum[c] = _mm256_setzero_si256();
        q[c] = x.q(first + static_cast<uint32_t>(c)) + uint64_t{b} * kShape.elements;
    }
    for (uint32_t chunk = 0; chunk < kShape.elements / 32; ++chunk) {
        const __m256i* scale = kShape.sub == 0 ? one : s.scale + (kShape.sub == 16 ? 2 * chunk : chunk);
        multiply_chunk<T, N>(panel + 8 * chunk, scale, q, sum);
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) q[c] += 32;
    }
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) {
        const uint32_t column = first + static_cast<uint32_t>(c);
        acc[column] = finish_block<T>(s, sum[c], x.d(column)[b], x.sums(column) + uint64_t{b} * (kShape.elements / 16),
                                      acc[column]);
    }
}

template <WeightType T>
void many_columns(const MatmulArgs& a, Rows rows, __m256* acc) {
    constexpr BlockShape kShape = block_shape(T);
    const Columns x = Columns::of(a, kShape.elements);
    __m256i panel[kShape.elements / 4];
    for (uint32_t c = 0; c < a.columns; ++c) acc[c] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < a.k / kShape.elements; ++b) {
        BlockScales s;
        unpack_rows<T>(
            rows, s, [&](int chunk, const __m256i* code) __attribute__((always_inline)) {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) panel[8 * chunk + j] = code[j];
            });
        uint32_t c = 0;
        for (; c + 4 <= a.columns; c += 4) panel_columns<T, 4>(panel, s, x, b, c, acc);
        for (; c < a.columns; ++c) panel_columns<T, 1>(panel, s, x, b, c, acc);
        rows.lo += kShape.bytes;
        rows.hi += kShape.bytes;
    }
}

// Lane i < 4 is row first + i, lane i >= 4 row second + i - 4. Stores the rows from `next` on, each once.
KEEL_INLINE void store_lanes(const MatmulArgs& a, uint32_t column, uint32_t first, uint32_t second, uint32_t next,
                             __m256 dots) {
    if (next == first && second == first + 4) {
        if (a.bias) dots = _mm256_add_ps(dots, _mm256_loadu_ps(a.bias + first));
        float* y = a.y[column] + first;
        if (a.accumulate) dots = _mm256_add_ps(_mm256_loadu_ps(y), dots);
        _mm256_storeu_ps(y, dots);
        return;
    }
    alignas(32) float lane[8];
    _mm256_store_ps(lane, dots);
    for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t row = i < 4 ? first + i : second + i - 4;
        if (row == next) store_dot(a, next++, column, lane[i]);
    }
}

}  // namespace

template <WeightType T>
void matmul_q8_avx2(const MatmulArgs& a) {
    __m256 acc[kMaxColumns];
    const uint32_t total = a.row_end - a.row_begin;
    uint32_t group = 8;  // rows taken by one step
    for (uint32_t next = a.row_begin; next < a.row_end; next += group) {
        // A group that would pass the end is moved back over rows already done. With four to seven rows in all its
        // halves overlap; below that all lanes hold the same row.
        uint32_t first = next, second = next + 4;
        uint64_t stride = a.w_row_bytes;
        if (total < 4) {
            group = 1;
            second = first;
            stride = 0;
        } else if (total < 8) {
            second = a.row_end - 4;
        } else if (next + 8 > a.row_end) {
            first = a.row_end - 8;
            second = first + 4;
        }
        const uint8_t* w = static_cast<const uint8_t*>(a.w);
        const Rows rows = {w + first * a.w_row_bytes, w + second * a.w_row_bytes, stride};
        switch (a.columns) {
            case 1:
                few_columns<T, 1>(a, rows, acc);
                break;
            case 2:
                few_columns<T, 2>(a, rows, acc);
                break;
            default:
                many_columns<T>(a, rows, acc);
        }
        for (uint32_t c = 0; c < a.columns; ++c) {
            if (total < 4)
                store_dot(a, first, c, _mm256_cvtss_f32(acc[c]));
            else
                store_lanes(a, c, first, second, next, acc[c]);
        }
    }
}

template <WeightType T>
void matmul_repacked_avx2(const MatmulArgs& a) {
    matmul_repacked_scalar<T>(a);
}

#define KEEL_INSTANTIATE(T)                             \
    template void matmul_q8_avx2<T>(const MatmulArgs&); \
    template void matmul_repacked_avx2<T>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
