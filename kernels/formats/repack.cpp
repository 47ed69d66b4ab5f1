#include "kernels/formats/repack.h"

#include <string.h>

namespace keel::kernels {

void repack_rows(WeightType type, const void* src, void* dst, uint32_t rows, uint32_t k) {
    const RepackLayout layout = repack_layout(type);
    const WeightTypeInfo& info = kWeightTypes[type];
    const uint32_t blocks = k / info.block_elements, bytes = info.block_bytes, dwords = bytes / 4;
    const uint8_t* from = static_cast<const uint8_t*>(src);
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint32_t group = 0; group < rows; group += kRepackRows)
        for (uint32_t b = 0; b < blocks; ++b, to += kRepackRows * bytes)
            for (uint32_t r = 0; r < kRepackRows; ++r) {
                const uint8_t* block = from + (uint64_t{group + r} * blocks + b) * bytes;
                if (layout.split) memcpy(to + 2 * r, block + info.d_at, 2);
                for (uint32_t i = 0; i < dwords; ++i)
                    memcpy(to + layout.group_dwords + 4 * (kRepackRows * i + r), block + layout.dwords + 4 * i, 4);
            }
}

void unpack_row(WeightType type, const void* group, uint32_t row_in_group, uint32_t block, uint32_t blocks, void* dst) {
    const RepackLayout layout = repack_layout(type);
    const WeightTypeInfo& info = kWeightTypes[type];
    const uint32_t bytes = info.block_bytes, dwords = bytes / 4;
    const uint8_t* from = static_cast<const uint8_t*>(group) + uint64_t{block} * kRepackRows * bytes;
    uint8_t* to = static_cast<uint8_t*>(dst);
    for (uint32_t b = 0; b < blocks; ++b, from += kRepackRows * bytes, to += bytes) {
        if (layout.split) memcpy(to + info.d_at, from + 2 * row_in_group, 2);
        for (uint32_t i = 0; i < dwords; ++i)
            memcpy(to + layout.dwords + 4 * i, from + layout.group_dwords + 4 * (kRepackRows * i + row_in_group), 4);
    }
}

}  // namespace keel::kernels
