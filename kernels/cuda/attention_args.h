// What the kernels of kv_append.cu and attention.cu take: heads of q, k and v, rows of the KV pages, and a step's
// tokens (sdk/plan/step.h).
#pragma once
#include <stdint.h>

#include "kernels/cuda/args.h"
#include "kernels/formats/kv_formats.h"

namespace keel::cuda {

constexpr uint32_t kPagePositions = 64;    // kPageTokens of sdk/kv/kv_arena.h
constexpr uint32_t kSplitPositions = 512;  // kKvSplitTokens of kernels/cpu/kernel_set.h
constexpr uint32_t kMostTreeNodes = 128;   // kMaxTreeNodes of sdk/plan/step.h
constexpr uint32_t kNone = UINT32_MAX;

// The arrays of a step in device memory.
struct StepArrays {
    const int32_t* token;
    const uint32_t *position, *slot, *session;             // per token
    const uint32_t* logits_token;                          // per row of logits
    const uint32_t *session_index, *page_first, *page_id;  // per session
    const uint32_t *tail_first, *tail_parent;
};

// Heads of one layer in a row of q, k and v.
struct Heads {
    uint32_t heads, kv_heads, head_dim, rope_pairs;
    bool neox;
};

// K or V rows of one layer in a page: those of head h lie h * head_bytes behind those of head 0.
struct KvRows {
    kernels::KvFormat format;
    uint32_t code_bytes, scale_bytes;  // strides of rows
    uint64_t codes, scales;            // byte offsets in a page
    uint64_t head_bytes;
    kernels::KvScaleMode mode;
};
// Where the rows of one layer lie, coded and in f16 (sdk/kv/kv_f16_window.h). Offsets are from `base`.
struct KvPlaces {
    uint8_t* base;
    uint64_t pages, page_stride;
    KvRows k, v;
    uint64_t windows, window_stride;  // of sessions; a window: sinks, then a ring of recent pages
    uint32_t sink_tokens, recent_tokens, recent_pages;
    uint64_t ring, recent_page_stride;  // the ring's offset in a window
    KvRows sink_k, sink_v, recent_k, recent_v;
};

// What is taken out of keys and values (sdk/plan/kv_transform.h), of one layer: [kv_heads][head_dim], or null.
struct KvMeans {
    const float *key_mean, *value_mean, *gain, *inverse_gain;
    uint32_t pairs;  // of `pair`: RoPE pairs whose mean is removed before the rotation
    const uint32_t* pair;
    const float *tile_rotations, *offset_rotations;  // of the layer's rope set
};

constexpr uint32_t kWarp = 32;

// rmsnorm of each head of q and of k; null weights: not of those.
struct QkNormArgs {
    Rows qkv;
    Heads shape;
    const float *q_norm, *k_norm;
    float eps;
    uint32_t tokens;
};
constexpr LaunchShape launch_shape(const QkNormArgs& a) {
    return {a.shape.heads + a.shape.kv_heads, a.tokens, kWarp, 16 * 4};
}

// Rotates q and k, after what is removed of k before.
struct RopeArgs {
    Rows qkv;
    Heads shape;
    Rows cos_sin;  // of the layer's rope set
    KvMeans means;
    uint32_t tokens;
};
constexpr LaunchShape launch_shape(const RopeArgs& a) {
    return {a.shape.heads + a.shape.kv_heads, a.tokens, kWarp, 0};
}

// What kv_append and attention have in common: the rows of a step's tokens, and where K and V lie.
struct KvStepArgs {
    Rows qkv, state, mean;  // mean: [heads][2 * pairs] of a token
    Heads shape;
    KvMeans means;
    KvPlaces places;
    StepArrays step;
    uint32_t tokens;
};

// Makes q ready for the formats, and codes k and v into their slots. A block is a warp, and has one head of one token:
// of q, then of k, then of v.
struct KvAppendArgs : KvStepArgs {
    float attention_factor;  // of the rotation
};
constexpr uint32_t kTrellisGroups = 64;  // most groups of states with common predecessors
constexpr uint32_t
    kAppendSharedBytes =  // a row, two rows of integers as floats, codes and cosets twice, a trellis' ways
    3 * kernels::kMaxHeadDim * 4 + 2 * kernels::kMaxHeadDim + 2 * kernels::kMaxHeadDim / 8;
constexpr LaunchShape launch_shape(const KvAppendArgs& a) {
    return {a.shape.heads + 2 * a.shape.kv_heads, a.tokens, kWarp,
            kAppendSharedBytes + a.shape.head_dim * kTrellisGroups};
}

// Attention of one query head of one token over all positions it sees (NUMERICS section 5): a block.
struct AttentionArgs : KvStepArgs {
    Rows out;
    float scale, softcap;  // softcap 0: none
    uint32_t window;       // visible positions, 0 = all
};
constexpr uint32_t kAttentionThreads = 64;  // one a position of a tile
constexpr LaunchShape launch_shape(const AttentionArgs& a) {
    const uint32_t n = a.shape.head_dim;
    // The query as floats and as integers, the output, K and V of a tile as integers with their scales, weights as
    // integers, scores, sums, slots of a tail.
    return {a.shape.heads, a.tokens, kAttentionThreads,
            3 * n * 4 + n + 2 * kAttentionThreads * (n + kernels::kMaxKvScales * 4) +
                kAttentionThreads * kernels::kMaxKvScales * 2 + kAttentionThreads * 4 + 256 + kMostTreeNodes * 4};
}

// o *= 1 / l, rotated back, plus the mean of v.
struct AttentionFinishArgs {
    Rows out, state;
    Heads shape;
    const float* value_mean;  // of the layer, or null
    bool rotated;
    uint32_t tokens;
};
constexpr LaunchShape launch_shape(const AttentionFinishArgs& a) {
    return {a.shape.heads, a.tokens, kWarp, kernels::kMaxHeadDim * 4};
}

}  // namespace keel::cuda
