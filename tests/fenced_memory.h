// Memory that ends directly before a page nobody may touch, or begins directly behind one: who reads or writes a byte
// too many is killed.
#pragma once
#include <gtest/gtest.h>
#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#include "platform/windows/system.h"
#else
#include <sys/mman.h>
#endif

namespace keel_test {

// Where pages come from in a program whose data a GPU reads, in place of the system. Such pages cannot be closed; what
// is written beside data shows at its canaries.
struct PageSource {
    void* (*take)(uint64_t bytes);  // zeroed; null: the system's
    void (*give_back)(void* pages);
};
inline PageSource& page_source() {
    static PageSource source = {};
    return source;
}

// Zeroed pages of the system, null when it refuses; false when it does not close them to everybody.
#ifdef _WIN32
inline void* take_pages(uint64_t bytes) {
    return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
inline bool close_pages(void* pages, uint64_t bytes) {
    DWORD before;
    return VirtualProtect(pages, bytes, PAGE_NOACCESS, &before);
}
inline void give_pages_back(void* pages, uint64_t) {
    VirtualFree(pages, 0, MEM_RELEASE);
}
#else
inline void* take_pages(uint64_t bytes) {
    if (page_source().take) return page_source().take(bytes);
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? nullptr : pages;
}
inline bool close_pages(void* pages, uint64_t bytes) {
    return page_source().take || mprotect(pages, bytes, PROT_NONE) == 0;
}
inline void give_pages_back(void* pages, uint64_t bytes) {
    if (page_source().take)
        page_source().give_back(pages);
    else
        munmap(pages, bytes);
}
#endif

enum class Fence { kBehind, kInFront };

// `bytes` at the given alignment, a power of two. What is left beside them holds canaries.
//     kBehind:  | canaries | data, bytes | rest < align | PROT_NONE |
//     kInFront: | PROT_NONE | data, bytes | canaries |
class FencedMemory {
  public:
    FencedMemory(uint64_t bytes, uint64_t align, Fence fence) : bytes_(bytes) {
        const uint64_t room = (bytes + align + 2 * kPage - 1) / kPage * kPage;
        total_ = room + kPage + align;
        base_ = static_cast<uint8_t*>(take_pages(total_));
        EXPECT_NE(base_, nullptr);
        const uintptr_t start = reinterpret_cast<uintptr_t>(base_);
        uintptr_t data;
        if (fence == Fence::kBehind) {
            const uintptr_t closed = start + room;
            data = (closed - bytes) / align * align;
            EXPECT_TRUE(close_pages(reinterpret_cast<void*>(closed), kPage));
            low_ = data - kPage > start ? data - kPage : start;
            high_ = closed;
        } else {
            data = (start + kPage + align - 1) / align * align;
            EXPECT_TRUE(close_pages(reinterpret_cast<void*>(data - kPage), kPage));
            low_ = data;
            high_ = data + bytes + kPage < start + total_ ? data + bytes + kPage : start + total_;
        }
        data_ = reinterpret_cast<uint8_t*>(data);
        for_canaries([](uint8_t& byte) { byte = kCanary; });
    }
    ~FencedMemory() {
        if (!base_) return;
        EXPECT_TRUE(intact()) << "written beside the data";
        give_pages_back(base_, total_);
    }
    FencedMemory(FencedMemory&& other)
        : bytes_(other.bytes_),
          total_(other.total_),
          base_(other.base_),
          data_(other.data_),
          low_(other.low_),
          high_(other.high_) {
        other.base_ = nullptr;
    }
    FencedMemory& operator=(FencedMemory&&) = delete;

    uint8_t* data() const { return data_; }
    uint64_t bytes() const { return bytes_; }
    uint8_t* end() const { return data_ + bytes_; }
    // Whether what lies beside the data is as it was.
    bool intact() const {
        bool same = true;
        for_canaries([&](uint8_t& byte) { same = same && byte == kCanary; });
        return same;
    }

  private:
    static constexpr uint64_t kPage = 4096;  // a larger page of the system makes mprotect fail, and with it the test
    static constexpr uint8_t kCanary = 0xC5;

    template <class F>
    void for_canaries(F f) const {
        for (uintptr_t p = low_; p < reinterpret_cast<uintptr_t>(data_); ++p) f(*reinterpret_cast<uint8_t*>(p));
        for (uintptr_t p = reinterpret_cast<uintptr_t>(data_) + bytes_; p < high_; ++p)
            f(*reinterpret_cast<uint8_t*>(p));
    }

    uint64_t bytes_, total_;
    uint8_t *base_, *data_;
    uintptr_t low_, high_;
};

}  // namespace keel_test
