// keel capture trace: states of a text, or of the answers to prompts, as a trace tape.
#include <stdio.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/common/text_rows.h"
#include "sdk/tools/lab/geodesic/trace_tape.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text;
    uint32_t generate = 0, dim = 0;
    float temperature = 0;
    std::string output;
};

float margin_of(std::span<const float> logits) {
    float first = -INFINITY, second = -INFINITY;
    for (const float x : logits) {
        second = std::max(second, std::min(first, x));
        first = std::max(first, x);
    }
    return first - second;
}

// Sessions that advance together, each with a document of its own. Steps are kept until their document and all before
// it are done: the tape has documents in the order in which they came, whatever the number of sessions.
class Capture {
  public:
    Capture(const Options& o, LoadedModel& model, AtomicFile& file) : o_(o), model_(model), file_(file) {
        info_ = model.file.info;
        if (o.dim > info_.embedding) throw ToolError(kExitUsage, "--dim is at most the model's width");
        header_.width = info_.embedding;
        header_.dim = o.dim ? o.dim : info_.embedding;
        header_.layer = info_.layers;
        header_.fingerprint = info_.fingerprint;
        header_.tokenizer_hash = stats_of(model).vocabulary_hash;
        file_.write(&header_, sizeof header_);
    }

    // A text as it is: every position.
    void teach(const std::vector<int32_t>& ids) {
        Session session = open_session(model_);
        std::vector<unsigned char> steps;
        TextRows rows(model_.engine, session, stop_if_interrupted);
        rows.start(ids);
        for (size_t i = 0; i < ids.size(); ++i) keep(session, rows.next(), i, ids[i], steps);
        file_.write(steps.data(), steps.size());
    }

    // Answers of up to --generate tokens to prompts, as many at once as there are sessions.
    void answer(const std::vector<std::vector<int32_t>>& prompts) {
        std::vector<Slot> slots(model_.config.max_sessions);
        size_t begun = 0;
        for (;;) {
            stop_if_interrupted();
            std::vector<keel_session> handles;
            for (Slot& slot : slots) {
                if (!slot.session && begun < prompts.size()) {
                    begin(slot, prompts[begun], begun);
                    ++begun;
                }
                if (slot.session) handles.push_back(slot.session.handle());
            }
            if (handles.empty()) return;
            std::vector<keel_advance_result> results(handles.size(), make<keel_advance_result>());
            check(model_.engine.advance(handles, results), "cannot compute an answer");
            for (Slot& slot : slots)
                if (slot.session) step(slot);
        }
    }
    uint64_t steps() const { return steps_; }
    uint32_t dim() const { return header_.dim; }

  private:
    struct Slot {
        Session session;
        size_t document = 0;
        std::vector<unsigned char> steps;
        size_t position = 0;  // of `token`, the newest that is computed or about to be
        int32_t token = 0;
        uint32_t drawn = 0;
    };

    void begin(Slot& slot, const std::vector<int32_t>& prompt, size_t document) {
        slot = {open_session(model_), document, {}, prompt.size() - 1, prompt.back(), 0};
        keel_sampling sampling = make<keel_sampling>();
        sampling.temperature = o_.temperature;
        sampling.seed = document + 1;
        check(slot.session.set_sampling(sampling), "cannot set up sampling");
        check(slot.session.feed(prompt), "cannot feed the prompt");
    }
    void step(Slot& slot) {
        keep(slot.session, 0, slot.position++, slot.token, slot.steps);
        const Result<int32_t> next = slot.session.sample();
        check(next.status, "cannot sample");
        slot.token = *next;
        const Result<Session::Text> text = slot.session.text(*next);
        check(text.status, "cannot write text");
        if (++slot.drawn < o_.generate && !text->stopped && slot.session.feed(*next) == KEEL_OK) return;
        slot.session.close();
        done_[slot.document] = std::move(slot.steps);
        for (auto next = done_.begin(); next != done_.end() && next->first == written_; next = done_.erase(next)) {
            file_.write(next->second.data(), next->second.size());
            ++written_;
        }
    }
    void keep(Session& session, uint32_t row, size_t position, int32_t token, std::vector<unsigned char>& steps) {
        const Result<std::span<const float>> hidden = session.hidden(row), logits = session.logits(row);
        check(hidden.status, "cannot read a state");
        check(logits.status, "cannot read logits");
        geodesic::append_trace_step(steps, static_cast<int32_t>(position), token,
                                    geodesic::project_state(*hidden, header_.dim), margin_of(*logits));
        ++steps_;
    }

    const Options& o_;
    LoadedModel& model_;
    AtomicFile& file_;
    keel_model_info info_{};
    geodesic::TraceHeader header_;
    uint64_t steps_ = 0;
    std::map<size_t, std::vector<unsigned char>> done_;  // documents that one before them keeps from the file
    size_t written_ = 0;
};

void capture_trace(const Options& o, const Console& console) {
    EngineOptions engine = o.engine;
    engine.context = lab_context(o.engine);
    engine.sessions = o.generate ? std::max(1u, o.engine.sessions) : 1;
    LoadedModel model = load_model(engine, console, [&](keel_config& config) {
        if (!o.generate) config.logits_rows = config.chunk_tokens;
    });
    AtomicFile file(o.output);
    Capture capture(o, model, file);
    if (o.generate) {
        std::vector<std::vector<int32_t>> prompts;
        for (const TextDocument& document : read_documents(o.text.file, o.text.documents)) {
            prompts.push_back(chat_prompt(model.engine, document.text));
            if (prompts.back().empty()) prompts.pop_back();
        }
        capture.answer(prompts);
    } else {
        for (const auto& ids :
             tokenize_documents(model.engine, o.text.file, o.text.documents, tokens_within(o.text, engine.context)))
            capture.teach(ids);
    }
    file.commit();
    if (console.json)
        print_json({{"output", o.output}, {"steps", capture.steps()}, {"dim", capture.dim()}});
    else
        printf("%s: %llu states of %u numbers\n", o.output.c_str(), static_cast<unsigned long long>(capture.steps()),
               capture.dim());
}

}  // namespace

void add_capture_trace_verb(Verb capture, Console& console) {
    Verb verb =
        add_verb(capture, console, "trace", "states of a text, or of a model's answers, as a trace tape",
                 "  keel capture trace model.gguf text.txt --output text.trace\n"
                 "  keel capture trace model.gguf prompts.jsonl --generate 128 --sessions 4 --output answers.trace");
    auto o = std::make_shared<Options>();
    add_engine_options(verb, o->engine);
    add_text_options(verb, o->text, "to compute");
    verb.get_option("text").required();
    verb.add_option("--generate", o->generate,
                    "each document is a user's message; record an answer of up to so many tokens instead of the text");
    verb.add_option("--temperature", o->temperature, "of answers (default 0: greedy)").not_negative();
    verb.add_option("--sessions", o->engine.sessions, "answers computed together").range(1, 64);
    verb.add_option("--dim", o->dim, "project states to so many numbers (default: as they are)");
    verb.add_option("--output,-o", o->output, "the file to write").required();
    verb.callback([o, &console] { capture_trace(*o, console); });
}

}  // namespace keel::tools
