#include "sdk/tools/lab/quantize/distillation.h"

#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cmath>

#include "sdk/core/hash.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_team.h"
#include "sdk/tools/lab/quantize/trainable_model.h"
#include "sdk/tools/lab/quantize/work_file.h"

namespace keel::tools {
namespace {

// Adam (Kingma and Ba 2015), with steps in proportion to a tensor's size.
class Trainer {
  public:
    explicit Trainer(double rate) : rate_(static_cast<float>(rate)) {}
    // Whose gradients are used from now on; moments of gradients begin anew.
    void train(const std::vector<TrainableWeight*>& weights) {
        for (const State& s : states_) s.weight->want(false);
        states_.clear();
        step_ = 0;
        for (TrainableWeight* const w : weights) {
            w->want(true);
            states_.push_back({w, FloatRows::Zero(w->value.rows(), w->value.cols()),
                               FloatRows::Zero(w->value.rows(), w->value.cols()),
                               std::sqrt(w->value.squaredNorm() / static_cast<float>(w->value.size()))});
        }
    }
    // scale: of the rate. Gradients are zero afterwards.
    void step(float scale, uint32_t threads) {
        constexpr float kMean = 0.9f, kSquare = 0.95f, kTiny = 1e-12f;
        ++step_;
        const float mean_part = 1 - std::pow(kMean, static_cast<float>(step_)),
                    square_part = 1 - std::pow(kSquare, static_cast<float>(step_));
        in_parallel(threads, states_.size(), [&](size_t first, size_t last) {
            for (size_t i = first; i < last; ++i) {
                State& s = states_[i];
                FloatRows& g = s.weight->gradient;
                s.mean = kMean * s.mean + (1 - kMean) * g;
                s.square = kSquare * s.square + (1 - kSquare) * g.cwiseProduct(g);
                s.weight->value.array() -= scale * rate_ * s.size * (s.mean.array() / mean_part) /
                                           ((s.square.array() / square_part).sqrt() + kTiny);
                g.setZero();
            }
        });
    }

  private:
    struct State {
        TrainableWeight* weight;
        FloatRows mean, square;
        float size;  // root mean square when training began
    };
    float rate_;
    std::vector<State> states_;
    uint64_t step_ = 0;
};

std::span<const float> elements(const FloatRows& rows) {
    return {rows.data(), static_cast<size_t>(rows.size())};
}

// log of the softmax of each row, in place.
void log_softmax(FloatRows* rows, uint32_t threads) {
    in_parallel(threads, static_cast<size_t>(rows->rows()), [&](size_t first, size_t last) {
        for (size_t t = first; t < last; ++t) {
            auto row = rows->row(static_cast<Eigen::Index>(t));
            const float most = row.maxCoeff();
            row.array() -= most + std::log((row.array() - most).exp().sum());
        }
    });
}

class Distillation {
  public:
    Distillation(const EngineOptions& options, const QuantizeRequest& request, const CalibrationOptions& calibration,
                 const DistillationOptions& distillation)
        : request_(request),
          calibration_(calibration),
          options_(distillation),
          context_(lab_context(options)),
          source_(with_exact_activations(options), exact_kv(), context_),
          file_(source_.model().file),
          threads_(calibration.gptq.threads),
          model_(source_, std::min(context_, kDistillationWindow), threads_),
          teacher_(model_),
          trainer_(distillation.rate) {
        const int32_t bos = file_.info.bos_id;
        for (const std::vector<int32_t>& ids :
             tokenize_documents(source_.model().engine, calibration.text.file, calibration.text.documents,
                                tokens_within(calibration.text, context_)))
            for (size_t begin = 0; begin < ids.size(); begin += kDistillationWindow) {
                windows_.emplace_back(
                    ids.begin() + static_cast<ptrdiff_t>(begin),
                    ids.begin() + static_cast<ptrdiff_t>(std::min<size_t>(begin + kDistillationWindow, ids.size())));
                if (ids[0] == bos) windows_.back()[0] = bos;
            }
        uint64_t hash = kHashSeed;
        for (const std::vector<int32_t>& ids : windows_) hash = hash_ids(hash, ids);
        text_hash_ = hash_finish(hash);
        out_.matrices.resize(request.matrices.size());
    }

    uint64_t text_hash() const { return text_hash_; }

    DistilledModel run(const std::string& work_file, const CalibrationProgress& progress) {
        refuse_as_work_file(file_, calibration_.text.file, work_file);
        const uint64_t parts =
            kWprojGroups * (windows_.size() + uint64_t{options_.steps} * options_.texts) + windows_.size();
        const uint64_t total = model_.layers() * parts + uint64_t{options_.last_steps} * options_.texts;
        uint32_t first = 0;
        if (!read_work(work_file, &first)) code_head(progress, total);
        for (const std::vector<int32_t>& ids : windows_) states_.push_back(model_.embed(ids));
        for (uint32_t layer = 0; layer < first; ++layer) pass(layer);
        for (uint32_t layer = first; layer < model_.layers(); ++layer) {
            uint64_t done = layer * parts;
            for (uint32_t site = 0; site < kWprojGroups; ++site) {
                progress(strf("layer %u, second moments", layer), done, total);
                const bool coded = code_site(layer, site);
                done += windows_.size();
                if (coded) trainer_.train(trained_from(layer));
                for (uint32_t step = 0; step < options_.steps; ++step, done += options_.texts) {
                    if (!coded) continue;
                    progress(strf("layer %u, training", layer), done, total);
                    out_.divergence = train_step(layer, 1);
                }
            }
            pass(layer);
            write_work(work_file, layer + 1);
        }
        states_.clear();
        trainer_.train(trained_from(0));
        double sum = 0;
        for (uint32_t step = 0; step < options_.last_steps; ++step) {
            progress("training of vectors", total - uint64_t{options_.last_steps - step} * options_.texts, total);
            const bool late = step >= options_.last_steps * 2 / 3;
            sum += late ? train_step(0, 0.25f) : (train_step(0, 1), 0);
        }
        if (options_.last_steps) out_.divergence = sum / (options_.last_steps - options_.last_steps * 2 / 3);
        for (const auto& [weight, slot] : vectors_of(0)) {
            const std::span<const float> values = elements(weight->value);
            std::vector<uint8_t> bytes(values.size_bytes());
            memcpy(bytes.data(), values.data(), bytes.size());
            out_.vectors.emplace_back(weight->tensor, std::move(bytes));
        }
        return std::move(out_);
    }

  private:
    bool changes(size_t i) const { return request_.types[i] != request_.matrices[i].type; }
    TrainableWeight& weight_of(size_t i) {
        return *model_.weight(request_.matrices[i].slot, request_.matrices[i].layer);
    }

    // Vectors in F32 from a layer on, and the head's.
    std::vector<std::pair<TrainableWeight*, TensorSlot>> vectors_of(uint32_t first_layer) {
        std::vector<std::pair<TrainableWeight*, TensorSlot>> out;
        for (uint32_t slot = 0; slot < kSlotCount; ++slot)
            for (uint32_t layer = slot < kGlobalSlots ? 0 : first_layer;
                 layer < (slot < kGlobalSlots ? 1 : model_.layers()); ++layer) {
                const TensorSlot s = static_cast<TensorSlot>(slot);
                TrainableWeight* const w = model_.weight(s, layer);
                const bool fixed = s == kRopeFreqs || s == kRopeFactorsLong || s == kRopeFactorsShort;
                if (w && kSlots[slot].rows == kDimNone && !fixed &&
                    file_.model->tensors()[w->tensor].type == kernels::kF32)
                    out.emplace_back(w, s);
            }
        return out;
    }
    std::vector<TrainableWeight*> trained_from(uint32_t layer) {
        std::vector<TrainableWeight*> out;
        for (const auto& [weight, slot] : vectors_of(layer)) out.push_back(weight);
        for (size_t i = 0; i < request_.matrices.size(); ++i) {
            const ModelMatrix& m = request_.matrices[i];
            if (changes(i) && out_.matrices[i].bytes.empty() && input_of(m.slot, file_.model->spec.tied) < kHeadInput &&
                m.layer >= layer)
                out.push_back(&weight_of(i));
        }
        return out;
    }

    void code(size_t i, SiteCoder* coder) {
        const ModelMatrix& m = request_.matrices[i];
        TrainableWeight& w = weight_of(i);
        CalibratedMatrix& out = out_.matrices[i];
        if (coder)
            out = coder->code(request_.types[i], elements(w.value), m.columns);
        else
            out.bytes = quantize_matrix(request_.types[i], elements(w.value), m.columns, threads_);
        const std::vector<float> decoded = decode_rows(request_.types[i], out.bytes, m.columns);
        std::copy(decoded.begin(), decoded.end(), w.value.data());
    }

    // Embedding and head, by what the source's head reads.
    void code_head(const CalibrationProgress& progress, uint64_t total) {
        std::vector<size_t> wanted;
        bool by_moment = false;
        for (size_t i = 0; i < request_.matrices.size(); ++i) {
            const uint32_t input = input_of(request_.matrices[i].slot, file_.model->spec.tied);
            if (!changes(i) || input < kHeadInput) continue;
            wanted.push_back(i);
            by_moment |= input == kHeadInput;
        }
        SecondMoment moment(file_.model->spec.embedding);
        for (size_t d = 0; by_moment && d < windows_.size(); ++d) {
            progress("second moments of the head", 0, total);
            FloatRows x = model_.embed(windows_[d]);
            for (uint32_t layer = 0; layer < model_.layers(); ++layer) x = model_.forward(layer, x, nullptr);
            HeadTrace trace;
            model_.head(x, &trace);
            moment.add(elements(trace.normed), threads_);
        }
        SiteCoder coder(std::move(moment), calibration_.gptq);
        for (const size_t i : wanted)
            code(i, input_of(request_.matrices[i].slot, file_.model->spec.tied) == kHeadInput ? &coder : nullptr);
    }

    // False: nothing there changes its type.
    bool code_site(uint32_t layer, uint32_t site) {
        std::vector<size_t> wanted;
        for (size_t i = 0; i < request_.matrices.size(); ++i) {
            const ModelMatrix& m = request_.matrices[i];
            if (changes(i) && m.layer == layer && input_of(m.slot, file_.model->spec.tied) == site) wanted.push_back(i);
        }
        if (wanted.empty()) return false;
        SecondMoment moment(static_cast<uint32_t>(request_.matrices[wanted[0]].columns));
        for (const FloatRows& state : states_) {
            LayerTrace trace;
            model_.forward(layer, state, &trace);
            moment.add(elements(trace.site(site)), threads_);
        }
        SiteCoder coder(std::move(moment), calibration_.gptq);
        for (const size_t i : wanted) code(i, &coder);
        return true;
    }

    // The states behind a layer whose weights do not change any more.
    void pass(uint32_t layer) {
        for (FloatRows& state : states_) state = model_.forward(layer, state, nullptr);
    }

    // One step on the next windows. Returns the mean KL before it, in nats a token.
    double train_step(uint32_t first_layer, float scale) {
        double sum = 0;
        size_t tokens = 0;
        for (uint32_t i = 0; i < options_.texts; ++i) tokens += windows_[(next_ + i) % windows_.size()].size();
        for (uint32_t i = 0; i < options_.texts; ++i, ++next_) {
            const size_t d = next_ % windows_.size();
            FloatRows target = teacher_.logits(windows_[d]);
            log_softmax(&target, threads_);
            FloatRows x = states_.empty() ? model_.embed(windows_[d]) : states_[d];
            std::vector<LayerTrace> traces(model_.layers() - first_layer);
            for (uint32_t layer = first_layer; layer < model_.layers(); ++layer)
                x = model_.forward(layer, x, &traces[layer - first_layer]);
            HeadTrace head;
            FloatRows log_p = model_.head(x, &head);
            log_softmax(&log_p, threads_);
            // The loss: sum over tokens of p_source (log p_source - log p), over the tokens of the step.
            std::vector<double> loss(windows_[d].size());
            in_parallel(threads_, loss.size(), [&](size_t first, size_t last) {
                for (size_t t = first; t < last; ++t) {
                    auto p = log_p.row(static_cast<Eigen::Index>(t));
                    const auto q = target.row(static_cast<Eigen::Index>(t));
                    loss[t] = static_cast<double>((q.array().exp() * (q - p).array()).sum());
                    p = (p.array().exp() - q.array().exp()).matrix() / static_cast<float>(tokens);
                }
            });
            for (const double of : loss) sum += of;
            FloatRows by_x = model_.head_back(log_p, head);
            for (uint32_t layer = model_.layers(); layer-- > first_layer;)
                by_x = model_.back(layer, by_x, traces[layer - first_layer]);
        }
        if (!std::isfinite(sum))
            throw ToolError(kExitRuntime, "training diverges: what is predicted is not finite any more");
        trainer_.step(scale, threads_);
        return sum / static_cast<double>(tokens);
    }

    // ---- the work file: mark, key, layers done, windows read, codes of matrices that are done, values of all other
    // weights that are trained, hash of all that ----
    uint64_t key() const {
        std::string text =
            strf("%s %s %.17g %d %u %u %u %u %.17g", hex64(file_.info.fingerprint).c_str(), hex64(text_hash_).c_str(),
                 calibration_.gptq.damping, calibration_.gptq.activation_order, calibration_.gptq.sweeps,
                 options_.steps, options_.last_steps, options_.texts, options_.rate);
        text += strf(" keel %u", keel_version());
        for (const uint32_t type : request_.types) text += ' ' + std::to_string(type);
        return hash64(text.data(), text.size());
    }
    // Calls part(bytes, count) for each piece of the state in order.
    template <class Part>
    void each_part(const Part& part) {
        for (size_t i = 0; i < request_.matrices.size(); ++i) {
            if (!changes(i)) continue;
            CalibratedMatrix& m = out_.matrices[i];
            uint64_t bytes = m.bytes.size();
            part(&bytes, sizeof bytes);
            if (bytes) {
                const uint64_t whole = request_.matrices[i].rows *
                                       kernels::weight_row_bytes(request_.types[i], request_.matrices[i].columns);
                m.bytes.resize(whole);
                part(m.bytes.data(), whole);
                part(&m.nearest_error, sizeof m.nearest_error);
                part(&m.error, sizeof m.error);
            } else {
                FloatRows& value = weight_of(i).value;
                part(value.data(), static_cast<size_t>(value.size()) * sizeof(float));
            }
        }
        for (const auto& [weight, slot] : vectors_of(0))
            part(weight->value.data(), static_cast<size_t>(weight->value.size()) * sizeof(float));
        part(&next_, sizeof next_);
        part(&out_.divergence, sizeof out_.divergence);
    }
    void write_work(const std::string& path, uint64_t layers) {
        if (path.empty()) return;
        AtomicFile file(path);
        uint64_t hash = kHashSeed;
        const auto put = [&](const void* data, size_t bytes) {
            file.write(data, bytes);
            hash = hash_update(hash, static_cast<const char*>(data), bytes);
        };
        const uint64_t head[] = {kWorkFileMark, key(), layers};
        put(head, sizeof head);
        each_part(put);
        hash = hash_finish(hash);
        file.write(&hash, sizeof hash);
        file.commit();
    }
    // False: nothing of use there, and nothing has changed.
    bool read_work(const std::string& path, uint32_t* layers) {
        FILE* const file = path.empty() ? nullptr : fopen(path.c_str(), "rb");
        if (!file) return false;
        // Whole and of the same request? Only then is it taken.
        std::vector<uint8_t> all;
        uint8_t buffer[1 << 16];
        for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;) all.insert(all.end(), buffer, buffer + n);
        fclose(file);
        uint64_t head[3], hash;
        if (all.size() < sizeof head + sizeof hash) return false;
        memcpy(head, all.data(), sizeof head);
        memcpy(&hash, all.data() + all.size() - sizeof hash, sizeof hash);
        const size_t end = all.size() - sizeof hash;
        if (head[0] != kWorkFileMark || head[1] != key() || head[2] > model_.layers() ||
            hash != hash_finish(hash_update(kHashSeed, reinterpret_cast<const char*>(all.data()), end)))
            return false;
        *layers = static_cast<uint32_t>(head[2]);
        size_t at = sizeof head;
        each_part([&](void* data, size_t bytes) {
            if (bytes > end - at) throw ToolError(kExitFile, path + " is not what was written");
            memcpy(data, all.data() + at, bytes);
            at += bytes;
        });
        for (size_t i = 0; i < request_.matrices.size(); ++i) {
            if (out_.matrices[i].bytes.empty()) continue;
            const std::vector<float> decoded =
                decode_rows(request_.types[i], out_.matrices[i].bytes, request_.matrices[i].columns);
            std::copy(decoded.begin(), decoded.end(), weight_of(i).value.data());
        }
        return true;
    }

    const QuantizeRequest& request_;
    const CalibrationOptions& calibration_;
    const DistillationOptions options_;
    const uint32_t context_;
    KvRun source_;
    const ModelFile& file_;
    const uint32_t threads_;
    TrainableModel model_;
    const TrainableModel teacher_;  // the source as it is
    Trainer trainer_;
    std::vector<std::vector<int32_t>> windows_;
    uint64_t text_hash_ = 0;
    std::vector<FloatRows> states_;  // of each window, before the layer that is worked on
    uint64_t next_ = 0;              // window of the next step
    DistilledModel out_;
};

}  // namespace

DistilledModel distill_matrices(const EngineOptions& options, const QuantizeRequest& request,
                                const CalibrationOptions& calibration, const DistillationOptions& distillation,
                                const std::string& work_file, const CalibrationProgress& progress,
                                uint64_t* text_hash) try {
    Distillation work(options, request, calibration, distillation);
    *text_hash = work.text_hash();
    return work.run(work_file, progress);
} catch (const std::invalid_argument& error) {
    throw ToolError(kExitFile, options.model + ": " + error.what());
}

}  // namespace keel::tools
