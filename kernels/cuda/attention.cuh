// Attention (NUMERICS section 5): a block goes through a KV split for some query heads of one KV head in some tokens,
// the columns of its products. Rows of K and V are unpacked once for all of them.
//
// Scores of a batch of tiles first; then the largest score up to each tile, which has no order, so that exponentials
// are taken at once; then V. Integers are multiplied by matrix units; what is a chain of fused multiply-adds in the
// contract is one in registers here: sums of weights, and outputs over tiles.
#pragma once
#include "kernels/cuda/kv_row.cuh"
#include "kernels/cuda/kv_words.cuh"

namespace keel::cuda {
namespace {

constexpr float kWeightSteps = 32767.0f;  // of kernels/cpu/attention/attention_tile.h
constexpr uint32_t kWarps = kAttentionThreads / 32, kTile = kPagePositions;
constexpr float kUnseen = -1.0f, kCopied = -1.0f, kLeft = -2.0f;  // in place of a factor, which is none of these
static_assert(kTile == kWarps * 16, "a warp has 16 rows of K");

// The form in which rows are read. A split of the positions has up to three of them, each with a state of its own.
enum View : uint32_t { kSinks, kCoded, kRecent, kViews };

struct Range {
    uint32_t begin, end;
    KEEL_GPU bool empty() const { return begin >= end; }
};
KEEL_GPU Range cut(Range r, uint32_t first, uint32_t count) {
    return {r.begin > first ? r.begin : first, r.end < first + count ? r.end : first + count};
}
// Positions that the query at `position` reads in a view.
KEEL_GPU Range view_range(uint32_t position, uint32_t window, uint32_t sinks, uint32_t recent, uint32_t view) {
    const uint32_t end = position + 1, begin = window && end > window ? end - window : 0;
    uint32_t coded_begin = begin > sinks ? begin : sinks, coded_end = end > recent ? end - recent : 0;
    coded_begin = coded_begin < end ? coded_begin : end;
    coded_end = coded_end > coded_begin ? coded_end : coded_begin;
    return view == kSinks   ? Range{begin, end < sinks ? end : sinks}
           : view == kCoded ? Range{coded_begin, coded_end}
                            : Range{coded_end, end};
}
// The slot of a split's view among a head's partials.
KEEL_GPU uint32_t partial_slot(uint32_t slots, uint32_t sinks, uint32_t recent, uint32_t view, uint32_t split,
                               uint32_t first_recent) {
    const uint32_t recent_slots = recent ? recent / kSplitPositions + 2 : 0,
                   splits = slots - recent_slots - (sinks ? 1 : 0);
    return view == kCoded   ? split
           : view == kSinks ? splits
                            : slots - recent_slots + split - first_recent / kSplitPositions;
}

// What the threads of a block know.
template <uint32_t COLUMNS>
struct Block {
    static constexpr AttentionRoom kRoom = attention_room(COLUMNS, kMaxHeadDim, false);  // all but queries and table
    const AttentionArgs& args;
    uint32_t session, kv_head, first_head, heads;  // query heads, each in all tokens
    uint32_t first_token, tokens;                  // column: token * heads + head
    uint32_t tail_first;
    uint32_t query_pitch, table_at;

    KEEL_GPU uint32_t columns() const { return tokens * heads; }
    template <class T>
    static KEEL_GPU T* at(uint32_t offset) {
        return reinterpret_cast<T*>(shared_memory() + offset);
    }
    // Of a batch: [column][score_pitch]. Weights take the place of scores.
    static KEEL_GPU float* scores(uint32_t column) { return at<float>(kRoom.scores) + column * kRoom.score_pitch; }
    static KEEL_GPU uint32_t* values() { return at<uint32_t>(kRoom.values); }  // [4 positions][kValuePitch elements]
    static KEEL_GPU float* query_scales(uint32_t column) {
        return at<float>(kRoom.query_scales) + column * kMaxKvScales;
    }
    KEEL_GPU uint8_t* query(uint32_t column) const { return at<uint8_t>(kRoom.queries) + column * query_pitch; }
    KEEL_GPU uint8_t* table() const { return at<uint8_t>(table_at); }
    // Of each tile of a batch, [column][tiles of a batch].
    static KEEL_GPU float* top() { return at<float>(kRoom.tiles); }
    static KEEL_GPU float* rescale() { return top() + kBatchScores / kTile; }
    static KEEL_GPU float* sum() { return rescale() + kBatchScores / kTile; }
    static KEEL_GPU float* unit() { return sum() + kBatchScores / kTile; }
    // Of each column.
    static KEEL_GPU float* m() { return at<float>(kRoom.columns); }
    static KEEL_GPU float* l() { return m() + kMostColumns; }
    static KEEL_GPU float* total_m() { return l() + kMostColumns; }
    static KEEL_GPU float* total_l() { return total_m() + kMostColumns; }
    static KEEL_GPU float* by() { return total_l() + kMostColumns; }
    static KEEL_GPU float* from_by() { return by() + kMostColumns; }
    static KEEL_GPU uint32_t* token() { return reinterpret_cast<uint32_t*>(from_by() + kMostColumns); }
    static KEEL_GPU uint32_t* head() { return token() + kMostColumns; }
    static KEEL_GPU uint8_t* slots(uint32_t token) { return at<uint8_t>(kRoom.slots) + token * kMostTreeNodes; }

    KEEL_GPU Range range(uint32_t view, uint32_t token) const {
        return view_range(args.step.position[first_token + token], args.window, args.places.sink_tokens,
                          args.places.recent_tokens, view);
    }
    KEEL_GPU const KvRows& k(uint32_t view) const {
        return view == kSinks ? args.places.sink_k : view == kCoded ? args.places.k : args.places.recent_k;
    }
    KEEL_GPU const KvRows& v(uint32_t view) const {
        return view == kSinks ? args.places.sink_v : view == kCoded ? args.places.v : args.places.recent_v;
    }
};

// A recent row of a slot.
KEEL_GPU const uint8_t* recent_row(const KvPlaces& at, const StepArrays& step, uint32_t session, const KvRows& rows,
                                   uint32_t kv_head, uint32_t slot) {
    const KvRecentRows& recent = step.recent[session];
    uint64_t from = at.windows + step.session_index[session] * at.window_stride + at.ring;
    uint32_t row = recent.row_in_ring(slot, at.ring_rows);
    if (recent.in_step(slot)) {
        from = at.step_rows;
        row = recent.row_in_step(slot);
    }
    return in_global(at.base + from) + rows.codes + kv_head * rows.head_bytes + uint64_t{row} * rows.code_bytes;
}

// The page that holds a slot, in a view; null: evicted, or recent rows, which have places of their own.
template <uint32_t COLUMNS>
KEEL_GPU const uint8_t* page_of(const Block<COLUMNS>& b, uint32_t view, uint32_t slot) {
    const KvPlaces& at = b.args.places;
    const StepArrays& step = b.args.step;
    const uint32_t page = slot / kPagePositions;
    if (view == kCoded) {
        const uint32_t id = step.page_id[step.page_first[b.session] + page];
        return id == kNone ? nullptr : at.base + at.pages + id * at.page_stride;
    }
    return view == kSinks ? at.base + at.windows + step.session_index[b.session] * at.window_stride : nullptr;
}
template <uint32_t COLUMNS>
KEEL_GPU KvRow row_in(const Block<COLUMNS>& b, const KvRows& rows, const uint8_t* page, uint32_t row) {
    page = in_global(page) + b.kv_head * rows.head_bytes;
    return {page + rows.codes + row * rows.code_bytes, page + rows.scales + row * rows.scale_bytes};
}
// What a token reads at a position.
template <uint32_t COLUMNS>
KEEL_GPU KvRow row_of(const Block<COLUMNS>& b, uint32_t view, const KvRows& rows, uint32_t token, uint32_t position) {
    const uint32_t slot = position < b.tail_first ? position : b.tail_first + b.slots(token)[position - b.tail_first];
    if (view == kRecent) return {recent_row(b.args.places, b.args.step, b.session, rows, b.kv_head, slot), nullptr};
    return row_in(b, rows, page_of(b, view, slot), slot % kPagePositions);
}
// Only whole pages are evicted, and none of a tail.
template <uint32_t COLUMNS>
KEEL_GPU bool is_evicted(const Block<COLUMNS>& b, uint32_t view, uint32_t first) {
    return view == kCoded && first < b.tail_first && !page_of(b, view, first);
}
// Whether tokens read the tile from slots of their own.
template <uint32_t COLUMNS>
KEEL_GPU bool reaches_tail(const Block<COLUMNS>& b, uint32_t first) {
    return first + kTile > b.tail_first;
}
// What a token sees of the tile that begins at `first`.
template <uint32_t COLUMNS>
KEEL_GPU Range tile_range(const Block<COLUMNS>& b, uint32_t view, uint32_t token, uint32_t first) {
    const Range seen = cut(b.range(view, token), first, kTile);
    return seen.empty() || is_evicted(b, view, first) ? Range{first, first} : seen;
}

// A tile, and columns that read it from the same rows: all of them, or those of a token.
struct Run {
    uint32_t tile, first;  // of the batch; position
    Range seen;            // by one of the columns at least
    uint32_t begin, end;   // columns
    uint32_t token;
    const uint8_t* page;  // null: rows lie where the token has them
    KEEL_GPU bool has(uint32_t column) const { return column >= begin && column < end; }
    KEEL_GPU bool meets(uint32_t first_column) const { return first_column < end && first_column + 8 > begin; }
    KEEL_GPU bool sees(uint32_t position, uint32_t count) const {
        return position < seen.end && position + count > seen.begin;
    }
    // The nearest position that is seen: others of a tail may have no row.
    KEEL_GPU uint32_t near(uint32_t position) const {
        return position < seen.begin ? seen.begin : position < seen.end ? position : seen.end - 1;
    }
};
// K or V rows of a run: one behind another in a page, or wherever the token has them.
template <uint32_t COLUMNS>
struct RunRows {
    const Block<COLUMNS>& b;
    const Run& run;
    const KvRows& rows;
    const uint32_t view, code_bytes, scale_bytes;
    const KvRow first;  // of the tile

    KEEL_GPU RunRows(const Block<COLUMNS>& b, uint32_t view, const KvRows& rows, const Run& run)
        : b(b),
          run(run),
          rows(rows),
          view(view),
          code_bytes(rows.code_bytes),
          scale_bytes(rows.scale_bytes),
          first(run.page ? row_in(b, rows, run.page, 0) : KvRow{}) {}
    // Of position j of the tile.
    KEEL_GPU KvRow row(uint32_t j) const {
        if (!run.page) return row_of(b, view, rows, run.token, run.near(run.first + j));
        return {first.codes + j * code_bytes, first.scales + j * scale_bytes};
    }
};
// Calls body(run) for the tiles of the batch that begins at position `first`, `all` being what the tokens see of it.
template <uint32_t COLUMNS, class Body>
KEEL_GPU void for_runs(const Block<COLUMNS>& b, uint32_t view, Range all, uint32_t first, const Body& body) {
    for (uint32_t tile = 0; tile < kBatchScores / COLUMNS / kTile; ++tile, first += kTile) {
        const Range seen = cut(all, first, kTile);
        if (seen.empty()) continue;
        const bool apart = reaches_tail(b, first);
        const uint8_t* page = apart ? nullptr : page_of(b, view, first);
        if (!apart && !page && view != kRecent) continue;  // evicted
        for (uint32_t token = 0; token < (apart ? b.tokens : 1); ++token) {
            const Range own = apart ? cut(b.range(view, token), first, kTile) : seen;
            if (own.empty()) continue;
            body(Run{tile, first, own, apart ? token * b.heads : 0, apart ? (token + 1) * b.heads : b.columns(), token,
                     page});
        }
    }
}

// ---- queries ----
// A query as integers, with a scale for each of so many blocks; a warp. put(i, v): element i is v.
template <class Put>
KEEL_GPU void quantize_query(const float* q, uint32_t block, uint32_t scales, float* scale, const Put& put) {
    const uint32_t lane = thread_x() % 32;
    KEEL_NO_UNROLL
    for (uint32_t s = 0; s < scales; ++s) {
        float most = 0.0f;
        for (uint32_t i = s * block + lane; i < (s + 1) * block; i += 32) {
            const float v = __builtin_fabsf(q[i]);
            most = largest(most, v < kInf32 ? v : __builtin_nanf(""));
        }
        KEEL_UNROLL
        for (uint32_t step = 16; step; step /= 2) most = largest(most, shuffle(most, lane ^ step));
        const bool numbers = most == most;
        const float inverse = numbers && most > 0.0f ? 127.0f / most : 0.0f;
        if (lane == 0) scale[s] = mul_f32(most, 1.0f / 127.0f);
        for (uint32_t i = s * block + lane; i < (s + 1) * block; i += 32) {
            const float v = numbers && q[i] != 0.0f ? mul_f32(q[i], inverse) : 0.0f;
            put(i, static_cast<int8_t>(static_cast<int32_t>(rint_f32(v > 127.0f    ? 127.0f
                                                                     : v < -127.0f ? -127.0f
                                                                                   : v))));
        }
    }
}
// As integers, a block for every scale of a K row, with zeros behind; a warp a column.
template <uint32_t COLUMNS>
KEEL_GPU void quantize_queries(const Block<COLUMNS>& b) {
    const uint32_t lane = thread_x() % 32, n = b.args.shape.head_dim, wide = (n + 31) / 32 * 32;
    const uint32_t scales = kv_scales(b.args.places.k.format, n), block = n / scales;
    for (uint32_t column = thread_x() / 32; column < COLUMNS; column += kWarps) {
        int8_t* q8 = reinterpret_cast<int8_t*>(b.query(column));
        if (column >= b.columns()) {
            for (uint32_t i = lane; i < wide; i += 32) q8[i] = 0;
            continue;
        }
        const uint32_t token = b.first_token + column / b.heads, head = b.first_head + column % b.heads;
        const float* q = b.args.qkv.row + token * b.args.qkv.stride + head * n;
        quantize_query(q, block, scales, b.query_scales(column), [&](uint32_t i, int8_t v) { q8[i] = v; });
        for (uint32_t i = n + lane; i < wide; i += 32) q8[i] = 0;
    }
}

// ---- scores ----
// A warp 16 positions, and every column. Lane (g, t) = (lane / 4, lane % 4) has rows g and g + 8, and of 32 elements
// those of block t of 8: any order will do that queries have too.
template <uint32_t COLUMNS>
KEEL_GPU void score_integers(const Block<COLUMNS>& b, uint32_t view, KvFormat format, const Run& run) {
    const bool blocks = kKvFormats[format].family == KvFamily::kBlock32;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, in_tile = thread_x() / 32 * 16;
    const uint32_t n = b.args.shape.head_dim;
    if (!run.sees(run.first + in_tile, 16)) return;
    const RunRows<COLUMNS> rows(b, view, b.k(view), run);
    const KvRow row[2] = {rows.row(in_tile + g), rows.row(in_tile + g + 8)};
    int32_t products[COLUMNS / 8][4] = {};
    float dot[COLUMNS / 8][4] = {};
    for (uint32_t step = 0; 32 * step < n; ++step) {
        const uint32_t block = 4 * step + t;
        Words2 k[2] = {};
        if (8 * block < n) unpack_rows(format, row, n, block, b.table(), k);
        const uint32_t a[4] = {k[0].x, k[1].x, k[0].y, k[1].y};
        KEEL_UNROLL
        for (uint32_t c = 0; c < COLUMNS / 8; ++c) {
            if (!run.meets(8 * c)) continue;
            const Words2 q = *reinterpret_cast<const Words2*>(b.query(8 * c + g) + 8 * block);
            mma_s8(products[c], a, q.x, q.y);
        }
        if (!blocks && 32 * step + 32 < n) continue;
        const uint32_t s = blocks ? step : 0;
        float d[2];
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2; ++i) d[i] = scale_of_field(format, load<uint16_t>(row[i].scales + 2 * s));
        KEEL_UNROLL
        for (uint32_t c = 0; c < COLUMNS / 8; ++c) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) {
                const float scale = mul_f32(b.query_scales(8 * c + 2 * t + i % 2)[s], d[i / 2]);
                dot[c][i] = fma_f32(scale, static_cast<float>(products[c][i]), dot[c][i]);
                products[c][i] = 0;
            }
        }
    }
    KEEL_UNROLL
    for (uint32_t c = 0; c < COLUMNS / 8; ++c) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t column = 8 * c + 2 * t + i % 2;
            if (run.has(column)) b.scores(column)[kTile * run.tile + in_tile + g + i / 2 * 8] = dot[c][i];
        }
    }
}

// A thread a position and two columns, whose sixteen lanes each are its registers.
template <uint32_t COLUMNS>
KEEL_GPU void score_floats(const Block<COLUMNS>& b, uint32_t view, KvFormat format, const Run& run) {
    const uint32_t j = thread_x() % kTile, n = b.args.shape.head_dim;
    if (!run.sees(run.first + j, 1)) return;
    const KvRow row = RunRows<COLUMNS>(b, view, b.k(view), run).row(j);
    KEEL_NO_UNROLL
    for (uint32_t pair = thread_x() / kTile * 2; pair < run.end; pair += kAttentionThreads / kTile * 2) {
        if (pair + 2 <= run.begin) continue;
        const float* q[2];
        float lanes[2][16] = {};
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) {
            const uint32_t column = pair + c < run.end ? pair + c : run.end - 1;
            q[c] = b.args.qkv.row + (b.first_token + b.token()[column]) * b.args.qkv.stride + b.head()[column] * n;
        }
        const auto add = [&](uint32_t i, uint32_t lane) {
            float k[8];
            decode8(format, row, i, k);
            KEEL_UNROLL
            for (uint32_t c = 0; c < 2; ++c) {
                KEEL_UNROLL
                for (uint32_t e = 0; e < 8; ++e)
                    lanes[c][lane + e] = fma_f32(k[e], q[c][8 * i + e], lanes[c][lane + e]);
            }
        };
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < n / 8; i += 2) {
            add(i, 0);
            if (i + 1 < n / 8) add(i + 1, 8);
        }
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c)
            if (run.has(pair + c)) b.scores(pair + c)[kTile * run.tile + j] = kernels::tree16(lanes[c]);
    }
}

// ---- weights ----
// The removed mean's share of the score of position j of a tile.
KEEL_GPU float mean_score(const KvMeans& means, const float* coefficients, uint32_t tile, uint32_t j) {
    const float* base = means.tile_rotations + uint64_t{tile} * 2 * means.pairs;
    float sum = 0.0f;
    for (uint32_t i = 0; i < means.pairs; ++i) {
        const float ca = coefficients[2 * i], cb = coefficients[2 * i + 1], c = base[2 * i], t = base[2 * i + 1];
        const float even = fma_f32(ca, c, mul_f32(cb, t)), odd = fma_f32(cb, c, -mul_f32(ca, t));
        const float *cosines = means.offset_rotations + uint64_t{2} * i * kTile, *sines = cosines + kTile;
        sum = fma_f32(odd, sines[j], fma_f32(even, cosines[j], sum));
    }
    return sum;
}

// Four weights as the two operands of a product, a byte a weight: w = lower - 256 * upper, both int8.
KEEL_GPU Words2 pack_weights(const float* t, float inverse) {
    uint32_t w[4];
    KEEL_UNROLL
    for (uint32_t e = 0; e < 4; ++e) {
        const float v = inverse > 0.0f && t[e] != 0.0f ? mul_f32(t[e], inverse) : 0.0f;
        w[e] = static_cast<uint32_t>(static_cast<int32_t>(rint_f32(v > kWeightSteps ? kWeightSteps : v)));
    }
    const uint32_t lower = pick_bytes(pick_bytes(w[0], w[1], 0x0040), pick_bytes(w[2], w[3], 0x0040), 0x5410);
    const uint32_t upper =
        pick_bytes(pick_bytes(127 - w[0], 127 - w[1], 0x0051), pick_bytes(127 - w[2], 127 - w[3], 0x0051), 0x5410);
    return {lower, upper};
}
// Weights of some positions over the largest of all lanes that differ in the lowest two bits.
struct WeightUnit {
    float unit, inverse;
};
KEEL_GPU WeightUnit weight_unit(float most) {
    const uint32_t lane = thread_x() % 32;
    KEEL_UNROLL
    for (uint32_t step = 1; step < 4; step *= 2) most = largest(most, shuffle(most, lane ^ step));
    return {mul_f32(most, 1.0f / kWeightSteps), most > 0.0f ? kWeightSteps / most : 0.0f};
}
// p times the scale of its V row; NaN if it is not finite.
KEEL_GPU float scaled_weight(float p, float scale) {
    const float t = mul_f32(p, scale);
    return t < kInf32 ? t : __builtin_nanf("");
}

// Scores of a batch, which begins at position `first`, into weights: exponentials, or integers where V has one scale a
// row. Four threads have a column's tile, each four positions of sixteen, which are four of NUMERICS' lanes.
template <uint32_t COLUMNS>
KEEL_GPU void soften(const Block<COLUMNS>& b, uint32_t view, uint32_t first) {
    constexpr uint32_t kTiles = kBatchScores / COLUMNS / kTile;
    constexpr uint32_t kTasks = kBatchScores / (kTile / 4) / kAttentionThreads;
    const AttentionArgs& args = b.args;
    const uint32_t quarter = thread_x() % 4, lane = thread_x() % 32;
    const KvRows& v = b.v(view);
    const KvFamily family = kKvFormats[v.format].family;
    const bool one_scale = kKvFormats[v.format].integer && family != KvFamily::kBlock32;
    // The same for the whole warp: whether it has a task, and which.
    const auto has_task = [&](uint32_t u) {
        return (u * kAttentionThreads + thread_x() - lane) / 4 / kTiles < b.columns();
    };
    KEEL_NO_UNROLL
    for (uint32_t u = 0; u < kTasks; ++u) {
        if (!has_task(u)) continue;
        const uint32_t pair = (u * kAttentionThreads + thread_x()) / 4, column = pair / kTiles, tile = pair % kTiles;
        const uint32_t at = first + tile * kTile;
        const Range seen = column < b.columns() ? tile_range(b, view, b.token()[column], at) : Range{0, 0};
        const float* coefficients = args.means.pairs && column < b.columns()
                                        ? args.mean.row + (b.first_token + b.token()[column]) * args.mean.stride +
                                              uint64_t{b.head()[column]} * 2 * args.means.pairs
                                        : nullptr;
        float most = -kInf32;
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < kTile && !seen.empty(); i += 16) {
            const uint32_t j = i + quarter * 4;
            float* x = b.scores(column) + tile * kTile + j;
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) {
                float s = x[e];
                if (coefficients) s = add_f32(s, mean_score(args.means, coefficients, at / kTile, j + e));
                s = mul_f32(s, args.scale);
                if (args.softcap != 0.0f) s = softcap_f32(s, args.softcap);
                x[e] = s;
                if (at + j + e >= seen.begin && at + j + e < seen.end) most = largest(most, s);
            }
        }
        KEEL_UNROLL
        for (uint32_t step = 1; step < 4; step *= 2) most = largest(most, shuffle(most, lane ^ step));
        if (quarter == 0) b.top()[pair] = most;
    }
    sync_block();
    KEEL_NO_UNROLL
    for (uint32_t u = 0; u < kTasks; ++u) {
        if (!has_task(u)) continue;
        const uint32_t pair = (u * kAttentionThreads + thread_x()) / 4, column = pair / kTiles, tile = pair % kTiles;
        const uint32_t at = first + tile * kTile;
        const bool there = column < b.columns(), apart = reaches_tail(b, at);
        const Range seen = there ? tile_range(b, view, b.token()[column], at) : Range{0, 0};
        float before = there ? b.m()[column] : 0.0f;
        for (uint32_t i = 0; there && i < tile; ++i) before = largest(before, b.top()[pair - tile + i]);
        const float now = there ? largest(before, b.top()[pair]) : 0.0f;
        const uint8_t* page = apart || seen.empty() ? nullptr : page_of(b, view, at);
        float lanes[4] = {}, most = 0.0f;
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < kTile && !seen.empty(); i += 16) {
            const uint32_t j = i + quarter * 4;
            float* x = b.scores(column) + tile * kTile + j;
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) {
                const bool visible = at + j + e >= seen.begin && at + j + e < seen.end;
                float p = visible ? exp_f32(add_f32(x[e], -now)) : 0.0f;
                lanes[e] = add_f32(lanes[e], p);
                if (one_scale && visible) {
                    const KvRow row =
                        page ? row_in(b, v, page, j + e) : row_of(b, view, v, b.token()[column], at + j + e);
                    p = scaled_weight(p, scale_of_field(v.format, load<uint16_t>(row.scales)));
                    most = largest(most, p);
                }
                x[e] = p;
            }
        }
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            lanes[e] = add_f32(lanes[e], shuffle(lanes[e], lane ^ 2));
            lanes[e] = add_f32(lanes[e], shuffle(lanes[e], lane ^ 1));
        }
        const WeightUnit weights = weight_unit(most);
        if (quarter == 0 && there) {
            b.rescale()[pair] = seen.empty() ? kUnseen : before == -kInf32 ? 0.0f : exp_f32(add_f32(before, -now));
            b.sum()[pair] = add_f32(add_f32(lanes[0], lanes[2]), add_f32(lanes[1], lanes[3]));
            b.unit()[pair] = weights.unit;
        }
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < kTile && one_scale && !seen.empty(); i += 16) {
            float* x = b.scores(column) + tile * kTile + i + quarter * 4;
            *reinterpret_cast<Words2*>(x) = pack_weights(x, weights.inverse);
        }
    }
    sync_block();
    const uint32_t column = thread_x();
    if (column >= b.columns()) return;
    float m = b.m()[column], l = b.l()[column];
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
        const uint32_t pair = column * kTiles + tile;
        if (b.rescale()[pair] != kUnseen) l = fma_f32(l, b.rescale()[pair], b.sum()[pair]);
        m = largest(m, b.top()[pair]);
    }
    b.m()[column] = m;
    b.l()[column] = l;
}

// ---- outputs ----
// A thread's elements of the output of a split. Of V as integers: of each 128 elements, and of each 32 of those that
// the warp has, what matrix units leave to a lane: of columns 2 t and 2 t + 1 elements 4 g to 4 g + 3. Of V as floats:
// eight elements of one column, as often as there are.
template <uint32_t COLUMNS>
struct Outputs {
    static constexpr uint32_t kUnits = COLUMNS / 8, kCount = 2 * kUnits;
    float o[kCount][8];

    // Eight columns of the warp's, and its 32 elements of 128.
    static KEEL_GPU uint32_t first_column() { return COLUMNS == 8 ? 0 : thread_x() / 32 * 8; }
    static KEEL_GPU uint32_t first_element(uint32_t unit) { return 32 * (COLUMNS == 8 ? thread_x() / 32 : unit); }

    // Group i of eight. Registers have no index: each is looked at.
    KEEL_GPU void load(uint32_t i, float* to) const {
        KEEL_UNROLL
        for (uint32_t at = 0; at < kCount; ++at) {
            if (at != i) continue;
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) to[e] = o[at][e];
        }
    }
    KEEL_GPU void store(uint32_t i, const float* from) {
        KEEL_UNROLL
        for (uint32_t at = 0; at < kCount; ++at) {
            if (at != i) continue;
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) o[at][e] = from[e];
        }
    }

    // The same for little code: body(group i) where it lies.
    template <class Body>
    KEEL_GPU void change(uint32_t i, const Body& body) {
        KEEL_UNROLL
        for (uint32_t at = 0; at < kCount; ++at)
            if (at == i) body(o[at]);
    }

    // Calls body(column, element, o) for all of them.
    template <class Body>
    KEEL_GPU void each(const Block<COLUMNS>& b, bool integer, const Body& body) const {
        const uint32_t lane = thread_x() % 32, n = b.args.shape.head_dim;
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < kCount; ++i) {
            const uint32_t task = i * kAttentionThreads + thread_x();
            float own[8];
            load(i, own);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) {
                const uint32_t column = integer ? first_column() + lane % 4 * 2 + e % 2 : task / (n / 8);
                const uint32_t element = integer ? i / kUnits * kValueElements + first_element(i % kUnits) +
                                                       lane / 4 * 4 + e / 4 * 2 + e / 2 % 2
                                                 : task % (n / 8) * 8 + e;
                if (column < b.columns() && element < n) body(column, element, own[e]);
            }
        }
    }
};

// Eight elements of four rows -> for each element a word of four positions.
KEEL_GPU void transpose_words(uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3, uint32_t* to) {
    const uint32_t low = pick_bytes(r0, r1, 0x5140), low2 = pick_bytes(r2, r3, 0x5140),
                   high = pick_bytes(r0, r1, 0x7362), high2 = pick_bytes(r2, r3, 0x7362);
    *reinterpret_cast<Words4*>(to) = {pick_bytes(low, low2, 0x5410), pick_bytes(low, low2, 0x7632),
                                      pick_bytes(high, high2, 0x5410), pick_bytes(high, high2, 0x7632)};
}

// Of q8_0 and q4_0, whose rows have a scale for 32 elements: a lane's weights for those of scale s.
struct BlockWeights {
    Words2 w[4];
    float unit;
};
template <uint32_t COLUMNS>
KEEL_GPU BlockWeights block_weights(const Block<COLUMNS>& b, const RunRows<COLUMNS>& rows, uint32_t column,
                                    uint32_t s) {
    const uint32_t t = thread_x() % 4;
    const Run& run = rows.run;
    const Range seen = run.has(column) ? tile_range(b, rows.view, b.token()[column], run.first) : Range{0, 0};
    float weight[16], most = 0.0f;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t j = i / 4 * 16 + t * 4 + i % 4;
        weight[i] = 0.0f;
        if (run.first + j < seen.begin || run.first + j >= seen.end) continue;
        const uint32_t field = load<uint16_t>(rows.row(j).scales + 2 * s);
        weight[i] = scaled_weight(b.scores(column)[kTile * run.tile + j], scale_of_field(rows.rows.format, field));
        most = largest(most, weight[i]);
    }
    const WeightUnit unit = weight_unit(most);
    BlockWeights out = {{}, unit.unit};
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) out.w[i] = pack_weights(weight + 4 * i, unit.inverse);
    return out;
}

template <uint32_t COLUMNS>
KEEL_GPU void add_integers(const Block<COLUMNS>& b, uint32_t view, KvFormat format, Range all, uint32_t first,
                           Outputs<COLUMNS>* out) {
    using Out = Outputs<COLUMNS>;
    const bool blocks = kKvFormats[format].family == KvFamily::kBlock32;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim;
    const KvRows& v = b.v(view);
    const uint32_t columns = Out::first_column();
    for_runs(b, view, all, first, [&](const Run& run) {
        const RunRows<COLUMNS> rows(b, view, v, run);
        KEEL_NO_UNROLL
        for (uint32_t part = 0; part * kValueElements < n; ++part) {
            const uint32_t part_first = part * kValueElements;
            const uint32_t wide = (n - part_first < kValueElements ? n - part_first : kValueElements) / 8,
                           fours = kAttentionThreads / wide, rest = kAttentionThreads % wide;
            KEEL_NO_UNROLL
            for (uint32_t four = thread_x() / wide, block = thread_x() % wide; four < kTile / 4;) {
                const uint32_t j = 4 * four;
                uint32_t* to = b.values() + four * kValuePitch + 8 * block;
                const uint32_t element_block = part_first / 8 + block;
                four += fours, block += rest;
                if (block >= wide) block -= wide, ++four;
                if (!run.sees(run.first + j, 4)) continue;
                Words2 w[4];
                KEEL_UNROLL
                for (uint32_t r = 0; r < 4; r += 2) {
                    const KvRow row[2] = {rows.row(j + r), rows.row(j + r + 1)};
                    unpack_rows(format, row, n, element_block, b.table(), w + r);
                }
                transpose_words(w[0].x, w[1].x, w[2].x, w[3].x, to);
                transpose_words(w[0].y, w[1].y, w[2].y, w[3].y, to + 4);
            }
            sync_block();
            KEEL_NO_UNROLL
            for (uint32_t u = 0; u < Out::kUnits; ++u) {
                const uint32_t element = Out::first_element(u);
                if (!run.meets(columns) || part_first + element >= n) continue;
                // Of weights that are shared, the lane's words; of others, those that it made.
                Words2 w[4];
                float unit[2] = {};
                if (blocks) {
                    const BlockWeights own = block_weights(b, rows, columns + g, (part_first + element) / kKvBlock);
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 4; ++i) w[i] = own.w[i];
                    unit[0] = shuffle(own.unit, 8 * t);
                    unit[1] = shuffle(own.unit, 8 * t + 4);
                } else {
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 4; ++i)
                        w[i] =
                            *reinterpret_cast<const Words2*>(b.scores(columns + g) + kTile * run.tile + 16 * i + 4 * t);
                }
                int32_t lower[2][4] = {}, upper[2][4] = {};
                KEEL_UNROLL
                for (uint32_t half = 0; half < 2; ++half) {
                    if (!run.sees(run.first + 32 * half, 32)) continue;
                    Words4 rows[2];
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 2; ++i)
                        rows[i] = *reinterpret_cast<const Words4*>(b.values() + (8 * half + 4 * i + t) * kValuePitch +
                                                                   element + 4 * g);
                    const uint32_t a[2][4] = {{rows[0].x, rows[0].y, rows[1].x, rows[1].y},
                                              {rows[0].z, rows[0].w, rows[1].z, rows[1].w}};
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 2; ++i) {
                        mma_s8(lower[i], a[i], w[2 * half].x, w[2 * half + 1].x);
                        mma_s8(upper[i], a[i], w[2 * half].y, w[2 * half + 1].y);
                    }
                }
                float by[2];
                KEEL_UNROLL
                for (uint32_t c = 0; c < 2; ++c) {
                    const uint32_t column = columns + 2 * t + c;
                    const uint32_t pair = column * (kBatchScores / COLUMNS / kTile) + run.tile;
                    by[c] = run.has(column) ? b.rescale()[pair] : kUnseen;
                    if (!blocks) unit[c] = b.unit()[pair];
                }
                out->change(part * Out::kUnits + u, [&](float* o) {
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 8; ++i) {
                        const uint32_t c = i % 2, at = i / 2 % 2 * 2 + c;
                        const float sum = static_cast<float>(lower[i / 4][at] - 256 * upper[i / 4][at]);
                        if (by[c] != kUnseen) o[i] = fma_f32(unit[c], sum, mul_f32(o[i], by[c]));
                    }
                });
            }
            sync_block();
        }
    });
}

template <uint32_t COLUMNS>
KEEL_GPU void add_floats(const Block<COLUMNS>& b, uint32_t view, KvFormat format, Range all, uint32_t first,
                         Outputs<COLUMNS>* out) {
    const uint32_t n = b.args.shape.head_dim;
    for_runs(b, view, all, first, [&](const Run& run) {
        const RunRows<COLUMNS> rows(b, view, b.v(view), run);
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < Outputs<COLUMNS>::kCount; ++i) {
            const uint32_t task = i * kAttentionThreads + thread_x(), column = task / (n / 8), block = task % (n / 8);
            if (!run.has(column)) continue;
            const float by = b.rescale()[column * (kBatchScores / COLUMNS / kTile) + run.tile];
            if (by == kUnseen) continue;
            float o[8];
            out->load(i, o);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e) o[e] = mul_f32(o[e], by);
            const Range seen = tile_range(b, view, b.token()[column], run.first);
            for (uint32_t j = seen.begin - run.first; j < seen.end - run.first; ++j) {
                const float p = b.scores(column)[kTile * run.tile + j];
                float x[8];
                decode8(format, rows.row(j), block, x);
                KEEL_UNROLL
                for (uint32_t e = 0; e < 8; ++e) o[e] = fma_f32(p, x[e], o[e]);
            }
            out->store(i, o);
        }
    });
    sync_block();
}

// ---- a view of a split ----
// Asks for the coded rows of the tiles that are seen: one behind another they would each wait for memory.
template <uint32_t COLUMNS>
KEEL_GPU void prefetch_rows(const Block<COLUMNS>& b, const KvRows& rows, Range all) {
    for (uint32_t first = all.begin / kTile * kTile; first < all.end && first < b.tail_first; first += kTile) {
        const uint8_t* page = page_of(b, kCoded, first);
        for (uint32_t i = 128 * thread_x(); page && i < kTile * rows.code_bytes; i += 128 * kAttentionThreads)
            prefetch(row_in(b, rows, page, 0).codes + i);
    }
}

template <uint32_t COLUMNS>
KEEL_GPU void attend(const AttentionArgs& args) {
    constexpr uint32_t kBatch = kBatchScores / COLUMNS;  // positions
    const Heads& s = args.shape;
    const KvPlaces& places = args.places;
    const uint32_t group = s.heads / s.kv_heads, head_tiles = divide_up(group, args.tile_heads);
    const uint32_t head_tile = block_x() % head_tiles, n = s.head_dim, thread = thread_x();
    const uint32_t splits = args.partial ? args.splits : 1, block = args.block_begin + block_y(),
                   query_block = block / splits;
    const uint32_t left = group - head_tile * args.tile_heads;
    const AttentionRoom room = attention_room(COLUMNS, n, is_trellis(places.k.format) || is_trellis(places.v.format));
    Block<COLUMNS> b = {args,
                        0,
                        block_x() / head_tiles,
                        0,
                        left < args.tile_heads ? left : args.tile_heads,
                        args.step.query_block[2 * query_block],
                        args.step.query_block[2 * query_block + 1],
                        0,
                        room.query_pitch,
                        room.table};
    b.session = args.step.session[b.first_token];
    b.first_head = b.kv_head * group + head_tile * args.tile_heads;
    b.tail_first = args.step.tail_first[b.session];

    // What the tokens see together, of the block's split or of all.
    const auto seen_together = [&](uint32_t view, Range of) {
        Range all = {UINT32_MAX, 0};
        for (uint32_t token = 0; token < b.tokens; ++token) {
            const Range own = b.range(view, token);
            const Range r = {own.begin > of.begin ? own.begin : of.begin, own.end < of.end ? own.end : of.end};
            if (r.empty()) continue;
            all = {r.begin < all.begin ? r.begin : all.begin, r.end > all.end ? r.end : all.end};
        }
        return all;
    };
    const uint32_t split = block % splits * kSplitPositions;
    const Range positions = args.partial ? Range{split, split + kSplitPositions} : Range{0, UINT32_MAX};
    Range reach = {UINT32_MAX, 0};
    for (uint32_t view = 0; view < kViews; ++view) {
        const Range r = seen_together(view, positions);
        reach = {r.begin < reach.begin ? r.begin : reach.begin, r.end > reach.end ? r.end : reach.end};
    }
    if (reach.empty()) return;

    // The tail's nodes that a token reads: its ancestors and its own.
    if (b.tail_first != kNone && thread < b.tokens) {
        const uint32_t* parent = args.step.tail_parent + uint64_t{b.session} * kMostTreeNodes;
        const uint32_t token = b.first_token + thread;
        uint32_t i = args.step.position[token] - b.tail_first;
        for (uint32_t node = args.step.slot[token] - b.tail_first; node != kNone; node = parent[node])
            b.slots(thread)[i--] = static_cast<uint8_t>(node);
    }
    if (thread < b.columns()) {
        b.token()[thread] = thread / b.heads;
        b.head()[thread] = b.first_head + thread % b.heads;
    }
    if (kKvFormats[places.k.format].integer) quantize_queries(b);
    sync_block();

    uint32_t table_bits = 0;  // of the trellis format whose table is there
    const auto need_table = [&](KvFormat format) {
        if (!is_trellis(format) || kKvFormats[format].bits == table_bits) return;
        table_bits = kKvFormats[format].bits;
        fill_trellis_table(table_bits, b.table());
        sync_block();
    };
    if (thread < b.columns()) b.total_m()[thread] = -kInf32;
    for (uint32_t first = reach.begin / kSplitPositions * kSplitPositions; first < reach.end;
         first += kSplitPositions) {
        for (uint32_t view = 0; view < kViews; ++view) {
            const Range all = seen_together(view, {first, first + kSplitPositions});
            if (all.empty()) continue;
            const KvFormat k_format = kv_coded_as(b.k(view).format), v_format = kv_coded_as(b.v(view).format);
            const bool integer_v = kKvFormats[v_format].integer;
            if (view == kCoded) {
                prefetch_rows(b, places.k, all);
                prefetch_rows(b, places.v, all);
            }
            if (thread < b.columns()) {
                b.m()[thread] = -kInf32;
                b.l()[thread] = 0.0f;
            }
            Outputs<COLUMNS> out = {};
            for (uint32_t batch = all.begin / kBatch * kBatch; batch < all.end; batch += kBatch) {
                need_table(k_format);
                for_runs(b, view, all, batch, [&](const Run& run) {
                    if (kKvFormats[k_format].integer)
                        score_integers(b, view, k_format, run);
                    else
                        score_floats(b, view, k_format, run);
                });
                sync_block();
                soften(b, view, batch);
                need_table(v_format);
                if (integer_v)
                    add_integers(b, view, v_format, all, batch, &out);
                else
                    add_floats(b, view, v_format, all, batch, &out);
            }
            // What a column that sees nothing of the split has is not used.
            const auto used = [&](uint32_t column) {
                return !cut(b.range(view, b.token()[column]), first, kSplitPositions).empty();
            };
            if (args.partial) {
                const auto place = [&](uint32_t column) {
                    const uint32_t token = b.token()[column];
                    const uint64_t row = uint64_t{b.first_token + token} * s.heads + b.head()[column];
                    const uint32_t slot = partial_slot(args.partial_slots, places.sink_tokens, places.recent_tokens,
                                                       view, first / kSplitPositions, b.range(kRecent, token).begin);
                    return args.partial + (row * args.partial_slots + slot) * (n + kPartialState);
                };
                out.each(b, integer_v, [&](uint32_t column, uint32_t element, float o) {
                    if (used(column)) place(column)[element] = o;
                });
                if (thread < b.columns() && used(thread)) {
                    place(thread)[n] = b.m()[thread];
                    place(thread)[n + 1] = b.l()[thread];
                }
                continue;
            }
            if (thread < b.columns()) {
                const float m = b.m()[thread], l = b.l()[thread], total_m = b.total_m()[thread];
                float merged = total_m, by = kLeft;
                if (used(thread) && total_m == -kInf32) {
                    merged = m;
                    by = kCopied;
                    b.total_l()[thread] = l;
                } else if (used(thread)) {
                    merged = largest(total_m, m);
                    by = exp_f32(add_f32(total_m, -merged));
                    b.from_by()[thread] = exp_f32(add_f32(m, -merged));
                    b.total_l()[thread] = fma_f32(b.total_l()[thread], by, mul_f32(l, b.from_by()[thread]));
                }
                b.total_m()[thread] = merged;
                b.by()[thread] = by;
            }
            sync_block();
            out.each(b, integer_v, [&](uint32_t column, uint32_t element, float o) {
                const float by = b.by()[column];
                float* to = args.out.row + (b.first_token + b.token()[column]) * args.out.stride +
                            b.head()[column] * n + element;
                if (by != kLeft) *to = by == kCopied ? o : fma_f32(*to, by, mul_f32(o, b.from_by()[column]));
            });
        }
    }
    if (args.partial || thread >= b.columns()) return;
    float* state = args.state.row + (b.first_token + b.token()[thread]) * args.state.stride;
    state[b.head()[thread]] = b.total_m()[thread];
    state[s.heads + b.head()[thread]] = b.total_l()[thread];
}

}  // namespace
}  // namespace keel::cuda
