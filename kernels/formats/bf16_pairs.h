// Activations for products of bf16 pairs (NUMERICS section 1).
//
// Magnitudes below 2^-56 count as 0. Products are then multiples of 2^-126, the smallest normal f32, and so is every
// sum of them: no sum is ever subnormal, and instructions that flush those give the same bits as those that do not.
#pragma once
#include <stdint.h>

#include "kernels/formats/numeric.h"

namespace keel::kernels {

constexpr uint32_t kBf16Block = 32;             // 16 pairs: one for each lane of a dot product
constexpr uint32_t kSmallestBf16Pair = 0x2380;  // 2^-56 as bf16

// One token's k activations, zeros up to the next multiple of 32, in one of two forms: kernels that multiply pairs
// (KernelSet::multiplies_bf16) have bf16 in order and leave the second half of the bytes alone; others have f32 in the
// order of bf16_pair_place, in which the products of section 1 for f32 give the sums of pairs.
static constexpr uint64_t bf16_token_bytes(uint32_t k) {
    return (uint64_t{k} + kBf16Block - 1) / kBf16Block * kBf16Block * sizeof(float);
}

// Of each 32 elements those of odd index stand in front of the others.
static constexpr uint32_t bf16_pair_place(uint32_t i) {
    return i / kBf16Block * kBf16Block + (i % 2 ? 0 : kBf16Block / 2) + i % kBf16Block / 2;
}

// x as an element of a pair, in f32. As f32_to_bf16, without going through 16 bits: vectors of those are slow.
static inline float bf16_pair_value(float x) {
    const uint32_t bits = f32_bits(x), number = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    const uint32_t bf16 = ((bits & 0x7fffffff) > 0x7f800000 ? quiet : number) & 0xffff0000;
    return f32_from_bits((bf16 & 0x7fffffff) < kSmallestBf16Pair << 16 ? 0 : bf16);
}

}  // namespace keel::kernels
