#include "sdk/model/architecture.h"

#include <string.h>

namespace keel {

const SlotInfo kSlots[kSlotCount] = {
#define KEEL_SLOT(slot, ...) {__VA_ARGS__},
    KEEL_GLOBAL_TENSORS(KEEL_SLOT) KEEL_LAYER_TENSORS(KEEL_SLOT)
#undef KEEL_SLOT
};

namespace {

constexpr SlotSet kEnds = slot_bit(kTokenEmbedding) | slot_bit(kOutputNorm);
constexpr SlotSet kNorms = slot_bit(kAttnNorm) | slot_bit(kFfnNorm);
constexpr SlotSet kSplitAttention = slot_bit(kAttnQ) | slot_bit(kAttnK) | slot_bit(kAttnV) | slot_bit(kAttnOutput);
constexpr SlotSet kSplitFfn = slot_bit(kFfnGate) | slot_bit(kFfnUp) | slot_bit(kFfnDown);
constexpr SlotSet kQkvBias = slot_bit(kAttnQBias) | slot_bit(kAttnKBias) | slot_bit(kAttnVBias);
constexpr SlotSet kQkNorm = slot_bit(kAttnQNorm) | slot_bit(kAttnKNorm);
constexpr SlotSet kPostNorms = slot_bit(kAttnPostNorm) | slot_bit(kFfnPostNorm);
constexpr SlotSet kPlain = kEnds | kNorms | kSplitAttention | kSplitFfn;
constexpr SlotSet kPhi3 =
    kEnds | kNorms | slot_bit(kAttnQkv) | slot_bit(kAttnOutput) | slot_bit(kFfnGateUp) | slot_bit(kFfnDown);
constexpr SlotSet kWired = kEnds | slot_bit(kTokenNorm) | slot_bit(kInputMix) | kNorms | kSplitAttention |
                           slot_bit(kAttnQNorms) | slot_bit(kAttnKNorm) | slot_bit(kFfnUp) | slot_bit(kFfnDown);
constexpr SlotSet kHead = slot_bit(kOutput);

constexpr ArchitectureRow kArchitectures[] = {
    {
        .name = "llama",
        .required = kPlain,
        .optional = kHead | kQkvBias | slot_bit(kRopeFreqs),
        .file = {.pre_tokenizer = "llama-bpe", .names_sizes = true},
    },
    {
        .name = "qwen2",
        .required = kPlain | kQkvBias,
        .optional = kHead,
        .rope_neox = true,
        .file = {.norm_eps = 1e-6f, .bpe = true, .pre_tokenizer = "qwen2"},
    },
    {
        .name = "qwen3",
        .required = kPlain | kQkNorm,
        .optional = kHead,
        .rope_neox = true,
        .file = {.norm_eps = 1e-6f, .bpe = true, .pre_tokenizer = "qwen2"},
    },
    {
        .name = "gemma2",
        .required = kPlain | kPostNorms,
        .optional = kHead,
        .rope_neox = true,
        .gate = Gate::kGelu,
        .sliding = Sliding::kEvenLayers,
        .embedding_scale = EmbeddingScale::kSqrtEmbedding,
        .query_scale_layers = 46,
        .file = {.norm_eps = 1e-6f,
                 .space_prefix = false,
                 .control_tokens = {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"},
                 .always_tied = true,
                 .attention_softcap = 50,
                 .logit_softcap = 30},
    },
    {
        .name = "gemma3",
        .required = kPlain | kPostNorms | kQkNorm,
        .optional = kHead,
        .rope_neox = true,
        .gate = Gate::kGelu,
        .sliding = Sliding::kFiveOfSix,
        .embedding_scale = EmbeddingScale::kSqrtEmbedding,
        .local_rope = true,
        .query_scale_layers = 62,
        .file = {.norm_eps = 1e-6f,
                 .space_prefix = false,
                 .control_tokens = {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"},
                 .always_tied = true,
                 .linear_rope_scaling = true},
    },
    {
        .name = "phi3",
        .required = kPhi3,
        .optional = kHead | slot_bit(kRopeFactorsLong) | slot_bit(kRopeFactorsShort),
        .rope_neox = true,
        .sliding = Sliding::kAll,
        .file = {.control_tokens = {"<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"},
                 .names_sizes = true},
    },
    {
        .name = "glm4",
        .required = kEnds | kNorms | kSplitAttention | slot_bit(kFfnGateUp) | slot_bit(kFfnDown) | kPostNorms,
        .optional = kHead | kQkvBias,
        .file = {.bpe = true, .pre_tokenizer = "glm4", .names_sizes = true},
    },
    {
        .name = "keel-wired",
        .required = kWired,
        .optional = kHead | slot_bit(kSmearGate) | slot_bit(kLaneMix) | slot_bit(kLaneEnd) | slot_bit(kAttnGate),
        .rope_neox = true,
        .gate = Gate::kLeakySquare,
        .wired = true,
        .file = {.norm_eps = 1e-6f, .logit_softcap = 30},
    },
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
    const SlotSet known = row.required | row.optional;
    for (uint32_t slot = first; slot < last; ++slot)
        if ((known >> slot & 1) && strlen(kSlots[slot].name) == bytes && memcmp(kSlots[slot].name, name, bytes) == 0)
            return static_cast<TensorSlot>(slot);
    return kSlotCount;
}

}  // namespace keel
