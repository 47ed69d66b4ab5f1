#include "kernels/cpu/matmul/q8_amx.h"
#if defined(__AMX_INT8__) || defined(__AMXINT8__)

namespace keel::kernels {
namespace {

struct HardwareTiles {
    // Palette 1: tile 0 is C, 1 is A, 2 is B (q8_amx.h).
    static void configure(uint32_t sub) {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        config.rows[0] = config.rows[1] = kTileSide;
        config.rows[2] = static_cast<uint8_t>(sub / 4);
        config.row_bytes[0] = config.row_bytes[2] = 64;
        config.row_bytes[1] = static_cast<uint16_t>(sub);
        // GCC's header tells the compiler of the first eight bytes only, and of none that tile loads read: all of
        // memory is as written from here on.
        __asm__ volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    static void release() { _tile_release(); }
    KEEL_INLINE void product(const void* a, uint64_t stride, const void* b, int32_t (*c)[kTileSide]) {
        _tile_zero(0);
        _tile_loadd(1, a, stride);
        _tile_loadd(2, b, 64);
        _tile_dpbsud(0, 1, 2);
        _tile_stored(0, c, 64);
    }
};

}  // namespace

template <WeightType T>
void matmul_q8_amx(const MatmulArgs& a) {
    multiply_tiled<HardwareTiles, T, false>(a);
}
template <WeightType T>
void matmul_repacked_amx(const MatmulArgs& a) {
    multiply_tiled<HardwareTiles, T, true>(a);
}

#define KEEL_INSTANTIATE(type, ...)                          \
    template void matmul_q8_amx<k##type>(const MatmulArgs&); \
    template void matmul_repacked_amx<k##type>(const MatmulArgs&);
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE)

}  // namespace keel::kernels
#endif
