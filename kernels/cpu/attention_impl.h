// KV row codecs and attention over one span (NUMERICS section 5) over a vector type of float_vector.h.
//
// A tile goes through three passes over the query rows that see something of it: scores, softmax weights, output. The
// first and the last work on register tiles of several query rows, so that a K or V row is read once for all of them.
// Few query rows (decoding) read the stored rows as they are; for many (prefill) a tile's f16 rows are widened once.
#pragma once
#include "kernels/cpu/float_vector.h"
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/kv_integer_impl.h"
#include "kernels/cpu/rowops_impl.h"

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

// Rows of a tile as a pass reads them: position j of the tile at `data` + j * row_bytes. Integers come with their scales.
enum class TileForm { kF32, kF16, kInteger };
struct TileRows {
    const uint8_t* data;
    uint64_t row_bytes;
    TileForm form;
    const float* scales;    // [64][scale_count]
    uint32_t scale_count;

    const int8_t* integers() const { return reinterpret_cast<const int8_t*>(data); }
};

// A query row that sees something of the tile.
struct LiveRow {
    uint32_t row;  // of the call
    VisibleRange see;
};

// Sums that one tile of scores leaves: whole registers of them, within the accumulators.
template <class V>
constexpr int kScoreSums = V::kRegisters >= 32 ? 16 : 8;

// Dot products of C queries with the keys of positions [lo, hi), in steps of kScoreSums / C positions; hi is rounded up.
template <class V, class Load, int C>
void score_queries(const TileRows& k, uint32_t n, const float* const* q, uint32_t lo, uint32_t hi, float* const* s) {
    constexpr int kSums = kScoreSums<V>, kPositions = kSums / C;
    for (uint32_t j = lo / kPositions * kPositions; j < hi; j += kPositions) {
        typename V::F lanes[kSums][kParts<V>];
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

// From scores to weights, in place; m and l of the row go on, and the factor of the older output is returned.
template <class V>
KEEL_INLINE float soften_scores(const AttentionArgs& a, VisibleRange see, float* s, float* m, float* l) {
    using F = typename V::F;
    const int lo = static_cast<int>(see.lo), hi = static_cast<int>(see.hi);
    const F scale = V::set1(a.scale), cap = V::set1(a.softcap), none = V::set1(-kInf32);
    F top = none;
    typename V::Mask numbers = V::is_number(none);
    for (int j = lo & ~15; j < hi; j += V::kLanes) {
        F v = V::mul(V::load(s + j), scale);
        if (a.softcap != 0.0f) v = softcap_of<V>(v, cap);
        v = V::select(V::lanes_between(lo - j, hi - j), v, none);
        numbers = V::both(numbers, V::is_number(v));
        top = V::max(v, top);
        V::store(s + j, v);
    }
    const float before = *m;
    float now = V::max_across(top);
    if (!V::all(numbers)) now = __builtin_nanf("");
    now = now > before || now != now ? now : before;
    const float c = before == -kInf32 ? 0.0f : exp_f32(before - now);
    F lanes[kParts<V>];
    KEEL_UNROLL
    for (F& lane : lanes) lane = V::zero();
    const F shift = V::set1(now);
    for (int j = lo & ~15; j < hi; j += 16) {
        KEEL_UNROLL
        for (int p = 0; p < kParts<V>; ++p) {
            const int at = j + p * V::kLanes;
            // An unseen position adds +0 to its lane, which changes nothing: weights are not negative.
            const F e = V::keep(V::lanes_between(lo - at, hi - at), exp_lanes<V>(V::sub(V::load(s + at), shift)));
            V::store(s + at, e);
            lanes[p] = V::add(lanes[p], e);
        }
    }
    *l = fma_f32(*l, c, V::tree16_one(lanes));
    *m = now;
    return c;
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
void add_values(const TileRows& v, uint32_t n, const float* const* p, uint32_t lo, uint32_t hi, float* const* o) {
    constexpr int kWide = value_registers<V, R>();
    if (lo < hi) add_values_from<V, Load, R, (kWide > kParts<V> ? kWide : kParts<V>)>(v, n, p, lo, hi, o, 0);
}

// Up to kQueryBlock rows: together where all see a position, by themselves before and after.
template <class V, class Load>
KEEL_INLINE void value_block(const TileRows& v, uint32_t n, const LiveRow* live, uint32_t count, const float* const* p,
                             float* const* o) {
    VisibleRange all = {0, kAttentionTile};
    for (uint32_t r = 0; r < count; ++r) {
        all.lo = live[r].see.lo > all.lo ? live[r].see.lo : all.lo;
        all.hi = live[r].see.hi < all.hi ? live[r].see.hi : all.hi;
    }
    if (count == 1 || all.lo >= all.hi) {
        for (uint32_t r = 0; r < count; ++r) add_values<V, Load, 1>(v, n, p + r, live[r].see.lo, live[r].see.hi, o + r);
        return;
    }
    for (uint32_t r = 0; r < count; ++r) add_values<V, Load, 1>(v, n, p + r, live[r].see.lo, all.lo, o + r);
    if (count == kQueryBlock) {
        add_values<V, Load, 4>(v, n, p, all.lo, all.hi, o);
    } else {
        add_values<V, Load, 2>(v, n, p, all.lo, all.hi, o);
        if (count == 3) add_values<V, Load, 1>(v, n, p + 2, all.lo, all.hi, o + 2);
    }
    for (uint32_t r = 0; r < count; ++r) add_values<V, Load, 1>(v, n, p + r, all.hi, live[r].see.hi, o + r);
}

// The rows of positions [first + any.lo, first + any.hi) as the passes read them: where they lie, unpacked to integers, or
// decoded in `tile`, rows of `stride` floats with zeros behind n. Room of `tile`: (stride + kMaxKvScales) * kAttentionTile.
template <class V>
KEEL_INLINE TileRows tile_rows(const AttentionArgs& a, const KvPlane& plane, uint32_t first, VisibleRange any, uint32_t stride, float* tile) {
    const uint32_t n = a.head_dim;
    if (kKvFormats[plane.format].integer) {
        float* scales = tile + kAttentionTile * stride;
        unpack_tile(a, plane, first, any, reinterpret_cast<int8_t*>(tile), scales);
        return {reinterpret_cast<const uint8_t*>(tile), n, TileForm::kInteger, scales, kv_scales(plane.format, n)};
    }
    const uint64_t row0 = first % a.page_tokens;
    const uint8_t* page = a.pages[first / a.page_tokens];
    const uint8_t* rows = page + plane.codes + row0 * plane.code_bytes;
    const bool half = plane.format == kKvF16;
    if (n == stride && (plane.format == kKvF32 || (half && a.rows <= kDirectRows)))
        return {rows, plane.code_bytes, half ? TileForm::kF16 : TileForm::kF32, nullptr, 0};
    for (uint32_t j = any.lo; j < any.hi; ++j) {
        const uint8_t* row = rows + uint64_t{j} * plane.code_bytes;
        float* to = tile + j * stride;
        if (half)
            decode_f16_lanes<V>(row, n, to);
        else
            kv_decode_row(plane.format, row, page + plane.scales + (row0 + j) * plane.scale_bytes, n, to);
        for (uint32_t i = n; i < stride; ++i) to[i] = 0.0f;
    }
    return {reinterpret_cast<const uint8_t*>(tile), stride * sizeof(float), TileForm::kF32, nullptr, 0};
}

// Bytes read: the visible K and V rows of the span once, whatever the number of query rows. Scratch: a K tile, a V
// tile, and per query row its scores of the tile and its output of the span with (m, l) behind it.
template <class V>
KEEL_INLINE void attention_span_lanes(const AttentionArgs& a) {
    using F = typename V::F;
    const uint32_t n = a.head_dim, wide = (n + 15) & ~15u, stride = wide + 16;
    const uint32_t span_first = a.span * kAttentionSpan, span_last = span_first + kAttentionSpan;
    float* k_tile = a.scratch;
    float* v_tile = k_tile + kAttentionTile * (wide + kMaxKvScales);
    float* scores = v_tile + kAttentionTile * (wide + kMaxKvScales);
    float* states = scores + a.rows * kAttentionTile;
    float* query_scales = states + a.rows * stride;
    int8_t* queries = reinterpret_cast<int8_t*>(query_scales + a.rows * kMaxKvScales);
    for (uint32_t r = 0; r < a.rows; ++r) {
        float* state = states + r * stride;
        memset(state, 0, stride * sizeof(float));
        state[wide] = -kInf32;
        if (kKvFormats[a.k.format].integer) quantize_query(a.q[r], n, kv_scales(a.k.format, n), queries + r * n, query_scales + r * kMaxKvScales);
    }
    for (uint32_t first = span_first; first < span_last; first += kAttentionTile) {
        LiveRow live[kMaxQueryRows];
        uint32_t count = 0;
        VisibleRange any = {kAttentionTile, 0};  // what some query row sees of the tile
        for (uint32_t r = 0; r < a.rows; ++r) {
            const VisibleRange see = visible_in_tile(a, r, first);
            if (see.lo >= see.hi) continue;
            live[count] = {r, see};
            any.lo = live[count].see.lo < any.lo ? live[count].see.lo : any.lo;
            any.hi = live[count].see.hi > any.hi ? live[count].see.hi : any.hi;
            ++count;
        }
        if (count == 0 || !a.pages[first / a.page_tokens]) continue;
        const TileRows k = tile_rows<V>(a, a.k, first, any, wide, k_tile);
        if (k.form == TileForm::kInteger)
            for (uint32_t i = 0; i < count; ++i)
                integer_scores(k.integers(), k.scales, queries + live[i].row * n, query_scales + live[i].row * kMaxKvScales, n, k.scale_count,
                               live[i].see, scores + live[i].row * kAttentionTile);
        for (uint32_t b = 0; k.form != TileForm::kInteger && b < count; b += kQueryBlock) {
            const uint32_t in_block = count - b < kQueryBlock ? count - b : kQueryBlock;
            const float* q[kQueryBlock];
            float* s[kQueryBlock];
            float padded[kQueryBlock][kMaxHeadDim];
            VisibleRange block = {kAttentionTile, 0};
            for (uint32_t i = 0; i < kQueryBlock; ++i) {
                const LiveRow& at = live[b + (i < in_block ? i : in_block - 1)];
                q[i] = a.q[at.row];
                s[i] = scores + at.row * kAttentionTile;
                block.lo = at.see.lo < block.lo ? at.see.lo : block.lo;
                block.hi = at.see.hi > block.hi ? at.see.hi : block.hi;
                if (wide == n) continue;
                // Behind the query -0 against the zeros behind the key: a product of -0 leaves every lane as it is.
                memcpy(padded[i], q[i], n * sizeof(float));
                for (uint32_t d = n; d < wide; ++d) padded[i][d] = -0.0f;
                q[i] = padded[i];
            }
            if (k.form == TileForm::kF16)
                score_block<V, LoadF16<V>>(k, wide, q, in_block, block.lo, block.hi, s);
            else
                score_block<V, LoadF32<V>>(k, wide, q, in_block, block.lo, block.hi, s);
        }
        for (uint32_t i = 0; i < count; ++i) {
            if (a.mean.pairs) add_mean_scores(a, live[i].row, first, live[i].see, scores + live[i].row * kAttentionTile);
            float* state = states + live[i].row * stride;
            const float c = soften_scores<V>(a, live[i].see, scores + live[i].row * kAttentionTile, state + wide,
                                             state + wide + 1);
            scale_lanes<V>(state, c, wide);
        }
        const TileRows v = tile_rows<V>(a, a.v, first, any, wide, v_tile);
        if (v.form == TileForm::kInteger) {
            for (uint32_t i = 0; i < count; ++i) {
                int16_t w[kMaxKvScales][kAttentionTile];
                float unit[kMaxKvScales];
                quantize_weights(scores + live[i].row * kAttentionTile, v.scales, v.scale_count, live[i].see, w, unit);
                add_integer_values(v.integers(), w, unit, n, v.scale_count, live[i].see, states + live[i].row * stride);
            }
            continue;
        }
        for (uint32_t b = 0; b < count; b += kQueryBlock) {
            const uint32_t in_block = count - b < kQueryBlock ? count - b : kQueryBlock;
            const float* p[kQueryBlock];
            float* o[kQueryBlock];
            for (uint32_t i = 0; i < in_block; ++i) {
                p[i] = scores + live[b + i].row * kAttentionTile;
                o[i] = states + live[b + i].row * stride;
            }
            if (v.form == TileForm::kF16)
                value_block<V, LoadF16<V>>(v, wide, live + b, in_block, p, o);
            else
                value_block<V, LoadF32<V>>(v, wide, live + b, in_block, p, o);
        }
    }
    for (uint32_t r = 0; r < a.rows; ++r) {
        const VisibleRange see = visible_in(a.begin[r], a.end[r], span_first, span_last);
        if (see.lo >= see.hi) continue;
        const float* state = states + r * stride;
        const float m = state[wide], l = state[wide + 1];
        if (a.m[r] == -kInf32) {
            memcpy(a.o[r], state, n * sizeof(float));
            a.m[r] = m;
            a.l[r] = l;
            continue;
        }
        const float merged = m > a.m[r] || m != m ? m : a.m[r];
        const float ca = exp_f32(a.m[r] - merged), cb = exp_f32(m - merged);
        a.l[r] = fma_f32(a.l[r], ca, l * cb);
        const F older = V::set1(ca), newer = V::set1(cb);
        float* o = a.o[r];
        for_lanes<V>(n, [&](auto load, auto store) __attribute__((always_inline)) {
            store(o, V::fma(load(o), older, V::mul(load(state), newer)));
        });
        a.m[r] = merged;
    }
}

#define KEEL_DEFINE_ATTENTION(isa, V)                                                                              \
    void attention_span_##isa(const AttentionArgs& a) { attention_span_lanes<V>(a); }                              \
    void attention_finish_##isa(float* o, float l, uint32_t head_dim) { scale_lanes<V>(o, 1.0f / l, head_dim); }

}  // namespace
}  // namespace keel::kernels
