// The instruction sets that kernels are written for, from slow to fast, and the names of their kernel sets. Numbers are
// those of keel_cpu.
//
// avx2: with FMA and F16C; a machine that has AVX-VNNI too gets a table that uses it. avx512: F, BW, DQ, VL and VNNI; a
// machine that has VBMI too gets a table that uses it. amx: avx512 with AMX-INT8. neon: what every 64-bit ARM has;
// neon_dotprod: with FEAT_DotProd; neon_i8mm: with FEAT_I8MM too.
#pragma once
#include <stdint.h>

namespace keel::kernels {

enum Isa : uint32_t {
    kScalar = 1,
    kAvx2 = 2,
    kAvx512 = 3,
    kAmx = 4,
    kNeon = 5,
    kNeonDotprod = 6,
    kNeonI8mm = 7,
    kIsaLimit = 8
};

inline constexpr const char* kIsaNames[kIsaLimit] = {nullptr, "scalar", "avx2",         "avx512",
                                                     "amx",   "neon",   "neon_dotprod", "neon_i8mm"};

}  // namespace keel::kernels
