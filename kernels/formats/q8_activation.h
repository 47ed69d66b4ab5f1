// 8-bit activations (NUMERICS section 2): one token's k activations, quantized in blocks of B, as three planes behind
// one another, each rounded up to 64 bytes.
//
//     int8 q[k] | f32 d[k/B] | int16 sum16[k/16]     sum16[i] = q[16i] + ... + q[16i+15]
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"

namespace keel::kernels {

KEEL_DEVICE static constexpr uint64_t round64(uint64_t bytes) {
    return (bytes + 63) & ~uint64_t{63};
}
KEEL_DEVICE static constexpr uint64_t q8_token_bytes(uint32_t k, uint32_t block) {
    return round64(k) + round64(uint64_t{k / block} * 4) + round64(uint64_t{k / 16} * 2);
}

KEEL_DEVICE static inline int8_t* q8_codes(void* token) {
    return static_cast<int8_t*>(token);
}
KEEL_DEVICE static inline float* q8_scales(void* token, uint32_t k) {
    return reinterpret_cast<float*>(static_cast<uint8_t*>(token) + round64(k));
}
KEEL_DEVICE static inline int16_t* q8_sums(void* token, uint32_t k, uint32_t block) {
    return reinterpret_cast<int16_t*>(static_cast<uint8_t*>(token) + round64(k) + round64(uint64_t{k / block} * 4));
}

// The planes of one token, for reading.
struct Q8Token {
    const int8_t* q;
    const float* d;
    const int16_t* sums;
};
KEEL_DEVICE static inline Q8Token q8_token(const void* token, uint32_t k, uint32_t block) {
    void* p = const_cast<void*>(token);
    return {q8_codes(p), q8_scales(p, k), q8_sums(p, k, block)};
}

}  // namespace keel::kernels
