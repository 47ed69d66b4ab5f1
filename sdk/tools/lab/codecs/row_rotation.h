// The rotations of rows: Hadamard transforms with and without random signs, and a Gaussian projection. All of them are
// fixed: butterflies in one order of f32 additions, randomness from constants.
#pragma once
#include <stdint.h>

#include <span>
#include <vector>

namespace keel::tools {

// Largest power of two that divides dim: the width of the Hadamard blocks of a row (128: 128; 96: 32; 80: 16).
uint32_t hadamard_width(uint32_t dim);

// Every block of hadamard_width(x.size()) times the orthonormal Sylvester-Hadamard matrix. Its own inverse up to
// rounding.
void hadamard(std::span<float> x);

// hadamard() after x_i -> +-x_i with signs from `seed`, and the inverse of that.
void signed_hadamard(std::span<float> x, uint64_t seed);
void signed_hadamard_inverse(std::span<float> x, uint64_t seed);

// Row-major [dim][dim], entries N(0,1) from a constant seed. Made once per dim, kept for the life of the program.
const std::vector<float>& gaussian_matrix(uint32_t dim);

}  // namespace keel::tools
