#include "sdk/tools/lab/kv/kv_meter.h"

#include "sdk/core/hash.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {

KvMeter::KvMeter(const EngineOptions& options, const std::string& file, uint32_t documents, uint32_t tokens)
    : options_(options), context_(tokens) {
    KvRun run(options, exact_kv(), tokens);
    for (std::vector<int32_t>& ids :
         tokenize_documents(run.model().engine, file, documents, tokens + 1, true, &sources_))
        references_.emplace_back(run, std::move(ids));
}

KvMeter::Reading KvMeter::measure(const KvProfile& profile) {
    const std::vector<char> bytes = encode_kv_profile(profile);
    keel_reader reader = make<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "cannot read a profile");
    KvSpec spec;
    spec.sinks = options_.sinks;
    spec.recent = options_.recent;
    KvRun run(options_, spec, context_, &reader);
    KvScore score;
    for (size_t d = 0; d < references_.size(); ++d) {
        stop_if_interrupted();
        run.forward(references_[d].input(), [&](size_t position, std::span<const float> logits) {
            score.add(compare(references_[d], position, logits));
        });
        score.end_document(sources_[d]);
    }
    ++measurements_;
    return {score.kl_mean(), score.delta()};
}

double KvMeter::kl(const KvProfile& profile, KvCostTable* kept) {
    if (!kept) return measure(profile).kl;
    const std::vector<char> bytes = encode_kv_profile(profile);
    const uint64_t key = hash64(bytes.data(), bytes.size());
    if (const std::optional<double> known = kept->find(key)) return *known;
    const double kl = measure(profile).kl;
    kept->add(key, kl);
    return kl;
}

uint64_t KvMeter::tokens() const {
    uint64_t tokens = 0;
    for (const KvReference& reference : references_) tokens += reference.positions();
    return tokens;
}

}  // namespace keel::tools
