// Keel's own elementary functions (NUMERICS section 4) and number formats, in scalar form. A vector kernel repeats the
// same sequence of roundings lane by lane. Multiply-adds are fused exactly where `fma` is written (-ffp-contract=off,
// --fmad=false); where a compiler might fuse, `mul` and `add` stand, so that GPU code does not depend on its options.
//
// Everything here is `static inline`: each translation unit owns its copies, so code compiled for an instruction set
// can never be chosen by the linker for a file that must run without it.
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"

namespace keel::kernels {

// ---- rounding and bits ----
KEEL_DEVICE static inline float fma_f32(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
KEEL_DEVICE static inline double fma_f64(double a, double b, double c) {
    return __builtin_fma(a, b, c);
}
// Rounded by themselves, whatever stands around them.
#if defined(__CUDA_ARCH__)
KEEL_DEVICE static inline float mul_f32(float a, float b) {
    return __fmul_rn(a, b);
}
KEEL_DEVICE static inline float add_f32(float a, float b) {
    return __fadd_rn(a, b);
}
KEEL_DEVICE static inline double mul_f64(double a, double b) {
    return __dmul_rn(a, b);
}
KEEL_DEVICE static inline double add_f64(double a, double b) {
    return __dadd_rn(a, b);
}
#else
KEEL_DEVICE static inline float mul_f32(float a, float b) {
    return a * b;
}
KEEL_DEVICE static inline float add_f32(float a, float b) {
    return a + b;
}
KEEL_DEVICE static inline double mul_f64(double a, double b) {
    return a * b;
}
KEEL_DEVICE static inline double add_f64(double a, double b) {
    return a + b;
}
#endif
KEEL_DEVICE static inline uint32_t f32_bits(float x) {
    return __builtin_bit_cast(uint32_t, x);
}
KEEL_DEVICE static inline float f32_from_bits(uint32_t u) {
    return __builtin_bit_cast(float, u);
}
KEEL_DEVICE static inline uint64_t f64_bits(double x) {
    return __builtin_bit_cast(uint64_t, x);
}
KEEL_DEVICE static inline double f64_from_bits(uint64_t u) {
    return __builtin_bit_cast(double, u);
}

// Round to nearest even by pushing the fraction out of the significand: |x| < 2^22 (f32), 2^51 (f64); -0.4 gives +0.
constexpr float kRound32 = 0x1.8p23f;
constexpr double kRound64 = 0x1.8p52;
KEEL_DEVICE static inline float rint_f32(float x) {
    return add_f32(add_f32(x, kRound32), -kRound32);
}
KEEL_DEVICE static inline double rint_f64(double x) {
    return add_f64(add_f64(x, kRound64), -kRound64);
}

// ---- reductions ----
// Sum of 16 lanes in the order of NUMERICS section 1.
KEEL_DEVICE static inline float tree16(const float lane[16]) {
    float a[8], b[4], c[2];
    for (int l = 0; l < 8; ++l) a[l] = lane[l] + lane[l + 8];
    for (int l = 0; l < 4; ++l) b[l] = a[l] + a[l + 4];
    for (int l = 0; l < 2; ++l) c[l] = b[l] + b[l + 2];
    return c[0] + c[1];
}

// ---- f32 functions ----
constexpr float kLog2e32 = 0x1.715476p+0f;
constexpr float kLn2Hi32 = 0x1.62e43p-1f, kLn2Lo32 = -0x1.05c61p-29f;
constexpr float kExpMax32 = 88.7228f, kExpMin32 = -87.3365f;
constexpr float kInf32 = __builtin_inff();
// exp(r) = 1 + r + r^2 (c2 + c3 r + ... + c6 r^4) on |r| <= 0.347: minimax in relative error, 3.1e-9.
constexpr float kExpC2 = 0x1.fffffcp-2f, kExpC3 = 0x1.55549p-3f, kExpC4 = 0x1.5558f6p-5f, kExpC5 = 0x1.123a8ep-7f,
                kExpC6 = 0x1.6a2318p-10f;

// 2^n for -126 <= n <= 127.
KEEL_DEVICE static inline float pow2_f32(int32_t n) {
    return f32_from_bits(static_cast<uint32_t>(n + 127) << 23);
}

// Relative error below 1.2e-7 where the result is finite and not zero.
KEEL_DEVICE static inline float exp_f32(float x) {
    if (x != x) return x;
    if (x > kExpMax32) return kInf32;
    if (x < kExpMin32) return 0.0f;
    const float n = rint_f32(mul_f32(x, kLog2e32));
    const float r = fma_f32(-n, kLn2Lo32, fma_f32(-n, kLn2Hi32, x));
    float p = kExpC6;
    p = fma_f32(p, r, kExpC5);
    p = fma_f32(p, r, kExpC4);
    p = fma_f32(p, r, kExpC3);
    p = fma_f32(p, r, kExpC2);
    p = fma_f32(p, r, 1.0f);
    p = fma_f32(p, r, 1.0f);
    const int32_t i = static_cast<int32_t>(n),
                  half = i >> 1;  // n reaches 128 and -126: neither factor leaves the range
    return mul_f32(mul_f32(p, pow2_f32(half)), pow2_f32(i - half));
}

constexpr float kTanhSplit = 0.625f;
// tanh(x) = x + x u (c1 + c2 u + ... + c5 u^4), u = x^2, on |x| < 0.625: minimax in relative error, 4.4e-9.
constexpr float kTanhC1 = -0x1.555532p-2f, kTanhC2 = 0x1.110726p-3f, kTanhC3 = -0x1.b83c5ap-5f,
                kTanhC4 = 0x1.52269cp-6f, kTanhC5 = -0x1.75e1ccp-8f;

// Relative error below 2.4e-7.
KEEL_DEVICE static inline float tanh_f32(float x) {
    const float a = f32_from_bits(f32_bits(x) & 0x7fffffffu);
    if (a < kTanhSplit) {
        const float u = x * x;
        float p = kTanhC5;
        p = fma_f32(p, u, kTanhC4);
        p = fma_f32(p, u, kTanhC3);
        p = fma_f32(p, u, kTanhC2);
        p = fma_f32(p, u, kTanhC1);
        return fma_f32(x * u, p, x);
    }
    const float y = add_f32(1.0f, -(2.0f / add_f32(exp_f32(mul_f32(2.0f, a)), 1.0f)));
    return f32_from_bits(f32_bits(y) | (f32_bits(x) & 0x80000000u));
}

KEEL_DEVICE static inline float sigmoid_f32(float x) {
    return 1.0f / add_f32(1.0f, exp_f32(-x));
}
// Of x along v, in lengths of v, from both dot products.
KEEL_DEVICE static inline float part_along_f32(float x_v, float v_v) {
    return x_v / (v_v > 1e-24f ? v_v : 1e-24f);
}
KEEL_DEVICE static inline float leaky_square_f32(float x, float leak) {
    const float r = x > 0.0f ? x : mul_f32(leak, x);
    return mul_f32(r, r);
}
KEEL_DEVICE static inline float silu_gate_f32(float g, float u) {
    return mul_f32(g / add_f32(1.0f, exp_f32(-g)), u);
}
constexpr float kGeluScale = 0.7978845608f, kGeluCubic = 0.044715f;
KEEL_DEVICE static inline float gelu_gate_f32(float g, float u) {
    const float t = tanh_f32(mul_f32(kGeluScale, add_f32(g, mul_f32(mul_f32(kGeluCubic, mul_f32(g, g)), g))));
    return mul_f32(mul_f32(mul_f32(0.5f, g), add_f32(1.0f, t)), u);
}
KEEL_DEVICE static inline float softcap_f32(float x, float cap) {
    return mul_f32(cap, tanh_f32(x / cap));
}

// ---- f64: angles (exp and log in f64 are in math_f64.h) ----
// sin and cos together. Absolute error below 4e-16 for |x| <= 2^31; beyond that the result is NaN, as it is for inf.
// x - n pi/2 with pi/2 in two parts: for these x the first difference is exact (a multiple of 2^-52 below 2).
KEEL_DEVICE static inline void sincos_f64(double x, double* sin_out, double* cos_out) {
    if (!(x >= -0x1p31 && x <= 0x1p31)) {
        *sin_out = *cos_out = __builtin_nan("");
        return;
    }
    const double n = rint_f64(mul_f64(x, 0x1.45f306dc9c883p-1));
    const double r = fma_f64(-n, 0x1.1a62633145c07p-54, fma_f64(-n, 0x1.921fb54442d18p+0, x));
    const double u = r * r;
    constexpr double kSin[] = {-1.0 / 6,
                               1.0 / 120,
                               -1.0 / 5040,
                               1.0 / 362880,
                               -1.0 / 39916800,
                               1.0 / 6227020800.0,
                               -1.0 / 1307674368000.0,
                               1.0 / 355687428096000.0};
    constexpr double kCos[] = {-1.0 / 2,       1.0 / 24,        -1.0 / 720,           1.0 / 40320,
                               -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200.0, 1.0 / 20922789888000.0};
    double ps = kSin[7], pc = kCos[7];
    for (int i = 6; i >= 0; --i) {
        ps = fma_f64(ps, u, kSin[i]);
        pc = fma_f64(pc, u, kCos[i]);
    }
    const double s = fma_f64(r * u, ps, r), c = fma_f64(u, pc, 1.0);
    const int64_t quadrant = static_cast<int64_t>(n) & 3;
    const double a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
    *sin_out = quadrant & 2 ? -a : a;
    *cos_out = quadrant == 1 || quadrant == 2 ? -b : b;
}

// The rotations of one position (NUMERICS section 4). Compiled once per kernel set: fma is a call where the instruction
// may be missing.
KEEL_DEVICE static inline void rope_table_f64(const double* frequency, uint32_t pairs, uint32_t position, float factor,
                                              float* cos_sin) {
    for (uint32_t i = 0; i < pairs; ++i) {
        double s, c;
        sincos_f64(mul_f64(position, frequency[i]), &s, &c);
        cos_sin[2 * i] = static_cast<float>(c);
        cos_sin[2 * i + 1] = static_cast<float>(s);
        if (factor != 1.0f) {
            cos_sin[2 * i] *= factor;
            cos_sin[2 * i + 1] *= factor;
        }
    }
}

// ---- half precision ----
// Exact widening; a signalling NaN becomes quiet, as the conversion instructions do.
KEEL_DEVICE static inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
    if (exponent == 0) return f32_from_bits(f32_bits(static_cast<float>(fraction) * 0x1p-24f) | sign);
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | (fraction ? 0x400000u | fraction << 13 : 0u));
    return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}
// Round to nearest even; overflow to infinity, gradual underflow, NaN quiet with its upper payload.
KEEL_DEVICE static inline uint16_t f32_to_f16(float x) {
    const uint32_t bits = f32_bits(x), a = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    uint32_t h;
    if (a > 0x7f800000u)
        h = 0x7e00u | (a >> 13 & 0x3ffu);
    else if (a >= 0x477ff000u)
        h = 0x7c00u;
    else if (a < 0x38800000u)
        h = f32_bits(add_f32(mul_f32(f32_from_bits(a), 0x1p24f), kRound32)) & 0x7ffu;  // below 2^-14: units of 2^-24
    else
        h = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    return static_cast<uint16_t>(sign | h);
}
KEEL_DEVICE static inline float bf16_to_f32(uint16_t h) {
    return f32_from_bits(static_cast<uint32_t>(h) << 16);
}
KEEL_DEVICE static inline uint16_t f32_to_bf16(float x) {
    const uint32_t bits = f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace keel::kernels
