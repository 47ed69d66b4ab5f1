// W_proj caches: low-rank factors of projection weights, y = W_proj (Pt x) + bias, as a file. Two formats, one view.
//
// Version 1, magic "WPROJV01", as the published system writes it; little endian, nothing aligned beyond 4 bytes:
//
//     header   u64 magic | u64 key | i32 layers | i32 slots = 8 | i32 columns | i32 0
//     bases    per layer: i32 rank | i32 has_mu | i32 has_mean | i32 0 | if rank: f32 Pt[rank][columns] |
//              f32 mu[rank] if has_mu | f32 mean[columns] if has_mean
//     records  per layer, per slot: i32 present | if present: i32 rows | i32 rank | i32 has_bias | i32 has_q8 |
//              u64 q8_bytes | f32 compression | f32 energy | f32 weight | i32 0 | W_proj | f32 bias[rows] if has_bias
//
// W_proj is Q8 blocks of 36 bytes (f32 scale, 32 int8) along a row where has_q8, else f32[rows][rank]. All slots of a
// layer share its one basis, whatever they multiply. Slots 0 and 7 of that format have bases the file does not hold:
// they are skipped. Flags are 0 or 1, and the file ends with its last record.
//
// Version 2, magic "WPROJV02": a basis per group, any weight type, checksums, what was measured (WprojHeader2 below).
// It has no slot 0.
//
// Files are hostile until wproj_open has walked them; wproj_layer then cannot fail but by its reader. Payloads are not
// looked at.
#pragma once
#include "keel/keel.h"
#include "kernels/formats/weight_types.h"

namespace keel {

constexpr uint64_t kWprojMagic1 = 0x3130564a4f525057ull;  // "WPROJV01"
constexpr uint64_t kWprojMagic2 = 0x3230564a4f525057ull;  // "WPROJV02"
constexpr uint32_t kWprojMaxLayers = 512, kWprojMaxDimension = 1u << 20;

// Slots of a layer, numbered as in both files.
enum WprojSlot : uint32_t {
    kWprojFfnDownSvd,
    kWprojQ,
    kWprojK,
    kWprojV,
    kWprojO,
    kWprojUp,
    kWprojGate,
    kWprojDown,
    kWprojSlots
};
// Groups: slots that multiply the same vector, and so share x_sub = Pt x.
enum WprojGroup : uint32_t {
    kWprojAttnIn /* Q, K, V */,
    kWprojAttnOut /* O */,
    kWprojFfnIn /* up, gate */,
    kWprojFfnHidden /* down */,
    kWprojGroups
};
constexpr WprojGroup wproj_group(WprojSlot slot) {
    return slot >= kWprojQ && slot <= kWprojV       ? kWprojAttnIn
           : slot == kWprojO                        ? kWprojAttnOut
           : slot == kWprojUp || slot == kWprojGate ? kWprojFfnIn
                                                    : kWprojFfnHidden;
}
// hash64 of a matrix and the f32[bias_rows] after it: WprojRecord::checksum. With 0 rows bias may be null; without a
// bias it is hash64 of the matrix.
uint64_t wproj_checksum(const void* matrix, uint64_t bytes, const void* bias, uint32_t bias_rows);
const char* wproj_slot_name(uint32_t slot);    // "q"
const char* wproj_group_name(uint32_t group);  // "attn_in"

// Pt of a group: a matrix [rank][columns] in rows of `type`. rank 0: the group has none.
struct WprojBasis {
    uint32_t rank, columns;
    uint32_t type;  // kernels::WeightType; in a file its number (wproj_v2.h)
    uint32_t reserved;
    uint64_t offset;    // of the matrix in the file
    uint64_t bytes;     // of the matrix
    uint64_t mu, mean;  // offsets of f32[rank] = Pt mean and f32[columns]; 0: none. For tools; biases account for them
    uint64_t checksum;  // version 2: hash64 of the matrix
};
// W_proj of a slot: a matrix [rows][rank] in rows of `type`. rank 0: the slot has none.
struct WprojRecord {
    uint32_t rows, rank;
    uint32_t type;           // as above
    float compression;       // rank (rows + columns) / (rows columns)
    float energy;            // |W_proj|^2 / |W|^2, in [0, 1]
    float error;             // relative squared output error on held-out activations; negative: not known
    uint64_t offset, bytes;  // of the matrix
    uint64_t bias;           // offset of f32[rows]; 0: none
    uint64_t checksum;       // version 2: hash64 of matrix and bias
};
struct WprojLayer {
    WprojBasis basis[kWprojGroups];
    WprojRecord record[kWprojSlots];
};

// Version 2: header, then layers x WprojLayer, then u64 hash64 of both, then the sections, each at the first multiple
// of 64 bytes after the one before, zeros between. Order: layer by layer, of each group matrix, mu, mean, then of each
// slot matrix, bias; what does not exist takes no place. The file ends with its last section. Fields of a basis or
// record of rank 0 are all 0.
//
// In a packed file (codec kWprojZstd) header, table and hash are the same, offsets being those of the unpacked file,
// and then come
// u64 frame_bytes[sections] | u64 hash64 of those | one zstd frame per section, back to back. libkeel_pack unpacks it;
// the core refuses it with KEEL_E_UNSUPPORTED.
enum WprojCodec : uint32_t { kWprojPlain, kWprojZstd };
struct WprojQuality {  // measured by `keel wproj build` on held-out text; zeros: not measured
    uint64_t text_hash, tokens;
    double nll_dense, nll_low_rank, kl;  // per token, natural logarithms
};
struct WprojHeader2 {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t key;          // wproj_key.h
    uint64_t fingerprint;  // of the model (keel_model_info)
    uint32_t layers, codec;
    uint64_t plain_bytes;  // of the file, unpacked
    uint64_t calibration_hash;
    WprojQuality quality;
    char solver[32];  // NUL-terminated: "weight-pca", "whitened"
    uint64_t reserved[4];
};
static_assert(sizeof(WprojBasis) == 56 && sizeof(WprojRecord) == 56 && sizeof(WprojQuality) == 40 &&
              sizeof(WprojHeader2) == 160);

// What a file has to fit. `columns` by group, rows by slot: of the model; a slot or group the model lacks has 0. A
// number of kWprojAnySize fits whatever the file has: for looking at a file without its model.
constexpr uint32_t kWprojAnySize = UINT32_MAX;
struct WprojShape {
    uint64_t fingerprint;
    uint32_t layers;
    uint32_t columns[kWprojGroups], rows[kWprojSlots];
};
constexpr WprojShape wproj_any_shape() {
    WprojShape shape = {};
    shape.layers = kWprojAnySize;
    for (uint32_t& n : shape.columns) n = kWprojAnySize;
    for (uint32_t& n : shape.rows) n = kWprojAnySize;
    return shape;
}

struct WprojFile {
    keel_reader reader;
    uint32_t version, layers;
    uint64_t key, fingerprint;           // fingerprint: 0 in version 1
    uint32_t columns;                    // version 1: of every basis
    uint64_t first_basis, first_record;  // version 2: of the table and of the first section
    uint64_t calibration_hash;           // 0 in version 1
    WprojQuality quality;                // zeros in version 1
    char solver[32];                     // empty in version 1
    WprojShape shape;                    // that it was opened for
};

// Validates header, bases, record headers (and, in version 2, their checksum) against the file's size and the model's
// shape; payloads are not read. expected_key: what the file's key has to be; 0: version 2 is matched by the model's
// fingerprint instead, and version 1 is KEEL_E_FILE_MISMATCH. any_key: a foreign key or fingerprint is accepted; shapes
// have to match all the same.
// KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED (version, codec), KEEL_E_FILE_MISMATCH (key, fingerprint,
// shape).
keel_status wproj_open(const keel_reader& reader, const WprojShape& shape, uint64_t expected_key, bool any_key,
                       WprojFile* out, keel_error* error);

// Layers in ascending order; KEEL_E_ARGUMENT after the last. Zero the cursor to begin. What is read is checked again,
// so that a file that changes meanwhile gives a status, and no offset outside it. Version 1: a group has the layer's
// basis where a record of the group is used, and O is used only where its input has as many elements as the basis has
// columns.
struct WprojCursor {
    uint64_t basis, record;  // where the next layer's are; version 2: of its table entry and its first section
    uint32_t layer;
};
keel_status wproj_layer(const WprojFile& file, WprojCursor* cursor, WprojLayer* out);

// Reads the matrices and biases of a layer of a version 2 file and compares them with their checksums; a version 1 file
// has none. KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT.
keel_status wproj_check_payload(const WprojFile& file, const WprojLayer& layer, uint32_t index, keel_error* error);

}  // namespace keel
