// Which tensors of a model a W_proj cache (sdk/format/wproj.h) has factors of. Fused tensors have none.
#pragma once
#include "sdk/format/wproj.h"
#include "sdk/model/model.h"

namespace keel {

// The slot of a layer's tensor, or kWprojSlots for one that has none.
WprojSlot wproj_slot_of(TensorSlot slot);
// The tensor of a layer that a slot has factors of; null: the layer has none of its own.
const GgufTensor* wproj_tensor(const keel_model& model, uint32_t layer, uint32_t slot);
// The shapes a cache for this model has to have.
WprojShape wproj_shape_of(const keel_model& model);

}  // namespace keel
