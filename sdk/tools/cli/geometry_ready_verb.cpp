// keel geometry ready: the same answers with and without drafts? The report of the published runtime.
#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "sdk/core/hash.h"
#include "sdk/geodesic/readiness.h"
#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/text_documents.h"

namespace keel::tools {
namespace {

using geodesic::SelfTest;

constexpr uint32_t kDrafts = 3;         // of a step: four columns cost about two
constexpr size_t kShortestMatch = 2;    // tokens that a suffix has in common with what it drafts
constexpr float kUsualRadius = 1e30f;   // lookups are judged by the record's own radius

struct Options {
    EngineOptions engine;
    std::string prompts, records, output = "ott_readiness_report.json";
    uint32_t documents = 8, tokens = 64;
    float temperature = 0;
    bool perfect = false, again = false;
};

double milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// What followed the longest earlier match of the newest tokens; nothing where fewer than kShortestMatch match.
std::vector<int32_t> after_longest_suffix(const std::vector<int32_t>& text) {
    size_t best = 0, from = 0;
    for (size_t end = text.size() - 1; end-- > 0;) {
        size_t length = 0;
        while (length <= end && length < 16 && text[end - length] == text[text.size() - 1 - length]) ++length;
        if (length > best) best = length, from = end + 1;
    }
    if (best < kShortestMatch) return {};
    return {text.begin() + static_cast<ptrdiff_t>(from),
            text.begin() + static_cast<ptrdiff_t>(std::min(text.size(), from + kDrafts))};
}

class ReadinessTest {
  public:
    ReadinessTest(const Options& o, LoadedModel& model, const geodesic::RecordStore* store)
        : o_(o), model_(model), store_(store) {}

    void run(const std::vector<int32_t>& prompt, uint64_t seed, SelfTest& test) {
        const std::vector<int32_t> plain = answer(prompt, seed, nullptr, test),
                                   drafted = answer(prompt, seed, &plain, test);
        ++test.answers;
        test.tokens += plain.size();
        for (size_t i = 0; i < std::min(plain.size(), drafted.size()); ++i)
            test.agreeing_tokens += plain[i] == drafted[i];
        test.identical_answers += plain == drafted;
    }

  private:
    // With `plain`, the answer without drafts, drafts are made; it is what --perfect replays.
    std::vector<int32_t> answer(const std::vector<int32_t>& prompt, uint64_t seed, const std::vector<int32_t>* plain,
                                SelfTest& test) {
        Session session = open_session(model_);
        keel_sampling sampling = make<keel_sampling>();
        sampling.temperature = o_.temperature;
        sampling.seed = seed;
        check(session.set_sampling(sampling), "cannot set up sampling");
        const keel_model_info& info = model_.file.info;
        std::vector<int32_t> text = prompt;
        check(session.feed(prompt, KEEL_FEED_SAMPLE), "cannot feed the prompt");
        auto start = std::chrono::steady_clock::now();
        size_t proposed = 0;
        bool by_records = false;
        for (bool first = true;; first = false) {
            stop_if_interrupted();
            const keel_advance_result step = model_.engine.advance(session);
            check(step.status, "cannot compute the answer");
            if (first && plain) test.prefill_ms += milliseconds_since(start);
            if (first) start = std::chrono::steady_clock::now();
            if (plain) {
                ++test.steps;
                test.steps_without_draft += !first && !proposed;
                test.drafts += proposed, test.accepted += step.accepted_tokens;
                test.record_drafts += by_records ? proposed : 0;
                test.record_accepted += by_records ? step.accepted_tokens : 0;
            }
            if (step.accepted_tokens) {
                const auto tokens = session.tokens();
                check(tokens.status, "cannot read the answer");
                const auto newest = tokens->last(step.accepted_tokens);
                text.insert(text.end(), newest.begin(), newest.end());
            }
            const Result<int32_t> next = session.sample();
            check(next.status, "cannot sample");
            text.push_back(*next);
            const bool full = text.size() - prompt.size() >= o_.tokens;
            if (full || *next == info.eos_id || session.feed(*next, KEEL_FEED_SAMPLE) != KEEL_OK) break;
            proposed = 0;
            if (!plain) continue;
            std::vector<int32_t> drafts = drafts_after(session, text, prompt.size(), *plain, &by_records);
            if (drafts.size() > kDrafts) drafts.resize(kDrafts);
            proposed = drafts.size();
            if (proposed)
                check(keel_session_propose(session.handle(), drafts.data(), static_cast<uint32_t>(proposed)),
                      "cannot propose");
        }
        (plain ? test.drafted_ms : test.plain_ms) += milliseconds_since(start);
        if (text.size() - prompt.size() > o_.tokens) text.resize(prompt.size() + o_.tokens);
        return {text.begin() + static_cast<ptrdiff_t>(prompt.size()), text.end()};
    }

    std::vector<int32_t> drafts_after(Session&, const std::vector<int32_t>& text, size_t prompt,
                                      const std::vector<int32_t>& plain, bool* by_records) {
        *by_records = false;
        const size_t done = text.size() - prompt;
        if (o_.perfect)
            return {plain.begin() + static_cast<ptrdiff_t>(std::min(done, plain.size())),
                    plain.begin() + static_cast<ptrdiff_t>(std::min(done + kDrafts, plain.size()))};
        return after_longest_suffix(text);
    }

    const Options& o_;
    LoadedModel& model_;
    const geodesic::RecordStore* store_;
};

}  // namespace
}  // namespace keel::tools
