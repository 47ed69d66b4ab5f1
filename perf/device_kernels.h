// Kernels that only measure a GPU: what its memory, a launch and a barrier of the whole grid cost.
#pragma once
#include "kernels/cuda/args.h"

#define KEEL_PERF_KERNELS(X)       \
    X(read_stream, ReadStreamArgs) \
    X(nothing, NothingArgs)        \
    X(grid_barriers, GridBarriersArgs)

namespace keel::cuda {

constexpr uint32_t kPerfThreads = 256;
// Reads 16 * count bytes once, each block a part of its own.
struct ReadStreamArgs {
    const uint8_t* from;  // 16-byte aligned
    uint64_t count;
    uint32_t* out;  // [threads of the grid]: sums, so that the reads are needed
};
struct NothingArgs {
    uint32_t unused;
};
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
