// keel eval draws: how often two models draw the same token at the same seed and position, which is how many drafts of
// one by the other come true. Both read the text, token by token, and draw at every position.
//
// No way of drawing with common random numbers agrees more often than 1 - TV, TV being half the sum of |p - q|; that is
// reported beside it.
#include <math.h>
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/text_documents.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    std::string other, text;
    float temperature = 0.8f;
    uint64_t seed = 1;
    uint32_t documents = 0, window = 256;
    uint64_t max_tokens = 0;
};

constexpr uint64_t kBlockPositions = 64;  // unit of the interval where there is one source only

struct Agreement {
    uint64_t positions = 0, drawn = 0, greedy = 0;  // how often both drew, and prefer, the same token
    double overlap = 0;                             // sum of 1 - TV
    std::vector<ScoredUnit> documents, blocks;      // positions, and how often both drew the same
    void add(bool same) {
        ++positions;
        drawn += same;
        for (std::vector<ScoredUnit>* units : {&documents, &blocks}) {
            units->back().nll_sum += same;
            ++units->back().tokens;
        }
        if (blocks.back().tokens == kBlockPositions) blocks.emplace_back();
    }
    bool by_document() const { return source_count(documents) > 1; }
    Interval interval() const { return mean_nll_interval(by_document() ? documents : blocks); }
};

// A model at the end of the text so far.
struct Reader {
    LoadedModel model;
    Session session;
    int32_t drawn = 0;
    std::span<const float> logits;

    Reader(EngineOptions engine, const std::string& path, const Options& o, const Console& console)
        : model(load(engine, path, o, console)), session(open_session(model)) {
        keel_sampling sampling = {};
        sampling.struct_size = sizeof sampling;
        sampling.temperature = o.temperature;
        sampling.seed = o.seed;
        check(session.set_sampling(sampling), "cannot set the sampling");
    }
    static LoadedModel load(EngineOptions engine, const std::string& path, const Options& o, const Console& console) {
        engine.model = path;
        engine.context = o.window;
        return load_model(engine, console);
    }
    void read(int32_t id) {
        check(session.feed(std::span(&id, 1)), "cannot feed the text");
        check(model.engine.advance(session).status, "cannot compute the text");
        const Result<int32_t> token = session.sample();
        check(token.status, "cannot draw");
        drawn = *token;
        const Result<std::span<const float>> row = session.logits();
        check(row.status, "cannot read logits");
        logits = *row;
    }
};

// Sum of min(p, q) of the two softmaxes at a temperature.
double overlap_of(std::span<const float> a, std::span<const float> b, double temperature) {
    const auto scaled = [&](std::span<const float> x) {
        std::vector<float> y(x.begin(), x.end());
        for (float& v : y) v = static_cast<float>(static_cast<double>(v) / temperature);
        return y;
    };
    const std::vector<float> p = scaled(a), q = scaled(b);
    const double p_sum = log_sum_exp(p), q_sum = log_sum_exp(q);
    double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) sum += exp(std::min(p[i] - p_sum, q[i] - q_sum));
    return sum;
}

int eval_draws(const Options& o, const Console& console) {
    if (!(o.temperature > 0)) throw ToolError(kExitUsage, "--temp: at 0 nothing is drawn");
    if (o.engine.context) throw ToolError(kExitUsage, "--window is the context");
    const std::vector<TextDocument> documents = read_documents(o.text, o.documents);
    Reader one(o.engine, o.engine.model, o, console), other(o.engine, o.other, o, console);
    if (stats_of(one.model).vocabulary_hash != stats_of(other.model).vocabulary_hash)
        throw ToolError(kExitUsage, o.other + " has another vocabulary");
    const std::vector<uint32_t> sources = source_numbers(documents);
    Agreement sum;
    const uint64_t most = o.max_tokens ? o.max_tokens : uint64_t{1} << 62;
    ProgressBar bar(console, "drawing");
    for (size_t d = 0; d < documents.size() && sum.positions < most && !interrupted(); ++d) {
        std::vector<int32_t> ids = tokenize(one.model.engine, documents[d].text, KEEL_TOKENIZE_BOS);
        if (ids.size() > one.model.plan.context_tokens) ids.resize(one.model.plan.context_tokens);
        check(one.session.truncate(0), "cannot empty the session");
        check(other.session.truncate(0), "cannot empty the session");
        sum.documents.push_back({0, 0, sources[d]});
        sum.blocks.emplace_back();
        for (const int32_t id : ids) {
            if (sum.positions == most || interrupted()) break;
            one.read(id);
            other.read(id);
            sum.add(one.drawn == other.drawn);
            sum.greedy += top_index(one.logits) == top_index(other.logits);
            sum.overlap += overlap_of(one.logits, other.logits, static_cast<double>(o.temperature));
        }
        if (!interrupted()) bar.update(d + 1, documents.size(), strf("document %zu of %zu", d + 1, documents.size()));
    }
    if (sum.positions == 0) stop_if_interrupted();
    if (sum.positions == 0) throw ToolError(kExitRuntime, o.text + " has no token");
    for (std::vector<ScoredUnit>* units : {&sum.documents, &sum.blocks})
        std::erase_if(*units, [](const ScoredUnit& unit) { return unit.tokens == 0; });
    const Interval interval = sum.interval();
    const std::string interval_text =
        sum.by_document() ? strf("Student's t over %zu sources of documents", source_count(sum.documents))
                          : strf("Student's t over %zu blocks of %llu positions of one source", sum.blocks.size(),
                                 static_cast<unsigned long long>(kBlockPositions));
    const auto share = [&](double of) { return of / static_cast<double>(sum.positions); };
    const double drawn = share(static_cast<double>(sum.drawn)), bound = share(sum.overlap),
                 greedy = share(static_cast<double>(sum.greedy));
    if (console.json) {
        print_json(Json{{"model", o.engine.model},
                        {"other", o.other},
                        {"text", o.text},
                        {"temperature", o.temperature},
                        {"seed", o.seed},
                        {"positions", sum.positions},
                        {"same_draw", drawn},
                        {"same_draw_interval", {interval.low, interval.high}},
                        {"interval", interval_text},
                        {"one_minus_tv", bound},
                        {"same_draw_of_bound", drawn / bound},
                        {"same_greedy", greedy}});
    } else {
        printf("positions      %llu\n", static_cast<unsigned long long>(sum.positions));
        printf("same draw      %.4f   95 %% %.4f .. %.4f, %s\n", drawn, interval.low, interval.high,
               interval_text.c_str());
        printf("1 - TV         %.4f   the same draw is %.4f of it\n", bound, drawn / bound);
        printf("same argmax    %.4f\n", greedy);
    }
    return kExitOk;
}

}  // namespace

void add_eval_draws_verb(Verb eval, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(eval, console, "draws", "how often two models draw the same token",
                         "  keel eval draws model-f16.gguf model-q4_k.gguf text.jsonl --temp 0.8\n"
                         "  keel eval draws model.gguf drafter.gguf book.txt --max-tokens 4096 --json");
    add_engine_options(verb, o->engine);
    verb.add_option("other", o->other, "GGUF file of the same vocabulary").required();
    verb.add_option("text", o->text, "a text file, or .jsonl with a field \"text\" per line").required();
    verb.add_option("--temp", o->temperature, "temperature").capture_default_str();
    verb.add_option("--seed", o->seed, "of both").capture_default_str();
    verb.add_option("--window,-w", o->window, "tokens of a document that are read").capture_default_str();
    verb.add_option("--documents", o->documents, "only the first N documents");
    verb.add_option("--max-tokens", o->max_tokens, "stop after N positions");
    verb.callback([o, &console] { eval_draws(*o, console); });
}

}  // namespace keel::tools
