#include "sdk/tools/lab/kv/kv_meter.h"

#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {

KvMeter::KvMeter(const EngineOptions& options, const std::string& file, uint32_t documents, uint32_t tokens)
    : options_(options), context_(tokens) {
    KvSpec f32;
    f32.k_format = f32.v_format = KEEL_KV_F32;
    KvRun run(options, f32, tokens);
    for (std::vector<int32_t>& ids : tokenize_documents(run.model().engine, file, documents, tokens + 1))
        references_.emplace_back(run, std::move(ids));
}

KvMeter::Reading KvMeter::measure(const KvProfile& profile) {
    const std::vector<char> bytes = encode_kv_profile(profile);
    keel_reader reader = make<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "cannot read a profile");
    KvRun run(options_, KvSpec{}, context_, &reader);
    KvScore score;
    for (const KvReference& reference : references_) {
        stop_if_interrupted();
        run.forward(reference.input(), [&](size_t position, std::span<const float> logits) {
            score.add(compare(reference, position, logits));
        });
        score.end_document();
    }
    ++measurements_;
    return {score.kl_mean(), score.delta()};
}

uint64_t KvMeter::tokens() const {
    uint64_t tokens = 0;
    for (const KvReference& reference : references_) tokens += reference.positions();
    return tokens;
}

}  // namespace keel::tools
