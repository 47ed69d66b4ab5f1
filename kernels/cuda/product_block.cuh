// The integers of one block of weights in fragments and its part in the chain of a sum (NUMERICS section 2), for eight
// tokens.
#pragma once
#include "kernels/cuda/fragments.cuh"

namespace keel::cuda {

template <WeightType T>
constexpr bool kIntegerMinima = kWeightTypes[T].sub_block&& kWeightTypes[T].m_at != kernels::kNoField;

// Types whose codes have an offset, and a scale for each of the sixteen sums: where few tokens share the unpacking, the
// offset is left in the codes and taken off as a minimum is, the offset times the scale.
template <WeightType T>
constexpr uint32_t kOffsetOfSums =
    kWeightTypes[T].sub_block == 16 && kWeightTypes[T].m_at == kernels::kNoField ? kWeightTypes[T].codes.offset : 0;

// A block as matrix units take it: codes of every run, of those that share words in place, and what is multiplied by
// the sixteen sums: integer minima; of SHIFTED types, whose codes are as they are written, the scales.
template <WeightType T>
struct BlockValues {
    uint32_t a[FragmentShape<T>::kRuns][4];
    uint32_t minima[2];  // of rows g and g + 8: of sums 4t..4t+3
};
template <WeightType T, bool SHIFTED = false>
KEEL_GPU void unpack_block(const Fragment<T>& f, uint32_t lane, BlockValues<T>& v) {
    const uint32_t t = lane % 4;
    KEEL_UNROLL
    for (uint32_t r = 0; r < FragmentShape<T>::kRuns; ++r) {
        if constexpr (kPairsOfRuns<T>)
            codes_in_place<T>(f, r, v.a[r]);
        else
            values_of_run<T, !SHIFTED>(f, r, v.a[r]);
    }
    if constexpr (SHIFTED) {
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
            const auto four = [&](uint32_t n) { return scales4<T>(f.scales[half], n); };
            v.minima[half] = t < 2 ? (t == 0 ? four(0) : four(1)) : (t == 2 ? four(2) : four(3));
        }
    }
    if constexpr (kIntegerMinima<T>) {
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
            const auto four = [&](uint32_t n) { return minima4<T>(f.scales[half], n); };
            if constexpr (kWeightTypes[T].sub_block == 16)
                v.minima[half] = t < 2 ? (t == 0 ? four(0) : four(1)) : (t == 2 ? four(2) : four(3));
            else  // two sums of 16, and one minimum for both
                v.minima[half] = pick_bytes(t < 2 ? four(0) : four(1), 0, t % 2 ? 0x3322 : 0x1100);
        }
    }
}

// Of rows g, g, g + 8, g + 8 and tokens 2t, 2t + 1 in turn: I and, for types with integer minima, M of the contract.
// Types without sub-blocks have kBitsOfInteger + I.
struct Integers {
    int32_t i[4], m[4];
};
// f32 whose bits, with a small integer added to them, are the f32 of 12582912 + that integer.
constexpr int32_t kBitsOfInteger = 0x4b400000;
KEEL_GPU float float_of(int32_t bits) {
    return f32_from_bits(static_cast<uint32_t>(bits)) - 12582912.0f;
}

// `codes`, `sums`: words of this block of token g.
template <WeightType T, bool SHIFTED = false>
KEEL_GPU Integers integers_of(const Fragment<T>& f, const BlockValues<T>& v, const uint32_t* codes,
                              const uint32_t* sums, uint32_t lane) {
    constexpr uint32_t kSubBlock = kWeightTypes[T].sub_block;
    const uint32_t t = lane % 4;
    Integers n = {};
    int32_t upper_runs[4] = {};  // of runs that share words, the upper one's share of I, sixteen times as large
    KEEL_UNROLL
    for (uint32_t r = 0; r < FragmentShape<T>::kRuns; ++r) {
        const uint32_t* a = v.a[r];
        if constexpr (kSubBlock == 16) {
            const uint32_t b0 = codes[8 * r + word_of_run<T>(t, 0)], b1 = codes[8 * r + word_of_run<T>(t, 1)];
            int32_t q[4] = {}, p[4] = {};
            mma_s8(q, a[0], a[1], b0);
            mma_s8(p, a[2], a[3], b1);
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) {
                const uint32_t scales = scales4<T>(f.scales[c / 2], r / 2);
                n.i[c] += byte_at(scales, 2 * r) * q[c] + byte_at(scales, 2 * r + 1) * p[c];
            }
        } else {
            const Words2 b = *reinterpret_cast<const Words2*>(codes + 8 * r + word_of_run<T>(t, 0));
            if constexpr (kSubBlock == 0) {
                mma_s8_from(n.i, kBitsOfInteger, a, b.x, b.y);
            } else {
                int32_t q[4];
                if constexpr (kPairsOfRuns<T>)
                    mma_u8_first(q, a, b.x, b.y);
                else
                    mma_s8_from(q, 0, a, b.x, b.y);
                int32_t* to = kPairsOfRuns<T> && r % 2 ? upper_runs : n.i;
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) to[c] += byte_at(scales4<T>(f.scales[c / 2], r / 4), r) * q[c];
            }
        }
    }
    if constexpr (kPairsOfRuns<T>) {
        KEEL_UNROLL
        for (uint32_t c = 0; c < 4; ++c) n.i[c] += upper_runs[c] >> 4;
    }
    if constexpr (kIntegerMinima<T> || SHIFTED) {
        // Sums of sixteen, at most 2032, as 128 times an upper part and seven lower bits.
        const Words2 s = *reinterpret_cast<const Words2*>(sums + 2 * t);
        int32_t upper[4] = {};
        mma_s8(upper, v.minima[0], v.minima[1], pick_bytes(s.x >> 7, s.y >> 7, 0x6420));
        mma_s8(n.m, v.minima[0], v.minima[1], pick_bytes(s.x, s.y, 0x6420) & 0x7f7f7f7fu);
        KEEL_UNROLL
        for (uint32_t c = 0; c < 4; ++c) n.m[c] += 128 * upper[c];
        if constexpr (SHIFTED) {
            KEEL_UNROLL
            for (uint32_t c = 0; c < 4; ++c) n.i[c] -= static_cast<int32_t>(kOffsetOfSums<T>) * n.m[c];
        }
    }
    return n;
}

// A block's part in the chain of one row and token: what is worked out before the sum is there, and the rest.
struct ChainPart {
    float scale, sum, minimum, minima;
};
template <WeightType T>
KEEL_GPU ChainPart part_of(uint32_t factors, float d_token, int32_t i, int32_t m) {
    ChainPart part = {mul_f32(d_of<T>(factors), d_token),
                      kWeightTypes[T].sub_block ? static_cast<float>(i) : float_of(i), 0, 0};
    if constexpr (kWeightTypes[T].m_at != kernels::kNoField) {
        const float minimum = mul_f32(minimum_of(factors), d_token);
        part.minimum = kWeightTypes[T].sub_block ? -minimum : minimum;
        part.minima = static_cast<float>(m);
    }
    return part;
}
template <WeightType T>
KEEL_GPU float chain(float acc, const ChainPart& part) {
    acc = fma_f32(part.scale, part.sum, acc);
    return kWeightTypes[T].m_at == kernels::kNoField ? acc : fma_f32(part.minimum, part.minima, acc);
}
template <WeightType T>
KEEL_GPU float chain(float acc, uint32_t factors, float d_token, int32_t i, int32_t m) {
    return chain<T>(acc, part_of<T>(factors, d_token, i, m));
}

// m of the contract for types without integer minima: the sum of 32 activations.
KEEL_GPU int32_t sum_of_pair(uint32_t sums) {
    return static_cast<int16_t>(sums) + static_cast<int16_t>(sums >> 16);
}

}  // namespace keel::cuda
