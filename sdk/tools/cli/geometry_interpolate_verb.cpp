// keel geometry interpolate: text injected as records, mixed into what a model expects of a text.
#include <math.h>
#include <stdio.h>

#include "sdk/tools/cli/geometry_verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/text_rows.h"
#include "sdk/tools/lab/geodesic/neighbour_text.h"
#include "sdk/tools/lab/geodesic/record_builder.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text;
    uint32_t neighbours = 16;
    double temperature = 10;
};

// One document: its tape, and what the model gave each next token.
struct Reading {
    std::vector<unsigned char> file;
    std::vector<double> probability;  // of the token at position + 1; none for the last
};

Reading read(LoadedModel& model, const std::vector<int32_t>& ids, const geodesic::TraceHeader& header) {
    Reading out;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
    out.file.assign(bytes, bytes + sizeof header);
    Session session = open_session(model);
    TextRows rows(model.engine, session, stop_if_interrupted);
    rows.start(ids);
    for (size_t i = 0; i < ids.size(); ++i) {
        const uint32_t row = rows.next();
        const Result<std::span<const float>> hidden = session.hidden(row), logits = session.logits(row);
        check(hidden.status, "cannot read a state");
        check(logits.status, "cannot read logits");
        geodesic::append_trace_step(out.file, static_cast<int32_t>(i), ids[i], *hidden, 0);
        if (i + 1 < ids.size())
            out.probability.push_back(exp(double{(*logits)[static_cast<size_t>(ids[i + 1])]} - log_sum_exp(*logits)));
    }
    return out;
}

struct Score {
    double weight = 0, nll = 0, nll_injected = 0;  // nats a token
};

void interpolate(const Options& o, const Console& console) {
    EngineOptions engine = o.engine;
    engine.sessions = 1;
    engine.context = lab_context(o.engine);
    LoadedModel model =
        load_model(engine, console, [](keel_config& config) { config.logits_rows = config.chunk_tokens; });
    const keel_model_info& info = model.file.info;
    const geodesic::TraceHeader header{.dim = info.embedding,
                                       .layer = info.layers,
                                       .width = info.embedding,
                                       .fingerprint = info.fingerprint,
                                       .tokenizer_hash = stats_of(model).vocabulary_hash};
    std::vector<Reading> readings;
    for (const auto& ids :
         tokenize_documents(model.engine, o.text.file, o.text.documents, tokens_within(o.text, engine.context)))
        readings.push_back(read(model, ids, header));
    if (readings.size() < 2) throw ToolError(kExitUsage, "two documents at least: half are records, half are scored");
    std::vector<geodesic::TraceTape> tapes(readings.size());
    for (size_t i = 0; i < readings.size(); ++i)
        if (const char* why = geodesic::read_trace(readings[i].file, &tapes[i])) throw ToolError(kExitRuntime, why);

    // A store of the first half, and one that has read the other half as well.
    const size_t half = tapes.size() / 2;
    const geodesic::StoreOwner owner{header.fingerprint, header.tokenizer_hash, info.vocabulary};
    geodesic::RecordStore stores[2];
    std::vector<unsigned char> files[2];
    for (const size_t all : {0, 1}) {
        files[all] = geodesic::build_store(std::span(tapes).first(all ? tapes.size() : half), {.anchors = 0});
        if (const char* why = geodesic::read_store(files[all], owner, &stores[all])) throw ToolError(kExitRuntime, why);
    }
    std::vector<Score> scores = {{0}, {0.05}, {0.1}, {0.2}, {0.4}};
    uint64_t tokens = 0;
    std::vector<float> features(info.embedding);
    for (size_t d = half; d < tapes.size(); ++d)
        for (size_t s = 0; s + 1 < tapes[d].steps; ++s, ++tokens) {
            double near[2];
            for (const size_t all : {0, 1}) {
                float key[geodesic::kStoreDim];
                geodesic::trace_features(tapes[d], s, 0, features.data());
                geodesic::store_key(stores[all], features.data(), key);
                near[all] = geodesic::neighbour_probability(stores[all], key, tapes[d].token(s + 1), o.neighbours,
                                                            o.temperature);
            }
            for (Score& score : scores) {
                const double p = readings[d].probability[s];
                score.nll -= log(fmax(geodesic::mixed_probability(p, near[0], score.weight), 1e-30));
                score.nll_injected -= log(fmax(geodesic::mixed_probability(p, near[1], score.weight), 1e-30));
            }
        }
    Json rows = Json::array();
    Table table({"weight", "nats a token", "with the text's own records"}, 0);
    for (const Score& score : scores) {
        const double n = static_cast<double>(tokens);
        rows.push_back({{"weight", score.weight}, {"nll", score.nll / n}, {"nll_injected", score.nll_injected / n}});
        table.add({strf("%.2f", score.weight), strf("%.4f", score.nll / n), strf("%.4f", score.nll_injected / n)});
    }
    if (console.json)
        return print_json({{"tokens", tokens},
                           {"records", stores[0].header.records},
                           {"records_injected", stores[1].header.records},
                           {"scores", rows}});
    printf("%llu tokens scored, %u records, %u with the text's own\n%s", static_cast<unsigned long long>(tokens),
           stores[0].header.records, stores[1].header.records, table.text().c_str());
}

}  // namespace

void add_geometry_interpolate_verb(Verb geometry, Console& console) {
    Verb verb = add_verb(geometry, console, "interpolate", "text injected as records, by mixing probabilities",
                         "  keel geometry interpolate model.gguf texts.jsonl --documents 20 --tokens 512");
    auto o = std::make_shared<Options>();
    o->text.documents = 20;
    add_engine_options(verb, o->engine);
    add_text_options(verb, o->text, "half of which become records");
    verb.get_option("text").required();
    verb.add_option("--neighbours", o->neighbours, "records whose tokens are mixed in, at most 64")
        .range(1, 64)
        .capture_default_str();
    verb.add_option("--record-temperature", o->temperature, "of squared distances").positive().capture_default_str();
    verb.callback([o, &console] { interpolate(*o, console); });
}

}  // namespace keel::tools
