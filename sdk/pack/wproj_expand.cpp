// keel_pack.h: expands the zstd sections of a packed W_proj cache. No heap: zstd's context lies in the caller's work
// memory.
#include <stddef.h>
#include <string.h>

#include "keel/keel_pack.h"
#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/wproj_field.h"
#include "sdk/format/wproj_v2.h"
#include "sdk/pack/zstd_context.h"

namespace keel {
namespace {

using wproj::take;

// A packed file whose header, table and frame index are in order.
struct Packed {
    WprojHeader2 header;
    uint64_t sections, first_frame, largest_frame;
};

keel_status read_packed(const keel_reader& reader, Packed* out, keel_error* error) {
    Packed p = {};
    WprojHeader2& h = p.header;
    KEEL_TRY(wproj_read_header2(reader, &h, error));
    if (h.codec != kWprojZstd)
        return fail(error, KEEL_E_UNSUPPORTED, offsetof(WprojHeader2, codec), "codec", "not packed");
    uint64_t next = wproj_align(wproj_table_end(h.layers) + 8), end = wproj_table_end(h.layers) + 8;
    for (uint32_t layer = 0; layer < h.layers; ++layer) {
        WprojLayer entry;
        KEEL_TRY(take(reader, wproj_table_end(layer), &entry, sizeof entry, "table", error));
        KEEL_TRY(wproj_check_layer2(entry, layer, wproj_any_shape(), h.plain_bytes, &next, &end, error));
        wproj_for_sections(entry, [&p](uint64_t, uint64_t) { ++p.sections; });
    }
    if (end != h.plain_bytes)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(WprojHeader2, plain_bytes), "plain_bytes",
                    "size contradicts the contents");

    const uint64_t index = wproj_table_end(h.layers) + 8;
    uint64_t hash = kHashSeed, stored, at = p.first_frame = index + p.sections * 8 + 8;
    for (uint64_t i = 0; i < p.sections; ++i) {
        uint64_t bytes;
        KEEL_TRY(take(reader, index + i * 8, &bytes, 8, "frames", error));
        hash = hash_update(hash, reinterpret_cast<const char*>(&bytes), 8);
        if (at > reader.size_bytes || bytes > reader.size_bytes - at)
            return fail(error, KEEL_E_FILE_FORMAT, index + i * 8, "frames", "one reaches beyond the end of the file");
        at += bytes;
        if (bytes > p.largest_frame) p.largest_frame = bytes;
    }
    KEEL_TRY(take(reader, index + p.sections * 8, &stored, 8, "frames", error));
    if (hash_finish(hash) != stored)
        return fail(error, KEEL_E_FILE_FORMAT, index + p.sections * 8, "frames", "their sizes were changed");
    if (at != reader.size_bytes) return fail(error, KEEL_E_FILE_FORMAT, at, "frames", "something follows the last one");
    *out = p;
    return KEEL_OK;
}

uint64_t work_bytes(const keel_reader& reader, const Packed& p) {
    return zstd_context_bytes() + (reader.mapped ? 0 : p.largest_frame);
}

class Expansion {
  public:
    Expansion(const keel_reader& reader, const Packed& packed, void* plain, void* work, keel_error* error)
        : reader_(reader),
          packed_(packed),
          plain_(static_cast<uint8_t*>(plain)),
          buffer_(static_cast<uint8_t*>(work) + zstd_context_bytes()),
          error_(error) {
        context_ = ZSTD_initStaticDCtx(work, zstd_context_bytes());
    }

    // Table, then section by section; what was read of the table a second time is checked a second time.
    keel_status run() {
        if (!context_) return fail(error_, KEEL_E_MEMORY_TOO_SMALL, 0, "work", "zstd cannot work in it");
        const WprojHeader2& h = packed_.header;
        uint64_t next = wproj_align(wproj_table_end(h.layers) + 8), end = wproj_table_end(h.layers) + 8;
        index_ = end;
        frame_ = packed_.first_frame;
        gap_ = end;
        WprojHeader2 plain_header = h;
        plain_header.codec = kWprojPlain;
        memcpy(plain_, &plain_header, sizeof plain_header);
        for (uint32_t layer = 0; layer < h.layers; ++layer) {
            const uint64_t at = wproj_table_end(layer);
            WprojLayer entry;
            KEEL_TRY(take(reader_, at, &entry, sizeof entry, "table", error_));
            KEEL_TRY(wproj_check_layer2(entry, layer, wproj_any_shape(), h.plain_bytes, &next, &end, error_));
            memcpy(plain_ + at, &entry, sizeof entry);
            KEEL_TRY(expand_layer(entry, layer));
        }
        if (gap_ != h.plain_bytes)
            return fail(error_, KEEL_E_FILE_READ, 0, "table", "the file changed while it was read");
        const uint64_t hash = hash64(plain_, wproj_table_end(h.layers));
        memcpy(plain_ + wproj_table_end(h.layers), &hash, 8);
        return KEEL_OK;
    }

  private:
    keel_status expand_layer(const WprojLayer& entry, uint32_t layer) {
        keel_status status = KEEL_OK;
        wproj_for_sections(entry, [&](uint64_t offset, uint64_t bytes) {
            if (status == KEEL_OK) status = expand_section(offset, bytes);
        });
        KEEL_TRY(status);
        WprojFile plain = {};
        plain.version = 2;
        plain.reader.size_bytes = packed_.header.plain_bytes;
        plain.reader.mapped = plain_;
        return wproj_check_payload(plain, entry, layer, error_);
    }
    // The next frame into plain[offset, offset + bytes), which wproj_check_layer2 has seen to lie inside.
    keel_status expand_section(uint64_t offset, uint64_t bytes) {
        uint64_t packed_bytes;
        KEEL_TRY(take(reader_, index_, &packed_bytes, 8, "frames", error_));
        index_ += 8;
        if (index_ + 8 > packed_.first_frame || packed_bytes > packed_.largest_frame || frame_ > reader_.size_bytes ||
            packed_bytes > reader_.size_bytes - frame_)
            return fail(error_, KEEL_E_FILE_READ, index_, "frames", "the file changed while it was read");
        const uint8_t* frame = buffer_;
        if (reader_.mapped)
            frame = static_cast<const uint8_t*>(reader_.mapped) + frame_;
        else
            KEEL_TRY(take(reader_, frame_, buffer_, packed_bytes, "frames", error_));
        memset(plain_ + gap_, 0, offset - gap_);
        if (!expand_frame(context_, frame, packed_bytes, plain_ + offset, bytes))
            return fail(error_, KEEL_E_FILE_FORMAT, frame_, "frames", "does not expand to its section");
        frame_ += packed_bytes;
        gap_ = offset + bytes;
        return KEEL_OK;
    }

    const keel_reader& reader_;
    const Packed& packed_;
    uint8_t *plain_, *buffer_;
    keel_error* error_;
    ZSTD_DCtx* context_;
    uint64_t index_ = 0, frame_ = 0, gap_ = 0;  // next entry of the index, next frame, end of what is written
};

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_pack_inspect(const keel_reader* packed, keel_pack_info* info, keel_error* error) {
    if (!packed || !info) return fail(error, KEEL_E_ARGUMENT, 0, packed ? "info" : "packed", "null");
    keel_reader reader = {};
    KEEL_TRY(read_versioned(packed, &reader, "packed", error));
    Packed p;
    KEEL_TRY(read_packed(reader, &p, error));
    const keel_pack_info out = {sizeof out,        p.header.layers,      p.sections,
                                reader.size_bytes, p.header.plain_bytes, work_bytes(reader, p)};
    return write_versioned(out, info);
}

keel_status keel_pack_expand(const keel_reader* packed, void* plain, uint64_t plain_bytes, void* work,
                             uint64_t work_bytes_given, keel_error* error) {
    if (!packed || !plain || !work)
        return fail(error, KEEL_E_ARGUMENT, 0, !packed ? "packed" : !plain ? "plain" : "work", "null");
    if (reinterpret_cast<uintptr_t>(work) % 8)
        return fail(error, KEEL_E_MEMORY_ALIGN, 0, "work", "not aligned to 8 bytes");
    keel_reader reader = {};
    KEEL_TRY(read_versioned(packed, &reader, "packed", error));
    Packed p;
    KEEL_TRY(read_packed(reader, &p, error));
    if (plain_bytes < p.header.plain_bytes)
        return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, "plain_bytes", "smaller than keel_pack_inspect said");
    if (work_bytes_given < work_bytes(reader, p))
        return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, "work_bytes", "smaller than keel_pack_inspect said");
    return Expansion(reader, p, plain, work, error).run();
}

}  // extern "C"
