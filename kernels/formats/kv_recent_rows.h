// Where a step has the recent rows of one of its sessions (sdk/kv/kv_f16_window.h): what host and GPU share. Numbers
// only, as they are uploaded.
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"

namespace keel::kernels {

// The row of a slot in a ring that is turned by `shift`.
KEEL_DEVICE constexpr uint32_t kv_ring_row(uint32_t slot, uint32_t shift, uint32_t ring_rows) {
    return (slot + shift) % ring_rows;
}

struct KvRecentRows {
    uint32_t shift;      // of the ring, where slots in front of step_from are read
    uint32_t step_from;  // later slots are read from row step_row + (s - step_from) of the step's; UINT32_MAX: none
    uint32_t step_row;
    uint32_t kept_from;  // slots from here on are written into the ring, turned by kept_shift
    uint32_t kept_shift;

    KEEL_DEVICE bool in_step(uint32_t slot) const { return slot >= step_from; }
    KEEL_DEVICE uint32_t row_in_step(uint32_t slot) const { return step_row + slot - step_from; }
    KEEL_DEVICE uint32_t row_in_ring(uint32_t slot, uint32_t ring_rows) const {
        return kv_ring_row(slot, shift, ring_rows);
    }
    KEEL_DEVICE bool keeps(uint32_t slot) const { return slot >= kept_from; }
    KEEL_DEVICE uint32_t kept_row(uint32_t slot, uint32_t ring_rows) const {
        return kv_ring_row(slot, kept_shift, ring_rows);
    }
};

}  // namespace keel::kernels
