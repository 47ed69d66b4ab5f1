#include "kernels/formats/repack.h"

#include <string.h>

namespace keel::kernels {
namespace {

// Offsets in one block of a row and in the same block of the group, for dword i and for the f16 that stands apart.
struct Layout {
    uint32_t bytes, dwords, apart, first, group_first;
    explicit Layout(WeightType type) : bytes(kWeightTypes[type].block_bytes), dwords(bytes / 4) {
        const bool has_apart = repack_has_apart(bytes);
        apart = has_apart ? repack_apart_offset(type, bytes) : UINT32_MAX;
        first = apart == 0 ? 2 : 0;
        group_first = has_apart ? kRepackRows * 2 : 0;
    }
};

}  // namespace

void repack_rows(WeightType type, const void* src, void* dst, uint32_t rows, uint32_t k) {
    const Layout at(type);
    const uint32_t blocks = k / kWeightTypes[type].block_elements;
    const uint8_t* from = static_cast<const uint8_t*>(src);
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint32_t group = 0; group < rows; group += kRepackRows)
        for (uint32_t b = 0; b < blocks; ++b, to += kRepackRows * at.bytes)
            for (uint32_t r = 0; r < kRepackRows; ++r) {
                const uint8_t* block = from + (uint64_t{group + r} * blocks + b) * at.bytes;
                if (at.apart != UINT32_MAX) memcpy(to + 2 * r, block + at.apart, 2);
                for (uint32_t i = 0; i < at.dwords; ++i)
                    memcpy(to + at.group_first + 4 * (kRepackRows * i + r), block + at.first + 4 * i, 4);
            }
}

void unpack_row(WeightType type, const void* group, uint32_t row_in_group, uint32_t block, uint32_t blocks, void* dst) {
    const Layout at(type);
    const uint8_t* from = static_cast<const uint8_t*>(group) + uint64_t{block} * kRepackRows * at.bytes;
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint32_t b = 0; b < blocks; ++b, from += kRepackRows * at.bytes, to += at.bytes) {
        if (at.apart != UINT32_MAX) memcpy(to + at.apart, from + 2 * row_in_group, 2);
        for (uint32_t i = 0; i < at.dwords; ++i)
            memcpy(to + at.first + 4 * i, from + at.group_first + 4 * (kRepackRows * i + row_in_group), 4);
    }
}

}  // namespace keel::kernels
