// keel run: one prompt, streamed.
#include <stdio.h>

#include <algorithm>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/case_text.h"
#include "sdk/tools/common/generation.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    SamplingOptions sampling;
    std::string prompt = "It was a dark night", prompt_file;
    bool special = false, no_bos = false, no_echo = false, quiet = false, case_operators = false;
};

int run(const Options& o, const Console& console) {
    const std::string prompt = o.prompt_file.empty() ? o.prompt : read_text(o.prompt_file),
                      read = o.case_operators ? encode_case(prompt) : prompt;  // by the model
    const PreparedSampling sampling(o.case_operators ? with_case_operators(o.sampling) : o.sampling);

    // What the generation needs is allocated before init; from init on, allocations are counted.
    std::string generated;
    std::vector<int32_t> ids;
    CaseText case_text(read.size());
    EngineOptions engine_options = o.engine;
    make_room_for(engine_options, read);
    LoadedModel m = load_model(engine_options, console, {}, [&](const keel_memory_plan& plan) {
        ids.resize(plan.context_tokens);
        constexpr size_t kLongestPiece = 2048;
        const size_t most_tokens = std::min(o.sampling.max_tokens, plan.context_tokens);
        if (console.json) generated.reserve((most_tokens + 1) * kLongestPiece);
    });
    Session session = open_session(m);
    sampling.apply(session);

    const uint32_t flags = (o.special ? KEEL_TOKENIZE_SPECIAL : 0) | (o.no_bos ? 0 : KEEL_TOKENIZE_BOS);
    const Result<std::span<const int32_t>> tokens = m.engine.tokenize(read, ids, flags);
    if (tokens.status == KEEL_E_BUFFER_TOO_SMALL)
        throw ToolError(kExitMemory, strf("the prompt has more tokens than the context of %u; raise --context",
                                          m.plan.context_tokens));
    check(tokens.status, "cannot tokenize the prompt");
    if (tokens->empty()) throw ToolError(kExitUsage, "the prompt is empty and the model has no BOS token");
    const bool lossy = o.case_operators && !case_text.gives_back(m.engine, *tokens, prompt);
    if (lossy && !o.quiet) fputs("note: the tokens of the prompt do not give it back\n", stderr);
    if (!o.special && !o.case_operators && !o.quiet) {
        const Result<size_t> with_marks = m.engine.token_count(prompt, flags | KEEL_TOKENIZE_SPECIAL);
        if (with_marks && *with_marks != tokens->size())
            fputs("note: control tokens written in the prompt are taken as text; --special recognises them\n", stderr);
    }
    if (!console.json && !o.no_echo) fwrite(prompt.data(), 1, prompt.size(), stdout);
    const TextSink to_stdout = {[](void*, std::string_view text) { fwrite(text.data(), 1, text.size(), stdout); },
                                nullptr};
    const TextSink to_string = {
        [](void* context, std::string_view text) { static_cast<std::string*>(context)->append(text); }, &generated};
    hold_to_grammar(session, o.engine);
    const TextSink shown = console.json ? to_string : to_stdout;
    const Generation g =
        generate(m, session, *tokens, o.sampling.max_tokens, o.case_operators ? case_text.behind(read, shown) : shown);
    if (o.case_operators) case_text.finish();
    const keel_stats stats = stats_of(m);
    const AllocationCount allocations = allocations_since(m.heap_at_init, stats);

    if (console.json) {
        Json out = generation_json(g, allocations, stats);
        out["prompt"] = prompt;
        out["text"] = generated;
        if (o.case_operators) out["case_operators"] = {{"lossy_prompt", lossy}, {"malformed", case_text.malformed()}};
        out["load_seconds"] = m.load_seconds;
        out["model"] = info_json(m.file.info);
        print_json(out);
    } else {
        fputs("\n", stdout);
        if (case_text.malformed() && !o.quiet)
            fprintf(stderr, "note: %llu case operators where no text has one were left out\n",
                    static_cast<unsigned long long>(case_text.malformed()));
        if (!o.quiet) fprintf(stderr, "\n%s", generation_text(g, allocations, stats).c_str());
    }
    return g.reason == StopReason::kCancelled ? kExitCancelled : kExitOk;
}

}  // namespace

void add_run_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "run", "continue a prompt, streaming the text",
                         "  keel run model.gguf --prompt \"It was a dark night\"\n"
                         "  keel run model.gguf --temp 0 --max-tokens 64 --prompt-file story.txt\n"
                         "  keel run model.gguf --prompt Hello --json | jq .decode.tokens_per_second\n"
                         "  keel run model.gguf --prompt \"A book: \" --json-schema book.json\n"
                         "The text goes to stdout, figures to stderr.");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    add_sampling_options(verb, o->sampling);
    add_grammar_options(verb, o->engine);
    const VerbOption prompt = verb.add_option("--prompt,-p", o->prompt, "text to continue").capture_default_str();
    verb.add_option("--prompt-file,-f", o->prompt_file, "read the prompt from a file; - is stdin").excludes(prompt);
    add_case_operators_option(verb, o->case_operators);
    verb.add_flag("--special", o->special, "recognise special tokens written in the prompt")
        .excludes(verb.get_option("--case-operators"));
    verb.add_flag("--no-bos", o->no_bos, "do not begin with the model's BOS token");
    verb.add_flag("--no-echo", o->no_echo, "do not print the prompt");
    verb.add_flag("--quiet,-q", o->quiet, "no figures");
    verb.callback([o, &console] {
        setvbuf(stdout, nullptr, _IONBF, 0);  // every piece of text at once, and no buffer to allocate
        const int code = run(*o, console);
        if (code != kExitOk) throw ExitWith{code};
    });
}

}  // namespace keel::tools
