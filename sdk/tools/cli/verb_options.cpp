// The options that verbs share. In one file, since CLI11 is slow to compile: the other parts of the tools see no more
// of it than a name.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <random>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/common/generation.h"
#include "sdk/tools/common/model_loader.h"

namespace keel::tools {
namespace {

template <class T>
void add_choice(CLI::App& verb, const std::string& name, T& value, const Names<T>& names, const std::string& what) {
    std::string choices;
    for (const auto& [choice, v] : names) choices += (choices.empty() ? "" : "|") + choice;
    const auto choose = [&value, &names, name, choices](const std::string& text) {
        const auto it = names.find(text);
        if (it == names.end()) throw CLI::ValidationError(name, "'" + text + "' is none of " + choices);
        value = it->second;
    };
    verb.add_option_function<std::string>(name, choose, what)->type_name(choices)->group("Engine");
}

bool parse_seed(const std::string& text, uint64_t* seed) {
    if (text == "-1") {
        std::random_device random;
        *seed = uint64_t{random()} << 32 | random();
        return true;
    }
    const char* const end = text.data() + text.size();
    const std::from_chars_result r = std::from_chars(text.data(), end, *seed);
    return r.ec == std::errc() && r.ptr == end;
}

// FILE, or FILE:SCALE where what stands behind the last colon is a number and no file has the whole name.
void parse_lora(const std::string& text, EngineOptions* options) {
    const size_t colon = text.rfind(':');
    options->lora = text;
    options->lora_scale = 1;
    std::error_code ignored;
    if (colon == std::string::npos || colon + 1 == text.size() || std::filesystem::exists(text, ignored)) return;
    float scale = 0;
    const char* const end = text.data() + text.size();
    const std::from_chars_result r = std::from_chars(text.data() + colon + 1, end, scale);
    if (r.ec != std::errc() || r.ptr != end || !std::isfinite(scale)) return;
    options->lora = text.substr(0, colon);
    options->lora_scale = scale;
}

bool parse_key(const std::string& text, uint64_t* key) {
    char* end = nullptr;
    *key = strtoull(text.c_str(), &end, 16);
    return !text.empty() && text.size() <= 16 && text.find_first_of("+-xX ") == std::string::npos && *end == 0;
}

}  // namespace

void add_grammar_options(CLI::App& verb, EngineOptions& options) {
    CLI::Option* const grammar =
        verb.add_option("--grammar", options.grammar, "hold the output to a grammar: a file of GBNF");
    verb.add_option("--json-schema", options.json_schema, "hold the output to JSON of a schema: a file of JSON Schema")
        ->excludes(grammar);
}

void add_case_operators_option(CLI::App& verb, bool& on) {
    verb.add_flag("--case-operators", on,
                  "the model reads and writes words in lower case behind the operators U+E001 to U+E004 of \"lossless "
                  "caps\": prompts, messages and --stop are encoded, what it writes is decoded. Files do not say it. "
                  "Grammars and templates see the operators");
}

void add_engine_options(CLI::App& verb, EngineOptions& options) {
    verb.add_option("model,-m,--model", options.model, "GGUF file")->required();
    verb.add_option("--threads,-t", options.threads, "compute threads (default: one per usable core)")->group("Engine");
    verb.add_option("--context,-c", options.context, "longest sequence in tokens (default: the model's, at most 4096)")
        ->group("Engine");
    verb.add_option("--chunk", options.chunk, "most tokens in one forward step (default 256)")->group("Engine");
    add_choice(verb, "--kv-k", options.k_format, kKvFormats,
               "format of keys in the KV arena (default: the profile's, else f16)");
    add_choice(verb, "--kv-v", options.v_format, kKvFormats,
               "format of values in the KV arena (default: the profile's, else f16)");
    verb.add_option("--kv-profile", options.kv_profile,
                    "file of `keel calibrate kv`: formats per layer, means and gains")
        ->group("Engine");
    const auto keep_sinks = [&options](const uint32_t& count) { options.sinks = count ? count : KEEL_KV_NO_SINKS; };
    verb.add_option_function<uint32_t>("--kv-sinks", keep_sinks,
                                       "first positions also kept and read in f16 (default 1 where rows are coded)")
        ->group("Engine");
    verb.add_option("--kv-recent", options.recent, "positions before each query kept as q8_0 (default 0)")
        ->group("Engine");
    verb.add_option("--kv-rollback", options.rollback,
                    "with --kv-recent: positions that a session can go back by (default 16)")
        ->group("Engine");
    verb.add_option("--wproj", options.wproj,
                    "W_proj cache of `keel wproj build`; auto: the first that fits the model where such files lie")
        ->group("Engine");
    verb.add_option(
            "--wproj-key", [&options](const CLI::results_t& text) { return parse_key(text[0], &options.wproj_key); },
            "the key it has to have, 16 hex digits")
        ->group("Engine");
    verb.add_flag("--wproj-force", options.wproj_any_key,
                  "accept a cache of another key or model where the shapes match")
        ->group("Engine");
    verb.add_option("--wproj-error", options.wproj_error,
                    "projections whose factor has a larger relative squared error stay dense")
        ->check(CLI::NonNegativeNumber)
        ->group("Engine");
    verb.add_flag("--low-rank", options.low_rank, "run in the low-rank variant of the W_proj cache")->group("Engine");
    verb.add_option_function<std::string>(
            "--lora", [&options](const std::string& text) { parse_lora(text, &options); },
            "adapter of every session: a GGUF of LoRA matrices, and a scale (default 1)")
        ->type_name("FILE[:SCALE]")
        ->group("Engine");
    CLI::Option* const draft =
        verb.add_option("--draft", options.draft_tokens,
                        "draft up to so many tokens a step from text so far, where it pays (default 0); same output")
            ->check(CLI::Range(0, 15))
            ->group("Engine");
    verb.add_option("--draft-pool", options.draft_pool, "and from a file of `keel capture pool`")
        ->needs(draft)
        ->group("Engine");
    CLI::Option* const draft_model =
        verb.add_option("--draft-model", options.draft_model, "and by a faster model of the same vocabulary")
            ->needs(draft)
            ->group("Engine");
    verb.add_flag("--draft-low-rank", options.draft_low_rank, "and by the low-rank variant of the W_proj cache")
        ->needs(draft)
        ->excludes(draft_model)
        ->group("Engine");
    add_choice(verb, "--weights", options.weights, kWeights,
               "where weights live (default: copied, and interleaved where that is faster)");
    add_choice(
        verb, "--activation", options.activation, kActivations,
        "how products read activations: in 8-bit blocks against quantized weights (q8, the default), in f32, or as "
        "q8 and against F32, F16 and BF16 weights in bf16");
    add_choice(verb, "--cpu", options.cpu, kCpus,
               "kernel set (default: what KEEL_CPU in the environment names, else the best of this machine)");
    verb.add_option("--pre", options.pre_tokenizer,
                    "how a byte-level vocabulary cuts text (a tokenizer.ggml.pre, in place of the file's)")
        ->group("Engine");
    verb.add_flag("--pin", options.pin, "bind each thread to a core")->group("Engine");
}

void add_backend_options(CLI::App& verb, EngineOptions& options) {
    const auto choose = [&options](const std::string& name) {
        if (name != "cpu" && name != "cuda")
            throw CLI::ValidationError("--backend", "'" + name + "' is none of cpu|cuda");
        options.cuda = name == "cuda" ? cuda_calls() : nullptr;
        if (name == "cuda" && !options.cuda)
            throw ToolError(kExitUsage, "this keel was built without the CUDA backend (cmake -DKEEL_CUDA=ON)");
    };
    CLI::Option* const backend =
        verb.add_option_function<std::string>("--backend", choose, "what computes (default: cpu)")
            ->type_name("cpu|cuda")
            ->group("Engine");
    verb.add_option("--device", options.device, "which GPU, as its driver counts (default 0)")
        ->needs(backend)
        ->group("Engine");
    verb.add_flag("--device-numerics", options.device_numerics,
                  "prompts of F16 and BF16 models by its library: faster, other bits than the CPU's")
        ->needs(backend)
        ->group("Engine");
}

void add_sampling_options(CLI::App& verb, SamplingOptions& o) {
    const auto add = [&](const char* name, auto& value, const char* what) {
        verb.add_option(name, value, what)->capture_default_str()->group("Sampling");
    };
    add("--temp", o.temperature, "temperature; 0 always takes the most probable token");
    add("--top-k", o.top_k, "keep the K most probable tokens; 0 is off");
    add("--top-p", o.top_p, "keep the smallest set with this probability; 0 is off");
    add("--min-p", o.min_p, "drop tokens below this part of the best one's probability; 0 is off");
    add("--typical", o.typical, "keep the locally typical set with this probability; 0 is off");
    add("--repeat-penalty", o.repeat_penalty, "repetition penalty over the penalty window; 1 is off");
    add("--frequency-penalty", o.frequency_penalty, "subtracted from a logit per occurrence");
    add("--presence-penalty", o.presence_penalty, "subtracted once from a logit that occurred");
    add("--penalty-window", o.penalty_window, "tokens the penalties look back at; 0 is 64");
    verb.add_option(
            "--seed", [&o](const CLI::results_t& text) { return parse_seed(text[0], &o.seed); },
            "same seed, same text; -1: another one each time")
        ->default_str("1")
        ->group("Sampling");
    add("--max-tokens,-n", o.max_tokens, "most tokens to generate");
    add("--min-tokens", o.min_tokens, "no end of sequence before this many");
    verb.add_option("--stop", o.stops, "text that ends the generation; may be repeated")
        ->take_all()
        ->allow_extra_args(false)
        ->group("Sampling");
    verb.add_option("--logit-bias", o.biases, "ID=VALUE, added to a logit (-inf forbids); may be repeated")
        ->take_all()
        ->allow_extra_args(false)
        ->group("Sampling");
}

}  // namespace keel::tools
