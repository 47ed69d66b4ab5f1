#include "sdk/model/model.h"

#include <string.h>

#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/math_f64.h"
#include "sdk/core/status.h"
#include "sdk/text/chat.h"
#include "sdk/text/tokenizer.h"

using namespace keel;

keel::Gguf keel_model::view() const {
    Gguf g = gguf;
    // The tables are read-only through this view; the struct's pointers are not const because the scan fills them.
    uint8_t* base = reinterpret_cast<uint8_t*>(const_cast<keel_model*>(this));
    g.values = reinterpret_cast<GgufValue*>(base + values_offset);
    g.tensors = reinterpret_cast<GgufTensor*>(base + tensors_offset);
    return g;
}
const keel::GgufTensor* keel_model::tensors() const {
    return reinterpret_cast<const GgufTensor*>(reinterpret_cast<const uint8_t*>(this) + tensors_offset);
}
const keel::GgufTensor* keel_model::block_tensor(keel::TensorSlot slot, uint32_t block) const {
    const uint32_t* table = reinterpret_cast<const uint32_t*>(reinterpret_cast<const uint8_t*>(this) + layer_offset);
    const uint32_t index =
        slot < kGlobalSlots ? global[slot] : table[uint64_t{block} * kLayerSlots + (slot - kGlobalSlots)];
    return index == kNoTensor ? nullptr : tensors() + index;
}

namespace keel {

uint64_t dim_value(const ModelSpec& spec, Dim dim) {
    switch (dim) {
        case kDimNone:
            return 1;
        case kDimEmbedding:
            return spec.embedding;
        case kDimFeedForward:
            return spec.feed_forward;
        case kDimFeedForward2:
            return uint64_t{2} * spec.feed_forward;
        case kDimQ:
            return spec.q_dim();
        case kDimKv:
            return spec.kv_dim();
        case kDimQkv:
            return spec.qkv_dim();
        case kDimHead:
            return spec.head_dim;
        case kDimVocabulary:
            return spec.vocabulary;
        case kDimRopePairs:
            return spec.rope_dims / 2;
        case kDimHeads:
            return spec.heads;
        case kDimGate:
            return spec.gate_length;
        case kDimSmearGate:
            return spec.smear_gate_length;
        case kDimOne:
            return 1;
        case kDimLayers:
            return spec.layers;
        case kDimLaned:
            return spec.layers - spec.wiring.two_lanes_from;
        case kDimInputTerms:
            return kInputTerms;
        case kDimLaneTerms:
            return kFirstLaneTerms + kSecondLaneTerms;
        case kDimLanes:
            return 2;
    }
    return 0;
}

bool shape_fits(const GgufTensor& t, const SlotInfo& slot, const ModelSpec& spec) {
    return t.dims[0] == dim_value(spec, slot.k) && t.dims[1] == dim_value(spec, slot.rows) &&
           t.dims[2] == dim_value(spec, slot.matrices) && t.dims[3] == 1;
}

namespace {

// Reads "<architecture>.<suffix>" keys, collecting the first failure.
struct KeyReader {
    const keel_reader& reader;
    const Gguf& g;
    const char* architecture;
    keel_error* error;
    keel_status status = KEEL_OK;
    char key[128];

    const char* name(const char* suffix) {
        TextBuilder(key, sizeof key).text(architecture).text(".").text(suffix);
        return key;
    }
    // Per-layer arrays (head counts in some files) are accepted when every entry is the same.
    uint32_t u32(const char* suffix, uint32_t fallback, bool required = false) {
        uint32_t v = fallback;
        bool present = false;
        if (status != KEEL_OK) return v;
        const GgufValue* value = gguf_find(g, name(suffix));
        if (value && value->type == kGgufArray) {
            status = uniform_array(*value, &v);
            return v;
        }
        status = gguf_u32(reader, g, key, &v, &present, error);
        if (status == KEEL_OK && !present) {
            v = fallback;
            if (required) status = fail(error, KEEL_E_FILE_FORMAT, 0, key, "required metadata key is missing");
        }
        return v;
    }
    keel_status uniform_array(const GgufValue& value, uint32_t* out) {
        if ((value.element_type != kGgufU32 && value.element_type != kGgufI32) || value.count == 0)
            return fail(error, KEEL_E_FILE_FORMAT, value.offset, key,
                        "expected an integer or an array of 32-bit integers");
        ByteCursor cursor(reader, value.offset, value.offset + value.bytes);
        for (uint64_t i = 0; i < value.count; ++i) {
            uint32_t v;
            if (cursor.u32(&v) != KEEL_OK)
                return fail(error, KEEL_E_FILE_READ, value.offset + 4 * i, key, "the reader failed");
            if (i == 0) *out = v;
            if (v != *out) return fail(error, KEEL_E_UNSUPPORTED, value.offset + 4 * i, key, "differs between layers");
        }
        return KEEL_OK;
    }
    float f32(const char* suffix, float fallback) {
        float v = fallback;
        bool present = false;
        if (status == KEEL_OK) status = gguf_f32(reader, g, name(suffix), &v, &present, error);
        return present ? v : fallback;
    }
    // An array of at most `capacity` 32-bit integers from `low` to `high`; -1 becomes 255. False: there is none.
    bool list(const char* suffix, int64_t low, int64_t high, uint8_t* out, uint32_t capacity, uint32_t* count) {
        const GgufValue* value = status == KEEL_OK ? gguf_find(g, name(suffix)) : nullptr;
        if (!value) return false;
        check(value->type == kGgufArray && (value->element_type == kGgufU32 || value->element_type == kGgufI32), suffix,
              KEEL_E_FILE_FORMAT, "expected an array of 32-bit integers");
        check(value->count >= 1 && value->count <= capacity, suffix, KEEL_E_FILE_LIMIT, "must have 1 to 128 entries");
        if (status != KEEL_OK) return false;
        ByteCursor cursor(reader, value->offset, value->offset + value->bytes);
        *count = static_cast<uint32_t>(value->count);
        for (uint32_t i = 0; i < *count && status == KEEL_OK; ++i) {
            uint32_t bits = 0;
            check(cursor.u32(&bits) == KEEL_OK, suffix, KEEL_E_FILE_READ, "the reader failed");
            const int64_t v = value->element_type == kGgufI32 ? static_cast<int32_t>(bits) : int64_t{bits};
            check(v >= low && v <= high, suffix, KEEL_E_FILE_FORMAT, "an entry is out of range");
            out[i] = static_cast<uint8_t>(v);
        }
        return status == KEEL_OK;
    }
    void check(bool ok, const char* suffix, keel_status code, const char* reason) {
        if (status == KEEL_OK && !ok) status = fail(error, code, 0, name(suffix), reason);
    }
};

bool finite_positive(float v) {
    return v > 0 && v <= 3.4e38f;
}

// Vocabulary size: the tokenizer's own list, so that it cannot disagree with the embedding's rows unnoticed.
keel_status vocabulary_size(const Gguf& g, uint32_t* out, keel_error* error) {
    const GgufValue* tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != kGgufArray || tokens->element_type != kGgufString)
        return fail(error, KEEL_E_FILE_FORMAT, tokens ? tokens->offset : 0, "tokenizer.ggml.tokens",
                    "missing, or not an array of strings");
    *out = static_cast<uint32_t>(tokens->count);
    return KEEL_OK;
}

// As transformers reads the configurations that these keys come from: a named attention factor is used as it is, else
// attention is sharpened by 0.1 ln(factor) + 1, and a multiplier (mscale_all_dim) takes its share of that back.
keel_status read_yarn(KeyReader& keys, double factor, ModelSpec* s) {
    s->yarn.extrapolation = keys.f32("rope.scaling.yarn_ext_factor", 1);
    s->yarn.fast_turns = keys.f32("rope.scaling.yarn_beta_fast", 32);
    s->yarn.slow_turns = keys.f32("rope.scaling.yarn_beta_slow", 1);
    s->yarn.original_context = s->rope_original_context ? s->rope_original_context : s->train_context;
    const double grown = factor > 1 ? 0.1 * kernels::log_f64(factor) : 0;
    const float multiplier = keys.f32("rope.scaling.yarn_log_multiplier", 0);
    const float named =
        keys.f32("rope.scaling.yarn_attn_factor", static_cast<float>((grown + 1) / (multiplier * grown + 1)));
    keys.check(s->yarn.extrapolation > 0 && s->yarn.extrapolation <= 1, "rope.scaling.yarn_ext_factor",
               KEEL_E_UNSUPPORTED, "must be above 0 and at most 1");
    keys.check(finite_positive(s->yarn.fast_turns), "rope.scaling.yarn_beta_fast", KEEL_E_FILE_FORMAT,
               "must be positive");
    keys.check(finite_positive(s->yarn.slow_turns), "rope.scaling.yarn_beta_slow", KEEL_E_FILE_FORMAT,
               "must be positive");
    keys.check(multiplier >= 0 && multiplier <= 1e6f, "rope.scaling.yarn_log_multiplier", KEEL_E_FILE_FORMAT,
               "must be 0 to 1e6");
    keys.check(finite_positive(named), "rope.scaling.yarn_attn_factor", KEEL_E_FILE_FORMAT, "must be positive");
    keys.check(s->rope_base > 1, "rope.freq_base", KEEL_E_FILE_FORMAT, "must be above 1 for YaRN");
    s->rope_attention_factor *= named;
    keys.check(finite_positive(s->rope_attention_factor), "rope.scaling.attn_factor", KEEL_E_FILE_FORMAT,
               "too large with rope.scaling.yarn_attn_factor");
    return keys.status;
}

keel_status read_rope_scaling(KeyReader& keys, ModelSpec* s) {
    char type[32] = "";
    bool present = false;
    uint64_t bytes = 0;
    s->rope_linear_factor = 1;
    s->rope_attention_factor = 1;
    KEEL_TRY(gguf_string(keys.reader, keys.g, keys.name("rope.scaling.type"), type, sizeof type, &bytes, &present,
                         keys.error));
    const float old_style = keys.f32("rope.scale_linear", 0);  // key of early files
    float factor = keys.f32("rope.scaling.factor", old_style > 0 ? old_style : 1);
    keys.check(finite_positive(factor), "rope.scaling.factor", KEEL_E_FILE_FORMAT, "must be positive");
    const bool yarn = present && strcmp(type, "yarn") == 0;
    if (present && (yarn || strcmp(type, "linear") == 0)) {
        s->rope_linear_factor = factor;
    } else if (present && strcmp(type, "longrope") == 0) {
        // Its factors are tensors; handled where they are bound.
    } else if (present && strcmp(type, "none") != 0) {
        return fail(keys.error, KEEL_E_UNSUPPORTED, 0, keys.name("rope.scaling.type"),
                    "rope scaling other than none, linear, yarn or longrope");
    } else if (!present && old_style > 0) {
        s->rope_linear_factor = old_style;
    }
    s->rope_original_context = keys.u32("rope.scaling.original_context_length", 0);
    s->rope_attention_factor = keys.f32("rope.scaling.attn_factor", 1);
    keys.check(finite_positive(s->rope_attention_factor), "rope.scaling.attn_factor", KEEL_E_FILE_FORMAT,
               "must be positive");
    return yarn ? read_yarn(keys, factor, s) : keys.status;
}

// What wired models have beside the keys of all. `layers` is known when it returns.
keel_status read_wiring(KeyReader& keys, ModelSpec* s) {
    Wiring& w = s->wiring;
    s->wired = true;
    keys.check(s->blocks <= Wiring::kMaxLayers, "block_count", KEEL_E_FILE_LIMIT, "must be at most 128");
    KEEL_TRY(keys.status);
    for (uint32_t i = 0; i < s->blocks; ++i) w.block[i] = static_cast<uint8_t>(i);
    keys.list("layer_blocks", 0, int64_t{s->blocks} - 1, w.block, Wiring::kMaxLayers, &s->layers);
    for (uint32_t block = 0; block < s->blocks; ++block)
        keys.check(memchr(w.block, static_cast<int>(block), s->layers) != nullptr, "layer_blocks", KEEL_E_FILE_FORMAT,
                   "a block is the weights of no layer");
    memset(w.skip, Wiring::kNone, sizeof w.skip);
    uint32_t skips = 0, kept = 0;
    if (keys.list("layer_skips", -1, Wiring::kMaxLayers - 1, w.skip, Wiring::kMaxLayers, &skips))
        keys.check(skips == s->layers, "layer_skips", KEEL_E_FILE_FORMAT, "expected one entry per layer");
    for (uint32_t i = 0; i < s->layers; ++i) {
        keys.check(w.skip[i] == Wiring::kNone || w.skip[i] < i, "layer_skips", KEEL_E_FILE_FORMAT,
                   "an entry is not a layer before");
        kept += w.keeps(i, s->layers);
    }
    keys.check(kept <= Wiring::kMaxKept, "layer_skips", KEEL_E_FILE_LIMIT, "more than 16 layers are skips");
    w.two_lanes_from = keys.u32("two_lanes_from", s->layers);
    keys.check(w.two_lanes_from <= s->layers, "two_lanes_from", KEEL_E_FILE_FORMAT, "must be a layer");
    if (keys.status == KEEL_OK)
        keys.status =
            gguf_bool(keys.reader, keys.g, keys.name("attention.exclusive"), &s->exclusive, nullptr, keys.error);
    s->gate_length = keys.u32("attention.gate_length", 0);
    keys.check(s->gate_length <= s->embedding, "attention.gate_length", KEEL_E_FILE_FORMAT,
               "must be at most embedding_length");
    s->smear_gate_length = keys.u32("smear_gate_length", 0);
    keys.check(s->smear_gate_length <= s->embedding, "smear_gate_length", KEEL_E_FILE_FORMAT,
               "must be at most embedding_length");
    s->leak = keys.f32("feed_forward_leak", 0);
    keys.check(s->leak >= -1 && s->leak <= 1, "feed_forward_leak", KEEL_E_FILE_FORMAT, "must be from -1 to 1");
    s->smear_scale = keys.f32("smear_scale", 1);
    keys.check(s->smear_scale >= -1e6f && s->smear_scale <= 1e6f, "smear_scale", KEEL_E_FILE_FORMAT,
               "must be from -1e6 to 1e6");
    return keys.status;
}

keel_status read_spec(const keel_reader& reader, const Gguf& g, const keel_limits& limits, const ArchitectureRow& row,
                      ModelSpec* s, keel_error* error) {
    KeyReader keys{reader, g, row.name, error, KEEL_OK, {}};
    s->layers = s->blocks = keys.u32("block_count", 0, true);
    s->embedding = keys.u32("embedding_length", 0, true);
    s->feed_forward = keys.u32("feed_forward_length", 0, true);
    s->heads = keys.u32("attention.head_count", 0, true);
    s->kv_heads = keys.u32("attention.head_count_kv", s->heads);
    s->train_context = keys.u32("context_length", 0, true);
    KEEL_TRY(keys.status);
    keys.check(s->layers >= 1, "block_count", KEEL_E_FILE_FORMAT, "must be at least 1");
    keys.check(s->layers <= limits.max_layers, "block_count", KEEL_E_FILE_LIMIT, "exceeds max_layers");
    keys.check(s->embedding >= 16 && s->embedding <= 65536 && s->embedding % 16 == 0, "embedding_length",
               KEEL_E_UNSUPPORTED, "must be a multiple of 16 from 16 to 65,536");
    keys.check(s->feed_forward >= 16 && s->feed_forward <= 1u << 20 && s->feed_forward % 16 == 0, "feed_forward_length",
               KEEL_E_UNSUPPORTED, "must be a multiple of 16 from 16 to 1,048,576");
    keys.check(s->heads >= 1 && s->heads <= 1024, "attention.head_count", KEEL_E_FILE_FORMAT, "must be 1 to 1,024");
    keys.check(s->kv_heads >= 1 && s->kv_heads <= s->heads && s->heads % (s->kv_heads ? s->kv_heads : 1) == 0,
               "attention.head_count_kv", KEEL_E_FILE_FORMAT, "must divide head_count");
    keys.check(s->train_context >= 1, "context_length", KEEL_E_FILE_FORMAT, "must be at least 1");
    KEEL_TRY(keys.status);
    keys.check(s->heads / s->kv_heads <= kernels::kMaxQueryRows, "attention.head_count", KEEL_E_UNSUPPORTED,
               "too many query heads per KV head");

    s->head_dim = keys.u32("attention.key_length", s->embedding / s->heads);
    const uint32_t value_dim = keys.u32("attention.value_length", s->head_dim);
    keys.check(s->head_dim >= 8 && s->head_dim <= kernels::kMaxHeadDim && s->head_dim % 8 == 0, "attention.key_length",
               KEEL_E_UNSUPPORTED, "head dimension must be a multiple of 8 from 8 to 256");
    keys.check(value_dim == s->head_dim, "attention.value_length", KEEL_E_UNSUPPORTED, "differs from key_length");
    keys.check(s->q_dim() <= 1u << 17, "attention.head_count", KEEL_E_UNSUPPORTED,
               "heads x head dimension exceeds 131,072");
    s->rope_dims = keys.u32("rope.dimension_count", s->head_dim);
    keys.check(s->rope_dims >= 2 && s->rope_dims <= s->head_dim && s->rope_dims % 2 == 0, "rope.dimension_count",
               KEEL_E_FILE_FORMAT, "must be even, from 2 to the head dimension");
    const float rope_base = keys.f32("rope.freq_base", 10000);
    keys.check(rope_base >= 1 && rope_base <= 1e12f, "rope.freq_base", KEEL_E_FILE_FORMAT, "must be from 1 to 1e12");
    s->rope_base = rope_base;
    const float local = keys.f32("rope.freq_base_swa", 10000);
    keys.check(local >= 1 && local <= 1e12f, "rope.freq_base_swa", KEEL_E_FILE_FORMAT, "must be from 1 to 1e12");
    s->rope_base_local = local;
    s->norm_eps = keys.f32("attention.layer_norm_rms_epsilon", 1e-5f);
    keys.check(s->norm_eps > 0 && s->norm_eps < 1, "attention.layer_norm_rms_epsilon", KEEL_E_FILE_FORMAT,
               "must be between 0 and 1");
    KEEL_TRY(keys.status);
    KEEL_TRY(read_rope_scaling(keys, s));
    s->attention_softcap = keys.f32("attn_logit_softcapping", 0);
    s->logit_softcap = keys.f32("final_logit_softcapping", 0);
    keys.check(s->attention_softcap >= 0 && s->attention_softcap <= 1e6f, "attn_logit_softcapping", KEEL_E_FILE_FORMAT,
               "must be 0 to 1e6");
    keys.check(s->logit_softcap >= 0 && s->logit_softcap <= 1e6f, "final_logit_softcapping", KEEL_E_FILE_FORMAT,
               "must be 0 to 1e6");

    s->window = row.sliding == Sliding::kNone ? 0 : keys.u32("attention.sliding_window", 0);
    const uint32_t default_pattern = row.sliding == Sliding::kAll ? 1 : row.sliding == Sliding::kEvenLayers ? 2 : 6;
    const GgufValue* pattern = gguf_find(g, keys.name("attention.sliding_window_pattern"));
    s->window_pattern = s->window && pattern && pattern->type != kGgufArray
                            ? keys.u32("attention.sliding_window_pattern", default_pattern)
                            : default_pattern;
    // A pattern per layer (array of bool) is only accepted where it says what the row says.
    if (s->window && pattern && pattern->type == kGgufArray && keys.status == KEEL_OK) {
        keys.check(pattern->element_type == kGgufBool && pattern->count == s->layers,
                   "attention.sliding_window_pattern", KEEL_E_UNSUPPORTED, "expected one bool per layer");
        ByteCursor cursor(reader, pattern->offset, pattern->offset + pattern->bytes);
        for (uint32_t i = 0; i < s->layers && keys.status == KEEL_OK; ++i) {
            uint8_t windowed = 0;
            keys.check(cursor.read(&windowed, 1) == KEEL_OK, "attention.sliding_window_pattern", KEEL_E_FILE_READ,
                       "the reader failed");
            keys.check((windowed != 0) == s->windowed(i), "attention.sliding_window_pattern", KEEL_E_UNSUPPORTED,
                       "differs from the architecture's");
        }
    }
    KEEL_TRY(keys.status);

    if (row.wired) KEEL_TRY(read_wiring(keys, s));
    keys.check(s->layers <= limits.max_layers, "layer_blocks", KEEL_E_FILE_LIMIT, "exceeds max_layers");
    KEEL_TRY(keys.status);
    KEEL_TRY(vocabulary_size(g, &s->vocabulary, error));
    if (s->vocabulary < 1 || s->vocabulary > limits.max_vocabulary)
        return fail(error, KEEL_E_FILE_LIMIT, 0, "tokenizer.ggml.tokens",
                    "vocabulary is empty or exceeds max_vocabulary");
    const uint32_t declared = keys.u32("vocab_size", s->vocabulary);
    keys.check(declared == s->vocabulary, "vocab_size", KEEL_E_FILE_FORMAT, "differs from the number of tokens");
    KEEL_TRY(keys.status);

    // Correctly rounded square roots and quotients only, so that the scales have the same bits on every machine.
    const bool wide_scale = row.query_scale_layers && s->layers == row.query_scale_layers;
    const double scale_dim = wide_scale ? static_cast<double>(s->embedding) / s->heads : s->head_dim;
    s->attention_scale = static_cast<float>(1.0 / __builtin_sqrt(scale_dim));
    s->embedding_scale = row.embedding_scale == EmbeddingScale::kSqrtEmbedding
                             ? __builtin_sqrtf(static_cast<float>(s->embedding))
                             : 1.0f;
    return KEEL_OK;
}

// Binds every tensor of the file to a slot, checks its shape, refuses unknown and missing ones.
keel_status bind_tensors(const keel_reader& reader, const Gguf& g, const ArchitectureRow& row, ModelSpec* spec,
                         uint32_t* global, uint32_t* layers, keel_error* error) {
    for (uint32_t i = 0; i < kGlobalSlots; ++i) global[i] = kNoTensor;
    for (uint64_t i = 0; i < uint64_t{spec->blocks} * kLayerSlots; ++i) layers[i] = kNoTensor;
    for (uint32_t i = 0; i < g.tensor_count; ++i) {
        const GgufTensor& t = g.tensors[i];
        char name[256];
        if (t.name_bytes > sizeof name)
            return fail(error, KEEL_E_FILE_LIMIT, t.name_offset, "tensor name", "longer than 256 bytes");
        if (read_at(reader, t.name_offset, name, t.name_bytes) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, t.name_offset, "tensor name", "the reader failed");
        uint32_t layer;
        const TensorSlot slot = find_slot(row, name, t.name_bytes, &layer);
        if (slot == kSlotCount)
            return fail(error, KEEL_E_UNSUPPORTED, t.name_offset, name, t.name_bytes,
                        "tensor is not part of this architecture");
        if (layer != UINT32_MAX && layer >= spec->blocks)
            return fail(error, KEEL_E_FILE_FORMAT, t.name_offset, name, t.name_bytes,
                        "layer index is not below block_count");
        const SlotInfo& info = kSlots[slot];
        if (!shape_fits(t, info, *spec))
            return fail(error, KEEL_E_FILE_FORMAT, t.name_offset, name, t.name_bytes, "shape contradicts the metadata");
        if (!is_matrix(slot) && kernels::kWeightTypes[t.type].activation_block)
            return fail(error, KEEL_E_UNSUPPORTED, t.name_offset, name, t.name_bytes,
                        "a vector must be F32, F16 or BF16");
        uint32_t* entry =
            slot < kGlobalSlots ? &global[slot] : &layers[uint64_t{layer} * kLayerSlots + (slot - kGlobalSlots)];
        if (*entry != kNoTensor)
            return fail(error, KEEL_E_FILE_FORMAT, t.name_offset, name, t.name_bytes, "tensor appears twice");
        *entry = i;
    }
    for (uint32_t slot = 0; slot < kSlotCount; ++slot) {
        if (!(row.required >> slot & 1)) continue;
        for (uint32_t layer = 0; layer < (slot < kGlobalSlots ? 1 : spec->blocks); ++layer) {
            const uint32_t index =
                slot < kGlobalSlots ? global[slot] : layers[uint64_t{layer} * kLayerSlots + (slot - kGlobalSlots)];
            if (index != kNoTensor) continue;
            char name[64];
            TextBuilder text(name, sizeof name);
            if (slot >= kGlobalSlots) text.text("blk.").number(layer).text(".");
            text.text(kSlots[slot].name);
            return fail(error, KEEL_E_FILE_FORMAT, 0, name, "required tensor is missing");
        }
    }
    // Of these a model has all or none.
    const auto together = [&](TensorSlot slot, bool wanted, const char* reason) {
        if ((global[slot] != kNoTensor) == wanted) return KEEL_OK;
        return fail(error, KEEL_E_FILE_FORMAT, 0, kSlots[slot].name, reason);
    };
    const bool two_lanes = spec->wired && spec->wiring.two_lanes_from < spec->layers;
    KEEL_TRY(together(kLaneMix, two_lanes, "must come with two_lanes_from"));
    KEEL_TRY(together(kLaneEnd, two_lanes, "must come with two_lanes_from"));
    KEEL_TRY(together(kSmearGate, spec->smear_gate_length != 0, "must come with smear_gate_length"));
    for (uint32_t block = 0; block < spec->blocks; ++block)
        if ((layers[uint64_t{block} * kLayerSlots + (kAttnGate - kGlobalSlots)] != kNoTensor) !=
            (spec->gate_length != 0))
            return fail(error, KEEL_E_FILE_FORMAT, 0, kSlots[kAttnGate].name,
                        "must come with attention.gate_length, in every block");
    spec->tied = global[kOutput] == kNoTensor;
    if ((global[kRopeFactorsLong] == kNoTensor) != (global[kRopeFactorsShort] == kNoTensor))
        return fail(error, KEEL_E_FILE_FORMAT, 0, "rope_factors_long.weight",
                    "long and short factors must come together");
    if (global[kRopeFactorsLong] != kNoTensor && spec->rope_original_context == 0)
        return fail(error, KEEL_E_FILE_FORMAT, 0, "rope.scaling.original_context_length",
                    "required by long-rope factors");
    return KEEL_OK;
}

// "Q4_K Q6_K F32": types by bytes, largest first.
void describe_types(const Gguf& g, char* dst, size_t capacity) {
    uint64_t bytes[kernels::kWeightTypeCount] = {};
    for (uint32_t i = 0; i < g.tensor_count; ++i) bytes[g.tensors[i].type] += g.tensors[i].bytes;
    TextBuilder text(dst, capacity);
    for (;;) {
        uint32_t best = 0;
        for (uint32_t t = 1; t < kernels::kWeightTypeCount; ++t)
            if (bytes[t] > bytes[best]) best = t;
        if (bytes[best] == 0) break;
        if (text.size()) text.text(" ");
        text.text(kernels::kWeightTypes[best].name);
        bytes[best] = 0;
    }
}

// Files that are GGUF, but no whole model or one of a kind that nothing here runs: said before a tensor is missed.
keel_status check_kind(const keel_reader& reader, const Gguf& g, const char* architecture, keel_error* error) {
    char type[32] = "";
    uint64_t bytes = 0;
    bool present = false;
    KEEL_TRY(gguf_string(reader, g, "general.type", type, sizeof type, &bytes, &present, error));
    if (present && strcmp(type, "model") != 0)
        return fail(error, KEEL_E_UNSUPPORTED, gguf_find(g, "general.type")->offset, "general.type",
                    strcmp(type, "adapter") == 0 ? "the file is an adapter (LoRA) for a model, and no model"
                    : strcmp(type, "mmproj") == 0
                        ? "the file is the image or audio part of a model, and no language model"
                        : "the file is no model");
    KeyReader keys{reader, g, architecture, error, KEEL_OK, {}};
    const auto number = [&](const char* key, uint32_t* out) {
        *out = 0;
        return gguf_find(g, key) ? gguf_u32(reader, g, key, out, &present, error) : KEEL_OK;
    };
    uint32_t parts, experts;
    KEEL_TRY(number("split.count", &parts));
    if (parts > 1)
        return fail(error, KEEL_E_UNSUPPORTED, gguf_find(g, "split.count")->offset, "split.count",
                    "the file is one part of a model; join the parts into one file first");
    KEEL_TRY(number(keys.name("expert_count"), &experts));
    if (experts)
        return fail(error, KEEL_E_UNSUPPORTED, gguf_find(g, keys.key)->offset, keys.key,
                    "the model is a mixture of experts, which this library does not run");
    return KEEL_OK;
}

// A token id key; -1 when absent or not an id of this vocabulary.
keel_status token_id(const keel_reader& reader, const Gguf& g, const char* key, uint32_t vocabulary, int32_t* out,
                     keel_error* error) {
    uint32_t id = 0;
    bool present = false;
    KEEL_TRY(gguf_u32(reader, g, key, &id, &present, error));
    *out = present && id < vocabulary ? static_cast<int32_t>(id) : -1;
    return KEEL_OK;
}

// The template of the model. What Keel cannot run is UNKNOWN, with the reason in *info; it is no reason to refuse a
// file.
keel_status find_chat_template(const keel_reader& reader, const Gguf& g, keel_model* m, keel_model_info* info,
                               keel_error* error) {
    m->chat = {KEEL_CHAT_NONE, 0};
    const GgufValue* value = gguf_find(g, "tokenizer.chat_template");
    if (!value || value->type != kGgufString) return KEEL_OK;
    m->chat_offset = value->offset;
    m->chat_bytes = value->count;
    keel_error reason = {};
    reason.struct_size = sizeof reason;
    const keel_status status = read_chat_template({reader, m->chat_offset, m->chat_bytes}, &m->chat, &reason);
    if (status == KEEL_E_FILE_READ) return fail(error, status, reason.offset, reason.field, reason.reason);
    if (status == KEEL_OK) return KEEL_OK;
    info->chat_offset = static_cast<uint32_t>(reason.offset);
    memcpy(info->chat_reason, reason.reason, sizeof info->chat_reason);
    return KEEL_OK;
}

// The family, of a text that is short enough.
keel_status detect(const JinjaSource& source, ChatTemplate* out, keel_error* error) {
    char text[kMaxTemplateBytes];
    if (read_at(source.reader, source.offset, text, source.bytes) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, source.offset, "chat template", "the reader failed");
    *out = chat_detect(text, source.bytes);
    return KEEL_OK;
}

uint64_t align8(uint64_t v) {
    return (v + 7) & ~uint64_t{7};
}

}  // namespace

keel_status read_chat_template(const JinjaSource& source, ChatTemplate* out, keel_error* error) {
    *out = {KEEL_CHAT_UNKNOWN, 0};
    Arena counting;
    const JinjaProgram* program;
    KEEL_TRY(jinja_place(source, counting, &program, error));
    return detect(source, out, error);
}

}  // namespace keel

extern "C" keel_status keel_inspect(const keel_reader* reader_in, const keel_limits* limits_in, void* buffer,
                                    size_t buffer_bytes, const keel_model** model, keel_model_info* info,
                                    keel_error* error) {
    if (!reader_in) return fail(error, KEEL_E_ARGUMENT, 0, "reader", "null");
    if (buffer_bytes && !buffer) return fail(error, KEEL_E_ARGUMENT, 0, "buffer", "null, though buffer_bytes is not 0");
    if (reinterpret_cast<uintptr_t>(buffer) % 8 != 0)
        return fail(error, KEEL_E_MEMORY_ALIGN, 0, "buffer", "not aligned to 8 bytes");
    KEEL_TRY(check_versioned(info));
    keel_reader reader;
    keel_limits limits;
    KEEL_TRY(read_versioned(reader_in, &reader, "reader", error));
    KEEL_TRY(resolve_limits(limits_in, &limits, error));
    Gguf g;
    KEEL_TRY(gguf_scan(reader, limits, nullptr, nullptr, &g, error));

    // The layer table has room for one layer per tensor: no file has more layers than tensors.
    keel_model m = {};
    m.magic = keel_model::kMagic;
    m.layer_offset = align8(sizeof(keel_model));
    m.values_offset = align8(m.layer_offset + uint64_t{g.tensor_count} * kLayerSlots * sizeof(uint32_t));
    m.tensors_offset = align8(m.values_offset + uint64_t{g.value_count} * sizeof(GgufValue));
    m.bytes = align8(m.tensors_offset + uint64_t{g.tensor_count} * sizeof(GgufTensor));

    keel_model_info out = {};
    out.struct_size = sizeof out;
    out.gguf_version = g.version;
    out.file_bytes = reader.size_bytes;
    out.tensors = g.tensor_count;
    out.model_bytes = m.bytes;
    out.bos_id = out.eos_id = -1;
    if (buffer_bytes < m.bytes) {
        if (info) KEEL_TRY(write_versioned(out, info));
        return buffer ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
    }

    uint8_t* base = static_cast<uint8_t*>(buffer);
    KEEL_TRY(gguf_scan(reader, limits, reinterpret_cast<GgufValue*>(base + m.values_offset),
                       reinterpret_cast<GgufTensor*>(base + m.tensors_offset), &g, error));
    uint64_t bytes = 0;
    bool present = false;
    KEEL_TRY(
        gguf_string(reader, g, "general.architecture", m.architecture, sizeof m.architecture, &bytes, &present, error));
    const ArchitectureRow* row = present && bytes < sizeof m.architecture ? find_architecture(m.architecture) : nullptr;
    KEEL_TRY(check_kind(reader, g, m.architecture, error));
    if (!present) return fail(error, KEEL_E_FILE_FORMAT, 0, "general.architecture", "required metadata key is missing");
    if (!row)
        return fail(error, KEEL_E_UNSUPPORTED, gguf_find(g, "general.architecture")->offset, m.architecture,
                    "architecture has no description in this library");
    KEEL_TRY(read_spec(reader, g, limits, *row, &m.spec, error));
    if (m.spec.blocks > g.tensor_count)
        return fail(error, KEEL_E_FILE_FORMAT, 0, "block_count", "more layers than tensors");
    KEEL_TRY(token_id(reader, g, "tokenizer.ggml.bos_token_id", m.spec.vocabulary, &m.spec.first_id, error));
    KEEL_TRY(
        bind_tensors(reader, g, *row, &m.spec, m.global, reinterpret_cast<uint32_t*>(base + m.layer_offset), error));

    const ModelSpec& s = m.spec;
    memcpy(out.architecture, m.architecture, sizeof out.architecture);
    KEEL_TRY(gguf_string(reader, g, "general.name", out.name, sizeof out.name, &bytes, &present, error));
    KEEL_TRY(
        gguf_string(reader, g, "tokenizer.ggml.model", out.tokenizer, sizeof out.tokenizer, &bytes, &present, error));
    KEEL_TRY(gguf_string(reader, g, "tokenizer.ggml.pre", out.pre_tokenizer, sizeof out.pre_tokenizer, &bytes, &present,
                         error));
    describe_types(g, out.weight_types, sizeof out.weight_types);
    for (uint32_t i = 0; i < g.tensor_count; ++i) {
        const GgufTensor& t = g.tensors[i];
        out.weight_bytes += t.bytes;
        out.parameters += t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3];
    }
    out.fingerprint = g.fingerprint;
    out.layers = s.layers;
    out.embedding = s.embedding;
    out.feed_forward = s.feed_forward;
    out.heads = s.heads;
    out.kv_heads = s.kv_heads;
    out.head_dim = s.head_dim;
    out.vocabulary = s.vocabulary;
    out.train_context_tokens = s.train_context;
    KEEL_TRY(tokenizer_check(reader, g, error));
    out.bos_id = s.first_id;
    KEEL_TRY(token_id(reader, g, "tokenizer.ggml.eos_token_id", s.vocabulary, &out.eos_id, error));
    KEEL_TRY(find_chat_template(reader, g, &m, &out, error));
    out.chat_family = m.chat.family;
    m.gguf = g;
    m.gguf.values = nullptr;
    m.gguf.tensors = nullptr;
    memcpy(base, &m, sizeof m);
    if (info) KEEL_TRY(write_versioned(out, info));
    if (model) *model = reinterpret_cast<const keel_model*>(base);
    return KEEL_OK;
}
