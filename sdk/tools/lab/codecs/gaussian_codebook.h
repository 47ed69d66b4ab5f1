// Lloyd-Max quantisers of N(0,1): the levels of least mean squared error, computed and not tabled.
#pragma once
#include <stdint.h>

#include <span>

namespace keel::tools {

constexpr uint32_t kMaxCodebookBits = 8;

// 2^bits ascending levels, symmetric about 0; bits 1..kMaxCodebookBits.
std::span<const float> gaussian_codebook(uint32_t bits);

// Index of the level nearest to x; halfway goes up.
uint32_t nearest_level(std::span<const float> ascending, float x);

}  // namespace keel::tools
