// Names of the kernel sets, one per instruction set; indexed by Isa, which is also keel_cpu.
#pragma once

namespace keel::kernels {

constexpr const char* kIsaNames[] = {nullptr, "scalar", "avx2", "avx512", "amx", "neon"};

}  // namespace keel::kernels
