#include "sdk/tools/lab/lowrank/wproj_meter.h"

#include <algorithm>
#include <chrono>

#include "sdk/tools/common/interrupt.h"

namespace keel::tools {
namespace {

constexpr uint32_t kTimedFrom = 128, kTimedTokens = 64;

KvSpec f16_rows() {
    KvSpec spec;
    spec.k_format = spec.v_format = KEEL_KV_F16;
    return spec;
}

}  // namespace

WprojMeter::WprojMeter(EngineOptions options, std::vector<std::vector<int32_t>> documents,
                       std::vector<uint32_t> sources)
    : options_(std::move(options)), sources_(std::move(sources)) {
    options_.wproj.clear();
    options_.wproj_reader = nullptr;
    options_.low_rank = false;
    options_.wproj_error = 0;
    for (const auto& ids : documents) context_ = std::max(context_, static_cast<uint32_t>(ids.size()));
    context_ = std::max(context_, kTimedFrom + kTimedTokens);
    exact_ = with_exact_activations(options_);
    KvRun run(exact_, f16_rows(), context_);
    for (auto& ids : documents) references_.emplace_back(run, std::move(ids));
}

uint64_t WprojMeter::tokens() const {
    uint64_t tokens = 0;
    for (const KvReference& reference : references_) tokens += reference.positions();
    return tokens;
}

WprojReading WprojMeter::measure(const WprojImage& image, uint32_t rounds) {
    const std::vector<uint8_t> bytes = encode_wproj_v2(image, image.key);
    keel_reader reader = make<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "cannot read a W_proj cache");
    return measure_file(reader, rounds);
}

WprojReading WprojMeter::measure_file(const keel_reader& reader, uint32_t rounds) {
    const auto low_rank = [&](EngineOptions options) {
        options.wproj_reader = &reader;
        options.wproj_any_key = true;
        options.low_rank = true;
        return options;
    };
    KvRun run(low_rank(exact_), f16_rows(), context_);
    WprojReading reading;
    reading.decode_bytes = run.plan().low_rank_decode_bytes;
    reading.dense_decode_bytes = run.plan().decode_bytes;
    reading.records = run.plan().low_rank_factors;
    reading.record_bytes = run.plan().low_rank_bytes;
    for (size_t d = 0; d < references_.size(); ++d) {
        stop_if_interrupted();
        run.forward(references_[d].input(), [&](size_t position, std::span<const float> logits) {
            reading.score.add(compare(references_[d], position, logits));
        });
        reading.score.end_document(sources_[d]);
    }
    if (rounds == 0) return reading;
    run.close();
    KvRun timed(low_rank(options_), f16_rows(), context_);
    Session session = open_session(timed.model());
    for (uint32_t round = 0; round <= rounds; ++round) {  // the first one warms up
        const double dense = decode_rate(timed.model(), session, KEEL_VARIANT_DENSE),
                     factored = decode_rate(timed.model(), session, KEEL_VARIANT_LOW_RANK);
        if (round == 0) continue;
        reading.dense_rate.push_back(dense);
        reading.rate.push_back(factored);
    }
    return reading;
}

double WprojMeter::decode_rate(LoadedModel& model, Session& session, keel_variant variant) {
    const std::vector<int32_t> prompt(kTimedFrom, 1);
    check(session.truncate(0), "cannot empty the session");
    check(session.set_variant(variant), "cannot choose the variant");
    check(session.feed(prompt), "cannot feed tokens");
    check(model.engine.advance(session).status, "cannot advance");
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t i = 0; i < kTimedTokens; ++i) {
        check(session.feed(2), "cannot feed a token");
        check(model.engine.advance(session).status, "cannot advance");
    }
    return kTimedTokens / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace keel::tools
