#include "sdk/format/coded_file.h"

#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"

namespace keel {
namespace {

constexpr uint64_t kEntryBytes = uint64_t{kernels::kMostByteClasses} * kernels::kRansSlots * sizeof(uint32_t);
constexpr uint64_t kFirstSlotBytes = (kernels::kMostFirstSlots * sizeof(uint16_t) + 63) / 64 * 64;

// At least 8 chunks, and two batches.
constexpr uint32_t kept_batches(uint32_t threads) {
    return threads >= 4 ? 2 : 8 / threads;
}

// Chunks that are decoded at once.
struct Batch {
    const kernels::RansTables* tables;
    kernels::RansDecode decode;
    const uint8_t* stored;
    uint8_t* dst;
    uint64_t chunk_bytes, plain_bytes;  // of a chunk, of all
    CodedChunk chunk[kMostCodedThreads];
    bool good[kMostCodedThreads];

    bool decode_chunk(uint32_t i) const {
        const uint64_t begin = i * chunk_bytes,
                       bytes = plain_bytes - begin < chunk_bytes ? plain_bytes - begin : chunk_bytes;
        const uint8_t* from = stored + (chunk[i].at - chunk[0].at);
        uint8_t* to = dst + begin;
        if (chunk[i].bytes == bytes) {
            memcpy(to, from, bytes);
        } else {
            kernels::RansStream stream;
            if (!stream.open(from, chunk[i].bytes) || !decode(*tables, &stream, 0, to, bytes) || !stream.at_end())
                return false;
        }
        return hash_words(to, bytes) == chunk[i].hash;
    }
};

keel_status read_plain(void* self, uint64_t offset, void* dst, size_t bytes) {
    return static_cast<CodedFile*>(self)->read(offset, dst, bytes);
}

}  // namespace

uint64_t CodedFile::work_bytes(uint32_t threads) {
    return kEntryBytes + kFirstSlotBytes + uint64_t{threads} * (1 + kept_batches(threads)) * kCodedChunkBytes;
}

void CodedFile::open(const keel_reader& coded, const CodedThreads& threads, void* work) {
    *this = {};
    coded_ = &coded;
    threads_ = threads;
    uint8_t* at = static_cast<uint8_t*>(work);
    entries_ = reinterpret_cast<uint32_t*>(at);
    first_slot_ = reinterpret_cast<uint16_t*>(at += kEntryBytes);
    stored_ = at += kFirstSlotBytes;
    kept_ = at + uint64_t{threads.threads} * kCodedChunkBytes;
}

keel_reader CodedFile::reader() {
    keel_reader r = {};
    r.struct_size = sizeof r;
    r.size_bytes = coded_->size_bytes;
    r.read_at = read_plain;
    r.user_data = this;
    r.text = coded_->text;
    r.text_bytes = coded_->text_bytes;
    r.interleaved_rows = coded_->interleaved_rows;
    return r;
}

// Has the stretch at `offset` and its tables.
keel_status CodedFile::enter(uint64_t offset) {
    if (stretch_.begin <= offset && offset < stretch_.end) return KEEL_OK;
    if (!footer_.magic) KEEL_TRY(read_coded_footer(*coded_, &footer_, nullptr));
    CodedStretch s;
    KEEL_TRY(find_stretch(*coded_, footer_, offset, &s));
    const bool filled = stretch_.end && stretch_.type == s.type && stretch_.at == s.at && s.type != kCodedRaw;
    stretch_ = {};
    for (uint64_t& kept : kept_batch_) kept = 0;
    if (s.type != kCodedRaw && !filled) {
        Frequencies frequencies;
        KEEL_TRY(read_stretch_frequencies(*coded_, footer_, s, frequencies));
        for (uint32_t c = 0; c < kernels::byte_classes(stretch_type(s)); ++c)
            kernels::rans_fill_slots(frequencies[c], entries_ + uint64_t{c} * kernels::kRansSlots);
    }
    if (s.type != kCodedRaw)
        tables_ = {entries_, first_slot_, kernels::fill_first_slots(stretch_type(s), s.interleaved, first_slot_)};
    stretch_ = s;
    return KEEL_OK;
}

// Chunks [index, index + count) of the stretch, at most one a thread, to dst.
keel_status CodedFile::decode(uint64_t index, uint32_t count, uint8_t* dst) {
    Batch batch;
    batch.tables = &tables_;
    batch.decode = threads_.decode;
    batch.stored = stored_;
    batch.dst = dst;
    batch.chunk_bytes = coded_chunk_bytes(stretch_type(stretch_), stretch_.interleaved);
    batch.plain_bytes = (count - 1) * batch.chunk_bytes + stretch_chunk_bytes(stretch_, index + count - 1);
    KEEL_TRY(read_chunks(*coded_, footer_, stretch_, index, count, batch.chunk));
    const CodedChunk& last = batch.chunk[count - 1];
    KEEL_TRY(read_stored(*coded_, batch.chunk[0].at, stored_, last.at + last.bytes - batch.chunk[0].at));
    const auto task = [](void* context, uint32_t i) {
        Batch& b = *static_cast<Batch*>(context);
        b.good[i] = b.decode_chunk(i);
    };
    if (threads_.run && count > 1)
        threads_.run(threads_.self, count, task, &batch);
    else
        for (uint32_t i = 0; i < count; ++i) task(&batch, i);
    for (uint32_t i = 0; i < count; ++i)
        if (!batch.good[i]) {
            fault_ = "a packed chunk is damaged";
            return KEEL_E_FILE_FORMAT;
        }
    return KEEL_OK;
}

keel_status CodedFile::read(uint64_t offset, void* dst, uint64_t bytes) {
    fault_ = nullptr;
    const uint64_t size = plain_rest_bytes(*coded_);
    if (offset > size || bytes > size - offset) return KEEL_E_FILE_READ;
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint64_t n; bytes; offset += n, to += n, bytes -= n) {
        KEEL_TRY(enter(offset));
        const uint64_t from = offset - stretch_.begin;
        n = bytes < stretch_.end - offset ? bytes : stretch_.end - offset;
        if (stretch_.type == kCodedRaw) {
            if (stretch_.at > footer_.stretches_at || from > footer_.stretches_at - stretch_.at)
                return KEEL_E_FILE_READ;
            KEEL_TRY(read_stored(*coded_, stretch_.at + from, to, n));
            continue;
        }
        const uint64_t chunk = coded_chunk_bytes(stretch_type(stretch_), stretch_.interleaved), index = from / chunk,
                       skip = from % chunk, count = stretch_chunks(stretch_);
        // Whole chunks go where they are wanted.
        uint64_t whole = skip ? 0 : n / chunk;
        if (!skip && offset + n == stretch_.end) whole = count - index;
        const uint64_t batch = index / threads_.threads, first = batch * threads_.threads;
        uint64_t& kept = kept_batch_[batch % kept_batches(threads_.threads)];
        if (whole && kept != batch + 1) {
            const uint32_t some = static_cast<uint32_t>(whole < threads_.threads ? whole : threads_.threads);
            KEEL_TRY(decode(index, some, to));
            const uint64_t decoded = some * chunk;
            n = n < decoded ? n : decoded;
            continue;
        }
        const uint64_t left = count - first;
        const uint32_t some = static_cast<uint32_t>(left < threads_.threads ? left : threads_.threads);
        uint8_t* place = kept_ + batch % kept_batches(threads_.threads) * threads_.threads * kCodedChunkBytes;
        if (kept != batch + 1) {
            kept = 0;
            KEEL_TRY(decode(first, some, place));
            kept = batch + 1;
        }
        const uint64_t in_kept = (index - first) * chunk + skip,
                       kept_end = (some - 1) * chunk + stretch_chunk_bytes(stretch_, first + some - 1);
        n = n < kept_end - in_kept ? n : kept_end - in_kept;
        memcpy(to, place + in_kept, n);
    }
    return KEEL_OK;
}

}  // namespace keel
