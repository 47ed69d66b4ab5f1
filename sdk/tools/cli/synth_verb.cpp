// keel synth: a model file of any shape with made-up weights, for measuring shapes without their real weights.
#include <stdio.h>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/files/synth.h"

namespace keel::tools {
namespace {

struct Options {
    std::string path, shape = "tiny", mix, architecture, pre_tokenizer;
    std::vector<std::string> overrides;
    uint32_t layers = 0, embedding = 0, heads = 0, kv_heads = 0, head_dim = 0, feed_forward = 0, vocabulary = 0,
             context = 0;
    uint64_t seed = 1;
    bool dry_run = false, hollow = false;
};

SynthSpec spec_of(const Options& o) {
    SynthSpec spec = synth_shape(o.shape);
    const auto replace = [](uint32_t& field, uint32_t value) { field = value ? value : field; };
    replace(spec.layers, o.layers);
    replace(spec.embedding, o.embedding);
    replace(spec.heads, o.heads);
    replace(spec.kv_heads, o.kv_heads);
    replace(spec.head_dim, o.head_dim);
    replace(spec.feed_forward, o.feed_forward);
    replace(spec.vocabulary, o.vocabulary);
    replace(spec.context, o.context);
    if (!o.mix.empty()) spec.mix = o.mix;
    if (!o.architecture.empty()) spec.architecture = o.architecture;
    if (!o.pre_tokenizer.empty()) {
        spec.pre_tokenizer = o.pre_tokenizer;
        spec.tokenizer = SynthTokenizer::kBpe;
    }
    spec.seed = o.seed;
    for (const std::string& text : o.overrides) {
        const size_t equals = text.find('=');
        if (equals == std::string::npos) throw ToolError(kExitUsage, "--type '" + text + "' is not PART=TYPE");
        spec.overrides.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
    return spec;
}

void synth(const Options& o, const Console& console) try {
    const SynthSpec spec = spec_of(o);
    const SynthSize size = synth_size(spec);
    synth_check(spec);
    if (o.hollow) {
        synth_write_hollow(o.path, spec);
    } else if (!o.dry_run) {
        ProgressBar bar(console, "writing");
        synth_write(o.path, spec, [&](uint64_t done, uint64_t total) { bar.update(done, total, human_bytes(total)); });
    }
    if (console.json)
        return print_json({{"path", o.path},
                           {"shape", o.shape},
                           {"architecture", spec.architecture},
                           {"mix", spec.mix},
                           {"seed", spec.seed},
                           {"parameters", size.parameters},
                           {"file_bytes", size.file_bytes},
                           {"written", !o.dry_run}});
    printf("%s%s: %s parameters, %s\n", o.path.c_str(), o.dry_run ? " (not written)" : "",
           human_count(size.parameters).c_str(), human_bytes(size.file_bytes).c_str());
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitUsage, error.what());
}

}  // namespace

void add_synth_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(app, console, "synth", "write a model with made-up weights, for tests and benchmarks",
                         "  keel synth /tmp/1b.gguf --shape 1b --mix Q4_K_M\n"
                         "  keel synth /tmp/m.gguf --shape tiny --layers 4 --mix Q8_0 --type ffn_down=Q6_K\n"
                         "  keel synth /tmp/8b.gguf --shape 8b --dry-run");
    std::string shapes;
    for (const std::string& name : synth_shape_names()) shapes += (shapes.empty() ? "" : ", ") + name;
    verb.add_option("path", o->path, "file to write").required();
    verb.add_option("--shape", o->shape, "start from a shape: " + shapes).capture_default_str();
    verb.add_option("--mix", o->mix, "weight type of every matrix (F16, Q8_0, ...) or a mixture (Q4_K_M, ...)");
    verb.add_option("--type", o->overrides, "PART=TYPE: tensors with PART in their name; may be repeated")
        .take_all()
        .allow_extra_args(false);
    verb.add_option("--arch", o->architecture, "llama, qwen2, qwen3, gemma2, gemma3, phi3, glm4 or keel-wired");
    verb.add_option("--pre", o->pre_tokenizer, "tokenizer.ggml.pre of a BPE tokenizer, which the model then has");
    const auto dimension = [&](const char* name, uint32_t& value, const char* what) {
        verb.add_option(name, value, what).group("Shape");
    };
    dimension("--layers", o->layers, "layers");
    dimension("--embedding", o->embedding, "embedding length");
    dimension("--heads", o->heads, "query heads");
    dimension("--kv-heads", o->kv_heads, "K and V heads");
    dimension("--head-dim", o->head_dim, "elements of one head");
    dimension("--feed-forward", o->feed_forward, "inner length of the feed-forward part");
    dimension("--vocabulary", o->vocabulary, "tokens, at least 512");
    dimension("--context", o->context, "tokens of training context");
    verb.add_option("--seed", o->seed, "same options and seed, same file").capture_default_str();
    const VerbOption dry = verb.add_flag("--dry-run", o->dry_run, "say how large the file would be");
    verb.add_flag("--hollow", o->hollow, "zeros for weights, which take no room on the disk: to plan with")
        .excludes(dry);
    verb.callback([o, &console] { synth(*o, console); });
}

}  // namespace keel::tools
