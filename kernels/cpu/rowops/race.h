// The race that draws a token (NUMERICS section 6). Compilers vectorise the loops for the set that includes them.
#pragma once
#include "kernels/cpu/kernel_set.h"
#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/race.h"

namespace keel::kernels {

// words[4 * i]..: those that Philox gives for (position, counter[i], 0, 0); n counters, a multiple of 8.
KEEL_INLINE void race_words(uint64_t seed, uint32_t position, const uint64_t* counter, uint32_t n, uint32_t* words) {
    for (uint32_t i = 0; i < n; ++i) {
        uint32_t c0 = position, c1 = static_cast<uint32_t>(counter[i]), c2 = 0, c3 = 0;
        philox4x32(seed, c0, c1, c2, c3);
        words[4 * i] = c0, words[4 * i + 1] = c1, words[4 * i + 2] = c2, words[4 * i + 3] = c3;
    }
}
// The same with a vector type of float_vector.h: compilers do not find the multiplication of 32 bits to 64.
template <class V>
KEEL_INLINE void race_words_lanes(uint64_t seed, uint32_t position, const uint64_t* counter, uint32_t n,
                                  uint32_t* words) {
    using W = typename V::Words;
    constexpr uint32_t kLanes = V::kLanes / 2;
    const W multiplier0 = V::words1(kPhiloxMultiplier0), multiplier1 = V::words1(kPhiloxMultiplier1);
    for (uint32_t i = 0; i < n; i += kLanes) {
        W c0 = V::words1(position), c1 = V::load_wide(counter + i), c2 = V::words1(0), c3 = V::words1(0);
        uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        KEEL_UNROLL
        for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
            const W p0 = V::mul_words(c0, multiplier0), p1 = V::mul_words(c2, multiplier1);
            c0 = V::differ(V::differ(V::upper_words(p1), c1), V::words1(k0));
            c1 = p1;
            c2 = V::differ(V::differ(V::upper_words(p0), c3), V::words1(k1));
            c3 = p0;
        }
        V::store_fours(words + 4 * i, c0, c1, c2, c3);
    }
}

// Few can win, and only their scores are computed: those whose bounds are not above the best score so far. words_of:
// race_words.
template <class WordsOf>
KEEL_INLINE void race_f64(const RaceArgs& a, WordsOf words_of) {
    float distance[kMassBlock];
    uint32_t high[kMassBlock], words[4 * kMassBlock];
    uint64_t counter[kMassBlock];
    const double* __restrict const value = a.value;
    const double largest = a.largest, rate = 1.0 / a.temperature;
    const float reach = static_cast<float>(a.reach * (1 + 1e-6));
    const uint32_t n = (a.n + kMassGroup - 1) / kMassGroup * kMassGroup;
    uint32_t near = 0;
    for (uint32_t i = 0; i < n; ++i) {
        distance[i] = static_cast<float>((largest - value[i]) * rate);
        near |= distance[i] <= reach;
    }
    if (!near) return;
    if (a.ids) {
        const uint32_t* __restrict const ids = a.ids;
        for (uint32_t i = 0; i < n; ++i) counter[i] = ids[i] / 4;
        words_of(a.seed, a.position, counter, n, words);
        for (uint32_t i = 0; i < n; ++i) high[i] = words[4 * i + ids[i] % 4];
    } else {
        for (uint32_t i = 0; i < n / 4; ++i) counter[i] = a.first / 4 + i;
        words_of(a.seed, a.position, counter, n / 4, high);
    }
    RaceBest best = *a.best;
    for (uint32_t group = 0; group < n; group += kMassGroup) {
        float bound[kMassGroup];
        const float most = static_cast<float>(best.score);
        uint32_t contenders = 0;
        for (uint32_t i = 0; i < kMassGroup; ++i) {
            const float lower = race_bound(distance[group + i], high[group + i]);
            bound[i] = distance[group + i] <= reach ? lower : kInf32;
            contenders |= bound[i] <= most;
        }
        for (uint32_t i = 0; contenders && i < kMassGroup; ++i) {
            if (!(bound[i] < kInf32 && bound[i] <= static_cast<float>(best.score))) continue;
            const uint32_t at = group + i, id = a.ids ? a.ids[at] : a.first + at;
            const double d = (largest - value[at]) / a.temperature;
            const uint64_t w = uint64_t{high[at]} << 32 | race_word(a.seed, a.position, id, 1);
            const double score = race_score(d, w);
            const bool ahead = score < best.score || (score == best.score && id < best.id);
            if (ahead && mass_of(d) >= a.least_mass) best = {score, id};
        }
    }
    *a.best = best;
}

}  // namespace keel::kernels
