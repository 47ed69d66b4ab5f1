// The kernels of kernels/cuda, compiled for the host: what a driver would find in the fatbin.
#pragma once
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

}  // namespace simt
