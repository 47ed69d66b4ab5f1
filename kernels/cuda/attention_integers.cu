// Attention of many columns where K and V are integers (attention_prefill.cuh). Scores lie where matrix units leave
// them, as the rows of a product; there they take weights from again. In what order a product goes through positions is
// free.
#include "kernels/cuda/attention_prefill.cuh"

namespace keel::cuda {
namespace {

// What lies at the beginning of shared memory, WIDE being the elements of a head in blocks of 64.
// K: rows of WIDE bytes, of each 64 elements what lane t of a product takes: block t of 8 of the first and of the
// second 32. V: of each 32 elements and each t words of four positions, [element][sixteen positions]. A product's
// column 2 t + c is then element c of a pair of block t.
template <uint32_t WIDE>
struct IntegerTile {
    static constexpr uint32_t kBlocks = WIDE / 8;

    static KEEL_GPU uint8_t* key(uint32_t row, uint32_t pair, uint32_t t) {
        return shared_memory() + kPrefillFactsBytes + row * WIDE +
               ((pair * 64 + t * 16) ^ (WIDE > 64 ? row % 2 * 64 : 0));
    }
    static KEEL_GPU uint8_t* value(uint32_t t, uint32_t part, uint32_t index) {
        return shared_memory() + kPrefillFactsBytes + kTile * WIDE + t * prefill_value_pitch(WIDE) + part * kValuePart +
               index * 16;
    }
    // Of the warp's queries: element e of a column as a lane takes it, sixteen bytes of each 32 elements.
    static KEEL_GPU int8_t* query(uint32_t column, uint32_t e) {
        const uint32_t lane = column % 8 * 4 + e % 32 / 8;
        return reinterpret_cast<int8_t*>(query_words(e / 32, lane)) + e % 8 / 4 * 8 + column / 8 * 4 + e % 4;
    }
    static KEEL_GPU uint8_t* query_words(uint32_t step, uint32_t lane) {
        return shared_memory() + kPrefillFactsBytes + thread_x() / 32 * 16 * WIDE + (step * 32 + lane) * 16;
    }
};

KEEL_GPU void copy_tile(const PrefillBlock& b, const TilePlace& tile, const KvRows& rows, uint32_t threads,
                        uint8_t* to) {
    const uint8_t* from = b.rows_of(tile, rows);
    for (uint32_t i = 16 * thread_x_again(); i < rows.head_bytes; i += 16 * threads) copy16(to + i, from + i);
}
KEEL_GPU SharedKvRow raw_row(const KvRows& rows, uint8_t* raw, uint32_t row) {
    return {raw + row * rows.code_bytes, raw + (rows.scales - rows.codes) + row * rows.scale_bytes};
}
// Scales of the tile as numbers, [scale][position].
template <KvFormat F>
KEEL_GPU void unpack_scales(const KvRows& rows, uint32_t n, uint8_t* raw, uint32_t threads, float* to) {
    for (uint32_t i = thread_x_again(); i < kv_scales(F, n) * kTile; i += threads) {
        const SharedKvRow row = raw_row(rows, raw, i % kTile);
        to[i] = scale_of_field(F, SharedKvRow::load<uint16_t>(row.scales + i / kTile * 2));
    }
}
template <uint32_t WIDE>
KEEL_GPU void unpack_keys(const KvRows& rows, uint32_t n, uint8_t* raw, const uint8_t* table, float* scales,
                          uint32_t threads) {
    using Tile = IntegerTile<WIDE>;
    for_read_format<true>(kv_coded_as(rows.format), [&]<KvFormat F>() {
        unpack_scales<F>(rows, n, raw, threads, scales);
        KEEL_NO_UNROLL
        for (uint32_t i = thread_x_again(); i < kTile / 4 * Tile::kBlocks; i += threads) {
            const uint32_t first = i / Tile::kBlocks, block = i % Tile::kBlocks;
            if (8 * block >= n) continue;
            Words2 w[4];  // of rows that lie apart, at once
            KEEL_UNROLL
            for (uint32_t r = 0; r < 4; ++r)
                w[r] = unpack_words<F>(raw_row(rows, raw, first + kTile / 4 * r), n, block, table);
            KEEL_UNROLL
            for (uint32_t r = 0; r < 4; ++r)
                *reinterpret_cast<Words2*>(Tile::key(first + kTile / 4 * r, block / 8, block % 4) + block / 4 % 2 * 8) =
                    w[r];
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
KEEL_GPU void unpack_values(const KvRows& rows, uint32_t n, uint8_t* raw, const uint8_t* table, float* scales,
                            uint32_t threads) {
    using Tile = IntegerTile<WIDE>;
    for_read_format<true>(kv_coded_as(rows.format), [&]<KvFormat F>() {
        unpack_scales<F>(rows, n, raw, threads, scales);
        KEEL_NO_UNROLL
        for (uint32_t i = thread_x_again(); i < kTile / 4 * Tile::kBlocks; i += threads) {
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
        const bool there = column < b.columns();
        const float* q = b.args.qkv.row +
                         (b.facts().first_token + (there ? column / b.facts().heads : 0)) * b.args.qkv.stride +
                         (b.facts().first_head + (there ? column % b.facts().heads : 0)) * n;
        quantize_query(q, block, scales, query_scales + column * scales,
                       [&](uint32_t at, int8_t v) { *IntegerTile<WIDE>::query(i, at) = v; });
        for (uint32_t at = n + lane; at < WIDE; at += 32) *IntegerTile<WIDE>::query(i, at) = 0;
    }
}

// What a lane keeps of its two columns' queries: of 32 elements those of block t of 8.
template <uint32_t WIDE>
struct IntegerQueries {
    uint32_t word[WIDE / 32][4];

    // Behind quantize_columns.
    KEEL_GPU void load() {
        KEEL_UNROLL
        for (uint32_t i = 0; i < WIDE / 32; ++i) {
            const Words4 w = *reinterpret_cast<const Words4*>(IntegerTile<WIDE>::query_words(i, thread_x() % 32));
            word[i][0] = w.x;
            word[i][1] = w.y;
            word[i][2] = w.z;
            word[i][3] = w.w;
        }
    }
};

// BLOCKS: K rows have a scale for 32 elements.
template <uint32_t WIDE, bool BLOCKS>
KEEL_GPU void score_integers(const IntegerQueries<WIDE>& q, const float* query_scales, const float* key_scales,
                             uint32_t scales, Scores* scores) {
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4;
    float query_scale[2][BLOCKS ? WIDE / kKvBlock : 1];
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        KEEL_UNROLL
        for (uint32_t s = 0; s < (BLOCKS ? WIDE / kKvBlock : 1); ++s)
            query_scale[r][s] = s < scales ? query_scales[own_column(r) * scales + s] : 0.0f;
    }
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
                const float scale = mul_f32(query_scale[e / 2][s], d[e % 2]);
                dot[e] = fma_f32(scale, static_cast<float>(product[e]), dot[e]);
            }
        };
        KEEL_UNROLL
        for (uint32_t pair = 0; pair < WIDE / 64; ++pair) {
            const Words4 k = *reinterpret_cast<const Words4*>(IntegerTile<WIDE>::key(8 * i + g, pair, t));
            const auto step = [&](uint32_t at, uint32_t b0, uint32_t b1) {
                if (BLOCKS || at == 0)
                    mma_s8_from(product, 0, q.word[at], b0, b1);
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
    const uint32_t t = thread_x_again() % 4;
    float weight[2][2 * kRowTiles], inverse[2];
    KEEL_UNROLL
    for (uint32_t i = 0; i < 2 * kRowTiles; ++i) {
        const float scale = value_scales[i / 2 * 8 + 2 * t + i % 2];
        KEEL_UNROLL
        for (uint32_t r = 0; r < 2; ++r) weight[r][i] = mul_f32(scores.s[i / 2][2 * r + i % 2], scale);
    }
    if (edge) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4 * kRowTiles; ++i) {
            const uint32_t r = i / (2 * kRowTiles), j = i % (2 * kRowTiles), at = first + j / 2 * 8 + 2 * t + j % 2;
            if (at < seen[r].begin || at >= seen[r].end) weight[r][j] = 0.0f;
        }
    }
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float most[kRowTiles];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kRowTiles; ++i) most[i] = largest(weight[r][i], weight[r][i + kRowTiles]);
        KEEL_UNROLL
        for (uint32_t step = kRowTiles / 2; step; step /= 2) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < step; ++i) most[i] = largest(most[i], most[i + step]);
        }
        const float top = largest_of_four(most[0]);
        w->unit[r] = top < kInf32 ? mul_f32(top, 1.0f / kWeightSteps) : __builtin_nanf("");
        if (edge && seen[r].empty()) w->unit[r] = -0.0f;  // so that an output of -0 stays one
        inverse[r] = top > 0.0f ? kWeightSteps / top : 0.0f;
    }
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        if (inverse[r] != kInf32) continue;
        inverse[r] = kWeightSteps;  // of weights so small all are either 0 or the largest
        KEEL_UNROLL
        for (uint32_t i = 0; i < 2 * kRowTiles; ++i) weight[r][i] = weight[r][i] > 0.0f ? 1.0f : 0.0f;
    }
    KEEL_UNROLL
    for (uint32_t i = 0; i < kRowTiles / 2; ++i) {
        KEEL_UNROLL
        for (uint32_t r = 0; r < 2; ++r) {
            uint32_t bits[4];  // the lowest of them are the weight
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e)
                bits[e] = f32_bits(add_f32(mul_f32(weight[r][4 * i + e], inverse[r]), kRound32));
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
// PARTS of 32 elements from `first` on. While sums of some products become outputs, the next ones are on their way.
template <uint32_t WIDE, uint32_t PARTS>
KEEL_GPU void add_parts(const Weights& w, uint32_t first, const float by[2], BlockOutputs<WIDE>* out) {
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4;
    constexpr uint32_t kAhead = 2;  // products on their way, of eight elements
    int32_t lower[kAhead + 1][4], upper[kAhead + 1][4];
    const auto multiply = [&](uint32_t i) {
        const Words4 v = *reinterpret_cast<const Words4*>(IntegerTile<WIDE>::value(t, first + i / 4, i % 4 * 8 + g));
        mma_u8_first(upper[i % (kAhead + 1)], w.upper[0], v.x, v.y);
        mma_u8_first(lower[i % (kAhead + 1)], w.lower[0], v.x, v.y);
        mma_u8(upper[i % (kAhead + 1)], w.upper[1], v.z, v.w);
        mma_u8(lower[i % (kAhead + 1)], w.lower[1], v.z, v.w);
    };
    KEEL_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) multiply(i);
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4 * PARTS; ++i) {
        if (i + kAhead < 4 * PARTS) multiply(i + kAhead);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            const int32_t sum = lower[i % (kAhead + 1)][e] + 256 * upper[i % (kAhead + 1)][e];
            float& o = out->o[first + i / 4][e / 2][i % 4 * 2 + e % 2];
            o = fma_f32(w.unit[e / 2], static_cast<float>(sum), mul_f32(o, by[e / 2]));
        }
    }
}

// ---- rows that are read in f16 by what else reads integers ----
// Sinks and recent rows: few, one after the other. Where else a tile lies, a warp has room for 16 positions of its
// columns, [column][position].
KEEL_GPU float* row_scores(uint32_t column) {
    return reinterpret_cast<float*>(shared_memory() + kPrefillFactsBytes) + (thread_x() / 32 * 16 + column) * 16;
}
KEEL_GPU void score_rows(const PrefillBlock& b, const TilePlace& tile, Range rows, Scores* scores) {
    const uint32_t lane = thread_x_again() % 32, n = b.args.shape.head_dim;
    const KvRows& k = b.k(tile.view);
    KEEL_UNROLL
    for (uint32_t part = 0; part < kTile / 16; ++part) {
        const Range own = cut(rows, tile.first + 16 * part, 16);
        KEEL_NO_UNROLL
        for (uint32_t j = own.begin; j < own.end; ++j) {
            const uint8_t* key = b.row_of(tile, k, j - tile.first);
            KEEL_NO_UNROLL
            for (uint32_t i = 0; i < 16; i += 2) {  // half a warp a column
                const uint32_t column = thread_x() / 16 % 2 + i, in_block = thread_x() / 32 * 16 + column,
                               at = in_block < b.columns() ? in_block : 0;
                const float* q = b.args.qkv.row + (b.facts().first_token + at / b.facts().heads) * b.args.qkv.stride +
                                 (b.facts().first_head + at % b.facts().heads) * n;
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
            scores->s[2 * part + i / 4][i % 4] = row_scores(lane / 4 + i % 4 / 2 * 8)[i / 4 * 8 + lane % 4 * 2 + i % 2];
        sync_warp();
    }
}
template <uint32_t WIDE>
KEEL_GPU void add_rows(const PrefillBlock& b, const TilePlace& tile, Range rows, const Range seen[2],
                       const Scores& scores, const float by[2], BlockOutputs<WIDE>* out) {
    const uint32_t lane = thread_x_again() % 32, g = lane / 4, t = lane % 4, n = b.args.shape.head_dim;
    const KvRows& v = b.v(tile.view);
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
            const uint8_t* value = b.row_of(tile, v, j - tile.first);
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

template <uint32_t WIDE>
KEEL_GPU void finish_split(const PrefillBlock& b, uint32_t split, uint32_t view, ColumnState column[2],
                           BlockOutputs<WIDE>* out) {
    const uint32_t t = thread_x_again() % 4;
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        const Merging merging = merge_state(b, own, split, view, &column[r]);
        if (merging.by != kLeft) {
            float* to = output_of(b, own, split, view);
            KEEL_UNROLL
            for (uint32_t first = 0; first < WIDE / 32; first += 2) {
                Floats8 older[2];
                const uint32_t at = first * 32 + 8 * t;
                KEEL_UNROLL
                for (uint32_t i = 0; i < 2; ++i)
                    if (at + 32 * i < b.args.shape.head_dim) older[i] = older_eight(to + at + 32 * i, merging);
                KEEL_UNROLL
                for (uint32_t i = 0; i < 2; ++i)
                    if (at + 32 * i < b.args.shape.head_dim)
                        merge_eight(to + at + 32 * i, older[i], out->o[first + i][r], merging);
            }
            if (t == 0) put_state(b, to, column[r]);
        }
        column[r].m = -kInf32;
        column[r].l = 0.0f;
    }
    out->clear();
}

// ---- the block ----
// BLOCKS: rows of K, of V or of both have a scale for 32 elements.
template <uint32_t WIDE, bool BLOCKS>
KEEL_GPU void attend_tokens(const PrefillBlock& b, const PrefillRoom& room, uint32_t threads) {
    const AttentionArgs& args = b.args;
    const KvPlaces& places = args.places;
    const uint32_t warp = thread_x() / 32, n = args.shape.head_dim;
    const uint32_t key_scale_count = kv_scales(places.k.format, n);
    const bool key_blocks = BLOCKS && is_block32(places.k.format), value_blocks = BLOCKS && is_block32(places.v.format);
    float *key_scales = reinterpret_cast<float*>(shared_memory() + room.key_scales),
          *value_scales = reinterpret_cast<float*>(shared_memory() + room.value_scales),
          *query_scales = reinterpret_cast<float*>(shared_memory() + room.query_scales);
    uint8_t *raw_keys = shared_memory() + room.raw_keys, *raw_values = shared_memory() + room.raw_values;
    const bool works = 16 * warp < b.columns();

    const auto copy = [&](const TilePlace& tile) {
        if (tile.there() && tile.view == kCoded) {
            copy_tile(b, tile, places.k, threads, raw_keys);
            copy_tile(b, tile, places.v, threads, raw_values);
        }
        copy_commit();
    };
    TilePlace tile = first_tile(b);
    copy(tile);
    quantize_columns<WIDE>(b, query_scales);
    sync_warp();
    IntegerQueries<WIDE> q;
    q.load();

    ColumnState column[2];
    begin_columns(b, column);
    BlockOutputs<WIDE> out;
    out.clear();

    const Range all = b.all_see(kCoded);
    while (!tile.none()) {
        const bool coded = tile.view == kCoded;
        const TilePlace next = next_tile(b, tile);
        copy_wait<0>();
        sync_block();
        if (coded && tile.there()) {
            unpack_keys<WIDE>(places.k, n, raw_keys, shared_memory() + room.key_table, key_scales, threads);
            unpack_values<WIDE>(places.v, n, raw_values, shared_memory() + room.value_table, value_scales, threads);
        }
        sync_block();
        copy(next);
        if (works && tile.there()) {
            const bool edge = !coded || tile.first < all.begin || tile.first + kTile > all.end;
            Range seen[2] = {};
            if (edge) b.tile_ranges(tile, column, seen);
            Scores scores;
            float by[2];
            if (!coded) {
                const Range rows = cut(b.seen(tile.view), tile.first, kTile);
                score_rows(b, tile, rows, &scores);
                soften_tile(args, edge, seen, tile.first, &scores, column, by);
                add_rows(b, tile, rows, seen, scores, by, &out);
            } else {
                if (key_blocks)
                    score_integers<WIDE, true>(q, query_scales, key_scales, key_scale_count, &scores);
                else
                    score_integers<WIDE, false>(q, query_scales, key_scales, 1, &scores);
                soften_tile(args, edge, seen, tile.first, &scores, column, by);
                Weights w;
                if (value_blocks) {
                    KEEL_UNROLL
                    for (uint32_t part = 0; part < WIDE / 32; ++part) {
                        if (32 * part >= n) continue;
                        weigh_tile(scores, value_scales + part * kTile, edge, seen, tile.first, &w);
                        add_parts<WIDE, 1>(w, part, by, &out);
                    }
                } else {
                    weigh_tile(scores, value_scales, edge, seen, tile.first, &w);
                    KEEL_UNROLL
                    for (uint32_t part = 0; part < WIDE / 32; part += 2)
                        if (32 * part < n) add_parts<WIDE, 2>(w, part, by, &out);
                }
            }
        }
        if (works && !tile.joins(next)) finish_split<WIDE>(b, tile.split, tile.view, column, &out);
        tile = next;
    }
    copy_wait<0>();
    put_totals(b, column);
}

template <uint32_t WIDE, bool BLOCKS>
KEEL_GPU void attend_integers(const AttentionArgs& args) {
    const KvFormat k = args.places.k.format, v = args.places.v.format;
    const PrefillRoom room = prefill_room(k, v, args.shape.head_dim);
    const uint32_t threads = prefill_threads(args);
    if (is_trellis(k)) fill_trellis_table(kKvFormats[k].bits, shared_memory() + room.key_table, threads);
    if (is_trellis(v) && room.value_table != room.key_table)
        fill_trellis_table(kKvFormats[v].bits, shared_memory() + room.value_table, threads);
    for_sessions(args, [&](const PrefillBlock& b) { attend_tokens<WIDE, BLOCKS>(b, room, threads); });
}

}  // namespace

KEEL_GPU_KERNEL_OF(attend_integers_64, 1) {
    attend_integers<64, false>(args);
}
KEEL_GPU_KERNEL_OF(attend_integers_128, 1) {
    attend_integers<128, false>(args);
}
KEEL_GPU_KERNEL_OF(attend_blocks_64, 1) {
    attend_integers<64, true>(args);
}
KEEL_GPU_KERNEL_OF(attend_blocks_128, 1) {
    attend_integers<128, true>(args);
}

}  // namespace keel::cuda
