// How a token's row of activations is stored.
#pragma once
#include <stdint.h>

namespace keel {

// f32, or 8 bits in blocks of 32 or of 256 (NUMERICS section 2).
enum class Activation : uint8_t { kF32, kQ8Block32, kQ8Block256 };
constexpr uint32_t kActivations = 3;

}  // namespace keel
