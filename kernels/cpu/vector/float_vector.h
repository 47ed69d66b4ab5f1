// What the f32 kernels of every vector instruction set share: templates over a vector type V that has
//
//   F, Mask, kLanes, kRegisters        a register of kLanes floats (4, 8 or 16), a comparison of two, their number
//   zero set1 load store               memory of any alignment
//   load_first store_first             the first n < kLanes floats; lanes behind them are read as 0
//   load_f16 load_bf16 store_f16       kLanes halves, exactly widened or rounded to nearest even
//   load_pairs store_pairs             2 kLanes floats p[0..]: the even and the odd ones
//   add sub mul div fma(a,b,c)=a*b+c fnma(a,b,c)=c-a*b, each with one rounding
//   max(a,b) = a > b ? a : b,  min(a,b) = a < b ? a : b     so b where one is NaN
//   abs negate with_sign(v, s)         v, whose sign bit is 0, with the sign of s
//   mul_pow2(p, n)                     p * 2^n for integers -126 <= n <= 128, p in [1/2, 2]; NaN where p is, else any
//   less is_number lanes_between(lo, hi) both all select(m, a, b) = m ? a : b, keep(m, v) = m ? v : +0
//   max_across(v)                      the largest lane; none is NaN
//   tree16_one(lanes)                  tree16 of NUMERICS section 1 over 16 / kLanes registers
//   tree16(lanes)                      kLanes such sums at once: lanes[i] gives lane i
//   store_codes16(v, q)                16 integers |v| <= 127 rounded to nearest even into int8; returns their sum
//   Words words1 load_wide             kLanes / 2 lanes of 64 bits: a word in each; memory
//   mul_words upper_words differ       of the lower halves of lanes: product (64 bits); upper halves; exclusive or
//   store_fours(p, w0, w1, w2, w3)     p[4 lane + i] = the lower half of that lane of w_i
//
// and no state. V and everything here live in unnamed namespaces: a file of one instruction set owns its copies.
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/numeric.h"

namespace keel::kernels {
namespace {

// Asks for what is read next, as far as the second-level cache: the first one has few lines on their way at once, and
// reads would wait behind these.
KEEL_INLINE void fetch_far(const uint8_t* from, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Registers that hold the 16 lanes of a dot product.
template <class V>
constexpr int kParts = 16 / V::kLanes;

// ---- the functions of kernels/formats/numeric.h, with the same sequence of roundings in each lane ----
template <class V>
KEEL_INLINE typename V::F exp_lanes(typename V::F x) {
    using F = typename V::F;
    const F round = V::set1(kRound32);
    const F n = V::sub(V::add(V::mul(x, V::set1(kLog2e32)), round), round);
    const F r = V::fnma(n, V::set1(kLn2Lo32), V::fnma(n, V::set1(kLn2Hi32), x));
    F p = V::set1(kExpC6);
    p = V::fma(p, r, V::set1(kExpC5));
    p = V::fma(p, r, V::set1(kExpC4));
    p = V::fma(p, r, V::set1(kExpC3));
    p = V::fma(p, r, V::set1(kExpC2));
    p = V::fma(p, r, V::set1(1.0f));
    p = V::fma(p, r, V::set1(1.0f));
    // Lanes outside the range hold anything until here; NaN has stayed NaN.
    const F y = V::select(V::less(V::set1(kExpMax32), x), V::set1(kInf32), V::mul_pow2(p, n));
    return V::select(V::less(x, V::set1(kExpMin32)), V::zero(), y);
}

template <class V>
KEEL_INLINE typename V::F tanh_lanes(typename V::F x) {
    using F = typename V::F;
    const F a = V::abs(x), u = V::mul(x, x), one = V::set1(1.0f), two = V::set1(2.0f);
    F p = V::set1(kTanhC5);
    p = V::fma(p, u, V::set1(kTanhC4));
    p = V::fma(p, u, V::set1(kTanhC3));
    p = V::fma(p, u, V::set1(kTanhC2));
    p = V::fma(p, u, V::set1(kTanhC1));
    const F small = V::fma(V::mul(x, u), p, x);
    const F large = V::sub(one, V::div(two, V::add(exp_lanes<V>(V::mul(two, a)), one)));
    return V::select(V::less(a, V::set1(kTanhSplit)), small, V::with_sign(large, x));
}

// Runs body(lane, load, store) over n elements, kLanes at a time and then what is left: load(p) and store(p, v) move
// the lanes of this step from p + lane. For bodies that treat every element alike.
template <class V, class Body>
KEEL_INLINE void for_lanes(uint32_t n, Body&& body) {
    uint32_t i = 0;
    for (; i + V::kLanes <= n; i += V::kLanes)
        body(
            [i](const float* p) __attribute__((always_inline)) { return V::load(p + i); },
            [i](float* p, typename V::F v) __attribute__((always_inline)) { V::store(p + i, v); });
    if (i < n)
        body(
            [ i, n ](const float* p) __attribute__((always_inline)) { return V::load_first(p + i, n - i); },
            [ i, n ](float* p, typename V::F v) __attribute__((always_inline)) { V::store_first(p + i, n - i, v); });
}

// ---- kLanes weights or cached values as f32, by type ----
template <class V>
struct LoadF32 {
    static constexpr uint32_t kBytes = 4;
    KEEL_INLINE typename V::F load(const uint8_t* p) { return V::load(reinterpret_cast<const float*>(p)); }
};
template <class V>
struct LoadF16 {
    static constexpr uint32_t kBytes = 2;
    KEEL_INLINE typename V::F load(const uint8_t* p) { return V::load_f16(p); }
};
template <class V>
struct LoadBF16 {
    static constexpr uint32_t kBytes = 2;
    KEEL_INLINE typename V::F load(const uint8_t* p) { return V::load_bf16(p); }
};

// ---- the register tile ----
// Accumulators a tile may hold beside its operands.
template <class V>
constexpr int kAccumulators = V::kRegisters * 3 / 4;

// lanes[c * kStep + r] (+)= the 16 lanes of row r of w times row c of x over k elements, k a multiple of 16. As many of
// the kParts registers of every product run together as the machine has registers for; the others make further passes.
template <class V, class Load, int R, int C, int kStep, bool kContinue>
KEEL_INLINE void multiply_tile(const uint8_t* w, uint64_t w_row_bytes, const float* const* x, uint32_t k,
                               typename V::F (*lanes)[kParts<V>]) {
    using F = typename V::F;
    constexpr int kAll = kParts<V>, kFit = kAccumulators<V> / (R * C);
    constexpr int kTogether = kFit >= kAll ? kAll : kFit >= 2 && kAll % 2 == 0 ? 2 : 1;
    static_assert(kFit >= 1);
    constexpr int kGroups = (R + 3) / 4;  // four rows share a pointer
    uint64_t row[4] = {0, w_row_bytes, 2 * w_row_bytes, 3 * w_row_bytes};
    if constexpr (R > 3) KEEL_OPAQUE(row[3]);
    KEEL_UNROLL
    for (int first = 0; first < kAll; first += kTogether) {
        F acc[kTogether][R][C];
        KEEL_UNROLL
        for (int p = 0; p < kTogether; ++p) KEEL_UNROLL
        for (int r = 0; r < R; ++r) KEEL_UNROLL
        for (int c = 0; c < C; ++c) acc[p][r][c] = kContinue ? lanes[c * kStep + r][first + p] : V::zero();
        const uint8_t* rows[kGroups];
        KEEL_UNROLL
        for (int g = 0; g < kGroups; ++g) rows[g] = w + 4 * g * w_row_bytes + first * V::kLanes * Load::kBytes;
        for (uint64_t i = static_cast<uint64_t>(first * V::kLanes); i < k; i += 16) {
            KEEL_UNROLL
            for (int p = 0; p < kTogether; ++p) {
                F xs[C];
                KEEL_UNROLL
                for (int c = 0; c < C; ++c) xs[c] = V::load(x[c] + i + p * V::kLanes);
                KEEL_UNROLL
                for (int r = 0; r < R; ++r) {
                    const F ws = Load::load(rows[r / 4] + row[r % 4] + p * V::kLanes * Load::kBytes);
                    KEEL_UNROLL
                    for (int c = 0; c < C; ++c) acc[p][r][c] = V::fma(ws, xs[c], acc[p][r][c]);
                }
            }
            KEEL_UNROLL
            for (int g = 0; g < kGroups; ++g) {
                rows[g] += 16 * Load::kBytes;
                KEEL_OPAQUE(rows[g]);
            }
        }
        KEEL_UNROLL
        for (int p = 0; p < kTogether; ++p) KEEL_UNROLL
        for (int r = 0; r < R; ++r) KEEL_UNROLL
        for (int c = 0; c < C; ++c) lanes[c * kStep + r][first + p] = acc[p][r][c];
    }
}

}  // namespace
}  // namespace keel::kernels
