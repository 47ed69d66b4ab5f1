// KV formats: how one K or V row of a head is coded. KEEL_KV_FORMATS is the one list of them; the enum, the table,
// plane sizes, codec tables and the tools' names follow from it. What a new format needs besides: kernels/README.md.
//
// A row has two parts that lie in two planes of a page (sdk/kv/kv_arena.h): its codes, and its scales.
//
//   format      codes (bits LSB first, element 0 first)            scales                      value
//   f16, f32    the numbers                                        none
//   fp8_e4m3    sign, 4 exponent bits (bias 7), 3 mantissa bits,   none                        saturates at 448
//               no infinities, 0x7f and 0xff NaN
//   q8_0        int8                                               f16 d per 32                d * q
//   q4_0        per 32: byte i has elements i (low) and i + 16     f16 d per 32, any sign      d * (q - 8)
//   e8_b        per 8 elements 8b bits: u[0..7], b bits each, the  f16 s >= 0             s * (4 u - 2^(b+1) + 1 + 2c)
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
// the first: state i = (state i+1 << b | new[i]) & 255, which is the 8-bit window at bit i * b of the row's codes
// followed by the 8 - b start bits. The scale field has s in its upper 8 + b bits (an f16 without sign and without its
// lowest 7 - b mantissa bits) and the start bits in the lower 8 - b. table_b holds 256 int8 values
// (kernels/formats/kv_trellis_tables.h).
#pragma once
#include <stdint.h>

#include "kernels/formats/device.h"

namespace keel::kernels {

enum class KvFamily : uint8_t { kFloat, kBlock32, kLattice, kTrellis };

// One row per format, in the order of keel_kv_format:
//   public    keel_kv_format is KEEL_KV_<public>, one more than the index here
//   name      on the command line and in reports
//   bits      of one element's code
//   multiple  head_dim has to be a multiple of it
//   integer   attention multiplies the integer codes (NUMERICS section 5)
// clang-format off
#define KEEL_KV_FORMATS(X)                                                          \
    /*id      public        name        family   bits  multiple  rotated  integer */ \
    X(F16,     F16,          "f16",      kFloat,   16,  8,        false,   false)    \
    X(F32,     F32,          "f32",      kFloat,   32,  8,        false,   false)    \
    X(Fp8,     FP8_E4M3,     "fp8",      kFloat,   8,   8,        false,   false)    \
    X(Q8_0,    Q8_0,         "q8_0",     kBlock32, 8,   32,       false,   true)     \
    X(Q4_0,    Q4_0,         "q4_0",     kBlock32, 4,   32,       false,   true)     \
    X(Q8_0Rot, Q8_0_ROTATED, "q8_0-rot", kBlock32, 8,   32,       true,    true)     \
    X(Q4_0Rot, Q4_0_ROTATED, "q4_0-rot", kBlock32, 4,   32,       true,    true)     \
    X(E8_2,    E8_2,         "e8-2",     kLattice, 2,   8,        true,    true)     \
    X(E8_3,    E8_3,         "e8-3",     kLattice, 3,   8,        true,    true)     \
    X(E8_4,    E8_4,         "e8-4",     kLattice, 4,   8,        true,    true)     \
    X(E8_5,    E8_5,         "e8-5",     kLattice, 5,   8,        true,    true)     \
    X(E8_6,    E8_6,         "e8-6",     kLattice, 6,   8,        true,    true)     \
    X(E8_8,    E8_8,         "e8-8",     kLattice, 8,   8,        true,    false)    \
    X(Tcq2,    TCQ_2,        "tcq-2",    kTrellis, 2,   8,        true,    true)     \
    X(Tcq3,    TCQ_3,        "tcq-3",    kTrellis, 3,   8,        true,    true)     \
    X(Tcq4,    TCQ_4,        "tcq-4",    kTrellis, 4,   8,        true,    true)     \
    X(Tcq5,    TCQ_5,        "tcq-5",    kTrellis, 5,   8,        true,    true)     \
    X(Tcq6,    TCQ_6,        "tcq-6",    kTrellis, 6,   8,        true,    true)
// clang-format on

enum KvFormat : uint32_t {
#define KEEL_INDEX(id, ...) kKv##id,
    KEEL_KV_FORMATS(KEEL_INDEX)
#undef KEEL_INDEX
        kKvFormatCount
};

struct KvFormatInfo {
    const char* name;
    KvFamily family;
    uint8_t bits, multiple;
    bool rotated, integer;
};
KEEL_TABLE KvFormatInfo kKvFormats[kKvFormatCount] = {
#define KEEL_ROW(id, public_name, name, family, ...) {name, KvFamily::family, __VA_ARGS__},
    KEEL_KV_FORMATS(KEEL_ROW)
#undef KEEL_ROW
};

// The first format whose rows are coded like those of f: rotated formats have the codes of plain ones.
KEEL_DEVICE constexpr KvFormat kv_coded_as(KvFormat f) {
    uint32_t i = 0;
    while (kKvFormats[i].family != kKvFormats[f].family || kKvFormats[i].bits != kKvFormats[f].bits) ++i;
    return static_cast<KvFormat>(i);
}

constexpr uint32_t kMaxHeadDim = 256;
constexpr uint32_t kKvBlock = 32;                          // elements of a q8_0 or q4_0 scale
constexpr uint32_t kMaxKvScales = kMaxHeadDim / kKvBlock;  // of one row

// Bytes of one row in the code plane and in the scale plane, and how many scales those are.
KEEL_DEVICE constexpr uint32_t kv_code_bytes(KvFormat f, uint32_t head_dim) {
    return head_dim * kKvFormats[f].bits / 8;
}
KEEL_DEVICE constexpr uint32_t kv_scales(KvFormat f, uint32_t head_dim) {
    return kKvFormats[f].family == KvFamily::kFloat     ? 0
           : kKvFormats[f].family == KvFamily::kBlock32 ? head_dim / kKvBlock
                                                        : 1;
}
KEEL_DEVICE constexpr uint32_t kv_scale_bytes(KvFormat f, uint32_t head_dim) {
    return kv_scales(f, head_dim) * 2;
}

// How the scale of a lattice or trellis row follows from the row x and its integers c. Other formats have none to
// choose.
enum class KvScaleMode : uint32_t {
    kLeastSquares,  // <x,c> / <c,c>: the least squared error
    kUnbiased,      // <x,x> / <x,c>: <x, decoded x> = <x,x>, so that products with other rows are not shrunk
};

// The largest power of two that divides head_dim: elements are rotated in blocks of this many.
KEEL_DEVICE constexpr uint32_t kv_rotation_block(uint32_t head_dim) {
    return head_dim & (~head_dim + 1);
}

}  // namespace keel::kernels
