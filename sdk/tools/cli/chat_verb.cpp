// keel chat: a conversation in the model's own template. Each turn feeds only what the session does not hold yet.
#include <stdio.h>

#include <algorithm>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/case_text.h"
#include "sdk/tools/common/generation.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/line_editor.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    SamplingOptions sampling;
    std::string system;
    bool stats = false, case_operators = false;
    // A text as the model reads it.
    std::string read(const std::string& text) const { return case_operators ? encode_case(text) : text; }
};

constexpr const char *kSystem = "system", *kUser = "user", *kAssistant = "assistant";
struct Message {
    const char* role;  // one of these
    std::string text;
};

// The ids of the conversation that follow what the session holds of it; *kept is how much that is.
std::vector<int32_t> tokenize_chat(const Session& session, const std::vector<Message>& messages, uint32_t* kept) {
    std::vector<keel_chat_message> views;
    for (const Message& m : messages) views.push_back(message(m.role, m.text));
    const keel_chat conversation = keel::chat(views);
    keel_error error = make<keel_error>();
    std::vector<int32_t> ids(512);
    size_t count = 0;
    keel_status status = KEEL_E_BUFFER_TOO_SMALL;
    for (int tries = 0; tries < 2 && status == KEEL_E_BUFFER_TOO_SMALL; ++tries) {
        if (count > ids.size()) ids.resize(count);
        status = keel_session_chat(session.handle(), &conversation, kept, ids.data(), ids.size(), &count, &error);
    }
    if (status == KEEL_E_ARGUMENT)
        throw ToolError(kExitUsage, strf("this model's chat template refuses the conversation: %s", error.reason));
    check(status, "cannot write the chat template", &error);
    ids.resize(count);
    return ids;
}

// The same; where it leaves no room for an answer of `room` tokens the oldest turns go, but never the system message
// and the newest one. *dropped counts those that went.
std::vector<int32_t> tokenize_what_fits(const LoadedModel& m, const Session& session, std::vector<Message>& messages,
                                        uint32_t room, uint32_t* kept, uint32_t* dropped) {
    const size_t context = m.plan.context_tokens;
    *dropped = 0;
    for (;;) {
        const auto oldest = messages.begin() + (messages.front().role == kSystem);
        const bool last = messages.end() - oldest < 3;
        size_t tokens = 0;
        try {
            std::vector<int32_t> ids = tokenize_chat(session, messages, kept);
            tokens = *kept + ids.size();
            if (tokens + room <= context || (last && tokens < context)) return ids;
        } catch (const ToolError& error) {
            if (error.exit_code != kExitMemory || last) throw;  // longer than a chat may be, in bytes
        }
        if (last)
            throw ToolError(kExitMemory, strf("this message has %zu tokens with its template and the context %zu; "
                                              "raise --context",
                                              tokens, context));
        messages.erase(oldest, oldest + 2);  // what was said and what was answered
        ++*dropped;
    }
}

// The name of the template: the one of --template, else the pack's, else the model's own.
std::string template_name_of(const Options& o, const LoadedModel& m) {
    if (!o.engine.chat_template.empty()) return o.engine.chat_template;
    if (find_part(m.config, KEEL_PART_CHAT_TEMPLATE)) return "the pack's";
    const keel_chat_family family = m.file.info.chat_family;
    if (family == KEEL_CHAT_NONE)
        throw ToolError(kExitFile,
                        o.engine.model + " carries no chat template; give one with --template, or use `keel run`");
    if (family == KEEL_CHAT_UNKNOWN)
        throw ToolError(kExitFile,
                        strf("%s carries a chat template that Keel cannot run, and it does not guess: %s (byte %u of "
                             "the template). Give one with --template",
                             o.engine.model.c_str(), m.file.info.chat_reason, m.file.info.chat_offset));
    return chat_family_name(family);
}

// Whether the tokens of a message do not give it back, which is said.
bool is_lossy(const Options& o, const LoadedModel& m, const std::string& text) {
    if (!o.case_operators) return false;
    const std::string read = encode_case(text);
    if (CaseText(read.size()).gives_back(m.engine, tokenize(m.engine, read, 0), text)) return false;
    fputs("[the tokens of this message do not give it back]\n", stderr);
    return true;
}

// One message and its answer; false after Ctrl-C.
bool turn(const Options& o, const Console& console, LoadedModel& m, Session& session, std::vector<Message>& messages,
          const std::string& line) {
    messages.push_back({kUser, o.read(line)});
    const bool lossy = is_lossy(o, m, line);
    // An answer gets a quarter of the context, if it may be that long; what is too long for that is cut.
    const uint32_t room = std::min(o.sampling.max_tokens, m.plan.context_tokens / 4);
    uint32_t dropped = 0;
    uint32_t kept = 0;
    const std::vector<int32_t> rest = tokenize_what_fits(m, session, messages, room, &kept, &dropped);
    if (dropped && !console.json)
        fprintf(stderr, "[the context is full: the oldest %u turn%s left it]\n", dropped, dropped == 1 ? "" : "s");
    check(session.truncate(kept), "cannot rewind the session");
    hold_to_grammar(session, o.engine);

    CaseText case_text(0);
    struct Reply {
        std::string text;  // as it is shown
        bool stream;
    } reply{{}, !console.json};
    const TextSink show = {[](void* context, std::string_view text) {
                               Reply& r = *static_cast<Reply*>(context);
                               r.text += text;
                               if (r.stream) fwrite(text.data(), 1, text.size(), stdout);
                           },
                           &reply};
    struct Written {
        std::string text;  // as the model has it
        TextSink next;
    } written{{}, o.case_operators ? case_text.behind({}, show) : show};
    const TextSink sink = {[](void* context, std::string_view text) {
                               Written& w = *static_cast<Written*>(context);
                               w.text += text;
                               w.next.write(w.next.context, text);
                           },
                           &written};
    const Generation g = generate(m, session, rest, o.sampling.max_tokens, sink);
    if (o.case_operators) case_text.finish();
    messages.push_back({kAssistant, written.text});
    if (console.json) {
        Json turn = {{"user", line},
                     {"assistant", reply.text},
                     {"stop", stop_reason_text(g.reason)},
                     {"dropped_turns", dropped},
                     {"prompt_tokens", g.prompt_tokens},
                     {"generated_tokens", g.generated_tokens},
                     {"prefill_tokens_per_second", g.prefill_rate()},
                     {"decode_tokens_per_second", g.decode_rate()}};
        if (o.case_operators) turn["case_operators"] = {{"lossy_message", lossy}, {"malformed", case_text.malformed()}};
        printf("%s\n", turn.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
        return g.reason != StopReason::kCancelled;
    }
    fputs(g.reason == StopReason::kCancelled     ? " [stopped]\n"
          : g.reason == StopReason::kContextFull ? " [cut: the context is full]\n"
                                                 : "\n",
          stdout);
    if (o.stats)
        fprintf(stderr, "[prefill %u tokens %.1f tok/s, decode %u tokens %.1f tok/s, %s]\n", g.prefill_tokens,
                g.prefill_rate(), g.generated_tokens, g.decode_rate(), stop_reason_text(g.reason));
    return g.reason != StopReason::kCancelled;
}

void chat(const Options& o, const Console& console) {
    const PreparedSampling sampling(o.case_operators ? with_case_operators(o.sampling) : o.sampling);
    LoadedModel m = load_model(o.engine, console);
    const std::string template_name = template_name_of(o, m);
    Session session = open_session(m);
    sampling.apply(session);

    is_lossy(o, m, o.system);
    const bool interactive = stdin_is_terminal() && !console.json;
    if (interactive)
        fprintf(stderr, "%s, %s template. /reset begins again, /quit or Ctrl-D ends, Ctrl-C stops an answer.\n",
                m.file.info.name[0] ? m.file.info.name : o.engine.model.c_str(), template_name.c_str());
    std::vector<Message> messages;
    const auto reset = [&] {
        messages.clear();
        if (!o.system.empty()) messages.push_back({kSystem, o.read(o.system)});
    };
    reset();
    LineEditor editor(interactive, "> ");
    for (;;) {
        const std::optional<std::string> line = editor.read();
        if (!line || *line == "/quit") break;
        if (line->empty()) continue;
        if (*line == "/reset") {
            reset();
            continue;
        }
        try {
            if (!turn(o, console, m, session, messages, *line)) {
                if (!interactive) break;
                forget_interrupt();
            }
        } catch (const ToolError& error) {
            // A person may say it shorter.
            if (!interactive || error.exit_code != kExitMemory) throw;
            print_error(console, error);
            messages.pop_back();
        }
        if (ferror(stdout)) break;
    }
}

}  // namespace

void add_chat_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    o->sampling.max_tokens = 1024;
    Verb verb = add_verb(app, console, "chat", "talk to a model in its own chat template",
                         "  keel chat model.gguf --system \"Answer in one sentence.\"\n"
                         "  printf 'Hi\\nAnd now in French\\n' | keel chat model.gguf --json\n"
                         "With --json, one JSON line per turn.");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    add_sampling_options(verb, o->sampling);
    add_grammar_options(verb, o->engine);
    add_case_operators_option(verb, o->case_operators);
    verb.add_option("--system", o->system, "system message");
    verb.add_option("--template", o->engine.chat_template,
                    "a file with a chat template or a family's name, in place of the model's own");
    verb.add_flag("--stats", o->stats, "figures after every answer");
    verb.callback([o, &console] {
        setvbuf(stdout, nullptr, _IONBF, 0);
        chat(*o, console);
    });
}

}  // namespace keel::tools
