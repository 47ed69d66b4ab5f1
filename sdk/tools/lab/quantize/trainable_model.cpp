#include "sdk/tools/lab/quantize/trainable_model.h"

#include <algorithm>
#include <cmath>

#include "keel/keel_lab.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_team.h"

namespace keel::tools {
namespace {

using Array = Eigen::ArrayXf;

FloatRows read_weight(const ModelFile& file, const GgufTensor& t) {
    const auto columns = static_cast<Eigen::Index>(t.dims[0]);
    Eigen::Index rows = 1;
    for (uint32_t i = 1; i < t.dim_count; ++i) rows *= static_cast<Eigen::Index>(t.dims[i]);
    std::vector<uint8_t> bytes(t.bytes);
    check(read_tensor(*file.gguf(), t, 0, bytes.data(), bytes.size()), "cannot read a tensor of " + file.path);
    const std::vector<float> values = decode_rows(t.type, bytes, t.dims[0]);
    return Eigen::Map<const FloatRows>(values.data(), rows, columns);
}

// y = x / sqrt(mean x^2 + eps) * w, row by row.
FloatRows rms_norm(const FloatRows& x, const FloatRows& w, float eps) {
    FloatRows y(x.rows(), x.cols());
    for (Eigen::Index t = 0; t < x.rows(); ++t) {
        const float r = 1 / std::sqrt(x.row(t).squaredNorm() / static_cast<float>(x.cols()) + eps);
        y.row(t) = (x.row(t) * r).cwiseProduct(w.row(0));
    }
    return y;
}

// by_x = r (w by_y) - x r^3 / n sum(w by_y x);  by_w = sum over rows of by_y x r, added where by_w has elements.
FloatRows rms_norm_back(const FloatRows& by_y, const FloatRows& x, const FloatRows& w, float eps, FloatRows* by_w) {
    FloatRows by_x(x.rows(), x.cols());
    for (Eigen::Index t = 0; t < x.rows(); ++t) {
        const float n = static_cast<float>(x.cols()), r = 1 / std::sqrt(x.row(t).squaredNorm() / n + eps);
        const Eigen::RowVectorXf through = by_y.row(t).cwiseProduct(w.row(0));
        by_x.row(t) = r * through - (r * r * r / n * through.dot(x.row(t))) * x.row(t);
        if (by_w->size()) by_w->row(0) += r * by_y.row(t).cwiseProduct(x.row(t));
    }
    return by_x;
}

// A gate and what it changes by, by the formulas of NUMERICS section 4.
void gate_values(Gate gate, const Array& g, Array* value, Array* slope) {
    if (gate == Gate::kSilu) {
        const Array s = 1 / (1 + (-g).exp());
        *value = g * s;
        *slope = s + *value * (1 - s);
    } else {
        constexpr float kScale = 0.7978845608f, kCubic = 0.044715f;
        const Array t = (kScale * (g + kCubic * g.cube())).tanh();
        *value = 0.5f * g * (1 + t);
        *slope = 0.5f * (1 + t) + 0.5f * g * (1 - t.square()) * kScale * (1 + 3 * kCubic * g.square());
    }
}

// Cos and sin of each pair at every position, as the engine has them: of two layers, whose frequencies may differ.
class TurnTap : public KvTap {
  public:
    void begin(keel_session, uint32_t tokens, uint32_t) override {
        for (auto& of : turns) of.resize(tokens);
    }
    void heads(const keel_lab_heads& h) override {
        for (uint32_t set = 0; set < 2; ++set)
            if (h.stage == KEEL_LAB_AFTER_ROPE && h.kv_head == 0 && h.layer == layer[set])
                turns[set][h.position].assign(h.cos_sin, h.cos_sin + h.rope_dims);
    }
    uint32_t layer[2] = {UINT32_MAX, UINT32_MAX};
    std::vector<std::vector<float>> turns[2];
};

}  // namespace

const FloatRows& LayerTrace::site(uint32_t keel_lab_site) const {
    const FloatRows* const sites[] = {&attention_in, &attention_out, &ffn_in, &hidden};
    static_assert(KEEL_LAB_ATTN_IN == 0 && KEEL_LAB_ATTN_OUT == 1 && KEEL_LAB_FFN_IN == 2 && KEEL_LAB_FFN_HIDDEN == 3);
    return *sites[keel_lab_site];
}

TrainableModel::TrainableModel(KvRun& run, uint32_t tokens, uint32_t threads)
    : spec_(run.model().file.model->spec), row_(run.model().file.model->row()), threads_(threads) {
    const ModelFile& file = run.model().file;
    if (spec_.wired) throw ToolError(kExitFile, file.path + ": wired models cannot be trained");
    of_slot_.assign(uint64_t{spec_.layers + 1} * kSlotCount, kNoTensor);
    for (uint32_t slot = 0; slot < kSlotCount; ++slot)
        for (uint32_t layer = 0; layer < (slot < kGlobalSlots ? 1 : spec_.layers); ++layer) {
            const GgufTensor* const t = file.model->tensor(static_cast<TensorSlot>(slot), layer);
            if (!t) continue;
            of_slot_[layer * kSlotCount + slot] = static_cast<uint32_t>(weights_.size());
            weights_.push_back({static_cast<uint32_t>(t - file.model->tensors()), read_weight(file, *t), {}});
        }
    TurnTap tap;
    for (uint32_t layer = spec_.layers; layer-- > 0;) tap.layer[set_of(layer)] = layer;
    run.set_tap(&tap);
    run.forward(std::vector<int32_t>(tokens), [](auto&&...) {});
    run.set_tap(nullptr);
    for (uint32_t set = 0; set < 2; ++set) turns_[set] = std::move(tap.turns[set]);
}

const TrainableWeight* TrainableModel::find(TensorSlot slot, uint32_t layer) const {
    const uint32_t i = of_slot_[layer * kSlotCount + slot];
    return i == kNoTensor ? nullptr : &weights_[i];
}

TrainableWeight* TrainableModel::weight(TensorSlot slot, uint32_t layer) {
    return const_cast<TrainableWeight*>(find(slot, layer));
}

std::vector<TrainableWeight*> TrainableModel::weights() {
    std::vector<TrainableWeight*> all;
    for (TrainableWeight& w : weights_) all.push_back(&w);
    return all;
}

FloatRows TrainableModel::embed(std::span<const int32_t> ids) const {
    const FloatRows& table = find(kTokenEmbedding, 0)->value;
    FloatRows x(static_cast<Eigen::Index>(ids.size()), table.cols());
    for (size_t t = 0; t < ids.size(); ++t)
        x.row(static_cast<Eigen::Index>(t)) = table.row(ids[t]) * spec_.embedding_scale;
    return x;
}

// ---- products: of all slots there are, side by side ----
FloatRows TrainableModel::products(std::initializer_list<TensorSlot> slots, uint32_t layer, const FloatRows& x) const {
    std::vector<FloatRows> parts;
    Eigen::Index width = 0;
    for (const TensorSlot slot : slots)
        if (const TrainableWeight* const w = find(slot, layer)) {
            parts.push_back(product_transposed(x, w->value, threads_));
            width += w->value.rows();
        }
    if (parts.size() == 1) return parts[0];
    FloatRows y(x.rows(), width);
    width = 0;
    for (const FloatRows& part : parts) {
        y.middleCols(width, part.cols()) = part;
        width += part.cols();
    }
    return y;
}

FloatRows TrainableModel::products_back(std::initializer_list<TensorSlot> slots, uint32_t layer, const FloatRows& by_y,
                                        const FloatRows& x) {
    FloatRows by_x = FloatRows::Zero(x.rows(), x.cols());
    Eigen::Index at = 0;
    for (const TensorSlot slot : slots) {
        TrainableWeight* const w = weight(slot, layer);
        if (!w) continue;
        const FloatRows part = by_y.middleCols(at, w->value.rows());
        at += w->value.rows();
        by_x += product(part, w->value, threads_);
        if (w->wanted()) w->gradient += product_of_transposed(part, x, threads_);
    }
    return by_x;
}

// ---- norms ----
FloatRows TrainableModel::norm(TensorSlot slot, uint32_t layer, const FloatRows& x) const {
    const TrainableWeight* const w = find(slot, layer);
    return w ? rms_norm(x, w->value, spec_.norm_eps) : x;
}

FloatRows TrainableModel::norm_back(TensorSlot slot, uint32_t layer, const FloatRows& by_y, const FloatRows& x) {
    TrainableWeight* const w = weight(slot, layer);
    return w ? rms_norm_back(by_y, x, w->value, spec_.norm_eps, &w->gradient) : by_y;
}

// Heads of q and of k that have a norm: first head, how many, and which norm.
struct TrainableModel::Heads {
    TensorSlot slot;
    uint32_t first, count;
};

void TrainableModel::head_norms(uint32_t layer, FloatRows* qkv) const {
    const Eigen::Index size = spec_.head_dim;
    for (const Heads heads : {Heads{kAttnQNorm, 0, spec_.heads}, Heads{kAttnKNorm, spec_.heads, spec_.kv_heads}}) {
        const TrainableWeight* const w = find(heads.slot, layer);
        for (uint32_t h = heads.first; w && h < heads.first + heads.count; ++h)
            qkv->middleCols(h * size, size) = rms_norm(qkv->middleCols(h * size, size), w->value, spec_.norm_eps);
    }
}

void TrainableModel::head_norms_back(uint32_t layer, FloatRows* by_qkv, const FloatRows& qkv) {
    const Eigen::Index size = spec_.head_dim;
    for (const Heads heads : {Heads{kAttnQNorm, 0, spec_.heads}, Heads{kAttnKNorm, spec_.heads, spec_.kv_heads}}) {
        TrainableWeight* const w = weight(heads.slot, layer);
        for (uint32_t h = heads.first; w && h < heads.first + heads.count; ++h)
            by_qkv->middleCols(h * size, size) =
                rms_norm_back(by_qkv->middleCols(h * size, size), qkv.middleCols(h * size, size), w->value,
                              spec_.norm_eps, &w->gradient);
    }
}

// ---- RoPE ----
void TrainableModel::rotate(uint32_t layer, FloatRows* qkv, bool back) const {
    const uint32_t pairs = spec_.rope_dims / 2;
    for (Eigen::Index t = 0; t < qkv->rows(); ++t) {
        const std::vector<float>& turn = turns_[set_of(layer)].at(static_cast<size_t>(t));
        for (uint32_t h = 0; h < spec_.heads + spec_.kv_heads; ++h) {
            float* const head = qkv->row(t).data() + uint64_t{h} * spec_.head_dim;
            for (uint32_t i = 0; i < pairs; ++i) {
                float &a = head[row_.rope_neox ? i : 2 * i], &b = head[row_.rope_neox ? i + pairs : 2 * i + 1];
                const float c = turn[2 * i], s = back ? -turn[2 * i + 1] : turn[2 * i + 1], x = a, y = b;
                a = x * c - y * s;
                b = x * s + y * c;
            }
        }
    }
}

// ---- attention ----
FloatRows TrainableModel::attend(uint32_t layer, const FloatRows& rotated, LayerTrace* trace) const {
    const Eigen::Index size = spec_.head_dim, tokens = rotated.rows();
    const uint32_t group = spec_.heads / spec_.kv_heads, window = spec_.windowed(layer) ? spec_.window : 0;
    const float cap = spec_.attention_softcap;
    FloatRows out(tokens, spec_.q_dim());
    if (trace) {
        trace->probabilities.resize(spec_.heads);
        trace->cap_slopes.resize(cap != 0 ? spec_.heads : 0);
    }
    in_parallel(threads_, spec_.heads, [&](size_t first, size_t last) {
        for (size_t h = first; h < last; ++h) {
            const auto q = rotated.middleCols(static_cast<Eigen::Index>(h) * size, size);
            const auto k = rotated.middleCols(static_cast<Eigen::Index>(spec_.heads + h / group) * size, size);
            const auto v =
                rotated.middleCols(static_cast<Eigen::Index>(spec_.heads + spec_.kv_heads + h / group) * size, size);
            FloatRows p = product_transposed(q, k, 1) * spec_.attention_scale;
            if (cap != 0) {
                p = cap * (p / cap).array().tanh();
                if (trace) trace->cap_slopes[h] = 1 - (p / cap).array().square();
            }
            for (Eigen::Index t = 0; t < tokens; ++t) {
                const Eigen::Index begin = window && t + 1 > window ? t + 1 - window : 0, count = t + 1 - begin;
                auto seen = p.row(t).segment(begin, count);
                seen = (seen.array() - seen.maxCoeff()).exp();
                seen /= seen.sum();
                p.row(t).head(begin).setZero();
                p.row(t).tail(tokens - t - 1).setZero();
            }
            out.middleCols(static_cast<Eigen::Index>(h) * size, size) = product(p, v, 1);
            if (trace) trace->probabilities[h] = std::move(p);
        }
    });
    return out;
}

FloatRows TrainableModel::attend_back(const FloatRows& by_out, const LayerTrace& trace) const {
    const Eigen::Index size = spec_.head_dim, tokens = by_out.rows();
    const uint32_t group = spec_.heads / spec_.kv_heads;
    FloatRows by_qkv = FloatRows::Zero(tokens, spec_.qkv_dim());
    in_parallel(threads_, spec_.kv_heads, [&](size_t first, size_t last) {
        for (size_t h = first * group; h < last * group; ++h) {
            const Eigen::Index q_at = static_cast<Eigen::Index>(h) * size,
                               k_at = static_cast<Eigen::Index>(spec_.heads + h / group) * size,
                               v_at = static_cast<Eigen::Index>(spec_.heads + spec_.kv_heads + h / group) * size;
            const FloatRows& p = trace.probabilities[h];
            const auto by_o = by_out.middleCols(q_at, size);
            by_qkv.middleCols(v_at, size) += product_of_transposed(p, by_o, 1);
            FloatRows by_s = product_transposed(by_o, trace.rotated.middleCols(v_at, size), 1);  // of p so far
            for (Eigen::Index t = 0; t < tokens; ++t)
                by_s.row(t) = p.row(t).cwiseProduct((by_s.row(t).array() - by_s.row(t).dot(p.row(t))).matrix());
            if (!trace.cap_slopes.empty()) by_s = by_s.cwiseProduct(trace.cap_slopes[h]);
            by_s *= spec_.attention_scale;
            by_qkv.middleCols(q_at, size) += product(by_s, trace.rotated.middleCols(k_at, size), 1);
            by_qkv.middleCols(k_at, size) += product_of_transposed(by_s, trace.rotated.middleCols(q_at, size), 1);
        }
    });
    return by_qkv;
}

// ---- layers ----
FloatRows TrainableModel::forward(uint32_t layer, const FloatRows& x, LayerTrace* trace) const {
    LayerTrace local;
    LayerTrace& at = trace ? *trace : local;
    at.input = x;
    at.attention_in = norm(kAttnNorm, layer, x);
    at.qkv = products({kAttnQkv, kAttnQ, kAttnK, kAttnV}, layer, at.attention_in);
    Eigen::Index column = 0;
    for (const auto& [slot, width] : {std::pair(kAttnQBias, spec_.q_dim()), std::pair(kAttnKBias, spec_.kv_dim()),
                                      std::pair(kAttnVBias, spec_.kv_dim())}) {
        if (const TrainableWeight* const b = find(slot, layer))
            at.qkv.middleCols(column, width).rowwise() += b->value.row(0);
        column += width;
    }
    at.rotated = at.qkv;
    head_norms(layer, &at.rotated);
    rotate(layer, &at.rotated, false);
    at.attention_out = attend(layer, at.rotated, trace);
    at.attention_product = products({kAttnOutput}, layer, at.attention_out);
    at.middle = x + norm(kAttnPostNorm, layer, at.attention_product);
    at.ffn_in = norm(kFfnNorm, layer, at.middle);
    at.gate_up = products({kFfnGateUp, kFfnGate, kFfnUp}, layer, at.ffn_in);
    const Eigen::Index width = spec_.feed_forward;
    at.hidden.resize(x.rows(), width);
    in_parallel(threads_, static_cast<size_t>(x.rows()), [&](size_t first, size_t last) {
        Array value, slope;
        for (size_t i = first; i < last; ++i) {
            const Eigen::Index t = static_cast<Eigen::Index>(i);
            gate_values(row_.gate, at.gate_up.row(t).head(width).transpose().array(), &value, &slope);
            at.hidden.row(t) = value.matrix().transpose().cwiseProduct(at.gate_up.row(t).tail(width));
        }
    });
    at.ffn_product = products({kFfnDown}, layer, at.hidden);
    return at.middle + norm(kFfnPostNorm, layer, at.ffn_product);
}

FloatRows TrainableModel::back(uint32_t layer, const FloatRows& by_output, const LayerTrace& at) {
    const Eigen::Index width = spec_.feed_forward;
    const FloatRows by_hidden =
        products_back({kFfnDown}, layer, norm_back(kFfnPostNorm, layer, by_output, at.ffn_product), at.hidden);
    FloatRows by_gate_up(by_hidden.rows(), 2 * width);
    in_parallel(threads_, static_cast<size_t>(by_hidden.rows()), [&](size_t first, size_t last) {
        Array value, slope;
        for (size_t i = first; i < last; ++i) {
            const Eigen::Index t = static_cast<Eigen::Index>(i);
            gate_values(row_.gate, at.gate_up.row(t).head(width).transpose().array(), &value, &slope);
            by_gate_up.row(t).head(width) =
                by_hidden.row(t).cwiseProduct(at.gate_up.row(t).tail(width)).cwiseProduct(slope.matrix().transpose());
            by_gate_up.row(t).tail(width) = by_hidden.row(t).cwiseProduct(value.matrix().transpose());
        }
    });
    const FloatRows by_middle =
        by_output + norm_back(kFfnNorm, layer,
                              products_back({kFfnGateUp, kFfnGate, kFfnUp}, layer, by_gate_up, at.ffn_in), at.middle);
    FloatRows by_qkv =
        attend_back(products_back({kAttnOutput}, layer,
                                  norm_back(kAttnPostNorm, layer, by_middle, at.attention_product), at.attention_out),
                    at);
    rotate(layer, &by_qkv, true);
    head_norms_back(layer, &by_qkv, at.qkv);
    Eigen::Index column = 0;
    for (const auto& [slot, columns] : {std::pair(kAttnQBias, spec_.q_dim()), std::pair(kAttnKBias, spec_.kv_dim()),
                                        std::pair(kAttnVBias, spec_.kv_dim())}) {
        TrainableWeight* const b = weight(slot, layer);
        if (b && b->wanted()) b->gradient.row(0) += by_qkv.middleCols(column, columns).colwise().sum();
        column += columns;
    }
    return by_middle + norm_back(kAttnNorm, layer,
                                 products_back({kAttnQkv, kAttnQ, kAttnK, kAttnV}, layer, by_qkv, at.attention_in),
                                 at.input);
}

// ---- head ----
FloatRows TrainableModel::head(const FloatRows& x, HeadTrace* trace) const {
    const FloatRows normed = norm(kOutputNorm, 0, x);
    FloatRows logits = products({spec_.tied ? kTokenEmbedding : kOutput}, 0, normed);
    const float cap = spec_.logit_softcap;
    if (cap != 0) logits = cap * (logits / cap).array().tanh();
    if (trace) *trace = {x, normed, logits};
    return logits;
}

FloatRows TrainableModel::head_back(const FloatRows& by_logits, const HeadTrace& at) {
    const float cap = spec_.logit_softcap;
    FloatRows by_product = by_logits;
    if (cap != 0) by_product = by_logits.array() * (1 - (at.logits / cap).array().square());
    const FloatRows by_normed = products_back({spec_.tied ? kTokenEmbedding : kOutput}, 0, by_product, at.normed);
    return norm_back(kOutputNorm, 0, by_normed, at.input);
}

FloatRows TrainableModel::logits(std::span<const int32_t> ids) const {
    FloatRows x = embed(ids);
    for (uint32_t layer = 0; layer < spec_.layers; ++layer) x = forward(layer, x, nullptr);
    return head(x, nullptr);
}

}  // namespace keel::tools
