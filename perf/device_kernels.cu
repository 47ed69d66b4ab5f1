#include "kernels/cuda/device.cuh"
#include "perf/device_kernels.h"

namespace keel::cuda {

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
