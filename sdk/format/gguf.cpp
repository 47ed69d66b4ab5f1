#include "sdk/format/gguf.h"

#include <float.h>
#include <string.h>

#include <utility>

#include "kernels/formats/repack.h"
#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/coded.h"

namespace keel {
namespace {

// ---- tables of the format ----

constexpr uint8_t kScalarBytes[kGgufValueTypeCount] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// Names of all tensor type numbers the format has assigned, so that a refusal can say which one it met.
constexpr const char* kTensorTypeNames[] = {
    "F32",        "F16",        "Q4_0",       "Q4_1",  "Q4_2",     "Q4_3",     "Q5_0",     "Q5_1",    "Q8_0",
    "Q8_1",       "Q2_K",       "Q3_K",       "Q4_K",  "Q5_K",     "Q6_K",     "Q8_K",     "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS",    "IQ1_S",      "IQ4_NL",     "IQ3_S", "IQ2_S",    "IQ4_XS",   "I8",       "I16",     "I32",
    "I64",        "F64",        "IQ1_M",      "BF16",  "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0",
    "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4",    "Q1_0"};

constexpr uint32_t kMagic = 0x46554747;     // "GGUF"
constexpr uint32_t kDefaultAlignment = 32;  // when general.alignment is absent
constexpr uint32_t kMinAlignment = 8;
constexpr const char kAlignmentKey[] = "general.alignment";
constexpr uint64_t kAlignmentHash = hash64(kAlignmentKey, sizeof kAlignmentKey - 1);
constexpr uint64_t kMinValueBytes = 8 + 1 + 4 + 1;           // key length, shortest key, type, shortest value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, dimension count, one, type, offset

// The largest request a chunked loop over file bytes makes, and what an error can show of a name.
constexpr uint32_t kChunkBytes = 256;
constexpr uint32_t kLabelBytes = sizeof(keel_error::field) - 1;

// ---- small algorithms ----

// In place, no recursion, n log n in the worst case: table sizes come from the file.
template <class T, class Less>
void heap_sort(T* items, uint64_t count, Less less) {
    const auto sift_down = [&](uint64_t parent, uint64_t end) {
        for (uint64_t child; (child = 2 * parent + 1) < end; parent = child) {
            if (child + 1 < end && less(items[child], items[child + 1])) ++child;
            if (!less(items[parent], items[child])) return;
            std::swap(items[parent], items[child]);
        }
    };
    for (uint64_t parent = count / 2; parent-- > 0;) sift_down(parent, count);
    for (uint64_t end = count; end > 1;) {
        std::swap(items[0], items[--end]);
        sift_down(0, end);
    }
}

// value rounded up to a multiple of `alignment` (a power of two); false on overflow.
bool pad_up(uint64_t value, uint64_t alignment, uint64_t* out) {
    if (value > UINT64_MAX - (alignment - 1)) return false;
    *out = (value + alignment - 1) & ~(alignment - 1);
    return true;
}

// Hash of the file's first `bytes` bytes.
keel_status hash_head(const keel_reader& reader, uint64_t bytes, uint64_t* out) {
    uint64_t state = kHashSeed;
    char chunk[4096];
    for (uint64_t at = 0; at < bytes;) {
        const uint64_t n = bytes - at < sizeof chunk ? bytes - at : sizeof chunk;
        KEEL_TRY(read_at(reader, at, chunk, n));
        state = hash_update(state, chunk, n);
        at += n;
    }
    *out = hash_finish(state);
    return KEEL_OK;
}

keel_status same_bytes(const keel_reader& reader, uint64_t a, uint64_t b, uint64_t bytes, bool* same) {
    uint8_t chunk_a[kChunkBytes], chunk_b[kChunkBytes];
    *same = true;
    for (uint64_t at = 0; at < bytes && *same;) {
        const uint64_t n = bytes - at < kChunkBytes ? bytes - at : kChunkBytes;
        KEEL_TRY(read_at(reader, a + at, chunk_a, n));
        KEEL_TRY(read_at(reader, b + at, chunk_b, n));
        *same = memcmp(chunk_a, chunk_b, n) == 0;
        at += n;
    }
    return KEEL_OK;
}

// ---- the scan ----

// One walk over the header. Where it stands is named by label_ (the current key or tensor), so that every error can say
// so. The cursor ends at max_metadata_bytes or at the end of the file, whichever comes first: running out of it is told
// apart in check_room().
class HeaderScan {
  public:
    HeaderScan(const keel_reader& reader, const keel_limits& limits, keel_error* error)
        : reader_(reader), limits_(limits), error_(error), cursor_(reader, 0, header_end(reader, limits)) {}

    keel_status run(GgufValue* values, GgufTensor* tensors, const GgufVisitor& visitor, Gguf* out);
    // The tensors of a header that run() has seen.
    keel_status tensors(const Gguf& g, const GgufVisitor& visitor);

  private:
    static uint64_t most_header_bytes(const keel_reader& reader, const keel_limits& limits) {
        return reader.size_bytes < limits.max_metadata_bytes ? reader.size_bytes : limits.max_metadata_bytes;
    }
    // Of a coded file, what is not coded: a header would be decoded anew for each of its values.
    static uint64_t header_end(const keel_reader& reader, const keel_limits& limits) {
        const uint64_t most = most_header_bytes(reader, limits),
                       text = reader.text_bytes < most ? reader.text_bytes : most;
        if (!reader.coded_bytes) return most;
        const uint64_t raw = coded_raw_bytes(reader);
        return raw < most - text ? text + raw : most;
    }

    keel_status counts(Gguf* g);
    keel_status value(GgufValue* v);
    keel_status elements(uint32_t type, uint64_t count);
    keel_status alignment(const GgufValue& v);
    keel_status tensor(GgufTensor* t);
    keel_status data_section(const GgufTensor& last, GgufTensor* tensors, Gguf* g);
    keel_status name(const char* what, uint64_t* hash, uint64_t* offset, uint32_t* bytes);
    keel_status string_length(uint64_t* bytes);
    template <class Entry, class KeyOffset>
    keel_status refuse_duplicates(const Entry* entries, uint32_t count, uint64_t Entry::*hash, uint32_t Entry::*bytes,
                                  KeyOffset key_offset);

    // Errors about the current key or tensor.
    keel_status refuse(keel_status status, uint64_t offset, const char* reason) {
        return fail(error_, status, offset, label_, label_bytes_, reason);
    }
    keel_status malformed(uint64_t offset, const char* reason) { return refuse(KEEL_E_FILE_FORMAT, offset, reason); }
    keel_status over_limit(uint64_t offset, const char* limit, uint64_t value, uint64_t maximum);
    // Fails unless the header has `bytes` more bytes: the file ends early, or the header is larger than allowed.
    keel_status check_room(uint64_t bytes);
    keel_status read(void* dst, uint64_t bytes);
    keel_status skip(uint64_t bytes);
    keel_status u32(uint32_t* v) { return read(v, sizeof *v); }
    keel_status u64(uint64_t* v) { return read(v, sizeof *v); }
    // What errors name from here on: cut if longer, with bytes that are not printable as '?'.
    void label(const char* text, uint64_t bytes) {
        label_bytes_ = static_cast<uint32_t>(bytes < kLabelBytes ? bytes : kLabelBytes);
        for (uint32_t i = 0; i < label_bytes_; ++i) label_[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    }
    void label(const char* text) { label(text, strlen(text)); }

    const keel_reader& reader_;
    const keel_limits& limits_;
    keel_error* error_;
    ByteCursor cursor_;
    char label_[kLabelBytes];
    uint32_t label_bytes_ = 0;
    uint32_t alignment_ = kDefaultAlignment;
    uint64_t next_tensor_ = 0;  // where the next tensor must begin, relative to the data section
};

keel_status HeaderScan::over_limit(uint64_t offset, const char* limit, uint64_t value, uint64_t maximum) {
    char reason[sizeof(keel_error::reason)];
    TextBuilder text(reason, sizeof reason);
    text.number(value).text(" exceeds ").number(maximum).text(" at ").text(label_, label_bytes_);
    return fail(error_, KEEL_E_FILE_LIMIT, offset, limit, reason);
}

keel_status HeaderScan::check_room(uint64_t bytes) {
    if (bytes <= cursor_.remaining()) return KEEL_OK;
    const uint64_t at = cursor_.position();
    if (reader_.coded_bytes && bytes <= most_header_bytes(reader_, limits_) - at)
        return malformed(at, "entropy coded: only tensors may be");
    if (bytes <= reader_.size_bytes - at)
        return over_limit(at, "max_metadata_bytes", at + bytes, limits_.max_metadata_bytes);
    return malformed(at, "the file ends before this is complete");
}

keel_status HeaderScan::read(void* dst, uint64_t bytes) {
    KEEL_TRY(check_room(bytes));
    const uint64_t at = cursor_.position();
    const keel_status status = cursor_.read(dst, bytes);
    return status == KEEL_OK ? status : refuse(status, at, "the reader failed");
}

keel_status HeaderScan::skip(uint64_t bytes) {
    KEEL_TRY(check_room(bytes));
    return cursor_.skip(bytes);
}

// Magic, version and the two counts. A count must leave room for its entries in the file, so that no later loop runs
// longer than the file is.
keel_status HeaderScan::counts(Gguf* g) {
    label("magic");
    uint32_t magic;
    KEEL_TRY(u32(&magic));
    if (magic == __builtin_bswap32(kMagic)) return refuse(KEEL_E_UNSUPPORTED, 0, "a big-endian GGUF file");
    if (magic != kMagic) return malformed(0, "not a GGUF file");
    label("version");
    KEEL_TRY(u32(&g->version));
    if (g->version != 0 && (g->version & 0xffff) == 0) return refuse(KEEL_E_UNSUPPORTED, 4, "a big-endian GGUF file");
    if (g->version == 0) return malformed(4, "version 0 does not exist");
    if (g->version != 2 && g->version != 3) return refuse(KEEL_E_UNSUPPORTED, 4, "GGUF versions 2 and 3 are read");

    uint64_t tensor_count, value_count;
    label("tensor_count");
    KEEL_TRY(u64(&tensor_count));
    if (tensor_count > limits_.max_tensors) return over_limit(8, "max_tensors", tensor_count, limits_.max_tensors);
    label("metadata_kv_count");
    KEEL_TRY(u64(&value_count));
    if (value_count > limits_.max_metadata_keys)
        return over_limit(16, "max_metadata_keys", value_count, limits_.max_metadata_keys);
    if (value_count * kMinValueBytes + tensor_count * kMinTensorBytes > reader_.size_bytes - cursor_.position())
        return malformed(8, "the file is too small for its tensor and key counts");
    g->tensor_count = static_cast<uint32_t>(tensor_count);
    g->value_count = static_cast<uint32_t>(value_count);
    return KEEL_OK;
}

// A key or a tensor name: hashed as it streams by; its first bytes become the label. `what` names it until it is known.
keel_status HeaderScan::name(const char* what, uint64_t* hash, uint64_t* offset, uint32_t* bytes) {
    label(what);
    const uint64_t at = cursor_.position();
    uint64_t length;
    KEEL_TRY(u64(&length));
    if (length == 0) return malformed(at, "the name is empty");
    if (length > limits_.max_name_bytes) return over_limit(at, "max_name_bytes", length, limits_.max_name_bytes);
    KEEL_TRY(check_room(length));
    *offset = cursor_.position();
    *bytes = static_cast<uint32_t>(length);
    uint64_t state = kHashSeed;
    char chunk[kChunkBytes];
    for (uint64_t done = 0; done < length;) {
        const uint64_t n = length - done < kChunkBytes ? length - done : kChunkBytes;
        KEEL_TRY(read(chunk, n));
        if (done == 0) label(chunk, n);
        if (memchr(chunk, 0, n)) return malformed(*offset, "the name contains a NUL byte");
        state = hash_update(state, chunk, n);
        done += n;
    }
    *hash = hash_finish(state);
    return KEEL_OK;
}

// The length of a string value, checked against the limit and the file.
keel_status HeaderScan::string_length(uint64_t* bytes) {
    const uint64_t at = cursor_.position();
    KEEL_TRY(u64(bytes));
    if (*bytes > limits_.max_string_bytes) return over_limit(at, "max_string_bytes", *bytes, limits_.max_string_bytes);
    return check_room(*bytes);
}

// `count` consecutive values of one type other than array. Numbers are skipped; booleans and string lengths are looked
// at.
keel_status HeaderScan::elements(uint32_t type, uint64_t count) {
    if (type == kGgufString) {
        for (uint64_t i = 0, bytes; i < count; ++i) {
            KEEL_TRY(string_length(&bytes));
            KEEL_TRY(skip(bytes));
        }
        return KEEL_OK;
    }
    if (type != kGgufBool) return skip(count * kScalarBytes[type]);
    uint8_t chunk[kChunkBytes];
    for (uint64_t done = 0; done < count;) {
        const uint64_t n = count - done < kChunkBytes ? count - done : kChunkBytes;
        const uint64_t at = cursor_.position();
        KEEL_TRY(read(chunk, n));
        for (uint64_t i = 0; i < n; ++i)
            if (chunk[i] > 1) return malformed(at + i, "a boolean is neither 0 nor 1");
        done += n;
    }
    return KEEL_OK;
}

keel_status HeaderScan::value(GgufValue* v) {
    *v = {};
    uint64_t key_offset;
    KEEL_TRY(name("metadata key", &v->key_hash, &key_offset, &v->key_bytes));
    const uint64_t type_offset = cursor_.position();
    KEEL_TRY(u32(&v->type));
    if (v->type >= kGgufValueTypeCount) return malformed(type_offset, "the value type does not exist");
    v->count = 1;
    if (v->type == kGgufString) {
        KEEL_TRY(string_length(&v->count));
        v->offset = cursor_.position();
        KEEL_TRY(skip(v->count));
    } else if (v->type == kGgufArray) {
        const uint64_t element_offset = cursor_.position();
        KEEL_TRY(u32(&v->element_type));
        if (v->element_type >= kGgufValueTypeCount)
            return malformed(element_offset, "the array element type does not exist");
        if (v->element_type == kGgufArray)
            return refuse(KEEL_E_UNSUPPORTED, element_offset, "arrays of arrays are not read");
        const uint64_t count_offset = cursor_.position();
        KEEL_TRY(u64(&v->count));
        if (v->count > limits_.max_array_elements)
            return over_limit(count_offset, "max_array_elements", v->count, limits_.max_array_elements);
        // The count is below 2^32 now, so the products here and in elements() cannot overflow.
        KEEL_TRY(check_room(v->count * (v->element_type == kGgufString ? 8 : kScalarBytes[v->element_type])));
        v->offset = cursor_.position();
        KEEL_TRY(elements(v->element_type, v->count));
    } else {
        v->offset = cursor_.position();
        KEEL_TRY(elements(v->type, 1));
    }
    v->bytes = cursor_.position() - v->offset;
    return v->key_hash == kAlignmentHash ? alignment(*v) : KEEL_OK;
}

keel_status HeaderScan::alignment(const GgufValue& v) {
    if (v.type != kGgufU32) return malformed(v.offset, "the alignment is not a u32");
    if (read_at(reader_, v.offset, &alignment_, sizeof alignment_) != KEEL_OK)
        return refuse(KEEL_E_FILE_READ, v.offset, "the reader failed");
    if (alignment_ < kMinAlignment || (alignment_ & (alignment_ - 1)))
        return malformed(v.offset, "the alignment is not a power of two of at least 8");
    if (alignment_ > limits_.max_alignment_bytes)
        return over_limit(v.offset, "max_alignment_bytes", alignment_, limits_.max_alignment_bytes);
    return KEEL_OK;
}

// One tensor description. t->offset is relative to the data section here; data_section() makes it absolute.
keel_status HeaderScan::tensor(GgufTensor* t) {
    *t = {};
    KEEL_TRY(name("tensor name", &t->name_hash, &t->name_offset, &t->name_bytes));
    const uint64_t dims_offset = cursor_.position();
    KEEL_TRY(u32(&t->dim_count));
    if (t->dim_count < 1 || t->dim_count > 4) return malformed(dims_offset, "a tensor has 1 to 4 dimensions");
    uint64_t rows = 1;
    for (uint32_t i = 0; i < 4; ++i) {
        t->dims[i] = 1;
        if (i >= t->dim_count) continue;
        const uint64_t at = cursor_.position();
        KEEL_TRY(u64(&t->dims[i]));
        if (t->dims[i] == 0) return malformed(at, "a dimension is 0");
        if (t->dims[i] > limits_.max_dimension)
            return over_limit(at, "max_dimension", t->dims[i], limits_.max_dimension);
        if (i > 0 && __builtin_mul_overflow(rows, t->dims[i], &rows))
            return malformed(dims_offset, "the product of the dimensions overflows");
    }
    const uint64_t type_offset = cursor_.position();
    uint32_t number;
    KEEL_TRY(u32(&number));
    t->type = kernels::in_gguf(number) ? kernels::weight_type_of_number(number) : kernels::kWeightTypeCount;
    if (t->type == kernels::kWeightTypeCount) {
        char reason[sizeof(keel_error::reason)];
        TextBuilder text(reason, sizeof reason);
        text.text("no kernels for tensor type ").number(number);
        if (number < sizeof kTensorTypeNames / sizeof *kTensorTypeNames)
            text.text(" (").text(kTensorTypeNames[number]).text(")");
        return refuse(KEEL_E_UNSUPPORTED, type_offset, reason);
    }
    if (t->dims[0] % kernels::kWeightTypes[t->type].block_elements)
        return malformed(dims_offset, "a row is not a whole number of blocks of the tensor's type");
    uint64_t elements;
    if (__builtin_mul_overflow(rows, t->dims[0], &elements) || elements > INT64_MAX ||
        __builtin_mul_overflow(rows, kernels::weight_row_bytes(t->type, t->dims[0]), &t->bytes))
        return malformed(dims_offset, "the product of the dimensions overflows");

    const uint64_t offset_offset = cursor_.position();
    KEEL_TRY(u64(&t->offset));
    if (t->offset != next_tensor_)  // which is aligned
        return malformed(offset_offset, "the tensor does not begin at the aligned end of the one before it");
    // Bounds every sum below by the file's size, before the data section's own offset is known.
    if (t->offset > reader_.size_bytes || t->bytes > reader_.size_bytes - t->offset)
        return malformed(offset_offset, "the tensor's data reaches beyond the end of the file");
    if (!pad_up(t->offset + t->bytes, alignment_, &next_tensor_))
        return malformed(offset_offset, "the tensor's padded end overflows");
    t->interleaved = reader_.interleaved_rows && can_interleave(t->type, t->dim_count, t->dims);
    return KEEL_OK;
}

// Places the data section after the padded header. Tensors follow each other, so the last one's end bounds them all.
keel_status HeaderScan::data_section(const GgufTensor& last, GgufTensor* tensors, Gguf* g) {
    g->alignment = alignment_;
    g->file_bytes = reader_.size_bytes;
    const uint64_t header_bytes = cursor_.position();
    if (!pad_up(header_bytes, alignment_, &g->data_offset))
        return malformed(header_bytes, "the header's padded end overflows");
    if (g->tensor_count == 0) {  // a vocabulary-only file may end without the padding
        if (g->data_offset > g->file_bytes) g->data_offset = g->file_bytes;
        return KEEL_OK;
    }
    if (reader_.text_bytes > g->data_offset) return malformed(header_bytes, "packed text reaches into the tensors");
    if (g->data_offset > g->file_bytes || last.offset + last.bytes > g->file_bytes - g->data_offset)
        return malformed(header_bytes, "the file ends before the tensor data does");
    if (g->data_offset > limits_.max_metadata_bytes)
        return over_limit(header_bytes, "max_metadata_bytes", g->data_offset, limits_.max_metadata_bytes);
    for (uint32_t i = 0; tensors && i < g->tensor_count; ++i) tensors[i].offset += g->data_offset;
    return KEEL_OK;
}

// `entries` are sorted by hash: equal names are neighbours. Real bytes decide between a duplicate and two names with
// one hash, which lookups by hash could not tell apart.
template <class Entry, class KeyOffset>
keel_status HeaderScan::refuse_duplicates(const Entry* entries, uint32_t count, uint64_t Entry::*hash,
                                          uint32_t Entry::*bytes, KeyOffset key_offset) {
    for (uint32_t i = 1; i < count; ++i) {
        const Entry &a = entries[i - 1], &b = entries[i];
        if (a.*hash != b.*hash) continue;
        const uint64_t at_a = key_offset(a), at_b = key_offset(b);
        bool same = a.*bytes == b.*bytes;
        char name[kLabelBytes];
        const uint32_t name_bytes = b.*bytes < kLabelBytes ? b.*bytes : kLabelBytes;
        keel_status status = read_at(reader_, at_b, name, name_bytes);
        if (status == KEEL_OK && same) status = same_bytes(reader_, at_a, at_b, a.*bytes, &same);
        if (status != KEEL_OK) return refuse(status, at_b, "the reader failed");
        label(name, name_bytes);
        if (same) return malformed(at_a > at_b ? at_a : at_b, "the name appears twice");
        return refuse(KEEL_E_UNSUPPORTED, at_b, "two different names have the same hash");
    }
    return KEEL_OK;
}

keel_status HeaderScan::tensors(const Gguf& g, const GgufVisitor& visitor) {
    alignment_ = g.alignment;
    KEEL_TRY(skip(g.table_offset));
    for (uint32_t i = 0; i < g.tensor_count; ++i) {
        GgufTensor t;
        KEEL_TRY(tensor(&t));
        if (t.offset + t.bytes > g.file_bytes - g.data_offset)
            return refuse(KEEL_E_FILE_READ, 0, "the file changed between two passes");
        t.offset += g.data_offset;
        KEEL_TRY(visitor.tensor(visitor.context, t));
    }
    return KEEL_OK;
}

keel_status HeaderScan::run(GgufValue* values, GgufTensor* tensors, const GgufVisitor& visitor, Gguf* out) {
    if (reader_.interleaved_rows && reader_.interleaved_rows != kernels::kRepackRows)
        return fail(error_, KEEL_E_UNSUPPORTED, 0, "reader.interleaved_rows", "neither 0 nor 16");
    KEEL_TRY(check_text(reader_, error_));
    const bool place = values || tensors;
    Gguf g = {};
    KEEL_TRY(counts(&g));
    if (place && (g.value_count != out->value_count || g.tensor_count != out->tensor_count))
        return refuse(KEEL_E_FILE_READ, 8, "the file changed between two passes");
    if (place && ((!values && g.value_count) || (!tensors && g.tensor_count))) {
        label("tables");
        return refuse(KEEL_E_ARGUMENT, 0, "one table is missing");
    }

    GgufValue value_here;
    for (uint32_t i = 0; i < g.value_count; ++i) {
        GgufValue& v = values ? values[i] : value_here;
        KEEL_TRY(value(&v));
        if (visitor.value) KEEL_TRY(visitor.value(visitor.context, v));
    }
    g.table_offset = cursor_.position();
    GgufTensor last = {};
    for (uint32_t i = 0; i < g.tensor_count; ++i) {
        KEEL_TRY(tensor(&last));
        if (tensors) tensors[i] = last;
        if (visitor.tensor) KEEL_TRY(visitor.tensor(visitor.context, last));
    }
    KEEL_TRY(data_section(last, tensors, &g));
    label("header");
    g.values = values;
    g.tensors = tensors;
    if (gguf_fingerprint(reader_, g, &g.header_hash, &g.fingerprint) != KEEL_OK)
        return refuse(KEEL_E_FILE_READ, 0, "the reader failed");

    if (place) {
        if (g.header_hash != out->header_hash || g.file_bytes != out->file_bytes)
            return refuse(KEEL_E_FILE_READ, 0, "the file changed between two passes");
        heap_sort(values, g.value_count,
                  [](const GgufValue& a, const GgufValue& b) { return a.key_hash < b.key_hash; });
        KEEL_TRY(
            refuse_duplicates(values, g.value_count, &GgufValue::key_hash, &GgufValue::key_bytes, gguf_key_offset));
        // Tensors are sorted by hash for this test only, then back into file order.
        heap_sort(tensors, g.tensor_count,
                  [](const GgufTensor& a, const GgufTensor& b) { return a.name_hash < b.name_hash; });
        KEEL_TRY(refuse_duplicates(tensors, g.tensor_count, &GgufTensor::name_hash, &GgufTensor::name_bytes,
                                   [](const GgufTensor& t) { return t.name_offset; }));
        heap_sort(tensors, g.tensor_count,
                  [](const GgufTensor& a, const GgufTensor& b) { return a.name_offset < b.name_offset; });
    }
    *out = g;
    return KEEL_OK;
}

// ---- typed reads ----

// Finds `key` and tells whether there is anything to read.
const GgufValue* look_up(const Gguf& g, const char* key, bool* present) {
    const GgufValue* v = gguf_find(g, key);
    if (present) *present = v != nullptr;
    return v;
}

keel_status read_scalar(const keel_reader& reader, const GgufValue& v, const char* key, void* dst, keel_error* error) {
    if (read_at(reader, v.offset, dst, kScalarBytes[v.type]) == KEEL_OK) return KEEL_OK;
    return fail(error, KEEL_E_FILE_READ, v.offset, key, "the reader failed");
}

keel_status wrong_type(const GgufValue& v, const char* key, const char* reason, keel_error* error) {
    return fail(error, KEEL_E_FILE_FORMAT, v.offset, key, reason);
}

constexpr uint32_t type_bit(uint32_t type) {
    return 1u << type;
}
constexpr uint32_t kSignedTypes = type_bit(kGgufI8) | type_bit(kGgufI16) | type_bit(kGgufI32) | type_bit(kGgufI64);
constexpr uint32_t kIntegerTypes =
    kSignedTypes | type_bit(kGgufU8) | type_bit(kGgufU16) | type_bit(kGgufU32) | type_bit(kGgufU64);

}  // namespace

keel_status resolve_limits(const keel_limits* limits, keel_limits* out, keel_error* error) {
    keel_limits given = {};
    if (limits) KEEL_TRY(read_versioned(limits, &given, "limits", error));
    const auto or_default = [](auto value, auto fallback) { return value ? value : fallback; };
    *out = {};
    out->struct_size = sizeof *out;
    out->max_metadata_keys = or_default(given.max_metadata_keys, 4096u);
    out->max_tensors = or_default(given.max_tensors, 16384u);
    out->max_string_bytes = or_default(given.max_string_bytes, 1u << 20);
    out->max_array_elements = or_default(given.max_array_elements, 4194304u);
    out->max_name_bytes = or_default(given.max_name_bytes, 255u);
    out->max_layers = or_default(given.max_layers, 512u);
    out->max_vocabulary = or_default(given.max_vocabulary, 1048576u);
    out->max_alignment_bytes = or_default(given.max_alignment_bytes, 65536u);
    out->max_dimension = or_default(given.max_dimension, 1u << 30);
    out->max_metadata_bytes = or_default(given.max_metadata_bytes, uint64_t{256} << 20);
    return KEEL_OK;
}

keel_status gguf_scan(const keel_reader& reader, const keel_limits& limits, GgufValue* values, GgufTensor* tensors,
                      Gguf* out, keel_error* error) {
    return HeaderScan(reader, limits, error).run(values, tensors, {}, out);
}

keel_status gguf_visit(const keel_reader& reader, const keel_limits& limits, const GgufVisitor& visitor, Gguf* out,
                       keel_error* error) {
    return HeaderScan(reader, limits, error).run(nullptr, nullptr, visitor, out);
}

keel_status gguf_visit_tensors(const keel_reader& reader, const keel_limits& limits, const Gguf& g,
                               const GgufVisitor& visitor, keel_error* error) {
    return HeaderScan(reader, limits, error).tensors(g, visitor);
}

bool can_interleave(uint32_t weight_type, uint32_t dim_count, const uint64_t* dims) {
    return kernels::kWeightTypes[weight_type].activation_block != 0 && dim_count >= 2 &&
           dims[1] % kernels::kRepackRows == 0;
}

keel_status read_rows(const keel_reader& reader, const GgufTensor& t, uint64_t row, uint64_t rows, uint64_t first,
                      uint64_t count, void* dst) {
    constexpr uint32_t kRows = kernels::kRepackRows;
    const auto type = static_cast<kernels::WeightType>(t.type);
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[type];
    const uint64_t row_blocks = t.dims[0] / info.block_elements, bytes = count * info.block_bytes;
    uint8_t* to = static_cast<uint8_t*>(dst);
    // Blocks of the file before block b of row r, or of the group that begins with row r.
    const auto offset = [&](uint64_t r, uint64_t b) { return t.offset + (r * row_blocks + b) * info.block_bytes; };
    if (!t.interleaved) {
        if (count == row_blocks) return read_at(reader, offset(row, 0), to, rows * bytes);
        for (uint64_t r = 0; r < rows; ++r) KEEL_TRY(read_at(reader, offset(row + r, first), to + r * bytes, bytes));
        return KEEL_OK;
    }
    uint8_t packed[16 * 1024];
    const uint64_t step = sizeof packed / (kRows * info.block_bytes);
    for (uint64_t group = 0; group < rows; group += kRows)
        for (uint64_t b = 0; b < count; b += step) {
            const uint32_t n = static_cast<uint32_t>(count - b < step ? count - b : step);
            KEEL_TRY(read_at(reader, offset(row + group, kRows * (first + b)), packed,
                             uint64_t{kRows} * n * info.block_bytes));
            for (uint32_t r = 0; r < kRows; ++r)
                kernels::unpack_row(type, packed, r, 0, n, to + (group + r) * bytes + b * info.block_bytes);
        }
    return KEEL_OK;
}

keel_status read_tensor(const keel_reader& reader, const GgufTensor& t, uint64_t at, void* dst, uint64_t bytes) {
    if (!t.interleaved) return read_at(reader, t.offset + at, dst, bytes);
    constexpr uint64_t kRows = kernels::kRepackRows;
    const kernels::WeightTypeInfo& info = kernels::kWeightTypes[t.type];
    const uint64_t row_blocks = t.dims[0] / info.block_elements, group_bytes = kRows * row_blocks * info.block_bytes;
    uint8_t column[kRows * kernels::kMostBlockBytes];  // a block of each row of a group
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint64_t n; bytes; to += n, at += n, bytes -= n) {
        const uint64_t index = at / info.block_bytes, row = index / row_blocks, in_group = row % kRows;
        if (at % group_bytes == 0 && bytes >= group_bytes) {
            n = bytes / group_bytes * group_bytes;
            KEEL_TRY(read_rows(reader, t, row, n / group_bytes * kRows, 0, row_blocks, to));
            continue;
        }
        KEEL_TRY(read_rows(reader, t, row - in_group, kRows, index % row_blocks, 1, column));
        const uint64_t skip = at % info.block_bytes, left = info.block_bytes - skip;
        n = bytes < left ? bytes : left;
        memcpy(to, column + in_group * info.block_bytes + skip, n);
    }
    return KEEL_OK;
}

keel_status hash_tensor_sample(const keel_reader& reader, const GgufTensor& t, uint64_t number, uint64_t* state) {
    const uint64_t n = t.bytes < kSampleBytes ? t.bytes : kSampleBytes;
    char sample[kSampleBytes];
    KEEL_TRY(read_tensor(reader, t, hash_finish(number) % (t.bytes - n + 1), sample, n));
    *state = hash_update(*state, sample, n);
    return KEEL_OK;
}

keel_status gguf_fingerprint(const keel_reader& reader, const Gguf& g, uint64_t* header_hash, uint64_t* fingerprint) {
    KEEL_TRY(hash_head(reader, g.data_offset, header_hash));
    *fingerprint = 0;
    if (!g.tensors && g.tensor_count) return KEEL_OK;
    uint64_t state = hash_update(kHashSeed, reinterpret_cast<const char*>(header_hash), sizeof *header_hash);
    for (uint32_t i = 0; i < g.tensor_count; ++i) KEEL_TRY(hash_tensor_sample(reader, g.tensors[i], i, &state));
    *fingerprint = hash_finish(state);
    return KEEL_OK;
}

uint32_t gguf_scalar_bytes(uint32_t value_type) {
    return value_type < kGgufValueTypeCount ? kScalarBytes[value_type] : 0;
}

const GgufValue* gguf_find(const Gguf& g, const char* key) {
    const uint64_t hash = hash64(key, strlen(key));
    uint32_t low = 0, high = g.value_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (g.values[middle].key_hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low < g.value_count && g.values[low].key_hash == hash ? &g.values[low] : nullptr;
}

keel_status gguf_u32(const keel_reader& reader, const Gguf& g, const char* key, uint32_t* out, bool* present,
                     keel_error* error) {
    const GgufValue* v = look_up(g, key, present);
    if (!v) return KEEL_OK;
    if (!(type_bit(v->type) & kIntegerTypes)) return wrong_type(*v, key, "the value is not an integer", error);
    uint64_t number = 0;
    KEEL_TRY(read_scalar(reader, *v, key, &number, error));
    // A negative number has its own sign bit set, wherever that is; as none fits, no sign extension is needed.
    const bool negative = (type_bit(v->type) & kSignedTypes) && number >> (8 * kScalarBytes[v->type] - 1);
    if (negative || number > UINT32_MAX) return wrong_type(*v, key, "the value does not fit 32 unsigned bits", error);
    *out = static_cast<uint32_t>(number);
    return KEEL_OK;
}

keel_status gguf_f32(const keel_reader& reader, const Gguf& g, const char* key, float* out, bool* present,
                     keel_error* error) {
    const GgufValue* v = look_up(g, key, present);
    if (!v) return KEEL_OK;
    double number = 0;
    if (v->type == kGgufF32) {
        float narrow;
        KEEL_TRY(read_scalar(reader, *v, key, &narrow, error));
        number = narrow;
    } else if (v->type == kGgufF64) {
        KEEL_TRY(read_scalar(reader, *v, key, &number, error));
    } else {
        return wrong_type(*v, key, "the value is not a floating-point number", error);
    }
    if (!(number >= -FLT_MAX && number <= FLT_MAX)) return wrong_type(*v, key, "the value is not a finite f32", error);
    *out = static_cast<float>(number);
    return KEEL_OK;
}

keel_status gguf_bool(const keel_reader& reader, const Gguf& g, const char* key, bool* out, bool* present,
                      keel_error* error) {
    const GgufValue* v = look_up(g, key, present);
    if (!v) return KEEL_OK;
    if (v->type != kGgufBool) return wrong_type(*v, key, "the value is not a boolean", error);
    uint8_t byte;
    KEEL_TRY(read_scalar(reader, *v, key, &byte, error));
    *out = byte != 0;
    return KEEL_OK;
}

keel_status gguf_string(const keel_reader& reader, const Gguf& g, const char* key, char* dst, uint32_t capacity,
                        uint64_t* bytes, bool* present, keel_error* error) {
    const GgufValue* v = look_up(g, key, present);
    if (!v) return KEEL_OK;
    if (v->type != kGgufString) return wrong_type(*v, key, "the value is not a string", error);
    if (capacity) {
        const uint64_t n = v->bytes < capacity ? v->bytes : capacity - 1;
        if (read_at(reader, v->offset, dst, n) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, v->offset, key, "the reader failed");
        dst[n] = 0;
    }
    if (bytes) *bytes = v->bytes;
    return KEEL_OK;
}

keel_status GgufStringCursor::next(uint64_t* bytes) {
    if (left_ == 0) return KEEL_E_FILE_FORMAT;
    uint64_t length;
    KEEL_TRY(cursor_.u64(&length));
    if (length > cursor_.remaining()) return KEEL_E_FILE_FORMAT;
    --left_;
    *bytes = pending_ = length;
    return KEEL_OK;
}

}  // namespace keel
