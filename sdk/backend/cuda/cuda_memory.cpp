// keel_cuda_memory: the only code of Keel that allocates on a device.
#include "sdk/backend/cuda/cuda_context.h"

using namespace keel;

namespace {

constexpr keel_region_kind kKinds[] = {KEEL_REGION_PINNED, KEEL_REGION_DEVICE_SCRATCH, KEEL_REGION_DEVICE_WEIGHTS,
                                       KEEL_REGION_DEVICE_KV};
// What the driver aligns its allocations to, at least.
constexpr uint64_t kDeviceAlignBytes = 256, kPinnedAlignBytes = 4096;

// What the driver does not take back stays.
keel_status free_regions(const CudaContext& c, keel_region* regions) {
    keel_status status = KEEL_OK;
    for (const keel_region_kind kind : kKinds) {
        void* data = regions[kind].data;
        if (!data) continue;
        const platform::cuda::Result result =
            kind == KEEL_REGION_PINNED ? c.driver.host_free(data)
                                       : c.driver.memory_free(reinterpret_cast<platform::cuda::DevicePointer>(data));
        if (result == platform::cuda::kSuccess)
            regions[kind] = {};
        else
            status = KEEL_E_DEVICE;
    }
    return status;
}

keel_status allocate(const CudaContext& c, const keel_region_plan& wanted, keel_region_kind kind, keel_region* out,
                     keel_error* error) {
    const bool pinned = kind == KEEL_REGION_PINNED;
    if (wanted.align_bytes > (pinned ? kPinnedAlignBytes : kDeviceAlignBytes))
        return fail(error, KEEL_E_ARGUMENT, 0, "plan", "an alignment that the driver does not keep");
    const size_t bytes = static_cast<size_t>(wanted.bytes);
    platform::cuda::DevicePointer device = 0;
    const platform::cuda::Result result =
        pinned ? c.driver.host_allocate(&out->data, bytes,
                                        platform::cuda::kHostAllocPortable | platform::cuda::kHostAllocDeviceMap)
               : c.driver.memory_allocate(&device, bytes);
    if (!pinned) out->data = reinterpret_cast<void*>(device);
    if (result != platform::cuda::kSuccess) out->data = nullptr;
    out->bytes = out->data ? wanted.bytes : 0;
    return cuda_result(result, pinned ? "cuMemHostAlloc" : "cuMemAlloc", error);
}

}  // namespace

extern "C" keel_status keel_cuda_memory(const keel_memory_plan* plan_in, const keel_cuda_device* device,
                                        keel_memory* memory, keel_error* error) {
    if (!plan_in || !memory) return fail(error, KEEL_E_ARGUMENT, 0, !plan_in ? "plan" : "memory", "null");
    KEEL_TRY(check_versioned(memory));
    keel_memory_plan plan;
    KEEL_TRY(read_versioned(plan_in, &plan));
    keel_cuda_device options;
    KEEL_TRY(read_cuda_options(device, &options, error));
    CudaContext c;
    KEEL_TRY(open_cuda_context(options, &c, error));
    keel_region regions[KEEL_REGION_SLOTS] = {};
    keel_status status = KEEL_OK;
    {
        CurrentCuda current(c);
        if (!current.ok()) status = fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
        for (const keel_region_kind kind : kKinds)
            if (status == KEEL_OK && plan.regions[kind].bytes)
                status = allocate(c, plan.regions[kind], kind, &regions[kind], error);
        if (status != KEEL_OK && current.ok()) free_regions(c, regions);
    }
    if (status != KEEL_OK) {
        close_cuda_context(&c);
        return status;
    }
    for (const keel_region_kind kind : kKinds) memory->regions[kind] = regions[kind];
    // The memory lives as long as the context: the caller's own, or a primary one that somebody holds. So this hold
    // stays until keel_cuda_memory_release.
    return KEEL_OK;
}

extern "C" keel_status keel_cuda_memory_release(const keel_cuda_device* device, keel_memory* memory) {
    if (!memory) return KEEL_E_ARGUMENT;
    KEEL_TRY(check_versioned(memory));
    keel_cuda_device options;
    KEEL_TRY(read_cuda_options(device, &options, nullptr));
    CudaContext c;
    KEEL_TRY(open_cuda_context(options, &c, nullptr));
    bool held = false;
    keel_status status = KEEL_E_DEVICE;
    {
        CurrentCuda current(c);
        for (const keel_region_kind kind : kKinds) held |= memory->regions[kind].data != nullptr;
        if (current.ok()) status = free_regions(c, memory->regions);
    }
    if (held && status == KEEL_OK && c.primary_of >= 0) c.driver.primary_release(c.primary_of);
    close_cuda_context(&c);
    return status;
}
