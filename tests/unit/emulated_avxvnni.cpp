// The products of the AVX2 set on machines with AVX-VNNI, with its instructions replaced by loops over lanes, so that any
// machine with AVX2 tests all of them but the instructions themselves. Compiled with the flags of AVX2, hence nothing
// but this function lives here.
#include "kernels/cpu/matmul/q8_avxvnni.h"

namespace keel_test {
namespace {

using namespace keel::kernels;

// One 32-bit sum per lane, from N products of an unsigned or signed element with a signed one.
template <class A, class B, int N>
__m256i emulated_dot(__m256i acc, __m256i a, __m256i b) {
    int32_t sums[8];
    A left[8 * N];
    B right[8 * N];
    memcpy(sums, &acc, sizeof acc);
    memcpy(left, &a, sizeof a);
    memcpy(right, &b, sizeof b);
    for (int i = 0; i < 8 * N; ++i) sums[i / N] += left[i] * right[i];
    memcpy(&acc, sums, sizeof acc);
    return acc;
}

struct EmulatedDots {
    static __m256i dot4(__m256i acc, __m256i codes, __m256i x) {
        return emulated_dot<uint8_t, int8_t, 4>(acc, codes, x);
    }
    static __m256i dot2(__m256i acc, __m256i pairs, __m256i x) {
        return emulated_dot<int16_t, int16_t, 2>(acc, pairs, x);
    }
};

template <WeightType T, bool kRepacked>
void product(const MatmulArgs& a) {
    matmul_q8_rows<Q8AvxVnni<EmulatedDots>, T, kRepacked>(a);
}

}  // namespace

// As in kernels_test_support.h, whose inline functions must not be compiled with these flags.
void emulate_avxvnni_products(KernelSet* set);

void emulate_avxvnni_products(KernelSet* set) {
#define KEEL_EMULATE(type, ...)                        \
    set->matmul_q8[k##type] = product<k##type, false>; \
    set->matmul_repacked[k##type] = product<k##type, true>;
    KEEL_QUANTIZED_TYPES(KEEL_EMULATE)
}

}  // namespace keel_test
