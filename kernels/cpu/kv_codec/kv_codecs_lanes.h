// KV row codecs over a vector type V of float_vector.h: the bits of kv_codecs_impl.h with lanes = elements (rotation,
// sums), blocks (e8) or states (tcq). Beside what float_vector.h lists, V has here:
//
//   butterfly<s>(v)      lane l: v[l] + v[l + s] where bit s of l is clear, else v[l - s] - v[l];  s < kLanes
//   repeat<w>(v, part)   lane l: v[(part * kLanes + l) / w],  w in 4, 8, below kLanes
//   store_words8(v, p)   kLanes rows of 8 int16: v[i], lane l, an integer, to p[8 l + i]
//   load_words(p)        kLanes int16
#pragma once
#include "kernels/cpu/kv_codec/kv_codecs_impl.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

// Rows are worked on with zeros behind them up to 16 elements more.
constexpr uint32_t kPaddedDim = kMaxHeadDim + 16;
KEEL_INLINE uint32_t padded16(uint32_t n) {
    return (n + 15) & ~15u;
}

// The sum of a[i] * b[i] over padded rows, as a dot product of section 1.
template <class V>
KEEL_INLINE float dot_lanes(const float* a, const float* b, uint32_t n) {
    typename V::F sums[kParts<V>];
    KEEL_UNROLL
    for (typename V::F& s : sums) s = V::zero();
    for (uint32_t i = 0; i < n; i += 16) KEEL_UNROLL
    for (int p = 0; p < kParts<V>; ++p)
        sums[p] = V::fma(V::load(a + i + p * V::kLanes), V::load(b + i + p * V::kLanes), sums[p]);
    return V::tree16_one(sums);
}

// ---- rotation ----
struct RotationSigns {
    float at[kMaxHeadDim];
};
constexpr RotationSigns rotation_signs() {
    RotationSigns s = {};
    for (uint32_t i = 0; i < kMaxHeadDim; ++i) s.at[i] = kRotationSigns[i / 64] >> (63 - i % 64) & 1 ? -1.0f : 1.0f;
    return s;
}
alignas(64) constexpr RotationSigns kSigns = rotation_signs();

template <class V, int s>
KEEL_INLINE void butterflies_within(float* x, uint32_t n, uint32_t block) {
    if constexpr (s < V::kLanes) {
        if (s < block)
            for (uint32_t i = 0; i < n; i += V::kLanes) V::store(x + i, V::template butterfly<s>(V::load(x + i)));
        butterflies_within<V, 2 * s>(x, n, block);
    }
}
// back: the inverse, whose signs come last.
template <class V>
KEEL_INLINE void rotate_lanes(float* row, uint32_t head_dim, bool back) {
    const uint32_t block = kv_rotation_block(head_dim), n = padded16(head_dim);
    alignas(64) float x[kPaddedDim];
    const auto signs = [&](float* to, const float* from) KEEL_ALWAYS_INLINE {
        for_lanes<V>(
            head_dim, [&](auto load, auto store)
                          __attribute__((always_inline)) { store(to, V::mul(load(from), load(kSigns.at))); });
    };
    for (uint32_t i = head_dim; i < n; ++i) x[i] = 0.0f;
    if (back)
        memcpy(x, row, head_dim * sizeof(float));
    else
        signs(x, row);
    butterflies_within<V, 1>(x, n, block);
    for (uint32_t stride = V::kLanes; stride < block; stride *= 2)
        for (uint32_t i = 0; i < head_dim; i += 2 * stride)
            for (uint32_t j = i; j < i + stride; j += V::kLanes) {
                const typename V::F a = V::load(x + j), b = V::load(x + j + stride);
                V::store(x + j, V::add(a, b));
                V::store(x + j + stride, V::sub(a, b));
            }
    const typename V::F norm = V::set1(1.0f / __builtin_sqrtf(static_cast<float>(block)));
    for (uint32_t i = 0; i < n; i += V::kLanes) V::store(x + i, V::mul(V::load(x + i), norm));
    if (back)
        signs(row, x);
    else
        memcpy(row, x, head_dim * sizeof(float));
}

// ---- what lattice and trellis rows share ----
struct PaddedRow {
    alignas(64) float x[kPaddedDim];
    float largest, square, rms;  // as NormalRow has them
    RowKind kind;
};
template <class V>
KEEL_INLINE void normalise_lanes(const float* row, uint32_t n, PaddedRow* out) {
    using F = typename V::F;
    const uint32_t wide = padded16(n);
    memcpy(out->x, row, n * sizeof(float));
    for (uint32_t i = n; i < wide; ++i) out->x[i] = 0.0f;
    F top = V::zero();
    typename V::Mask numbers = V::is_number(top);
    for (uint32_t i = 0; i < wide; i += V::kLanes) {
        const F a = V::abs(V::load(out->x + i));
        numbers = V::both(numbers, V::less(a, V::set1(kInf32)));
        top = V::max(a, top);
    }
    const float largest = V::max_across(top);
    out->kind = row_kind(V::all(numbers), largest);
    if (out->kind != RowKind::kCoded) return;
    const F inverse = V::set1(1.0f / largest);
    for (uint32_t i = 0; i < wide; i += V::kLanes) V::store(out->x + i, V::mul(V::load(out->x + i), inverse));
    out->largest = largest;
    out->square = dot_lanes<V>(out->x, out->x, wide);
    out->rms = __builtin_sqrtf(out->square / static_cast<float>(n));
}
KEEL_INLINE float scale_of(const PaddedRow& row, float xc, float cc, KvScaleMode mode) {
    if (!(xc > 0.0f) || !(cc > 0.0f)) return 0.0f;
    const float s = row.largest * (mode == KvScaleMode::kUnbiased ? row.square / xc : xc / cc);
    return s < 65504.0f ? s : 65504.0f;
}

// ---- e8 ----
// The nearest points of kLanes blocks: c[i], the integers of element i. y[i]: element i of the blocks over their step.
template <class V>
KEEL_INLINE void nearest_e8_lanes(const typename V::F y[8], int bits, typename V::F c[8]) {
    using F = typename V::F;
    const F zero = V::zero(), one = V::set1(1.0f), two = V::set1(2.0f), half = V::set1(0.5f), inf = V::set1(kInf32),
            round = V::set1(kRound32);
    const F top = V::set1(static_cast<float>((1 << bits) - 1));
    F best = inf;
    KEEL_UNROLL
    for (int coset = 0; coset < 2; ++coset) {
        const F offset = V::set1(static_cast<float>(1 << (bits - 1)) - 0.25f - 0.5f * static_cast<float>(coset));
        F at[8], cost = zero, sum = zero, cheapest = inf, move = zero, step = zero;
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) {
            const F v = V::add(y[i], offset);
            at[i] = V::sub(V::add(V::min(V::max(v, zero), top), round), round);
            const F error = V::sub(v, at[i]), twice = V::mul(two, error);
            cost = V::fma(error, error, cost);
            sum = V::add(sum, at[i]);
            const F up = V::select(V::less(at[i], top), V::sub(one, twice), inf),
                    down = V::select(V::less(zero, at[i]), V::add(one, twice), inf);
            const F change = V::min(up, down);
            const typename V::Mask cheaper = V::less(change, cheapest);
            cheapest = V::select(cheaper, change, cheapest);
            step = V::select(cheaper, V::select(V::less(down, up), V::negate(one), one), step);
            move = V::select(cheaper, V::set1(static_cast<float>(i)), move);
        }
        // The parity of the sum: half of an odd number is no integer.
        const F halves = V::mul(sum, half);
        const typename V::Mask odd =
            V::less(V::set1(0.25f), V::abs(V::sub(halves, V::sub(V::add(halves, round), round))));
        cost = V::select(odd, V::add(cost, cheapest), cost);
        step = V::keep(odd, step);
        const typename V::Mask better = V::less(cost, best);
        best = V::select(better, cost, best);
        const F constant = V::set1(static_cast<float>(1 + 2 * coset - (2 << bits)));
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) {
            const typename V::Mask moved = V::less(V::abs(V::sub(move, V::set1(static_cast<float>(i)))), half);
            const F integer = V::fma(V::set1(4.0f), V::add(at[i], V::keep(moved, step)), constant);
            c[i] = coset == 0 ? integer : V::select(better, integer, c[i]);
        }
    }
}

template <class V>
KEEL_ONE_COPY void encode_e8_lanes(const float* row, uint32_t n, uint32_t bits, KvScaleMode mode, uint8_t* codes,
                                   uint8_t* scales) {
    using F = typename V::F;
    PaddedRow x;
    normalise_lanes<V>(row, n, &x);
    if (x.kind != RowKind::kCoded) {
        memset(codes, 0, n * bits / 8);
        kv_store_u16(scales, x.kind == RowKind::kNotFinite ? 0x7e00 : 0);
        return;
    }
    // Blocks of all steps in one sequence, step after step. turned[i][k]: element i of block k % blocks, transposed so
    // that a register may begin at any block; inverse[k]: of the step of block k of the sequence.
    constexpr uint32_t kMost = kE8Steps * kMaxHeadDim / 8 + 16;
    const uint32_t blocks = n / 8, all = kE8Steps * blocks, wide = padded16(n);
    alignas(64) float turned[8][kMaxHeadDim / 8 + 16], inverse[kMost];
    alignas(64) int16_t integers[8 * kMost];
    for (uint32_t k = 0; k < blocks + 16; ++k) {
        const float* block = x.x + 8 * (k < blocks ? k : k % blocks);
        for (uint32_t i = 0; i < 8; ++i) turned[i][k] = block[i];
    }
    for (uint32_t i = 0, k = 0; i < kE8Steps; ++i) {
        const float step = x.rms * kE8Step[bits] * fma_f32(static_cast<float>(i), kE8NextStep, kE8FirstStep),
                    inv = 1.0f / step;
        for (uint32_t b = 0; b < blocks; ++b) inverse[k++] = inv;
    }
    for (uint32_t k = all; k < all + 16; ++k) inverse[k] = 1.0f;
    for (uint32_t k = 0; k < all; k += V::kLanes) {
        F y[8], c[8];
        const F inv = V::load(inverse + k);
        KEEL_UNROLL
        for (int i = 0; i < 8; ++i) y[i] = V::mul(V::load(turned[i] + k % blocks), inv);
        nearest_e8_lanes<V>(y, static_cast<int>(bits), c);
        V::store_words8(c, integers + 8 * k);
    }
    const int16_t* kept = nullptr;
    float best = -1.0f, kept_xc = 0.0f, kept_cc = 0.0f;
    for (uint32_t i = 0; i < kE8Steps; ++i) {
        const int16_t* c = integers + i * n;
        F xc[kParts<V>], cc[kParts<V>];
        KEEL_UNROLL
        for (int p = 0; p < kParts<V>; ++p) xc[p] = cc[p] = V::zero();
        for (uint32_t d = 0; d < wide; d += 16) KEEL_UNROLL
        for (int p = 0; p < kParts<V>; ++p) {
            const int at = static_cast<int>(d) + p * V::kLanes;
            const F value = V::keep(V::lanes_between(0, static_cast<int>(n) - at), V::load_words(c + at));
            xc[p] = V::fma(V::load(x.x + at), value, xc[p]);
            cc[p] = V::fma(value, value, cc[p]);
        }
        const float product = V::tree16_one(xc), square = V::tree16_one(cc),
                    fit = product > 0.0f ? product * product / square : 0.0f;
        if (fit > best) best = fit, kept = c, kept_xc = product, kept_cc = square;
    }
    for (uint32_t b = 0; b < blocks; ++b, kept += 8, codes += bits) {
        // 4 u + 2 c, c the coset, which is stored in the lowest bit of the last element's u.
        uint64_t word = 0;
        for (uint32_t i = 0; i < 8; ++i) {
            const uint32_t integer = static_cast<uint32_t>(kept[i] + (2 << bits) - 1), u = integer >> 2;
            word |= uint64_t{i == 7 ? (u & ~1u) | (integer >> 1 & 1) : u} << i * bits;
        }
        for (uint32_t i = 0; i < bits; ++i) codes[i] = static_cast<uint8_t>(word >> 8 * i);
    }
    kv_store_u16(scales, f32_to_f16(scale_of(x, kept_xc, kept_cc, mode)));
}

// ---- trellis ----
// The least of cost[w * stride] for w in [first, first + count), and the lowest such w, in every lane.
template <class V, int stride, int first, int count>
KEEL_INLINE void least_of(const float* cost, typename V::F* least, typename V::F* way) {
    if constexpr (count == 1) {
        *least = V::load(cost + first * stride);
        *way = V::set1(static_cast<float>(first));
    } else {
        typename V::F other, other_way;
        least_of<V, stride, first, count / 2>(cost, least, way);
        least_of<V, stride, first + count / 2, count / 2>(cost, &other, &other_way);
        *way = V::select(V::less(other, *least), other_way, *way);
        *least = V::min(other, *least);
    }
}
// One step of the search: for every group of states that share their predecessors, the least cost among those and which
// one has it. Lanes are groups where there are 16 of them or more.
template <class V, int kBits>
KEEL_INLINE void best_predecessors(const float* cost, float* least, int8_t* from) {
    using F = typename V::F;
    constexpr int kGroups = 256 >> kBits, kWays = 1 << kBits;
    if constexpr (kGroups >= 16) {
        KEEL_UNROLL
        for (int g = 0; g < kGroups; g += 16) {
            F way[kParts<V>];
            KEEL_UNROLL
            for (int p = 0; p < kParts<V>; ++p) {
                F lowest;
                least_of<V, kGroups, 0, kWays>(cost + g + p * V::kLanes, &lowest, way + p);
                V::store(least + g + p * V::kLanes, lowest);
            }
            V::store_codes16(way, from + g);
        }
    } else {  // 16 lanes hold several ways of every group
        constexpr int kWaysTogether = 16 / kGroups;
        float lowest[16], row[16];
        KEEL_UNROLL
        for (int p = 0; p < kParts<V>; ++p) {
            F v, way;
            least_of<V, 16, 0, 16>(cost + p * V::kLanes, &v, &way);
            V::store(lowest + p * V::kLanes, v);
            V::store(row + p * V::kLanes, way);
        }
        for (int g = 0; g < kGroups; ++g) {
            float best = lowest[g];
            int way = static_cast<int>(row[g]) * kWaysTogether;
            for (int t = 1; t < kWaysTogether; ++t) {
                const float other = lowest[t * kGroups + g];
                const int other_way = static_cast<int>(row[t * kGroups + g]) * kWaysTogether + t;
                const bool better = other < best || (other == best && other_way < way);
                best = better ? other : best;
                way = better ? other_way : way;
            }
            least[g] = best;
            from[g] = static_cast<int8_t>(way);
        }
    }
}
// As search_trellis.
template <class V, int kBits>
KEEL_NOINLINE void search_trellis_lanes(const float* x, uint32_t n, const float* value, uint8_t* state) {
    using F = typename V::F;
    constexpr int kGroups = 256 >> kBits, kWays = 1 << kBits, kLanes = V::kLanes;
    alignas(64) float cost[256], least_of_group[kGroups];
    alignas(64) int8_t from[kMaxHeadDim][kGroups];
    for (int s = 0; s < 256; s += kLanes) {
        const F d = V::sub(V::set1(x[n - 1]), V::load(value + s));
        V::store(cost + s, V::mul(d, d));
    }
    KEEL_KEEP_LOOP  // or GCC 12 unrolls this one too, where it has unrolled the one over states as a whole
        for (uint32_t left = n - 1; left > 0; --left) {
        const uint32_t i = left - 1;
        best_predecessors<V, kBits>(cost, least_of_group, from[i]);
        const F target = V::set1(x[i]);
        KEEL_UNROLL
        for (int s = 0; s < 256; s += kLanes) {
            F least;
            if constexpr (kWays < kLanes)
                least = V::template repeat<kWays>(V::load(least_of_group + s / (kWays * kLanes) * kLanes),
                                                  s / kLanes % kWays);
            else
                least = V::set1(least_of_group[s / kWays]);
            const F d = V::sub(target, V::load(value + s));
            V::store(cost + s, V::fma(d, d, least));
        }
    }
    F least = V::load(cost), at = V::zero();
    for (int s = kLanes; s < 256; s += kLanes) {
        const F other = V::load(cost + s);
        at = V::select(V::less(other, least), V::set1(static_cast<float>(s)), at);
        least = V::min(other, least);
    }
    float lane_least[kLanes], lane_at[kLanes];
    V::store(lane_least, least);
    V::store(lane_at, at);
    uint32_t last = static_cast<uint32_t>(lane_at[0]);
    float lowest = lane_least[0];
    for (int l = 1; l < kLanes; ++l) {
        const uint32_t s = static_cast<uint32_t>(lane_at[l]) + static_cast<uint32_t>(l);
        if (lane_least[l] < lowest || (lane_least[l] == lowest && s < last)) lowest = lane_least[l], last = s;
    }
    for (uint32_t i = 0; i < n; ++i) {
        state[i] = static_cast<uint8_t>(last);
        if (i + 1 < n) last = static_cast<uint32_t>(from[i][last >> kBits]) * kGroups + (last >> kBits);
    }
}
template <class V>
KEEL_ONE_COPY void encode_trellis_lanes(const float* row, uint32_t n, uint32_t bits, TrellisSearch search,
                                        KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    PaddedRow x;
    normalise_lanes<V>(row, n, &x);
    if (x.kind != RowKind::kCoded) {
        memset(codes, 0, n * bits / 8);
        kv_store_u16(scales, trellis_field(x.kind == RowKind::kNotFinite ? __builtin_nanf("") : 0.0f, 0, bits));
        return;
    }
    const int8_t* table = kTrellisTables[bits - 2];
    const uint32_t wide = padded16(n);
    alignas(64) float c[kPaddedDim], value[256];
    uint8_t state[kMaxHeadDim];
    for (int s = 0; s < 256; ++s) value[s] = static_cast<float>(table[s]);
    const typename V::F units = V::set1(kTrellisUnit[bits - 2] / x.rms);
    for (uint32_t i = 0; i < wide; i += V::kLanes) V::store(c + i, V::mul(V::load(x.x + i), units));
    search(c, n, value, state);
    for (uint32_t i = 0; i < n; ++i) c[i] = value[state[i]];
    for (uint32_t i = n; i < wide; ++i) c[i] = 0.0f;
    for (uint32_t g = 0; g < n / 8; ++g, codes += bits) {
        uint64_t word = 0;
        for (uint32_t i = 0; i < 8; ++i) word |= uint64_t{state[8 * g + i] & ((1u << bits) - 1)} << i * bits;
        for (uint32_t i = 0; i < bits; ++i) codes[i] = static_cast<uint8_t>(word >> 8 * i);
    }
    const float scale = scale_of(x, dot_lanes<V>(x.x, c, wide), dot_lanes<V>(c, c, wide), mode);
    kv_store_u16(scales, trellis_field(scale, static_cast<uint32_t>(state[n - 1] >> bits), bits));
}

template <class V, KvFormat F>
KEEL_INLINE void kv_encode_lanes(const float* row, uint32_t n, KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    if constexpr (F == kKvF16) {
        uint32_t i = 0;
        for (; i + V::kLanes <= n; i += V::kLanes) V::store_f16(codes + 2 * i, V::load(row + i));
        for (; i < n; ++i) kv_store_u16(codes + 2 * i, f32_to_f16(row[i]));
    } else if constexpr (kKvFormats[F].family == KvFamily::kLattice) {
        encode_e8_lanes<V>(row, n, kKvFormats[F].bits, mode, codes, scales);
    } else if constexpr (kKvFormats[F].family == KvFamily::kTrellis) {
        encode_trellis_lanes<V>(row, n, kKvFormats[F].bits, search_trellis_lanes<V, kKvFormats[F].bits>, mode, codes,
                                scales);
    } else {
        kv_encode_portable<F>(row, n, mode, codes, scales);
    }
}

#define KEEL_DEFINE_KV_CODECS_LANES(isa, V)                                                                        \
    template <KvFormat F>                                                                                          \
    void kv_encode_##isa(const float* row, uint32_t head_dim, KvScaleMode mode, uint8_t* codes, uint8_t* scales) { \
        kv_encode_lanes<V, F>(row, head_dim, mode, codes, scales);                                                 \
    }                                                                                                              \
    template <KvFormat F>                                                                                          \
    void kv_decode_##isa(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, float* row) {             \
        kv_decode_portable<F>(codes, scales, head_dim, row);                                                       \
    }                                                                                                              \
    void kv_rotate_##isa(float* row, uint32_t head_dim) {                                                          \
        rotate_lanes<V>(row, head_dim, false);                                                                     \
    }                                                                                                              \
    void kv_unrotate_##isa(float* row, uint32_t head_dim) {                                                        \
        rotate_lanes<V>(row, head_dim, true);                                                                      \
    }

}  // namespace
}  // namespace keel::kernels
