// A program: a model made ready to run in one configuration. It is what an engine shows its backend, constant after
// init but for the taps, which are set while no session is open.
#pragma once
#include "keel/keel.h"
#include "keel/keel_lab.h"
#include "sdk/core/arena.h"
#include "sdk/kv/kv_arena.h"
#include "sdk/kv/kv_f16_window.h"
#include "sdk/plan/config.h"
#include "sdk/plan/kv_transform.h"
#include "sdk/plan/ops.h"

namespace keel {

// The KV rows of some layers: a page has a part in each region that layers keep their rows in.
struct KvPart {
    keel_region_kind region;
    uint32_t first_layer;
    uint64_t page_bytes;
    KvF16WindowShape f16_window;
    uint64_t pages_offset, f16_windows_offset;  // in the region: see below
    uint64_t step_rows_offset;                  // of recent rows of a long step (kv_f16_window.h), one layer's

    uint64_t page_offset(uint32_t id) const { return pages_offset + id * (page_bytes + kRedZoneBytes); }
    uint64_t f16_window_offset(uint32_t session_index) const {
        return f16_windows_offset + session_index * (f16_window.session_bytes + kRedZoneBytes);
    }
};

struct Program {
    keel_hooks hooks;
    PlanConfig config;
    ModelSpec spec;
    bool rope_neox;
    ExecutionPlan plan;
    KvGeometry geometry;
    KvF16WindowShape f16_window;  // of all layers
    KvPart kv_part[2];            // the layers in memory of the backend's own, then those in host memory
    uint32_t kv_parts;
    KvTransform transform;
    double* frequencies;  // [rope sets][rope_dims / 2]

    // Where things lie. Only the backend knows what is at the base of KV and of device regions; others are host memory.
    uint8_t* region[KEEL_REGION_COUNT];
    float* logits;                      // [all_logits_rows][vocabulary]: logits_rows of each session, then drafts'
    float* hidden;                      // [all_logits_rows][embedding]
    uint64_t kept_logits, kept_hidden;  // in DEVICE_SCRATCH, the same rows: where the head is not the host's
    uint8_t* handover;  // rows of the residual on their way to the host layers, in PINNED; null: there are none

    void (*tap)(void* user_data, const keel_lab_heads* heads);  // keel_lab_set_tap
    void* tap_user_data;
    void (*row_tap)(void* user_data, const keel_lab_row* row);  // keel_lab_set_row_tap
    void* row_tap_user_data;
    bool time_ops;  // keel_lab_time_ops

    const KvPart& kv_of(uint32_t layer) const { return kv_part[kv_parts == 2 && layer >= kv_part[1].first_layer]; }
};

}  // namespace keel
