// keel_memory_default: the regions of a plan from mimalloc, on huge pages where the system grants them. Huge pages are
// asked for per region (madvise), so no process-wide option of an allocator that the application may share is changed.
// Every page is touched here: an engine placed in this memory takes no first-touch fault later.
#include <mimalloc.h>
#include <stddef.h>
#include <sys/mman.h>

#include "keel/keel.h"

namespace {

constexpr uint64_t kHugePageBytes = 2 * 1024 * 1024;
constexpr uint64_t kPageBytes = 4096;

// Its address in keel_memory.owner says that release may free the regions.
const char owner_mark = 0;

bool is_power_of_two(uint64_t value) {
    return value && (value & (value - 1)) == 0;
}

void* allocate(uint64_t bytes, uint64_t align_bytes) {
    const bool huge = bytes >= kHugePageBytes;
    if (huge && align_bytes < kHugePageBytes) align_bytes = kHugePageBytes;
    if (bytes > SIZE_MAX - align_bytes) return nullptr;
    uint8_t* data =
        static_cast<uint8_t*>(mi_malloc_aligned(static_cast<size_t>(bytes), static_cast<size_t>(align_bytes)));
    if (!data) return nullptr;
    if (huge) madvise(data, static_cast<size_t>(bytes / kHugePageBytes * kHugePageBytes), MADV_HUGEPAGE);
    for (uint64_t i = 0; i < bytes; i += kPageBytes) const_cast<volatile uint8_t*>(data)[i] = 0;
    return data;
}

void free_regions(keel_region* regions) {
    for (int kind = 0; kind < KEEL_REGION_SLOTS; ++kind) {
        mi_free(regions[kind].data);
        regions[kind] = {};
    }
}

}  // namespace

extern "C" keel_status keel_memory_default(const keel_memory_plan* plan, keel_memory* out) {
    if (!plan || !out) return KEEL_E_ARGUMENT;
    constexpr size_t kPlanBytes = offsetof(keel_memory_plan, regions) + sizeof(plan->regions);
    constexpr size_t kMemoryBytes = offsetof(keel_memory, owner) + sizeof(out->owner);
    constexpr size_t kMostGrowthBytes = 256;  // as everywhere (sdk/core/status.h)
    if (plan->struct_size < kPlanBytes || plan->struct_size > sizeof *plan + kMostGrowthBytes ||
        out->struct_size < kMemoryBytes || out->struct_size > sizeof *out + kMostGrowthBytes)
        return KEEL_E_ABI;

    keel_region regions[KEEL_REGION_SLOTS] = {};
    for (int kind = 0; kind < KEEL_REGION_SLOTS; ++kind) {
        const keel_region_plan& wanted = plan->regions[kind];
        if (wanted.bytes == 0) continue;
        if (kind == KEEL_REGION_PINNED || kind >= KEEL_REGION_DEVICE_SCRATCH) {
            free_regions(regions);
            return KEEL_E_UNSUPPORTED;
        }
        if (!is_power_of_two(wanted.align_bytes)) {
            free_regions(regions);
            return KEEL_E_ARGUMENT;
        }
        regions[kind].data = allocate(wanted.bytes, wanted.align_bytes);
        if (!regions[kind].data) {
            free_regions(regions);
            return KEEL_E_PLATFORM;
        }
        regions[kind].bytes = wanted.bytes;
    }
    for (int kind = 0; kind < KEEL_REGION_SLOTS; ++kind) out->regions[kind] = regions[kind];
    out->owner = const_cast<char*>(&owner_mark);
    return KEEL_OK;
}

extern "C" void keel_memory_release(keel_memory* memory) {
    if (!memory || memory->struct_size < sizeof *memory || memory->owner != &owner_mark) return;
    free_regions(memory->regions);
    memory->owner = nullptr;
}
