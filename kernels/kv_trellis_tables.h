#pragma once
#include <stdint.h>
namespace keel::kernels {
constexpr float kTrellisUnit[3] = {1, 1, 1};
constexpr int8_t kTrellisTables[3][256] = {};
}
