// The exponentials of sampling (NUMERICS section 6). Compilers vectorise the loops for the set that includes them.
#pragma once
#include <type_traits>

#include "kernels/cpu/kernel_set.h"
#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/math_f64.h"

namespace keel::kernels {

// The steps of exp_f64 are loops of their own: a series is a long chain of operations, and this way more chains are
// under way at once.
KEEL_INLINE void exp_masses_f64(const MassArgs& a) {
    double near[kMassBlock], rest[kMassBlock], scale[kMassBlock], w[kMassBlock];
    const double* __restrict const value = a.value;
    uint64_t* __restrict const mass = a.mass;
    const double largest = a.largest, temperature = a.temperature;
    const DistanceBuckets buckets = *a.buckets;
    // Loops over whole registers are half as large.
    const uint32_t n = (a.n + kMassGroup - 1) / kMassGroup * kMassGroup;
    const auto place = [&](auto ends) KEEL_ALWAYS_INLINE {
        uint16_t* __restrict const bucket = a.bucket;
        for (uint32_t i = 0; i < n; ++i) {
            const double distance = (largest - value[i]) / temperature;
            near[i] = distance < 64.0 ? distance : 64.0;
            bucket[i] = bucket_number<ends()>(distance, buckets);
        }
    };
    buckets.ends ? place(std::true_type()) : place(std::false_type());
    if (a.count) {
        for (uint32_t i = 0; i < n; ++i) mass[i] = (largest - value[i]) / temperature < __builtin_inf();
        return;
    }
    for (uint32_t i = 0; i < n; ++i) scale[i] = exp_reduce(-near[i], &rest[i]);
    for (uint32_t i = 0; i < n; ++i) w[i] = exp_series(rest[i]);
    for (uint32_t i = 0; i < n; ++i) {
        w[i] = w[i] * scale[i];
        mass[i] = fixed52(w[i]);
    }
    if (!a.weighted) return;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; ++i) sum += fixed52(w[i] * near[i]);
    *a.weighted = sum;
}

}  // namespace keel::kernels
