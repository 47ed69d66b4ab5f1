// Interleaved weights (KEEL_WEIGHTS_REPACK): the rows of a matrix in groups of kRepackRows, their blocks side by side,
// so that one vector holds the same four bytes of every row and the products need no reduction across lanes. One layout
// for every type and every instruction set. A group is, block after block (a block of one row is block_bytes):
//
//     [ d of row 0..15, f16     only for types with block_bytes % 4 == 2, whose d is the odd two bytes ]
//     [ bytes 0..3 of row 0, of row 1, ..., of row 15 | bytes 4..7 of row 0, ... | ... ]     d left out
//
// It is a permutation of the group's bytes: the size is that of the plain rows, and a row can be read back.
#pragma once
#include <stdint.h>

#include "kernels/formats/weight_types.h"

namespace keel::kernels {

constexpr uint32_t kRepackRows = 16;

// Byte offset in a block of the f16 that stands apart, where there is one: at the front, or at the end (Q3_K, Q6_K).
constexpr bool repack_has_apart(uint32_t block_bytes) {
    return block_bytes % 4 == 2;
}
constexpr uint32_t repack_apart_offset(WeightType type, uint32_t block_bytes) {
    return type == kQ3_K || type == kQ6_K ? block_bytes - 2 : 0;
}

// Copies `rows` plain rows, a multiple of kRepackRows, of k elements each.
void repack_rows(WeightType type, const void* src, void* dst, uint32_t rows, uint32_t k);
// The plain bytes of blocks [block, block + blocks) of one row of a group. `group` is the first byte of its group.
void unpack_row(WeightType type, const void* group, uint32_t row_in_group, uint32_t block, uint32_t blocks, void* dst);

}  // namespace keel::kernels
