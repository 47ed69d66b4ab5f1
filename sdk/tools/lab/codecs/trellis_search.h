// The search of a bit-shift trellis with 2^L states (kernels/formats/kv_formats.h describes the one with L = 8), for
// laboratory codecs and the training of their tables.
#pragma once
#include <stdint.h>

#include <limits>
#include <vector>

namespace keel::tools {

// The states of row x [n], which is in units of the table: state[i] of element i; value[s] is what state s stands for.
// They run from
// the last element to the first: state i = (state i+1 << kBits | new[i]) mod 2^kStateBits. The last one is below 256,
// so that 8 - kBits start bits tell it: the states before it are free again. Exact minimum of the sum of squared
// errors; among equals the lowest predecessor and the lowest last state. Plain loops over states: the compiler makes
// vectors of them.
template <int kStateBits, int kBits>
void search_trellis(const float* x, uint32_t n, const float* value, uint16_t* state) {
    constexpr int kStates = 1 << kStateBits, kWays = 1 << kBits,
                  kGroups = kStates / kWays;  // as in the kernels' search
    float cost[kStates], least[kGroups];
    int32_t way[kGroups];
    std::vector<uint8_t> from(static_cast<size_t>(n) *
                              kGroups);  // [element][state of the element below >> kBits]: upper bits
    for (int s = 0; s < kStates; ++s) {
        const float d = x[n - 1] - value[s];
        cost[s] = s < 256 ? d * d : std::numeric_limits<float>::infinity();
    }
    for (uint32_t i = n - 1; i-- > 0;) {
        for (int g = 0; g < kGroups; ++g) least[g] = cost[g], way[g] = 0;
        for (int w = 1; w < kWays; ++w) {
            for (int g = 0; g < kGroups; ++g) {
                const float other = cost[w * kGroups + g], now = least[g];
                const int32_t less = -static_cast<int32_t>(other < now);
                way[g] = (way[g] & ~less) | (w & less);
                least[g] = other < now ? other : now;
            }
        }
        uint8_t* const back = from.data() + static_cast<size_t>(i) * kGroups;
        for (int g = 0; g < kGroups; ++g) back[g] = static_cast<uint8_t>(way[g]);
        for (int g = 0; g < kGroups; ++g) {
            for (int w = 0; w < kWays; ++w) {
                const float d = x[i] - value[g * kWays + w];
                cost[g * kWays + w] = least[g] + d * d;
            }
        }
    }
    int s = 0;
    for (int other = 1; other < kStates; ++other) s = cost[other] < cost[s] ? other : s;
    for (uint32_t i = 0; i < n; ++i) {
        state[i] = static_cast<uint16_t>(s);
        if (i + 1 < n)
            s = from[static_cast<size_t>(i) * kGroups + static_cast<size_t>(s >> kBits)] * kGroups + (s >> kBits);
    }
}

}  // namespace keel::tools
