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
    uint32_t first;      // the first slot that a query of the step may read
    uint32_t from;       // the first slot of the step: those in front of it are unpacked from the ring
    uint32_t row;        // of slot `from` among the step's rows; the others lie around it
    uint32_t shift;      // of the ring, as the step finds it
    uint32_t kept_from;  // slots from here on are written into the ring, turned by kept_shift
    uint32_t kept_shift;

    // Slots in front of `first`, which nobody reads, have its row.
    KEEL_DEVICE uint32_t row_of(uint32_t slot) const { return row + ((slot < first ? first : slot) - from); }
    KEEL_DEVICE bool keeps(uint32_t slot) const { return slot >= kept_from; }
    KEEL_DEVICE uint32_t kept_row(uint32_t slot, uint32_t ring_rows) const {
        return kv_ring_row(slot, kept_shift, ring_rows);
    }
};

}  // namespace keel::kernels
