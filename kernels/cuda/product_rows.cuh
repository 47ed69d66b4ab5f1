// What products have in common.
#pragma once
#include "kernels/cuda/device.cuh"

namespace keel::cuda {

// The rows that a group is of.
struct GroupRows {
    uint32_t matrix, first_row;
};
KEEL_GPU GroupRows rows_of_group(const ProductArgs& args, uint32_t group) {
    GroupRows at = {0, group * kGroupRows};
    while (at.matrix + 1 < args.matrices && args.gate == ProductGate::kNone &&
           at.first_row >= args.matrix[at.matrix].rows)
        at.first_row -= divide_up(args.matrix[at.matrix++].rows, kGroupRows) * kGroupRows;
    return at;
}

// The activations of a token.
KEEL_GPU const uint8_t* token_of(const ProductArgs& args, uint32_t token) {
    return static_cast<const uint8_t*>(args.x) + token * args.x_token_bytes;
}

// What becomes of a complete dot product: bias, then gate or residual.
KEEL_GPU float with_bias(const ProductMatrix& m, uint32_t row, float dot) {
    return m.bias && row < m.rows ? add_f32(dot, m.bias[row]) : dot;
}
KEEL_GPU float gated_value(ProductGate gate, float g, float u) {
    return gate == ProductGate::kGelu ? gelu_gate_f32(g, u) : silu_gate_f32(g, u);
}
KEEL_GPU void store(const ProductArgs& args, const ProductMatrix& m, uint32_t row, uint32_t token, float value) {
    if (row >= m.rows) return;
    float* y = args.y + token * args.y_token_floats + m.out + row;
    *y = args.accumulate ? add_f32(*y, value) : value;
}

}  // namespace keel::cuda
