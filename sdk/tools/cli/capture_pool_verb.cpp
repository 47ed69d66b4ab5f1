// keel capture pool: what a model answers to prompts, as a draft pool (KEEL_PART_DRAFT_POOL).
#include <stdio.h>

#include <algorithm>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text;
    uint32_t generate = 128;
    uint64_t bytes = uint64_t{4} << 20;
    float temperature = 0;
    std::string output;
};

// An answer of up to `tokens` tokens; the engine's pool learns as the session goes on. How many there were.
uint32_t answer(LoadedModel& model, const std::vector<int32_t>& prompt, uint32_t tokens,
                const keel_sampling& sampling) {
    Session session = open_session(model);
    check(session.set_sampling(sampling), "cannot set up sampling");
    check(session.feed(prompt, KEEL_FEED_SAMPLE), "cannot feed the prompt");
    for (;;) {
        stop_if_interrupted();
        check(model.engine.advance(session).status, "cannot compute an answer");
        const Result<int32_t> next = session.sample();
        check(next.status, "cannot sample");
        const Result<Session::Text> text = session.text(*next);
        check(text.status, "cannot write text");
        const uint32_t written = static_cast<uint32_t>(session.tokens()->size() - prompt.size());
        if (written + 1 >= tokens || text->stopped || session.feed(*next, KEEL_FEED_SAMPLE) != KEEL_OK) return written;
    }
}

void capture_pool(const Options& o, const Console& console) {
    EngineOptions engine = o.engine;
    engine.context = lab_context(o.engine);
    LoadedModel model = load_model(engine, console, [&](keel_config& config) {
        config.draft_tokens = 4;
        config.drafters = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL;
        config.draft_pool_bytes = o.bytes;
    });
    keel_sampling sampling = make<keel_sampling>();
    sampling.temperature = o.temperature;
    std::vector<std::vector<int32_t>> prompts;  // all of them are good before the first is answered
    for (const TextDocument& document : read_documents(o.text.file, o.text.documents)) {
        prompts.push_back(chat_prompt(model.engine, document.text));
        if (prompts.back().size() + o.generate > engine.context)
            throw ToolError(kExitUsage, strf("a prompt of %zu tokens leaves no room for an answer; --context?",
                                             prompts.back().size()));
        if (prompts.back().empty()) prompts.pop_back();
    }
    uint64_t tokens = 0;
    for (const std::vector<int32_t>& prompt : prompts) {
        ++sampling.seed;
        tokens += answer(model, prompt, o.generate, sampling);
    }
    uint64_t bytes = 0;
    check(keel_engine_save_draft_pool(model.engine.handle(), nullptr, 0, &bytes), "cannot save the pool");
    std::vector<char> file(bytes);
    check(keel_engine_save_draft_pool(model.engine.handle(), file.data(), bytes, &bytes), "cannot save the pool");
    write_file(o.output, file);
    if (console.json)
        print_json({{"output", o.output}, {"bytes", bytes}, {"prompts", prompts.size()}, {"tokens", tokens}});
    else
        printf("%s: %llu bytes of %llu tokens answered to %llu prompts\n", o.output.c_str(),
               static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(tokens),
               static_cast<unsigned long long>(prompts.size()));
}

}  // namespace

void add_capture_pool_verb(Verb capture, Console& console) {
    Verb verb = add_verb(capture, console, "pool", "a model's answers to prompts, as a pool to draft from",
                         "  keel capture pool model.gguf prompts.jsonl --generate 128 --output model.kpool");
    auto o = std::make_shared<Options>();
    add_engine_options(verb, o->engine);
    verb.add_option("text", o->text.file, "a text file, or .jsonl with a field \"text\" per line: a user's messages")
        .required();
    verb.add_option("--documents", o->text.documents, "the first N messages (default: all)");
    verb.add_option("--generate", o->generate, "longest answer, in tokens (default 128)").positive();
    verb.add_option("--temperature", o->temperature, "of answers (default 0: greedy)").not_negative();
    verb.add_option("--bytes", o->bytes, "of the pool (default 4 MiB)").range(uint64_t{64}, uint64_t{1} << 32);
    verb.add_option("--output,-o", o->output, "the file to write").required();
    verb.callback([o, &console] { capture_pool(*o, console); });
}

}  // namespace keel::tools
