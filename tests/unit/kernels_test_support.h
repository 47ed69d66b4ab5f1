// Data for kernel tests: deterministic random numbers, weights with random codes and sane scales, aligned planes, and
// comparison of f32 bits.
#pragma once
#include <gtest/gtest.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/numeric.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "tests/fenced_memory.h"

namespace keel_test {

using namespace keel::kernels;
using keel::find_kernel_set;

inline std::vector<uint32_t> weight_types() {
    std::vector<uint32_t> types;
    for (uint32_t t = 0; t < kWeightTypeCount; ++t) types.push_back(t);
    return types;
}

#if defined(KEEL_HAVE_AVX2) && !defined(KEEL_NO_EMULATED_SETS)
void emulate_avxvnni_products(KernelSet* set);  // emulated_avxvnni.cpp; for machines with AVX2 only
#endif
#if defined(KEEL_HAVE_AVX512) && !defined(KEEL_NO_EMULATED_SETS)
void emulate_amx_products(KernelSet* set);  // emulated_amx.cpp; for machines with AVX-512 only
#endif

// Kernel sets other than the scalar one that this machine can run, where it has AVX-512 the AMX one with its tile
// instructions emulated, where it has VBMI the AVX-512 one for machines without; where it has AVX2 that of machines
// with AVX-VNNI, its instructions emulated, and where it has AVX-VNNI the AVX2 one for machines without. On an emulated
// machine, which is slow, the one that KEEL_EXPECT_KERNELS names: the others have machines of their own. None is
// emulated under sanitizers, which watch no matrix product.
inline std::vector<const KernelSet*> fast_sets() {
    std::vector<const KernelSet*> sets;
    const char* expected = getenv("KEEL_EXPECT_KERNELS");
    for (uint32_t isa = kScalar + 1; isa < kIsaLimit; ++isa)
        if (const KernelSet* set = find_kernel_set(isa); set && (!expected || strcmp(set->name, expected) == 0))
            sets.push_back(set);
#if defined(KEEL_HAVE_AVX2) && !defined(KEEL_NO_EMULATED_SETS)
    if (find_kernel_set(kAvx2)) {
        static KernelSet emulated = [] {
            KernelSet set = kAvx2Set;
            set.name = "avx2, vnni emulated";
            emulate_avxvnni_products(&set);
            return set;
        }();
        sets.push_back(&emulated);
    }
#endif
#if defined(KEEL_HAVE_AVX2)
    if (const KernelSet* set = find_kernel_set(kAvx2); set && set != &kAvx2Set) {
        static KernelSet plain = [] {
            KernelSet set = kAvx2Set;
            set.name = "avx2, no vnni";
            return set;
        }();
        sets.push_back(&plain);
    }
#endif
#if defined(KEEL_HAVE_AVX512) && !defined(KEEL_NO_EMULATED_SETS)
    if (find_kernel_set(kAvx512)) {
        static KernelSet emulated = [] {
            KernelSet set = *find_kernel_set(kAvx512);
            set.name = "amx, emulated";
            emulate_amx_products(&set);
            return set;
        }();
        sets.push_back(&emulated);
    }
#endif
#if defined(KEEL_HAVE_AVX512)
    if (const KernelSet* set = find_kernel_set(kAvx512); set && set != &kAvx512Set) {
        static KernelSet plain = [] {
            KernelSet set = kAvx512Set;
            set.name = "avx512, no vbmi";
            return set;
        }();
        sets.push_back(&plain);
    }
#endif
    return sets;
}

class Random {
  public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    uint32_t bits() { return static_cast<uint32_t>(engine_()); }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
    uint32_t between(uint32_t lo, uint32_t hi) { return lo + below(hi - lo + 1); }
    float uniform(float lo, float hi) { return std::uniform_real_distribution<float>(lo, hi)(engine_); }
    float normal() { return std::normal_distribution<float>()(engine_); }
    std::vector<float> normals(size_t n) {
        std::vector<float> v(n);
        for (float& x : v) x = normal();
        return v;
    }

  private:
    std::mt19937_64 engine_;
};

// Bytes at an alignment, 0xa5 each, whose end or (every second one, by chance) beginning lies against a page nobody may
// touch.
class Buffer {
  public:
    explicit Buffer(size_t bytes, size_t align = 64) : memory_(bytes, align, next_fence()) {
        memset(memory_.data(), 0xa5, bytes);
    }
    uint8_t* data() { return memory_.data(); }
    float* floats() { return reinterpret_cast<float*>(data()); }

  private:
    static Fence next_fence() {
        static Random random(1);
        return random.below(2) ? Fence::kBehind : Fence::kInFront;
    }
    FencedMemory memory_;
};

inline Buffer fenced(const float* values, size_t count) {
    Buffer copy(count * 4, 4);
    if (count) memcpy(copy.data(), values, count * 4);
    return copy;
}
inline Buffer fenced(const std::vector<float>& values) {
    return fenced(values.data(), values.size());
}

inline void store_f16(uint8_t* p, float x) {
    const uint16_t h = f32_to_f16(x);
    memcpy(p, &h, 2);
}

// Fills `bytes` bytes of rows of `type`. fill < 0: random codes; else every code byte is `fill`. Scales random of
// either sign, |scale| in [0.001, 0.1]; floats normal.
inline void fill_weights(uint32_t type, uint8_t* w, uint64_t bytes, Random& random, int fill = -1) {
    const WeightTypeInfo& info = kWeightTypes[type];
    const auto scale = [&] { return random.uniform(0.001f, 0.1f) * (random.below(2) ? 1.0f : -1.0f); };
    for (uint64_t b = 0; b < bytes / info.block_bytes; ++b, w += info.block_bytes) {
        if (type == kF32) {
            const float x = random.normal();
            memcpy(w, &x, 4);
        } else if (type == kF16 || type == kBF16) {
            const float x = random.normal();
            const uint16_t h = type == kF16 ? f32_to_f16(x) : f32_to_bf16(x);
            memcpy(w, &h, 2);
        } else {
            for (uint32_t i = 0; i < info.block_bytes; ++i)
                w[i] = fill < 0 ? static_cast<uint8_t>(random.bits()) : static_cast<uint8_t>(fill);
            if (type == kQ8_F32) {
                const float d = scale();
                memcpy(w, &d, 4);
                continue;
            }
            store_f16(w + info.d_at, scale());
            if (info.has_minimum()) store_f16(w + info.m_at, scale());
        }
    }
}

// Equal bits, or both NaN (the payload of a NaN is not part of the contract).
inline bool same_f32(float a, float b) {
    return f32_bits(a) == f32_bits(b) || (a != a && b != b);
}

inline ::testing::AssertionResult same_floats(const float* a, const float* b, size_t n) {
    for (size_t i = 0; i < n; ++i)
        if (!same_f32(a[i], b[i]))
            return ::testing::AssertionFailure()
                   << "element " << i << " of " << n << ": " << a[i] << " (0x" << std::hex << f32_bits(a[i])
                   << ") against " << b[i] << " (0x" << f32_bits(b[i]) << ")";
    return ::testing::AssertionSuccess();
}

}  // namespace keel_test
