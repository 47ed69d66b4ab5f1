#include "sdk/format/coded.h"

#include <stddef.h>
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"

namespace keel {
namespace {

using kernels::byte_classes;

uint64_t chunks_at(const CodedFooter& f) {
    return f.stretches_at + uint64_t{f.stretch_count} * sizeof(CodedStretch);
}
uint64_t frequencies_end(const keel_reader& coded) {
    return coded.coded_bytes - sizeof(CodedFooter);
}
bool has_type(const CodedStretch& s) {
    const uint32_t type = kernels::weight_type_of_number(s.type);
    return type < kernels::kWeightTypeCount &&
           (s.interleaved == 0 || (s.interleaved == 1 && kernels::kWeightTypes[type].activation_block));
}

keel_status changed() {
    return KEEL_E_FILE_READ;
}

// The slots of a stretch in little memory: bytes by slot, and where the slots of a byte begin.
struct SmallTables {
    uint8_t byte[kernels::kMostByteClasses][kernels::kRansSlots];
    uint32_t slots[kernels::kMostByteClasses][256];  // count | first << 16
    uint16_t first_slot[kernels::kMostFirstSlots];
    uint32_t period;

    void fill(const CodedStretch& s, const Frequencies frequencies) {
        const uint32_t type = stretch_type(s);
        period = kernels::fill_first_slots(type, s.interleaved, first_slot);
        for (uint32_t c = 0; c < byte_classes(type); ++c)
            for (uint32_t b = 0, slot = 0; b < 256; slot += frequencies[c][b++]) {
                slots[c][b] = frequencies[c][b] | slot << 16;
                memset(byte[c] + slot, static_cast<int>(b), frequencies[c][b]);
            }
    }
    uint32_t entry(uint32_t first, uint32_t slot) const {
        const uint32_t c = first / kernels::kRansSlots, b = byte[c][slot], s = slots[c][b];
        return kernels::rans_entry(b, s & 0xffff, slot - (s >> 16));
    }
};

// Bytes [from, from + bytes) of a chunk, decoded from its beginning through a window on the stack.
keel_status read_in_chunk(const keel_reader& coded, const CodedChunk& chunk, uint64_t chunk_bytes,
                          const SmallTables& tables, uint64_t from, uint8_t* dst, uint64_t bytes) {
    if (chunk.bytes == chunk_bytes) return read_stored(coded, chunk.at + from, dst, bytes);
    constexpr uint32_t kSlice = 1024, kSliceWords = 2 * kSlice;
    uint8_t window[kernels::kRansStateBytes + 2 * kSliceWords], plain[kSlice];
    uint64_t at = chunk.at, left = chunk.bytes;
    uint64_t filled = left < sizeof window ? left : sizeof window;
    KEEL_TRY(read_stored(coded, at, window, filled));
    at += filled;
    left -= filled;
    kernels::RansStream stream;
    if (!stream.open(window, filled)) return changed();
    for (uint64_t done = 0; done < from + bytes;) {
        uint64_t have = static_cast<uint64_t>(stream.end - stream.next);
        if (have < kSliceWords && left) {
            memmove(window, stream.next, have);
            const uint64_t n = left < sizeof window - have ? left : sizeof window - have;
            KEEL_TRY(read_stored(coded, at, window + have, n));
            at += n;
            left -= n;
            stream.next = window;
            stream.end = window + have + n;
        }
        const uint64_t n = chunk_bytes - done < kSlice ? chunk_bytes - done : kSlice;
        if (!kernels::rans_decode_with([&tables](uint32_t first, uint32_t slot) { return tables.entry(first, slot); },
                                       tables.first_slot, tables.period, &stream,
                                       static_cast<uint32_t>(done % tables.period), plain, n))
            return changed();
        const uint64_t begin = done > from ? done : from, end = done + n < from + bytes ? done + n : from + bytes;
        if (begin < end) memcpy(dst + (begin - from), plain + (begin - done), end - begin);
        done += n;
    }
    return KEEL_OK;
}

// Not inlined: what it has on the stack is for stretches that are coded.
__attribute__((noinline)) keel_status read_in_stretch(const keel_reader& coded, const CodedFooter& footer,
                                                      const CodedStretch& s, uint64_t from, uint8_t* dst,
                                                      uint64_t bytes) {
    SmallTables tables;
    {
        Frequencies frequencies;
        KEEL_TRY(read_stretch_frequencies(coded, footer, s, frequencies));
        tables.fill(s, frequencies);
    }
    const uint64_t chunk_bytes = coded_chunk_bytes(stretch_type(s), s.interleaved);
    while (bytes) {
        const uint64_t index = from / chunk_bytes, in_chunk = from % chunk_bytes;
        CodedChunk chunk;
        KEEL_TRY(read_chunks(coded, footer, s, index, 1, &chunk));
        const uint64_t all = stretch_chunk_bytes(s, index), n = bytes < all - in_chunk ? bytes : all - in_chunk;
        KEEL_TRY(read_in_chunk(coded, chunk, all, tables, in_chunk, dst, n));
        dst += n;
        from += n;
        bytes -= n;
    }
    return KEEL_OK;
}

// Walks the table once, in order.
class TableCheck {
  public:
    TableCheck(const keel_reader& coded, const CodedFooter& footer, keel_error* error)
        : coded_(coded), footer_(footer), error_(error), frequency_at_(footer.frequencies_at) {}

    keel_status run() {
        for (uint32_t i = 0; i < footer_.stretch_count; ++i) KEEL_TRY(stretch(i));
        if (plain_end_ != footer_.plain_bytes)
            return bad(footer_.stretches_at, "stretches", "they are not the plain file");
        if (chunk_ != footer_.chunk_count) return bad(chunks_at(footer_), "chunks", "more than the stretches have");
        if (data_end_ != footer_.stretches_at) return bad(data_end_, "data", "more than the table has");
        if (frequency_at_ != frequencies_end(coded_))
            return bad(frequency_at_, "frequencies", "more than the stretches have");
        return hash();
    }

  private:
    keel_status bad(uint64_t offset, const char* field, const char* reason) {
        return fail(error_, KEEL_E_FILE_FORMAT, offset, field, reason);
    }
    keel_status read(uint64_t at, void* dst, uint64_t bytes, const char* field) {
        return read_stored(coded_, at, dst, bytes) == KEEL_OK
                   ? KEEL_OK
                   : fail(error_, KEEL_E_FILE_READ, at, field, "the reader failed");
    }

    keel_status stretch(uint32_t i) {
        const uint64_t here = footer_.stretches_at + uint64_t{i} * sizeof(CodedStretch);
        CodedStretch s;
        KEEL_TRY(read(here, &s, sizeof s, "stretches"));
        if (s.begin != plain_end_ || s.end <= s.begin || s.end > footer_.plain_bytes || s.zero)
            return bad(here, "stretch", "does not follow the one before it");
        plain_end_ = s.end;
        if (s.first_chunk != chunk_)
            return bad(here + offsetof(CodedStretch, first_chunk), "stretch.first_chunk", "not the next one");
        if (s.type == kCodedRaw) {
            if (s.interleaved || s.at != data_end_ || s.end - s.begin > footer_.stretches_at - data_end_)
                return bad(here + offsetof(CodedStretch, at), "stretch.at", "not where its bytes belong");
            data_end_ += s.end - s.begin;
            return KEEL_OK;
        }
        if (!has_type(s)) return bad(here + offsetof(CodedStretch, type), "stretch.type", "no weight type");
        KEEL_TRY(frequencies(s, here));
        const uint64_t count = stretch_chunks(s);
        if (count > footer_.chunk_count - chunk_) return bad(here, "stretch", "has more chunks than there are");
        for (uint64_t c = 0; c < count; ++c, ++chunk_) KEEL_TRY(chunk(s, c));
        return KEEL_OK;
    }

    keel_status frequencies(const CodedStretch& s, uint64_t here) {
        const bool shared = shared_at_ && s.at == shared_at_ && s.type == shared_type_;
        if (shared) return KEEL_OK;
        if (s.at != frequency_at_)
            return bad(here + offsetof(CodedStretch, at), "stretch.at", "not where its frequencies belong");
        uint8_t bytes[kMostFrequencyBytes];
        const uint64_t left = frequencies_end(coded_) - s.at, n = left < sizeof bytes ? left : sizeof bytes;
        KEEL_TRY(read(s.at, bytes, n, "frequencies"));
        Frequencies parsed;
        const uint32_t used = parse_frequencies(bytes, static_cast<uint32_t>(n), byte_classes(stretch_type(s)), parsed);
        if (!used) return bad(s.at, "frequencies", "not of this weight type, or they do not sum to 4096");
        shared_at_ = s.at;
        shared_type_ = s.type;
        frequency_at_ += used;
        return KEEL_OK;
    }

    keel_status chunk(const CodedStretch& s, uint64_t index) {
        const uint64_t here = chunks_at(footer_) + chunk_ * sizeof(CodedChunk);
        CodedChunk c;
        KEEL_TRY(read(here, &c, sizeof c, "chunks"));
        if (c.at != data_end_) return bad(here, "chunk.at", "not where it belongs");
        if (c.bytes == 0 || c.bytes > stretch_chunk_bytes(s, index))
            return bad(here + offsetof(CodedChunk, bytes), "chunk.bytes", "none, or more than plain ones");
        if (c.bytes > footer_.stretches_at - data_end_)
            return bad(here + offsetof(CodedChunk, bytes), "chunk.bytes", "ends beyond the data");
        data_end_ += c.bytes;
        return KEEL_OK;
    }

    keel_status hash() {
        char slice[4096];
        uint64_t state = kHashSeed;
        for (uint64_t at = footer_.stretches_at, end = frequencies_end(coded_); at < end;) {
            const uint64_t n = end - at < sizeof slice ? end - at : sizeof slice;
            KEEL_TRY(read(at, slice, n, "table"));
            state = hash_update(state, slice, n);
            at += n;
        }
        CodedFooter f = footer_;
        f.table_hash = 0;
        if (hash_finish(hash_update(state, reinterpret_cast<const char*>(&f), sizeof f)) != footer_.table_hash)
            return bad(frequencies_end(coded_) + offsetof(CodedFooter, table_hash), "table_hash",
                       "the table is damaged");
        return KEEL_OK;
    }

    const keel_reader& coded_;
    const CodedFooter& footer_;
    keel_error* error_;
    uint64_t plain_end_ = 0, data_end_ = 0, chunk_ = 0, frequency_at_;
    uint64_t shared_at_ = 0;
    uint32_t shared_type_ = 0;
};

}  // namespace

uint32_t stretch_type(const CodedStretch& stretch) {
    return kernels::weight_type_of_number(stretch.type);
}

uint64_t stretch_chunks(const CodedStretch& stretch) {
    return (stretch.end - stretch.begin - 1) / coded_chunk_bytes(stretch_type(stretch), stretch.interleaved) + 1;
}
uint64_t stretch_chunk_bytes(const CodedStretch& s, uint64_t index) {
    const uint64_t chunk = coded_chunk_bytes(stretch_type(s), s.interleaved), left = s.end - s.begin - index * chunk;
    return left < chunk ? left : chunk;
}

uint32_t parse_frequencies(const uint8_t* bytes, uint32_t count, uint32_t classes, Frequencies out) {
    uint32_t at = 0;
    for (uint32_t c = 0; c < classes; ++c) {
        if (count - at < 2) return 0;
        const uint32_t first = bytes[at], last = bytes[at + 1];
        at += 2;
        if (first > last) {
            for (uint16_t& f : out[c]) f = kernels::kRansSlots / 256;
            continue;
        }
        memset(out[c], 0, sizeof out[c]);
        for (uint32_t b = first; b <= last; ++b) {
            if (at == count) return 0;
            uint32_t f = bytes[at++];
            if (f >= 128) {
                if (at == count || bytes[at] == 0) return 0;
                f = (f & 127) | static_cast<uint32_t>(bytes[at++]) << 7;
            }
            out[c][b] = static_cast<uint16_t>(f);
        }
        if (!kernels::rans_frequencies_valid(out[c])) return 0;
    }
    return at;
}

keel_status read_coded_footer(const keel_reader& coded, CodedFooter* out, keel_error* error) {
    CodedFooter f;
    if (coded.coded_bytes < sizeof f) return fail(error, KEEL_E_FILE_FORMAT, 0, "coded section", "too short");
    const uint64_t here = frequencies_end(coded);
    const auto bad = [&](size_t field, const char* name, const char* reason) {
        return fail(error, KEEL_E_FILE_FORMAT, here + field, name, reason);
    };
    if (read_stored(coded, here, &f, sizeof f) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, here, "coded section", "the reader failed");
    if (f.magic != kCodedMagic) return bad(0, "coded section", "has no footer of one");
    if (f.version != kCodedVersion)
        return fail(error, KEEL_E_UNSUPPORTED, here + offsetof(CodedFooter, version), "coded section",
                    "another version");
    if (f.zero || f.zeros) return bad(offsetof(CodedFooter, zero), "coded section", "not zero where it has to be");
    if (f.plain_bytes == 0 || f.stretch_count == 0)
        return bad(offsetof(CodedFooter, plain_bytes), "plain_bytes", "there are none");
    const uint64_t table =
        uint64_t{f.stretch_count} * sizeof(CodedStretch) + uint64_t{f.chunk_count} * sizeof(CodedChunk);
    if (f.stretches_at > here || table > here - f.stretches_at)
        return bad(offsetof(CodedFooter, stretches_at), "stretches_at", "the table ends beyond the section");
    // Raw bytes are a part of the section, each of the others is in a chunk.
    if (f.plain_bytes > f.stretches_at && f.plain_bytes - f.stretches_at > uint64_t{f.chunk_count} * kCodedChunkBytes)
        return bad(offsetof(CodedFooter, plain_bytes), "plain_bytes", "more than the section holds");
    if (f.frequencies_at != f.stretches_at + table)
        return bad(offsetof(CodedFooter, frequencies_at), "frequencies_at", "not behind the chunks");
    *out = f;
    return KEEL_OK;
}

keel_status check_coded(const keel_reader& coded, keel_error* error) {
    CodedFooter footer;
    KEEL_TRY(read_coded_footer(coded, &footer, error));
    if (footer.plain_bytes != plain_rest_bytes(coded))
        return fail(error, KEEL_E_FILE_FORMAT, 0, "plain_bytes", "not the size of the reader");
    return TableCheck(coded, footer, error).run();
}

uint64_t coded_raw_bytes(const keel_reader& coded) {
    CodedFooter footer;
    CodedStretch first;
    if (read_coded_footer(coded, &footer, nullptr) != KEEL_OK) return 0;
    if (read_stored(coded, footer.stretches_at, &first, sizeof first) != KEEL_OK) return 0;
    return first.type == kCodedRaw && first.begin == 0 ? first.end : 0;
}

keel_status find_stretch(const keel_reader& coded, const CodedFooter& footer, uint64_t offset, CodedStretch* out) {
    uint32_t low = 0, high = footer.stretch_count;  // the answer is in [low, high)
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        uint64_t begin;
        KEEL_TRY(read_stored(coded, footer.stretches_at + uint64_t{middle} * sizeof *out, &begin, sizeof begin));
        (begin <= offset ? low : high) = middle;
    }
    CodedStretch s;
    KEEL_TRY(read_stored(coded, footer.stretches_at + uint64_t{low} * sizeof s, &s, sizeof s));
    if (s.begin > offset || s.end <= offset || (s.type != kCodedRaw && !has_type(s))) return changed();
    *out = s;
    return KEEL_OK;
}

keel_status read_stretch_frequencies(const keel_reader& coded, const CodedFooter& footer, const CodedStretch& s,
                                     Frequencies out) {
    uint8_t bytes[kMostFrequencyBytes];
    const uint64_t end = frequencies_end(coded);
    if (s.at < footer.frequencies_at || s.at > end) return changed();
    const uint64_t n = end - s.at < sizeof bytes ? end - s.at : sizeof bytes;
    KEEL_TRY(read_stored(coded, s.at, bytes, n));
    return parse_frequencies(bytes, static_cast<uint32_t>(n), byte_classes(stretch_type(s)), out) ? KEEL_OK : changed();
}

keel_status read_chunks(const keel_reader& coded, const CodedFooter& footer, const CodedStretch& s, uint64_t index,
                        uint32_t count, CodedChunk* out) {
    const uint64_t first = s.first_chunk + index;
    if (first > footer.chunk_count || count > footer.chunk_count - first) return changed();
    KEEL_TRY(read_stored(coded, chunks_at(footer) + first * sizeof *out, out, count * sizeof *out));
    for (uint32_t i = 0; i < count; ++i)
        if (out[i].bytes > stretch_chunk_bytes(s, index + i) || out[i].at > footer.stretches_at ||
            out[i].bytes > footer.stretches_at - out[i].at || (i && out[i].at != out[i - 1].at + out[i - 1].bytes))
            return changed();
    return KEEL_OK;
}

keel_status read_coded(const keel_reader& coded, uint64_t offset, void* dst, uint64_t bytes) {
    CodedFooter footer;
    if (read_coded_footer(coded, &footer, nullptr) != KEEL_OK || footer.plain_bytes != plain_rest_bytes(coded))
        return changed();
    uint8_t* to = static_cast<uint8_t*>(dst);
    while (bytes) {
        CodedStretch s;
        KEEL_TRY(find_stretch(coded, footer, offset, &s));
        const uint64_t n = bytes < s.end - offset ? bytes : s.end - offset, from = offset - s.begin;
        if (s.type != kCodedRaw)
            KEEL_TRY(read_in_stretch(coded, footer, s, from, to, n));
        else if (s.at > footer.stretches_at || from > footer.stretches_at - s.at)
            return changed();
        else
            KEEL_TRY(read_stored(coded, s.at + from, to, n));
        to += n;
        offset += n;
        bytes -= n;
    }
    return KEEL_OK;
}

}  // namespace keel
