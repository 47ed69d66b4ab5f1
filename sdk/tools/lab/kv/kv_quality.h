// What a way to store K and V does to a model's predictions, beside a reference that computed the same tokens.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sdk/tools/common/statistics.h"
#include "sdk/tools/lab/kv/kv_run.h"

namespace keel::tools {

// A document of the reference: its logits of every position, and what comparisons need of them. Position p predicts
// ids[p + 1].
class KvReference {
  public:
    KvReference(KvRun& run, std::vector<int32_t> ids);
    // All ids but the last: what is computed.
    std::span<const int32_t> input() const { return std::span(ids_).first(ids_.size() - 1); }
    const std::vector<int32_t>& ids() const { return ids_; }
    size_t positions() const { return ids_.size() - 1; }
    double nll(size_t position) const {
        return log_sums_[position] - logits(position)[static_cast<size_t>(ids_[position + 1])];
    }
    std::span<const float> logits(size_t position) const { return {&logits_[position * vocabulary_], vocabulary_}; }
    std::span<const float> probabilities(size_t position) const {
        return {&probabilities_[position * vocabulary_], vocabulary_};
    }
    double log_sum(size_t position) const { return log_sums_[position]; }

  private:
    std::vector<int32_t> ids_;
    size_t vocabulary_;
    std::vector<float> logits_, probabilities_;
    std::vector<double> log_sums_;
};

// One position compared with the reference's. Nats.
struct KvComparison {
    double reference_nll, nll, kl;
    bool same_top;
};
KvComparison compare(const KvReference& reference, size_t position, std::span<const float> logits);

// Sums over documents. Runs of 64 tokens take the place of documents in intervals where there is one document only.
class KvScore {
  public:
    void add(const KvComparison& comparison);
    void end_document();

    uint64_t tokens() const { return kl_.size(); }
    size_t documents() const { return documents_.size(); }
    bool by_document() const { return documents_.size() > 1; }
    double reference_nll() const;
    PairedDelta delta() const;                           // from the reference; nats per token
    PairedDelta delta_from(const KvScore& other) const;  // from another score of the same documents
    double kl_mean() const;
    double kl_percentile(double q) const { return percentile(kl_, q); }
    double same_top_percent() const;
    const std::vector<PairedUnit>& document_units() const { return documents_; }

  private:
    const std::vector<PairedUnit>& units() const { return by_document() ? documents_ : blocks_; }
    std::vector<PairedUnit> documents_, blocks_;
    PairedUnit open_;
    std::vector<double> kl_;
    uint64_t same_top_ = 0;
};

// Everything about one format on the given text.
struct KvQuality {
    KvSpec spec;
    KvBytes bytes;
    KvScore score;
    std::vector<double> k_relative_mse, v_relative_mse;    // per layer
    uint64_t decoded_tokens = 0, decoded_differences = 0;  // computed again one by one; of these with other bits
    bool blocks = false;                                   // a codec that codes blocks of positions
};

// The format of the largest ratio among those whose upper end of the 95 % interval of the change of perplexity is at
// most `percent`; null when none is.
const KvQuality* largest_ratio(std::span<const KvQuality> qualities, double percent, const std::string& family = {});
// Families in order of first appearance.
std::vector<std::string> families_of(std::span<const KvQuality> qualities);

}  // namespace keel::tools
