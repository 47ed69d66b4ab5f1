// Quantized blocks taken apart into the integers NUMERICS sections 2 and 3 speak of, in portable code. Layouts:
// kernels/weight_types.h. In an unnamed namespace: every instruction set compiles its own copy.
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernels/numeric.h"
#include "kernels/weight_types.h"

namespace keel::kernels {
namespace {

constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// How a type's block is made up. `sub` elements share an integer scale; 0: the block has none (32-element types).
struct BlockShape {
    uint32_t elements, bytes, sub;
    bool minimum;  // has m (32-element types) or dmin and integer minima (256-element types)
};
constexpr BlockShape block_shape(WeightType type) {
    switch (type) {
        case kQ4_0: return {32, 18, 0, false};
        case kQ4_1: return {32, 20, 0, true};
        case kQ5_0: return {32, 22, 0, false};
        case kQ5_1: return {32, 24, 0, true};
        case kQ8_0: return {32, 34, 0, false};
        case kIQ4_NL: return {32, 18, 0, false};
        case kQ2_K: return {256, 84, 16, true};
        case kQ3_K: return {256, 110, 16, false};
        case kQ4_K: return {256, 144, 32, true};
        case kQ5_K: return {256, 176, 32, true};
        case kQ6_K: return {256, 210, 16, false};
        case kIQ4_XS: return {256, 136, 32, false};
        default: return {1, 0, 0, false};
    }
}

struct BlockCodes {
    float d, m;         // d; m or dmin
    int8_t q[256];      // codes, offset removed
    int8_t scale[16];   // per sub-block
    int8_t minimum[16];
};

inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
inline uint32_t load_u32(const uint8_t* p) { return load_u16(p) | static_cast<uint32_t>(load_u16(p + 2)) << 16; }
inline float load_f16(const uint8_t* p) { return f16_to_f32(load_u16(p)); }

// qs[16] as 32 nibbles: low ones first.
inline void unpack_nibbles(const uint8_t* qs, int8_t* q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = static_cast<int8_t>(qs[i] & 15);
        q[i + 16] = static_cast<int8_t>(qs[i] >> 4);
    }
}
inline void add_fifth_bits(uint32_t qh, int8_t* q) {
    for (int i = 0; i < 32; ++i) q[i] = static_cast<int8_t>(q[i] | (qh >> i & 1) << 4);
}
inline void offset_codes(int8_t* q, int n, int offset) {
    for (int i = 0; i < n; ++i) q[i] = static_cast<int8_t>(q[i] - offset);
}
// Q4_K and Q5_K: eight 6-bit scales and minima in 12 bytes. 0..3: the low six bits of bytes j and j+4. 4..7: low four bits
// in the nibbles of byte j+4, upper two on top of bytes j-4 and j.
inline void unpack_scales_6bit(const uint8_t* s, BlockCodes& c) {
    for (int j = 0; j < 4; ++j) {
        c.scale[j] = static_cast<int8_t>(s[j] & 63);
        c.minimum[j] = static_cast<int8_t>(s[j + 4] & 63);
        c.scale[j + 4] = static_cast<int8_t>((s[j + 8] & 15) | (s[j] >> 6) << 4);
        c.minimum[j + 4] = static_cast<int8_t>(s[j + 8] >> 4 | (s[j + 4] >> 6) << 4);
    }
}

template <WeightType T>
void unpack_block(const uint8_t* b, BlockCodes& c);

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
inline void unpack_block<kIQ4_NL>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b);
    unpack_nibbles(b + 2, c.q);
    for (int i = 0; i < 32; ++i) c.q[i] = kIq4Values[c.q[i]];
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
        for (int l = 0; l < 32; ++l) c.q[32 * group + l] = static_cast<int8_t>(qs[l] >> 2 * (group % 4) & 3);
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
        for (int l = 0; l < 32; ++l) {
            const int low = qs[l] >> 2 * (group % 4) & 3, high = b[l] >> group & 1;
            c.q[32 * group + l] = static_cast<int8_t>((low | high << 2) - 4);
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
        for (int l = 0; l < 32; ++l) {
            c.q[64 * group + l] = static_cast<int8_t>(qs[l] & 15);
            c.q[64 * group + 32 + l] = static_cast<int8_t>(qs[l] >> 4);
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
        for (int l = 0; l < 32; ++l) {
            c.q[64 * group + l] = static_cast<int8_t>((qs[l] & 15) | (qh[l] >> 2 * group & 1) << 4);
            c.q[64 * group + 32 + l] = static_cast<int8_t>(qs[l] >> 4 | (qh[l] >> (2 * group + 1) & 1) << 4);
        }
    }
}
template <>
inline void unpack_block<kQ6_K>(const uint8_t* b, BlockCodes& c) {
    c.d = load_f16(b + 208);
    memcpy(c.scale, b + 192, 16);
    for (int half = 0; half < 2; ++half) {
        const uint8_t *ql = b + 64 * half, *qh = b + 128 + 32 * half;
        int8_t* q = c.q + 128 * half;
        for (int l = 0; l < 32; ++l) {
            q[l] = static_cast<int8_t>(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
            q[l + 32] = static_cast<int8_t>(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
            q[l + 64] = static_cast<int8_t>((ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32);
            q[l + 96] = static_cast<int8_t>((ql[l + 32] >> 4 | (qh[l] >> 6 & 3) << 4) - 32);
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
    for (int i = 0; i < 256; ++i) c.q[i] = kIq4Values[c.q[i]];
}

// n elements (whole blocks; floats: any number) of a weight row as f32, by NUMERICS section 3.
template <WeightType T>
inline void decode_weights(const uint8_t* src, float* dst, uint32_t n) {
    if constexpr (T == kF32) {
        memcpy(dst, src, uint64_t{n} * 4);
    } else if constexpr (T == kF16 || T == kBF16) {
        for (uint32_t i = 0; i < n; ++i)
            dst[i] = T == kF16 ? f16_to_f32(load_u16(src + 2 * i)) : bf16_to_f32(load_u16(src + 2 * i));
    } else {
        constexpr BlockShape kShape = block_shape(T);
        constexpr uint32_t kRun = kShape.sub ? kShape.sub : kShape.elements;
        BlockCodes c;
        for (uint32_t i = 0; i < n; i += kShape.elements, src += kShape.bytes) {
            unpack_block<T>(src, c);
            for (uint32_t j = 0; j < kShape.elements / kRun; ++j) {
                const float d = kShape.sub ? c.d * static_cast<float>(c.scale[j]) : c.d;
                const int8_t* q = c.q + j * kRun;
                float* y = dst + i + j * kRun;
                if constexpr (!kShape.minimum) {
                    for (uint32_t l = 0; l < kRun; ++l) y[l] = d * static_cast<float>(q[l]);
                } else if constexpr (kShape.sub == 0) {
                    for (uint32_t l = 0; l < kRun; ++l) y[l] = d * static_cast<float>(q[l]) + c.m;
                } else {
                    const float m = c.m * static_cast<float>(c.minimum[j]);
                    for (uint32_t l = 0; l < kRun; ++l) y[l] = d * static_cast<float>(q[l]) - m;
                }
            }
        }
    }
}

}  // namespace
}  // namespace keel::kernels
