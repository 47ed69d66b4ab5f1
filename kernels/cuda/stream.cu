// Kernels that compute nothing: a mark between others, and the read-only stream that all are measured against.
#include "kernels/cuda/device.cuh"

namespace keel::cuda {

KEEL_GPU_KERNEL(nothing) {}

KEEL_GPU_KERNEL(read_stream) {
    constexpr uint32_t kAtOnce = 8;
    const Words4* from = reinterpret_cast<const Words4*>(args.from);
    const uint64_t thread = uint64_t{block_x()} * kRowThreads + thread_x(), threads = uint64_t{grid_x()} * kRowThreads;
    uint32_t sum = 0;
    for (uint64_t i = thread; i < args.count; i += threads * kAtOnce) {
        Words4 v[kAtOnce] = {};
        KEEL_UNROLL
        for (uint32_t j = 0; j < kAtOnce; ++j)
            if (i + j * threads < args.count) v[j] = load_once(from + i + j * threads);
        KEEL_UNROLL
        for (uint32_t j = 0; j < kAtOnce; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (args.never) args.never[thread] = sum;
}

}  // namespace keel::cuda
