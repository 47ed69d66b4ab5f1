// Which projections of which layers become low-rank, and of what rank: the least predicted loss within a budget of
// bytes, or the fewest bytes within a budget of loss. A family is the projections of one input in one layer, such as Q,
// K and V; families are independent and their losses add up.
#pragma once
#include <stdint.h>

#include <vector>

namespace keel::tools {

struct RankCandidate {
    uint32_t slots = 0;  // bit s: slot s is low-rank; 0: all dense
    uint32_t rank = 0;   // of the family's basis; 0: all dense
    uint64_t bytes = 0;  // of the family's weights as they would be read: dense ones, Pt, W_proj, biases
    double loss = 0;     // sum over slots of sensitivity times relative output error
};
// The dense one among them.
struct RankFamily {
    std::vector<RankCandidate> candidates;
};

struct RankAllocation {
    std::vector<uint32_t> choice;  // of each family, index of the candidate; empty: the budget cannot be met
    uint64_t bytes = 0;
    double loss = 0;
};

// Chosen from: the points of allocation_path (sdk/tools/common/byte_allocation.h), each of which has the least loss of
// all allocations with no more bytes, and those points with any one family changed. So a larger budget never means a
// larger loss, and equal input gives equal output: of equal losses the fewer bytes, then the earlier on the path.
// std::invalid_argument for a family without candidates or a loss that is no finite number >= 0.
RankAllocation allocate_bytes(const std::vector<RankFamily>& families, uint64_t budget_bytes);
// Of equal bytes the smaller loss, then the earlier on the path.
RankAllocation allocate_loss(const std::vector<RankFamily>& families, double budget_loss);

}  // namespace keel::tools
