// kernels/formats/numeric.h against libm in double (f32 functions) and long double (f64 functions), and the number
// formats against their definitions.
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

double relative(double got, double want) {
    return std::abs(got - want) / std::abs(want);
}

TEST(KernelsNumeric, ExpF32) {
    double worst = 0;
    for (int i = 0; i <= 2000000; ++i) {
        const float x = -87.3365f + (88.7228f + 87.3365f) * static_cast<float>(i) / 2000000.0f;
        if (x < kExpMin32 || x > kExpMax32) continue;
        worst = std::max(worst, relative(exp_f32(x), std::exp(static_cast<double>(x))));
    }
    EXPECT_LT(worst, 1.2e-7);
    EXPECT_EQ(exp_f32(0.0f), 1.0f);
    EXPECT_EQ(exp_f32(-0.0f), 1.0f);
    EXPECT_EQ(exp_f32(std::nextafter(kExpMax32, 100.0f)), kInf32);
    EXPECT_EQ(exp_f32(std::nextafter(kExpMin32, -100.0f)), 0.0f);
    EXPECT_LT(exp_f32(kExpMax32), kInf32);
    EXPECT_GT(exp_f32(kExpMin32), 0.0f);
    EXPECT_EQ(exp_f32(kInf32), kInf32);
    EXPECT_EQ(exp_f32(-kInf32), 0.0f);
    EXPECT_TRUE(std::isnan(exp_f32(NAN)));
}

TEST(KernelsNumeric, TanhF32) {
    double worst = 0;
    for (int i = 1; i <= 1000000; ++i) {
        const float x = 12.0f * static_cast<float>(i) / 1000000.0f;
        worst = std::max(worst, relative(tanh_f32(x), std::tanh(static_cast<double>(x))));
        ASSERT_EQ(tanh_f32(-x), -tanh_f32(x));
    }
    EXPECT_LT(worst, 2.4e-7);
    EXPECT_EQ(tanh_f32(1e-20f), 1e-20f);
    EXPECT_EQ(tanh_f32(kInf32), 1.0f);
    EXPECT_EQ(tanh_f32(-kInf32), -1.0f);
    EXPECT_EQ(tanh_f32(-0.0f), 0.0f);
    EXPECT_TRUE(std::isnan(tanh_f32(NAN)));
}

TEST(KernelsNumeric, GatesF32) {
    Random random(2);
    for (int i = 0; i < 200000; ++i) {
        const float g = random.uniform(-20, 20), u = random.uniform(-3, 3);
        const double silu = static_cast<double>(g) / (1 + std::exp(-static_cast<double>(g))) * u;
        const double t = std::tanh(0.7978845608 * (g + 0.044715 * static_cast<double>(g) * g * g));
        ASSERT_LE(std::abs(silu_gate_f32(g, u) - silu), 4e-7 * std::abs(silu) + 1e-30) << g;
        ASSERT_LE(std::abs(gelu_gate_f32(g, u) - 0.5 * g * (1 + t) * u),
                  4e-6 * std::abs(static_cast<double>(g) * u) + 1e-30)
            << g;
    }
}

TEST(KernelsNumeric, SinCosF64) {
    std::mt19937_64 engine(4);
    double worst = 0;
    for (double limit : {1.0, 100.0, 131072.0, 1e9, 2147483648.0})
        for (int i = 0; i < 200000; ++i) {
            const double x = std::uniform_real_distribution<double>(-limit, limit)(engine);
            double s, c;
            sincos_f64(x, &s, &c);
            worst = std::max<double>(worst, static_cast<double>(fabsl(s - sinl(x))));
            worst = std::max<double>(worst, static_cast<double>(fabsl(c - cosl(x))));
        }
    for (int n = 0; n < 100000; ++n) {  // next to multiples of pi/2, where the reduction cancels
        const double x = n * 1.5707963267948966;
        double s, c;
        sincos_f64(x, &s, &c);
        worst = std::max<double>(worst, static_cast<double>(fabsl(s - sinl(x))));
        worst = std::max<double>(worst, static_cast<double>(fabsl(c - cosl(x))));
    }
    EXPECT_LT(worst, 4e-16);
    double s, c;
    sincos_f64(0.0, &s, &c);
    EXPECT_EQ(s, 0.0);
    EXPECT_EQ(c, 1.0);
    sincos_f64(HUGE_VAL, &s, &c);
    EXPECT_TRUE(std::isnan(s) && std::isnan(c));
}

TEST(KernelsNumeric, F16EveryCodeRoundTrips) {
    for (uint32_t h = 0; h < 65536; ++h) {
        const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
        const float x = f16_to_f32(static_cast<uint16_t>(h));
        if (exponent == 31 && fraction) {
            ASSERT_TRUE(std::isnan(x));
            ASSERT_EQ(f32_to_f16(x), h | 0x200);
            continue;
        }
        const double magnitude = exponent == 31  ? HUGE_VAL
                                 : exponent == 0 ? std::ldexp(fraction, -24)
                                                 : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
        ASSERT_EQ(static_cast<double>(x), h & 0x8000 ? -magnitude : magnitude) << h;
        ASSERT_EQ(std::signbit(x), (h & 0x8000) != 0);
        ASSERT_EQ(f32_to_f16(x), h);
    }
}

// Between two neighbouring codes everything below the middle goes down, above it up, and the middle to the even code.
TEST(KernelsNumeric, F16AndBf16RoundToNearestEven) {
    for (uint32_t h = 0; h < 0x7c00; ++h) {
        const float lo = f16_to_f32(static_cast<uint16_t>(h));
        const float hi = h == 0x7bff ? 65536.0f : f16_to_f32(static_cast<uint16_t>(h + 1));
        const float middle = lo + (hi - lo) / 2;
        ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), h);
        ASSERT_EQ(f32_to_f16(std::nextafter(middle, 1e9f)), h + 1);
        ASSERT_EQ(f32_to_f16(middle), h + (h & 1));
        ASSERT_EQ(f32_to_f16(-middle), 0x8000 | (h + (h & 1)));
    }
    EXPECT_EQ(f32_to_f16(1e30f), 0x7c00);
    EXPECT_EQ(f32_to_f16(-kInf32), 0xfc00);
    for (uint32_t h = 0; h < 0x7f80; ++h) {
        const uint32_t middle = h << 16 | 0x8000;
        ASSERT_EQ(f32_to_bf16(f32_from_bits(middle - 1)), h);
        ASSERT_EQ(f32_to_bf16(f32_from_bits(middle + 1)), h + 1);
        ASSERT_EQ(f32_to_bf16(f32_from_bits(middle)), h + (h & 1));
        ASSERT_EQ(f32_bits(bf16_to_f32(static_cast<uint16_t>(h))), h << 16);
    }
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(f32_from_bits(0x7f800001u)))));
}

}  // namespace
}  // namespace keel_test
