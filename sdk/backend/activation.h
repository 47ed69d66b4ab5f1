// How a token's row of activations is stored.
#pragma once
#include <stdint.h>

namespace keel {

// f32, or 8 bits in blocks of 32 or of 256, or of 256 that were rotated (NUMERICS section 2).
enum class Activation : uint8_t { kF32, kQ8Block32, kQ8Block256, kQ8Rotated };
constexpr uint32_t kActivations = 4;
constexpr uint32_t kQ8Layouts = kActivations - 1;

constexpr Activation q8_layout(uint32_t i) {
    return static_cast<Activation>(i + 1);
}
constexpr uint32_t index_of_q8(Activation type) {
    return static_cast<uint32_t>(type) - 1;
}
// Elements of a block; 0: none.
constexpr uint32_t block_of(Activation type) {
    return type == Activation::kF32 ? 0 : type == Activation::kQ8Block32 ? 32 : 256;
}

}  // namespace keel
