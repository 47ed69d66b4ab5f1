// Matrix products with 8-bit activations by AMX int8 tiles, for many tokens: sixteen tokens by the sixteen rows of a
// panel (q8_products.h) at a time. Fewer tokens, and what is left of them, go the way of AVX-512, with the same bits:
// a tile leaves exact integer sums of a sub-block, and scales and f32 accumulators are applied as everywhere.
//
//     A: 16 tokens x S bytes of signed activations, as they lie in the q8 planes (stride: a token)
//     B: S/4 x 64 bytes of unsigned codes, as they lie in a panel: four elements of sixteen rows
//     C: 16 tokens x 16 rows of sums                                      S: elements of a tile, 16, 32 or 64
//
// Tiles is the hardware, or an emulation of it in tests: configure(S), release(), and
// product(a, stride, b, int32 c[16][16]) with c = A times B.
#pragma once
#include "kernels/cpu/matmul/q8_avx512.h"
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)

namespace keel::kernels {
namespace {

constexpr uint32_t kTileSide = 16;

// S: a sub-block, or without any as much of a block as a tile holds.
constexpr uint32_t tile_elements(PanelKind kind) {
    return kind.sub ? kind.sub : kind.elements < 64 ? kind.elements : 64;
}

// Sixteen tokens from `token` on.
template <class Tiles, PanelKind K>
void panel_times_tile(const MatmulArgs& a, const PanelBlock<Q8Avx512, K>* panel, uint32_t row, uint32_t count,
                      uint32_t token) {
    using V = Q8Avx512;
    constexpr uint32_t kSub = tile_elements(K), kSubs = K.elements / kSub;
    const TokenPlanes x = TokenPlanes::of(a, K.elements);
    const uint64_t first = token * x.stride;
    uint64_t at[kTileSide];
    for (uint32_t i = 0; i < kTileSide; ++i) at[i] = i * x.stride;
    const uint8_t *q = x.q + first, *d = x.d + first, *sums = x.sums + first;
    alignas(64) int32_t c[2][kTileSide][kTileSide];
    V::F acc[kTileSide];
    for (uint32_t i = 0; i < kTileSide; ++i) acc[i] = V::zero_floats();
    for (uint32_t b = 0; b < a.k / K.elements; ++b, d += 4, sums += K.elements / 8) {
        const PanelBlock<V, K>& p = panel[b];
        V::I sum[kTileSide];
        KEEL_UNROLL
        for (uint32_t i = 0; i < kTileSide; ++i) sum[i] = start_block<V, K>(sums + at[i]);
        for (uint32_t s = 0; s < kSubs; ++s, q += kSub) {
            int32_t(*out)[kTileSide] = c[(b * kSubs + s) % 2];
            Tiles::product(q, x.stride, p.code + s * (kSub / 4), out);
            KEEL_UNROLL
            for (uint32_t i = 0; i < kTileSide; ++i) {
                const V::I t = V::load(out[i]);
                sum[i] = K.sub ? V::multiply_add(sum[i], t, p.factors.scale()[s]) : _mm512_add_epi32(sum[i], t);
            }
        }
        finish_block<V, K, kTileSide, 1>(
            [&](int) KEEL_ALWAYS_INLINE -> const auto& { return p.factors; }, sum, d, sums, at, acc);
    }
    KEEL_UNROLL
    for (uint32_t i = 0; i < kTileSide; ++i) store_rows<V>(a, row, count, token + i, acc[i]);
}

// The MatrixUnit of q8_products.h.
template <class Tiles, PanelKind K>
uint32_t panels_times_tiles(const MatmulArgs& a, void* panels, uint32_t row, uint32_t rows) {
    constexpr uint32_t kLanes = Q8Avx512::kLanes;
    const uint32_t blocks = a.k / K.elements;
    const auto* panel = static_cast<const PanelBlock<Q8Avx512, K>*>(panels);
    uint32_t c = 0;
    Tiles::configure(tile_elements(K));
    for (; c + kTileSide <= a.tokens; c += kTileSide)
        for (uint32_t r = 0; r < rows; r += kLanes)
            panel_times_tile<Tiles, K>(a, panel + r / kLanes * blocks, row + r, rows - r < kLanes ? rows - r : kLanes,
                                       c);
    Tiles::release();
    return c;
}

template <class Tiles, WeightType T, bool kRepacked>
void multiply_tiled(const MatmulArgs& a) {
    if (a.tokens >= kTileSide)
        return multiply_many_avx512<T, kRepacked>(a, panels_times_tiles<Tiles, panel_kind<Q8Avx512>(T)>);
    (kRepacked ? matmul_repacked_avx512<T> : matmul_q8_avx512<T>)(a);
}

}  // namespace
}  // namespace keel::kernels
#endif
