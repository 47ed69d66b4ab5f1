// A decoder in f32 whose weights may change: what its layers compute of a text, and how a loss of its logits changes
// with every weight (backpropagation). For work on models offline: all weights in memory, several times. Needs Eigen.
//
// Rows are tokens of one text from its beginning: [tokens][columns].
#pragma once
#include <span>
#include <vector>

#include "sdk/model/model.h"
#include "sdk/tools/lab/kv/kv_run.h"
#include "sdk/tools/lab/quantize/fast_product.h"

namespace keel::tools {

// A tensor of the model. A vector is one row. gradient: of the loss by each element, added to by every step back;
// without elements where it is not wanted.
struct TrainableWeight {
    uint32_t tensor = 0;  // of the file
    FloatRows value, gradient;
    bool wanted() const { return gradient.size() != 0; }
    void want(bool on) { gradient = on ? FloatRows::Zero(value.rows(), value.cols()).eval() : FloatRows(); }
};

// What a layer computed of its input, for the way back. The last four inputs of products are those of keel_lab_site.
struct LayerTrace {
    FloatRows input, attention_in, qkv, rotated, attention_out, attention_product, middle, ffn_in, gate_up, hidden,
        ffn_product;
    std::vector<FloatRows> probabilities;  // [heads][tokens][tokens]: of each query's keys
    std::vector<FloatRows> cap_slopes;     // of soft-capped scores, where the model caps them
    const FloatRows& site(uint32_t keel_lab_site) const;
};
struct HeadTrace {
    FloatRows input, normed, logits;  // logits: as they are given
};

class TrainableModel {
  public:
    // All weights of the run's model, decoded, and how far its pairs turn at the positions of a text of at most
    // `tokens`, which one forward pass of the run shows. Throws ToolError: a wired model.
    TrainableModel(KvRun& run, uint32_t tokens, uint32_t threads);

    uint32_t layers() const { return spec_.layers; }
    // Null where the model has no such tensor. Global slots: layer 0.
    TrainableWeight* weight(TensorSlot slot, uint32_t layer);
    // All there are, each once.
    std::vector<TrainableWeight*> weights();

    FloatRows embed(std::span<const int32_t> ids) const;
    // Rows behind a layer. trace may be null.
    FloatRows forward(uint32_t layer, const FloatRows& x, LayerTrace* trace) const;
    // Logits, [tokens][vocabulary].
    FloatRows head(const FloatRows& x, HeadTrace* trace) const;
    FloatRows logits(std::span<const int32_t> ids) const;

    // From what the loss changes by with each output element to the same of each input element; of the way the
    // gradients of weights that are wanted, but for the embedding's rows of tokens, which are fixed.
    FloatRows head_back(const FloatRows& by_logits, const HeadTrace& trace);
    FloatRows back(uint32_t layer, const FloatRows& by_output, const LayerTrace& trace);

  private:
    struct Heads;  // where heads lie in a row of q, k and v
    const TrainableWeight* find(TensorSlot slot, uint32_t layer) const;
    FloatRows products(std::initializer_list<TensorSlot> slots, uint32_t layer, const FloatRows& x) const;
    // Adds the gradients of the slots' matrices; returns that of x.
    FloatRows products_back(std::initializer_list<TensorSlot> slots, uint32_t layer, const FloatRows& by_y,
                            const FloatRows& x);
    void rotate(uint32_t layer, FloatRows* qkv, bool back) const;
    FloatRows attend(uint32_t layer, const FloatRows& rotated, LayerTrace* trace) const;
    FloatRows attend_back(const FloatRows& by_out, const LayerTrace& trace) const;
    FloatRows norm(TensorSlot slot, uint32_t layer, const FloatRows& x) const;
    FloatRows norm_back(TensorSlot slot, uint32_t layer, const FloatRows& by_y, const FloatRows& x);
    void head_norms(uint32_t layer, FloatRows* qkv) const;
    void head_norms_back(uint32_t layer, FloatRows* by_qkv, const FloatRows& qkv);

    ModelSpec spec_;
    const ArchitectureRow& row_;
    uint32_t set_of(uint32_t layer) const { return row_.local_rope && spec_.windowed(layer) ? 1 : 0; }
    uint32_t threads_;
    std::vector<TrainableWeight> weights_;
    std::vector<uint32_t> of_slot_;  // [layers + 1][kSlotCount]: index into weights_, or kNoTensor
    // Cos and sin of each pair, by position: of layers with the usual base, and of windowed ones with their own.
    std::vector<std::vector<float>> turns_[2];
};

}  // namespace keel::tools
