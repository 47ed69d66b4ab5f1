// keel eval learn: what a model gains by learning from a text while it reads it, before the head (ReadingAdapter), with
// the frozen model read beside it, token by token. A laboratory: engines do not learn.
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/lab/learn/reading_measure.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    std::vector<std::string> texts;
    ReadingOptions reading;
    uint32_t window = 0, documents = 0, tokens = 0;
    bool shuffled = false, random = false, decode = false;
};

// One way of reading, against the frozen model.
struct Way {
    const char* name;
    double ReadingScore::*nll;
};
constexpr Way kWays[] = {{"cache", &ReadingScore::cached},
                         {"matrix", &ReadingScore::mapped},
                         {"both", &ReadingScore::adapted},
                         {"mixture", &ReadingScore::mixture}};

double percent(double nll, double frozen) {
    return 100 * (nll / frozen - 1);
}

int eval_learn(const Options& o, const Console& console) {
    EngineOptions engine = o.engine;
    if (o.window) engine.context = o.window;
    if (o.decode) engine.chunk = 1;
    if (engine.chunk == 0) engine.chunk = 128;
    LoadedModel m = load_model(engine, console, [](keel_config& config) { config.logits_rows = config.chunk_tokens; });
    ReadingMeter meter(m, o.reading, o.window, o.tokens,
                       o.random     ? ReadingTokens::random
                       : o.shuffled ? ReadingTokens::shuffled
                                    : ReadingTokens::written);
    Json out = {{"model", o.engine.model},
                {"window", o.window},
                {"shuffled", o.shuffled},
                {"random", o.random},
                {"texts", Json::array()}};
    ReadingScore total;
    uint64_t tokens = 0;
    double model_seconds = 0, learn_seconds = 0;
    std::vector<TextDocument> documents;
    std::vector<const std::string*> paths;  // of each
    for (const std::string& path : o.texts)
        for (TextDocument& document : read_documents(path, o.documents)) {
            documents.push_back(std::move(document));
            paths.push_back(&path);
        }
    const std::vector<uint32_t> sources = source_numbers(documents);
    std::vector<ReadingDocument> read;
    std::vector<uint32_t> read_sources;
    if (!console.json) puts("text  tokens  frozen NLL   cache  matrix    both  mixture  (change of NLL, %)");
    for (size_t i = 0; i < documents.size(); ++i) {
        const std::string& path = *paths[i];
        const ReadingDocument d = meter.read(documents[i].text);
        if (d.tokens == 0) continue;
        read.push_back(d);
        read_sources.push_back(sources[i]);
        tokens += d.tokens;
        model_seconds += d.model_seconds;
        learn_seconds += d.learn_seconds;
        total.frozen += d.nll.frozen;
        for (const Way& way : kWays) total.*way.nll += d.nll.*way.nll;
        Json entry = {{"text", path},     {"tokens", d.tokens},         {"frozen", d.nll.frozen},
                      {"steps", d.steps}, {"skipped_steps", d.skipped}, {"state_norm", d.state_norm}};
        for (const Way& way : kWays) entry[way.name] = d.nll.*way.nll;
        out["texts"].push_back(entry);
        if (console.json) continue;
        printf("%-4zu %7llu %11.4f", read.size(), static_cast<unsigned long long>(d.tokens),
               d.nll.frozen / static_cast<double>(d.tokens));
        for (const Way& way : kWays) printf(" %+7.3f", percent(d.nll.*way.nll, d.nll.frozen));
        printf("   %s\n", path.c_str());
        fflush(stdout);
    }
    if (tokens == 0) throw ToolError(kExitRuntime, "the texts have no token to score");
    const double frozen = total.frozen / static_cast<double>(tokens);
    std::vector<ScoredUnit> all;
    for (size_t i = 0; i < read.size(); ++i) all.push_back({read[i].nll.frozen, read[i].tokens, read_sources[i]});
    out["sources"] = source_count(all);
    for (const Way& way : kWays) {
        std::vector<PairedUnit> units;
        for (size_t i = 0; i < read.size(); ++i)
            units.push_back({read[i].nll.frozen, read[i].nll.*way.nll, read[i].tokens, read_sources[i]});
        const PairedDelta delta = paired_delta(units);
        out["change_percent"][way.name] = {100 * delta.mean / frozen, 100 * delta.interval.low / frozen,
                                           100 * delta.interval.high / frozen};
        if (!console.json)
            printf("%-8s %+.3f %%   95 %% interval %+.3f .. %+.3f, paired, over %zu sources\n", way.name,
                   100 * delta.mean / frozen, 100 * delta.interval.low / frozen, 100 * delta.interval.high / frozen,
                   source_count(all));
    }
    const double times = (model_seconds + learn_seconds) / model_seconds;
    out[o.decode ? "times_decode" : "times_prefill"] = times;
    if (console.json)
        print_json(out);
    else
        printf("cost     %.2f times %s\n", times, o.decode ? "decoding" : "reading with all logits");
    return kExitOk;
}

}  // namespace

void add_eval_learn_verb(Verb eval, Console& console) {
    auto o = std::make_shared<Options>();
    o->reading.rate = kReadingRate;
    o->reading.map.least_probability = 1e-6;
    Verb verb = add_verb(eval, console, "learn", "what learning while reading would gain",
                         "  keel eval learn model.gguf book.txt notes.jsonl\n"
                         "  keel eval learn model.gguf notes.jsonl --window 512 --max-tokens 2000 --json");
    add_engine_options(verb, o->engine);
    verb.add_option("texts", o->texts, "text files, or .jsonl with a field \"text\" per line").required();
    const VerbOption window =
        verb.add_option("--window,-w", o->window, "positions that a token sees at most (default: --context)");
    verb.add_option("--documents", o->documents, "only the first N documents of a file");
    verb.add_option("--max-tokens", o->tokens, "only the first N tokens of a document");
    verb.add_option("--rate", o->reading.rate, "of the matrix; 0: it stays zero").capture_default_str();
    verb.add_option("--sharpness", o->reading.sharpness, "of the cache").capture_default_str();
    const VerbOption shuffled =
        verb.add_flag("--shuffled", o->shuffled, "tokens of a document in another order, a control");
    verb.add_flag("--random", o->random, "tokens drawn from the vocabulary in their place, a control")
        .excludes(shuffled);
    verb.add_flag("--decode", o->decode, "steps of one token, as in decoding: what that costs").excludes(window);
    verb.callback([o, &console] { eval_learn(*o, console); });
}

}  // namespace keel::tools
