// Weights as the fragments of mma.m16n8k32: 16 rows of a matrix together, so that what a lane multiplies are 16 bytes
// side by side. A permutation of the bits of the plain rows; rows missing at the end are zeros.
//
// Lane l = 4g + t of a warp multiplies, of 32 elements of 16 rows, dword t of row g, t of row g + 8, t + 4 of row g and
// t + 4 of row g + 8. These are its 16 bytes; 32 lanes of them are one fragment, 512 bytes. Groups of 16 rows, in each
// its blocks ascending, in each
//   Q8_0   16 halves d | 1 fragment                                              544 bytes
//   Q4_K   4 fragments of qs (32 bytes of a row: 64 elements) | 32 x 8 bytes   2304 bytes
//          a lane's 8 bytes: four scales of 6 bits, of sub-blocks 2t and 2t + 1 of row g, then of row g + 8; their four
//          minima; a half, for t = 0, 1, 2, 3: d of row g, dmin of row g, d of row g + 8, dmin of row g + 8
#pragma once
#include <stdint.h>

#include "kernels/formats/weight_types.h"

namespace keel::cuda {

constexpr uint32_t kFragmentBytes = 512;

// Whether there are kernels for fragments of the type.
constexpr bool has_fragments(kernels::WeightType type) {
    return type == kernels::kQ8_0 || type == kernels::kQ4_K;
}
// Bytes of `rows` rows of k elements as fragments.
constexpr uint64_t fragments_bytes(kernels::WeightType type, uint32_t rows, uint32_t k) {
    return (uint64_t{rows} + 15) / 16 * 16 * kernels::weight_row_bytes(type, k);
}
// Lays plain rows, `row_bytes` apart, as fragments. The type is one that has them.
void make_fragments(kernels::WeightType type, const void* plain, uint64_t row_bytes, uint32_t rows, uint32_t k,
                    void* fragments);

}  // namespace keel::cuda
