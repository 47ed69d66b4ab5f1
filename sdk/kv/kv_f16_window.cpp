#include "sdk/kv/kv_f16_window.h"

namespace keel {

KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     uint32_t sink_tokens, uint32_t recent_tokens, uint32_t rollback_tokens,
                                     uint32_t step_tokens, uint32_t draft_tokens) {
    KvF16WindowShape s = {};
    s.first_layer = first_layer;
    s.sink_tokens = sink_tokens;
    s.recent_tokens = recent_tokens;
    const uint64_t row = uint64_t{head_dim} * 2, heads = 2 * uint64_t{kv_heads} * row;
    const auto layer = [&](uint64_t stride, uint64_t head_bytes) {
        KvLayer l = {};
        l.k = l.v = {kernels::kKvF16, static_cast<uint32_t>(stride), 0, 0, 0};
        l.k_head_bytes = l.v_head_bytes = head_bytes;
        l.v.codes = kv_heads * head_bytes;
        return l;
    };
    s.sinks = layer(row, sink_tokens * row);
    s.sink_layer_bytes = sink_tokens * heads;
    s.row_bytes = layers * heads;
    s.ring_offset = kernels::round64(sink_tokens * s.row_bytes);
    if (recent_tokens) {
        s.kept_tokens = recent_tokens - 1 + rollback_tokens;
        s.ring_rows = 2 * s.kept_tokens + draft_tokens;
        if (step_tokens > s.ring_rows - s.kept_tokens) s.step_rows = step_tokens;
        s.recent = layer(heads, row);
        s.ring_layer_bytes = s.ring_rows * heads;
        s.step_bytes = s.step_rows * heads;
    }
    s.session_bytes = kernels::round64(s.ring_offset + layers * s.ring_layer_bytes);
    return s;
}

KvRecentRows kv_recent_rows(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t from, uint32_t tokens,
                            uint32_t drafts, uint32_t first_token) {
    KvRecentRows rows = {window.shift, UINT32_MAX, 0, 0, window.shift};
    if (tokens + drafts <= shape.ring_rows - shape.kept_tokens || shape.ring_rows == 0) return rows;
    rows.step_from = from;
    rows.step_row = first_token;
    // Drafts may be forgotten: what is kept is counted from the last token that is none.
    rows.kept_from = from + tokens - shape.kept_tokens;
    rows.kept_shift = (from + window.shift + shape.ring_rows - rows.kept_from % shape.ring_rows) % shape.ring_rows;
    return rows;
}

void kv_f16_window_reach(const KvF16WindowShape& shape, KvF16Window* window, uint32_t end) {
    if (end > shape.ring_rows && end - shape.ring_rows > window->oldest) window->oldest = end - shape.ring_rows;
}

// Kept rows of a long step follow those in front of it in the ring, as if they were the slots from step_from on.
void kv_f16_window_write(const KvF16WindowShape& shape, KvF16Window* window, const KvRecentRows& rows, uint32_t slot) {
    if (!shape.recent_tokens || !rows.keeps(slot)) return;
    kv_f16_window_reach(shape, window, (rows.in_step(slot) ? rows.step_from + (slot - rows.kept_from) : slot) + 1);
}

void kv_f16_window_finish(KvF16Window* window, const KvRecentRows& rows) {
    if (rows.step_from == UINT32_MAX) return;
    window->oldest = rows.kept_from;
    window->shift = rows.kept_shift;
}

bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t tokens) {
    if (shape.recent_tokens == 0 || tokens == 0) return true;
    const uint32_t first = tokens + 1 > shape.recent_tokens ? tokens + 1 - shape.recent_tokens : 0;
    return first >= window.oldest;
}

}  // namespace keel
