// Integer K and V rows for instruction sets of short registers: the K of kv_ints.h over a vector type V and its integer part P:
//
//   unpack32<F>(p, q)             32 integers of a lattice or trellis row from the 4b bytes at p; reads up to 2b + 16 bytes
//   unpack_block<b>(codes, d, q)  a block of q8_0 or q4_0, its signs turned where d has its sign set
//   kGroup                        positions whose values stand together
//   interleave(rows, stride, to)  16 elements of kGroup rows, element by element
//   Weights, store_weights        as in kv_ints.h
//   dots(keys, stride, q, n)      V::kLanes keys, `stride` bytes apart, times one query: the exact sums as floats; n a multiple of 32
//   I, zero, add<C>(sum, x, w, scale, j), total(sum)
//                                 sums of values times weights: kGroup positions from j on of 16 elements, for C query rows
//
// A tile in the first-level cache, signed:
//   keys    [position][n rounded up to 32], zeros behind n
//   values  [position / kGroup][n rounded up to 16][kGroup]
#pragma once
#include "kernels/cpu/kv_ints.h"

namespace keel::kernels {
namespace {

// The integers of one row, up to n rounded up to 32 (those behind n may be anything); `field`: its scale field, of a trellis.
// Groups of 32 are read where they lie, as long as the bytes that P reads are the row's; the last ones from a copy.
template <class P, KvFormat F>
KEEL_INLINE void unpack_row(const uint8_t* codes, uint16_t field, uint32_t n, int8_t* q) {
    constexpr uint32_t kBits = kKvFormats[F].bits, kChunk = 4 * kBits, kRead = 2 * kBits + 16, kTail = 32;
    static_assert(kRead <= kTail);
    const uint32_t bytes = n * kBits / 8;
    uint32_t at = 0;
    for (; at + kRead <= bytes; at += kChunk, q += 32) P::template unpack32<F>(codes + at, q);
    uint8_t tail[kTail + kRead] = {};  // the row's last bytes, then the start bits; what stands behind them enters nothing
    if (bytes >= kTail)
        memcpy(tail, codes + (bytes - kTail), kTail);
    else
        memcpy(tail + (kTail - bytes), codes, bytes);
    tail[kTail] = static_cast<uint8_t>(field);
    for (; at < bytes; at += kChunk, q += 32) P::template unpack32<F>(tail + kTail - (bytes - at), q);
}

template <class V, class P>
struct KvIntsRows {
    using Weights = typename P::Weights;
    KEEL_INLINE int32_t key_offset(KvFormat) { return 0; }
    KEEL_INLINE uint32_t key_stride(uint32_t n) { return (n + 31) & ~31u; }
    KEEL_INLINE uint32_t value_elements(uint32_t n) { return (n + 15) & ~15u; }

    // Row r at to + r * stride, its scales at scales[b * 64 + r].
    template <KvFormat F>
    KEEL_INLINE void unpack_rows8(const KvRows8& rows, uint32_t n, int8_t* to, uint64_t stride, float* scales) {
        constexpr KvFamily kFamily = kKvFormats[F].family;
        constexpr uint32_t kBits = kKvFormats[F].bits;
        constexpr uint32_t kMagnitude = kFamily == KvFamily::kTrellis ? 0x7fff << (7 - kBits) & 0x7fff : 0x7fff;  // of an f16, without start bits
        const uint32_t count = kFamily == KvFamily::kBlock32 ? n / kKvBlock : 1;
        for (uint32_t b = 0; b < count; ++b) {
            uint16_t halves[8];
            for (uint32_t r = 0; r < 8; ++r) {
                const uint16_t field = kv_load_u16(rows.scales + 2 * (count * r + b));
                halves[r] = static_cast<uint16_t>((kFamily == KvFamily::kTrellis ? field >> 1 : field) & kMagnitude);
                if constexpr (kFamily == KvFamily::kBlock32)
                    P::template unpack_block<kBits>(rows.codes + r * rows.code_bytes + b * kKvBlock * kBits / 8, field, to + r * stride + b * kKvBlock);
                else
                    unpack_row<P, F>(rows.codes + r * rows.code_bytes, field, n, to + r * stride);
            }
            for (uint32_t r = 0; r < 8; r += V::kLanes) V::store(scales + b * kAttentionTile + r, V::load_f16(halves + r));
        }
    }
    template <KvFormat F>
    static void unpack_keys_of(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = a.head_dim, stride = key_stride(n);
        for_rows8(a, a.k, first, any, [&](const KvRows8& rows, uint32_t i) KEEL_LAMBDA {
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * stride;
            unpack_rows8<F>(rows, n, to, stride, scales + 8 * i);
            for (uint32_t r = 0; n < stride && r < 8; ++r) memset(to + r * stride + n, 0, stride - n);
        });
    }
    template <KvFormat F>
    static void unpack_values_of(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = a.head_dim, elements = value_elements(n);
        for_rows8(a, a.v, first, any, [&](const KvRows8& rows, uint32_t i) KEEL_LAMBDA {
            alignas(64) int8_t q[8][kMaxHeadDim];
            unpack_rows8<F>(rows, n, q[0], kMaxHeadDim, scales + 8 * i);
            int8_t* to = reinterpret_cast<int8_t*>(tile) + uint64_t{8} * i * elements;
            for (uint32_t r = 0; r < 8; r += P::kGroup, to += P::kGroup * elements)
                for (uint32_t d = 0; d < elements; d += 16) P::interleave(q[r] + d, kMaxHeadDim, to + P::kGroup * d);
        });
    }
    KEEL_INLINE void unpack_keys(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        for_integer_format(a.k.format, [&]<KvFormat F>() { unpack_keys_of<F>(a, first, any, tile, scales); });
    }
    KEEL_INLINE void unpack_values(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        for_integer_format(a.v.format, [&]<KvFormat F>() { unpack_values_of<F>(a, first, any, tile, scales); });
    }

    KEEL_INLINE void scores(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count, const IntQuery* queries, uint32_t count,
                            VisibleRange see, float* const* s) {
        const uint32_t stride = key_stride(n), block = stride / scale_count;
        for (uint32_t j = see.lo & ~7u; j < see.hi; j += V::kLanes) {
            const int8_t* keys = reinterpret_cast<const int8_t*>(tile) + uint64_t{j} * stride;
            for (uint32_t i = 0; i < count; ++i) {
                typename V::F dot = V::zero();
                for (uint32_t b = 0; b < scale_count; ++b) {
                    const typename V::F d = V::mul(V::set1(queries[i].d[b]), V::load(scales + b * kAttentionTile + j));
                    dot = V::fma(d, P::dots(keys + b * block, stride, queries[i].q + b * block, block), dot);
                }
                V::store(s[i] + j, dot);
            }
        }
    }

    KEEL_INLINE void store_weights(const typename V::F* v, Weights& w, uint32_t scale) { P::store_weights(v, w, scale); }

    // 16 elements from d on of two query rows, or of one.
    template <int C>
    KEEL_INLINE void add_values_tile(const int8_t* v, uint32_t elements, uint32_t scale, const Weights* w, const float (*unit)[kMaxKvScales],
                                     const float* keep, VisibleRange see, float* const* o, uint32_t d) {
        constexpr int kSums = 16 / V::kLanes;
        typename P::I sum[C][kSums];
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int k = 0; k < kSums; ++k) sum[i][k] = P::zero();
        for (uint32_t j = see.lo & ~(P::kGroup - 1); j < see.hi; j += P::kGroup) {
            const int8_t* x = v + uint64_t{j} * elements + P::kGroup * d;
            P::template add<C>(sum, x, w, scale, j);
        }
        KEEL_UNROLL
        for (int i = 0; i < C; ++i) KEEL_UNROLL
        for (int k = 0; k < kSums; ++k) {
            float* to = o[i] + d + k * V::kLanes;
            V::store(to, V::fma(V::set1(unit[i][scale]), P::total(sum[i][k]), V::mul(V::load(to), V::set1(keep[i]))));
        }
    }
    KEEL_INLINE void add_values(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w, const float (*unit)[kMaxKvScales],
                                const float* keep, uint32_t count, VisibleRange see, float* const* o) {
        const int8_t* v = reinterpret_cast<const int8_t*>(tile);
        const uint32_t elements = value_elements(n), block = elements / scale_count;
        for (uint32_t d = 0; d < elements; d += 16) {
            uint32_t i = 0;
            for (; i + 2 <= count; i += 2) add_values_tile<2>(v, elements, d / block, w + i, unit + i, keep + i, see, o + i, d);
            if (i < count) add_values_tile<1>(v, elements, d / block, w + i, unit + i, keep + i, see, o + i, d);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
