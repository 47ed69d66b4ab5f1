// Numbers of a fixed sequence, the same everywhere: the laboratory's clouds, permutations and perturbations.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "sdk/tools/common/random_sequence.h"

namespace keel::geodesic {

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() { return tools::splitmix(&state_); }
    double uniform() { return static_cast<double>((bits() >> 11) + 1) * 0x1p-53; }  // (0, 1]
    double normal() {                                                               // N(0, 1), Box and Muller
        const double radius = std::sqrt(-2 * std::log(uniform()));
        return radius * std::cos(2 * std::numbers::pi * uniform());
    }
    size_t below(size_t n) { return bits() % n; }  // n far below 2^64
    // 0 .. n - 1 in an order of chance (Fisher and Yates).
    std::vector<size_t> permutation(size_t n) {
        std::vector<size_t> order(n);
        for (size_t i = 0; i < n; ++i) order[i] = i;
        for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
        return order;
    }

  private:
    uint64_t state_;
};

}  // namespace keel::geodesic
