#include "sdk/tools/cli/memory_search.h"

#include <stdio.h>

#include <algorithm>
#include <optional>

namespace keel::tools {
namespace {

// What a way to keep K and V costs: change of perplexity against f16, without a profile and with the first position in
// f16, on the bundled 7M model (books) and on SmolLM2-135M-Instruct (books and source code), a model as people use
// them. perf/RESULTS.md, "KV formats on a real model", has commands and intervals.
struct KvLoss {
    double bundled_ppl_percent, smollm2_ppl_percent;
};
struct KvChoice {
    keel_kv_format k, v;
    uint32_t recent_tokens = 0;
    std::optional<KvLoss> loss = {};  // none: nothing is lost, or it was not measured
};
constexpr KvChoice kKvChoices[] = {
    {KEEL_KV_F32, KEEL_KV_F32},
    {KEEL_KV_F16, KEEL_KV_F16},
    {KEEL_KV_Q8_0, KEEL_KV_Q8_0, 0, KvLoss{0.00, 0.07}},
    {KEEL_KV_E8_5, KEEL_KV_E8_5, 16, KvLoss{0.00, 0.19}},
    {KEEL_KV_E8_4, KEEL_KV_E8_4, 16, KvLoss{0.02, 0.52}},
    {KEEL_KV_TCQ_4, KEEL_KV_TCQ_4, 16, KvLoss{0.02, 0.72}},
    {KEEL_KV_TCQ_4, KEEL_KV_TCQ_3, 48, KvLoss{0.04, 0.54}},
    {KEEL_KV_TCQ_3, KEEL_KV_TCQ_3, 16, KvLoss{0.10, 1.94}},
    {KEEL_KV_TCQ_2, KEEL_KV_TCQ_2, 16, KvLoss{0.45, 11.3}},
};
bool is_trellis(keel_kv_format format) {
    return format == KEEL_KV_TCQ_2 || format == KEEL_KV_TCQ_3 || format == KEEL_KV_TCQ_4;
}
constexpr uint32_t kMeasuredSinks = 1;
constexpr double kMostPplPercent = 1;  // of what is proposed, on SmolLM2

struct Fit {
    KvChoice kv;
    keel_weights weights;
    uint32_t context = 0;  // 0: not even the shortest fits
    uint64_t bytes = 0;    // at that context
    bool model_limit = false;
    std::string why_not;
};

uint64_t needed_bytes(const keel_memory_plan& plan, bool mapped_free) {
    return total_bytes(plan) + (mapped_free ? 0 : plan.mapped_weight_bytes);
}

Fit largest_context(const ModelFile& file, keel_config config, const KvChoice& kv, keel_weights weights,
                    uint64_t memory, bool mapped_free) {
    Fit fit{kv, weights};
    config.weights = weights;
    config.k_format = kv.k;
    config.v_format = kv.v;
    config.kv_recent_tokens = kv.recent_tokens;
    const auto needed = [&](uint32_t context) {
        config.context_tokens = context;
        return needed_bytes(plan_memory(file, config), mapped_free);
    };
    const uint32_t limit = config.context_tokens ? config.context_tokens : std::max(file.info.train_context_tokens, 1u);
    try {
        // needed() grows with the context; the longest that fits lies in [low, high).
        uint32_t low = 0, high = limit + 1;
        while (high - low > 1) {
            const uint32_t middle = low + (high - low) / 2;
            (needed(middle) <= memory ? low : high) = middle;
        }
        fit.context = low;
        fit.bytes = needed(std::max(low, 1u));
        fit.model_limit = low == limit;
    } catch (const ToolError& error) {
        fit.why_not = error.what();
    }
    return fit;
}

// Options as they were given that change how much memory `keel run` needs or whether it runs, but for formats, recent
// rows and weights.
std::string given_options(const EngineOptions& e) {
    std::string out;
    const auto text = [&](const char* name, const std::string& value) {
        if (!value.empty()) out += strf(" %s %s", name, value.c_str());
    };
    const auto number = [&](const char* name, uint32_t value) { text(name, value ? std::to_string(value) : ""); };
    number("--threads", e.threads);
    number("--chunk", e.chunk);
    if (e.sinks) out += strf(" --kv-sinks %u", e.sinks == KEEL_KV_NO_SINKS ? 0 : e.sinks);
    number("--kv-rollback", e.rollback);
    text("--kv-profile", e.kv_profile);
    text("--wproj", e.wproj);
    if (e.wproj_key) text("--wproj-key", hex64(e.wproj_key));
    if (e.wproj_any_key) out += " --wproj-force";
    if (e.wproj_error > 0) out += strf(" --wproj-error %g", e.wproj_error);
    if (e.low_rank) out += " --low-rank";
    if (!e.lora.empty())
        text("--lora", e.lora_scale == 1 ? e.lora : strf("%s:%g", e.lora.c_str(), static_cast<double>(e.lora_scale)));
    number("--draft", e.draft_tokens);
    text("--draft-pool", e.draft_pool);
    text("--draft-model", e.draft_model);
    if (e.draft_low_rank) out += " --draft-low-rank";
    if (e.activation) text("--activation", activation_name(e.activation));
    if (e.cpu) text("--cpu", cpu_name(e.cpu));
    text("--pre", e.pre_tokenizer);
    if (e.cuda) out += strf(" --backend cuda --device %d", e.device);
    if (e.device_numerics) out += " --device-numerics";
    return out;
}

// What was asked for, what is varied, and what fits.
struct Search {
    const EngineOptions& options;
    uint64_t memory_bytes;
    bool mapped_free;
    const keel_config& config;
    bool profile;   // formats are those of a profile
    bool compress;  // nothing names formats: those that compress are tried, too
    keel_cpu cpu;
    std::vector<Fit> fits;
};

// What is given is kept: formats, or those of a profile, and recent rows.
std::vector<KvChoice> kv_choices(const keel_config& config, bool profile, bool compress) {
    std::vector<KvChoice> choices;
    if (compress)
        for (KvChoice c : kKvChoices) {
            const bool other_recent = config.kv_recent_tokens && config.kv_recent_tokens != c.recent_tokens,
                       other_sinks = config.kv_sink_tokens && config.kv_sink_tokens != kMeasuredSinks;
            if (other_recent) c.recent_tokens = config.kv_recent_tokens;
            if (other_recent || other_sinks) c.loss.reset();
            choices.push_back(c);
        }
    else if (profile || (config.k_format && config.v_format))
        choices = {{config.k_format, config.v_format, config.kv_recent_tokens}};
    else
        for (const keel_kv_format f : {KEEL_KV_F32, KEEL_KV_F16})
            choices.push_back({config.k_format ? config.k_format : f, config.v_format ? config.v_format : f,
                               config.kv_recent_tokens});
    return choices;
}

Search search(const EngineOptions& options, const ModelFile& file, const keel_config& config, uint64_t memory_bytes,
              bool mapped_free) {
    const bool profile = find_part(config, KEEL_PART_KV_PROFILE),
               compress = !config.k_format && !config.v_format && !profile;
    std::vector<keel_weights> modes = {KEEL_WEIGHTS_DEFAULT};  // a copy has the same bytes in any order
    if (file.can_stay_mapped(config.activation)) modes.push_back(KEEL_WEIGHTS_MAP);
    if (config.weights) modes = {config.weights};

    std::vector<Fit> fits;
    for (const keel_weights mode : modes)
        for (const KvChoice& kv : kv_choices(config, profile, compress))
            fits.push_back(largest_context(file, config, kv, mode, memory_bytes, mapped_free));
    return {options,        memory_bytes, mapped_free, config, profile, compress, plan_memory(file, config).cpu,
            std::move(fits)};
}

// Of a search's fits; null: none.
struct Picked {
    const Fit* best = nullptr;         // without compressing K and V, unless nothing else fits
    const Fit* smaller = nullptr;      // compressed
    const Fit* passed_over = nullptr;  // what would be `smaller` but for its speed
};
Picked pick(const Search& s) {
    // These kernels look up single entries of a trellis: from some 2,000 positions on slower than f16, as measured.
    const bool looks_up_slowly = s.cpu == KEEL_CPU_AVX2;
    const auto plain = [&](const Fit& f) { return !s.compress || f.kv.k == KEEL_KV_F32 || f.kv.k == KEEL_KV_F16; };
    // Without being asked for, K and V are compressed only where nothing fits otherwise.
    const Fit *best = nullptr, *smaller = nullptr, *passed_over = nullptr;
    for (const Fit& fit : s.fits)
        if (plain(fit) && fit.context > (best ? best->context : 0)) best = &fit;
    // The longest context for less than one percent of perplexity; of equal ones what needs least memory.
    const auto longer = [](const Fit& a, const Fit* b) {
        return !b || a.context > b->context || (a.context == b->context && a.bytes < b->bytes);
    };
    for (const Fit& fit : s.fits) {
        if (!fit.kv.loss || fit.context == 0 || (best && fit.weights != best->weights) ||
            fit.kv.loss->smollm2_ppl_percent >= kMostPplPercent)
            continue;
        const Fit*& place = looks_up_slowly && is_trellis(fit.kv.k) ? passed_over : smaller;
        if (longer(fit, place)) place = &fit;
    }
    if (passed_over && smaller && !longer(*passed_over, smaller)) passed_over = nullptr;
    if (!best && smaller) std::swap(best, smaller);
    return {best, smaller, passed_over};
}

// ---- the report ----

Json fit_json(const Search& s, const Fit& fit) {
    Json row = {{"weights", weights_name(fit.weights)},
                {"k_format", kv_format_name(s.config, fit.kv.k)},
                {"v_format", kv_format_name(s.config, fit.kv.v)},
                {"recent_tokens", fit.kv.recent_tokens},
                {"context_tokens", fit.context},
                {"bytes", fit.bytes},
                {"model_limit", fit.model_limit}};
    if (fit.kv.loss) {
        row["ppl_percent_on_bundled_7m"] = fit.kv.loss->bundled_ppl_percent;
        row["ppl_percent_on_smollm2_135m"] = fit.kv.loss->smollm2_ppl_percent;
    }
    if (!fit.why_not.empty()) row["error"] = fit.why_not;
    return row;
}

void print_as_json(const Search& s, const Picked& picked) {
    Json rows = Json::array();
    for (const Fit& fit : s.fits) rows.push_back(fit_json(s, fit));
    const auto row = [&](const Fit* fit) { return fit ? rows[static_cast<size_t>(fit - s.fits.data())] : Json(); };
    print_json({{"memory_bytes", s.memory_bytes},
                {"sessions", s.options.sessions},
                {"mapped_weights_counted", !s.mapped_free},
                {"fits", rows},
                {"best", row(picked.best)},
                {"compressed", row(picked.smaller)},
                {"slower_than_f16", row(picked.passed_over)}});
}

std::string loss_text(const Fit& fit, double KvLoss::*percent) {
    return fit.kv.loss ? strf("%+.2f %%", *fit.kv.loss.*percent) : std::string();
}

// The command that runs with what was found.
std::string run_line(const Search& s, const Fit& fit) {
    const auto option = [&](const char* side, keel_kv_format format) {
        return format || !s.profile ? strf(" --kv-%s %s", side, kv_format_name(format)) : std::string();
    };
    const std::string recent = fit.kv.recent_tokens ? strf(" --kv-recent %u", fit.kv.recent_tokens) : "";
    return strf("keel run %s --context %u%s%s%s --weights %s%s\n", s.options.model.c_str(), fit.context,
                option("k", fit.kv.k).c_str(), option("v", fit.kv.v).c_str(), recent.c_str(), weights_name(fit.weights),
                given_options(s.options).c_str());
}

void print_table(const Search& s) {
    printf("%s: longest context of %u session%s in %s, mapped weights %s\n\n", s.options.model.c_str(),
           s.options.sessions, s.options.sessions == 1 ? "" : "s", human_bytes(s.memory_bytes).c_str(),
           s.mapped_free ? "not counted" : "counted");
    Table table({"weights", "K", "V", "recent", "context", "needs", "PPL, 7M *", "SmolLM2 *", ""}, 3);
    for (const Fit& fit : s.fits)
        table.add({weights_name(fit.weights), kv_format_name(s.config, fit.kv.k), kv_format_name(s.config, fit.kv.v),
                   fit.kv.recent_tokens ? strf("%u", fit.kv.recent_tokens) : "", strf("%u", fit.context),
                   human_bytes(fit.bytes), loss_text(fit, &KvLoss::bundled_ppl_percent),
                   loss_text(fit, &KvLoss::smollm2_ppl_percent),
                   !fit.why_not.empty() ? fit.why_not
                   : fit.context == 0   ? "does not fit"
                   : fit.model_limit    ? "all the model was trained for"
                                        : ""});
    fputs(table.text().c_str(), stdout);
    if (s.compress)
        printf(
            "* perplexity against f16, on the bundled 7M model and SmolLM2-135M-Instruct, as far as it was "
            "measured;\n"
            "  `keel eval kv MODEL TEXT` measures yours\n");
}

void print_conclusions(const Search& s, const Picked& picked) {
    const auto [best, smaller, passed_over] = picked;
    if (best) printf("\n%s", run_line(s, *best).c_str());
    if (best && smaller) {
        const std::string gain = smaller->context > best->context
                                     ? strf("%.1f times the context", 1.0 * smaller->context / best->context)
                                     : strf("%s less", human_bytes(best->bytes - smaller->bytes).c_str());
        printf("\nKeys in %s and values in %s give %s for %s of SmolLM2's perplexity *:\n%s",
               kv_format_name(smaller->kv.k), kv_format_name(smaller->kv.v), gain.c_str(),
               loss_text(*smaller, &KvLoss::smollm2_ppl_percent).c_str(), run_line(s, *smaller).c_str());
    }
    if (passed_over)
        printf(
            "\nKeys in %s and values in %s would give a context of %u, but %s kernels decode trellises by single "
            "look-ups: from some 2,000 positions on attention takes longer than with f16.\n",
            kv_format_name(passed_over->kv.k), kv_format_name(passed_over->kv.v), passed_over->context,
            cpu_name(s.cpu));
}

}  // namespace

void search_memory(const EngineOptions& options, uint64_t memory_bytes, bool mapped_free, const Console& console) {
    const ModelFile file = open_model(options.model);
    ConfigParts parts;
    const keel_config config = make_config(options, parts);
    const Search found = search(options, file, config, memory_bytes, mapped_free);
    const Picked picked = pick(found);
    if (console.json) {
        print_as_json(found, picked);
    } else {
        print_table(found);
        print_conclusions(found, picked);
    }
    if (!picked.best) throw ToolError(kExitMemory, "no configuration fits into " + human_bytes(memory_bytes));
}

}  // namespace keel::tools
