#include "sdk/format/bytes.h"

#include <string.h>

#include <bit>

#include "sdk/core/status.h"
#include "sdk/format/coded.h"

namespace keel {

// Every format Keel reads is little endian and is copied straight into host integers.
static_assert(std::endian::native == std::endian::little);

keel_status read_at(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes) {
    if (offset > reader.size_bytes || bytes > reader.size_bytes - offset || bytes > SIZE_MAX) return KEEL_E_FILE_READ;
    uint8_t* to = static_cast<uint8_t*>(dst);
    if (offset < reader.text_bytes) {
        if (!reader.text) return KEEL_E_FILE_READ;
        const uint64_t left = reader.text_bytes - offset, n = bytes < left ? bytes : left;
        memcpy(to, static_cast<const uint8_t*>(reader.text) + offset, n);
        to += n;
        offset += n;
        bytes -= n;
        if (bytes == 0) return KEEL_OK;
    }
    offset -= reader.text_bytes;
    return reader.coded_bytes ? read_coded(reader, offset, to, bytes) : read_stored(reader, offset, to, bytes);
}

keel_status read_stored(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes) {
    const uint64_t size = stored_bytes(reader);
    if (offset > size || bytes > size - offset || bytes > SIZE_MAX) return KEEL_E_FILE_READ;
    if (bytes == 0) return KEEL_OK;
    offset += reader.text_stored_bytes;
    // The function first: it can say that bytes are missing; a mapping of a file that was cut short faults.
    if (reader.read_at)
        return reader.read_at(reader.user_data, reader.begin_bytes + offset, dst, bytes) == KEEL_OK ? KEEL_OK
                                                                                                    : KEEL_E_FILE_READ;
    if (!reader.mapped) return KEEL_E_FILE_READ;
    memcpy(dst, static_cast<const uint8_t*>(reader.mapped) + offset, bytes);
    return KEEL_OK;
}

keel_status check_text(const keel_reader& reader, keel_error* error) {
    if (reader.text_bytes == 0) return KEEL_OK;
    if (reader.text_bytes > reader.size_bytes)
        return fail(error, KEEL_E_ARGUMENT, 0, "reader.text_bytes", "more than the file has");
    if (!reader.text)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "reader.text",
                    "packed with zstd, and not expanded: keel_pack_expand_text of keel::pack");
    return KEEL_OK;
}

bool reader_part(const keel_reader& whole, uint64_t offset, uint64_t bytes, keel_reader* out) {
    if (whole.coded_bytes || whole.text_bytes) return false;
    if (offset > whole.size_bytes || bytes > whole.size_bytes - offset) return false;
    if (whole.read_at && whole.begin_bytes > UINT64_MAX - whole.size_bytes) return false;
    *out = whole;
    out->size_bytes = bytes;
    out->begin_bytes += offset;
    if (whole.mapped) out->mapped = static_cast<const uint8_t*>(whole.mapped) + offset;
    out->part = 1;
    return true;
}

// Short reads come out of the window, which is refilled from the current position; a read of a whole window or more
// goes straight to its destination.
keel_status ByteCursor::read(void* dst, uint64_t bytes) {
    if (bytes > remaining()) return KEEL_E_FILE_FORMAT;
    uint8_t* to = static_cast<uint8_t*>(dst);
    while (bytes) {
        if (position_ < window_begin_ || position_ >= window_end_) {
            if (bytes >= kWindowBytes) {
                KEEL_TRY(read_at(*reader_, position_, to, bytes));
                position_ += bytes;
                return KEEL_OK;
            }
            const uint64_t fill = remaining() < kWindowBytes ? remaining() : kWindowBytes;
            window_begin_ = window_end_ = 0;
            KEEL_TRY(read_at(*reader_, position_, window_, fill));
            window_begin_ = position_;
            window_end_ = position_ + fill;
        }
        const uint64_t in_window = window_end_ - position_;
        const uint64_t n = bytes < in_window ? bytes : in_window;
        memcpy(to, window_ + (position_ - window_begin_), n);
        to += n;
        position_ += n;
        bytes -= n;
    }
    return KEEL_OK;
}

keel_status ByteCursor::skip(uint64_t bytes) {
    if (bytes > remaining()) return KEEL_E_FILE_FORMAT;
    position_ += bytes;
    return KEEL_OK;
}

}  // namespace keel
