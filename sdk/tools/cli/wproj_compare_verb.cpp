// keel wproj compare: quality, bytes and speed of W_proj caches beside the dense model, given ones or built for the
// comparison.
#include <stdio.h>

#include <sstream>

#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/lab/lowrank/wproj_recipe.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text;
    std::vector<std::string> caches;
    std::string calibration, ranks, budgets;
    uint32_t calibration_documents = 24, held_out = 4;
    WprojRecipe recipe;  // of what is built: groups, types of the compact form, bound
    uint32_t rounds = 5;
};

struct Entry {
    std::string name, family;  // family: what a plot joins by a line
    double share = 0;          // rank over columns, or bytes of the projections over the dense ones; 0: a file
    double power = 0;          // of the sensitivities (WprojBuilder)
    WprojReading reading;
};

std::vector<double> numbers_of(const std::string& list) {
    std::vector<double> out;
    std::istringstream in(list);
    for (std::string item; std::getline(in, item, ',');) {
        char* end = nullptr;
        const double x = strtod(item.c_str(), &end);
        if (item.empty() || *end || !(x > 0 && x <= 1))
            throw ToolError(kExitUsage, "'" + item + "' is no share between 0 and 1");
        out.push_back(x);
    }
    return out;
}

// One way to build, at one size.
struct Variant {
    const char* family;
    const char* solver;
    const char *basis_type, *record_type;
    bool sensitivities;
};
// At equal rank and equal types these have equal bytes: as published, and the whitened solver without and with
// sensitivities.
constexpr Variant kEqual[] = {{"weight PCA, f32 Pt, Q8", "weight-pca", "F32", "Q8_F32", false},
                              {"whitened, f32 Pt, Q8", "whitened", "F32", "Q8_F32", false},
                              {"whitened + sensitivities, f32 Pt, Q8", "whitened", "F32", "Q8_F32", true}};

// Appends each entry when it is whole.
void measure_entries(const Options& o, WprojMeter& meter, const WprojStep& step, std::vector<Entry>& entries) {
    for (const std::string& path : o.caches)
        entries.push_back({path, path, 0, 0, meter.measure_file(*open_file(path).get(), o.rounds)});
    if (o.calibration.empty()) return;
    WprojCalibrationText calibration;
    calibration.text.file = o.calibration;
    calibration.text.documents = o.calibration_documents;
    calibration.held_out = o.held_out;
    const uint32_t slots = wproj_slots_of(o.recipe.groups);
    WprojBuilder weighed(o.engine, calibration, slots, step);
    calibration.attention_metric = false;
    WprojBuilder plain(o.engine, calibration, slots, step);
    const uint64_t dense_bytes = dense_bytes_of(plain.model(), slots);
    const auto add = [&](const std::string& name, const std::string& family, double share, const WprojRecipe& recipe,
                         bool sensitivities) {
        const WprojSolveOptions options = solve_options(recipe, plain.model().info.embedding, dense_bytes);
        WprojBuilder& builder = sensitivities ? weighed : plain;
        const double power = sensitivities ? builder.choose_sensitivities(options) : 0;
        entries.push_back({name, family, share, power, meter.measure(builder.build(options), o.rounds)});
    };
    for (double share : numbers_of(o.ranks))
        for (const Variant& v : kEqual) {
            WprojRecipe recipe = o.recipe;
            recipe.solver = v.solver;
            recipe.rank = strf("%g", share);
            recipe.budget.clear();
            recipe.basis_type = v.basis_type;
            recipe.record_type = v.record_type;
            recipe.bound = 0;
            add(strf("%s, k/n = %g", v.family, share), v.family, share, recipe, v.sensitivities);
        }
    for (double share : numbers_of(o.budgets)) {
        WprojRecipe recipe = o.recipe;
        recipe.budget = strf("%.9g", share);
        recipe.rank.clear();
        if (share >= 1) recipe.budget = strf("%llu", static_cast<unsigned long long>(dense_bytes));
        const std::string family = strf("allocated, %s Pt, %s", recipe.basis_type.c_str(), recipe.record_type.c_str());
        add(strf("%s, %g of the bytes", family.c_str(), share), family, share, recipe, true);
    }
}

void compare_caches(const Options& o, const Console& console) {
    ProgressBar bar(console, "comparing");
    const WprojStep step = [&](const std::string& what, uint64_t done, uint64_t total) {
        bar.update(done, total, what);
        return false;
    };
    const uint32_t tokens = tokens_within(o.text, lab_context(o.engine));
    std::vector<Entry> entries;
    std::unique_ptr<WprojMeter> meter;
    {
        KvSpec f16;
        f16.k_format = f16.v_format = KEEL_KV_F16;
        KvRun run(o.engine, f16, tokens);
        std::vector<uint32_t> sources;
        std::vector<std::vector<int32_t>> documents =
            tokenize_documents(run.model().engine, o.text.file, o.text.documents, tokens + 1, true, &sources);
        meter = std::make_unique<WprojMeter>(o.engine, std::move(documents), std::move(sources));
    }
    try {
        measure_entries(o, *meter, step, entries);
    } catch (const ToolError& error) {
        // Whole entries that were measured before Ctrl-C are a result; the exit code says that more were asked for.
        if (error.exit_code != kExitCancelled || entries.empty()) throw;
        fprintf(stderr, "stopped by Ctrl-C after %zu of the caches\n", entries.size());
    }
    if (entries.empty())
        throw ToolError(kExitUsage, "nothing to compare: name caches, or --calibration with --ranks or --budgets");

    const double nll = entries[0].reading.score.reference_nll();
    const uint64_t dense_bytes = entries[0].reading.dense_decode_bytes;
    if (console.json) {
        Json out = {{"model", o.engine.model},
                    {"text", o.text.file},
                    {"tokens", meter->tokens()},
                    {"documents", meter->references().size()},
                    {"dense_nll", nll},
                    {"dense_ppl", exp(nll)},
                    {"dense_decode_bytes", dense_bytes},
                    {"groups", o.recipe.groups},
                    {"entries", Json::array()}};
        for (const Entry& e : entries) {
            const PairedDelta delta = e.reading.score.delta();
            Json entry = {{"name", e.name},
                          {"family", e.family},
                          {"share", e.share},
                          {"sensitivity_power", e.power},
                          {"records", e.reading.records},
                          {"record_bytes", e.reading.record_bytes},
                          {"decode_bytes", e.reading.decode_bytes},
                          {"delta_ppl_percent", ppl_percent(delta.mean)},
                          {"delta_ppl_percent_95", {ppl_percent(delta.interval.low), ppl_percent(delta.interval.high)}},
                          {"ppl", exp(nll + delta.mean)},
                          {"kl", e.reading.score.kl_mean()},
                          {"top1_percent", e.reading.score.same_top_percent()}};
            if (!e.reading.rate.empty()) {
                entry["tokens_per_s"] = e.reading.rate;
                entry["dense_tokens_per_s"] = e.reading.dense_rate;
            }
            out["entries"].push_back(entry);
        }
        return print_json(out);
    }
    printf(
        "%s, %s: %llu tokens of %zu documents, dense PPL %.4f, %s a token; interval: Student's t over %s; quality with "
        "activations in f32\n\n",
        o.engine.model.c_str(), o.text.file.c_str(), static_cast<unsigned long long>(meter->tokens()),
        meter->references().size(), exp(nll), human_bytes(dense_bytes).c_str(),
        entries[0].reading.score.by_document() ? "sources of documents" : "blocks of 64 tokens of one source");
    Table table({"cache", "factors", "their bytes", "bytes/token", "of dense", "PPL %", "95 % interval", "KL",
                 "top-1 %", "tok/s", "of dense"});
    for (const Entry& e : entries) {
        const WprojReading& r = e.reading;
        const PairedDelta delta = r.score.delta();
        std::vector<double> ratio;
        for (size_t i = 0; i < r.rate.size(); ++i) ratio.push_back(r.rate[i] / r.dense_rate[i]);
        const Spread spread = spread_of(ratio);
        table.add({e.name, strf("%llu", static_cast<unsigned long long>(r.records)), human_bytes(r.record_bytes),
                   human_bytes(r.decode_bytes),
                   strf("%.1f %%", 100.0 * static_cast<double>(r.decode_bytes) / static_cast<double>(dense_bytes)),
                   strf("%+.3f", ppl_percent(delta.mean)),
                   strf("%+.3f .. %+.3f", ppl_percent(delta.interval.low), ppl_percent(delta.interval.high)),
                   strf("%.5f", r.score.kl_mean()), strf("%.1f", r.score.same_top_percent()),
                   r.rate.empty() ? "" : strf("%.0f", spread_of(r.rate).median),
                   ratio.empty() ? "" : strf("%.2f (%.2f .. %.2f)", spread.median, spread.lowest, spread.highest)});
    }
    fputs(table.text().c_str(), stdout);
}

}  // namespace

void add_wproj_compare_verb(Verb wproj, Console& console) {
    Verb verb =
        add_verb(wproj, console, "compare", "quality, bytes and speed of W_proj caches beside the dense variant",
                 "  keel wproj compare model.gguf validation.jsonl --cache a.bin --cache b.bin\n"
                 "  keel wproj compare model.gguf validation.jsonl --calibration calibration.jsonl --ranks "
                 "0.25,0.375,0.5 --groups qkv\n"
                 "  keel wproj compare model.gguf validation.jsonl --calibration calibration.jsonl --budgets "
                 "0.4,0.6,0.8 --type Q5_0 --json");
    auto o = std::make_shared<Options>();
    o->recipe.groups = "qkv";
    add_engine_options(verb, o->engine);
    add_text_options(verb, o->text, "to score");
    verb.get_option("text").required();
    verb.add_option("--cache", o->caches, "a W_proj cache; may be repeated");
    verb.add_option("--calibration", o->calibration, "text to build caches with, for this comparison only");
    verb.add_option("--calibration-documents", o->calibration_documents, "of that text, held-out ones included")
        .capture_default_str();
    verb.add_option("--held-out", o->held_out, "last ones of these, for errors and sensitivities")
        .capture_default_str();
    verb.add_option("--ranks", o->ranks,
                    "shares of the input's elements: at each, weight PCA as published, the whitened solver, and that "
                    "with sensitivities, of equal bytes");
    verb.add_option("--budgets", o->budgets,
                    "shares of the dense projections' bytes: at each, the recipe with its types and allocated ranks");
    verb.add_option("--rounds", o->rounds, "times decoding is timed; 0: not").capture_default_str();
    verb.add_option("--groups", o->recipe.groups,
                    "projections: qkv, qk, q, o, ffn, down; --ranks takes the first that fits")
        .capture_default_str();
    verb.add_option("--type", o->recipe.record_type, "of W_proj in --budgets").capture_default_str();
    verb.add_option("--basis-type", o->recipe.basis_type, "of Pt in --budgets").capture_default_str();
    verb.add_option("--bound", o->recipe.bound, "largest relative squared error of a factor in --budgets; 0: none")
        .capture_default_str();
    verb.callback([o, &console] { compare_caches(*o, console); });
}

}  // namespace keel::tools
