#include "sdk/tools/lab/kv/kv_quality.h"

#include <math.h>

#include <algorithm>

namespace keel::tools {
namespace {

constexpr uint32_t kBlockTokens = 64;  // unit of intervals when there is one source only

}  // namespace

KvReference::KvReference(KvRun& run, std::vector<int32_t> ids)
    : ids_(std::move(ids)), vocabulary_(run.info().vocabulary) {
    const size_t n = positions();
    logits_.resize(n * vocabulary_);
    probabilities_.resize(n * vocabulary_);
    log_sums_.resize(n);
    run.forward(input(), [&](size_t position, std::span<const float> row) {
        std::copy(row.begin(), row.end(), logits_.begin() + static_cast<ptrdiff_t>(position * vocabulary_));
        const double log_sum = log_sums_[position] = log_sum_exp(row);
        for (size_t i = 0; i < vocabulary_; ++i)
            probabilities_[position * vocabulary_ + i] = static_cast<float>(exp(row[i] - log_sum));
    });
}

KvComparison compare(const KvReference& reference, size_t position, std::span<const float> logits) {
    const double log_sum = log_sum_exp(logits);
    KvComparison c;
    c.reference_nll = reference.nll(position);
    c.nll = log_sum - logits[static_cast<size_t>(reference.ids()[position + 1])];
    c.kl = kl_divergence(reference.logits(position), reference.probabilities(position), reference.log_sum(position),
                         logits, log_sum);
    c.same_top = top_index(logits) == top_index(reference.logits(position));
    return c;
}

void KvScore::add(const KvComparison& c) {
    if (kl_.size() % kBlockTokens == 0) {
        blocks_.emplace_back();
        kl_blocks_.emplace_back();
    }
    for (PairedUnit* unit : {&open_, &blocks_.back()}) {
        unit->reference_nll += c.reference_nll;
        unit->nll += c.nll;
        ++unit->tokens;
    }
    for (ScoredUnit* unit : {&open_kl_, &kl_blocks_.back()}) {
        unit->nll_sum += c.kl;
        ++unit->tokens;
    }
    kl_.push_back(c.kl);
    same_top_ += c.same_top;
}

void KvScore::end_document(uint32_t source) {
    if (open_.tokens) {
        open_.source = open_kl_.source = source;
        documents_.push_back(open_);
        kl_documents_.push_back(open_kl_);
    }
    open_ = {};
    open_kl_ = {};
}

double KvScore::reference_nll() const {
    double sum = 0;
    for (const PairedUnit& unit : blocks_) sum += unit.reference_nll;
    return kl_.empty() ? 0 : sum / static_cast<double>(kl_.size());
}
PairedDelta KvScore::delta() const {
    return paired_delta(units());
}
PairedDelta KvScore::delta_from(const KvScore& other) const {
    std::vector<PairedUnit> pairs = units();
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i].reference_nll = other.units()[i].nll;
    return paired_delta(pairs);
}
double KvScore::kl_mean() const {
    double sum = 0;
    for (const double kl : kl_) sum += kl;
    return kl_.empty() ? 0 : sum / static_cast<double>(kl_.size());
}
Interval KvScore::kl_interval() const {
    return mean_nll_interval(kl_units());
}
size_t KvScore::sources() const {
    return source_count(kl_units());
}
double KvScore::same_top_percent() const {
    return kl_.empty() ? 0 : 100.0 * static_cast<double>(same_top_) / static_cast<double>(kl_.size());
}

std::vector<KvPart> parts_of(std::span<const std::string> kinds, std::vector<uint32_t> prefixes, uint32_t tokens) {
    std::vector<std::string> names;
    for (const std::string& kind : kinds)
        if (std::find(names.begin(), names.end(), kind) == names.end()) names.push_back(kind);
    if (names.size() < 2) names.clear();
    names.push_back({});
    std::erase_if(prefixes, [&](uint32_t prefix) { return prefix >= tokens; });
    prefixes.push_back(tokens);
    std::sort(prefixes.begin(), prefixes.end());
    std::vector<KvPart> parts;
    for (const uint32_t prefix : prefixes)
        for (const std::string& name : names)
            if (prefix < tokens || !name.empty()) parts.push_back({prefix, name, {}});
    return parts;
}

const KvQuality* largest_ratio(std::span<const KvQuality> qualities, double percent, double kl_factor,
                               const std::string& family) {
    const KvQuality* best = nullptr;
    for (const KvQuality& q : qualities) {
        if (!family.empty() && q.spec.family != family) continue;
        if (!(ppl_percent(q.score.delta().interval.high) <= percent)) continue;
        if (!(q.score.kl_interval().high <= kl_factor * log1p(percent / 100))) continue;
        if (!best || q.bytes.ratio > best->bytes.ratio) best = &q;
    }
    return best;
}

std::vector<std::string> families_of(std::span<const KvQuality> qualities) {
    std::vector<std::string> families;
    for (const KvQuality& q : qualities)
        if (std::find(families.begin(), families.end(), q.spec.family) == families.end())
            families.push_back(q.spec.family);
    return families;
}

}  // namespace keel::tools
