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
//
// Every object has a name, by which a recorder can list what lies in a region. Under AddressSanitizer a poisoned red
// zone follows every object and every element of an array of offsets; its bytes are counted and planned like any other.
// Whoever turns an offset into an address poisons the zones there.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define KEEL_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEL_ADDRESS_SANITIZER 1
#endif
#endif

namespace keel {

#ifdef KEEL_ADDRESS_SANITIZER
constexpr uint64_t kRedZoneBytes = 64;
#else
constexpr uint64_t kRedZoneBytes = 0;
#endif

// Nothing may touch these bytes, or may again; no effect without AddressSanitizer.
void poison(void* data, uint64_t bytes);
void unpoison(void* data, uint64_t bytes);

// Told of every object placed. `index` tells objects of one name apart (a layer, a session); -1: there is one.
struct ArenaRecorder {
    void (*object)(void* context, const char* name, int32_t index, uint64_t offset, uint64_t bytes);
    void* context;
};

class Arena {
  public:
    static constexpr uint64_t kAlign = 64;  // default alignment of every object: one cache line, one AVX-512 register

    Arena() = default;  // count mode
    explicit Arena(const ArenaRecorder* recorder) : recorder_(recorder) {}
    // Place mode. The region may be memory that the host cannot address, if only place_offset is used.
    Arena(void* base, uint64_t capacity_bytes);

    bool counting() const { return counting_; }
    // Null in count mode, on overflow (ok() turns false), or after seal(). Memory is not cleared. `align` is a power of
    // two, at most 4096; the region itself is aligned to the largest asked for (region_align()).
    void* place_bytes(const char* name, uint64_t bytes, uint64_t align = kAlign, int32_t index = -1);
    // The same for memory that the host may not address: its offset in the region.
    uint64_t place_offset(const char* name, uint64_t bytes, uint64_t align = kAlign, int32_t index = -1);
    // `count` elements, one every element_bytes + kRedZoneBytes.
    uint64_t place_offsets(const char* name, uint64_t count, uint64_t element_bytes);
    template <class T>
    T* place(const char* name, uint64_t count, int32_t index = -1) {
        if (count > UINT64_MAX / sizeof(T)) {
            ok_ = false;
            return nullptr;
        }
        return static_cast<T*>(place_bytes(name, count * sizeof(T), alignof(T) > kAlign ? alignof(T) : kAlign, index));
    }
    void seal() { sealed_ = true; }
    // The caller has its region back: no red zones behind what place_bytes placed.
    void release();

    bool ok() const { return ok_; }
    uint64_t used_bytes() const { return used_; }
    uint64_t padding_bytes() const { return padding_; }  // alignment and red zones
    uint64_t region_align() const { return max_align_; }
    uint64_t refused_after_seal() const { return refused_; }
    uint8_t* base() const { return base_; }

  private:
    bool reserve(const char* name, uint64_t bytes, uint64_t align, int32_t index, uint64_t* offset);

    const ArenaRecorder* recorder_ = nullptr;
    uint8_t* base_ = nullptr;
    uint64_t capacity_ = 0, used_ = 0, padding_ = 0, max_align_ = kAlign, refused_ = 0;
    bool counting_ = true, ok_ = true, sealed_ = false, poisoned_ = false;
};

}  // namespace keel
