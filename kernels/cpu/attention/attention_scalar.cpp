// Attention over one KV split (NUMERICS section 5), the reference for every other set. Sums of integers are exact, so
// their order is free, and vector sets have another one (kv_integers_lanes.h).
#include "kernels/cpu/attention/attention_tile.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"

namespace keel::kernels {
namespace {

float dot_f32(const float* w, const float* x, uint32_t n) {
    float lanes[16] = {};
    for (uint32_t i = 0; i < n; ++i) lanes[i % 16] = fma_f32(w[i], x[i], lanes[i % 16]);
    return tree16(lanes);
}

// State of one query row within the split.
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

// Room: a tile of f32 rows with their scales behind.
TileRows read_tile(const TileSource& source, VisibleRange visible, float* room) {
    const KvFormat format = source.plane.format;
    const uint32_t n = source.args.head_dim, scales = kv_scales(format, n);
    if (!kKvFormats[format].integer) {
        for (uint32_t j = visible.lo; j < visible.hi; ++j)
            kv_decode_row(format, source.codes(j), source.scales(j), n, room + j * n);
        return {room, nullptr, nullptr, 0};
    }
    int8_t* integers = reinterpret_cast<int8_t*>(room);
    float* scale = room + kAttentionTile * n;
    for_integer_format(format, [&]<KvFormat F>() {
        for (uint32_t j = visible.lo; j < visible.hi; ++j)
            kv_unpack_portable<F>(source.codes(j), source.scales(j), n, integers + uint64_t{j} * n, scale + j * scales);
    });
    return {nullptr, integers, scale, scales};
}

// A query row as integers, a block per scale of the K format: as activations are quantized (NUMERICS section 2).
void quantize_query(const float* x, uint32_t n, uint32_t blocks, int8_t* q, float* d) {
    const uint32_t block = n / blocks;
    for (uint32_t b = 0; b < blocks; ++b, x += block, q += block) {
        float largest = 0.0f;
        bool numbers = true;
        for (uint32_t i = 0; i < block; ++i) {
            const float v = __builtin_fabsf(x[i]);
            numbers &= v < kInf32;
            largest = v > largest ? v : largest;
        }
        d[b] = numbers ? largest * (1.0f / 127.0f) : __builtin_nanf("");
        const float inverse = numbers && largest > 0.0f ? 127.0f / largest : 0.0f;
        for (uint32_t i = 0; i < block; ++i) {
            const float v = numbers && x[i] != 0.0f ? x[i] * inverse : 0.0f;
            q[i] = static_cast<int8_t>(static_cast<int32_t>(rint_f32(v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v)));
        }
    }
}

// s[j] = the dot product of one query with key j, j in [lo, hi).
void integer_scores(const int8_t* k, const float* k_scale, const int8_t* q, const float* d, uint32_t n, uint32_t scales,
                    VisibleRange rows, float* s) {
    const uint32_t block = n / scales;
    for (uint32_t j = rows.lo; j < rows.hi; ++j) {
        const int8_t* key = k + uint64_t{j} * n;
        float dot = 0.0f;
        for (uint32_t b = 0; b < scales; ++b) {
            int32_t sum = 0;
            for (uint32_t i = b * block; i < (b + 1) * block; ++i)
                sum += static_cast<int32_t>(q[i]) * static_cast<int32_t>(key[i]);
            dot = fma_f32(d[b] * k_scale[j * scales + b], static_cast<float>(sum), dot);
        }
        s[j] = dot;
    }
}

// t[j] = p[j] * (scale b of V row j), quantized to 15 bits: w[b][j] = round(t[j] * kWeightSteps / max), unit[b] = max /
// kWeightSteps. Where some t[j] is not finite, all w are 0 and unit[b] is NaN.
void quantize_weights(const float* p, const float* v_scale, uint32_t scales, VisibleRange rows,
                      int16_t (*w)[kAttentionTile], float* unit) {
    for (uint32_t b = 0; b < scales; ++b) {
        float t[kAttentionTile], largest = 0.0f;
        bool numbers = true;
        for (uint32_t j = rows.lo; j < rows.hi; ++j) {
            t[j] = p[j] * v_scale[j * scales + b];
            numbers &= t[j] < kInf32;
            largest = t[j] > largest ? t[j] : largest;
        }
        unit[b] = numbers ? largest * (1.0f / kWeightSteps) : __builtin_nanf("");
        const float inverse = numbers && largest > 0.0f ? kWeightSteps / largest : 0.0f;
        for (uint32_t j = rows.lo; j < rows.hi; ++j) {
            const float v = numbers && t[j] != 0.0f ? t[j] * inverse : 0.0f;
            w[b][j] = static_cast<int16_t>(static_cast<int32_t>(rint_f32(v > kWeightSteps ? kWeightSteps : v)));
        }
    }
}

// o[d] = fma(unit, the sum of w[j] * v[j][d], o[d])
void add_integer_values(const int8_t* v, const int16_t (*w)[kAttentionTile], const float* unit, uint32_t n,
                        uint32_t scales, VisibleRange rows, float* o) {
    const uint32_t block = n / scales;
    int32_t sum[kMaxHeadDim] = {};
    for (uint32_t j = rows.lo; j < rows.hi; ++j) {
        const int8_t* row = v + uint64_t{j} * n;
        if (scales == 1) {
            const int32_t weight = w[0][j];
            for (uint32_t d = 0; d < n; ++d) sum[d] += weight * row[d];
        } else {
            for (uint32_t d = 0; d < n; ++d) sum[d] += static_cast<int32_t>(w[d / block][j]) * row[d];
        }
    }
    for (uint32_t d = 0; d < n; ++d) o[d] = fma_f32(unit[d / block], static_cast<float>(sum[d]), o[d]);
}

// s[j] += the removed mean's share of the score, j in [lo, hi); row: of the call.
void add_mean_scores(const AttentionArgs& a, uint32_t row, uint32_t first, VisibleRange rows, float* s) {
    const float* base = a.mean.tile_rotations + uint64_t{first / kAttentionTile} * 2 * a.mean.pairs;
    const float* coefficients = a.mean.coefficients[row];
    float sum[kAttentionTile] = {};
    for (uint32_t i = 0; i < a.mean.pairs; ++i) {
        const float ca = coefficients[2 * i], cb = coefficients[2 * i + 1], c = base[2 * i], t = base[2 * i + 1];
        const float even = fma_f32(ca, c, cb * t), odd = fma_f32(cb, c, -(ca * t));
        const float *cosines = a.mean.offset_rotations + uint64_t{2} * i * kAttentionTile,
                    *sines = cosines + kAttentionTile;
        for (uint32_t j = 0; j < kAttentionTile; ++j)
            sum[j] = fma_f32(odd, sines[j], fma_f32(even, cosines[j], sum[j]));
    }
    for (uint32_t j = rows.lo; j < rows.hi; ++j) s[j] = s[j] + sum[j];
}

// One tile for one query row; q8 and d: the query as integers, where K is.
void attend_tile(const AttentionArgs& a, uint32_t row, uint32_t first, const TileRows& k, const TileRows& v,
                 const int8_t* q8, const float* d, VisibleRange visible, RowState& s) {
    const uint32_t n = a.head_dim;
    float p[kAttentionTile], lanes[16] = {};
    if (k.integers)
        integer_scores(k.integers, k.scales, q8, d, n, k.scale_count, visible, p);
    else
        for (uint32_t j = visible.lo; j < visible.hi; ++j) p[j] = dot_f32(k.rows + uint64_t{j} * n, a.q[row], n);
    if (a.mean.pairs) add_mean_scores(a, row, first, visible, p);
    float m = s.m;
    for (uint32_t j = visible.lo; j < visible.hi; ++j) {
        p[j] = p[j] * a.scale;
        if (a.softcap != 0.0f) p[j] = softcap_f32(p[j], a.softcap);
        if (p[j] > m || p[j] != p[j]) m = p[j];  // a NaN stays
    }
    const float c = s.m == -kInf32 ? 0.0f : exp_f32(s.m - m);
    for (uint32_t j = visible.lo; j < visible.hi; ++j) {
        p[j] = exp_f32(p[j] - m);
        lanes[j % 16] = lanes[j % 16] + p[j];
    }
    s.l = fma_f32(s.l, c, tree16(lanes));
    s.m = m;
    for (uint32_t i = 0; i < n; ++i) s.o[i] = s.o[i] * c;
    if (v.integers) {
        int16_t w[kMaxKvScales][kAttentionTile];
        float unit[kMaxKvScales];
        quantize_weights(p, v.scales, v.scale_count, visible, w, unit);
        add_integer_values(v.integers, w, unit, n, v.scale_count, visible, s.o);
        return;
    }
    for (uint32_t i = 0; i < n; ++i)
        for (uint32_t j = visible.lo; j < visible.hi; ++j) s.o[i] = fma_f32(p[j], v.rows[uint64_t{j} * n + i], s.o[i]);
}

}  // namespace

// Bytes read: the visible K and V rows of the split once, whatever the number of query rows; rows of a tail once per
// list. Scratch: a K tile, a V tile, per query row its output of the split with (m, l) behind it, and the queries as
// integers.
void attention_split_scalar(const AttentionArgs& a) {
    const uint32_t n = a.head_dim, stride = n + 2, k_scales = kv_scales(a.k.format, n);
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
    for (uint32_t tile = 0; tile < kKvSplitTokens / kAttentionTile; ++tile) {
        const uint32_t first = a.split * kKvSplitTokens + tile * kAttentionTile;
        for (uint32_t begin = 0, end; begin < a.rows; begin = end) {
            end = same_slots_end(a, begin, first);
            VisibleRange any = {kAttentionTile, 0};  // what some query row sees of the tile
            for (uint32_t r = begin; r < end; ++r) {
                const VisibleRange visible = visible_in_tile(a, r, first);
                if (visible.lo >= visible.hi) continue;
                any.lo = visible.lo < any.lo ? visible.lo : any.lo;
                any.hi = visible.hi > any.hi ? visible.hi : any.hi;
            }
            if (any.lo >= any.hi || is_evicted(a, first)) continue;
            const TileRows k_rows = read_tile(TileSource(a, a.k, first, begin), any, k),
                           v_rows = read_tile(TileSource(a, a.v, first, begin), any, v);
            for (uint32_t r = begin; r < end; ++r) {
                const VisibleRange visible = visible_in_tile(a, r, first);
                if (visible.lo >= visible.hi) continue;
                float* state = states + r * stride;
                RowState s = {state[n], state[n + 1], state};
                attend_tile(a, r, first, k_rows, v_rows, q8 + r * n, d + r * kMaxKvScales, visible, s);
                state[n] = s.m;
                state[n + 1] = s.l;
            }
        }
    }
    for (uint32_t r = 0; r < a.rows; ++r) {
        const VisibleRange visible = visible_in_split(a, r);
        if (visible.lo >= visible.hi) continue;
        const float* state = states + r * stride;
        merge_split(a, r, state[n], state[n + 1], state, [n](float* to, float by, const float* from, float from_by) {
            for (uint32_t d = 0; d < n; ++d) to[d] = fma_f32(to[d], by, from[d] * from_by);
        });
    }
}

void attention_finish_scalar(float* o, float l, uint32_t head_dim) {
    const float r = 1.0f / l;
    for (uint32_t d = 0; d < head_dim; ++d) o[d] = o[d] * r;
}

}  // namespace keel::kernels
