// Weight types: how the rows of a matrix are coded. KEEL_WEIGHT_TYPES is the one list of them; the enum, the table,
// the block shapes, the kernel sets and the names in tools all follow from it. What a new type needs besides its row:
// kernels/README.md.
//
// Layouts (little endian; d, m, dmin are f16; layouts follow the GGUF specification):
//   Q4_0    d | qs[16]            w[i] = d*(lo(qs[i])-8), w[i+16] = d*(hi(qs[i])-8)
//   Q4_1    d m | qs[16]          as Q4_0 with w = d*q + m
//   Q5_0    d | qh u32 | qs[16]   fifth bit of w[i]: bit i of qh; w = d*(q-16)
//   Q5_1    d m | qh u32 | qs[16] w = d*q + m
//   Q8_0    d | qs[32] int8       w = d*q
//   Q2_K    sc[16] | qs[64] | d dmin        sub-blocks of 16; sc low nibble scale, high nibble min
//   Q3_K    hmask[32] | qs[64] | sc[12] | d sub-blocks of 16; 6-bit scales minus 32
//   Q4_K    d dmin | sc[12] | qs[128]       sub-blocks of 32; 6-bit scales and mins
//   Q5_K    d dmin | sc[12] | qh[32] | qs[128]
//   Q6_K    ql[128] | qh[64] | sc[16] int8 | d  sub-blocks of 16; w = d*sc*(q-32)
//   IQ4_NL  d | qs[16]            w = d*table[q]
//   IQ4_XS  d | scales_h u16 | scales_l[4] | qs[128]  sub-blocks of 32; scale minus 32; w = d*sc*table[q]
//   Q8_F32  d f32 | qs[32] int8   w = d*q; what W_proj caches of version 1 hold (sdk/format/wproj.h)
//   WT2 WT3 d | codes[64], [96]   trellis codes of the rotated block (kernels/formats/weight_trellis.h)
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"

namespace keel::kernels {

// Numbers in files: those below are GGUF's, those from here on Keel's own. The first one is in no GGUF file.
constexpr uint32_t kOwnTypeNumbers = 0x1000;
constexpr bool in_gguf(uint32_t number) {
    return number != kOwnTypeNumbers;
}

// Codes of a quantized type. The value of a code is its bits minus `offset`; signed ones are int8, or looked up as
// such. Products of four elements of `run` codes in a row, each pair of them added, fit 16 bits (for kernel sets that
// multiply into 16 bits): 2 * 127 * largest code * run < 2^15.
struct CodeTraits {
    bool is_signed;
    int offset, run;
};
constexpr CodeTraits unsigned_codes(int offset, int run) {
    return {false, offset, run};
}
constexpr CodeTraits kSignedCodes = {true, 0, 1};
constexpr int kNoField = -1;

// One row per type:
//   number     in files
//   elements   of a block, and of the block of its 8-bit activations (NUMERICS section 2); rows are whole blocks
//   bytes      of a block
//   sub        elements that share an integer scale; 0: the block has none
//   d, m       byte offsets in a block of the scale, and of m or dmin
// clang-format off
#define KEEL_FLOAT_TYPES(X)                                           \
    /*name   number  elements  bytes */                               \
    X(F32,        0,        1,     4,   0,   0, kNoField, {})         \
    X(F16,        1,        1,     2,   0,   0, kNoField, {})         \
    X(BF16,      30,        1,     2,   0,   0, kNoField, {})
#define KEEL_BLOCK_TYPES(X)                                                           \
    /*name   number  elements  bytes  sub    d   m         codes */                   \
    X(Q4_0,       2,       32,    18,   0,   0, kNoField, unsigned_codes(8, 8))       \
    X(Q4_1,       3,       32,    20,   0,   0,        2, unsigned_codes(0, 8))       \
    X(Q5_0,       6,       32,    22,   0,   0, kNoField, unsigned_codes(16, 4))      \
    X(Q5_1,       7,       32,    24,   0,   0,        2, unsigned_codes(0, 4))       \
    X(Q8_0,       8,       32,    34,   0,   0, kNoField, kSignedCodes)               \
    X(Q2_K,      10,      256,    84,  16,  80,       82, unsigned_codes(0, 4))       \
    X(Q3_K,      11,      256,   110,  16, 108, kNoField, unsigned_codes(4, 4))       \
    X(Q4_K,      12,      256,   144,  32,   0,        2, unsigned_codes(0, 8))       \
    X(Q5_K,      13,      256,   176,  32,   0,        2, unsigned_codes(0, 4))       \
    X(Q6_K,      14,      256,   210,  16, 208, kNoField, unsigned_codes(32, 2))      \
    X(IQ4_NL,    20,       32,    18,   0,   0, kNoField, kSignedCodes)               \
    X(IQ4_XS,    23,      256,   136,  32,   0, kNoField, kSignedCodes)               \
    X(Q8_F32, 0x1000,      32,    36,   0,   0, kNoField, kSignedCodes)
// Products read activations that are rotated like the weights (Activation::kQ8Rotated of the SDK).
#define KEEL_TRELLIS_TYPES(X)                                                         \
    X(WT2,    0x1002,      256,    66,   0,   0, kNoField, unsigned_codes(64, 1))     \
    X(WT3,    0x1003,      256,    98,   0,   0, kNoField, unsigned_codes(64, 1))
#define KEEL_QUANTIZED_TYPES(X) KEEL_BLOCK_TYPES(X) KEEL_TRELLIS_TYPES(X)
#define KEEL_WEIGHT_TYPES(X) KEEL_FLOAT_TYPES(X) KEEL_QUANTIZED_TYPES(X)
// clang-format on

// Index of the tables below and of kernel sets; not what files hold.
enum WeightType : uint32_t {
#define KEEL_INDEX(name, ...) k##name,
    KEEL_WEIGHT_TYPES(KEEL_INDEX)
#undef KEEL_INDEX
        kWeightTypeCount
};

struct WeightTypeInfo {
    const char* name;  // "Q4_K"
    uint32_t number;
    uint16_t block_elements, block_bytes;
    uint16_t activation_block;  // B of NUMERICS section 2; 0: f32 activations only
    uint16_t sub_block;
    int16_t d_at, m_at;
    CodeTraits codes;

    constexpr bool has_minimum() const { return m_at != kNoField; }
};
KEEL_TABLE WeightTypeInfo kWeightTypes[kWeightTypeCount] = {
#define KEEL_ROW(name, number, elements, bytes, sub, d, m, ...) \
    {#name, number, elements, bytes, elements > 1 ? elements : 0, sub, d, m, __VA_ARGS__},
    KEEL_WEIGHT_TYPES(KEEL_ROW)
#undef KEEL_ROW
};

// Whether rows are coded rotated, and products read activations that are.
KEEL_DEVICE constexpr bool is_trellis(uint32_t type) {
#define KEEL_IS(name, ...) type == k##name ||
    return KEEL_TRELLIS_TYPES(KEEL_IS) false;
#undef KEEL_IS
}
KEEL_DEVICE constexpr const WeightTypeInfo* weight_type_info(uint32_t type) {
    return type < kWeightTypeCount ? &kWeightTypes[type] : nullptr;
}
// The type that files call `number`, or kWeightTypeCount.
KEEL_DEVICE constexpr uint32_t weight_type_of_number(uint32_t number) {
    uint32_t type = 0;
    while (type < kWeightTypeCount && kWeightTypes[type].number != number) ++type;
    return type;
}
// Bytes of a row of k elements; k must be a multiple of block_elements.
KEEL_DEVICE constexpr uint64_t weight_row_bytes(uint32_t type, uint64_t k) {
    return k / kWeightTypes[type].block_elements * kWeightTypes[type].block_bytes;
}

constexpr bool numbers_are_distinct() {
    for (uint32_t type = 0; type < kWeightTypeCount; ++type)
        if (weight_type_of_number(kWeightTypes[type].number) != type) return false;
    return true;
}
static_assert(numbers_are_distinct(), "two weight types have the same number in files");

// The codes of IQ4_NL and IQ4_XS.
KEEL_TABLE int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace keel::kernels
