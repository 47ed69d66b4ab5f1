// Repacked weights (KEEL_WEIGHTS_REPACK): the rows of a matrix in groups of kRepackRows, their blocks interleaved, so
// that one vector holds the same four bytes of every row and the products need no reduction across lanes. One layout
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
constexpr uint32_t kMostBlockBytes = [] {
    uint32_t most = 0;
    for (const WeightTypeInfo& t : kWeightTypes) most = t.block_bytes > most ? t.block_bytes : most;
    return most;
}();

// Where the parts of a block are.
struct RepackLayout {
    bool split;             // d stands before the dwords of all rows
    uint32_t dwords;        // offset of the first dword in a block of a plain row
    uint32_t group_dwords;  // and in the block of a group
};
constexpr RepackLayout repack_layout(WeightType type) {
    const WeightTypeInfo& info = kWeightTypes[type];
    const bool split = info.block_bytes % 4 == 2;
    return {split, split && info.d_at == 0 ? 2u : 0u, split ? 2 * kRepackRows : 0u};
}
constexpr bool repack_can_split_all() {
    for (const WeightTypeInfo& t : kWeightTypes)
        if (t.activation_block && (t.block_bytes % 2 || (t.block_bytes % 4 && t.d_at && t.d_at != t.block_bytes - 2)))
            return false;
    return true;
}
static_assert(repack_can_split_all(),
              "a block is dwords, and a d of two bytes at one of its ends if it is no whole number");

// Copies `rows` plain rows, a multiple of kRepackRows, of k elements each.
void repack_rows(WeightType type, const void* src, void* dst, uint32_t rows, uint32_t k);
// The plain bytes of blocks [block, block + blocks) of one row of a group. `group` is the first byte of its group.
void unpack_row(WeightType type, const void* group, uint32_t row_in_group, uint32_t block, uint32_t blocks, void* dst);

}  // namespace keel::kernels
