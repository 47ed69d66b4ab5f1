// keel eval kv: what formats of the KV arena, and published codecs in its place, do to a model's predictions on a text.
//
// Every document alone: ids = [BOS] + tokenize(text), cut to --tokens + 1; every position is scored with its whole left
// context, in steps of --chunk tokens (128; 512 where blocks of positions are coded) over rows that have been coded
// before anything reads them, so that errors accumulate from layer to layer and from position to position, as in use.
// The reference computes the same tokens, with activations in f32 unless --activation says otherwise (KvRun).
// Differences are paired, and intervals are over sources of documents. What another exact arena "loses" is the floor
// below which nothing is seen; it is measured on the first document. --decode computes the last tokens again one by one
// and compares every bit of the logits.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/lab/kv/kv_codec_calibration.h"
#include "sdk/tools/lab/kv/kv_codec_tap.h"
#include "sdk/tools/lab/kv/kv_probe.h"
#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {
namespace {

struct Options {
    EngineOptions engine;
    KvText text;
    std::string output, reference = "f16", against, codec_text;
    std::vector<std::string> formats, single_formats;
    uint32_t decode = 0, mse_documents = 1, passage = 64, codec_documents = 8;
    std::vector<double> largest;
    double largest_kl = 2;
    std::vector<uint32_t> probe, prefixes;
    bool no_bos = false, per_document = false;
};

// One format of the grid with its engine and what watches it.
struct Candidate {
    Candidate(const EngineOptions& options, const KvSpec& spec, uint32_t context_tokens, const KvCodecTables* tables)
        : quality{.spec = spec} {
        EngineOptions engine = options;
        KvShape shape;
        if (!spec.native) {
            const ModelFile file = open_model(options.model);
            shape = {file.info.layers, file.info.kv_heads, file.info.heads, file.info.head_dim, context_tokens};
            codec = std::make_unique<KvCodecTap>(shape, spec.k_codec, spec.v_codec, tables);
            quality.blocks = codec->codes_blocks();
            if (codec->one_thread()) engine.threads = 1;
        }
        run = std::make_unique<KvRun>(engine, spec, context_tokens, nullptr, quality.blocks ? kLabBlockChunk : 0);
        if (spec.native)
            stored = std::make_unique<KvStoredErrors>(run->shape());
        else
            run->set_tap(codec.get());
    }

    void score(const KvReference& reference, uint32_t source, const std::string& kind, bool with_row_errors,
               uint32_t decode) {
        if (stored) run->set_tap(with_row_errors ? stored.get() : nullptr);
        if (codec) codec->count_errors(with_row_errors);
        const size_t decode_from = reference.positions() - std::min<size_t>(decode, reference.positions());
        std::vector<float> kept;
        run->forward(reference.input(), [&](size_t position, std::span<const float> logits) {
            const KvComparison comparison = compare(reference, position, logits);
            quality.score.add(comparison);
            for (KvPart& part : quality.parts)
                if (part.holds(position, kind)) part.score.add(comparison);
            if (position >= decode_from) kept.insert(kept.end(), logits.begin(), logits.end());
        });
        quality.score.end_document(source);
        for (KvPart& part : quality.parts) part.score.end_document(source);
        if (decode == 0 || quality.blocks) return;
        run->decode_again(
            reference.input(), static_cast<uint32_t>(decode_from), [&](size_t position, std::span<const float> logits) {
                ++quality.decoded_tokens;
                quality.decoded_differences +=
                    memcmp(logits.data(), &kept[(position - decode_from) * logits.size()], logits.size_bytes()) != 0;
            });
    }

    void finish(const KvBytes& f16) {
        if (codec) {
            const uint32_t context = run->plan().context_tokens;
            quality.bytes.side_bytes = codec->side_bytes();
            quality.bytes.total_bytes =
                codec->bytes_per_token() * context + static_cast<double>(quality.bytes.side_bytes);
            quality.bytes.per_token = quality.bytes.total_bytes / context;
            quality.rows_left_in_f16 = codec->rows_left_in_f16();
        } else {
            quality.bytes = planned_kv_bytes(run->plan());
        }
        if (stored && quality.bytes.precise_bytes) quality.sinks = sinks_of_coded_rows(quality.spec.sinks);
        quality.bytes.ratio = f16.total_bytes / quality.bytes.total_bytes;
        const KvRowErrors& errors = codec ? codec->errors() : stored->errors();
        quality.k_relative_mse = errors.relative_mse(false);
        quality.v_relative_mse = errors.relative_mse(true);
    }

    std::unique_ptr<KvCodecTap> codec;  // before the engine that calls them
    std::unique_ptr<KvStoredErrors> stored;
    std::unique_ptr<KvRun> run;
    KvQuality quality;
};

std::vector<KvSpec> grid_of(const Options& o) {
    std::vector<std::string> names;
    for (const std::string& list : o.formats)
        for (std::string& name : split_kv_specs(list)) names.push_back(std::move(name));
    names.insert(names.end(), o.single_formats.begin(), o.single_formats.end());
    if (names.empty()) throw ToolError(kExitUsage, "--formats names no format");
    std::vector<KvSpec> specs;
    const KvSpecDefaults defaults = {o.engine.kv_profile, o.engine.sinks, o.engine.recent};
    for (const std::string& name : names) specs.push_back(parse_kv_spec(name, defaults));
    return specs;
}

Json interval_json(const Interval& interval, double (*of)(double)) {
    return {of(interval.low), of(interval.high)};
}
double same(double x) {
    return x;
}

Json quality_json(const KvQuality& q, bool per_document) {
    const PairedDelta delta = q.score.delta();
    Json out = {{"name", q.spec.name},
                {"family", q.spec.family},
                {"native", q.spec.native},
                {"profile", q.spec.profile},
                {"sinks", q.sinks},
                {"recent", q.spec.recent},
                {"bytes_per_token", q.bytes.per_token},
                {"ratio", q.bytes.ratio},
                {"page_bytes", q.bytes.page_bytes},
                {"pages", q.bytes.pages},
                {"precise_bytes", q.bytes.precise_bytes},
                {"side_bytes", q.bytes.side_bytes},
                {"total_bytes", q.bytes.total_bytes},
                {"delta_nll", delta.mean},
                {"delta_nll_95", interval_json(delta.interval, same)},
                {"delta_ppl_percent", ppl_percent(delta.mean)},
                {"delta_ppl_percent_95", interval_json(delta.interval, ppl_percent)},
                {"kl_mean", q.score.kl_mean()},
                {"kl_mean_95", interval_json(q.score.kl_interval(), same)},
                {"kl_p99", q.score.kl_percentile(0.99)},
                {"same_top_percent", q.score.same_top_percent()},
                {"k_relative_mse", q.k_relative_mse},
                {"v_relative_mse", q.v_relative_mse}};
    if (q.blocks) out["rows_left_in_f16"] = q.rows_left_in_f16;
    if (q.decoded_tokens)
        out["decode_through_cache"] = {{"tokens", q.decoded_tokens}, {"tokens_with_other_bits", q.decoded_differences}};
    if (per_document)
        for (const PairedUnit& unit : q.score.document_units())
            out["per_document"].push_back({{"tokens", unit.tokens},
                                           {"source", unit.source == kOwnSource ? Json(nullptr) : Json(unit.source)},
                                           {"reference_nll_sum", unit.reference_nll},
                                           {"nll_sum", unit.nll}});
    return out;
}

Json parts_json(const KvQuality& q) {
    Json out = Json::array();
    for (const KvPart& part : q.parts) {
        const PairedDelta delta = part.score.delta();
        out.push_back({{"first_tokens", part.tokens},
                       {"kind", part.kind.empty() ? Json(nullptr) : Json(part.kind)},
                       {"documents", part.score.documents()},
                       {"sources", part.score.sources()},
                       {"tokens", part.score.tokens()},
                       {"reference_nll", part.score.reference_nll()},
                       {"delta_nll", delta.mean},
                       {"delta_nll_95", interval_json(delta.interval, same)},
                       {"delta_ppl_percent", ppl_percent(delta.mean)},
                       {"delta_ppl_percent_95", interval_json(delta.interval, ppl_percent)},
                       {"kl_mean", part.score.kl_mean()},
                       {"kl_mean_95", interval_json(part.score.kl_interval(), same)},
                       {"same_top_percent", part.score.same_top_percent()}});
    }
    return out;
}

std::string percent_text(const PairedDelta& delta) {
    return strf("%+.3f (%+.3f .. %+.3f)", ppl_percent(delta.mean), ppl_percent(delta.interval.low),
                ppl_percent(delta.interval.high));
}

// The format of --against; null without one.
const KvQuality* baseline_of(const std::vector<KvQuality>& qualities, const std::string& name) {
    const auto it =
        std::find_if(qualities.begin(), qualities.end(), [&](const KvQuality& q) { return q.spec.name == name; });
    return it == qualities.end() ? nullptr : &*it;
}

std::string against_table(const std::vector<KvQuality>& qualities, const KvQuality& baseline) {
    Table table({"format", "bytes of " + baseline.spec.name, "dPPL % from it (95 %)", "KL over its KL"});
    for (const KvQuality& q : qualities)
        table.add({q.spec.name, strf("%.3f", q.bytes.total_bytes / baseline.bytes.total_bytes),
                   percent_text(q.score.delta_from(baseline.score)),
                   strf("%.3f", q.score.kl_mean() / baseline.score.kl_mean())});
    return table.text();
}

std::string quality_table(const std::vector<KvQuality>& qualities) {
    Table table({"format", "bytes/token", "ratio", "dPPL % (95 %)", "dNLL", "KL mean", "KL p99", "top-1 %",
                 "K mse, worst layer", "V mse, worst layer"});
    const auto worst = [](const std::vector<double>& v) {
        return v.empty() ? 0.0 : *std::max_element(v.begin(), v.end());
    };
    for (const KvQuality& q : qualities) {
        const PairedDelta delta = q.score.delta();
        table.add({q.spec.name, strf("%.1f", q.bytes.per_token), strf("%.3f", q.bytes.ratio), percent_text(delta),
                   strf("%+.5f", delta.mean), strf("%.5f", q.score.kl_mean()),
                   strf("%.4f", q.score.kl_percentile(0.99)), strf("%.2f", q.score.same_top_percent()),
                   strf("%.5f", worst(q.k_relative_mse)), strf("%.5f", worst(q.v_relative_mse))});
    }
    return table.text();
}

std::string parts_table(const std::vector<KvQuality>& qualities) {
    Table table({"first tokens", "kind", "format", "sources", "PPL", "dPPL % (95 %)", "KL mean", "top-1 %"});
    for (size_t i = 0; i < qualities[0].parts.size(); ++i)
        for (const KvQuality& q : qualities) {
            const KvPart& part = q.parts[i];
            table.add({strf("%u", part.tokens), part.kind.empty() ? "all" : part.kind, q.spec.name,
                       strf("%zu", part.score.sources()), strf("%.3f", exp(part.score.reference_nll())),
                       percent_text(part.score.delta()), strf("%.5f", part.score.kl_mean()),
                       strf("%.2f", part.score.same_top_percent())});
        }
    return table.text();
}

Json largest_json(const std::vector<KvQuality>& qualities, const std::vector<double>& thresholds, double kl_factor) {
    Json out = Json::array();
    const auto entry = [](const KvQuality* q) {
        return q ? Json{{"name", q->spec.name}, {"ratio", q->bytes.ratio}} : Json(nullptr);
    };
    for (const double percent : thresholds) {
        Json families = Json::object();
        for (const std::string& family : families_of(qualities))
            families[family] = entry(largest_ratio(qualities, percent, kl_factor, family));
        out.push_back({{"delta_ppl_percent", percent},
                       {"kl_mean", kl_factor * log1p(percent / 100)},
                       {"overall", entry(largest_ratio(qualities, percent, kl_factor))},
                       {"families", families}});
    }
    return out;
}

std::string largest_table(const std::vector<KvQuality>& qualities, const std::vector<double>& thresholds,
                          double kl_factor) {
    std::vector<std::string> head = {"largest ratio at"};
    for (const double percent : thresholds)
        head.push_back(strf("<= %g %% dPPL, KL <= %.4f", percent, kl_factor * log1p(percent / 100)));
    Table table(head);
    const auto entry = [](const KvQuality* q) {
        return q ? strf("%.2f (%s)", q->bytes.ratio, q->spec.name.c_str()) : std::string("none");
    };
    const auto add = [&](const std::string& label, const std::string& family) {
        std::vector<std::string> row = {label};
        for (const double percent : thresholds)
            row.push_back(entry(largest_ratio(qualities, percent, kl_factor, family)));
        table.add(row);
    };
    for (const std::string& family : families_of(qualities)) add(family, family);
    add("overall", {});
    return table.text();
}

Json probe_json(const Options& o, const std::vector<KvQuality>& qualities,
                const std::vector<std::vector<KvProbeScore>>& scores) {
    Json out = {{"passage_tokens", o.passage}, {"formats", Json::array()}};
    for (size_t f = 0; f < qualities.size(); ++f) {
        Json distances = Json::array();
        for (const KvProbeScore& s : scores[f])
            distances.push_back({{"distance_tokens", s.distance},
                                 {"first_copy_nll", s.first_nll},
                                 {"reference_second_copy_nll", s.reference_nll},
                                 {"second_copy_nll", s.reference_nll + s.delta.mean},
                                 {"delta_nll_95", interval_json(s.delta.interval, same)}});
        out["formats"].push_back({{"name", qualities[f].spec.name}, {"distances", distances}});
    }
    return out;
}

std::string probe_table(const Options& o, const std::vector<KvQuality>& qualities,
                        const std::vector<std::vector<KvProbeScore>>& scores) {
    std::vector<std::string> head = {"second copy, NLL"}, reference = {"reference"};
    for (size_t i = 0; i < o.probe.size(); ++i) {
        head.push_back(strf("after %u tokens", o.probe[i]));
        if (!scores.empty())
            reference.push_back(strf("%.4f (first copy %.4f)", scores[0][i].reference_nll, scores[0][i].first_nll));
    }
    Table table(head);
    table.add(reference);
    for (size_t f = 0; f < qualities.size(); ++f) {
        std::vector<std::string> row = {qualities[f].spec.name};
        for (const KvProbeScore& s : scores[f])
            row.push_back(strf("%+.4f (%+.4f .. %+.4f)", s.delta.mean, s.delta.interval.low, s.delta.interval.high));
        table.add(row);
    }
    return table.text();
}

// Mean KL of the other exact arena on one document.
double floor_of(const Options& o, const KvSpec& reference_spec, const KvReference& exact, uint32_t context) {
    KvSpec other = reference_spec;
    other.k_format = other.v_format = reference_spec.k_format == KEEL_KV_F16 ? KEEL_KV_F32 : KEEL_KV_F16;
    KvRun run(o.engine, other, context);
    KvScore score;
    run.forward(exact.input(),
                [&](size_t position, std::span<const float> logits) { score.add(compare(exact, position, logits)); });
    return score.kl_mean();
}

int eval_kv(Options o, const Console& console) {
    if (o.engine.k_format != KEEL_KV_DEFAULT || o.engine.v_format != KEEL_KV_DEFAULT)
        throw ToolError(kExitUsage, "name formats with --formats, not with --kv-k and --kv-v");
    o.engine = with_exact_activations(o.engine);
    const std::vector<KvSpec> specs = grid_of(o);
    if (!o.against.empty() &&
        std::none_of(specs.begin(), specs.end(), [&](const KvSpec& spec) { return spec.name == o.against; }))
        throw ToolError(kExitUsage, "--against is one of the formats");
    const KvSpec reference_spec = parse_kv_spec(o.reference + "@none");
    if (reference_spec.k_format != KEEL_KV_F16 && reference_spec.k_format != KEEL_KV_F32)
        throw ToolError(kExitUsage, "--reference is f16 or f32");
    const uint32_t context = lab_context(o.engine);
    uint32_t longest_probe = 0;
    for (const uint32_t distance : o.probe) longest_probe = std::max(longest_probe, distance);
    if (!o.probe.empty() && 1 + 2 * uint64_t{o.passage} + longest_probe > context)
        throw ToolError(kExitUsage, "--probe does not fit the context");
    const uint32_t tokens = tokens_within(o.text, context);

    KvRun reference(o.engine, reference_spec, context);
    const keel_model_info& info = reference.info();
    const KvBytes f16 = reference_kv_bytes(o.engine, context);
    std::vector<uint32_t> sources;
    std::vector<std::string> kinds;
    const std::vector<std::vector<int32_t>> documents = tokenize_documents(
        reference.model().engine, o.text.file, o.text.documents, tokens + 1, !o.no_bos, &sources, &kinds);
    KvCodecTables tables;
    if (!o.codec_text.empty()) tables = covariances_of(o.engine, o.codec_text, o.codec_documents, context);

    std::vector<KvQuality> qualities;
    std::vector<std::vector<KvProbeScore>> probes;
    uint64_t reference_tokens = 0, short_documents = 0;
    size_t shortest = tokens;
    double reference_nll = 0, floor = 0;
    ProgressBar bar(console, "scoring");
    // After Ctrl-C what is reported are whole documents that all formats were scored on, or whole groups of formats.
    size_t scored = documents.size();
    for (size_t first = 0; first < specs.size() && !interrupted(); first += kMaxLabEngines) {
        std::vector<std::unique_ptr<Candidate>> candidates;
        std::vector<KvCodecTables> fitted;
        fitted.reserve(kMaxLabEngines);
        for (size_t i = first; i < std::min(first + kMaxLabEngines, specs.size()); ++i) {
            const KvCodecTables* own = nullptr;
            if (!specs[i].native && !tables.empty()) {
                fitted.push_back(tables);
                fit_tables(o.engine, specs[i], o.codec_text, o.codec_documents, context, &fitted.back());
                own = &fitted.back();
            }
            candidates.push_back(std::make_unique<Candidate>(o.engine, specs[i], context, own));
            candidates.back()->quality.parts = parts_of(kinds, o.prefixes, tokens);
        }
        for (size_t d = 0; d < scored; ++d) {
            if (interrupted() && first > 0) break;
            if (interrupted()) {
                if (d == 0) stop_if_interrupted();
                scored = d;
                break;
            }
            const KvReference exact(reference, documents[d]);
            if (first == 0) {
                for (size_t p = 0; p < exact.positions(); ++p, ++reference_tokens) reference_nll += exact.nll(p);
                shortest = std::min(shortest, exact.positions());
                short_documents += exact.positions() < tokens;
                if (d == 0) floor = floor_of(o, reference_spec, exact, context);
            }
            for (size_t i = 0; i < candidates.size(); ++i) {
                bar.draw(
                    (first + i) * documents.size() + d * candidates.size(), specs.size() * documents.size(),
                    strf("document %zu of %zu, %s", d + 1, documents.size(), candidates[i]->quality.spec.name.c_str()));
                candidates[i]->score(exact, sources[d], kinds[d], d < o.mse_documents, d == 0 ? o.decode : 0);
            }
        }
        if (interrupted() && first > 0) break;
        std::vector<KvRun*> runs;
        for (const auto& candidate : candidates) {
            candidate->finish(f16);  // before the probe adds other rows
            runs.push_back(candidate->run.get());
        }
        if (!o.probe.empty() && !interrupted()) {
            for (const auto& candidate : candidates)
                if (candidate->stored) candidate->run->set_tap(nullptr);
            for (auto& scores :
                 run_probe(reference, runs, make_probe_texts(documents, sources, o.passage, o.probe), o.probe))
                probes.push_back(std::move(scores));
        }
        for (const auto& candidate : candidates) qualities.push_back(std::move(candidate->quality));
    }
    reference_nll /= static_cast<double>(reference_tokens);

    const std::string protocol = strf(
        "each document alone, cut to %u tokens after %s; in-forward: steps of %u tokens (%u where blocks are coded) "
        "over coded rows, "
        "errors accumulate, every position scored",
        tokens, o.no_bos ? "its first" : "BOS", reference.plan().chunk_tokens, kLabBlockChunk);
    const bool by_document = !qualities.empty() && qualities[0].score.by_document(),
               extrapolated = context > info.train_context_tokens;
    const size_t interval_sources = qualities.empty() ? 0 : qualities[0].score.sources();
    const bool few_sources = !by_document || interval_sources < kFewSources;
    const std::string interval_text =
        by_document ? strf("95 %%, paired, Student's t over %zu sources of documents", interval_sources)
                    : "95 %, paired, Student's t over blocks of 64 tokens of one source";
    Json out = {{"model", info.name},
                {"fingerprint", strf("%016llx", static_cast<unsigned long long>(info.fingerprint))},
                {"text", o.text.file},
                {"protocol", protocol},
                {"bytes", strf("native formats: of one sequence of %u tokens, as planned: whole pages, rows kept in "
                               "f16, and what lies beside them once per engine; published codecs: what "
                               "encode() returned, and their tables",
                               context)},
                {"reference", o.reference},
                {"reference_nll", reference_nll},
                {"reference_ppl", exp(reference_nll)},
                {"f16_bytes_per_token", f16.per_token},
                {"context_tokens", context},
                {"train_context_tokens", info.train_context_tokens},
                {"extrapolated", extrapolated},
                {"documents", scored},
                {"tokens", reference_tokens},
                {"sources", interval_sources},
                {"interval", interval_text},
                {"few_sources", few_sources},
                {"short_documents", short_documents},
                {"shortest_document_tokens", shortest},
                {"activation", activation_name(o.engine.activation)},
                {"floor_kl_mean", floor},
                {"kernel_set", cpu_name(reference.plan().cpu)},
                {"formats", Json::array()}};
    for (const KvQuality& q : qualities) {
        out["formats"].push_back(quality_json(q, o.per_document));
        if (!q.parts.empty()) out["formats"].back()["parts"] = parts_json(q);
    }
    const KvQuality* baseline = baseline_of(qualities, o.against);
    if (baseline) {
        out["against"] = baseline->spec.name;
        for (size_t i = 0; i < qualities.size(); ++i) {
            const PairedDelta delta = qualities[i].score.delta_from(baseline->score);
            out["formats"][i]["against"] = {{"delta_ppl_percent", ppl_percent(delta.mean)},
                                            {"delta_ppl_percent_95", interval_json(delta.interval, ppl_percent)}};
        }
    }
    if (!o.largest.empty()) out["largest"] = largest_json(qualities, o.largest, o.largest_kl);
    const bool probed = !o.probe.empty() && probes.size() == qualities.size();
    if (probed) out["probe"] = probe_json(o, qualities, probes);
    if (!o.output.empty()) {
        const std::string text = out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
        write_file(o.output, text);
    }
    if (console.json) {
        print_json(out);
    } else {
        printf("protocol   %s\n", protocol.c_str());
        printf("reference  %s, %zu documents, %llu tokens, NLL %.5f, PPL %.4f; %.1f bytes a token in f16\n",
               o.reference.c_str(), scored, static_cast<unsigned long long>(reference_tokens), reference_nll,
               exp(reference_nll), f16.per_token);
        printf("intervals  %s\n", interval_text.c_str());
        printf("floor      mean KL %.5f of the other exact arena on the first document, activations in %s\n", floor,
               activation_name(o.engine.activation));
        printf("bytes      of native formats as planned for %u tokens, whatever the documents' length\n", context);
        if (few_sources)
            printf("note       fewer than %zu sources: other texts may well lie outside these intervals\n",
                   kFewSources);
        if (short_documents)
            printf(
                "note       %llu of %zu documents are shorter than %u tokens, the shortest has %zu: early positions, "
                "which have few rows to lose, count for more\n",
                static_cast<unsigned long long>(short_documents), scored, tokens, shortest);
        for (const KvQuality& q : qualities)
            if (q.rows_left_in_f16 > 0)
                printf("note       %s: %.1f %% of its rows were read in f16, their blocks never complete\n",
                       q.spec.name.c_str(), 100 * q.rows_left_in_f16);
        if (extrapolated)
            printf(
                "note       context %u is beyond the %u tokens the model was trained with: what is measured there is "
                "extrapolation\n",
                context, info.train_context_tokens);
        printf("\n%s", quality_table(qualities).c_str());
        if (!qualities.empty() && !qualities[0].parts.empty()) printf("\n%s", parts_table(qualities).c_str());
        if (baseline) printf("\n%s", against_table(qualities, *baseline).c_str());
        if (!o.largest.empty()) printf("\n%s", largest_table(qualities, o.largest, o.largest_kl).c_str());
        if (probed) printf("\n%s", probe_table(o, qualities, probes).c_str());
    }
    uint64_t differences = 0, decoded = 0;
    for (const KvQuality& q : qualities) {
        differences += q.decoded_differences;
        decoded += q.decoded_tokens;
    }
    if (decoded && !console.json)
        printf("\ndecode through the cache: %llu tokens computed again one by one, %llu of them with other bits\n",
               static_cast<unsigned long long>(decoded), static_cast<unsigned long long>(differences));
    if (differences) throw ToolError(kExitRuntime, "decoding token by token gave other bits than the steps before");
    return kExitOk;
}

}  // namespace

void add_eval_kv_verb(Verb eval, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(
        eval, console, "kv", "quality of KV formats against f16 on a text",
        "  keel eval kv model.gguf validation.jsonl --formats f16,tcq-4,tcq-3,k=tcq-4:v=tcq-3 --largest 0.5,1,2\n"
        "  keel eval kv model.gguf validation.jsonl --kv-profile model.kvp --formats "
        "profile,tcq-3,tcq-3@none,kakeya-d4:10\n"
        "  keel eval kv model.gguf validation.jsonl --formats tcq-3 --documents 4 --decode 64 --probe 128,512 --output "
        "kv.json\n"
        "  keel eval kv model.gguf validation.jsonl --formats tcq8-2,tcq10-2,tcq12-2 --against tcq8-2");
    add_engine_options(verb, o->engine);
    verb.add_footer("\n" + kv_spec_help());
    add_text_options(verb, o->text, "to score");
    verb.get_option("text").required();
    verb.add_option("--formats,-f", o->formats, "formats, separated by commas or blanks");
    verb.add_option("--format", o->single_formats, "one more format, as it stands").allow_extra_args(false);
    verb.add_option("--reference", o->reference, "f16 or f32 (default f16)");
    verb.add_option("--against", o->against, "also compare all formats with this one of them, paired");
    verb.add_option("--decode", o->decode,
                    "compute the last N tokens of the first document again one by one; other bits are an error");
    verb.add_option("--mse-documents", o->mse_documents,
                    "documents whose stored rows are compared with exact ones (default 1)");
    verb.add_option("--largest", o->largest, "report the largest ratio within these percentages of PPL").delimiter(',');
    verb.add_option("--largest-kl", o->largest_kl,
                    "and within this many times the KL that such a percentage stands for (default 2)")
        .positive();
    verb.add_option("--probe", o->probe, "repeat-copy probe: tokens between a passage and its repetition")
        .delimiter(',');
    verb.add_option("--prefixes", o->prefixes, "also what is lost within the first N tokens of every document")
        .delimiter(',');
    verb.add_option("--passage", o->passage, "tokens of the probe's passage (default 64)");
    verb.add_option("--codec-text", o->codec_text,
                    "text for the offline tables of published codecs, never the one that is scored");
    verb.add_option("--codec-documents", o->codec_documents, "documents of it (default 8)");
    verb.add_option("--output,-o", o->output, "write the report here too, as JSON");
    verb.add_flag("--no-bos", o->no_bos, "do not begin with the model's BOS token");
    verb.add_flag("--per-document", o->per_document, "sums of every document in the JSON");
    verb.callback([o, &console] { eval_kv(*o, console); });
}

}  // namespace keel::tools
