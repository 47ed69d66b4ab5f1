// Sinks and recent rows: beside its codes, a session can keep the rows of its first and of its last positions in f16,
// and read those instead. Which form a query reads is a rule on positions alone: key j is read in f16 by the query at
// position t when j < sink_tokens or j > t - recent_tokens. So a row never changes what it is to a query, whatever the
// chunks, forks or drafts.
//
// Every row is coded as well. The f16 rows lie in memory of the session's own in the KV region:
//
//     sinks | layer 0: K head 0 rows [sink_tokens] | K head 1 | ... | V head 0 | ... | layer 1: ...
//     ring  | layer 0: rows [ring_rows] of K head 0, K head 1, ..., V head 0, ... | layer 1: ...
//
// A step writes the ring while its layers still read what was there, and may be given up. So the ring has room for the
// positions in front of a step that must survive it (kept_tokens), as many again, and drafts. A step that is longer
// than what is left beside those keeps the rows of one layer at a time in memory that all sessions share, step_rows,
// and puts only its last ones into the ring, behind the survivors; the session turns to those when the step is done.
#pragma once
#include "kernels/formats/kv_recent_rows.h"
#include "sdk/kv/kv_arena.h"

namespace keel {

constexpr uint32_t kMaxSinks = kPageTokens;
constexpr uint32_t kMaxRecent = 512;
// Many models send a third of their attention to the first position, whose rows are unlike all others: less a mean they
// grow, and coded so they are more than half of what a profile's formats lose (perf/RESULTS.md). It costs a row of f16.
constexpr uint32_t kDefaultSinks = 1;

struct KvF16WindowShape {
    uint32_t first_layer, sink_tokens, recent_tokens;
    uint32_t kept_tokens;           // what the next query looks back at, and the rollback
    uint32_t ring_rows, step_rows;  // step_rows: tokens of a step; 0 if none is too long for the ring
    KvLayer sinks, recent;          // of the first layer; recent rows count from the layer's first one
    uint64_t sink_layer_bytes, ring_layer_bytes, step_bytes;
    uint64_t ring_offset;    // in the session's memory
    uint64_t session_bytes;  // sinks, then the ring
    uint64_t row_bytes;      // of one position: its layers, all heads, K and V

    uint64_t ring_of(uint32_t layer) const { return ring_offset + (layer - first_layer) * ring_layer_bytes; }
    kernels::KvPlane sink_k(uint32_t layer, uint32_t head) const { return in_layer(sinks.k_head(head), layer); }
    kernels::KvPlane sink_v(uint32_t layer, uint32_t head) const { return in_layer(sinks.v_head(head), layer); }

  private:
    kernels::KvPlane in_layer(kernels::KvPlane p, uint32_t layer) const {
        p.codes += (layer - first_layer) * sink_layer_bytes;
        return p;
    }
};
// Of `layers` layers. step_tokens, draft_tokens: most positions, and most drafts among them, of one session in a step.
KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     uint32_t sink_tokens, uint32_t recent_tokens, uint32_t rollback_tokens,
                                     uint32_t step_tokens, uint32_t draft_tokens);

using kernels::KvRecentRows;

// A session's ring between steps.
struct KvF16Window {
    uint32_t oldest;  // the ring's rows are those of this slot and later ones
    uint32_t shift;   // of kv_ring_row
};

// A session's part of a step: slots [from, from + tokens + drafts), the first of them token `first_token` of the step.
KvRecentRows kv_recent_rows(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t from, uint32_t tokens,
                            uint32_t drafts, uint32_t first_token);
// The ring has the last ring_rows of the slots in front of `end` at most.
void kv_f16_window_reach(const KvF16WindowShape& shape, KvF16Window* window, uint32_t end);
// A step writes the row of a slot: what stood in its place is gone, even if the step is given up.
void kv_f16_window_write(const KvF16WindowShape& shape, KvF16Window* window, const KvRecentRows& rows, uint32_t slot);
// The step is done.
void kv_f16_window_finish(KvF16Window* window, const KvRecentRows& rows);
// Whether a session cut to `tokens` still has the rows its next query reads; that of an empty session reads none.
bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t tokens);

}  // namespace keel
