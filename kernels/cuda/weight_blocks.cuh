// Blocks of quantized weights as they lie in the file, read a word at a time by the lanes of a warp: which field is
// where is kernels/formats/weight_types.h. Compiled for the host too, where tests compare it with the CPU's decoder.
//
// Blocks are aligned to 2 bytes.
#pragma once
#include "kernels/cuda/device.cuh"
#include "kernels/formats/weight_types.h"

namespace keel::cuda {

KEEL_GPU uint32_t load16(const uint8_t* p) {
    return *reinterpret_cast<const uint16_t*>(p);
}
KEEL_GPU uint32_t load32(const uint8_t* p) {
    return load16(p) | load16(p + 2) << 16;
}

// Every byte of v, at most 127, minus `offset` as int8: the upper bit keeps bytes apart while they borrow.
KEEL_GPU uint32_t minus_bytes(uint32_t v, uint32_t offset) {
    return ((v | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}
// Bit n of v in byte n, for n = 0..3.
KEEL_GPU uint32_t spread_bits(uint32_t v) {
    return (v & 15) * 0x00204081u & 0x01010101u;
}
// Codes 4i..4i+3 of 32 nibbles, low ones of sixteen bytes first.
KEEL_GPU uint32_t nibbles(const uint8_t* qs, uint32_t i) {
    return load32(qs + 4 * (i % 4)) >> (i & 4) & 0x0f0f0f0fu;
}
// Lower halves of four bytes as two bytes, and back.
KEEL_GPU uint32_t join_halves(uint32_t v) {
    v = (v | v >> 4) & 0x00ff00ffu;
    return (v | v >> 8) & 0xffffu;
}
KEEL_GPU uint32_t part_halves(uint32_t v) {
    v = (v | v << 8) & 0x00ff00ffu;
    return (v | v << 4) & 0x0f0f0f0fu;
}
// Four values of the table of IQ4, as int8.
KEEL_GPU uint32_t look_up_iq4(uint32_t codes) {
    constexpr auto word_of_table = [](uint32_t first) {
        uint32_t packed = 0;
        for (uint32_t i = 0; i < 4; ++i)
            packed |= uint32_t{static_cast<uint8_t>(kernels::kIq4Values[first + i])} << 8 * i;
        return packed;
    };
    constexpr uint32_t kTable[4] = {word_of_table(0), word_of_table(4), word_of_table(8), word_of_table(12)};
    const uint32_t which = join_halves(codes & 0x07070707u), upper = (codes >> 3 & 0x01010101u) * 255;
    return (pick_bytes(kTable[0], kTable[1], which) & ~upper) | (pick_bytes(kTable[2], kTable[3], which) & upper);
}

// ---- codes ----
// Codes 4i..4i+3 of a block as they are written, a byte each.
template <WeightType T>
KEEL_GPU uint32_t written_codes(const uint8_t* b, uint32_t i) {
    // Types of 256 elements: 32 elements share their place in bytes, `in` is the word among those.
    const uint32_t run = i / 8, in = 4 * (i % 8);
    if constexpr (T == kQ4_0 || T == kIQ4_NL) {
        return nibbles(b + 2, i);
    } else if constexpr (T == kQ4_1) {
        return nibbles(b + 4, i);
    } else if constexpr (T == kQ5_0) {
        return nibbles(b + 6, i) | spread_bits(load32(b + 2) >> 4 * i) << 4;
    } else if constexpr (T == kQ5_1) {
        return nibbles(b + 8, i) | spread_bits(load32(b + 4) >> 4 * i) << 4;
    } else if constexpr (T == kQ8_0) {
        return load32(b + 2 + 4 * i);
    } else if constexpr (T == kQ8_F32) {
        return load32(b + 4 + 4 * i);
    } else if constexpr (T == kQ2_K) {
        return load32(b + 16 + run / 4 * 32 + in) >> 2 * (run % 4) & 0x03030303u;
    } else if constexpr (T == kQ3_K) {
        const uint32_t low = load32(b + 32 + run / 4 * 32 + in) >> 2 * (run % 4) & 0x03030303u;
        return low | (load32(b + in) >> run & 0x01010101u) << 2;
    } else if constexpr (T == kQ4_K) {
        return load32(b + 16 + run / 2 * 32 + in) >> 4 * (run % 2) & 0x0f0f0f0fu;
    } else if constexpr (T == kQ5_K) {
        const uint32_t low = load32(b + 48 + run / 2 * 32 + in) >> 4 * (run % 2) & 0x0f0f0f0fu;
        return low | (load32(b + 16 + in) >> run & 0x01010101u) << 4;
    } else if constexpr (T == kQ6_K) {
        const uint32_t half = run / 4, g = run % 4;
        const uint32_t low = load32(b + 64 * half + 32 * (g % 2) + in) >> 4 * (g / 2) & 0x0f0f0f0fu;
        return low | (load32(b + 128 + 32 * half + in) >> 2 * g & 0x03030303u) << 4;
    } else {
        static_assert(T == kIQ4_XS, "this weight type has no codes");
        return nibbles(b + 8 + 16 * run, i % 8);
    }
}
// What is multiplied: four codes as int8, looked up or without their offset.
template <WeightType T>
KEEL_GPU uint32_t values_of(uint32_t written) {
    constexpr kernels::CodeTraits kCodes = kWeightTypes[T].codes;
    if constexpr (T == kIQ4_NL || T == kIQ4_XS)
        return look_up_iq4(written);
    else if constexpr (!kCodes.is_signed && kCodes.offset)
        return minus_bytes(written, kCodes.offset);
    else
        return written;
}
template <WeightType T>
KEEL_GPU uint32_t codes(const uint8_t* b, uint32_t i) {
    return values_of<T>(written_codes<T>(b, i));
}

// ---- scales of sub-blocks ----
// Where they lie in a block.
struct ScaleBytes {
    uint32_t at, count;
};
template <WeightType T>
constexpr ScaleBytes kScaleBytes = T == kQ2_K                 ? ScaleBytes{0, 16}
                                   : T == kQ3_K               ? ScaleBytes{96, 12}
                                   : T == kQ4_K || T == kQ5_K ? ScaleBytes{4, 12}
                                   : T == kQ6_K               ? ScaleBytes{192, 16}
                                   : T == kIQ4_XS             ? ScaleBytes{2, 6}
                                                              : ScaleBytes{0, 0};

// Words of scale bytes, in memory.
struct ScalesInMemory {
    const uint8_t* p;
    KEEL_GPU uint32_t operator()(uint32_t i) const { return load32(p + 4 * i); }
};

// The scales of sub-blocks 4n..4n+3, int8. `w(i)` is word i of the scale bytes.
template <WeightType T, class Words>
KEEL_GPU uint32_t scales4(const Words& w, uint32_t n) {
    if constexpr (T == kQ2_K) {
        return w(n) & 0x0f0f0f0fu;
    } else if constexpr (T == kQ3_K) {
        return minus_bytes((w(n % 2) >> 4 * (n / 2) & 0x0f0f0f0fu) | (w(2) >> 2 * n & 0x03030303u) << 4, 32);
    } else if constexpr (T == kQ4_K || T == kQ5_K) {
        return n == 0 ? w(0) & 0x3f3f3f3fu : (w(2) & 0x0f0f0f0fu) | (w(0) >> 2 & 0x30303030u);
    } else if constexpr (T == kQ6_K) {
        return w(n);
    } else {
        static_assert(T == kIQ4_XS, "this weight type has no sub-blocks");
        uint32_t low = (n == 0 ? w(0) >> 16 : w(1)) & 0xffff, high = w(0) >> 8 * n & 255;
        low = (low | low << 8) & 0x00ff00ffu;
        low = (low | low << 4) & 0x0f0f0f0fu;
        high = (high | high << 12) & 0x000f000fu;
        high = (high | high << 6) & 0x03030303u;
        return minus_bytes(low | high << 4, 32);
    }
}
// Their minima.
template <WeightType T, class Words>
KEEL_GPU uint32_t minima4(const Words& w, uint32_t n) {
    if constexpr (T == kQ2_K) {
        return w(n) >> 4 & 0x0f0f0f0fu;
    } else {
        static_assert(T == kQ4_K || T == kQ5_K, "this weight type has no integer minima");
        return n == 0 ? w(1) & 0x3f3f3f3fu : (w(2) >> 4 & 0x0f0f0f0fu) | (w(1) >> 2 & 0x30303030u);
    }
}
KEEL_GPU int32_t byte_at(uint32_t word, uint32_t i) {
    return static_cast<int8_t>(word >> 8 * (i % 4));
}
// Of sub-block j of a block.
template <WeightType T>
KEEL_GPU int32_t sub_scale(const uint8_t* b, uint32_t j) {
    return byte_at(scales4<T>(ScalesInMemory{b + kScaleBytes<T>.at}, j / 4), j);
}
template <WeightType T>
KEEL_GPU int32_t sub_minimum(const uint8_t* b, uint32_t j) {
    return byte_at(minima4<T>(ScalesInMemory{b + kScaleBytes<T>.at}, j / 4), j);
}

// d, and m or dmin.
template <WeightType T>
KEEL_GPU float block_scale(const uint8_t* b) {
    if constexpr (T == kQ8_F32)
        return f32_from_bits(load32(b));
    else
        return widen_f16(load16(b + kWeightTypes[T].d_at));
}
template <WeightType T>
KEEL_GPU float block_minimum(const uint8_t* b) {
    return widen_f16(load16(b + kWeightTypes[T].m_at));
}

// Element e of a row of an unquantized type, and what it is.
template <WeightType T>
KEEL_GPU uint32_t bits_of_element(const uint8_t* row, uint32_t e) {
    return T == kF32 ? load32(row + uint64_t{e} * 4) : load16(row + uint64_t{e} * 2);
}
template <WeightType T>
KEEL_GPU float float_of_bits(uint32_t bits) {
    static_assert(T == kF32 || T == kF16 || T == kBF16);
    return T == kF32 ? f32_from_bits(bits) : T == kF16 ? widen_f16(bits) : bf16_to_f32(static_cast<uint16_t>(bits));
}

// Element e of a row, decoded (NUMERICS section 3).
template <WeightType T>
KEEL_GPU float decoded(const uint8_t* row, uint32_t e) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    if constexpr (kInfo.activation_block == 0) {
        return float_of_bits<T>(bits_of_element<T>(row, e));
    } else {
        const uint8_t* b = row + uint64_t{e / kInfo.block_elements} * kInfo.block_bytes;
        const uint32_t in = e % kInfo.block_elements;
        const float q = static_cast<float>(static_cast<int8_t>(codes<T>(b, in / 4) >> 8 * (in % 4)));
        float d = block_scale<T>(b);
        if constexpr (kInfo.sub_block) d = mul_f32(d, static_cast<float>(sub_scale<T>(b, in / kInfo.sub_block)));
        const float x = mul_f32(d, q);
        if constexpr (kInfo.m_at == kernels::kNoField) {
            return x;
        } else if constexpr (kInfo.sub_block) {
            const float m = static_cast<float>(sub_minimum<T>(b, in / kInfo.sub_block));
            return add_f32(x, -mul_f32(block_minimum<T>(b), m));
        } else {
            return add_f32(x, block_minimum<T>(b));
        }
    }
}

}  // namespace keel::cuda
