// Architectures as data: one ArchitectureRow per family says which tensors a model has, which switches the one forward
// pass takes, and what `keel synth` writes into a file of the family. A new architecture is a new row and, where it
// computes something new, a new switch or slot.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel {

// Every tensor Keel knows, with its SlotInfo: name in files (those of a layer without "blk.N."), name of its op in
// plans, dims[0], dims[1], dims[2].
// clang-format off
#define KEEL_GLOBAL_TENSORS(X)                                                                             \
    X(TokenEmbedding,   "token_embd.weight",          "embed",          kDimEmbedding,   kDimVocabulary,   kDimNone) \
    X(TokenNorm,        "token_embd_norm.weight",     "token_norm",     kDimEmbedding,   kDimNone,         kDimNone) \
    X(SmearGate,        "smear_gate.weight",          "smear_gate",     kDimSmearGate,   kDimOne,          kDimNone) \
    X(InputMix,         "input_mix.weight",           "input_mix",      kDimEmbedding,   kDimInputTerms,   kDimLayers) \
    X(LaneMix,          "lane_mix.weight",            "lane_mix",       kDimEmbedding,   kDimLaneTerms,    kDimLaned) \
    X(LaneEnd,          "lane_end.weight",            "lane_end",       kDimEmbedding,   kDimLanes,        kDimNone) \
    X(OutputNorm,       "output_norm.weight",         "output_norm",    kDimEmbedding,   kDimNone,         kDimNone) \
    X(Output,           "output.weight",              "output",         kDimEmbedding,   kDimVocabulary,   kDimNone) \
    X(RopeFreqs,        "rope_freqs.weight",          "rope_freqs",     kDimRopePairs,   kDimNone,         kDimNone) \
    X(RopeFactorsLong,  "rope_factors_long.weight",   "rope_factors",   kDimRopePairs,   kDimNone,         kDimNone) \
    X(RopeFactorsShort, "rope_factors_short.weight",  "rope_factors",   kDimRopePairs,   kDimNone,         kDimNone)
#define KEEL_LAYER_TENSORS(X)                                                                              \
    X(AttnNorm,         "attn_norm.weight",           "attn_norm",      kDimEmbedding,   kDimNone,         kDimNone) \
    X(AttnQ,            "attn_q.weight",              "attn_q",         kDimEmbedding,   kDimQ,            kDimNone) \
    X(AttnK,            "attn_k.weight",              "attn_k",         kDimEmbedding,   kDimKv,           kDimNone) \
    X(AttnV,            "attn_v.weight",              "attn_v",         kDimEmbedding,   kDimKv,           kDimNone) \
    X(AttnQkv,          "attn_qkv.weight",            "attn_qkv",       kDimEmbedding,   kDimQkv,          kDimNone) \
    X(AttnQBias,        "attn_q.bias",                "attn_q",         kDimQ,           kDimNone,         kDimNone) \
    X(AttnKBias,        "attn_k.bias",                "attn_k",         kDimKv,          kDimNone,         kDimNone) \
    X(AttnVBias,        "attn_v.bias",                "attn_v",         kDimKv,          kDimNone,         kDimNone) \
    X(AttnQNorm,        "attn_q_norm.weight",         "attn_q_norm",    kDimHead,        kDimNone,         kDimNone) \
    X(AttnKNorm,        "attn_k_norm.weight",         "attn_k_norm",    kDimHead,        kDimNone,         kDimNone) \
    X(AttnQNorms,       "attn_q_norm.weight",         "attn_q_norm",    kDimQ,           kDimNone,         kDimNone) \
    X(AttnGate,         "attn_gate.weight",           "attn_gate",      kDimGate,        kDimHeads,        kDimNone) \
    X(AttnOutput,       "attn_output.weight",         "attn_output",    kDimQ,           kDimEmbedding,    kDimNone) \
    X(AttnPostNorm,     "post_attention_norm.weight", "attn_post_norm", kDimEmbedding,   kDimNone,         kDimNone) \
    X(FfnNorm,          "ffn_norm.weight",            "ffn_norm",       kDimEmbedding,   kDimNone,         kDimNone) \
    X(FfnGate,          "ffn_gate.weight",            "ffn_gate",       kDimEmbedding,   kDimFeedForward,  kDimNone) \
    X(FfnUp,            "ffn_up.weight",              "ffn_up",         kDimEmbedding,   kDimFeedForward,  kDimNone) \
    X(FfnGateUp,        "ffn_up.weight",              "ffn_gate_up",    kDimEmbedding,   kDimFeedForward2, kDimNone) \
    X(FfnDown,          "ffn_down.weight",            "ffn_down",       kDimFeedForward, kDimEmbedding,    kDimNone) \
    X(FfnPostNorm,      "post_ffw_norm.weight",       "ffn_post_norm",  kDimEmbedding,   kDimNone,         kDimNone)

// Global ones first; the rest exist once per layer.
enum TensorSlot : uint32_t {
#define KEEL_SLOT(slot, ...) k##slot,
    KEEL_GLOBAL_TENSORS(KEEL_SLOT)
    kGlobalSlots,
    kLastGlobalSlot = kGlobalSlots - 1,
    KEEL_LAYER_TENSORS(KEEL_SLOT)
#undef KEEL_SLOT
    kSlotCount
};
// clang-format on
constexpr uint32_t kLayerSlots = kSlotCount - kGlobalSlots;

using SlotSet = uint64_t;
constexpr SlotSet slot_bit(TensorSlot slot) {
    return SlotSet{1} << slot;
}
static_assert(kSlotCount <= 64, "a SlotSet has 64 bits");

// Tensors of more than one row that are nevertheless coefficients: F32, F16 or BF16 in every file, as vectors are.
constexpr SlotSet kCoefficients =
    slot_bit(kSmearGate) | slot_bit(kInputMix) | slot_bit(kLaneMix) | slot_bit(kLaneEnd) | slot_bit(kAttnGate);

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
    kDimRopePairs,
    kDimHeads,
    kDimGate,       // elements of attention's input that its gates look at
    kDimSmearGate,  // elements of an embedding that its gate looks at
    kDimOne,
    kDimLayers,
    kDimLaned,  // layers with two lanes
    // Terms of mixes: of a layer's input, of both lanes behind a layer, of both lanes into one (WIRED_MODELS.md).
    kDimInputTerms,
    kDimLaneTerms,
    kDimLanes
};
constexpr uint32_t kInputTerms = 3, kFirstLaneTerms = 4, kSecondLaneTerms = 3;

struct SlotInfo {
    const char* name;  // without "blk.N."
    const char* op;    // op name in plans
    Dim k;             // dims[0], the inner dimension
    Dim rows;          // dims[1]; kDimNone for a vector
    Dim matrices;      // dims[2], such as one matrix per expert; kDimNone for a single one
};
extern const SlotInfo kSlots[kSlotCount];

// Whether tensors of the slot may have any weight type.
inline bool is_matrix(TensorSlot slot) {
    return kSlots[slot].rows != kDimNone && !(kCoefficients >> slot & 1);
}

// Of feed forward: what multiplies the rows of up, or is done to them where there is no gate.
enum class Gate : uint8_t { kSilu, kGelu, kLeakySquare };
// Which layers see only a window of past positions (the width is in the file).
enum class Sliding : uint8_t { kNone, kAll, kEvenLayers, kFiveOfSix };
enum class EmbeddingScale : uint8_t { kOne, kSqrtEmbedding };

// What files of a family usually say beside their tensors. Models are run by what their own file says; this is what
// `keel synth` writes.
struct UsualFile {
    float norm_eps = 1e-5f;
    bool bpe = false;                     // byte-level BPE ("gpt2"), else SPM ("llama")
    const char* pre_tokenizer = "gpt-2";  // of a BPE tokenizer
    bool space_prefix = true;             // of an SPM tokenizer
    const char* control_tokens[6] = {};   // beginning and end of a sequence first; none: by the tokenizer
    bool always_tied = false;             // no output matrix of its own
    bool names_sizes = false;             // rope.dimension_count and vocab_size
    bool linear_rope_scaling = false;     // is how the context is extended
    float attention_softcap = 0, logit_softcap = 0;
};

struct ArchitectureRow {
    const char* name;  // general.architecture
    SlotSet required;
    SlotSet optional;
    bool rope_neox = false;  // pairs (i, i + n/2) instead of (2i, 2i+1)
    Gate gate = Gate::kSilu;
    Sliding sliding = Sliding::kNone;
    EmbeddingScale embedding_scale = EmbeddingScale::kOne;
    bool local_rope = false;  // windowed layers use rope.freq_base_swa (default 10,000), unscaled
    bool wired = false;  // layers are joined as the file says (sdk/model/WIRED_MODELS.md), not each to the one before
    // Models with this many layers scale queries by 1/sqrt(embedding / heads) instead of 1/sqrt(head_dim) (the 27B
    // gemmas).
    uint32_t query_scale_layers = 0;
    UsualFile file = {};
};

const ArchitectureRow* find_architecture(const char* name);

// Slot of a tensor name, or kSlotCount. `layer` is set for "blk.N.*" names (UINT32_MAX for global ones). phi3 stores
// its fused gate/up under the name of up: rows with kFfnGateUp get that slot.
TensorSlot find_slot(const ArchitectureRow& row, const char* name, size_t bytes, uint32_t* layer);

}  // namespace keel
