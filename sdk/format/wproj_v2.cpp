#include "sdk/format/wproj_v2.h"

#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj_field.h"

namespace keel {
namespace {

using wproj::finite;
using wproj::name_field;
using wproj::take;

bool is_zero(const void* data, size_t bytes) {
    const uint8_t* p = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < bytes; ++i)
        if (p[i]) return false;
    return true;
}

// A name in printable ASCII, zeros after it, at least one.
bool is_name(const char* text, size_t capacity) {
    size_t n = 0;
    while (n < capacity && text[n]) {
        if (text[n] < 0x20 || text[n] > 0x7e) return false;
        ++n;
    }
    return n < capacity && is_zero(text + n, capacity - n);
}

bool is_size(uint32_t x) {
    return x >= 1 && x <= kWprojMaxDimension;
}
// Of a shape, or any.
bool fits(uint32_t size, uint32_t wanted) {
    return wanted == kWprojAnySize || size == wanted;
}

}  // namespace

keel_status wproj_read_header2(const keel_reader& reader, WprojHeader2* out, keel_error* error) {
    WprojHeader2 h;
    KEEL_TRY(take(reader, 0, &h, sizeof h, "header", error));
    const auto bad = [&](keel_status status, size_t offset, const char* field, const char* reason) {
        return fail(error, status, offset, field, reason);
    };
    if (h.magic != kWprojMagic2) return bad(KEEL_E_FILE_FORMAT, 0, "magic", "not a W_proj cache of version 2");
    if (h.version != 2)
        return bad(KEEL_E_UNSUPPORTED, offsetof(WprojHeader2, version), "version", "another version of the format");
    if (h.header_bytes != sizeof h)
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, header_bytes), "header_bytes",
                   "differs from this version's");
    if (h.layers < 1 || h.layers > kWprojMaxLayers)
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, layers), "layers", "none, or more than a cache can have");
    if (h.codec > kWprojZstd)
        return bad(KEEL_E_UNSUPPORTED, offsetof(WprojHeader2, codec), "codec", "no codec of this version");
    if (h.plain_bytes < wproj_table_end(h.layers) + 8 || (h.codec == kWprojPlain && h.plain_bytes != reader.size_bytes))
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, plain_bytes), "plain_bytes",
                   "size contradicts the contents");
    if (!finite(h.quality.nll_dense) || !finite(h.quality.nll_low_rank) || !finite(h.quality.kl))
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, quality), "quality", "not finite");
    if (!is_name(h.solver, sizeof h.solver))
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, solver), "solver", "is no NUL-terminated name");
    if (!is_zero(h.reserved, sizeof h.reserved))
        return bad(KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, reserved), "reserved", "is not zero");

    uint64_t hash = kHashSeed, stored;
    char slice[2048];
    const uint64_t end = wproj_table_end(h.layers);
    for (uint64_t at = 0; at < end; at += sizeof slice) {
        const uint64_t n = end - at < sizeof slice ? end - at : sizeof slice;
        KEEL_TRY(take(reader, at, slice, n, "table", error));
        hash = hash_update(hash, slice, n);
    }
    KEEL_TRY(take(reader, end, &stored, 8, "table", error));
    if (hash_finish(hash) != stored) return bad(KEEL_E_FILE_FORMAT, end, "checksum", "header or table were changed");
    *out = h;
    return KEEL_OK;
}

keel_status wproj_check_layer2(const WprojLayer& entry, uint32_t layer, const WprojShape& shape, uint64_t plain_bytes,
                               uint64_t* next, uint64_t* end, keel_error* error) {
    const uint64_t base = wproj_table_end(layer);
    const char* part = "";
    const auto fault = [&](keel_status status, const void* where, const char* field, const char* reason) {
        char name[sizeof(keel_error::field)];
        const uint64_t offset =
            static_cast<uint64_t>(static_cast<const uint8_t*>(where) - reinterpret_cast<const uint8_t*>(&entry));
        return fail(error, status, base + offset, name_field(name, layer, part, field), reason);
    };
    const auto bad = [&](const void* where, const char* field, const char* reason) {
        return fault(KEEL_E_FILE_FORMAT, where, field, reason);
    };
    // The section whose offset is `offset` lies where the one before makes it lie, inside the file.
    const auto section = [&](const uint64_t& offset, uint64_t bytes, const char* field) -> keel_status {
        if (offset != *next) return bad(&offset, field, "not where the section before it ends");
        if (offset > plain_bytes || bytes > plain_bytes - offset)
            return bad(&offset, field, "reaches beyond the end of the file");
        *end = offset + bytes;
        *next = wproj_align(*end);
        return KEEL_OK;
    };
    const auto matrix = [&](const uint32_t& type, uint32_t rows, uint32_t row, const uint64_t& bytes) -> keel_status {
        const uint32_t known = wproj_type_of_number(type);
        if (known == kernels::kWeightTypeCount)
            return fault(KEEL_E_UNSUPPORTED, &type, "type", "no kernels for this type");
        if (row % kernels::kWeightTypes[known].block_elements)
            return bad(&type, "type", "a row is not a whole number of blocks");
        if (bytes != rows * kernels::weight_row_bytes(known, row)) return bad(&bytes, "bytes", "contradict the shape");
        return KEEL_OK;
    };
    for (uint32_t g = 0; g < kWprojGroups; ++g) {
        const WprojBasis& b = entry.basis[g];
        part = wproj_group_name(g);
        if (b.rank == 0) {
            if (!is_zero(&b, sizeof b)) return bad(&b.rank, "rank", "0, and yet there is something");
            continue;
        }
        if (!is_size(b.columns)) return bad(&b.columns, "columns", "none, or more than a cache can have");
        if (!fits(b.columns, shape.columns[g]))
            return fault(KEEL_E_FILE_MISMATCH, &b.columns, "columns", "another shape than the model's");
        if (b.rank > b.columns) return bad(&b.rank, "rank", "beyond the columns");
        if (b.reserved) return bad(&b.reserved, "reserved", "is not zero");
        KEEL_TRY(matrix(b.type, b.rank, b.columns, b.bytes));
        KEEL_TRY(section(b.offset, b.bytes, "offset"));
        if (b.mu) KEEL_TRY(section(b.mu, uint64_t{b.rank} * 4, "mu"));
        if (b.mean) KEEL_TRY(section(b.mean, uint64_t{b.columns} * 4, "mean"));
    }
    for (uint32_t s = 0; s < kWprojSlots; ++s) {
        const WprojRecord& r = entry.record[s];
        part = wproj_slot_name(s);
        if (r.rank == 0) {
            if (!is_zero(&r, sizeof r)) return bad(&r.rank, "rank", "0, and yet there is something");
            continue;
        }
        if (s == kWprojFfnDownSvd) return bad(&r.rank, "rank", "this version has no such slot");
        if (!is_size(r.rows)) return bad(&r.rows, "rows", "none, or more than a cache can have");
        if (!fits(r.rows, shape.rows[s]))
            return fault(KEEL_E_FILE_MISMATCH, &r.rows, "rows", "another shape than the model's");
        if (r.rank != entry.basis[wproj_group(static_cast<WprojSlot>(s))].rank)
            return bad(&r.rank, "rank", "differs from the basis of its group");
        KEEL_TRY(matrix(r.type, r.rows, r.rank, r.bytes));
        if (!finite(r.compression) || r.compression < 0)
            return bad(&r.compression, "compression", "not finite, or negative");
        if (!(r.energy >= 0 && r.energy <= 1)) return bad(&r.energy, "energy", "outside [0, 1]");
        if (!finite(r.error)) return bad(&r.error, "error", "not finite");
        KEEL_TRY(section(r.offset, r.bytes, "offset"));
        if (r.bias) KEEL_TRY(section(r.bias, uint64_t{r.rows} * 4, "bias"));
    }
    return KEEL_OK;
}

}  // namespace keel
