// Arena: one contiguous caller-owned region in which objects are placed once, at init, by offset.
//
// The same build function runs twice. In count mode there is no memory: place() returns null and adds up the sizes;
// that sum is the plan. In place mode the very same calls hand out addresses. Because there is one function, plan and
// use cannot disagree. After seal() a further place() is refused and counted: the engine reports it as an allocation
// after init.
//
//     base                                                     base + capacity
//     | object 0 |pad| object 1 |pad| ...           | unused  |
//                                                   ^ used
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel {

class Arena {
  public:
    static constexpr uint64_t kAlign = 64;  // default alignment of every object: one cache line, one AVX-512 register

    Arena() = default;                           // count mode
    Arena(void* base, uint64_t capacity_bytes);  // place mode

    bool counting() const { return base_ == nullptr; }
    // Null in count mode, on overflow (ok() turns false), or after seal(). Memory is not cleared. `align` is a power of
    // two, at most 4096; the region itself is aligned to the largest asked for (region_align()).
    void* place_bytes(uint64_t bytes, uint64_t align = kAlign);
    // The same for memory that the host may not address: its offset in the region.
    uint64_t place_offset(uint64_t bytes, uint64_t align = kAlign);
    template <class T>
    T* place(uint64_t count) {
        if (count > UINT64_MAX / sizeof(T)) {
            ok_ = false;
            return nullptr;
        }
        return static_cast<T*>(place_bytes(count * sizeof(T), alignof(T) > kAlign ? alignof(T) : kAlign));
    }
    void seal() { sealed_ = true; }

    bool ok() const { return ok_; }
    uint64_t used_bytes() const { return used_; }
    uint64_t padding_bytes() const { return padding_; }
    uint64_t region_align() const { return max_align_; }
    uint64_t refused_after_seal() const { return refused_; }
    uint8_t* base() const { return base_; }

  private:
    bool reserve(uint64_t bytes, uint64_t align, uint64_t* offset);

    uint8_t* base_ = nullptr;
    uint64_t capacity_ = 0, used_ = 0, padding_ = 0, max_align_ = kAlign, refused_ = 0;
    bool ok_ = true, sealed_ = false;
};

}  // namespace keel
