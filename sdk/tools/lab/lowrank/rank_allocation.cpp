#include "sdk/tools/lab/lowrank/rank_allocation.h"

#include <cmath>
#include <stdexcept>

#include "sdk/tools/common/byte_allocation.h"

namespace keel::tools {
namespace {

// `accept(bytes, loss)`: within the budget. `better(bytes, loss, best)`: strictly preferred.
template <class Accept, class Better>
RankAllocation best_of(const std::vector<RankFamily>& families, const Accept& accept, const Better& better) {
    std::vector<AllocationUnit> units;
    for (const RankFamily& family : families) {
        if (family.candidates.empty()) throw std::invalid_argument("a family without candidates");
        AllocationUnit unit;
        for (const RankCandidate& c : family.candidates) {
            if (!(std::isfinite(c.loss) && c.loss >= 0))
                throw std::invalid_argument("a loss that is negative or not finite");
            unit.bytes.push_back(c.bytes);
            unit.cost.push_back(c.loss);
        }
        units.push_back(std::move(unit));
    }
    const std::vector<AllocationChoices> path = allocation_path(units);
    bool found = false;
    RankAllocation best;
    size_t best_point = 0, best_unit = 0, best_candidate = 0;
    const auto consider = [&](uint64_t bytes, double loss, size_t point, size_t unit, size_t candidate) {
        if (!accept(bytes, loss) || (found && !better(bytes, loss, best))) return;
        found = true;
        best.bytes = bytes;
        best.loss = loss;
        best_point = point, best_unit = unit, best_candidate = candidate;
    };
    for (size_t point = 0; point < path.size(); ++point) {
        const uint64_t bytes = bytes_of(units, path[point]);
        const double loss = cost_of(units, path[point]);
        consider(bytes, loss, point, units.size(), 0);
        for (size_t u = 0; u < units.size(); ++u) {
            const size_t now = path[point][u];
            for (size_t c = 0; c < units[u].bytes.size(); ++c)
                if (c != now)
                    consider(bytes - units[u].bytes[now] + units[u].bytes[c],
                             loss - units[u].cost[now] + units[u].cost[c], point, u, c);
        }
    }
    if (!found) return {};
    for (size_t u = 0; u < units.size(); ++u)
        best.choice.push_back(static_cast<uint32_t>(u == best_unit ? best_candidate : path[best_point][u]));
    return best;
}

}  // namespace

RankAllocation allocate_bytes(const std::vector<RankFamily>& families, uint64_t budget_bytes) {
    return best_of(
        families, [&](uint64_t bytes, double) { return bytes <= budget_bytes; },
        [](uint64_t bytes, double loss, const RankAllocation& best) {
            return loss != best.loss ? loss < best.loss : bytes < best.bytes;
        });
}

RankAllocation allocate_loss(const std::vector<RankFamily>& families, double budget_loss) {
    return best_of(
        families, [&](uint64_t, double loss) { return loss <= budget_loss; },
        [](uint64_t bytes, double loss, const RankAllocation& best) {
            return bytes != best.bytes ? bytes < best.bytes : loss < best.loss;
        });
}

}  // namespace keel::tools
