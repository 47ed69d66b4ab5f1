#include "sdk/tools/common/statistics.h"

#include <math.h>

#include <algorithm>
#include <map>

namespace keel::tools {

double percentile(std::vector<double> samples, double q) {
    if (samples.empty()) return 0;
    const double rank = ceil(q * static_cast<double>(samples.size()));
    const size_t index = rank < 1 ? 0 : std::min(samples.size(), static_cast<size_t>(rank)) - 1;
    std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(index), samples.end());
    return samples[index];
}

std::vector<HistogramBin> histogram_of(const std::vector<double>& samples, uint32_t bins_per_octave) {
    std::map<int64_t, uint64_t> counts;
    for (const double x : samples)
        if (x > 0 && isfinite(x)) ++counts[static_cast<int64_t>(floor(log2(x) * bins_per_octave))];
    std::vector<HistogramBin> bins;
    for (const auto& [index, count] : counts)
        bins.push_back({exp2(static_cast<double>(index) / bins_per_octave), count});
    return bins;
}

Spread spread_of(std::vector<double> samples) {
    if (samples.empty()) return {};
    std::sort(samples.begin(), samples.end());
    const size_t half = samples.size() / 2;
    const double median = samples.size() % 2 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
    return {median, samples.front(), samples.back()};
}

double log_sum_exp(std::span<const float> logits) {
    double largest = -INFINITY;
    for (const float x : logits) {
        if (isnan(x)) return NAN;
        largest = std::max(largest, static_cast<double>(x));
    }
    if (isinf(largest)) return largest;
    double sum = 0;
    for (const float x : logits) sum += exp(x - largest);
    return largest + log(sum);
}

Interval bootstrap_mean_nll(std::span<const ScoredUnit> units, uint32_t resamples) {
    double nll = 0, tokens = 0;
    for (const ScoredUnit& unit : units) {
        nll += unit.nll_sum;
        tokens += static_cast<double>(unit.tokens);
    }
    if (units.size() < 2) return {tokens > 0 ? nll / tokens : 0, tokens > 0 ? nll / tokens : 0};

    uint64_t state = 0x9e3779b97f4a7c15;  // splitmix64
    const auto draw = [&] {
        uint64_t z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (z ^ (z >> 31)) % units.size();  // the bias is below units / 2^64
    };
    std::vector<double> means(resamples);
    for (double& mean : means) {
        double sum = 0, count = 0;
        for (size_t i = 0; i < units.size(); ++i) {
            const ScoredUnit& unit = units[draw()];
            sum += unit.nll_sum;
            count += static_cast<double>(unit.tokens);
        }
        mean = sum / count;
    }
    return {percentile(means, 0.025), percentile(means, 0.975)};
}

PairedDelta bootstrap_paired_delta(std::span<const PairedUnit> units, uint32_t resamples) {
    std::vector<ScoredUnit> differences;
    double sum = 0, tokens = 0;
    for (const PairedUnit& unit : units) {
        differences.push_back({unit.nll - unit.reference_nll, unit.tokens});
        sum += differences.back().nll_sum;
        tokens += static_cast<double>(unit.tokens);
    }
    return {tokens > 0 ? sum / tokens : 0, bootstrap_mean_nll(differences, resamples)};
}

double ppl_percent(double delta_nll) {
    return 100 * expm1(delta_nll);
}

double kl_divergence(std::span<const float> reference, std::span<const float> probabilities, double reference_log_sum,
                     std::span<const float> other, double other_log_sum) {
    const double offset = other_log_sum - reference_log_sum;
    double sum = 0;
    for (size_t i = 0; i < reference.size(); ++i)
        if (probabilities[i] > 0)
            sum += probabilities[i] * (static_cast<double>(reference[i]) - static_cast<double>(other[i]) + offset);
    return sum < 0 ? 0 : sum;  // rounding only; NaN stays
}

size_t top_index(std::span<const float> logits) {
    size_t top = 0;
    for (size_t i = 1; i < logits.size(); ++i)
        if (logits[i] > logits[top]) top = i;
    return top;
}

}  // namespace keel::tools
