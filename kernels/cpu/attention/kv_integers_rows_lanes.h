// Integer K and V rows for instruction sets of short registers: the K of kv_integers_lanes.h over a vector type V and
// its integer part P:
//
//   windows<F>(p, q)              the 8 bits at bit i * b of the bytes at p, i in 0..31, of a lattice or trellis row;
//                                 reads up to 2b + 16 bytes
//   integers<F>(q)                32 of its integers in place of such windows
//   unpack_block<b>(codes, d, q)  a block of q8_0 or q4_0, its signs turned where d has its sign set
//   kGroup                        positions whose values stand together
//   kValueRows                    query rows whose sums fit the registers, 2 or 4
//   interleave(rows, stride, to)  16 elements of kGroup rows, element by element
//   Weights, store_weights        as in kv_integers_lanes.h
//   dots<C>(keys, stride, q, n, dot)  V::kLanes keys, `stride` bytes apart, times C <= 2 queries: the exact sums as
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
template <KvFormat F>
struct RowEnd {
    static constexpr uint32_t kBits = kKvFormats[F].bits, kRead = 2 * kBits + 16,
                              kLast = 32;  // kRead: what windows reads
    static_assert(kRead <= kLast);
    alignas(32) uint8_t bytes[kLast + kRead];

    KEEL_INLINE void copy(const uint8_t* codes, uint32_t count, uint16_t field, RowEnd* end) {
        if (count >= kLast)
            memcpy(end->bytes, codes + (count - kLast), kLast);
        else
            memcpy(end->bytes + (kLast - count), codes, count);
        memset(end->bytes + kLast, 0, kRead);
        end->bytes[kLast] = static_cast<uint8_t>(field);
    }
};

// The windows of one row's codes, up to n rounded up to 32 (those behind n may be anything). Groups of 32 are read
// where they lie as long as P reads bytes of the row only, the last ones from `end`.
template <class P, KvFormat F>
KEEL_INLINE void row_windows(const uint8_t* codes, const RowEnd<F>& end, uint32_t n, int8_t* q) {
    using End = RowEnd<F>;
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

    // Row r at to + r * stride, its scales at scales[b * 64 + r].
    template <KvFormat F>
    KEEL_ONE_COPY void unpack_rows8(const KvRows8& rows, uint32_t n, int8_t* to, uint64_t stride, float* scales) {
        constexpr KvFamily kFamily = kKvFormats[F].family;
        constexpr uint32_t kBits = kKvFormats[F].bits;
        constexpr uint32_t kLost =
            kFamily == KvFamily::kTrellis ? 7 - kBits : 0;  // mantissa bits that a trellis does not store
        constexpr uint32_t kMagnitude = 0x7fff & ~((1u << kLost) - 1);
        const uint32_t count = kFamily == KvFamily::kBlock32 ? n / kKvBlock : 1;
        for (uint32_t b = 0; b < count; ++b) {
            uint16_t fields[8], halves[8];
            for (uint32_t r = 0; r < 8; ++r) {
                fields[r] = kv_load_u16(rows.scales + 2 * (count * r + b));
                halves[r] =
                    static_cast<uint16_t>((kFamily == KvFamily::kTrellis ? fields[r] >> 1 : fields[r]) & kMagnitude);
            }
            for (uint32_t r = 0; r < 8; r += V::kLanes)
                V::store(scales + b * kAttentionTile + r, V::load_f16(halves + r));
            if constexpr (kFamily == KvFamily::kBlock32) {
                const uint32_t at = b * kKvBlock;
                for (uint32_t r = 0; r < 8; ++r)
                    P::template unpack_block<kBits>(rows.codes + r * rows.code_bytes + at * kBits / 8, fields[r],
                                                    to + r * stride + at);
            } else {
                RowEnd<F> ends
                    [8];  // of all rows before any is read: bytes just written can not be read at once in other pieces
                for (uint32_t r = 0; r < 8; ++r)
                    RowEnd<F>::copy(rows.codes + r * rows.code_bytes, n * kBits / 8, fields[r], &ends[r]);
                // Two short passes: more of their groups are under way at once than of a long one's.
                for (uint32_t r = 0; r < 8; ++r)
                    row_windows<P, F>(rows.codes + r * rows.code_bytes, ends[r], n, to + r * stride);
                for (uint32_t r = 0; r < 8; ++r)
                    for (uint32_t i = 0; i < n; i += 32) P::template integers<F>(to + r * stride + i);
            }
        }
    }
    template <KvFormat F>
    KEEL_NOINLINE void unpack_keys_of(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = source.args.head_dim, stride = key_stride(n);
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * stride;
            unpack_rows8<F>(rows, n, to, stride, scales + 8 * i);
            for (uint32_t r = 0; n < stride && r < 8; ++r) memset(to + r * stride + n, 0, stride - n);
        });
    }
    template <KvFormat F>
    KEEL_NOINLINE void unpack_values_of(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = source.args.head_dim, elements = value_elements(n);
        for_rows8(source, any, [&](const KvRows8& rows, uint32_t i) KEEL_ALWAYS_INLINE {
            alignas(64) int8_t q[8][kMaxHeadDim];
            unpack_rows8<F>(rows, n, q[0], kMaxHeadDim, scales + 8 * i);
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * elements;
            for (uint32_t r = 0; r < 8; r += P::kGroup, to += P::kGroup * elements)
                for (uint32_t d = 0; d < elements; d += 16) P::interleave(q[r] + d, kMaxHeadDim, to + P::kGroup * d);
        });
    }
    KEEL_INLINE void unpack_keys(const TileSource& source, VisibleRange any, uint8_t* tile, float* scales) {
        for_integer_format(source.plane.format, [&]<KvFormat F>() { unpack_keys_of<F>(source, any, tile, scales); });
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
            if constexpr (P::kValueRows == 4)
                for (; i + 4 <= count; i += 4)
                    add_values_tile<4>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
            for (; i + 2 <= count; i += 2)
                add_values_tile<2>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
            if (i < count) add_values_tile<1>(v, elements, d / block, w + i, unit + i, rescale + i, visible, o + i, d);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
