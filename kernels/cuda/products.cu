// Products of weights as they lie in the file with f32 activations, of every type (NUMERICS section 1), and what
// products need besides: 8-bit activations (section 2) and single rows (section 3).
#include "kernels/cuda/product_rows.cuh"
#include "kernels/cuda/quantize.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/cuda/weight_blocks.cuh"

namespace keel::cuda {
namespace {

static_assert(kGroupRows == kProductThreads / 16);

// Sixteen lanes a row, which are those of the contract.
template <WeightType T>
KEEL_GPU void multiply_f32(const ProductArgs& args) {
    const uint32_t lane = thread_x() % 16, first = block_y() * kProductTokens,
                   tokens = args.tokens - first < kProductTokens ? args.tokens - first : kProductTokens;
    const GroupRows at = rows_of_group(args, args.group_begin + block_x());
    const ProductMatrix& matrix = args.matrix[at.matrix];
    const uint32_t row = at.first_row + thread_x() / 16;
    // A row that is not there is computed as the first one and not stored.
    const uint8_t* w = matrix.w + (row < matrix.rows ? row : at.first_row) * args.w_row_bytes;
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
        if (lane == 0) store(args, matrix, row, first + t, with_bias(matrix, row, dot));
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

// A warp a block.
template <uint32_t RUNS>
KEEL_GPU void quantize(const QuantizeArgs& args) {
    const uint32_t b = block_x() * (kQuantizeThreads / 32) + thread_x() / 32;
    if (b >= args.k / (32 * RUNS)) return;  // the whole warp
    const float* x = args.x + block_y() * args.x_token_floats;
    quantize_block<RUNS>([x](uint32_t i) { return x[i]; }, b, args.q8 + block_y() * args.q8_token_bytes, args.k);
}

}  // namespace

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
