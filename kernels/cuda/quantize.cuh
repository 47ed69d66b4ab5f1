// 8-bit activations (NUMERICS section 2), a block by a warp.
#pragma once
#include "kernels/cuda/warp.cuh"

namespace keel::cuda {

// Elements [32 RUNS b, 32 RUNS (b + 1)) of a row of k as 8-bit codes, their scale and their sums, into the token's
// planes (q8_activation.h). load(i): element i of the row.
template <uint32_t RUNS, class Load>
KEEL_GPU void quantize_block(const Load& load, uint32_t b, uint8_t* token, uint32_t k) {
    constexpr uint32_t kBlock = 32 * RUNS;
    const uint32_t lane = thread_x() % 32;
    // Without their signs, bits of f32 are ordered as their values are, infinity and NaN above all.
    uint32_t largest = 0;
    float v[RUNS];
    KEEL_UNROLL
    for (uint32_t r = 0; r < RUNS; ++r) {
        v[r] = load(b * kBlock + 32 * r + lane);
        const uint32_t bits = f32_bits(v[r]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    largest = max_lanes(largest);
    const bool finite = largest < 0x7f800000u;
    const float amax = f32_from_bits(largest);
    const float inverse = finite && amax > 0.0f ? 127.0f / amax : 0.0f;
    if (lane == 0) kernels::q8_scales(token, k)[b] = finite ? mul_f32(amax, 1.0f / 127.0f) : __builtin_nanf("");
    KEEL_UNROLL
    for (uint32_t r = 0; r < RUNS; ++r) {
        float scaled = mul_f32(v[r], inverse);
        scaled = scaled > 127.0f ? 127.0f : scaled < -127.0f ? -127.0f : scaled;
        // 0 x inf, where amax is too small for its inverse, is NaN, and the code 0.
        const int32_t code = finite && scaled == scaled ? static_cast<int32_t>(rint_f32(scaled)) : 0;
        kernels::q8_codes(token)[b * kBlock + 32 * r + lane] = static_cast<int8_t>(code);
        const int32_t sum = sum_lanes<16>(code);
        if (lane % 16 == 0)
            kernels::q8_sums(token, k, kBlock)[b * (kBlock / 16) + 2 * r + lane / 16] = static_cast<int16_t>(sum);
    }
}

}  // namespace keel::cuda
