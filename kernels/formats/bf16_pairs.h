// bf16 pairs (NUMERICS section 1): activations and weights rounded to bf16, two to a 32-bit word, the element of even
// index in the lower half.
//
// Magnitudes below 2^-56 count as 0. Products are then multiples of 2^-126, the smallest normal f32, and so is every sum
// of them: no sum is ever subnormal, and instructions that flush those give the same bits as instructions that do not.
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {

constexpr uint16_t kSmallestPair = 0x2380;  // 2^-56 as bf16
constexpr uint32_t kBf16Block = 32;         // 16 pairs: one for each lane of a dot product

// One token's k activations, zeros up to the next multiple of 32.
KEEL_DEVICE static constexpr uint64_t bf16_token_bytes(uint32_t k) {
    return (uint64_t{k} + kBf16Block - 1) / kBf16Block * (2 * kBf16Block);
}

static inline uint16_t pair_element(float x) {
    const uint16_t bits = f32_to_bf16(x);
    return (bits & 0x7fff) < kSmallestPair ? uint16_t{0} : bits;
}

}  // namespace keel::kernels
