// keel eval ppl: negative log-likelihood of a text under the model, by a protocol stated in the output.
//
//   default   each document alone: ids = [BOS] + tokenize(text), cut to window + 1; positions 1..window are scored,
//   each with
//             everything before it as context
//   --stride  every token of a document is scored once: windows of `window` tokens advance by `stride`, each has BOS
//             in place of its first token and scores the tokens the window before it did not
//
// Bits per byte: sum of NLL / ln 2 over the bytes of the file's text that the scored tokens stand for (ScoredText).
// --against: the same of another model. Where both read the same tokens they are compared token by token, else, as with
// a report, document by document.
#include <math.h>
#include <stdio.h>

#include <memory>
#include <optional>

#include "sdk/tools/cli/eval_ppl.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/case_operators.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/scored_text.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/common/text_rows.h"

namespace keel::tools {
namespace {

constexpr uint32_t kBlockTokens = 64;  // unit of intervals when there is one source only
constexpr uint32_t kChunk = 128;

// Sums over some scored tokens. Of the reference: zeros without one. Nats.
struct Sums {
    double nll = 0, reference_nll = 0, kl = 0;
    uint64_t tokens = 0, same_top = 0;
    uint32_t source = kOwnSource;  // of a document

    void add(const Sums& other) {
        nll += other.nll, reference_nll += other.reference_nll, kl += other.kl;
        tokens += other.tokens, same_top += other.same_top;
    }
};

// What one document contributed. Blocks cut it into runs of scored tokens.
struct DocumentScore {
    Sums sums;
    ScoredText text;
    std::vector<Sums> blocks;

    void add(const Sums& token) {
        if (sums.tokens % kBlockTokens == 0) blocks.emplace_back();
        blocks.back().add(token);
        sums.add(token);
    }
};

std::vector<int32_t> ids_of(const Engine& engine, const std::string& text, const PplOptions& o) {
    return tokenize(engine, o.case_operators ? encode_case(text) : text, o.no_bos ? 0 : KEEL_TOKENIZE_BOS);
}
std::string text_of(const Engine& engine, std::span<const int32_t> ids, const PplOptions& o) {
    const std::string text = detokenize(engine, ids);
    return o.case_operators ? decode_case(text).text : text;
}

// A model that computes windows, each from an empty session.
class Windows {
  public:
    explicit Windows(LoadedModel& model) : session_(open_session(model)), rows_(model.engine, session_) {}
    void start(std::span<const int32_t> input) {
        check(session_.truncate(0), "cannot empty the session");
        rows_.start(input);
    }
    std::span<const float> next_logits() { return rows_.next_logits(); }

  private:
    Session session_;
    TextRows rows_;
};

class Scorer {
  public:
    // reference: computes the same tokens; or null.
    Scorer(LoadedModel& model, LoadedModel* reference, const PplOptions& options)
        : model_(model),
          windows_(model),
          window_(options.window ? options.window : model.plan.context_tokens),
          options_(options) {
        if (reference) reference_ = std::make_unique<Windows>(*reference);
    }
    uint32_t window() const { return window_; }

    template <class Progress>
    DocumentScore score(const std::string& text, uint64_t most_tokens, const Progress& progress) {
        const std::vector<int32_t> ids = ids_of(model_.engine, text, options_);
        DocumentScore score;
        // Position 0 is context only. Without a BOS that is the text's own first token.
        const bool bos = !options_.no_bos && !ids.empty() && ids[0] == model_.file.info.bos_id;
        const size_t limit = options_.stride ? ids.size() : std::min<size_t>(ids.size(), size_t{window_} + 1);
        size_t begin = 0, scored = 1;  // first input of the window; first target not scored yet
        std::vector<int32_t> input;
        while (scored < limit && score.sums.tokens < most_tokens) {
            // One behind the last target of this window.
            const size_t end =
                std::min({limit, begin + window_ + 1, scored + static_cast<size_t>(most_tokens - score.sums.tokens)});
            input.assign(ids.begin() + static_cast<ptrdiff_t>(begin), ids.begin() + static_cast<ptrdiff_t>(end) - 1);
            if (begin > 0 && bos) input[0] = ids[0];
            windows_.start(input);
            if (reference_) reference_->start(input);
            for (size_t target = begin + 1; target < end; ++target) {
                const std::span<const float> logits = windows_.next_logits(),
                                             others = reference_ ? reference_->next_logits() : std::span<const float>();
                if (target < scored) continue;
                score.add(compare(logits, others, static_cast<size_t>(ids[target])));
                progress(score.sums.tokens);
            }
            scored = end;
            begin += options_.stride ? options_.stride : window_;
        }
        const auto decoded_bytes = [&](size_t count) {
            return text_of(model_.engine, std::span(ids).first(count), options_).size();
        };
        score.text = scored_text(text, text_of(model_.engine, ids, options_), bos || ids.empty() ? 0 : decoded_bytes(1),
                                 scored == ids.size() ? std::nullopt : std::optional(decoded_bytes(scored)));
        if (score.sums.tokens == 0) score.text.bytes = 0;
        return score;
    }

  private:
    Sums compare(std::span<const float> logits, std::span<const float> reference, size_t id) {
        Sums s;
        const double log_sum = log_sum_exp(logits);
        s.nll = log_sum - logits[id];
        s.tokens = 1;
        if (reference.empty()) return s;
        const double reference_sum = log_sum_exp(reference);
        probabilities_.resize(reference.size());
        for (size_t i = 0; i < reference.size(); ++i)
            probabilities_[i] = static_cast<float>(exp(reference[i] - reference_sum));
        s.reference_nll = reference_sum - reference[id];
        s.kl = kl_divergence(reference, probabilities_, reference_sum, logits, log_sum);
        s.same_top = top_index(logits) == top_index(reference);
        return s;
    }

    LoadedModel& model_;
    Windows windows_;
    std::unique_ptr<Windows> reference_;
    std::vector<float> probabilities_;
    uint32_t window_;
    const PplOptions& options_;
};

struct Evaluation {
    std::vector<DocumentScore> documents;
    Sums total;
    uint64_t bytes = 0;

    bool by_document() const { return sources() > 1; }
    size_t sources() const {
        std::vector<ScoredUnit> all;
        for (const Sums& s : units()) all.push_back({s.nll, s.tokens, s.source});
        return source_count(all);
    }
    // What intervals are over: documents, or blocks of those of the only source.
    std::vector<Sums> units() const {
        std::vector<Sums> units;
        for (const DocumentScore& d : documents)
            if (d.sums.tokens) units.push_back(d.sums);
        return units;
    }
    std::vector<Sums> interval_units() const {
        if (by_document()) return units();
        std::vector<Sums> blocks;
        for (const DocumentScore& d : documents) blocks.insert(blocks.end(), d.blocks.begin(), d.blocks.end());
        return blocks;
    }
    double bits_per_byte() const { return total.nll / M_LN2 / static_cast<double>(bytes); }
    // An interval of NLL per token as one of bits per byte, where there is one source only.
    Interval per_byte(const Interval& nll) const {
        const double scale = static_cast<double>(total.tokens) / M_LN2 / static_cast<double>(bytes);
        return {nll.low * scale, nll.high * scale};
    }
    Interval bits_per_byte_interval(const Interval& nll) const {
        if (!by_document()) return per_byte(nll);
        std::vector<ScoredUnit> units;
        for (const DocumentScore& d : documents)
            if (d.text.bytes) units.push_back({d.sums.nll / M_LN2, d.text.bytes, d.sums.source});
        return mean_nll_interval(units);
    }
    uint64_t count(bool ScoredText::*property) const {
        uint64_t n = 0;
        for (const DocumentScore& d : documents) n += d.text.*property;
        return n;
    }
};

// `most` tokens at most in all. The evaluation holds whole documents where Ctrl-C ended it early.
Evaluation evaluate(Scorer& scorer, const std::vector<TextDocument>& documents, const PplOptions& o,
                    const Console& console) {
    Evaluation e;
    const std::vector<uint32_t> sources = source_numbers(documents);
    const uint64_t most = o.max_tokens ? o.max_tokens : uint64_t{1} << 62;
    ProgressBar bar(console, "scoring");
    for (size_t d = 0; d < documents.size() && e.total.tokens < most; ++d) {
        const auto progress = [&](uint64_t tokens) {
            stop_if_interrupted();
            if (tokens % 64) return;
            bar.update(d, documents.size(),
                       strf("document %zu of %zu, %llu tokens", d + 1, documents.size(),
                            static_cast<unsigned long long>(e.total.tokens + tokens)));
        };
        try {
            e.documents.push_back(scorer.score(documents[d].text, most - e.total.tokens, progress));
        } catch (const ToolError& error) {
            // Whole documents that were scored before Ctrl-C are a result; the exit code says that more were asked for.
            if (error.exit_code != kExitCancelled || e.documents.empty()) throw;
            fprintf(stderr, "stopped by Ctrl-C after %zu of %zu documents\n", e.documents.size(), documents.size());
            break;
        }
        e.documents.back().sums.source = sources[d];
        e.total.add(e.documents.back().sums);
        e.bytes += e.documents.back().text.bytes;
    }
    if (e.total.tokens == 0) throw ToolError(kExitRuntime, o.text + " has no token to score");
    return e;
}

// ---- against another model ----

// What of a document another evaluation of the same text kept.
struct OtherDocument {
    double nll = 0;
    uint64_t tokens = 0, bytes = 0;
};

// A report of `keel eval ppl --per-document --json`. Throws ToolError.
std::vector<OtherDocument> read_report(const std::string& path) {
    const Json report = Json::parse(read_text(path), nullptr, false);
    if (!report.is_object() || !report.contains("per_document") || !report["per_document"].is_array())
        throw ToolError(kExitFile, path + " is neither a GGUF file nor a report of eval ppl --per-document --json");
    std::vector<OtherDocument> out;
    for (const Json& d : report["per_document"]) {
        const auto number = [&](const char* key) {
            if (!d.is_object() || !d.contains(key) || !d[key].is_number())
                throw ToolError(kExitFile,
                                strf("%s, document %zu: no number \"%s\"", path.c_str(), out.size() + 1, key));
            return d[key];
        };
        out.push_back(
            {number("nll_sum").get<double>(), number("tokens").get<uint64_t>(), number("bytes").get<uint64_t>()});
    }
    return out;
}

bool is_report(const std::string& path) {
    FILE* const file = fopen(path.c_str(), "rb");
    if (!file) throw ToolError(kExitFile, "cannot open " + path);
    int first = getc(file);
    while (first == ' ' || first == '\n' || first == '\r' || first == '\t') first = getc(file);
    fclose(file);
    return first == '{';
}

bool same_tokens(const Engine& a, const Engine& b, const std::vector<TextDocument>& documents, const PplOptions& o) {
    for (const TextDocument& document : documents)
        if (ids_of(a, document.text, o) != ids_of(b, document.text, o)) return false;
    return true;
}

// One paired figure: of both, and the difference.
struct PairedFigures {
    double reference = 0;
    PairedDelta delta;
};
Json paired_json(const PairedFigures& f) {
    return {{"reference", f.reference},
            {"delta", f.delta.mean},
            {"delta_95", {f.delta.interval.low, f.delta.interval.high}}};
}

// Difference in bits per byte, document by document.
PairedFigures paired_bits(const Evaluation& e, const std::vector<OtherDocument>& others) {
    std::vector<PairedUnit> units;
    double sum = 0, bytes = 0;
    for (size_t i = 0; i < others.size(); ++i) {
        const DocumentScore& d = e.documents[i];
        if (!d.text.bytes) continue;
        units.push_back({others[i].nll / M_LN2, d.sums.nll / M_LN2, d.text.bytes,
                         e.by_document() ? d.sums.source : kOwnSource});  // of a report's blocks nothing is known
        sum += units.back().reference_nll;
        bytes += static_cast<double>(d.text.bytes);
    }
    return {sum / bytes, paired_delta(units)};
}

struct Comparison {
    bool by_token = false;  // else nothing but bits
    PairedFigures bits, nll;
    double kl = 0, same_top = 0;  // nats per token; share of tokens
    Interval kl_95, same_top_95;
};

// `others`: one a document of `e`, of the same text.
Comparison compare_documents(const Evaluation& e, const std::vector<OtherDocument>& others, const std::string& name) {
    if (others.size() != e.documents.size())
        throw ToolError(kExitUsage, strf("%s has %zu documents, this evaluation %zu", name.c_str(), others.size(),
                                         e.documents.size()));
    for (size_t i = 0; i < others.size(); ++i)
        if (others[i].bytes != e.documents[i].text.bytes)
            throw ToolError(kExitUsage,
                            strf("document %zu: %llu bytes scored in %s, here %llu: score whole documents (--stride) "
                                 "of the same text",
                                 i + 1, static_cast<unsigned long long>(others[i].bytes), name.c_str(),
                                 static_cast<unsigned long long>(e.documents[i].text.bytes)));
    Comparison c;
    c.bits = paired_bits(e, others);
    return c;
}

Comparison compare_tokens(const Evaluation& e) {
    Comparison c;
    c.by_token = true;
    std::vector<OtherDocument> others;
    for (const DocumentScore& d : e.documents) others.push_back({d.sums.reference_nll, d.sums.tokens, d.text.bytes});
    c.bits = paired_bits(e, others);
    std::vector<PairedUnit> nll;
    std::vector<ScoredUnit> kl, top;
    for (const Sums& s : e.interval_units()) {
        nll.push_back({s.reference_nll, s.nll, s.tokens, s.source});
        kl.push_back({s.kl, s.tokens, s.source});
        top.push_back({static_cast<double>(s.same_top), s.tokens, s.source});
    }
    const double tokens = static_cast<double>(e.total.tokens);
    c.nll = {e.total.reference_nll / tokens, paired_delta(nll)};
    if (!e.by_document()) c.bits.delta.interval = e.per_byte(c.nll.delta.interval);
    c.kl = e.total.kl / tokens;
    c.kl_95 = mean_nll_interval(kl);
    c.same_top = static_cast<double>(e.total.same_top) / tokens;
    c.same_top_95 = mean_nll_interval(top);
    return c;
}

Json comparison_json(const Comparison& c, const std::string& name) {
    Json out = {{"reference", name}, {"by_token", c.by_token}, {"bits_per_byte", paired_json(c.bits)}};
    if (!c.by_token) return out;
    out["nll"] = paired_json(c.nll);
    out["delta_ppl_percent"] = ppl_percent(c.nll.delta.mean);
    out["delta_ppl_percent_95"] = {ppl_percent(c.nll.delta.interval.low), ppl_percent(c.nll.delta.interval.high)};
    out["kl"] = c.kl;
    out["kl_95"] = {c.kl_95.low, c.kl_95.high};
    out["same_top"] = c.same_top;
    out["same_top_95"] = {c.same_top_95.low, c.same_top_95.high};
    return out;
}

void print_comparison(const Comparison& c, const std::string& name) {
    printf("against        %s, paired, %s\n", name.c_str(),
           c.by_token ? "the same tokens" : "document by document (other tokens, or a report)");
    printf("bits per byte  %+.5f from %.5f   95 %% interval %+.5f .. %+.5f\n", c.bits.delta.mean, c.bits.reference,
           c.bits.delta.interval.low, c.bits.delta.interval.high);
    if (!c.by_token) return;
    printf("NLL            %+.5f from %.5f   95 %% interval %+.5f .. %+.5f\n", c.nll.delta.mean, c.nll.reference,
           c.nll.delta.interval.low, c.nll.delta.interval.high);
    printf("PPL            %+.3f %%   95 %% interval %+.3f .. %+.3f\n", ppl_percent(c.nll.delta.mean),
           ppl_percent(c.nll.delta.interval.low), ppl_percent(c.nll.delta.interval.high));
    printf("KL             %.6f nats per token   95 %% interval %.6f .. %.6f\n", c.kl, c.kl_95.low, c.kl_95.high);
    printf("same top-1     %.3f %%   95 %% interval %.3f .. %.3f\n", 100 * c.same_top, 100 * c.same_top_95.low,
           100 * c.same_top_95.high);
}

}  // namespace

Json eval_ppl(const PplOptions& o, const Console& console) {
    if (o.stride && o.window && o.stride > o.window) throw ToolError(kExitUsage, "--stride must not exceed --window");
    const std::vector<TextDocument> documents = read_documents(o.text, o.documents);
    EngineOptions engine = o.engine;
    if (o.window && engine.context && o.window > engine.context)
        throw ToolError(kExitUsage, "--window must not exceed --context");
    if (o.window) engine.context = o.window;
    if (engine.chunk == 0) engine.chunk = kChunk;
    const auto keep_logits = [](keel_config& config) { config.logits_rows = config.chunk_tokens; };
    LoadedModel m = load_model(engine, console, keep_logits), reference;
    const bool report = !o.against.empty() && is_report(o.against);
    std::vector<OtherDocument> others;
    bool by_token = false;
    if (report) {
        others = read_report(o.against);
    } else if (!o.against.empty()) {
        engine.model = o.against;
        engine.wproj.clear();  // of the first model
        engine.kv_profile.clear();
        engine.lora.clear();
        engine.low_rank = false;
        engine.context = m.plan.context_tokens;
        reference = load_model(engine, console, keep_logits);
        by_token = reference.file.info.vocabulary == m.file.info.vocabulary &&
                   same_tokens(m.engine, reference.engine, documents, o);
        if (!by_token && (!o.stride || o.max_tokens))
            throw ToolError(kExitUsage, o.against +
                                            " reads other tokens: bits per byte are compared on whole documents, "
                                            "with --stride and without --max-tokens");
    }
    Scorer scorer(m, by_token ? &reference : nullptr, o);
    if (o.stride > scorer.window()) throw ToolError(kExitUsage, "--stride must not exceed the window");

    const Evaluation e = evaluate(scorer, documents, o, console);
    if (!o.against.empty() && !by_token && !report && !interrupted()) {
        PplOptions plain = o;
        plain.case_operators = false;
        Scorer other_scorer(reference, nullptr, plain);
        try {
            const Evaluation other = evaluate(other_scorer, documents, plain, console);
            for (const DocumentScore& d : other.documents) others.push_back({d.sums.nll, d.sums.tokens, d.text.bytes});
        } catch (const ToolError& error) {
            if (error.exit_code != kExitCancelled) throw;
        }
    }
    // After Ctrl-C documents that one side lacks are not compared; without any the scores stand alone.
    const bool comparable = by_token || !interrupted() || others.size() >= e.documents.size();
    if (interrupted() && comparable) others.resize(std::min(others.size(), e.documents.size()));
    std::optional<Comparison> comparison;
    if (!o.against.empty() && comparable)
        comparison = by_token ? compare_tokens(e) : compare_documents(e, others, o.against);

    std::vector<ScoredUnit> units;
    for (const Sums& s : e.interval_units()) units.push_back({s.nll, s.tokens, s.source});
    const Interval interval = mean_nll_interval(units);
    const double tokens = static_cast<double>(e.total.tokens), nll = e.total.nll / tokens,
                 uniform = tokens * log2(m.file.info.vocabulary) / static_cast<double>(e.bytes);
    const Interval bits_interval = e.bits_per_byte_interval(interval);
    const uint64_t lossy = e.count(&ScoredText::lossy), estimated = e.count(&ScoredText::estimated);
    const std::string interval_text =
        e.by_document() ? strf("Student's t over %zu sources of documents", e.sources())
                        : strf("Student's t over %zu blocks of 64 tokens of one source", units.size());
    const std::string protocol =
        o.stride ? strf("windows of %u tokens advancing by %u, every token scored once", scorer.window(), o.stride)
                 : strf("each document alone, cut to %u tokens after %s, full left context", scorer.window(),
                        o.no_bos ? "its first" : "BOS");

    Json out = {{"model", m.file.info.name},
                {"fingerprint", hex64(m.file.info.fingerprint)},
                {"text", o.text},
                {"protocol", protocol},
                {"window", scorer.window()},
                {"stride", o.stride},
                {"documents", e.documents.size()},
                {"tokens", e.total.tokens},
                {"bytes", e.bytes},
                {"lossy_documents", lossy},
                {"case_operators", o.case_operators},
                {"documents_with_estimated_bytes", estimated},
                {"nll", nll},
                {"nll_95", {interval.low, interval.high}},
                {"ppl", exp(nll)},
                {"ppl_95", {exp(interval.low), exp(interval.high)}},
                {"bits_per_byte", e.bits_per_byte()},
                {"bits_per_byte_95", {bits_interval.low, bits_interval.high}},
                {"uniform_bits_per_byte", uniform},
                {"interval", interval_text},
                {"k_format", kv_format_name(m.config, m.config.k_format)},
                {"v_format", kv_format_name(m.config, m.config.v_format)},
                {"activation", activation_name(m.config.activation)},
                {"kernel_set", cpu_name(m.plan.cpu)}};
    if (comparison) out["against"] = comparison_json(*comparison, o.against);
    if (o.per_document)
        for (const DocumentScore& d : e.documents)
            out["per_document"].push_back(
                {{"nll_sum", d.sums.nll}, {"tokens", d.sums.tokens}, {"bytes", d.text.bytes}, {"lossy", d.text.lossy}});
    if (console.json) return out;
    if (o.per_document)
        for (size_t d = 0; d < e.documents.size(); ++d) {
            const DocumentScore& s = e.documents[d];
            printf("document %4zu  %6llu tokens  nll %.5f  bits per byte %.5f%s\n", d + 1,
                   static_cast<unsigned long long>(s.sums.tokens),
                   s.sums.nll / static_cast<double>(std::max<uint64_t>(s.sums.tokens, 1)),
                   s.sums.nll / M_LN2 / static_cast<double>(std::max<uint64_t>(s.text.bytes, 1)),
                   s.text.lossy ? "  lossy" : "");
        }
    printf("protocol       %s\n", protocol.c_str());
    printf("documents      %zu\n", e.documents.size());
    printf("tokens scored  %llu (%llu bytes of the text)\n", static_cast<unsigned long long>(e.total.tokens),
           static_cast<unsigned long long>(e.bytes));
    if (o.case_operators) printf("text           in lower case behind case operators\n");
    if (lossy)
        printf("tokenization   does not give back %llu of %zu documents%s\n", static_cast<unsigned long long>(lossy),
               e.documents.size(),
               estimated ? strf("; the bytes of %llu, which are cut, are estimated",
                                static_cast<unsigned long long>(estimated))
                               .c_str()
                         : "");
    printf("NLL            %.5f   95 %% interval %.5f .. %.5f (%s)\n", nll, interval.low, interval.high,
           interval_text.c_str());
    printf("PPL            %.4f   95 %% interval %.4f .. %.4f\n", exp(nll), exp(interval.low), exp(interval.high));
    printf("bits per byte  %.5f   (a uniform model: %.5f)\n", e.bits_per_byte(), uniform);
    if (comparison) print_comparison(*comparison, o.against);
    if (!e.by_document() || e.sources() < kFewSources)
        printf("note           fewer than %zu sources: other texts may well lie outside the intervals\n", kFewSources);
    if (m.config.activation != KEEL_ACTIVATION_F32)
        printf(
            "note           activations in q8: of a quantized model two runs that differ anywhere differ by some 0.2 "
            "%% "
            "of PPL; compare them with --activation f32\n");
    return out;
}

void add_eval_verb(Verb app, Console& console) {
    Verb eval = add_group(app, "eval", "quality of a model on a text");
    auto o = std::make_shared<PplOptions>();
    Verb verb = add_verb(eval, console, "ppl", "perplexity and bits per byte",
                         "  keel eval ppl model.gguf validation.jsonl\n"
                         "  keel eval ppl model.gguf book.txt --window 2048 --stride 1024\n"
                         "  keel eval ppl model-q4_k.gguf validation.jsonl --against model-f16.gguf\n"
                         "  keel eval ppl model.gguf validation.jsonl --documents 10 --kv-k f32 --kv-v f32 --json");
    add_engine_options(verb, o->engine);
    add_backend_options(verb, o->engine);
    verb.add_option("text", o->text, "a text file, or .jsonl with a field \"text\" per line").required();
    verb.add_option("--window,-w", o->window, "tokens of context (default: --context)");
    verb.add_option("--stride,-s", o->stride, "score whole documents in windows that advance by this many tokens");
    verb.add_option("--documents", o->documents, "only the first N documents");
    verb.add_option("--max-tokens", o->max_tokens, "stop after scoring N tokens");
    verb.add_option("--against", o->against,
                    "another model, or a report of --per-document --json: paired differences; KL and top-1 where both "
                    "read the same tokens");
    verb.add_flag("--no-bos", o->no_bos, "do not begin with the model's BOS token");
    verb.add_flag(
        "--case-operators", o->case_operators,
        "the model reads texts in lower case, with the operators U+E001 to U+E004 of \"lossless caps\"; bytes are "
        "those of the text itself. A reference of other tokens reads the text itself");
    verb.add_flag("--per-document", o->per_document, "a line for every document");
    verb.callback([o, &console] {
        const Json report = eval_ppl(*o, console);
        if (console.json) print_json(report);
    });
    add_eval_kv_verb(eval, console);
    add_eval_draws_verb(eval, console);
    add_eval_learn_verb(eval, console);
}

}  // namespace keel::tools
