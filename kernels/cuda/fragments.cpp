#include "kernels/cuda/fragments.h"

#include <string.h>

namespace keel::cuda {
namespace {

using namespace keel::kernels;

// The blocks of sixteen rows at one place; null: there is no such row.
struct Blocks {
    const uint8_t* row[16];
};

void copy_or_zero(void* to, const uint8_t* from, uint32_t offset, uint32_t bytes) {
    if (from)
        memcpy(to, from + offset, bytes);
    else
        memset(to, 0, bytes);
}

// 32 bytes of every row, from `offset` in its block on.
void lay_fragment(const Blocks& blocks, uint32_t offset, uint8_t* to) {
    for (uint32_t l = 0; l < 32; ++l)
        for (uint32_t i = 0; i < 4; ++i, to += 4)
            copy_or_zero(to, blocks.row[l / 4 + 8 * (i & 1)], offset + 4 * (l % 4 + 4 * (i >> 1)), 4);
}

void lay_q8_0(const Blocks& blocks, uint8_t* to) {
    for (uint32_t r = 0; r < 16; ++r) copy_or_zero(to + 2 * r, blocks.row[r], 0, 2);
    lay_fragment(blocks, 2, to + 32);
}

// The 6-bit scale and minimum of sub-block j (kernels/formats/weight_types.h).
struct ScalePair {
    uint32_t scale, minimum;
};
ScalePair scales_of_q4_k(const uint8_t* block, uint32_t j) {
    if (!block) return {0, 0};
    const uint8_t* s = block + 4;
    if (j < 4) return {s[j] & 63u, s[j + 4] & 63u};
    return {(s[j + 4] & 15u) | (s[j - 4] & 192u) >> 2, (s[j + 4] & 240u) >> 4 | (s[j] & 192u) >> 2};
}

void lay_q4_k(const Blocks& blocks, uint8_t* to) {
    for (uint32_t group = 0; group < 4; ++group) lay_fragment(blocks, 16 + 32 * group, to + kFragmentBytes * group);
    for (uint32_t l = 0; l < 32; ++l) {
        const uint32_t g = l / 4, t = l % 4;
        uint64_t fields = 0;
        for (uint32_t i = 0; i < 4; ++i) {
            const ScalePair pair = scales_of_q4_k(blocks.row[g + 8 * (i / 2)], 2 * t + i % 2);
            fields |= uint64_t{pair.scale} << 6 * i | uint64_t{pair.minimum} << (24 + 6 * i);
        }
        uint16_t half;
        copy_or_zero(&half, blocks.row[t < 2 ? g : g + 8], 2 * (t & 1), 2);
        fields |= uint64_t{half} << 48;
        memcpy(to + 4 * kFragmentBytes + 8 * l, &fields, 8);
    }
}

}  // namespace

void make_fragments(WeightType type, const void* plain, uint64_t row_bytes, uint32_t rows, uint32_t k,
                    void* fragments) {
    const WeightTypeInfo& info = kWeightTypes[type];
    uint8_t* to = static_cast<uint8_t*>(fragments);
    for (uint32_t first = 0; first < rows; first += 16)
        for (uint32_t b = 0; b < k / info.block_elements; ++b, to += 16 * info.block_bytes) {
            Blocks blocks;
            for (uint32_t r = 0; r < 16; ++r)
                blocks.row[r] = first + r < rows ? static_cast<const uint8_t*>(plain) + (first + r) * row_bytes +
                                                       uint64_t{b} * info.block_bytes
                                                 : nullptr;
            if (type == kQ8_0)
                lay_q8_0(blocks, to);
            else
                lay_q4_k(blocks, to);
        }
}

}  // namespace keel::cuda
