// The exponentials of sampling (NUMERICS section 6). Compilers vectorise the loop for the set that includes it.
#pragma once
#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/math_f64.h"

namespace keel::kernels {

KEEL_INLINE void exp_distances_f64(const double* __restrict value, uint32_t n, double largest, double temperature,
                                   double* __restrict distance, double* __restrict w) {
    for (uint32_t i = 0; i < n; ++i) {
        const double d = (largest - value[i]) / temperature;
        distance[i] = d;
        w[i] = exp_f64(d < 64.0 ? -d : -64.0);
    }
}

}  // namespace keel::kernels
