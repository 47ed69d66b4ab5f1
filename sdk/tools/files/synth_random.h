// Random numbers of made-up models and caches: the same everywhere, by seed.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <array>
#include <vector>

#include "sdk/tools/common/random_sequence.h"

namespace keel::tools {

// xoshiro256+ (Blackman and Vigna), seeded by splitmix64.
class Random {
  public:
    explicit Random(uint64_t seed) {
        for (uint64_t& word : s_) word = splitmix(&seed);
    }
    uint64_t next() {
        const uint64_t result = s_[0] + s_[3], t = s_[1] << 17;
        s_[2] ^= s_[0];
        s_[3] ^= s_[1];
        s_[1] ^= s_[2];
        s_[0] ^= s_[3];
        s_[2] ^= t;
        s_[3] = s_[3] << 45 | s_[3] >> 19;
        return result;
    }
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
    void fill(uint8_t* dst, uint64_t bytes) {
        uint64_t at = 0;
        for (; at + 8 <= bytes; at += 8) {
            const uint64_t word = next();
            memcpy(dst + at, &word, 8);
        }
        const uint64_t word = next();
        memcpy(dst + at, &word, bytes - at);
    }

  private:
    std::array<uint64_t, 4> s_;
};

// 4,096 values of mean 0 and variance 1, normally distributed, to draw from.
constexpr size_t kNormals = 4096;
inline std::vector<float> normal_values() {
    Random random(1);
    std::vector<double> v(kNormals);
    double mean = 0, square = 0;
    for (double& x : v) x = sqrt(-2 * log(1 - random.uniform())) * cos(6.283185307179586 * random.uniform());
    for (double x : v) mean += x / kNormals;
    for (double x : v) square += (x - mean) * (x - mean) / kNormals;
    std::vector<float> out;
    for (double x : v) out.push_back(static_cast<float>((x - mean) / sqrt(square)));
    return out;
}

// `count` of `values` (kNormals of them), five to a random word.
template <class T>
void draw(Random& random, const std::vector<T>& values, void* dst, uint64_t count) {
    uint64_t word = 0;
    for (uint64_t i = 0; i < count; ++i) {
        word = i % 5 ? word >> 12 : random.next();
        memcpy(static_cast<uint8_t*>(dst) + i * sizeof(T), &values[word % kNormals], sizeof(T));
    }
}

}  // namespace keel::tools
