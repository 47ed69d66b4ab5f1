// The model description: what keel_inspect makes of a GGUF. One position-independent block in the caller's buffer:
//
//     keel_model | tensor index [blocks][kLayerSlots] | GgufValue[value_count] | GgufTensor[tensor_count]
#pragma once
#include "sdk/format/gguf.h"
#include "sdk/model/architecture.h"
#include "sdk/text/chat.h"

namespace keel {

constexpr uint32_t kNoTensor = UINT32_MAX;

// How layers are joined (sdk/model/WIRED_MODELS.md).
struct Wiring {
    static constexpr uint32_t kMaxLayers = 128, kMaxKept = 16;
    static constexpr uint8_t kNone = 255;
    uint8_t block[kMaxLayers];                           // whose weights a layer has
    uint8_t skip[kMaxLayers];                            // the earlier layer whose output joins its input, or kNone
    uint32_t two_lanes_from;                             // layers from here on have two lanes
    bool keeps(uint32_t layer, uint32_t layers) const {  // whether its output is a skip
        for (uint32_t later = layer + 1; later < layers; ++later)
            if (skip[later] == layer) return true;
        return false;
    }
};

// Resolved hyperparameters. Everything the execution plan needs besides the tensors.
struct ModelSpec {
    // Layers are what a token passes, each with KV rows of its own; blocks are the sets of weights in the file. Where a
    // model is not wired there is one for each layer.
    uint32_t layers, blocks;
    uint32_t embedding, feed_forward, heads, kv_heads, head_dim, vocabulary, train_context;
    uint32_t rope_dims;              // rotated dimensions of a head, even, <= head_dim
    uint32_t window;                 // visible positions of windowed layers; 0 = no window anywhere
    uint32_t window_pattern;         // layer i is windowed iff pattern != 0 and (i + 1) % pattern != 0; 1 = every layer
    uint32_t rope_original_context;  // long-rope: trained length; 0 = no such scaling
    float norm_eps;
    float attention_scale, attention_softcap, logit_softcap, embedding_scale;
    float rope_attention_factor;
    double rope_base, rope_base_local, rope_linear_factor;
    // Keeps frequencies of pairs that turn often from being divided by rope_linear_factor.
    struct Yarn {
        float extrapolation;           // how much of such a frequency is kept; 0: no YaRN
        float fast_turns, slow_turns;  // within the trained context: what turns more often is kept, less often divided
        uint32_t original_context;     // the trained one
    } yarn;
    bool tied;  // the head is the embedding matrix

    // Of wired models.
    bool wired, exclusive;  // exclusive: attention's output loses its part along the token's own v
    uint32_t gate_length, smear_gate_length;
    float leak;         // of Gate::kLeakySquare
    float smear_scale;  // of what the token before adds to an embedding
    int32_t first_id;   // that begins a text, to which nothing is added; -1: none
    Wiring wiring;

    uint32_t q_dim() const { return heads * head_dim; }
    uint32_t kv_dim() const { return kv_heads * head_dim; }
    uint32_t qkv_dim() const { return q_dim() + 2 * kv_dim(); }
    uint32_t block_of(uint32_t layer) const { return wired ? wiring.block[layer] : layer; }
    bool two_lanes(uint32_t layer) const { return wired && layer >= wiring.two_lanes_from; }
    // Whether an earlier layer has the same weights.
    bool weights_again(uint32_t layer) const {
        for (uint32_t earlier = 0; wired && earlier < layer; ++earlier)
            if (wiring.block[earlier] == wiring.block[layer]) return true;
        return false;
    }
    bool windowed(uint32_t layer) const {
        return window != 0 && (window_pattern == 1 || (window_pattern > 1 && (layer + 1) % window_pattern != 0));
    }
};

// Family of a template, after looking whether Keel can run it: errors as jinja_place, with *out KEEL_CHAT_UNKNOWN.
keel_status read_chat_template(const JinjaSource& source, ChatTemplate* out, keel_error* error);

uint64_t dim_value(const ModelSpec& spec, Dim dim);
// Whether a tensor has the shape of its slot.
bool shape_fits(const GgufTensor& t, const SlotInfo& slot, const ModelSpec& spec);

}  // namespace keel

struct keel_model {
    uint64_t magic;
    uint64_t bytes;   // of the whole block
    keel::Gguf gguf;  // its table pointers are null here; see view()
    char architecture[32];
    keel::ChatTemplate chat;           // family UNKNOWN: Keel cannot run it
    uint64_t chat_offset, chat_bytes;  // its text in the file
    keel::ModelSpec spec;
    uint32_t global[keel::kGlobalSlots];                   // tensor index or kNoTensor
    uint64_t tensors_offset, values_offset, layer_offset;  // from the start of the block

    static constexpr uint64_t kMagic = 0x314c45444d4c454bull;  // "KELMDEL1"

    const keel::ArchitectureRow& row() const { return *keel::find_architecture(architecture); }
    // The GGUF view with its tables.
    keel::Gguf view() const;
    const keel::GgufTensor* tensors() const;
    // Tensor of a slot (layer ignored for global slots); null when the file has none. Layers may share a
    // block.
    const keel::GgufTensor* tensor(keel::TensorSlot slot, uint32_t layer) const {
        return block_tensor(slot, slot < keel::kGlobalSlots ? 0 : spec.block_of(layer));
    }
    const keel::GgufTensor* block_tensor(keel::TensorSlot slot, uint32_t block) const;
};
