// The signed Hadamard rotation of KV rows and of trellis weights (NUMERICS section 7). In an unnamed namespace: every
// instruction set compiles its own copy.
#pragma once
#include <string.h>

#include "kernels/formats/kv_formats.h"

namespace keel::kernels {
namespace {

// Signs of the rotation: the first 256 fractional bits of pi, bit 63 of word 0 first; 1 is negative.
KEEL_TABLE uint64_t kRotationSigns[4] = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0,
                                         0x082efa98ec4e6c89};
KEEL_DEVICE inline float rotation_sign(uint32_t i) {
    return kRotationSigns[i / 64] >> (63 - i % 64) & 1 ? -1.0f : 1.0f;
}

// Butterflies of Sylvester's Hadamard matrix, smallest stride first, then the factor that makes it orthogonal.
KEEL_DEVICE inline void hadamard(float* x, uint32_t head_dim) {
    const uint32_t block = kv_rotation_block(head_dim);
    float y[kMaxHeadDim];
    for (uint32_t stride = 1; stride < block; stride *= 2) {
        for (uint32_t i = 0; i < head_dim; i += 2 * stride) {
            for (uint32_t j = i; j < i + stride; ++j) {
                y[j] = x[j] + x[j + stride];
                y[j + stride] = x[j] - x[j + stride];
            }
        }
        memcpy(x, y, head_dim * sizeof(float));
    }
    const float norm = 1.0f / __builtin_sqrtf(static_cast<float>(block));
    for (uint32_t i = 0; i < head_dim; ++i) x[i] = x[i] * norm;
}
KEEL_DEVICE inline void rotate_row(float* x, uint32_t head_dim) {
    for (uint32_t i = 0; i < head_dim; ++i) x[i] = x[i] * rotation_sign(i);
    hadamard(x, head_dim);
}
KEEL_DEVICE inline void unrotate_row(float* x, uint32_t head_dim) {
    hadamard(x, head_dim);
    for (uint32_t i = 0; i < head_dim; ++i) x[i] = x[i] * rotation_sign(i);
}

}  // namespace
}  // namespace keel::kernels
