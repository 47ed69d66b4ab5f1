// keel calibrate kv: a KV profile for a model, from text that is never used for validation.
//
// Everything is measured with activations in f32, unless --activation says otherwise, and with the sinks and recent
// positions of --kv-sinks and --kv-recent.
//
//   1. statistics: means of K before and after RoPE and of V, energies of K, V and Q, over --documents documents;
//      without the sinks, which nobody reads from their codes
//   2. what helps on a slice of the text: means and gains that follow what attention makes of errors, the K scale mode,
//      unless they are given
//   3. the cost of each candidate format for K and for V of each layer: mean KL with this one coded and all others in
//      f32
//   4. formats: least added cost per byte saved, down to the byte budget, or as far as the measured KL stays in the KL
//      budget
#include <math.h>
#include <stdio.h>

#include <algorithm>
#include <array>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/byte_allocation.h"
#include "sdk/tools/common/engine_setup.h"
#include "sdk/tools/files/sha256.h"
#include "sdk/tools/lab/kv/kv_calibration.h"
#include "sdk/tools/lab/kv/kv_cost_table.h"
#include "sdk/tools/lab/kv/kv_meter.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

using kernels::KvFormat;
using kernels::KvScaleMode;

struct Options {
    EngineOptions engine;
    KvText text = {.documents = 16};
    std::string output, show, budget, costs, formats = "tcq-2,tcq-3,tcq-4,e8-6", uniform, k_scale = "auto",
                                             gains = "auto";
    double bits = 0, kl = 0;
    uint32_t pairs = 16, slice_documents = 4, slice_tokens = 512, measurements = 256;
    bool no_key_means = false, no_value_means = false;
};

KvFormat format_named(const std::string& name) {
    const std::optional<keel_kv_format> format = find_kv_format(name);
    if (!format) throw ToolError(kExitUsage, "'" + name + "' is no KV format");
    return static_cast<KvFormat>(*format - 1);
}
const char* name_of(KvFormat format) {
    return kv_format_name(static_cast<keel_kv_format>(format + 1));
}
const char* name_of(KvScaleMode mode) {
    return mode == KvScaleMode::kUnbiased ? "unbiased" : "least squares";
}
bool has_scale_mode(KvFormat format) {
    return kernels::kKvFormats[format].family == kernels::KvFamily::kLattice ||
           kernels::kKvFormats[format].family == kernels::KvFamily::kTrellis;
}

// Bytes of one side of one layer in a page.
uint64_t side_page_bytes(const KvModelShape& shape, KvFormat format) {
    uint64_t bytes = 0;
    const KvLayer layer = kv_layer(shape.kv_heads, shape.head_dim,
                                   {format, format, KvScaleMode::kLeastSquares, KvScaleMode::kLeastSquares}, &bytes);
    return layer.k_head_bytes * shape.kv_heads;
}

keel_memory_plan plan_with(const EngineOptions& options, const KvProfile& profile, uint32_t context) {
    const std::vector<char> bytes = encode_kv_profile(profile);
    keel_reader reader = make<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "cannot read a profile");
    EngineOptions plain = options;
    plain.context = context;
    plain.sessions = 1;
    plain.k_format = plain.v_format = KEEL_KV_DEFAULT;
    plain.kv_profile_reader = &reader;
    ConfigParts parts;
    return plan_memory(open_model(options.model), make_config(plain, parts));
}

// ---- reports ----

Json profile_json(const KvProfile& p) {
    Json layers = Json::array();
    double bits = 0;
    for (const KvLayerFormats& f : p.formats) {
        layers.push_back({{"k_format", name_of(f.k)},
                          {"v_format", name_of(f.v)},
                          {"k_scale", name_of(f.k_scale)},
                          {"v_scale", name_of(f.v_scale)}});
        for (const KvFormat side : {f.k, f.v})
            bits += 8.0 *
                    (kernels::kv_code_bytes(side, p.shape.head_dim) + kernels::kv_scale_bytes(side, p.shape.head_dim)) /
                    p.shape.head_dim / 2;
    }
    return {{"fingerprint", hex64(p.shape.fingerprint)},
            {"layers", p.shape.layers},
            {"kv_heads", p.shape.kv_heads},
            {"head_dim", p.shape.head_dim},
            {"bits_per_element", bits / p.shape.layers},
            {"key_means", !p.key_means.empty()},
            {"value_means", !p.value_means.empty()},
            {"gains", !p.gains.empty()},
            {"mean_pairs", p.pairs},
            {"formats", layers}};
}

// shares: further columns per layer, or empty.
std::string profile_text(const KvProfile& p, const std::vector<std::array<std::string, 2>>& shares) {
    const Json j = profile_json(p);
    std::string pairs;
    for (const uint32_t pair : p.pairs) pairs += (pairs.empty() ? "" : " ") + std::to_string(pair);
    std::string text =
        strf("model %s: %u layers, %u KV heads of %u; %.3f bits an element; K means %s, V means %s, gains %s\n",
             j["fingerprint"].get<std::string>().c_str(), p.shape.layers, p.shape.kv_heads, p.shape.head_dim,
             j["bits_per_element"].get<double>(), p.key_means.empty() ? "no" : "yes",
             p.value_means.empty() ? "no" : "yes", p.gains.empty() ? "no" : "yes");
    if (!p.pairs.empty()) text += "RoPE pairs whose K mean is removed before the rotation: " + pairs + "\n";
    std::vector<std::string> head = {"layer", "K", "V", "K scale", "V scale"};
    if (!shares.empty()) head.insert(head.end(), {"K energy coded", "V energy coded"});
    Table table(head);
    for (uint32_t layer = 0; layer < p.shape.layers; ++layer) {
        const KvLayerFormats& f = p.formats[layer];
        std::vector<std::string> row = {std::to_string(layer), name_of(f.k), name_of(f.v),
                                        has_scale_mode(f.k) ? name_of(f.k_scale) : "",
                                        has_scale_mode(f.v) ? name_of(f.v_scale) : ""};
        if (!shares.empty()) row.insert(row.end(), {shares[layer][0], shares[layer][1]});
        table.add(row);
    }
    return text + table.text();
}

void show_profile(const std::string& path, const Console& console) {
    const KvProfile profile = read_kv_profile_file(path);
    if (console.json)
        print_json(profile_json(profile));
    else
        fputs(profile_text(profile, {}).c_str(), stdout);
}

// ---- formats ----

struct Part {
    uint32_t layer;
    bool value;
};
KvFormat& format_of(KvProfile& profile, const Part& part) {
    return part.value ? profile.formats[part.layer].v : profile.formats[part.layer].k;
}

void set_all(KvProfile* profile, KvFormat format) {
    for (KvLayerFormats& f : profile->formats) f.k = f.v = format;
}

// Candidates and their measured costs; neighbouring layers are measured together where there are more than `most`
// measurements.
struct Costs {
    std::vector<KvFormat> formats;
    std::vector<Part> parts;
    std::vector<AllocationUnit> units;  // of every part
    uint32_t together = 1;
};

Costs measure_costs(const KvProfile& base, const std::vector<KvFormat>& formats, uint32_t most, KvMeter& meter,
                    KvCostTable* kept, ProgressBar& bar) {
    Costs costs;
    costs.formats = formats;
    const uint32_t layers = base.shape.layers;
    while (2 * ((layers + costs.together - 1) / costs.together) * formats.size() > most && costs.together < layers)
        ++costs.together;
    for (const bool value : {false, true})
        for (uint32_t first = 0; first < layers; first += costs.together) {
            const uint32_t last = std::min(first + costs.together, layers);
            AllocationUnit unit;
            for (size_t c = 0; c < formats.size(); ++c) {
                KvProfile profile = base;
                set_all(&profile, kernels::kKvF32);
                for (uint32_t layer = first; layer < last; ++layer) format_of(profile, {layer, value}) = formats[c];
                bar.update((value ? layers : 0) + first, 2 * layers,
                           strf("%s of layer %u, %s", value ? "V" : "K", first, name_of(formats[c])));
                unit.bytes.push_back(side_page_bytes(base.shape, formats[c]));
                unit.cost.push_back(meter.kl(profile, kept) / (last - first));
            }
            for (uint32_t layer = first; layer < last; ++layer) {
                costs.parts.push_back({layer, value});
                costs.units.push_back(unit);
            }
        }
    return costs;
}

void set_choices(const Costs& costs, const AllocationChoices& choices, KvProfile* profile) {
    for (size_t i = 0; i < costs.parts.size(); ++i) format_of(*profile, costs.parts[i]) = costs.formats[choices[i]];
}

// Bytes a page may have: of a ratio ("4.7x") or of bytes for the whole context, what lies beside the pages included.
uint64_t page_budget(const Options& o, const KvProfile& profile, uint32_t context) {
    if (o.bits > 0)
        return static_cast<uint64_t>(o.bits / 8 * profile.shape.head_dim * profile.shape.kv_heads *
                                     profile.shape.layers * 2 * kPageTokens);
    const KvBytes f16 = reference_kv_bytes(o.engine, context),
                  own = planned_kv_bytes(plan_with(o.engine, profile, context));
    double total;
    if (o.budget.ends_with('x')) {
        char* end = nullptr;
        const double ratio = strtod(o.budget.c_str(), &end);
        if (*end != 'x' || !(ratio > 0)) throw ToolError(kExitUsage, "'" + o.budget + "' is no ratio; write 4.7x");
        total = f16.total_bytes / ratio;
    } else {
        total = static_cast<double>(parse_bytes(o.budget));
    }
    const double beside = static_cast<double>(own.side_bytes + own.precise_bytes);
    if (total <= beside)
        throw ToolError(kExitUsage, "the budget is below what means, tables and rows kept in f16 take");
    return static_cast<uint64_t>((total - beside) / static_cast<double>(own.pages)) / 64 * 64;
}

// Choices within the budget; none: the smallest formats exceed it. Rows of recent positions are f16 beside a format of
// 8 bits, q8_0 beside others: where the choices bring those of f16, pages have less room, and it is chosen again.
AllocationChoices within_bytes(const Options& o, const Costs& costs, KvProfile profile, uint32_t context) {
    const auto choose = [&] { return allocate(costs.units, page_budget(o, profile, context)); };
    const auto fit = [&](const AllocationChoices& choices) {
        set_choices(costs, choices, &profile);
        return o.bits > 0 || bytes_of(costs.units, choices) <= page_budget(o, profile, context);
    };
    AllocationChoices choices = choose();
    if (choices.empty() || fit(choices)) return choices;
    choices = choose();
    if (choices.empty() || !fit(choices))
        throw ToolError(kExitRuntime, "the rows that a format of 8 bits keeps in f16 exceed the budget: leave it out");
    return choices;
}

// Furthest point of the path whose measured KL is within the budget; the KL grows along it.
AllocationChoices within_kl(const Costs& costs, double budget, const KvProfile& base, KvMeter& meter,
                            KvCostTable* kept) {
    const std::vector<AllocationChoices> path = allocation_path(costs.units);
    const auto fits = [&](size_t i) {
        KvProfile profile = base;
        set_choices(costs, path[i], &profile);
        return meter.kl(profile, kept) <= budget;
    };
    if (!fits(0)) throw ToolError(kExitRuntime, "even the best of the formats exceeds the KL budget");
    size_t good = 0, bad = path.size();
    while (bad - good > 1) {
        const size_t middle = (good + bad) / 2;
        (fits(middle) ? good : bad) = middle;
    }
    return path[good];
}

// Throws ToolError (kExitUsage) for what does not go together.
void check_options(const Options& o) {
    if (o.engine.k_format || o.engine.v_format || !o.engine.kv_profile.empty())
        throw ToolError(kExitUsage, "--kv-k, --kv-v and --kv-profile are what is calibrated: give --formats");
    if (o.engine.model.empty() || o.text.file.empty() || o.output.empty())
        throw ToolError(kExitUsage, "calibrate kv needs a model, a text and --output (or --show FILE)");
    if (!o.budget.empty() + (o.bits > 0) + (o.kl > 0) + !o.uniform.empty() != 1)
        throw ToolError(kExitUsage, "give one of --budget, --bits, --kl and --uniform");
}

struct Calibrated {
    KvProfile profile;
    KvStatistics statistics;
    Json trials = Json::array();  // choices of step 2
    Costs costs;
    double predicted_kl = 0;  // the sum of the parts
    KvMeter::Reading reading;
    uint64_t slice_tokens = 0;
    uint32_t measurements = 0, context = 0;
    KvBytes own;  // at that context
    uint64_t file_bytes = 0;
};
// Measures, and writes the profile.
Calibrated calibrate(const Options& o, const Console& console) {
    const ModelFile file = open_model(o.engine.model);
    const uint32_t context = lab_context(o.engine);
    std::vector<KvFormat> formats;
    for (const std::string& name : split_kv_specs(o.uniform.empty() ? o.formats : o.uniform))
        formats.push_back(format_named(name));
    if (formats.empty()) throw ToolError(kExitUsage, "--formats names no format");

    Calibrated c;
    c.context = context;

    // 1
    const uint32_t sinks = sinks_of_coded_rows(o.engine.sinks);
    const bool means = !o.no_key_means || !o.no_value_means;
    KvStatistics weighed;
    capture_rows(o.engine, o.text.file, o.text.documents, tokens_within(o.text, context),
                 [&](const KvDocumentRows& rows) {
                     c.statistics.add(rows, sinks);
                     if (means || o.gains != "off") weighed.add_weighed(rows, sinks, o.engine.recent);
                 });
    const keel_model_info& info = file.info;
    c.profile.shape = {info.fingerprint, info.layers, info.kv_heads, info.head_dim, c.statistics.rope_dims() / 2};
    c.profile.formats.assign(info.layers,
                             {formats[0], formats[0], KvScaleMode::kLeastSquares, KvScaleMode::kLeastSquares});
    const auto set_means = [&](const KvStatistics& s, KvProfile* p) {
        if (!o.no_key_means) {
            p->pairs = choose_mean_pairs(s, o.pairs);
            set_key_means(s, p);
        }
        if (!o.no_value_means) set_value_means(s, p);
    };
    set_means(c.statistics, &c.profile);

    // 2
    ProgressBar bar(console, "calibrating");
    KvMeter meter(o.engine, o.text.file, o.slice_documents, o.slice_tokens);
    std::optional<KvCostTable> table;
    if (!o.costs.empty()) {
        ConfigParts parts;
        const keel_config config = make_config(o.engine, parts);
        table.emplace(o.costs, Json{{"engine", engine_setup(o.engine, config, plan_memory(file, config))},
                                    {"fingerprint", hex64(info.fingerprint)},
                                    {"text_sha256", sha256_of_file(o.text.file)},
                                    {"slice_documents", o.slice_documents},
                                    {"slice_tokens", o.slice_tokens}});
    }
    KvCostTable* const kept = table ? &*table : nullptr;
    const auto better = [&](const char* what, const KvProfile& with, const KvProfile& without) {
        const double a = meter.kl(with, kept), b = meter.kl(without, kept);
        c.trials.push_back({{"choice", what}, {"kl_with", a}, {"kl_without", b}});
        return a < b;
    };
    set_all(&c.profile, formats[formats.size() / 2]);
    KvProfile other = c.profile;
    if (means) set_means(weighed, &other);
    if (means && better("means weighed by attention", other, c.profile)) c.profile = other;
    other = c.profile;
    for (KvLayerFormats& f : other.formats) f.k_scale = KvScaleMode::kUnbiased;
    if (o.k_scale == "unbiased" || (o.k_scale == "auto" && has_scale_mode(formats[formats.size() / 2]) &&
                                    better("unbiased K scale", other, c.profile)))
        c.profile = other;
    other = c.profile;
    if (o.gains != "off") {
        KvKeyMoments moments(weighed, c.profile, sinks, o.engine.recent);
        capture_rows(o.engine, o.text.file, o.text.documents, tokens_within(o.text, context),
                     [&](const KvDocumentRows& rows) { moments.add(rows); });
        set_gains(moments, &other);
        if (o.gains == "on" || better("gains", other, c.profile)) c.profile = other;
    }

    // 3 and 4
    if (formats.size() == 1) {
        set_all(&c.profile, formats[0]);
        const KvBytes planned = planned_kv_bytes(plan_with(o.engine, c.profile, context));
        if (o.uniform.empty() && o.kl == 0 && planned.page_bytes > page_budget(o, c.profile, context))
            throw ToolError(kExitRuntime, "the only format exceeds the budget");
    } else {
        c.costs = measure_costs(c.profile, formats, o.measurements, meter, kept, bar);
        const AllocationChoices choices =
            o.kl > 0 ? within_kl(c.costs, o.kl, c.profile, meter, kept) : within_bytes(o, c.costs, c.profile, context);
        if (choices.empty()) throw ToolError(kExitRuntime, "the smallest formats exceed the budget");
        set_choices(c.costs, choices, &c.profile);
        c.predicted_kl = cost_of(c.costs.units, choices);
    }
    c.reading = meter.measure(c.profile);
    if (formats.size() == 1 && o.kl > 0 && c.reading.kl > o.kl)
        throw ToolError(kExitRuntime, strf("the only format exceeds the KL budget: %.5f", c.reading.kl));
    c.slice_tokens = meter.tokens();
    c.measurements = meter.measurements();
    const std::vector<char> bytes = encode_kv_profile(c.profile);
    write_file(o.output, bytes);
    c.file_bytes = bytes.size();

    const KvBytes f16 = reference_kv_bytes(o.engine, context);
    c.own = planned_kv_bytes(plan_with(o.engine, c.profile, context));
    c.own.ratio = f16.total_bytes / c.own.total_bytes;
    return c;
}

Json calibrated_json(const Options& o, const Calibrated& c) {
    Json out = profile_json(c.profile);
    out["output"] = o.output;
    out["text"] = o.text.file;
    out["statistics_positions"] = c.statistics.positions();
    out["slice_tokens"] = c.slice_tokens;
    out["measurements"] = c.measurements;
    out["layers_measured_together"] = c.costs.together;
    out["trials"] = c.trials;
    out["kl"] = c.reading.kl;
    out["kl_predicted"] = c.predicted_kl;
    out["delta_ppl_percent"] = ppl_percent(c.reading.delta.mean);
    out["context_tokens"] = c.context;
    out["bytes_per_token"] = c.own.per_token;
    out["side_bytes"] = c.own.side_bytes;
    out["ratio"] = c.own.ratio;
    for (uint32_t layer = 0; layer < c.profile.shape.layers; ++layer) {
        out["formats"][layer]["k_energy_coded"] = coded_key_share(c.statistics, c.profile, layer);
        out["formats"][layer]["v_energy_coded"] = coded_value_share(c.statistics, c.profile, layer);
    }
    for (size_t i = 0; i < c.costs.parts.size(); ++i)
        for (size_t f = 0; f < c.costs.formats.size(); ++f)
            out["costs"].push_back({{"layer", c.costs.parts[i].layer},
                                    {"side", c.costs.parts[i].value ? "v" : "k"},
                                    {"format", name_of(c.costs.formats[f])},
                                    {"kl", c.costs.units[i].cost[f]}});
    return out;
}

void print_calibrated(const Options& o, const Calibrated& c) {
    std::vector<std::array<std::string, 2>> shares;
    for (uint32_t layer = 0; layer < c.profile.shape.layers; ++layer)
        shares.push_back({strf("%.1f %%", 100 * coded_key_share(c.statistics, c.profile, layer)),
                          strf("%.1f %%", 100 * coded_value_share(c.statistics, c.profile, layer))});
    fputs(profile_text(c.profile, shares).c_str(), stdout);
    for (const Json& trial : c.trials)
        printf("%s: KL %.6f with, %.6f without\n", trial["choice"].get<std::string>().c_str(),
               trial["kl_with"].get<double>(), trial["kl_without"].get<double>());
    if (c.costs.together > 1)
        printf("costs were measured for %u neighbouring layers together, to stay within %u measurements\n",
               c.costs.together, o.measurements);
    printf("%.1f bytes a token at %u tokens (%s beside the pages), %.3fx of f16\n", c.own.per_token, c.context,
           human_bytes(c.own.side_bytes + c.own.precise_bytes).c_str(), c.own.ratio);
    printf("on the slice (%llu tokens): KL %.6f (sum of the parts %.6f), dPPL %+.3f %%; %u measurements\n",
           static_cast<unsigned long long>(c.slice_tokens), c.reading.kl, c.predicted_kl,
           ppl_percent(c.reading.delta.mean), c.measurements);
    printf("written to %s, %s\n", o.output.c_str(), human_bytes(c.file_bytes).c_str());
}

void calibrate_kv(Options o, const Console& console) {
    if (!o.show.empty()) return show_profile(o.show, console);
    check_options(o);
    o.engine = with_exact_activations(o.engine);
    const Calibrated c = calibrate(o, console);
    if (console.json)
        print_json(calibrated_json(o, c));
    else
        print_calibrated(o, c);
}

}  // namespace

void add_calibrate_verb(Verb app, Console& console) {
    Verb calibrate = add_group(app, "calibrate", "what a model needs to be run more cheaply, from text");
    auto o = std::make_shared<Options>();
    Verb verb =
        add_verb(calibrate, console, "kv", "a KV profile: means, gains, and formats per layer under a budget",
                 "  keel calibrate kv model.gguf calibration.jsonl --budget 4.7x --output model.kvp\n"
                 "  keel calibrate kv model.gguf calibration.jsonl --kl 0.004 --formats tcq-2,tcq-3,tcq-4,e8-6 "
                 "--output model.kvp\n"
                 "  keel calibrate kv model.gguf calibration.jsonl --budget 4.8x --kv-sinks 1 --costs model.costs "
                 "--output model.kvp\n"
                 "  keel calibrate kv model.gguf calibration.jsonl --uniform tcq-3 --output model.kvp\n"
                 "  keel calibrate kv --show model.kvp");
    add_engine_options(verb, o->engine);
    verb.get_option("model").required(false);
    add_text_options(verb, o->text, "for the statistics");
    verb.add_footer("\nThe text is never the one that formats are validated on.");
    verb.add_option("--output,-o", o->output, "the profile to write");
    verb.add_option("--show", o->show, "print what a profile file holds");
    verb.add_option("--budget", o->budget,
                    "bytes of one sequence at --context, side data included: a ratio to f16 (4.7x) or a size (2MiB)");
    verb.add_option("--bits", o->bits, "bits per element, scales included");
    verb.add_option("--kl", o->kl, "mean KL on the slice, in nats");
    verb.add_option("--uniform", o->uniform, "this format everywhere");
    verb.add_option("--formats", o->formats, "candidates (default tcq-2,tcq-3,tcq-4,e8-6)");
    verb.add_option("--pairs", o->pairs, "RoPE pairs whose K mean is removed before the rotation (default 16)");
    verb.add_option("--slice-documents", o->slice_documents, "documents on which formats are measured (default 4)");
    verb.add_option("--slice-tokens", o->slice_tokens, "tokens of each (default 512)");
    verb.add_option("--costs", o->costs,
                    "a file that keeps what was measured: goes on after a stop, and serves other budgets");
    verb.add_option("--measurements", o->measurements,
                    "most measurements of costs; layers are measured together beyond it (default 256)");
    verb.add_option("--k-scale", o->k_scale, "how K rows are scaled: ls, unbiased, auto (default)")
        .one_of({"ls", "unbiased", "auto"});
    verb.add_option("--gains", o->gains, "a gain for each element of K: on, off, auto (default)")
        .one_of({"on", "off", "auto"});
    verb.add_flag("--no-key-means", o->no_key_means, "leave the mean in K");
    verb.add_flag("--no-value-means", o->no_value_means, "leave the mean in V");
    verb.callback([o, &console] { calibrate_kv(*o, console); });
}

}  // namespace keel::tools
