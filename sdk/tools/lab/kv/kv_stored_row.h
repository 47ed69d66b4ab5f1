// What an arena has made of the rows it was given. For the laboratory; looks inside the engine.
#pragma once
#include "keel/keel.h"

namespace keel::tools {

// The row of one position decoded, in the coordinates in which keel_lab_heads shows k and v after RoPE: rotated back,
// gains undone, the mean that was removed after RoPE (of V: the mean) added. row: f32[head_dim].
// KEEL_E_ARGUMENT for a row that does not exist.
keel_status kv_stored_row(keel_session session, uint32_t layer, uint32_t kv_head, uint32_t position, bool value,
                          float* row);

}  // namespace keel::tools
