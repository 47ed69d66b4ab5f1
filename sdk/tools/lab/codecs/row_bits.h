// Bits and f16 numbers in and out of byte vectors, least significant bit first, as every codec here stores its codes.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/formats/numeric.h"

namespace keel::tools {

__extension__ using u128 = unsigned __int128;

constexpr float kMaxF16 = 65504.0f;

// The nearest f16; what lies beyond the largest one becomes that one and not an infinity. NaN stays NaN.
inline uint16_t f16_saturated(float x) {
    return kernels::f32_to_f16(x > kMaxF16 ? kMaxF16 : x < -kMaxF16 ? -kMaxF16 : x);
}
// The value a stored f16 will have when it is read again.
inline float through_f16(float x) {
    return kernels::f16_to_f32(f16_saturated(x));
}

// Appends to `out`. The first put begins a byte.
class BitWriter {
  public:
    explicit BitWriter(std::vector<uint8_t>& out) : out_(out) {}
    // The low `bits` (0..128) bits of `value`.
    void put(u128 value, uint32_t bits) {
        while (bits) {
            if (!used_) out_.push_back(0);
            const uint32_t n = std::min(8 - used_, bits);
            out_.back() = static_cast<uint8_t>(out_.back() | (static_cast<uint32_t>(value) & ((1u << n) - 1)) << used_);
            value >>= n, bits -= n, used_ = (used_ + n) & 7;
        }
    }
    void put_f16(float x) { put(f16_saturated(x), 16); }
    // The next put begins a byte; the bits left in the last one are 0.
    void align() { used_ = 0; }

  private:
    std::vector<uint8_t>& out_;
    uint32_t used_ = 0;  // bits of the last byte; 0 = none left
};

// Reads what BitWriter wrote. The bytes must be there: callers check sizes first.
class BitReader {
  public:
    explicit BitReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}
    u128 take(uint32_t bits) {
        u128 value = 0;
        for (uint32_t done = 0; done < bits;) {
            const uint32_t n = std::min(8 - used_, bits - done);
            value |= static_cast<u128>(bytes_[at_] >> used_ & ((1u << n) - 1)) << done;
            done += n, used_ = (used_ + n) & 7, at_ += !used_;
        }
        return value;
    }
    uint32_t take_code(uint32_t bits) { return static_cast<uint32_t>(take(bits)); }
    float take_f16() { return kernels::f16_to_f32(static_cast<uint16_t>(take(16))); }
    void align() { at_ += used_ != 0, used_ = 0; }

  private:
    std::span<const uint8_t> bytes_;
    size_t at_ = 0;
    uint32_t used_ = 0;  // bits of bytes_[at_] that were read
};

}  // namespace keel::tools
