// The splitmix64 sequence of a seed, and normal numbers of it: the same everywhere.
#pragma once
#include <stdint.h>

#include <cmath>
#include <numbers>

#include "kernels/formats/math_f64.h"
#include "sdk/core/hash.h"

namespace keel::tools {

// The next word of a sequence whose state begins as the seed.
inline uint64_t splitmix(uint64_t* state) {
    return hash_finish(*state += 0x9e3779b97f4a7c15);
}
// Word i of it, from 0.
inline uint64_t random_word(uint64_t seed, uint64_t i) {
    seed += i * 0x9e3779b97f4a7c15;
    return splitmix(&seed);
}
// Number i of N(0, 1), of words 2 i and 2 i + 1 (Box and Muller; the second normal of a pair is not used).
inline double random_normal(uint64_t seed, uint64_t i) {
    const auto uniform = [&](uint64_t word) {  // (0, 1]
        return static_cast<double>((random_word(seed, word) >> 11) + 1) * 0x1p-53;
    };
    double s, c;
    kernels::sincos_f64(2 * std::numbers::pi * uniform(2 * i + 1), &s, &c);
    return std::sqrt(-2 * kernels::log_f64(uniform(2 * i))) * c;
}

}  // namespace keel::tools
