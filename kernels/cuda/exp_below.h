// exp of what its maximum was taken off, for kernels and their tests.
#pragma once
#include "kernels/formats/numeric.h"

namespace keel::cuda {

// exp_f32 of an x that is not above 0, with fewer operations; 0 for NaN.
KEEL_DEVICE inline float exp_below_f32(float x) {
    using namespace kernels;
    const float pushed = add_f32(mul_f32(x, kLog2e32), kRound32), n = add_f32(pushed, -kRound32);
    const float r = fma_f32(-n, kLn2Lo32, fma_f32(-n, kLn2Hi32, x));
    float p = kExpC6;
    p = fma_f32(p, r, kExpC5);
    p = fma_f32(p, r, kExpC4);
    p = fma_f32(p, r, kExpC3);
    p = fma_f32(p, r, kExpC2);
    p = fma_f32(p, r, 1.0f);
    p = fma_f32(p, r, 1.0f);
    // The lowest bits of `pushed` are n. What is not 0 is no subnormal: n is added to the exponent.
    return x >= kExpMin32 ? f32_from_bits(f32_bits(p) + (f32_bits(pushed) << 23)) : 0.0f;
}

}  // namespace keel::cuda
