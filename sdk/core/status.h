// Internal helpers over the public status codes: error detail, early return.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "keel/keel.h"

namespace keel {

// Fills *error (may be null) and returns `status`. `field` and `reason` are cut to fit; neither is formatted with
// stdio. field_bytes: length of `field`, which need not end in NUL (names come from files). Bytes outside printable
// ASCII in `field` are written as '?'.
keel_status fail(keel_error* error, keel_status status, uint64_t offset, const char* field, size_t field_bytes,
                 const char* reason);
keel_status fail(keel_error* error, keel_status status, uint64_t offset, const char* field, const char* reason);
// KEEL_E_ARGUMENT: "7 is not within 0 and 5".
keel_status fail_range(keel_error* error, const char* field, int64_t value, int64_t low, int64_t high);

// A bounded text builder for log lines and notes: appends, never overflows, always NUL-terminated. No stdio, no locale.
class TextBuilder {
  public:
    TextBuilder(char* dst, size_t capacity) : dst_(dst), capacity_(capacity) {
        if (capacity_) dst_[0] = 0;
    }
    TextBuilder& text(const char* s);
    TextBuilder& text(const char* s, size_t n);
    TextBuilder& number(uint64_t v);
    TextBuilder& integer(int64_t v) { return v < 0 ? text("-").number(-static_cast<uint64_t>(v)) : number(v); }
    size_t size() const { return size_; }

  private:
    char* dst_;
    size_t capacity_, size_ = 0;
};

#define KEEL_TRY(expression)                                      \
    do {                                                          \
        const keel_status keel_try_status_ = (expression);        \
        if (keel_try_status_ != KEEL_OK) return keel_try_status_; \
    } while (0)

// ---- versioned structs: what a caller built with an older or a newer keel.h hands over ----

// How much larger than this library's a newer caller's struct may be. A struct_size beyond it is none: the caller left
// the field unset, and the bytes behind the struct are something else.
constexpr uint32_t kMostGrowthBytes = 256;
constexpr bool plausible_struct_bytes(uint32_t bytes, size_t known_bytes) {
    return bytes >= sizeof(uint32_t) && bytes <= known_bytes + kMostGrowthBytes;
}
// KEEL_E_ABI before anything is done, for structs that are written at the end; null is left to the caller.
template <class T>
keel_status check_versioned(const T* s) {
    return !s || plausible_struct_bytes(s->struct_size, sizeof *s) ? KEEL_OK : KEEL_E_ABI;
}

// The first `src_bytes` bytes of a caller's struct into `dst`, this library's struct of `dst_bytes`: missing tail
// fields become zero. KEEL_E_ABI when bytes beyond dst_bytes are not zero, or src_bytes is not plausible.
keel_status read_struct(const void* src, uint32_t src_bytes, void* dst, size_t dst_bytes);
// This library's struct into a caller's, cut to the caller's struct_size, which is kept; fields this library does not
// know become zero. KEEL_E_ABI when dst_bytes is not plausible: nothing is written then.
keel_status write_struct(const void* src, size_t src_bytes, void* dst, uint32_t dst_bytes);

// Element i of an array of versioned structs, the first one's struct_size being the distance between them; or one
// struct. KEEL_E_ABI also when a reserved field is not zero: it may mean something to a newer library.
template <class T>
keel_status read_versioned(const T* first, T* dst, uint32_t i = 0) {
    const uint32_t stride_bytes = first->struct_size;
    const uint8_t* src = reinterpret_cast<const uint8_t*>(first) + uint64_t{i} * stride_bytes;
    KEEL_TRY(read_struct(src, stride_bytes, dst, sizeof *dst));
    if constexpr (requires { dst->reserved; })
        if (dst->reserved) return KEEL_E_ABI;
    return KEEL_OK;
}
// The same with a reason for *error; field: what the caller calls it.
template <class T>
keel_status read_versioned(const T* src, T* dst, const char* field, keel_error* error) {
    const keel_status status = read_versioned(src, dst);
    return status == KEEL_OK
               ? KEEL_OK
               : fail(error, status, 0, field, "struct_size or a reserved field does not fit this library");
}
template <class T>
keel_status write_versioned(const T& src, T* first, uint32_t i = 0) {
    const uint32_t stride_bytes = first->struct_size;
    return write_struct(&src, sizeof src, reinterpret_cast<uint8_t*>(first) + uint64_t{i} * stride_bytes, stride_bytes);
}

}  // namespace keel
