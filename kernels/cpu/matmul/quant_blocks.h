// Quantized blocks taken apart into the integers NUMERICS sections 2 and 3 speak of, in portable code. Layouts:
// kernels/formats/weight_types.h. In an unnamed namespace: every instruction set compiles its own copy.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__SSSE3__)
#include <immintrin.h>
#endif

#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/numeric.h"
#include "kernels/formats/rotation.h"
#include "kernels/formats/weight_trellis_tables.h"

namespace keel::kernels {
namespace {

// How a type's block is made up.
struct BlockShape {
    uint32_t elements, bytes;
    uint32_t sub;  // elements that share an integer scale; 0: the block has none
    bool minimum;  // has m (blocks without integer scales) or dmin and integer minima
};
constexpr BlockShape block_shape(WeightType type) {
    const WeightTypeInfo& info = kWeightTypes[type];
    return {info.block_elements, info.block_bytes, info.sub_block, info.has_minimum()};
}

struct BlockCodes {
    float d, m;        // d; m or dmin, where the type has one
    int8_t q[256];     // codes, offset removed
    int8_t scale[16];  // per sub-block
    int8_t minimum[16];
};

inline uint16_t load_u16(const uint8_t* p) {
    return static_cast<uint16_t>(p[0] | p[1] << 8);
}
inline uint32_t load_u32(const uint8_t* p) {
    return load_u16(p) | static_cast<uint32_t>(load_u16(p + 2)) << 16;
}
inline float load_f16(const uint8_t* p) {
    return f16_to_f32(load_u16(p));
}

// Sixteen bytes at a time by the compilers' portable vectors: one register on any machine.
using Bytes = uint8_t __attribute__((vector_size(16)));
inline Bytes load_bytes(const void* p) {
    Bytes v;
    memcpy(&v, p, 16);
    return v;
}
inline void store_bytes(int8_t* p, Bytes v) {
    memcpy(p, &v, 16);
}
// (v >> shift) & mask in every byte, mask >> (8 - shift) == 0; in words, because a byte shift by a variable amount is
// no instruction.
inline Bytes field(Bytes v, int shift, uint8_t mask) {
    using Words = uint16_t __attribute__((vector_size(16)));
    return reinterpret_cast<Bytes>(reinterpret_cast<Words>(v) >> shift) & mask;
}

// qs[16] as 32 nibbles: low ones first.
inline void unpack_nibbles(const uint8_t* qs, int8_t* q) {
    const Bytes v = load_bytes(qs);
    store_bytes(q, v & 15);
    store_bytes(q + 16, v >> 4);
}
// Bit i of qh is bit 4 of element i.
inline void add_fifth_bits(uint32_t qh, int8_t* q) {
    constexpr Bytes kBit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int i = 0; i < 32; i += 16) {
        using Longs = uint64_t __attribute__((vector_size(16)));
        const Longs spread = {(qh >> i & 255) * 0x0101010101010101ull, (qh >> (i + 8) & 255) * 0x0101010101010101ull};
        const Bytes set = reinterpret_cast<Bytes>((reinterpret_cast<Bytes>(spread) & kBit) == kBit);
        store_bytes(q + i, load_bytes(q + i) | (set & 16));
    }
}
inline void offset_codes(int8_t* q, int n, uint8_t offset) {
    for (int i = 0; i < n; i += 16) store_bytes(q + i, load_bytes(q + i) - offset);
}
// n a multiple of 16.
inline void look_up_iq4(int8_t* q, int n) {
#if defined(__SSSE3__)
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Values));
    for (int i = 0; i < n; i += 16) {
        __m128i* p = reinterpret_cast<__m128i*>(q + i);
        _mm_storeu_si128(p, _mm_shuffle_epi8(table, _mm_loadu_si128(p)));
    }
#else
    for (int i = 0; i < n; ++i) q[i] = kIq4Values[q[i]];
#endif
}
// Q4_K and Q5_K: eight 6-bit scales and minima in 12 bytes. 0..3: the low six bits of bytes j and j+4. 4..7: low four
// bits in the nibbles of byte j+4, upper two on top of bytes j-4 and j.
inline void unpack_scales_6bit(const uint8_t* s, BlockCodes& c) {
    for (int j = 0; j < 4; ++j) {
        c.scale[j] = static_cast<int8_t>(s[j] & 63);
        c.minimum[j] = static_cast<int8_t>(s[j + 4] & 63);
        c.scale[j + 4] = static_cast<int8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
        c.minimum[j + 4] = static_cast<int8_t>(s[j + 8] >> 4 | (s[j + 4] >> 6) << 4);
    }
}

template <WeightType T>
inline void unpack_block(const uint8_t*, BlockCodes&) {
    static_assert(T == kWeightTypeCount, "this weight type has no unpack_block");
}

template <>
inline void unpack_block<kQ4_0>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    unpack_nibbles(b + 2, c.q);
    offset_codes(c.q, 32, 8);
}
template <>
inline void unpack_block<kQ4_1>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    c.m = load_f16(b + 2);
    unpack_nibbles(b + 4, c.q);
}
template <>
inline void unpack_block<kQ5_0>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    unpack_nibbles(b + 6, c.q);
    add_fifth_bits(load_u32(b + 2), c.q);
    offset_codes(c.q, 32, 16);
}
template <>
inline void unpack_block<kQ5_1>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    c.m = load_f16(b + 2);
    unpack_nibbles(b + 8, c.q);
    add_fifth_bits(load_u32(b + 4), c.q);
}
template <>
inline void unpack_block<kQ8_0>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    memcpy(c.q, b + 2, 32);
}
template <>
inline void unpack_block<kQ8_F32>(const uint8_t* b, BlockCodes& c) {
    memcpy(&c.d, b, 4);
    memcpy(c.q, b + 4, 32);
}
template <>
inline void unpack_block<kIQ4_NL>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    unpack_nibbles(b + 2, c.q);
    look_up_iq4(c.q, 32);
}
template <>
inline void unpack_block<kQ2_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b + 80);
    c.m = load_f16(b + 82);
    for (int j = 0; j < 16; ++j) {
        c.scale[j] = static_cast<int8_t>(b[j] & 15);
        c.minimum[j] = static_cast<int8_t>(b[j] >> 4);
    }
    for (int group = 0; group < 8; ++group) {  // 32 elements: two bits of 32 bytes
        const uint8_t* qs = b + 16 + group / 4 * 32;
        for (int l = 0; l < 32; l += 16)
            store_bytes(c.q + 32 * group + l, field(load_bytes(qs + l), 2 * (group % 4), 3));
    }
}
// Sixteen 6-bit scales in 12 bytes: low nibbles in bytes 0..7 (0..7 low, 8..15 high), upper two bits in bytes 8..11.
template <>
inline void unpack_block<kQ3_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b + 108);
    const uint8_t* s = b + 96;
    for (int j = 0; j < 16; ++j) {
        const int low = s[j % 8] >> 4 * (j / 8) & 15, high = s[8 + j % 4] >> 2 * (j / 4) & 3;
        c.scale[j] = static_cast<int8_t>((low | high << 4) - 32);
    }
    for (int group = 0; group < 8; ++group) {
        const uint8_t* qs = b + 32 + group / 4 * 32;
        for (int l = 0; l < 32; l += 16) {
            const Bytes low = field(load_bytes(qs + l), 2 * (group % 4), 3), high = field(load_bytes(b + l), group, 1);
            store_bytes(c.q + 32 * group + l, (low | high << 2) - 4);
        }
    }
}
template <>
inline void unpack_block<kQ4_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    c.m = load_f16(b + 2);
    unpack_scales_6bit(b + 4, c);
    for (int group = 0; group < 4; ++group) {
        const uint8_t* qs = b + 16 + 32 * group;
        for (int l = 0; l < 32; l += 16) {
            store_bytes(c.q + 64 * group + l, load_bytes(qs + l) & 15);
            store_bytes(c.q + 64 * group + 32 + l, load_bytes(qs + l) >> 4);
        }
    }
}
template <>
inline void unpack_block<kQ5_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    c.m = load_f16(b + 2);
    unpack_scales_6bit(b + 4, c);
    for (int group = 0; group < 4; ++group) {
        const uint8_t *qh = b + 16, *qs = b + 48 + 32 * group;
        for (int l = 0; l < 32; l += 16) {
            const Bytes low = load_bytes(qs + l), high = field(load_bytes(qh + l), 2 * group, 3);
            store_bytes(c.q + 64 * group + l, (low & 15) | (high & 1) << 4);
            store_bytes(c.q + 64 * group + 32 + l, low >> 4 | high >> 1 << 4);
        }
    }
}
template <>
inline void unpack_block<kQ6_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b + 208);
    memcpy(c.scale, b + 192, 16);
    for (int group = 0; group < 8; ++group) {  // 32 elements: a nibble of 32 bytes, two bits of 32 others
        const int half = group / 4, g = group % 4;
        const uint8_t *ql = b + 64 * half + 32 * (g % 2), *qh = b + 128 + 32 * half;
        for (int l = 0; l < 32; l += 16) {
            const Bytes low = field(load_bytes(ql + l), 4 * (g / 2), 15), high = field(load_bytes(qh + l), 2 * g, 3);
            store_bytes(c.q + 32 * group + l, (low | high << 4) - 32);
        }
    }
}
template <>
inline void unpack_block<kIQ4_XS>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    const uint32_t high = load_u16(b + 2);
    for (int j = 0; j < 8; ++j) {
        const int low = b[4 + j / 2] >> 4 * (j % 2) & 15;
        c.scale[j] = static_cast<int8_t>((low | static_cast<int>(high >> 2 * j & 3) << 4) - 32);
        unpack_nibbles(b + 8 + 16 * j, c.q + 32 * j);
    }
    look_up_iq4(c.q, 256);
}

// By the window of four bits from every symbol on, lane by lane.
template <WeightType T>
inline void unpack_trellis(const uint8_t* b, BlockCodes& c) {
    constexpr TrellisCode kCode = trellis_code(T);
    constexpr uint32_t kLaneBytes = kTrellisLane * kCode.bits / 8;
    c.d = load_f16(b);
    uint8_t field[kTrellisBlock];
    for (uint32_t lane = 0; lane < 4; ++lane) {
        uint8_t bytes[kLaneBytes + 1];
        for (uint32_t i = 0; i < kLaneBytes; ++i) bytes[i] = b[2 + 4 * i + lane];
        bytes[kLaneBytes] = b[2 + (lane + 1) % 4];
        for (uint32_t j = 0; j < kTrellisLane; ++j) {
            const uint32_t at = j * kCode.bits;
            field[lane * kTrellisLane + j] = load_u16(bytes + at / 8) >> at % 8 & 15;
        }
    }
    for (uint32_t u = 0; u < kTrellisBlock; ++u)
        c.q[trellis_element(u)] =
            static_cast<int8_t>(kCode.table[0][field[u]] + kCode.table[1][field[(u + kCode.stride) % kTrellisBlock]] +
                                kCode.table[2][field[(u + 2 * kCode.stride) % kTrellisBlock]]);
}
template <>
inline void unpack_block<kWT2>(const uint8_t* b, BlockCodes& c) {
    unpack_trellis<kWT2>(b, c);
}
template <>
inline void unpack_block<kWT3>(const uint8_t* b, BlockCodes& c) {
    unpack_trellis<kWT3>(b, c);
}

// A rotated block as f32, back in the order of the row: sums of integers are exact, |sum| <= 256 * 64.
inline void convert_rotated(const BlockCodes& c, float* y) {
    int16_t x[kTrellisBlock];
    for (uint32_t i = 0; i < kTrellisBlock; ++i) x[i] = c.q[i];
    for (uint32_t stride = 1; stride < kTrellisBlock; stride *= 2)
        for (uint32_t i = 0; i < kTrellisBlock; i += 2 * stride)
            for (uint32_t j = i; j < i + stride; ++j) {
                const int a = x[j], b = x[j + stride];
                x[j] = static_cast<int16_t>(a + b);
                x[j + stride] = static_cast<int16_t>(a - b);
            }
    for (uint32_t i = 0; i < kTrellisBlock; ++i)
        y[i] = c.d * (static_cast<float>(x[i]) * (rotation_sign(i) * (1.0f / 16)));
}

// One run of codes with a common scale as f32.
template <bool kSubBlocks, bool kMinimum, uint32_t kRun>
inline void convert_run(const BlockCodes& c, uint32_t j, float* y) {
    const int8_t* q = c.q + j * kRun;
    const float d = kSubBlocks ? c.d * static_cast<float>(c.scale[j]) : c.d;
    const float m = !kMinimum ? 0.0f : kSubBlocks ? c.m * static_cast<float>(c.minimum[j]) : c.m;
    KEEL_KEEP_LOOP  // until it has become vector code
        for (uint32_t l = 0; l < kRun; ++l) {
        const float x = d * static_cast<float>(q[l]);
        y[l] = !kMinimum ? x : kSubBlocks ? x - m : x + m;
    }
}

// n elements (whole blocks; floats: any number) of a weight row as f32, by NUMERICS section 3.
template <WeightType T>
inline void decode_weights(const uint8_t* src, float* dst, uint32_t n) {
    if constexpr (T == kF32) {
        memcpy(dst, src, uint64_t{n} * 4);
    } else if constexpr (T == kF16 || T == kBF16) {
        for (uint32_t i = 0; i < n; ++i)
            dst[i] = T == kF16 ? f16_to_f32(load_u16(src + 2 * i)) : bf16_to_f32(load_u16(src + 2 * i));
    } else if constexpr (is_trellis(T)) {
        BlockCodes codes;
        for (uint32_t i = 0; i < n; i += kTrellisBlock, src += block_shape(T).bytes, dst += kTrellisBlock) {
            unpack_block<T>(src, codes);
            convert_rotated(codes, dst);
        }
    } else {
        // Several small blocks are unpacked before the first is converted: vector code would otherwise wait for its own
        // narrow stores at every block.
        constexpr BlockShape kShape = block_shape(T);
        constexpr uint32_t kRun = kShape.sub ? kShape.sub : kShape.elements, kBatch = kShape.sub ? 1 : 8;
        BlockCodes codes[kBatch];
        const uint32_t blocks = n / kShape.elements;
        for (uint32_t first = 0; first < blocks; first += kBatch) {
            const uint32_t count = blocks - first < kBatch ? blocks - first : kBatch;
            for (uint32_t b = 0; b < count; ++b, src += kShape.bytes) unpack_block<T>(src, codes[b]);
            for (uint32_t b = 0; b < count; ++b) {
                for (uint32_t j = 0; j < kShape.elements / kRun; ++j, dst += kRun)
                    convert_run<kShape.sub != 0, kShape.minimum, kRun>(codes[b], j, dst);
            }
        }
    }
}

}  // namespace
}  // namespace keel::kernels
