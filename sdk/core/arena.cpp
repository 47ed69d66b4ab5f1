#include "sdk/core/arena.h"

namespace keel {

Arena::Arena(void* base, uint64_t capacity_bytes) : base_(static_cast<uint8_t*>(base)), capacity_(capacity_bytes) {}

void* Arena::place_bytes(uint64_t bytes, uint64_t align) {
    if (sealed_) {
        ++refused_;
        ok_ = false;
        return nullptr;
    }
    if (align > max_align_) max_align_ = align;
    const uint64_t offset = (used_ + align - 1) & ~(align - 1);
    if (!ok_ || offset < used_ || bytes > UINT64_MAX - offset || (base_ && offset + bytes > capacity_)) {
        ok_ = false;
        return nullptr;
    }
    padding_ += offset - used_;
    used_ = offset + bytes;
    return base_ ? base_ + offset : nullptr;
}

}  // namespace keel
