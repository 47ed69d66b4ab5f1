// What a CPU needs for an op: predicted time and working memory.
#pragma once
#include "sdk/plan/ops.h"

namespace keel {

// Fills the predicted times of an op from its bytes and multiply-adds. q8: products have 8-bit activations.
void predict(keel_cpu cpu, bool q8, Op* op);

// Predicted time of an op over `tokens` tokens, one thread, in microseconds.
inline double predict_us(const Op& op, uint32_t tokens) {
    const double memory_us = op.fixed_us + op.token_us * tokens, compute_us = op.compute_us * tokens;
    return compute_us > memory_us ? compute_us : memory_us;
}

// Working memory of each thread that runs the op.
uint64_t thread_bytes(const Op& op);

}  // namespace keel
