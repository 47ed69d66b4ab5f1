// The monotonic clock, and the cores that the affinity mask and control groups leave.
#include <time.h>

#include "platform/linux/affinity.h"
#include "platform/linux/cpu_quota.h"
#include "platform/platform.h"

namespace keel::platform {

uint64_t now_ns() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

bool affinity_of_caller(CoreMask* mask) {
    *mask = {};
    return sched_getaffinity(0, sizeof(mask->words), reinterpret_cast<cpu_set_t*>(mask->words)) == 0;
}

uint32_t core_count(const CoreMask& mask) {
    uint32_t count = 0;
    for (unsigned long word : mask.words) {
        for (; word; word &= word - 1) ++count;
    }
    return count;
}

CoreMask nth_core(const CoreMask& mask, uint32_t n) {
    CoreMask one = {};
    for (uint32_t i = 0; i < kMaskWords; ++i) {
        for (unsigned long word = mask.words[i]; word; word &= word - 1) {
            if (n-- == 0) {
                one.words[i] = word & (~word + 1);  // lowest set bit
                return one;
            }
        }
    }
    return one;
}

uint32_t usable_cores() {
    CoreMask mask;
    const uint32_t count = affinity_of_caller(&mask) ? core_count(mask) : 1;
    const uint32_t quota = quota_cores("/proc/self/cgroup", "/sys/fs/cgroup");
    return count == 0 ? 1 : quota < count ? quota : count;
}

}  // namespace keel::platform
