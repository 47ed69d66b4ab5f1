// Which format each part of a KV arena gets under a budget of bytes, from what each choice costs by itself.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace keel::tools {

// One part (such as K of a layer) and its choices: bytes, and what the choice costs in quality (any unit that adds up).
struct KvUnit {
    std::vector<uint64_t> bytes;
    std::vector<double> cost;
};
using KvChoices = std::vector<size_t>;  // of every unit

uint64_t bytes_of(const std::vector<KvUnit>& units, const KvChoices& choices);
double cost_of(const std::vector<KvUnit>& units, const KvChoices& choices);

// From every unit's cheapest choice (the smallest of equals) down to its smallest, one unit at a time: each step is the one of
// least cost per byte saved. Steps of a unit follow the lower convex hull of its choices, so every point of the path has the least
// cost of all allocations with no more bytes.
std::vector<KvChoices> allocation_path(const std::vector<KvUnit>& units);

// The first point of the path within the budget; then what is left of it goes to the single change that lowers the cost most, again and
// again. Empty when even the smallest choices exceed it.
KvChoices allocate(const std::vector<KvUnit>& units, uint64_t budget_bytes);

}  // namespace keel::tools
