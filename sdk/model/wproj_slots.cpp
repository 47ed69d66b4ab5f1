#include "sdk/model/wproj_slots.h"

namespace keel {
namespace {

constexpr struct {
    TensorSlot tensor;
    WprojSlot slot;
} kPairs[] = {{kAttnQ, kWprojQ},  {kAttnK, kWprojK},      {kAttnV, kWprojV},     {kAttnOutput, kWprojO},
              {kFfnUp, kWprojUp}, {kFfnGate, kWprojGate}, {kFfnDown, kWprojDown}};

}  // namespace

WprojSlot wproj_slot_of(TensorSlot slot) {
    for (const auto& pair : kPairs)
        if (pair.tensor == slot) return pair.slot;
    return kWprojSlots;
}

const GgufTensor* wproj_tensor(const keel_model& model, uint32_t layer, uint32_t slot) {
    for (const auto& pair : kPairs)
        if (pair.slot == slot) return model.tensor(pair.tensor, layer);
    return nullptr;
}

WprojShape wproj_shape_of(const keel_model& model) {
    WprojShape shape = {};
    shape.fingerprint = model.gguf.fingerprint;
    shape.layers = model.spec.layers;
    for (const auto& pair : kPairs) {
        const GgufTensor* t = wproj_tensor(model, 0, pair.slot);
        if (!t) continue;
        shape.columns[wproj_group(pair.slot)] = static_cast<uint32_t>(t->dims[0]);
        shape.rows[pair.slot] = static_cast<uint32_t>(t->dims[1]);
    }
    return shape;
}

}  // namespace keel
