#include "sdk/plan/low_rank.h"

#include "sdk/core/status.h"

namespace keel {
namespace {

constexpr struct {
    TensorSlot tensor;
    WprojSlot record;
} kPairs[] = {{kAttnQ, kWprojQ},  {kAttnK, kWprojK},      {kAttnV, kWprojV},     {kAttnOutput, kWprojO},
              {kFfnUp, kWprojUp}, {kFfnGate, kWprojGate}, {kFfnDown, kWprojDown}};

keel_low_rank_reason judge(const LowRankChoice& choice, const WprojLayer& layer, WprojSlot slot) {
    const WprojRecord& r = layer.record[slot];
    if (r.rank == 0) return KEEL_LOW_RANK_NO_RECORD;
    if (r.rank < kLowRankLeastRank || r.energy < kLowRankLeastEnergy) return KEEL_LOW_RANK_ENERGY;
    if (choice.max_error > 0 && r.error > choice.max_error) return KEEL_LOW_RANK_ERROR;
    return KEEL_LOW_RANK_USED;
}

}  // namespace

WprojSlot wproj_slot_of(TensorSlot slot) {
    for (const auto& pair : kPairs)
        if (pair.tensor == slot) return pair.record;
    return kWprojSlots;
}

const GgufTensor* wproj_tensor(const keel_model& model, uint32_t layer, uint32_t slot) {
    for (const auto& pair : kPairs)
        if (pair.record == slot) return model.tensor(pair.tensor, layer);
    return nullptr;
}

WprojShape wproj_shape_of(const keel_model& model) {
    WprojShape shape = {};
    shape.fingerprint = model.gguf.fingerprint;
    shape.layers = model.spec.layers;
    for (const auto& pair : kPairs) {
        const GgufTensor* t = wproj_tensor(model, 0, pair.record);
        if (!t) continue;
        shape.columns[wproj_group(pair.record)] = static_cast<uint32_t>(t->dims[0]);
        shape.rows[pair.record] = static_cast<uint32_t>(t->dims[1]);
    }
    return shape;
}

keel_status low_rank_layer(const LowRankChoice& choice, WprojCursor* cursor, LowRankLayer* out) {
    KEEL_TRY(wproj_layer(choice.file, cursor, &out->parts));
    for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
        out->reason[slot] = judge(choice, out->parts, static_cast<WprojSlot>(slot));
    return KEEL_OK;
}

}  // namespace keel
