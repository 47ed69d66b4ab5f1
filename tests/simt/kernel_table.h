// The kernels of kernels/cuda, compiled for the host: what a driver would find in the fatbin.
#pragma once
#include <string.h>

#include "kernels/cuda/kernels.h"
#include "tests/simt/simt.h"

namespace keel::cuda {

#define KEEL_GPU_ROW(name, Args, threads) void name(const void* args);
KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW

}  // namespace keel::cuda

namespace simt {

inline constexpr Kernel kKernelTable[keel::cuda::kKernelCount] = {
#define KEEL_GPU_ROW(name, Args, threads) keel::cuda::name,
    KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW
};

// The kernel with this entry point; null: there is none.
inline Kernel find_kernel(const char* name) {
    for (uint32_t i = 0; i < keel::cuda::kKernelCount; ++i)
        if (!strcmp(keel::cuda::kKernels[i].name, name)) return kKernelTable[i];
    return nullptr;
}

}  // namespace simt
