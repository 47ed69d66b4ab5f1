// The race that draws a token (NUMERICS section 6): every candidate has an exponential of its own, E, made of 64 random
// bits that depend on (seed, position, id) alone, and the smallest score d + log(E) wins. That is a draw by probability
// (the first of several Poisson processes; as "largest log p - log(-log u)" the Gumbel-max trick), and it stays the
// same draw where other candidates come, go or change places.
#pragma once
#include "kernels/formats/sampling.h"

namespace keel::kernels {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011): counter-based, so that what it gives depends on (key, counter)
// alone. The counter becomes the four words.
constexpr uint32_t kPhiloxMultiplier0 = 0xd2511f53, kPhiloxMultiplier1 = 0xcd9e8d57;
constexpr uint32_t kPhiloxWeyl0 = 0x9e3779b9, kPhiloxWeyl1 = 0xbb67ae85;
constexpr int kPhiloxRounds = 10;
KEEL_DEVICE static inline void philox4x32(uint64_t key, uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
        const uint64_t p0 = uint64_t{kPhiloxMultiplier0} * c0, p1 = uint64_t{kPhiloxMultiplier1} * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(p0);
    }
}

// Of the 64 bits of a token: half 0 is the upper 32, half 1 the lower.
KEEL_DEVICE static inline uint32_t race_word(uint64_t seed, uint32_t position, uint32_t id, uint32_t half) {
    uint32_t c0 = position, c1 = id / 4, c2 = half, c3 = 0;
    philox4x32(seed, c0, c1, c2, c3);
    const uint32_t low = id & 1 ? c1 : c0, high = id & 1 ? c3 : c2;
    return id & 2 ? high : low;
}

// E = -log(1 - x) of the bits w, x = w / 2^64: of x itself where it is below 1/4, so that a small one keeps all of its
// digits, of 1 - x otherwise. Positive; at least x.
KEEL_DEVICE static inline double race_exponential(uint64_t w) {
    if (w >> 62) return -log_f64(mul_f64(static_cast<double>(~w | 1), 0x1p-64));
    const double x = mul_f64(static_cast<double>(w | 1), 0x1p-64);
    return add_f64(x, log_correction(-x));
}
KEEL_DEVICE static inline double race_score(double distance, uint64_t w) {
    return add_f64(distance, log_f64(race_exponential(w)));
}

// Not above the score of a token at this distance, in f32, whose upper bits are `high`; for distances up to 40.
// log(E) >= log(x), and x >= h with h = floor(high / 2) / 2^31; the bits of a float, read as an integer, are 2^23 times
// its logarithm to base 2 or less (and little enough for 0). All roundings together are below 1e-4.
KEEL_DEVICE static inline float race_bound(float distance, uint32_t high) {
    constexpr float kLn2 = 0.69314718f, kMargin = 1e-3f;
    const uint32_t bits = f32_bits(static_cast<float>(static_cast<int32_t>(high >> 1)));
    const float log2_times = static_cast<float>(static_cast<int32_t>(bits));
    return add_f32(add_f32(distance, mul_f32(log2_times, kLn2 * 0x1p-23f)), -((127 + 31) * kLn2 + kMargin));
}
// A distance beyond which masses are below `least` > 0; at most 38.
static inline double race_reach(uint64_t least) {
    return log_f64(0x1p52 / (static_cast<double>(least) - 0.75)) + 1e-9;
}

}  // namespace keel::kernels
