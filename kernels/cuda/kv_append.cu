// Between the products of q, k, v and attention: head norms, rotation, and rows into the KV pages (NUMERICS sections 4
// and 7). A block is a warp, with one head of one token.
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
    const uint32_t lane = thread_x();
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
    for (uint32_t i = thread_x(); i < s.rope_pairs; i += 32) {
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
        for (uint32_t i = 2 * s.rope_pairs + thread_x(); i < s.head_dim; i += 32) x[i] = add_f32(x[i], -mean[i]);
    sync_warp();
}

}  // namespace

KEEL_GPU_KERNEL(kv_append) {
    const Heads& s = args.shape;
    const KvMeans& means = args.means;
    const KvPlaces& at = args.places;
    const uint32_t token = block_y(), n = s.head_dim, lane = thread_x(), head = block_x();
    float* row = args.qkv.row + token * args.qkv.stride + head * n;
    float* x = reinterpret_cast<float*>(shared_memory());
    for (uint32_t i = lane; i < n; i += 32) x[i] = row[i];
    sync_warp();
    const bool query = head < s.heads, value = head >= s.heads + s.kv_heads;
    if (!value) {
        const float* norm = query ? args.q_norm : args.k_norm;
        if (norm) normalize_warp(x, n, norm, args.eps);
        const float* mean = query || !means.key_mean ? nullptr : means.key_mean + uint64_t{head - s.heads} * n;
        rope_warp(x, s, args.cos_sin.row + token * args.cos_sin.stride, means, mean);
    }

    if (query) {
        const uint32_t kv_head = head / (s.heads / s.kv_heads);
        if (means.pairs) {
            const float* mean = means.key_mean + uint64_t{kv_head} * n;
            float* to = args.mean.row + token * args.mean.stride + uint64_t{head} * 2 * means.pairs;
            for (uint32_t i = lane; i < means.pairs; i += 32)
                key_mean_coefficient(mean, pair_elements(means.pair[i], s.rope_pairs, s.neox), args.attention_factor, x,
                                     to + 2 * i, to + 2 * i + 1);
            sync_warp();
        }
        const bool rotated = kKvFormats[at.k.format].rotated;
        if (means.gain)
            for (uint32_t i = lane; i < n; i += 32) x[i] = mul_f32(x[i], means.gain[uint64_t{kv_head} * n + i]);
        if (rotated) rotate_warp(x, n);
        for (uint32_t i = lane; i < n; i += 32) row[i] = x[i];
        if (lane == 0) args.state.row[token * args.state.stride + head] = -kInf32;
        return;
    }

    const uint32_t kv_head = value ? head - s.heads - s.kv_heads : head - s.heads;
    const float* by = value ? means.value_mean : means.inverse_gain;
    if (by)
        for (uint32_t i = lane; i < n; i += 32) {
            const float b = by[uint64_t{kv_head} * n + i];
            x[i] = value ? add_f32(x[i], -b) : mul_f32(x[i], b);
        }
    const KvRows& coded = value ? at.v : at.k;
    if (kKvFormats[coded.format].rotated) rotate_warp(x, n);

    const uint32_t session = args.step.session[token], slot = args.step.slot[token];
    const uint32_t page = args.step.page_id[args.step.page_first[session] + slot / kPagePositions];
    uint8_t* window = at.base + at.windows + args.step.session_index[session] * at.window_stride;
    CodingRoom room;
    uint8_t* shared = shared_memory() + kMaxHeadDim * 4;
    for (uint32_t i = 0; i < 2; ++i) room.c[i] = reinterpret_cast<float*>(shared + i * kMaxHeadDim * 4);
    shared += 2 * kMaxHeadDim * 4;
    for (uint32_t i = 0; i < 2; ++i) room.u[i] = shared + i * kMaxHeadDim;
    shared += 2 * kMaxHeadDim;
    for (uint32_t i = 0; i < 2; ++i) room.coset[i] = shared + i * kMaxHeadDim / 8;
    room.from = shared + 2 * kMaxHeadDim / 8;
    // f16 copies first: coding spends the row.
    if (slot < at.sink_tokens) {
        const KvRows& rows = value ? at.sink_v : at.sink_k;
        const RowPlace to = place_of(window, rows, kv_head, slot);
        encode_as<kKvF16>(x, n, rows.mode, room, to.codes, to.scales);
    }
    if (at.recent_tokens) {
        const KvRows& rows = value ? at.recent_v : at.recent_k;
        const RowPlace to = place_of(window + at.ring + slot / kPagePositions % at.recent_pages * at.recent_page_stride,
                                     rows, kv_head, slot % kPagePositions);
        encode_as<kKvF16>(x, n, rows.mode, room, to.codes, to.scales);
    }
    const RowPlace to = place_of(at.base + at.pages + page * at.page_stride, coded, kv_head, slot % kPagePositions);
    encode_warp(coded.format, x, n, coded.mode, room, to.codes, to.scales);
}

}  // namespace keel::cuda
