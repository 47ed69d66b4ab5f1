// Trellis weights (WT2, WT3; NUMERICS sections 2 and 3): a block of 256 elements of a row, rotated as NUMERICS section
// 7 says of a row of 256, is d times integers.
//
//   d f16 | codes[32 * bits]
//
// Byte b of every dword of the codes is lane b: 64 symbols of `bits` bits, the first in the lowest bits. Behind lane b
// comes lane b + 1, behind the last one the first: a ring of 256 symbols. F(u): the four bits from symbol u on. Element
// 4 j + b of the rotated block is d q, with u = 64 b + j and
//
//     q = table[0][F(u)] + table[1][F(u + stride)] + table[2][F(u + 2 stride)]
//
// So the elements of four lanes at one place are a dword, as the dot products want them, and their fields come out of
// the codes by the same shifts. Any bits are valid codes. In the order of falling u the q are those of a trellis with
// 4 + 2 stride bits state bits, of which a symbol moves in `bits` new ones.
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"
#include "kernels/formats/weight_types.h"

namespace keel::kernels {

struct TrellisCode {
    uint32_t bits, stride;
    float unit;           // q in one root mean square of a block: what the coder starts from
    int8_t table[3][16];  // |q| <= kMostTrellisValue

    constexpr uint32_t step() const { return bits * stride; }
    constexpr uint32_t state_bits() const { return 4 + 2 * step(); }
    // q of a state: the newest symbol in the lowest bits.
    constexpr int value(uint32_t state) const {
        return table[0][state & 15] + table[1][state >> step() & 15] + table[2][state >> 2 * step() & 15];
    }
};
constexpr uint32_t kTrellisBlock = 256, kTrellisLane = 64;
constexpr int kMostTrellisValue = 63;

// Element of the block with the ring's symbol u.
constexpr uint32_t trellis_element(uint32_t u) {
    return u % kTrellisLane * 4 + u / kTrellisLane;
}

}  // namespace keel::kernels
