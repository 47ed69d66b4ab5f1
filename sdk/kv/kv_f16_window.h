// Sinks and recent rows: beside its codes, a session can keep the rows of its first and of its last positions better,
// and read those instead, in f16. Which form a query reads is a rule on positions alone: key j is read in f16 by the
// query at position t when j < sink_tokens or j > t - recent_tokens. So a row never changes what it is to a query,
// whatever the chunks, forks or drafts.
//
// Every row is coded as well. Sinks are kept in f16. Recent rows are kept as q8_0, in half the bytes, and read as those
// unpacked and rounded to f16; in f16 where a head is no multiple of 32 or a row is coded with 8 bits or more anyway.
// Both lie in memory of the session's own in the KV region:
//
//     sinks | layer 0: K head 0 rows [sink_tokens] | K head 1 | ... | V head 0 | ... | layer 1: ...
//     ring  | layer 0: rows [ring_rows] of K head 0, K head 1, ..., V head 0, ... | layer 1: ...
//
// A step unpacks what its queries read of the ring, layer by layer, into memory that all sessions share, its own rows
// behind it: the step's rows [step_rows] of K head 0, ..., V head 0, ..., in f16. Attention reads only those.
//
// A step writes the ring before it is done, and may be given up. So the ring has room for the positions in front of a
// step that must survive it (kept_tokens), as many again, and drafts. A step that is longer than what is left beside
// those puts only its last rows into the ring, behind the survivors; the session turns to those when the step is done.
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
    uint32_t kept_tokens;  // what the next query looks back at, and the rollback
    uint32_t ring_rows, step_rows;
    KvLayer sinks, ring, recent;  // of the first layer; ring and recent rows, those of a step, from its first row on
    uint64_t sink_layer_bytes, ring_layer_bytes, step_bytes;
    uint64_t ring_offset;                     // in the session's memory
    uint64_t session_bytes;                   // sinks, then the ring
    uint64_t sink_row_bytes, ring_row_bytes;  // of one position: its layers, all heads, K and V

    // The step's rows as one page.
    uint32_t step_page_tokens() const {
        return (step_rows + kernels::kAttentionTile - 1) / kernels::kAttentionTile * kernels::kAttentionTile;
    }
    uint64_t ring_of(uint32_t layer) const { return ring_offset + (layer - first_layer) * ring_layer_bytes; }
    kernels::KvPlane sink_k(uint32_t layer, uint32_t head) const { return in_layer(sinks.k_head(head), layer); }
    kernels::KvPlane sink_v(uint32_t layer, uint32_t head) const { return in_layer(sinks.v_head(head), layer); }

  private:
    kernels::KvPlane in_layer(kernels::KvPlane p, uint32_t layer) const {
        p.codes += (layer - first_layer) * sink_layer_bytes;
        return p;
    }
};
// What a ring has where rows are coded as k and v.
kernels::KvFormat kv_ring_format(kernels::KvFormat k, kernels::KvFormat v, uint32_t head_dim);
struct KvF16WindowLimits {
    uint32_t sink_tokens, recent_tokens, rollback_tokens;
    uint32_t step_tokens, step_sessions;  // most of a step
    uint32_t draft_tokens;                // most of one session in a step
};
KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     kernels::KvFormat ring, const KvF16WindowLimits& limits);

using kernels::KvRecentRows;

// A session's ring between steps.
struct KvF16Window {
    uint32_t oldest;  // the ring's rows are those of this slot and later ones
    uint32_t shift;   // of kv_ring_row
};

// A session's part of a step, the session being number `session` of it: slots [from, from + tokens + drafts), the first
// of them token `first_token` of the step.
KvRecentRows kv_recent_rows(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t from, uint32_t tokens,
                            uint32_t drafts, uint32_t first_token, uint32_t session);
// The ring has the last ring_rows of the slots in front of `end` at most.
void kv_f16_window_reach(const KvF16WindowShape& shape, KvF16Window* window, uint32_t end);
// A step writes the row of a slot: what stood in its place is gone, even if the step is given up.
void kv_f16_window_write(const KvF16WindowShape& shape, KvF16Window* window, const KvRecentRows& rows, uint32_t slot);
// The step is done.
void kv_f16_window_finish(KvF16Window* window, const KvRecentRows& rows);
// Whether a session cut to `tokens` still has the rows its next query reads; that of an empty session reads none.
bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t tokens);

}  // namespace keel
