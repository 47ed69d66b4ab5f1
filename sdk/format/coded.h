// Coded sections of packs: a GGUF file, or what follows its text (pack.h), with its tensors entropy coded
// (kernels/formats/rans.h). Any bytes of that plain file can be read from one. Little endian:
//
//     data | CodedStretch[stretch_count] | CodedChunk[chunk_count] | frequencies | CodedFooter
//
// Stretches follow one another and make up the plain file. A raw one is in the data as it is: the header, vectors,
// what saves too little, and what fingerprints read of every tensor. The others are cut into chunks that are decoded
// independently. Data, stretches, chunks and frequencies follow each other in the order of the plain file without a
// gap, so that a section holds nothing but what its table says.
//
// read_at reads plain bytes of a keel_reader with coded_bytes: slowly, with nothing but the stack. CodedFile
// (coded_file.h) reads them fast, in memory of its own. Plain offsets count from the end of the text.
#pragma once
#include "keel/keel.h"
#include "kernels/formats/byte_classes.h"

namespace keel {

constexpr uint64_t kCodedMagic = 0x45444f434c45454bull;  // "KEELCODE"
constexpr uint32_t kCodedVersion = 1;
constexpr uint32_t kCodedRaw = UINT32_MAX;
// Most plain bytes of a chunk. Those of a stretch have as many whole periods (byte_classes.h) as fit; the last of it
// has the rest.
constexpr uint32_t kCodedChunkBytes = 128 * 1024;
static_assert(kernels::kMostClassPeriod <= kCodedChunkBytes);

struct CodedFooter {
    uint64_t magic;
    uint32_t version, stretch_count;
    uint64_t plain_bytes;
    uint64_t stretches_at;  // the end of the data
    uint32_t chunk_count, zero;
    uint64_t frequencies_at;
    uint64_t table_hash;  // hash64 of stretches, chunks, frequencies, and this with 0 here
    uint64_t zeros;
};
static_assert(sizeof(CodedFooter) == 64);

struct CodedStretch {
    uint64_t begin, end;   // of the plain file
    uint64_t at;           // raw: of its bytes in the section; else of its frequencies, which a neighbour may share
    uint32_t type;         // kCodedRaw, or the number of a weight type: kinds of bytes repeat from `begin` on
    uint32_t interleaved;  // 1: rows in groups of 16 (repack.h)
    uint32_t first_chunk, zero;
};
static_assert(sizeof(CodedStretch) == 40);

struct CodedChunk {
    uint64_t at;
    uint32_t bytes;  // as many as plain ones: they are as they are
    uint32_t hash;   // hash_words of the plain bytes
};
static_assert(sizeof(CodedChunk) == 16);

// Frequencies of a class: first u8, last u8, then one for each of bytes first..last: below 128 in a byte, else in two,
// of which the first has the low 7 bits and its highest set. first > last: all 256 alike, and nothing follows. So the
// classes of a type follow one another.
constexpr uint32_t kMostFrequencyBytes = kernels::kMostByteClasses * (2 + 256 * 2);
using Frequencies = uint16_t[kernels::kMostByteClasses][256];
// Bytes read of bytes[0, count), or 0: not frequencies of so many classes.
uint32_t parse_frequencies(const uint8_t* bytes, uint32_t count, uint32_t classes, Frequencies out);

constexpr uint64_t coded_chunk_bytes(uint32_t weight_type, bool interleaved) {
    const uint32_t period = kernels::class_period(weight_type, interleaved);
    return kCodedChunkBytes / period * period;
}

// A footer whose numbers fit the section. KEEL_E_FILE_FORMAT, KEEL_E_UNSUPPORTED, KEEL_E_FILE_READ. `coded`: a reader
// with coded_bytes; its size_bytes is not looked at.
keel_status read_coded_footer(const keel_reader& coded, CodedFooter* out, keel_error* error);
// All of the table, every number and the hash. Errors name what is wrong.
keel_status check_coded(const keel_reader& coded, keel_error* error);

// The stretch that holds plain byte `offset`, below footer.plain_bytes. What was read once and is another now is
// KEEL_E_FILE_READ, here and below: nothing else is asked of a file that may change.
keel_status find_stretch(const keel_reader& coded, const CodedFooter& footer, uint64_t offset, CodedStretch* out);
// Plain bytes at the beginning that are as they are; 0 where there is no table to say so.
uint64_t coded_raw_bytes(const keel_reader& coded);
// Its weight type, of one that is not raw, how many chunks it has, and the plain bytes of its chunk number `index`.
uint32_t stretch_type(const CodedStretch& stretch);
uint64_t stretch_chunks(const CodedStretch& stretch);
uint64_t stretch_chunk_bytes(const CodedStretch& stretch, uint64_t index);
keel_status read_stretch_frequencies(const keel_reader& coded, const CodedFooter& footer, const CodedStretch& stretch,
                                     Frequencies out);
// Entries of chunks [index, index + count) of a stretch, which follow one another in the data.
keel_status read_chunks(const keel_reader& coded, const CodedFooter& footer, const CodedStretch& stretch,
                        uint64_t index, uint32_t count, CodedChunk* out);

// Plain bytes [offset, offset + bytes), within plain_rest_bytes.
keel_status read_coded(const keel_reader& coded, uint64_t offset, void* dst, uint64_t bytes);

}  // namespace keel
