// Which kernel sets this build has and this machine can run; the KV format table.
#include "kernels/cpu/kernel_sets.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace keel::kernels {

constinit const KvFormatInfo kKvFormats[kKvFormatCount] = {
    {"f16", 16, [](uint32_t head_dim) -> uint32_t { return head_dim * 2; }},
    {"f32", 32, [](uint32_t head_dim) -> uint32_t { return head_dim * 4; }},
};

namespace {

#if defined(__x86_64__)
// AVX2, FMA and F16C, and an operating system that saves the upper halves of the registers.
bool have_avx2() {
    constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;  // leaf 1, ecx
    constexpr uint32_t kLeaf1 = kFma | kOsxsave | kAvx | kF16c, kAvx2Bit = 1u << 5;              // leaf 7, ebx
    constexpr uint32_t kSseAndAvxState = 6;
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kLeaf1) != kLeaf1) return false;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & kSseAndAvxState) != kSseAndAvxState) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & kAvx2Bit);
}
#endif

}  // namespace

const KernelSet* find_kernel_set(uint32_t isa) {
    switch (isa) {
        case kScalar:
            return &kScalarSet;
#if defined(__x86_64__)
        case kAvx2:
            return have_avx2() ? &kAvx2Set : nullptr;
#endif
        default:
            return nullptr;
    }
}

const KernelSet* best_kernel_set() {
    const KernelSet* avx2 = find_kernel_set(kAvx2);
    return avx2 ? avx2 : &kScalarSet;
}

}  // namespace keel::kernels
