#include "sdk/tools/wproj_build/wproj_builder.h"

#include <math.h>

#include <algorithm>
#include <limits>

#include "sdk/core/hash.h"
#include "sdk/lowrank/low_rank.h"
#include "sdk/tools/wproj/wproj_table.h"
#include "sdk/tools/wproj_build/activation_tap.h"
#include "sdk/tools/wproj_solvers/weighted_quantize.h"

namespace keel::tools {
namespace {

constexpr uint32_t kHeldOutRows = 512;

uint64_t hash_ids(uint64_t hash, const std::vector<int32_t>& ids) {
    const uint64_t count = ids.size();
    hash = hash_update(hash, reinterpret_cast<const char*>(&count), sizeof count);
    return hash_update(hash, reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
}

void step(const WprojStep& step, const std::string& what, uint64_t done, uint64_t total) {
    if (step && step(what, done, total)) throw ToolError(kExitCancelled, "cancelled while " + what);
}

}  // namespace

WprojBuilder::WprojBuilder(const EngineOptions& options, const WprojCalibrationText& text, uint32_t slots, WprojStep step)
    : step_(std::move(step)), model_(std::make_unique<ModelFile>(open_model(options.model))), slots_(slots), layers_(model_->info.layers) {
    sensitivity_.resize(layers_);
    for (auto& layer : sensitivity_) layer.fill(1);
    moments_.resize(layers_);
    bool any = false;
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot) any = any || ((slots >> slot & 1) && wproj_tensor(*model_->model, 0, slot));
    if (!any) throw ToolError(kExitFile, options.model + " has none of the projections asked for as tensors of their own");
    if (!text.text.file.empty()) watch(options, text);
}

WprojBuilder::~WprojBuilder() = default;

void WprojBuilder::watch(const EngineOptions& engine, const WprojCalibrationText& text) {
    EngineOptions options = engine;
    options.wproj.clear();
    options.low_rank = false;
    KvSpec f16;
    f16.k_format = f16.v_format = KEEL_KV_F16;
    const uint32_t tokens = tokens_within(text.text, lab_context(options));
    KvRun run(options, f16, tokens);
    std::vector<std::vector<int32_t>> documents = tokenize_documents(run.model().engine, text.text.file, text.text.documents, tokens);
    if (documents.size() <= text.held_out) throw ToolError(kExitUsage, strf("%s has %zu documents, of which %u are to be held out", text.text.file.c_str(), documents.size(), text.held_out));
    const size_t calibrating = documents.size() - text.held_out;

    const WprojShape shape = wproj_shape_of(*model_->model);
    std::array<uint32_t, kWprojGroups> columns{};
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
        if (slots_ >> slot & 1 && shape.rows[slot]) columns[wproj_group(static_cast<WprojSlot>(slot))] = shape.columns[wproj_group(static_cast<WprojSlot>(slot))];
    std::vector<std::array<std::unique_ptr<ActivationMoments>, kWprojGroups>> moments(layers_);
    for (auto& layer : moments)
        for (uint32_t group = 0; group < kWprojGroups; ++group)
            if (columns[group]) layer[group] = std::make_unique<ActivationMoments>(columns[group], kHeldOutRows);
    {
        ActivationTap tap(run, columns);
        uint64_t hash = kHashSeed;
        for (size_t d = 0; d < documents.size(); ++d) {
            step(step_, "reading the text", d, documents.size());
            tap.forward(documents[d]);
            hash = hash_ids(hash, documents[d]);
            for (uint32_t layer = 0; layer < layers_; ++layer)
                for (uint32_t group = 0; group < kWprojGroups; ++group) {
                    if (!columns[group]) continue;
                    if (d < calibrating) moments[layer][group]->add(tap.rows(layer, group));
                    else moments[layer][group]->hold_out(tap.rows(layer, group));
                }
        }
        calibration_hash_ = hash_finish(hash);
    }
    for (uint32_t layer = 0; layer < layers_; ++layer)
        for (uint32_t group = 0; group < kWprojGroups; ++group)
            if (columns[group]) moments_[layer][group] = std::make_unique<MomentSummary>(moments[layer][group]->summary());
    std::vector<std::vector<int32_t>> measured;
    uint64_t hash = kHashSeed;
    for (size_t d = calibrating; d < documents.size(); ++d) {
        documents[d].resize(std::min<size_t>(documents[d].size(), text.measured_tokens + 1));
        if (documents[d].size() < 2) continue;
        hash = hash_ids(hash, documents[d]);
        measured.push_back(std::move(documents[d]));
    }
    measured_hash_ = hash_finish(hash);
    if (!measured.empty()) meter_ = std::make_unique<WprojMeter>(options, std::move(measured));
}

WprojLayerInput WprojBuilder::input(uint32_t layer) {
    WprojLayerInput in;
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot) {
        const GgufTensor* t = slots_ >> slot & 1 ? wproj_tensor(*model_->model, layer, slot) : nullptr;
        if (!t) continue;
        const uint8_t* data = static_cast<const uint8_t*>(model_->reader.get()->mapped) + t->offset;
        weights_[slot] = decode_rows(t->type, {data, t->bytes}, t->dims[0]);
        in.weight[slot] = {weights_[slot].data(), static_cast<uint32_t>(t->dims[1]), static_cast<uint32_t>(t->dims[0]), t->bytes, sensitivity_[layer][slot]};
    }
    for (uint32_t group = 0; group < kWprojGroups; ++group) in.moments[group] = moments_[layer][group].get();
    return in;
}

WprojImage WprojBuilder::build(const WprojSolveOptions& options, WprojSolution* solution) {
    WprojSolution solved = solve_wproj(
        layers_,
        [&](uint32_t layer) {
            step(step_, "solving", layer, layers_);
            return input(layer);
        },
        options);
    WprojImage image;
    image.fingerprint = model_->info.fingerprint;
    image.calibration_hash = calibration_hash_;
    image.solver = solved.solver;
    image.layers = std::move(solved.layers);
    if (solution) {
        solved.layers.clear();
        *solution = std::move(solved);
    }
    return image;
}

double WprojBuilder::choose_sensitivities(WprojSolveOptions options) {
    if (!meter_) throw ToolError(kExitUsage, "sensitivities need a text with held-out documents");
    options.bound = std::numeric_limits<double>::infinity();
    for (auto& layer : sensitivity_) layer.fill(1);
    WprojSolution solution;
    const WprojImage plain = build(options, &solution);
    auto measured = sensitivity_;
    std::vector<double> all;
    for (size_t i = 0; i < solution.reports.size(); ++i) {
        step(step_, "measuring sensitivities", i, solution.reports.size());
        const WprojSlotReport& r = solution.reports[i];
        // In the solver's own metric, about the mean: the measured error is relative to all of the output, its mean included.
        if (!(r.predicted > 0)) continue;
        WprojImage one;
        one.fingerprint = plain.fingerprint;
        one.solver = plain.solver;
        one.layers.resize(layers_);
        const uint32_t group = wproj_group(static_cast<WprojSlot>(r.slot));
        one.layers[r.layer].basis[group] = plain.layers[r.layer].basis[group];
        one.layers[r.layer].record[r.slot] = plain.layers[r.layer].record[r.slot];
        measured[r.layer][r.slot] = std::max(meter_->measure(one).score.kl_mean() / r.predicted, 1e-9);
        all.push_back(measured[r.layer][r.slot]);
    }
    if (all.empty()) return 0;
    const double typical = percentile(all, 0.5);  // of slots that were not measured
    std::vector<std::array<bool, kWprojSlots>> known(layers_);
    for (const WprojSlotReport& r : solution.reports) known[r.layer][r.slot] = r.predicted > 0;
    double best = meter_->measure(plain).score.kl_mean(), chosen = 0;
    auto kept = sensitivity_;
    for (double power : {0.25, 0.5, 1.0}) {
        for (uint32_t layer = 0; layer < layers_; ++layer)
            for (uint32_t slot = 0; slot < kWprojSlots; ++slot) sensitivity_[layer][slot] = pow(known[layer][slot] ? measured[layer][slot] : typical, power);
        const double kl = meter_->measure(build(options)).score.kl_mean();
        if (kl >= best) continue;
        best = kl;
        chosen = power;
        kept = sensitivity_;
    }
    sensitivity_ = kept;
    return chosen;
}

}  // namespace keel::tools
