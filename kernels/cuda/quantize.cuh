// 8-bit activations (NUMERICS section 2) and norms before them, 256 elements of a row by a warp: lane l has elements
// 128 h + 4 l + e of them as v[4 h + e].
#pragma once
#include "kernels/cuda/warp.cuh"

namespace keel::cuda {

constexpr uint32_t kSpanElements = 256;

// Of a row of n, zeros behind its end. ALIGNED: the row is 16-byte aligned, and n a multiple of 4.
template <bool ALIGNED>
KEEL_GPU void load_span(const float* row, uint32_t span, uint32_t n, float v[8]) {
    KEEL_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t i = span * kSpanElements + 128 * half + thread_x() % 32 * 4;
        float* to = v + 4 * half;
        if constexpr (ALIGNED) {
            const Words4 four = i < n ? *reinterpret_cast<const Words4*>(row + i) : Words4{0, 0, 0, 0};
            to[0] = f32_from_bits(four.x);
            to[1] = f32_from_bits(four.y);
            to[2] = f32_from_bits(four.z);
            to[3] = f32_from_bits(four.w);
        } else {
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) to[e] = i + e < n ? row[i + e] : 0.0f;
        }
    }
}

// A row of n by a block of WARPS warps: each calls take(v, span) for its spans. Two are on their way at most.
template <uint32_t WARPS, class Take>
KEEL_GPU void each_span(const float* row, uint32_t n, const Take& take) {
    const uint32_t warp = thread_x() / 32, spans = divide_up(n, kSpanElements);
    float next[2][8];
    KEEL_UNROLL
    for (uint32_t i = 0; i < 2; ++i) load_span<true>(row, warp + i * WARPS, n, next[i]);
    KEEL_NO_UNROLL
    for (uint32_t span = warp; span < spans; span += WARPS) {
        float v[8];
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            v[i] = next[0][i];
            next[0][i] = next[1][i];
        }
        load_span<true>(row, span + 2 * WARPS, n, next[1]);
        take(v, span);
    }
}

// The same of its RMS norm times `norm` (NUMERICS section 4). STAGED: a copy of it in shared memory is worked on, at
// `staged` with norm_bytes(n) but for the factor. ALIGNED: as of load_span. `factor`: a float of shared memory.
template <uint32_t WARPS, bool ALIGNED, bool STAGED, class Take>
KEEL_GPU void each_normed_span(const float* x, const float* norm, uint32_t n, float eps, float* factor, float* staged,
                               const Take& take) {
    const uint32_t warp = thread_x() / 32, spans = divide_up(n, kSpanElements);
    if constexpr (STAGED) {
        // Four spans of each warp are on their way at once: the chain of the factor then waits for no memory.
        KEEL_NO_UNROLL
        for (uint32_t first = warp; first < spans; first += 4 * WARPS) {
            float v[4][8];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) load_span<ALIGNED>(x, first + i * WARPS, n, v[i]);
            KEEL_UNROLL
            for (uint32_t i = 0; i < 8; ++i) {
                const uint32_t at = (first + i / 2 * WARPS) * kSpanElements + 128 * (i % 2) + thread_x() % 32 * 4;
                const float* four = v[i / 2] + 4 * (i % 2);
                if (at < n)
                    *reinterpret_cast<Words4*>(staged + at) = {f32_bits(four[0]), f32_bits(four[1]), f32_bits(four[2]),
                                                               f32_bits(four[3])};
            }
        }
    }
    float weight[2][8];
    KEEL_UNROLL
    for (uint32_t i = 0; i < 2; ++i) load_span<false>(norm, warp + i * WARPS, n, weight[i]);
    if constexpr (STAGED) sync_block();
    const float* row = STAGED ? staged : x;
    if (warp == 0) {
        const float of_row = rms_factor(row, n, eps);
        if (thread_x() == 0) *factor = of_row;
    }
    sync_block();
    const float r = *factor;
    KEEL_NO_UNROLL
    for (uint32_t span = warp; span < spans; span += WARPS) {
        float v[8];
        load_span<ALIGNED || STAGED>(row, span, n, v);
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            v[i] = mul_f32(mul_f32(v[i], r), weight[0][i]);
            weight[0][i] = weight[1][i];
        }
        load_span<false>(norm, span + 2 * WARPS, n, weight[1]);
        take(v, span);
    }
}

// The 8-bit form of a span in blocks of `block`, 32 or 256, into the planes of a token of k elements (q8_activation.h).
KEEL_GPU void quantize_span(const float v[8], uint32_t span, uint8_t* token, uint32_t k, uint32_t block) {
    const uint32_t lane = thread_x() % 32;
    // Without their signs, bits of f32 are ordered as their values are, infinity and NaN above all.
    uint32_t largest[2] = {};
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t bits = f32_bits(v[i]) & 0x7fffffffu;
        largest[i / 4] = bits > largest[i / 4] ? bits : largest[i / 4];
    }
    if (block == 256) {
        largest[0] = max_lanes<32>(largest[0] > largest[1] ? largest[0] : largest[1]);
        largest[1] = largest[0];
    } else {
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) largest[half] = max_lanes<8>(largest[half]);
    }
    KEEL_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
        const bool finite = largest[half] < 0x7f800000u;
        const float amax = f32_from_bits(largest[half]), inverse = finite && amax > 0.0f ? 127.0f / amax : 0.0f;
        const uint32_t first = span * kSpanElements + 128 * half + 4 * lane;
        uint32_t codes = 0;
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            float scaled = mul_f32(v[4 * half + e], inverse);
            scaled = scaled > 127.0f ? 127.0f : scaled < -127.0f ? -127.0f : scaled;
            // 0 x inf, where amax is too small for its inverse, is NaN, and the code 0.
            const int32_t code = finite && scaled == scaled ? static_cast<int32_t>(rint_f32(scaled)) : 0;
            codes |= (static_cast<uint32_t>(code) & 255) << 8 * e;
        }
        const int32_t sum = sum_lanes<4>(dp4a(codes, 0x01010101u, 0));
        if (first >= k) continue;
        *reinterpret_cast<uint32_t*>(kernels::q8_codes(token) + first) = codes;
        if (lane % 4 == 0) kernels::q8_sums(token, k, block)[first / 16] = static_cast<int16_t>(sum);
        if (first % block == 0)
            kernels::q8_scales(token, k)[first / block] = finite ? mul_f32(amax, 1.0f / 127.0f) : __builtin_nanf("");
    }
}

}  // namespace keel::cuda
