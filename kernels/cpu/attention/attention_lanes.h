// Attention over one KV split (NUMERICS section 5) over a vector type V of float_vector.h and the integer part K of
// kv_integers_lanes.h.
//
// A tile goes through three steps over the query rows that are active in it: scores, online softmax, output. The first
// and the last work on register tiles of several query rows, so that a K or V row is read once for all of them. Few
// query rows (decoding) read stored f16 and f32 rows where they lie; for many (prefill) a tile's rows are widened once.
#pragma once
#include "kernels/cpu/attention/kv_integers_lanes.h"
#include "kernels/cpu/attention/mean_scores_lanes.h"
#include "kernels/cpu/rowops/rowops_lanes.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

template <class V>
KEEL_INLINE void decode_f16_lanes(const void* row, uint32_t head_dim, float* dst) {
    const uint16_t* src = static_cast<const uint16_t*>(row);
    uint32_t i = 0;
    for (; i + V::kLanes <= head_dim; i += V::kLanes) V::store(dst + i, V::load_f16(src + i));
    for (; i < head_dim; ++i) dst[i] = f16_to_f32(src[i]);
}

constexpr uint32_t kDirectRows = 8;  // query rows of one call up to which f16 rows are widened at every use
constexpr uint32_t kQueryBlock = 4;

// Float rows of a tile as they are read: position j of the tile at `data` + j * row_bytes. Integers are laid out by K.
struct TileRows {
    const uint8_t* data;
    uint64_t row_bytes;
    bool half;
    const uint8_t* ahead;  // the next tile's rows, asked for as these are read; null where these are no stored ones

    // Asks for what the next tile has in place of `bytes` bytes at `at` of these rows. Always inlined: a function that
    // does nothing but this has no effect in GCC's eyes, and calls of it vanish.
    KEEL_INLINE void fetch(const TileRows& rows, uint64_t at, uint64_t bytes) {
        if (rows.ahead) fetch_far(rows.ahead + at, bytes);
    }
};

// A query row that sees something of the tile.
struct ActiveQuery {
    uint32_t row;  // of the call
    VisibleRange visible;
};

// Sums that one tile of scores leaves: whole registers of them, within the accumulators.
template <class V>
constexpr int kScoreSums = V::kRegisters >= 32 ? 16 : 8;

// Dot products of C queries with the keys of positions [lo, hi), in steps of kScoreSums / C positions; hi is rounded
// up.
template <class V, class Load, int C>
KEEL_ONE_COPY void score_queries(const TileRows k, uint32_t n, const float* const* q, uint32_t lo, uint32_t hi,
                                 float* const* s) {
    constexpr int kSums = kScoreSums<V>, kPositions = kSums / C;
    for (uint32_t j = lo / kPositions * kPositions; j < hi; j += kPositions) {
        typename V::F lanes[kSums][kParts<V>];
        TileRows::fetch(k, j * k.row_bytes, kPositions * k.row_bytes);
        multiply_tile<V, Load, kPositions, C, kPositions, false>(k.data + j * k.row_bytes, k.row_bytes, q, n, lanes);
        if constexpr (C == 1) {
            KEEL_UNROLL
            for (int i = 0; i < kSums; i += V::kLanes) V::store(s[0] + j + i, V::tree16(lanes + i));
        } else {
            float sums[kSums];
            KEEL_UNROLL
            for (int i = 0; i < kSums; i += V::kLanes) V::store(sums + i, V::tree16(lanes + i));
            KEEL_UNROLL
            for (int c = 0; c < C; ++c) memcpy(s[c] + j, sums + c * kPositions, sizeof(float) * kPositions);
        }
    }
}

// Up to kQueryBlock queries; a missing fourth one repeats the third, whose scores are computed twice.
template <class V, class Load>
KEEL_INLINE void score_block(const TileRows& k, uint32_t n, const float* const* q, uint32_t count, uint32_t lo,
                             uint32_t hi, float* const* s) {
    if (count == 1)
        score_queries<V, Load, 1>(k, n, q, lo, hi, s);
    else if (count == 2)
        score_queries<V, Load, 2>(k, n, q, lo, hi, s);
    else
        score_queries<V, Load, 4>(k, n, q, lo, hi, s);
}

// Whether `count` rows see the whole tile.
KEEL_INLINE bool all_visible(const VisibleRange* visible, uint32_t count) {
    bool all = true;
    for (uint32_t i = 0; i < count; ++i) all &= visible[i].lo == 0 && visible[i].hi == kAttentionTile;
    return all;
}

// The soft cap of scaled scores of a tile, in place. A pass of its own: few models have one.
template <class V>
KEEL_ONE_COPY void cap_scores(const AttentionArgs& a, float* const* s, int rows) {
    const typename V::F scale = V::set1(a.scale), cap = V::set1(a.softcap);
    for (int r = 0; r < rows; ++r)
        for (uint32_t j = 0; j < kAttentionTile; j += V::kLanes)
            V::store(s[r] + j, softcap_of<V>(V::mul(V::load(s[r] + j), scale), cap));
}

// Online softmax of one tile for R query rows. s[r]: scores in, exp(s - m) out, +0 where the row does not see; kAll: no
// position is hidden from any row. Updates (m, l) at state[r]; rescale[r] = exp(m_old - m_new) is the factor of the
// older output. The rows are interleaved to hide the latency of their reductions.
template <class V, int R, bool kAll>
KEEL_NOINLINE void online_softmax(const AttentionArgs& a, const VisibleRange* visible, float* const* s,
                                  float* const* state, float* rescale) {
    using F = typename V::F;
    constexpr int kSteps = static_cast<int>(kAttentionTile) / V::kLanes;
    if (a.softcap != 0.0f) cap_scores<V>(a, s, R);
    const F scale = V::set1(a.softcap != 0.0f ? 1.0f : a.scale), none = V::set1(-kInf32);
    float before[16] = {}, now[16] = {}, c[16];
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) {
        [[maybe_unused]] const int lo = static_cast<int>(visible[r].lo), hi = static_cast<int>(visible[r].hi);
        F top = none;
        typename V::Mask numbers = V::is_number(none);
        KEEL_UNROLL
        for (int i = 0; i < kSteps; ++i) {
            const int j = i * V::kLanes;
            F v = V::mul(V::load(s[r] + j), scale);
            if constexpr (!kAll) v = V::select(V::lanes_between(lo - j, hi - j), v, none);
            numbers = V::both(numbers, V::is_number(v));
            top = V::max(v, top);
            V::store(s[r] + j, v);
        }
        before[r] = state[r][0];
        const float most = V::all(numbers) ? V::max_across(top) : __builtin_nanf("");
        now[r] = most > before[r] || most != most ? most : before[r];
    }
    for (int r = 0; r < R; r += V::kLanes) {
        V::store(c + r, exp_lanes<V>(V::sub(V::load(before + r), V::load(now + r))));
    }
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) {
        [[maybe_unused]] const int lo = static_cast<int>(visible[r].lo), hi = static_cast<int>(visible[r].hi);
        const F shift = V::set1(now[r]);
        F lanes[kParts<V>];
        KEEL_UNROLL
        for (F& lane : lanes) lane = V::zero();
        KEEL_UNROLL
        for (int i = 0; i < kSteps; ++i) {
            const int j = i * V::kLanes;
            // An unseen position adds +0 to its lane, which changes nothing: weights are not negative.
            F e = exp_lanes<V>(V::sub(V::load(s[r] + j), shift));
            if constexpr (!kAll) e = V::keep(V::lanes_between(lo - j, hi - j), e);
            V::store(s[r] + j, e);
            lanes[i % kParts<V>] = V::add(lanes[i % kParts<V>], e);
        }
        rescale[r] = before[r] == -kInf32 ? 0.0f : c[r];
        state[r][0] = now[r];
        state[r][1] = fma_f32(state[r][1], rescale[r], V::tree16_one(lanes));
    }
}

// o[r] += p[r][j] v[j] for j in [lo, hi), over kLanes * D elements from d.
template <class V, class Load, int R, int D>
KEEL_INLINE void add_values_tile(const TileRows& v, const float* const* p, uint32_t lo, uint32_t hi, float* const* o,
                                 uint32_t d) {
    using F = typename V::F;
    F acc[R][D];
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) KEEL_UNROLL
    for (int i = 0; i < D; ++i) acc[r][i] = V::load(o[r] + d + i * V::kLanes);
    const uint8_t* row = v.data + lo * v.row_bytes + uint64_t{d} * Load::kBytes;
    for (uint32_t j = lo; j < hi; ++j, row += v.row_bytes) {
        TileRows::fetch(v, static_cast<uint64_t>(row - v.data), D * V::kLanes * Load::kBytes);
        F w[R];
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) w[r] = V::set1(p[r][j]);
        KEEL_UNROLL
        for (int i = 0; i < D; ++i) {
            const F x = Load::load(row + i * V::kLanes * Load::kBytes);
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) acc[r][i] = V::fma(w[r], x, acc[r][i]);
        }
    }
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) KEEL_UNROLL
    for (int i = 0; i < D; ++i) V::store(o[r] + d + i * V::kLanes, acc[r][i]);
}

// Elements [d, n) by tiles of D registers, then of half as many, and so on; n - d is a multiple of 16.
template <class V, class Load, int R, int D>
KEEL_INLINE void add_values_from(const TileRows& v, uint32_t n, const float* const* p, uint32_t lo, uint32_t hi,
                                 float* const* o, uint32_t d) {
    for (; d + D * V::kLanes <= n; d += D * V::kLanes) add_values_tile<V, Load, R, D>(v, p, lo, hi, o, d);
    if constexpr (D > kParts<V>)
        if (d < n) add_values_from<V, Load, R, D / 2>(v, n, p, lo, hi, o, d);
}
// A power of two of registers for each of R rows, which fill the accumulators and make no tile wider than a row.
template <class V, int R>
constexpr int value_registers() {
    const int most = kAccumulators<V> / R;
    return most >= 8 ? 8 : most >= 4 ? 4 : 2;
}
template <class V, class Load, int R>
KEEL_ONE_COPY void add_values(const TileRows v, uint32_t n, const float* const* p, uint32_t lo, uint32_t hi,
                              float* const* o) {
    constexpr int kWide = value_registers<V, R>();
    if (lo < hi) add_values_from<V, Load, R, (kWide > kParts<V> ? kWide : kParts<V>)>(v, n, p, lo, hi, o, 0);
}

// Up to kQueryBlock rows: together where all see a position, by themselves before and after.
template <class V, class Load>
KEEL_INLINE void value_block(const TileRows& v, uint32_t n, const ActiveQuery* active, uint32_t count,
                             const float* const* p, float* const* o) {
    VisibleRange all = {0, kAttentionTile};
    for (uint32_t r = 0; r < count; ++r) {
        all.lo = active[r].visible.lo > all.lo ? active[r].visible.lo : all.lo;
        all.hi = active[r].visible.hi < all.hi ? active[r].visible.hi : all.hi;
    }
    if (count == 1 || all.lo >= all.hi) {
        for (uint32_t r = 0; r < count; ++r)
            add_values<V, Load, 1>(v, n, p + r, active[r].visible.lo, active[r].visible.hi, o + r);
        return;
    }
    for (uint32_t r = 0; r < count; ++r) add_values<V, Load, 1>(v, n, p + r, active[r].visible.lo, all.lo, o + r);
    if (count == kQueryBlock) {
        add_values<V, Load, 4>(v, n, p, all.lo, all.hi, o);
    } else {
        add_values<V, Load, 2>(v, n, p, all.lo, all.hi, o);
        if (count == 3) add_values<V, Load, 1>(v, n, p + 2, all.lo, all.hi, o + 2);
    }
    for (uint32_t r = 0; r < count; ++r) add_values<V, Load, 1>(v, n, p + r, all.hi, active[r].visible.hi, o + r);
}

// The tile's rows `any`: where they lie or decoded in `tile`, rows of `stride` floats with zeros behind n. Room of
// `tile`: stride * kAttentionTile.
template <class V>
KEEL_INLINE TileRows tile_rows(const TileSource& source, VisibleRange any, uint32_t stride, float* tile) {
    const KvPlane& plane = source.plane;
    const uint32_t n = source.args.head_dim;
    const bool half = plane.format == kKvF16;
    const bool direct = plane.format == kKvF32 || (half && source.args.rows <= kDirectRows);
    if (direct && n == stride && source.plain == kAttentionTile)
        return {source.plain_codes, plane.code_bytes, half, next_tile(source).codes};
    for (uint32_t j = any.lo; j < any.hi; ++j) {
        float* to = tile + j * stride;
        if (half)
            decode_f16_lanes<V>(source.codes(j), n, to);
        else
            kv_decode_row(plane.format, source.codes(j), source.scales(j), n, to);
        for (uint32_t i = n; i < stride; ++i) to[i] = 0.0f;
    }
    return {reinterpret_cast<const uint8_t*>(tile), stride * sizeof(float), false, nullptr};
}

// One tile and the query rows that work on it together: active[0..count), which see `any` of it among them.
struct AttentionTile {
    uint32_t first;  // position
    VisibleRange any;
    ActiveQuery active[kMaxQueryRows];
    uint32_t count;
};
// Of query rows [begin, end) of the call.
KEEL_INLINE void find_active(const AttentionArgs& a, uint32_t first, uint32_t begin, uint32_t end, AttentionTile* t) {
    t->first = first;
    t->any = {kAttentionTile, 0};
    t->count = 0;
    for (uint32_t r = begin; r < end; ++r) {
        const VisibleRange visible = visible_in_tile(a, r, first);
        if (visible.lo >= visible.hi) continue;
        t->active[t->count++] = {r, visible};
        t->any.lo = visible.lo < t->any.lo ? visible.lo : t->any.lo;
        t->any.hi = visible.hi > t->any.hi ? visible.hi : t->any.hi;
    }
}
// What `count` rows from active row b on see together.
KEEL_INLINE VisibleRange visible_together(const AttentionTile& t, uint32_t b, uint32_t count) {
    VisibleRange all = t.active[b].visible;
    for (uint32_t i = 1; i < count; ++i) {
        const VisibleRange& one = t.active[b + i].visible;
        all.lo = one.lo < all.lo ? one.lo : all.lo;
        all.hi = one.hi > all.hi ? one.hi : all.hi;
    }
    return all;
}
KEEL_INLINE TileSource source_of(const AttentionArgs& a, const KvPlane& plane, const AttentionTile& t) {
    return TileSource(a, plane, t.first, t.active[0].row);
}

// Scratch of a call: a K tile, a V tile (scales behind each), and per query row its scores of the tile, its output of
// the split with (m, l) behind it, and the query as integers.
struct AttentionScratch {
    uint32_t wide, stride;  // head_dim rounded up to 16, and with room for (m, l)
    float *k_tile, *v_tile, *scores, *states, *query_scales;
    int32_t* query_offsets;
    int8_t* queries;

    explicit AttentionScratch(const AttentionArgs& a) : wide((a.head_dim + 15) & ~15u), stride(wide + 16) {
        const uint32_t tile = kAttentionTile * (wide + kMaxKvScales);
        k_tile = a.scratch;
        v_tile = k_tile + tile;
        scores = v_tile + tile;
        states = scores + a.rows * kAttentionTile;
        query_scales = states + a.rows * stride;
        query_offsets = reinterpret_cast<int32_t*>(query_scales + a.rows * kMaxKvScales);
        queries = reinterpret_cast<int8_t*>(query_offsets + a.rows * kMaxKvScales);
    }
    float* row_scores(const ActiveQuery& r) const { return scores + r.row * kAttentionTile; }
    float* state(const ActiveQuery& r) const { return states + r.row * stride; }
    float* tile_scales(float* tile) const { return tile + kAttentionTile * wide; }
};

template <class K>
KEEL_INLINE void score_integers(const K& integers, const AttentionArgs& a, const AttentionTile& t,
                                const AttentionScratch& x) {
    const uint32_t n = a.head_dim, scale_count = kv_scales(a.k.format, n);
    float* scales = x.tile_scales(x.k_tile);
    const uint8_t* tile =
        integers.unpack_keys(source_of(a, a.k, t), t.any, reinterpret_cast<uint8_t*>(x.k_tile), scales);
    for (uint32_t b = 0; b < t.count; b += kQueryBlock) {
        const uint32_t in_block = t.count - b < kQueryBlock ? t.count - b : kQueryBlock;
        IntQuery q[kQueryBlock];
        float* s[kQueryBlock];
        for (uint32_t i = 0; i < kQueryBlock; ++i) {
            const ActiveQuery& at = t.active[b + (i < in_block ? i : in_block - 1)];
            q[i] = {x.queries + at.row * x.wide, x.query_scales + at.row * kMaxKvScales,
                    x.query_offsets + at.row * kMaxKvScales};
            s[i] = x.row_scores(at);
        }
        K::scores(a.k.format, tile, scales, n, scale_count, q, in_block, visible_together(t, b, in_block), s);
    }
}

template <class V>
KEEL_INLINE void score_floats(const AttentionArgs& a, const AttentionTile& t, const AttentionScratch& x) {
    const uint32_t n = a.head_dim;
    const TileRows k = tile_rows<V>(source_of(a, a.k, t), t.any, x.wide, x.k_tile);
    for (uint32_t b = 0; b < t.count; b += kQueryBlock) {
        const uint32_t in_block = t.count - b < kQueryBlock ? t.count - b : kQueryBlock;
        const float* q[kQueryBlock];
        float* s[kQueryBlock];
        float padded[kQueryBlock][kMaxHeadDim];
        for (uint32_t i = 0; i < kQueryBlock; ++i) {
            const ActiveQuery& at = t.active[b + (i < in_block ? i : in_block - 1)];
            q[i] = a.q[at.row];
            s[i] = x.row_scores(at);
            if (x.wide == n) continue;
            // Behind the query -0 against the zeros behind the key: a product of -0 leaves every lane as it is.
            memcpy(padded[i], q[i], n * sizeof(float));
            for (uint32_t d = n; d < x.wide; ++d) padded[i][d] = -0.0f;
            q[i] = padded[i];
        }
        const VisibleRange visible = visible_together(t, b, in_block);
        if (k.half)
            score_block<V, LoadF16<V>>(k, x.wide, q, in_block, visible.lo, visible.hi, s);
        else
            score_block<V, LoadF32<V>>(k, x.wide, q, in_block, visible.lo, visible.hi, s);
    }
}

template <class V>
KEEL_INLINE void softmax_tile(const AttentionArgs& a, const AttentionTile& t, const AttentionScratch& x,
                              float* rescale) {
    for (uint32_t b = 0; b < t.count; b += kQueryBlock) {
        const uint32_t in_block = t.count - b < kQueryBlock ? t.count - b : kQueryBlock;
        VisibleRange visible[kQueryBlock];
        uint32_t rows[kQueryBlock];
        float *s[kQueryBlock], *state[kQueryBlock];
        for (uint32_t i = 0; i < in_block; ++i) {
            const ActiveQuery& at = t.active[b + i];
            visible[i] = at.visible;
            rows[i] = at.row;
            s[i] = x.row_scores(at);
            state[i] = x.state(at) + x.wide;
        }
        if (a.mean.pairs) add_mean_scores_lanes<V>(a, rows, in_block, t.first, s);
        const bool all = all_visible(visible, in_block);
        if (in_block == kQueryBlock && all)
            online_softmax<V, kQueryBlock, true>(a, visible, s, state, rescale + b);
        else if (in_block == 3 && all)
            online_softmax<V, 3, true>(a, visible, s, state, rescale + b);
        else if (in_block == kQueryBlock)
            online_softmax<V, kQueryBlock, false>(a, visible, s, state, rescale + b);
        else
            for (uint32_t i = 0; i < in_block; ++i)
                online_softmax<V, 1, false>(a, visible + i, s + i, state + i, rescale + b + i);
    }
}

template <class V, class K>
KEEL_INLINE void value_integers(const K& integers, const AttentionArgs& a, const AttentionTile& t,
                                const AttentionScratch& x, const float* rescale) {
    const uint32_t n = a.head_dim, scale_count = kv_scales(a.v.format, n);
    float* scales = x.tile_scales(x.v_tile);
    const uint8_t* tile =
        integers.unpack_values(source_of(a, a.v, t), t.any, reinterpret_cast<uint8_t*>(x.v_tile), scales);
    for (uint32_t b = 0; b < t.count; b += kQueryBlock) {
        const uint32_t in_block = t.count - b < kQueryBlock ? t.count - b : kQueryBlock;
        typename K::Weights w[kQueryBlock];
        float unit[kQueryBlock][kMaxKvScales];
        const float* p[kQueryBlock];
        VisibleRange visible[kQueryBlock];
        float* o[kQueryBlock];
        for (uint32_t i = 0; i < in_block; ++i) {
            p[i] = x.row_scores(t.active[b + i]);
            visible[i] = t.active[b + i].visible;
            o[i] = x.state(t.active[b + i]);
        }
        const bool all = all_visible(visible, in_block);
        if (in_block == kQueryBlock && all)
            quantize_weights_lanes<V, K, kQueryBlock, true>(p, visible, scales, scale_count, w, unit);
        else if (in_block == 3 && all)
            quantize_weights_lanes<V, K, 3, true>(p, visible, scales, scale_count, w, unit);
        else if (in_block == kQueryBlock)
            quantize_weights_lanes<V, K, kQueryBlock, false>(p, visible, scales, scale_count, w, unit);
        else
            for (uint32_t i = 0; i < in_block; ++i)
                quantize_weights_lanes<V, K, 1, false>(p + i, visible + i, scales, scale_count, w + i, unit + i);
        K::add_values(tile, n, scale_count, w, unit, rescale + b, in_block, visible_together(t, b, in_block), o);
    }
}

template <class V>
KEEL_INLINE void value_floats(const AttentionArgs& a, const AttentionTile& t, const AttentionScratch& x,
                              const float* rescale) {
    const TileRows v = tile_rows<V>(source_of(a, a.v, t), t.any, x.wide, x.v_tile);
    for (uint32_t b = 0; b < t.count; b += kQueryBlock) {
        const uint32_t in_block = t.count - b < kQueryBlock ? t.count - b : kQueryBlock;
        const float* p[kQueryBlock];
        float* o[kQueryBlock];
        for (uint32_t i = 0; i < in_block; ++i) {
            p[i] = x.row_scores(t.active[b + i]);
            o[i] = x.state(t.active[b + i]);
            scale_lanes<V>(o[i], rescale[b + i], x.wide);
        }
        if (v.half)
            value_block<V, LoadF16<V>>(v, x.wide, t.active + b, in_block, p, o);
        else
            value_block<V, LoadF32<V>>(v, x.wide, t.active + b, in_block, p, o);
    }
}

// Bytes read: the visible K and V rows of the split once, whatever the number of query rows; rows of a tail once per
// list.
template <class V, class K>
KEEL_INLINE void attention_split_lanes(const AttentionArgs& a, const K& integers = {}) {
    const uint32_t n = a.head_dim;
    const AttentionScratch x(a);
    const uint32_t wide = x.wide, stride = x.stride;
    float* const states = x.states;
    const bool integer_k = kKvFormats[a.k.format].integer, integer_v = kKvFormats[a.v.format].integer;
    for (uint32_t r = 0; r < a.rows; ++r) {
        float* state = states + r * stride;
        memset(state, 0, stride * sizeof(float));
        state[wide] = -kInf32;
        if (integer_k)
            quantize_query_lanes<V>(a.q[r], n, kv_scales(a.k.format, n), K::key_offset(a.k.format),
                                    x.queries + r * wide, x.query_scales + r * kMaxKvScales,
                                    x.query_offsets + r * kMaxKvScales);
    }
    for (uint32_t tile = 0; tile < kKvSplitTokens / kAttentionTile; ++tile) {
        const uint32_t first = a.split * kKvSplitTokens + tile * kAttentionTile;
        for (uint32_t begin = 0, end; begin < a.rows; begin = end) {
            end = same_slots_end(a, begin, first);
            AttentionTile t;
            find_active(a, first, begin, end, &t);
            if (t.count == 0 || is_evicted(a, first)) continue;
            if (integer_k)
                score_integers(integers, a, t, x);
            else
                score_floats<V>(a, t, x);
            float rescale[kMaxQueryRows];  // of the older output
            softmax_tile<V>(a, t, x, rescale);
            if (integer_v)
                value_integers<V>(integers, a, t, x, rescale);
            else
                value_floats<V>(a, t, x, rescale);
        }
    }
    for (uint32_t r = 0; r < a.rows; ++r) {
        const VisibleRange visible = visible_in_split(a, r);
        if (visible.lo >= visible.hi) continue;
        const float* state = states + r * stride;
        merge_split(a, r, state[wide], state[wide + 1], state,
                    [n](float* to, float by, const float* from, float from_by) KEEL_ALWAYS_INLINE {
                        const typename V::F older = V::set1(by), newer = V::set1(from_by);
                        for_lanes<V>(n, [&](auto load, auto store) KEEL_ALWAYS_INLINE {
                            store(to, V::fma(load(to), older, V::mul(load(from), newer)));
                        });
                    });
    }
}

#define KEEL_DEFINE_ATTENTION(isa, V, K)                                \
    void attention_split_##isa(const AttentionArgs& a) {                \
        attention_split_lanes<V, K>(a);                                 \
    }                                                                   \
    void attention_finish_##isa(float* o, float l, uint32_t head_dim) { \
        scale_lanes<V>(o, 1.0f / l, head_dim);                          \
    }

}  // namespace
}  // namespace keel::kernels
