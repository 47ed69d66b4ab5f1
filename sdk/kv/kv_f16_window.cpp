#include "sdk/kv/kv_f16_window.h"

namespace keel {

KvF16WindowShape kv_f16_window_shape(uint32_t first_layer, uint32_t layers, uint32_t kv_heads, uint32_t head_dim,
                                     uint32_t sink_tokens, uint32_t recent_tokens, uint32_t rollback_tokens,
                                     uint32_t step_tokens) {
    KvF16WindowShape s = {};
    s.first_layer = first_layer;
    s.sink_tokens = sink_tokens;
    s.recent_tokens = recent_tokens;
    // The pages that the positions of a step, those it looks back at, and those it may be cut back to can lie in: that
    // many in a row, the first of them the last one of a page.
    if (recent_tokens) s.recent_pages = (recent_tokens + rollback_tokens + step_tokens - 2) / kPageTokens + 2;
    const uint64_t row = uint64_t{head_dim} * 2;
    const auto layer = [&](uint32_t tokens, uint64_t* bytes) {
        KvLayer l = {};
        l.k = l.v = {kernels::kKvF16, static_cast<uint32_t>(row), 0, 0, 0};
        l.k_head_bytes = l.v_head_bytes = tokens * row;
        l.v.codes = kv_heads * l.k_head_bytes;
        *bytes = 2 * kv_heads * l.k_head_bytes;
        return l;
    };
    s.sinks = layer(sink_tokens, &s.sink_layer_bytes);
    s.recent = layer(kPageTokens, &s.recent_layer_bytes);
    s.recent_page_bytes = layers * s.recent_layer_bytes;
    s.row_bytes = layers * 2 * kv_heads * row;
    s.session_bytes = kernels::round64(layers * s.sink_layer_bytes) + s.recent_pages * s.recent_page_bytes;
    return s;
}

void kv_f16_window_advance(const KvF16WindowShape& shape, KvF16Window* p, uint32_t pages) {
    if (shape.recent_pages && pages > shape.recent_pages && pages - shape.recent_pages > p->oldest_page)
        p->oldest_page = pages - shape.recent_pages;
}

bool kv_f16_window_reaches(const KvF16WindowShape& shape, const KvF16Window& p, uint32_t tokens) {
    if (shape.recent_tokens == 0 || tokens == 0) return true;
    const uint32_t first = tokens + 1 > shape.recent_tokens ? tokens + 1 - shape.recent_tokens : 0;
    return first >= p.oldest_page * kPageTokens;
}

}  // namespace keel
