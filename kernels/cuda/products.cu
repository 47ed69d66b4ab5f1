// Products of weights as they lie in the file, of every type, and what they need besides: 8-bit activations (NUMERICS
// section 2) and single rows (section 3). The plainest form: several lanes a row, integers and f32 lanes by shuffles.
#include "kernels/cuda/product_rows.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_blocks.cuh"

namespace keel::cuda {
namespace {

// Eight lanes a row: of every 32 elements each lane multiplies four. All eight keep the chain over blocks.
constexpr uint32_t kRowLanes = 8;
static_assert(kProductQ8Rows == kProductThreads / kRowLanes && kProductF32Rows == kProductThreads / 16);

template <WeightType T>
KEEL_GPU void multiply_q8(const ProductArgs& args) {
    constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    constexpr uint32_t kElements = kInfo.block_elements, kSums = kElements / 16;
    constexpr bool kMinimum = kInfo.m_at != kernels::kNoField;
    const uint32_t part = thread_x() % kRowLanes,
                   row = args.row_begin + block_x() * kProductQ8Rows + thread_x() / kRowLanes;
    const uint32_t first = block_y() * kProductTokens,
                   tokens = args.tokens - first < kProductTokens ? args.tokens - first : kProductTokens;
    // A row that is not there is computed as the first one and not stored.
    const uint8_t* w = args.w + (row < args.row_end ? row : args.row_begin) * args.w_row_bytes;
    float acc[kProductTokens] = {};
    for (uint32_t b = 0; b < args.k / kElements; ++b, w += kInfo.block_bytes) {
        int32_t sums[kProductTokens] = {}, minima[kProductTokens] = {};
        for (uint32_t s = 0; s < kElements / 32; ++s) {
            const uint32_t i = 8 * s + part, q = codes<T>(w, i);
            int32_t scale = 1;
            if constexpr (kInfo.sub_block) scale = sub_scale<T>(w, 4 * i / kInfo.sub_block);
            KEEL_UNROLL
            for (uint32_t t = 0; t < kProductTokens; ++t) {
                if (t >= tokens) continue;
                const uint32_t* x = reinterpret_cast<const uint32_t*>(token_of(args, first + t));
                sums[t] += scale * dp4a(q, x[b * (kElements / 4) + i], 0);
            }
        }
        const float d = block_scale<T>(w);
        KEEL_UNROLL
        for (uint32_t t = 0; t < kProductTokens; ++t) {
            if (t >= tokens) continue;
            const kernels::Q8Token x = kernels::q8_token(token_of(args, first + t), args.k, kElements);
            const int16_t* x_sums = x.sums + b * kSums;
            sums[t] = sum_lanes<kRowLanes>(sums[t]);
            acc[t] = fma_f32(mul_f32(d, x.d[b]), static_cast<float>(sums[t]), acc[t]);
            if constexpr (kMinimum && kInfo.sub_block) {
                for (uint32_t n = part; n < kSums; n += kRowLanes)
                    minima[t] += sub_minimum<T>(w, n * 16 / kInfo.sub_block) * x_sums[n];
                minima[t] = sum_lanes<kRowLanes>(minima[t]);
                acc[t] = fma_f32(-mul_f32(block_minimum<T>(w), x.d[b]), static_cast<float>(minima[t]), acc[t]);
            } else if constexpr (kMinimum) {
                minima[t] = x_sums[0] + x_sums[1];
                acc[t] = fma_f32(mul_f32(block_minimum<T>(w), x.d[b]), static_cast<float>(minima[t]), acc[t]);
            }
        }
    }
    if (row >= args.row_end || part != 0) return;
    KEEL_UNROLL
    for (uint32_t t = 0; t < kProductTokens; ++t)
        if (t < tokens) store_dot(args, row, first + t, acc[t]);
}

// Sixteen lanes a row, which are those of the contract.
template <WeightType T>
KEEL_GPU void multiply_f32(const ProductArgs& args) {
    const uint32_t lane = thread_x() % 16, row = args.row_begin + block_x() * kProductF32Rows + thread_x() / 16;
    const uint32_t first = block_y() * kProductTokens,
                   tokens = args.tokens - first < kProductTokens ? args.tokens - first : kProductTokens;
    const uint8_t* w = args.w + (row < args.row_end ? row : args.row_begin) * args.w_row_bytes;
    float acc[kProductTokens] = {};
    for (uint32_t e = lane; e < args.k; e += 16) {
        const float v = decoded<T>(w, e);
        KEEL_UNROLL
        for (uint32_t t = 0; t < kProductTokens; ++t)
            if (t < tokens) acc[t] = fma_f32(v, reinterpret_cast<const float*>(token_of(args, first + t))[e], acc[t]);
    }
    KEEL_UNROLL
    for (uint32_t t = 0; t < kProductTokens; ++t) {
        if (t >= tokens) continue;
        const float dot = tree16(acc[t]);
        if (lane == 0 && row < args.row_end) store_dot(args, row, first + t, dot);
    }
}

template <WeightType T>
KEEL_GPU void embed(const EmbedArgs& args) {
    const uint8_t* row = args.w + args.ids[block_x()] * args.w_row_bytes;
    float* y = args.y + block_x() * args.y_token_floats;
    for (uint32_t e = thread_x(); e < args.k; e += kEmbedThreads) {
        const float v = decoded<T>(row, e);
        y[e] = args.scale == 1.0f ? v : mul_f32(v, args.scale);
    }
}

// A warp a block of 32 * RUNS elements, its lanes side by side.
template <uint32_t RUNS>
KEEL_GPU void quantize(const QuantizeArgs& args) {
    constexpr uint32_t kBlock = 32 * RUNS;
    const uint32_t lane = thread_x() % 32, b = block_x() * (kQuantizeThreads / 32) + thread_x() / 32;
    if (b >= args.k / kBlock) return;  // the whole warp
    const float* x = args.x + block_y() * args.x_token_floats + b * kBlock + lane;
    uint8_t* token = args.q8 + block_y() * args.q8_token_bytes;
    // Without their signs, bits of f32 are ordered as their values are, infinity and NaN above all.
    uint32_t largest = 0;
    float v[RUNS];
    KEEL_UNROLL
    for (uint32_t r = 0; r < RUNS; ++r) {
        v[r] = x[32 * r];
        const uint32_t bits = f32_bits(v[r]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    largest = max_lanes(largest);
    const bool finite = largest < 0x7f800000u;
    const float amax = f32_from_bits(largest);
    const float inverse = finite && amax > 0.0f ? 127.0f / amax : 0.0f;
    if (lane == 0) kernels::q8_scales(token, args.k)[b] = finite ? mul_f32(amax, 1.0f / 127.0f) : __builtin_nanf("");
    KEEL_UNROLL
    for (uint32_t r = 0; r < RUNS; ++r) {
        float scaled = mul_f32(v[r], inverse);
        scaled = scaled > 127.0f ? 127.0f : scaled < -127.0f ? -127.0f : scaled;
        // 0 x inf, where amax is too small for its inverse, is NaN, and the code 0.
        const int32_t code = finite && scaled == scaled ? static_cast<int32_t>(rint_f32(scaled)) : 0;
        kernels::q8_codes(token)[b * kBlock + 32 * r + lane] = static_cast<int8_t>(code);
        const int32_t sum = sum_lanes<16>(code);
        if (lane % 16 == 0)
            kernels::q8_sums(token, args.k, kBlock)[b * (kBlock / 16) + 2 * r + lane / 16] = static_cast<int16_t>(sum);
    }
}

}  // namespace

#define KEEL_DEFINE_Q8(type, ...)        \
    KEEL_GPU_KERNEL(product_q8_##type) { \
        multiply_q8<k##type>(args);      \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE_Q8)

#define KEEL_DEFINE_F32(type, ...)        \
    KEEL_GPU_KERNEL(product_f32_##type) { \
        multiply_f32<k##type>(args);      \
    }                                     \
    KEEL_GPU_KERNEL(embed_##type) {       \
        embed<k##type>(args);             \
    }
KEEL_WEIGHT_TYPES(KEEL_DEFINE_F32)

KEEL_GPU_KERNEL(quantize_32) {
    quantize<1>(args);
}
KEEL_GPU_KERNEL(quantize_256) {
    quantize<8>(args);
}

}  // namespace keel::cuda
