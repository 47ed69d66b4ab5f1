// The CPU time that control groups grant this process.
#pragma once
#include <stdint.h>

namespace keel::platform {

constexpr uint32_t kNoQuota = UINT32_MAX;

// Whole cores' worth of CPU time that the tightest limit leaves, at least 1, or kNoQuota. `groups` is
// /proc/self/cgroup, `mount` where the hierarchies are mounted (/sys/fs/cgroup). Both versions count: cpu.max (v2) and
// cpu.cfs_quota_us over cpu.cfs_period_us (v1), of the process's own group and of every group above it.
uint32_t quota_cores(const char* groups, const char* mount);

}  // namespace keel::platform
