#include "sdk/tools/lab/kv/kv_calibration.h"

#include <math.h>

#include <algorithm>

namespace keel::tools {
namespace {

constexpr double kLargestGain = 8;

// Mean square of element i after what the profile removes.
double coded_key_energy(const KvStatistics& s, const KvProfile& profile, size_t i) {
    const double mean = profile.key_means.empty() ? 0 : static_cast<double>(profile.key_means[i]);
    return std::max(0.0, s.key_energy(i) - mean * mean);
}

}  // namespace

std::pair<uint32_t, uint32_t> KvStatistics::pair(uint32_t i) const {
    if (neox_) return {i, i + rope_dims_ / 2};
    return {2 * i, 2 * i + 1};
}

void KvStatistics::add(const KvDocumentRows& rows, uint32_t first_position) {
    shape_ = rows.shape;
    rope_dims_ = rows.rope_dims;
    neox_ = rows.neox;
    positions_ += rows.tokens - std::min(first_position, rows.tokens);
    const uint32_t dim = shape_.head_dim;
    for (std::vector<double>* sums : {&key_before_, &key_after_, &value_, &key_square_, &value_square_, &query_square_})
        sums->resize(size_t{shape_.layers} * shape_.kv_heads * dim);
    for (uint32_t layer = 0; layer < shape_.layers; ++layer)
        for (uint32_t t = first_position; t < rows.tokens; ++t)
            for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
                const size_t to = at(layer, head), from = rows.kv_row(layer, t, head);
                for (uint32_t i = 0; i < dim; ++i) {
                    const double before = rows.k_before[from + i], after = rows.k_after[from + i], v = rows.v[from + i];
                    key_before_[to + i] += before;
                    key_after_[to + i] += after;
                    key_square_[to + i] += after * after;
                    value_[to + i] += v;
                    value_square_[to + i] += v * v;
                }
                for (uint32_t g = 0; g < shape_.group(); ++g) {
                    const float* q = &rows.q_after[rows.q_row(layer, t, head * shape_.group() + g)];
                    for (uint32_t i = 0; i < dim; ++i) query_square_[to + i] += static_cast<double>(q[i]) * q[i];
                }
            }
}

std::vector<uint32_t> choose_mean_pairs(const KvStatistics& s, uint32_t count) {
    const uint32_t heads = s.shape().layers * s.shape().kv_heads, dim = s.shape().head_dim, pairs = s.rope_dims() / 2;
    std::vector<double> left(heads);                                            // energy of a head's coded keys so far
    std::vector<std::vector<double>> saved(heads, std::vector<double>(pairs));  // by listing a pair
    for (uint32_t h = 0; h < heads; ++h) {
        const auto square = [](double x) { return x * x; };
        for (uint32_t i = 0; i < dim; ++i)
            left[h] += s.key_energy(size_t{h} * dim + i) - square(s.key_mean_after(size_t{h} * dim + i));
        for (uint32_t p = 0; p < pairs; ++p)
            for (const uint32_t i : {s.pair(p).first, s.pair(p).second})
                saved[h][p] +=
                    square(s.key_mean_before(size_t{h} * dim + i)) - square(s.key_mean_after(size_t{h} * dim + i));
    }
    std::vector<uint32_t> chosen;
    while (chosen.size() < std::min(count, pairs)) {
        uint32_t best = pairs;
        double best_gain = 0;
        for (uint32_t p = 0; p < pairs; ++p) {
            if (std::find(chosen.begin(), chosen.end(), p) != chosen.end()) continue;
            double gain = 0;
            for (uint32_t h = 0; h < heads; ++h)
                if (left[h] > 0) gain += log(left[h] / std::max(left[h] - saved[h][p], left[h] * 1e-6));
            if (best == pairs || gain > best_gain) {
                best = p;
                best_gain = gain;
            }
        }
        for (uint32_t h = 0; h < heads; ++h) left[h] = std::max(left[h] - saved[h][best], left[h] * 1e-6);
        chosen.push_back(best);
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

void set_key_means(const KvStatistics& s, KvProfile* profile) {
    std::vector<bool> listed(s.shape().head_dim);
    for (const uint32_t p : profile->pairs) listed[s.pair(p).first] = listed[s.pair(p).second] = true;
    profile->key_means.resize(size_t{s.shape().layers} * s.shape().kv_heads * s.shape().head_dim);
    for (size_t i = 0; i < profile->key_means.size(); ++i)
        profile->key_means[i] =
            static_cast<float>(listed[i % s.shape().head_dim] ? s.key_mean_before(i) : s.key_mean_after(i));
}

void set_value_means(const KvStatistics& s, KvProfile* profile) {
    profile->value_means.resize(size_t{s.shape().layers} * s.shape().kv_heads * s.shape().head_dim);
    for (size_t i = 0; i < profile->value_means.size(); ++i)
        profile->value_means[i] = static_cast<float>(s.value_mean(i));
}

void set_gains(const KvStatistics& s, KvProfile* profile) {
    const uint32_t dim = s.shape().head_dim, rotated = s.rope_dims();
    profile->gains.assign(size_t{s.shape().layers} * s.shape().kv_heads * dim, 1.0f);
    for (size_t head = 0; head < profile->gains.size(); head += dim) {
        std::vector<double> logs(dim);  // of the gains
        const auto set = [&](uint32_t a, uint32_t b) {
            const double k = coded_key_energy(s, *profile, head + a) + coded_key_energy(s, *profile, head + b),
                         q = s.query_energy(head + a) + s.query_energy(head + b);
            logs[a] = logs[b] = k > 0 && q > 0 ? 0.25 * log(k / q) : NAN;
        };
        for (uint32_t p = 0; p < rotated / 2; ++p) set(s.pair(p).first, s.pair(p).second);
        for (uint32_t i = rotated; i < dim; ++i) set(i, i);
        double sum = 0;
        uint32_t known = 0;
        for (const double x : logs)
            if (!isnan(x)) sum += x, ++known;
        for (uint32_t i = 0; i < dim; ++i)
            if (!isnan(logs[i]))
                profile->gains[head + i] =
                    static_cast<float>(std::clamp(exp(logs[i] - sum / known), 1 / kLargestGain, kLargestGain));
    }
}

double coded_key_share(const KvStatistics& s, const KvProfile& profile, uint32_t layer) {
    double coded = 0, all = 0;
    for (size_t i = s.at(layer, 0); i < s.at(layer + 1, 0); ++i) {
        coded += coded_key_energy(s, profile, i);
        all += s.key_energy(i);
    }
    return all > 0 ? coded / all : 1;
}

double coded_value_share(const KvStatistics& s, const KvProfile& profile, uint32_t layer) {
    double coded = 0, all = 0;
    for (size_t i = s.at(layer, 0); i < s.at(layer + 1, 0); ++i) {
        const double mean = profile.value_means.empty() ? 0 : static_cast<double>(profile.value_means[i]);
        coded += std::max(0.0, s.value_energy(i) - mean * mean);
        all += s.value_energy(i);
    }
    return all > 0 ? coded / all : 1;
}

}  // namespace keel::tools
