#include "sdk/kv/kv_f16_window.h"

namespace keel {

kernels::KvFormat kv_ring_format(kernels::KvFormat k, kernels::KvFormat v, uint32_t head_dim) {
    const auto better = [](kernels::KvFormat f) { return kernels::kKvFormats[f].bits >= 8; };
    const bool whole = head_dim % kernels::kKvFormats[kernels::kKvQ8_0].multiple == 0;
    return whole && !better(k) && !better(v) ? kernels::kKvQ8_0 : kernels::kKvF16;
}

KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     kernels::KvFormat ring, const KvF16WindowLimits& limits) {
    KvF16WindowShape s = {};
    s.first_layer = first_layer;
    s.sink_tokens = limits.sink_tokens;
    s.recent_tokens = limits.recent_tokens;
    // Scales of a head lie behind its codes.
    const auto head_bytes = [&](kernels::KvFormat f) {
        return uint64_t{kernels::kv_code_bytes(f, head_dim)} + kernels::kv_scale_bytes(f, head_dim);
    };
    const auto layer = [&](kernels::KvFormat f, uint64_t stride, uint64_t of_head) {
        KvLayer l = {};
        const uint32_t step = static_cast<uint32_t>(stride);
        l.k = l.v = {f, step, kernels::kv_scales(f, head_dim) ? step : 0, 0, kernels::kv_code_bytes(f, head_dim)};
        l.k_head_bytes = l.v_head_bytes = of_head;
        l.v.codes = kv_heads * of_head;
        l.v.scales += l.v.codes;
        return l;
    };
    const uint64_t row = head_bytes(kernels::kKvF16), heads = 2 * uint64_t{kv_heads} * row;
    s.sinks = layer(kernels::kKvF16, row, s.sink_tokens * row);
    s.sink_layer_bytes = s.sink_tokens * heads;
    s.sink_row_bytes = layers * heads;
    s.ring_offset = kernels::round64(s.sink_tokens * s.sink_row_bytes);
    if (s.recent_tokens) {
        s.kept_tokens = s.recent_tokens - 1 + limits.rollback_tokens;
        s.ring_rows = 2 * s.kept_tokens + limits.draft_tokens;
        const uint64_t ring_row = 2 * uint64_t{kv_heads} * head_bytes(ring);
        s.ring = layer(ring, ring_row, head_bytes(ring));
        s.ring_row_bytes = layers * ring_row;
        s.ring_layer_bytes = s.ring_rows * ring_row;
        s.step_rows = limits.step_tokens + limits.step_sessions * (s.recent_tokens - 1);
        s.recent = layer(kernels::kKvF16, heads, row);
        s.step_bytes = s.step_rows * heads;
    }
    s.session_bytes = kernels::round64(s.ring_offset + layers * s.ring_layer_bytes);
    return s;
}

KvRecentRows kv_recent_rows(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t from, uint32_t tokens,
                            uint32_t drafts, uint32_t first_token, uint32_t session) {
    if (!shape.recent_tokens) return {};
    const uint32_t back = shape.recent_tokens - 1;
    KvRecentRows rows = {};
    rows.first = from > back ? from - back : 0;
    rows.from = from;
    rows.row = first_token + (session + 1) * back;
    rows.shift = rows.kept_shift = window.shift;
    if (tokens + drafts <= shape.ring_rows - shape.kept_tokens) return rows;
    // Drafts may be forgotten: what is kept is counted from the last token that is none.
    rows.kept_from = from + tokens - shape.kept_tokens;
    rows.kept_shift = (from + window.shift + shape.ring_rows - rows.kept_from % shape.ring_rows) % shape.ring_rows;
    return rows;
}

void kv_f16_window_reach(const KvF16WindowShape& shape, KvF16Window* window, uint32_t end) {
    if (end > shape.ring_rows && end - shape.ring_rows > window->oldest) window->oldest = end - shape.ring_rows;
}

// Kept rows of a long step follow those in front of it in the ring, as if they were the slots from `from` on.
void kv_f16_window_write(const KvF16WindowShape& shape, KvF16Window* window, const KvRecentRows& rows, uint32_t slot) {
    if (!shape.recent_tokens || !rows.keeps(slot)) return;
    kv_f16_window_reach(shape, window, (rows.kept_from ? rows.from + (slot - rows.kept_from) : slot) + 1);
}

void kv_f16_window_finish(KvF16Window* window, const KvRecentRows& rows) {
    if (rows.kept_from == 0) return;
    window->oldest = rows.kept_from;
    window->shift = rows.kept_shift;
}

bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& window, uint32_t tokens) {
    if (shape.recent_tokens == 0 || tokens == 0) return true;
    const uint32_t first = tokens + 1 > shape.recent_tokens ? tokens + 1 - shape.recent_tokens : 0;
    return first >= window.oldest;
}

}  // namespace keel
