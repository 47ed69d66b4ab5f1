#include "sdk/backend/cpu/kernel_choice.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/cpu/families.h"
#include "platform/platform.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

using namespace kernels;

// What the machine has. Of sets that are not built (KEEL_KERNEL_SETS) nobody asks.
#if defined(__x86_64__)
struct Cpuid {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    Cpuid(uint32_t leaf, uint32_t subleaf) {
        if (!__get_cpuid_count(leaf, subleaf, &a, &b, &c, &d)) a = b = c = d = 0;
    }
};
constexpr uint32_t bit(int i) {
    return 1u << i;
}

// Whether the operating system saves the registers of `state` (bits of XCR0).
bool saves_state(uint32_t state) {
    if (!(Cpuid(1, 0).c & bit(27))) return false;  // OSXSAVE
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & state) == state;
}
[[maybe_unused]] bool have_avx2() {
    constexpr uint32_t kLeaf1 = bit(12) | bit(28) | bit(29);  // FMA, AVX, F16C
    return saves_state(0x6) && (Cpuid(1, 0).c & kLeaf1) == kLeaf1 && (Cpuid(7, 0).b & bit(5));
}
// Products of four bytes on machines without AVX-512. As with VBMI below, another table and the same bits.
[[maybe_unused]] bool have_avx_vnni() {
    return Cpuid(7, 1).a & bit(4);
}
[[maybe_unused]] bool have_avx512() {
    constexpr uint32_t kLeaf7b = bit(16) | bit(17) | bit(30) | bit(31), kLeaf7c = bit(11);  // F, DQ, BW, VL; VNNI
    const Cpuid leaf7(7, 0);
    return have_avx2() && saves_state(0xe6) && (leaf7.b & kLeaf7b) == kLeaf7b && (leaf7.c & kLeaf7c);
}
// Byte permutations across a register. With AVX-512 they come in the same set: the table is another one, the bits are
// not.
[[maybe_unused]] bool have_vbmi() {
    return Cpuid(7, 0).c & bit(1);
}
// Products of bf16 pairs: with VBMI another table and the same bits.
[[maybe_unused]] bool have_bf16() {
    return have_vbmi() && (Cpuid(7, 1).a & bit(5));
}
[[maybe_unused]] bool have_amx() {
    constexpr uint32_t kTileAndInt8 = bit(24) | bit(25), kTileState = 0x60000;
    return have_avx512() && saves_state(kTileState) && (Cpuid(7, 0).d & kTileAndInt8) == kTileAndInt8;
}
#endif

}  // namespace

const KernelSet* find_kernel_set(uint32_t isa) {
    switch (isa) {
        case kScalar:
            return &kScalarSet;
#ifdef KEEL_HAVE_AVX2
        case kAvx2:
#ifdef KEEL_HAVE_AVXVNNI
            if (have_avx2() && have_avx_vnni()) return &kAvx2VnniSet;
#endif
            return have_avx2() ? &kAvx2Set : nullptr;
#endif
#ifdef KEEL_HAVE_AVX512
        case kAvx512:
            if (!have_avx512()) return nullptr;
#ifdef KEEL_HAVE_AVX512BF16
            if (have_bf16()) return &kAvx512Bf16Set;
#endif
            return have_vbmi() ? &kAvx512VbmiSet : &kAvx512Set;
#endif
#ifdef KEEL_HAVE_AMX
        case kAmx:
            if (!have_amx() || !platform::allow_tile_registers()) return nullptr;
#ifdef KEEL_HAVE_AVX512BF16
            if (have_bf16()) return &kAmxBf16Set;
#endif
            return have_vbmi() ? &kAmxVbmiSet : &kAmxSet;
#endif
#ifdef KEEL_HAVE_NEON
        case kNeon:
            return platform::arm_features().neon ? &kNeonSet : nullptr;
#endif
#ifdef KEEL_HAVE_NEON_DOTPROD
        case kNeonDotprod: {
            const platform::ArmFeatures has = platform::arm_features();
            return has.neon && has.dotprod ? &kNeonDotprodSet : nullptr;
        }
#endif
#ifdef KEEL_HAVE_NEON_I8MM
        case kNeonI8mm: {
            const platform::ArmFeatures has = platform::arm_features();
            return has.neon && has.dotprod && has.i8mm ? &kNeonI8mmSet : nullptr;
        }
#endif
        default:
            return nullptr;
    }
}

static_assert(static_cast<uint32_t>(KEEL_CPU_SCALAR) == kScalar && static_cast<uint32_t>(KEEL_CPU_AVX2) == kAvx2 &&
                  static_cast<uint32_t>(KEEL_CPU_AVX512) == kAvx512 && static_cast<uint32_t>(KEEL_CPU_AMX) == kAmx &&
                  static_cast<uint32_t>(KEEL_CPU_NEON) == kNeon &&
                  static_cast<uint32_t>(KEEL_CPU_NEON_DOTPROD) == kNeonDotprod &&
                  static_cast<uint32_t>(KEEL_CPU_NEON_I8MM) == kNeonI8mm,
              "keel_cpu is Isa");

keel_status choose_kernels(keel_cpu* cpu, const kernels::KernelSet** set, keel_error* error) {
    const char* field = "config.cpu";
    uint32_t isa = static_cast<uint32_t>(*cpu);
    if (isa == KEEL_CPU_AUTO) {
        const char* wanted = getenv("KEEL_CPU");
        if (wanted && *wanted) {
            field = "KEEL_CPU";
            for (isa = kScalar; isa < kIsaLimit && strcmp(wanted, kIsaNames[isa]) != 0;) ++isa;
            if (isa == kIsaLimit) {
                char reason[sizeof(keel_error::reason)];
                TextBuilder text(reason, sizeof reason);
                text.text("the environment names no kernel set:");
                for (const char* name : kIsaNames)
                    if (name) text.text(" ").text(name);
                return fail(error, KEEL_E_UNSUPPORTED, 0, field, reason);
            }
        } else {
            isa = kIsaLimit - 1;  // numbered from slow to fast
            while (isa > kScalar && !find_kernel_set(isa)) --isa;
        }
    }
    *cpu = static_cast<keel_cpu>(isa);
    *set = find_kernel_set(isa);
    return *set ? KEEL_OK : fail(error, KEEL_E_UNSUPPORTED, 0, field, "this machine or build lacks the kernel set");
}

}  // namespace keel
