// Integer K and V rows for instruction sets of short registers: the K of kv_integers_lanes.h over a vector type V and
// its integer part P:
//
//   windows<F>(p, q)              the 8 bits at bit i * b of the bytes at p, i in 0..31, of a lattice or trellis row,
//                                 of a lattice at least b of them; reads up to kReads<F> bytes
//   kKeyOffset<F>                 what is added to the integers of keys so that they are not negative; 0 where they
//                                 stay signed
//   integers<F, offset>(q)        32 of its integers, plus `offset`, in place of such windows
//   lattice<F, offset>(p, q)      both for a lattice, where kReads<F> is no more than the 4b bytes of 32 integers
//   unpack_block<b>(codes, d, q)  a block of q8_0 or q4_0, its signs turned where d has its sign set
//   kGroup                        positions whose values are added at once
//   kInterleaved                  whether their elements stand together in a tile of values
//   kValueRows                    query rows whose sums of values fit the registers, 2 or 4
//   interleave(rows, stride, to)  16 elements of kGroup rows, element by element
//   Weights, store_weights        as in kv_integers_lanes.h
//   dots<C, kUnsigned>(keys, stride, q, offset, n, dot)
//                                 V::kLanes keys, `stride` bytes apart, times C <= 3 queries, less offset[c]: the exact
//                                 sums as floats; n a multiple of 32; kUnsigned: keys of a format with a kKeyOffset
//   I, zero, add<C>(sum, x, stride, w, scale, j), total(sum)
//                                 sums of values times weights: kGroup positions from j on of 16 elements, for C query
//                                 rows; `stride` bytes from position to position, unless they are interleaved
//
// A tile in the first-level cache:
//   keys    [position][n rounded up to 32], zeros behind n
//   values  [position][n rounded up to 32], or interleaved [position / kGroup][n rounded up to 16][kGroup]
// Codes of q8_0 that are the integers are read where they lie.
#pragma once
#include <utility>

#include "kernels/cpu/attention/kv_integers_lanes.h"

namespace keel::kernels {
namespace {

// The end of a lattice or trellis row of format F where P may read on: its last bytes, then the start bits of a
// trellis, then what enters no window.
template <class P, KvFormat F>
struct RowEnd {
    static constexpr uint32_t kBits = kKvFormats[F].bits, kRead = P::template kReads<F>, kLast = 32;
    static_assert(kRead <= kLast);
    alignas(32) uint8_t bytes[kLast + kRead];

    KEEL_INLINE void copy(const uint8_t* codes, uint32_t count, uint16_t field, RowEnd* end) {
        uint8_t* to = end->bytes + (count < kLast ? kLast - count : 0);
        const uint8_t* from = codes + (count < kLast ? 0 : count - kLast);
        if (count >= kLast / 2) {  // of a fixed size, and so no call; in the middle some are copied twice
            memcpy(to, from, kLast / 2);
            memcpy(end->bytes + kLast / 2, codes + (count - kLast / 2), kLast / 2);
        } else {
            memcpy(to, from, count);
        }
        memset(end->bytes + kLast, 0, kRead);
        end->bytes[kLast] = static_cast<uint8_t>(field);
    }
};

// The windows of one row's codes, up to n rounded up to 32 (those behind n may be anything). Groups of 32 are read
// where they lie as long as P reads bytes of the row only, the last ones from `end`.
template <class P, KvFormat F>
KEEL_INLINE void row_windows(const uint8_t* codes, const RowEnd<P, F>& end, uint32_t n, int8_t* q) {
    using End = RowEnd<P, F>;
    const uint32_t bytes = n * End::kBits / 8;
    uint32_t at = 0;
    for (; at + End::kRead <= bytes; at += 4 * End::kBits, q += 32) P::template windows<F>(codes + at, q);
    for (; at < bytes; at += 4 * End::kBits, q += 32) P::template windows<F>(end.bytes + End::kLast - (bytes - at), q);
}

// Fields of eight rows' scales.
using Fields8 = uint16_t __attribute__((vector_size(16)));

// Field b of each of eight rows of kCount fields that lie in x.
template <uint32_t kCount, uint32_t b>
KEEL_INLINE Fields8 field_of_rows(const Fields8* x) {
    if constexpr (kCount == 1) {
        return x[0];
    } else if constexpr (kCount == 2) {
        return __builtin_shufflevector(x[0], x[1], b, b + 2, b + 4, b + 6, b + 8, b + 10, b + 12, b + 14);
    } else {
        static_assert(kCount == 4);
        const Fields8 low = __builtin_shufflevector(x[0], x[1], b, b + 4, b + 8, b + 12, b, b, b, b),
                      high = __builtin_shufflevector(x[2], x[3], b, b + 4, b + 8, b + 12, b, b, b, b);
        return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
    }
}

template <class V, class P>
struct KvIntegersRows {
    using Weights = typename P::Weights;
    KEEL_INLINE int32_t key_offset(KvFormat format) {
        int32_t offset = 0;
        for_integer_format(format, [&]<KvFormat F>() { offset = P::template kKeyOffset<F>; });
        return offset;
    }
    KEEL_INLINE uint32_t row_stride(uint32_t n) { return (n + 31) & ~31u; }
    KEEL_INLINE uint32_t value_elements(uint32_t n) { return (n + 15) & ~15u; }

    // Scales of eight rows from their fields. A trellis row's is an f16 without sign and without its lowest bits, in
    // the upper bits of the field.
    template <KvFormat F>
    KEEL_INLINE void widen_scales(Fields8 fields, float* scales) {
        constexpr bool kTrellis = kKvFormats[F].family == KvFamily::kTrellis;
        constexpr uint32_t kLost = kTrellis ? 7 - kKvFormats[F].bits : 0;
        fields = (kTrellis ? fields >> 1 : fields) & static_cast<uint16_t>(0x7fff & ~((1u << kLost) - 1));
        uint16_t halves[8];
        memcpy(halves, &fields, sizeof halves);
        for (uint32_t r = 0; r < 8; r += V::kLanes) V::store(scales + r, V::load_f16(halves + r));
    }
    // The scales of eight rows, kCount each: scales[b * 64 + r].
    template <KvFormat F, uint32_t kCount, uint32_t... b>
    KEEL_INLINE void unpack_scales_of(const uint8_t* rows, float* scales, std::integer_sequence<uint32_t, b...>) {
        Fields8 x[kCount];
        memcpy(x, rows, sizeof x);
        (widen_scales<F>(field_of_rows<kCount, b>(x), scales + b * kAttentionTile), ...);
    }
    // Returns their sign bits, of which a format that has none makes nothing.
    template <KvFormat F>
    KEEL_INLINE uint64_t unpack_scales8(const uint8_t* rows, uint32_t n, float* scales) {
        const uint32_t count = kKvFormats[F].family == KvFamily::kBlock32 ? n / kKvBlock : 1;
        const auto known = [&]<uint32_t kCount>() KEEL_ALWAYS_INLINE {
            unpack_scales_of<F, kCount>(rows, scales, std::make_integer_sequence<uint32_t, kCount>());
        };
        if (count == 1) {
            known.template operator()<1>();
        } else if (count == 2) {
            known.template operator()<2>();
        } else if (count == 4) {
            known.template operator()<4>();
        } else {
            for (uint32_t b = 0; b < count; ++b) {
                Fields8 fields;
                for (uint32_t r = 0; r < 8; ++r) fields[r] = kv_load_u16(rows + 2 * (r * count + b));
                widen_scales<F>(fields, scales + b * kAttentionTile);
            }
        }
        uint64_t signs = 0;
        for (uint32_t i = 0; i < 16 * count; i += 8) {
            uint64_t four;
            memcpy(&four, rows + i, sizeof four);
            signs |= four;
        }
        return signs & 0x8000800080008000;
    }

    // Row r plus `offset` at to + r * stride, its scales at scales[b * 64 + r].
    template <KvFormat F, int offset>
    KEEL_ONE_COPY void unpack_rows8(const KvRows8& rows, uint32_t n, int8_t* to, uint64_t stride, float* scales) {
        constexpr KvFamily kFamily = kKvFormats[F].family;
        constexpr uint32_t kBits = kKvFormats[F].bits;
        unpack_scales8<F>(rows.scales, n, scales);
        if constexpr (kFamily == KvFamily::kBlock32) {
            const uint32_t count = n / kKvBlock;
            for (uint32_t at = 0; at < n; at += kKvBlock)
                for (uint32_t r = 0; r < 8; ++r)
                    P::template unpack_block<kBits>(rows.codes + r * rows.code_bytes + at * kBits / 8,
                                                    kv_load_u16(rows.scales + 2 * (count * r + at / kKvBlock)),
                                                    to + r * stride + at);
        } else {
            const uint32_t bytes = n * kBits / 8;
            if constexpr (kFamily == KvFamily::kLattice && P::template kReads<F> <= 4 * kBits) {
                // Nothing is read behind a row, and eight that follow one another are read as one.
                if (n % 32 == 0) {
                    const bool one_row = rows.code_bytes == bytes && stride == n;
                    const uint32_t row_count = one_row ? 1 : 8, elements = one_row ? 8 * n : n;
                    for (uint32_t r = 0; r < row_count; ++r) {
                        const uint8_t* p = rows.codes + r * rows.code_bytes;
                        int8_t* q = to + r * stride;
                        for (uint32_t i = 0; i < elements; i += 32, p += 4 * kBits)
                            P::template lattice<F, offset>(p, q + i);
                    }
                    return;
                }
            }
            RowEnd<P, F>
                ends[8];  // of all rows before any is read: bytes just written can not be read at once in other pieces
            for (uint32_t r = 0; r < 8; ++r)
                RowEnd<P, F>::copy(rows.codes + r * rows.code_bytes, bytes, kv_load_u16(rows.scales + 2 * r), &ends[r]);
            // Two short passes: more of their groups are under way at once than of a long one's.
            for (uint32_t r = 0; r < 8; ++r)
                row_windows<P, F>(rows.codes + r * rows.code_bytes, ends[r], n, to + r * stride);
            for (uint32_t r = 0; r < 8; ++r)
                for (uint32_t i = 0; i < n; i += 32) P::template integers<F, offset>(to + r * stride + i);
        }
    }
    // Codes that are the integers, where no scale is negative.
    template <KvFormat F>
    static constexpr bool kPlain = kKvFormats[F].family == KvFamily::kBlock32&& kKvFormats[F].bits == 8;
    // Rows of a tile that is seen as a whole are then read where they lie: their scales are unpacked. Null: not so.
    template <KvFormat F>
    KEEL_INLINE const uint8_t* rows_in_place(const TileSource& source, VisibleRange any, float* scales) {
        const KvPlane& plane = source.plane;
        const uint32_t n = source.args.head_dim;
        if (any.lo != 0 || any.hi != kAttentionTile || source.plain != kAttentionTile || plane.code_bytes != n ||
            plane.scale_bytes != 2 * (n / kKvBlock))
            return nullptr;
        FetchAhead ahead(plane, next_tile(source));
        uint64_t negative = 0;
        for (uint32_t j = 0; j < kAttentionTile; j += 8) {
            FetchAhead::group(ahead);
            negative |= unpack_scales8<F>(source.plain_scales + uint64_t{j} * plane.scale_bytes, n, scales + j);
        }
        return negative ? nullptr : source.plain_codes;
    }
    template <KvFormat F>
    KEEL_NOINLINE const uint8_t* unpack_keys_of(const TileSource& source, VisibleRange any, uint8_t* tile,
                                                float* scales) {
        const uint32_t n = source.args.head_dim, stride = row_stride(n);
        if constexpr (kPlain<F>)
            if (const uint8_t* keys = rows_in_place<F>(source, any, scales)) return keys;
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * stride;
            unpack_rows8<F, P::template kKeyOffset<F>>(rows, n, to, stride, scales + 8 * i);
            for (uint32_t r = 0; n < stride && r < 8; ++r) memset(to + r * stride + n, 0, stride - n);
        });
        return tile;
    }
    template <KvFormat F>
    KEEL_NOINLINE const uint8_t* unpack_values_of(const TileSource& source, VisibleRange any, uint8_t* tile,
                                                  float* scales) {
        const uint32_t n = source.args.head_dim;
        if constexpr (kPlain<F> && !P::kInterleaved)
            if (const uint8_t* values = rows_in_place<F>(source, any, scales)) return values;
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            if constexpr (!P::kInterleaved) {
                const uint64_t stride = row_stride(n);
                unpack_rows8<F, 0>(rows, n, reinterpret_cast<int8_t*>(tile) + 8 * i * stride, stride, scales + 8 * i);
            } else {
                const uint32_t elements = value_elements(n);
                alignas(64) int8_t q[8][kMaxHeadDim];
                const int8_t* from = q[0];
                uint64_t stride = kMaxHeadDim;
                if (kPlain<F> && unpack_scales8<F>(rows.scales, n, scales + 8 * i) == 0) {
                    from = reinterpret_cast<const int8_t*>(rows.codes);
                    stride = rows.code_bytes;
                } else {
                    unpack_rows8<F, 0>(rows, n, q[0], kMaxHeadDim, scales + 8 * i);
                }
                int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * elements;
                for (uint32_t r = 0; r < 8; r += P::kGroup, to += P::kGroup * elements)
                    for (uint32_t d = 0; d < elements; d += 16)
                        P::interleave(from + r * stride + d, stride, to + P::kGroup * d);
            }
        });
        return tile;
    }
    KEEL_INLINE const uint8_t* unpack_keys(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint8_t* keys = nullptr;
        for_integer_format(source.plane.format,
                           [&]<KvFormat F>() { keys = unpack_keys_of<F>(source, any, tile, scales); });
        return keys;
    }
    KEEL_INLINE const uint8_t* unpack_values(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint8_t* values = nullptr;
        for_integer_format(source.plane.format,
                           [&]<KvFormat F>() { values = unpack_values_of<F>(source, any, tile, scales); });
        return values;
    }

    // V::kLanes keys from j on times C query rows.
    template <int C, bool kUnsigned>
    KEEL_INLINE void score_keys(const int8_t* keys, uint32_t stride, const float* scales, uint32_t scale_count,
                                const IntQuery* queries, float* const* s) {
        const uint32_t block = stride / scale_count;
        typename V::F dot[C];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) dot[c] = V::zero();
        for (uint32_t b = 0; b < scale_count; ++b) {
            const int8_t* q[C];
            int32_t offset[C];
            typename V::F exact[C];
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) {
                q[c] = queries[c].q + b * block;
                offset[c] = queries[c].offset[b];
            }
            P::template dots<C, kUnsigned>(keys + b * block, stride, q, offset, block, exact);
            const typename V::F d_k = V::load(scales + b * kAttentionTile);
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) dot[c] = V::fma(V::mul(V::set1(queries[c].d[b]), d_k), exact[c], dot[c]);
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) V::store(s[c], dot[c]);
    }
    template <bool kUnsigned>
    KEEL_NOINLINE void score_tile(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                                  const IntQuery* queries, uint32_t count, VisibleRange visible, float* const* s) {
        const uint32_t stride = row_stride(n);
        for (uint32_t j = visible.lo & ~7u; j < visible.hi; j += V::kLanes) {
            const int8_t* keys = reinterpret_cast<const int8_t*>(tile) + uint64_t{j} * stride;
            uint32_t i = 0;
            if (count == 3) {
                float* const to[3] = {s[0] + j, s[1] + j, s[2] + j};
                score_keys<3, kUnsigned>(keys, stride, scales + j, scale_count, queries, to);
                continue;
            }
            for (; i + 2 <= count; i += 2) {
                float* const to[2] = {s[i] + j, s[i + 1] + j};
                score_keys<2, kUnsigned>(keys, stride, scales + j, scale_count, queries + i, to);
            }
            if (i < count) {
                float* const to = s[i] + j;
                score_keys<1, kUnsigned>(keys, stride, scales + j, scale_count, queries + i, &to);
            }
        }
    }
    KEEL_INLINE void scores(KvFormat format, const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                            const IntQuery* queries, uint32_t count, VisibleRange visible, float* const* s) {
        for_integer_format(format, [&]<KvFormat F>() {
            score_tile<(P::template kKeyOffset<F> != 0)>(tile, scales, n, scale_count, queries, count, visible, s);
        });
    }

    KEEL_INLINE void store_weights(const typename V::F* v, Weights& w, uint32_t scale) {
        P::store_weights(v, w, scale);
    }

    // 16 elements from d on of C query rows.
    template <int C>
    KEEL_INLINE void add_values_tile(const int8_t* v, uint64_t stride, uint32_t scale, const Weights* w,
                                     const float (*unit)[kMaxKvScales], const float* rescale, VisibleRange visible,
                                     float* const* o, uint32_t d) {
        constexpr int kSums = 16 / V::kLanes;
        typename P::I sum[C][kSums];
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int k = 0; k < kSums; ++k) sum[i][k] = P::zero();
        const uint64_t first = visible.lo / P::kGroup, step = P::kGroup * stride;
        const int8_t* x = v + first * step + (P::kInterleaved ? P::kGroup * d : d);
        for (uint64_t j = first * P::kGroup; j < visible.hi; j += P::kGroup, x += step) {
            KEEL_OPAQUE(x);  // or GCC counts in vector registers
            P::template add<C>(sum, x, stride, w, scale, j);
        }
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int k = 0; k < kSums; ++k) {
            float* to = o[i] + d + k * V::kLanes;
            V::store(to,
                     V::fma(V::set1(unit[i][scale]), P::total(sum[i][k]), V::mul(V::load(to), V::set1(rescale[i]))));
        }
    }
    KEEL_INLINE void add_values(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w,
                                const float (*unit)[kMaxKvScales], const float* rescale, uint32_t count,
                                VisibleRange visible, float* const* o) {
        const int8_t* v = reinterpret_cast<const int8_t*>(tile);
        const uint32_t elements = value_elements(n), block = elements / scale_count,
                       stride = P::kInterleaved ? elements : row_stride(n);
        for (uint32_t d = 0; d < elements; d += 16) {
            uint32_t i = 0;
            if constexpr (P::kValueRows == 4) {
                for (; i + 4 <= count; i += 4)
                    add_values_tile<4>(v, stride, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
                if (i + 3 == count) {
                    add_values_tile<3>(v, stride, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
                    continue;
                }
            }
            for (; i + 2 <= count; i += 2)
                add_values_tile<2>(v, stride, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
            if (i < count) add_values_tile<1>(v, stride, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
