#include "sdk/run/tree.h"

#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {

keel_status move_kv_row(Engine* e, const Session& s, uint32_t to, uint32_t from) {
    const KvGeometry& g = e->geometry;
    const auto move_plane = [&](const KvPart& part, const kernels::KvPlane& plane, uint64_t to_page,
                                uint64_t from_page) {
        const auto move_bytes = [&](uint64_t at, uint64_t bytes) -> keel_status {
            if (bytes == 0) return KEEL_OK;
            return copy_kv(e, part, to_page + at + to % kPageTokens * bytes,
                           from_page + at + from % kPageTokens * bytes, bytes);
        };
        const keel_status status = move_bytes(plane.codes, plane.code_bytes);
        return status == KEEL_OK ? move_bytes(plane.scales, plane.scale_bytes) : status;
    };
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
        const KvPart& part = e->kv_of(layer);
        const KvF16WindowShape& f16 = part.f16_window;
        const uint64_t to_page = part.page_offset(s.kv.ids[to / kPageTokens]),
                       from_page = part.page_offset(s.kv.ids[from / kPageTokens]),
                       window = part.f16_window_offset(e->index_of(&s));
        for (uint32_t head = 0; head < g.kv_heads; ++head) {
            KEEL_TRY(move_plane(part, g.layer[layer].k_head(head), to_page, from_page));
            KEEL_TRY(move_plane(part, g.layer[layer].v_head(head), to_page, from_page));
            if (!f16.recent_tokens) continue;
            const uint64_t to_recent = window + f16.recent_page_offset(to / kPageTokens),
                           from_recent = window + f16.recent_page_offset(from / kPageTokens);
            KEEL_TRY(move_plane(part, f16.recent_k(layer, head), to_recent, from_recent));
            KEEL_TRY(move_plane(part, f16.recent_v(layer, head), to_recent, from_recent));
        }
    }
    return KEEL_OK;
}

keel_status session_feed_tree(keel_session session, const int32_t* tokens, const uint32_t* parents, uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!tokens || !parents || count == 0 || count > kMaxTreeNodes || count > e->config.chunk_tokens)
        return KEEL_E_ARGUMENT;
    for (uint32_t i = 0; i < count; ++i) {
        if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= e->spec.vocabulary) return KEEL_E_ARGUMENT;
        if (parents[i] >= i && parents[i] != kNoNode) return KEEL_E_ARGUMENT;
    }
    if (s->in_step) return KEEL_E_BUSY;
    if (s->has_tree() || s->computed != s->token_count || s->token_count < e->f16_window.sink_tokens)
        return KEEL_E_STATE;
    if (count > e->config.context_tokens - s->token_count) return KEEL_E_CONTEXT_FULL;
    TokenTree& tree = s->tree;
    tree.first = s->token_count;
    for (uint32_t i = 0; i < count; ++i) {
        tree.parent[i] = parents[i];
        tree.depth[i] = parents[i] == kNoNode ? 0 : tree.depth[parents[i]] + 1;
    }
    memcpy(s->tokens + s->token_count, tokens, count * sizeof(int32_t));
    s->token_count += count;
    s->logits_rows = 0;
    s->all_logits = KEEL_FEED_ALL_LOGITS;
    s->sample = 0;
    s->draw = Session::kNoDraw;
    s->proposed = s->accepted = 0;
    return KEEL_OK;
}

keel_status session_accept(keel_session session, const uint32_t* path, uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!path || count == 0) return KEEL_E_ARGUMENT;
    if (s->in_step) return KEEL_E_BUSY;
    if (!s->has_tree()) return KEEL_E_STATE;
    const TokenTree& tree = s->tree;
    const uint32_t base = tree.first, nodes = s->token_count - base;
    for (uint32_t i = 0; i < count; ++i)
        if (path[i] >= nodes || tree.parent[path[i]] != (i ? path[i - 1] : kNoNode)) return KEEL_E_ARGUMENT;
    const uint32_t last = base + path[count - 1];
    if (last >= s->computed) return KEEL_E_STATE;

    KEEL_TRY(kv_make_writable(&e->pool, &s->kv, base, s->computed));  // a fork may share the tree's first page
    StepLimits no_limits = {};
    KEEL_TRY(copy_page(e, &s->kv, &no_limits));
    // A path ascends, so that no row is overwritten before it has moved.
    int32_t tokens[kMaxTreeNodes];
    for (uint32_t i = 0; i < count; ++i) {
        tokens[i] = s->tokens[base + path[i]];
        if (path[i] != i) KEEL_TRY(move_kv_row(e, *s, base + i, base + path[i]));
    }
    const uint32_t row = last - (s->computed - s->logits_rows);  // wraps where the row is gone
    const bool readable = row < s->logits_rows;
    if (readable) {
        KEEL_TRY(fetch_rows(e, s));
        s->rows_on_device = false;
        memmove(s->logits, s->logits + uint64_t{row} * e->spec.vocabulary, e->spec.vocabulary * sizeof(float));
        memmove(s->hidden, s->hidden + uint64_t{row} * e->spec.embedding, e->spec.embedding * sizeof(float));
    }
    s->token_count = s->computed = base;
    s->tree.first = kNoNode;
    append_tokens(e, s, tokens, count);
    s->computed = s->token_count;
    s->all_logits = 0;
    s->logits_rows = readable;
    kv_truncate(&e->pool, &s->kv, s->computed);
    return KEEL_OK;
}

keel_status session_node_allowed(keel_session session, uint32_t node, uint8_t* mask, size_t capacity_bytes) {
    int32_t path[kMaxTreeNodes];
    uint32_t first = kMaxTreeNodes;
    {
        Engine* e;
        SessionUse s;
        KEEL_TRY(enter(session, &e, &s));
        if (!s->has_tree()) return KEEL_E_STATE;
        if (node >= s->token_count - s->tree.first) return KEEL_E_ARGUMENT;
        for (; node != kNoNode; node = s->tree.parent[node]) path[--first] = s->tokens[s->tree.first + node];
    }
    return keel_session_allowed(session, path + first, kMaxTreeNodes - first, mask, capacity_bytes);
}

}  // namespace keel
