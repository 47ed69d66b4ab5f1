// Packs, `.keel`: a model and its parts in one file. Little endian:
//
//     PackHeader | PackSection[section_count] | zeros | section 0 | zeros | section 1 | ...
//
// Each section begins at the first multiple of kPackAlignBytes behind what stands before it, so that a file holds
// nothing but what the table says; the last one ends the file. Section 0 is the model, a whole GGUF file, as it is or
// coded (coded.h).
//
// Of a section with kPackText the text comes packed with zstd, and then the rest as it is in one without:
//
//     PackText | one zstd frame | zeros | rest of the section
//
// The text of a model is what stands before its tensors; of other sections it is all, and nothing follows the frame.
// Raw tensors begin where their place in the plain file is, modulo kPackAlignBytes, so that mapped ones are aligned as
// ever; before coded ones there are no zeros.
#pragma once
#include "keel/keel.h"
#include "sdk/format/coded.h"

namespace keel {

constexpr uint64_t kPackMagic = 0x4b4341504c45454bull;  // "KEELPACK"
constexpr uint32_t kPackVersion = 1;
constexpr uint64_t kPackAlignBytes = 4096;

// PackSection::flags
constexpr uint32_t kPackJsonSchema = 1;   // of a KEEL_PART_GRAMMAR: keel_grammar_options.json_schema
constexpr uint32_t kPackInterleaved = 2;  // of the model: keel_reader.interleaved_rows is 16
constexpr uint32_t kPackCoded = 4;        // of the model: the section, or its rest, is what coded.h describes
constexpr uint32_t kPackText = 8;         // of the model, chat templates, grammars and notes: text is packed

struct PackHeader {
    uint64_t magic;
    uint32_t version, section_count;
    uint64_t file_bytes;
    uint64_t table_hash;  // hash64 of the header with 0 here, and the table
    uint64_t zero[4];
};
static_assert(sizeof(PackHeader) == 64);

struct PackSection {
    uint32_t kind, flags;  // kind: as keel_pack_section
    uint64_t offset, bytes;
    uint64_t hash;  // hash64 of the bytes
    // What `keel unpack` calls the file: letters, digits, '.', '_' and '-', not beginning with '.'; padded with zeros,
    // of which there is at least one. No two alike.
    char name[32];
};
static_assert(sizeof(PackSection) == 64);

constexpr uint64_t kPackTextMagic = 0x545845544c45454bull;  // "KEELTEXT"
constexpr uint32_t kPackTextVersion = 1;
constexpr uint64_t kMostPackTextBytes = uint64_t{256} << 20;

struct PackText {
    uint64_t magic;
    uint32_t version, zero;
    uint64_t plain_bytes;  // of the text, up to kMostPackTextBytes; the frame says so too
    uint64_t frame_bytes;
};
static_assert(sizeof(PackText) == 32);

constexpr uint32_t kMostPackParts = 16, kMostPackNotes = 4;
static_assert(KEEL_PACK_MAX_SECTIONS == 1 + kMostPackParts + kMostPackNotes);

constexpr uint64_t pack_table_end(uint32_t sections) {
    return sizeof(PackHeader) + uint64_t{sections} * sizeof(PackSection);
}
// Where a section begins behind what ends there.
constexpr uint64_t next_pack_section(uint64_t end) {
    return (end + kPackAlignBytes - 1) / kPackAlignBytes * kPackAlignBytes;
}

// Where the rest of a section with text begins, in the section.
constexpr uint64_t pack_rest_at(const PackText& text, bool raw_tensors) {
    const uint64_t end = sizeof text + text.frame_bytes;
    return raw_tensors ? end + (text.plain_bytes - end) % kPackAlignBytes : end;
}

struct PackTable {
    PackHeader header;
    PackSection sections[KEEL_PACK_MAX_SECTIONS];  // [header.section_count]
};

// The PackText that a section begins with. KEEL_E_FILE_READ, KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED for another
// version, KEEL_E_FILE_LIMIT for more text than may be.
keel_status read_pack_text(const keel_reader& section, PackText* out, keel_error* error);
// The beginning of a section with text, up to its rest, as a reader of what is stored there.
keel_reader packed_text(const keel_reader& section);

// A section of a checked table as a reader of its file, with text that is still packed. KEEL_E_FILE_READ, and for one
// that is coded or has text as read_coded_footer and read_pack_text.
keel_status open_section(const keel_reader& file, const PackSection& section, keel_reader* out, keel_error* error);

uint64_t pack_table_hash(const PackTable& pack);
bool valid_pack_name(const char (&name)[32]);
// Whether the file calls itself a pack.
bool is_pack(const keel_reader& file);

// Whether a table is one that may be: kinds, places, names. KEEL_E_FILE_FORMAT.
keel_status check_pack(const PackTable& pack, keel_error* error);
// The header and the table, checked. Errors as keel_pack_sections.
keel_status read_pack(const keel_reader& file, PackTable* out, keel_error* error);
// The bytes of the sections and those between them.
keel_status verify_pack(const keel_reader& file, const PackTable& pack, keel_error* error);

}  // namespace keel
