// What becomes of the heads of q, k and v behind their products: head norms, rotation, and rows into the KV pages
// (NUMERICS sections 4 and 7). Up to the coding of rows a head is a warp's.
#pragma once
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

// A head of q, k or v into x, by a warp: normed and rotated as far as it is, k less its mean.
KEEL_GPU void take_head(const KvAppendArgs& args, uint32_t token, uint32_t head, float* x) {
    const Heads& s = args.shape;
    const uint32_t n = s.head_dim;
    const float* row = args.qkv.row + token * args.qkv.stride + uint64_t{head} * n;
    for (uint32_t i = thread_x() % 32; i < n; i += 32) x[i] = row[i];
    sync_warp();
    if (head >= s.heads + s.kv_heads) return;
    const float* norm = head < s.heads ? args.q_norm : args.k_norm;
    if (norm) normalize_warp(x, n, norm, args.eps);
    const bool less_mean = head >= s.heads && args.means.key_mean;
    rope_warp(x, s, args.cos_sin.row + token * args.cos_sin.stride, args.means,
              less_mean ? args.means.key_mean + uint64_t{head - s.heads} * n : nullptr);
}

// A query head in x as scores of the format of K take it, by a warp; and the coefficients of the removed mean of K,
// where there is one: [2 * pairs].
KEEL_GPU void prepare_query(const KvAppendArgs& args, uint32_t kv_head, float* x, float* coefficients) {
    const Heads& s = args.shape;
    const KvMeans& means = args.means;
    const uint32_t n = s.head_dim, lane = thread_x() % 32;
    if (means.pairs) {
        const float* mean = means.key_mean + uint64_t{kv_head} * n;
        for (uint32_t i = lane; i < means.pairs; i += 32)
            key_mean_coefficient(mean, pair_elements(means.pair[i], s.rope_pairs, s.neox), args.attention_factor, x,
                                 coefficients + 2 * i, coefficients + 2 * i + 1);
        sync_warp();
    }
    if (means.gain)
        for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], means.gain[uint64_t{kv_head} * n + i]);
    if (kKvFormats[args.places.k.format].rotated) rotate_warp(x, n);
}

// ---- recent rows (sdk/kv/kv_f16_window.h) ----
// Rows of K or V of one layer and session: in the ring, and in f16 among the step's.
struct RecentRows {
    const KvRecentRows& at;
    const KvRows &ring_rows, &step_rows;
    uint8_t *ring, *step;
    uint32_t kv_head, n, rows;  // of the ring

    KEEL_GPU RecentRows(const KvAppendArgs& args, uint32_t token, uint32_t kv_head, bool value)
        : at(args.step.recent[args.step.session[token]]),
          ring_rows(value ? args.places.ring_v : args.places.ring_k),
          step_rows(value ? args.places.recent_v : args.places.recent_k),
          ring(args.places.base + args.places.windows + args.places.ring +
               args.step.session_index[args.step.session[token]] * args.places.window_stride),
          step(args.places.base + args.places.step_rows),
          kv_head(kv_head),
          n(args.shape.head_dim),
          rows(args.places.ring_rows) {}
    KEEL_GPU RowPlace kept(uint32_t row) const { return place_of(ring, ring_rows, kv_head, row); }
    KEEL_GPU uint8_t* in_step(uint32_t slot) const { return place_of(step, step_rows, kv_head, at.row_of(slot)).codes; }
    static KEEL_GPU uint16_t unpacked(int32_t q, uint16_t d) {
        return f32_to_f16(mul_f32(f16_to_f32(d), static_cast<float>(q)));
    }
    // What the step reads of the ring, row by row; a warp of so many.
    KEEL_GPU void unpack(uint32_t warp, uint32_t warps) const {
        const uint32_t lane = thread_x() % 32;
        for (uint32_t slot = at.first + warp; slot < at.from; slot += warps) {
            const RowPlace from = kept(kv_ring_row(slot, at.shift, rows));
            uint8_t* to = in_step(slot);
            for (uint32_t i = lane; i < n; i += 32)
                kv_store_u16(to + 2 * i, ring_rows.format == kKvQ8_0
                                             ? unpacked(static_cast<int8_t>(from.codes[i]),
                                                        kv_load_u16(from.scales + i / kKvBlock * 2))
                                             : kv_load_u16(from.codes + 2 * i));
        }
    }
    // A row of the step; a warp.
    KEEL_GPU void store(const float* x, uint32_t slot) const {
        const bool keeps = at.keeps(slot);
        const RowPlace place = kept(keeps ? at.kept_row(slot, rows) : 0);
        uint8_t* to = in_step(slot);
        if (ring_rows.format != kKvQ8_0) {
            if (keeps) encode_f16(x, n, place.codes);
            return encode_f16(x, n, to);
        }
        const uint32_t lane = thread_x() % 32;
        quantize_block32_warp<8>(x, n, [&](uint32_t b, int32_t q, uint16_t d) {
            if (keeps && lane == 0) kv_store_u16(place.scales + 2 * b, d);
            if (keeps) place.codes[b * kKvBlock + lane] = static_cast<uint8_t>(q);
            kv_store_u16(to + 2 * (b * kKvBlock + lane), unpacked(q, d));
        });
    }
};

// What a row of k or v is before it is coded, and its other copies; by a warp.
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
    if (at.recent_tokens) RecentRows(args, token, kv_head, value).store(x, slot);
}

// Head kv_head of K or V of a token into its pages, by all warps of a block, of which the first one has taken it to the
// beginning of shared memory; the others help with the coding.
KEEL_GPU void append_row(const KvAppendArgs& args, uint32_t token, uint32_t kv_head, bool value) {
    const KvPlaces& at = args.places;
    const uint32_t warp = thread_x() / 32, slot = args.step.slot[token], session = args.step.session[token];
    if (warp == 0) {
        prepare_row(args, token, kv_head, value, reinterpret_cast<float*>(shared_memory()));
    } else if (at.recent_tokens) {
        const RecentRows recent(args, token, kv_head, value);
        if (slot == recent.at.from) recent.unpack(warp - 1, block_threads() / 32 - 1);
    }
    const KvRows& rows = value ? at.v : at.k;
    const uint32_t page = args.step.page_id[args.step.page_first[session] + slot / kPagePositions];
    const RowPlace to = place_of(at.base + at.pages + page * at.page_stride, rows, kv_head, slot % kPagePositions);
    encode_row(rows.format, args.shape.head_dim, rows.mode, to.codes, to.scales);
}

}  // namespace
}  // namespace keel::cuda
