// Attention of few tokens, which is decoding: a block has at most four query heads of one KV head for one token, and
// one split, or what lies in f16 of it. Eight warps: all of the split's scores are there at once, and a tile each
// warp's.
//
// Blocks in front of these append the step's rows. Who reads those waits for them alone, as late as it can: meanwhile
// the others, and its own warps, work on older positions. Query heads are made ready by every block that takes them.
//
// What a chain of the contract runs through are the sixteen lanes of a score, eight tiles of an output, and of V as
// floats all positions. Everything else is done by all warps side by side.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/exp_below.h"
#include "kernels/cuda/kv_append.cuh"

namespace keel::cuda {
namespace {

constexpr TokenRoom kAt = token_room();
constexpr uint32_t kColumns = kTokenColumns, kTiles = kTokenTiles;
constexpr uint32_t kUnit = 64;             // elements that are worked on at once
constexpr uint32_t kFewTokenBlocks = 128;  // no more than one for a multiprocessor

// What is asked of a format here, in constants: the table of formats lies in memory, and one look at it takes as long
// as one at a row.
struct FormatFacts {
    uint64_t bits, family, coded_before;  // three bits each, two, one
};
constexpr FormatFacts facts_of_formats() {
    FormatFacts facts = {};
    for (uint32_t f = 0; f < kKvFormatCount; ++f) {
        const KvFormatInfo& info = kKvFormats[f];
        if (info.integer) facts.bits |= uint64_t{info.bits - 2u} << 3 * f;
        facts.family |= uint64_t(info.family) << 2 * f;
        if (kv_coded_as(static_cast<KvFormat>(f)) != f) facts.coded_before |= uint64_t{1} << f;
    }
    return facts;
}
constexpr FormatFacts kFacts = facts_of_formats();
static_assert(3 * kKvFormatCount <= 64);
static_assert(kv_coded_as(kKvQ8_0Rot) == kKvQ8_0Rot - 2 && kv_coded_as(kKvQ4_0Rot) == kKvQ4_0Rot - 2);
KEEL_GPU uint32_t bits_of(KvFormat f) {  // of integers
    return static_cast<uint32_t>(kFacts.bits >> 3 * f & 7) + 2;
}
KEEL_GPU KvFamily family_of(KvFormat f) {
    return static_cast<KvFamily>(kFacts.family >> 2 * f & 3);
}
KEEL_GPU KvFormat coded_as(KvFormat f) {
    return static_cast<KvFormat>(f - static_cast<uint32_t>(kFacts.coded_before >> f & 1) * 2);
}
KEEL_GPU uint32_t scales_of(KvFormat f, uint32_t n) {
    return family_of(f) == KvFamily::kBlock32 ? n / kKvBlock : 1;
}
KEEL_GPU float scale_of(KvFormat f, uint32_t field) {
    if (family_of(f) == KvFamily::kTrellis) field = field >> (8 - bits_of(f)) << (7 - bits_of(f));
    return widen_f16(field & 0x7fff);
}

// What the threads of a block know.
struct TokenBlock {
    const AttentionArgs& args;
    uint32_t token, session, kv_head, first_head, heads;
    uint32_t view, first;  // the first position of the split
    Range seen;            // by the token in the split and view
    uint32_t tail_first;
    const uint8_t* pages;  // of the view
    uint64_t page_stride;

    template <class T>
    static KEEL_GPU T* at(uint32_t offset) {
        return reinterpret_cast<T*>(shared_memory() + offset);
    }
    // Where rows lie that do not follow one another, [positions of the split]: page * 64 + row.
    static KEEL_GPU uint32_t* places() { return at<uint32_t>(kAt.places); }
    static KEEL_GPU uint8_t* nodes() { return at<uint8_t>(kAt.nodes); }
    // [tile][column]; units by tiles, columns and 32 elements.
    static KEEL_GPU float* top() { return at<float>(kAt.top); }
    static KEEL_GPU float* rescale() { return at<float>(kAt.rescale); }
    static KEEL_GPU float* sum() { return at<float>(kAt.sum); }
    static KEEL_GPU float* unit() { return at<float>(kAt.unit); }
    static KEEL_GPU float* scores(uint32_t column) { return at<float>(kAt.scores) + column * kTokenScorePitch; }
    static KEEL_GPU uint8_t* query(uint32_t column) { return at<uint8_t>(kAt.queries) + column * kAt.query_pitch; }
    static KEEL_GPU float* query_scales(uint32_t column) { return at<float>(kAt.query_scales) + column * kMaxKvScales; }
    static KEEL_GPU uint8_t* weights(uint32_t tile, uint32_t column) {
        return at<uint8_t>(kAt.weights) + (tile * kColumns + column) * kTokenWeightBytes;
    }
    // A byte a row of a tile, in the order of weights.
    static KEEL_GPU uint8_t* marks(uint32_t tile) { return at<uint8_t>(kAt.marks) + tile * kTile; }
    static KEEL_GPU int32_t* sums(uint32_t tile, uint32_t column) {
        return at<int32_t>(kAt.sums) + (tile * kColumns + column) * kTokenSumPitch;
    }
    static KEEL_GPU uint8_t* table() { return at<uint8_t>(kAt.table); }

    KEEL_GPU const KvRows& k() const {
        return view == kSinks ? args.places.sink_k : view == kCoded ? args.places.k : args.places.recent_k;
    }
    KEEL_GPU const KvRows& v() const {
        return view == kSinks ? args.places.sink_v : view == kCoded ? args.places.v : args.places.recent_v;
    }
    KEEL_GPU uint32_t page_index(uint32_t page) const {
        return view == kCoded ? args.step.page_id[args.step.page_first[session] + page] : 0;
    }
    // Whether rows of the tile lie where the block lists them.
    KEEL_GPU bool apart(uint32_t tile) const { return view == kRecent || first + (tile + 1) * kTile > tail_first; }
    // What is seen of the tile whose page this is.
    KEEL_GPU Range tile_range(uint32_t tile, uint32_t page) const {
        const Range r = cut(seen, first + tile * kTile, kTile);
        return r.empty() || page == kNone ? Range{0, 0} : r;
    }
};

// K or V rows of a tile: one behind another in a page, or wherever the token has them.
struct TokenRows {
    const uint8_t *codes, *scales;  // of the first one; where they are apart, of page 0
    uint32_t code_bytes, scale_bytes;
    uint64_t page_stride;
    uint32_t place;  // where they are listed; kNone: one behind another

    // In pages of the block's view; in those of coded rows.
    KEEL_GPU TokenRows(const TokenBlock& b, const KvRows& rows, uint32_t tile, uint32_t page)
        : TokenRows(b, rows, b.pages, b.page_stride, tile, page) {}
    KEEL_GPU TokenRows(const TokenBlock& b, const KvRows& rows, const uint8_t* pages, uint64_t page_stride,
                       uint32_t tile, uint32_t page)
        : code_bytes(rows.code_bytes), scale_bytes(rows.scale_bytes), page_stride(page_stride) {
        place = b.apart(tile) ? tile * kTile : kNone;
        const uint8_t* base = pages + b.kv_head * rows.head_bytes + (apart() ? 0 : page) * page_stride;
        codes = base + rows.codes;
        scales = base + rows.scales;
    }
    KEEL_GPU bool apart() const { return place != kNone; }
    KEEL_GPU const uint8_t* row(const uint8_t* plane, uint32_t bytes, uint32_t j) const {
        if (!apart()) [[likely]]
            return plane + j * bytes;
        const uint32_t at = TokenBlock::places()[place + j];
        return plane + at / kTile * page_stride + at % kTile * bytes;
    }
    KEEL_GPU const uint8_t* code(uint32_t j) const { return row(codes, code_bytes, j); }
    KEEL_GPU const uint8_t* scale(uint32_t j) const { return row(scales, scale_bytes, j); }
    KEEL_GPU uint32_t field(uint32_t j, uint32_t s) const { return load<uint16_t>(scale(j) + 2 * s); }
    // Where it is known that they follow one another.
    KEEL_GPU const uint8_t* code_behind(uint32_t j) const { return codes + j * code_bytes; }
    KEEL_GPU uint32_t field_behind(uint32_t j, uint32_t s) const {
        return load<uint16_t>(scales + j * scale_bytes + 2 * s);
    }
};

// What is needed again behind scores is kept in shared memory, for registers.
struct TokenLater {
    float* to;  // results of the first column
    uint32_t token, kv_head, first_head, heads, first;
    Range seen;
    uint32_t tail_first;
    uint32_t older;  // rows of the split in front of those of the step; of floats all, if none of these is read
    uint32_t page[kTiles];
};
static_assert(sizeof(TokenLater) <= 80);
KEEL_GPU TokenLater& later() {
    return *TokenBlock::at<TokenLater>(kAt.block);
}
KEEL_GPU TokenBlock coded_block_later(const AttentionArgs& args) {
    const TokenLater& l = later();
    return {args, l.token, 0, l.kv_head, l.first_head, l.heads, kCoded, l.first, l.seen, l.tail_first, nullptr, 0};
}
KEEL_GPU float* partial_of(const AttentionArgs& args, uint32_t column) {
    return later().to + uint64_t{column} * args.partial_slots * (args.shape.head_dim + kPartialState);
}
// Until the rows of the step are there; a warp.
KEEL_GPU void await_rows(const AttentionArgs& args) {
    await_count(args.counts + 1 + later().kv_head, 2 * args.tokens);
}
// Head `column` of the block, by a warp, where its scores come later. Coefficients of a removed mean are where its
// results come.
KEEL_GPU const float* query_of_column(const TokenBlock& b, uint32_t column) {
    float* x = b.scores(column);
    take_head(b.args, b.token, b.first_head + column, x);
    prepare_query(b.args, b.kv_head, x, partial_of(b.args, column));
    return x;
}
KEEL_GPU void store_state(const AttentionArgs& args, uint32_t column) {
    using b = TokenBlock;
    float m = -kInf32, l = 0.0f;
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
        const uint32_t pair = tile * kColumns + column;
        if (b::rescale()[pair] != kUnseen) l = fma_f32(l, b::rescale()[pair], b::sum()[pair]);
        m = largest(m, b::top()[pair]);
    }
    float* to = partial_of(args, column) + args.shape.head_dim;
    to[0] = m;
    to[1] = l;
}

// ---- weights ----
// A lane has a column of the warp's tile, and of it positions 16 m + 2 (lane % 8) + e: two of NUMERICS' lanes.
struct TokenWeights {
    float p[8];  // [2 m + e]
};
KEEL_GPU uint32_t weight_position(uint32_t lane, uint32_t i) {
    return i / 2 * 16 + lane % 8 * 2 + i % 2;
}
// Which of a lane's positions are seen.
KEEL_GPU uint32_t seen_weights(uint32_t lane, uint32_t first, Range seen) {
    uint32_t mask = 0;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i)
        mask |= (first + weight_position(lane, i) - seen.begin < seen.end - seen.begin ? 1u : 0u) << i;
    return mask;
}
// What few models have: the share of a removed mean, a soft cap.
KEEL_GPU void change_scores(const TokenBlock& b, uint32_t tile, uint32_t lane) {
    const AttentionArgs& args = b.args;
    const uint32_t column = lane / 8;
    const float* coefficients = args.means.pairs && column < b.heads ? partial_of(args, column) : nullptr;
    KEEL_NO_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t j = weight_position(lane, i);
        float* s = b.scores(column) + tile * kTile + j;
        if (coefficients) *s = add_f32(*s, mean_score(args.means, coefficients, b.first / kTile + tile, j));
        if (args.softcap != 0.0f) *s = softcap_f32(mul_f32(*s, args.scale), args.softcap);
    }
}
// Scores of the warp's tile into exponentials, which take their place. The whole block is here.
KEEL_GPU TokenWeights soften_tile(const TokenBlock& b, uint32_t tile, Range seen) {
    const AttentionArgs& args = b.args;
    const uint32_t lane = thread_x_again() % 32, column = lane / 8;
    if (!seen.empty() && (args.means.pairs || args.softcap != 0.0f)) [[unlikely]]
        change_scores(b, tile, lane);
    const float scale = args.softcap != 0.0f ? 1.0f : args.scale;
    float* x = b.scores(column) + tile * kTile;
    const uint32_t mask = seen_weights(lane, b.first + tile * kTile, seen);
    TokenWeights w;
    float most = -kInf32;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        w.p[i] = mul_f32(x[weight_position(lane, i)], scale);
        most = mask >> i & 1 ? largest(most, w.p[i]) : most;
    }
    KEEL_UNROLL
    for (uint32_t step = 1; step < 8; step *= 2) most = largest(most, shuffle(most, lane ^ step));
    const uint32_t pair = tile * kColumns + column;
    if (lane % 8 == 0) b.top()[pair] = most;
    sync_block();
    float before = -kInf32;
    KEEL_NO_UNROLL
    for (uint32_t i = 0; i < tile; ++i) before = largest(before, b.top()[i * kColumns + column]);
    const float now = largest(before, most);
    float lanes[2] = {};
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        // What is not seen may be anything.
        const float p = exp_below_or_nan_f32(add_f32(w.p[i], -now));
        w.p[i] = f32_from_bits(f32_bits(p) & (mask >> i & 1 ? ~0u : 0));
        lanes[i % 2] = add_f32(lanes[i % 2], w.p[i]);
        x[weight_position(lane, i)] = w.p[i];
    }
    KEEL_UNROLL
    for (uint32_t step = 4; step; step /= 2) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 2; ++e) lanes[e] = add_f32(lanes[e], shuffle(lanes[e], lane ^ step));
    }
    if (lane % 8 == 0) {
        b.rescale()[pair] = seen.empty() ? kUnseen : before == -kInf32 ? 0.0f : exp_f32(add_f32(before, -now));
        b.sum()[pair] = add_f32(lanes[0], lanes[1]);
    }
    return w;
}
// What soften_tile left.
KEEL_GPU TokenWeights weights_of(const TokenBlock& b, uint32_t tile) {
    const uint32_t lane = thread_x_again() % 32;
    TokenWeights w;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) w.p[i] = b.scores(lane / 8)[tile * kTile + weight_position(lane, i)];
    return w;
}

// ---- rows that are floats ----
// A warp has sixteen rows of K at once, four of them each thread, of which it has two of the contract's lanes for all
// columns. Of V a thread has two elements in two columns.
// Rows of f16, in pages without gaps; recent ones are a page of any size. Listed places: page and row.
constexpr uint32_t kRecentPlaceBits = 31;
struct FloatRows {
    const uint8_t* base;  // row 0 of page 0
    uint64_t page_stride;
    uint32_t row_bytes, apart_bytes, place_bits;

    KEEL_GPU FloatRows(const TokenBlock& b, const KvRows& rows)
        : base(b.pages + b.kv_head * rows.head_bytes + rows.codes),
          page_stride(b.page_stride),
          row_bytes(2 * b.args.shape.head_dim),
          apart_bytes(rows.code_bytes),
          place_bits(b.view == kRecent ? kRecentPlaceBits : 6) {
        static_assert(kTile == 1 << 6);
    }
    KEEL_GPU const uint8_t* row(uint32_t page, uint32_t j) const { return base + page * page_stride + j * row_bytes; }
    KEEL_GPU const uint8_t* row_apart(uint32_t j) const {  // of the split
        const uint32_t place = TokenBlock::places()[j];
        return base + (place >> place_bits) * page_stride + uint64_t{place & ((1u << place_bits) - 1)} * apart_bytes;
    }
};
KEEL_GPU void attend_floats(const TokenBlock& b, uint32_t own_page) {
    constexpr uint32_t kRows = 4, kChunks = 8;  // of K: rows of a thread, sixteens of elements on their way
    const uint32_t thread = thread_x(), lane = thread % 32, warp = thread / 32, n = b.args.shape.head_dim;
    const FloatRows k(b, b.k()), v(b, b.v());
    const uint32_t begin = b.seen.begin - b.first, end = b.seen.end - b.first;  // in the split
    float* queries = b.at<float>(kAt.queries);  // [element / 16][element % 2][element / 2 % 8][column]
    float* scores = b.scores(0);

    // Few blocks wait for memory rather than for each other: the second cache gets all that they will read.
    const uint32_t own_tile = lane % kTiles;
    if (grid_x() * (b.args.block_end - b.args.block_begin) <= kFewTokenBlocks && own_page != kNone &&
        !b.apart(own_tile)) {
        const uint32_t rows = end - own_tile * kTile, bytes = (rows < kTile ? rows : kTile) * k.row_bytes;
        KEEL_NO_UNROLL
        for (uint32_t i = thread / kTiles * 128; i < bytes; i += kTokenThreads / kTiles * 128) {
            prefetch(k.row(own_page, 0) + i);
            prefetch(v.row(own_page, 0) + i);
        }
    }

    // V, stages of rows that lie in one tile, a piece of sixteen bytes a thread.
    const uint32_t stage_shift = n <= 64 ? 5 : n <= 128 ? 4 : 3, stage_rows = 1u << stage_shift;
    const uint32_t stage_begin = begin >> stage_shift, stage_end = (end + stage_rows - 1) >> stage_shift;
    const bool copies = thread < stage_rows * (n / 8);
    const auto copy_stage = [&](uint32_t s, uint32_t stages) {
        const uint32_t j = s << stage_shift, page = shuffle(own_page, j / kTile % kTiles);
        // Sinks have no rows behind those that are seen.
        if (copies && s < stages && page != kNone && thread * 16 < (end - j) * v.row_bytes) {
            const uint8_t* from = v.row(page, j % kTile) + thread * 16;
            if (b.apart(j / kTile)) [[unlikely]]
                from = v.row_apart(j + thread / (n / 8)) + thread % (n / 8) * 16;
            copy16(b.at<uint8_t>(kAt.rows) + s % kRowStages * kRowStageBytes + thread * 16, from);
        }
        copy_commit();
    };
    // At first those without rows of the step.
    const uint32_t stage_older = later().older >> stage_shift;
    KEEL_NO_UNROLL
    for (uint32_t i = 0; i < kRowStages - 1; ++i)
        copy_stage(stage_begin + i, stage_end < stage_older ? stage_end : stage_older);

    // K.
    const uint32_t t = lane % 8, r0 = lane / 8, parts = divide_up(n, 16 * kChunks);
    const uint32_t sixteens = divide_up(end, 16);
    const float* query = queries + thread_x_again() % 8 * kColumns;
    const uint8_t* from[kRows];
    const auto look_at = [&](uint32_t p) {
        const uint32_t page = shuffle(own_page, p / 4);
        const uint32_t last = end - 1 - p / 4 * kTile;
        KEEL_UNROLL
        for (uint32_t r = 0; r < kRows; ++r) {
            const uint32_t j = p % 4 * 16 + 4 * r + r0;
            from[r] = k.row(page, j < last ? j : last) + 4 * t;
        }
        if (b.apart(p / 4)) [[unlikely]] {
            KEEL_UNROLL
            for (uint32_t r = 0; r < kRows; ++r) from[r] = k.row_apart(16 * p + 4 * r + r0) + 4 * t;
        }
    };
    uint32_t word[kRows][kChunks];
    const auto begin_with = [&](uint32_t p) {
        look_at(p);
        KEEL_UNROLL
        for (uint32_t i = 0; i < kChunks; ++i) {
            if (16 * i >= n) continue;
            KEEL_UNROLL
            for (uint32_t r = 0; r < kRows; ++r) word[r][i] = load<uint32_t>(from[r] + 32 * i);
        }
    };
    // Whether sixteen rows are there from the beginning, and may be brought ahead.
    const auto ahead = [&](uint32_t p) { return p < sixteens && 16 * p + 16 <= later().older; };
    // The first one of the warp's from p on that has a page.
    const auto there = [&](uint32_t p) {
        while (p < sixteens && shuffle(own_page, p / 4) == kNone) p += kTiles;
        return p;
    };
    uint32_t p = there(begin / 16 + warp);
    if (ahead(p)) begin_with(p);
    if (warp < kColumns) {
        const float* q = warp < b.heads ? query_of_column(b, warp) : nullptr;
        for (uint32_t e = lane; e < n; e += 32)
            queries[((e / 16 * 2 + e % 2) * 8 + e / 2 % 8) * kColumns + warp] = q ? q[e] : 0.0f;
    }
    sync_block();
    KEEL_NO_UNROLL
    for (uint32_t next; p < sixteens; p = next) {
        next = there(p + kTiles);
        if (!ahead(p)) [[unlikely]] {
            await_rows(b.args);
            begin_with(p);
        }
        float sums[kRows][kColumns][2] = {};
        KEEL_NO_UNROLL
        for (uint32_t part = 0; part < parts; ++part) {
            // What comes next takes the place of what is used up: a row's next elements, or those of other rows.
            uint32_t coming = n - 16 * kChunks * (part + 1);
            if (part + 1 < parts) {
                KEEL_UNROLL
                for (uint32_t r = 0; r < kRows; ++r) from[r] += 32 * kChunks;
            } else {
                look_at(ahead(next) ? next : p);
                coming = n;
            }
            const float* part_query = query + part * (kChunks * 16 * kColumns);
            KEEL_UNROLL
            for (uint32_t i = 0; i < kChunks; ++i) {
                if (16 * (part * kChunks + i) >= n) continue;
                float x[kRows][2];
                KEEL_UNROLL
                for (uint32_t r = 0; r < kRows; ++r) {
                    x[r][0] = widen_f16(word[r][i] & 0xffff);
                    x[r][1] = widen_f16(word[r][i] >> 16);
                    if (16 * i < coming) word[r][i] = load<uint32_t>(from[r] + 32 * i);
                }
                KEEL_UNROLL
                for (uint32_t e = 0; e < 2; ++e) {
                    const Words4 q = *reinterpret_cast<const Words4*>(part_query + (i * 2 + e) * 8 * kColumns);
                    const float y[kColumns] = {f32_from_bits(q.x), f32_from_bits(q.y), f32_from_bits(q.z),
                                               f32_from_bits(q.w)};
                    KEEL_UNROLL
                    for (uint32_t r = 0; r < kRows; ++r) {
                        KEEL_UNROLL
                        for (uint32_t c = 0; c < kColumns; ++c) sums[r][c][e] = fma_f32(x[r][e], y[c], sums[r][c][e]);
                    }
                }
            }
        }
        // tree16 over eight threads: each step leaves a thread half of the rows or columns.
        const bool bit2 = t & 4, bit1 = t & 2, bit0 = t & 1;
        KEEL_UNROLL
        for (uint32_t r = 0; r < 2; ++r) {
            KEEL_UNROLL
            for (uint32_t c = 0; c < kColumns; ++c) {
                KEEL_UNROLL
                for (uint32_t e = 0; e < 2; ++e) {
                    const float sent = bit2 ? sums[r][c][e] : sums[r + 2][c][e];
                    sums[r][c][e] = add_f32(bit2 ? sums[r + 2][c][e] : sums[r][c][e], shuffle(sent, lane ^ 4));
                }
            }
        }
        KEEL_UNROLL
        for (uint32_t c = 0; c < kColumns; ++c) {
            KEEL_UNROLL
            for (uint32_t e = 0; e < 2; ++e) {
                const float sent = bit1 ? sums[0][c][e] : sums[1][c][e];
                sums[0][c][e] = add_f32(bit1 ? sums[1][c][e] : sums[0][c][e], shuffle(sent, lane ^ 2));
            }
        }
        const uint32_t j = 16 * p + (bit2 ? 8 : 0) + (bit1 ? 4 : 0) + r0;
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) {
            float sum[2];
            KEEL_UNROLL
            for (uint32_t e = 0; e < 2; ++e) {
                const float sent = bit0 ? sums[0][c][e] : sums[0][c + 2][e];
                sum[e] = add_f32(bit0 ? sums[0][c + 2][e] : sums[0][c][e], shuffle(sent, lane ^ 1));
            }
            scores[((bit0 ? 2 : 0) + c) * kTokenScorePitch + j] = add_f32(sum[0], sum[1]);
        }
    }
    sync_block();
    // Who had the scores of the step's rows waited for them. Stages that were left out are groups of copies behind the
    // others, as many as were empty.
    KEEL_NO_UNROLL
    for (uint32_t s = stage_older < stage_begin ? stage_begin : stage_older; s < stage_begin + kRowStages - 1; ++s)
        copy_stage(s, stage_end);

    soften_tile(b, warp, b.tile_range(warp, shuffle(own_page, warp)));

    // The chains of V.
    const uint32_t pair = thread % (n / 2), column = thread / (n / 2) * 2;
    const float* weight = scores + column * kTokenScorePitch;
    float o[2][2] = {};  // [column][element]
    KEEL_NO_UNROLL
    for (uint32_t s = stage_begin; s < stage_end; ++s) {
        copy_wait<kRowStages - 2>();
        sync_block();
        copy_stage(s + kRowStages - 1, stage_end);
        const uint32_t first = s << stage_shift, tile = first / kTile;
        const float* by = b.rescale() + tile * kColumns;
        if (thread >= n || by[0] == kUnseen) continue;
        if (first % kTile == 0 || s == stage_begin) {
            KEEL_UNROLL
            for (uint32_t c = 0; c < 2; ++c) {
                KEEL_UNROLL
                for (uint32_t e = 0; e < 2; ++e) o[c][e] = mul_f32(o[c][e], by[column + c]);
            }
        }
        const uint8_t* rows = b.at<uint8_t>(kAt.rows) + s % kRowStages * kRowStageBytes + 4 * pair;
        const auto add = [&](uint32_t x, float p0, float p1) {
            const float y[2] = {widen_f16(x & 0xffff), widen_f16(x >> 16)};
            KEEL_UNROLL
            for (uint32_t e = 0; e < 2; ++e) {
                o[0][e] = fma_f32(p0, y[e], o[0][e]);
                o[1][e] = fma_f32(p1, y[e], o[1][e]);
            }
        };
        const uint32_t from_row = begin > first ? begin - first : 0,
                       to_row = end < first + stage_rows ? end - first : stage_rows;
        uint32_t j = from_row;
        if (j == 0 && to_row == stage_rows) {
            KEEL_NO_UNROLL
            for (; j < stage_rows; j += 8) {
                uint32_t x[8];
                KEEL_UNROLL
                for (uint32_t i = 0; i < 8; ++i) x[i] = *reinterpret_cast<const uint32_t*>(rows + (j + i) * 2 * n);
                KEEL_UNROLL
                for (uint32_t i = 0; i < 8; i += 4) {
                    const Words4 p0 = *reinterpret_cast<const Words4*>(weight + first + j + i);
                    const Words4 p1 = *reinterpret_cast<const Words4*>(weight + kTokenScorePitch + first + j + i);
                    add(x[i], f32_from_bits(p0.x), f32_from_bits(p1.x));
                    add(x[i + 1], f32_from_bits(p0.y), f32_from_bits(p1.y));
                    add(x[i + 2], f32_from_bits(p0.z), f32_from_bits(p1.z));
                    add(x[i + 3], f32_from_bits(p0.w), f32_from_bits(p1.w));
                }
            }
        }
        KEEL_NO_UNROLL
        for (; j < to_row; ++j)
            add(*reinterpret_cast<const uint32_t*>(rows + j * 2 * n), weight[first + j],
                weight[kTokenScorePitch + first + j]);
    }
    if (thread < n) {
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) {
            if (column + c >= later().heads) continue;
            float* to = partial_of(b.args, column + c) + 2 * pair;
            to[0] = o[c][0];
            to[1] = o[c][1];
        }
    }
    if (thread_x_again() < later().heads) store_state(b.args, thread_x_again());
}

// ---- rows of integers ----
// Queries as integers, with zeros behind; a warp a column. Element i of a block of eight stands where K's has it: of
// e8-4 even and odd ones are apart.
KEEL_GPU void quantize_columns(const TokenBlock& b, KvFormat coded) {
    const uint32_t lane = thread_x() % 32, column = thread_x() / 32, n = b.args.shape.head_dim;
    if (column >= kColumns) return;
    const uint32_t wide = (n + kUnit - 1) / kUnit * kUnit, scales = scales_of(coded, n),
                   block = family_of(coded) == KvFamily::kBlock32 ? kKvBlock : n;
    const bool even_odd = coded == kKvE8_4;
    int8_t* q8 = reinterpret_cast<int8_t*>(b.query(column));
    const auto put = [&](uint32_t i, int8_t v) { q8[even_odd ? i / 8 * 8 + i % 2 * 4 + i % 8 / 2 : i] = v; };
    for (uint32_t i = lane + (column < b.heads ? n : 0); i < wide; i += 32) put(i, 0);
    if (column >= b.heads) return;
    quantize_query(query_of_column(b, column), block, scales, b.query_scales(column), put);
}

// BYTES bytes of a row, which may begin up to MOST_SKIPPED bytes into a word: whole words are loaded.
template <uint32_t BYTES, uint32_t MOST_SKIPPED>
struct Packed {
    static constexpr uint32_t kWords = (BYTES + MOST_SKIPPED + 3) / 4;
    uint32_t w[kWords];
    // The first whole word is at p.
    KEEL_GPU void load_from(const uint8_t* p) {
        if constexpr (BYTES == 8 && MOST_SKIPPED == 0) {
            const Words2 both = load<Words2>(p);
            w[0] = both.x;
            w[1] = both.y;
        } else {
            KEEL_UNROLL
            for (uint32_t i = 0; i < kWords; ++i) w[i] = load<uint32_t>(p + 4 * i);
        }
    }
    // 32 bits from bit BIT on, of what began `skipped` bytes into the first word.
    template <uint32_t BIT>
    KEEL_GPU uint32_t word(uint32_t skipped) const {
        constexpr uint32_t kWord = BIT / 32, kShift = BIT % 32;
        const auto at = [&](uint32_t i) { return i < kWords ? w[i] : 0u; };
        if constexpr (MOST_SKIPPED == 0) {
            if constexpr (kShift == 0) return at(kWord);
            return static_cast<uint32_t>((at(kWord) | uint64_t{at(kWord + 1)} << 32) >> kShift);
        } else {
            const auto from = [&](uint32_t i) {
                return static_cast<uint32_t>((at(i) | uint64_t{at(i + 1)} << 32) >> 8 * skipped);
            };
            if constexpr (kShift == 0) return from(kWord);
            return static_cast<uint32_t>((from(kWord) | uint64_t{from(kWord + 1)} << 32) >> kShift);
        }
    }
};
// Bytes that a block of eight of a format takes, with the bits of the block behind it that a trellis reads.
template <KvFormat F>
constexpr uint32_t bytes_behind() {
    return kKvFormats[F].family == KvFamily::kTrellis ? 1 : 0;
}

// Two blocks of eight of a K row, as a lane has them of 64 elements: of formats with one scale those that follow one
// another, of others one of each 32.
template <KvFormat F>
struct KeyWords {
    static constexpr KvFamily kFamily = kKvFormats[F].family;
    static constexpr uint32_t kBits = kKvFormats[F].bits;
    static constexpr bool kBlocks = kFamily == KvFamily::kBlock32;
    Packed<kBlocks ? kBits : 2 * kBits + bytes_behind<F>(), kBlocks || kBits % 2 == 0 ? 0 : 2> own;
    Packed<kBlocks ? kBits : 1, 0> other;  // of the second 32 elements

    // Bytes in front of lane t's first block in a word: the same in every row.
    static KEEL_GPU uint32_t skipped(uint32_t t) { return kBlocks ? 0 : 2 * t * kBits % 4; }
    KEEL_GPU void load_from(const uint8_t* row, uint32_t u, uint32_t t, uint32_t n) {
        if constexpr (kBlocks) {
            const uint32_t second = kUnit * u + kKvBlock < n ? 2 * u + 1 : 2 * u;
            own.load_from(row + (2 * u * 4 + t) * kBits);
            other.load_from(row + (second * 4 + t) * kBits);
        } else {  // another row's block where the row has none
            const uint32_t block = 8 * u + 2 * t;
            own.load_from(row + ((8 * block < n ? block : 0) * kBits & ~3u));
        }
    }
    // Block s of the two: bytes 0 to 3 and 4 to 7. Of lattices 2 u + c, see unpack_words. `start`: bits behind a
    // trellis row's last block; kNone: it is another one.
    template <uint32_t S>
    KEEL_GPU Words2 unpack(uint32_t skipped, uint32_t start) const {
        if constexpr (kBlocks) {
            const auto& from = S ? other : own;
            if constexpr (kBits == 8) return {from.w[0], from.w[1]};
            return {((kSigns - 8 * kBytes) + (from.w[0] & 15 * kBytes)) ^ kSigns,
                    ((kSigns - 8 * kBytes) + (from.w[0] >> 4 & 15 * kBytes)) ^ kSigns};
        } else {
            const uint32_t low = own.template word<8 * kBits * S>(skipped);
            if constexpr (kFamily == KvFamily::kLattice) {
                uint32_t x, y;
                if constexpr (kBits == 4) {
                    x = low & 15 * kBytes;
                    y = low >> 4 & 15 * kBytes;
                } else {
                    uint64_t codes = low;
                    if constexpr (kBits > 4) codes |= uint64_t{own.template word<8 * kBits * S + 32>(skipped)} << 32;
                    const Words2 w = spread8<kBits>(codes);
                    x = w.x;
                    y = w.y;
                }
                const uint32_t coset = pick_bytes(y, 0, 0x3333) & kBytes;
                y ^= ((x ^ y) & kBytes) * kBytes & 0x01000000u;
                return {2 * x + coset, 2 * y + coset};
            } else {
                uint64_t window = low;
                if constexpr (kBits > 3) window |= uint64_t{own.template word<8 * kBits * S + 32>(skipped)} << 32;
                if constexpr (S == 1) {
                    if (start != kNone)
                        window = (window & ((uint64_t{1} << 8 * kBits) - 1)) | uint64_t{start} << 8 * kBits;
                }
                return trellis_words<kBits>(window, TokenBlock::table());
            }
        }
    }
};

// Scores of the warp's tile. Lane (g, t) has rows g and g + 8 of sixteen; columns stand there twice, and of what is
// left to a lane, two columns, those with t < 2 take rows g, the others rows g + 8.
template <KvFormat F>
KEEL_GPU void score_keys(const TokenBlock& b, uint32_t tile, const TokenRows& rows) {
    using Key = KeyWords<F>;
    constexpr uint32_t kBits = Key::kBits, kMs = kTile / 16;
    constexpr bool kBlocks = Key::kBlocks, kLattice = Key::kFamily == KvFamily::kLattice;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim;
    const uint32_t units = divide_up(n, kUnit);
    const auto own_row = [&](uint32_t m) { return 16 * m + t / 2 * 8 + g; };
    Key key[2 * kMs];
    KEEL_UNROLL
    for (uint32_t i = 0; i < 2 * kMs; ++i) key[i].load_from(rows.code_behind(8 * i + g), 0, t, n);
    uint32_t field[kMs];
    const auto load_fields = [&](uint32_t s) {
        KEEL_UNROLL
        for (uint32_t m = 0; m < kMs; ++m) field[m] = rows.field_behind(own_row(m), s);
    };
    if constexpr (kLattice) load_fields(0);
    if constexpr (Key::kFamily == KvFamily::kTrellis) {
        for (uint32_t j = lane; j < kTile; j += 32)
            b.marks(tile)[j] = static_cast<uint8_t>(rows.field_behind(j, 0) & ((1u << (8 - kBits)) - 1));
        sync_warp();
    }
    const uint32_t skipped = Key::skipped(t);
    int32_t products[kMs][4] = {}, query_sum[4] = {};
    float dot[kMs][2] = {};
    const uint8_t* query = b.query(g % kColumns);
    const uint32_t column = t % 2 * 2;
    // Adds what products of one scale are.
    const auto scale_products = [&](uint32_t s) {
        KEEL_UNROLL
        for (uint32_t m = 0; m < kMs; ++m) {
            // Of four bits the sign of the scale is that of its integers.
            const float d = F == kKvQ4_0 ? widen_f16(field[m]) : scale_of(F, field[m]);
            KEEL_UNROLL
            for (uint32_t c = 0; c < 2; ++c) {
                int32_t sum = t < 2 ? products[m][c] : products[m][2 + c];
                if constexpr (kLattice) sum = 2 * sum - ((2 << kBits) - 1) * query_sum[c];
                const float scale = mul_f32(b.query_scales(column + c)[s], d);
                dot[m][c] = fma_f32(scale, static_cast<float>(sum), dot[m][c]);
            }
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) products[m][c] = 0;
        }
    };
    const auto step = [&]<uint32_t S>(uint32_t u) {
        Words2 q;
        if constexpr (F == kKvQ4_0) {
            const uint8_t* at = query + kUnit * u + kKvBlock * S + 4 * t;
            q = {*reinterpret_cast<const uint32_t*>(at), *reinterpret_cast<const uint32_t*>(at + 16)};
        } else {
            q = *reinterpret_cast<const Words2*>(query + kUnit * u + (kBlocks ? kKvBlock * S + 8 * t : 16 * t + 8 * S));
        }
        if constexpr (kLattice) {
            const uint32_t ones[4] = {kBytes, kBytes, kBytes, kBytes};
            mma_s8(query_sum, ones, q.x, q.y);
        }
        KEEL_UNROLL
        for (uint32_t m = 0; m < kMs; ++m) {
            Words2 x[2];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 2; ++i) {
                const bool last = Key::kFamily == KvFamily::kTrellis && S == 1 && kUnit * u + 16 * t + 16 == n;
                x[i] = key[2 * m + i].template unpack<S>(skipped, last ? b.marks(tile)[16 * m + 8 * i + g] : kNone);
                if constexpr (F == kKvQ8_0) {
                    const uint32_t s = 2 * u + S;
                    if (field[0] >> 16 && rows.field_behind(16 * m + 8 * i + g, s) & 0x8000)
                        x[i] = {negate_bytes(x[i].x), negate_bytes(x[i].y)};
                }
            }
            const uint32_t a[4] = {x[0].x, x[1].x, x[0].y, x[1].y};
            mma_s8(products[m], a, q.x, q.y);
        }
    };
    // Of a scale for 32 elements: its fields, and above those of eight bits whether one of the tile is negative.
    const auto look_at_scales = [&](uint32_t s) {
        load_fields(s);
        if constexpr (F == kKvQ8_0) {
            if (ballot((field[0] | field[1] | field[2] | field[3]) & 0x8000)) field[0] |= 1u << 16;
        }
    };
    KEEL_NO_UNROLL
    for (uint32_t u = 0; u < units; ++u) {
        if constexpr (kBlocks) look_at_scales(2 * u);
        step.template operator()<0>(u);
        if constexpr (kBlocks) {
            scale_products(2 * u);
            if (kUnit * u + kKvBlock >= n) break;
            look_at_scales(2 * u + 1);
        }
        step.template operator()<1>(u);
        if constexpr (kBlocks) scale_products(2 * u + 1);
        if (u + 1 == units) continue;
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2 * kMs; ++i) key[i].load_from(rows.code_behind(8 * i + g), u + 1, t, n);
    }
    if constexpr (Key::kFamily == KvFamily::kTrellis) load_fields(0);
    if constexpr (!kBlocks) scale_products(0);
    KEEL_UNROLL
    for (uint32_t m = 0; m < kMs; ++m) {
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) b.scores(column + c)[tile * kTile + own_row(m)] = dot[m][c];
    }
}

// A lane's weights of its column times their rows' scales, as integers of the largest; the integers are left in two
// bytes each, lower and upper, in the order in which they are operands: row 4 i + t of sixteen is number 4 t + i.
// Fields of rows that are not seen are 0.
KEEL_GPU void weigh_tile(const TokenBlock& b, uint32_t tile, KvFormat format, const TokenWeights& w,
                         const uint32_t* field, uint32_t s) {
    const uint32_t lane = thread_x_again() % 32, column = lane / 8, x = lane % 8;
    const KvFamily family = family_of(format);
    const uint32_t bits = bits_of(format), shift = family == KvFamily::kTrellis ? 8 - bits : 0,
                   up = family == KvFamily::kTrellis ? 7 - bits : 0;
    // Of what is not negative, bits have the order of numbers, and what is not finite is above all.
    float weight[8];
    uint32_t most = 0;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        weight[i] = mul_f32(w.p[i], widen_f16(field[i] >> shift << up & 0x7fff));
        most = f32_bits(weight[i]) > most ? f32_bits(weight[i]) : most;
    }
    KEEL_UNROLL
    for (uint32_t step = 1; step < 8; step *= 2) {
        const uint32_t other = shuffle(most, lane ^ step);
        most = other > most ? other : most;
    }
    const bool finite = most < f32_bits(kInf32);
    const float largest_weight = f32_from_bits(most), inverse = finite && most ? kWeightSteps / largest_weight : 0.0f;
    if (x == 0)
        b.unit()[(tile * kColumns + column) * (kTokenSums / kKvBlock) + s] =
            finite ? mul_f32(largest_weight, 1.0f / kWeightSteps) : __builtin_nanf("");
    // Number of position 16 m + 2 x + e.
    uint16_t* to = reinterpret_cast<uint16_t*>(b.weights(tile, column)) + x % 2 * 8 + x / 2;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) {
        float v = mul_f32(weight[i], inverse);
        v = v > 0.0f ? v : 0.0f;
        v = v > kWeightSteps ? kWeightSteps : v;
        const uint32_t integer = f32_bits(add_f32(v, kRound32));  // above the lowest 15 bits others, that do not matter
        to[i / 2 * 16 + i % 2 * 4] = static_cast<uint16_t>(pick_bytes(integer, 127 - (integer & 0x7fff), 0x0050));
    }
    if (family == KvFamily::kLattice || column) return;
    uint8_t* marks = b.marks(tile) + x % 2 * 8 + x / 2;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i)
        marks[i / 2 * 16 + i % 2 * 4] =
            static_cast<uint8_t>(family == KvFamily::kTrellis ? field[i] & ((1u << shift) - 1) : 0 - (field[i] >> 15));
}
// The weights as operands, 32 positions a row of `a`: rows 0 to 3 have the lower bytes of columns, 8 to 11 the upper.
KEEL_GPU void read_weights(const TokenBlock& b, uint32_t tile, uint32_t a[2][4]) {
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        const Words2 w = *reinterpret_cast<const Words2*>(b.weights(tile, g % kColumns) + 32 * i + 8 * t);
        a[i / 2][i % 2 * 2] = pick_bytes(w.x, w.y, 0x6420);
        a[i / 2][i % 2 * 2 + 1] = pick_bytes(w.x, w.y, 0x7531);
    }
}
KEEL_GPU int32_t joined(int32_t lower, int32_t upper) {
    return lower - 256 * upper;
}

// Words of four rows -> of each byte a word.
KEEL_GPU void turn(const uint32_t r[4], uint32_t to[4]) {
    const uint32_t low = pick_bytes(r[0], r[1], 0x5140), low2 = pick_bytes(r[2], r[3], 0x5140),
                   high = pick_bytes(r[0], r[1], 0x7362), high2 = pick_bytes(r[2], r[3], 0x7362);
    to[0] = pick_bytes(low, low2, 0x5410);
    to[1] = pick_bytes(low, low2, 0x7632);
    to[2] = pick_bytes(high, high2, 0x5410);
    to[3] = pick_bytes(high, high2, 0x7632);
}

// A block of eight of a V row of a format with one scale.
template <KvFormat F>
struct ValueWords {
    static constexpr KvFamily kFamily = kKvFormats[F].family;
    static constexpr uint32_t kBits = kKvFormats[F].bits;
    // Blocks of two bytes may begin two bytes into a word, of odd numbers anywhere; of four bits at words.
    Packed<kBits + bytes_behind<F>(), kBits == 4 ? 0 : kBits % 2 ? 3 : 2> own;

    static constexpr uint32_t kWords = decltype(own)::kWords;
    KEEL_GPU uint64_t codes(uint32_t skipped) const {
        const uint32_t low = own.template word<0>(skipped);
        if constexpr (8 * kBits + (kFamily == KvFamily::kTrellis ? 8 - kBits : 0) <= 32) return low;
        return low | uint64_t{own.template word<32>(skipped)} << 32;
    }
};
// Four rows -> of each element a word; of lattices u, and their cosets.
template <KvFormat F>
KEEL_GPU void turn_rows(const ValueWords<F> row[4], uint32_t skipped, uint32_t starts, bool last_block,
                        uint32_t element[8], uint32_t* cosets) {
    constexpr uint32_t kBits = kKvFormats[F].bits;
    if constexpr (kKvFormats[F].family == KvFamily::kLattice) {
        if constexpr (kBits == 4) {
            const uint32_t r[4] = {row[0].own.w[0], row[1].own.w[0], row[2].own.w[0], row[3].own.w[0]};
            uint32_t both[4];
            turn(r, both);
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                element[2 * i] = both[i] & 15 * kBytes;
                element[2 * i + 1] = both[i] >> 4 & 15 * kBytes;
            }
        } else {
            uint32_t low[4], high[4];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                const Words2 w = spread8<kBits>(row[i].codes(skipped));
                low[i] = w.x;
                high[i] = w.y;
            }
            turn(low, element);
            turn(high, element + 4);
        }
        *cosets = element[7] & kBytes;
        uint32_t parity = element[0];
        KEEL_UNROLL
        for (uint32_t e = 1; e < 8; ++e) parity ^= element[e];
        element[7] ^= parity & kBytes;
    } else {
        uint64_t window[4];
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            window[i] = row[i].codes(skipped);
            if (last_block)
                window[i] = (window[i] & ((uint64_t{1} << 8 * kBits) - 1)) | uint64_t{starts >> 8 * i & 255}
                                                                                 << 8 * kBits;
        }
        if constexpr (kBits <= kMostPairBits) {
            const uint16_t* pairs = reinterpret_cast<const uint16_t*>(TokenBlock::table());
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; e += 2) {
                uint32_t r[4];
                KEEL_UNROLL
                for (uint32_t i = 0; i < 4; ++i)
                    r[i] = pairs[static_cast<uint32_t>(window[i] >> e * kBits) & ((256u << kBits) - 1)];
                const uint32_t low = pick_bytes(r[0], r[1], 0x5140), high = pick_bytes(r[2], r[3], 0x5140);
                element[e] = pick_bytes(low, high, 0x5410);
                element[e + 1] = pick_bytes(low, high, 0x7632);
            }
        } else {
            uint32_t low[4], high[4];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                const Words2 w = trellis_words<kBits>(window[i], TokenBlock::table());
                low[i] = w.x;
                high[i] = w.y;
            }
            turn(low, element);
            turn(high, element + 4);
        }
    }
}

// How sums lie that are there: four elements at 4 * (4 * number + t), which four lanes write side by side.
enum SumOrder : uint32_t { kOfUnits, kOfBytes, kOfNibbles };
KEEL_GPU SumOrder sum_order(KvFormat coded) {
    return coded == kKvQ8_0 ? kOfBytes : coded == kKvQ4_0 ? kOfNibbles : kOfUnits;
}
KEEL_GPU void store_sums(const TokenBlock& b, uint32_t tile, uint32_t number, const int32_t* sum) {
    const uint32_t thread = thread_x_again(), g = thread % 32 / 4, t = thread % 4;
    if (g >= kColumns) return;
    *reinterpret_cast<Words4*>(b.sums(tile, g) + 4 * (4 * number + t)) = {
        static_cast<uint32_t>(sum[0]), static_cast<uint32_t>(sum[1]), static_cast<uint32_t>(sum[2]),
        static_cast<uint32_t>(sum[3])};
}
// The first element of those four, of kTokenSums; and where an element is.
KEEL_GPU uint32_t element_of_sums(SumOrder order, uint32_t number, uint32_t t) {
    return order == kOfNibbles ? 16 * number + 4 * t
           : order == kOfBytes ? number / 2 * 32 + 8 * t + number % 2 * 4
                               : number / 4 * 64 + 16 * t + number % 4 * 4;
}
KEEL_GPU uint32_t place_of_sum(SumOrder order, uint32_t element) {
    const uint32_t four = element / 4;
    const uint32_t at = order == kOfNibbles ? four
                        : order == kOfBytes ? four / 8 * 8 + four % 2 * 4 + four / 2 % 4
                                            : four / 16 * 16 + four % 4 * 4 + four / 4 % 4;
    return 4 * at + element % 4;
}
// Outputs of the elements from `first` on whose sums are there, through all tiles. All threads.
KEEL_GPU void chain_tiles(const TokenBlock& b, SumOrder order, uint32_t first) {
    const uint32_t thread = thread_x_again();
    const uint32_t column = thread / 64, at = thread % 64 * 2;
    const uint32_t element = element_of_sums(order, at / 16, at / 4 % 4) + at % 4;
    if (column >= later().heads || first + element >= b.args.shape.head_dim) return;
    const uint32_t scale = order == kOfUnits ? 0 : element / kKvBlock;
    float o[2] = {};
    KEEL_UNROLL
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
        const uint32_t pair = tile * kColumns + column;
        const float by = b.rescale()[pair];
        if (by == kUnseen) continue;
        const float unit = b.unit()[pair * (kTokenSums / kKvBlock) + scale];
        const Words2 sum = *reinterpret_cast<const Words2*>(b.sums(tile, column) + at);
        o[0] = fma_f32(unit, static_cast<float>(static_cast<int32_t>(sum.x)), mul_f32(o[0], by));
        o[1] = fma_f32(unit, static_cast<float>(static_cast<int32_t>(sum.y)), mul_f32(o[1], by));
    }
    float* to = partial_of(b.args, column) + first + element;
    to[0] = o[0];
    to[1] = o[1];
}

// V of the warp's tile, elements from `from` on, at most kTokenSums. Of 64 elements lane (g, t) has block g of rows
// 4 i + t: as operands, element e of the eight blocks is a product of its own.
template <KvFormat F>
KEEL_GPU void sum_values(const TokenBlock& b, uint32_t tile, const TokenRows& rows, uint32_t from) {
    constexpr uint32_t kBits = kKvFormats[F].bits;
    constexpr bool kLattice = kKvFormats[F].family == KvFamily::kLattice;
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim, blocks = n / 8;
    const uint32_t end = divide_up(n < from + kTokenSums ? n : from + kTokenSums, kUnit);
    const uint32_t skipped = g * kBits % 4;  // in front of a block in a word
    // Registers for rows on their way: those of both halves where they are few.
    constexpr uint32_t kBuffers = ValueWords<F>::kWords == 1 ? 2 : 1;
    ValueWords<F> value[kBuffers][8];
    const auto load_half = [&](uint32_t u, uint32_t half) {
        const uint32_t block = 8 * u + g < blocks ? 8 * u + g : 0;
        const uint8_t* row = rows.codes + ((32 * half + t) * rows.code_bytes + (block * kBits & ~3u));
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i, row += 4 * rows.code_bytes) value[half % kBuffers][i].own.load_from(row);
    };
    load_half(from / kUnit, 0);
    uint32_t a[2][4];
    read_weights(b, tile, a);
    KEEL_NO_UNROLL
    for (uint32_t u = from / kUnit; u < end; ++u) {
        int32_t sum[8][4] = {}, coset_sum[4] = {};
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
            const auto load_next = [&] {
                if (half == 0)
                    load_half(u, 1);
                else if (u + 1 < end)
                    load_half(u + 1, 0);
            };
            if constexpr (kBuffers == 2) load_next();
            const bool last = 8 * u + g == blocks - 1;
            if constexpr (kLattice) {
                uint32_t element[2][8], cosets[2];
                KEEL_UNROLL
                for (uint32_t i = 0; i < 2; ++i)
                    turn_rows<F>(value[half % kBuffers] + 4 * i, skipped, 0, last, element[i], cosets + i);
                if constexpr (kBuffers == 1) load_next();
                KEEL_UNROLL
                for (uint32_t e = 0; e < 8; ++e) mma_s8(sum[e], a[half], element[0][e], element[1][e]);
                constexpr uint32_t kFrom = static_cast<uint8_t>(1 - (2 << kBits)) * kBytes;
                mma_s8(coset_sum, a[half], 2 * cosets[0] + kFrom, 2 * cosets[1] + kFrom);
            } else {  // sixteen positions at once, for registers
                KEEL_UNROLL
                for (uint32_t i = 0; i < 2; ++i) {
                    const uint32_t starts =
                        *reinterpret_cast<const uint32_t*>(b.marks(tile) + 32 * half + 16 * i + 4 * t);
                    uint32_t element[8], cosets;
                    turn_rows<F>(value[half % kBuffers] + 4 * i, skipped, starts, last, element, &cosets);
                    if (i == 1 && kBuffers == 1) load_next();
                    KEEL_UNROLL
                    for (uint32_t e = 0; e < 8; ++e) mma_s8(sum[e], a[half][2 * i], a[half][2 * i + 1], element[e]);
                }
            }
        }
        KEEL_UNROLL
        for (uint32_t number = 0; number < 4; ++number) {
            int32_t four[4];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t c = number / 2, e = number % 2 * 4 + i;
                four[i] = joined(sum[e][c], sum[e][2 + c]);
                if constexpr (kLattice) four[i] = 4 * four[i] + joined(coset_sum[c], coset_sum[2 + c]);
            }
            store_sums(b, tile, u % 2 * 4 + number, four);
        }
    }
}

// Fields of the scales of a lane's weights; of what is not seen, 0.
KEEL_GPU void load_fields(const TokenBlock& b, const TokenRows& rows, uint32_t tile, uint32_t s, uint32_t field[8]) {
    const uint32_t lane = thread_x_again() % 32,
                   mask = seen_weights(lane, b.first + tile * kTile, cut(b.seen, b.first + tile * kTile, kTile));
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) field[i] = rows.field(weight_position(lane, i), s);
    KEEL_UNROLL
    for (uint32_t i = 0; i < 8; ++i) field[i] = mask >> i & 1 ? field[i] : 0;
}

// The same of V with a scale for 32 elements, of which lane (g, t) has four, and weights of their own.
template <KvFormat F>
KEEL_GPU void sum_value_blocks(const TokenBlock& b, uint32_t tile, const TokenRows& rows, uint32_t from) {
    constexpr bool kNibbles = F == kKvQ4_0;
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim;
    const uint32_t end = (n < from + kTokenSums ? n : from + kTokenSums) / kKvBlock;
    uint32_t value[2][8], field[8];
    const auto load_block = [&](uint32_t s) {
        const uint8_t* row = rows.codes + (t * rows.code_bytes + (kNibbles ? 16 * s + 2 * g : 32 * s + 4 * g));
        KEEL_UNROLL
        for (uint32_t i = 0; i < 16; ++i, row += 4 * rows.code_bytes)
            value[i / 8][i % 8] = kNibbles ? load<uint16_t>(row) : load<uint32_t>(row);
        load_fields(b, rows, tile, s, field);
    };
    load_block(from / kKvBlock);
    KEEL_NO_UNROLL
    for (uint32_t s = from / kKvBlock; s < end; ++s) {
        weigh_tile(b, tile, F, weights_of(b, tile), field, s % 4);
        sync_warp();
        uint32_t a[2][4], element[2][2][4];
        read_weights(b, tile, a);
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            uint32_t r[4];
            KEEL_UNROLL
            for (uint32_t j = 0; j < 4; ++j) {
                r[j] = value[i / 2][i % 2 * 4 + j];
                if constexpr (kNibbles) r[j] = (r[j] & 0x0f0fu) | (r[j] & 0xf0f0u) << 12;
            }
            uint32_t* to = element[i / 2][i % 2];
            turn(r, to);
            const uint32_t negative = *reinterpret_cast<const uint32_t*>(b.marks(tile) + 16 * i + 4 * t);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) {
                if constexpr (kNibbles)  // 8 - x is 15 - x less 7
                    to[e] = ((to[e] ^ (negative & 15 * kBytes)) + (kSigns - 8 * kBytes) + (negative & kBytes)) ^ kSigns;
                else if (negative)
                    to[e] = (to[e] & ~negative) | (negate_bytes(to[e]) & negative);
            }
        }
        sync_warp();
        if (s + 1 < end) load_block(s + 1);
        int32_t sum[4][4] = {};
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) mma_s8(sum[e], a[half], element[half][0][e], element[half][1][e]);
        }
        KEEL_UNROLL
        for (uint32_t number = 0; number < 2; ++number) {
            int32_t four[4];
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t c = kNibbles ? i / 2 : number, e = kNibbles ? number * 2 + i % 2 : i;
                four[i] = joined(sum[e][c], sum[e][2 + c]);
            }
            store_sums(b, tile, s % 4 * 2 + number, four);
        }
    }
}

// ---- a tile of a tail, whose rows are apart ----
// In plain code for every format: a lane has two rows of K.
KEEL_GPU void score_keys_apart(const TokenBlock& b, uint32_t tile, KvFormat format, const TokenRows& rows) {
    const uint32_t lane = thread_x() % 32, n = b.args.shape.head_dim, scales = scales_of(format, n);
    const bool even_odd = format == kKvE8_4;
    KEEL_NO_UNROLL
    for (uint32_t j = lane; j < kTile; j += 32) {
        const KvRow row = {rows.code(j), rows.scale(j)};
        float dot[kColumns] = {};
        KEEL_NO_UNROLL
        for (uint32_t s = 0; s < scales; ++s) {
            int32_t sum[kColumns] = {};
            KEEL_NO_UNROLL
            for (uint32_t block = s * (n / 8 / scales); block < (s + 1) * (n / 8 / scales); ++block) {
                Words2 k = {};
                for_read_format<true>(format,
                                      [&]<KvFormat F>() { k = unpack_words<F>(row, n, block, TokenBlock::table()); });
                if (even_odd) k = {pick_bytes(k.x, k.y, 0x6420), pick_bytes(k.x, k.y, 0x7531)};
                KEEL_UNROLL
                for (uint32_t c = 0; c < kColumns; ++c) {
                    const Words2 q = *reinterpret_cast<const Words2*>(b.query(c) + 8 * block);
                    sum[c] = dp4a(k.x, q.x, dp4a(k.y, q.y, sum[c]));
                }
            }
            const float d = scale_of(format, rows.field(j, s));
            KEEL_UNROLL
            for (uint32_t c = 0; c < kColumns; ++c)
                dot[c] = fma_f32(mul_f32(b.query_scales(c)[s], d), static_cast<float>(sum[c]), dot[c]);
        }
        KEEL_UNROLL
        for (uint32_t c = 0; c < kColumns; ++c) b.scores(c)[tile * kTile + j] = dot[c];
    }
}
// A lane has an element of 32 of V.
KEEL_GPU void sum_values_apart(const TokenBlock& b, uint32_t tile, KvFormat format, const TokenRows& rows,
                               uint32_t from) {
    const uint32_t lane = thread_x() % 32, n = b.args.shape.head_dim;
    const bool blocks = family_of(format) == KvFamily::kBlock32;
    KEEL_NO_UNROLL
    for (uint32_t at = 0; at < kTokenSums && from + at < n; at += kKvBlock) {
        if (blocks) {
            uint32_t field[8];
            load_fields(b, rows, tile, (from + at) / kKvBlock, field);
            weigh_tile(b, tile, format, weights_of(b, tile), field, at / kKvBlock);
            sync_warp();
        }
        const uint32_t element = from + at + lane, block = element < n ? element / 8 : 0;
        int32_t sum[kColumns] = {};
        KEEL_NO_UNROLL
        for (uint32_t j = 0; j < kTile; ++j) {
            const KvRow row = {rows.code(j), rows.scale(j)};
            Words2 v = {};
            for_read_format<true>(format,
                                  [&]<KvFormat F>() { v = unpack_words<F>(row, n, block, TokenBlock::table()); });
            const int32_t x = static_cast<int8_t>((lane & 4 ? v.y : v.x) >> lane % 4 * 8);
            const uint32_t number = j / 16 * 16 + j % 4 * 4 + j / 4 % 4;
            KEEL_UNROLL
            for (uint32_t c = 0; c < kColumns; ++c) {
                const uint32_t weight = reinterpret_cast<const uint16_t*>(b.weights(tile, c))[number];
                sum[c] += joined(static_cast<int8_t>(weight), static_cast<int8_t>(weight >> 8)) * x;
            }
        }
        KEEL_UNROLL
        for (uint32_t c = 0; c < kColumns; ++c) b.sums(tile, c)[place_of_sum(sum_order(format), at + lane)] = sum[c];
        if (blocks) sync_warp();
    }
}

KEEL_GPU TokenRows coded_rows(const TokenBlock& b, const KvRows& rows, uint32_t tile, uint32_t page) {
    const KvPlaces& places = b.args.places;
    return {b, rows, places.base + places.pages, places.page_stride, tile, page == kNone ? 0 : page};
}
// Only coded rows are integers.
KEEL_GPU void attend_integers(const TokenBlock& b, uint32_t page) {
    const AttentionArgs& args = b.args;
    const KvPlaces& places = args.places;
    const KvFormat k_format = coded_as(places.k.format);
    const auto fill_table = [&](KvFormat format) {
        if (family_of(format) == KvFamily::kTrellis) fill_trellis_table(bits_of(format), b.table(), kTokenThreads);
    };
    {
        const uint32_t tile = thread_x() / 32, lane = thread_x() % 32;
        const TokenRows k = coded_rows(b, places.k, tile, page);
        const auto ask_for = [&](const TokenRows& rows) {
            for (uint32_t i = 128 * lane; i < kTile * rows.code_bytes; i += 128 * kWarp) prefetch(rows.codes + i);
            if (128 * lane < kTile * rows.scale_bytes) prefetch(rows.scales + 128 * lane);
        };
        if (page != kNone && !k.apart()) {
            ask_for(k);
            ask_for(coded_rows(b, places.v, tile, page));
        }
        quantize_columns(b, k_format);
        fill_table(k_format);
        sync_block();
        // Rows that are not seen are read as well.
        if (page != kNone && (tile + 1) * kTile > later().older) await_rows(args);
        if (page != kNone && k.apart()) [[unlikely]]
            score_keys_apart(b, tile, k_format, k);
        else if (page != kNone)
            for_read_format<true>(k_format, [&]<KvFormat F>() { score_keys<F>(b, tile, k); });
    }
    const uint32_t tile = thread_x_again() / 32;
    const bool there = later().page[tile] != kNone;
    const KvFormat v_format = coded_as(places.v.format);
    const bool one_scale = family_of(v_format) != KvFamily::kBlock32;
    {
        const TokenBlock late = coded_block_later(args);
        uint32_t field[8] = {};
        if (there && one_scale) load_fields(late, coded_rows(late, places.v, tile, later().page[tile]), tile, 0, field);
        sync_warp();
        const TokenWeights w = soften_tile(late, tile, late.tile_range(tile, later().page[tile]));
        if (there && one_scale) weigh_tile(late, tile, v_format, w, field, 0);
    }
    if (v_format != k_format && family_of(v_format) == KvFamily::kTrellis) {
        fill_table(v_format);
        sync_block();
    }
    sync_warp();
    KEEL_NO_UNROLL
    for (uint32_t from = 0; from < args.shape.head_dim; from += kTokenSums) {
        if (from) sync_block();
        const TokenBlock late = coded_block_later(args);
        const TokenRows v = coded_rows(late, places.v, tile, later().page[tile]);
        if (there && v.apart()) [[unlikely]] {
            sum_values_apart(late, tile, v_format, v, from);
        } else if (there) {
            for_read_format<true>(v_format, [&]<KvFormat F>() {
                if constexpr (kKvFormats[F].family == KvFamily::kBlock32)
                    sum_value_blocks<F>(late, tile, v, from);
                else
                    sum_values<F>(late, tile, v, from);
            });
        }
        sync_block();
        chain_tiles(late, sum_order(v_format), from);
    }
    if (thread_x_again() < later().heads) store_state(args, thread_x_again());
}

}  // namespace

// Where it works is worked out while the launch in front still runs.
KEEL_GPU_EARLY_KERNEL_OF(attend_token, 2) {
    const Heads& s = args.shape;
    const KvPlaces& places = args.places;
    const uint32_t ticket =
        take_ticket(args.counts, grid_x() * (args.block_end - args.block_begin), TokenBlock::at<uint32_t>(kAt.ticket));
    const uint32_t item = args.block_begin + ticket / grid_x(), of_append = 2 * args.tokens;
    uint32_t head_tile = 0, kv_head = ticket % grid_x(), token = 0, part = item - of_append;
    if (args.head_tiles > 1) {
        head_tile = kv_head % args.head_tiles;
        kv_head /= args.head_tiles;
    }
    if (item < of_append) {
        wait_for_launch(began);
        if (head_tile) return;
        const uint32_t head = s.heads + item % 2 * s.kv_heads + kv_head;
        if (thread_x() < kWarp) take_head(args, item / 2, head, reinterpret_cast<float*>(shared_memory()));
        append_row(args, item / 2, kv_head, item % 2);
        return raise_count(args.counts + 1 + kv_head);
    }
    for (; part >= args.token_blocks; ++token) part -= args.token_blocks;
    const uint32_t left = args.group - head_tile * args.tile_heads, of_sinks = places.sink_tokens ? 1 : 0;
    const uint32_t position = args.step.position[token];
    TokenBlock b = {args, token, args.step.session[token], kv_head, 0, 0, 0, 0, {}, 0, nullptr, 0};
    b.first_head = kv_head * args.group + head_tile * args.tile_heads;
    b.heads = left < args.tile_heads ? left : args.tile_heads;
    b.view = part < args.splits ? kCoded : part < args.splits + of_sinks ? kSinks : kRecent;
    const Range all = view_range(position, args.window, places.sink_tokens, places.recent_tokens, b.view);
    const uint32_t split = b.view == kCoded   ? part
                           : b.view == kSinks ? 0
                                              : all.begin / kSplitPositions + part - args.splits - of_sinks;
    b.first = split * kSplitPositions;
    b.seen = cut(all, b.first, kSplitPositions);
    if (b.seen.empty()) return wait_for_launch(began);
    b.tail_first = args.step.tail_first[b.session];
    // Slots are positions in front of a tail.
    uint32_t step_first = b.tail_first;
    for (uint32_t t = 0; t < args.tokens; ++t) {
        const uint32_t session = args.step.session[t], slot = args.step.slot[t];
        step_first = session == b.session && slot < step_first ? slot : step_first;
    }
    const uint8_t* window = places.base + places.windows + args.step.session_index[b.session] * places.window_stride;
    b.pages = b.view == kSinks ? window : places.base + (b.view == kCoded ? places.pages : places.step_rows);
    b.page_stride = b.view == kCoded ? places.page_stride : 0;
    const uint32_t slot =
        partial_slot(args.partial_slots, places.sink_tokens, places.recent_tokens, b.view, split, all.begin);

    if (b.tail_first != kNone || b.view == kRecent) [[unlikely]] {
        // The tail's nodes that the token reads: its ancestors and its own.
        if (b.tail_first != kNone && thread_x() == 0) {
            const uint32_t* parent = args.step.tail_parent + uint64_t{b.session} * kMostTreeNodes;
            uint32_t i = position - b.tail_first;
            for (uint32_t node = args.step.slot[token] - b.tail_first; node != kNone; node = parent[node])
                b.nodes()[i--] = static_cast<uint8_t>(node);
        }
        sync_block();
        for (uint32_t j = thread_x(); j < kSplitPositions; j += kTokenThreads) {
            // Rows that are not seen may not be there: another one stands for them.
            const uint32_t p = b.first + j, seen = p < b.seen.begin ? b.seen.begin
                                                   : p < b.seen.end ? p
                                                                    : b.seen.end - 1;
            if (!b.apart(j / kTile)) continue;
            const uint32_t at = seen < b.tail_first ? seen : b.tail_first + b.nodes()[seen - b.tail_first];
            uint32_t place = b.page_index(at / kTile) * kTile + at % kTile;
            if (b.view == kRecent) place = args.step.recent[b.session].row_of(at);
            b.places()[j] = place;
        }
    }
    const bool integers = b.view == kCoded && places.k.format != kKvF16;
    // Lane i has the page of tile i, of eight; kNone: nothing is seen of it.
    const uint32_t own = thread_x() % kTiles, first = b.first + own * kTile;
    uint32_t page = kNone;
    if (!cut(b.seen, first, kTile).empty()) page = b.apart(own) ? 0 : b.page_index(first / kTile);
    if (thread_x() < kTiles) later().page[own] = page;
    if (thread_x() == 0) {
        const uint64_t row = uint64_t{token} * s.heads + b.first_head;
        TokenLater& l = later();
        l.to = args.partial + (row * args.partial_slots + slot) * (s.head_dim + kPartialState);
        l.token = token;
        l.kv_head = b.kv_head;
        l.first_head = b.first_head;
        l.heads = b.heads;
        l.first = b.first;
        l.seen = b.seen;
        l.tail_first = b.tail_first;
        l.older = b.view == kRecent || step_first < b.first ? 0 : step_first - b.first;
        if (!integers && l.older >= b.seen.end - b.first) l.older = kSplitPositions;
    }
    sync_block();
    wait_for_launch(began);
    if (integers)
        attend_integers(b, shuffle(page, thread_x() / 32));
    else
        attend_floats(b, page);
}

}  // namespace keel::cuda
