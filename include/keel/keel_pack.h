/*
 * keel_pack.h - expands what is packed with zstd, text of packs (`keel pack --codec auto`) and W_proj caches (`keel
 * wproj pack`), into the caller's memory. libkeel_pack.a, beside libkeel.a and libzstd. C11. Experimental, as W_proj
 * caches are.
 *
 * Text of a pack is expanded between keel_pack_reader, whose reader then has text_bytes, and its use:
 *
 *     keel_pack_reader ──> keel_pack_inspect_text ──> text_bytes, work_bytes
 *                                                         │
 *     caller's memory ─────────────────> keel_pack_expand_text ──> keel_inspect, keel_plan, keel_engine_init; keel_part
 *
 * The text stays as long as the reader is used, which ends with keel_engine_init; the work memory is free at once.
 *
 * A packed cache has the sections of a plain one as zstd frames. Expanded, it is the plain file to the byte, and
 * keel_reader_from_memory makes of it what an engine takes:
 *
 *     keel_pack_inspect ──> plain_bytes, work_bytes
 *                               │
 *     caller's memory ──> keel_pack_expand ──> keel_reader_from_memory
 *
 * Nothing is allocated: zstd works in the caller's work memory. keel.h's rules hold here too. A file may be hostile:
 * nothing is written outside the two buffers, and a failed expansion leaves them with undefined contents. plain_bytes
 * and text_bytes are what the file claims, plain_bytes up to 2^56: the caller decides what is too much.
 */
#ifndef KEEL_KEEL_PACK_H
#define KEEL_KEEL_PACK_H

#include "keel/keel.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct keel_pack_info {
    uint32_t struct_size;
    uint32_t layers;
    uint64_t sections;     /* matrices and vectors, one zstd frame each */
    uint64_t packed_bytes; /* of the file */
    uint64_t plain_bytes;  /* of the file it expands to */
    uint64_t work_bytes;   /* of keel_pack_expand; with room for the largest frame unless the reader is mapped */
} keel_pack_info;
#define KEEL_PACK_INFO_INIT KEEL_INIT(keel_pack_info)

typedef struct keel_pack_text_info {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t packed_bytes; /* of the zstd frame */
    uint64_t text_bytes;   /* of what it expands to: keel_reader.text_bytes, at most 2^28 */
    uint64_t work_bytes;   /* of keel_pack_expand_text; with room for the frame unless the reader is mapped */
} keel_pack_text_info;
#define KEEL_PACK_TEXT_INFO_INIT KEEL_INIT(keel_pack_text_info)

/* Of a reader of keel_pack_reader: checks everything but the content of the frame. KEEL_E_UNSUPPORTED: it has no packed
 * text (text_bytes 0), or one of another version; KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT; `error` may be NULL. */
keel_status keel_pack_inspect_text(const keel_reader* section, keel_pack_text_info* info, keel_error* error);

/* Writes the text to text[0, info.text_bytes) and lets section->text point there.
 *   text, text_bytes  any alignment
 *   work, work_bytes  8-byte aligned (KEEL_E_MEMORY_ALIGN), info.work_bytes or more
 * KEEL_E_MEMORY_TOO_SMALL when either is too small; else as keel_pack_inspect_text, and KEEL_E_FILE_FORMAT for a frame
 * that does not expand to the text or whose checksum differs. On error *section is as it was. */
keel_status keel_pack_expand_text(keel_reader* section, void* text, uint64_t text_bytes, void* work,
                                  uint64_t work_bytes, keel_error* error);

/* Checks everything but the frames. KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED (a plain cache, a version
 * this library does not know); `error` may be NULL. */
keel_status keel_pack_inspect(const keel_reader* packed, keel_pack_info* info, keel_error* error);

/* Writes the plain file to plain[0, info.plain_bytes).
 *   plain, plain_bytes  any alignment
 *   work, work_bytes    8-byte aligned (KEEL_E_MEMORY_ALIGN), info.work_bytes or more
 * KEEL_E_MEMORY_TOO_SMALL when either is too small; else as keel_pack_inspect, and KEEL_E_FILE_FORMAT for a frame that
 * does not expand to its section or a checksum that differs. */
keel_status keel_pack_expand(const keel_reader* packed, void* plain, uint64_t plain_bytes, void* work,
                             uint64_t work_bytes, keel_error* error);

#ifdef __cplusplus
}
#endif
#endif /* KEEL_KEEL_PACK_H */
