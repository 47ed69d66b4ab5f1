// What the lanes of a warp work out together.
#pragma once
#include "kernels/cuda/device.cuh"

namespace keel::cuda {

// Sum over the 16 lanes of half a warp by the tree of NUMERICS section 1: a[l] = lane[l] + lane[l + 8], and so on.
// Every lane gets it, as addition commutes.
KEEL_GPU float tree16(float v) {
    const uint32_t lane = thread_x() % 32;
    KEEL_UNROLL
    for (uint32_t step = 8; step; step /= 2) v = add_f32(v, shuffle(v, lane ^ step));
    return v;
}

}  // namespace keel::cuda
