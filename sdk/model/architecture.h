// Architectures as data: one ArchitectureRow per family says which tensors a layer has and which switches the one
// forward pass takes. A new architecture is a new row (and, rarely, a new switch).
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel {

// Every tensor Keel knows. Global ones first; the rest exist once per layer ("blk.N." + name).
enum TensorSlot : uint32_t {
    kTokenEmbedding,
    kOutputNorm,
    kOutput,
    kRopeFreqs,
    kRopeFactorsLong,
    kRopeFactorsShort,
    kGlobalSlots,
    kAttnNorm = kGlobalSlots,
    kAttnQ,
    kAttnK,
    kAttnV,
    kAttnQkv,
    kAttnQBias,
    kAttnKBias,
    kAttnVBias,
    kAttnQNorm,
    kAttnKNorm,
    kAttnOutput,
    kAttnPostNorm,
    kFfnNorm,
    kFfnGate,
    kFfnUp,
    kFfnGateUp,
    kFfnDown,
    kFfnPostNorm,
    kSlotCount
};
constexpr uint32_t kLayerSlots = kSlotCount - kGlobalSlots;
constexpr uint32_t slot_bit(TensorSlot slot) {
    return 1u << slot;
}
static_assert(kSlotCount <= 32, "slot sets are 32-bit masks");

// Dimensions a tensor's shape is written in; resolved by the model's hyperparameters.
enum Dim : uint8_t {
    kDimNone,
    kDimEmbedding,
    kDimFeedForward,
    kDimFeedForward2,
    kDimQ,
    kDimKv,
    kDimQkv,
    kDimHead,
    kDimVocabulary,
    kDimRopePairs
};

struct SlotInfo {
    const char* name;  // without "blk.N."
    const char* op;    // op name in plans
    Dim columns;       // dims[0], the inner dimension
    Dim rows;          // dims[1]; kDimNone for a vector
};
extern const SlotInfo kSlots[kSlotCount];

enum class Gate : uint8_t { kSilu, kGelu };
// Which layers see only a window of past positions (the width is in the file).
enum class Sliding : uint8_t { kNone, kAll, kEvenLayers, kFiveOfSix };
enum class EmbeddingScale : uint8_t { kOne, kSqrtEmbedding };

struct ArchitectureRow {
    const char* name;   // general.architecture
    uint32_t required;  // slot masks
    uint32_t optional;
    bool rope_neox;  // pairs (i, i + n/2) instead of (2i, 2i+1)
    Gate gate;
    Sliding sliding;
    EmbeddingScale embedding_scale;
    bool local_rope;  // windowed layers use rope.freq_base_swa (default 10,000), unscaled
    // Models with this many layers scale queries by 1/sqrt(embedding / heads) instead of 1/sqrt(head_dim) (the 27B
    // gemmas).
    uint32_t query_scale_layers;
};

const ArchitectureRow* find_architecture(const char* name);

// Slot of a tensor name, or kSlotCount. `layer` is set for "blk.N.*" names (UINT32_MAX for global ones). phi3 stores
// its fused gate/up under the name of up: rows with kFfnGateUp get that slot.
TensorSlot find_slot(const ArchitectureRow& row, const char* name, size_t bytes, uint32_t* layer);

}  // namespace keel
