// What followed states like this one in the text so far:
//
//     p(w) = sum of exp(sharpness cos(h_i, h)) over cached states i that w followed / the same over all of them
//
// The newest states are kept. Only the probability of one token is ever asked for.
#pragma once
#include <math.h>
#include <stdint.h>

#include <vector>

namespace keel::tools {

class NeuralCache {
  public:
    NeuralCache(uint32_t hidden, uint32_t states, double sharpness)
        : hidden_(hidden), sharpness_(sharpness), state_(size_t{hidden} * states), next_(states) {}

    void reset() { seen_ = 0; }
    void add(const float* h, int32_t next) {
        const size_t at = seen_++ % next_.size();
        const float scale = inverse_norm(h);
        for (uint32_t i = 0; i < hidden_; ++i) state_[at * hidden_ + i] = h[i] * scale;
        next_[at] = next;
    }
    // 0 while nothing is cached.
    double probability(const float* h, int32_t token) const {
        const size_t count = seen_ < next_.size() ? seen_ : next_.size();
        const float scale = inverse_norm(h);
        double all = 0, same = 0;
        for (size_t at = 0; at < count; ++at) {
            float lane[8] = {};
            const float* state = &state_[at * hidden_];
            uint32_t i = 0;
            for (; i + 8 <= hidden_; i += 8)
                for (uint32_t l = 0; l < 8; ++l) lane[l] += state[i + l] * h[i + l];
            float dot = 0;
            for (; i < hidden_; ++i) dot += state[i] * h[i];
            for (const float l : lane) dot += l;
            const double weight = exp(sharpness_ * (static_cast<double>(dot * scale) - 1));
            all += weight;
            if (next_[at] == token) same += weight;
        }
        return all > 0 ? same / all : 0;
    }

  private:
    float inverse_norm(const float* h) const {
        double sum = 0;
        for (uint32_t i = 0; i < hidden_; ++i) sum += double{h[i]} * h[i];
        return sum > 0 ? static_cast<float>(1 / sqrt(sum)) : 0;
    }
    const uint32_t hidden_;
    const double sharpness_;
    std::vector<float> state_;
    std::vector<int32_t> next_;
    uint64_t seen_ = 0;
};

}  // namespace keel::tools
