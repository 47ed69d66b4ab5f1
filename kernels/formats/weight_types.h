// Weight types: one row per GGUF tensor type Keel computes with. Everything else about a type (layout, kernels,
// activation block) hangs off this table, so that a new type is a new row. Values of the enum are GGUF's own type
// numbers; types from kGgufTypeLimit on are in no GGUF.
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
//   Q8_F32  d f32 | qs[32] int8   w = d*q; what W_proj caches of version 1 hold (sdk/format/wproj.h)
//   IQ4_XS  d | scales_h u16 | scales_l[4] | qs[128]  sub-blocks of 32; scale minus 32; w = d*sc*table[q]
#pragma once
#include <stdint.h>

namespace keel::kernels {

enum WeightType : uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kIQ4_NL = 20,
    kIQ4_XS = 23,
    kBF16 = 30,
    kGgufTypeLimit = 31,
    kQ8_F32 = 31,
    kWeightTypeLimit = 32,
};

struct WeightTypeInfo {
    const char* name;         // "Q4_K"; null: not a type Keel computes with
    uint16_t block_elements;  // elements in one block; a row is a whole number of blocks
    uint16_t block_bytes;
    uint16_t activation_block;  // B of NUMERICS section 2; 0: f32 activations only
};

// Indexed by WeightType; entries without a name are types Keel does not compute with.
extern const WeightTypeInfo kWeightTypes[kWeightTypeLimit];

static inline const WeightTypeInfo* weight_type_info(uint32_t type) {
    return type < kWeightTypeLimit && kWeightTypes[type].name ? &kWeightTypes[type] : nullptr;
}
// Bytes of a row of k elements; k must be a multiple of block_elements.
static inline uint64_t weight_row_bytes(uint32_t type, uint64_t k) {
    return k / kWeightTypes[type].block_elements * kWeightTypes[type].block_bytes;
}

}  // namespace keel::kernels
