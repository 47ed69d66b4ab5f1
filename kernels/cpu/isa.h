// The instruction sets that kernels are written for, from slow to fast, and the names of their kernel sets. Numbers are
// those of keel_cpu.
//
// avx2: with FMA and F16C; a machine that has AVX-VNNI too gets a table that uses it. avx512: F, BW, DQ, VL and VNNI; a machine that has VBMI too gets a table that uses it. amx:
// avx512 with AMX-INT8. neon: with dotprod and i8mm.
#pragma once
#include <stdint.h>

namespace keel::kernels {

enum Isa : uint32_t { kScalar = 1, kAvx2 = 2, kAvx512 = 3, kAmx = 4, kNeon = 5, kIsaLimit = 6 };

inline constexpr const char* kIsaNames[kIsaLimit] = {nullptr, "scalar", "avx2", "avx512", "amx", "neon"};

}  // namespace keel::kernels
