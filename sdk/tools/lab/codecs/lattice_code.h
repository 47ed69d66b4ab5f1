// Points of D4 and E8 inside a box, and their numbers: the codes of KakeyaLattice, in a form that can be stored.
//
// Publications clamp the closest lattice point to the box. In E8 that leaves points of no coset, which have no number:
// in 1 % of Gaussian blocks, 17 % of rows of 128. Here the search itself stays in the box, and is exact there; the
// error of E8 is 0.7 % larger for it (D4: the same).
#pragma once
#include <stdint.h>

#include "sdk/tools/lab/codecs/row_bits.h"

namespace keel::tools {

constexpr uint32_t kMaxLatticeBlock = 8;

// D4 (dim 4: integers of even sum) or E8 (dim 8: integers of even sum, and the same shifted by 1/2 everywhere) with
// coordinates within +-radius; the half-integers of E8 are then within +-(radius - 1/2).
class LatticeCode {
  public:
    static constexpr uint32_t kMaxRadius = 32767;  // (2 * radius + 1)^8 is below 2^128

    LatticeCode(uint32_t dim, uint32_t radius);
    uint32_t dim() const { return dim_; }
    // ceil(4 log2(2 radius + 1) - 1) for D4, ceil(8 log2(2 radius + 1)) for E8: exact, from integers.
    uint32_t index_bits() const { return bits_; }
    // The point of the box nearest to y[dim], twice its coordinates; y is finite. Ties: integers before half-integers,
    // earlier coordinates before later ones.
    void closest(const float* y, int32_t* twice) const;
    // The point's number, below 2^index_bits(), and back.
    //
    // Even sums: with digits x_i + radius in radix 2 radius + 1, which is odd, a number is even exactly when its
    // digits' sum is, so half of it numbers the points without gaps. Half-integers follow: digits x_i + radius - 1/2 in
    // radix 2 radius, the last one without its lowest bit, which the others' parity fixes. Unlike a
    // first-digits-then-half-the-last number for both, this fits for every radius (D4, radius 90, 29 bits is one where
    // that one does not).
    u128 index(const int32_t* twice) const;
    void point(u128 index, int32_t* twice) const;

  private:
    uint32_t dim_, bits_;
    int32_t radius_;
    u128 integers_;  // number of points with integer coordinates
};

}  // namespace keel::tools
