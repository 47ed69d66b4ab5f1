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

// A sum over several tokens that were scored together, such as one document's. Units of one source, two chapters of a
// book, are not independent of each other; kOwnSource: it depends on no other one.
constexpr uint32_t kOwnSource = UINT32_MAX;
struct ScoredUnit {
    double nll_sum = 0;  // nats
    uint64_t tokens = 0;
    uint32_t source = kOwnSource;
};
struct Interval {
    double low = 0, high = 0;
};
// 95 % interval of (sum of nll) / (sum of tokens) over other sources of the same kind: Student's t with one degree of
// freedom less than there are sources, the variance of a ratio by its linear part (W. G. Cochran, Sampling Techniques,
// sections 6.4 and 9A.2). Both ends equal the mean for fewer than two sources. Percentiles of a bootstrap cover far
// less than they say where there are few units: 80 % at four.
Interval mean_nll_interval(std::span<const ScoredUnit> units);
// Sources of the units; each without one counts. An interval of fewer than kFewSources rests on their being alike.
size_t source_count(std::span<const ScoredUnit> units);
constexpr size_t kFewSources = 12;
// The point of Student's distribution that 97.5 % lie below. degrees > 0. Within 0.2 %.
double student_t_975(size_t degrees);

// The same tokens scored twice, such as one document of a reference and of what is compared with it. Sums in nats.
struct PairedUnit {
    double reference_nll = 0, nll = 0;
    uint64_t tokens = 0;
    uint32_t source = kOwnSource;
};
struct PairedDelta {
    double mean = 0;    // sum of (nll - reference_nll) over the sum of tokens
    Interval interval;  // mean_nll_interval of the differences
};
PairedDelta paired_delta(std::span<const PairedUnit> units);
// A difference in nats per token as a change of perplexity in percent: 100 (exp(delta) - 1).
double ppl_percent(double delta_nll);

// Kullback-Leibler divergence of softmax(other) from softmax(reference) in nats: sum p (ln p - ln q), never below 0.
// probabilities: softmax(reference); *_log_sum: log_sum_exp of the logits. Sums in f64.
double kl_divergence(std::span<const float> reference, std::span<const float> probabilities, double reference_log_sum,
                     std::span<const float> other, double other_log_sum);
// Index of the largest logit, the lowest of equals.
size_t top_index(std::span<const float> logits);

}  // namespace keel::tools
