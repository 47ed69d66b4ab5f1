#include "sdk/model/architecture.h"

#include <string.h>

namespace keel {

const SlotInfo kSlots[kSlotCount] = {
    {"token_embd.weight", "embed", kDimEmbedding, kDimVocabulary},
    {"output_norm.weight", "output_norm", kDimEmbedding, kDimNone},
    {"output.weight", "output", kDimEmbedding, kDimVocabulary},
    {"rope_freqs.weight", "rope_freqs", kDimRopePairs, kDimNone},
    {"rope_factors_long.weight", "rope_factors", kDimRopePairs, kDimNone},
    {"rope_factors_short.weight", "rope_factors", kDimRopePairs, kDimNone},
    {"attn_norm.weight", "attn_norm", kDimEmbedding, kDimNone},
    {"attn_q.weight", "attn_q", kDimEmbedding, kDimQ},
    {"attn_k.weight", "attn_k", kDimEmbedding, kDimKv},
    {"attn_v.weight", "attn_v", kDimEmbedding, kDimKv},
    {"attn_qkv.weight", "attn_qkv", kDimEmbedding, kDimQkv},
    {"attn_q.bias", "attn_q", kDimQ, kDimNone},
    {"attn_k.bias", "attn_k", kDimKv, kDimNone},
    {"attn_v.bias", "attn_v", kDimKv, kDimNone},
    {"attn_q_norm.weight", "attn_q_norm", kDimHead, kDimNone},
    {"attn_k_norm.weight", "attn_k_norm", kDimHead, kDimNone},
    {"attn_output.weight", "attn_output", kDimQ, kDimEmbedding},
    {"post_attention_norm.weight", "attn_post_norm", kDimEmbedding, kDimNone},
    {"ffn_norm.weight", "ffn_norm", kDimEmbedding, kDimNone},
    {"ffn_gate.weight", "ffn_gate", kDimEmbedding, kDimFeedForward},
    {"ffn_up.weight", "ffn_up", kDimEmbedding, kDimFeedForward},
    {"ffn_up.weight", "ffn_gate_up", kDimEmbedding, kDimFeedForward2},
    {"ffn_down.weight", "ffn_down", kDimFeedForward, kDimEmbedding},
    {"post_ffw_norm.weight", "ffn_post_norm", kDimEmbedding, kDimNone},
};

namespace {

constexpr uint32_t kEnds = slot_bit(kTokenEmbedding) | slot_bit(kOutputNorm);
constexpr uint32_t kNorms = slot_bit(kAttnNorm) | slot_bit(kFfnNorm);
constexpr uint32_t kSplitAttention = slot_bit(kAttnQ) | slot_bit(kAttnK) | slot_bit(kAttnV) | slot_bit(kAttnOutput);
constexpr uint32_t kSplitFfn = slot_bit(kFfnGate) | slot_bit(kFfnUp) | slot_bit(kFfnDown);
constexpr uint32_t kQkvBias = slot_bit(kAttnQBias) | slot_bit(kAttnKBias) | slot_bit(kAttnVBias);
constexpr uint32_t kQkNorm = slot_bit(kAttnQNorm) | slot_bit(kAttnKNorm);
constexpr uint32_t kPostNorms = slot_bit(kAttnPostNorm) | slot_bit(kFfnPostNorm);
constexpr uint32_t kPlain = kEnds | kNorms | kSplitAttention | kSplitFfn;
constexpr uint32_t kPhi3 =
    kEnds | kNorms | slot_bit(kAttnQkv) | slot_bit(kAttnOutput) | slot_bit(kFfnGateUp) | slot_bit(kFfnDown);
constexpr uint32_t kHead = slot_bit(kOutput);

// name, required, optional, neox, gate, sliding, embedding scale, local rope, query scale layers
constexpr ArchitectureRow kArchitectures[] = {
    {"llama", kPlain, kHead | kQkvBias | slot_bit(kRopeFreqs), false, Gate::kSilu, Sliding::kNone, EmbeddingScale::kOne,
     false, 0},
    {"qwen2", kPlain | kQkvBias, kHead, true, Gate::kSilu, Sliding::kNone, EmbeddingScale::kOne, false, 0},
    {"qwen3", kPlain | kQkNorm, kHead, true, Gate::kSilu, Sliding::kNone, EmbeddingScale::kOne, false, 0},
    {"gemma2", kPlain | kPostNorms, kHead, true, Gate::kGelu, Sliding::kEvenLayers, EmbeddingScale::kSqrtEmbedding,
     false, 46},
    {"gemma3", kPlain | kPostNorms | kQkNorm, kHead, true, Gate::kGelu, Sliding::kFiveOfSix,
     EmbeddingScale::kSqrtEmbedding, true, 62},
    {"phi3", kPhi3, kHead | slot_bit(kRopeFactorsLong) | slot_bit(kRopeFactorsShort), true, Gate::kSilu, Sliding::kAll,
     EmbeddingScale::kOne, false, 0},
};

}  // namespace

const ArchitectureRow* find_architecture(const char* name) {
    for (const ArchitectureRow& row : kArchitectures)
        if (strcmp(row.name, name) == 0) return &row;
    return nullptr;
}

TensorSlot find_slot(const ArchitectureRow& row, const char* name, size_t bytes, uint32_t* layer) {
    uint32_t first = 0, last = kGlobalSlots;
    *layer = UINT32_MAX;
    if (bytes > 4 && memcmp(name, "blk.", 4) == 0) {
        size_t i = 4;
        uint64_t n = 0;
        while (i < bytes && name[i] >= '0' && name[i] <= '9' && i < 14)
            n = n * 10 + static_cast<uint64_t>(name[i++] - '0');
        // One spelling per layer: no empty number, no leading zero.
        if (i == 4 || i >= bytes || name[i] != '.' || n > UINT32_MAX - 1 || (name[4] == '0' && i > 5))
            return kSlotCount;
        *layer = static_cast<uint32_t>(n);
        name += i + 1;
        bytes -= i + 1;
        first = kGlobalSlots;
        last = kSlotCount;
    }
    const uint32_t known = row.required | row.optional;
    for (uint32_t slot = first; slot < last; ++slot)
        if ((known >> slot & 1) && strlen(kSlots[slot].name) == bytes && memcmp(kSlots[slot].name, name, bytes) == 0)
            return static_cast<TensorSlot>(slot);
    return kSlotCount;
}

}  // namespace keel
