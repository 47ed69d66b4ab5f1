// The AMX set's products with the tile instructions replaced by loops, so that any machine with AVX-512 tests all of it
// but the instructions themselves. Compiled with the flags of AVX-512, hence nothing but this function lives here.
#include "kernels/cpu/matmul/q8_amx.h"

namespace keel_test {
namespace {

using namespace keel::kernels;

struct EmulatedTiles {
    static inline uint32_t sub = 0;
    static void configure(uint32_t elements) { sub = elements; }
    static void release() { sub = 0; }
    static void product(const void* a, uint64_t stride, const void* b, int32_t (*c)[kTileSide]) {
        const int8_t* tokens = static_cast<const int8_t*>(a);
        const uint8_t* codes = static_cast<const uint8_t*>(b);
        for (uint32_t i = 0; i < kTileSide; ++i)
            for (uint32_t r = 0; r < kTileSide; ++r) {
                c[i][r] = 0;
                for (uint32_t e = 0; e < sub; ++e)
                    c[i][r] += tokens[i * stride + e] * codes[64 * (e / 4) + 4 * r + e % 4];
            }
    }
};

}  // namespace

// As in kernels_test_support.h, whose inline functions must not be compiled with these flags.
void emulate_amx_products(KernelSet* set);

void emulate_amx_products(KernelSet* set) {
#define KEEL_EMULATE(type, ...)                                              \
    set->matmul_q8[k##type] = multiply_tiled<EmulatedTiles, k##type, false>; \
    set->matmul_repacked[k##type] = multiply_tiled<EmulatedTiles, k##type, true>;
    KEEL_QUANTIZED_TYPES(KEEL_EMULATE)
}

}  // namespace keel_test
