// What the execution plan uses of a W_proj cache (sdk/format/wproj.h): which products of a layer have a low-rank form,
// and why others have none. The low-rank variant runs over the same weights, buffers and KV rows as the dense one:
//
//     dense       y = W x + bias
//     low rank    x_sub = Pt x, once per group;  y = W_proj x_sub + (bias of the model + bias of the record)
#pragma once
#include "keel/keel.h"
#include "sdk/format/wproj.h"
#include "sdk/model/wproj_slots.h"

namespace keel {

// Factors below these thresholds are ignored even if the file has them: the limits of the published implementation.
constexpr uint32_t kLowRankLeastRank = 8;
constexpr float kLowRankLeastEnergy = 0.02f;

// Of a configuration. `given` and not `usable`: the cache is not used, for what `error` says.
struct LowRankChoice {
    bool given, usable;
    uint32_t part_index;  // of the cache, in config.parts
    WprojFile file;
    float max_error;  // factors with a larger error are not used; 0: no bound
    keel_error error;
};

// Of a layer. reason: KEEL_LOW_RANK_USED where the record is used.
struct LowRankLayer {
    WprojLayer parts;
    keel_low_rank_reason reason[kWprojSlots];

    bool uses(WprojSlot slot) const { return reason[slot] == KEEL_LOW_RANK_USED; }
    bool uses(WprojGroup group) const {
        for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
            if (wproj_group(static_cast<WprojSlot>(slot)) == group && uses(static_cast<WprojSlot>(slot))) return true;
        return false;
    }
};

// The next layer in ascending order; `cursor` as in wproj_layer. KEEL_E_FILE_READ.
keel_status low_rank_layer(const LowRankChoice& choice, WprojCursor* cursor, LowRankLayer* out);

}  // namespace keel
