// KV row codecs and attention over one span (NUMERICS section 5), the reference for every other set.
#include <string.h>

#include "kernels/cpu/kernel_sets.h"
#include "kernels/numeric.h"

namespace keel::kernels {

void kv_encode_f16_scalar(const float* src, uint32_t head_dim, void* row) {
    uint16_t* dst = static_cast<uint16_t*>(row);
    for (uint32_t i = 0; i < head_dim; ++i) dst[i] = f32_to_f16(src[i]);
}
void kv_encode_f32_scalar(const float* src, uint32_t head_dim, void* row) {
    memcpy(row, src, head_dim * sizeof(float));
}
void kv_decode_f16_scalar(const void* row, uint32_t head_dim, float* dst) {
    const uint16_t* src = static_cast<const uint16_t*>(row);
    for (uint32_t i = 0; i < head_dim; ++i) dst[i] = f16_to_f32(src[i]);
}
void kv_decode_f32_scalar(const void* row, uint32_t head_dim, float* dst) {
    memcpy(dst, row, head_dim * sizeof(float));
}

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

// One tile for one query row: k and v hold the decoded rows of positions first + lo .. first + hi - 1 at their place.
void attend_tile(const AttentionArgs& a, uint32_t row, const float* k, const float* v, VisibleRange in_tile,
                 RowState& s) {
    const uint32_t n = a.head_dim;
    float p[kAttentionTile], lanes[16] = {};
    float m = s.m;
    for (uint32_t j = in_tile.lo; j < in_tile.hi; ++j) {
        p[j] = dot_f32(k + uint64_t{j} * n, a.q[row], n) * a.scale;
        if (a.softcap != 0.0f) p[j] = softcap_f32(p[j], a.softcap);
        if (p[j] > m || p[j] != p[j]) m = p[j];  // a NaN stays
    }
    const float c = s.m == -kInf32 ? 0.0f : exp_f32(s.m - m);
    for (uint32_t j = in_tile.lo; j < in_tile.hi; ++j) {
        p[j] = exp_f32(p[j] - m);
        lanes[j % 16] = lanes[j % 16] + p[j];
    }
    s.l = fma_f32(s.l, c, tree16(lanes));
    for (uint32_t d = 0; d < n; ++d) {
        float o = s.o[d] * c;
        for (uint32_t j = in_tile.lo; j < in_tile.hi; ++j) o = fma_f32(p[j], v[uint64_t{j} * n + d], o);
        s.o[d] = o;
    }
    s.m = m;
}

}  // namespace

// Bytes read: the visible K and V rows of the span once, whatever the number of query rows. Scratch: a K tile, a V
// tile, and per query row its output of the span with (m, l) behind it.
void attention_span_scalar(const AttentionArgs& a) {
    static constexpr void (*kDecode[kKvFormatCount])(const void*, uint32_t, float*) = {kv_decode_f16_scalar,
                                                                                       kv_decode_f32_scalar};
    const uint32_t n = a.head_dim, stride = n + 2;
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
        for (uint32_t r = 0; r < a.rows; ++r) {
            const VisibleRange see = visible_in(a.begin[r], a.end[r], first, first + kAttentionTile);
            if (see.lo >= see.hi) continue;
            float* state = states + r * stride;
            RowState s = {state[n], state[n + 1], state};
            attend_tile(a, r, k, v, {see.lo - first, see.hi - first}, s);
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
