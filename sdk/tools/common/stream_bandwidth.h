// What the machine's memory can deliver to a read-only stream: the yardstick for a decode step, which reads every
// weight once.
#pragma once
#include <stdint.h>

#include <vector>

namespace keel::tools {

// Size of the largest cache, from the operating system; 32 MiB where it does not say.
uint64_t last_level_cache_bytes();

struct StreamBandwidth {
    uint64_t bytes;                // working set
    std::vector<double> gb_per_s;  // 1e9 bytes per second, one entry per repeat
};
// Sums `bytes` of memory with `threads` threads, each its own contiguous part, `repeats` times after one warm-up. Small
// working sets are read several times per repeat, so that a repeat lasts at least 20 ms.
StreamBandwidth measure_stream(uint64_t bytes, uint32_t threads, uint32_t repeats);

}  // namespace keel::tools
