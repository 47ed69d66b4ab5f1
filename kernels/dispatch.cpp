// Which kernel sets this build has and this machine can run; the KV format table.
#include "kernels/cpu/kernel_sets.h"

namespace keel::kernels {

constinit const KvFormatInfo kKvFormats[kKvFormatCount] = {
    {"f16", 16, [](uint32_t head_dim) -> uint32_t { return head_dim * 2; }},
    {"f32", 32, [](uint32_t head_dim) -> uint32_t { return head_dim * 4; }},
};

const KernelSet* find_kernel_set(uint32_t isa) { return isa == kScalar ? &kScalarSet : nullptr; }

const KernelSet* best_kernel_set() { return &kScalarSet; }

}  // namespace keel::kernels
