// Sinks and recent rows: beside its codes, a session can keep the rows of its first and of its last positions in f16,
// and read those instead. Which form a query reads is a rule on positions alone: key j is read in f16 by the query at
// position t when j < sink_tokens or j > t - recent_tokens. So a row never changes what it is to a query, whatever the
// chunks, forks or drafts.
//
// Every row is coded as well. The f16 rows lie in memory of the session's own in the KV region:
//
//     sinks | layer 0: K head 0 rows [sink_tokens] | K head 1 | ... | V head 0 | ... | layer 1: ...
//     ring of recent pages, page p of the sequence at p % recent_pages; each as a page of the arena with f16 rows only
//
// The ring holds what the longest step, abandoned or of forgotten drafts, and the longest rollback need: truncating
// further back is refused.
#pragma once
#include "sdk/kv/kv_arena.h"

namespace keel {

constexpr uint32_t kMaxSinks = kPageTokens;
// Many models send a third of their attention to the first position, whose rows are unlike all others: less a mean they
// grow, and coded so they are more than half of what a profile's formats lose (perf/RESULTS.md). It costs a row of f16.
constexpr uint32_t kDefaultSinks = 1;

struct KvF16WindowShape {
    uint32_t first_layer, sink_tokens, recent_tokens, recent_pages;
    KvLayer sinks, recent;  // of the first layer
    uint64_t sink_layer_bytes, recent_layer_bytes, recent_page_bytes;
    uint64_t session_bytes;  // sinks, then the ring
    uint64_t row_bytes;      // of one position: its layers, all heads, K and V

    // Where the slot of a page of the sequence begins in the session's memory.
    uint64_t recent_page_offset(uint32_t page) const {
        return session_bytes - recent_pages * recent_page_bytes + page % recent_pages * recent_page_bytes;
    }
    kernels::KvPlane sink_k(uint32_t layer, uint32_t head) const {
        return behind(sinks.k_head(head), (layer - first_layer) * sink_layer_bytes);
    }
    kernels::KvPlane sink_v(uint32_t layer, uint32_t head) const {
        return behind(sinks.v_head(head), (layer - first_layer) * sink_layer_bytes);
    }
    kernels::KvPlane recent_k(uint32_t layer, uint32_t head) const {
        return behind(recent.k_head(head), (layer - first_layer) * recent_layer_bytes);
    }
    kernels::KvPlane recent_v(uint32_t layer, uint32_t head) const {
        return behind(recent.v_head(head), (layer - first_layer) * recent_layer_bytes);
    }

  private:
    static kernels::KvPlane behind(kernels::KvPlane p, uint64_t bytes) {
        p.codes += bytes;
        return p;
    }
};
// Of `layers` layers; step_tokens: most positions of one session in a step.
KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     uint32_t sink_tokens, uint32_t recent_tokens, uint32_t rollback_tokens,
                                     uint32_t step_tokens);

struct KvF16Window {
    uint32_t oldest_page;  // the ring's rows are those of this page and later ones
};

// The session's first `pages` pages have been written: those that lost their slot are gone.
void kv_f16_window_advance(const KvF16WindowShape& shape, KvF16Window* p, uint32_t pages);
// Whether a session cut to `tokens` still has the rows its next query reads; that of an empty session reads none.
bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& p, uint32_t tokens);

}  // namespace keel
