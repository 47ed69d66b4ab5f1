// Checked access to a reader: every read goes through here, so bounds are tested in one place.
#pragma once
#include "keel/keel.h"

namespace keel {

// Copies `bytes` at `offset`; KEEL_E_FILE_READ when the range is outside the file or the reader fails.
keel_status read_at(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes);

// What follows the text of a file (keel_reader.text_bytes, often 0), as it is stored: of a coded file (coded.h) its
// section, of any other its bytes. `offset` counts from the end of the text.
keel_status read_stored(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes);
inline uint64_t plain_rest_bytes(const keel_reader& reader) {
    return reader.size_bytes - reader.text_bytes;
}
inline uint64_t stored_bytes(const keel_reader& reader) {
    return reader.coded_bytes ? reader.coded_bytes : plain_rest_bytes(reader);
}
// Where byte `offset` of a mapped file lies: one that is not coded, and behind the text.
inline const uint8_t* mapped_at(const keel_reader& reader, uint64_t offset) {
    return static_cast<const uint8_t*>(reader.mapped) + reader.text_stored_bytes + (offset - reader.text_bytes);
}

// Before a reader is used: KEEL_E_UNSUPPORTED where its text is packed and was not expanded, KEEL_E_ARGUMENT for more
// text than the file has.
keel_status check_text(const keel_reader& reader, keel_error* error);

// The range [offset, offset + bytes) of `whole` as a reader of its own; false when it is outside, and of a file that is
// coded or has packed text. *out may be `whole`.
bool reader_part(const keel_reader& whole, uint64_t offset, uint64_t bytes, keel_reader* out);

// Sequential reading through a small window on the stack, so that a reader callback sees few calls. Covers [offset,
// end), offset <= end. Asking beyond `end` is KEEL_E_FILE_FORMAT (what is read is longer than its container); a reader
// that fails is KEEL_E_FILE_READ.
class ByteCursor {
  public:
    ByteCursor(const keel_reader& reader, uint64_t offset, uint64_t end)
        : reader_(&reader), position_(offset), end_(end) {}
    uint64_t position() const { return position_; }
    uint64_t remaining() const { return end_ - position_; }
    keel_status read(void* dst, uint64_t bytes);
    keel_status skip(uint64_t bytes);
    keel_status u32(uint32_t* v) { return read(v, 4); }
    keel_status u64(uint64_t* v) { return read(v, 8); }

  private:
    static constexpr uint32_t kWindowBytes = 4096;
    const keel_reader* reader_;
    uint64_t position_, end_;
    uint64_t window_begin_ = 0, window_end_ = 0;
    uint8_t window_[kWindowBytes];
};

}  // namespace keel
