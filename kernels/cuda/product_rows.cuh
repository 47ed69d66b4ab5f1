// What products have in common.
#pragma once
#include "kernels/cuda/device.cuh"

namespace keel::cuda {

// What becomes of a complete dot product: bias, then residual.
KEEL_GPU void store_dot(const ProductArgs& args, uint32_t row, uint32_t token, float dot) {
    if (args.bias) dot = add_f32(dot, args.bias[row]);
    float* y = args.y + token * args.y_token_floats + row;
    *y = args.accumulate ? add_f32(*y, dot) : dot;
}
// The activations of a token.
KEEL_GPU const uint8_t* token_of(const ProductArgs& args, uint32_t token) {
    return static_cast<const uint8_t*>(args.x) + token * args.x_token_bytes;
}

// The arguments of this block: TOKENS tokens from TOKENS * block_y on, or what is left of them.
template <uint32_t TOKENS>
KEEL_GPU ProductArgs tokens_of_block(const ProductArgs& args) {
    const uint32_t first = block_y() * TOKENS;
    ProductArgs mine = args;
    mine.x = token_of(args, first);
    mine.y += first * args.y_token_floats;
    mine.tokens = args.tokens - first < TOKENS ? args.tokens - first : TOKENS;
    return mine;
}

}  // namespace keel::cuda
