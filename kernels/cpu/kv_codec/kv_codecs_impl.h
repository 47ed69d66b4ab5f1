// KV row encoders in portable code over kernels/formats/kv_codecs.h, the scalar set's; vector sets encode by
// kv_codecs_lanes.h where that pays. In an unnamed namespace: every instruction set compiles its own copy.
#pragma once
#include "kernels/cpu/kernel_set.h"
#include "kernels/cpu/vector/inline.h"
#include "kernels/formats/kv_codecs.h"

namespace keel::kernels {
namespace {

KEEL_ONE_COPY void encode_e8(const float* row, uint32_t n, uint32_t bits, KvScaleMode mode, uint8_t* codes,
                             uint8_t* scales) {
    NormalRow x;
    normalise_row(row, n, &x);
    if (x.kind != RowKind::kCoded) {
        memset(codes, 0, n * bits / 8);
        kv_store_u16(scales, x.kind == RowKind::kNotFinite ? 0x7e00 : 0);
        return;
    }
    uint8_t u[2][kMaxHeadDim], cosets[2][kMaxHeadDim / 8];
    float c[2][kMaxHeadDim], best = -1.0f;
    int kept = 0;
    for (int i = 0; i < kE8Steps; ++i) {
        const int now = 1 - kept;
        const float factor = fma_f32(static_cast<float>(i), kE8NextStep, kE8FirstStep);
        code_e8(x.x, n, static_cast<int>(bits), x.rms * kE8Step[bits] * factor, u[now], cosets[now], c[now]);
        // The squared error left by the best scale is square - fit.
        const float xc = kv_dot(x.x, c[now], n), fit = xc > 0.0f ? xc * xc / kv_dot(c[now], c[now], n) : 0.0f;
        if (fit > best) best = fit, kept = now;
    }
    pack_e8(u[kept], cosets[kept], n, bits, codes);
    kv_store_u16(scales, f32_to_f16(fit_scale(x, c[kept], n, mode)));
}

// All but the search, whose loops want to know the number of bits.
using TrellisSearch = void (*)(const float* x, uint32_t n, const float* value, uint8_t* state);
KEEL_ONE_COPY void encode_trellis(const float* row, uint32_t n, uint32_t bits, TrellisSearch search, KvScaleMode mode,
                                  uint8_t* codes, uint8_t* scales) {
    NormalRow x;
    normalise_row(row, n, &x);
    if (x.kind != RowKind::kCoded) {
        memset(codes, 0, n * bits / 8);
        kv_store_u16(scales, trellis_field(x.kind == RowKind::kNotFinite ? __builtin_nanf("") : 0.0f, 0, bits));
        return;
    }
    const int8_t* table = kTrellisTables[bits - 2];
    const float units = kTrellisUnit[bits - 2] / x.rms;
    float c[kMaxHeadDim], value[256];
    uint8_t state[kMaxHeadDim];
    for (int s = 0; s < 256; ++s) value[s] = static_cast<float>(table[s]);
    for (uint32_t i = 0; i < n; ++i) c[i] = x.x[i] * units;
    search(c, n, value, state);
    for (uint32_t i = 0; i < n; ++i) c[i] = static_cast<float>(table[state[i]]);
    const uint32_t start = pack_trellis(state, n, bits, codes);
    kv_store_u16(scales, trellis_field(fit_scale(x, c, n, mode), start, bits));
}

template <KvFormat F>
void kv_encode_portable(const float* row, uint32_t n, KvScaleMode mode, uint8_t* codes, uint8_t* scales) {
    constexpr int kBits = kKvFormats[F].bits;
    if constexpr (F == kKvF32) {
        memcpy(codes, row, n * sizeof(float));
    } else if constexpr (F == kKvF16) {
        for (uint32_t i = 0; i < n; ++i) kv_store_u16(codes + 2 * i, f32_to_f16(row[i]));
    } else if constexpr (F == kKvFp8) {
        for (uint32_t i = 0; i < n; ++i) codes[i] = f32_to_fp8(row[i]);
    } else if constexpr (kKvFormats[F].family == KvFamily::kBlock32) {
        encode_block32<kBits>(row, n, codes, scales);
    } else if constexpr (kKvFormats[F].family == KvFamily::kLattice) {
        encode_e8(row, n, kBits, mode, codes, scales);
    } else {
        static_assert(kKvFormats[F].family == KvFamily::kTrellis, "this KV format has no encoder");
        encode_trellis(row, n, kBits, search_trellis<kBits>, mode, codes, scales);
    }
}

#define KEEL_DEFINE_KV_CODECS(isa)                                                                                 \
    template <KvFormat F>                                                                                          \
    void kv_encode_##isa(const float* row, uint32_t head_dim, KvScaleMode mode, uint8_t* codes, uint8_t* scales) { \
        kv_encode_portable<F>(row, head_dim, mode, codes, scales);                                                 \
    }                                                                                                              \
    template <KvFormat F>                                                                                          \
    void kv_decode_##isa(const uint8_t* codes, const uint8_t* scales, uint32_t head_dim, float* row) {             \
        kv_decode_portable<F>(codes, scales, head_dim, row);                                                       \
    }                                                                                                              \
    void kv_rotate_##isa(float* row, uint32_t head_dim) {                                                          \
        rotate_row(row, head_dim);                                                                                 \
    }                                                                                                              \
    void kv_unrotate_##isa(float* row, uint32_t head_dim) {                                                        \
        unrotate_row(row, head_dim);                                                                               \
    }
// Instantiates the above for one format.
#define KEEL_INSTANTIATE_KV(isa, F)                                                            \
    template void kv_encode_##isa<F>(const float*, uint32_t, KvScaleMode, uint8_t*, uint8_t*); \
    template void kv_decode_##isa<F>(const uint8_t*, const uint8_t*, uint32_t, float*);

}  // namespace
}  // namespace keel::kernels
