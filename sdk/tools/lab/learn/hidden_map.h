// A matrix between the final hidden state and the head that learns from the text that is read:
//
//     h' = h + M h,  z = W h';  M = 0 at first
//     per chunk of n scored tokens: g = dM of the mean NLL = 1/n sum over t of (W^T (softmax(z_t) - y_t)) h_t^T
//     v = beta2 v + (1 - beta2) g^2;  M = M (1 - step decay) - step g / (sqrt(v / (1 - beta2^k)) + epsilon)
//
// Adam with beta1 = 0 and decoupled decay. A chunk is scored before it is learned from. In T = double for gradients
// against central differences, in float for models.
#pragma once
#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

namespace keel::tools {

// The head as what a map needs of it: z[t][v] += ... over all rows, and row v by itself.
template <class T>
struct Head {
    uint32_t vocabulary, hidden;
    // z[n][vocabulary] = W h, h[n][hidden].
    std::function<void(const T* h, uint32_t n, T* z)> multiply;
    // row[hidden] of W.
    std::function<void(uint32_t v, T* row)> row;
};

struct HiddenMapOptions {
    double step = 5e-5;
    double beta2 = 0.99, decay = 0.5, epsilon = 1e-10;
    double least_probability = 0;  // errors of smaller ones are left out of the gradient
};

// softmax in place, sums in double.
template <class T>
void softmax(T* z, uint32_t n) {
    const T top = *std::max_element(z, z + n);
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += static_cast<double>(z[i] = static_cast<T>(exp(z[i] - top)));
    for (uint32_t i = 0; i < n; ++i) z[i] = static_cast<T>(static_cast<double>(z[i]) / sum);
}

template <class T>
class HiddenMap {
  public:
    HiddenMap(const Head<T>& head, const HiddenMapOptions& options)
        : head_(head), options_(options), m_(size_t{head.hidden} * head.hidden), v_(m_.size()) {}

    void reset() {
        std::fill(m_.begin(), m_.end(), T(0));
        std::fill(v_.begin(), v_.end(), T(0));
        steps_ = 0;
    }
    // out[n][hidden] = h + M h
    void apply(const T* h, uint32_t n, T* out) const {
        const uint32_t d = head_.hidden;
        for (uint32_t t = 0; t < n; ++t)
            for (uint32_t i = 0; i < d; ++i) {
                T sum = 0;
                for (uint32_t j = 0; j < d; ++j) sum += m_[size_t{i} * d + j] * h[size_t{t} * d + j];
                out[size_t{t} * d + i] = h[size_t{t} * d + i] + sum;
            }
    }
    // g[hidden][hidden] of the mean NLL of the targets; p: softmax of z, which it overwrites.
    void gradient(const T* h, T* p, const int32_t* target, uint32_t n, T* g) const {
        const uint32_t d = head_.hidden, vocabulary = head_.vocabulary;
        for (uint32_t t = 0; t < n; ++t) p[size_t{t} * vocabulary + static_cast<uint32_t>(target[t])] -= T(1);
        std::vector<T> row(d), back(size_t{n} * d);
        const T least = static_cast<T>(options_.least_probability);
        for (uint32_t v = 0; v < vocabulary; ++v) {
            bool used = false;
            for (uint32_t t = 0; t < n; ++t) {
                const T error = p[size_t{t} * vocabulary + v];
                if (!(error > least || error < -least)) continue;
                if (!used) head_.row(v, row.data());
                used = true;
                T* to = back.data() + size_t{t} * d;
                for (uint32_t i = 0; i < d; ++i) to[i] += error * row[i];
            }
        }
        std::fill(g, g + size_t{d} * d, T(0));
        for (uint32_t t = 0; t < n; ++t)
            for (uint32_t i = 0; i < d; ++i) {
                const T scale = back[size_t{t} * d + i] / static_cast<T>(n);
                const T* from = h + size_t{t} * d;
                T* to = g + size_t{i} * d;
                for (uint32_t j = 0; j < d; ++j) to[j] += scale * from[j];
            }
    }
    // One step. False, and nothing changed, where the gradient is not finite.
    bool step(const T* g) {
        for (size_t i = 0; i < m_.size(); ++i)
            if (!std::isfinite(g[i])) return false;
        const double correction = 1 - pow(options_.beta2, static_cast<double>(++steps_));
        for (size_t i = 0; i < m_.size(); ++i) {
            v_[i] = static_cast<T>(options_.beta2) * v_[i] + static_cast<T>(1 - options_.beta2) * g[i] * g[i];
            const T scale = static_cast<T>(sqrt(static_cast<double>(v_[i]) / correction) + options_.epsilon);
            m_[i] = m_[i] * static_cast<T>(1 - options_.step * options_.decay) -
                    static_cast<T>(options_.step) * g[i] / scale;
        }
        return true;
    }
    void set_step(double step) { options_.step = step; }
    std::span<T> matrix() { return m_; }

  private:
    const Head<T>& head_;
    HiddenMapOptions options_;
    std::vector<T> m_, v_;
    uint64_t steps_ = 0;
};

}  // namespace keel::tools
