// Integer K and V rows for instruction sets of short registers: the K of kv_integers_lanes.h over a vector type V and
// its integer part P:
//
//   windows<F>(p, q)              the 8 bits at bit i * b of the bytes at p, i in 0..31, of a lattice or trellis row,
//                                 of a lattice at least b of them; reads up to kReads<F> bytes
//   integers<F>(q)                32 of its integers in place of such windows
//   lattice<F>(p, q)              both for a lattice, where kReads<F> is no more than the 4b bytes of 32 integers
//   unpack_block<b>(codes, d, q)  a block of q8_0 or q4_0, its signs turned where d has its sign set
//   kGroup                        positions whose values stand together
//   kValueRows                    query rows whose sums of values fit the registers, 2 or 4
//   interleave(rows, stride, to)  16 elements of kGroup rows, element by element
//   Weights, store_weights        as in kv_integers_lanes.h
//   dots<C>(keys, stride, q, n, dot)  V::kLanes keys, `stride` bytes apart, times C <= 3 queries: the exact sums as
//                                 floats; n a multiple of 32
//   I, zero, add<C>(sum, x, w, scale, j), total(sum)
//                                 sums of values times weights: kGroup positions from j on of 16 elements, for C query
//                                 rows
//
// A tile in the first-level cache, signed:
//   keys    [position][n rounded up to 32], zeros behind n
//   values  [position / kGroup][n rounded up to 16][kGroup]
#pragma once
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

template <class V, class P>
struct KvIntegersRows {
    using Weights = typename P::Weights;
    KEEL_INLINE int32_t key_offset(KvFormat) { return 0; }
    KEEL_INLINE uint32_t key_stride(uint32_t n) { return (n + 31) & ~31u; }
    KEEL_INLINE uint32_t value_elements(uint32_t n) { return (n + 15) & ~15u; }

    // The scales of eight rows, `count` each, one row's behind another's: scales[b * 64 + r]. Returns their sign bits,
    // which a format that has none reads as 0.
    template <KvFormat F>
    KEEL_INLINE uint32_t unpack_scales8(const uint8_t* rows, uint32_t count, float* scales) {
        constexpr bool kTrellis = kKvFormats[F].family == KvFamily::kTrellis;
        constexpr uint32_t kLost =
            kTrellis ? 7 - kKvFormats[F].bits : 0;  // mantissa bits that a trellis does not store
        constexpr uint32_t kMagnitude = 0x7fff & ~((1u << kLost) - 1);
        uint16_t signs[8] = {};
        float all[8 * kMaxKvScales];
        for (uint32_t i = 0; i < 8 * count; i += 8) {
            uint16_t fields[8], halves[8];
            memcpy(fields, rows + 2 * i, sizeof fields);
            for (uint32_t r = 0; r < 8; ++r) {
                signs[r] = static_cast<uint16_t>(signs[r] | fields[r]);
                halves[r] = static_cast<uint16_t>((kTrellis ? fields[r] >> 1 : fields[r]) & kMagnitude);
            }
            for (uint32_t r = 0; r < 8; r += V::kLanes)
                V::store((count == 1 ? scales : all) + i + r, V::load_f16(halves + r));
        }
        for (uint32_t b = 0; count > 1 && b < count; ++b)
            for (uint32_t r = 0; r < 8; ++r) scales[b * kAttentionTile + r] = all[count * r + b];
        if constexpr (kTrellis) return 0;
        uint32_t sign = 0;
        for (const uint16_t s : signs) sign |= s;
        return sign & 0x8000;
    }

    // Row r at to + r * stride, its scales at scales[b * 64 + r].
    template <KvFormat F>
    KEEL_ONE_COPY void unpack_rows8(const KvRows8& rows, uint32_t n, int8_t* to, uint64_t stride, float* scales) {
        constexpr KvFamily kFamily = kKvFormats[F].family;
        constexpr uint32_t kBits = kKvFormats[F].bits;
        const uint32_t count = kFamily == KvFamily::kBlock32 ? n / kKvBlock : 1;
        unpack_scales8<F>(rows.scales, count, scales);
        if constexpr (kFamily == KvFamily::kBlock32) {
            for (uint32_t at = 0; at < n; at += kKvBlock)
                for (uint32_t r = 0; r < 8; ++r)
                    P::template unpack_block<kBits>(rows.codes + r * rows.code_bytes + at * kBits / 8,
                                                    kv_load_u16(rows.scales + 2 * (count * r + at / kKvBlock)),
                                                    to + r * stride + at);
        } else {
            const uint32_t bytes = n * kBits / 8;
            if constexpr (kFamily == KvFamily::kLattice && P::template kReads<F> <= 4 * kBits) {
                if (n % 32 == 0) {  // nothing is read behind a row
                    for (uint32_t r = 0; r < 8; ++r)
                        for (uint32_t i = 0; i < n; i += 32)
                            P::template lattice<F>(rows.codes + r * rows.code_bytes + i * kBits / 8,
                                                   to + r * stride + i);
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
                for (uint32_t i = 0; i < n; i += 32) P::template integers<F>(to + r * stride + i);
        }
    }
    // Codes that are the integers, where no scale is negative.
    template <KvFormat F>
    static constexpr bool kPlain = kKvFormats[F].family == KvFamily::kBlock32&& kKvFormats[F].bits == 8;
    // Keys of a tile that is seen as a whole are then read where they lie: their scales are unpacked. Null: not so.
    template <KvFormat F>
    KEEL_INLINE const uint8_t* keys_in_place(const TileSource& source, VisibleRange any, float* scales) {
        const KvPlane& plane = source.plane;
        const uint32_t n = source.args.head_dim, count = n / kKvBlock;
        if (any.lo != 0 || any.hi != kAttentionTile || source.plain != kAttentionTile || plane.code_bytes != n ||
            plane.scale_bytes != 2 * count)
            return nullptr;
        FetchAhead ahead(plane, next_tile(source));
        uint32_t negative = 0;
        for (uint32_t j = 0; j < kAttentionTile; j += 8) {
            FetchAhead::group(ahead);
            negative |= unpack_scales8<F>(source.plain_scales + uint64_t{j} * plane.scale_bytes, count, scales + j);
        }
        return negative ? nullptr : source.plain_codes;
    }
    template <KvFormat F>
    KEEL_NOINLINE const uint8_t* unpack_keys_of(const TileSource& source, VisibleRange any, uint8_t* tile,
                                                float* scales) {
        const uint32_t n = source.args.head_dim, stride = key_stride(n);
        if constexpr (kPlain<F>)
            if (const uint8_t* keys = keys_in_place<F>(source, any, scales)) return keys;
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * stride;
            unpack_rows8<F>(rows, n, to, stride, scales + 8 * i);
            for (uint32_t r = 0; n < stride && r < 8; ++r) memset(to + r * stride + n, 0, stride - n);
        });
        return tile;
    }
    template <KvFormat F>
    KEEL_NOINLINE void unpack_values_of(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = source.args.head_dim, elements = value_elements(n);
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            alignas(64) int8_t q[8][kMaxHeadDim];
            const int8_t* from = q[0];
            uint64_t stride = kMaxHeadDim;
            if (kPlain<F> && unpack_scales8<F>(rows.scales, n / kKvBlock, scales + 8 * i) == 0) {
                from = reinterpret_cast<const int8_t*>(rows.codes);
                stride = rows.code_bytes;
            } else {
                unpack_rows8<F>(rows, n, q[0], kMaxHeadDim, scales + 8 * i);
            }
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * elements;
            for (uint32_t r = 0; r < 8; r += P::kGroup, to += P::kGroup * elements)
                for (uint32_t d = 0; d < elements; d += 16)
                    P::interleave(from + r * stride + d, stride, to + P::kGroup * d);
        });
    }
    KEEL_INLINE const uint8_t* unpack_keys(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint8_t* keys = nullptr;
        for_integer_format(source.plane.format,
                           [&]<KvFormat F>() { keys = unpack_keys_of<F>(source, any, tile, scales); });
        return keys;
    }
    KEEL_INLINE void unpack_values(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        for_integer_format(source.plane.format, [&]<KvFormat F>() { unpack_values_of<F>(source, any, tile, scales); });
    }

    // V::kLanes keys from j on times C query rows.
    template <int C>
    KEEL_INLINE void score_keys(const int8_t* keys, uint32_t stride, const float* scales, uint32_t scale_count,
                                const IntQuery* queries, float* const* s) {
        const uint32_t block = stride / scale_count;
        typename V::F dot[C];
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) dot[c] = V::zero();
        for (uint32_t b = 0; b < scale_count; ++b) {
            const int8_t* q[C];
            typename V::F exact[C];
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) q[c] = queries[c].q + b * block;
            P::template dots<C>(keys + b * block, stride, q, block, exact);
            const typename V::F d_k = V::load(scales + b * kAttentionTile);
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) dot[c] = V::fma(V::mul(V::set1(queries[c].d[b]), d_k), exact[c], dot[c]);
        }
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) V::store(s[c], dot[c]);
    }
    KEEL_INLINE void scores(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count,
                            const IntQuery* queries, uint32_t count, VisibleRange visible, float* const* s) {
        const uint32_t stride = key_stride(n);
        for (uint32_t j = visible.lo & ~7u; j < visible.hi; j += V::kLanes) {
            const int8_t* keys = reinterpret_cast<const int8_t*>(tile) + uint64_t{j} * stride;
            uint32_t i = 0;
            if (count == 3) {
                float* const to[3] = {s[0] + j, s[1] + j, s[2] + j};
                score_keys<3>(keys, stride, scales + j, scale_count, queries, to);
                continue;
            }
            for (; i + 2 <= count; i += 2) {
                float* const to[2] = {s[i] + j, s[i + 1] + j};
                score_keys<2>(keys, stride, scales + j, scale_count, queries + i, to);
            }
            if (i < count) {
                float* const to = s[i] + j;
                score_keys<1>(keys, stride, scales + j, scale_count, queries + i, &to);
            }
        }
    }

    KEEL_INLINE void store_weights(const typename V::F* v, Weights& w, uint32_t scale) {
        P::store_weights(v, w, scale);
    }

    // 16 elements from d on of C query rows.
    template <int C>
    KEEL_INLINE void add_values_tile(const int8_t* v, uint32_t elements, uint32_t scale, const Weights* w,
                                     const float (*unit)[kMaxKvScales], const float* rescale, VisibleRange visible,
                                     float* const* o, uint32_t d) {
        constexpr int kSums = 16 / V::kLanes;
        typename P::I sum[C][kSums];
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int k = 0; k < kSums; ++k) sum[i][k] = P::zero();
        const uint64_t first = visible.lo / P::kGroup, step = uint64_t{P::kGroup} * elements;
        const int8_t* x = v + first * step + P::kGroup * d;
        for (uint64_t j = first * P::kGroup; j < visible.hi; j += P::kGroup, x += step) {
            KEEL_OPAQUE(x);  // or GCC counts in vector registers
            P::template add<C>(sum, x, w, scale, j);
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
        const uint32_t elements = value_elements(n), block = elements / scale_count;
        for (uint32_t d = 0; d < elements; d += 16) {
            uint32_t i = 0;
            if constexpr (P::kValueRows == 4) {
                for (; i + 4 <= count; i += 4)
                    add_values_tile<4>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
                if (i + 3 == count) {
                    add_values_tile<3>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
                    continue;
                }
            }
            for (; i + 2 <= count; i += 2)
                add_values_tile<2>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
            if (i < count) add_values_tile<1>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
