// keel quantize: a model file with other weight types.
#include <stdio.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <thread>

#include "sdk/core/hash.h"
#include "sdk/tools/cli/eval_ppl.h"
#include "sdk/tools/cli/verbs.h"
#include "sdk/tools/lab/quantize/row_steps.h"
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/common/text_documents.h"
#include "sdk/tools/lab/quantize/calibration.h"
#include "sdk/tools/lab/quantize/distillation.h"
#include "sdk/tools/lab/quantize/type_solver.h"
#endif

namespace keel::tools {
namespace {

constexpr char kGptqCodes[] = "gptq", kNearestCodes[] = "nearest";

struct Options {
    std::string in, out, types;  // types: Q4_K_M where nothing else says them
    uint32_t threads = 0;
    bool nearest = false, dry_run = false;
    std::string text, memory = "1G";  // of calibration
    uint32_t documents = 0, tokens = 512, sweeps = 2;
    double damping = 0.01;
    bool own_order = false, scaling = false;
    std::string codes = kGptqCodes, correction_file;
    uint32_t correction_rank = 0;
    uint32_t distill_steps = 0, last_steps = 60, distill_texts = 4;
    double distill_rate = 0.004;
    std::string tune, bytes;  // of solved types
    bool trellises = false;
    std::string costs;  // file
    uint32_t tune_documents = 4, tune_tokens = 256;
    std::string test;
    uint32_t test_documents = 0, test_tokens = 512;
    double bits = 0, loss = 0;
    uint64_t budget = 0;  // of code and pack
    std::vector<std::string> code;
    double row_step = 0;
    bool solves() const { return bits > 0 || !bytes.empty() || loss > 0 || (budget && !tune.empty()); }
    bool fits_steps() const { return budget && tune.empty(); }
    bool corrects() const { return correction_rank > 0; }
};
// Of calibrated matrices, by number; of the others zeros.
struct CalibratedReport {
    double nearest_error = 0, error = 0, scaling = 0;  // output errors, and the power of channel scales
    uint32_t rank = 0;                                 // of a correction
    double corrected_error = 0;
};

constexpr char kUsualTypes[] = "Q4_K_M";

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

Json report_json(const Options& o, const ModelFile& source, const std::vector<QuantizedTensor>& tensors,
                 const std::vector<CalibratedReport>& calibrated) {
    const Sums sums(tensors);
    Json rows = Json::array();
    for (size_t i = 0; i < tensors.size(); ++i) {
        const QuantizedTensor& t = tensors[i];
        rows.push_back({{"name", t.name},
                        {"rows", t.rows},
                        {"columns", t.columns},
                        {"from", type_name(t.from)},
                        {"to", type_name(t.to)},
                        {"bytes_before", t.bytes_before},
                        {"bytes", t.bytes},
                        {"relative_error", t.relative_error}});
        if (calibrated.empty() || calibrated[i].nearest_error == 0) continue;
        const CalibratedReport& c = calibrated[i];
        rows.back()["output_error_nearest"] = c.nearest_error;
        rows.back()["output_error"] = c.error;
        if (o.scaling) rows.back()["scaling"] = c.scaling;
        if (c.rank == 0) continue;
        rows.back()["correction_rank"] = c.rank;
        rows.back()["output_error_corrected"] = c.corrected_error;
    }
    return {{"in", o.in},
            {"out", o.out},
            {"types", o.types},
            {"written", !o.dry_run},
            {"fingerprint", hex64(source.info.fingerprint)},
            {"weights", sums.weights},
            {"bits_before", sums.bits(sums.bytes_before)},
            {"bits", sums.bits(sums.bytes)},
            {"file_bytes_before", source.gguf()->size_bytes},
            {"file_bytes", source.gguf()->size_bytes + sums.bytes - sums.bytes_before},
            {"quantized_twice", sums.quantized_before},
            {"tensors", rows}};
}

void print_report(const Options& o, const ModelFile& source, const std::vector<QuantizedTensor>& tensors,
                  const std::vector<CalibratedReport>& calibrated) {
    std::vector<std::string> head = {"tensor", "rows", "columns", "from", "to", "bytes", "bits", "relative error"};
    if (!calibrated.empty()) head.insert(head.end(), {"output error, nearest", "calibrated"});
    if (!calibrated.empty() && o.scaling) head.push_back("scaling");
    if (!calibrated.empty() && o.corrects()) head.push_back("corrected");
    Table table(head);
    for (size_t i = 0; i < tensors.size(); ++i) {
        const QuantizedTensor& t = tensors[i];
        std::vector<std::string> row = {
            t.name,
            strf("%llu", static_cast<unsigned long long>(t.rows)),
            strf("%llu", static_cast<unsigned long long>(t.columns)),
            type_name(t.from),
            t.from == t.to ? "kept" : type_name(t.to),
            human_bytes(t.bytes),
            strf("%.3f", 8.0 * static_cast<double>(t.bytes) / static_cast<double>(t.rows * t.columns)),
            t.from == t.to || o.dry_run ? "" : strf("%.6f", t.relative_error)};
        if (!calibrated.empty() && calibrated[i].nearest_error > 0) {
            const CalibratedReport& c = calibrated[i];
            row.insert(row.end(), {strf("%.6f", c.nearest_error), strf("%.6f", c.error)});
            if (o.scaling) row.push_back(strf("%g", c.scaling));
            if (o.corrects()) row.push_back(c.rank ? strf("%.6f", c.corrected_error) : "");
        }
        row.resize(head.size());
        table.add(row);
    }
    const Sums sums(tensors);
    printf("%s\n", table.text().c_str());
    printf("matrices       %s weights, %.3f bits each, from %.3f\n", human_count(sums.weights).c_str(),
           sums.bits(sums.bytes), sums.bits(sums.bytes_before));
    printf("%s%s, from %s\n", o.out.c_str(), o.dry_run ? " (not written)" : "",
           human_bytes(source.gguf()->size_bytes).c_str());
}

// No document is in both files.
void check_apart(const std::string& one, const std::string& other) {
    const std::vector<TextDocument> documents = read_documents(one, 0);
    for (const TextDocument& document : read_documents(other, 0))
        if (std::any_of(documents.begin(), documents.end(),
                        [&](const TextDocument& d) { return d.text == document.text; }))
            throw ToolError(kExitUsage, "a document is both in " + one + " and in " + other +
                                            ": what is chosen on a text is no measure on it");
}

// What the model that was written, with its correction, predicts on the text of --test beside the source.
Json test_result(const Options& o, const Console& console) {
    PplOptions p;
    p.engine.model = o.out;
    p.engine.threads = o.threads;
    if (o.corrects()) p.engine.lora = o.correction_file;
    p.text = o.test;
    p.against = o.in;
    p.documents = o.test_documents;
    p.window = o.test_tokens;
    return eval_ppl(p, console);
}

#ifdef KEEL_HAVE_CALIBRATION
#endif

// Types of the matrices that no rule decides, under the bound of the options. Returns the predicted loss.
double solve(const Options& o, const Console& console, const std::vector<bool>& free, QuantizeRequest* request) {
#ifdef KEEL_HAVE_CALIBRATION
    if (o.tune.empty()) throw ToolError(kExitUsage, "--bits, --bytes and --loss need --tune TEXT");
    if (!o.text.empty()) check_apart(o.text, o.tune);
    EngineOptions engine;
    engine.model = o.in;
    engine.threads = o.threads;
    TypeSolverOptions options;
    options.text = {o.tune, o.tune_documents, o.tune_tokens};
    uint64_t weights = 0;
    for (const ModelMatrix& m : request->matrices) weights += m.rows * m.columns;
    options.bytes = o.bits > 0        ? static_cast<uint64_t>(o.bits * static_cast<double>(weights) / 8)
                    : o.bytes.empty() ? 0
                                      : parse_bytes(o.bytes);
    options.loss = o.loss;
    options.trellises = o.trellises;
    options.costs = o.costs;
    const std::string work = o.out + ".tuning";
    const ModelFile source = open_model(o.in);
    if (o.budget) {
        const ByteBudget budget = budget_of(o.budget, o.code);
        options.bytes = budget.bytes;
        options.excess = [&, budget](const std::vector<uint32_t>& types) {
            QuantizeRequest now = *request;
            now.types = types;
            write_quantized(source, now, work, [](auto&&...) {});
            return static_cast<int64_t>(budget.code + packed_bytes(work)) - static_cast<int64_t>(budget.bytes);
        };
    }
    ProgressBar bar(console, "choosing types");
    const SolvedTypes solved =
        solve_types(engine, *request, free, options, work,
                    [&](const std::string& what, uint64_t done, uint64_t total) { bar.update(done, total, what); });
    request->types = solved.types;
    request->notes.push_back({"tuning_text", hex64(solved.text_hash)});
    return solved.predicted_loss;
#else
    (void)o, (void)console, (void)free, (void)request;
    throw ToolError(kExitUsage, "this keel was built without Eigen (libeigen3-dev), which solving types needs");
#endif
}

std::string work_file_of(const Options& o) {
    return o.out + ".calibrated";
}

// Codes of the request's matrices calibrated on the text of the options.
class Calibration {
  public:
    Calibration(const Options& o, const Console& console, const QuantizeRequest& request)
        : work_(work_file_of(o)), bar_(console, "calibrating") {
#ifdef KEEL_HAVE_CALIBRATION
        EngineOptions engine;
        engine.model = o.in;
        engine.threads = o.threads;
        CalibrationOptions options;
        options.text = {o.text, o.documents, o.tokens};
        options.moment_bytes = parse_bytes(o.memory);
        options.gptq = {o.damping, !o.own_order, o.sweeps, request.threads};
        options.nearest_codes = o.codes == kNearestCodes;
        options.scaling = o.scaling;
        options.correction_rank = o.correction_rank;
        const CalibrationProgress show = [this](const std::string& what, uint64_t done, uint64_t total) {
            bar_.update(done, total, what);
        };
        if (o.distill_steps) {
            distilled_ = distill_matrices(engine, request, options,
                                          {o.distill_steps, o.last_steps, o.distill_texts, o.distill_rate}, work_, show,
                                          &text_hash);
            distilled_kl = distilled_->divergence;
            return;
        }
        calibrator_ = std::make_unique<Calibrator>(engine, request, options, work_, show);
        text_hash = calibrator_->text_hash();
        not_scaled = calibrator_->not_scaled();
#else
        (void)request;
        throw ToolError(kExitUsage,
                        "this keel was built without Eigen (libeigen3-dev), which --calibrate " + o.text + " needs");
#endif
    }
    // The request has them until the next call. row_step: 0, or of one grid for each row.
    void use(double row_step, QuantizeRequest* request) {
        (void)row_step, (void)request;
#ifdef KEEL_HAVE_CALIBRATION
        const std::vector<CalibratedMatrix>& matrices =
            distilled_ ? distilled_->matrices : calibrator_->matrices(row_step);
        if (distilled_) request->changed = distilled_->vectors;
        if (calibrator_) calibrator_->use_scales(request);
        request->quantize = [&matrices](size_t matrix) { return matrices[matrix].bytes; };
        report.clear();
        for (const CalibratedMatrix& m : matrices)
            report.push_back({m.nearest_error, m.error, m.scaling, m.correction.rank, m.corrected_error});
#endif
    }
    // Of what is used. Returns the bytes of the file.
    uint64_t write_corrections(const std::string& path, const ModelFile& source, const QuantizeRequest& request) {
        (void)path, (void)source, (void)request;
#ifdef KEEL_HAVE_CALIBRATION
        const std::vector<CalibratedMatrix>& matrices = calibrator_->matrices();
        std::vector<CorrectedTensor> tensors;
        for (size_t i = 0; i < matrices.size(); ++i)
            if (matrices[i].correction.rank)
                tensors.push_back({request.matrices[i].name, request.matrices[i].rows, request.matrices[i].columns,
                                   &matrices[i].correction});
        return write_correction(path, source.info.architecture, request.notes, tensors);
#else
        return 0;
#endif
    }
    // Work done that nobody needs any more.
    void forget() const {
        remove(work_.c_str());
    }

    uint64_t text_hash = 0;
    std::vector<std::string> not_scaled;   // a line for each reason
    std::vector<CalibratedReport> report;  // of what is used
    double distilled_kl = 0;               // on the text

  private:
    const std::string work_;
    ProgressBar bar_;
#ifdef KEEL_HAVE_CALIBRATION
    std::unique_ptr<Calibrator> calibrator_;
    std::optional<DistilledModel> distilled_;
#endif
};

bool changes_layers(const QuantizeRequest& request) {
    for (size_t i = 0; i < request.matrices.size(); ++i)
        if (request.types[i] != request.matrices[i].type && request.matrices[i].slot > kLastGlobalSlot) return true;
    return false;
}

// What the options say together.
void check_options(const Options& o) {
    if (!o.tune.empty() && !o.solves())
        throw ToolError(kExitUsage, "--tune is for --bits, --bytes, --loss or --budget");
    if (o.dry_run && (o.solves() || o.budget))
        throw ToolError(kExitUsage, "--dry-run measures nothing, which --bits, --bytes, --loss and --budget need");
    if (o.dry_run && (o.scaling || o.corrects()))
        throw ToolError(kExitUsage, "--dry-run measures nothing, which --scaling and --correction need");
    if (o.dry_run && !o.test.empty()) throw ToolError(kExitUsage, "--dry-run writes nothing that --test could read");
    for (const std::string& other : {o.text, o.tune})
        if (!o.test.empty() && !other.empty()) check_apart(other, o.test);
    if (o.codes == kNearestCodes && !o.scaling && !o.corrects())
        throw ToolError(kExitUsage, "--codes nearest leaves a text nothing to decide but --scaling or --correction");
    std::error_code ignored;
    if (o.corrects() && (o.correction_file == o.out || o.correction_file == work_file_of(o) ||
                         std::filesystem::equivalent(o.correction_file, o.in, ignored)))
        throw ToolError(kExitUsage, o.correction_file + " is another file of this command");
}

int quantize(const Options& o, const Console& console) try {
    check_options(o);
    std::optional<TypeRules> rules;
    if (!o.types.empty() || !o.solves()) rules.emplace(o.types.empty() ? kUsualTypes : o.types);
    const ModelFile source = open_model(o.in);
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.gguf());
    for (const ModelMatrix& m : request.matrices) request.types.push_back(m.type);
    if (rules) request.types = rules->choose(request.matrices, source.model->spec);
    request.search = !o.nearest;
    request.threads = o.threads ? o.threads : std::max(1u, std::thread::hardware_concurrency());
    request.file_type = rules && rules->mix() ? rules->mix()->file_type : file_type_of_source(source);
    request.notes = {{"types", o.types.empty() && rules ? kUsualTypes : o.types},
                     {"method", o.nearest ? "plain rounding" : "nearest codes, scales searched"}};
    double predicted_loss = 0;
    if (o.solves())
        predicted_loss = solve(
            o, console, rules ? rules->undecided(request.matrices) : std::vector<bool>(request.matrices.size(), true),
            &request);
    if (o.corrects() && !changes_layers(request))
        throw ToolError(kExitUsage, "no matrix of a layer changes its type, which --correction is for");
    std::optional<Calibration> calibration;
    if (!o.test.empty()) {  // its bytes: no engine has read it yet
        uint64_t hash = kHashSeed;
        for (const TextDocument& d : read_documents(o.test, o.test_documents))
            hash = hash_update(hash, d.text.data(), d.text.size());
        request.notes.push_back({"test_text", hex64(hash_finish(hash))});
    }
    if (!o.text.empty() && o.codes == kGptqCodes) {
        const bool trellis = std::any_of(request.types.begin(), request.types.end(), kernels::is_trellis);
        request.notes[1].second =
            strf("GPTQ, damping %g, %s, %u sweeps%s", o.damping, o.own_order ? "columns in order" : "activation order",
                 o.sweeps, trellis ? "; trellises: columns in order, no sweeps" : "");
    }
    if (o.scaling) request.notes[1].second += ", channels scaled";
    if (o.distill_steps)
        request.notes[1].second += strf(", %u steps of distillation at %g a site", o.distill_steps, o.distill_rate);
    if (o.row_step > 0 || o.fits_steps())
        request.notes[1].second =
            (o.text.empty() ? "" : request.notes[1].second + ", ") + "Q8_0 with one scale for each row";
    if (!o.text.empty() && !o.dry_run) {
        calibration.emplace(o, console, request);
        request.notes.push_back({"calibration_text", hex64(calibration->text_hash)});
        if (!o.fits_steps()) calibration->use(o.row_step, &request);
    }
    if (o.row_step > 0 && row_step_weights(request) == 0)
        throw ToolError(kExitUsage, "no matrix becomes Q8_0, whose scales --row-step is for");
    if (o.row_step > 0) use_row_steps(source, o.row_step, &request);
    std::vector<QuantizedTensor> tensors;
    double step = o.row_step;
    if (o.fits_steps()) {
        UseStep calibrated;
        if (calibration)
            calibrated = [&](double at, QuantizeRequest* of) {
                calibration->use(at, of);
                use_row_steps(source, at, of);
            };
        ProgressBar bar(console, "quantizing");
        WrittenModel written = write_within(
            source, request, o.out, budget_of(o.budget, o.code),
            [&](const std::string& tensor, uint64_t done, uint64_t total) { bar.update(done, total, tensor); },
            calibrated);
        tensors = std::move(written.tensors);
        step = written.step;
    } else if (o.dry_run) {
        tensors = describe_quantized(source, request);
    } else {
        ProgressBar bar(console, "quantizing");
        tensors = write_quantized(
            source, request, o.out,
            [&](const std::string& tensor, uint64_t done, uint64_t total) { bar.update(done, total, tensor); });
    }
    uint64_t correction_bytes = 0;
    if (o.corrects()) correction_bytes = calibration->write_corrections(o.correction_file, source, request);
    if (calibration) calibration->forget();
    const std::vector<CalibratedReport> calibrated =
        calibration ? calibration->report : std::vector<CalibratedReport>();
    const ByteBudget budget = budget_of(o.budget, o.code);
    const uint64_t packed = o.budget ? packed_bytes(o.out) : 0;
    if (budget.code + packed > budget.bytes && packed) {
        remove(o.out.c_str());
        throw ToolError(kExitMemory, budget_text(budget, packed) + " with calibrated codes");
    }
    if (const uint64_t twice = Sums(tensors).quantized_before)
        fprintf(stderr,
                "warning: %llu matrices of %s are quantized already: what they lost is not measured here and stays "
                "lost\n",
                static_cast<unsigned long long>(twice), o.in.c_str());
    if (calibration)
        for (const std::string& line : calibration->not_scaled) fprintf(stderr, "note: %s\n", line.c_str());
    if (console.json) {
        Json report = report_json(o, source, tensors, calibrated);
        if (o.solves()) report["predicted_kl"] = predicted_loss;
        if (o.distill_steps && calibration) report["distilled_kl"] = calibration->distilled_kl;
        if (step > 0) report["row_step"] = step;
        if (o.corrects())
            report["correction"] = {
                {"file", o.correction_file}, {"rank", o.correction_rank}, {"file_bytes", correction_bytes}};
        if (packed)
            report["budget"] = {{"bytes", budget.bytes},
                                {"code_bytes", budget.code},
                                {"pack_bytes", packed},
                                {"codec", budget_codec_name()}};
        for (const auto& [name, text] : request.notes) report["notes"][name] = text;
        if (!o.test.empty()) report["test"] = test_result(o, console);
        print_json(report);
    } else {
        print_report(o, source, tensors, calibrated);
        if (o.solves()) printf("predicted KL   %.6f nats per token, with nearest codes\n", predicted_loss);
        if (o.distill_steps && calibration)
            printf("distilled KL   %.6f nats per token, on the calibration text\n", calibration->distilled_kl);
        if (o.corrects())
            printf("correction     %s beside it, rank %u, %s: use it with --lora %s\n",
                   human_bytes(correction_bytes).c_str(), o.correction_rank, o.correction_file.c_str(),
                   o.correction_file.c_str());
        if (step > 0) printf("grid           %.5f standard deviations of a row to a step\n", step);
        if (packed)
            printf("budget         %s, packed with --codec %s\n", budget_text(budget, packed).c_str(),
                   budget_codec_name());
        if (!o.test.empty()) {
            printf("\n");
            test_result(o, console);
        }
    }
    return kExitOk;
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitUsage, error.what());
}

}  // namespace

void add_quantize_verb(Verb app, Console& console) {
    auto o = std::make_shared<Options>();
    Verb verb = add_verb(
        app, console, "quantize", "write a model with other weight types",
        "  keel quantize model-f16.gguf model.gguf --types Q4_K_M\n"
        "  keel quantize model-f16.gguf model.gguf --types Q4_K,token_embd=Q6_K,blk.0.*=keep\n"
        "  keel quantize model-f16.gguf model.gguf --types Q4_K_M --calibrate text.jsonl\n"
        "  keel quantize model-f16.gguf model.gguf --types WT3,token_embd=Q4_K --calibrate text.jsonl --distill 10\n"
        "  keel quantize model-f16.gguf model.gguf --types Q4_0 --calibrate text.jsonl --correction 8 "
        "--correction-output lost.gguf\n"
        "  keel quantize model-f16.gguf model.gguf --bits 4.5 --tune other.jsonl\n"
        "  keel quantize model-f16.gguf model.gguf --types Q8_0 --budget 16000000 --code keel\n"
        "  keel quantize model-f16.gguf /dev/null --types Q8_0 --dry-run --json");
    std::string mixes;
    for (const std::string& name : mix_names()) mixes += (mixes.empty() ? "" : ", ") + name;
    verb.add_option("in", o->in, "GGUF file, best of F16, BF16 or F32").required();
    verb.add_option("out", o->out, "GGUF file to write").required();
    verb.add_option("--types", o->types,
                    "a mixture (" + mixes +
                        ") or a weight type for every matrix; before or behind it rules PATTERN=TYPE, of which the "
                        "first that matches a tensor's name decides; TYPE keep: as it is (default: Q4_K_M)");
    const VerbOption nearest =
        verb.add_flag("--nearest", o->nearest, "plain rounding, without a search for the best scales");
    const VerbOption text =
        verb.add_option("--calibrate", o->text,
                        "a text, or .jsonl with a field \"text\" per line: codes are chosen so that the outputs on it "
                        "stay what they are (GPTQ). Work done is kept in OUT.calibrated until OUT is there")
            .excludes(nearest);
    const auto calibration = [&](const char* name, auto& value, const char* what) {
        return verb.add_option(name, value, what).capture_default_str().needs(text).group("Calibration");
    };
    calibration("--calibration-documents", o->documents, "the first N documents of it; 0: all");
    calibration("--calibration-tokens", o->tokens, "tokens of each");
    calibration("--calibration-memory", o->memory, "for second moments: decides how often the text is read");
    calibration("--damping", o->damping, "part of the mean second moment that is added to each");
    calibration("--sweeps", o->sweeps, "rounds over all columns afterwards");
    const VerbOption distill = calibration(
        "--distill", o->distill_steps,
        "steps of training after each site of a layer: what has no codes yet learns to predict what the "
        "source predicts, and vectors in F32 with it. With 10 it pays, with 2 it hardly does (perf/RESULTS.md). "
        "Takes memory for six times all weights in F32");
    const auto distillation = [&](const char* name, auto& value, const char* what) {
        return verb.add_option(name, value, what).capture_default_str().needs(distill).group("Calibration");
    };
    distillation("--distill-last", o->last_steps, "steps of vectors alone, behind all codes");
    distillation("--distill-texts", o->distill_texts, "windows of at most 512 tokens of a step").positive();
    distillation("--distill-rate", o->distill_rate, "of a step, as a part of a tensor's root mean square")
        .range(1e-6, 0.1);
    verb.add_flag("--own-order", o->own_order, "columns in their own order, not by activation")
        .needs(text)
        .group("Calibration");
    const VerbOption scaling =
        verb.add_flag("--scaling", o->scaling,
                      "columns of large activations are coded larger, and what makes those divided (AWQ): the same "
                      "tensors and bytes. Adapters made for the source do not fit such a model")
            .needs(text)
            .excludes(distill)
            .group("Calibration");
    const VerbOption correction =
        verb.add_option("--correction", o->correction_rank,
                        "rank of what is added to each matrix of a layer for what its codes lose: an adapter of F16 "
                        "matrices, used with --lora")
            .range(1, 4096)
            .needs(text)
            .excludes(distill)
            .group("Calibration");
    const VerbOption correction_file = verb.add_option("--correction-output", o->correction_file, "file of the adapter")
                                           .needs(correction)
                                           .group("Calibration");
    VerbOption(correction).needs(correction_file);
    verb.add_option("--codes", o->codes,
                    "gptq, or nearest: those that the matrices have without a text, which then decides scaling and "
                    "correction alone")
        .capture_default_str()
        .one_of({kGptqCodes, kNearestCodes})
        .needs(text)
        .excludes(distill)
        .group("Calibration");
    const VerbOption tune = verb.add_option("--tune", o->tune,
                                            "a text as for --calibrate, another one: how much the predictions on it "
                                            "suffer from each matrix is measured")
                                .group("Types under a bound");
    const auto bound = [&](const char* name, auto& value, const char* what) {
        return verb.add_option(name, value, what).needs(tune).group("Types under a bound");
    };
    const VerbOption bits = bound("--bits", o->bits, "of a weight, on average over all matrices").positive();
    const VerbOption bytes = bound("--bytes", o->bytes, "of all matrices, such as 90M").excludes(bits);
    const VerbOption loss = bound("--loss", o->loss, "KL divergence from the source's predictions, nats per token")
                                .positive()
                                .excludes(bits)
                                .excludes(bytes);
    const VerbOption budget =
        verb.add_option(
                "--budget", o->budget,
                "bytes of the pack that keel pack --codec auto (rans in a build without zstd) makes of OUT, and of "
                "--code, together, the tokenizer included. With --tune types are solved for it, else the scales of "
                "matrices that become Q8_0")
            .positive()
            .excludes(bits)
            .excludes(bytes)
            .excludes(loss)
            .excludes(distill)
            .excludes(scaling)
            .excludes(correction)
            .group("Types under a bound");
    verb.add_option("--code", o->code, "a file of the code that the budget pays for")
        .expected(1)
        .take_all()
        .needs(budget)
        .group("Types under a bound");
    verb.add_option("--row-step", o->row_step,
                    "Q8_0 with one scale for each row, so many of its standard deviations (SDClip: k / 127); a file of "
                    "few bytes when packed with --codec auto, not in memory")
        .range(kSmallestRowStep, kLargestRowStep)
        .excludes(distill)
        .excludes(scaling)
        .excludes(correction)
        .excludes(budget)
        .group("Types under a bound");
    verb.add_flag("--trellises", o->trellises,
                  "choose among WT3 and WT2 too, of 3.06 and 2.06 bits: only Keel reads such files, on CPUs")
        .needs(tune)
        .group("Types under a bound");
    bound("--costs", o->costs,
          "a file that keeps what each matrix is worth: a run that was stopped goes on, another bound measures nothing "
          "anew");
    bound("--tune-documents", o->tune_documents, "the first N documents of it").capture_default_str();
    bound("--tune-tokens", o->tune_tokens, "tokens of each").capture_default_str();
    verb.add_option("--threads,-t", o->threads, "threads (default: one per core)");
    const VerbOption test =
        verb.add_option(
                "--test", o->test,
                "a third text: perplexity, bits per byte, KL and top-1 of OUT on it beside those of IN, as keel "
                "eval ppl OUT TEXT --against IN has them")
            .group("What it costs");
    verb.add_option("--test-documents", o->test_documents, "the first N documents of it (default: all)")
        .needs(test)
        .group("What it costs");
    verb.add_option("--test-tokens", o->test_tokens, "tokens of each")
        .capture_default_str()
        .needs(test)
        .group("What it costs");
    verb.add_flag("--dry-run", o->dry_run, "say types and sizes, write nothing");
    verb.callback([o, &console] { quantize(*o, console); });
}

}  // namespace keel::tools
