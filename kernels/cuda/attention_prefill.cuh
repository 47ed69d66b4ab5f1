// Attention of many columns, a prompt's or those of some tokens of a session (NUMERICS section 5). A block of threads
// has the query heads of one KV head in some query blocks of the step, sixteen of these columns a warp, and goes
// through one KV split or through all of them: attention_integers.cu where K and V are integers, attention_halves.cu
// where both are f16.
//
// Rows are on their way while those of the tile before are worked on, and are unpacked once for all columns. Scores
// stay in registers, where matrix units leave those of integers.
#pragma once
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/exp_below.h"
#include "kernels/cuda/warp.cuh"

namespace keel::cuda {
namespace {

constexpr uint32_t kRowTiles = kTile / 8;  // a product's eight columns: positions of a tile

struct alignas(16) Floats4 {
    float x[4];
};

// What the threads of a block know. It lies at the beginning of shared memory, read anew where it is needed: registers
// are scarce.
struct PrefillFacts {
    uint32_t kv_head, first_head, heads;  // query heads, each in all tokens
    uint32_t session, first_token, tokens;
    uint32_t first_position, last_position;  // of its first and its last token: they follow one another
    Range reach;                             // positions of the splits that the block goes through
    uint32_t first_page;                     // of the session, among those of the step
};
static_assert(sizeof(PrefillFacts) <= kPrefillFactsBytes);
struct TilePlace;
struct ColumnState;
struct PrefillBlock {
    const AttentionArgs& args;

    static KEEL_GPU PrefillFacts& facts() { return *reinterpret_cast<PrefillFacts*>(shared_memory()); }
    KEEL_GPU uint32_t columns() const { return facts().tokens * facts().heads; }
    KEEL_GPU Range range(uint32_t view, uint32_t position) const {
        return view_range(position, args.window, args.places.sink_tokens, args.places.recent_tokens, view);
    }
    // What the tokens see together, or more, and what all of them see: ends of ranges grow with positions.
    KEEL_GPU Range seen(uint32_t view) const {
        if (view == kRecent && !args.places.recent_tokens) return {};
        return {range(view, facts().first_position).begin, range(view, facts().last_position).end};
    }
    KEEL_GPU Range all_see(uint32_t view) const {
        return {range(view, facts().last_position).begin, range(view, facts().first_position).end};
    }
    KEEL_GPU const KvRows& k(uint32_t view) const {
        return view == kSinks ? args.places.sink_k : view == kCoded ? args.places.k : args.places.recent_k;
    }
    KEEL_GPU const KvRows& v(uint32_t view) const {
        return view == kSinks ? args.places.sink_v : view == kCoded ? args.places.v : args.places.recent_v;
    }
    // What each of a lane's columns sees of a tile.
    KEEL_GPU void tile_ranges(const TilePlace& tile, const ColumnState column[2], Range seen[2]) const;
    // Rows of the block's KV head in a tile that is not evicted: those of sinks or of a page, which follow one another,
    // and row j of any tile.
    KEEL_GPU const uint8_t* rows_of(const TilePlace& tile, const KvRows& rows) const;
    KEEL_GPU const uint8_t* row_of(const TilePlace& tile, const KvRows& rows, uint32_t j) const;
};

// A tile of what is seen of a split in a view.
struct TilePlace {
    uint32_t split, view, first, end;  // first: kNone if there is none; end: of what is seen
    uint32_t page;                     // its number, of coded rows; kNone: evicted

    KEEL_GPU bool none() const { return first == kNone; }
    KEEL_GPU bool there() const { return first != kNone && page != kNone; }
    KEEL_GPU uint32_t rows() const { return end - first < kTile ? end - first : kTile; }  // up to the last one seen
    KEEL_GPU bool joins(const TilePlace& o) const { return split == o.split && view == o.view && !o.none(); }
};
// The one behind `at`. Its page's number is asked for, and not looked at.
KEEL_GPU TilePlace next_tile(const PrefillBlock& b, TilePlace at) {
    at.first += kTile;
    while (at.first >= at.end) {
        if (++at.view == kViews) {
            at.view = 0;
            at.split += kSplitPositions;
        }
        if (at.split >= b.facts().reach.end) {
            at.first = kNone;
            return at;
        }
        const Range all = cut(b.seen(at.view), at.split, kSplitPositions);
        at.first = all.begin / kTile * kTile;
        at.end = all.empty() ? 0 : all.end;
    }
    at.page = at.view == kCoded ? b.args.step.page_id[b.facts().first_page + at.first / kTile] : 0;
    return at;
}
KEEL_GPU TilePlace first_tile(const PrefillBlock& b) {
    return next_tile(b, {b.facts().reach.begin - kSplitPositions, kViews - 1, 0, 0, 0});
}
KEEL_GPU const uint8_t* PrefillBlock::rows_of(const TilePlace& tile, const KvRows& rows) const {
    const KvPlaces& at = args.places;
    const uint8_t* page = at.base + at.pages + tile.page * at.page_stride;
    if (tile.view == kSinks) page = at.base + at.windows + args.step.session_index[facts().session] * at.window_stride;
    return in_global(page) + rows.codes + facts().kv_head * rows.head_bytes;
}
KEEL_GPU const uint8_t* PrefillBlock::row_of(const TilePlace& tile, const KvRows& rows, uint32_t j) const {
    if (tile.view == kRecent)
        return recent_row(args.places, args.step, facts().session, rows, facts().kv_head, tile.first + j);
    return rows_of(tile, rows) + j * rows.code_bytes;
}

// ---- what a warp makes of a tile ----
// Lane (g, t) = (lane / 4, lane % 4) has columns g and g + 8 of the warp's, and of a tile positions 8 i + 2 t and
// 8 i + 2 t + 1: those of column g + 8 r are s[i][2 r] and s[i][2 r + 1].
struct Scores {
    float s[kRowTiles][4];
};
// Of its two columns: the state of a split, and of the splits before.
struct ColumnState {
    uint32_t position;
    float m, l, total_m, total_l;
};
// Column r of the lane's two among those of the block.
KEEL_GPU uint32_t own_column(uint32_t r) {
    const uint32_t thread = thread_x_again();
    return thread / 32 * 16 + thread % 32 / 4 + 8 * r;
}

KEEL_GPU void PrefillBlock::tile_ranges(const TilePlace& tile, const ColumnState column[2], Range seen[2]) const {
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) seen[r] = cut(range(tile.view, column[r].position), tile.first, kTile);
}

// The largest of what the four lanes of a column have.
KEEL_GPU float largest_of_four(float v) {
    const uint32_t lane = thread_x_again() % 32;
    v = largest(v, shuffle(v, lane ^ 1));
    v = largest(v, shuffle(v, lane ^ 2));
    return v;
}

// Scores into exponentials, 0 where the column does not see the position; the column's state. by: what its output is
// multiplied by before the tile is added. `seen`: by each column, looked at where not all of them see all of the tile.
KEEL_GPU void soften_tile(const AttentionArgs& args, bool edge, const Range seen[2], uint32_t first, Scores* scores,
                          ColumnState column[2], float by[2]) {
    const uint32_t lane = thread_x_again() % 32, t = lane % 4;
    KEEL_UNROLL
    for (uint32_t i = 0; i < kRowTiles; ++i) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) scores->s[i][e] = mul_f32(scores->s[i][e], args.scale);
    }
    if (edge) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < kRowTiles; ++i) {
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) {
                const uint32_t position = first + 8 * i + 2 * t + e % 2;
                if (position < seen[e / 2].begin || position >= seen[e / 2].end) scores->s[i][e] = -kInf32;
            }
        }
    }
    float now[2];
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float most[kRowTiles];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kRowTiles; ++i) most[i] = largest(scores->s[i][2 * r], scores->s[i][2 * r + 1]);
        KEEL_UNROLL
        for (uint32_t step = kRowTiles / 2; step; step /= 2) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < step; ++i) most[i] = largest(most[i], most[i + step]);
        }
        now[r] = largest(column[r].m, largest_of_four(most[0]));
    }
    float lanes[2][4] = {};
    KEEL_UNROLL
    for (uint32_t i = 0; i < kRowTiles; ++i) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            float& s = scores->s[i][e];
            s = exp_below_f32(add_f32(s, -now[e / 2]));
            float& lane_sum = lanes[e / 2][i % 2 * 2 + e % 2];
            lane_sum = i < 2 ? s : add_f32(lane_sum, s);
        }
    }
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float sum[2];
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) {
            sum[c] = add_f32(lanes[r][c], lanes[r][2 + c]);
            sum[c] = add_f32(sum[c], shuffle(sum[c], lane ^ 2));
            sum[c] = add_f32(sum[c], shuffle(sum[c], lane ^ 1));
        }
        // A largest score that is not finite makes a NaN of everything.
        const bool none = edge && seen[r].empty(), numbers = __builtin_fabsf(now[r]) < kInf32;
        const float factor = exp_below_f32(add_f32(column[r].m, -now[r]));
        by[r] = none ? 1.0f : numbers ? factor : __builtin_nanf("");
        column[r].l = fma_f32(column[r].l, by[r], add_f32(sum[0], sum[1]));
        column[r].m = now[r];
    }
}

// ---- a split's end ----
// What becomes of a column's older output and of that of the split: by: kLeft if it sees nothing of the split, kCopied
// if there is none.
struct Merging {
    float by, from_by;
};
// Into the partials, or what the column has of the splits before.
KEEL_GPU Merging merge_state(const PrefillBlock& b, uint32_t own, uint32_t split, uint32_t view, ColumnState* c) {
    Merging out = {kLeft, 0.0f};
    if (own < b.columns() && !cut(b.range(view, c->position), split, kSplitPositions).empty()) {
        out.by = kCopied;
        if (!b.args.partial && c->total_m == -kInf32) {
            c->total_m = c->m;
            c->total_l = c->l;
        } else if (!b.args.partial) {
            const float merged = largest(c->total_m, c->m);
            out.by = exp_f32(add_f32(c->total_m, -merged));
            out.from_by = exp_f32(add_f32(c->m, -merged));
            c->total_l = fma_f32(c->total_l, out.by, mul_f32(c->l, out.from_by));
            c->total_m = merged;
        }
    }
    return out;
}
// Where the output of one of the block's columns goes.
KEEL_GPU float* output_of(const PrefillBlock& b, uint32_t column, uint32_t split, uint32_t view) {
    const AttentionArgs& args = b.args;
    const PrefillFacts& f = b.facts();
    const uint32_t at = column / f.heads, token = f.first_token + at, head = f.first_head + column % f.heads;
    if (!args.partial) return args.out.row + token * args.out.stride + head * args.shape.head_dim;
    const uint32_t slot = partial_slot(args.partial_slots, args.places.sink_tokens, args.places.recent_tokens, view,
                                       split / kSplitPositions, b.range(kRecent, f.first_position + at).begin);
    const uint64_t row = uint64_t{token} * args.shape.heads + head;
    return args.partial + (row * args.partial_slots + slot) * (args.shape.head_dim + kPartialState);
}
// Eight elements of a column's older output, where it is needed: several are asked for before the first is used.
struct Floats8 {
    Floats4 four[2];
};
KEEL_GPU Floats8 older_eight(const float* from, const Merging& merging) {
    if (merging.by == kCopied || merging.by == kLeft) return {};
    const Floats4* four = reinterpret_cast<const Floats4*>(from);
    return {{four[0], four[1]}};
}
KEEL_GPU void merge_eight(float* to, const Floats8& older, const float* o, const Merging& merging) {
    KEEL_UNROLL
    for (uint32_t i = 0; i < 2; ++i) {
        Floats4 sum;
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            const float own = o[4 * i + e];
            sum.x[e] =
                merging.by == kCopied ? own : fma_f32(older.four[i].x[e], merging.by, mul_f32(own, merging.from_by));
        }
        reinterpret_cast<Floats4*>(to)[i] = sum;
    }
}
// A column's state behind the output of a split.
KEEL_GPU void put_state(const PrefillBlock& b, float* to, const ColumnState& c) {
    if (!b.args.partial) return;
    to[b.args.shape.head_dim] = c.m;
    to[b.args.shape.head_dim + 1] = c.l;
}
// The states of all splits.
KEEL_GPU void put_totals(const PrefillBlock& b, const ColumnState column[2]) {
    if (b.args.partial || thread_x() % 4 != 0) return;
    const PrefillFacts& f = b.facts();
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        if (own >= b.columns()) continue;
        float* state = b.args.state.row + (f.first_token + own / f.heads) * b.args.state.stride;
        const uint32_t head = f.first_head + own % f.heads;
        state[head] = column[r].total_m;
        state[b.args.shape.heads + head] = column[r].total_l;
    }
}
KEEL_GPU void begin_columns(const PrefillBlock& b, ColumnState column[2]) {
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        column[r].position = b.facts().first_position + (own < b.columns() ? own / b.facts().heads : 0);
        column[r].m = column[r].total_m = -kInf32;
        column[r].l = column[r].total_l = 0.0f;
    }
}

// The next tokens of the block of threads that are of one session; none, if there are no more.
KEEL_GPU void next_session(const AttentionArgs& args, PrefillFacts* f) {
    const uint32_t group = args.shape.heads / args.shape.kv_heads, head_tiles = divide_up(group, args.tile_heads);
    const uint32_t first_head = block_x() % head_tiles * args.tile_heads, left = group - first_head;
    const uint32_t splits = args.partial ? args.splits : 1, block = args.block_begin + block_y();
    const uint32_t split = block % splits * kSplitPositions,
                   last = block / splits * args.tile_blocks + args.tile_blocks;
    const uint32_t* query_block = args.step.query_block + 2 * (last < args.query_blocks ? last : args.query_blocks) - 2;
    const uint32_t tokens_end = query_block[0] + query_block[1], first = f->first_token + f->tokens;
    f->first_token = first;
    f->tokens = 0;
    if (first >= tokens_end) return;
    f->session = args.step.session[first];
    while (first + f->tokens < tokens_end && args.step.session[first + f->tokens] == f->session) ++f->tokens;
    f->kv_head = block_x() / head_tiles;
    f->first_head = f->kv_head * group + first_head;
    f->heads = left < args.tile_heads ? left : args.tile_heads;
    f->first_position = args.step.position[first];
    f->last_position = args.step.position[first + f->tokens - 1];
    f->reach = {split, split + kSplitPositions};
    if (!args.partial) f->reach = {0, f->last_position + 1};
    f->first_page = args.step.page_first[f->session];
}
// Calls body(block) for the tokens that the block of threads has, of one session at a time.
template <class Body>
KEEL_GPU void for_sessions(const AttentionArgs& args, const Body& body) {
    const PrefillBlock b = {args};
    if (thread_x() == 0) {
        const uint32_t splits = args.partial ? args.splits : 1;
        b.facts().first_token = args.step.query_block[2 * ((args.block_begin + block_y()) / splits * args.tile_blocks)];
        b.facts().tokens = 0;
    }
    while (true) {
        if (thread_x() == 0) next_session(args, &b.facts());
        sync_block();
        if (b.facts().tokens == 0) return;
        body(b);
        sync_block();
    }
}

}  // namespace
}  // namespace keel::cuda
