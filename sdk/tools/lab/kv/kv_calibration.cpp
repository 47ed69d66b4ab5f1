#include "sdk/tools/lab/kv/kv_calibration.h"

#include <math.h>

#include <algorithm>

#include "sdk/tools/lab/kv/kv_codec_tap.h"

namespace keel::tools {
namespace {

constexpr double kLargestGain = 8;

// Which elements of a head are of the profile's pairs.
std::vector<bool> listed_elements(const KvStatistics& s, const KvProfile& profile) {
    std::vector<bool> listed(s.shape().head_dim);
    for (const uint32_t p : profile.pairs) listed[s.pair(p).first] = listed[s.pair(p).second] = true;
    return listed;
}

// What the mean of squares grows by when `removed` is taken from what has the mean `mean`.
double energy_without(double removed, double mean) {
    return removed * (removed - 2 * mean);
}

}  // namespace

std::pair<uint32_t, uint32_t> KvStatistics::pair(uint32_t i) const {
    if (neox_) return {i, i + rope_dims_ / 2};
    return {2 * i, 2 * i + 1};
}

KvErrorWeights kv_error_weights(const KvDocumentRows& rows, uint32_t layer, uint32_t kv_head, uint32_t sinks,
                                uint32_t recent) {
    constexpr double kSmall = 1e-5;  // probabilities below weigh nothing beside others
    const uint32_t dim = rows.shape.head_dim, group = rows.shape.group(),
                   step = (rows.tokens + KvErrorWeights::kQueries - 1) / KvErrorWeights::kQueries;
    const double scale = static_cast<double>(rows.attention_scale), cap = static_cast<double>(rows.attention_softcap);
    const auto k = [&](uint32_t j) { return &rows.k_after[rows.kv_row(layer, j, kv_head)]; };
    const auto v = [&](uint32_t j) { return &rows.v[rows.kv_row(layer, j, kv_head)]; };
    KvErrorWeights weights;
    weights.key.resize(rows.tokens);
    weights.value.resize(rows.tokens);
    weights.query.resize(size_t{rows.tokens} * group);
    std::vector<double> p(rows.tokens), o(dim);
    for (uint32_t t = 0; t < rows.tokens; t += step)
        for (uint32_t g = 0; g < group; ++g) {
            const float* q = &rows.q_after[rows.q_row(layer, t, kv_head * group + g)];
            const uint32_t window = rows.window[layer], first = window && t + 1 > window ? t + 1 - window : 0;
            double top = -HUGE_VAL, sum = 0;
            for (uint32_t j = first; j <= t; ++j) {
                float dot = 0;
                for (uint32_t i = 0; i < dim; ++i) dot += q[i] * k(j)[i];
                const double score = static_cast<double>(dot) * scale;
                p[j] = cap != 0 ? cap * tanh(score / cap) : score;
                top = std::max(top, p[j]);
            }
            for (uint32_t j = first; j <= t; ++j) sum += p[j] = exp(p[j] - top);
            std::fill(o.begin(), o.end(), 0);
            for (uint32_t j = first; j <= t; ++j)
                if ((p[j] /= sum) > kSmall)
                    for (uint32_t i = 0; i < dim; ++i) o[i] += p[j] * static_cast<double>(v(j)[i]);
            for (uint32_t j = std::max(first, sinks); j + recent <= t; ++j) {
                if (!(p[j] > kSmall)) continue;
                double distance = 0;
                for (uint32_t i = 0; i < dim; ++i) {
                    const double d = static_cast<double>(v(j)[i]) - o[i];
                    distance += d * d;
                }
                const double w = p[j] * p[j];
                weights.value[j] += w;
                weights.key[j] += w * distance;
                weights.query[size_t{t} * group + g] += w * distance;
            }
        }
    return weights;
}

void KvStatistics::add(const KvDocumentRows& rows, uint32_t first_position) {
    KvErrorWeights same;
    same.key.resize(rows.tokens);
    for (uint32_t t = first_position; t < rows.tokens; ++t) same.key[t] = 1;
    same.value = same.key;
    for (const double w : same.key) same.query.insert(same.query.end(), rows.shape.group(), w);
    positions_ += rows.tokens - std::min(first_position, rows.tokens);
    for (uint32_t layer = 0; layer < rows.shape.layers; ++layer)
        for (uint32_t head = 0; head < rows.shape.kv_heads; ++head) add_head(rows, layer, head, same);
}

void KvStatistics::add_weighed(const KvDocumentRows& rows, uint32_t sinks, uint32_t recent) {
    positions_ += rows.tokens - std::min(sinks, rows.tokens);
    for (uint32_t layer = 0; layer < rows.shape.layers; ++layer)
        for (uint32_t head = 0; head < rows.shape.kv_heads; ++head)
            add_head(rows, layer, head, kv_error_weights(rows, layer, head, sinks, recent));
}

void KvStatistics::add_head(const KvDocumentRows& rows, uint32_t layer, uint32_t kv_head,
                            const KvErrorWeights& weights) {
    shape_ = rows.shape;
    rope_dims_ = rows.rope_dims;
    neox_ = rows.neox;
    const uint32_t dim = shape_.head_dim, group = shape_.group();
    const size_t heads = size_t{shape_.layers} * shape_.kv_heads, to = at(layer, kv_head), own = to / dim;
    for (std::vector<double>* sums : {&key_before_, &key_after_, &value_, &key_square_, &value_square_, &query_square_})
        sums->resize(heads * dim);
    for (std::vector<double>* sums : {&key_weight_, &value_weight_, &query_weight_}) sums->resize(heads);
    for (uint32_t t = 0; t < rows.tokens; ++t) {
        const size_t from = rows.kv_row(layer, t, kv_head);
        const double of_key = weights.key[t], of_value = weights.value[t];
        key_weight_[own] += of_key;
        value_weight_[own] += of_value;
        for (uint32_t i = 0; i < dim; ++i) {
            const double before = rows.k_before[from + i], after = rows.k_after[from + i], v = rows.v[from + i];
            key_before_[to + i] += of_key * before;
            key_after_[to + i] += of_key * after;
            key_square_[to + i] += of_key * after * after;
            value_[to + i] += of_value * v;
            value_square_[to + i] += of_value * v * v;
        }
        for (uint32_t g = 0; g < group; ++g) {
            const double of_query = weights.query[size_t{t} * group + g];
            const float* q = &rows.q_after[rows.q_row(layer, t, kv_head * group + g)];
            query_weight_[own] += of_query;
            for (uint32_t i = 0; i < dim; ++i) query_square_[to + i] += of_query * static_cast<double>(q[i]) * q[i];
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
    const std::vector<bool> listed = listed_elements(s, *profile);
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

void KvKeyMoments::add(const KvDocumentRows& rows) {
    const uint32_t dim = shape().head_dim;
    const std::vector<bool> listed = listed_elements(weighed_, profile_);
    key_.resize(size_t{shape().layers} * shape().kv_heads * dim);
    std::vector<float> mean(dim), coded(dim);
    for (uint32_t layer = 0; layer < shape().layers; ++layer)
        for (uint32_t head = 0; head < shape().kv_heads; ++head) {
            const std::vector<double> weight = kv_error_weights(rows, layer, head, sinks_, recent_).key;
            const size_t at = weighed_.at(layer, head);
            for (uint32_t t = 0; t < rows.tokens; ++t) {
                std::copy_n(&rows.k_after[rows.kv_row(layer, t, head)], dim, coded.begin());
                if (!profile_.key_means.empty()) {
                    for (uint32_t i = 0; i < dim; ++i) mean[i] = listed[i] ? profile_.key_means[at + i] : 0;
                    apply_rope(mean.data(), rows.rope_dims, rows.neox, &rows.cos_sin[rows.rope_row(layer, t)]);
                    for (uint32_t i = 0; i < dim; ++i) coded[i] -= listed[i] ? mean[i] : profile_.key_means[at + i];
                }
                for (uint32_t i = 0; i < dim; ++i) key_[at + i] += weight[t] * static_cast<double>(coded[i]) * coded[i];
            }
        }
}

void set_gains(const KvKeyMoments& m, KvProfile* profile) {
    const uint32_t dim = m.shape().head_dim;
    profile->gains.assign(size_t{m.shape().layers} * m.shape().kv_heads * dim, 1.0f);
    for (size_t head = 0; head < profile->gains.size(); head += dim) {
        std::vector<double> logs(dim);  // of the gains
        double sum = 0;
        uint32_t known = 0;
        for (uint32_t i = 0; i < dim; ++i) {
            const double k = m.key(head + i), q = m.query(head + i);
            logs[i] = k > 0 && q > 0 ? 0.25 * log(k / q) : NAN;
            if (!isnan(logs[i])) sum += logs[i], ++known;
        }
        for (uint32_t i = 0; i < dim; ++i)
            if (!isnan(logs[i]))
                profile->gains[head + i] =
                    static_cast<float>(std::clamp(exp(logs[i] - sum / known), 1 / kLargestGain, kLargestGain));
    }
}

// Of pairs that are listed only the sums of both elements are meant: rotation mixes them.
double coded_key_share(const KvStatistics& s, const KvProfile& profile, uint32_t layer) {
    const std::vector<bool> listed = listed_elements(s, profile);
    double removed = 0, all = 0;
    for (size_t i = s.at(layer, 0); i < s.at(layer + 1, 0); ++i) {
        all += s.key_energy(i);
        if (!profile.key_means.empty())
            removed += energy_without(static_cast<double>(profile.key_means[i]),
                                      listed[i % s.shape().head_dim] ? s.key_mean_before(i) : s.key_mean_after(i));
    }
    return all > 0 ? std::max(0.0, 1 + removed / all) : 1;
}

double coded_value_share(const KvStatistics& s, const KvProfile& profile, uint32_t layer) {
    double removed = 0, all = 0;
    for (size_t i = s.at(layer, 0); i < s.at(layer + 1, 0); ++i) {
        all += s.value_energy(i);
        if (!profile.value_means.empty())
            removed += energy_without(static_cast<double>(profile.value_means[i]), s.value_mean(i));
    }
    return all > 0 ? std::max(0.0, 1 + removed / all) : 1;
}

}  // namespace keel::tools
