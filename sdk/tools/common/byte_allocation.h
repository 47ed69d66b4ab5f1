// Which choice each part gets under a budget of bytes, from what each choice costs by itself: formats of a KV arena,
// ranks of a W_proj cache.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace keel::tools {

// One part (K of a layer, a group of projections) and its choices: bytes, and what the choice costs in quality (any
// unit that adds up).
struct AllocationUnit {
    std::vector<uint64_t> bytes;
    std::vector<double> cost;
};
using AllocationChoices = std::vector<size_t>;  // of every unit

uint64_t bytes_of(const std::vector<AllocationUnit>& units, const AllocationChoices& choices);
double cost_of(const std::vector<AllocationUnit>& units, const AllocationChoices& choices);

// From every unit's cheapest choice (the smallest of equals) down to its smallest, one unit at a time: each step is the
// one of least cost per byte saved. Steps of a unit follow the lower convex hull of its choices, so every point of the
// path has the least cost of all allocations with no more bytes.
std::vector<AllocationChoices> allocation_path(const std::vector<AllocationUnit>& units);

// The first point of the path within the budget; then what is left of it goes to the single change that lowers the cost
// most, again and again. Empty when even the smallest choices exceed it.
AllocationChoices allocate(const std::vector<AllocationUnit>& units, uint64_t budget_bytes);

}  // namespace keel::tools
