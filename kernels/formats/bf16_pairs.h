// Activations for products of bf16 pairs (NUMERICS section 1).
//
// Magnitudes below 2^-56 count as 0. Products are then multiples of 2^-126, the smallest normal f32, and so is every sum
// of them: no sum is ever subnormal, and instructions that flush those give the same bits as instructions that do not.
#pragma once
#include <stdint.h>

#include "kernels/formats/numeric.h"

namespace keel::kernels {

constexpr uint32_t kBf16Block = 32;         // 16 pairs: one for each lane of a dot product
constexpr uint16_t kSmallestPair = 0x2380;  // 2^-56 as bf16

// One token's k activations, zeros up to the next multiple of 32, in one of two forms: kernels that multiply pairs
// (KernelSet::multiplies_bf16) have bf16 in order and leave the second half of the bytes alone; others have f32 in the
// order of pair_place, in which the products of section 1 for f32 give the sums of pairs.
static constexpr uint64_t bf16_token_bytes(uint32_t k) {
    return (uint64_t{k} + kBf16Block - 1) / kBf16Block * kBf16Block * sizeof(float);
}

// Of each 32 elements those of odd index stand in front of the others.
static constexpr uint32_t pair_place(uint32_t i) {
    return i / kBf16Block * kBf16Block + (i % 2 ? 0 : kBf16Block / 2) + i % kBf16Block / 2;
}

static inline uint16_t pair_element(float x) {
    const uint16_t bits = f32_to_bf16(x);
    return (bits & 0x7fff) < kSmallestPair ? uint16_t{0} : bits;
}

}  // namespace keel::kernels
