// Attention on integer KV codes (NUMERICS section 5) in portable code, the scalar set's: sums of integers are exact, so
// their order is free, and vector sets have another one (kv_ints.h). They share kWeightSteps. In an unnamed namespace:
// every set compiles its own copy.
#pragma once
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"

namespace keel::kernels {
namespace {

// One tile's rows as integers, positions [lo, hi) at their place: q[64][head_dim], scale[64][scales].
inline void unpack_tile(const AttentionArgs& a, const KvPlane& plane, uint32_t first, VisibleRange rows, int8_t* q,
                        float* scale) {
    const uint32_t n = a.head_dim, scales = kv_scales(plane.format, n);
    const uint8_t* page = a.pages[first / a.page_tokens];
    const uint64_t row0 = first % a.page_tokens;
    const auto unpack = [&]<KvFormat F>() {
        for (uint32_t j = rows.lo; j < rows.hi; ++j)
            kv_unpack_portable<F>(page + plane.codes + (row0 + j) * plane.code_bytes,
                                  page + plane.scales + (row0 + j) * plane.scale_bytes, n, q + uint64_t{j} * n,
                                  scale + j * scales);
    };
    switch (plane.format) {
        case kKvQ8_0:
        case kKvQ8_0Rot:
            return unpack.template operator()<kKvQ8_0>();
        case kKvQ4_0:
        case kKvQ4_0Rot:
            return unpack.template operator()<kKvQ4_0>();
        case kKvE8_2:
            return unpack.template operator()<kKvE8_2>();
        case kKvE8_3:
            return unpack.template operator()<kKvE8_3>();
        case kKvE8_4:
            return unpack.template operator()<kKvE8_4>();
        case kKvE8_5:
            return unpack.template operator()<kKvE8_5>();
        case kKvE8_6:
            return unpack.template operator()<kKvE8_6>();
        case kKvTcq2:
            return unpack.template operator()<kKvTcq2>();
        case kKvTcq3:
            return unpack.template operator()<kKvTcq3>();
        case kKvTcq4:
            return unpack.template operator()<kKvTcq4>();
        case kKvTcq5:
            return unpack.template operator()<kKvTcq5>();
        case kKvTcq6:
            return unpack.template operator()<kKvTcq6>();
        default:
            return;
    }
}

// A query row as integers, a block per scale of the K format: as activations are quantized (NUMERICS section 2).
inline void quantize_query(const float* x, uint32_t n, uint32_t blocks, int8_t* q, float* d) {
    const uint32_t block = n / blocks;
    for (uint32_t b = 0; b < blocks; ++b, x += block, q += block) {
        float largest = 0.0f;
        bool numbers = true;
        for (uint32_t i = 0; i < block; ++i) {
            const float v = __builtin_fabsf(x[i]);
            numbers &= v < kInf32;
            largest = v > largest ? v : largest;
        }
        d[b] = numbers ? largest * (1.0f / 127.0f) : __builtin_nanf("");
        const float inverse = numbers && largest > 0.0f ? 127.0f / largest : 0.0f;
        for (uint32_t i = 0; i < block; ++i) {
            const float v = numbers && x[i] != 0.0f ? x[i] * inverse : 0.0f;
            q[i] = static_cast<int8_t>(static_cast<int32_t>(rint_f32(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v)));
        }
    }
}

// s[j] = the dot product of one query with key j, j in [lo, hi).
inline void integer_scores(const int8_t* k, const float* k_scale, const int8_t* q, const float* d, uint32_t n,
                           uint32_t scales, VisibleRange rows, float* s) {
    const uint32_t block = n / scales;
    for (uint32_t j = rows.lo; j < rows.hi; ++j) {
        const int8_t* key = k + uint64_t{j} * n;
        float dot = 0.0f;
        for (uint32_t b = 0; b < scales; ++b) {
            int32_t sum = 0;
            for (uint32_t i = b * block; i < (b + 1) * block; ++i)
                sum += static_cast<int32_t>(q[i]) * static_cast<int32_t>(key[i]);
            dot = fma_f32(d[b] * k_scale[j * scales + b], static_cast<float>(sum), dot);
        }
        s[j] = dot;
    }
}

constexpr float kWeightSteps = 32767.0f;

// Weights p[j] times the scales of V rows, as integers of 15 bits over their largest; w[b][j] for scale b of a row.
// Returns in unit[b] what one step is worth. Where a product is no finite number, all are 0 and unit[b] is NaN.
inline void quantize_weights(const float* p, const float* v_scale, uint32_t scales, VisibleRange rows,
                             int16_t (*w)[kAttentionTile], float* unit) {
    for (uint32_t b = 0; b < scales; ++b) {
        float t[kAttentionTile], largest = 0.0f;
        bool numbers = true;
        for (uint32_t j = rows.lo; j < rows.hi; ++j) {
            t[j] = p[j] * v_scale[j * scales + b];
            numbers &= t[j] < kInf32;
            largest = t[j] > largest ? t[j] : largest;
        }
        unit[b] = numbers ? largest * (1.0f / kWeightSteps) : __builtin_nanf("");
        const float inverse = numbers && largest > 0.0f ? kWeightSteps / largest : 0.0f;
        for (uint32_t j = rows.lo; j < rows.hi; ++j) {
            const float v = numbers && t[j] != 0.0f ? t[j] * inverse : 0.0f;
            w[b][j] = static_cast<int16_t>(static_cast<int32_t>(rint_f32(v > kWeightSteps ? kWeightSteps : v)));
        }
    }
}

// o[d] = fma(unit, the sum of w[j] * v[j][d], o[d])
inline void add_integer_values(const int8_t* v, const int16_t (*w)[kAttentionTile], const float* unit, uint32_t n,
                               uint32_t scales, VisibleRange rows, float* o) {
    const uint32_t block = n / scales;
    int32_t sum[kMaxHeadDim] = {};
    for (uint32_t j = rows.lo; j < rows.hi; ++j) {
        const int8_t* row = v + uint64_t{j} * n;
        if (scales == 1) {
            const int32_t weight = w[0][j];
            for (uint32_t d = 0; d < n; ++d) sum[d] += weight * row[d];
        } else {
            for (uint32_t d = 0; d < n; ++d) sum[d] += static_cast<int32_t>(w[d / block][j]) * row[d];
        }
    }
    for (uint32_t d = 0; d < n; ++d) o[d] = fma_f32(unit[d / block], static_cast<float>(sum[d]), o[d]);
}

}  // namespace
}  // namespace keel::kernels
