// One matrix product: weights, activations in the form that is asked for, and what the scalar set makes of them.
#pragma once
#include "tests/simt/launch.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {

struct ProductProblem {
    uint32_t type, rows, k, tokens;
    bool q8, bias, accumulate;
    uint32_t row_begin, row_end;
    uint64_t w_row_bytes, x_token_bytes;
    Buffer w, x, bias_values;
    std::vector<float> before;  // what y holds before

    ProductProblem(uint32_t type, uint32_t rows, uint32_t k, uint32_t tokens, bool q8, Random& random)
        : type(type),
          rows(rows),
          k(k),
          tokens(tokens),
          q8(q8),
          bias(random.below(2)),
          accumulate(random.below(2)),
          row_begin(0),
          row_end(rows),
          w_row_bytes(weight_row_bytes(type, k)),
          x_token_bytes(q8 ? q8_token_bytes(k, kWeightTypes[type].activation_block) : round64(uint64_t{k} * 4)),
          w(rows * w_row_bytes, 2),
          x(tokens * x_token_bytes),
          bias_values(fenced(random.normals(rows))),
          before(random.normals(uint64_t{tokens} * rows)) {
        fill_weights(type, w.data(), rows * w_row_bytes, random);
        for (uint32_t t = 0; t < tokens; ++t) {
            const std::vector<float> row = random.normals(k);
            if (q8)
                kScalarSet.quantize_q8(row.data(), k, kWeightTypes[type].activation_block,
                                       x.data() + t * x_token_bytes);
            else
                memcpy(x.data() + t * x_token_bytes, row.data(), uint64_t{k} * 4);
        }
    }
    Buffer y_before() { return fenced(before); }
    keel::cuda::ProductArgs args(Buffer& y) {
        keel::cuda::ProductArgs a = {};
        a.w = w.data();
        a.x = x.data();
        a.y = y.floats();
        a.bias = bias ? bias_values.floats() : nullptr;
        a.w_row_bytes = w_row_bytes;
        a.x_token_bytes = x_token_bytes;
        a.y_token_floats = rows;
        a.row_begin = row_begin;
        a.row_end = row_end;
        a.k = k;
        a.tokens = tokens;
        a.accumulate = accumulate;
        return a;
    }
    // y is what the scalar set leaves, in rows outside [row_begin, row_end) what was there.
    void expect_scalar(Buffer& y) {
        std::vector<float> want = before;
        std::vector<float*> out(tokens);
        for (uint32_t t = 0; t < tokens; ++t) out[t] = want.data() + uint64_t{t} * rows;
        Buffer scratch(matmul_scratch_bytes(k));
        const MatmulArgs scalar = {
            w.data(),   w_row_bytes,    row_begin,     row_end,    k,
            tokens,     x.data(),       x_token_bytes, out.data(), bias ? bias_values.floats() : nullptr,
            accumulate, scratch.data(), false};
        (q8 ? kScalarSet.matmul_q8 : kScalarSet.matmul_f32)[type](scalar);
        EXPECT_TRUE(same_floats(y.floats(), want.data(), want.size()));
    }
};

}  // namespace keel_test
