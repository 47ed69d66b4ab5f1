// Levels for the signed length alpha of a pair along its direction, in units of the row's root mean square alpha.
#pragma once
#include <stdint.h>

#include <vector>

namespace keel::tools {

// 2^bits ascending levels, symmetric about 0, of least mean squared error for alpha / rms(alpha) when the pair is
// Gaussian and
// its direction the nearest of 2^direction_bits ones: |alpha| = r cos(phi) with r of Rayleigh's distribution and phi
// uniform within +-pi / 2^(direction_bits + 1). bits 1..8.
std::vector<float> besicovitch_codebook(uint32_t direction_bits, uint32_t bits);

}  // namespace keel::tools
