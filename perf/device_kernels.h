// A kernel that only measures a GPU: what a barrier of the whole grid costs.
#pragma once
#include "kernels/cuda/args.h"

#define KEEL_PERF_KERNELS(X) X(grid_barriers, GridBarriersArgs)

namespace keel::cuda {

constexpr uint32_t kPerfThreads = 256;
// A launch all of whose blocks run at once: they meet `barriers` times.
struct GridBarriersArgs {
    uint32_t* arrived;  // 0 at first
    uint32_t barriers;
};

#define KEEL_PERF_TRAITS(name, Args)                       \
    struct kernel_traits_##name {                          \
        using Arguments = Args;                            \
        static constexpr uint32_t kThreads = kPerfThreads; \
    };
KEEL_PERF_KERNELS(KEEL_PERF_TRAITS)
#undef KEEL_PERF_TRAITS

}  // namespace keel::cuda
