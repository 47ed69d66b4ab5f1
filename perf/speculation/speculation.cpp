// What drafting brings on a model: the prompts of prompts.json, answered plainly and with each drafter, in turns prompt
// by prompt. Texts must be the same to the last token. Time is the CPU time of the thread that decodes, without the
// prompt, so that it holds on a machine that does other things as well.
//
//     keel_speculation MODEL [--prompts FILE] [--count N] [--tokens N] [--temperature T] [--drafts N] [--only NAMES]
//                            [--kinds chat,copy,code] [--json FILE]
//
// `control` is plain decoding again, in another engine: how far its speed is from 1 is what the others' are worth.
// drafted, accepted: per step; tokens a step; speed over plain (all prompts, least prompt). `perfect` proposes what the
// plain run wrote, as many tokens as a step takes: the ceiling.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace {

using Tokens = std::vector<int32_t>;

[[noreturn]] void stop(const char* what, keel_status status) {
    fprintf(stderr, "keel_speculation: %s: %s\n", what, keel_status_text(status));
    exit(1);
}
void check(keel_status status, const char* what) {
    if (status != KEEL_OK) stop(what, status);
}

struct Options {
    std::string model, prompts = KEEL_SOURCE_DIR "/perf/speculation/prompts.json", only, kinds = "chat,copy,code", json;
    uint32_t count = 60, tokens = 128, drafts = 7;
    float temperature = 0;
};

struct Model {
    keel::Result<keel::FileReader> reader;
    std::vector<uint64_t> memory;
    const keel_model* model = nullptr;

    explicit Model(const std::string& path) : reader(keel::FileReader::open(path.c_str())) {
        check(reader.status, path.c_str());
        keel_model_info info = keel::make<keel_model_info>();
        check(keel_inspect(reader->get(), nullptr, nullptr, 0, nullptr, &info, nullptr), "inspect");
        memory.resize((info.model_bytes + 7) / 8);
        check(keel_inspect(reader->get(), nullptr, memory.data(), memory.size() * 8, &model, &info, nullptr),
              "inspect");
    }
};

// One way of drafting, with an engine of its own.
struct Way {
    const char* name;
    uint32_t drafters;
    bool perfect;
    keel_memory_plan plan;
    keel::Result<keel::DefaultMemory> memory;
    keel::Result<keel::Engine> engine;

    Way(const char* name, const Model& model, const Options& o, uint32_t drafters, bool perfect)
        : name(name), drafters(drafters), perfect(perfect), plan(keel::make<keel_memory_plan>()) {
        keel_config config = keel::make<keel_config>();
        config.context_tokens = 2048;
        config.threads = 1;
        config.drafters = drafters;
        config.draft_tokens = drafters || perfect ? o.drafts : 0;
        check(keel_plan(model.reader->get(), model.model, &config, &plan, nullptr), "plan");
        memory = keel::DefaultMemory::allocate(plan);
        check(memory.status, "memory");
        engine = keel::Engine::init(model.reader->get(), model.model, config, memory->get());
        check(engine.status, "init");
    }
};

double thread_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct Answer {
    Tokens tokens;  // behind the prompt
    uint32_t steps = 0;
    double seconds = 0;
    uint64_t drafted = 0, accepted = 0;
};

// plain: the answer that `perfect` proposes.
Answer answer(Way& way, const std::string& prompt, const Options& o, uint64_t seed, const Answer* plain) {
    auto session = way.engine->open();
    check(session.status, "open");
    keel_sampling sampling = keel::make<keel_sampling>();
    sampling.temperature = o.temperature;
    sampling.seed = seed;
    check(session->set_sampling(sampling), "sampling");
    const std::vector<keel_chat_message> messages = {keel::message("user", prompt)};
    Tokens ids(2048);
    uint32_t kept = 0;
    const auto chat = session->chat(keel::chat(messages), ids, &kept);
    check(chat.status, "chat");
    const size_t prompt_tokens = chat->size();
    check(session->feed(*chat, KEEL_FEED_SAMPLE), "feed");
    check(way.engine->advance(*session).status, "advance");
    Answer a;
    const double begin = thread_seconds();
    for (bool first = true;; first = false) {
        if (!first) {
            check(way.engine->advance(*session).status, "advance");
            ++a.steps;
        }
        const auto token = session->sample();
        check(token.status, "sample");
        const size_t written = session->tokens()->size() - prompt_tokens;
        const auto text = session->text(*token);
        check(text.status, "text");
        if (written + 1 >= o.tokens || text->stopped) {
            const auto all = session->tokens();
            a.tokens.assign(all->begin() + static_cast<ptrdiff_t>(prompt_tokens), all->end());
            a.tokens.push_back(*token);
            break;
        }
        check(session->feed(*token, KEEL_FEED_SAMPLE), "feed");
        if (way.perfect && written + 1 < plain->tokens.size()) {
            const auto next = std::span(plain->tokens).subspan(written + 1);
            check(keel_session_propose(session->handle(), next.data(),
                                       static_cast<uint32_t>(std::min<size_t>(next.size() - 1, o.drafts))),
                  "propose");
        }
    }
    a.seconds = thread_seconds() - begin;
    const auto info = session->info();
    a.drafted = info->drafts_computed;
    a.accepted = info->drafts_accepted;
    a.tokens.resize(std::min<size_t>(a.tokens.size(), o.tokens));
    return a;
}

struct Sum {
    double seconds = 0, plain_seconds = 0, least = 1e9;
    uint64_t tokens = 0, steps = 0, drafted = 0, accepted = 0;
    uint32_t differ = 0;
};

bool wanted(const std::string& list, const char* name) {
    return list.empty() || ("," + list + ",").find("," + std::string(name) + ",") != std::string::npos;
}

Options parse(int argc, char** argv) {
    Options o;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name.rfind("--", 0) != 0) {
            o.model = name;
            continue;
        }
        if (++i == argc) stop(name.c_str(), KEEL_E_ARGUMENT);
        const char* value = argv[i];
        if (name == "--prompts") {
            o.prompts = value;
        } else if (name == "--only") {
            o.only = value;
        } else if (name == "--kinds") {
            o.kinds = value;
        } else if (name == "--json") {
            o.json = value;
        } else if (name == "--count") {
            o.count = static_cast<uint32_t>(atoi(value));
        } else if (name == "--tokens") {
            o.tokens = static_cast<uint32_t>(atoi(value));
        } else if (name == "--drafts") {
            o.drafts = static_cast<uint32_t>(atoi(value));
        } else if (name == "--temperature") {
            o.temperature = static_cast<float>(atof(value));
        } else {
            stop(name.c_str(), KEEL_E_ARGUMENT);
        }
    }
    if (o.model.empty() || o.count == 0 || o.tokens < 2 || o.drafts == 0)
        stop("usage: see speculation.cpp", KEEL_E_ARGUMENT);
    return o;
}

}  // namespace

int main(int argc, char** argv) {
    const Options o = parse(argc, argv);
    const Model model(o.model);
    const nlohmann::json prompts = nlohmann::json::parse(std::ifstream(o.prompts));
    std::vector<std::unique_ptr<Way>> ways;
    ways.push_back(std::make_unique<Way>("plain", model, o, 0, false));
    const struct {
        const char* name;
        uint32_t drafters;
        bool perfect;
    } kWays[] = {{"control", 0, false},
                 {"suffix", KEEL_DRAFT_SUFFIX, false},
                 {"pool", KEEL_DRAFT_POOL, false},
                 {"logits", KEEL_DRAFT_LOGITS, false},
                 {"suffix+pool", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL, false},
                 {"suffix+logits", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_LOGITS, false},
                 {"all", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS, false},
                 {"perfect", 0, true}};
    for (const auto& way : kWays)
        if (wanted(o.only, way.name))
            ways.push_back(std::make_unique<Way>(way.name, model, o, way.drafters, way.perfect));
    nlohmann::json out = nlohmann::json::array();
    printf("%-5s %-14s %8s %8s %8s %8s %8s %8s %8s\n", "kind", "drafter", "drafted", "accepted", "tok/step", "speed",
           "least", "tok/s", "differ");
    bool same = true;
    for (const char* kind : {"chat", "copy", "code"}) {
        if (!wanted(o.kinds, kind)) continue;
        std::vector<Sum> sums(ways.size());
        const auto& of = prompts.at(kind);
        for (size_t p = 0; p < of.size() && p < o.count; ++p) {
            const Answer plain = answer(*ways[0], of[p], o, 1000 + p, nullptr);
            for (size_t w = 0; w < ways.size(); ++w) {
                const Answer a = w ? answer(*ways[w], of[p], o, 1000 + p, &plain) : plain;
                Sum& s = sums[w];
                s.seconds += a.seconds;
                s.plain_seconds += plain.seconds;
                s.tokens += a.tokens.size() - 1;
                s.steps += a.steps;
                s.drafted += a.drafted;
                s.accepted += a.accepted;
                s.differ += a.tokens != plain.tokens;
                if (plain.tokens.size() > 32) s.least = std::min(s.least, plain.seconds / a.seconds);
            }
        }
        for (size_t w = 0; w < ways.size(); ++w) {
            const Sum& s = sums[w];
            const double steps = static_cast<double>(std::max<uint64_t>(s.steps, 1));
            const double tokens = static_cast<double>(s.tokens);
            printf("%-5s %-14s %8.2f %8.2f %8.2f %8.3f %8.3f %8.1f %8u\n", kind, ways[w]->name,
                   static_cast<double>(s.drafted) / steps,
                   s.drafted ? static_cast<double>(s.accepted) / static_cast<double>(s.drafted) : 0.0, tokens / steps,
                   s.plain_seconds / s.seconds, s.least, tokens / s.seconds, s.differ);
            out.push_back({{"kind", kind},
                           {"drafter", ways[w]->name},
                           {"temperature", o.temperature},
                           {"drafted", s.drafted},
                           {"accepted", s.accepted},
                           {"steps", s.steps},
                           {"tokens", s.tokens},
                           {"speed", s.plain_seconds / s.seconds},
                           {"least", s.least},
                           {"differ", s.differ}});
            same = same && s.differ == 0;
        }
        fflush(stdout);
    }
    if (!o.json.empty()) std::ofstream(o.json) << out.dump(1) << "\n";
    return same ? 0 : 1;
}
