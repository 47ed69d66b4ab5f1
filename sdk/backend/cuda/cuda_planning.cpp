// What the CUDA backend tells a plan (backend.h). It asks no driver: a plan is the same on every machine.
#include "sdk/backend/cuda/cuda_device.h"
#include "sdk/backend/offload/offload_backend.h"
#include "sdk/plan/dispatch.h"

namespace keel {
namespace {

// Of an RTX 4070: bytes and multiply-adds per microsecond, and what a launch costs. They need only be right within a
// factor of two or so, and never change a result.
constexpr double kBytesPerUs = 450e3, kIntegerMacsPerUs = 50e6, kFloatMacsPerUs = 12e6, kHalfMacsPerUs = 25e6,
                 kLaunchUs = 2;

// What makes inputs of products in 8 bits, and may leave that to them. Every block of a product then does it again, in
// the time of a launch for rows up to kMostJoinedElements, while its first weights are on their way. A norm is not left
// to them: its sum is one long chain. The product in front makes it (norms), or a launch of its own.
struct Maker {
    OpKind kind;
    cuda::ProductInput input;
};
constexpr Maker kMakers[] = {
    {OpKind::kQuantize, cuda::ProductInput::kFloats},
    {OpKind::kAttentionFinish, cuda::ProductInput::kFloats},  // but for its 8-bit form it runs by itself
};
constexpr uint32_t kMostJoinedElements = 8192;
constexpr bool joined_inputs_fit() {
    for (uint32_t type = 0; type < kernels::kWeightTypeCount; ++type)
        if (kernels::kWeightTypes[type].activation_block && !kernels::is_trellis(type) &&
            !cuda::product_token_fits(kMostJoinedElements, type))
            return false;
    return true;
}
static_assert(joined_inputs_fit() && cuda::norm_is_staged(kMostJoinedElements));

// The only 8-bit layout that the op writes, if nothing else is wanted of it and the row is short enough for products to
// make it; else kNoBuffer.
BufferId only_layout(const Op& op) {
    const BufferId a = op.out_coded[0], b = op.out_coded[1];
    const bool norm_kept = op.kind == OpKind::kNorm && op.out != kNoBuffer;
    if (op.rows > kMostJoinedElements || norm_kept || (a != kNoBuffer && b != kNoBuffer)) return kNoBuffer;
    return a != kNoBuffer ? a : b;
}
BufferId joined_layout(const Op& op) {
    for (const Maker& maker : kMakers)
        if (maker.kind == op.kind) return only_layout(op);
    return kNoBuffer;
}

// Whether `next` is the norm of the row that a product completes, which its last block then makes. It may write over
// what the product read: by then all of that has been read. Ops of different layers are never in one dispatch.
bool norms(const Op& product, const Op& next) {
    return next.kind == OpKind::kNorm && next.layer == product.layer && product.accumulate && product.repacked &&
           next.in == product.out && next.k == product.rows && only_layout(next) != kNoBuffer &&
           cuda::product_token_fits(product.k, product.weight_type);
}

// Whether a product reads what the one before it reads, and writes another part of the same rows.
bool joins(const Op& product, const Op& next) {
    return next.kind == OpKind::kMatmul && next.layer == product.layer && next.in == product.in &&
           next.out == product.out && next.weight_type == product.weight_type && next.k == product.k &&
           !next.accumulate && !next.to_logits;
}

// Whether `next` gates what `products` products from `first` on compute: two of as many rows, or one of both halves.
bool gates(const Op* first, uint32_t products, const Op& next) {
    return next.kind == OpKind::kGlu && next.layer == first->layer && next.in == first->out && first->repacked &&
           (products == 2 ? first[0].rows == first[1].rows
                          : products == 1 && next.rows % cuda::kGroupRows == 0 && first->rows == 2 * next.rows);
}

// Whether `next` is the attention over the rows that `append` codes, and a kernel for few tokens does both.
bool attends(const Op& append, const Op& next) {
    return next.kind == OpKind::kAttention && next.layer == append.layer && next.in == append.in &&
           cuda::attends_tokens(next.k_format, next.v_format, next.k);
}

}  // namespace

CudaDispatch cuda_dispatch(const Op* ops, uint32_t left, uint32_t tokens) {
    CudaDispatch d = {1, 0, false, false, false, false, false};
    const uint32_t before = ops[0].kind == OpKind::kQkNorm ? 2 : ops[0].kind == OpKind::kRope ? 1 : 0;
    d.appends = before < left && ops[before].kind == OpKind::kKvAppend;
    if (d.appends) {
        d.attends = before + 1 < left && tokens <= kMostTokensApart && attends(ops[before], ops[before + 1]);
        d.ops = before + (d.attends ? 2 : 1);
        return d;
    }
    const BufferId layout = tokens == 1 ? joined_layout(ops[0]) : kNoBuffer;
    d.input_joined = layout != kNoBuffer && left > 1 && ops[1].kind == OpKind::kMatmul && ops[1].in == layout &&
                     ops[1].layer == ops[0].layer;
    const Op* first = ops + (d.input_joined ? 1 : 0);
    if (first->kind != OpKind::kMatmul) return d;
    const uint32_t behind = left - static_cast<uint32_t>(first - ops);
    d.products = 1;
    while (d.products < behind && d.products < kMaxMatmuls && joins(*first, first[d.products])) ++d.products;
    d.gated = d.products < behind && gates(first, d.products, first[d.products]);
    d.normed = tokens == 1 && d.products == 1 && !d.gated && behind > 1 && norms(first[0], first[1]);
    d.ops = static_cast<uint32_t>(first - ops) + d.products + (d.gated || d.normed ? 1 : 0);
    return d;
}

cuda::ProductInput joined_input(OpKind kind) {
    for (const Maker& maker : kMakers)
        if (maker.kind == kind) return maker.input;
    return cuda::ProductInput::kRows;
}

keel_status cuda_configure(PlanConfig* config, const ModelSpec& spec, keel_error* error) {
    keel_cuda_device options;
    KEEL_TRY(read_cuda_options(config->backend_options, &options, error));
    if (config->bf16)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "config.activation", "a GPU has no products of bf16 pairs");
    config->host_layer = kNoHostLayer;
    if (options.layers && options.layers < spec.layers) {
        config->host_layer = options.layers;
        config->host_backend = default_backend();
        config->backend = &kOffloadBackend;
    }
    // What the host computes at init (vectors widened, tables of means) it does with its own kernels.
    return default_backend()->configure(config, spec, error);
}

WeightUse cuda_weights(const PlanConfig& config, keel_weights, uint32_t weight_type, uint64_t, bool lookup) {
    const uint32_t block = config.q8 ? kernels::kWeightTypes[weight_type].activation_block : 0;
    WeightUse use = {};
    use.usable = !kernels::is_trellis(weight_type);
    use.x = block == 0 ? Activation::kF32 : block == 32 ? Activation::kQ8Block32 : Activation::kQ8Block256;
    // Products with 8-bit activations are only of fragments; tables that are only looked up stay plain.
    use.repacked = block != 0 && !lookup;
    use.fp32 = block != 0                                                 ? KEEL_FP32_NONE
               : cublas_multiplies(config, weight_type)                   ? KEEL_FP32_FEW_ROWS
               : kernels::kWeightTypes[weight_type].activation_block == 0 ? KEEL_FP32_TYPE
                                                                          : KEEL_FP32_ACTIVATION;
    use.skip = use.repacked ? KEEL_REPACK_SKIP_NONE : lookup ? KEEL_REPACK_SKIP_LOOKUP : KEEL_REPACK_SKIP_TYPE;
    return use;
}

uint64_t cuda_cost(const PlanConfig& config, Op* op) {
    const bool integers =
        op->kind == OpKind::kMatmul && config.q8 && kernels::kWeightTypes[op->weight_type].activation_block != 0;
    op->fixed_us = static_cast<double>(op->fixed_bytes) / kBytesPerUs;
    op->token_us = static_cast<double>(op->token_bytes) / kBytesPerUs;
    const bool halves = op->kind == OpKind::kMatmul && cublas_multiplies(config, op->weight_type);
    op->compute_us = static_cast<double>(op->token_macs) / (integers ? kIntegerMacsPerUs
                                                            : halves ? kHalfMacsPerUs
                                                                     : kFloatMacsPerUs);
    // Weights in codes are taken apart in about the time that they are read in, whatever the tokens, and multiplied
    // behind that: a step of 8 tokens takes 1.1 times one of one for an 8B Q4_K_M. An H200 takes 1.14.
    op->unpack_us = integers ? op->fixed_us : 0;
    return 0;
}

bool cuda_runs(const Op& op) {
    switch (op.kind) {
        case OpKind::kSmear:
        case OpKind::kMix:
        case OpKind::kExclude:
        case OpKind::kHeadGate:
        case OpKind::kActivation:
            return false;
        case OpKind::kQkNorm:
            return op.norm_step == 0;
        case OpKind::kEmbed:
        case OpKind::kRopeTable:
        case OpKind::kNorm:
        case OpKind::kMatmul:
        case OpKind::kLoraA:
        case OpKind::kLoraB:
        case OpKind::kRope:
        case OpKind::kKvAppend:
        case OpKind::kAttention:
        case OpKind::kAttentionFinish:
        case OpKind::kPostNorm:
        case OpKind::kGlu:
        case OpKind::kQuantize:
        case OpKind::kOutputNorm:
        case OpKind::kToHost:
        case OpKind::kFromOwnMemory:
        case OpKind::kSoftcap:
            return true;
    }
    return false;
}

uint32_t cuda_fuse(const Op* ops, uint32_t left, const StepShape& shape) {
    return cuda_dispatch(ops, left, shape.tokens).ops;
}

double cuda_dispatch_us(const Op* ops, uint32_t count) {
    const Op& op = *ops;
    const uint32_t layouts = (op.out_coded[0] != kNoBuffer) + (op.out_coded[1] != kNoBuffer);
    const uint32_t launches = op.kind == OpKind::kQuantize          ? (count > 1 ? 1 : layouts)
                              : op.kind == OpKind::kAttentionFinish ? 1 + (count > 1 ? 1 : layouts)
                                                                    : 1;
    return kLaunchUs * launches;
}

CudaWork predicted_work(const CudaDevice& d, const Op* ops, uint32_t count, uint32_t launches) {
    const Program& p = *d.program;
    CudaWork work = {};
    work.launches = launches;
    work.ops = count;
    work.launch_us = kLaunchUs * launches;
    for (uint32_t i = 0; i < count; ++i) {
        work.fixed_us += static_cast<double>(ops[i].fixed_bytes) / kBytesPerUs;
        work.row_us += ops[i].token_us;
        work.compute_us += ops[i].compute_us;
        if (ops[i].kind != OpKind::kAttention) continue;
        work.position_us = static_cast<double>(p.geometry.row_bytes / p.spec.layers) / kBytesPerUs;
        work.window = ops[i].window;
    }
    return work;
}

double predict_work_us(const CudaDevice& d, const CudaWork& work) {
    const Step& step = *d.step;
    const uint32_t rows = work.of_logits ? step.logits_rows : step.tokens,
                   positions = work.window && work.window < step.longest ? work.window : step.longest;
    const double memory_us = work.fixed_us + work.row_us * rows + work.position_us * positions * step.sessions,
                 compute_us = work.compute_us * rows;
    return work.launch_us + (compute_us > memory_us ? compute_us : memory_us);
}

}  // namespace keel
