// keel quantize: a model file with other weight types.
#include <stdio.h>

#include <stdexcept>
#include <thread>

#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {
namespace {

struct Options {
    std::string in, out, types = "Q4_K_M";
    uint32_t threads = 0;
    bool nearest = false, dry_run = false;
};

const char* type_name(uint32_t type) {
    return kernels::kWeightTypes[type].name;
}

// What the report says of all matrices together.
struct Sums {
    uint64_t weights = 0, bytes_before = 0, bytes = 0, quantized_before = 0;
    explicit Sums(const std::vector<QuantizedTensor>& tensors) {
        for (const QuantizedTensor& t : tensors) {
            weights += t.rows * t.columns;
            bytes_before += t.bytes_before;
            bytes += t.bytes;
            quantized_before += t.from != t.to && is_quantized(t.from);
        }
    }
    double bits(uint64_t of) const { return 8.0 * static_cast<double>(of) / static_cast<double>(weights); }
};

Json report_json(const Options& o, const ModelFile& source, const std::vector<QuantizedTensor>& tensors) {
    const Sums sums(tensors);
    Json rows = Json::array();
    for (const QuantizedTensor& t : tensors)
        rows.push_back({{"name", t.name},
                        {"rows", t.rows},
                        {"columns", t.columns},
                        {"from", type_name(t.from)},
                        {"to", type_name(t.to)},
                        {"bytes_before", t.bytes_before},
                        {"bytes", t.bytes},
                        {"relative_error", t.relative_error}});
    return {{"in", o.in},
            {"out", o.out},
            {"types", o.types},
            {"written", !o.dry_run},
            {"fingerprint", strf("%016llx", static_cast<unsigned long long>(source.info.fingerprint))},
            {"weights", sums.weights},
            {"bits_before", sums.bits(sums.bytes_before)},
            {"bits", sums.bits(sums.bytes)},
            {"file_bytes_before", source.reader.get()->size_bytes},
            {"file_bytes", source.reader.get()->size_bytes + sums.bytes - sums.bytes_before},
            {"quantized_twice", sums.quantized_before},
            {"tensors", rows}};
}

void print_report(const Options& o, const ModelFile& source, const std::vector<QuantizedTensor>& tensors) {
    Table table({"tensor", "rows", "columns", "from", "to", "bytes", "bits", "relative error"});
    for (const QuantizedTensor& t : tensors)
        table.add({t.name, strf("%llu", static_cast<unsigned long long>(t.rows)),
                   strf("%llu", static_cast<unsigned long long>(t.columns)), type_name(t.from),
                   t.from == t.to ? "kept" : type_name(t.to), human_bytes(t.bytes),
                   strf("%.3f", 8.0 * static_cast<double>(t.bytes) / static_cast<double>(t.rows * t.columns)),
                   t.from == t.to || o.dry_run ? "" : strf("%.6f", t.relative_error)});
    const Sums sums(tensors);
    printf("%s\n", table.text().c_str());
    printf("matrices       %s weights, %.3f bits each, from %.3f\n", human_count(sums.weights).c_str(),
           sums.bits(sums.bytes), sums.bits(sums.bytes_before));
    printf("%s%s, from %s\n", o.out.c_str(), o.dry_run ? " (not written)" : "",
           human_bytes(source.reader.get()->size_bytes).c_str());
}

int quantize(const Options& o, const Console& console) try {
    const TypeRules rules(o.types);
    const ModelFile source = open_model(o.in);
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.reader.get());
    request.types = rules.choose(request.matrices, source.model->spec);
    request.search = !o.nearest;
    request.threads = o.threads ? o.threads : std::max(1u, std::thread::hardware_concurrency());
    request.file_type = rules.mix() ? rules.mix()->file_type : file_type_of_source(source);
    request.notes = {{"types", o.types}, {"method", o.nearest ? "plain rounding" : "nearest codes, scales searched"}};
    std::vector<QuantizedTensor> tensors;
    if (o.dry_run) {
        tensors = describe_quantized(source, request);
    } else {
        ProgressBar bar(console, "quantizing");
        tensors = write_quantized(
            source, request, o.out,
            [&](const std::string& tensor, uint64_t done, uint64_t total) { bar.update(done, total, tensor); });
    }
    if (const uint64_t twice = Sums(tensors).quantized_before)
        fprintf(stderr,
                "warning: %llu matrices of %s are quantized already: what they lost is not measured here and stays "
                "lost\n",
                static_cast<unsigned long long>(twice), o.in.c_str());
    if (console.json)
        print_json(report_json(o, source, tensors));
    else
        print_report(o, source, tensors);
    return kExitOk;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitUsage, error.what());
}

}  // namespace

void add_quantize_verb(CLI::App& app, Console& console) {
    auto o = std::make_shared<Options>();
    CLI::App* verb = add_verb(app, console, "quantize", "write a model with other weight types",
                              "  keel quantize model-f16.gguf model.gguf --types Q4_K_M\n"
                              "  keel quantize model-f16.gguf model.gguf --types Q4_K,token_embd=Q6_K,blk.0.*=keep\n"
                              "  keel quantize model-f16.gguf /dev/null --types Q8_0 --dry-run --json");
    std::string mixes;
    for (const std::string& name : mix_names()) mixes += (mixes.empty() ? "" : ", ") + name;
    verb->add_option("in", o->in, "GGUF file, best of F16, BF16 or F32")->required();
    verb->add_option("out", o->out, "GGUF file to write")->required();
    verb->add_option("--types", o->types,
                     "a mixture (" + mixes +
                         ") or a weight type for every matrix; before or behind it rules PATTERN=TYPE, of which the "
                         "first that matches a tensor's name decides; TYPE keep: as it is")
        ->capture_default_str();
    verb->add_flag("--nearest", o->nearest, "plain rounding, without a search for the best scales");
    verb->add_option("--threads,-t", o->threads, "threads (default: one per core)");
    verb->add_flag("--dry-run", o->dry_run, "say types and sizes, write nothing");
    verb->callback([o, &console] { quantize(*o, console); });
}

}  // namespace keel::tools
