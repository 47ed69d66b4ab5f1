#include "sdk/tools/lab/lowrank/wproj_builder.h"

#include <math.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <limits>

#include "sdk/core/hash.h"
#include "sdk/model/wproj_slots.h"
#include "sdk/tools/lab/quantize/activation_tap.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"

namespace keel::tools {
namespace {

constexpr uint32_t kHeldOutRows = 512;

void step(const WprojStep& step, const std::string& what, uint64_t done, uint64_t total) {
    if (step && step(what, done, total)) throw ToolError(kExitCancelled, "cancelled while " + what);
}

}  // namespace

WprojBuilder::WprojBuilder(const EngineOptions& options, const WprojCalibrationText& text, uint32_t slots,
                           WprojStep step)
    : step_(std::move(step)),
      model_(std::make_unique<ModelFile>(open_model(options.model))),
      slots_(slots),
      layers_(model_->info.layers) {
    if (model_->model->spec.wired) throw ToolError(kExitFile, options.model + ": wired models have no W_proj caches");
    sensitivity_.resize(layers_);
    for (auto& layer : sensitivity_) layer.fill(1);
    moments_.resize(layers_);
    bool any = false;
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
        any = any || ((slots >> slot & 1) && wproj_tensor(*model_->model, 0, slot));
    if (!any)
        throw ToolError(kExitFile, options.model + " has none of the projections asked for as tensors of their own");
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
    std::vector<uint32_t> sources;
    std::vector<std::vector<int32_t>> documents =
        tokenize_documents(run.model().engine, text.text.file, text.text.documents, tokens, true, &sources);
    if (documents.size() <= text.held_out)
        throw ToolError(kExitUsage, strf("%s has %zu documents, of which %u are to be held out", text.text.file.c_str(),
                                         documents.size(), text.held_out));
    const size_t calibrating = documents.size() - text.held_out;

    const WprojShape shape = wproj_shape_of(*model_->model);
    std::array<uint32_t, kWprojGroups> columns{};
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
        if (slots_ >> slot & 1 && shape.rows[slot])
            columns[wproj_group(static_cast<WprojSlot>(slot))] =
                shape.columns[wproj_group(static_cast<WprojSlot>(slot))];
    std::vector<std::array<std::unique_ptr<ActivationMoments>, kWprojGroups>> moments(layers_);
    for (auto& layer : moments)
        for (uint32_t group = 0; group < kWprojGroups; ++group)
            if (columns[group]) layer[group] = std::make_unique<ActivationMoments>(columns[group], kHeldOutRows);
    {
        KvRowCapture capture(run.shape());
        if (text.attention_metric) run.set_tap(&capture);
        if (text.attention_metric) attention_ = std::make_unique<KvStatistics>();
        ActivationTap tap(run, columns);
        const uint64_t first_held_out = calibrating;
        uint64_t hash = hash_update(kHashSeed, reinterpret_cast<const char*>(&first_held_out), sizeof first_held_out);
        for (size_t d = 0; d < documents.size(); ++d) {
            step(step_, "reading the text", d, documents.size());
            tap.forward(documents[d]);
            hash = hash_ids(hash, documents[d]);
            if (attention_ && d < calibrating) attention_->add(capture.rows());
            for (uint32_t layer = 0; layer < layers_; ++layer)
                for (uint32_t group = 0; group < kWprojGroups; ++group) {
                    if (!columns[group]) continue;
                    if (d < calibrating)
                        moments[layer][group]->add(tap.rows(layer, group));
                    else
                        moments[layer][group]->hold_out(tap.rows(layer, group));
                }
        }
        calibration_hash_ = hash_finish(hash);
    }
    run.set_tap(nullptr);
    for (uint32_t layer = 0; layer < layers_; ++layer)
        for (uint32_t group = 0; group < kWprojGroups; ++group)
            if (columns[group])
                moments_[layer][group] = std::make_unique<MomentSummary>(moments[layer][group]->summary());
    std::vector<std::vector<int32_t>> measured;
    std::vector<uint32_t> measured_sources;
    uint64_t hash = kHashSeed;
    for (size_t d = calibrating; d < documents.size(); ++d) {
        documents[d].resize(std::min<size_t>(documents[d].size(), text.measured_tokens + 1));
        if (documents[d].size() < 2) continue;
        hash = hash_ids(hash, documents[d]);
        measured.push_back(std::move(documents[d]));
        measured_sources.push_back(sources[d]);
    }
    measured_hash_ = hash_finish(hash);
    if (!measured.empty())
        meter_ = std::make_unique<WprojMeter>(options, std::move(measured), std::move(measured_sources));
}

WprojLayerInput WprojBuilder::input(uint32_t layer) {
    WprojLayerInput in;
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot) {
        const GgufTensor* t = slots_ >> slot & 1 ? wproj_tensor(*model_->model, layer, slot) : nullptr;
        if (!t) continue;
        const uint8_t* data = model_->bytes_of(*t);
        weights_[slot] = decode_rows(t->type, {data, t->bytes}, t->dims[0]);
        in.weight[slot] = {weights_[slot].data(), static_cast<uint32_t>(t->dims[1]), static_cast<uint32_t>(t->dims[0]),
                           t->bytes, sensitivity_[layer][slot]};
    }
    for (uint32_t group = 0; group < kWprojGroups; ++group) in.moments[group] = moments_[layer][group].get();
    if (attention_) count_as_attention(layer, &in);
    return in;
}

void WprojBuilder::count_as_attention(uint32_t layer, WprojLayerInput* in) {
    const KvStatistics& a = *attention_;
    const KvShape& shape = a.shape();
    const uint32_t group = shape.heads / shape.kv_heads, size = shape.head_dim;
    // Energy of element i of a head, the two elements of a RoPE pair alike: positions turn them into each other.
    const auto paired = [&](auto energy, uint32_t kv_head) {
        std::vector<double> x(size);
        const size_t at = a.at(layer, kv_head);
        for (uint32_t i = 0; i < size; ++i) x[i] = energy(at + i);
        for (uint32_t p = 0; p < a.rope_dims() / 2; ++p) {
            const auto [first, second] = a.pair(p);
            x[first] = x[second] = (x[first] + x[second]) / 2;
        }
        return x;
    };
    const auto scale_rows = [&](uint32_t slot, uint32_t heads, auto energy, uint32_t heads_per_kv) {
        WprojWeight& w = in->weight[slot];
        if (!w.data || w.rows != heads * size) return;
        counted_[slot].resize(uint64_t{w.rows} * w.columns);
        for (uint32_t h = 0; h < heads; ++h) {
            const std::vector<double> weight = paired(energy, h / heads_per_kv);
            for (uint32_t i = 0; i < size; ++i) {
                const uint64_t row = (uint64_t{h} * size + i) * w.columns;
                const auto scale = static_cast<float>(sqrt(weight[i]));
                for (uint32_t c = 0; c < w.columns; ++c) counted_[slot][row + c] = scale * w.data[row + c];
            }
        }
        w.counted = counted_[slot].data();
        w.counted_rows = w.rows;
    };
    scale_rows(
        kWprojQ, shape.heads, [&](size_t i) { return a.key_energy(i); }, group);
    scale_rows(
        kWprojK, shape.kv_heads, [&](size_t i) { return a.query_energy(i); }, 1);

    WprojWeight& v = in->weight[kWprojV];
    const GgufTensor* o = wproj_tensor(*model_->model, layer, kWprojO);
    if (!v.data || v.rows != shape.kv_heads * size || !o || o->dims[0] != uint64_t{shape.heads} * size) return;
    const std::vector<float> output = decode_rows(o->type, {model_->bytes_of(*o), o->bytes}, o->dims[0]);
    const Eigen::Map<const FloatRows> w_o(output.data(), static_cast<Eigen::Index>(o->dims[1]),
                                          static_cast<Eigen::Index>(o->dims[0]));
    const Eigen::Map<const FloatRows> w_v(v.data, v.rows, v.columns);
    counted_[kWprojV].resize(uint64_t{v.rows} * v.columns);
    Eigen::Map<FloatRows> counted(counted_[kWprojV].data(), v.rows, v.columns);
    for (uint32_t h = 0; h < shape.kv_heads; ++h) {
        // sum over the query heads of O_h^T O_h = L L^T; |O_h e|^2 sums to |L^T e|^2
        Eigen::MatrixXd gram = Eigen::MatrixXd::Zero(size, size);
        for (uint32_t g = 0; g < group; ++g) {
            const Eigen::MatrixXd part = w_o.middleCols((h * group + g) * size, size).cast<double>();
            gram += part.transpose() * part;
        }
        gram.diagonal().array() += 1e-9 * gram.trace() / size;
        const Eigen::LLT<Eigen::MatrixXd> cholesky(gram);
        if (cholesky.info() != Eigen::Success) return;
        counted.middleRows(h * size, size) =
            (cholesky.matrixU() * w_v.middleRows(h * size, size).cast<double>()).cast<float>();
    }
    v.counted = counted_[kWprojV].data();
    v.counted_rows = v.rows;
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
        // In the solver's own metric, about the mean: the measured error is relative to all of the output, its mean
        // included.
        if (!(r.solver_error > 0)) continue;
        WprojImage one;
        one.fingerprint = plain.fingerprint;
        one.solver = plain.solver;
        one.layers.resize(layers_);
        const uint32_t group = wproj_group(static_cast<WprojSlot>(r.slot));
        one.layers[r.layer].basis[group] = plain.layers[r.layer].basis[group];
        one.layers[r.layer].record[r.slot] = plain.layers[r.layer].record[r.slot];
        measured[r.layer][r.slot] = std::max(meter_->measure(one).score.kl_mean() / r.solver_error, 1e-9);
        all.push_back(measured[r.layer][r.slot]);
    }
    if (all.empty()) return 0;
    const double typical = percentile(all, 0.5);  // of slots that were not measured
    std::vector<std::array<bool, kWprojSlots>> known(layers_);
    for (const WprojSlotReport& r : solution.reports) known[r.layer][r.slot] = r.solver_error > 0;
    double best = meter_->measure(plain).score.kl_mean(), chosen = 0;
    auto kept = sensitivity_;
    for (double power : {0.25, 0.5, 1.0}) {
        for (uint32_t layer = 0; layer < layers_; ++layer)
            for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
                sensitivity_[layer][slot] = pow(known[layer][slot] ? measured[layer][slot] : typical, power);
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
