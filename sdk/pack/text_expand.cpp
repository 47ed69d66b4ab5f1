// keel_pack.h: expands the text of a section of a pack, one zstd frame. No heap: zstd's context lies in the caller's
// work memory.
#include <stddef.h>

#include "keel/keel_pack.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/format/pack.h"
#include "sdk/pack/zstd_context.h"

namespace keel {
namespace {

struct Frame {
    keel_reader stored;  // the header and the frame
    PackText text;

    uint64_t work_bytes() const { return zstd_context_bytes() + (stored.mapped ? 0 : text.frame_bytes); }
};

keel_status read_frame(const keel_reader& section, Frame* out, keel_error* error) {
    if (section.text_bytes == 0) return fail(error, KEEL_E_UNSUPPORTED, 0, "reader.text_bytes", "0: no packed text");
    Frame f = {};
    f.stored = packed_text(section);
    KEEL_TRY(read_pack_text(f.stored, &f.text, error));
    if (f.text.plain_bytes != section.text_bytes)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(PackText, plain_bytes), "text.plain_bytes",
                    "not what the reader says");
    // What a frame says of its size stands within its first 18 bytes.
    uint8_t head[18];
    const uint64_t n = f.text.frame_bytes < sizeof head ? f.text.frame_bytes : sizeof head;
    if (read_at(f.stored, sizeof f.text, head, n) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, sizeof f.text, "packed text", "the reader failed");
    if (ZSTD_getFrameContentSize(head, n) != f.text.plain_bytes)
        return fail(error, KEEL_E_FILE_FORMAT, sizeof f.text, "packed text", "its frame has another size");
    *out = f;
    return KEEL_OK;
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_pack_inspect_text(const keel_reader* section, keel_pack_text_info* info, keel_error* error) {
    if (!section || !info) return fail(error, KEEL_E_ARGUMENT, 0, section ? "info" : "section", "null");
    keel_reader reader;
    KEEL_TRY(read_versioned(section, &reader, "section", error));
    Frame f = {};
    KEEL_TRY(read_frame(reader, &f, error));
    const keel_pack_text_info out = {sizeof out, 0, f.text.frame_bytes, f.text.plain_bytes, f.work_bytes()};
    return write_versioned(out, info);
}

keel_status keel_pack_expand_text(keel_reader* section, void* text, uint64_t text_bytes, void* work,
                                  uint64_t work_bytes, keel_error* error) {
    if (!section || !text || !work)
        return fail(error, KEEL_E_ARGUMENT, 0, !section ? "section" : !text ? "text" : "work", "null");
    if (reinterpret_cast<uintptr_t>(work) % 8)
        return fail(error, KEEL_E_MEMORY_ALIGN, 0, "work", "not aligned to 8 bytes");
    keel_reader reader;
    KEEL_TRY(read_versioned(section, &reader, "section", error));
    Frame f = {};
    KEEL_TRY(read_frame(reader, &f, error));
    if (text_bytes < f.text.plain_bytes)
        return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, "text_bytes", "smaller than keel_pack_inspect_text said");
    if (work_bytes < f.work_bytes())
        return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, "work_bytes", "smaller than keel_pack_inspect_text said");
    ZSTD_DCtx* context = ZSTD_initStaticDCtx(work, zstd_context_bytes());
    if (!context) return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, "work", "zstd cannot work in it");
    const uint8_t* frame = static_cast<const uint8_t*>(f.stored.mapped);
    if (frame) {
        frame += sizeof f.text;
    } else {
        uint8_t* copy = static_cast<uint8_t*>(work) + zstd_context_bytes();
        if (read_at(f.stored, sizeof f.text, copy, f.text.frame_bytes) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, sizeof f.text, "packed text", "the reader failed");
        frame = copy;
    }
    if (!expand_frame(context, frame, f.text.frame_bytes, text, f.text.plain_bytes))
        return fail(error, KEEL_E_FILE_FORMAT, sizeof f.text, "packed text", "does not expand to the text");
    reader.text = text;
    return write_versioned(reader, section);
}

}  // extern "C"
