// The monotonic clock, the cores that the affinity mask leaves, and what the processor can do.
#include "platform/platform.h"
#include "platform/windows/system.h"

namespace keel::platform {

uint64_t now_ns() {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    const uint64_t t = static_cast<uint64_t>(ticks.QuadPart), f = static_cast<uint64_t>(per_second.QuadPart);
    return t / f * 1'000'000'000u + t % f * 1'000'000'000u / f;
}

// Of the process's own group of at most 64 processors. CPU rates of job objects are not looked at.
uint32_t usable_cores() {
    DWORD_PTR mine, of_the_system;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &of_the_system) || mine == 0) return 1;
    uint32_t count = 0;
    for (; mine; mine &= mine - 1) ++count;
    return count;
}

bool allow_tile_registers() {
    return false;  // the AMX set is not tried on Windows
}

ArmFeatures arm_features() {
    return {};
}

uint64_t last_level_cache_bytes() {
    alignas(SYSTEM_LOGICAL_PROCESSOR_INFORMATION) char buffer[32 * 1024];
    DWORD bytes = sizeof buffer;
    const auto* entry = reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION*>(buffer);
    if (!GetLogicalProcessorInformation(reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION*>(buffer), &bytes))
        return 0;
    uint64_t largest = 0;
    for (DWORD i = 0; i < bytes / sizeof *entry; ++i)
        if (entry[i].Relationship == RelationCache && entry[i].Cache.Size > largest) largest = entry[i].Cache.Size;
    return largest;
}

}  // namespace keel::platform
