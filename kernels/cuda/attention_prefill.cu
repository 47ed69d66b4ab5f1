// Attention of many columns, a prompt's or those of some tokens of a session (NUMERICS section 5). A block of threads
// has the query heads of one KV head in some query blocks of the step, sixteen of these columns a warp, and goes
// through one KV split or through all of them. Where K and V are integers.
//
// Rows of K and V are copied while those of the tile before are worked on, and are unpacked once for all columns. What
// a warp makes of a tile stays in registers from scores to output: scores lie where matrix units leave them, as the
// rows of a product, and that is where they take weights from. In what order a product goes through positions is free.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/warp.cuh"

namespace keel::cuda {
namespace {

constexpr uint32_t kRowTiles = kTile / 8;               // a product's eight columns: positions of a tile
constexpr float kMagic = 0x1.8p23f;                     // added to an integer below 2^22, its bits are those of a float
constexpr int32_t kMagicBits = 0x4b400000;
static_assert(kMaxHeadDim * 127 * 128 < 1 << 22);

struct alignas(16) Floats4 {
    float x[4];
};

// What the threads of a block know.
struct PrefillBlock {
    const AttentionArgs& args;
    uint32_t kv_head, first_head, heads;  // query heads, each in all tokens
    uint32_t session, first_token, tokens;
    uint32_t first_position, last_position;  // of its first and its last token: they follow one another
    Range reach;                             // positions of the splits that the block goes through
    const uint32_t* page_ids;

    KEEL_GPU uint32_t columns() const { return tokens * heads; }
    KEEL_GPU Range range(uint32_t view, uint32_t position) const {
        return view_range(position, args.window, args.places.sink_tokens, args.places.recent_tokens, view);
    }
    // What the tokens see together, and what all of them see.
    KEEL_GPU Range seen(uint32_t view) const {
        const Range a = range(view, first_position), b = range(view, last_position);
        return a.empty() ? b : b.empty() ? a : Range{a.begin, b.end};
    }
    KEEL_GPU bool all_see(uint32_t view, uint32_t first) const {
        const Range a = range(view, first_position), b = range(view, last_position);
        return a.begin <= first && b.begin <= first && a.end >= first + kTile && b.end >= first + kTile;
    }
    KEEL_GPU const KvRows& k(uint32_t view) const {
        return view == kSinks ? args.places.sink_k : view == kCoded ? args.places.k : args.places.recent_k;
    }
    KEEL_GPU const KvRows& v(uint32_t view) const {
        return view == kSinks ? args.places.sink_v : view == kCoded ? args.places.v : args.places.recent_v;
    }
    // The page with the tile that begins at `first`; null: evicted.
    KEEL_GPU const uint8_t* page(uint32_t view, uint32_t first) const {
        const KvPlaces& at = args.places;
        if (view == kCoded) {
            const uint32_t id = page_ids[first / kTile];
            return id == kNone ? nullptr : at.base + at.pages + id * at.page_stride;
        }
        const uint8_t* window = at.base + at.windows + args.step.session_index[session] * at.window_stride;
        return view == kSinks ? window : window + at.ring + first / kTile % at.recent_pages * at.recent_page_stride;
    }
    KEEL_GPU const uint8_t* head(const KvRows& rows, const uint8_t* page) const {
        return in_global(page) + rows.codes + kv_head * rows.head_bytes;
    }
};

// A tile of what is seen of a split in a view.
struct TilePlace {
    uint32_t split, view, first, end;  // first: kNone if there is none; end: of what is seen
    const uint8_t* page;

    KEEL_GPU bool none() const { return first == kNone; }
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
        if (at.split >= b.reach.end) {
            at.first = kNone;
            return at;
        }
        const Range all = cut(b.seen(at.view), at.split, kSplitPositions);
        at.first = all.begin / kTile * kTile;
        at.end = all.empty() ? 0 : all.end;
    }
    at.page = b.page(at.view, at.first);
    return at;
}
KEEL_GPU TilePlace first_tile(const PrefillBlock& b) {
    return next_tile(b, {b.reach.begin - kSplitPositions, kViews - 1, 0, 0, nullptr});
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
    return thread_x() / 32 * 16 + thread_x() % 32 / 4 + 8 * r;
}

// The largest and the sum of what the four lanes of a column have.
KEEL_GPU float largest_of_four(float v) {
    const uint32_t lane = thread_x() % 32;
    v = largest(v, shuffle(v, lane ^ 1));
    v = largest(v, shuffle(v, lane ^ 2));
    return v;
}

// Scores into exponentials, 0 where the column does not see the position; the column's state. by: what its output is
// multiplied by before the tile is added. `seen`: by each column, looked at where not all of them see all of the tile.
KEEL_GPU void soften_tile(const AttentionArgs& args, bool edge, const Range seen[2], uint32_t first, Scores* scores,
                          ColumnState column[2], float by[2]) {
    const uint32_t lane = thread_x() % 32, t = lane % 4;
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
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float now = scores->s[0][2 * r];
        KEEL_UNROLL
        for (uint32_t i = 1; i < 2 * kRowTiles; ++i) now = largest(now, scores->s[i / 2][2 * r + i % 2]);
        now = largest(column[r].m, largest_of_four(now));
        float lanes[4] = {};
        KEEL_UNROLL
        for (uint32_t i = 0; i < kRowTiles; ++i) {
            KEEL_UNROLL
            for (uint32_t c = 0; c < 2; ++c) {
                float& s = scores->s[i][2 * r + c];
                s = exp_below_f32(add_f32(s, -now));
                lanes[i % 2 * 2 + c] = add_f32(lanes[i % 2 * 2 + c], s);
            }
        }
        float sum[2];
        KEEL_UNROLL
        for (uint32_t c = 0; c < 2; ++c) {
            sum[c] = add_f32(lanes[c], lanes[2 + c]);
            sum[c] = add_f32(sum[c], shuffle(sum[c], lane ^ 2));
            sum[c] = add_f32(sum[c], shuffle(sum[c], lane ^ 1));
        }
        // A largest score that is not finite makes a NaN of everything.
        const bool none = edge && seen[r].empty(), numbers = __builtin_fabsf(now) < kInf32;
        const float before = column[r].m;
        by[r] = none                 ? 1.0f
                : !numbers           ? __builtin_nanf("")
                : before == -kInf32 ? 0.0f
                                     : exp_below_f32(add_f32(before, -now));
        column[r].l = fma_f32(column[r].l, by[r], add_f32(sum[0], sum[1]));
        column[r].m = now;
    }
}

// ---- integers ----
// What lies at the beginning of shared memory, WIDE being the elements of a head in blocks of 64.
// K: rows of WIDE bytes, of each 64 elements what lane t of a product takes: block t of 8 of the first and of the second
// 32. V: of each 32 elements and each t words of four positions, [element][sixteen positions]. A product's column 2 t + c
// is then element c of a pair of block t.
template <uint32_t WIDE>
struct IntegerTile {
    static constexpr uint32_t kBlocks = WIDE / 8, kParts = WIDE / kKvBlock, kSteps = WIDE / 32;

    static KEEL_GPU uint8_t* key(uint32_t row, uint32_t pair, uint32_t t) {
        return shared_memory() + row * WIDE + ((pair * 64 + t * 16) ^ (WIDE > 64 ? row % 2 * 64 : 0));
    }
    static KEEL_GPU uint8_t* value(uint32_t t, uint32_t part, uint32_t index) {
        return shared_memory() + kTile * WIDE + t * prefill_value_pitch(WIDE) + part * kValuePart + index * 16;
    }
    static KEEL_GPU uint8_t* query(uint32_t column) { return shared_memory() + column * WIDE; }
};

KEEL_GPU void copy_tile(const PrefillBlock& b, const KvRows& rows, const uint8_t* page, uint32_t threads, uint8_t* to) {
    const uint8_t* from = b.head(rows, page);
    for (uint32_t i = 16 * thread_x(); i < rows.head_bytes; i += 16 * threads) copy16(to + i, from + i);
}
KEEL_GPU SharedKvRow raw_row(const KvRows& rows, uint8_t* raw, uint32_t row) {
    return {raw + row * rows.code_bytes, raw + (rows.scales - rows.codes) + row * rows.scale_bytes};
}
// Scales of the tile as numbers, [scale][position].
KEEL_GPU void unpack_scales(const KvRows& rows, uint32_t n, uint8_t* raw, uint32_t threads, float* to) {
    const uint32_t scales = kv_scales(rows.format, n);
    for (uint32_t i = thread_x(); i < scales * kTile; i += threads) {
        const SharedKvRow row = raw_row(rows, raw, i % kTile);
        to[i] = scale_of_field(rows.format, SharedKvRow::load<uint16_t>(row.scales + i / kTile * 2));
    }
}
template <uint32_t WIDE>
KEEL_GPU void unpack_keys(const KvRows& rows, uint32_t n, uint8_t* raw, const uint8_t* table, uint32_t threads) {
    using Tile = IntegerTile<WIDE>;
    for_read_format<true>(kv_coded_as(rows.format), [&]<KvFormat F>() {
        KEEL_NO_UNROLL
        for (uint32_t i = thread_x(); i < kTile * Tile::kBlocks; i += threads) {
            const uint32_t row = i / Tile::kBlocks, block = i % Tile::kBlocks;
            if (8 * block >= n) continue;
            uint8_t* to = Tile::key(row, block / 8, block % 4) + block / 4 % 2 * 8;
            *reinterpret_cast<Words2*>(to) = unpack_words<F>(raw_row(rows, raw, row), n, block, table);
        }
    });
}
// Word e / 4 of four rows -> element e of four positions.
KEEL_GPU void transpose_four(const uint32_t row[4], uint32_t to[4]) {
    const uint32_t low = pick_bytes(row[0], row[1], 0x5140), low2 = pick_bytes(row[2], row[3], 0x5140),
                   high = pick_bytes(row[0], row[1], 0x7362), high2 = pick_bytes(row[2], row[3], 0x7362);
    to[0] = pick_bytes(low, low2, 0x5410);
    to[1] = pick_bytes(low, low2, 0x7632);
    to[2] = pick_bytes(high, high2, 0x5410);
    to[3] = pick_bytes(high, high2, 0x7632);
}
template <uint32_t WIDE>
KEEL_GPU void unpack_values(const KvRows& rows, uint32_t n, uint8_t* raw, const uint8_t* table, uint32_t threads) {
    using Tile = IntegerTile<WIDE>;
    for_read_format<true>(kv_coded_as(rows.format), [&]<KvFormat F>() {
        KEEL_NO_UNROLL
        for (uint32_t i = thread_x(); i < kTile / 4 * Tile::kBlocks; i += threads) {
            const uint32_t block = i % Tile::kBlocks, sixteen = i / Tile::kBlocks % 4, t = i / Tile::kBlocks / 4;
            if (8 * block >= n) continue;
            uint32_t low[4], high[4], word[8];
            KEEL_UNROLL
            for (uint32_t r = 0; r < 4; ++r) {
                const uint32_t row = 16 * sixteen + 2 * t + r % 2 + r / 2 * 8;
                const Words2 w = unpack_words<F>(raw_row(rows, raw, row), n, block, table);
                low[r] = w.x;
                high[r] = w.y;
            }
            transpose_four(low, word);
            transpose_four(high, word + 4);
            KEEL_UNROLL
            for (uint32_t e = 0; e < 8; ++e)
                *reinterpret_cast<uint32_t*>(Tile::value(t, block / 4, e / 2 * 8 + block % 4 * 2 + e % 2) +
                                             4 * sixteen) = word[e];
        }
    });
}

// Queries of the warp's columns as integers, a block for every scale of a K row, with zeros behind.
template <uint32_t WIDE>
KEEL_GPU void quantize_columns(const PrefillBlock& b, float* query_scales) {
    const uint32_t lane = thread_x() % 32, warp = thread_x() / 32, n = b.args.shape.head_dim;
    const uint32_t scales = kv_scales(b.args.places.k.format, n), block = n / scales;
    KEEL_NO_UNROLL
    for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t column = 16 * warp + i;
        int8_t* q8 = reinterpret_cast<int8_t*>(IntegerTile<WIDE>::query(column));
        const bool there = column < b.columns();
        const float* q = b.args.qkv.row + (b.first_token + (there ? column / b.heads : 0)) * b.args.qkv.stride +
                         (b.first_head + (there ? column % b.heads : 0)) * n;
        KEEL_NO_UNROLL
        for (uint32_t s = 0; s < scales; ++s) {
            float most = 0.0f;
            for (uint32_t at = s * block + lane; at < (s + 1) * block; at += 32) {
                const float v = __builtin_fabsf(q[at]);
                most = largest(most, v < kInf32 ? v : __builtin_nanf(""));
            }
            KEEL_UNROLL
            for (uint32_t step = 16; step; step /= 2) most = largest(most, shuffle(most, lane ^ step));
            const bool numbers = most == most;
            const float inverse = numbers && most > 0.0f ? 127.0f / most : 0.0f;
            if (lane == 0) query_scales[column * scales + s] = mul_f32(most, 1.0f / 127.0f);
            for (uint32_t at = s * block + lane; at < (s + 1) * block; at += 32) {
                const float v = numbers && q[at] != 0.0f ? mul_f32(q[at], inverse) : 0.0f;
                q8[at] = static_cast<int8_t>(
                    static_cast<int32_t>(rint_f32(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v)));
            }
        }
        for (uint32_t at = n + lane; at < WIDE; at += 32) q8[at] = 0;
    }
}

// What a lane keeps of its two columns' queries: of 32 elements those of block t of 8, and scales.
template <uint32_t WIDE>
struct IntegerQueries {
    uint32_t word[WIDE / 32][4];
    float scale[2][WIDE / kKvBlock];

    // Behind quantize_columns.
    KEEL_GPU void load(const float* query_scales, uint32_t scales) {
        const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4;
        KEEL_UNROLL
        for (uint32_t r = 0; r < 2; ++r) {
            const uint32_t column = thread_x() / 32 * 16 + 8 * r + g;
            KEEL_UNROLL
            for (uint32_t i = 0; i < WIDE / 32; ++i) {
                const Words2 w = *reinterpret_cast<const Words2*>(IntegerTile<WIDE>::query(column) + 32 * i + 8 * t);
                word[i][r] = w.x;
                word[i][2 + r] = w.y;
                scale[r][i] = i < scales ? query_scales[column * scales + i] : 0.0f;
            }
        }
    }
};

// BLOCKS: K rows have a scale for 32 elements.
template <uint32_t WIDE, bool BLOCKS>
KEEL_GPU void score_integers(const IntegerQueries<WIDE>& q, const float* key_scales, uint32_t scales, Scores* scores) {
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4;
    KEEL_UNROLL
    for (uint32_t i = 0; i < kRowTiles; ++i) {
        int32_t product[4];
        float dot[4] = {};
        const auto add = [&](uint32_t s) {
            float d[2];
            KEEL_UNROLL
            for (uint32_t c = 0; c < 2; ++c) d[c] = key_scales[s * kTile + 8 * i + 2 * t + c];
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) {
                const float sum = add_f32(f32_from_bits(static_cast<uint32_t>(product[e])), -kMagic);
                dot[e] = fma_f32(mul_f32(q.scale[e / 2][s], d[e % 2]), sum, dot[e]);
            }
        };
        KEEL_UNROLL
        for (uint32_t pair = 0; pair < WIDE / 64; ++pair) {
            const Words4 k = *reinterpret_cast<const Words4*>(IntegerTile<WIDE>::key(8 * i + g, pair, t));
            const auto step = [&](uint32_t at, uint32_t b0, uint32_t b1) {
                if (BLOCKS || at == 0)
                    mma_s8_from(product, kMagicBits, q.word[at], b0, b1);
                else
                    mma_s8(product, q.word[at], b0, b1);
                if (BLOCKS && at < scales) add(at);
            };
            step(2 * pair, k.x, k.y);
            step(2 * pair + 1, k.z, k.w);
        }
        if (!BLOCKS) add(0);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) scores->s[i][e] = dot[e];
    }
}

// Weights of the warp's columns as the operands of products, their lower and their upper bytes: of each 32 positions
// four words. And what one stands for.
struct Weights {
    uint32_t lower[2][4], upper[2][4];
    float unit[2];
};
// Of exponentials and the scales of V rows. edge, seen, first: as of soften_tile.
KEEL_GPU void weigh_tile(const Scores& scores, const float* value_scales, bool edge, const Range seen[2],
                         uint32_t first, Weights* w) {
    const uint32_t t = thread_x() % 4;
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float weight[2 * kRowTiles], most = 0.0f;
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2 * kRowTiles; ++i) {
            const uint32_t at = i / 2 * 8 + 2 * t + i % 2;
            weight[i] = mul_f32(scores.s[i / 2][2 * r + i % 2], value_scales[at]);
            if (edge && (first + at < seen[r].begin || first + at >= seen[r].end)) weight[i] = 0.0f;
            most = largest(most, weight[i]);
        }
        most = largest_of_four(most);
        w->unit[r] = most < kInf32 ? mul_f32(most, 1.0f / kWeightSteps) : __builtin_nanf("");
        float inverse = most > 0.0f ? kWeightSteps / most : 0.0f;
        if (inverse == kInf32) {  // of weights so small all are either 0 or the largest
            inverse = kWeightSteps;
            KEEL_UNROLL
            for (uint32_t i = 0; i < 2 * kRowTiles; ++i) weight[i] = weight[i] > 0.0f ? 1.0f : 0.0f;
        }
        if (edge && seen[r].empty()) w->unit[r] = -0.0f;  // so that an output of -0 stays one
        KEEL_UNROLL
        for (uint32_t i = 0; i < kRowTiles / 2; ++i) {
            uint32_t bits[4];
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) bits[e] = f32_bits(add_f32(mul_f32(weight[4 * i + e], inverse), kMagic));
            const uint32_t x = pick_bytes(bits[0], bits[1], 0x5140), y = pick_bytes(bits[2], bits[3], 0x5140);
            w->lower[i / 2][i % 2 * 2 + r] = pick_bytes(x, y, 0x5410);
            w->upper[i / 2][i % 2 * 2 + r] = pick_bytes(x, y, 0x7632);
        }
    }
}

// A lane's part of its columns' outputs: of each 32 elements block t of 8.
template <uint32_t WIDE>
struct BlockOutputs {
    float o[WIDE / 32][2][8];

    KEEL_GPU void clear() {
        KEEL_UNROLL
        for (uint32_t i = 0; i < WIDE / 2; ++i) o[i / 16][i / 8 % 2][i % 8] = 0.0f;
    }
};
template <uint32_t WIDE>
KEEL_GPU void add_part(const Weights& w, uint32_t part, const float by[2], BlockOutputs<WIDE>* out) {
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4;
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        const Words4 v = *reinterpret_cast<const Words4*>(IntegerTile<WIDE>::value(t, part, 8 * i + g));
        int32_t lower[4], upper[4];
        mma_u8_first(upper, w.upper[0], v.x, v.y);
        mma_u8_first(lower, w.lower[0], v.x, v.y);
        mma_u8(upper, w.upper[1], v.z, v.w);
        mma_u8(lower, w.lower[1], v.z, v.w);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            float& o = out->o[part][e / 2][2 * i + e % 2];
            o = fma_f32(w.unit[e / 2], static_cast<float>(lower[e] + 256 * upper[e]), mul_f32(o, by[e / 2]));
        }
    }
}

// ---- rows that are read in f16 by what else reads integers ----
// Sinks and recent rows: few, one after the other. Where else a tile lies, a warp has room for 16 positions of its
// columns, [column][position].
KEEL_GPU float* row_scores(uint32_t column) {
    return reinterpret_cast<float*>(shared_memory()) + (thread_x() / 32 * 16 + column) * 16;
}
KEEL_GPU void score_rows(const PrefillBlock& b, const TilePlace& tile, Range rows, Scores* scores) {
    const uint32_t lane = thread_x() % 32, n = b.args.shape.head_dim;
    const KvRows& k = b.k(tile.view);
    const uint8_t* codes = b.head(k, tile.page);
    KEEL_UNROLL
    for (uint32_t part = 0; part < kTile / 16; ++part) {
        const Range own = cut(rows, tile.first + 16 * part, 16);
        KEEL_NO_UNROLL
        for (uint32_t j = own.begin; j < own.end; ++j) {
            const uint8_t* key = codes + (j - tile.first) * k.code_bytes;
            KEEL_NO_UNROLL
            for (uint32_t i = 0; i < 16; i += 2) {  // half a warp a column
                const uint32_t column = thread_x() / 16 % 2 + i, in_block = thread_x() / 32 * 16 + column,
                               at = in_block < b.columns() ? in_block : 0;
                const float* q = b.args.qkv.row + (b.first_token + at / b.heads) * b.args.qkv.stride +
                                 (b.first_head + at % b.heads) * n;
                float chain = 0.0f;
                for (uint32_t e = lane % 16; e < n; e += 16)
                    chain = fma_f32(widen_f16(load<uint16_t>(key + 2 * e)), q[e], chain);
                chain = tree16(chain);
                if (lane % 16 == 0) row_scores(column)[j % 16] = chain;
            }
        }
        sync_warp();
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i)
            scores->s[2 * part + i / 4][i % 4] =
                row_scores(lane / 4 + i % 4 / 2 * 8)[i / 4 * 8 + lane % 4 * 2 + i % 2];
        sync_warp();
    }
}
template <uint32_t WIDE>
KEEL_GPU void add_rows(const PrefillBlock& b, const TilePlace& tile, Range rows, const Range seen[2],
                       const Scores& scores, const float by[2], BlockOutputs<WIDE>* out) {
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim;
    const KvRows& v = b.v(tile.view);
    const uint8_t* codes = b.head(v, tile.page);
    KEEL_UNROLL
    for (uint32_t i = 0; i < WIDE / 2; ++i) {
        float& o = out->o[i / 16][i / 8 % 2][i % 8];
        o = mul_f32(o, by[i / 8 % 2]);
    }
    KEEL_UNROLL
    for (uint32_t part = 0; part < kTile / 16; ++part) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i)
            row_scores(g + i % 4 / 2 * 8)[i / 4 * 8 + 2 * t + i % 2] = scores.s[2 * part + i / 4][i % 4];
        sync_warp();
        const Range own = cut(rows, tile.first + 16 * part, 16);
        KEEL_NO_UNROLL
        for (uint32_t j = own.begin; j < own.end; ++j) {
            const uint8_t* value = codes + (j - tile.first) * v.code_bytes;
            KEEL_UNROLL
            for (uint32_t eights = 0; eights < WIDE / 32; ++eights) {
                const uint32_t block = 4 * eights + t;
                if (8 * block >= n) continue;
                float x[8];
                widen_words(load<Words4>(value + 16 * block), x);
                KEEL_UNROLL
                for (uint32_t r = 0; r < 2; ++r) {
                    if (j < seen[r].begin || j >= seen[r].end) continue;
                    const float p = row_scores(g + 8 * r)[j % 16];
                    KEEL_UNROLL
                    for (uint32_t e = 0; e < 8; ++e) out->o[eights][r][e] = fma_f32(p, x[e], out->o[eights][r][e]);
                }
            }
        }
        sync_warp();
    }
}

// ---- a split's end ----
// Into the partials, or what the column has of the splits before.
template <uint32_t WIDE>
KEEL_GPU void finish_split(const PrefillBlock& b, uint32_t split, uint32_t view, ColumnState column[2],
                           BlockOutputs<WIDE>* out) {
    const AttentionArgs& args = b.args;
    const uint32_t t = thread_x() % 4, n = args.shape.head_dim;
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        ColumnState& c = column[r];
        const uint32_t own = own_column(r), token = b.first_token + own / b.heads, head = b.first_head + own % b.heads;
        if (own < b.columns() && !cut(b.range(view, c.position), split, kSplitPositions).empty()) {
            float by = kCopied, from_by = 0.0f;
            float* to;
            if (args.partial) {
                const uint32_t slot =
                    partial_slot(args.partial_slots, args.places.sink_tokens, args.places.recent_tokens, view,
                                 split / kSplitPositions, b.range(kRecent, c.position).begin);
                const uint64_t row = uint64_t{token} * args.shape.heads + head;
                to = args.partial + (row * args.partial_slots + slot) * (n + kPartialState);
                if (t == 0) {
                    to[n] = c.m;
                    to[n + 1] = c.l;
                }
            } else {
                to = args.out.row + token * args.out.stride + head * n;
                if (c.total_m == -kInf32) {
                    c.total_m = c.m;
                    c.total_l = c.l;
                } else {
                    const float merged = largest(c.total_m, c.m);
                    by = exp_f32(add_f32(c.total_m, -merged));
                    from_by = exp_f32(add_f32(c.m, -merged));
                    c.total_l = fma_f32(c.total_l, by, mul_f32(c.l, from_by));
                    c.total_m = merged;
                }
            }
            KEEL_UNROLL
            for (uint32_t i = 0; i < WIDE / 16; ++i) {  // four elements
                const uint32_t at = i / 2 * 32 + 8 * t + i % 2 * 4;
                if (at >= n) continue;
                Floats4* four = reinterpret_cast<Floats4*>(to + at);
                Floats4 sum = by == kCopied ? Floats4{} : *four;
                KEEL_UNROLL
                for (uint32_t e = 0; e < 4; ++e) {
                    const float o = out->o[i / 2][r][i % 2 * 4 + e];
                    sum.x[e] = by == kCopied ? o : fma_f32(sum.x[e], by, mul_f32(o, from_by));
                }
                *four = sum;
            }
        }
        c.m = -kInf32;
        c.l = 0.0f;
    }
    out->clear();
}

// ---- the block ----
template <uint32_t WIDE>
KEEL_GPU void attend_tokens(const PrefillBlock& b, const PrefillRoom& room, uint32_t threads) {
    const AttentionArgs& args = b.args;
    const KvPlaces& places = args.places;
    const uint32_t lane = thread_x() % 32, warp = thread_x() / 32, n = args.shape.head_dim;
    const uint32_t key_scale_count = kv_scales(places.k.format, n);
    const bool key_blocks = is_block32(places.k.format), value_blocks = is_block32(places.v.format);
    float *key_scales = reinterpret_cast<float*>(shared_memory() + room.key_scales),
          *value_scales = reinterpret_cast<float*>(shared_memory() + room.value_scales),
          *query_scales = reinterpret_cast<float*>(shared_memory() + room.query_scales);
    uint8_t *raw_keys = shared_memory() + room.raw_keys, *raw_values = shared_memory() + room.raw_values;
    const bool works = 16 * warp < b.columns();

    const auto copy = [&](const TilePlace& tile) {
        if (!tile.none() && tile.view == kCoded && tile.page) {
            copy_tile(b, places.k, tile.page, threads, raw_keys);
            copy_tile(b, places.v, tile.page, threads, raw_values);
        }
        copy_commit();
    };
    TilePlace tile = first_tile(b);
    copy(tile);
    quantize_columns<WIDE>(b, query_scales);
    sync_warp();
    IntegerQueries<WIDE> q;
    q.load(query_scales, key_scale_count);

    ColumnState column[2];
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        column[r].position = b.first_position + (own < b.columns() ? own / b.heads : 0);
        column[r].m = column[r].total_m = -kInf32;
        column[r].l = column[r].total_l = 0.0f;
    }
    BlockOutputs<WIDE> out;
    out.clear();

    while (!tile.none()) {
        const bool coded = tile.view == kCoded;
        const TilePlace next = next_tile(b, tile);
        copy_wait<0>();
        sync_block();
        if (coded && tile.page) {
            unpack_scales(places.k, n, raw_keys, threads, key_scales);
            unpack_scales(places.v, n, raw_values, threads, value_scales);
            unpack_keys<WIDE>(places.k, n, raw_keys, shared_memory() + room.key_table, threads);
            unpack_values<WIDE>(places.v, n, raw_values, shared_memory() + room.value_table, threads);
        }
        sync_block();
        copy(next);
        if (works && tile.page) {
            const bool edge = !coded || !b.all_see(tile.view, tile.first);
            Range seen[2];
            KEEL_UNROLL
            for (uint32_t r = 0; r < 2; ++r) seen[r] = cut(b.range(tile.view, column[r].position), tile.first, kTile);
            Scores scores;
            float by[2];
            if (!coded) {
                const Range rows = cut(b.seen(tile.view), tile.first, kTile);
                score_rows(b, tile, rows, &scores);
                soften_tile(args, edge, seen, tile.first, &scores, column, by);
                add_rows(b, tile, rows, seen, scores, by, &out);
            } else {
                if (key_blocks)
                    score_integers<WIDE, true>(q, key_scales, key_scale_count, &scores);
                else
                    score_integers<WIDE, false>(q, key_scales, 1, &scores);
                soften_tile(args, edge, seen, tile.first, &scores, column, by);
                Weights w;
                if (!value_blocks) weigh_tile(scores, value_scales, edge, seen, tile.first, &w);
                KEEL_UNROLL
                for (uint32_t part = 0; part < WIDE / 32; ++part) {
                    if (32 * part >= n) continue;
                    if (value_blocks) weigh_tile(scores, value_scales + part * kTile, edge, seen, tile.first, &w);
                    add_part<WIDE>(w, part, by, &out);
                }
            }
        }
        if (works && !tile.joins(next)) finish_split<WIDE>(b, tile.split, tile.view, column, &out);
        tile = next;
    }
    copy_wait<0>();
    if (args.partial) return;
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        if (own >= b.columns() || lane % 4 != 0) continue;
        float* state = args.state.row + (b.first_token + own / b.heads) * args.state.stride;
        const uint32_t head = b.first_head + own % b.heads;
        state[head] = column[r].total_m;
        state[args.shape.heads + head] = column[r].total_l;
    }
}

template <uint32_t WIDE>
KEEL_GPU void attend_integers(const AttentionArgs& args) {
    const Heads& s = args.shape;
    const KvPlaces& places = args.places;
    const uint32_t group = s.heads / s.kv_heads, head_tiles = divide_up(group, args.tile_heads);
    const uint32_t head_tile = block_x() % head_tiles, left = group - head_tile * args.tile_heads;
    const uint32_t splits = args.partial ? args.splits : 1, block = args.block_begin + block_y();
    const uint32_t split = block % splits * kSplitPositions, threads = prefill_threads(args);
    const uint32_t first_block = block / splits * args.tile_blocks, blocks_left = args.query_blocks - first_block;
    const uint32_t last_block = first_block + (blocks_left < args.tile_blocks ? blocks_left : args.tile_blocks) - 1;
    const PrefillRoom room = prefill_room(places.k.format, places.v.format, s.head_dim);

    if (is_trellis(places.k.format))
        fill_trellis_table(kKvFormats[places.k.format].bits, shared_memory() + room.key_table, threads);
    if (is_trellis(places.v.format) && room.value_table != room.key_table)
        fill_trellis_table(kKvFormats[places.v.format].bits, shared_memory() + room.value_table, threads);

    // Tokens of one session at a time.
    const uint32_t tokens_end = args.step.query_block[2 * last_block] + args.step.query_block[2 * last_block + 1];
    for (uint32_t first = args.step.query_block[2 * first_block], end; first < tokens_end; first = end) {
        const uint32_t session = args.step.session[first];
        for (end = first + 1; end < tokens_end && args.step.session[end] == session;) ++end;
        PrefillBlock b = {args,
                          block_x() / head_tiles,
                          block_x() / head_tiles * group + head_tile * args.tile_heads,
                          left < args.tile_heads ? left : args.tile_heads,
                          session,
                          first,
                          end - first,
                          args.step.position[first],
                          args.step.position[end - 1],
                          {},
                          args.step.page_id + args.step.page_first[session]};
        b.reach = Range{split, split + kSplitPositions};
        if (!args.partial) b.reach = {0, b.last_position + 1};
        attend_tokens<WIDE>(b, room, threads);
        sync_block();
    }
}

}  // namespace

KEEL_GPU_KERNEL_OF(attend_integers_64, 1) {
    attend_integers<64>(args);
}
KEEL_GPU_KERNEL_OF(attend_integers_128, 1) {
    attend_integers<128>(args);
}

}  // namespace keel::cuda
