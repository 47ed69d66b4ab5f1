#include "sdk/tools/lab/codecs/gaussian_codebook.h"

#include <array>
#include <cmath>
#include <numbers>
#include <vector>

namespace keel::tools {
namespace {

double density(double x) {
    return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
}
double upper_tail(double x) {
    return 0.5 * std::erfc(x / std::numbers::sqrt2);
}

// x with upper_tail(x) = p, 0 < p < 1/2.
double upper_quantile(double p) {
    double low = 0, high = 40;
    for (int i = 0; i < 80; ++i) (upper_tail(0.5 * (low + high)) > p ? low : high) = 0.5 * (low + high);
    return low;
}

// The positive half c of the levels solves g_i = c_i P_i - M_i = 0 where P_i and M_i are the mass and the first moment
// of [t_i, t_i+1), t_0 = 0, t_i = (c_i-1 + c_i) / 2, t_n = infinity. Newton's method: g's derivative is tridiagonal and
// symmetric, with -(c_i+1 - c_i) phi(t_i+1) / 4 beside the diagonal. It starts from the levels of a compander that is
// optimal for many of them, c = sqrt(3) Phi^-1 (Panter and Dite), after some rounds of Lloyd's c_i = M_i / P_i: they
// bring the outermost levels near, without which it diverges from 5 bits on.
std::vector<double> positive_levels(uint32_t bits) {
    constexpr int kLloydRounds = 10, kNewtonRounds = 20;
    const size_t n = size_t{1} << (bits - 1);
    std::vector<double> c(n), g(n), diagonal(n), beside(n), step(n);
    for (size_t i = 0; i < n; ++i)
        c[i] =
            std::numbers::sqrt3 * upper_quantile(0.5 * (1 - (static_cast<double>(i) + 0.5) / static_cast<double>(n)));
    for (int round = 0; round < kLloydRounds + kNewtonRounds; ++round) {
        double t = 0;
        for (size_t i = 0; i < n; ++i) {
            const bool last = i + 1 == n;
            const double next = last ? 0 : 0.5 * (c[i] + c[i + 1]);
            const double mass = upper_tail(t) - (last ? 0 : upper_tail(next));
            g[i] = c[i] * mass - (density(t) - (last ? 0 : density(next)));
            beside[i] = last ? 0 : -0.25 * (c[i + 1] - c[i]) * density(next);
            diagonal[i] = mass + beside[i] + (i ? beside[i - 1] : 0);
            step[i] = g[i] / mass;
            t = next;
        }
        if (round >= kLloydRounds) {  // elimination downwards, substitution upwards
            for (size_t i = 1; i < n; ++i) {
                const double factor = beside[i - 1] / diagonal[i - 1];
                diagonal[i] -= factor * beside[i - 1];
                g[i] -= factor * g[i - 1];
            }
            for (size_t i = n; i-- > 0;) step[i] = (g[i] - (i + 1 < n ? beside[i] * step[i + 1] : 0)) / diagonal[i];
        }
        for (size_t i = 0; i < n; ++i) c[i] -= step[i];
    }
    return c;
}

std::array<std::vector<float>, kMaxCodebookBits + 1> make_codebooks() {
    std::array<std::vector<float>, kMaxCodebookBits + 1> books;
    for (uint32_t bits = 1; bits <= kMaxCodebookBits; ++bits) {
        const std::vector<double> positive = positive_levels(bits);
        for (size_t i = positive.size(); i-- > 0;) books[bits].push_back(static_cast<float>(-positive[i]));
        for (const double level : positive) books[bits].push_back(static_cast<float>(level));
    }
    return books;
}

}  // namespace

std::span<const float> gaussian_codebook(uint32_t bits) {
    static const auto books = make_codebooks();
    return books.at(bits);
}

uint32_t nearest_level(std::span<const float> ascending, float x) {
    uint32_t low = 0, high = static_cast<uint32_t>(ascending.size()) - 1;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (x >= 0.5f * (ascending[middle] + ascending[middle + 1]))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

}  // namespace keel::tools
