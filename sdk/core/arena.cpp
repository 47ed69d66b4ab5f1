#include "sdk/core/arena.h"

namespace keel {

Arena::Arena(void* base, uint64_t capacity_bytes) : base_(static_cast<uint8_t*>(base)), capacity_(capacity_bytes) {}

bool Arena::reserve(uint64_t bytes, uint64_t align, uint64_t* at) {
    if (sealed_) {
        ++refused_;
        ok_ = false;
        return false;
    }
    if (align > max_align_) max_align_ = align;
    const uint64_t offset = (used_ + align - 1) & ~(align - 1);
    if (!ok_ || offset < used_ || bytes > UINT64_MAX - offset || (base_ && offset + bytes > capacity_)) {
        ok_ = false;
        return false;
    }
    padding_ += offset - used_;
    used_ = offset + bytes;
    *at = offset;
    return true;
}

void* Arena::place_bytes(uint64_t bytes, uint64_t align) {
    uint64_t offset;
    return reserve(bytes, align, &offset) && base_ ? base_ + offset : nullptr;
}

uint64_t Arena::place_offset(uint64_t bytes, uint64_t align) {
    uint64_t offset;
    return reserve(bytes, align, &offset) ? offset : 0;
}

}  // namespace keel
