// keel geometry ready: the same answers with and without drafts? The report of the published runtime.
#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "sdk/core/hash.h"
#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/engine_setup.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/lab/geodesic/readiness.h"
#include "sdk/tools/lab/geodesic/token_table.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

using geodesic::SelfTest;

constexpr uint32_t kDrafts = 3;       // of a step: few columns cost little
constexpr size_t kShortestMatch = 2;  // tokens that a suffix has in common with what it drafts

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
    const geodesic::EarlierSuffix found = geodesic::earlier_suffix(text);
    if (found.length < kShortestMatch) return {};
    return {text.begin() + static_cast<ptrdiff_t>(found.next),
            text.begin() + static_cast<ptrdiff_t>(std::min(text.size(), found.next + kDrafts))};
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
            // The state goes with the next feed, so drafts are looked for before.
            std::vector<int32_t> drafts;
            if (plain) drafts = drafts_after(session, text, prompt.size(), *plain, &by_records);
            drafts.resize(std::min<size_t>(drafts.size(), kDrafts));
            proposed = drafts.size();
            if (full || *next == info.eos_id || session.feed(*next, KEEL_FEED_SAMPLE) != KEEL_OK) break;
            if (proposed)
                check(keel_session_propose(session.handle(), drafts.data(), static_cast<uint32_t>(proposed)),
                      "cannot propose");
        }
        (plain ? test.drafted_ms : test.plain_ms) += milliseconds_since(start);
        if (text.size() - prompt.size() > o_.tokens) text.resize(prompt.size() + o_.tokens);
        return {text.begin() + static_cast<ptrdiff_t>(prompt.size()), text.end()};
    }

    // By the first that has any: the plain answer (--perfect), the longest suffix, the record store.
    std::vector<int32_t> drafts_after(Session& session, const std::vector<int32_t>& text, size_t prompt,
                                      const std::vector<int32_t>& plain, bool* by_records) {
        *by_records = false;
        const size_t done = text.size() - prompt;
        if (o_.perfect)
            return {plain.begin() + static_cast<ptrdiff_t>(std::min(done, plain.size())),
                    plain.begin() + static_cast<ptrdiff_t>(std::min(done + kDrafts, plain.size()))};
        std::vector<int32_t> drafts = after_longest_suffix(text);
        if (drafts.empty() && store_) {
            drafts = after_record(session, text.back());
            *by_records = !drafts.empty();
        }
        return drafts;
    }

    // What followed the nearest record, where it has the drawn token and lies within its radius.
    std::vector<int32_t> after_record(Session& session, int32_t drawn) {
        const Result<std::span<const float>> hidden = session.hidden();
        check(hidden.status, "cannot read a state");
        float key[geodesic::kStoreDim];
        geodesic::store_key(*store_, geodesic::project_state(*hidden, store_->header.features).data(), key);
        const geodesic::Found found = geodesic::find_record(*store_, key, {.metric = false});
        if (found.record < 0 || store_->gate[found.record] != drawn || found.distance > store_->radius[found.record])
            return {};
        const int32_t* next = store_->next + size_t{static_cast<uint32_t>(found.record)} * store_->header.horizon;
        return {next, std::find(next, next + store_->header.horizon, -1)};
    }

    const Options& o_;
    LoadedModel& model_;
    const geodesic::RecordStore* store_;
};

uint64_t hash_of(const std::string& bytes, uint64_t state) {
    return hash_update(state, bytes.data(), bytes.size());
}

void ready(const Options& o, const Console& console) {
    const auto start = std::chrono::steady_clock::now();
    EngineOptions engine = o.engine;
    engine.sessions = 1;
    LoadedModel model = load_model(engine, console, [](keel_config& config) { config.draft_tokens = kDrafts; });
    const std::vector<TextDocument> prompts = read_documents(o.prompts, o.documents);
    SelfTest test;
    test.model = model.file.info.name;
    test.fingerprint = model.file.info.fingerprint;
    test.replayed = o.perfect;
    std::vector<unsigned char> file;
    geodesic::RecordStore store;
    if (!o.records.empty()) {
        const std::string bytes = read_text(o.records);
        file.assign(bytes.begin(), bytes.end());
        const uint32_t vocabulary = model.file.info.vocabulary;
        const char* why =
            geodesic::read_store(file, {test.fingerprint, stats_of(model).vocabulary_hash, vocabulary}, &store);
        if (!why && (store.header.block || store.header.features > model.file.info.embedding))
            why = "its features are not states alone";
        if (why) throw ToolError(kExitFile, o.records + " is not used: " + why);
        test.records = true;
    }
    uint64_t hash = kHashSeed;
    for (const TextDocument& prompt : prompts) hash = hash_of(prompt.text + '\0', hash);
    hash = hash_of(strf("%u %a %d %u ", o.tokens, static_cast<double>(o.temperature), o.perfect, kDrafts), hash);
    hash = hash_of(engine_setup(engine, model.config, model.plan).dump(), hash);
    test.test_hash = hash_finish(hash_update(hash, reinterpret_cast<const char*>(file.data()), file.size()));

    std::error_code ignored;
    if (!o.again && std::filesystem::is_regular_file(o.output, ignored)) {
        const std::string text = read_text(o.output);
        if (const auto consistency = geodesic::stored_consistency(text, test.fingerprint, test.test_hash)) {
            if (console.json) return print_json(Json::parse(text));
            printf("%s is of this model and this test already: consistency %.4f (--again makes it anew)\n",
                   o.output.c_str(), *consistency);
            return;
        }
    }
    ReadinessTest run(o, model, test.records ? &store : nullptr);
    ProgressBar bar(console, "self test");
    for (size_t i = 0; i < prompts.size(); ++i) {
        bar.update(i, prompts.size());
        run.run(chat_prompt(model.engine, prompts[i].text), i + 1, test);
    }
    test.total_ms = milliseconds_since(start);
    const std::string report = geodesic::readiness_report(test);
    AtomicFile out(o.output);
    out.write(report.data(), report.size());
    out.commit();
    if (console.json) return print_json(Json::parse(report));
    printf("%s: %s. %llu of %llu answers identical, consistency %.4f; %llu of %llu drafts right, %.2f tokens a step\n",
           o.output.c_str(), test.ready() ? "ready" : "not ready",
           static_cast<unsigned long long>(test.identical_answers), static_cast<unsigned long long>(test.answers),
           test.consistency(), static_cast<unsigned long long>(test.accepted),
           static_cast<unsigned long long>(test.drafts),
           static_cast<double>(test.tokens) / static_cast<double>(std::max<uint64_t>(test.steps, 1)));
}

}  // namespace

void add_geometry_ready_verb(Verb geometry, Console& console) {
    Verb verb = add_verb(geometry, console, "ready", "the same answers with and without drafts?",
                         "  keel geometry ready model.gguf prompts.jsonl\n"
                         "  keel geometry ready model.gguf prompts.jsonl --records answers.records "
                         "--temperature 0.8");
    auto o = std::make_shared<Options>();
    add_engine_options(verb, o->engine);
    verb.add_option("prompts", o->prompts, "a text file, or .jsonl with a field \"text\" per line").required();
    verb.add_option("--documents", o->documents, "prompts of it (0: all)").capture_default_str();
    verb.add_option("--tokens", o->tokens, "of an answer, at most").capture_default_str();
    verb.add_option("--temperature", o->temperature, "of answers (default 0: greedy)").not_negative();
    verb.add_option("--records", o->records, "record store that drafts where no suffix does");
    verb.add_flag("--perfect", o->perfect, "drafts are the plain answers themselves: the ceiling of drafting");
    verb.add_flag("--again", o->again, "also where the report is there already");
    verb.add_option("--output,-o", o->output, "the report").capture_default_str();
    verb.callback([o, &console] { ready(*o, console); });
}

}  // namespace keel::tools
