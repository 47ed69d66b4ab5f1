// How a token's row of activations is stored.
#pragma once
#include <stdint.h>

#include "kernels/formats/bf16_pairs.h"
#include "kernels/formats/q8_activation.h"

namespace keel {

// f32; or coded: 8 bits in blocks of 32 or of 256, or of 256 that were rotated (NUMERICS section 2), or bf16 pairs
// (section 1).
enum class Activation : uint8_t { kF32, kQ8Block32, kQ8Block256, kQ8Rotated, kBf16Pairs };
constexpr uint32_t kActivations = 5;
constexpr uint32_t kCodedLayouts = kActivations - 1;

constexpr Activation coded_layout(uint32_t i) {
    return static_cast<Activation>(i + 1);
}
constexpr uint32_t index_of_coded(Activation type) {
    return static_cast<uint32_t>(type) - 1;
}
// Elements that are coded together; 0: none. A row has a whole number of blocks of 8 bits; behind one of pairs are
// zeros.
constexpr uint32_t block_of(Activation type) {
    return type == Activation::kF32 ? 0 : type == Activation::kQ8Block32 || type == Activation::kBf16Pairs ? 32 : 256;
}
// Bytes of a row of `width` activations.
constexpr uint64_t activation_bytes(Activation type, uint32_t width) {
    return type == Activation::kF32         ? uint64_t{width} * sizeof(float)
           : type == Activation::kBf16Pairs ? kernels::bf16_token_bytes(width)
                                            : kernels::q8_token_bytes(width, block_of(type));
}

}  // namespace keel
