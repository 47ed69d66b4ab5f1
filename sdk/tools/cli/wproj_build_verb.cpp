// keel wproj build: calibrates, solves, measures, and writes a W_proj cache.
#include <stdio.h>

#include <filesystem>

#include "sdk/model/wproj_slots.h"
#include "sdk/tools/cli/wproj_verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/wproj_discovery.h"
#include "sdk/tools/lab/lowrank/wproj_recipe.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    WprojCalibrationText text;
    WprojRecipe recipe;
    std::string output;
    bool zstd = false, rebuild = false;
};

// Where the cache goes: --output, a file or a directory, else the working directory; by its key's name in a directory.
std::string output_path(const Options& o, uint64_t key) {
    char name[kWprojFileNameBytes];
    wproj_file_name(key, name);
    std::error_code ignored;
    if (o.output.empty()) return name;
    return std::filesystem::is_directory(o.output, ignored) ? (std::filesystem::path(o.output) / name).string()
                                                            : o.output;
}

Json report_json(const WprojSlotReport& r, double sensitivity) {
    return {{"sensitivity", sensitivity},      {"layer", r.layer},
            {"slot", wproj_slot_name(r.slot)}, {"rank", r.rank},
            {"predicted_error", r.predicted},  {"held_out_error", r.measured < 0 ? Json() : Json(r.measured)},
            {"accepted", r.accepted},          {"massive_directions", r.forced}};
}

void build(Options o, const Console& console) {
    ProgressBar bar(console, "building");
    const WprojStep step = [&](const std::string& what, uint64_t done, uint64_t total) {
        bar.draw(done, total, what);
        return interrupted();
    };
    if (o.recipe.published) o.recipe.solver = "weight-pca", o.recipe.format = 1;
    if (o.recipe.published && o.recipe.groups == WprojRecipe{}.groups) o.recipe.groups = "qkv";
    if (o.recipe.solver == "whitened" && o.text.text.file.empty())
        throw ToolError(kExitUsage, "the whitened solver needs a text");
    if (!o.engine.lora.empty()) throw ToolError(kExitUsage, "--lora: a cache is of the model alone");
    if (o.recipe.format == 1 && o.zstd) throw ToolError(kExitUsage, "--zstd needs --format 2");
    if (o.recipe.format == 1 && o.recipe.solver == "whitened" && (o.recipe.groups != "qkv" && o.recipe.groups != "ffn"))
        throw ToolError(kExitUsage, "format 1 has one basis a layer: --groups qkv, or ffn, for the whitened solver");
    const uint32_t slots = wproj_slots_of(o.recipe.groups);
    o.text.attention_metric = o.recipe.attention_metric;
    WprojBuilder builder(o.engine, o.text, slots, step);
    const WprojSolveOptions options =
        solve_options(o.recipe, builder.model().info.embedding, dense_bytes_of(builder.model(), slots));
    const uint64_t key = recipe_key(o.recipe, options, builder.model().info.fingerprint, builder.calibration_hash(),
                                    o.engine.activation);

    if (!o.rebuild) {
        const WprojShape shape = wproj_shape_of(*builder.model().model);
        WprojSearch search;
        search.explicit_path = o.output;
        search.model_path = o.engine.model;
        search.key = key;
        search.shape = &shape;
        if (const WprojFound found = find_wproj_cache(search); found.path) {
            if (console.json)
                print_json({{"found", *found.path}, {"key", hex64(key)}});
            else
                printf("%s has this key already: %s (--rebuild makes it again)\n", found.path->c_str(),
                       hex64(key).c_str());
            return;
        }
    }
    const bool chosen = o.recipe.sensitivities && builder.meter() && o.recipe.solver == "whitened";
    const double power = chosen ? builder.choose_sensitivities(options) : 0;
    WprojSolution solution;
    WprojImage image = builder.build(options, &solution);
    image.key = key;
    std::string quality;
    if (WprojMeter* meter = builder.meter()) {
        step("measuring", 0, 1);
        const WprojReading reading = meter->measure(image);
        const PairedDelta delta = reading.score.delta();
        image.quality = {builder.measured_hash(), reading.score.tokens(), reading.score.reference_nll(),
                         reading.score.reference_nll() + delta.mean, reading.score.kl_mean()};
        quality =
            strf("%+.2f %% PPL (%+.2f .. %+.2f), KL %.5f on %llu held-out tokens%s", ppl_percent(delta.mean),
                 ppl_percent(delta.interval.low), ppl_percent(delta.interval.high), reading.score.kl_mean(),
                 static_cast<unsigned long long>(reading.score.tokens()),
                 chosen ? ", which its sensitivities were chosen on: `keel wproj compare` measures it on others" : "");
    }
    const std::string path = output_path(o, key);
    const auto progress = [&](uint64_t done, uint64_t total) { return step("writing", done, total); };
    if (o.recipe.format == 1)
        write_wproj_v1(path, image, key, progress);
    else
        write_wproj_v2(path, image, key, {o.zstd ? kWprojZstd : kWprojPlain, WprojPacking{}.level}, progress);

    size_t accepted = 0;
    double worst = 0;
    for (const WprojSlotReport& r : solution.reports) {
        accepted += r.accepted;
        if (r.accepted) worst = std::max(worst, r.measured);
    }
    if (console.json) {
        Json out = {{"output", path},
                    {"file_bytes", std::filesystem::file_size(path)},
                    {"key", hex64(key)},
                    {"solver", image.solver},
                    {"records", accepted},
                    {"refused", solution.reports.size() - accepted},
                    {"sensitivity_power", power},
                    {"dense_bytes", solution.dense_bytes},
                    {"bytes", solution.bytes},
                    {"calibration_hash", hex64(image.calibration_hash)},
                    {"slots", Json::array()}};
        if (image.quality.tokens)
            out["quality"] = {{"tokens", image.quality.tokens},
                              {"nll_dense", image.quality.nll_dense},
                              {"nll_low_rank", image.quality.nll_low_rank},
                              {"kl", image.quality.kl}};
        for (const WprojSlotReport& r : solution.reports)
            out["slots"].push_back(report_json(r, builder.sensitivity(r.layer, r.slot)));
        return print_json(out);
    }
    printf("%s: %s, key %s\n", path.c_str(), human_bytes(std::filesystem::file_size(path)).c_str(), hex64(key).c_str());
    printf(
        "%zu factors, %zu refused (error on held-out text above %g or not measured, or no bytes saved without one that "
        "was); largest error kept %.3g\n",
        accepted, solution.reports.size() - accepted, options.bound, worst);
    printf(
        "these projections: %s dense, %s now (%.1f %%)\n", human_bytes(solution.dense_bytes).c_str(),
        human_bytes(solution.bytes).c_str(),
        100.0 * static_cast<double>(solution.bytes) / static_cast<double>(std::max<uint64_t>(solution.dense_bytes, 1)));
    if (!quality.empty()) printf("quality: %s\n", quality.c_str());
}

void add_recipe_options(Verb verb, WprojRecipe& r) {
    const auto in = [](VerbOption option) { option.group("Recipe"); };
    in(verb.add_option("--solver", r.solver,
                       "whitened (the best for the activations of a text) or weight-pca (of the weights alone)")
           .one_of({"whitened", "weight-pca"})
           .capture_default_str());
    in(verb.add_option(
        "--rank,-k", r.rank,
        "the same rank everywhere: a number, or a share of the input's elements below 1, such as 0.375"));
    in(verb.add_option("--budget", r.budget,
                       "ranks for the least loss within so many bytes of all these projections (or a share of the "
                       "dense ones below 1)"));
    in(verb.add_option("--loss", r.loss, "ranks for the fewest bytes with so much mean relative squared error")
           .positive());
    in(verb.add_option("--groups", r.groups,
                       "what may be low-rank together: qkv, qk (V dense), q, o, ffn (gate and up), down; --rank takes "
                       "the first that fits")
           .capture_default_str());
    in(verb.add_option("--type", r.record_type,
                       "weight type of W_proj: Q4_0 .. Q8_0, IQ4_NL, Q4_K, Q6_K, F16, F32, Q8_F32")
           .capture_default_str());
    in(verb.add_option("--basis-type", r.basis_type, "weight type of Pt: F16, Q8_0, F32").capture_default_str());
    in(verb.add_option(
               "--bound", r.bound,
               "largest relative squared output error of a factor on held-out text; others stay dense. 0: no bound")
           .not_negative()
           .capture_default_str());
    in(verb.add_flag("--sensitivities,!--no-sensitivities", r.sensitivities,
                     "weigh projections by what their error costs (default: yes)"));
    in(verb.add_flag("--attention-metric,!--no-attention-metric", r.attention_metric,
                     "count errors of Q, K and V by what attention makes of them (default: yes)"));
    in(verb.add_flag("--centred,!--uncentred", r.centred,
                     "remove the mean of the activations, which a bias gives back (default: yes)"));
    in(verb.add_flag("--massive,!--no-massive", r.massive,
                     "keep directions of massive activations exactly (default: yes)"));
    in(verb.add_flag(
        "--published", r.published,
        "weight-pca as published: format 1, one basis of Q, K and V per layer, f32 bases, blocks of 36 bytes"));
    in(verb.add_option("--format", r.format, "of the file: 1 (WPROJV01) or 2")
           .one_of({"1", "2"})
           .capture_default_str());
}

}  // namespace

void add_wproj_build_verb(Verb wproj, Console& console) {
    Verb verb =
        add_verb(wproj, console, "build", "calibrate and solve a W_proj cache",
                 "  keel wproj build model.gguf calibration.jsonl --rank 0.375\n"
                 "  keel wproj build model.gguf calibration.jsonl --budget 0.6 --type Q4_0 --zstd --output caches/\n"
                 "  keel wproj build model.gguf --published --rank 96");
    auto o = std::make_shared<Options>();
    o->text.text.documents = 24;
    add_engine_options(verb, o->engine);
    add_text_options(verb, o->text.text, "to calibrate with, held-out ones included");
    verb.add_option("--held-out", o->text.held_out, "last documents kept for errors and quality").capture_default_str();
    add_recipe_options(verb, o->recipe);
    verb.add_option("--output,-o", o->output, "file, or directory (default: the working directory)");
    verb.add_flag("--zstd", o->zstd, "pack every section; libkeel_pack or `keel wproj unpack` expands it");
    verb.add_flag("--rebuild", o->rebuild, "also where a cache of this key lies");
    verb.callback([o, &console] { build(*o, console); });
}

}  // namespace keel::tools
