// The directions that a block's coefficients cluster around: centres on the unit sphere, where an antipode counts as
// the same direction. Needs Eigen.
#pragma once
#include <vector>

#include "sdk/tools/lab/codecs/block_pca.h"

namespace keel::tools {

// Unit centres [k][dim] of the rows' directions; rows of zeros have none and take no part. The first centre is the
// first direction;
// each further one the direction with the least |cos| to those before it. (Published: the least cos, which would spend
// centres on
// antipodes.) Then at most 32 rounds: every row to the centre of largest |cos|, every centre to the normalised sum of
// its rows' unit vectors, signs turned towards it. Without any direction all centres are zero.
RowMatrix spherical_centres(const RowMatrix& rows, uint32_t k);

// Per row the centre of largest |<row, centre>|, the first of equals.
std::vector<uint32_t> nearest_centres(const RowMatrix& rows, const RowMatrix& centres);

}  // namespace keel::tools
