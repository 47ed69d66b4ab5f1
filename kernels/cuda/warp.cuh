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

// 1 / sqrt(mean of squares + eps) of a row (NUMERICS section 4), by a warp: the sixteen chains run twice over, each
// half for itself.
KEEL_GPU float rms_factor(const float* x, uint32_t n, float eps) {
    // A step of a chain takes less than a load: so many are on their way.
    constexpr uint32_t kLoads = 32;
    const uint32_t whole = n / (16 * kLoads) * (16 * kLoads), lane = thread_x() % 16;
    float chain = 0, next[kLoads] = {};
    const auto load = [&](uint32_t first) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < kLoads; ++i) next[i] = x[first + 16 * i + lane];
    };
    if (whole) load(0);
    KEEL_NO_UNROLL
    for (uint32_t first = 0; first < whole; first += 16 * kLoads) {
        float now[kLoads];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kLoads; ++i) now[i] = next[i];
        if (first + 16 * kLoads < whole) load(first + 16 * kLoads);
        KEEL_UNROLL
        for (uint32_t i = 0; i < kLoads; ++i) chain = fma_f32(now[i], now[i], chain);
    }
    for (uint32_t i = whole + lane; i < n; i += 16) chain = fma_f32(x[i], x[i], chain);
    return 1.0f / __builtin_sqrtf(add_f32(tree16(chain) / static_cast<float>(n), eps));
}

// Sum over LANES lanes in a row, a power of two; every lane gets it.
template <uint32_t LANES>
KEEL_GPU int32_t sum_lanes(int32_t v) {
    const uint32_t lane = thread_x() % 32;
    KEEL_UNROLL
    for (uint32_t step = LANES / 2; step; step /= 2)
        v += static_cast<int32_t>(shuffle(static_cast<uint32_t>(v), lane ^ step));
    return v;
}

// The largest of LANES lanes in a row, a power of two; every lane gets it.
template <uint32_t LANES>
KEEL_GPU uint32_t max_lanes(uint32_t v) {
    const uint32_t lane = thread_x() % 32;
    KEEL_UNROLL
    for (uint32_t step = LANES / 2; step; step /= 2) {
        const uint32_t other = shuffle(v, lane ^ step);
        v = other > v ? other : v;
    }
    return v;
}

}  // namespace keel::cuda
