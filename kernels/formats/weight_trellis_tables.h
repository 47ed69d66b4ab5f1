// Codebooks of trellis weights (weight_trellis.h). Made by tests/generators/train_weight_trellis.cpp.
#pragma once
#include "kernels/formats/weight_trellis.h"

namespace keel::kernels {

KEEL_TABLE TrellisCode kTrellisCodes[] = {
    {2,
     2,
     20.626060f,
     {{-17, 8, 30, -3, 15, -8, 0, -30, 7, 27, -29, -9, -20, -5, 4, 24},
      {-2, -3, 3, 10, 5, -3, -1, -4, 1, -1, 1, -4, 7, 7, -14, -1},
      {-16, 0, 13, 13, 9, 23, -18, 0, -6, 0, 3, -7, 6, -18, 10, -12}}},
    {3,
     1,
     17.971579f,
     {{-14, 15, 27, -8, 7, -1, 0, -29, 9, 28, -23, -1, -6, -14, 2, 15},
      {-5, -3, 6, 4, 1, -2, -9, -3, -1, -3, 4, -4, 13, 9, -12, 6},
      {-10, 4, 18, 12, 5, 23, -20, 0, -6, -9, 8, -13, -1, -20, 14, -3}}},
};
KEEL_DEVICE constexpr TrellisCode trellis_code(uint32_t type) {
    return kTrellisCodes[type - kWT2];
}

}  // namespace keel::kernels
