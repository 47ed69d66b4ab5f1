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

// A bounded text builder for log lines and notes: appends, never overflows, always NUL-terminated. No stdio, no locale.
class TextBuilder {
  public:
    TextBuilder(char* dst, size_t capacity) : dst_(dst), capacity_(capacity) {
        if (capacity_) dst_[0] = 0;
    }
    TextBuilder& text(const char* s);
    TextBuilder& text(const char* s, size_t n);
    TextBuilder& number(uint64_t v);
    size_t size() const { return size_; }

  private:
    char* dst_;
    size_t capacity_, size_ = 0;
};

// Copies a public struct of which the caller may know an older (shorter) or newer (longer) version into `dst`, a
// zero-initialised struct of this library's size. KEEL_E_ABI when a longer one carries non-zero bytes this library does
// not know, or when struct_size is smaller than the struct_size field itself.
keel_status read_versioned(const void* src, void* dst, size_t dst_bytes);
// Writes `src` (this library's struct, struct_size bytes) to a caller's struct, cut to the caller's struct_size, which
// is kept; fields of a newer caller that this library does not know become zero. KEEL_E_ABI when the caller's
// struct_size is smaller than the field itself.
keel_status write_versioned(const void* src, size_t src_bytes, void* dst);

#define KEEL_TRY(expression)                                      \
    do {                                                          \
        const keel_status keel_try_status_ = (expression);        \
        if (keel_try_status_ != KEEL_OK) return keel_try_status_; \
    } while (0)

}  // namespace keel
