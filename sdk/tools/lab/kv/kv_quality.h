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

// Sums over documents. Runs of 64 tokens take their place in intervals where all are of one source; what they say is of
// this source.
class KvScore {
  public:
    void add(const KvComparison& comparison);
    void end_document(uint32_t source = kOwnSource);  // as source_numbers() has it

    uint64_t tokens() const { return kl_.size(); }
    size_t documents() const { return documents_.size(); }
    bool by_document() const { return source_count(kl_documents_) > 1; }
    double reference_nll() const;
    PairedDelta delta() const;                           // from the reference; nats per token
    PairedDelta delta_from(const KvScore& other) const;  // from another score of the same documents
    size_t sources() const;                              // what the intervals are over
    double kl_mean() const;
    Interval kl_interval() const;  // of the mean
    double kl_percentile(double q) const { return percentile(kl_, q); }
    double same_top_percent() const;
    const std::vector<PairedUnit>& document_units() const { return documents_; }

  private:
    const std::vector<PairedUnit>& units() const { return by_document() ? documents_ : blocks_; }
    const std::vector<ScoredUnit>& kl_units() const { return by_document() ? kl_documents_ : kl_blocks_; }
    std::vector<PairedUnit> documents_, blocks_;
    std::vector<ScoredUnit> kl_documents_, kl_blocks_;
    PairedUnit open_;
    ScoredUnit open_kl_;
    std::vector<double> kl_;
    uint64_t same_top_ = 0;
};

// What a format does to a part of the text: the first `tokens` of every document of one kind.
struct KvPart {
    uint32_t tokens;
    std::string kind;  // empty: of any
    KvScore score;

    bool holds(size_t position, const std::string& document_kind) const {
        return position < tokens && (kind.empty() || kind == document_kind);
    }
};
// Every kind by itself where there are several, and all of them, whole and of each prefix shorter than `tokens`;
// shorter ones first. The whole text is no part of itself: of one kind without prefixes there is none.
std::vector<KvPart> parts_of(std::span<const std::string> kinds, std::vector<uint32_t> prefixes, uint32_t tokens);

// Everything about one format on the given text.
struct KvQuality {
    KvSpec spec;
    KvBytes bytes;
    uint32_t sinks = 0;  // first positions kept in f16
    KvScore score;
    std::vector<KvPart> parts;
    std::vector<double> k_relative_mse, v_relative_mse;    // per layer
    uint64_t decoded_tokens = 0, decoded_differences = 0;  // computed again one by one; of these with other bits
    bool blocks = false;                                   // a codec that codes blocks of positions
    double rows_left_in_f16 = 0;                           // of those, share at the end of a document
};

// The format of the largest ratio among those that lose at most `percent` of perplexity by the upper ends of two 95 %
// intervals: of the change of perplexity, and of the mean KL, which is at most `kl_factor` times the nats of `percent`.
// The first alone says nothing on text that a worse model predicts better. Null when there is none.
const KvQuality* largest_ratio(std::span<const KvQuality> qualities, double percent, double kl_factor,
                               const std::string& family = {});
// Families in order of first appearance.
std::vector<std::string> families_of(std::span<const KvQuality> qualities);

}  // namespace keel::tools
