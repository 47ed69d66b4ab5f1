#include "sdk/model/adapter_file.h"

#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

constexpr const char* kSuffixes[2] = {".lora_a", ".lora_b"};
constexpr uint32_t kSuffixBytes = 7;
// "blk.511.", the longest name of a slot and a suffix fit.
constexpr uint32_t kMaxNameBytes = 64;

// Of a tensor's name.
struct Place {
    TensorSlot slot;
    uint32_t layer, index;  // index: in kAdapterSlots
    uint32_t side;          // 0: A, 1: B, 2: the name has neither suffix
};

keel_status place_of(const keel_reader& reader, const ArchitectureRow& row, const GgufTensor& t, char* name,
                     Place* out) {
    *out = {kSlotCount, 0, kAdapterSlotCount, 2};
    const uint32_t bytes = t.name_bytes < kMaxNameBytes ? t.name_bytes : kMaxNameBytes - 1;
    KEEL_TRY(read_at(reader, t.name_offset, name, bytes));
    name[bytes] = 0;
    if (bytes != t.name_bytes || bytes <= kSuffixBytes) return KEEL_OK;
    for (uint32_t side = 0; side < 2; ++side)
        if (memcmp(name + bytes - kSuffixBytes, kSuffixes[side], kSuffixBytes) == 0) out->side = side;
    if (out->side == 2) return KEEL_OK;
    out->slot = find_slot(row, name, bytes - kSuffixBytes, &out->layer);
    out->index = out->slot < kSlotCount ? adapter_slot_of(out->slot) : kAdapterSlotCount;
    return KEEL_OK;
}

// ---- the metadata ----

enum Key : uint32_t { kType, kArchitecture, kAdapterType, kAlpha, kInvocation, kKeys };
constexpr const char* kKeyNames[kKeys] = {"general.type", "general.architecture", "adapter.type", "adapter.lora.alpha",
                                          "adapter.alora.invocation_tokens"};

// The values of these keys, sorted as gguf_find wants them.
struct Values {
    GgufValue at[kKeys];
    uint32_t count;
    uint64_t tensor_count;
    bool twice;
};

keel_status see_value(void* context, const GgufValue& v) {
    Values& values = *static_cast<Values*>(context);
    for (const char* name : kKeyNames) {
        if (v.key_hash != hash64(name, strlen(name))) continue;
        uint32_t place = values.count;
        for (uint32_t i = 0; i < values.count; ++i) values.twice |= values.at[i].key_hash == v.key_hash;
        if (values.twice) return KEEL_OK;
        for (; place && values.at[place - 1].key_hash > v.key_hash; --place) values.at[place] = values.at[place - 1];
        values.at[place] = v;
        ++values.count;
    }
    return KEEL_OK;
}

keel_status read_metadata(const keel_reader& reader, const Gguf& g, const keel_model* model, AdapterFile* out,
                          keel_error* error) {
    const auto text = [&](Key key, char(&dst)[32]) {
        uint64_t bytes = 0;
        bool present = false;
        dst[0] = 0;
        KEEL_TRY(gguf_string(reader, g, kKeyNames[key], dst, sizeof dst, &bytes, &present, error));
        return present && bytes < sizeof dst
                   ? KEEL_OK
                   : fail(error, KEEL_E_FILE_FORMAT, 0, kKeyNames[key], "missing or too long");
    };
    char type[32];
    KEEL_TRY(text(kType, type));
    if (strcmp(type, "adapter") != 0)
        return fail(error, KEEL_E_FILE_FORMAT, 0, kKeyNames[kType], "the file is no adapter");
    KEEL_TRY(text(kAdapterType, type));
    if (strcmp(type, "lora") != 0)
        return fail(error, KEEL_E_UNSUPPORTED, 0, kKeyNames[kAdapterType], "an adapter of another kind than lora");
    if (gguf_find(g, kKeyNames[kInvocation]))
        return fail(error, KEEL_E_UNSUPPORTED, 0, kKeyNames[kInvocation],
                    "an adapter that begins at tokens of its own is not supported");
    KEEL_TRY(text(kArchitecture, out->architecture));
    if (!find_architecture(out->architecture))
        return fail(error, KEEL_E_UNSUPPORTED, 0, kKeyNames[kArchitecture], "an architecture that this library lacks");
    if (model && strcmp(model->architecture, out->architecture) != 0)
        return fail(error, KEEL_E_FILE_MISMATCH, 0, kKeyNames[kArchitecture], "an adapter for another architecture");
    out->alpha = 0;
    return gguf_f32(reader, g, kKeyNames[kAlpha], &out->alpha, nullptr, error);
}

// ---- the tensors ----

// What is known of the matrices so far: the ranks of both sides.
struct Survey {
    AdapterFile* file;
    const keel_model* model;
    const ArchitectureRow* row;
    uint64_t hash;
    uint32_t number;  // of the next tensor
    keel_error* error;
    uint16_t rank[kMaxAdapterLayers][kAdapterSlotCount][2];
};

keel_status check_shape(const Survey& s, const Place& at, const GgufTensor& t, const char* name) {
    const auto mismatch = [&](const char* reason) {
        return fail(s.error, KEEL_E_FILE_MISMATCH, t.name_offset, name, reason);
    };
    if (t.dims[2] != 1 || t.dims[3] != 1) return fail(s.error, KEEL_E_FILE_FORMAT, t.name_offset, name, "no matrix");
    if (!s.model) return KEEL_OK;
    const GgufTensor* w = at.layer < s.model->spec.blocks ? s.model->block_tensor(at.slot, at.layer) : nullptr;
    if (!w) return mismatch("the model has no such matrix");
    return t.dims[at.side] == w->dims[at.side] ? KEEL_OK : mismatch("the model's matrix has another shape");
}

keel_status see_tensor(void* context, const GgufTensor& t) {
    Survey& s = *static_cast<Survey*>(context);
    char name[kMaxNameBytes];
    Place at;
    const auto refuse = [&](keel_status status, const char* reason) {
        return fail(s.error, status, t.name_offset, name, reason);
    };
    if (place_of(s.file->reader, *s.row, t, name, &at) != KEEL_OK ||
        hash_tensor_sample(s.file->reader, t, s.number++, &s.hash) != KEEL_OK)
        return fail(s.error, KEEL_E_FILE_READ, t.name_offset, "tensor", "the reader failed");
    if (at.slot == kTokenEmbedding || at.slot == kOutput)
        return refuse(KEEL_E_UNSUPPORTED, "adapters of the embedding and of the head are not supported");
    if (at.index == kAdapterSlotCount)
        return refuse(KEEL_E_UNSUPPORTED, "no pair of matrices that this library adds to a product");
    if (at.layer >= kMaxAdapterLayers) return refuse(KEEL_E_FILE_LIMIT, "more layers than an adapter may have");
    KEEL_TRY(check_shape(s, at, t, name));
    const uint64_t rank = t.dims[1 - at.side];
    if (rank > kMaxAdapterRank) return refuse(KEEL_E_FILE_LIMIT, "a rank above 4,096");
    uint16_t* ranks = s.rank[at.layer][at.index];
    if (ranks[at.side]) return refuse(KEEL_E_FILE_FORMAT, "the name appears twice");
    if (ranks[1 - at.side] && ranks[1 - at.side] != rank)
        return refuse(KEEL_E_FILE_FORMAT, "the two matrices of the pair have different ranks");
    ranks[at.side] = static_cast<uint16_t>(rank);
    AdapterFile& file = *s.file;
    file.pairs += at.side == 0;
    if (rank > file.largest_rank) file.largest_rank = static_cast<uint32_t>(rank);
    file.weight_bytes += t.bytes;
    file.parameters += t.dims[0] * t.dims[1];
    return KEEL_OK;
}

keel_status check_pairs(const Survey& s) {
    for (uint32_t layer = 0; layer < kMaxAdapterLayers; ++layer)
        for (uint32_t i = 0; i < kAdapterSlotCount; ++i) {
            const uint16_t* ranks = s.rank[layer][i];
            if ((ranks[0] != 0) == (ranks[1] != 0)) continue;
            char name[kMaxNameBytes];
            TextBuilder(name, sizeof name).text("blk.").number(layer).text(".").text(kSlots[kAdapterSlots[i]].name);
            return fail(s.error, KEEL_E_FILE_FORMAT, 0, name,
                        ranks[0] ? "lora_a without lora_b" : "lora_b without lora_a");
        }
    return s.file->pairs ? KEEL_OK
                         : fail(s.error, KEEL_E_FILE_FORMAT, 0, "tensor_count", "the adapter changes nothing");
}

}  // namespace

uint32_t adapter_slot_of(TensorSlot slot) {
    uint32_t i = 0;
    while (i < kAdapterSlotCount && kAdapterSlots[i] != slot) ++i;
    return i;
}

keel_status adapter_open(const keel_reader& reader, const keel_model* model, AdapterFile* out, keel_error* error) {
    *out = {};
    out->reader = reader;
    if (reader.interleaved_rows)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "reader.interleaved_rows", "adapters have plain rows");
    keel_limits limits;
    KEEL_TRY(resolve_limits(nullptr, &limits));
    Values values = {};
    KEEL_TRY(gguf_visit(reader, limits, {see_value, nullptr, &values}, &out->gguf, error));
    if (values.twice) return fail(error, KEEL_E_FILE_FORMAT, 0, "metadata", "a key appears twice");
    Gguf known = out->gguf;
    known.values = values.at;
    known.value_count = values.count;
    KEEL_TRY(read_metadata(reader, known, model, out, error));
    Survey survey = {};
    survey.file = out;
    survey.model = model;
    survey.row = find_architecture(out->architecture);
    survey.error = error;
    survey.hash = hash_update(kHashSeed, reinterpret_cast<const char*>(&out->gguf.header_hash), sizeof(uint64_t));
    KEEL_TRY(gguf_visit_tensors(reader, limits, out->gguf, {nullptr, see_tensor, &survey}, error));
    out->identity = hash_finish(survey.hash);
    return check_pairs(survey);
}

bool adapter_scale_fits(const AdapterFile& file, float scale) {
    const float s = file.alpha != 0 ? scale * file.alpha : scale;
    return s - s == 0 && scale - scale == 0;
}

keel_status adapter_layer(const AdapterFile& file, uint32_t layer, AdapterPair* out, keel_error* error) {
    struct Wanted {
        const AdapterFile& file;
        const ArchitectureRow& row;
        uint32_t layer;
        AdapterPair* out;
        keel_error* error;
    } wanted = {file, *find_architecture(file.architecture), layer, out, error};
    for (uint32_t i = 0; i < kAdapterSlotCount; ++i) out[i] = {};
    const auto see = [](void* context, const GgufTensor& t) {
        const Wanted& w = *static_cast<const Wanted*>(context);
        char name[kMaxNameBytes];
        Place at;
        if (place_of(w.file.reader, w.row, t, name, &at) != KEEL_OK)
            return fail(w.error, KEEL_E_FILE_READ, t.name_offset, "tensor", "the reader failed");
        if (at.index == kAdapterSlotCount || at.layer != w.layer) return KEEL_OK;
        AdapterPair& pair = w.out[at.index];
        pair.rank = static_cast<uint32_t>(t.dims[1 - at.side]);
        (at.side ? pair.rows : pair.k) = static_cast<uint32_t>(t.dims[at.side]);
        (at.side ? pair.b_type : pair.a_type) = t.type;
        (at.side ? pair.b_offset : pair.a_offset) = t.offset;
        (at.side ? pair.b_bytes : pair.a_bytes) = t.bytes;
        return KEEL_OK;
    };
    keel_limits limits;
    KEEL_TRY(resolve_limits(nullptr, &limits));
    return gguf_visit_tensors(file.reader, limits, file.gguf, {nullptr, see, &wanted}, error);
}

}  // namespace keel
