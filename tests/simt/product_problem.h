// Products of one input: matrices, activations in the form that is asked for, and what the scalar set makes of them.
#pragma once
#include <deque>

#include "tests/simt/launch.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {

using keel::cuda::ProductGate;
using keel::cuda::ProductInput;

struct ProductShape {
    uint32_t type;
    std::vector<uint32_t> rows;  // of each matrix; with a gate two equal ones
    uint32_t k, tokens;
    ProductInput input = ProductInput::kRows;
    ProductGate gate = ProductGate::kNone;
};

struct ProductProblem {
    ProductShape shape;
    bool q8, accumulate;
    uint32_t block, y_width = 0;
    uint64_t w_row_bytes, x_token_bytes;
    std::deque<Buffer> w, bias;  // of each matrix
    std::vector<bool> has_bias;
    Buffer x;
    std::vector<uint8_t> x_codes;  // the 8-bit form of x, as the scalar set makes it
    std::vector<float> before;     // what y holds before

    ProductProblem(const ProductShape& s, bool q8, Random& random)
        : shape(s),
          q8(q8),
          accumulate(s.gate == ProductGate::kNone && random.below(2)),
          block(q8 ? kWeightTypes[s.type].activation_block : 0),
          w_row_bytes(weight_row_bytes(s.type, s.k)),
          x_token_bytes(q8 && s.input == ProductInput::kRows ? q8_token_bytes(s.k, block) : round64(uint64_t{s.k} * 4)),
          x(s.tokens * x_token_bytes) {
        for (uint32_t rows : s.rows) {
            w.emplace_back(rows * w_row_bytes, 2);
            fill_weights(s.type, w.back().data(), rows * w_row_bytes, random);
            const std::vector<float> values = random.normals(rows);
            memcpy(bias.emplace_back(rows * 4, 4).data(), values.data(), rows * 4);
            has_bias.push_back(random.below(2));
            y_width += rows;
        }
        before = random.normals(uint64_t{s.tokens} * y_width);
        x_codes.resize(q8 ? s.tokens * q8_token_bytes(s.k, block) : 0);
        for (uint32_t t = 0; t < s.tokens; ++t) {
            std::vector<float> row = random.normals(s.k);
            if (!q8 || s.input != ProductInput::kRows) memcpy(x.data() + t * x_token_bytes, row.data(), s.k * 4);
            if (!q8) continue;
            uint8_t* codes = x_codes.data() + t * q8_token_bytes(s.k, block);
            kScalarSet.quantize_q8(row.data(), s.k, block, codes);
            if (s.input == ProductInput::kRows) memcpy(x.data() + t * x_token_bytes, codes, x_token_bytes);
        }
    }
    Buffer y_before() { return fenced(before); }
    // `matrices`: the bytes of each matrix as the kernel takes them.
    keel::cuda::ProductArgs args(std::deque<Buffer>& matrices, Buffer& y) {
        keel::cuda::ProductArgs a = {};
        a.matrices = static_cast<uint32_t>(shape.rows.size());
        for (uint32_t m = 0, out = 0; m < a.matrices; out += shape.rows[m++])
            a.matrix[m] = {matrices[m].data(), has_bias[m] ? bias[m].floats() : nullptr, shape.rows[m], out};
        a.gate = shape.gate;
        a.group_end = product_groups(a);
        a.k = shape.k;
        a.w_row_bytes = w_row_bytes;
        a.x = x.data();
        a.y = y.floats();
        a.x_token_bytes = x_token_bytes;
        a.y_token_floats = y_width;
        a.tokens = shape.tokens;
        a.accumulate = accumulate;
        a.input = shape.input;
        return a;
    }
    // y is what the scalar set leaves, in groups that were not to be computed what was there.
    void expect_scalar(const keel::cuda::ProductArgs& a, Buffer& y) {
        std::vector<float> computed = before, want = before;
        Buffer scratch(matmul_scratch_bytes(shape.k));
        for (uint32_t m = 0; m < a.matrices; ++m) {
            std::vector<float*> out(shape.tokens);
            for (uint32_t t = 0; t < shape.tokens; ++t)
                out[t] = computed.data() + uint64_t{t} * y_width + a.matrix[m].out;
            const void* input = q8 ? static_cast<const void*>(x_codes.data()) : x.data();
            const MatmulArgs scalar = {
                w[m].data(), w_row_bytes,      0,          shape.rows[m],
                shape.k,     shape.tokens,     input,      q8 ? q8_token_bytes(shape.k, block) : x_token_bytes,
                out.data(),  a.matrix[m].bias, accumulate, scratch.data(),
                false};
            (q8 ? kScalarSet.matmul_q8 : kScalarSet.matmul_f32)[shape.type](scalar);
        }
        const bool gated = shape.gate != ProductGate::kNone;
        for (uint32_t t = 0; t < shape.tokens; ++t) {
            float* row = computed.data() + uint64_t{t} * y_width;
            if (gated)
                (shape.gate == ProductGate::kGelu ? kScalarSet.gate_gelu : kScalarSet.gate_silu)(
                    row, row + shape.rows[0], shape.rows[0], row);
            for (uint32_t m = 0, group = 0; m < (gated ? 1 : a.matrices); ++m)
                for (uint32_t r = 0; r < shape.rows[m]; ++r) {
                    const uint32_t g = group + r / keel::cuda::kGroupRows, at = a.matrix[m].out + r;
                    if (g >= a.group_begin && g < a.group_end) want[uint64_t{t} * y_width + at] = row[at];
                    if (r + 1 == shape.rows[m]) group = g + 1;
                }
        }
        EXPECT_TRUE(same_floats(y.floats(), want.data(), want.size()));
    }
};

}  // namespace keel_test
