// fma and fmaf of the C library, in place of those of mingw-w64, which round twice. They are what code without the
// instruction calls, the scalar kernels first of all, and the bits of results depend on them (sdk/NUMERICS.md). A program
// that links libkeel.a gets them too. Microsoft's C library has right ones.
#ifdef __MINGW32__
#include <stdint.h>

namespace {

__extension__ using u128 = unsigned __int128;

// value = mantissa * 2^exponent, of which bit 52 is the highest one set. x is finite and not 0.
struct Parts {
    uint64_t mantissa;
    int exponent;
    bool negative;
};
Parts parts_of(double x) {
    const uint64_t bits = __builtin_bit_cast(uint64_t, x);
    uint64_t mantissa = bits & ((uint64_t{1} << 52) - 1);
    int exponent = static_cast<int>(bits >> 52 & 2047);
    if (exponent == 0) {  // subnormal
        const int up = __builtin_clzll(mantissa) - 11;
        mantissa <<= up;
        exponent = 1 - up;
    } else {
        mantissa |= uint64_t{1} << 52;
    }
    return {mantissa, exponent - 1075, bits >> 63 != 0};
}

// v / 2^n; whether anything but zeros was lost is kept in bit 0.
u128 shift_right_sticky(u128 v, int n) {
    if (n == 0) return v;
    if (n > 127) return v != 0;
    return v >> n | ((v & ((u128{1} << n) - 1)) != 0);
}

double power_of_two(int n) {  // -1022 .. 1023
    return __builtin_bit_cast(double, static_cast<uint64_t>(n + 1023) << 52);
}

// v * 2^exponent, rounded to nearest, ties to even.
double rounded(u128 v, int exponent, bool negative) {
    const uint64_t high = static_cast<uint64_t>(v >> 64);
    const int bits = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll(static_cast<uint64_t>(v));
    int drop = bits - 53;
    if (exponent + drop < -1074) drop = -1074 - exponent;  // subnormal: fewer bits are left
    if (drop > 0) {
        // Two bits more than are left, the lower one sticky.
        const u128 tail = drop > 1 ? shift_right_sticky(v, drop - 2) : v << 1;
        v = (tail >> 2) + ((tail & 2) && (tail & 5));
        exponent += drop;
    }
    const int half = exponent / 2;
    const double magnitude = static_cast<double>(static_cast<uint64_t>(v)) * power_of_two(half) *
                             power_of_two(exponent - half);  // exact, or too large for a double
    return negative ? -magnitude : magnitude;
}

}  // namespace

extern "C" double fma(double x, double y, double z) {
    const double infinity = __builtin_inf();
    if (x == 0 || y == 0 || !(__builtin_fabs(x) < infinity) || !(__builtin_fabs(y) < infinity)) return x * y + z;
    if (!(__builtin_fabs(z) < infinity)) return z;
    if (z == 0) return x * y;
    const Parts a = parts_of(x), b = parts_of(y), c = parts_of(z);
    // Both terms with the smaller exponent, as far as they fit into 127 bits: 106 of the product, 53 of z. What is shifted
    // out on the right is so much smaller than the other term that one bit says enough about it.
    u128 p = u128{a.mantissa} * b.mantissa, q = c.mantissa;
    int exponent = a.exponent + b.exponent;
    const int above = c.exponent - exponent;
    if (above > 0) {
        const int up = above < 73 ? above : 73;
        q <<= up;
        p = shift_right_sticky(p, above - up);
        exponent += above - up;
    } else {
        const int up = -above < 20 ? -above : 20;
        p <<= up;
        q = shift_right_sticky(q, -above - up);
        exponent -= up;
    }
    const bool negative = a.negative != b.negative;
    if (negative == c.negative) return rounded(p + q, exponent, negative);
    if (p == q) return 0.0;
    return p > q ? rounded(p - q, exponent, negative) : rounded(q - p, exponent, c.negative);
}

// The product is exact in double. Its sum with z is rounded to odd, after which rounding to float is as if at once.
extern "C" float fmaf(float x, float y, float z) {
    const double product = static_cast<double>(x) * y, sum = product + z;
    const double z_part = sum - product, error = (product - (sum - z_part)) + (z - z_part);
    uint64_t bits = __builtin_bit_cast(uint64_t, sum);
    if (__builtin_fabs(sum) < __builtin_inf() && error != 0 && (bits & 1) == 0)
        bits += (error > 0) == (sum > 0) ? 1 : UINT64_MAX;
    return static_cast<float>(__builtin_bit_cast(double, bits));
}
#endif
