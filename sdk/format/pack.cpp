#include "sdk/format/pack.h"

#include <stddef.h>
#include <string.h>

#include "kernels/formats/repack.h"
#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"

namespace keel {
namespace {

// Where field `member` of section i stands.
constexpr uint64_t field_at(uint32_t i, size_t member) {
    return pack_table_end(i) + member;
}

const char* kind_fault(const PackTable& pack, uint32_t i) {
    const PackSection& s = pack.sections[i];
    if ((i == 0) != (s.kind == KEEL_PACK_MODEL)) return i ? "a second model" : "the first section is not the model";
    uint32_t known = 0;
    if (s.kind == KEEL_PACK_MODEL) known = kPackInterleaved | kPackCoded | kPackText;
    if (s.kind == KEEL_PART_CHAT_TEMPLATE || s.kind == KEEL_PACK_NOTE) known = kPackText;
    if (s.kind == KEEL_PART_GRAMMAR) known = kPackJsonSchema | kPackText;
    if (s.flags & ~known) return "a flag this library does not know";
    return nullptr;
}

keel_status check_section(const PackTable& pack, uint32_t i, uint64_t end, keel_error* error) {
    const PackSection& s = pack.sections[i];
    const auto bad = [&](size_t member, const char* field, const char* reason) {
        return fail(error, KEEL_E_FILE_FORMAT, field_at(i, member), field, reason);
    };
    if (const char* fault = kind_fault(pack, i)) return bad(offsetof(PackSection, kind), "section.kind", fault);
    if (s.offset != next_pack_section(end))
        return bad(offsetof(PackSection, offset), "section.offset", "not where it belongs");
    if (s.offset > pack.header.file_bytes || s.bytes == 0 || s.bytes > pack.header.file_bytes - s.offset)
        return bad(offsetof(PackSection, bytes), "section.bytes", "empty, or ends beyond the file");
    if (!valid_pack_name(s.name)) return bad(offsetof(PackSection, name), "section.name", "not a name of a file");
    for (uint32_t k = 0; k < i; ++k)
        if (memcmp(s.name, pack.sections[k].name, sizeof s.name) == 0)
            return bad(offsetof(PackSection, name), "section.name", "a second one of this name");
    return KEEL_OK;
}

// The hash of [begin, end), through a slice on the stack.
keel_status hash_range(const keel_reader& file, uint64_t begin, uint64_t end, uint64_t* out) {
    char slice[4096];
    uint64_t state = kHashSeed;
    for (uint64_t at = begin; at < end;) {
        const uint64_t n = end - at < sizeof slice ? end - at : sizeof slice;
        KEEL_TRY(read_at(file, at, slice, n));
        state = hash_update(state, slice, n);
        at += n;
    }
    *out = hash_finish(state);
    return KEEL_OK;
}

// [begin, end) is at most a page.
keel_status check_zeros(const keel_reader& file, uint64_t begin, uint64_t end, keel_error* error) {
    char gap[kPackAlignBytes];
    if (read_at(file, begin, gap, end - begin) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, begin, "padding", "cannot be read");
    for (uint64_t i = 0; i < end - begin; ++i)
        if (gap[i]) return fail(error, KEEL_E_FILE_FORMAT, begin + i, "padding", "not zero");
    return KEEL_OK;
}

// Whether zeros follow the frame of a section with text.
keel_status check_text_padding(const keel_reader& file, const PackSection& s, keel_error* error) {
    if (!(s.flags & kPackText)) return KEEL_OK;
    keel_reader section;
    PackText text;
    KEEL_TRY(open_section(file, s, &section, error));
    KEEL_TRY(read_pack_text(packed_text(section), &text, error));
    return check_zeros(file, s.offset + sizeof text + text.frame_bytes, s.offset + section.text_stored_bytes, error);
}

}  // namespace

uint64_t pack_table_hash(const PackTable& pack) {
    PackHeader header = pack.header;
    header.table_hash = 0;
    const uint64_t state = hash_update(kHashSeed, reinterpret_cast<const char*>(&header), sizeof header);
    return hash_finish(hash_update(state, reinterpret_cast<const char*>(pack.sections),
                                   pack.header.section_count * sizeof(PackSection)));
}

bool valid_pack_name(const char (&name)[32]) {
    size_t n = 0;
    while (n < sizeof name && name[n]) {
        const char c = name[n++];
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '.' && c != '_' && c != '-') return false;
    }
    if (n == 0 || n == sizeof name || name[0] == '.') return false;
    for (size_t i = n; i < sizeof name; ++i)
        if (name[i]) return false;
    return true;
}

keel_status read_pack_text(const keel_reader& section, PackText* out, keel_error* error) {
    PackText t = {};
    const auto bad = [&](keel_status status, size_t member, const char* field, const char* reason) {
        return fail(error, status, member, field, reason);
    };
    if (section.size_bytes < sizeof t) return bad(KEEL_E_FILE_FORMAT, 0, "packed text", "shorter than its header");
    if (read_at(section, 0, &t, sizeof t) != KEEL_OK)
        return bad(KEEL_E_FILE_READ, 0, "packed text", "the reader failed");
    if (t.magic != kPackTextMagic) return bad(KEEL_E_FILE_FORMAT, 0, "packed text", "has no header of one");
    if (t.version != kPackTextVersion)
        return bad(KEEL_E_UNSUPPORTED, offsetof(PackText, version), "packed text", "another version");
    if (t.zero) return bad(KEEL_E_FILE_FORMAT, offsetof(PackText, zero), "packed text", "not zero where it has to be");
    if (t.plain_bytes == 0)
        return bad(KEEL_E_FILE_FORMAT, offsetof(PackText, plain_bytes), "text.plain_bytes", "there are none");
    if (t.plain_bytes > kMostPackTextBytes)
        return bad(KEEL_E_FILE_LIMIT, offsetof(PackText, plain_bytes), "text.plain_bytes", "more than 256 MiB");
    if (t.frame_bytes == 0 || t.frame_bytes > section.size_bytes - sizeof t)
        return bad(KEEL_E_FILE_FORMAT, offsetof(PackText, frame_bytes), "text.frame_bytes",
                   "none, or ends beyond the section");
    *out = t;
    return KEEL_OK;
}

keel_reader packed_text(const keel_reader& section) {
    keel_reader r = section;
    r.size_bytes = section.text_stored_bytes;
    r.coded_bytes = r.text_bytes = r.text_stored_bytes = 0;
    r.interleaved_rows = 0;
    r.text = nullptr;
    return r;
}

keel_status open_section(const keel_reader& file, const PackSection& s, keel_reader* out, keel_error* error) {
    if (!reader_part(file, s.offset, s.bytes, out))
        return fail(error, KEEL_E_FILE_READ, s.offset, s.name, "beyond the end of the file");
    if (s.flags & kPackText) {
        PackText text;
        KEEL_TRY(read_pack_text(*out, &text, error));
        const bool all = sizeof text + text.frame_bytes == s.bytes;
        const uint64_t rest_at = pack_rest_at(text, s.kind == KEEL_PACK_MODEL && !(s.flags & kPackCoded) && !all);
        if (rest_at > s.bytes || (s.kind != KEEL_PACK_MODEL && !all))
            return fail(error, KEEL_E_FILE_FORMAT, offsetof(PackText, frame_bytes), "text.frame_bytes",
                        "does not fit the section");
        out->text_bytes = text.plain_bytes;
        out->text_stored_bytes = rest_at;
        out->size_bytes = text.plain_bytes + (s.bytes - rest_at);
    }
    out->interleaved_rows = s.flags & kPackInterleaved ? kernels::kRepackRows : 0;
    if (!(s.flags & kPackCoded)) return KEEL_OK;
    out->coded_bytes = s.bytes - out->text_stored_bytes;
    CodedFooter footer;
    KEEL_TRY(read_coded_footer(*out, &footer, error));
    out->size_bytes = out->text_bytes + footer.plain_bytes;
    return KEEL_OK;
}

bool is_pack(const keel_reader& file) {
    uint64_t magic = 0;
    return read_at(file, 0, &magic, sizeof magic) == KEEL_OK && magic == kPackMagic;
}

keel_status check_pack(const PackTable& pack, keel_error* error) {
    const PackHeader& h = pack.header;
    const auto bad = [&](size_t offset, const char* field, const char* reason) {
        return fail(error, KEEL_E_FILE_FORMAT, offset, field, reason);
    };
    for (const uint64_t zero : h.zero)
        if (zero) return bad(offsetof(PackHeader, zero), "header", "not zero where it has to be");
    uint64_t end = pack_table_end(h.section_count);
    uint32_t parts = 0, notes = 0;
    for (uint32_t i = 0; i < h.section_count; ++i) {
        KEEL_TRY(check_section(pack, i, end, error));
        end = pack.sections[i].offset + pack.sections[i].bytes;
        if (i) ++(pack.sections[i].kind == KEEL_PACK_NOTE ? notes : parts);
    }
    if (parts > kMostPackParts || notes > kMostPackNotes)
        return bad(offsetof(PackHeader, section_count), "section_count", "too many parts or notes");
    if (end != h.file_bytes) return bad(offsetof(PackHeader, file_bytes), "file_bytes", "more than the sections");
    return KEEL_OK;
}

keel_status read_pack(const keel_reader& file, PackTable* out, keel_error* error) {
    *out = {};
    PackHeader& h = out->header;
    const auto bad = [&](keel_status status, size_t offset, const char* field, const char* reason) {
        return fail(error, status, offset, field, reason);
    };
    if (file.size_bytes < sizeof h) return bad(KEEL_E_FILE_FORMAT, 0, "pack", "shorter than its header");
    if (read_at(file, 0, &h, sizeof h) != KEEL_OK) return bad(KEEL_E_FILE_READ, 0, "pack", "cannot be read");
    if (h.magic != kPackMagic) return bad(KEEL_E_FILE_FORMAT, 0, "magic", "not a pack");
    if (h.version != kPackVersion)
        return bad(KEEL_E_UNSUPPORTED, offsetof(PackHeader, version), "version", "another version of the format");
    if (h.file_bytes != file.size_bytes)
        return bad(KEEL_E_FILE_FORMAT, offsetof(PackHeader, file_bytes), "file_bytes", "not the size of the file");
    if (h.section_count == 0 || h.section_count > KEEL_PACK_MAX_SECTIONS ||
        pack_table_end(h.section_count) > h.file_bytes)
        return bad(KEEL_E_FILE_FORMAT, offsetof(PackHeader, section_count), "section_count", "none, or too many");
    if (read_at(file, sizeof h, out->sections, h.section_count * sizeof(PackSection)) != KEEL_OK)
        return bad(KEEL_E_FILE_READ, sizeof h, "sections", "cannot be read");
    if (h.table_hash != pack_table_hash(*out))
        return bad(KEEL_E_FILE_FORMAT, offsetof(PackHeader, table_hash), "table_hash", "the table is damaged");
    return check_pack(*out, error);
}

keel_status verify_pack(const keel_reader& file, const PackTable& pack, keel_error* error) {
    uint64_t end = pack_table_end(pack.header.section_count);
    for (uint32_t i = 0; i < pack.header.section_count; ++i) {
        const PackSection& s = pack.sections[i];
        KEEL_TRY(check_zeros(file, end, s.offset, error));
        end = s.offset + s.bytes;
        uint64_t hash = 0;
        if (hash_range(file, s.offset, end, &hash) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, s.offset, s.name, "cannot be read");
        if (hash != s.hash) return fail(error, KEEL_E_FILE_FORMAT, s.offset, s.name, "the section is damaged");
        KEEL_TRY(check_text_padding(file, s, error));
    }
    return KEEL_OK;
}

}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_pack_sections(const keel_reader* file, keel_pack_section* out, uint32_t capacity, uint32_t* count,
                               keel_error* error) {
    if (!file || !count) return fail(error, KEEL_E_ARGUMENT, 0, file ? "count" : "file", "null");
    if (out && capacity) KEEL_TRY(check_versioned(out));
    keel_reader whole;
    KEEL_TRY(read_versioned(file, &whole, "file", error));
    PackTable pack;
    KEEL_TRY(read_pack(whole, &pack, error));
    const uint32_t sections = pack.header.section_count;
    for (uint32_t i = 0; out && i < sections && i < capacity; ++i) {
        const PackSection& from = pack.sections[i];
        keel_pack_section s = {};
        s.kind = from.kind;
        s.json_schema = from.flags & kPackJsonSchema;
        keel_reader reader;
        KEEL_TRY(open_section(whole, from, &reader, error));
        s.interleaved_rows = reader.interleaved_rows;
        s.codec = (from.flags & kPackCoded ? KEEL_PACK_RANS : 0) | (from.flags & kPackText ? KEEL_PACK_ZSTD : 0);
        s.plain_bytes = reader.size_bytes;
        s.offset = from.offset;
        s.bytes = from.bytes;
        s.hash = from.hash;
        memcpy(s.name, from.name, sizeof s.name);
        KEEL_TRY(write_versioned(s, out, i));
    }
    *count = sections;
    return out && capacity < sections ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

keel_status keel_pack_reader(const keel_reader* file, const keel_pack_section* section, keel_reader* out) {
    if (!file || !section || !out) return KEEL_E_ARGUMENT;
    keel_reader reader;
    keel_pack_section s;
    KEEL_TRY(read_versioned(file, &reader));
    KEEL_TRY(read_versioned(section, &s));
    keel_reader part;
    if (!reader_part(reader, s.offset, s.bytes, &part)) return KEEL_E_ARGUMENT;
    PackSection from = {};
    from.kind = s.kind;
    from.flags = (s.codec & KEEL_PACK_RANS ? kPackCoded : 0) | (s.codec & KEEL_PACK_ZSTD ? kPackText : 0);
    from.offset = s.offset;
    from.bytes = s.bytes;
    KEEL_TRY(open_section(reader, from, &part, nullptr));
    if (part.text_bytes && out->struct_size < sizeof part) return KEEL_E_ABI;
    part.interleaved_rows = s.interleaved_rows;
    return write_versioned(part, out);
}

keel_status keel_pack_verify(const keel_reader* file, keel_error* error) {
    if (!file) return fail(error, KEEL_E_ARGUMENT, 0, "file", "null");
    keel_reader whole;
    KEEL_TRY(read_versioned(file, &whole, "file", error));
    PackTable pack;
    KEEL_TRY(read_pack(whole, &pack, error));
    return verify_pack(whole, pack, error);
}

}  // extern "C"
