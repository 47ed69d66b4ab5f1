// Row operations and the quantization of activations (NUMERICS sections 4 and 2) over a vector type of float_vector.h.
#pragma once
#include "kernels/cpu/families.h"
#include "kernels/cpu/rowops/exp_masses.h"
#include "kernels/cpu/rowops/race.h"
#include "kernels/cpu/vector/float_vector.h"

namespace keel::kernels {
namespace {

template <class V>
KEEL_INLINE float dot_lanes(const float* a, const float* b, uint32_t n) {
    using F = typename V::F;
    F sums[kParts<V>];
    KEEL_UNROLL
    for (F& s : sums) s = V::zero();
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        KEEL_UNROLL
        for (int p = 0; p < kParts<V>; ++p) {
            const uint32_t at = i + static_cast<uint32_t>(p) * V::kLanes;
            sums[p] = V::fma(V::load(a + at), V::load(b + at), sums[p]);
        }
    }
    if (i == n) return V::tree16_one(sums);
    float lanes[16];
    KEEL_UNROLL
    for (int p = 0; p < kParts<V>; ++p) V::store(lanes + p * V::kLanes, sums[p]);
    for (; i < n; ++i) lanes[i % 16] = fma_f32(a[i], b[i], lanes[i % 16]);
    return tree16(lanes);
}

template <class V>
KEEL_INLINE void rms_norm_lanes(const float* x, const float* w, uint32_t n, float eps, float* y) {
    using F = typename V::F;
    const F r = V::set1(1.0f / __builtin_sqrtf(dot_lanes<V>(x, x, n) / static_cast<float>(n) + eps));
    for_lanes<V>(
        n, [&](auto load, auto store)
               __attribute__((always_inline)) { store(y, V::mul(V::mul(load(x), r), load(w))); });
}

template <class V>
KEEL_INLINE void rope_lanes(float* x, uint32_t pairs, const float* cos_sin, bool neox) {
    using F = typename V::F;
    uint32_t i = 0;
    for (; i + V::kLanes <= pairs; i += V::kLanes) {
        F c, s, x0, x1;
        V::load_pairs(cos_sin + 2 * i, &c, &s);
        if (neox)
            x0 = V::load(x + i), x1 = V::load(x + i + pairs);
        else
            V::load_pairs(x + 2 * i, &x0, &x1);
        const F y0 = V::sub(V::mul(x0, c), V::mul(x1, s)), y1 = V::add(V::mul(x0, s), V::mul(x1, c));
        if (neox)
            V::store(x + i, y0), V::store(x + i + pairs, y1);
        else
            V::store_pairs(x + 2 * i, y0, y1);
    }
    const uint32_t step = neox ? 1 : 2, partner = neox ? pairs : 1;
    for (; i < pairs; ++i) {
        float* p = x + i * step;
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], x0 = p[0], x1 = p[partner];
        p[0] = x0 * c - x1 * s;
        p[partner] = x0 * s + x1 * c;
    }
}

template <class V>
KEEL_INLINE void gate_silu_lanes(const float* gate, const float* up, uint32_t n, float* y) {
    using F = typename V::F;
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) {
            const F g = load(gate);
            store(y, V::mul(V::div(g, V::add(V::set1(1.0f), exp_lanes<V>(V::negate(g)))), load(up)));
        });
}

template <class V>
KEEL_INLINE void gate_gelu_lanes(const float* gate, const float* up, uint32_t n, float* y) {
    using F = typename V::F;
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) {
            const F g = load(gate);
            const F cube = V::mul(V::mul(V::set1(kGeluCubic), V::mul(g, g)), g);
            const F t = tanh_lanes<V>(V::mul(V::set1(kGeluScale), V::add(g, cube)));
            store(y, V::mul(V::mul(V::mul(V::set1(0.5f), g), V::add(V::set1(1.0f), t)), load(up)));
        });
}

template <class V>
KEEL_INLINE void add_lanes(float* x, const float* y, uint32_t n) {
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) { store(x, V::add(load(x), load(y))); });
}

template <class V>
KEEL_INLINE void scale_lanes(float* x, float factor, uint32_t n) {
    const typename V::F f = V::set1(factor);
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) { store(x, V::mul(load(x), f)); });
}

template <class V>
KEEL_INLINE typename V::F softcap_of(typename V::F x, typename V::F cap) {
    return V::mul(cap, tanh_lanes<V>(V::div(x, cap)));
}

template <class V>
KEEL_INLINE void softcap_lanes(float* x, float cap, uint32_t n) {
    const typename V::F c = V::set1(cap);
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) { store(x, softcap_of<V>(load(x), c)); });
}

template <class V>
KEEL_INLINE void mix_lanes(const float* const* x, const float* c, uint32_t terms, uint32_t n, float* y) {
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) {
            typename V::F sum = V::mul(load(c), load(x[0]));
            for (uint32_t i = 1; i < terms; ++i) sum = V::fma(load(c + uint64_t{i} * n), load(x[i]), sum);
            store(y, sum);
        });
}

template <class V>
KEEL_INLINE void leaky_square_lanes(const float* x, float leak, uint32_t n, float* y) {
    using F = typename V::F;
    const F l = V::set1(leak);
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) {
            const F v = load(x), r = V::select(V::less(V::zero(), v), v, V::mul(l, v));
            store(y, V::mul(r, r));
        });
}

template <class V>
KEEL_INLINE void gate_rows_lanes(float* x, const float* gate, uint32_t rows, uint32_t n) {
    for (uint32_t i = 0; i < rows; ++i) scale_lanes<V>(x + uint64_t{i} * n, sigmoid_f32(gate[i]), n);
}

template <class V>
KEEL_INLINE void exclude_lanes(float* x, const float* v, uint32_t n) {
    const typename V::F part = V::set1(-part_along_f32(dot_lanes<V>(x, v, n), dot_lanes<V>(v, v, n)));
    for_lanes<V>(
        n, [&](auto load, auto store) __attribute__((always_inline)) { store(x, V::fma(part, load(v), load(x))); });
}

// Two passes over a block: the largest magnitude, then the codes. Codes and sums as matmul_scalar.cpp defines them.
template <class V>
KEEL_INLINE void quantize_q8_lanes(const float* x, uint32_t k, uint32_t block, void* token) {
    using F = typename V::F;
    int8_t* q = q8_codes(token);
    float* d = q8_scales(token, k);
    int16_t* sums = q8_sums(token, k, block);
    const F inf = V::set1(kInf32), top = V::set1(127.0f), bottom = V::set1(-127.0f);
    for (uint32_t b = 0; b < k / block; ++b) {
        // Two maxima, so that a step need not wait for the one before; 32 elements hold both for every V.
        F largest[2] = {V::zero(), V::zero()};
        typename V::Mask below[2] = {V::is_number(V::zero()), V::is_number(V::zero())};
        for (uint32_t i = 0; i < block; i += 2 * V::kLanes) {
            KEEL_UNROLL
            for (int h = 0; h < 2; ++h) {
                const F m = V::abs(V::load(x + i + h * V::kLanes));
                largest[h] = V::max(m, largest[h]);
                below[h] = V::both(below[h], V::less(m, inf));
            }
        }
        const float amax = V::max_across(V::max(largest[0], largest[1]));
        const bool finite = V::all(V::both(below[0], below[1]));
        d[b] = finite ? amax * (1.0f / 127.0f) : __builtin_nanf("");
        const F inverse = V::set1(finite && amax > 0.0f ? 127.0f / amax : 0.0f);
        for (uint32_t i = 0; i < block; i += 16, x += 16, q += 16) {
            F v[kParts<V>];
            KEEL_UNROLL
            for (int p = 0; p < kParts<V>; ++p) {
                const F scaled = V::mul(V::load(x + p * V::kLanes), inverse);
                v[p] = V::keep(V::is_number(scaled), V::max(V::min(scaled, top), bottom));
            }
            *sums++ = static_cast<int16_t>(V::store_codes16(v, q));
        }
    }
}

// The set's functions are these with its vector type.
#define KEEL_DEFINE_ROWOPS(isa, V)                                                                                    \
    void rms_norm_##isa(const float* x, const float* w, uint32_t n, float eps, float* y) {                            \
        rms_norm_lanes<V>(x, w, n, eps, y);                                                                           \
    }                                                                                                                 \
    void rope_table_##isa(const double* frequency, uint32_t pairs, uint32_t position, float factor, float* cos_sin) { \
        rope_table_f64(frequency, pairs, position, factor, cos_sin);                                                  \
    }                                                                                                                 \
    void rope_##isa(float* x, uint32_t pairs, const float* cos_sin, bool neox) {                                      \
        rope_lanes<V>(x, pairs, cos_sin, neox);                                                                       \
    }                                                                                                                 \
    void gate_silu_##isa(const float* gate, const float* up, uint32_t n, float* y) {                                  \
        gate_silu_lanes<V>(gate, up, n, y);                                                                           \
    }                                                                                                                 \
    void gate_gelu_##isa(const float* gate, const float* up, uint32_t n, float* y) {                                  \
        gate_gelu_lanes<V>(gate, up, n, y);                                                                           \
    }                                                                                                                 \
    void add_##isa(float* x, const float* y, uint32_t n) {                                                            \
        add_lanes<V>(x, y, n);                                                                                        \
    }                                                                                                                 \
    void scale_##isa(float* x, float factor, uint32_t n) {                                                            \
        scale_lanes<V>(x, factor, n);                                                                                 \
    }                                                                                                                 \
    void softcap_##isa(float* x, float cap, uint32_t n) {                                                             \
        softcap_lanes<V>(x, cap, n);                                                                                  \
    }                                                                                                                 \
    void mix_##isa(const float* const* x, const float* c, uint32_t terms, uint32_t n, float* y) {                     \
        mix_lanes<V>(x, c, terms, n, y);                                                                              \
    }                                                                                                                 \
    void leaky_square_##isa(const float* x, float leak, uint32_t n, float* y) {                                       \
        leaky_square_lanes<V>(x, leak, n, y);                                                                         \
    }                                                                                                                 \
    void gate_rows_##isa(float* x, const float* gate, uint32_t rows, uint32_t n) {                                    \
        gate_rows_lanes<V>(x, gate, rows, n);                                                                         \
    }                                                                                                                 \
    void exclude_##isa(float* x, const float* v, uint32_t n) {                                                        \
        exclude_lanes<V>(x, v, n);                                                                                    \
    }                                                                                                                 \
    void exp_masses_##isa(const MassArgs& args) {                                                                     \
        exp_masses_f64(args);                                                                                         \
    }                                                                                                                 \
    void race_##isa(const RaceArgs& args) {                                                                           \
        race_f64(args, race_words_lanes<V>);                                                                          \
    }                                                                                                                 \
    void quantize_q8_##isa(const float* x, uint32_t k, uint32_t block, void* token) {                                 \
        quantize_q8_lanes<V>(x, k, block, token);                                                                     \
    }

}  // namespace
}  // namespace keel::kernels
