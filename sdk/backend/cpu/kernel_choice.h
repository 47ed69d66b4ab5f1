// Which kernel set computes: what this build has, what this machine and system let us run, and what the configuration
// or the environment asks for.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernel_set.h"

namespace keel {

// The set for `isa` (kernels::Isa), or null when this build or this machine has none, or the system does not let the
// process use its registers. Detection uses cpuid, xgetbv included, or what the system says of an ARM processor.
const kernels::KernelSet* find_kernel_set(uint32_t isa);

// The kernel set that *cpu asks for. KEEL_CPU_AUTO: the one that the environment variable KEEL_CPU names, else the best
// this machine has; *cpu becomes its number. KEEL_E_UNSUPPORTED where there is no such set.
keel_status choose_kernels(keel_cpu* cpu, const kernels::KernelSet** set, keel_error* error);

}  // namespace keel
