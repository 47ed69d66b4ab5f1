// Functions and tables that GPU kernels share with the CPU's: what a format means is written once.
//
//     KEEL_DEVICE   in front of a function: nvcc compiles it for the GPU too
//     KEEL_TABLE    in place of `inline constexpr` in front of an array that such functions index
#pragma once

#if defined(__CUDACC__)
#define KEEL_DEVICE __host__ __device__
#define KEEL_TABLE __device__ constexpr
#else
#define KEEL_DEVICE
#define KEEL_TABLE inline constexpr
#endif
