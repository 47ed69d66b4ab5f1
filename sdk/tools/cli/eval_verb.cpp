// keel eval ppl: negative log-likelihood of a text under the model, by a protocol stated in the output.
//
//   default   each document alone: ids = [BOS] + tokenize(text), cut to window + 1; positions 1..window are scored,
//   each with
//             everything before it as context
//   --stride  every token of a document is scored once: windows of `window` tokens advance by `stride`, each has BOS
//             in place of its first token and scores the tokens the window before it did not
#include <math.h>
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/interrupt.h"
#include "sdk/tools/common/model_loader.h"
#include "sdk/tools/common/statistics.h"
#include "sdk/tools/common/text_documents.h"

namespace keel::tools {
namespace {

constexpr uint32_t kBlockTokens = 64;  // unit of the interval when there is one source only

struct Options {
    EngineOptions engine;
    std::string text;
    uint32_t window = 0, stride = 0, documents = 0;
    uint64_t max_tokens = 0;
    bool no_bos = false, per_document = false;
};

// What one document contributed. Blocks cut it into runs of scored tokens.
struct DocumentScore {
    double nll_sum = 0;
    uint64_t tokens = 0, bytes = 0;
    std::vector<ScoredUnit> blocks;

    void add(double nll) {
        if (tokens % kBlockTokens == 0) blocks.emplace_back();
        blocks.back().nll_sum += nll;
        ++blocks.back().tokens;
        nll_sum += nll;
        ++tokens;
    }
};

class Scorer {
  public:
    Scorer(LoadedModel& model, const Options& options)
        : model_(model), window_(options.window ? options.window : model.plan.context_tokens), options_(options) {
        session_ = open_session(model_);
    }
    uint32_t window() const { return window_; }

    template <class Progress>
    DocumentScore score(const std::string& text, uint64_t most_tokens, const Progress& progress) {
        std::vector<int32_t> ids = tokenize(model_.engine, text, options_.no_bos ? 0 : KEEL_TOKENIZE_BOS);
        DocumentScore score;
        // Position 0 is context only. Without a BOS that is the text's own first token.
        const bool bos = !options_.no_bos && !ids.empty() && ids[0] == model_.file.info.bos_id;
        const size_t limit = options_.stride ? ids.size() : std::min<size_t>(ids.size(), size_t{window_} + 1);
        size_t begin = 0, scored = 1;  // first input of the window; first target not scored yet
        std::vector<int32_t> input;
        while (scored < limit && score.tokens < most_tokens) {
            // One behind the last target of this window.
            const size_t end =
                std::min({limit, begin + window_ + 1, scored + static_cast<size_t>(most_tokens - score.tokens)});
            input.assign(ids.begin() + static_cast<ptrdiff_t>(begin), ids.begin() + static_cast<ptrdiff_t>(end) - 1);
            if (begin > 0 && bos) input[0] = ids[0];
            forward(input, [&](size_t position, std::span<const float> logits) {
                const size_t target = begin + position + 1;
                if (target < scored) return;
                score.add(log_sum_exp(logits) - logits[static_cast<size_t>(ids[target])]);
                progress(score.tokens);
            });
            score.bytes += detokenize(model_.engine, std::span(ids).subspan(scored, end - scored)).size();
            scored = end;
            begin += options_.stride ? options_.stride : window_;
        }
        return score;
    }

  private:
    // Calls visit(position, logits) for every position of `input`, computed from an empty session.
    template <class Visit>
    void forward(std::span<const int32_t> input, const Visit& visit) {
        check(session_.truncate(0), "cannot empty the session");
        check(session_.feed(input, KEEL_FEED_ALL_LOGITS), "cannot feed the text");
        for (size_t position = 0; position < input.size();) {
            const keel_advance_result step = model_.engine.advance(session_);
            check(step.status, "cannot compute the text");
            if (step.logits_rows == 0) throw ToolError(kExitRuntime, "a step kept no logits");
            for (uint32_t row = 0; row < step.logits_rows; ++row) {
                const Result<std::span<const float>> logits = session_.logits(row);
                check(logits.status, "cannot read logits");
                visit(position++, *logits);
            }
        }
    }

    LoadedModel& model_;
    Session session_;
    uint32_t window_;
    const Options& options_;
};

int eval_ppl(const Options& o, const Console& console) {
    if (o.stride && o.window && o.stride > o.window) throw ToolError(kExitUsage, "--stride must not exceed --window");
    const std::vector<TextDocument> documents = read_documents(o.text, o.documents);
    const std::vector<uint32_t> sources = source_numbers(documents);
    EngineOptions engine = o.engine;
    if (o.window) engine.context = o.window;
    constexpr uint32_t kChunk = 128;
    if (engine.chunk == 0) engine.chunk = kChunk;
    LoadedModel m = load_model(engine, console, [&](keel_config& config) { config.logits_rows = config.chunk_tokens; });
    Scorer scorer(m, o);
    if (o.stride > scorer.window()) throw ToolError(kExitUsage, "--stride must not exceed the window");

    std::vector<DocumentScore> scores;
    DocumentScore total;
    const uint64_t most = o.max_tokens ? o.max_tokens : uint64_t{1} << 62;
    {
        ProgressBar bar(console, "scoring");
        for (size_t d = 0; d < documents.size() && total.tokens < most; ++d) {
            const auto progress = [&](uint64_t tokens) {
                stop_if_interrupted();
                if (tokens % 64) return;
                bar.update(d, documents.size(),
                           strf("document %zu of %zu, %llu tokens", d + 1, documents.size(),
                                static_cast<unsigned long long>(total.tokens + tokens)));
            };
            try {
                scores.push_back(scorer.score(documents[d].text, most - total.tokens, progress));
            } catch (const ToolError& error) {
                // Whole documents that were scored before Ctrl-C are a result; the exit code says that more were asked
                // for.
                if (error.exit_code != kExitCancelled || scores.empty()) throw;
                fprintf(stderr, "stopped by Ctrl-C after %zu of %zu documents\n", scores.size(), documents.size());
                break;
            }
            total.nll_sum += scores.back().nll_sum;
            total.tokens += scores.back().tokens;
            total.bytes += scores.back().bytes;
        }
    }
    if (total.tokens == 0) throw ToolError(kExitRuntime, o.text + " has no token to score");

    std::vector<ScoredUnit> units;
    for (size_t d = 0; d < scores.size(); ++d)
        if (scores[d].tokens) units.push_back({scores[d].nll_sum, scores[d].tokens, sources[d]});
    const bool by_document = source_count(units) > 1;
    if (!by_document) {
        units.clear();
        for (const DocumentScore& score : scores) units.insert(units.end(), score.blocks.begin(), score.blocks.end());
    }
    const Interval interval = mean_nll_interval(units);
    const size_t interval_sources = source_count(units);
    const std::string interval_text =
        by_document ? strf("Student's t over %zu sources of documents", interval_sources)
                    : strf("Student's t over %zu blocks of 64 tokens of one source", interval_sources);
    const double nll = total.nll_sum / static_cast<double>(total.tokens);
    const double bits_per_byte = total.nll_sum / M_LN2 / static_cast<double>(total.bytes);
    const std::string protocol =
        o.stride ? strf("windows of %u tokens advancing by %u, every token scored once", scorer.window(), o.stride)
                 : strf("each document alone, cut to %u tokens after %s, full left context", scorer.window(),
                        o.no_bos ? "its first" : "BOS");

    if (console.json) {
        Json out = {{"model", m.file.info.name},
                    {"fingerprint", strf("%016llx", static_cast<unsigned long long>(m.file.info.fingerprint))},
                    {"text", o.text},
                    {"protocol", protocol},
                    {"window", scorer.window()},
                    {"stride", o.stride},
                    {"documents", scores.size()},
                    {"tokens", total.tokens},
                    {"bytes", total.bytes},
                    {"nll", nll},
                    {"nll_95", {interval.low, interval.high}},
                    {"ppl", exp(nll)},
                    {"ppl_95", {exp(interval.low), exp(interval.high)}},
                    {"bits_per_byte", bits_per_byte},
                    {"interval", interval_text},
                    {"k_format", kv_format_name(m.config, m.config.k_format)},
                    {"v_format", kv_format_name(m.config, m.config.v_format)},
                    {"activation", activation_name(m.config.activation)},
                    {"kernel_set", cpu_name(m.plan.cpu)}};
        if (o.per_document)
            for (const DocumentScore& score : scores)
                out["per_document"].push_back(
                    {{"nll_sum", score.nll_sum}, {"tokens", score.tokens}, {"bytes", score.bytes}});
        print_json(out);
    } else {
        if (o.per_document)
            for (size_t d = 0; d < scores.size(); ++d)
                printf("document %4zu  %6llu tokens  nll %.5f\n", d + 1,
                       static_cast<unsigned long long>(scores[d].tokens),
                       scores[d].nll_sum / static_cast<double>(std::max<uint64_t>(scores[d].tokens, 1)));
        printf("protocol       %s\n", protocol.c_str());
        printf("documents      %zu\n", scores.size());
        printf("tokens scored  %llu (%llu bytes)\n", static_cast<unsigned long long>(total.tokens),
               static_cast<unsigned long long>(total.bytes));
        printf("NLL            %.5f   95 %% interval %.5f .. %.5f (%s)\n", nll, interval.low, interval.high,
               interval_text.c_str());
        printf("PPL            %.4f   95 %% interval %.4f .. %.4f\n", exp(nll), exp(interval.low), exp(interval.high));
        printf("bits per byte  %.5f\n", bits_per_byte);
        if (!by_document || interval_sources < kFewSources)
            printf("note           fewer than %zu sources: other texts may well lie outside the interval\n",
                   kFewSources);
        if (m.config.activation != KEEL_ACTIVATION_F32)
            printf(
                "note           activations in q8: of a quantized model two runs that differ anywhere differ by some "
                "0.2 %% of PPL; compare them with --activation f32\n");
    }
    return kExitOk;
}

}  // namespace

void add_eval_verb(CLI::App& app, Console& console) {
    CLI::App* eval = app.add_subcommand("eval", "quality of a model on a text");
    eval->require_subcommand(1);
    auto o = std::make_shared<Options>();
    CLI::App* verb =
        add_verb(*eval, console, "ppl", "perplexity and bits per byte",
                 "  keel eval ppl model.gguf validation.jsonl\n"
                 "  keel eval ppl model.gguf book.txt --window 2048 --stride 1024\n"
                 "  keel eval ppl model.gguf validation.jsonl --documents 10 --kv-k f32 --kv-v f32 --json");
    add_engine_options(*verb, o->engine);
    add_backend_options(*verb, o->engine);
    verb->add_option("text", o->text, "a text file, or .jsonl with a field \"text\" per line")->required();
    verb->add_option("--window,-w", o->window, "tokens of context (default: --context)");
    verb->add_option("--stride,-s", o->stride, "score whole documents in windows that advance by this many tokens");
    verb->add_option("--documents", o->documents, "only the first N documents");
    verb->add_option("--max-tokens", o->max_tokens, "stop after scoring N tokens");
    verb->add_flag("--no-bos", o->no_bos, "do not begin with the model's BOS token");
    verb->add_flag("--per-document", o->per_document, "a line for every document");
    verb->callback([o, &console] { eval_ppl(*o, console); });
    add_eval_kv_verb(*eval, console);
    add_eval_draws_verb(*eval, console);
}

}  // namespace keel::tools
