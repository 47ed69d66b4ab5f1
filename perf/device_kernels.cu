#include "kernels/cuda/device.cuh"
#include "perf/device_kernels.h"

namespace keel::cuda {

KEEL_GPU_KERNEL(read_stream) {
    constexpr uint32_t kAtOnce = 8;
    const Words4* from = reinterpret_cast<const Words4*>(args.from);
    const uint64_t thread = uint64_t{block_x()} * kPerfThreads + thread_x(),
                   threads = uint64_t{grid_x()} * kPerfThreads;
    uint32_t sum = 0;
    for (uint64_t i = thread; i < args.count; i += threads * kAtOnce) {
        Words4 v[kAtOnce] = {};
        KEEL_UNROLL
        for (uint32_t j = 0; j < kAtOnce; ++j)
            if (i + j * threads < args.count) v[j] = load_once(from + i + j * threads);
        KEEL_UNROLL
        for (uint32_t j = 0; j < kAtOnce; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    args.out[thread] = sum;
}

KEEL_GPU_KERNEL(nothing) {}

// The executor has no way for a block to wait for memory that another one writes, so that there the barriers are empty.
KEEL_GPU_KERNEL(grid_barriers) {
    for (uint32_t i = 1; i <= args.barriers; ++i) {
        sync_block();
#if defined(__CUDACC__)
        if (thread_x() == 0) {
            __threadfence();
            atomicAdd(args.arrived, 1);
            while (*static_cast<volatile uint32_t*>(args.arrived) < i * grid_x()) {
            }
            __threadfence();
        }
#endif
        sync_block();
    }
}

}  // namespace keel::cuda
