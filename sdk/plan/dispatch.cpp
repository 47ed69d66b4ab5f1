#include "sdk/plan/dispatch.h"

#include "sdk/plan/cost.h"

namespace keel {
namespace {

// Quantizing joins in work items of whole blocks, unless these would leave threads idle for more than 1/32 of the
// dispatch, or take longer than a tile.
bool quantize_joins(const Op& quantize, double dispatch_us, const StepShape& shape) {
    const uint32_t block = quantize.widest_block(), items = quantize.rows / block,
                   rounds = (items + shape.threads - 1) / shape.threads;
    return uint64_t{rounds} * shape.threads * 32 <= uint64_t{items} * 33 &&
           dispatch_us * block <= static_cast<double>(quantize.rows) * shape.tile_us;
}

// Whether `next` joins `count` ops that are predicted to take `us`.
bool joins(const Op* ops, uint32_t count, const Op& next, double us, const StepShape& shape) {
    const Op& last = ops[count - 1];
    if (next.layer != last.layer) return false;
    switch (next.kind) {
        case OpKind::kMatmul:  // another part of the same rows
            return last.kind == OpKind::kMatmul && next.out == last.out && !next.accumulate && !next.to_logits &&
                   count < kMaxMatmuls;
        case OpKind::kGlu:  // its work items compute the same rows of gate and up
            return last.kind == OpKind::kMatmul && last.out == next.in;
        case OpKind::kQuantize:
            return last.kind == OpKind::kGlu && quantize_joins(next, us, shape);
        case OpKind::kRope:
            return last.kind == OpKind::kQkNorm;
        case OpKind::kKvAppend:
            return last.kind == OpKind::kRope;
        case OpKind::kAttention:
            return last.kind == OpKind::kKvAppend && shape.flat;
        case OpKind::
            kAttentionFinish:  // a work item writes its part of the 8-bit layouts if its heads are whole blocks
            return count > 1 && last.kind == OpKind::kAttention && next.k % next.widest_block() == 0;
        default:
            return false;
    }
}

}  // namespace

uint32_t dispatch_at(const Op* ops, uint32_t left, const StepShape& shape) {
    uint32_t count = 1;
    // Uncorrected by what was measured, so that a dispatch stays the same through its step.
    for (double us = predict_us(ops[0], shape.tokens); count < left && joins(ops, count, ops[count], us, shape);
         ++count)
        us += predict_us(ops[count], shape.tokens);
    return count;
}

}  // namespace keel
