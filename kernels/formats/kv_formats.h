// KV formats: how one K or V row of a head is coded. One row of the table per format; everything else about a format
// (plane sizes, codecs, what attention does with it) hangs off this table.
//
// A row has two parts that lie in two planes of a page (sdk/kv/kv_arena.h): its codes, and its scales.
//
//   format      codes (bits LSB first, element 0 first)            scales                      value
//   f16, f32    the numbers                                        none
//   fp8_e4m3    sign, 4 exponent bits (bias 7), 3 mantissa bits,   none                        saturates at 448
//               no infinities, 0x7f and 0xff NaN
//   q8_0        int8                                               f16 d per 32                d * q
//   q4_0        per 32: byte i has elements i (low) and i + 16     f16 d per 32, any sign      d * (q - 8)
//   e8_b        per 8 elements 8b bits: u[0..7], b bits each, the  f16 s >= 0                  s * (4 u - 2^(b+1) + 1 + 2c)
//               lowest bit of u[7] replaced by the coset c (below)
//   tcq_b       new[i], b bits each                                u16: s and the start state  s * table_b[state i]
//
// `_rot` formats, e8 and tcq code the rotated row (kv_rotate): what attention sees is a rotated query, and its output
// is rotated back once.
//
// e8_b: a codebook of the lattice E8 + 1/4 with exactly b bits an element, in quarter steps. u is in [0, 2^b) and the
// sum of a block's u is even, so that the lowest bit of u[7] follows from the others and its place can hold c. b = 8
// does not fit 8-bit integers and is decoded to f32 where it is used.
//
// tcq_b: trellis-coded quantization with a bit-shift trellis of 8-bit states. The states run from the last element to
// the
// first: state i = (state i+1 << b | new[i]) & 255, which is the 8-bit window at bit i * b of the row's codes followed
// by the 8 - b start bits. The scale field has s in its upper 8 + b bits (an f16 without sign and without its lowest 7
// - b mantissa bits) and the start bits in the lower 8 - b. table_b holds 256 int8 values
// (kernels/formats/kv_trellis_tables.h).
#pragma once
#include <stdint.h>

namespace keel::kernels {

enum KvFormat : uint32_t {
    kKvF16,
    kKvF32,
    kKvFp8,
    kKvQ8_0,
    kKvQ4_0,
    kKvQ8_0Rot,
    kKvQ4_0Rot,
    kKvE8_2,
    kKvE8_3,
    kKvE8_4,
    kKvE8_5,
    kKvE8_6,
    kKvE8_8,
    kKvTcq2,
    kKvTcq3,
    kKvTcq4,
    kKvTcq5,
    kKvTcq6,
    kKvFormatCount
};
#define KEEL_KV_FORMATS(X)                                                                                            \
    X(kKvF16)                                                                                                         \
    X(kKvF32) X(kKvFp8) X(kKvQ8_0) X(kKvQ4_0) X(kKvQ8_0Rot) X(kKvQ4_0Rot) X(kKvE8_2) X(kKvE8_3) X(kKvE8_4) X(kKvE8_5) \
        X(kKvE8_6) X(kKvE8_8) X(kKvTcq2) X(kKvTcq3) X(kKvTcq4) X(kKvTcq5) X(kKvTcq6)

enum class KvFamily : uint8_t { kFloat, kBlock32, kLattice, kTrellis };

struct KvFormatInfo {
    const char* name;
    KvFamily family;
    uint8_t bits;      // of one element's code
    uint8_t multiple;  // head_dim has to be a multiple of it
    bool rotated;
    bool integer;  // attention multiplies the integer codes (NUMERICS section 5)
};
constexpr KvFormatInfo kKvFormats[kKvFormatCount] = {
    {"f16", KvFamily::kFloat, 16, 8, false, false},      {"f32", KvFamily::kFloat, 32, 8, false, false},
    {"fp8_e4m3", KvFamily::kFloat, 8, 8, false, false},  {"q8_0", KvFamily::kBlock32, 8, 32, false, true},
    {"q4_0", KvFamily::kBlock32, 4, 32, false, true},    {"q8_0_rot", KvFamily::kBlock32, 8, 32, true, true},
    {"q4_0_rot", KvFamily::kBlock32, 4, 32, true, true}, {"e8_2", KvFamily::kLattice, 2, 8, true, true},
    {"e8_3", KvFamily::kLattice, 3, 8, true, true},      {"e8_4", KvFamily::kLattice, 4, 8, true, true},
    {"e8_5", KvFamily::kLattice, 5, 8, true, true},      {"e8_6", KvFamily::kLattice, 6, 8, true, true},
    {"e8_8", KvFamily::kLattice, 8, 8, true, false},     {"tcq_2", KvFamily::kTrellis, 2, 8, true, true},
    {"tcq_3", KvFamily::kTrellis, 3, 8, true, true},     {"tcq_4", KvFamily::kTrellis, 4, 8, true, true},
    {"tcq_5", KvFamily::kTrellis, 5, 8, true, true},     {"tcq_6", KvFamily::kTrellis, 6, 8, true, true},
};

constexpr uint32_t kMaxHeadDim = 256;
constexpr uint32_t kKvBlock = 32;                          // elements of a q8_0 or q4_0 scale
constexpr uint32_t kMaxKvScales = kMaxHeadDim / kKvBlock;  // of one row

// Bytes of one row in the code plane and in the scale plane, and how many scales those are.
constexpr uint32_t kv_code_bytes(KvFormat f, uint32_t head_dim) {
    return head_dim * kKvFormats[f].bits / 8;
}
constexpr uint32_t kv_scales(KvFormat f, uint32_t head_dim) {
    return kKvFormats[f].family == KvFamily::kFloat     ? 0
           : kKvFormats[f].family == KvFamily::kBlock32 ? head_dim / kKvBlock
                                                        : 1;
}
constexpr uint32_t kv_scale_bytes(KvFormat f, uint32_t head_dim) {
    return kv_scales(f, head_dim) * 2;
}

// How the scale of a lattice or trellis row follows from the row x and its integers c. Other formats have none to
// choose.
enum class KvScaleMode : uint32_t {
    kLeastSquares,  // <x,c> / <c,c>: the least squared error
    kUnbiased,      // <x,x> / <x,c>: <x, decoded x> = <x,x>, so that products with other rows are not shrunk
};

// The largest power of two that divides head_dim: elements are rotated in blocks of this many.
constexpr uint32_t kv_rotation_block(uint32_t head_dim) {
    return head_dim & (~head_dim + 1);
}

}  // namespace keel::kernels
