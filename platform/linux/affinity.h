// Affinity masks wider than cpu_set_t, which ends at 1,024 cores; the kernel refuses a mask shorter than its own.
#pragma once
#include <sched.h>
#include <stdint.h>

namespace keel::platform {

constexpr uint32_t kMaskWords = 8192 / (8 * sizeof(unsigned long));

struct CoreMask {
    alignas(cpu_set_t) unsigned long words[kMaskWords];
};

bool affinity_of_caller(CoreMask* mask);  // false when the system refuses; *mask is then empty
uint32_t core_count(const CoreMask& mask);
// The mask of the n-th set core alone, counted from 0; empty when there are n or fewer.
CoreMask nth_core(const CoreMask& mask, uint32_t n);

}  // namespace keel::platform
