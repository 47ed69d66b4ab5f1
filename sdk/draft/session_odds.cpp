#include "sdk/draft/session_odds.h"

#include <string.h>

namespace keel {
namespace {

// A draft costs a step of what drafts, so a first one that was wrong by chance must not end it all.
constexpr double kFirstLossSteps = 4;
constexpr double kPriorShare = 0.8, kPriorWeight = 4;  // drafts
constexpr uint32_t kMostOutcomes = 64;                 // then old ones count half

}  // namespace

void SessionOdds::open() {
    memset(outcomes_, 0, sizeof outcomes_);
    ledger_.open(kFirstLossSteps);
}

double SessionOdds::right_share(uint32_t place) const {
    const Outcomes& o = outcomes_[place < kPlaces ? place : kPlaces - 1];
    return (o.right + kPriorWeight * kPriorShare) / (o.right + o.wrong + kPriorWeight);
}

uint32_t SessionOdds::worth(const DraftStep& step, double catch_up, double each, uint32_t most) const {
    double reach = 1, expected = 0, best = 0;
    uint32_t worth = 0;
    for (uint32_t n = 0; n < most; ++n) {
        const double cost = step.tokens_in(catch_up + n * each) + step.cost(n + 1);
        if (cost > ledger_.most_cost()) break;
        reach *= right_share(n);
        expected += reach;
        const double gain = expected - ledger_.pace() * cost;
        if (gain <= best) continue;
        best = gain;
        worth = n + 1;
    }
    return worth;
}

void SessionOdds::verified(const DraftStep& step, uint32_t drafted, uint32_t accepted) {
    for (uint32_t n = 0; n < drafted && n <= accepted; ++n) {
        Outcomes& o = outcomes_[n < kPlaces ? n : kPlaces - 1];
        ++(n < accepted ? o.right : o.wrong);
        if (o.right + o.wrong >= kMostOutcomes) o.right /= 2, o.wrong /= 2;
    }
    ledger_.step(step.cost(drafted), accepted);
}

}  // namespace keel
