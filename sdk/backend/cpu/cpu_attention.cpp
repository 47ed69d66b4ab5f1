// What lies between the products of q, k, v and the output: rows into the KV pages, and attention over them.
#include <string.h>

#include "sdk/backend/cpu/cpu_device.h"

namespace keel {
namespace {

using kernels::kKvSplitTokens;
using kernels::kMaxQueryRows;

// Rows of a session in one form, and which of them each query row reads in it (kv_f16_window.h).
struct KvView {
    const uint8_t* const* pages;
    kernels::KvPlane k, v;
    const uint32_t *begin, *end;  // per query row
    uint32_t splits;              // no rows from this KV split on
    uint32_t page_tokens, tail_first;
    const uint32_t* const* row_of;  // as in AttentionArgs
};

// Divides by the sums of the weights, rotates back, adds the mean of the values; the query heads of one KV head.
void run_finish_head(const CpuDevice& d, const Op& op, uint32_t token, uint32_t kv_head) {
    const Program& p = *d.program;
    const ModelSpec& s = p.spec;
    const uint32_t group = s.heads / s.kv_heads;
    float* o = d.floats(op.in, token);
    const float* sums = d.floats(op.state, token) + s.heads;
    const uint32_t layer = static_cast<uint32_t>(op.layer);
    const bool rotated = kernels::kKvFormats[p.geometry.layer[layer].v.format].rotated;
    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        float* head = o + h * s.head_dim;
        d.kernels().attention_finish(head, sums[h], s.head_dim);
        if (rotated) d.kernels().kv_unrotate(head, s.head_dim);
        if (p.transform.value_mean) add_row(head, p.transform.value_mean + p.transform.at(layer, kv_head), s.head_dim);
    }
}

// The slots of the tail that a token of a tree reads, positions ascending: those of its ancestors and its own.
void list_tail(const Step& step, uint32_t token, uint32_t* slots) {
    const uint32_t session = step.session[token], first = step.tail_first[session];
    const uint32_t* parent = step.tail_parent + uint64_t{session} * kMaxTreeNodes;
    uint32_t at = step.position[token] - first;
    for (uint32_t node = step.slot[token] - first; node != kNoNode; node = parent[node]) slots[at--] = first + node;
}

// Recent rows as attention finds them: a page is the ring of a layer, another one the rows of the step. Lists where
// they have positions [first, end); those from tail_first on are in the slots of `tail`.
struct RecentPages {
    const uint8_t* page[2];
    uint32_t page_tokens;

    void look(const CpuDevice& d, uint32_t layer, uint32_t token) {
        const KvF16WindowShape& f16 = d.kv_part->f16_window;
        page[0] = d.f16_window_of(token) + f16.ring_of(layer);
        page[1] = d.kv(d.kv_part->step_rows_offset);
        const uint32_t most = f16.ring_rows > f16.step_rows ? f16.ring_rows : f16.step_rows;
        page_tokens = (most + kernels::kAttentionTile - 1) / kernels::kAttentionTile * kernels::kAttentionTile;
    }
    void list(const KvRecentRows& at, uint32_t ring_rows, uint32_t first, uint32_t end, uint32_t tail_first,
              const uint32_t* tail, uint32_t* rows) const {
        uint32_t in_ring = at.row_in_ring(first, ring_rows);
        for (uint32_t position = first; position < end; ++position) {
            const bool plain = position < tail_first;
            const uint32_t slot = plain ? position : tail[position - tail_first];
            rows[position - first] = at.in_step(slot) ? page_tokens + at.row_in_step(slot)
                                     : plain          ? in_ring
                                                      : at.row_in_ring(slot, ring_rows);
            if (++in_ring == ring_rows) in_ring = 0;
        }
    }
};
// Positions of a list: from the beginning of a tile on, up to the last token of a query block.
constexpr uint32_t kRecentPositions = kMaxRecent + kernels::kAttentionTile + kMaxTreeNodes;

}  // namespace

QkvPost::QkvPost(const Dispatch& dispatch) {
    const uint32_t at = dispatch.op->kind == OpKind::kQkNorm ? 1 : 0;
    norm = at ? dispatch.op : nullptr;
    rope = &dispatch.op[at];
    append = &dispatch.op[at + 1];
    attention = dispatch.ops > at + 2 ? &dispatch.op[at + 2] : nullptr;
    finish = dispatch.ops > at + 3 ? &dispatch.op[at + 3] : nullptr;
}

void run_qkv_post(const CpuDevice& d, const QkvPost& post, uint32_t token, uint32_t kv_head) {
    const Op& op = *post.append;
    const Program& p = *d.program;
    const kernels::KernelSet& kernel = d.kernels();
    const ModelSpec& s = p.spec;
    const uint32_t position = d.step->position[token], slot = d.step->slot[token];
    float* q = d.floats(op.in, token);
    float* k = q + s.q_dim() + kv_head * s.head_dim;
    float* v = k + s.kv_dim();
    const float* cos_sin = d.floats(post.rope->rope, token) + op.rope_set * s.rope_dims;
    const uint32_t group = s.heads / s.kv_heads, layer = static_cast<uint32_t>(op.layer), rope_pairs = s.rope_dims / 2;
    const KvTransform& t = p.transform;
    const KvLayer& formats = p.geometry.layer[layer];
    const bool rotate_k = kernels::kKvFormats[formats.k.format].rotated,
               rotate_v = kernels::kKvFormats[formats.v.format].rotated;
    float* state = d.floats(op.state, token);
    float* group_q = q + uint64_t{kv_head} * group * s.head_dim;
    if (post.norm && post.norm->norm)
        for (uint32_t g = 0; g < group; ++g)
            kernel.rms_norm(group_q + g * s.head_dim, post.norm->norm + (kv_head * group + g) * post.norm->norm_step,
                            s.head_dim, s.norm_eps, group_q + g * s.head_dim);
    if (post.norm && post.norm->norm2) kernel.rms_norm(k, post.norm->norm2, s.head_dim, s.norm_eps, k);
    keel_lab_heads heads = {sizeof heads,
                            KEEL_LAB_BEFORE_ROPE,
                            {d.step->session_id[d.step->session[token]]},
                            layer,
                            kv_head,
                            position,
                            group,
                            s.head_dim,
                            s.rope_dims,
                            p.rope_neox,
                            0,
                            group_q,
                            k,
                            v,
                            cos_sin};
    if (p.tap) p.tap(p.tap_user_data, &heads);
    for (uint32_t g = 0; g < group; ++g) kernel.rope(group_q + g * s.head_dim, rope_pairs, cos_sin, p.rope_neox);
    heads.stage = KEEL_LAB_AFTER_ROPE;
    if (t.key_mean) remove_key_mean_before_rope(t, layer, kv_head, rope_pairs, p.rope_neox, k);
    kernel.rope(k, rope_pairs, cos_sin, p.rope_neox);
    if (p.tap) p.tap(p.tap_user_data, &heads);

    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        float* head = q + h * s.head_dim;
        if (t.pairs)
            key_mean_coefficients(t, layer, kv_head, rope_pairs, p.rope_neox, s.rope_attention_factor, head,
                                  d.floats(op.mean, token) + uint64_t{h} * 2 * t.pairs);
        if (t.gain) multiply_row(head, t.gain + t.at(layer, kv_head), s.head_dim);
        if (rotate_k) kernel.kv_rotate(head, s.head_dim);
        state[h] = -__builtin_inff();
    }
    if (t.key_mean) remove_key_mean_after_rope(t, layer, kv_head, rope_pairs, p.rope_neox, k);
    if (t.gain) multiply_row(k, t.inverse_gain + t.at(layer, kv_head), s.head_dim);
    if (rotate_k) kernel.kv_rotate(k, s.head_dim);
    alignas(64) float coded_v[kernels::kMaxHeadDim];  // v itself stays for ops behind attention
    memcpy(coded_v, v, s.head_dim * sizeof(float));
    if (t.value_mean) subtract_row(coded_v, t.value_mean + t.at(layer, kv_head), s.head_dim);
    if (rotate_v) kernel.kv_rotate(coded_v, s.head_dim);

    const auto store = [&](const float* x, uint8_t* page, uint64_t row, const kernels::KvPlane& plane,
                           kernels::KvScaleMode mode) {
        kernel.kv_encode[plane.format](x, s.head_dim, mode, page + plane.codes + row * plane.code_bytes,
                                       page + plane.scales + row * plane.scale_bytes);
    };
    uint8_t* page = const_cast<uint8_t*>(d.pages_of(token)[slot / kPageTokens]);
    store(k, page, slot % kPageTokens, formats.k_head(kv_head), formats.k_scale);
    store(coded_v, page, slot % kPageTokens, formats.v_head(kv_head), formats.v_scale);
    const KvF16WindowShape& f16 = d.kv_part->f16_window;
    if (slot < f16.sink_tokens) {
        uint8_t* sinks = d.f16_window_of(token);
        store(k, sinks, slot, f16.sink_k(layer, kv_head), formats.k_scale);
        store(coded_v, sinks, slot, f16.sink_v(layer, kv_head), formats.v_scale);
    }
    if (f16.recent_tokens) {
        const KvRecentRows& at = d.recent_of(token);
        const auto store_both = [&](uint8_t* rows, uint32_t row) {
            store(k, rows, row, f16.recent.k_head(kv_head), formats.k_scale);
            store(coded_v, rows, row, f16.recent.v_head(kv_head), formats.v_scale);
        };
        if (at.in_step(slot)) store_both(d.kv(d.kv_part->step_rows_offset), at.row_in_step(slot));
        if (at.keeps(slot)) store_both(d.f16_window_of(token) + f16.ring_of(layer), at.kept_row(slot, f16.ring_rows));
    }
}

void run_attention(const CpuDevice& d, const Op& op, uint32_t item, uint32_t split_first, uint32_t split_count,
                   float* scratch) {
    const Program& p = *d.program;
    const ModelSpec& s = p.spec;
    const uint32_t kv_head = item / d.step->query_blocks;
    const QueryBlock& block = d.step->query_block[item % d.step->query_blocks];
    const uint32_t group = s.heads / s.kv_heads, layer = static_cast<uint32_t>(op.layer);
    const KvF16WindowShape& f16 = d.kv_part->f16_window;
    const float* q[kMaxQueryRows];
    float* o[kMaxQueryRows];
    uint32_t begin[kMaxQueryRows], end[kMaxQueryRows];
    // Sinks are [begin, sinks_end), codes [coded_begin, coded_end), recent rows [coded_end, end).
    uint32_t sinks_end[kMaxQueryRows], coded_begin[kMaxQueryRows], coded_end[kMaxQueryRows];
    float m[kMaxQueryRows], l[kMaxQueryRows];
    const float* mean[kMaxQueryRows];
    const uint32_t tail_first = d.step->tail_first[d.step->session[block.first]];
    uint32_t tail_slots[kQueryBlockTokens][kMaxTreeNodes];
    const uint32_t* row_of[kMaxQueryRows];
    uint32_t rows = 0, lowest = UINT32_MAX, highest = 0;
    for (uint32_t token = block.first; token < block.first + block.tokens; ++token) {
        const uint32_t position = d.step->position[token];
        const float* state = d.floats(op.state, token);
        uint32_t* slots = tail_slots[token - block.first];
        if (tail_first != kNoNode) list_tail(*d.step, token, slots);
        for (uint32_t g = 0; g < group; ++g, ++rows) {
            const uint32_t head = kv_head * group + g;
            q[rows] = d.floats(op.in, token) + head * s.head_dim;
            o[rows] = d.floats(op.out, token) + head * s.head_dim;
            end[rows] = position + 1;
            begin[rows] = op.window && position + 1 > op.window ? position + 1 - op.window : 0;
            if (begin[rows] < lowest) lowest = begin[rows];
            if (end[rows] > highest) highest = end[rows];
            sinks_end[rows] = end[rows] < f16.sink_tokens ? end[rows] : f16.sink_tokens;
            coded_begin[rows] = begin[rows] > f16.sink_tokens ? begin[rows] : f16.sink_tokens;
            coded_end[rows] = end[rows] > f16.recent_tokens ? end[rows] - f16.recent_tokens : 0;
            if (coded_begin[rows] > end[rows]) coded_begin[rows] = end[rows];
            if (coded_end[rows] < coded_begin[rows]) coded_end[rows] = coded_begin[rows];
            row_of[rows] = slots;
            mean[rows] =
                p.transform.pairs ? d.floats(op.mean, token) + uint64_t{head} * 2 * p.transform.pairs : nullptr;
            m[rows] = state[head];
            l[rows] = state[s.heads + head];
        }
    }
    kernels::AttentionArgs a = {};
    if (p.transform.pairs)
        a.mean = {p.transform.pairs, p.transform.set_tile_rotations(op.rope_set),
                  p.transform.set_offset_rotations(op.rope_set), mean};
    a.head_dim = s.head_dim;
    a.rows = rows;
    a.q = q;
    a.scale = s.attention_scale;
    a.softcap = s.attention_softcap;
    a.m = m;
    a.l = l;
    a.o = o;
    a.scratch = scratch;

    // In the order in which a KV split merges them.
    KvView views[3];
    uint32_t view_count = 0;
    const uint8_t* sinks = f16.sink_tokens ? d.f16_window_of(block.first) : nullptr;
    if (f16.sink_tokens)
        views[view_count++] = {&sinks,
                               f16.sink_k(layer, kv_head),
                               f16.sink_v(layer, kv_head),
                               begin,
                               sinks_end,
                               1,
                               kPageTokens,
                               tail_first,
                               row_of};
    const KvLayer& coded = p.geometry.layer[layer];
    views[view_count++] = {d.pages_of(block.first),
                           coded.k_head(kv_head),
                           coded.v_head(kv_head),
                           coded_begin,
                           coded_end,
                           UINT32_MAX,
                           kPageTokens,
                           tail_first,
                           row_of};
    uint32_t recent_rows[kQueryBlockTokens][kRecentPositions];
    const uint32_t* recent_row_of[kMaxQueryRows];
    RecentPages recent;
    if (f16.recent_tokens) {
        recent.look(d, layer, block.first);
        uint32_t first = highest;
        for (uint32_t r = 0; r < rows; ++r) first = coded_end[r] < first ? coded_end[r] : first;
        first = first / kernels::kAttentionTile * kernels::kAttentionTile;
        const uint32_t lists = tail_first == kNoNode ? 1 : block.tokens;
        for (uint32_t i = 0; i < lists; ++i)
            recent.list(d.recent_of(block.first), f16.ring_rows, first, lists == 1 ? highest : end[i * group],
                        tail_first, tail_slots[i], recent_rows[i]);
        for (uint32_t r = 0; r < rows; ++r) recent_row_of[r] = recent_rows[lists == 1 ? 0 : r / group];
        views[view_count++] = {recent.page,
                               f16.recent.k_head(kv_head),
                               f16.recent.v_head(kv_head),
                               coded_end,
                               end,
                               UINT32_MAX,
                               recent.page_tokens,
                               first,
                               recent_row_of};
    }

    for (uint32_t split = split_first; split < split_first + split_count; ++split) {
        if (split * kKvSplitTokens >= highest || (split + 1) * kKvSplitTokens <= lowest) continue;
        a.split = split;
        for (uint32_t i = 0; i < view_count; ++i) {
            const KvView& view = views[i];
            if (split >= view.splits) continue;
            a.pages = view.pages;
            a.page_tokens = view.page_tokens;
            a.tail_first = view.tail_first;
            a.row_of = view.row_of;
            a.k = view.k;
            a.v = view.v;
            a.begin = view.begin;
            a.end = view.end;
            d.kernels().attention_split(a);
        }
    }
    rows = 0;
    for (uint32_t token = block.first; token < block.first + block.tokens; ++token) {
        float* state = d.floats(op.state, token);
        for (uint32_t g = 0; g < group; ++g, ++rows) {
            state[kv_head * group + g] = m[rows];
            state[s.heads + kv_head * group + g] = l[rows];
        }
    }
}

void run_attention_finish(const CpuDevice& d, const Op& op, uint32_t token) {
    for (uint32_t h = 0; h < d.program->spec.kv_heads; ++h) run_finish_head(d, op, token, h);
    show_row(d, op, token, d.floats(op.in, token), 0, op.rows, op.rows);
    quantize_row(d, op, d.floats(op.in, token), op.rows, token);
}

void run_exclude(const CpuDevice& d, const Op& op, uint32_t token) {
    const ModelSpec& s = d.program->spec;
    float* x = d.floats(op.in, token);
    const float* v = d.floats(op.more[0], token) + s.q_dim() + s.kv_dim();
    for (uint32_t h = 0; h < s.heads; ++h)
        d.kernels().exclude(x + h * s.head_dim, v + h / (s.heads / s.kv_heads) * s.head_dim, s.head_dim);
    show_row(d, op, token, x, 0, op.rows, op.rows);
    quantize_row(d, op, x, op.rows, token);
}

void run_head_gate(const CpuDevice& d, const Op& op, uint32_t token) {
    float* x = d.floats(op.in, token);
    d.kernels().gate_rows(x, d.floats(op.more[0], token), d.program->spec.heads, op.k);
    show_row(d, op, token, x, 0, op.rows, op.rows);
    quantize_row(d, op, x, op.rows, token);
}

void run_flat_attention(const CpuDevice& d, const QkvPost& post, uint32_t item, float* scratch) {
    const uint32_t kv_head = item / d.step->tokens, token = item % d.step->tokens;
    run_qkv_post(d, post, token, kv_head);
    run_attention(d, *post.attention, item, 0, d.kv_splits, scratch);
    if (!post.finish) return;
    const Op& finish = *post.finish;
    run_finish_head(d, finish, token, kv_head);
    const ModelSpec& s = d.program->spec;
    const uint32_t floats = s.heads / s.kv_heads * s.head_dim;
    show_row(d, finish, token, d.floats(finish.in, token), kv_head * floats, floats, finish.rows);
    quantize_part(d, finish, d.floats(finish.in, token), kv_head * floats, (kv_head + 1) * floats, finish.rows, token);
}

}  // namespace keel
