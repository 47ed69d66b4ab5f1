#include "sdk/core/arena.h"

#ifdef KEEL_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace keel {

void poison([[maybe_unused]] void* data, [[maybe_unused]] uint64_t bytes) {
#ifdef KEEL_ADDRESS_SANITIZER
    __asan_poison_memory_region(data, bytes);
#endif
}
void unpoison([[maybe_unused]] void* data, [[maybe_unused]] uint64_t bytes) {
#ifdef KEEL_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(data, bytes);
#endif
}

Arena::Arena(void* base, uint64_t capacity_bytes)
    : base_(static_cast<uint8_t*>(base)), capacity_(capacity_bytes), counting_(false) {}

bool Arena::reserve(const char* name, uint64_t bytes, uint64_t align, int32_t index, uint64_t* at) {
    if (sealed_) {
        ++refused_;
        ok_ = false;
        return false;
    }
    if (align > max_align_) max_align_ = align;
    const uint64_t offset = (used_ + align - 1) & ~(align - 1);
    if (!ok_ || offset < used_ || bytes > UINT64_MAX - offset - kRedZoneBytes ||
        (!counting_ && offset + bytes + kRedZoneBytes > capacity_)) {
        ok_ = false;
        return false;
    }
    if (recorder_) recorder_->object(recorder_->context, name, index, offset, bytes);
    padding_ += offset - used_ + kRedZoneBytes;
    used_ = offset + bytes + kRedZoneBytes;
    *at = offset;
    return true;
}

void* Arena::place_bytes(const char* name, uint64_t bytes, uint64_t align, int32_t index) {
    uint64_t offset;
    if (!reserve(name, bytes, align, index, &offset) || counting_) return nullptr;
    poison(base_ + offset + bytes, kRedZoneBytes);
    poisoned_ = true;
    return base_ + offset;
}

uint64_t Arena::place_offset(const char* name, uint64_t bytes, uint64_t align, int32_t index) {
    uint64_t offset;
    return reserve(name, bytes, align, index, &offset) ? offset : 0;
}

uint64_t Arena::place_offsets(const char* name, uint64_t count, uint64_t element_bytes) {
    const uint64_t stride = element_bytes + kRedZoneBytes, most = UINT64_MAX / stride;
    const uint64_t zones = count ? (count - 1) * kRedZoneBytes : 0;  // and one behind the last, as behind every object
    const uint64_t offset = place_offset(name, count > most ? UINT64_MAX : count * element_bytes + zones);
    padding_ += ok_ ? zones : 0;
    return offset;
}

void Arena::release() {
    if (poisoned_) unpoison(base_, used_);
}

}  // namespace keel
