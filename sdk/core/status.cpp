#include "sdk/core/status.h"

#include <string.h>

#include "keel/keel.h"

namespace keel {

keel_status fail(keel_error* error, keel_status status, uint64_t offset, const char* field, size_t field_bytes,
                 const char* reason) {
    if (!error) return status;
    keel_error e = {};
    e.struct_size = sizeof e;
    e.status = status;
    e.offset = offset;
    for (size_t i = 0; i < field_bytes && i + 1 < sizeof e.field; ++i)
        e.field[i] = field[i] >= 0x20 && field[i] < 0x7f ? field[i] : '?';
    TextBuilder(e.reason, sizeof e.reason).text(reason);
    write_versioned(e, error);
    return status;
}

keel_status fail(keel_error* error, keel_status status, uint64_t offset, const char* field, const char* reason) {
    return fail(error, status, offset, field, strlen(field), reason);
}

keel_status fail_range(keel_error* error, const char* field, int64_t value, int64_t low, int64_t high) {
    char reason[sizeof(keel_error::reason)];
    TextBuilder(reason, sizeof reason).integer(value).text(" is not within ").integer(low).text(" and ").integer(high);
    return fail(error, KEEL_E_ARGUMENT, 0, field, reason);
}

TextBuilder& TextBuilder::text(const char* s, size_t n) {
    for (size_t i = 0; i < n && size_ + 1 < capacity_; ++i) dst_[size_++] = s[i];
    if (capacity_) dst_[size_] = 0;
    return *this;
}
TextBuilder& TextBuilder::text(const char* s) {
    return text(s, strlen(s));
}
TextBuilder& TextBuilder::number(uint64_t v) {
    char digits[20];
    size_t n = 0;
    do digits[sizeof digits - ++n] = static_cast<char>('0' + v % 10);
    while (v /= 10);
    return text(digits + sizeof digits - n, n);
}

keel_status read_struct(const void* src, uint32_t src_bytes, void* dst, size_t dst_bytes) {
    if (!plausible_struct_bytes(src_bytes, dst_bytes)) return KEEL_E_ABI;
    for (size_t i = dst_bytes; i < src_bytes; ++i)
        if (static_cast<const uint8_t*>(src)[i]) return KEEL_E_ABI;
    memset(dst, 0, dst_bytes);
    memcpy(dst, src, src_bytes < dst_bytes ? src_bytes : dst_bytes);
    return KEEL_OK;
}

keel_status write_struct(const void* src, size_t src_bytes, void* dst, uint32_t dst_bytes) {
    if (!plausible_struct_bytes(dst_bytes, src_bytes)) return KEEL_E_ABI;
    memcpy(dst, src, dst_bytes < src_bytes ? dst_bytes : src_bytes);
    if (dst_bytes > src_bytes) memset(static_cast<uint8_t*>(dst) + src_bytes, 0, dst_bytes - src_bytes);
    memcpy(dst, &dst_bytes, sizeof dst_bytes);  // every versioned struct begins with it
    return KEEL_OK;
}

}  // namespace keel

extern "C" {

const char* keel_status_name(keel_status status) {
    switch (status) {
#define KEEL_STATUS_CASE(symbol, number, text) \
    case symbol:                               \
        return #symbol;
        KEEL_STATUS_LIST(KEEL_STATUS_CASE)
#undef KEEL_STATUS_CASE
    }
    return "KEEL_E_UNKNOWN";
}

const char* keel_status_text(keel_status status) {
    switch (status) {
#define KEEL_STATUS_CASE(symbol, number, text) \
    case symbol:                               \
        return text;
        KEEL_STATUS_LIST(KEEL_STATUS_CASE)
#undef KEEL_STATUS_CASE
    }
    return "a number this library does not know";
}

uint32_t keel_version(void) {
    return KEEL_VERSION_MAJOR << 16 | KEEL_VERSION_MINOR << 8 | KEEL_VERSION_PATCH;
}

}  // extern "C"
