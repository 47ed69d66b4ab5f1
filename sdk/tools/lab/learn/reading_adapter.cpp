#include "sdk/tools/lab/learn/reading_adapter.h"

#include <time.h>

namespace keel::tools {
namespace {

constexpr double kShares[] = {0, 0.01, 0.03, 0.08};  // of the cache
constexpr uint32_t kShareCount = sizeof kShares / sizeof kShares[0];

double processor_seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// ln of softmax(z)[target], sums in double.
double log_probability(const float* z, uint32_t n, int32_t target) {
    const float top = *std::max_element(z, z + n);
    double sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += static_cast<double>(expf(z[i] - top));
    return static_cast<double>(z[target] - top) - log(sum);
}

}  // namespace

double ReadingAdapter::Bayes::see(const double* p) {
    double sum = 0;
    for (size_t i = 0; i < weight_.size(); ++i) sum += weight_[i] * p[i];
    for (size_t i = 0; i < weight_.size() && sum > 0; ++i) weight_[i] = weight_[i] * p[i] / sum;
    return sum;
}

ReadingAdapter::ReadingAdapter(const Head<float>& head, const ReadingOptions& options)
    : head_(head),
      options_(options),
      map_(head, options.map),
      cache_(head.hidden, options.cached_states, options.sharpness),
      z_(size_t{options.chunk} * head.vocabulary),
      moved_(size_t{options.chunk} * head.hidden),
      gradient_(size_t{head.hidden} * head.hidden) {
    reset();
}

void ReadingAdapter::reset() {
    map_.reset();
    cache_.reset();
    shares_.reset(kShareCount);
    cached_shares_.reset(kShareCount);
    frozen_or_not_.reset(2);
    hidden_.clear();
    target_.clear();
    norm_ = 0;
    steps_ = skipped_ = 0;
}

void ReadingAdapter::score(const float* hidden, const float* logits, const int32_t* target, uint32_t n,
                           ReadingScore* scores) {
    const double begin = processor_seconds();
    const uint32_t d = head_.hidden, vocabulary = head_.vocabulary;
    float* z = &z_[size_t{open_tokens()} * vocabulary];
    // Until the map has moved, its logits are those of the frozen model.
    const bool moved = steps_ != 0;
    if (moved) {
        map_.apply(hidden, n, moved_.data());
        head_.multiply(moved_.data(), n, z);
    } else {
        std::copy(logits, logits + size_t{n} * vocabulary, z);
    }
    for (uint32_t t = 0; t < n; ++t) {
        const float* h = hidden + size_t{t} * d;
        const double frozen = exp(log_probability(logits + size_t{t} * vocabulary, vocabulary, target[t])),
                     mapped = moved ? exp(log_probability(z + size_t{t} * vocabulary, vocabulary, target[t])) : frozen,
                     cached = cache_.probability(h, target[t]);
        double p[kShareCount], q[kShareCount];
        for (uint32_t i = 0; i < kShareCount; ++i) {
            p[i] = (1 - kShares[i]) * mapped + kShares[i] * cached;
            q[i] = (1 - kShares[i]) * frozen + kShares[i] * cached;
        }
        const double adapted = shares_.see(p), both[] = {frozen, adapted};
        scores[t] = {-log(frozen), -log(cached_shares_.see(q)), -log(mapped), -log(adapted),
                     -log(frozen_or_not_.see(both))};
        cache_.add(h, target[t]);
    }
    hidden_.insert(hidden_.end(), hidden, hidden + size_t{n} * d);
    target_.insert(target_.end(), target, target + n);
    seconds_ += processor_seconds() - begin;
}

void ReadingAdapter::end_chunk(bool last) {
    const double begin = processor_seconds();
    const uint32_t d = head_.hidden, vocabulary = head_.vocabulary, n = open_tokens();
    if (norm_ == 0) {
        for (uint32_t t = 0; t < n; ++t) {
            double sum = 0;
            for (uint32_t i = 0; i < d; ++i) sum += double{hidden_[size_t{t} * d + i]} * hidden_[size_t{t} * d + i];
            norm_ += sqrt(sum) / n;
        }
        if (norm_ > 0) map_.set_step(options_.rate / norm_);
    }
    if (!last && options_.rate > 0) {
        for (uint32_t t = 0; t < n; ++t) softmax(&z_[size_t{t} * vocabulary], vocabulary);
        map_.gradient(hidden_.data(), z_.data(), target_.data(), n, gradient_.data());
        if (map_.step(gradient_.data()))
            ++steps_;
        else
            ++skipped_;
    }
    hidden_.clear();
    target_.clear();
    seconds_ += processor_seconds() - begin;
}

}  // namespace keel::tools
