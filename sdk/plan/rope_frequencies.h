// How far the pairs of a head turn from one position to the next.
#pragma once
#include "sdk/model/model.h"

namespace keel {

// The rotation frequency of a pair of elements in f64 (NUMERICS section 4). Local: that of windowed layers with a base
// of their own, which nothing scales. `divisor`: the file's factor of that pair, or 1.
double rope_frequency(const ModelSpec& spec, bool local, uint32_t pair, double divisor);

}  // namespace keel
