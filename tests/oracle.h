// Comparing our logits with those of another implementation.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/test_paths.h"

namespace keel_test {

inline nlohmann::json read_json(const std::string& path) {
    const std::vector<char> text = read_file(path);
    return nlohmann::json::parse(text.begin(), text.end());
}

// A raw little-endian float32 file.
inline std::vector<float> read_f32(const std::string& path) {
    const std::vector<char> bytes = read_file(path);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

// Largest |ours - reference| over the row, relative to the row's largest |reference|; NaN anywhere gives infinity.
inline double row_error(const float* ours, const float* reference, size_t n) {
    double difference = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = std::fabs(static_cast<double>(ours[i]) - reference[i]);
        if (std::isnan(d)) return INFINITY;
        difference = std::max(difference, d);
        largest = std::max(largest, std::fabs(static_cast<double>(reference[i])));
    }
    return difference / largest;
}

inline double log_sum_exp(const float* logits, size_t n) {
    const double top = *std::max_element(logits, logits + n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += std::exp(logits[i] - top);
    return top + std::log(sum);
}

// -ln p(target), nats.
inline double nll(const float* logits, size_t n, int32_t target) {
    return log_sum_exp(logits, n) - logits[target];
}

// KL(softmax(reference) || softmax(ours)), nats.
inline double kl_divergence(const float* reference, const float* ours, size_t n) {
    const double p_sum = log_sum_exp(reference, n), q_sum = log_sum_exp(ours, n);
    double kl = 0;
    for (size_t i = 0; i < n; i++) {
        const double log_p = reference[i] - p_sum;
        kl += std::exp(log_p) * (log_p - (ours[i] - q_sum));
    }
    return kl;
}

inline size_t argmax(const float* values, size_t n) {
    return std::max_element(values, values + n) - values;
}

}  // namespace keel_test
