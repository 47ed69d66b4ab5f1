// The one list of GPU kernels. Entry points of the fatbin, launches through the driver, the table of kernels compiled
// for the host and their tests all follow from it.
//
// A kernel is a function of one argument struct, args.h. To go through all of them, define
// KEEL_GPU_ROW(name, Args, threads), `threads` being the most of a block, and write KEEL_GPU_KERNELS.
#pragma once
#include "kernels/cuda/args.h"

#define KEEL_GPU_KERNELS                                          \
    KEEL_GPU_ROW(rms_norm, RmsNormArgs, kRmsNormThreads)          \
    KEEL_GPU_ROW(q4_k_fragments_1, ProductArgs, kFragmentThreads) \
    KEEL_GPU_ROW(q4_k_fragments_2, ProductArgs, kFragmentThreads) \
    KEEL_GPU_ROW(q4_k_fragments_4, ProductArgs, kFragmentThreads) \
    KEEL_GPU_ROW(q4_k_fragments_8, ProductArgs, kFragmentThreads) \
    KEEL_GPU_ROW(q8_0_fragments, ProductArgs, kFragmentThreads)

namespace keel::cuda {

enum KernelId : uint32_t {
#define KEEL_GPU_ROW(name, Args, threads) kernel_##name,
    KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW
        kKernelCount
};

struct KernelInfo {
    const char* name;  // of the entry point
    uint32_t args_bytes, max_threads;
};
inline constexpr KernelInfo kKernels[kKernelCount] = {
#define KEEL_GPU_ROW(name, Args, threads) {#name, sizeof(Args), threads},
    KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW
};

// What the definition of a kernel takes from the list.
#define KEEL_GPU_ROW(name, Args, threads)               \
    struct kernel_traits_##name {                       \
        using Arguments = Args;                         \
        static constexpr uint32_t kThreads = (threads); \
    };
KEEL_GPU_KERNELS
#undef KEEL_GPU_ROW

}  // namespace keel::cuda
