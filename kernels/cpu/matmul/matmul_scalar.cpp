// Matrix products and activation quantization, the reference for every other set (NUMERICS sections 1 and 2). Each
// weight block is unpacked once and used for all tokens.
#include <string.h>

#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/quant_blocks.h"

namespace keel::kernels {

namespace {

constexpr uint32_t kTile = 256;  // a whole number of blocks of any type, and of 16

KEEL_ONE_COPY void matmul_f32_rows(const MatmulArgs& a, WeightType type,
                                   void (*decode)(const void* src, float* dst, uint32_t k)) {
    float w[kTile];
    float lanes[kMaxTokens][16];
    for (uint32_t row = a.row_begin; row < a.row_end; ++row) {
        const uint8_t* src = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
        memset(lanes, 0, a.tokens * sizeof(lanes[0]));
        for (uint32_t k = 0; k < a.k; k += kTile) {
            const uint32_t n = a.k - k < kTile ? a.k - k : kTile;
            decode(src, w, n);
            src += weight_row_bytes(type, n);
            for (uint32_t c = 0; c < a.tokens; ++c) {
                const float* x =
                    reinterpret_cast<const float*>(static_cast<const uint8_t*>(a.x) + c * a.x_token_bytes) + k;
                for (uint32_t i = 0; i < n; ++i) lanes[c][i % 16] = fma_f32(w[i], x[i], lanes[c][i % 16]);
            }
        }
        for (uint32_t c = 0; c < a.tokens; ++c) store_dot(a, row, c, tree16(lanes[c]));
    }
}

}  // namespace

template <WeightType T>
void matmul_f32_scalar(const MatmulArgs& a) {
    static_assert(kTile % block_shape(T).elements == 0);
    matmul_f32_rows(a, T, dequantize_scalar<T>);
}

void round_bf16_scalar(const float* x, uint32_t begin, uint32_t end, void* token) {
    float* to = static_cast<float*>(token);
    memset(to + begin, 0, bf16_token_bytes(end - begin));
    for (uint32_t i = begin; i < end; ++i) to[bf16_pair_place(i)] = bf16_pair_value(x[i]);
}

template <WeightType T>
void matmul_bf16_scalar(const MatmulArgs& a) {
    float lanes[kMaxTokens][16];
    for (uint32_t row = a.row_begin; row < a.row_end; ++row) {
        const uint8_t* src = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
        memset(lanes, 0, a.tokens * sizeof(lanes[0]));
        for (uint32_t k = 0; k < a.k; k += 2) {
            float w[2] = {};
            decode_weights<T>(src + weight_row_bytes(T, k), w, a.k - k < 2 ? 1 : 2);
            for (uint32_t c = 0; c < a.tokens; ++c) {
                const float* x = reinterpret_cast<const float*>(static_cast<const uint8_t*>(a.x) + c * a.x_token_bytes);
                float* lane = &lanes[c][k / 2 % 16];
                *lane = fma_f32(bf16_pair_value(w[1]), x[bf16_pair_place(k + 1)], *lane);
                *lane = fma_f32(bf16_pair_value(w[0]), x[bf16_pair_place(k)], *lane);
            }
        }
        for (uint32_t c = 0; c < a.tokens; ++c) store_dot(a, row, c, tree16(lanes[c]));
    }
}
template void matmul_bf16_scalar<kF32>(const MatmulArgs&);
template void matmul_bf16_scalar<kF16>(const MatmulArgs&);
template void matmul_bf16_scalar<kBF16>(const MatmulArgs&);

namespace {

int32_t dot_i8(const int8_t* a, const int8_t* b, uint32_t n) {
    int32_t sum = 0;
    KEEL_KEEP_LOOP
    for (uint32_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace

namespace {

template <WeightType T>
KEEL_ONE_COPY void matmul_q8_rows(const MatmulArgs& a, bool repacked) {
    constexpr BlockShape kShape = block_shape(T);
    constexpr uint32_t kSums = kShape.elements / 16;  // entries of the sum plane in one block
    BlockCodes w;
    float acc[kMaxTokens];
    for (uint32_t row = a.row_begin; row < a.row_end; ++row) {
        const uint32_t in_group = repacked ? row % kRepackRows : 0;
        const uint8_t* src = static_cast<const uint8_t*>(a.w) + (row - in_group) * a.w_row_bytes;
        memset(acc, 0, a.tokens * sizeof(acc[0]));
        for (uint32_t b = 0; b < a.k / kShape.elements; ++b) {
            uint8_t block[kShape.bytes];
            if (repacked) unpack_row(T, src, in_group, b, 1, block);
            unpack_block<T>(repacked ? block : src + uint64_t{b} * kShape.bytes, w);
            for (uint32_t c = 0; c < a.tokens; ++c) {
                const Q8Token x =
                    q8_token(static_cast<const uint8_t*>(a.x) + c * a.x_token_bytes, a.k, kShape.elements);
                const int8_t* q = x.q + uint64_t{b} * kShape.elements;
                const int16_t* sums = x.sums + uint64_t{b} * kSums;
                if constexpr (kShape.sub == 0) {
                    acc[c] = fma_f32(w.d * x.d[b], static_cast<float>(dot_i8(w.q, q, kShape.elements)), acc[c]);
                    if constexpr (kShape.minimum)
                        acc[c] = fma_f32(w.m * x.d[b], static_cast<float>(sums[0] + sums[1]), acc[c]);
                } else {
                    int32_t i = 0, m = 0;
                    for (uint32_t j = 0; j < kShape.elements / kShape.sub; ++j)
                        i += w.scale[j] * dot_i8(w.q + j * kShape.sub, q + j * kShape.sub, kShape.sub);
                    acc[c] = fma_f32(w.d * x.d[b], static_cast<float>(i), acc[c]);
                    if constexpr (kShape.minimum) {
                        for (uint32_t s = 0; s < kSums; ++s) m += w.minimum[s * 16 / kShape.sub] * sums[s];
                        acc[c] = fma_f32(-(w.m * x.d[b]), static_cast<float>(m), acc[c]);
                    }
                }
            }
        }
        for (uint32_t c = 0; c < a.tokens; ++c) store_dot(a, row, c, acc[c]);
    }
}

}  // namespace

template <WeightType T>
void matmul_q8_scalar(const MatmulArgs& a) {
    matmul_q8_rows<T>(a, false);
}
template <WeightType T>
void matmul_repacked_scalar(const MatmulArgs& a) {
    matmul_q8_rows<T>(a, true);
}

// A product that is NaN although x and amax are finite is 0 * inf (amax below 127 / FLT_MAX): its code is 0.
void quantize_q8_scalar(const float* x, uint32_t k, uint32_t block, void* token) {
    int8_t* q = q8_codes(token);
    float* d = q8_scales(token, k);
    int16_t* sums = q8_sums(token, k, block);
    for (uint32_t b = 0; b < k / block; ++b, x += block, q += block) {
        float amax = 0.0f;
        bool finite = true;
        for (uint32_t i = 0; i < block; ++i) {
            const float m = __builtin_fabsf(x[i]);
            finite = finite && m < kInf32;
            amax = m > amax ? m : amax;
        }
        d[b] = finite ? amax * (1.0f / 127.0f) : __builtin_nanf("");
        const float inverse = finite && amax > 0.0f ? 127.0f / amax : 0.0f;
        for (uint32_t i = 0; i < block; ++i) {
            float v = x[i] * inverse;
            v = v > 127.0f ? 127.0f : v < -127.0f ? -127.0f : v;
            q[i] = finite && v == v ? static_cast<int8_t>(rint_f32(v)) : int8_t{0};
        }
        for (uint32_t i = 0; i < block / 16; ++i) {
            int32_t sum = 0;
            for (uint32_t l = 0; l < 16; ++l) sum += q[16 * i + l];
            *sums++ = static_cast<int16_t>(sum);
        }
    }
}

#define KEEL_INSTANTIATE_F32(type, ...) template void matmul_f32_scalar<k##type>(const MatmulArgs&);
#define KEEL_INSTANTIATE_Q8(type, ...)                          \
    template void matmul_q8_scalar<k##type>(const MatmulArgs&); \
    template void matmul_repacked_scalar<k##type>(const MatmulArgs&);
KEEL_WEIGHT_TYPES(KEEL_INSTANTIATE_F32)
KEEL_QUANTIZED_TYPES(KEEL_INSTANTIATE_Q8)

}  // namespace keel::kernels
