#include "sdk/format/wproj.h"

#include <stddef.h>
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj_field.h"
#include "sdk/format/wproj_v1.h"
#include "sdk/format/wproj_v2.h"

namespace keel {
namespace {

using wproj::name_field;
using wproj::take;

bool fits(uint32_t size, uint32_t wanted) {
    return wanted == kWprojAnySize || size == wanted;
}

// Whether a record of this slot is used. Version 1 has one basis per layer, of the residual stream's width; O
// multiplies another vector, to which it fits by accident of shape, and down has a basis the file lacks.
bool used1(const WprojFile& f, uint32_t slot) {
    if (slot == kWprojO) return fits(f.columns, f.shape.columns[kWprojAttnOut]);
    return slot != kWprojFfnDownSvd && slot != kWprojDown;
}

// The layer at *basis and *record, which it moves on.
keel_status read_layer1(const WprojFile& f, uint32_t layer, uint64_t* basis, uint64_t* record, WprojLayer* out,
                        keel_error* error) {
    WprojBasis1 b;
    KEEL_TRY(wproj_read_basis1(f.reader, *basis, f.columns, layer, &b, error));
    memset(out, 0, sizeof *out);
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot) {
        const uint64_t at = *record;
        WprojRecord1 r;
        KEEL_TRY(wproj_read_record1(f.reader, at, b.rank, layer, slot, &r, error));
        *record = r.end;
        if (!r.present || !used1(f, slot)) continue;
        if (!fits(r.rows, f.shape.rows[slot])) {
            char name[sizeof(keel_error::field)];
            return fail(error, KEEL_E_FILE_MISMATCH, at + 4, name_field(name, layer, wproj_slot_name(slot), "rows"),
                        "another shape than the model's");
        }
        out->record[slot] = {
            r.rows, r.rank, r.has_q8 ? kernels::kQ8_F32 : kernels::kF32, r.compression, r.energy, -1, r.matrix, r.bytes,
            r.bias, 0};
        out->basis[wproj_group(static_cast<WprojSlot>(slot))] = {
            b.rank, f.columns, kernels::kF32, 0, b.matrix, uint64_t{b.rank} * f.columns * 4, b.mu, b.mean, 0};
    }
    *basis = b.end;
    return KEEL_OK;
}

keel_status read_layer2(const WprojFile& f, uint32_t layer, uint64_t* entry, uint64_t* next, uint64_t* end,
                        WprojLayer* out, keel_error* error) {
    KEEL_TRY(take(f.reader, *entry, out, sizeof *out, "table", error));
    *entry += sizeof *out;
    KEEL_TRY(wproj_check_layer2(*out, layer, f.shape, f.reader.size_bytes, next, end, error));
    wproj_map_types(out, wproj_type_of_number);
    return KEEL_OK;
}

keel_status open1(const WprojShape& shape, uint64_t expected_key, bool any_key, WprojFile* f, keel_error* error) {
    WprojHeader1 h;
    KEEL_TRY(wproj_read_header1(f->reader, &h, error));
    if (!any_key && (expected_key == 0 || h.key != expected_key))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader1, key), "key",
                    "made for another model or configuration");
    if (!fits(h.layers, shape.layers))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader1, layers), "layers",
                    "another shape than the model's");
    if (!fits(h.columns, shape.columns[kWprojAttnIn]) || !fits(h.columns, shape.columns[kWprojFfnIn]))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader1, columns), "columns",
                    "another shape than the model's");
    f->version = 1;
    f->layers = h.layers;
    f->key = h.key;
    f->columns = h.columns;
    f->first_basis = sizeof h;
    WprojBasis1 b;
    b.end = sizeof h;
    for (uint32_t layer = 0; layer < h.layers; ++layer)
        KEEL_TRY(wproj_read_basis1(f->reader, b.end, h.columns, layer, &b, error));
    f->first_record = b.end;
    uint64_t basis = f->first_basis, record = f->first_record;
    WprojLayer scratch;
    for (uint32_t layer = 0; layer < h.layers; ++layer)
        KEEL_TRY(read_layer1(*f, layer, &basis, &record, &scratch, error));
    if (record != f->reader.size_bytes)
        return fail(error, KEEL_E_FILE_FORMAT, record, "records", "something follows the last one");
    return KEEL_OK;
}

keel_status open2(const WprojShape& shape, uint64_t expected_key, bool any_key, WprojFile* f, keel_error* error) {
    WprojHeader2 h;
    KEEL_TRY(wproj_read_header2(f->reader, &h, error));
    if (h.codec != kWprojPlain)
        return fail(error, KEEL_E_UNSUPPORTED, offsetof(WprojHeader2, codec), "codec", "packed: to be unpacked first");
    if (!any_key && expected_key != 0 && h.key != expected_key)
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader2, key), "key", "made for another configuration");
    if (!any_key && h.fingerprint != shape.fingerprint)
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader2, fingerprint), "fingerprint",
                    "made for another model");
    if (!fits(h.layers, shape.layers))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(WprojHeader2, layers), "layers",
                    "another shape than the model's");
    f->version = 2;
    f->layers = h.layers;
    f->key = h.key;
    f->fingerprint = h.fingerprint;
    f->calibration_hash = h.calibration_hash;
    f->quality = h.quality;
    memcpy(f->solver, h.solver, sizeof f->solver);
    f->first_basis = sizeof h;
    f->first_record = wproj_align(wproj_table_end(h.layers) + 8);
    uint64_t entry = f->first_basis, next = f->first_record, end = wproj_table_end(h.layers) + 8;
    WprojLayer scratch;
    for (uint32_t layer = 0; layer < h.layers; ++layer)
        KEEL_TRY(read_layer2(*f, layer, &entry, &next, &end, &scratch, error));
    if (end != h.plain_bytes) return fail(error, KEEL_E_FILE_FORMAT, end, "sections", "something follows the last one");
    return KEEL_OK;
}

}  // namespace

keel_status wproj_open(const keel_reader& reader, const WprojShape& shape, uint64_t expected_key, bool any_key,
                       WprojFile* out, keel_error* error) {
    WprojFile f = {};
    f.reader = reader;
    f.shape = shape;
    uint64_t magic;
    KEEL_TRY(take(reader, 0, &magic, 8, "magic", error));
    if (magic == kWprojMagic1)
        KEEL_TRY(open1(shape, expected_key, any_key, &f, error));
    else if (magic == kWprojMagic2)
        KEEL_TRY(open2(shape, expected_key, any_key, &f, error));
    else
        return fail(error, KEEL_E_FILE_FORMAT, 0, "magic", "not a W_proj cache");
    *out = f;
    return KEEL_OK;
}

keel_status wproj_layer(const WprojFile& f, WprojCursor* cursor, WprojLayer* out) {
    if (cursor->layer >= f.layers) return KEEL_E_ARGUMENT;
    WprojCursor c = *cursor;
    if (c.layer == 0) c = {f.first_basis, f.first_record, 0};
    WprojLayer layer;
    uint64_t end = 0;
    if (f.version == 1)
        KEEL_TRY(read_layer1(f, c.layer, &c.basis, &c.record, &layer, nullptr));
    else
        KEEL_TRY(read_layer2(f, c.layer, &c.basis, &c.record, &end, &layer, nullptr));
    ++c.layer;
    *cursor = c;
    *out = layer;
    return KEEL_OK;
}

namespace {

keel_status update_from(const keel_reader& reader, uint64_t offset, uint64_t bytes, uint64_t* hash) {
    char slice[4096];
    for (uint64_t at = 0; at < bytes; at += sizeof slice) {
        const uint64_t n = bytes - at < sizeof slice ? bytes - at : sizeof slice;
        KEEL_TRY(read_at(reader, offset + at, slice, n));
        *hash = hash_update(*hash, slice, n);
    }
    return KEEL_OK;
}

}  // namespace

keel_status wproj_check_payload(const WprojFile& file, const WprojLayer& layer, uint32_t index, keel_error* error) {
    if (file.version != 2) return KEEL_OK;
    const auto check = [&](const char* part, uint64_t offset, uint64_t bytes, uint64_t bias, uint32_t bias_rows,
                           uint64_t checksum) {
        uint64_t hash = kHashSeed;
        keel_status status = update_from(file.reader, offset, bytes, &hash);
        if (status == KEEL_OK && bias) status = update_from(file.reader, bias, uint64_t{bias_rows} * 4, &hash);
        char name[sizeof(keel_error::field)];
        if (status != KEEL_OK)
            return fail(error, status, offset, name_field(name, index, part, "matrix"), "the reader failed");
        return hash_finish(hash) == checksum
                   ? KEEL_OK
                   : fail(error, KEEL_E_FILE_FORMAT, offset, name_field(name, index, part, "matrix"),
                          "the contents were changed");
    };
    for (uint32_t group = 0; group < kWprojGroups; ++group) {
        const WprojBasis& b = layer.basis[group];
        if (b.rank) KEEL_TRY(check(wproj_group_name(group), b.offset, b.bytes, 0, 0, b.checksum));
    }
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot) {
        const WprojRecord& r = layer.record[slot];
        if (r.rank) KEEL_TRY(check(wproj_slot_name(slot), r.offset, r.bytes, r.bias, r.rows, r.checksum));
    }
    return KEEL_OK;
}

uint64_t wproj_checksum(const void* matrix, uint64_t bytes, const void* bias, uint32_t bias_rows) {
    const uint64_t hash = hash_update(kHashSeed, static_cast<const char*>(matrix), bytes);
    return hash_finish(hash_update(hash, static_cast<const char*>(bias), uint64_t{bias_rows} * 4));
}

const char* wproj_slot_name(uint32_t slot) {
    static constexpr const char* kNames[kWprojSlots] = {"down_svd", "q", "k", "v", "o", "up", "gate", "down"};
    return slot < kWprojSlots ? kNames[slot] : "?";
}

const char* wproj_group_name(uint32_t group) {
    static constexpr const char* kNames[kWprojGroups] = {"attn_in", "attn_out", "ffn_in", "ffn_hidden"};
    return group < kWprojGroups ? kNames[group] : "?";
}

}  // namespace keel
