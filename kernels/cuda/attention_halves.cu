// Attention of many columns where K and V are f16 (attention_prefill.cuh), on the units for f32: sums are those of
// NUMERICS section 5, and what there is of it is done from registers.
//
// Scores: lane (g, t) has NUMERICS' lanes t, t + 4, t + 8 and t + 12 of columns g and g + 8, whose queries it keeps in
// registers, and takes rows of K in an order that makes its elements one piece. Outputs: eight elements of some
// columns, over positions one after the other.
#include "kernels/cuda/attention_prefill.cuh"

namespace keel::cuda {
namespace {

// Where things lie in shared memory: K of a tile, of each 32 elements those of lanes 0 to 3; V as in the page; of each
// warp weights of sixteen positions, [position][column].
template <uint32_t WIDE>
struct HalvesTile {
    static constexpr uint32_t kParts = WIDE / 32;  // of a row of K, 64 bytes each
    static constexpr uint32_t kElementLanes = WIDE / 8, kColumns = 16 * kElementLanes / 32;  // of outputs, of a lane

    static KEEL_GPU uint8_t* key(uint32_t row, uint32_t part, uint32_t t) {
        return shared_memory() + kPrefillFactsBytes + (row * kParts + part) * 64 + t * 16;
    }
    static KEEL_GPU uint8_t* values() { return shared_memory() + kPrefillFactsBytes + kTile * WIDE * 2; }
    static KEEL_GPU float* weights(uint32_t position) {
        return reinterpret_cast<float*>(values() + kTile * WIDE * 2) +
               (thread_x() / 32 * 16 + position) * kHalvesWeightPitch;
    }
    // The first of the columns, and the elements, whose outputs the lane has.
    static KEEL_GPU uint32_t first_column() { return thread_x() % 32 / kElementLanes * kColumns; }
    static KEEL_GPU uint32_t element_block() { return thread_x() % kElementLanes; }
};

// 32 elements of a row, on their way to shared memory.
struct KeyPart {
    Words4 w[4];
};
template <uint32_t WIDE>
KEEL_GPU KeyPart load_key(const PrefillBlock& b, const TilePlace& tile, uint32_t i) {
    const uint32_t row = i / HalvesTile<WIDE>::kParts, part = i % HalvesTile<WIDE>::kParts;
    const KvRows& rows = b.k(tile.view);
    const uint8_t* from = b.row_of(tile, rows, row);
    KeyPart out;
    KEEL_UNROLL
    for (uint32_t e = 0; e < 4; ++e) {
        const uint32_t block = 4 * part + e;
        const bool there = row < tile.rows() && 8 * block < b.args.shape.head_dim;
        out.w[e] = there ? load<Words4>(from + 16 * block) : Words4{};
    }
    return out;
}
// Elements t, t + 4, ... of both halves go to lane t.
template <uint32_t WIDE>
KEEL_GPU void store_key(const KeyPart& key, uint32_t i) {
    const uint32_t row = i / HalvesTile<WIDE>::kParts, part = i % HalvesTile<WIDE>::kParts;
    KEEL_UNROLL
    for (uint32_t t = 0; t < 4; ++t) {
        uint32_t word[4];
        KEEL_UNROLL
        for (uint32_t e = 0; e < 4; ++e) {
            const Words4& w = key.w[e];
            word[e] = pick_bytes(t / 2 ? w.y : w.x, t / 2 ? w.w : w.z, t % 2 ? 0x7632 : 0x5410);
        }
        *reinterpret_cast<Words4*>(HalvesTile<WIDE>::key(row, part, t)) = {word[0], word[1], word[2], word[3]};
    }
}

// Scores of the positions 8 i + c + 2 p, p < 4, of a lane's two columns into those of p = t.
template <uint32_t WIDE>
KEEL_GPU void score_halves(const float q[2][WIDE / 4], uint32_t first, float out[2]) {
    const uint32_t lane = thread_x() % 32, t = lane % 4;
    float chain[4][2][4] = {};
    KEEL_UNROLL
    for (uint32_t part = 0; part < WIDE / 32; ++part) {
        KEEL_UNROLL
        for (uint32_t p = 0; p < 4; ++p) {
            float k[8];
            widen_words(*reinterpret_cast<const Words4*>(HalvesTile<WIDE>::key(first + 2 * p, part, t)), k);
            KEEL_UNROLL
            for (uint32_t r = 0; r < 2; ++r) {
                KEEL_UNROLL
                for (uint32_t e = 0; e < 8; ++e)
                    chain[p][r][e % 4] = fma_f32(k[e], q[r][8 * part + e], chain[p][r][e % 4]);
            }
        }
    }
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        float sum[4], half[2];
        KEEL_UNROLL
        for (uint32_t p = 0; p < 4; ++p)
            sum[p] = add_f32(add_f32(chain[p][r][0], chain[p][r][2]), add_f32(chain[p][r][1], chain[p][r][3]));
        KEEL_UNROLL
        for (uint32_t p = 0; p < 2; ++p) {
            const float sent = t & 2 ? sum[p] : sum[2 + p], kept = t & 2 ? sum[2 + p] : sum[p];
            half[p] = add_f32(kept, shuffle(sent, lane ^ 2));
        }
        const float sent = t & 1 ? half[0] : half[1], kept = t & 1 ? half[1] : half[0];
        out[r] = add_f32(kept, shuffle(sent, lane ^ 1));
    }
}

template <uint32_t WIDE>
struct HalvesOutputs {
    using Tile = HalvesTile<WIDE>;
    float o[Tile::kColumns][8];

    KEEL_GPU void clear() {
        KEEL_UNROLL
        for (uint32_t i = 0; i < Tile::kColumns * 8; ++i) o[i / 8][i % 8] = 0.0f;
    }
    // What the lanes of column `c` of the lane's outputs have at their place for it.
    static KEEL_GPU float of_column(const float v[2], uint32_t c) {
        const uint32_t column = Tile::first_column() + c, from = column % 8 * 4;
        const float low = shuffle(v[0], from);
        const float high = shuffle(v[1], from);
        return column < 8 ? low : high;
    }
};

// Position j of the tile. EDGE: weights below 0 are of positions that the column does not see.
template <uint32_t WIDE, bool EDGE>
KEEL_GPU void add_position(const uint8_t* value, uint32_t j, HalvesOutputs<WIDE>* out) {
    using Tile = HalvesTile<WIDE>;
    float v[8], p[Tile::kColumns];
    widen_words(*reinterpret_cast<const Words4*>(value), v);
    const Floats4* weights = reinterpret_cast<const Floats4*>(Tile::weights(j % 16) + Tile::first_column());
    KEEL_UNROLL
    for (uint32_t c = 0; c < Tile::kColumns; ++c) p[c] = weights[c / 4].x[c % 4];
    KEEL_UNROLL
    for (uint32_t c = 0; c < Tile::kColumns; ++c) {
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; ++e) {
            const float sum = fma_f32(p[c], v[e], out->o[c][e]);
            out->o[c][e] = EDGE && p[c] < 0.0f ? out->o[c][e] : sum;
        }
    }
}
// Exponentials of a tile times its rows of V; what they lie in is used up.
template <uint32_t WIDE>
KEEL_GPU void add_halves(bool edge, const Range seen[2], const TilePlace& tile, uint32_t row_bytes, const float by[2],
                         Scores* scores, HalvesOutputs<WIDE>* out) {
    using Tile = HalvesTile<WIDE>;
    const uint32_t lane = thread_x() % 32, g = lane / 4, t = lane % 4;
    KEEL_UNROLL
    for (uint32_t c = 0; c < Tile::kColumns; ++c) {
        const float factor = out->of_column(by, c);
        KEEL_UNROLL
        for (uint32_t e = 0; e < 8; ++e) out->o[c][e] = mul_f32(out->o[c][e], factor);
    }
    const uint8_t* value = Tile::values() + (16 * Tile::element_block() < row_bytes ? 16 * Tile::element_block() : 0);
    KEEL_NO_UNROLL
    for (uint32_t first = 0; first < kTile; first += 16) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 8; ++i) {
            const uint32_t at = i / 4 * 8 + 2 * t + i % 2, position = tile.first + first + at, r = i % 4 / 2;
            const bool hidden = edge && (position < seen[r].begin || position >= seen[r].end);
            Tile::weights(at)[g + 8 * r] = hidden ? -1.0f : scores->s[i / 4][i % 4];
        }
        KEEL_UNROLL
        for (uint32_t i = 0; i + 2 < kRowTiles; ++i) {
            KEEL_UNROLL
            for (uint32_t e = 0; e < 4; ++e) scores->s[i][e] = scores->s[i + 2][e];
        }
        sync_warp();
        if (edge) {
            KEEL_NO_UNROLL
            for (uint32_t j = first; j < first + 16; ++j) add_position<WIDE, true>(value + j * row_bytes, j, out);
        } else {
            KEEL_NO_UNROLL
            for (uint32_t j = first; j < first + 16; j += 4) {
                KEEL_UNROLL
                for (uint32_t i = 0; i < 4; ++i) add_position<WIDE, false>(value + (j + i) * row_bytes, j + i, out);
            }
        }
        sync_warp();
    }
}

template <uint32_t WIDE>
KEEL_GPU void finish_split(const PrefillBlock& b, uint32_t split, uint32_t view, ColumnState column[2],
                           HalvesOutputs<WIDE>* out) {
    using Tile = HalvesTile<WIDE>;
    const uint32_t warp_column = thread_x() / 32 * 16, element = 8 * Tile::element_block();
    float by[2], from_by[2];
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r);
        const Merging merging = merge_state(b, own, split, view, &column[r]);
        by[r] = merging.by;
        from_by[r] = merging.from_by;
        if (merging.by != kLeft && thread_x() % 4 == 0) put_state(b, output_of(b, own, split, view), column[r]);
        column[r].m = -kInf32;
        column[r].l = 0.0f;
    }
    KEEL_UNROLL
    for (uint32_t c = 0; c < Tile::kColumns; ++c) {
        Merging merging;
        merging.by = out->of_column(by, c);
        merging.from_by = out->of_column(from_by, c);
        if (merging.by == kLeft || element >= b.args.shape.head_dim) continue;
        float* to = output_of(b, warp_column + Tile::first_column() + c, split, view) + element;
        merge_eight(to, older_eight(to, merging), out->o[c], merging);
    }
    out->clear();
}

template <uint32_t WIDE>
KEEL_GPU void attend_tokens(const PrefillBlock& b) {
    using Tile = HalvesTile<WIDE>;
    const AttentionArgs& args = b.args;
    const uint32_t lane = thread_x() % 32, thread = thread_x(), n = args.shape.head_dim,
                   threads = prefill_threads(args);
    const bool works = thread / 32 * 16 < b.columns();
    const bool copies = kTile * Tile::kParts >= kPrefillThreads || thread < kTile * Tile::kParts;
    float q[2][WIDE / 4];
    KEEL_UNROLL
    for (uint32_t r = 0; r < 2; ++r) {
        const uint32_t own = own_column(r), column = own < b.columns() ? own : 0;
        const float* row = args.qkv.row + (b.facts().first_token + column / b.facts().heads) * args.qkv.stride +
                           (b.facts().first_head + column % b.facts().heads) * n;
        KEEL_UNROLL
        for (uint32_t i = 0; i < WIDE / 4; ++i) q[r][i] = 4 * i + lane % 4 < n ? row[4 * i + lane % 4] : 0.0f;
    }
    ColumnState column[2];
    begin_columns(b, column);
    HalvesOutputs<WIDE> out;
    out.clear();

    // The first piece of K of a thread is loaded while the tile before is worked on.
    KeyPart key = {};
    const auto load_first = [&](const TilePlace& tile) {
        if (copies && tile.there()) key = load_key<WIDE>(b, tile, thread);
    };
    TilePlace tile = first_tile(b);
    load_first(tile);
    while (!tile.none()) {
        if (tile.there()) {
            if (copies) store_key<WIDE>(key, thread);
            for (uint32_t i = thread + threads; i < kTile * Tile::kParts; i += threads)
                store_key<WIDE>(load_key<WIDE>(b, tile, i), i);
        }
        sync_block();
        const KvRows& v = b.v(tile.view);
        if (tile.there()) {
            for (uint32_t i = thread; i < tile.rows() * Tile::kElementLanes; i += threads) {
                const uint32_t row = i / Tile::kElementLanes, block = i % Tile::kElementLanes;
                if (8 * block < n)
                    copy16(Tile::values() + row * 2 * n + 16 * block, b.row_of(tile, v, row) + 16 * block);
            }
        }
        copy_commit();
        const TilePlace next = next_tile(b, tile);
        Scores scores = {};
        float by[2] = {};
        const bool attends = works && tile.there();
        bool edge = false;
        if (attends) {
            KEEL_NO_UNROLL
            for (uint32_t i = 0; i < kRowTiles; ++i) {
                // Registers have no index: the scores move along.
                KEEL_UNROLL
                for (uint32_t e = 0; e < 4 * (kRowTiles - 1); ++e) scores.s[e / 4][e % 4] = scores.s[e / 4 + 1][e % 4];
                KEEL_UNROLL
                for (uint32_t c = 0; c < 2; ++c) {
                    float own[2];
                    score_halves<WIDE>(q, 8 * i + c, own);
                    scores.s[kRowTiles - 1][c] = own[0];
                    scores.s[kRowTiles - 1][2 + c] = own[1];
                }
            }
            const Range all = b.all_see(tile.view);
            edge = tile.first < all.begin || tile.first + kTile > all.end;
            Range seen[2] = {};
            if (edge) b.tile_ranges(tile, column, seen);
            soften_tile(args, edge, seen, tile.first, &scores, column, by);
        }
        copy_wait<0>();
        sync_block();
        load_first(next);
        Range seen[2] = {};
        if (attends && edge) b.tile_ranges(tile, column, seen);
        if (attends) add_halves<WIDE>(edge, seen, tile, 2 * n, by, &scores, &out);
        if (works && !tile.joins(next)) finish_split<WIDE>(b, tile.split, tile.view, column, &out);
        tile = next;
    }
    put_totals(b, column);
}

}  // namespace

KEEL_GPU_KERNEL_OF(attend_halves_64, 1) {
    for_sessions(args, [&](const PrefillBlock& b) { attend_tokens<64>(b); });
}
KEEL_GPU_KERNEL_OF(attend_halves_128, 1) {
    for_sessions(args, [&](const PrefillBlock& b) { attend_tokens<128>(b); });
}

}  // namespace keel::cuda
