// What trainers of trellis tables start from.
#pragma once
#include <math.h>
#include <stdint.h>

#include <random>
#include <vector>

// `rows` rows of n independent Gaussian numbers, each row scaled to unit root mean square.
inline std::vector<float> gaussian_rows(uint32_t rows, uint32_t n, uint32_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    std::vector<float> x(rows * n);
    for (uint32_t r = 0; r < rows; ++r) {
        double square = 0;
        for (uint32_t i = 0; i < n; ++i) {
            const double v = normal(random);
            x[r * n + i] = static_cast<float>(v);
            square += v * v;
        }
        for (uint32_t i = 0; i < n; ++i) x[r * n + i] = static_cast<float>(x[r * n + i] / sqrt(square / n));
    }
    return x;
}

// The p-quantile of the unit Gaussian, by bisection.
inline double gaussian_quantile(double p) {
    double low = -9, high = 9;
    while (high - low > 1e-12) {
        const double middle = (low + high) / 2;
        (0.5 * erfc(-middle / sqrt(2.0)) < p ? low : high) = middle;
    }
    return (low + high) / 2;
}
