// Codebooks that are not the Gaussian's Lloyd-Max one: levels fitted to samples, and quantile midpoints.
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::tools {

// Lloyd's iteration from the ascending levels `start`: each level becomes the mean of the samples nearest to it
// (halfway goes up; a level without samples stays), until none moves by 1e-6 or `rounds` are over. NaN samples are left
// out.
std::vector<float> fit_codebook(std::span<const float> samples, std::span<const float> start, uint32_t rounds = 200);

// Phi^-1((i + 1/2) / 2^bits), i ascending: levels of equal probability under N(0,1), bits 1..8. Not a Lloyd-Max
// codebook: its largest level lies far inside (1.863 for 4 bits against 2.733).
std::vector<float> quantile_codebook(uint32_t bits);

}  // namespace keel::tools
