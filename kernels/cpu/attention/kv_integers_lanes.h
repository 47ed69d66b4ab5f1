// Attention on integer KV codes (NUMERICS section 5) for the vector sets: what is the same over every vector type V of
// float_vector.h, and the interface of the integer part K, which each instruction set has of its own:
//
//   Weights                       one query row's weights of a tile: w[scale][position], 15 bits, in K's layout
//   key_offset(format)            what K adds to the integers of keys to make them unsigned; 0 where they stay signed
//   unpack_keys(source, any, tile, scales)     the tile's rows `any` of the plane of K, laid out as K wants keys in
//                                 `tile` or where they lie: returns where; and
//   unpack_values(source, any, tile, scales)   of V, as it wants values; scales[scale of a row][position of the tile]
//   scores(format, tile, scales, n, scale_count, queries, count, visible, s)
//                                 s[i][j] = dot(query i, key j) for i < count <= 4 and at least the j of `visible`
//   store_weights(v, w, scale)    the tile's 64 weights v, 0..32767, rounded to nearest even
//   add_values(tile, n, scale_count, w, unit, rescale, count, visible, o)
//                                 o[i][d] = fma(unit[i][scale], sum over j of w[i][scale][j] * v[j][d],
//                                 o[i][d] * rescale[i]); weights of positions that query i does not see are 0;
//                                 o has room for n rounded up to 16
//
// Sums of integers are exact, so K is free in their order. A tile has kAttentionTile * (n rounded up to 64) bytes. K
// reads rows of visible positions only: where a group of rows is not visible as a whole, those that are get copied
// first.
#pragma once
#include "kernels/cpu/attention/attention_tile.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

// A query row as integers: d[scale] and offset[scale] = key_offset * (sum of the scale's integers).
struct IntQuery {
    const int8_t* q;
    const float* d;
    const int32_t* offset;
};

// One block for every scale of the K format, as activations are quantized (NUMERICS section 2). q: room for n rounded
// up to 16.
template <class V>
KEEL_INLINE void quantize_query_lanes(const float* x, uint32_t n, uint32_t blocks, int32_t key_offset, int8_t* q,
                                      float* d, int32_t* offset) {
    using F = typename V::F;
    const uint32_t block = n / blocks, steps = (block + 15) / 16;
    const F inf = V::set1(kInf32), top = V::set1(127.0f), bottom = V::set1(-127.0f);
    float padded[kMaxHeadDim];
    if (block % 16) {  // 8 zeros behind the row, whose codes are 0
        memcpy(padded, x, block * sizeof(float));
        for (uint32_t i = block; i < 16 * steps; ++i) padded[i] = 0.0f;
        x = padded;
    }
    for (uint32_t b = 0; b < blocks; ++b) {
        F largest = V::zero();
        typename V::Mask below = V::is_number(V::zero());
        for (uint32_t i = 0; i < 16 * steps; i += V::kLanes) {
            const F m = V::abs(V::load(x + i));
            largest = V::max(m, largest);
            below = V::both(below, V::less(m, inf));
        }
        const float amax = V::max_across(largest);
        const bool numbers = V::all(below);
        d[b] = numbers ? amax * (1.0f / 127.0f) : __builtin_nanf("");
        const F inverse = V::set1(numbers && amax > 0.0f ? 127.0f / amax : 0.0f);
        int32_t sum = 0;
        for (uint32_t i = 0; i < steps; ++i, x += 16, q += 16) {
            F v[kParts<V>];
            KEEL_UNROLL
            for (int p = 0; p < kParts<V>; ++p) {
                const F scaled = V::mul(V::load(x + p * V::kLanes), inverse);
                v[p] = V::keep(V::is_number(scaled), V::max(V::min(scaled, top), bottom));
            }
            sum += V::store_codes16(v, q);
        }
        offset[b] = key_offset * sum;
    }
}

// For R query rows and every scale b of a V row: t = p[r][j] * v_scale[b][j] quantized to 15 bits, w = round(t *
// kWeightSteps / max), unit[r][b] = max / kWeightSteps. Positions that row r does not see get 0; kAll: every row sees
// all of them. Where some t is not finite, all w are 0 and unit[r][b] is NaN.
template <class V, class K, int R, bool kAll>
KEEL_NOINLINE void quantize_weights_lanes(const float* const* p, const VisibleRange* visible, const float* v_scale,
                                          uint32_t scales, typename K::Weights* w, float (*unit)[kMaxKvScales]) {
    using F = typename V::F;
    constexpr int kSteps = static_cast<int>(kAttentionTile) / V::kLanes;
    const F zero = V::zero(), inf = V::set1(kInf32), top = V::set1(kWeightSteps);
    for (uint32_t b = 0; b < scales; ++b) {
        F t[R][kSteps];
        float inverse[R];
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) {
            F largest = zero;
            typename V::Mask numbers = V::is_number(zero);
            KEEL_UNROLL
            for (int i = 0; i < kSteps; ++i) {
                const int j = i * V::kLanes;
                t[r][i] = V::mul(V::load(p[r] + j), V::load(v_scale + b * kAttentionTile + j));
                if constexpr (!kAll)
                    t[r][i] = V::keep(
                        V::lanes_between(static_cast<int>(visible[r].lo) - j, static_cast<int>(visible[r].hi) - j),
                        t[r][i]);
                largest = V::max(t[r][i], largest);
                numbers = V::both(numbers, V::less(t[r][i], inf));
            }
            const float most = V::max_across(largest);
            const bool finite = V::all(numbers);
            unit[r][b] = finite ? most * (1.0f / kWeightSteps) : __builtin_nanf("");
            inverse[r] = finite && most > 0.0f ? kWeightSteps / most : 0.0f;
        }
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) {
            const F factor = V::set1(inverse[r]);
            KEEL_UNROLL
            for (int i = 0; i < kSteps; ++i)
                t[r][i] = V::min(V::max(V::mul(t[r][i], factor), zero), top);  // 0 times infinity is 0
            K::store_weights(t[r], w[r], b);
        }
    }
}

// Eight rows of a plane that may all be read.
struct KvRows8 {
    const uint8_t* codes;
    uint64_t code_bytes;    // from row to row
    const uint8_t* scales;  // rows behind one another
};

// Row 0 of the tile behind this one: what comes next from memory. Null where no query row of the call sees it, or where
// its rows may lie anywhere.
struct NextTile {
    const uint8_t *codes, *scales;
};
KEEL_INLINE NextTile next_tile(const TileSource& source) {
    const AttentionArgs& a = source.args;
    const KvPlane& plane = source.plane;
    const uint32_t next = source.first + kAttentionTile;
    uint32_t end = 0;
    for (uint32_t r = 0; r < a.rows; ++r) end = a.end[r] > end ? a.end[r] : end;
    const uint8_t* page = next < end && !reaches_tail(a, next) ? a.pages[next / a.page_tokens] : nullptr;
    if (!page) return {nullptr, nullptr};
    const uint64_t row = next % a.page_tokens;
    return {page + plane.codes + row * plane.code_bytes, page + plane.scales + row * plane.scale_bytes};
}
// Asks for the next tile's rows bit by bit, as groups of eight rows of this one are worked on, as far as fetch_far.
struct FetchAhead {
    const uint8_t *at, *end;  // what is still to be asked for of the groups until now
    uint64_t part;            // bytes of a group; 0 where there is no next tile

    explicit FetchAhead(const KvPlane& plane, const NextTile& next)
        : at(next.codes), end(next.codes), part(next.codes ? uint64_t{8} * plane.code_bytes : 0) {
        if (next.scales)
            for (uint32_t i = 0; i < kAttentionTile * plane.scale_bytes; i += 64) __builtin_prefetch(next.scales + i);
    }
    KEEL_INLINE void group(FetchAhead& f) {
        for (f.end += f.part; f.at < f.end; f.at += 64) __builtin_prefetch(f.at, 0, 2);
    }
};

// A copy of eight rows from row j of the tile on, with zeros for those that nobody sees.
struct RowsCopy {
    alignas(64) uint8_t codes[8 * kMaxHeadDim], scales[8 * 2 * kMaxKvScales];
};
KEEL_ONE_COPY void copy_rows8(const TileSource& source, VisibleRange any, uint32_t j, RowsCopy* to) {
    const KvPlane& plane = source.plane;
    const uint32_t code_bytes = kv_code_bytes(plane.format, source.args.head_dim),
                   scale_bytes = kv_scale_bytes(plane.format, source.args.head_dim);
    for (uint32_t r = 0; r < 8; ++r) {
        const bool seen = j + r >= any.lo && j + r < any.hi;
        if (seen) {
            memcpy(to->codes + r * code_bytes, source.codes(j + r), code_bytes);
            memcpy(to->scales + r * scale_bytes, source.scales(j + r), scale_bytes);
        } else {
            memset(to->codes + r * code_bytes, 0, code_bytes);
            memset(to->scales + r * scale_bytes, 0, scale_bytes);
        }
    }
}

// Calls body(rows, i) for every group of eight rows 8i.. of the tile with a visible row. Groups that are not visible as
// a whole are copies, with zeros for the rows that nobody sees, as are those of a tail, whose rows lie anywhere. `body`
// is inlined, and large: it stands here once.
template <class Body>
KEEL_INLINE void for_rows8(const TileSource& source, VisibleRange any, Body&& body) {
    const KvPlane& plane = source.plane;
    const uint32_t code_bytes = kv_code_bytes(plane.format, source.args.head_dim),
                   scale_bytes = kv_scale_bytes(plane.format, source.args.head_dim);
    FetchAhead ahead(plane, next_tile(source));
    RowsCopy copy;
    for (uint32_t i = any.lo / 8; 8 * i < any.hi; ++i) {
        const uint32_t j = 8 * i;
        FetchAhead::group(ahead);
        KvRows8 rows = {source.plain_codes + j * uint64_t{plane.code_bytes}, plane.code_bytes,
                        source.plain_scales + j * scale_bytes};
        if (j < any.lo || j + 8 > any.hi || j + 8 > source.plain || scale_bytes != plane.scale_bytes) {
            copy_rows8(source, any, j, &copy);
            rows = {copy.codes, code_bytes, copy.scales};
        }
        body(rows, i);
    }
}

}  // namespace
}  // namespace keel::kernels
