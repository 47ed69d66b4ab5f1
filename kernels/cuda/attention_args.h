// What the kernels of kv_append.cu and attention.cu take: heads of q, k and v, rows of the KV pages, and a step's
// tokens (sdk/plan/step.h).
#pragma once
#include <stdint.h>

#include "kernels/cuda/args.h"
#include "kernels/formats/kv_formats.h"
#include "kernels/formats/kv_recent_rows.h"

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
    const kernels::KvRecentRows* recent;                   // per session
    const uint32_t *tail_first, *tail_parent;
    const uint32_t* query_block;  // [2 * query blocks]: first token, tokens
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
    uint64_t windows, window_stride;  // of sessions; a window: sinks, then rings of recent rows
    uint32_t sink_tokens, recent_tokens, ring_rows;
    uint64_t ring, step_rows;  // the layer's ring in a window; where the step's rows lie
    KvRows sink_k, sink_v, ring_k, ring_v, recent_k, recent_v;
};

// What is taken out of keys and values (sdk/plan/kv_transform.h), of one layer: [kv_heads][head_dim], or null.
struct KvMeans {
    const float *key_mean, *value_mean, *gain, *inverse_gain;
    uint32_t pairs;  // of `pair`: RoPE pairs whose mean is removed before the rotation
    const uint32_t* pair;
    const float *tile_rotations, *offset_rotations;  // of the layer's rope set
};

constexpr uint32_t kWarp = 32;

// What kv_append and attention have in common: the rows of a step's tokens, and where K and V lie.
struct KvStepArgs {
    Rows qkv, state, mean;  // mean: [heads][2 * pairs] of a token
    Heads shape;
    KvMeans means;
    KvPlaces places;
    StepArrays step;
    uint32_t tokens;
};

// Norms of the heads of q and k, their rotation, less what is removed of k; then makes q ready for the formats, and
// codes k and v into their slots. kv_append writes only q back. Its blocks of a token: first those of query heads, one
// a warp; then each head of k, then of v has one.
struct KvAppendArgs : KvStepArgs {
    const float *q_norm, *k_norm;  // [head_dim], or null
    float eps;
    Rows cos_sin;            // of the layer's rope set
    float attention_factor;  // of the rotation
};
constexpr uint32_t kAppendWarps = 6, kAppendThreads = kAppendWarps * kWarp;

// What coding a row takes of shared memory behind the row. Of a lattice, for every step that is tried: its products and
// the row's facts, integers as floats, codes, cosets.
struct LatticeRoom {
    uint32_t fits, c, u, cosets, bytes;
};
KEEL_DEVICE constexpr LatticeRoom lattice_room(uint32_t n) {
    constexpr uint32_t kSteps = kAppendThreads / 16;
    LatticeRoom room = {};
    room.fits = n * 4;
    room.c = room.fits + 3 * kSteps * 4 + 16;
    room.u = room.c + kSteps * n * 4;
    room.cosets = room.u + kSteps * n;
    room.bytes = room.cosets + kSteps * n / 8;
    return room;
}
// Of a trellis: the row in units of the table, later what it became; its states; the ways that lead to them.
struct TrellisRoom {
    uint32_t scaled, states, from, bytes;
};
constexpr uint32_t kTrellisGroups = 64;  // most groups of states with common predecessors
KEEL_DEVICE constexpr TrellisRoom trellis_room(uint32_t n) {
    TrellisRoom room = {};
    room.scaled = n * 4;
    room.states = room.scaled + n * 4;
    room.from = room.states + n;
    room.bytes = room.from + n * kTrellisGroups;
    return room;
}
constexpr uint32_t coding_bytes(kernels::KvFormat format, uint32_t n) {
    const kernels::KvFamily family = kernels::kKvFormats[format].family;
    return family == kernels::KvFamily::kLattice   ? lattice_room(n).bytes
           : family == kernels::KvFamily::kTrellis ? trellis_room(n).bytes
                                                   : 0;
}
constexpr LaunchShape launch_shape(const KvAppendArgs& a) {
    const uint32_t n = a.shape.head_dim, rows = kAppendWarps * n * 4, k = coding_bytes(a.places.k.format, n),
                   v = coding_bytes(a.places.v.format, n), coding = k < v ? v : k;
    return {divide_up(a.shape.heads, kAppendWarps) + 2 * a.shape.kv_heads, a.tokens, kAppendThreads,
            rows < coding ? coding : rows};
}
static_assert(lattice_room(kernels::kMaxHeadDim).bytes <= kMostSharedBytes &&
              trellis_room(kernels::kMaxHeadDim).bytes <= kMostSharedBytes);

// Rows of K and V of a session go to other slots, move after move, in layers whose rows lie alike, `layer_bytes` from
// one to the next. A block has the K or V rows of one head of a layer; a thread has some of their bytes, through all
// moves.
constexpr uint32_t kMostMoves = 16;
struct MoveRowsArgs {
    uint8_t* base;
    KvRows k, v;  // of the first layer
    uint64_t layer_bytes;
    uint32_t layers, kv_heads, count;
    struct Move {
        uint64_t to_page, from_page;  // byte offsets from `base`
        uint32_t to_row, from_row;    // of these
    } move[kMostMoves];
};
constexpr LaunchShape launch_shape(const MoveRowsArgs& a) {
    return {2 * a.kv_heads, a.layers, kRowThreads, 0};
}

// Attention (NUMERICS section 5). A block has the query heads of one KV head in some query blocks of the step, at most
// `columns` of them in all, each a column of its products, and goes through one KV split, or through all of them. What
// blocks have is counted: their query blocks, of these splits; block_begin <= b < block_end are computed, for every KV
// head.
// Which kernel has them is AttentionKind.
enum class AttentionKind : uint32_t {
    kToken,  // attend_token, which has another order of blocks, see below
    kFew,    // attend_8: up to eight columns
    kMany,   // attend_32: what none of the others does
    // Heads of up to 64 or 128 elements, without soft cap, trees and means of keys.
    kIntegers,  // attend_integers_WIDE: of K and V with one scale a row
    kBlocks,    // attend_blocks_WIDE: of integers, but with one for 32 elements in K, in V or in both
    kHalves,    // attend_halves_WIDE: K and V in f16
};
struct AttentionArgs : KvAppendArgs {  // q is ready but for attend_token, which alone looks at what the append needs
    Rows out;
    float scale, softcap;                        // softcap 0: none
    uint32_t window;                             // visible positions, 0 = all
    uint32_t columns, query_blocks, tile_heads;  // tile_heads: query heads of a block of threads
    uint32_t tile_blocks;                        // query blocks of one
    AttentionKind kind;
    // What each query head has of a split: [token][head][partial_slots][head_dim + kPartialState]. Null: a block goes
    // through all splits, and writes `out` and `state`.
    float* partial;
    uint32_t partial_slots, splits;  // of the longest session
    uint32_t block_begin, block_end;
    // Of attend_token, which has no time for divisions: query heads of a KV head, blocks of a token, of a KV head.
    uint32_t group, token_blocks, head_tiles;
    // Of attend_token: how many of a launch's blocks have begun; then how many rows of each KV head are appended. 0
    // before the first launch.
    uint32_t* counts;
};
constexpr uint32_t attention_counts(uint32_t kv_heads) {
    return 1 + kv_heads;
}
constexpr uint32_t kAttentionThreads = 128;
constexpr uint32_t kPartialState = 4;          // behind an output: m, l, and what keeps rows at 16 bytes
constexpr uint32_t kBatchScores = 4096;        // scores that are in shared memory at once
constexpr uint32_t kValueElements = 128;       // elements of V rows that are there at once
constexpr uint32_t kTrellisTableBytes = 8192;  // of 12 bits, entries of 2 bytes
constexpr uint32_t kBlockTokens = 8;           // kQueryBlockTokens of sdk/plan/step.h
constexpr uint32_t kMostColumns = 32;
constexpr uint32_t kColumnWords = 8;  // what a block keeps of a column beside its scores

// Where the slots of a head's partials are: a split's sinks, coded rows and recent rows are apart.
KEEL_DEVICE constexpr uint32_t partial_slots(uint32_t positions, uint32_t sinks, uint32_t recent) {
    return (positions + kSplitPositions - 1) / kSplitPositions + (sinks ? 1 : 0) +
           (recent ? recent / kSplitPositions + 2 : 0);
}

// Where things lie in a block's shared memory. What depends on more than the number of columns stands last.
struct AttentionRoom {
    uint32_t scores, values, query_scales, tiles, columns, slots, queries, table, bytes;
    uint32_t score_pitch, query_pitch;  // floats and bytes, so that columns begin in different banks
};
constexpr uint32_t kValuePitch = kValueElements + 8;  // words
KEEL_DEVICE constexpr AttentionRoom attention_room(uint32_t columns, uint32_t head_dim, bool trellis) {
    AttentionRoom room = {};
    const auto place = [&](uint32_t bytes) {
        const uint32_t at = room.bytes;
        room.bytes += (bytes + 15) / 16 * 16;
        return at;
    };
    room.score_pitch = kBatchScores / columns + 4;
    room.query_pitch = (head_dim + 31) / 32 * 32 + 32;
    room.scores = place(columns * room.score_pitch * 4);
    room.values = place(kPagePositions / 4 * kValuePitch * 4);
    room.query_scales = place(columns * kernels::kMaxKvScales * 4);
    room.tiles = place(4 * kBatchScores / kPagePositions * 4);
    room.columns = place(kColumnWords * kMostColumns * 4);
    room.slots = place(kBlockTokens * kMostTreeNodes);
    room.queries = place(columns * room.query_pitch);
    room.table = place(trellis ? kTrellisTableBytes : 0);
    return room;
}
static_assert(attention_room(8, kernels::kMaxHeadDim, true).bytes <= kMostSharedBytes);
static_assert(attention_room(32, kernels::kMaxHeadDim, true).bytes <= kMostSharedBytes);

KEEL_DEVICE constexpr bool is_trellis(kernels::KvFormat f) {
    return kernels::kKvFormats[f].family == kernels::KvFamily::kTrellis;
}
KEEL_DEVICE constexpr bool is_block32(kernels::KvFormat f) {
    return kernels::kKvFormats[f].family == kernels::KvFamily::kBlock32;
}

// ---- attention of many columns (attention_prefill.cuh) ----
constexpr uint32_t kPrefillColumns = 128;  // of a block of threads: sixteen a warp
constexpr uint32_t kPrefillThreads = kPrefillColumns / 16 * kWarp;

// Elements that a kernel for heads of `head_dim` has.
KEEL_DEVICE constexpr uint32_t prefill_wide(uint32_t head_dim) {
    return head_dim <= 64 ? 64 : 128;
}
// Where things lie in shared memory, behind keys and values, in whose place queries as integers lie at first.
struct PrefillRoom {
    uint32_t key_scales, value_scales;  // [scales of a row][positions of a tile]
    uint32_t query_scales;              // [column][scales of a row]
    uint32_t raw_keys, raw_values;      // of the next tile, as they lie in the page
    uint32_t key_table, value_table;
    uint32_t bytes;
};
constexpr uint32_t kPrefillFactsBytes = 48;    // in front of all
constexpr uint32_t kValuePart = 32 * 16 + 16;  // bytes of 32 elements of sixteen positions, and what parts banks
KEEL_DEVICE constexpr uint32_t prefill_value_pitch(uint32_t wide) {
    return wide / 32 * kValuePart + (wide > 64 ? 32 : 0);
}
KEEL_DEVICE constexpr uint32_t prefill_tile_bytes(uint32_t wide) {
    return kPagePositions * wide + 4 * prefill_value_pitch(wide);
}
KEEL_DEVICE constexpr uint32_t trellis_table_bytes(kernels::KvFormat f) {
    const uint32_t bits = kernels::kKvFormats[f].bits;
    return bits < 4 ? 512u << bits : kTrellisTableBytes;
}
KEEL_DEVICE constexpr PrefillRoom prefill_room(kernels::KvFormat k, kernels::KvFormat v, uint32_t head_dim) {
    PrefillRoom room = {};
    room.bytes = kPrefillFactsBytes + prefill_tile_bytes(prefill_wide(head_dim));
    const auto place = [&](uint32_t bytes) {
        const uint32_t at = room.bytes;
        room.bytes += (bytes + 15) / 16 * 16;
        return at;
    };
    const auto place_raw = [&](kernels::KvFormat f) {
        return place((kPagePositions * kernels::kv_code_bytes(f, head_dim) + 15) / 16 * 16 +
                     kPagePositions * kernels::kv_scale_bytes(f, head_dim));
    };
    room.key_scales = place(kernels::kv_scales(k, head_dim) * kPagePositions * 4);
    room.value_scales = place(kernels::kv_scales(v, head_dim) * kPagePositions * 4);
    room.query_scales = place(kernels::kv_scales(k, head_dim) * kPrefillColumns * 4);
    room.raw_keys = place_raw(k);
    room.raw_values = place_raw(v);
    room.key_table = room.value_table = is_trellis(k) ? place(trellis_table_bytes(k)) : 0;
    const bool shared = is_trellis(k) && kernels::kKvFormats[k].bits == kernels::kKvFormats[v].bits;
    if (is_trellis(v) && !shared) room.value_table = place(trellis_table_bytes(v));
    return room;
}
constexpr uint32_t kHalvesWeightPitch = 20;  // floats of a position of sixteen columns: positions in different banks
constexpr uint32_t halves_bytes(uint32_t head_dim, uint32_t threads) {
    return kPrefillFactsBytes + 2 * kPagePositions * prefill_wide(head_dim) * 2 +
           threads / kWarp * 16 * kHalvesWeightPitch * 4;
}
static_assert(halves_bytes(128, kPrefillThreads) <= kMostSharedBytes);
constexpr uint32_t most_prefill_bytes() {
    uint32_t most = 0;
    for (uint32_t k = 0; k < kernels::kKvFormatCount; ++k)
        for (uint32_t v = 0; v < kernels::kKvFormatCount; ++v) {
            if (!kernels::kKvFormats[k].integer || !kernels::kKvFormats[v].integer) continue;
            const uint32_t bytes =
                prefill_room(static_cast<kernels::KvFormat>(k), static_cast<kernels::KvFormat>(v), 128).bytes;
            most = bytes > most ? bytes : most;
        }
    return most;
}
static_assert(most_prefill_bytes() <= kMostSharedBytes);
static_assert(kPrefillColumns * 64 <= prefill_tile_bytes(64) && kPrefillColumns * 128 <= prefill_tile_bytes(128));

KEEL_DEVICE constexpr uint32_t prefill_threads(const AttentionArgs& a) {
    return divide_up(a.columns, 16) * kWarp;
}

// Puts the query heads of a KV head and the query blocks, of up to `block_tokens` tokens each, into blocks of threads.
// trees: a session's tail is one. The rest of `a` is set, but for the range of blocks.
constexpr void tile_attention(AttentionArgs* a, uint32_t block_tokens, bool trees, uint32_t sessions,
                              uint32_t multiprocessors) {
    const uint32_t group = a->shape.heads / a->shape.kv_heads, few = group * block_tokens <= 8;
    const bool plain = !trees && a->softcap == 0.0f && a->means.pairs == 0 && a->shape.head_dim <= 128;
    const bool integers =
        kernels::kKvFormats[a->places.k.format].integer && kernels::kKvFormats[a->places.v.format].integer;
    const bool block32 = is_block32(a->places.k.format) || is_block32(a->places.v.format);
    const bool halves = a->places.k.format == kernels::kKvF16 && a->places.v.format == kernels::kKvF16;
    a->kind = few                 ? AttentionKind::kFew
              : plain && integers ? block32 ? AttentionKind::kBlocks : AttentionKind::kIntegers
              : plain && halves   ? AttentionKind::kHalves
                                  : AttentionKind::kMany;
    a->tile_blocks = 1;
    if (a->kind == AttentionKind::kFew || a->kind == AttentionKind::kMany) {
        a->columns = few ? 8 : 32;
        const uint32_t most = a->columns / block_tokens;
        a->tile_heads = group < most ? group : most;
        return;
    }
    // As many columns as there is work for, of one session.
    const uint32_t head_tiles = divide_up(group, kPrefillColumns / kBlockTokens);
    a->tile_heads = divide_up(group, head_tiles);
    const uint32_t most = kPrefillColumns / (block_tokens * a->tile_heads), of_session = a->query_blocks / sessions;
    a->tile_blocks = of_session < most ? of_session + (of_session == 0) : most;
    const auto blocks = [&] {
        return a->shape.kv_heads * head_tiles * divide_up(a->query_blocks, a->tile_blocks) *
               (a->partial ? a->splits : 1);
    };
    while (a->tile_blocks > 1 && 2 * blocks() <= multiprocessors) a->tile_blocks = divide_up(a->tile_blocks, 2);
    a->columns = a->tile_blocks * block_tokens * a->tile_heads;
}
constexpr uint32_t attention_blocks(const AttentionArgs& a) {
    return divide_up(a.query_blocks, a.tile_blocks) * (a.partial ? a.splits : 1);
}
constexpr LaunchShape attention_shape(const AttentionArgs& a) {
    const uint32_t group = a.shape.heads / a.shape.kv_heads;
    const kernels::KvFormat k = a.places.k.format, v = a.places.v.format;
    const uint32_t grid_x = a.shape.kv_heads * divide_up(group, a.tile_heads), grid_y = a.block_end - a.block_begin;
    if (a.kind == AttentionKind::kIntegers || a.kind == AttentionKind::kBlocks)
        return {grid_x, grid_y, prefill_threads(a), prefill_room(k, v, a.shape.head_dim).bytes};
    if (a.kind == AttentionKind::kHalves)
        return {grid_x, grid_y, prefill_threads(a), halves_bytes(a.shape.head_dim, prefill_threads(a))};
    return {grid_x, grid_y, kAttentionThreads,
            attention_room(a.columns, a.shape.head_dim, is_trellis(k) || is_trellis(v)).bytes};
}

// attend_token appends the rows of the step as well. Its work items, each a row of the grid, are first those of the
// append: K, then V, of each token, a block a KV head. Then those of attention: a block has at most kTokenColumns query
// heads of one KV head for one token, and what lies in one form in one split: its coded rows, sinks or recent rows.
// They are counted by token, of them first the splits' coded rows, then sinks, then recent rows. Always into partials.
//
// Blocks take the items in the order in which they begin. Those that read rows of the step wait until the rows of their
// KV head are there, when they have done what they can without; the others wait for nothing. Launches of a part of the
// items come one after another, and none begins before the one in front has ended.
constexpr uint32_t kTokenThreads = 256, kTokenColumns = 4;
constexpr uint32_t kTokenTiles = kSplitPositions / kPagePositions;  // a warp each
constexpr uint32_t kRowStages = 8, kRowStageBytes = 4096;           // of V rows on their way, where they are floats
constexpr uint32_t kTokenScorePitch = kSplitPositions + 8;          // floats
// Weights of a warp's tile: a column's 64 of 16 bits, so that four columns begin in different banks.
constexpr uint32_t kTokenWeightBytes = 160;
constexpr uint32_t kTokenSums = 128, kTokenSumPitch = kTokenSums + 16;  // elements whose sums are there at once

// What attend_token reads: f16, or integers both, in rows of whole words; whole lanes of a dot product.
constexpr bool attends_tokens(kernels::KvFormat k, kernels::KvFormat v, uint32_t head_dim) {
    return head_dim % 16 == 0 &&
           ((k == kernels::kKvF16 && v == kernels::kKvF16) ||
            (kernels::kKvFormats[k].integer && kernels::kKvFormats[v].integer &&
             kernels::kv_code_bytes(k, head_dim) % 4 == 0 && kernels::kv_code_bytes(v, head_dim) % 4 == 0));
}
// What a block keeps, and then either rows that are floats or integers.
struct TokenRoom {
    uint32_t block, places, nodes, top, rescale, sum, unit, scores;
    uint32_t queries, rows;
    uint32_t query_scales, weights, marks, sums, table;
    uint32_t ticket;  // behind what any block has, of the append too
    uint32_t bytes;
    uint32_t query_pitch;  // bytes, of integers
};
KEEL_DEVICE constexpr TokenRoom token_room() {
    TokenRoom room = {};
    const auto place = [](uint32_t* end, uint32_t bytes) {
        const uint32_t at = *end;
        *end += (bytes + 15) / 16 * 16;
        return at;
    };
    uint32_t both = 0;
    room.block = place(&both, 80);
    room.places = place(&both, kSplitPositions * 4);
    room.nodes = place(&both, kMostTreeNodes);
    room.top = place(&both, kTokenTiles * kTokenColumns * 4);
    room.rescale = place(&both, kTokenTiles * kTokenColumns * 4);
    room.sum = place(&both, kTokenTiles * kTokenColumns * 4);
    room.unit = place(&both, kTokenTiles * kTokenColumns * (kTokenSums / kernels::kKvBlock) * 4);
    room.scores = place(&both, kTokenColumns * kTokenScorePitch * 4);
    room.queries = both;
    uint32_t floats = both;
    place(&floats, kTokenColumns * kernels::kMaxHeadDim * 4);
    room.rows = place(&floats, kRowStages * kRowStageBytes);
    uint32_t integers = both;
    room.query_pitch = kernels::kMaxHeadDim + 16;
    place(&integers, kTokenColumns * room.query_pitch);
    room.query_scales = place(&integers, kTokenColumns * kernels::kMaxKvScales * 4);
    room.weights = place(&integers, kTokenTiles * kTokenColumns * kTokenWeightBytes);
    room.marks = place(&integers, kTokenTiles * kPagePositions);
    room.sums = place(&integers, kTokenTiles * kTokenColumns * kTokenSumPitch * 4);
    room.table = place(&integers, kTrellisTableBytes);
    room.bytes = floats > integers ? floats : integers;
    room.ticket = place(&room.bytes, 4);
    return room;
}
static_assert(token_room().bytes <= kMostSharedBytes);
static_assert(lattice_room(kernels::kMaxHeadDim).bytes <= token_room().ticket &&
              trellis_room(kernels::kMaxHeadDim).bytes <= token_room().ticket);

// Sets what attend_token needs of a step of `tokens` tokens, of which the longest session has `positions`.
constexpr void fit_tokens(AttentionArgs* a, uint32_t tokens, uint32_t positions) {
    a->tokens = tokens;
    a->kind = AttentionKind::kToken;
    a->columns = kTokenColumns;
    a->group = a->shape.heads / a->shape.kv_heads;
    a->tile_heads = a->group < kTokenColumns ? a->group : kTokenColumns;
    a->head_tiles = divide_up(a->group, a->tile_heads);
    a->splits = divide_up(positions, kSplitPositions);
    a->token_blocks = a->splits + (a->places.sink_tokens ? 1 : 0) +
                      (a->places.recent_tokens ? a->places.recent_tokens / kSplitPositions + 2 : 0);
    a->block_end = tokens * (2 + a->token_blocks);
}
constexpr LaunchShape token_shape(const AttentionArgs& a) {
    return {a.shape.kv_heads * a.head_tiles, a.block_end - a.block_begin, kTokenThreads, token_room().bytes};
}

constexpr uint32_t kFinishThreads = 128;
constexpr uint32_t kFinishGroup = 16;  // splits whose partials are on their way at once
// Merges what the splits left, where there are partials; then o *= 1 / l, rotated back, plus the mean of v.
struct AttentionFinishArgs {
    Rows out, state;
    Heads shape;
    const float* value_mean;  // of the layer, or null
    bool rotated;
    bool behind_tokens;  // attend_token computes what is merged, where the step has few tokens
    uint32_t tokens;
    // As of the attention before.
    const float* partial;
    uint32_t partial_slots, window, sink_tokens, recent_tokens;
    const uint32_t* position;
};
constexpr LaunchShape launch_shape(const AttentionFinishArgs& a) {
    return {a.shape.heads, a.tokens, kFinishThreads,
            kernels::kMaxHeadDim * 4 + kFinishThreads / kWarp * kFinishGroup * 16};
}

}  // namespace keel::cuda
