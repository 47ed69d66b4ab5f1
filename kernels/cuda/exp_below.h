// exp of what its maximum was taken off, for kernels and their tests: exp_f32 of an x that is not above 0, with its
// bits and fewer operations.
#pragma once
#include "kernels/formats/numeric.h"

namespace keel::cuda {

// exp(x) / 2^n, where the lowest bits of `pushed` are n.
KEEL_DEVICE inline float exp_below_mantissa(float x, float* pushed) {
    using namespace kernels;
    *pushed = add_f32(mul_f32(x, kLog2e32), kRound32);
    const float n = add_f32(*pushed, -kRound32);
    const float r = fma_f32(-n, kLn2Lo32, fma_f32(-n, kLn2Hi32, x));
    float p = kExpC6;
    p = fma_f32(p, r, kExpC5);
    p = fma_f32(p, r, kExpC4);
    p = fma_f32(p, r, kExpC3);
    p = fma_f32(p, r, kExpC2);
    p = fma_f32(p, r, 1.0f);
    return fma_f32(p, r, 1.0f);
}
// 0 for NaN. What is not 0 is no subnormal: n is added to the exponent.
KEEL_DEVICE inline float exp_below_f32(float x) {
    using namespace kernels;
    float pushed;
    const float p = exp_below_mantissa(x, &pushed);
    return x >= kExpMin32 ? f32_from_bits(f32_bits(p) + (f32_bits(pushed) << 23)) : 0.0f;
}
// NaN stays NaN.
KEEL_DEVICE inline float exp_below_or_nan_f32(float x) {
    using namespace kernels;
    float pushed;
    const float p = exp_below_mantissa(x, &pushed),
                y = mul_f32(p, f32_from_bits((f32_bits(pushed) << 23) + f32_bits(1.0f)));
    return x < kExpMin32 ? 0.0f : y;
}

}  // namespace keel::cuda
