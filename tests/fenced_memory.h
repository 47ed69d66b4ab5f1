// Memory that ends directly before a page nobody may touch, or begins directly behind one: who reads or writes a byte
// too many is killed.
#pragma once
#include <gtest/gtest.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

namespace keel_test {

enum class Fence { kBehind, kInFront };

// `bytes` at the given alignment, a power of two. What is left beside them holds canaries.
//     kBehind:  | canaries | data, bytes | rest < align | PROT_NONE |
//     kInFront: | PROT_NONE | data, bytes | canaries |
class FencedMemory {
  public:
    FencedMemory(uint64_t bytes, uint64_t align, Fence fence) : bytes_(bytes) {
        const uint64_t room = (bytes + align + 2 * kPage - 1) / kPage * kPage;
        total_ = room + kPage + align;
        base_ =
            static_cast<uint8_t*>(mmap(nullptr, total_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        EXPECT_NE(base_, MAP_FAILED);
        const uintptr_t start = reinterpret_cast<uintptr_t>(base_);
        uintptr_t data;
        if (fence == Fence::kBehind) {
            const uintptr_t closed = start + room;
            data = (closed - bytes) / align * align;
            EXPECT_EQ(mprotect(reinterpret_cast<void*>(closed), kPage, PROT_NONE), 0);
            low_ = data - kPage > start ? data - kPage : start;
            high_ = closed;
        } else {
            data = (start + kPage + align - 1) / align * align;
            EXPECT_EQ(mprotect(reinterpret_cast<void*>(data - kPage), kPage, PROT_NONE), 0);
            low_ = data;
            high_ = data + bytes + kPage < start + total_ ? data + bytes + kPage : start + total_;
        }
        data_ = reinterpret_cast<uint8_t*>(data);
        for_canaries([](uint8_t& byte) { byte = kCanary; });
    }
    ~FencedMemory() {
        if (!base_) return;
        EXPECT_TRUE(intact()) << "written beside the data";
        munmap(base_, total_);
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
