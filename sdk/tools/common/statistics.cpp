#include "sdk/tools/common/statistics.h"

#include <math.h>

#include <algorithm>
#include <map>
#include <set>

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

double student_t_975(size_t degrees) {
    if (degrees == 1) return 12.7062;
    if (degrees == 2) return 4.30265;
    // Expansion in 1/n about the normal point (Abramowitz and Stegun 26.7.5).
    constexpr double z = 1.959963985, z2 = z * z;
    constexpr double g1 = z * (z2 + 1) / 4, g2 = z * ((5 * z2 + 16) * z2 + 3) / 96,
                     g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384,
                     g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
    const double n = 1 / static_cast<double>(degrees);
    return z + n * (g1 + n * (g2 + n * (g3 + n * g4)));
}

size_t source_count(std::span<const ScoredUnit> units) {
    std::set<uint32_t> sources;
    size_t own = 0;
    for (const ScoredUnit& unit : units) {
        if (unit.source == kOwnSource)
            ++own;
        else
            sources.insert(unit.source);
    }
    return own + sources.size();
}

Interval mean_nll_interval(std::span<const ScoredUnit> units) {
    double nll = 0, tokens = 0;
    for (const ScoredUnit& unit : units) {
        nll += unit.nll_sum;
        tokens += static_cast<double>(unit.tokens);
    }
    const double mean = tokens > 0 ? nll / tokens : 0;
    const size_t sources = source_count(units);
    if (sources < 2) return {mean, mean};
    std::map<uint32_t, double> residuals;  // of sources with several units
    double squares = 0;
    for (const ScoredUnit& unit : units) {
        const double residual = unit.nll_sum - mean * static_cast<double>(unit.tokens);
        if (unit.source == kOwnSource)
            squares += residual * residual;
        else
            residuals[unit.source] += residual;
    }
    for (const auto& [source, residual] : residuals) squares += residual * residual;
    const auto n = static_cast<double>(sources);
    const double half = student_t_975(sources - 1) * sqrt(n / (n - 1) * squares) / tokens;
    return {mean - half, mean + half};
}

PairedDelta paired_delta(std::span<const PairedUnit> units) {
    std::vector<ScoredUnit> differences;
    double sum = 0, tokens = 0;
    for (const PairedUnit& unit : units) {
        differences.push_back({unit.nll - unit.reference_nll, unit.tokens, unit.source});
        sum += differences.back().nll_sum;
        tokens += static_cast<double>(unit.tokens);
    }
    return {tokens > 0 ? sum / tokens : 0, mean_nll_interval(differences)};
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
