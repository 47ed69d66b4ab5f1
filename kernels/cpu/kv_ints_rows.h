// Integer K and V rows one behind the other: the K of kv_ints.h in portable loops. A tile is q[position][n], signed.
#pragma once
#include "kernels/cpu/kv_ints.h"

namespace keel::kernels {
namespace {

template <class V>
struct KvIntsRows {
    struct Weights {
        int16_t w[kMaxKvScales][kAttentionTile];
    };

    KEEL_INLINE int32_t key_offset(KvFormat) { return 0; }

    KEEL_INLINE void unpack(const AttentionArgs& a, const KvPlane& plane, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        const uint32_t n = a.head_dim, count = kv_scales(plane.format, n);
        const uint8_t* page = a.pages[first / a.page_tokens];
        for_integer_format(plane.format, [&]<KvFormat F>() {
            for (uint32_t j = any.lo; j < any.hi; ++j) {
                const uint64_t row = first % a.page_tokens + j;
                float scale[kMaxKvScales];
                kv_unpack_portable<F>(page + plane.codes + row * plane.code_bytes, page + plane.scales + row * plane.scale_bytes, n,
                                      reinterpret_cast<int8_t*>(tile) + uint64_t{j} * n, scale);
                for (uint32_t b = 0; b < count; ++b) scales[b * kAttentionTile + j] = scale[b];
            }
        });
    }
    KEEL_INLINE void unpack_keys(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        unpack(a, a.k, first, any, tile, scales);
    }
    KEEL_INLINE void unpack_values(const AttentionArgs& a, uint32_t first, VisibleRange any, uint8_t* tile, float* scales) {
        unpack(a, a.v, first, any, tile, scales);
    }

    KEEL_INLINE void scores(const uint8_t* tile, const float* scales, uint32_t n, uint32_t scale_count, const IntQuery* queries, uint32_t count,
                            VisibleRange see, float* const* s) {
        const uint32_t block = n / scale_count;
        for (uint32_t i = 0; i < count; ++i)
            for (uint32_t j = see.lo; j < see.hi; ++j) {
                const int8_t* key = reinterpret_cast<const int8_t*>(tile) + uint64_t{j} * n;
                float dot = 0.0f;
                for (uint32_t b = 0; b < scale_count; ++b) {
                    int32_t sum = 0;
                    for (uint32_t d = b * block; d < (b + 1) * block; ++d) sum += static_cast<int32_t>(queries[i].q[d]) * static_cast<int32_t>(key[d]);
                    dot = fma_f32(queries[i].d[b] * scales[b * kAttentionTile + j], static_cast<float>(sum), dot);
                }
                s[i][j] = dot;
            }
    }

    KEEL_INLINE void store_weights(const typename V::F* v, Weights& w, uint32_t scale) {
        float lanes[kAttentionTile];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kAttentionTile / V::kLanes; ++i) V::store(lanes + i * V::kLanes, v[i]);
        for (uint32_t i = 0; i < kAttentionTile; ++i) w.w[scale][i] = static_cast<int16_t>(static_cast<int32_t>(rint_f32(lanes[i])));
    }
    KEEL_INLINE void add_values(const uint8_t* tile, uint32_t n, uint32_t scale_count, const Weights* w, const float (*unit)[kMaxKvScales],
                                const float* keep, uint32_t count, VisibleRange see, float* const* o) {
        const uint32_t block = n / scale_count;
        for (uint32_t i = 0; i < count; ++i) {
            int32_t sum[kMaxHeadDim] = {};
            for (uint32_t j = see.lo; j < see.hi; ++j)
                for (uint32_t b = 0; b < scale_count; ++b) {
                    const int32_t weight = w[i].w[b][j];
                    const int8_t* row = reinterpret_cast<const int8_t*>(tile) + uint64_t{j} * n + b * block;
                    for (uint32_t d = 0; d < block; ++d) sum[b * block + d] += weight * row[d];
                }
            for (uint32_t d = 0; d < n; ++d) o[i][d] = fma_f32(unit[i][d / block], static_cast<float>(sum[d]), o[i][d] * keep[i]);
        }
    }
};

}  // namespace
}  // namespace keel::kernels
