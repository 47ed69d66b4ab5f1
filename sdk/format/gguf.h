// GGUF v2/v3: bytes in, a validated view out. One streaming pass over the header checks everything (magic, version,
// counts, lengths, types, alignment, offsets, sizes, duplicates) against the file and keel_limits before anything uses
// it. The view points to nothing: it holds offsets, which stay valid for the reader it was made from.
#pragma once
#include <stdint.h>

#include "keel/keel.h"
#include "kernels/formats/weight_types.h"
#include "sdk/format/bytes.h"

namespace keel {

enum GgufValueType : uint32_t {
    kGgufU8 = 0,
    kGgufI8,
    kGgufU16,
    kGgufI16,
    kGgufU32,
    kGgufI32,
    kGgufF32,
    kGgufBool,
    kGgufString,
    kGgufArray,
    kGgufU64,
    kGgufI64,
    kGgufF64,
    kGgufValueTypeCount
};

// Where a metadata value lies in the file.
struct GgufValue {
    uint64_t key_hash;      // hash64 of the key bytes
    uint64_t offset;        // of the value's bytes: scalar, string bytes, or first array element
    uint64_t count;         // string: bytes; array: elements; scalar: 1
    uint64_t bytes;         // extent of the value from offset
    uint32_t type;          // GgufValueType; for arrays kGgufArray
    uint32_t element_type;  // arrays: type of the elements, never kGgufArray
    uint32_t key_bytes;     // length of the key, see gguf_key_offset
    uint32_t reserved;
};

struct GgufTensor {
    uint64_t name_hash;
    uint64_t name_offset;  // of the name's bytes
    uint32_t name_bytes;
    uint32_t type;         // kernels::WeightType
    uint32_t dim_count;    // 1..4
    uint32_t interleaved;  // 1: rows in groups of 16, as kernels/formats/repack.h lays them; 0: plain
    uint64_t dims[4];      // dims[0] is the row length (fastest); unused ones are 1
    uint64_t offset;       // absolute, in the file
    uint64_t bytes;        // from dims and type; offset + bytes <= file size
};

// The view: fixed header, then values, then tensors, in one caller buffer.
struct Gguf {
    uint32_t version, alignment;
    uint64_t file_bytes, data_offset;
    uint64_t table_offset;  // of the descriptions of the tensors, in the header
    uint64_t header_hash;   // of bytes [0, data_offset)
    uint64_t fingerprint;   // of header and weights (gguf_fingerprint); 0 after pass 1
    uint32_t value_count, tensor_count;
    GgufValue* values;    // sorted by key_hash
    GgufTensor* tensors;  // in file order
};

// Pass 1 (`values` and `tensors` null): walks the header, fills everything in *out but the two tables, whose sizes it
// counts. Pass 2 (a table may be null only where its count is 0): takes *out as pass 1 left it, with room for the
// counts in it, fills and sorts the tables and refuses duplicates; a file that changed in between is KEEL_E_FILE_READ.
// `limits` come from resolve_limits. *out is untouched on error. Errors name the key, the tensor or the limit, and the
// offset: KEEL_E_FILE_READ when the reader fails, KEEL_E_FILE_FORMAT also for a file that ends early,
// KEEL_E_FILE_LIMIT, KEEL_E_UNSUPPORTED for other versions, byte order, nested arrays, tensor types without kernels.
keel_status gguf_scan(const keel_reader& reader, const keel_limits& limits, GgufValue* values, GgufTensor* tensors,
                      Gguf* out, keel_error* error);

// For files that are used without tables. Each function returns KEEL_OK to go on; what else it returns ends the walk.
struct GgufVisitor {
    keel_status (*value)(void* context, const GgufValue& value);     // may be null
    keel_status (*tensor)(void* context, const GgufTensor& tensor);  // may be null
    void* context;
};
// As pass 1, but shows every value and every tensor; a tensor's offset is within the data section. Does not see names
// that appear twice.
keel_status gguf_visit(const keel_reader& reader, const keel_limits& limits, const GgufVisitor& visitor, Gguf* out,
                       keel_error* error);
// Shows the tensors of a file once more, with their offsets in the file. `g`: what pass 1 or gguf_visit said of it.
keel_status gguf_visit_tensors(const keel_reader& reader, const keel_limits& limits, const Gguf& g,
                               const GgufVisitor& visitor, keel_error* error);

// The hash of the header, and of it and kSampleBytes of every tensor (all of a smaller one), at a place that depends on
// the number of the tensor alone: two files of one header whose weights differ as those of two models do have different
// fingerprints. Reads [0, data_offset) and the samples.
constexpr uint32_t kSampleBytes = 256;
keel_status gguf_fingerprint(const keel_reader& reader, const Gguf& g, uint64_t* header_hash, uint64_t* fingerprint);

// Whether the rows of such a tensor are interleaved where a reader's are (keel_reader.interleaved_rows).
bool can_interleave(uint32_t weight_type, uint32_t dim_count, const uint64_t* dims);
// Bytes [at, at + bytes) of a tensor as a plain file has them. Of an interleaved one 16 times what is asked for is read
// where it is no whole group of rows.
keel_status read_tensor(const keel_reader& reader, const GgufTensor& t, uint64_t at, void* dst, uint64_t bytes);
// The same of blocks [first, first + count) of rows [row, row + rows), into dst [rows][count]. Of an interleaved tensor
// whole groups of rows.
keel_status read_rows(const keel_reader& reader, const GgufTensor& t, uint64_t row, uint64_t rows, uint64_t first,
                      uint64_t count, void* dst);
// Goes on with a hash over kSampleBytes of tensor `number` (all of a smaller one), at a place that depends on `number`.
keel_status hash_tensor_sample(const keel_reader& reader, const GgufTensor& t, uint64_t number, uint64_t* state);

// Limits with defaults filled in from a possibly null, possibly shorter struct. KEEL_E_ABI.
keel_status resolve_limits(const keel_limits* limits, keel_limits* out, keel_error* error = nullptr);

// Where the bytes of a value's key lie: they come right before the value's type and lengths.
inline uint64_t gguf_key_offset(const GgufValue& v) {
    const uint64_t prefix_bytes = v.type == kGgufArray ? 4 + 4 + 8 : v.type == kGgufString ? 4 + 8 : 4;
    return v.offset - prefix_bytes - v.key_bytes;
}
// Bytes of one scalar; 0 for strings, arrays and numbers that are no type.
uint32_t gguf_scalar_bytes(uint32_t value_type);

// Lookup by key; null when absent.
const GgufValue* gguf_find(const Gguf& g, const char* key);

// Typed reads. When the key is absent they return KEEL_OK and leave *out alone, so *out may hold a fallback; `present`
// (may be null) tells. A present key of a wrong type is KEEL_E_FILE_FORMAT naming it. Any unsigned or signed integer
// type is accepted where the value fits; floats must be finite.
keel_status gguf_u32(const keel_reader&, const Gguf&, const char* key, uint32_t* out, bool* present, keel_error*);
keel_status gguf_f32(const keel_reader&, const Gguf&, const char* key, float* out, bool* present,
                     keel_error*);  // f32 or f64
keel_status gguf_bool(const keel_reader&, const Gguf&, const char* key, bool* out, bool* present, keel_error*);
// Copies the string, cut to capacity - 1, NUL-terminated; *bytes is its full length.
keel_status gguf_string(const keel_reader&, const Gguf&, const char* key, char* dst, uint32_t capacity, uint64_t* bytes,
                        bool* present, keel_error*);

// Iterates an array of strings: next() gives length and leaves the cursor at the bytes, which the caller reads or
// skips.
class GgufStringCursor {
  public:
    GgufStringCursor(const keel_reader& reader, const GgufValue& array)
        : cursor_(reader, array.offset, array.offset + array.bytes), left_(array.count) {}
    uint64_t left() const { return left_; }
    // Reads the next string's length; then call read(dst) or skip() exactly once.
    keel_status next(uint64_t* bytes);
    keel_status read(void* dst) { return cursor_.read(dst, pending_); }
    keel_status skip() { return cursor_.skip(pending_); }

  private:
    ByteCursor cursor_;
    uint64_t left_, pending_ = 0;
};

}  // namespace keel
