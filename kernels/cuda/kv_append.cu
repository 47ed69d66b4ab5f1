// Between the products of q, k, v and attention: head norms, rotation, and rows into the KV pages (NUMERICS sections 4
// and 7). Up to the coding of rows a head is a warp's.
#include "kernels/cuda/kv_row.cuh"
#include "kernels/formats/key_mean.h"

namespace keel::cuda {
namespace {

struct RowPlace {
    uint8_t *codes, *scales;
};
KEEL_GPU RowPlace place_of(uint8_t* page, const KvRows& rows, uint32_t head, uint32_t row) {
    return {page + rows.codes + head * rows.head_bytes + uint64_t{row} * rows.code_bytes,
            page + rows.scales + head * rows.head_bytes + uint64_t{row} * rows.scale_bytes};
}

// Mean and mean pairs of a key head before the rotation: a listed pair, or its partner in place.
KEEL_GPU bool is_listed(const KvMeans& means, uint32_t pair) {
    bool listed = false;
    for (uint32_t i = 0; i < means.pairs; ++i) listed |= means.pair[i] == pair;
    return listed;
}

// x = rmsnorm(x) * w, n elements in shared memory.
KEEL_GPU void normalize_warp(float* x, uint32_t n, const float* w, float eps) {
    const uint32_t lane = thread_x() % 32;
    float chain = 0;
    for (uint32_t i = lane % 16; i < n; i += 16) chain = fma_f32(x[i], x[i], chain);
    const float r = 1.0f / __builtin_sqrtf(add_f32(tree16(chain) / static_cast<float>(n), eps));
    sync_warp();
    for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(mul_f32(x[i], r), w[i]);
    sync_warp();
}

// Rotates a head in shared memory, less its mean: of listed pairs before the rotation, of the others behind it. Null
// mean: not of this head.
KEEL_GPU void rope_warp(float* x, const Heads& s, const float* cos_sin, const KvMeans& means, const float* mean) {
    for (uint32_t i = thread_x() % 32; i < s.rope_pairs; i += 32) {
        const PairElements at = pair_elements(i, s.rope_pairs, s.neox);
        const float c = cos_sin[2 * i], t = cos_sin[2 * i + 1];
        float x0 = x[at.first], x1 = x[at.second];
        const bool listed = mean && is_listed(means, i);
        if (listed) x0 = add_f32(x0, -mean[at.first]), x1 = add_f32(x1, -mean[at.second]);
        float y0 = add_f32(mul_f32(x0, c), -mul_f32(x1, t)), y1 = add_f32(mul_f32(x0, t), mul_f32(x1, c));
        if (mean && !listed) y0 = add_f32(y0, -mean[at.first]), y1 = add_f32(y1, -mean[at.second]);
        x[at.first] = y0;
        x[at.second] = y1;
    }
    if (mean)
        for (uint32_t i = 2 * s.rope_pairs + thread_x() % 32; i < s.head_dim; i += 32) x[i] = add_f32(x[i], -mean[i]);
    sync_warp();
}

// A query head, by a warp: x has room for it, and `row` is where it lies.
KEEL_GPU void append_query(const KvAppendArgs& args, uint32_t token, uint32_t head, float* x, float* row) {
    const Heads& s = args.shape;
    const KvMeans& means = args.means;
    const uint32_t n = s.head_dim, lane = thread_x() % 32, kv_head = head / (s.heads / s.kv_heads);
    if (means.pairs) {
        const float* mean = means.key_mean + uint64_t{kv_head} * n;
        float* to = args.mean.row + token * args.mean.stride + uint64_t{head} * 2 * means.pairs;
        for (uint32_t i = lane; i < means.pairs; i += 32)
            key_mean_coefficient(mean, pair_elements(means.pair[i], s.rope_pairs, s.neox), args.attention_factor, x,
                                 to + 2 * i, to + 2 * i + 1);
        sync_warp();
    }
    if (means.gain)
        for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], means.gain[uint64_t{kv_head} * n + i]);
    if (kKvFormats[args.places.k.format].rotated) rotate_warp(x, n);
    for (uint32_t i = lane; i < n; i += 32) row[i] = x[i];
    if (lane == 0) args.state.row[token * args.state.stride + head] = -kInf32;
}

// What a row of k or v is before it is coded, and its f16 copies; by a warp.
KEEL_GPU void prepare_row(const KvAppendArgs& args, uint32_t token, uint32_t kv_head, bool value, float* x) {
    const KvMeans& means = args.means;
    const KvPlaces& at = args.places;
    const uint32_t n = args.shape.head_dim, lane = thread_x() % 32, slot = args.step.slot[token];
    const float* by = value ? means.value_mean : means.inverse_gain;
    if (by)
        for (uint32_t i = lane; i < n; i += 32) {
            const float b = by[uint64_t{kv_head} * n + i];
            x[i] = value ? add_f32(x[i], -b) : mul_f32(x[i], b);
        }
    if (kKvFormats[(value ? at.v : at.k).format].rotated) rotate_warp(x, n);
    uint8_t* window = at.base + at.windows + args.step.session_index[args.step.session[token]] * at.window_stride;
    if (slot < at.sink_tokens) encode_f16(x, n, place_of(window, value ? at.sink_v : at.sink_k, kv_head, slot).codes);
    if (at.recent_tokens) {
        const KvRecentRows& recent = args.step.recent[args.step.session[token]];
        const KvRows& rows = value ? at.recent_v : at.recent_k;
        if (recent.in_step(slot))
            encode_f16(x, n, place_of(at.base + at.step_rows, rows, kv_head, recent.row_in_step(slot)).codes);
        if (recent.keeps(slot))
            encode_f16(x, n, place_of(window + at.ring, rows, kv_head, recent.kept_row(slot, at.ring_rows)).codes);
    }
}

}  // namespace

KEEL_GPU_KERNEL_OF(kv_append, 3) {  // without a number it spills on Ada
    const Heads& s = args.shape;
    const KvPlaces& at = args.places;
    const uint32_t token = block_y(), n = s.head_dim, warp = thread_x() / 32,
                   query_blocks = divide_up(s.heads, kAppendWarps);
    const bool query = block_x() < query_blocks;
    const uint32_t head = query ? block_x() * kAppendWarps + warp : s.heads + block_x() - query_blocks;
    if (query && head >= s.heads) return;
    const bool value = head >= s.heads + s.kv_heads;
    const uint32_t kv_head = head - s.heads - (value ? s.kv_heads : 0);  // not of a query
    float* row = args.qkv.row + token * args.qkv.stride + head * n;
    float* x = reinterpret_cast<float*>(shared_memory()) + (query ? warp * n : 0);
    if (query || warp == 0) {  // the others help with the coding
        for (uint32_t i = thread_x() % 32; i < n; i += 32) x[i] = row[i];
        sync_warp();
        if (!value) {
            const float* norm = query ? args.q_norm : args.k_norm;
            if (norm) normalize_warp(x, n, norm, args.eps);
            const float* mean = query || !args.means.key_mean ? nullptr : args.means.key_mean + uint64_t{kv_head} * n;
            rope_warp(x, s, args.cos_sin.row + token * args.cos_sin.stride, args.means, mean);
        }
        if (query) return append_query(args, token, head, x, row);
        prepare_row(args, token, kv_head, value, x);
    }
    const KvRows& rows = value ? at.v : at.k;
    const uint32_t slot = args.step.slot[token],
                   page = args.step.page_id[args.step.page_first[args.step.session[token]] + slot / kPagePositions];
    const RowPlace to = place_of(at.base + at.pages + page * at.page_stride, rows, kv_head, slot % kPagePositions);
    encode_row(rows.format, x, n, rows.mode, to.codes, to.scales);
}

KEEL_GPU_KERNEL(move_rows) {
    const uint32_t head = block_x() / 2;
    const KvRows& rows = block_x() % 2 ? args.v : args.k;
    uint8_t* layer = args.base + block_y() * args.layer_bytes;
    for (uint32_t i = thread_x(); i < rows.code_bytes + rows.scale_bytes; i += kRowThreads)
        for (uint32_t m = 0; m < args.count; ++m) {
            const MoveRowsArgs::Move& move = args.move[m];
            const RowPlace to = place_of(layer + move.to_page, rows, head, move.to_row),
                           from = place_of(layer + move.from_page, rows, head, move.from_row);
            if (i < rows.code_bytes)
                to.codes[i] = from.codes[i];
            else
                to.scales[i - rows.code_bytes] = from.scales[i - rows.code_bytes];
        }
}

}  // namespace keel::cuda
