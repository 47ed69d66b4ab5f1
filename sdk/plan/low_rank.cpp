#include "sdk/plan/low_rank.h"

#include "sdk/core/status.h"

namespace keel {
namespace {

keel_low_rank_reason judge(const LowRankChoice& choice, const WprojLayer& layer, WprojSlot slot) {
    const WprojRecord& r = layer.record[slot];
    if (r.rank == 0) return KEEL_LOW_RANK_NO_FACTOR;
    if (r.rank < kLowRankLeastRank || r.energy < kLowRankLeastEnergy) return KEEL_LOW_RANK_ENERGY;
    if (choice.max_error > 0 && r.error > choice.max_error) return KEEL_LOW_RANK_ERROR;
    return KEEL_LOW_RANK_USED;
}

}  // namespace

keel_status low_rank_layer(const LowRankChoice& choice, WprojCursor* cursor, LowRankLayer* out) {
    KEEL_TRY(wproj_layer(choice.file, cursor, &out->parts));
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
        out->reason[slot] = judge(choice, out->parts, static_cast<WprojSlot>(slot));
    return KEEL_OK;
}

}  // namespace keel
