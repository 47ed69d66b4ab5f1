// A KV profile: what was learned of a model's keys and values on some text, as a small file. It names a format for K
// and V of every layer, and may hold means and gains that attention accounts for exactly (kv_transform.h). Little
// endian:
//
//     KvProfileHeader
//     formats      u8 [layers][4]                    K format, V format (keel_kv_format), K scale mode, V scale mode
//     pairs        u32 [mean_pairs]                  RoPE pairs whose K mean is removed before the rotation, ascending
//     K means      f32 [layers][kv_heads][head_dim]  if kKvKeyMeans: elements of `pairs` before RoPE, others after it
//     V means      f32 [layers][kv_heads][head_dim]  if kKvValueMeans
//     gains        f32 [layers][kv_heads][head_dim]  if kKvGains: after RoPE keys are divided by it, queries
//                                                    multiplied; positive
//     checksum     u64, hash64 of everything before
//
// The file is hostile until read_kv_profile has seen it. Its arrays are checked again when they are read for use.
#pragma once
#include "keel/keel.h"
#include "sdk/kv/kv_arena.h"

namespace keel {

constexpr uint64_t kKvProfileMagic = 0x3150564b4c45454bull;  // "KEELKVP1"
constexpr uint32_t kKvProfileVersion = 1;
constexpr uint32_t kMaxProfileLayers = 512;

enum : uint32_t { kKvKeyMeans = 1, kKvValueMeans = 2, kKvGains = 4 };

struct KvProfileHeader {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t fingerprint;  // of the model (keel_model_info)
    uint32_t layers, kv_heads, head_dim, mean_pairs;
    uint32_t parts;  // kKvKeyMeans and so on
    uint32_t reserved;
    uint64_t total_bytes;
};

// Where the parts of a profile lie in its file; 0 where there is none.
struct KvProfileOffsets {
    uint64_t formats, pairs, key_means, value_means, gains, checksum, total_bytes;
};
KvProfileOffsets kv_profile_offsets(const KvProfileHeader& header);

// What a profile has to fit.
struct KvModelShape {
    uint64_t fingerprint;
    uint32_t layers, kv_heads, head_dim, rope_pairs;
};

// What a configuration knows of the formats: the profile's, or one pair for all layers.
struct KvChoice {
    bool has_profile;
    uint32_t part_index;  // of the profile, in config.parts
    keel_reader reader;   // of the profile
    KvProfileHeader header;
    uint64_t checksum;
    KvLayerFormats all;  // without a profile
    KvLayerFormats layer[kMaxProfileLayers];

    const KvLayerFormats& formats(uint32_t index) const { return has_profile ? layer[index] : all; }
};

// Reads and validates a whole profile: header, formats, pairs, every number finite, every gain positive, checksum.
// KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED (version), KEEL_E_FILE_MISMATCH (another model).
keel_status read_kv_profile(const keel_reader& reader, const KvModelShape& model, KvChoice* out, keel_error* error);

// The arrays of a profile that read_kv_profile has seen; those it lacks may be null.
struct KvProfileArrays {
    uint32_t* pairs;
    float *key_means, *value_means, *gains;
};
// Reads them, with the same checks. rope_pairs: of the model. KEEL_E_FILE_READ, also when the file changed meanwhile.
keel_status read_kv_profile_arrays(const KvChoice& choice, uint32_t rope_pairs, const KvProfileArrays& out,
                                   keel_error* error);

}  // namespace keel
