// The arithmetic of measurements: order statistics, confidence intervals, log-probabilities.
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::tools {

// The smallest sample that at least a fraction q (0..1) of all samples do not exceed (nearest rank); 0 without samples.
double percentile(std::vector<double> samples, double q);

// Samples in bins whose edges are powers of 2^(1/bins_per_octave); bins without samples are left out. Samples that are
// not positive fall into no bin.
struct HistogramBin {
    double low;  // the bin holds [low, low * 2^(1/bins_per_octave))
    uint64_t count;
};
std::vector<HistogramBin> histogram_of(const std::vector<double>& samples, uint32_t bins_per_octave);

// The middle of repeated measurements and how far they lie apart.
struct Spread {
    double median = 0, lowest = 0, highest = 0;  // the median is the mean of the middle two for an even count
};
Spread spread_of(std::vector<double> samples);

// Natural log of the sum of exp(x), without overflow; NaN if any x is NaN. Sums in f64.
double log_sum_exp(std::span<const float> logits);

// A sum over several tokens that were scored together, such as one document's.
struct ScoredUnit {
    double nll_sum = 0;  // nats
    uint64_t tokens = 0;
};
struct Interval {
    double low = 0, high = 0;
};
// 95 % percentile-bootstrap interval of (sum of nll) / (sum of tokens): `resamples` draws of as many units, with
// replacement. The generator is fixed, so the same units give the same interval. Both ends equal the mean for fewer
// than two units.
Interval bootstrap_mean_nll(std::span<const ScoredUnit> units, uint32_t resamples = 4000);

// The same tokens scored twice, such as one document of a reference and of what is compared with it. Sums in nats.
struct PairedUnit {
    double reference_nll = 0, nll = 0;
    uint64_t tokens = 0;
};
struct PairedDelta {
    double mean = 0;    // sum of (nll - reference_nll) over the sum of tokens
    Interval interval;  // 95 %, as bootstrap_mean_nll of the differences: each draw takes both sums of a unit
};
PairedDelta bootstrap_paired_delta(std::span<const PairedUnit> units, uint32_t resamples = 4000);
// A difference in nats per token as a change of perplexity in percent: 100 (exp(delta) - 1).
double ppl_percent(double delta_nll);

// Kullback-Leibler divergence of softmax(other) from softmax(reference) in nats: sum p (ln p - ln q), never below 0.
// probabilities: softmax(reference); *_log_sum: log_sum_exp of the logits. Sums in f64.
double kl_divergence(std::span<const float> reference, std::span<const float> probabilities, double reference_log_sum,
                     std::span<const float> other, double other_log_sum);
// Index of the largest logit, the lowest of equals.
size_t top_index(std::span<const float> logits);

}  // namespace keel::tools
