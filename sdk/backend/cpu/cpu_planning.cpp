#include "sdk/backend/cpu/cpu_planning.h"

#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/plan/config.h"

namespace keel {
namespace {

// Bytes of weights from memory and of what lies in a cache, weights unpacked for products with 8-bit activations, and
// multiply-adds per microsecond and thread; those with 8-bit activations by their blocks, as the f32 part of a block
// costs the same for 32 elements and for 256. They need only be right within a factor of two or so: the executor
// corrects them by what it measures, and results never depend on them. What a further token of a step costs
// (keel_memory_plan.step_us) follows from how they relate. `pass_tokens`: how many tokens products with 8-bit
// activations take at least at a time, a last one alone repeated.
struct Rates {
    double memory_bytes_per_us, cache_bytes_per_us, unpacked_per_us, q8_256_macs_per_us, q8_32_macs_per_us,
        f32_macs_per_us, decode_macs_per_us;
    uint32_t pass_tokens;
};
constexpr Rates kRates[] = {
    // by keel_cpu
    {},
    {8000, 8000, 7000, 5500, 5000, 250, 120, 1},             // scalar
    {15000, 20000, 40000, 70000, 55000, 25000, 10000, 1},    // avx2
    {20000, 40000, 80000, 130000, 100000, 36000, 20000, 1},  // avx512
    {20000, 40000, 80000, 130000, 100000, 36000, 20000, 1},  // amx: up to 15 tokens by the kernels of avx512
    {4000, 4000, 12000, 8000, 7000, 8000, 2500, 2},          // neon
    {10000, 10000, 20000, 32000, 25000, 15000, 5000, 2},     // neon_dotprod
    {10000, 10000, 30000, 60000, 50000, 30000, 10000, 2},    // neon_i8mm
};
static_assert(sizeof kRates / sizeof kRates[0] == kernels::kIsaLimit);

// Quantizing joins in work items of whole blocks, unless these would leave threads idle for more than 1/32 of the
// dispatch, or take longer than a tile.
bool quantize_joins(const Op& quantize, double dispatch_us, const StepShape& shape) {
    const uint32_t block = quantize.widest_block(), items = quantize.rows / block,
                   rounds = (items + shape.threads - 1) / shape.threads;
    return quantize.rows % block == 0 && uint64_t{rounds} * shape.threads * 32 <= uint64_t{items} * 33 &&
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
        case OpKind::kLoraA:
            return last.kind == OpKind::kLoraA && next.in == last.in && count < kMaxMatmuls;
        case OpKind::kLoraB:
            return last.kind == OpKind::kLoraB && next.out == last.out && count < kMaxMatmuls;
        case OpKind::kGlu:  // its work items compute the same rows of gate and up
            return last.kind == OpKind::kMatmul && last.out == next.in;
        case OpKind::kQuantize:
            return last.kind == OpKind::kGlu && count > 1 && quantize_joins(next, us, shape);
        case OpKind::kRope:
            return last.kind == OpKind::kQkNorm;
        case OpKind::kKvAppend:
            return last.kind == OpKind::kRope;
        case OpKind::kAttention:
            return last.kind == OpKind::kKvAppend && shape.flat;
        case OpKind::kAttentionFinish:  // a work item's heads are whole blocks of the 8-bit layouts it writes
            return count > 1 && last.kind == OpKind::kAttention && next.k % next.widest_block() == 0;
        default:
            return false;
    }
}

// Working memory of a thread that runs the op.
uint64_t thread_bytes(const Op& op) {
    switch (op.kind) {
        case OpKind::kMatmul:
        case OpKind::kLoraA:
        case OpKind::kLoraB:
            return kernels::matmul_scratch_bytes(op.k);
        case OpKind::kAttention:
            return uint64_t{kernels::attention_scratch_floats(op.k)} * sizeof(float);
        case OpKind::kSmear:  // the embedding of the token before
            return uint64_t{op.k} * sizeof(float);
        case OpKind::kNorm:  // the f32 row that only its 8-bit layouts are made of
            return op.out == kNoBuffer ? uint64_t{op.k} * sizeof(float) : 0;
        default:
            return 0;
    }
}

}  // namespace

keel_status cpu_configure(PlanConfig* config, const ModelSpec&, keel_error* error) {
    return choose_kernels(&config->cpu, &config->kernels, error);
}

WeightUse cpu_weights(const PlanConfig& config, keel_weights mode, uint32_t weight_type, uint64_t rows, bool lookup) {
    const kernels::KernelSet& set = *config.kernels;
    const uint32_t block = config.q8 ? kernels::kWeightTypes[weight_type].activation_block : 0;
    const bool wanted = mode == KEEL_WEIGHTS_REPACK || mode == KEEL_WEIGHTS_DEFAULT;
    WeightUse use = {};
    use.usable = (block ? set.matmul_q8 : set.matmul_f32)[weight_type] != nullptr;
    use.x = block == 0                         ? config.bf16 ? Activation::kBf16Pairs : Activation::kF32
            : kernels::is_trellis(weight_type) ? Activation::kQ8Rotated
            : block == 32                      ? Activation::kQ8Block32
                                               : Activation::kQ8Block256;
    use.skip = !wanted                                                         ? KEEL_REPACK_SKIP_NONE
               : lookup                                                        ? KEEL_REPACK_SKIP_LOOKUP
               : !config.q8 || !set.matmul_repacked[weight_type]               ? KEEL_REPACK_SKIP_TYPE
               : rows % kernels::kRepackRows != 0                              ? KEEL_REPACK_SKIP_ROWS
               : mode == KEEL_WEIGHTS_DEFAULT && !set.repack_pays[weight_type] ? KEEL_REPACK_SKIP_SPEED
                                                                               : KEEL_REPACK_SKIP_NONE;
    use.repacked = wanted && use.skip == KEEL_REPACK_SKIP_NONE;
    return use;
}

uint64_t cpu_cost(const PlanConfig& config, Op* op) {
    const Rates& rates = kRates[config.cpu];
    const bool product = op->kind == OpKind::kMatmul;
    const uint32_t block = product ? kernels::kWeightTypes[op->weight_type].activation_block : 0;
    const bool q8 = block != 0 && config.q8, pairs = product && config.bf16 && config.kernels->multiplies_bf16;
    const double macs_per_us = block == 0    ? rates.f32_macs_per_us * (pairs ? 2 : 1)
                               : !q8         ? rates.decode_macs_per_us
                               : block == 32 ? rates.q8_32_macs_per_us
                                             : rates.q8_256_macs_per_us;
    // Beyond a quarter of the cache a busy machine reads them from memory (keel bench --columns: 7 and 23 of 32 MB).
    const bool cached = config.weight_bytes <= config.cache_bytes / 4;
    const double bytes_per_us = cached ? rates.cache_bytes_per_us : rates.memory_bytes_per_us;
    op->fixed_us = static_cast<double>(op->fixed_bytes) / bytes_per_us;
    op->token_us = static_cast<double>(op->token_bytes) / bytes_per_us;
    op->compute_us = static_cast<double>(op->token_macs) / macs_per_us;
    op->unpack_us = q8 ? static_cast<double>(op->token_macs) / rates.unpacked_per_us : 0;
    op->pass_tokens = q8 ? rates.pass_tokens : 1;
    return thread_bytes(*op);
}

uint32_t cpu_fuse(const Op* ops, uint32_t left, const StepShape& shape) {
    uint32_t count = 1;
    // Uncorrected by what was measured, so that a dispatch stays the same through its step.
    for (double us = predict_us(ops[0], shape.tokens); count < left && joins(ops, count, ops[count], us, shape);
         ++count)
        us += predict_us(ops[count], shape.tokens);
    return count;
}

}  // namespace keel
