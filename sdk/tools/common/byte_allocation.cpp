#include "sdk/tools/common/byte_allocation.h"

#include <algorithm>

namespace keel::tools {
namespace {

// Choices of a unit on its lower convex hull, from the least cost down to the least bytes.
std::vector<size_t> hull_of(const AllocationUnit& unit) {
    std::vector<size_t> order(unit.bytes.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return unit.bytes[a] != unit.bytes[b] ? unit.bytes[a] > unit.bytes[b] : unit.cost[a] < unit.cost[b];
    });
    std::vector<size_t> hull;
    const auto slope = [&](size_t from, size_t to) {
        return (unit.cost[to] - unit.cost[from]) / static_cast<double>(unit.bytes[from] - unit.bytes[to]);
    };
    for (const size_t choice : order) {
        if (!hull.empty() && unit.bytes[choice] == unit.bytes[hull.back()]) continue;
        // Whoever costs no less with more bytes is out, and so is who lies above the line between his neighbours.
        while (!hull.empty() && unit.cost[hull.back()] >= unit.cost[choice]) hull.pop_back();
        while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) >= slope(hull.back(), choice))
            hull.pop_back();
        hull.push_back(choice);
    }
    return hull;
}

}  // namespace

uint64_t bytes_of(const std::vector<AllocationUnit>& units, const AllocationChoices& choices) {
    uint64_t sum = 0;
    for (size_t u = 0; u < units.size(); ++u) sum += units[u].bytes[choices[u]];
    return sum;
}
double cost_of(const std::vector<AllocationUnit>& units, const AllocationChoices& choices) {
    double sum = 0;
    for (size_t u = 0; u < units.size(); ++u) sum += units[u].cost[choices[u]];
    return sum;
}

std::vector<AllocationChoices> allocation_path(const std::vector<AllocationUnit>& units) {
    std::vector<std::vector<size_t>> hulls;
    std::vector<size_t> at(units.size(), 0);
    AllocationChoices choices;
    for (const AllocationUnit& unit : units) {
        hulls.push_back(hull_of(unit));
        choices.push_back(hulls.back()[0]);
    }
    std::vector<AllocationChoices> path = {choices};
    for (;;) {
        size_t best = units.size();
        double best_slope = 0;
        for (size_t u = 0; u < units.size(); ++u) {
            if (at[u] + 1 == hulls[u].size()) continue;
            const size_t from = hulls[u][at[u]], to = hulls[u][at[u] + 1];
            const double slope = (units[u].cost[to] - units[u].cost[from]) /
                                 static_cast<double>(units[u].bytes[from] - units[u].bytes[to]);
            if (best == units.size() || slope < best_slope) {
                best = u;
                best_slope = slope;
            }
        }
        if (best == units.size()) return path;
        choices[best] = hulls[best][++at[best]];
        path.push_back(choices);
    }
}

AllocationChoices allocate(const std::vector<AllocationUnit>& units, uint64_t budget_bytes) {
    AllocationChoices choices;
    for (const AllocationChoices& point : allocation_path(units))
        if (bytes_of(units, point) <= budget_bytes) {
            choices = point;
            break;
        }
    if (choices.empty()) return choices;
    for (uint64_t left = budget_bytes - bytes_of(units, choices);;) {
        size_t best_unit = units.size(), best_choice = 0;
        double best_gain = 0;
        for (size_t u = 0; u < units.size(); ++u)
            for (size_t c = 0; c < units[u].bytes.size(); ++c) {
                const double gain = units[u].cost[choices[u]] - units[u].cost[c];
                if (gain > best_gain && units[u].bytes[c] <= units[u].bytes[choices[u]] + left) {
                    best_gain = gain;
                    best_unit = u;
                    best_choice = c;
                }
            }
        if (best_unit == units.size()) return choices;
        left = left + units[best_unit].bytes[choices[best_unit]] - units[best_unit].bytes[best_choice];
        choices[best_unit] = best_choice;
    }
}

}  // namespace keel::tools
