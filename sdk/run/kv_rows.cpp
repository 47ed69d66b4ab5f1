// Rows of K and V change their slot: drafts of a tree that are accepted, and tokens behind others that are forgotten.
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

// One row of a layer, byte by byte of each plane.
keel_status move_row(Engine* e, const Session& s, const KvRowMove& row, uint32_t layer) {
    const KvPart& part = e->kv_of(layer);
    const KvF16WindowShape& f16 = part.f16_window;
    const KvLayer& coded = e->geometry.layer[layer];
    const uint64_t to_page = part.page_offset(s.kv.ids[row.to / kPageTokens]),
                   from_page = part.page_offset(s.kv.ids[row.from / kPageTokens]);
    const auto move_bytes = [&](uint64_t to, uint64_t from, uint64_t bytes) -> keel_status {
        if (bytes == 0) return KEEL_OK;
        return copy_kv(e, part, to + row.to % kPageTokens * bytes, from + row.from % kPageTokens * bytes, bytes);
    };
    const auto move_plane = [&](const kernels::KvPlane& plane, uint64_t to, uint64_t from) -> keel_status {
        KEEL_TRY(move_bytes(to + plane.codes, from + plane.codes, plane.code_bytes));
        return move_bytes(to + plane.scales, from + plane.scales, plane.scale_bytes);
    };
    for (uint32_t head = 0; head < e->geometry.kv_heads; ++head) {
        KEEL_TRY(move_plane(coded.k_head(head), to_page, from_page));
        KEEL_TRY(move_plane(coded.v_head(head), to_page, from_page));
    }
    if (!f16.recent_tokens) return KEEL_OK;
    const uint64_t ring = part.f16_window_offset(e->index_of(&s)) + f16.ring_of(layer), bytes = f16.recent.k.code_bytes;
    const auto recent = [&](uint32_t slot) {
        return ring + kernels::kv_ring_row(slot, s.f16_window.shift, f16.ring_rows) * bytes;
    };
    return copy_kv(e, part, recent(row.to), recent(row.from), bytes);
}

}  // namespace

keel_status move_kv_rows(Engine* e, const Session& s, const KvRowMove* moves, uint32_t count) {
    if (count == 0) return KEEL_OK;
    uint32_t first = 0;  // layer of those in host memory
    if (e->backend->move_rows) {
        if (e->backend->move_rows(e->device, moves, count, s.kv.ids, e->index_of(&s), s.f16_window.shift) != KEEL_OK)
            return poison(e, "the backend did not move KV rows");
        first = e->config.host_layer < e->geometry.layers ? e->config.host_layer : e->geometry.layers;
    }
    for (uint32_t i = 0; i < count; ++i)
        for (uint32_t layer = first; layer < e->geometry.layers; ++layer) KEEL_TRY(move_row(e, s, moves[i], layer));
    return KEEL_OK;
}

}  // namespace keel
