// exp and log in f64 from additions, multiplications and one division: the same bits on every machine, which libm does
// not promise. Nothing is fused: without FMA instructions at compile time a fused multiply-add is a library call, which
// a loop over a vocabulary cannot afford. Branch-free, so that such a loop vectorises. Error below 1 ulp.
#pragma once
#include "kernels/formats/numeric.h"

namespace keel::kernels {

// ln 2 in two parts: the first has 21 trailing zero bits, so n * kLn2Hi is exact for |n| <= 2^20.
constexpr double kLn2Hi = 0x1.62e42feep-1, kLn2Lo = 0x1.a39ef35793c76p-33;

// e^x for -708 <= x <= 709 is exp_series(r) * 2^n.
// x = n ln 2 + r with n = rint(x / ln 2), |r| <= ln 2 / 2: returns 2^n.
KEEL_DEVICE static inline double exp_reduce(double x, double* r) {
    constexpr double kRound = 0x1.8p52;  // adding it leaves rint(.) in the low bits
    const double t = add_f64(mul_f64(x, 0x1.71547652b82fep0), kRound);
    const double n = add_f64(t, -kRound);
    *r = add_f64(add_f64(x, -mul_f64(n, kLn2Hi)), -mul_f64(n, kLn2Lo));
    return f64_from_bits((f64_bits(t) << 52) + f64_bits(1.0));
}
// e^r by its Taylor series to r^13 (remainder below 2^-57).
KEEL_DEVICE static inline double exp_series(double r) {
    double p = 1.0 / 6227020800.0;
    p = add_f64(mul_f64(p, r), 1.0 / 479001600.0);
    p = add_f64(mul_f64(p, r), 1.0 / 39916800.0);
    p = add_f64(mul_f64(p, r), 1.0 / 3628800.0);
    p = add_f64(mul_f64(p, r), 1.0 / 362880.0);
    p = add_f64(mul_f64(p, r), 1.0 / 40320.0);
    p = add_f64(mul_f64(p, r), 1.0 / 5040.0);
    p = add_f64(mul_f64(p, r), 1.0 / 720.0);
    p = add_f64(mul_f64(p, r), 1.0 / 120.0);
    p = add_f64(mul_f64(p, r), 1.0 / 24.0);
    p = add_f64(mul_f64(p, r), 1.0 / 6.0);
    p = add_f64(mul_f64(p, r), 0.5);
    return add_f64(1.0, add_f64(r, mul_f64(mul_f64(r, r), p)));
}
KEEL_DEVICE static inline double exp_f64(double x) {
    double r;
    const double scale = exp_reduce(x, &r);
    return mul_f64(exp_series(r), scale);
}

// rint(x * 2^52) for 0 <= x <= 1: the addition rounds to a multiple of 2^-52.
KEEL_DEVICE static inline uint64_t fixed52(double x) {
    return f64_bits(add_f64(x, 1.0)) - f64_bits(1.0);
}

// f - ln(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2).
// With z = f / (2 + f), ln(1 + f) = 2 atanh z = 2 (z + z^3/3 + z^5/5 + ...) = f - z (f - 2 z^2 p): the leading term is
// exact.
KEEL_DEVICE static inline double log_correction(double f) {
    const double z = f / add_f64(2.0, f), z2 = mul_f64(z, z);
    double p = 1.0 / 23.0;
    for (int k = 21; k >= 3; k -= 2) p = add_f64(mul_f64(p, z2), 1.0 / k);
    return mul_f64(z, add_f64(f, -mul_f64(mul_f64(2.0, z2), p)));
}
// ln x for normal x > 0: x = 2^n m with sqrt(1/2) <= m < sqrt(2), f = m - 1.
KEEL_DEVICE static inline double log_f64(double x) {
    constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
    const uint64_t offset = f64_bits(x) - kSqrtHalf;
    const double n = static_cast<double>(static_cast<int64_t>(offset) >> 52);
    const double m = f64_from_bits((offset & 0xfffffffffffffull) + kSqrtHalf);
    const double f = add_f64(m, -1.0), rest = add_f64(log_correction(f), -mul_f64(n, kLn2Lo));
    return add_f64(mul_f64(n, kLn2Hi), add_f64(f, -rest));
}

}  // namespace keel::kernels
