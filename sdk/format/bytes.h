// Checked access to a reader: every read goes through here, so bounds are tested in one place.
#pragma once
#include "keel/keel.h"

namespace keel {

// Copies `bytes` at `offset`; KEEL_E_FILE_READ when the range is outside the file or the reader fails.
keel_status read_at(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes);

// Of a reader of a coded file (coded.h) bytes as they are stored; of any other the same as read_at.
keel_status read_stored(const keel_reader& reader, uint64_t offset, void* dst, uint64_t bytes);
inline uint64_t stored_bytes(const keel_reader& reader) {
    return reader.coded_bytes ? reader.coded_bytes : reader.size_bytes;
}
// The file at one address, or null.
inline const void* mapped_file(const keel_reader& reader) {
    return reader.coded_bytes ? nullptr : reader.mapped;
}

// The range [offset, offset + bytes) of `whole` as a reader of its own; false when it is outside, and of a coded file.
// *out may be `whole`.
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
