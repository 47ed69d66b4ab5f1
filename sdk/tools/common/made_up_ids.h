// Token ids for measurements of speed: the work does not depend on which they are, and the same ones keep runs alike.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace keel::tools {

inline std::vector<int32_t> made_up_ids(size_t count, uint32_t vocabulary) {
    std::vector<int32_t> ids(count);
    uint64_t state = 1;
    for (int32_t& id : ids) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        id = static_cast<int32_t>((state >> 33) % vocabulary);
    }
    return ids;
}

}  // namespace keel::tools
