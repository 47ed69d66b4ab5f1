#include "sdk/format/wproj_v1.h"

#include <string.h>

#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj_field.h"

namespace keel {
namespace {

using wproj::finite;
using wproj::name_field;
using wproj::take;

bool is_flag(uint32_t x) {
    return x <= 1;
}
bool is_size(uint32_t x) {
    return x >= 1 && x <= kWprojMaxDimension;
}

}  // namespace

keel_status wproj_read_header1(const keel_reader& reader, WprojHeader1* out, keel_error* error) {
    WprojHeader1 h;
    KEEL_TRY(take(reader, 0, &h, sizeof h, "header", error));
    if (h.magic != kWprojMagic1) return fail(error, KEEL_E_FILE_FORMAT, 0, "magic", "not a W_proj cache of version 1");
    if (h.layers < 1 || h.layers > kWprojMaxLayers)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(WprojHeader1, layers), "layers",
                    "none, negative, or more than a cache can have");
    if (h.slots != kWprojSlots)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(WprojHeader1, slots), "slots", "a layer has 8 slots");
    if (!is_size(h.columns))
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(WprojHeader1, columns), "columns",
                    "none, negative, or more than a cache can have");
    if (h.zero) return fail(error, KEEL_E_FILE_FORMAT, offsetof(WprojHeader1, zero), "padding", "is not zero");
    *out = h;
    return KEEL_OK;
}

keel_status wproj_read_basis1(const keel_reader& reader, uint64_t at, uint32_t columns, uint32_t layer,
                              WprojBasis1* out, keel_error* error) {
    const auto bad = [&](uint64_t offset, const char* field, const char* reason) {
        char name[sizeof(keel_error::field)];
        return fail(error, KEEL_E_FILE_FORMAT, at + offset, name_field(name, layer, "basis", field), reason);
    };
    uint32_t h[4];
    static_assert(sizeof h == kWprojBasis1Bytes);
    KEEL_TRY(take(reader, at, h, sizeof h, "bases", error));
    if (h[0] > columns) return bad(0, "rank", "negative, or beyond the columns");
    if (!is_flag(h[1])) return bad(4, "has_mu", "is no flag");
    if (!is_flag(h[2])) return bad(8, "has_mean", "is no flag");
    if (h[3]) return bad(12, "padding", "is not zero");
    WprojBasis1 b = {};
    b.rank = h[0];
    b.has_mu = h[1];
    b.has_mean = h[2];
    b.end = at + sizeof h;
    if (b.rank) {
        const auto part = [&b](uint64_t floats) {  // at most 2^42 bytes each: no sum of three wraps
            const uint64_t here = b.end;
            b.end += floats * 4;
            return here;
        };
        b.matrix = part(uint64_t{b.rank} * columns);
        if (b.has_mu) b.mu = part(b.rank);
        if (b.has_mean) b.mean = part(columns);
    }
    if (b.end > reader.size_bytes) return bad(0, "rank", "the basis reaches beyond the end of the file");
    *out = b;
    return KEEL_OK;
}

keel_status wproj_read_record1(const keel_reader& reader, uint64_t at, uint32_t basis_rank, uint32_t layer,
                               uint32_t slot, WprojRecord1* out, keel_error* error) {
    const auto bad = [&](uint64_t offset, const char* field, const char* reason) {
        char name[sizeof(keel_error::field)];
        return fail(error, KEEL_E_FILE_FORMAT, at + offset, name_field(name, layer, wproj_slot_name(slot), field),
                    reason);
    };
    WprojRecord1 r = {};
    KEEL_TRY(take(reader, at, &r.present, 4, "records", error));
    r.end = at + 4;
    if (!is_flag(r.present)) return bad(0, "present", "is no flag");
    if (!r.present) {
        *out = r;
        return KEEL_OK;
    }
    // Packed as written: a 64-bit number lies at offset 16 of these 40 bytes, 20 from the record's beginning.
    uint8_t h[kWprojRecord1Bytes];
    KEEL_TRY(take(reader, at + 4, h, sizeof h, "records", error));
    uint64_t q8_bytes;
    uint32_t zero;
    memcpy(&r.rows, h, 4);
    memcpy(&r.rank, h + 4, 4);
    memcpy(&r.has_bias, h + 8, 4);
    memcpy(&r.has_q8, h + 12, 4);
    memcpy(&q8_bytes, h + 16, 8);
    memcpy(&r.compression, h + 24, 4);
    memcpy(&r.energy, h + 28, 4);
    memcpy(&r.weight, h + 32, 4);
    memcpy(&zero, h + 36, 4);
    if (!is_size(r.rows)) return bad(4, "rows", "none, negative, or more than a cache can have");
    if (!is_size(r.rank)) return bad(8, "rank", "none, negative, or more than a cache can have");
    if (slot != kWprojFfnDownSvd && slot != kWprojDown && r.rank != basis_rank)
        return bad(8, "rank", "differs from the basis of the layer");
    if (!is_flag(r.has_bias)) return bad(12, "has_bias", "is no flag");
    if (!is_flag(r.has_q8)) return bad(16, "has_q8", "is no flag");
    const uint32_t type = r.has_q8 ? kernels::kQ8_F32 : kernels::kF32;
    if (r.rank % kernels::kWeightTypes[type].block_elements)
        return bad(16, "has_q8", "the rank is not a whole number of blocks");
    r.bytes = r.rows * kernels::weight_row_bytes(type, r.rank);
    if (q8_bytes != (r.has_q8 ? r.bytes : 0)) return bad(20, "q8_bytes", "contradicts rows and rank");
    if (!finite(r.compression) || r.compression < 0) return bad(28, "compression", "not finite, or negative");
    if (!(r.energy >= 0 && r.energy <= 1)) return bad(32, "energy", "outside [0, 1]");
    if (!finite(r.weight)) return bad(36, "weight", "not finite");
    if (zero) return bad(40, "padding", "is not zero");
    r.matrix = at + 4 + sizeof h;
    r.end = r.matrix + r.bytes;  // at most 2^42 bytes, like the bias no sum that wraps
    if (r.has_bias) {
        r.bias = r.end;
        r.end += uint64_t{r.rows} * 4;
    }
    if (r.end > reader.size_bytes) return bad(4, "rows", "the record reaches beyond the end of the file");
    *out = r;
    return KEEL_OK;
}

}  // namespace keel
