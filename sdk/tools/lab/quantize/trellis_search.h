// The search of a bit-shift trellis whose errors are passed on: what codes of weights need beside those of KV rows
// (sdk/tools/lab/codecs/trellis_search.h).
#pragma once
#include <stdint.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace keel::tools {

// How much an element's error weighs, and what later ones take over of it: with e_j = x_j - value, x_k -= e_j
// ratio[k * stride + j] for all k > j of the block.
struct TrellisFeedback {
    const float* weight;
    const float* ratio;
    size_t stride;
};

// Errors that a path keeps for itself; when one gets older, only paths that agree with the best one go on.
constexpr uint32_t kPathErrors = 64;

// The symbols of x [n] that minimise sum weight (x_i - value[state_i])^2, x_i with the feedback of the path itself;
// without feedback its exact minimum over paths from one start. state_i = (state_i-1 << kBits | symbol_i) mod
// 2^kStateBits, and the states go round: those before x_0 are those of the last symbols. The start is where the best
// path without that condition ends. Ties: the lowest predecessor, the lowest last state.
template <int kStateBits, int kBits, bool kFeedback>
class TrellisSearch {
  public:
    static constexpr uint32_t kStates = 1u << kStateBits, kWays = 1u << kBits, kGroups = kStates / kWays;

    explicit TrellisSearch(const float* value)
        : value_(value),
          cost_(kStates),
          target_(kGroups),
          next_target_(kGroups),
          least_(kGroups),
          best_(kGroups),
          errors_(kFeedback ? size_t{kGroups} * kPathErrors : 0),
          next_errors_(errors_.size()) {}

    void code(const float* x, uint32_t n, const TrellisFeedback& feedback, uint8_t* symbol) {
        from_.resize(size_t{n} * kGroups);
        const uint32_t start = pass(x, n, feedback, kGroups, symbol);
        pass(x, n, feedback, start, symbol);
    }

  private:
    // From group `start`, and back to it; kGroups: from any to any. Returns the group that follows the last symbol.
    uint32_t pass(const float* x, uint32_t n, const TrellisFeedback& feedback, uint32_t start, uint8_t* symbol) {
        x_.assign(x, x + n);
        float ratio[kPathErrors] = {};
        if (kFeedback) std::fill(errors_.begin(), errors_.end(), 0.0f);
        for (uint32_t i = 0; i < n; ++i) {
            if (i == 0) {
                for (uint32_t g = 0; g < kGroups; ++g) {
                    least_[g] = start == kGroups || g == start ? 0.0f : kNever;
                    target_[g] = x_[0];
                }
            } else {
                choose(from_.data() + size_t{i} * kGroups);
                if (kFeedback)
                    pass_errors_on(i, n, feedback, ratio);
                else
                    std::fill(target_.begin(), target_.end(), x_[i]);
            }
            const float weight = kFeedback ? feedback.weight[i] : 1.0f;
            for (uint32_t g = 0; g < kGroups; ++g) {
                const float base = least_[g], target = target_[g];
                for (uint32_t w = 0; w < kWays; ++w) {
                    const float e = target - value_[g * kWays + w];
                    cost_[g * kWays + w] = base + weight * (e * e);
                }
            }
        }
        uint32_t s = start == kGroups ? 0 : start;
        for (uint32_t other = s; other < kStates; other += start == kGroups ? 1 : kGroups)
            s = cost_[other] < cost_[s] ? other : s;
        const uint32_t last = s & (kGroups - 1);
        for (uint32_t i = n; i-- > 0;) {
            symbol[i] = static_cast<uint8_t>(s & (kWays - 1));
            const uint32_t group = s >> kBits;
            if (i) s = from_[size_t{i} * kGroups + group] * kGroups + group;
        }
        return last;
    }
    // The best way into each group.
    void choose(uint8_t* from) {
        std::fill(best_.begin(), best_.end(), 0);
        std::copy_n(cost_.begin(), kGroups, least_.begin());
        for (uint32_t w = 1; w < kWays; ++w) {
            const float* const cost = cost_.data() + w * kGroups;
            for (uint32_t g = 0; g < kGroups; ++g) {
                const float other = cost[g], now = least_[g];
                const int32_t less = -static_cast<int32_t>(other < now);
                best_[g] = (best_[g] & ~less) | (static_cast<int32_t>(w) & less);
                least_[g] = other < now ? other : now;
            }
        }
        for (uint32_t g = 0; g < kGroups; ++g) from[g] = static_cast<uint8_t>(best_[g]);
    }
    // Each group's errors up to element i - 1, and what they leave element i to be.
    void pass_errors_on(uint32_t i, uint32_t n, const TrellisFeedback& feedback, float* ratio) {
        const uint32_t slot = (i - 1) % kPathErrors;
        if (i > kPathErrors) {  // the best path's error is everybody's: paths with another one end
            const auto best = std::min_element(least_.begin(), least_.end()) - least_.begin();
            const float e = errors_[origin(static_cast<uint32_t>(best)) * size_t{kPathErrors} + slot];
            for (uint32_t g = 0; g < kGroups; ++g)
                if (errors_[origin(g) * size_t{kPathErrors} + slot] != e) least_[g] = kNever;
            for (uint32_t k = i; k < n; ++k) x_[k] -= e * feedback.ratio[k * feedback.stride + (i - 1 - kPathErrors)];
        }
        for (uint32_t j = i > kPathErrors ? i - kPathErrors : 0; j < i; ++j)
            ratio[j % kPathErrors] = feedback.ratio[i * feedback.stride + j];
        const float newest = ratio[slot];
        ratio[slot] = 0;
        for (uint32_t g = 0; g < kGroups; ++g) {
            const uint32_t state = static_cast<uint32_t>(best_[g]) * kGroups + g, group = state >> kBits;
            const float* const old = errors_.data() + size_t{group} * kPathErrors;
            float* const now = next_errors_.data() + size_t{g} * kPathErrors;
            const float e = target_[group] - value_[state];
            float sum[8] = {};
            for (uint32_t d = 0; d < kPathErrors; d += 8)
                for (uint32_t l = 0; l < 8; ++l) sum[l] += old[d + l] * ratio[d + l];
            std::copy_n(old, kPathErrors, now);
            now[slot] = e;
            next_target_[g] = x_[i] - e * newest -
                              (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])));
        }
        errors_.swap(next_errors_);
        target_.swap(next_target_);
    }
    // The group that the best way into g comes from.
    uint32_t origin(uint32_t g) const { return (static_cast<uint32_t>(best_[g]) * kGroups + g) >> kBits; }

    static constexpr float kNever = std::numeric_limits<float>::infinity();
    const float* value_;                               // of states
    std::vector<float> x_, cost_;                      // what is left of x; of states
    std::vector<float> target_, next_target_, least_;  // of groups: states with the same symbols but the last
    std::vector<int32_t> best_;                        // of groups: symbol that is dropped
    std::vector<float> errors_, next_errors_;          // [group][element % kPathErrors]
    std::vector<uint8_t> from_;                        // [element][group]
};

}  // namespace keel::tools
