// Weights as matrix units take them: 16 rows of a matrix together, so that what a lane multiplies lies side by side. A
// permutation of the bits of the plain rows, of the same size; rows missing at the end of a matrix are zeros.
//
// Groups of 16 rows, in each its blocks ascending. A block of sixteen rows is 16 times a plain one:
//     lower bits of codes | upper bits | scale bytes, row by row | d, and m or dmin, row by row
// Lane l = 4g + t of a warp multiplies, of a run of 32 elements, four words of four codes: words 2t of rows g and g +
// 8, then words 2t + 1 of both; where a run has two sub-blocks, which are multiplied one by one, words t and t + 4. Of
// the codes' lower 8, 4 or 2 bits it has 4, 2 or 1 words a run, of their upper 2 or 1 bits one word or half of one,
// packed as pack_run says; all its words of a block of weights come in pieces of 16 bytes, a piece of every lane after
// another. Blocks of one run have pieces as short as their words.
//
// Where codes are four bits and nothing else, two runs share their words (kPairsOfRuns): matrix units take the upper
// one's codes where they are, sixteen times as large, and the sums are divided.
#pragma once
#include "kernels/cuda/weight_blocks.cuh"

namespace keel::cuda {

template <WeightType T>
struct FragmentShape {
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr bool k8Bits = T == kQ8_0 || T == kQ8_F32;
    static constexpr uint32_t kRuns = kInfo.block_elements / 32;
    static constexpr uint32_t kLowBits = k8Bits ? 8 : T == kQ2_K || T == kQ3_K ? 2 : 4;
    static constexpr uint32_t kHighBits = T == kQ6_K ? 2 : T == kQ5_0 || T == kQ5_1 || T == kQ5_K || T == kQ3_K ? 1 : 0;
    static constexpr uint32_t kLowBytes = 2 * kLowBits * kRuns, kHighBytes = 2 * kHighBits * kRuns;  // of a lane
    static constexpr uint32_t kFactorBytes = (T == kQ8_F32 ? 4 : 2) * (kInfo.m_at == kernels::kNoField ? 1 : 2);
    static constexpr uint32_t kHighAt = 32 * kLowBytes, kScalesAt = kHighAt + 32 * kHighBytes,
                              kFactorsAt = kScalesAt + 16 * kScaleBytes<T>.count, kBytes = 16 * kInfo.block_bytes;
    static_assert(kFactorsAt + 16 * kFactorBytes == kBytes, "the parts of a block are all of it");
};
template <WeightType T>
constexpr bool kPairsOfRuns = T == kQ4_K;

// The word of a run that is operand `upper`, 0 or 1, of lane t of four, and back.
template <WeightType T>
KEEL_GPU uint32_t word_of_run(uint32_t t, uint32_t upper) {
    return paired_words(kWeightTypes[T].sub_block) ? 2 * t + upper : t + 4 * upper;
}
struct WordPlace {
    uint32_t t, upper;
};
template <WeightType T>
KEEL_GPU WordPlace place_of_word(uint32_t word) {
    return paired_words(kWeightTypes[T].sub_block) ? WordPlace{word / 2, word % 2} : WordPlace{word % 4, word / 4};
}

// Words of a lane, as registers.
template <uint32_t BYTES>
struct LaneWords {
    static constexpr uint32_t kCount = BYTES < 4 ? 1 : BYTES / 4;
    uint32_t w[kCount];
};
template <>
struct LaneWords<0> {
    uint32_t w[1];
};
template <uint32_t BYTES>
KEEL_GPU void load_lane(const uint8_t* plane, uint32_t lane, LaneWords<BYTES>& v) {
    if constexpr (BYTES == 2) {
        v.w[0] = load16(plane + 2 * lane);
    } else if constexpr (BYTES == 8) {
        const Words2 words = reinterpret_cast<const Words2*>(plane)[lane];
        v.w[0] = words.x;
        v.w[1] = words.y;
    } else {
        static_assert(BYTES % 16 == 0);
        KEEL_UNROLL
        for (uint32_t piece = 0; piece < BYTES / 16; ++piece) {
            const Words4 words = reinterpret_cast<const Words4*>(plane)[32 * piece + lane];
            v.w[4 * piece] = words.x;
            v.w[4 * piece + 1] = words.y;
            v.w[4 * piece + 2] = words.z;
            v.w[4 * piece + 3] = words.w;
        }
    }
}
template <uint32_t BYTES>
KEEL_GPU void store_lane(uint8_t* plane, uint32_t lane, const LaneWords<BYTES>& v) {
    if constexpr (BYTES == 2) {
        reinterpret_cast<uint16_t*>(plane)[lane] = static_cast<uint16_t>(v.w[0]);
    } else if constexpr (BYTES == 8) {
        reinterpret_cast<Words2*>(plane)[lane] = {v.w[0], v.w[1]};
    } else {
        KEEL_UNROLL
        for (uint32_t piece = 0; piece < BYTES / 16; ++piece)
            reinterpret_cast<Words4*>(plane)[32 * piece + lane] = {v.w[4 * piece], v.w[4 * piece + 1],
                                                                   v.w[4 * piece + 2], v.w[4 * piece + 3]};
    }
}

// The lowest BITS bits of every byte of the four words of run r: into its words, and back. PAIRS: of runs that share
// words.
template <uint32_t BITS, bool PAIRS = false>
KEEL_GPU void pack_run(const uint32_t a[4], uint32_t r, uint32_t* w) {
    if constexpr (PAIRS) {
        for (uint32_t i = 0; i < 4; ++i) w[r / 2 * 4 + i] = r % 2 ? w[r / 2 * 4 + i] | a[i] << 4 : a[i];
    } else if constexpr (BITS == 8) {
        for (uint32_t i = 0; i < 4; ++i) w[4 * r + i] = a[i];
    } else if constexpr (BITS == 4) {
        w[2 * r] = a[0] | a[2] << 4;
        w[2 * r + 1] = a[1] | a[3] << 4;
    } else if constexpr (BITS == 2) {
        w[r] = a[0] | a[1] << 2 | a[2] << 4 | a[3] << 6;
    } else {
        const uint32_t half = a[0] | a[1] << 1 | a[2] << 2 | a[3] << 3;  // the lower half of every byte
        w[r / 2] = r % 2 ? w[r / 2] | half << 4 : half;
    }
}
template <uint32_t BITS, bool PAIRS = false>
KEEL_GPU void unpack_run(const uint32_t* w, uint32_t r, uint32_t a[4]) {
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
        if constexpr (PAIRS)
            a[i] = w[r / 2 * 4 + i] >> 4 * (r % 2) & 0x0f0f0f0fu;
        else if constexpr (BITS == 8)
            a[i] = w[4 * r + i];
        else if constexpr (BITS == 4)
            a[i] = w[2 * r + i % 2] >> 4 * (i / 2) & 0x0f0f0f0fu;
        else if constexpr (BITS == 2)
            a[i] = w[r] >> 2 * i & 0x03030303u;
        else
            a[i] = w[r / 2] >> (4 * (r % 2) + i) & 0x01010101u;
    }
}
// Word `index` of a lane's words in a plane.
template <uint32_t BYTES>
KEEL_GPU uint32_t word_of_lane(const uint8_t* plane, uint32_t lane, uint32_t index) {
    constexpr uint32_t kPiece = BYTES < 16 ? BYTES : 16;
    const uint8_t* p = plane + index / 4 * 512 + lane * kPiece + index % 4 * 4;
    return BYTES == 2 ? load16(p) : load32(p);
}
// The codes of word i of run r of a lane as they are written, read out of a block.
template <WeightType T>
KEEL_GPU uint32_t written_in_fragment(const uint8_t* block, uint32_t lane, uint32_t r, uint32_t i) {
    using Shape = FragmentShape<T>;
    constexpr uint32_t kLow = Shape::kLowBits, kHigh = Shape::kHighBits;
    uint32_t written;
    if constexpr (kPairsOfRuns<T>)
        written = word_of_lane<Shape::kLowBytes>(block, lane, r / 2 * 4 + i) >> 4 * (r % 2) & 0x0f0f0f0fu;
    else if constexpr (kLow == 8)
        written = word_of_lane<Shape::kLowBytes>(block, lane, 4 * r + i);
    else if constexpr (kLow == 4)
        written = word_of_lane<Shape::kLowBytes>(block, lane, 2 * r + i % 2) >> 4 * (i / 2) & 0x0f0f0f0fu;
    else
        written = word_of_lane<Shape::kLowBytes>(block, lane, r) >> 2 * i & 0x03030303u;
    const uint8_t* upper = block + Shape::kHighAt;
    if constexpr (kHigh == 2)
        written |= (word_of_lane<Shape::kHighBytes>(upper, lane, r) >> 2 * i & 0x03030303u) << kLow;
    else if constexpr (kHigh == 1 && Shape::kHighBytes == 2)
        written |= (part_halves(word_of_lane<2>(upper, lane, 0)) >> i & 0x01010101u) << kLow;
    else if constexpr (kHigh == 1)
        written |= (word_of_lane<Shape::kHighBytes>(upper, lane, r / 2) >> (4 * (r % 2) + i) & 0x01010101u) << kLow;
    return written;
}

// Word i of what lies at p: at once where ALIGN, the distance of such p, is whole words.
template <uint32_t ALIGN>
KEEL_GPU uint32_t word_at(const uint8_t* p, uint32_t i) {
    if constexpr (ALIGN % 4 == 0)
        return reinterpret_cast<const uint32_t*>(p)[i];
    else
        return load32(p + 4 * i);
}

// What a lane holds of one block: codes of its two rows, and their scales and factors.
struct ScaleRegisters {
    uint32_t w[4];
    KEEL_GPU uint32_t operator()(uint32_t i) const { return w[i]; }
};
template <WeightType T>
struct Fragment {
    using Shape = FragmentShape<T>;
    LaneWords<Shape::kLowBytes> low;
    LaneWords<Shape::kHighBytes> high;
    ScaleRegisters scales[2];  // of rows g and g + 8
    uint32_t factors[2];       // d of a row in the lower half, m or dmin in the upper; or d in f32
};

template <WeightType T>
KEEL_GPU uint32_t load_factors(const uint8_t* block, uint32_t row) {
    using Shape = FragmentShape<T>;
    const uint8_t* p = block + Shape::kFactorsAt + row * Shape::kFactorBytes;
    return Shape::kFactorBytes == 4 ? *reinterpret_cast<const uint32_t*>(p) : load16(p);
}
template <WeightType T>
KEEL_GPU float d_of(uint32_t factors) {
    return T == kQ8_F32 ? f32_from_bits(factors) : widen_f16(factors & 0xffff);
}
KEEL_GPU float minimum_of(uint32_t factors) {
    return widen_f16(factors >> 16);
}

// A block in shared memory: its codes, or all of it.
template <WeightType T>
KEEL_GPU void load_codes(const uint8_t* block, uint32_t lane, Fragment<T>& f) {
    using Shape = FragmentShape<T>;
    load_lane<Shape::kLowBytes>(block, lane, f.low);
    if constexpr (Shape::kHighBytes) load_lane<Shape::kHighBytes>(block + Shape::kHighAt, lane, f.high);
}
template <WeightType T>
KEEL_GPU void load_fragment(const uint8_t* block, uint32_t lane, Fragment<T>& f) {
    using Shape = FragmentShape<T>;
    load_codes<T>(block, lane, f);
    KEEL_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t row = lane / 4 + 8 * half;
        if constexpr (Shape::kInfo.sub_block != 0) {
            constexpr uint32_t kCount = kScaleBytes<T>.count;
            KEEL_UNROLL
            for (uint32_t i = 0; i < (kCount + 3) / 4; ++i)
                f.scales[half].w[i] = word_at<kCount>(block + Shape::kScalesAt + row * kCount, i);
        }
        f.factors[half] = load_factors<T>(block, row);
    }
}
// The words of run r that a lane multiplies; or as they are written.
template <WeightType T, bool VALUES = true>
KEEL_GPU void values_of_run(const Fragment<T>& f, uint32_t r, uint32_t a[4]) {
    using Shape = FragmentShape<T>;
    unpack_run<Shape::kLowBits, kPairsOfRuns<T>>(f.low.w, r, a);
    if constexpr (Shape::kHighBits) {
        uint32_t high[4];
        if constexpr (Shape::kHighBytes == 2) {
            const uint32_t word = part_halves(f.high.w[0]);
            unpack_run<1>(&word, 0, high);
        } else {
            unpack_run<Shape::kHighBits>(f.high.w, r, high);
        }
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) a[i] |= high[i] << Shape::kLowBits;
    }
    if constexpr (VALUES) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < 4; ++i) a[i] = values_of<T>(a[i]);
    }
}

// Of runs that share words, the codes of run r where they are: as uint8, of odd runs sixteen times as large.
template <WeightType T>
KEEL_GPU void codes_in_place(const Fragment<T>& f, uint32_t r, uint32_t a[4]) {
    static_assert(kPairsOfRuns<T>);
    KEEL_UNROLL
    for (uint32_t i = 0; i < 4; ++i) a[i] = f.low.w[r / 2 * 4 + i] & (r % 2 ? 0xf0f0f0f0u : 0x0f0f0f0fu);
}

}  // namespace keel::cuda
