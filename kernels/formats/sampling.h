// What sampling counts in (NUMERICS section 6): masses, shares of their sums, buckets of distances.
#pragma once
#include "kernels/formats/math_f64.h"

namespace keel::kernels {

__extension__ using u128 = unsigned __int128;

// Beyond a distance of 64 a mass, and the mass times the distance, are 0.
KEEL_DEVICE static inline double clamp64(double distance) {
    return distance < 64.0 ? distance : 64.0;
}
KEEL_DEVICE static inline uint64_t mass_of(double distance) {
    return fixed52(exp_f64(-clamp64(distance)));
}

// ceil(fraction * total) without rounding, at least 1; 0 < fraction <= 1, total < 2^84.
KEEL_DEVICE static inline u128 ceil_fraction(float fraction, u128 total) {
    const uint32_t bits = f32_bits(fraction);
    const uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
    const uint32_t shift = 150 - (bits >> 23);  // fraction = mantissa * 2^-shift
    if (shift > 126) return 1;                  // total * mantissa < 2^108; subnormal fractions end here, too
    const u128 target = (total * mantissa + ((u128{1} << shift) - 1)) >> shift;
    return target ? target : 1;
}

// Buckets of distances, 32 to an octave from 2^-26 to 2^6, and what lies before and behind.
constexpr uint32_t kDistanceBuckets = 1024;
constexpr uint32_t kBucketShift = 52 - 5;
constexpr int32_t kFirstBucket = static_cast<int32_t>(0x3e50000000000000 >> kBucketShift);  // of 2^-26
KEEL_DEVICE static inline uint32_t bucket_of(double distance) {
    const int32_t b = static_cast<int32_t>(f64_bits(distance) >> kBucketShift) - kFirstBucket;
    const int32_t last = static_cast<int32_t>(kDistanceBuckets) - 1;
    return static_cast<uint32_t>(b < 0 ? 0 : b > last ? last : b);
}
// Bits of the least distance of a bucket; of the one behind the last: of +inf.
KEEL_DEVICE static inline uint64_t bucket_begin(uint32_t bucket) {
    if (bucket == 0) return 0;
    if (bucket == kDistanceBuckets) return 0x7ff0000000000000;
    return static_cast<uint64_t>(kFirstBucket + static_cast<int32_t>(bucket)) << kBucketShift;
}

}  // namespace keel::kernels
