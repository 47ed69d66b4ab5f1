// Attention over one span (NUMERICS section 5), the reference for every other set.
#include <string.h>

#include "kernels/cpu/attention/kv_integer_impl.h"
#include "kernels/cpu/families.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {
namespace {

float dot_f32(const float* w, const float* x, uint32_t n) {
    float lanes[16] = {};
    for (uint32_t i = 0; i < n; ++i) lanes[i % 16] = fma_f32(w[i], x[i], lanes[i % 16]);
    return tree16(lanes);
}

// State of one query row within the span.
struct RowState {
    float m, l;
    float* o;
};

// K or V rows of a tile, decoded or as integers, each at the place of its position.
struct TileRows {
    const float* rows;
    const int8_t* integers;  // null: rows are decoded
    const float* scales;
    uint32_t scale_count;  // of a row
};

TileRows read_tile(const AttentionArgs& a, const KvPlane& plane, uint32_t first, VisibleRange see, float* room) {
    const uint32_t n = a.head_dim, scales = kv_scales(plane.format, n);
    float* scale = room + kAttentionTile * n;
    if (kKvFormats[plane.format].integer) {
        unpack_tile(a, plane, first, see, reinterpret_cast<int8_t*>(room), scale);
        return {nullptr, reinterpret_cast<const int8_t*>(room), scale, scales};
    }
    const uint8_t* page = a.pages[first / a.page_tokens];
    for (uint32_t j = see.lo; j < see.hi; ++j) {
        const uint64_t row = first % a.page_tokens + j;
        kv_decode_row(plane.format, page + plane.codes + row * plane.code_bytes,
                      page + plane.scales + row * plane.scale_bytes, n, room + j * n);
    }
    return {room, nullptr, nullptr, 0};
}

// s[j] += the removed mean's share of the score, j in [lo, hi); row: of the call.
inline void add_mean_scores(const AttentionArgs& a, uint32_t row, uint32_t first, VisibleRange rows, float* s) {
    const float* base = a.mean.bases + uint64_t{first / kAttentionTile} * 2 * a.mean.pairs;
    const float* coefficients = a.mean.coefficients[row];
    float sum[kAttentionTile] = {};
    for (uint32_t i = 0; i < a.mean.pairs; ++i) {
        const float ca = coefficients[2 * i], cb = coefficients[2 * i + 1], c = base[2 * i], t = base[2 * i + 1];
        const float even = fma_f32(ca, c, cb * t), odd = fma_f32(cb, c, -(ca * t));
        const float *cosines = a.mean.turns + uint64_t{2} * i * kAttentionTile, *sines = cosines + kAttentionTile;
        for (uint32_t j = 0; j < kAttentionTile; ++j)
            sum[j] = fma_f32(odd, sines[j], fma_f32(even, cosines[j], sum[j]));
    }
    for (uint32_t j = rows.lo; j < rows.hi; ++j) s[j] = s[j] + sum[j];
}

// One tile for one query row; q8 and d: the query as integers, where K is.
void attend_tile(const AttentionArgs& a, uint32_t row, uint32_t first, const TileRows& k, const TileRows& v,
                 const int8_t* q8, const float* d, VisibleRange see, RowState& s) {
    const uint32_t n = a.head_dim;
    float p[kAttentionTile], lanes[16] = {};
    if (k.integers)
        integer_scores(k.integers, k.scales, q8, d, n, k.scale_count, see, p);
    else
        for (uint32_t j = see.lo; j < see.hi; ++j) p[j] = dot_f32(k.rows + uint64_t{j} * n, a.q[row], n);
    if (a.mean.pairs) add_mean_scores(a, row, first, see, p);
    float m = s.m;
    for (uint32_t j = see.lo; j < see.hi; ++j) {
        p[j] = p[j] * a.scale;
        if (a.softcap != 0.0f) p[j] = softcap_f32(p[j], a.softcap);
        if (p[j] > m || p[j] != p[j]) m = p[j];  // a NaN stays
    }
    const float c = s.m == -kInf32 ? 0.0f : exp_f32(s.m - m);
    for (uint32_t j = see.lo; j < see.hi; ++j) {
        p[j] = exp_f32(p[j] - m);
        lanes[j % 16] = lanes[j % 16] + p[j];
    }
    s.l = fma_f32(s.l, c, tree16(lanes));
    s.m = m;
    for (uint32_t i = 0; i < n; ++i) s.o[i] = s.o[i] * c;
    if (v.integers) {
        int16_t w[kMaxKvScales][kAttentionTile];
        float unit[kMaxKvScales];
        quantize_weights(p, v.scales, v.scale_count, see, w, unit);
        add_integer_values(v.integers, w, unit, n, v.scale_count, see, s.o);
        return;
    }
    for (uint32_t i = 0; i < n; ++i)
        for (uint32_t j = see.lo; j < see.hi; ++j) s.o[i] = fma_f32(p[j], v.rows[uint64_t{j} * n + i], s.o[i]);
}

}  // namespace

// Bytes read: the visible K and V rows of the span once, whatever the number of query rows. Scratch: a K tile, a V
// tile, per query row its output of the span with (m, l) behind it, and the queries as integers.
void attention_span_scalar(const AttentionArgs& a) {
    const uint32_t n = a.head_dim, stride = n + 2, k_scales = kv_scales(a.k.format, n);
    const uint32_t span_first = a.span * kAttentionSpan, span_last = span_first + kAttentionSpan;
    float* k = a.scratch;
    float* v = k + kAttentionTile * (n + kMaxKvScales);
    float* states = v + kAttentionTile * (n + kMaxKvScales);
    float* d = states + a.rows * stride;
    int8_t* q8 = reinterpret_cast<int8_t*>(d + a.rows * kMaxKvScales);
    for (uint32_t r = 0; r < a.rows; ++r) {
        float* state = states + r * stride;
        memset(state, 0, stride * sizeof(float));
        state[n] = -kInf32;
        if (kKvFormats[a.k.format].integer) quantize_query(a.q[r], n, k_scales, q8 + r * n, d + r * kMaxKvScales);
    }
    for (uint32_t first = span_first; first < span_last; first += kAttentionTile) {
        VisibleRange any = {kAttentionTile, 0};  // what some query row sees of the tile
        for (uint32_t r = 0; r < a.rows; ++r) {
            const VisibleRange see = visible_in_tile(a, r, first);
            if (see.lo >= see.hi) continue;
            any.lo = see.lo < any.lo ? see.lo : any.lo;
            any.hi = see.hi > any.hi ? see.hi : any.hi;
        }
        if (any.lo >= any.hi || !a.pages[first / a.page_tokens]) continue;
        const TileRows k_rows = read_tile(a, a.k, first, any, k), v_rows = read_tile(a, a.v, first, any, v);
        for (uint32_t r = 0; r < a.rows; ++r) {
            const VisibleRange see = visible_in_tile(a, r, first);
            if (see.lo >= see.hi) continue;
            float* state = states + r * stride;
            RowState s = {state[n], state[n + 1], state};
            attend_tile(a, r, first, k_rows, v_rows, q8 + r * n, d + r * kMaxKvScales, see, s);
            state[n] = s.m;
            state[n + 1] = s.l;
        }
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
        for (uint32_t d = 0; d < n; ++d) a.o[r][d] = fma_f32(a.o[r][d], ca, state[d] * cb);
        a.m[r] = merged;
    }
}

void attention_finish_scalar(float* o, float l, uint32_t head_dim) {
    const float r = 1.0f / l;
    for (uint32_t d = 0; d < head_dim; ++d) o[d] = o[d] * r;
}

}  // namespace keel::kernels
