// Rows of quantized weights as integer vectors (NUMERICS section 2), for q8_products.h: where they come from (the
// file's layout, its incomplete end, repacked), and how the codes, scales and minima of a block come out of them.
//
// A vector holds one dword of each of V::kLanes rows, lane = row:
//
//     codes:        | row 0: q[4j..4j+3] | row 1: q[4j..4j+3] | ... | row L-1: q[4j..4j+3] |
//     activations:  | a[4j..4j+3]        | a[4j..4j+3]        | ... one dword, broadcast from memory
//
// so the integer sums of L rows come out in L lanes, without horizontal additions. Repacked weights
// (kernels/formats/repack.h) are such vectors in memory; plain rows are transposed in registers as they are read. Codes
// stay unsigned where that fits V: the offset of the format is taken out afterwards through the activation sums,
// exactly.
//
// What V provides (I: integer vector, F: f32 vector, L lanes each):
//   load(p)                        one I
//   load_rows(p, stride, I out[4]) 16 bytes of L rows, transposed in dwords
//   load_row_dwords(p, stride)     the dword at p of L rows
//   load_f16(p)                    L scales
//   zero, set1_8, set1_16, set1_32
//   and_, or_, xor_                xor_ only without kSignedCodes
//   add8, sub8, negate16
//   shift_left<n>, shift_right<n>  of 16-bit lanes; shift_left32, shift_right32: of dwords
//   look_up(table, I)              table[byte] for every byte
//   add_fifth_bits(qh, I code[8])  bit i of qh is bit 4 of element i
//   widen_scale<is_signed>(I, b)   byte b of every lane, in the form multiply_add takes
//   widen_pair<is_signed>(I, b)    bytes b and b + 1 of every lane as 16-bit pair
//   f16_low(I), f16_high(I)        the low or high half of every lane as F
//   f16_halves(I, low, high)       both
//   broadcast_dword(a)             the dword at a, in every lane
//   dot4(acc, codes, x)            acc + the four products of every lane (only with kHasDot4)
//   dot2(acc, pairs, sums)         acc + the two 16-bit products of every lane
//   dot_sums<n>(acc, pairs, sums)  dot2 for n pairs, where V has a faster way
//   add_neighbours(sums, to)       to[i] = sums[2i] + sums[2i + 1] for eight i, 16-bit
//   multiply_add(acc, t, scale)    acc + t * scale
// and with kSplitSigns, where signed codes of panels are kept as SplitCode:
//   split(codes)                   the SplitCode of signed codes
//   add_lacking(start, w, factor)  what products with w lack, times 16-bit factors, added to what sums start from
#pragma once
#include <string.h>

#include "kernels/cpu/matmul/quant_blocks.h"
#include "kernels/cpu/vector/inline.h"

namespace keel::kernels {
namespace {

// ---- what distinguishes the types ----

// The type's codes as they come out of unpack_rows: signed bytes as they are, or plus 128 where V wants unsigned ones.
template <class V>
constexpr CodeTraits code_traits(WeightType type) {
    const CodeTraits& codes = kWeightTypes[type].codes;
    return codes.is_signed && !V::kSignedCodes ? CodeTraits{false, 128, 1} : codes;
}

// What a type is to products once its rows are unpacked. Types that are alike share the code of passes over panels.
struct PanelKind {
    uint32_t elements, sub;  // as in BlockShape
    bool minimum;
    bool paired;     // activation sums have factors: minima, or minus offset times the scales
    int offset;      // of blocks without integer scales
    bool is_signed;  // this and run where products of four go through 16 bits: as in CodeTraits
    int run;
};
template <class V>
constexpr PanelKind panel_kind(WeightType type) {
    const BlockShape shape = block_shape(type);
    const CodeTraits codes = code_traits<V>(type);
    return {shape.elements,
            shape.sub,
            shape.minimum,
            shape.sub != 0 && (shape.minimum || codes.offset != 0),
            shape.sub == 0 ? codes.offset : 0,
            !V::kHasDot4 && codes.is_signed,
            V::kHasDot4 ? 0 : codes.run};
}

// The integer factors of a block: per sub-block its scale, and what the activation sums of sub-blocks, taken in pairs,
// are multiplied with.
template <class V, PanelKind K>
struct BlockFactors {
    static constexpr uint32_t kScales = K.sub ? K.elements / K.sub : 0, kPairs = K.paired ? kScales / 2 : 0;
    typename V::I integers[kScales + kPairs + (kScales == 0)];
    typename V::F d, m;
    KEEL_ALWAYS_INLINE typename V::I* scale() { return integers; }
    KEEL_ALWAYS_INLINE const typename V::I* scale() const { return integers; }
    KEEL_ALWAYS_INLINE typename V::I* pair() { return integers + kScales; }
    KEEL_ALWAYS_INLINE const typename V::I* pair() const { return integers + kScales; }
};

// ---- where rows come from: at(b) goes to block b ----

// L rows in the file's layout.
template <class V, WeightType T>
struct PlainRows {
    static constexpr uint32_t kBytes = block_shape(T).bytes;
    static constexpr bool kInterleaved = false;
    const uint8_t *start, *block;
    uint64_t stride;
    const PlainRows& block_rows() const { return *this; }
    KEEL_ALWAYS_INLINE void at(uint32_t b) { block = start + uint64_t{b} * kBytes; }
    static constexpr uint32_t kFetchBytes = V::kLanes * kBytes;
    // What to fetch beside block b: as many bytes of the L rows that come `rows` rows later.
    KEEL_ALWAYS_INLINE const uint8_t* ahead(uint32_t b, uint32_t rows) const {
        return start + rows * stride + uint64_t{b} * kFetchBytes;
    }
    template <int n>
    KEEL_ALWAYS_INLINE void dwords(uint32_t offset, typename V::I* out) const {
        static_assert(n == 1 || n % 4 == 0);
        if constexpr (n == 1) {
            out[0] = V::load_row_dwords(block + offset, stride);
        } else {
            KEEL_UNROLL
            for (int i = 0; i < n; i += 4) V::load_rows(block + offset + 4 * i, stride, out + i);
        }
    }
    // Three dwords of which only the 16 bytes from offset - 2 on lie in the block.
    KEEL_ALWAYS_INLINE void three_dwords(uint32_t offset, typename V::I* out) const {
        typename V::I t[4];
        V::load_rows(block + offset - 2, stride, t);
        KEEL_UNROLL
        for (int i = 0; i < 3; ++i)
            out[i] = V::or_(V::template shift_right32<16>(t[i]), V::template shift_left32<16>(t[i + 1]));
    }
    // d of types whose repacked blocks keep it beside their dwords.
    KEEL_ALWAYS_INLINE typename V::F block_scale() const {
        constexpr bool kFirst = kWeightTypes[T].d_at == 0;
        typename V::I t[4];
        V::load_rows(block + (kFirst ? 0 : kBytes - 16), stride, t);
        return kFirst ? V::f16_low(t[0]) : V::f16_high(t[3]);
    }
};

// Fewer than L rows: the missing ones repeat the last.
template <class V, WeightType T>
struct PartialRows : PlainRows<V, T> {
    using Base = PlainRows<V, T>;
    const uint8_t* rows;
    uint64_t row_bytes;
    uint32_t count;
    uint8_t copy[V::kLanes * Base::kBytes];
    PartialRows(const uint8_t* first, uint64_t bytes, uint32_t n) : rows(first), row_bytes(bytes), count(n) {
        Base::start = Base::block = copy;
        Base::stride = Base::kBytes;
    }
    void at(uint32_t b) {
        KEEL_KEEP_LOOP
        for (uint32_t r = 0; r < V::kLanes; ++r)
            memcpy(copy + r * Base::kBytes, rows + (r < count ? r : count - 1) * row_bytes + uint64_t{b} * Base::kBytes,
                   Base::kBytes);
    }
    const uint8_t* ahead(uint32_t, uint32_t) const { return copy; }
};

// How far ahead of repacked rows is fetched.
constexpr uint32_t kRepackedAheadBytes = 8192;

// L rows of a group, from `lane` on.
template <class V, WeightType T>
struct RepackedRows {
    static constexpr uint32_t kBytes = block_shape(T).bytes;
    static constexpr bool kInterleaved = true;
    static constexpr RepackLayout kLayout = repack_layout(T);
    const uint8_t *group, *block;
    uint32_t lane;
    const RepackedRows& block_rows() const { return *this; }
    KEEL_ALWAYS_INLINE void at(uint32_t b) { block = group + uint64_t{b} * (kRepackRows * kBytes); }
    static constexpr uint32_t kFetchBytes = kRepackRows * kBytes;
    // Of the whole group, with its first rows; null with others.
    KEEL_ALWAYS_INLINE const uint8_t* ahead(uint32_t b, uint32_t) const {
        return lane == 0 ? group + uint64_t{b} * kFetchBytes + kRepackedAheadBytes : nullptr;
    }
    template <int n>
    KEEL_ALWAYS_INLINE void dwords(uint32_t offset, typename V::I* out) const {
        KEEL_UNROLL
        for (int i = 0; i < n; ++i)
            out[i] = V::load(block + kLayout.group_dwords +
                             ((offset - kLayout.dwords) / 4 + static_cast<uint32_t>(i)) * (4 * kRepackRows) + 4 * lane);
    }
    KEEL_ALWAYS_INLINE void three_dwords(uint32_t offset, typename V::I* out) const { dwords<3>(offset, out); }
    KEEL_ALWAYS_INLINE typename V::F block_scale() const { return V::load_f16(block + 2 * lane); }
};

// Part `part` of `parts` of what lies ahead of a block of a Source. In parts, between the products, and into the
// second-level cache: a first-level cache has few lines on their way at once, and its reads would wait behind a block's
// many. Few lines go into the first one where products of several tokens without dot4 take longer than memory.
template <class V, class Source, uint32_t parts, uint32_t tokens>
KEEL_INLINE void fetch_part(const uint8_t* ahead, uint32_t part) {
    constexpr uint32_t kBytes = (Source::kFetchBytes + 64 * parts - 1) / (64 * parts) * 64;
    constexpr int kLevel = V::kHasDot4 || tokens == 1 || Source::kFetchBytes > 1024 ? 2 : 3;
    KEEL_UNROLL
    for (uint32_t i = 0; i < kBytes; i += 64) __builtin_prefetch(ahead + part * kBytes + i, 0, kLevel);
}

// ---- unpacking: sink(s, codes) gets elements 32s .. 32s + 31 as eight vectors codes[0] .. codes[7] ----
// Parts of a block that are alike are a loop, unless kWrittenOut: written out, sinks of four tokens take up to 15 KB a
// type, as a loop those of one token take up to 1.6 times as long from memory.

// (v >> shift) & mask in every byte; bits that cross bytes must be masked away.
template <class V, int shift>
KEEL_INLINE typename V::I bits_of(typename V::I v, int mask) {
    if constexpr (shift > 0)
        v = V::template shift_right<shift>(v);
    else if constexpr (shift < 0)
        v = V::template shift_left<-shift>(v);
    return V::and_(v, V::set1_8(mask));
}
// Nibbles of 16 bytes: 32 elements, low ones first.
template <class V, class Source>
KEEL_INLINE void load_nibbles(const Source& rows, uint32_t offset, typename V::I* code) {
    typename V::I t[4];
    rows.template dwords<4>(offset, t);
    KEEL_UNROLL
    for (int j = 0; j < 4; ++j) {
        code[j] = bits_of<V, 0>(t[j], 15);
        code[4 + j] = bits_of<V, 4>(t[j], 15);
    }
}
// Signed bytes in the form code_traits says.
template <class V>
KEEL_INLINE void bias_codes(typename V::I* code) {
    if constexpr (!V::kSignedCodes) {
        KEEL_UNROLL
        for (int j = 0; j < 8; ++j) code[j] = V::xor_(code[j], V::set1_8(0x80));
    }
}
template <class V>
KEEL_INLINE void look_up_iq4_codes(typename V::I* code) {
    alignas(16) uint8_t table[16];
    for (int i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(kIq4Values[i] + (V::kSignedCodes ? 0 : 128));
    KEEL_UNROLL
    for (int j = 0; j < 8; ++j) code[j] = V::look_up(table, code[j]);
}
// Scales and minima of these types are at most 63; the others have scales below zero.
constexpr bool signed_scales(WeightType type) {
    return type != kQ2_K && type != kQ4_K && type != kQ5_K;
}
template <class V, WeightType T>
KEEL_INLINE void set_scales(const typename V::I* bytes, BlockFactors<V, panel_kind<V>(T)>& f) {
    KEEL_UNROLL
    for (uint32_t j = 0; j < f.kScales; ++j)
        f.scale()[j] = V::template widen_scale<signed_scales(T)>(bytes[j / 4], static_cast<int>(j % 4));
}
// Factors of the activation sums of sub-blocks 2i and 2i + 1.
template <class V, WeightType T>
KEEL_INLINE void set_pairs(const typename V::I* bytes, BlockFactors<V, panel_kind<V>(T)>& f) {
    constexpr int kOffset = code_traits<V>(T).offset;
    if constexpr (panel_kind<V>(T).paired) {
        KEEL_UNROLL
        for (int i = 0; i < static_cast<int>(f.kPairs); ++i) {
            typename V::I p = V::template widen_pair<signed_scales(T)>(bytes[i / 2], 2 * (i % 2));
            if constexpr (kOffset != 0)
                p = V::negate16(V::template shift_left<__builtin_ctz(static_cast<unsigned>(kOffset))>(p));
            f.pair()[i] = p;
        }
    }
}
// fn(integral constant) for 0 .. n - 1: shifts are immediates.
template <int i>
struct Index {
    static constexpr int value = i, kKnown = i;
};
template <int n, int i = 0, class Fn>
KEEL_INLINE void each_index(Fn&& fn) {
    if constexpr (i < n) {
        fn(Index<i>{});
        each_index<n, i + 1>(fn);
    }
}

// A part's number that the compiler does not know.
struct LoopIndex {
    static constexpr int kKnown = 0;
    int value;
};
template <bool kWrittenOut, int n, class Fn>
KEEL_INLINE void each_part(Fn&& fn) {
    if constexpr (kWrittenOut) {
        each_index<n>(fn);
    } else {
        int parts = n;
        KEEL_OPAQUE(parts);  // a loop so short would be written out
        for (int i = 0; i < parts; ++i) fn(LoopIndex{i});
    }
}

// The four bits from symbol i of a lane on, of the dwords that begin with symbol 0 (weight_trellis.h).
template <class V, uint32_t bits, int i>
KEEL_INLINE typename V::I trellis_field(const typename V::I* dwords) {
    constexpr int kAt = i * static_cast<int>(bits), kDword = kAt / 8, kShift = kAt % 8;
    if constexpr (kShift <= 4)
        return bits_of<V, kShift>(dwords[kDword], 15);
    else
        return V::or_(bits_of<V, kShift>(dwords[kDword], 255 >> kShift),
                      bits_of<V, kShift - 8>(dwords[kDword + 1], 15 & 15 << (8 - kShift)));
}
// The type's tables, the offset of its codes in the first one.
struct alignas(16) TrellisTable {
    uint8_t at[16];
};
constexpr TrellisTable trellis_table(WeightType type, int k) {
    TrellisTable t = {};
    for (int i = 0; i < 16; ++i)
        t.at[i] = static_cast<uint8_t>(trellis_code(type).table[k][i] + (k == 0 ? kWeightTypes[type].codes.offset : 0));
    return t;
}
template <WeightType T, int k>
constexpr TrellisTable kTrellisTable = trellis_table(T, k);

// Eight dwords of codes, each made when it is asked for: a few registers at a time.
template <class V, WeightType T>
struct TrellisCodes {
    static constexpr TrellisCode kCode = trellis_code(T);
    const typename V::I* dwords;  // kCode.bits of this chunk, and those of the next one
    template <int j>
    KEEL_ALWAYS_INLINE typename V::I at() const {
        constexpr int kStride = static_cast<int>(kCode.stride);
        const typename V::I first = V::look_up(kTrellisTable<T, 0>.at, trellis_field<V, kCode.bits, j>(dwords)),
                            second =
                                V::look_up(kTrellisTable<T, 1>.at, trellis_field<V, kCode.bits, j + kStride>(dwords)),
                            third = V::look_up(kTrellisTable<T, 2>.at,
                                               trellis_field<V, kCode.bits, j + 2 * kStride>(dwords));
        return V::add8(V::add8(first, second), third);
    }
    KEEL_ALWAYS_INLINE typename V::I operator[](int j) const {
        switch (j) {
            case 0:
                return at<0>();
            case 1:
                return at<1>();
            case 2:
                return at<2>();
            case 3:
                return at<3>();
            case 4:
                return at<4>();
            case 5:
                return at<5>();
            case 6:
                return at<6>();
            default:
                return at<7>();
        }
    }
};
template <class V, WeightType T, bool kWrittenOut, class Source, class Sink>
KEEL_INLINE void unpack_trellis_rows(const Source& rows, Sink&& sink) {
    constexpr int kBits = static_cast<int>(trellis_code(T).bits), kChunks = 8;
    typename V::I dwords[(kChunks + 1) * kBits];
    KEEL_KEEP_LOOP
    for (int i = 0; i < kChunks * kBits; i += 8) rows.template dwords<8>(2 + 4 * static_cast<uint32_t>(i), dwords + i);
    KEEL_UNROLL
    for (int i = 0; i < kBits; ++i)  // behind a lane comes the next one
        dwords[kChunks * kBits + i] =
            V::or_(V::template shift_right32<8>(dwords[i]), V::template shift_left32<24>(dwords[i]));
    each_part<kWrittenOut, kChunks>([&](auto chunk) KEEL_ALWAYS_INLINE {
        sink(static_cast<uint32_t>(chunk.value), TrellisCodes<V, T>{dwords + chunk.value * kBits});
    });
}

template <class V, WeightType T, bool kWrittenOut, class Source, class Sink>
KEEL_INLINE void unpack_rows(const Source& rows, BlockFactors<V, panel_kind<V>(T)>& f, Sink&& sink) {
    using I = typename V::I;
    I head[4], code[8];
    if constexpr (T == kQ8_0 || T == kQ8_F32) {
        if constexpr (T == kQ8_0) {
            f.d = rows.block_scale();
        } else {
            rows.template dwords<1>(0, head);
            f.d = __builtin_bit_cast(typename V::F, head[0]);
        }
        rows.template dwords<8>(T == kQ8_0 ? 2 : 4, code);
        bias_codes<V>(code);
        sink(0, code);
    } else if constexpr (T == kQ4_0 || T == kIQ4_NL) {
        f.d = rows.block_scale();
        load_nibbles<V>(rows, 2, code);
        if constexpr (T == kIQ4_NL) look_up_iq4_codes<V>(code);
        sink(0, code);
    } else if constexpr (is_trellis(T)) {
        f.d = rows.block_scale();
        unpack_trellis_rows<V, T, kWrittenOut>(rows, sink);
    } else if constexpr (T == kQ5_0) {
        f.d = rows.block_scale();
        load_nibbles<V>(rows, 6, code);
        rows.template dwords<1>(2, head);
        V::add_fifth_bits(head[0], code);
        sink(0, code);
    } else if constexpr (T == kQ4_1 || T == kQ5_1) {
        rows.template dwords<1>(0, head);
        V::f16_halves(head[0], &f.d, &f.m);
        load_nibbles<V>(rows, T == kQ4_1 ? 4 : 8, code);
        if constexpr (T == kQ5_1) {
            rows.template dwords<1>(4, head);
            V::add_fifth_bits(head[0], code);
        }
        sink(0, code);
    } else if constexpr (T == kQ4_K || T == kQ5_K) {
        rows.template dwords<4>(0, head);
        V::f16_halves(head[0], &f.d, &f.m);
        const I scale[2] = {
            bits_of<V, 0>(head[1], 63),
            V::or_(bits_of<V, 0>(head[3], 15), V::template shift_right<2>(V::and_(head[1], V::set1_8(0xc0))))};
        const I minimum[2] = {
            bits_of<V, 0>(head[2], 63),
            V::or_(bits_of<V, 4>(head[3], 15), V::template shift_right<2>(V::and_(head[2], V::set1_8(0xc0))))};
        set_scales<V, T>(scale, f);
        set_pairs<V, T>(minimum, f);
        I qh[8];
        if constexpr (T == kQ5_K) rows.template dwords<8>(16, qh);
        each_part<kWrittenOut, 4>([&](auto g) KEEL_ALWAYS_INLINE {
            I t[8];
            rows.template dwords<8>((T == kQ5_K ? 48u : 16u) + 32u * static_cast<uint32_t>(g.value), t);
            each_index<2>([&](auto half) KEEL_ALWAYS_INLINE {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) {
                    code[j] = bits_of<V, 4 * half.value>(t[j], 15);
                    if constexpr (T == kQ5_K)
                        code[j] = V::or_(code[j], bits_of<V, 2 * g.kKnown + half.value - 4>(qh[j], 16));
                }
                sink(static_cast<uint32_t>(2 * g.value + half.value), code);
            });
            if constexpr (T == kQ5_K && !kWrittenOut) {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) qh[j] = V::template shift_right<2>(qh[j]);
            }
        });
    } else if constexpr (T == kQ2_K) {
        rows.template dwords<1>(80, head);
        V::f16_halves(head[0], &f.d, &f.m);
        rows.template dwords<4>(0, head);
        I scale[4], minimum[4];
        KEEL_UNROLL
        for (int i = 0; i < 4; ++i) {
            scale[i] = bits_of<V, 0>(head[i], 15);
            minimum[i] = bits_of<V, 4>(head[i], 15);
        }
        set_scales<V, T>(scale, f);
        set_pairs<V, T>(minimum, f);
        each_part<kWrittenOut, 2>([&](auto half) KEEL_ALWAYS_INLINE {
            I t[8];
            rows.template dwords<8>(16 + 32 * static_cast<uint32_t>(half.value), t);
            each_index<4>([&](auto g) KEEL_ALWAYS_INLINE {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) code[j] = bits_of<V, 2 * g.value>(t[j], 3);
                sink(static_cast<uint32_t>(4 * half.value + g.value), code);
            });
        });
    } else if constexpr (T == kQ3_K) {
        f.d = rows.block_scale();
        I u[3], scale[4];
        rows.three_dwords(96, u);
        each_index<4>([&](auto i) KEEL_ALWAYS_INLINE {
            const I low = bits_of<V, 4 * (i.value / 2)>(u[i.value % 2], 15),
                    high = bits_of<V, 2 * i.value - 4>(u[2], 48);
            scale[i.value] = V::sub8(V::or_(low, high), V::set1_8(32));
        });
        set_scales<V, T>(scale, f);
        set_pairs<V, T>(scale, f);
        I hmask[8];
        rows.template dwords<8>(0, hmask);
        each_part<kWrittenOut, 2>([&](auto half) KEEL_ALWAYS_INLINE {
            I t[8];
            rows.template dwords<8>(32 + 32 * static_cast<uint32_t>(half.value), t);
            each_index<4>([&](auto g) KEEL_ALWAYS_INLINE {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j)
                    code[j] = V::or_(bits_of<V, 2 * g.value>(t[j], 3),
                                     bits_of<V, 4 * half.kKnown + g.value - 2>(hmask[j], 4));
                sink(static_cast<uint32_t>(4 * half.value + g.value), code);
            });
            if constexpr (!kWrittenOut) {
                KEEL_UNROLL
                for (int j = 0; j < 8; ++j) hmask[j] = V::template shift_right<4>(hmask[j]);
            }
        });
    } else if constexpr (T == kQ6_K) {
        f.d = rows.block_scale();
        rows.template dwords<4>(192, head);
        set_scales<V, T>(head, f);
        set_pairs<V, T>(head, f);
        each_part<kWrittenOut, 2>([&](auto half) KEEL_ALWAYS_INLINE {
            I qh[8];
            rows.template dwords<8>(128 + 32 * static_cast<uint32_t>(half.value), qh);
            // ql[0..31]: elements 0..31 and 64..95 of the half; ql[32..63]: 32..63 and 96..127.
            each_index<2>([&](auto side) KEEL_ALWAYS_INLINE {
                I t[8];
                rows.template dwords<8>(static_cast<uint32_t>(64 * half.value + 32 * side.value), t);
                each_index<2>([&](auto nibble) KEEL_ALWAYS_INLINE {
                    constexpr int kG = 2 * nibble.value + side.value;
                    KEEL_UNROLL
                    for (int j = 0; j < 8; ++j)
                        code[j] = V::or_(bits_of<V, 4 * nibble.value>(t[j], 15), bits_of<V, 2 * kG - 4>(qh[j], 48));
                    sink(static_cast<uint32_t>(4 * half.value + kG), code);
                });
            });
        });
    } else {
        static_assert(T == kIQ4_XS, "this weight type has no unpack_rows");
        rows.template dwords<1>(0, head);
        rows.template dwords<1>(4, head + 1);
        f.d = V::f16_low(head[0]);
        I scale[2];
        each_index<2>([&](auto half) KEEL_ALWAYS_INLINE {
            I all = V::zero();
            each_index<4>([&](auto i) KEEL_ALWAYS_INLINE {
                constexpr int kJ = 4 * half.value + i.value;
                const I low = V::and_(V::template shift_right32<4 * kJ>(head[1]), V::set1_32(15));
                const I high = V::and_(V::template shift_right32<16 + 2 * kJ>(head[0]), V::set1_32(3));
                all =
                    V::or_(all, V::template shift_left32<8 * i.value>(V::or_(low, V::template shift_left32<4>(high))));
            });
            scale[half.value] = V::sub8(all, V::set1_8(32));
        });
        set_scales<V, T>(scale, f);
        set_pairs<V, T>(scale, f);
        each_part<kWrittenOut, 8>([&](auto j) KEEL_ALWAYS_INLINE {
            load_nibbles<V>(rows, 8 + 16 * static_cast<uint32_t>(j.value), code);
            look_up_iq4_codes<V>(code);
            sink(static_cast<uint32_t>(j.value), code);
        });
    }
}

}  // namespace
}  // namespace keel::kernels
