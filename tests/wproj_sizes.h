// The size of a version-1 W_proj cache by the published formula, to compare files with.
#pragma once
#include <array>
#include <vector>

#include "sdk/format/wproj_v1.h"

namespace keel_test {

// Bytes of a version-1 file, counted without writing one. Records are Q8 where the rank is a multiple of 32, else f32.
struct WprojSizes {
    uint32_t columns = 0;
    std::vector<uint32_t> ranks;                     // of each layer; 0: no basis and no records
    std::array<uint32_t, keel::kWprojSlots> rows{};  // of each slot; 0: no record
    bool mu = true, mean = true, bias = false;
};
inline uint64_t wproj_v1_bytes(const WprojSizes& z) {
    using namespace keel;
    uint64_t bytes = kWprojHeader1Bytes;
    for (const uint64_t rank : z.ranks) {
        bytes += kWprojBasis1Bytes + kWprojSlots * 4;
        if (!rank) continue;
        bytes += rank * z.columns * 4 + (z.mu ? rank * 4 : 0) + (z.mean ? uint64_t{z.columns} * 4 : 0);
        const uint64_t row_bytes = rank % 32 ? rank * 4 : rank / 32 * 36;
        for (const uint64_t rows : z.rows)
            if (rows) bytes += kWprojRecord1Bytes + rows * row_bytes + (z.bias ? rows * 4 : 0);
    }
    return bytes;
}

}  // namespace keel_test
