// A static adapter: LoRA matrices for the products of a model, in a GGUF as llama.cpp reads it.
//
//     y = W x + s B (A x),  s = scale * alpha / rank (alpha 0: s = scale)
//     general.type "adapter", adapter.type "lora", adapter.lora.alpha f32, general.architecture that of the model
//     NAME.lora_a [rank][k], NAME.lora_b [rows][rank] of a matrix NAME [rows][k] of a layer, in any type that products
//     have
//
// The file is walked, not indexed: nothing of it is kept but where its table of tensors lies.
#pragma once
#include "sdk/model/model.h"

namespace keel {

constexpr uint32_t kMaxAdapters = 16;  // of an engine
constexpr uint32_t kMaxAdapterRank = 4096;
constexpr uint32_t kMaxAdapterLayers = 512;  // as keel_limits.max_layers has by default

// Matrices of a layer that an adapter may have a pair for. Those that look up or make logits are refused by name.
constexpr TensorSlot kAdapterSlots[] = {kAttnQ,   kAttnK, kAttnV,     kAttnQkv, kAttnOutput,
                                        kFfnGate, kFfnUp, kFfnGateUp, kFfnDown};
constexpr uint32_t kAdapterSlotCount = sizeof kAdapterSlots / sizeof kAdapterSlots[0];
// The place of a slot in kAdapterSlots, or kAdapterSlotCount.
uint32_t adapter_slot_of(TensorSlot slot);

struct AdapterFile {
    keel_reader reader;
    Gguf gguf;          // without tables
    uint64_t identity;  // hash of the header and of samples of every tensor
    float alpha;
    uint32_t largest_rank;
    uint32_t pairs;
    uint64_t weight_bytes, parameters;  // over its tensors
    char architecture[32];
};

// Checks everything but the values of the matrices. `model`: what the adapter has to be for; null: its own word is
// taken for the architecture, and shapes are compared with nothing.
// KEEL_E_FILE_FORMAT: no adapter, half a pair, ranks that differ, a name twice. KEEL_E_UNSUPPORTED: another kind of
// adapter, or of a tensor that is none of kAdapterSlots. KEEL_E_FILE_MISMATCH: another model's. KEEL_E_FILE_LIMIT,
// KEEL_E_FILE_READ. Errors name the key or the tensor.
keel_status adapter_open(const keel_reader& reader, const keel_model* model, AdapterFile* out, keel_error* error);

// Whether sessions may use it with this scale: it and its product with alpha are finite.
bool adapter_scale_fits(const AdapterFile& file, float scale);

// A and B of a matrix; rank 0: there are none.
struct AdapterPair {
    uint32_t rank, k, rows;
    uint32_t a_type, b_type;
    uint64_t a_offset, b_offset, a_bytes, b_bytes;
};
// The pairs of a layer, [kAdapterSlotCount]. KEEL_E_FILE_READ.
keel_status adapter_layer(const AdapterFile& file, uint32_t layer, AdapterPair* out, keel_error* error);

}  // namespace keel
