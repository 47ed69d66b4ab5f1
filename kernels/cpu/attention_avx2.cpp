// KV row codecs and attention over one span (NUMERICS section 5).
//
// A tile's visible K and V rows are widened to f32 once for all query rows of the call. Query rows are taken in blocks
// of four: their scores are register tiles of four positions by up to three queries, their outputs register tiles of
// four queries by sixteen elements over the positions all four see, with what only some see before and after.
#include "kernels/cpu/kernel_sets.h"
#include "kernels/cpu/vector_avx2.h"
#if defined(__AVX2__)

namespace keel::kernels {

void kv_encode_f16_avx2(const float* src, uint32_t head_dim, void* row) {
    uint16_t* dst = static_cast<uint16_t*>(row);
    for (uint32_t i = 0; i < head_dim; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
}
void kv_decode_f16_avx2(const void* row, uint32_t head_dim, float* dst) {
    const uint8_t* src = static_cast<const uint8_t*>(row);
    for (uint32_t i = 0; i < head_dim; i += 8) _mm256_storeu_ps(dst + i, LoadF16::load8(src + 2 * i));
}

namespace {

constexpr uint32_t kQueryBlock = 4;

KEEL_INLINE float max_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Lanes of positions first .. first + 7 that lie in [lo, hi).
KEEL_INLINE __m256 visible_mask(uint32_t first, VisibleRange see) {
    const __m256i j =
        _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i after = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(see.hi)), j);
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(see.lo)), j);
    return _mm256_castsi256_ps(_mm256_andnot_si256(before, after));
}

// Dot products of C queries with the keys of positions [lo, hi), hi and lo multiples of 4; s[c][j].
template <int C>
KEEL_INLINE void score_queries(const float* k, uint32_t n, const float* const* q, uint32_t lo, uint32_t hi,
                               float (*s)[kAttentionTile]) {
    for (uint32_t j = lo; j < hi; j += 4) {
        alignas(32) float lanes[C][4][16] = {};
        tile_avx2<LoadF32, 4, C, C == 1>(reinterpret_cast<const uint8_t*>(k + uint64_t{j} * n), uint64_t{n} * 4, q, n,
                                         lanes);
        KEEL_UNROLL
        for (int c = 0; c < C; ++c) _mm_storeu_ps(s[c] + j, tree16x4_avx2(lanes[c]));
    }
}

// From scores to weights, in place; m and l of the row go on, and the factor of the older output is returned.
KEEL_INLINE float soften_scores(const AttentionArgs& a, VisibleRange see, float* s, float* m, float* l) {
    const uint32_t first = see.lo & ~7u, last = (see.hi + 7) & ~7u;
    const __m256 scale = _mm256_set1_ps(a.scale), cap = _mm256_set1_ps(a.softcap), none = _mm256_set1_ps(-kInf32);
    __m256 top = none, nan = _mm256_setzero_ps();
    for (uint32_t j = first; j < last; j += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(s + j), scale);
        if (a.softcap != 0.0f) v = _mm256_mul_ps(cap, tanh_avx2(_mm256_div_ps(v, cap)));
        v = _mm256_blendv_ps(none, v, visible_mask(j, see));
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        top = _mm256_max_ps(v, top);
        _mm256_storeu_ps(s + j, v);
    }
    const float before = *m;
    float now = max_of(top);
    if (_mm256_movemask_ps(nan)) now = __builtin_nanf("");
    now = now > before || now != now ? now : before;
    const float c = before == -kInf32 ? 0.0f : exp_f32(before - now);
    __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    const __m256 shift = _mm256_set1_ps(now);
    for (uint32_t j = first; j < last; j += 8) {
        // An unseen position adds +0 to its lane, which changes nothing: weights are not negative.
        const __m256 p = _mm256_and_ps(exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(s + j), shift)), visible_mask(j, see));
        _mm256_storeu_ps(s + j, p);
        if (j & 8)
            lanes[1] = _mm256_add_ps(lanes[1], p);
        else
            lanes[0] = _mm256_add_ps(lanes[0], p);
    }
    *l = fma_f32(*l, c, tree16_avx2(lanes[0], lanes[1]));
    *m = now;
    return c;
}

// o[r] += p[r][j] v[j] for j in [lo, hi), over 8 D elements from d.
template <int R, int D>
KEEL_INLINE void add_values_tile(const float (*p)[kAttentionTile], const float* v, uint32_t n, uint32_t lo, uint32_t hi,
                                 float* const* o, uint32_t d) {
    __m256 acc[R][D];
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) KEEL_UNROLL
    for (int i = 0; i < D; ++i) acc[r][i] = _mm256_loadu_ps(o[r] + d + 8 * i);
    for (uint32_t j = lo; j < hi; ++j) {
        const float* row = v + uint64_t{j} * n + d;
        __m256 w[R];
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) w[r] = _mm256_broadcast_ss(p[r] + j);
        KEEL_UNROLL
        for (int i = 0; i < D; ++i) {
            const __m256 x = _mm256_loadu_ps(row + 8 * i);
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) acc[r][i] = _mm256_fmadd_ps(w[r], x, acc[r][i]);
        }
    }
    KEEL_UNROLL
    for (int r = 0; r < R; ++r) KEEL_UNROLL
    for (int i = 0; i < D; ++i) _mm256_storeu_ps(o[r] + d + 8 * i, acc[r][i]);
}

template <int R, int D>
KEEL_INLINE void add_values(const float (*p)[kAttentionTile], const float* v, uint32_t n, uint32_t lo, uint32_t hi,
                            float* const* o) {
    if (lo >= hi) return;
    uint32_t d = 0;
    for (; d + 8 * D <= n; d += 8 * D) add_values_tile<R, D>(p, v, n, lo, hi, o, d);
    for (; d < n; d += 8) add_values_tile<R, 1>(p, v, n, lo, hi, o, d);
}

void scale_row(float* o, float c, uint32_t n) {
    const __m256 factor = _mm256_set1_ps(c);
    for (uint32_t d = 0; d < n; d += 8) _mm256_storeu_ps(o + d, _mm256_mul_ps(_mm256_loadu_ps(o + d), factor));
}

// Up to kQueryBlock query rows from `row` on, one tile beginning at position `first`.
void attend_rows(const AttentionArgs& a, uint32_t row, uint32_t count, uint32_t first, const float* k, const float* v,
                 float* states, uint32_t stride) {
    const uint32_t n = a.head_dim;
    // The rows of the block that see something of the tile.
    VisibleRange see[kQueryBlock], any = {kAttentionTile, 0}, all = {0, kAttentionTile};
    const float* q[kQueryBlock];
    float* o[kQueryBlock];
    uint32_t live = 0;
    for (uint32_t r = row; r < row + count; ++r) {
        const VisibleRange range = visible_in(a.begin[r], a.end[r], first, first + kAttentionTile);
        if (range.lo >= range.hi) continue;
        const VisibleRange in_tile = {range.lo - first, range.hi - first};
        any = {in_tile.lo < any.lo ? in_tile.lo : any.lo, in_tile.hi > any.hi ? in_tile.hi : any.hi};
        all = {in_tile.lo > all.lo ? in_tile.lo : all.lo, in_tile.hi < all.hi ? in_tile.hi : all.hi};
        see[live] = in_tile;
        q[live] = a.q[r];
        o[live++] = states + r * stride;
    }
    if (live == 0) return;
    alignas(32) float s[kQueryBlock][kAttentionTile];
    const uint32_t lo = any.lo & ~3u, hi = (any.hi + 3) & ~3u;
    uint32_t r = 0;
    if (live >= 3)
        score_queries<3>(k, n, q, lo, hi, s), r = 3;
    else if (live == 2)
        score_queries<2>(k, n, q, lo, hi, s), r = 2;
    for (; r < live; ++r) score_queries<1>(k, n, q + r, lo, hi, s + r);
    for (r = 0; r < live; ++r) {
        const float c = soften_scores(a, see[r], s[r], o[r] + n, o[r] + n + 1);
        scale_row(o[r], c, n);
    }
    if (live == kQueryBlock && all.lo < all.hi) {
        for (r = 0; r < live; ++r) add_values<1, 4>(s + r, v, n, see[r].lo, all.lo, o + r);
        add_values<kQueryBlock, 2>(s, v, n, all.lo, all.hi, o);
        for (r = 0; r < live; ++r) add_values<1, 4>(s + r, v, n, all.hi, see[r].hi, o + r);
    } else {
        for (r = 0; r < live; ++r) add_values<1, 4>(s + r, v, n, see[r].lo, see[r].hi, o + r);
    }
}

}  // namespace

// Bytes read: the visible K and V rows of the span once, whatever the number of query rows. Scratch: a K tile, a V
// tile, and per query row its output of the span with (m, l) behind it.
void attention_span_avx2(const AttentionArgs& a) {
    static constexpr void (*kDecode[kKvFormatCount])(const void*, uint32_t, float*) = {kv_decode_f16_avx2,
                                                                                       kv_decode_f32_scalar};
    const uint32_t n = a.head_dim, stride = n + 8;
    const uint32_t span_first = a.span * kAttentionSpan, span_last = span_first + kAttentionSpan;
    float* k = a.scratch;
    float* v = k + kAttentionTile * n;
    float* states = v + kAttentionTile * n;
    for (uint32_t r = 0; r < a.rows; ++r) {
        float* state = states + r * stride;
        memset(state, 0, stride * sizeof(float));
        state[n] = -kInf32;
    }
    for (uint32_t first = span_first; first < span_last; first += kAttentionTile) {
        VisibleRange any = {first + kAttentionTile, first};  // what some query row sees of the tile
        for (uint32_t r = 0; r < a.rows; ++r) {
            const VisibleRange see = visible_in(a.begin[r], a.end[r], first, first + kAttentionTile);
            if (see.lo >= see.hi) continue;
            any.lo = see.lo < any.lo ? see.lo : any.lo;
            any.hi = see.hi > any.hi ? see.hi : any.hi;
        }
        for (uint32_t j = any.lo; j < any.hi; ++j) {
            kDecode[a.k_format](kv_row(a, a.k_offset, a.k_row_bytes, j), n, k + (j - first) * n);
            kDecode[a.v_format](kv_row(a, a.v_offset, a.v_row_bytes, j), n, v + (j - first) * n);
        }
        if (any.lo >= any.hi) continue;
        for (uint32_t r = 0; r < a.rows; r += kQueryBlock)
            attend_rows(a, r, a.rows - r < kQueryBlock ? a.rows - r : kQueryBlock, first, k, v, states, stride);
    }
    for (uint32_t r = 0; r < a.rows; ++r) {
        const VisibleRange see = visible_in(a.begin[r], a.end[r], span_first, span_last);
        if (see.lo >= see.hi) continue;
        const float* state = states + r * stride;
        const float m = state[n], l = state[n + 1];
        if (a.m[r] == -kInf32) {
            memcpy(a.o[r], state, n * sizeof(float));
            a.m[r] = m;
            a.l[r] = l;
            continue;
        }
        const float merged = m > a.m[r] || m != m ? m : a.m[r];
        const float ca = exp_f32(a.m[r] - merged), cb = exp_f32(m - merged);
        a.l[r] = fma_f32(a.l[r], ca, l * cb);
        const __m256 older = _mm256_set1_ps(ca), newer = _mm256_set1_ps(cb);
        for (uint32_t d = 0; d < n; d += 8) {
            float* o = a.o[r] + d;
            _mm256_storeu_ps(
                o, _mm256_fmadd_ps(_mm256_loadu_ps(o), older, _mm256_mul_ps(_mm256_loadu_ps(state + d), newer)));
        }
        a.m[r] = merged;
    }
}

void attention_finish_avx2(float* o, float l, uint32_t head_dim) {
    scale_avx2(o, 1.0f / l, head_dim);
}

}  // namespace keel::kernels
#endif
