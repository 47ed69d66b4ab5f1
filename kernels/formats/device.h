// Marks functions that GPU kernels share with the CPU: nvcc compiles them for both.
#pragma once

#if defined(__CUDACC__)
#define KEEL_DEVICE __host__ __device__
#else
#define KEEL_DEVICE
#endif
