// What drafting brings on a model: the prompts of prompts.json, answered plainly and with each drafter, in turns prompt
// by prompt. Texts must be the same to the last token. Time is the CPU time of the thread that decodes, without the
// prompt, so that it holds on a machine that does other things as well.
//
//     keel_speculation MODEL [--prompts FILE] [--count N] [--tokens N] [--temperature T] [--drafts N] [--only NAMES]
//                            [--kinds chat,copy,code] [--json FILE] [--draft-model FILE] [--wproj FILE] [--record NAME]
//     keel_speculation --replay FILE [--replay FILE]... [--costs NAME|T,T,T...]... [--drafts N] [--fold I/N]
//                      [--only NAMES]
//
// `control` is plain decoding again, in another engine: how far its speed is from 1 is what the others' are worth.
// drafted, accepted: per step; tokens a step; speed over plain (all prompts, least prompt). `perfect` proposes what the
// plain run wrote, as many tokens as a step takes: the ceiling. `model` drafts with another file of the same
// vocabulary, `low-rank` with the session's own low-rank variant: keel_session_draft.
// --record writes the plain answers, and the likeliest tokens of each row of logits, to NAME.chat, NAME.copy and
// NAME.code, for --replay: the library's own drafters on recorded answers, without a model, by a table of step costs
// (replay.h).
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
#include "perf/speculation/replay.h"

namespace {

using Tokens = std::vector<int32_t>;
using keel_speculation::wanted;

[[noreturn]] void stop(const char* what, keel_status status) {
    fprintf(stderr, "keel_speculation: %s: %s\n", what, keel_status_text(status));
    exit(1);
}
void check(keel_status status, const char* what) {
    if (status != KEEL_OK) stop(what, status);
}

struct Options {
    std::string model, prompts = KEEL_SOURCE_DIR "/perf/speculation/prompts.json", only, kinds = "chat,copy,code", json;
    std::string draft_model, wproj, record;
    keel_speculation::ReplayOptions replay;
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

enum class By { kDrafters, kPerfect, kModel, kLowRank };

// One way of drafting, with an engine of its own.
struct Way {
    const char* name;
    uint32_t drafters;
    By by;
    Way* drafter = nullptr;  // of By::kModel: another one's engine
    keel_memory_plan plan;
    keel::Result<keel::DefaultMemory> memory;
    keel::Result<keel::Engine> engine;

    Way(const char* name, const Model& model, const Options& o, uint32_t drafters, By by)
        : name(name), drafters(drafters), by(by), plan(keel::make<keel_memory_plan>()) {
        keel_config config = keel::make<keel_config>();
        config.context_tokens = 2048;
        config.threads = 1;
        config.drafters = drafters;
        config.draft_tokens = drafters || by != By::kDrafters ? o.drafts : 0;
        keel::Result<keel::FileReader> cache;
        keel_part part = keel::make<keel_part>();
        if (by == By::kLowRank) {
            cache = keel::FileReader::open(o.wproj.c_str());
            check(cache.status, o.wproj.c_str());
            part.kind = KEEL_PART_WPROJ;
            part.reader = cache->get();
            config.parts = &part;
            config.part_count = 1;
        }
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
    Tokens prompt, tokens;  // behind the prompt
    Tokens likeliest;       // of the row of each, where that is wanted
    uint32_t steps = 0;
    double seconds = 0;
    uint64_t drafted = 0, accepted = 0;
};

// plain: the answer that `perfect` proposes.
Answer answer(Way& way, const std::string& prompt, const Options& o, uint64_t seed, const Answer* plain,
              bool rows = false) {
    auto session = way.engine->open();
    check(session.status, "open");
    keel_sampling sampling = keel::make<keel_sampling>();
    keel::Result<keel::Session> drafter;
    if (way.drafter) {
        drafter = way.drafter->engine->open();
        check(drafter.status, "open");
    }
    sampling.temperature = o.temperature;
    sampling.seed = seed;
    check(session->set_sampling(sampling), "sampling");
    const std::vector<keel_chat_message> messages = {keel::message("user", prompt)};
    Tokens ids(2048);
    uint32_t kept = 0;
    // Models without a template go on with the bare text.
    auto chat = session->chat(keel::chat(messages), ids, &kept);
    if (chat.status == KEEL_E_UNSUPPORTED) chat = way.engine->tokenize(prompt, ids, KEEL_TOKENIZE_BOS);
    check(chat.status, "chat");
    const size_t prompt_tokens = chat->size();
    check(session->feed(*chat, KEEL_FEED_SAMPLE), "feed");
    Answer a;
    a.prompt.assign(chat->begin(), chat->end());
    // What drafts computes the prompt here, too: time is counted from behind it.
    if (way.drafter) check(session->draft(*drafter).status, "draft");
    check(way.engine->advance(*session).status, "advance");
    const double begin = thread_seconds();
    for (bool first = true;; first = false) {
        if (!first) {
            check(way.engine->advance(*session).status, "advance");
            ++a.steps;
        }
        const auto token = session->sample();
        check(token.status, "sample");
        if (rows) {
            const float* logits;
            uint32_t vocabulary;
            check(keel_session_logits(session->handle(), 0, &logits, &vocabulary), "logits");
            const Tokens ids = keel_speculation::likeliest(logits, vocabulary);
            a.likeliest.insert(a.likeliest.end(), ids.begin(), ids.end());
        }
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
        if (way.by == By::kModel || way.by == By::kLowRank)
            check(session->draft(way.drafter ? *drafter : *session).status, "draft");
        if (way.by == By::kPerfect && written + 1 < plain->tokens.size()) {
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
        } else if (name == "--draft-model") {
            o.draft_model = value;
        } else if (name == "--wproj") {
            o.wproj = value;
        } else if (name == "--record") {
            o.record = value;
        } else if (name == "--replay") {
            o.replay.files.push_back(value);
        } else if (name == "--costs") {
            o.replay.costs.push_back(value);
        } else if (name == "--fold") {
            if (sscanf(value, "%u/%u", &o.replay.fold, &o.replay.folds) != 2 || o.replay.fold >= o.replay.folds)
                stop(name.c_str(), KEEL_E_ARGUMENT);
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
    o.replay.drafts = o.drafts;
    o.replay.only = o.only;
    if ((o.model.empty() && o.replay.files.empty()) || o.count == 0 || o.tokens < 2 || o.drafts == 0)
        stop("usage: see speculation.cpp", KEEL_E_ARGUMENT);
    return o;
}

}  // namespace

int main(int argc, char** argv) {
    const Options o = parse(argc, argv);
    if (!o.replay.files.empty()) {
        keel_speculation::replay(o.replay);
        return 0;
    }
    const Model model(o.model);
    const nlohmann::json prompts = nlohmann::json::parse(std::ifstream(o.prompts));
    std::vector<std::unique_ptr<Way>> ways;
    ways.push_back(std::make_unique<Way>("plain", model, o, 0, By::kDrafters));
    const struct {
        const char* name;
        uint32_t drafters;
        By by;
    } kWays[] = {{"control", 0, By::kDrafters},
                 {"suffix", KEEL_DRAFT_SUFFIX, By::kDrafters},
                 {"pool", KEEL_DRAFT_POOL, By::kDrafters},
                 {"logits", KEEL_DRAFT_LOGITS, By::kDrafters},
                 {"suffix+pool", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL, By::kDrafters},
                 {"suffix+logits", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_LOGITS, By::kDrafters},
                 {"all", KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS, By::kDrafters},
                 {"model", 0, By::kModel},
                 {"suffix+model", KEEL_DRAFT_SUFFIX, By::kModel},
                 {"low-rank", 0, By::kLowRank},
                 {"perfect", 0, By::kPerfect}};
    std::unique_ptr<Model> draft_model;
    std::unique_ptr<Way> drafter;
    if (!o.draft_model.empty()) {
        draft_model = std::make_unique<Model>(o.draft_model);
        drafter = std::make_unique<Way>("drafter", *draft_model, o, 0, By::kDrafters);
    }
    for (const auto& way : kWays) {
        const bool there = way.by == By::kModel ? drafter != nullptr : way.by != By::kLowRank || !o.wproj.empty();
        if (!there || !wanted(o.only, way.name)) continue;
        ways.push_back(std::make_unique<Way>(way.name, model, o, way.drafters, way.by));
        if (way.by == By::kModel) ways.back()->drafter = drafter.get();
    }
    nlohmann::json out = nlohmann::json::array();
    printf("%-5s %-14s %8s %8s %8s %8s %8s %8s %8s\n", "kind", "drafter", "drafted", "accepted", "tok/step", "speed",
           "least", "tok/s", "differ");
    bool same = true;
    for (const char* kind : {"chat", "copy", "code"}) {
        if (!wanted(o.kinds, kind)) continue;
        std::vector<Sum> sums(ways.size());
        const auto& of = prompts.at(kind);
        std::ofstream record;
        if (!o.record.empty()) record.open(o.record + "." + kind);
        for (size_t p = 0; p < of.size() && p < o.count; ++p) {
            const Answer plain = answer(*ways[0], of[p], o, 1000 + p, nullptr, record.is_open());
            if (record.is_open()) {
                record << plain.prompt.size();
                for (const Tokens* tokens : {&plain.prompt, &plain.tokens})
                    for (const int32_t id : *tokens) record << ' ' << id;
                record << " |";
                for (const int32_t id : plain.likeliest) record << ' ' << id;
                record << std::endl;
            }
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
