// Small kernels over the wrappers of kernels/cuda/device.cuh and the functions of kernels/formats/numeric.h: what a GPU
// makes of operands, against what the executor says.
#pragma once
#include "kernels/cuda/args.h"

// X(name, words a thread reads, words it writes, what these are)
#define KEEL_WRAPPERS(X)           \
    X(place, 1, 7, kWords)         \
    X(clock, 1, 1, kWords)         \
    X(mma_s8_k32, 10, 4, kWords)   \
    X(mma_s8_one_c, 7, 4, kWords)  \
    X(mma_s8_k16, 7, 4, kWords)    \
    X(mma_u8_k32, 10, 8, kWords)   \
    X(matrices, 4, 4, kWords)      \
    X(dot_products, 3, 3, kWords)  \
    X(bytes_picked, 3, 1, kWords)  \
    X(shuffles, 2, 2, kWords)      \
    X(votes, 1, 1, kWords)         \
    X(loads, 4, 6, kWords)         \
    X(copies, 8, 8, kWords)        \
    X(block_meets, 1, 1, kWords)   \
    X(warp_meets, 1, 1, kWords)    \
    X(turns, 1, 1, kWords)         \
    X(blocks_meet, 1, 2, kWords)   \
    X(blocks_wait, 1, 1, kWords)   \
    X(launch_waits, 1, 1, kWords)  \
    X(atomics, 2, 3, kWords)       \
    X(halves, 1, 4, kWords)        \
    X(arithmetic_f32, 3, 5, kF32)  \
    X(largest_f32, 2, 3, kF32)     \
    X(functions_f32, 2, 6, kF32)   \
    X(arithmetic_f64, 6, 10, kF64) \
    X(sincos, 2, 4, kF64)

namespace keel::cuda {

struct WrapperArgs {
    const uint32_t* in;  // [threads of the grid][words a thread reads], 16-byte aligned
    uint32_t* out;
    uint32_t* counters;  // two, 0
};
constexpr uint32_t kWrapperThreads = 64;
// Two groups of what every thread copies.
constexpr uint32_t kWrapperSharedBytes = 2 * kWrapperThreads * 16;

enum class WrapperValues { kWords, kF32, kF64 };
struct WrapperInfo {
    const char* name;  // of the entry point
    uint32_t words_in, words_out;
    WrapperValues values;  // written: words, or floats of which no NaN's payload counts
};
#define KEEL_WRAPPER_INFO(name, in, out, values) {"wrapper_" #name, in, out, WrapperValues::values},
inline constexpr WrapperInfo kWrappers[] = {KEEL_WRAPPERS(KEEL_WRAPPER_INFO)};
#undef KEEL_WRAPPER_INFO

#define KEEL_WRAPPER_TRAITS(name, in, out, values)            \
    struct kernel_traits_wrapper_##name {                     \
        using Arguments = WrapperArgs;                        \
        static constexpr uint32_t kThreads = kWrapperThreads; \
        static constexpr uint32_t kIn = in, kOut = out;       \
    };
KEEL_WRAPPERS(KEEL_WRAPPER_TRAITS)
#undef KEEL_WRAPPER_TRAITS

}  // namespace keel::cuda
