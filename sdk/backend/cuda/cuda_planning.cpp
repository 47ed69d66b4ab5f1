// What the CUDA backend tells a plan (backend.h). It asks no driver: a plan is the same on every machine.
#include "sdk/backend/cuda/cuda_device.h"
#include "sdk/plan/dispatch.h"

namespace keel {
namespace {

// Of an RTX 4070: bytes and multiply-adds per microsecond, and what a launch costs. They need only be right within a
// factor of two or so, and never change a result.
constexpr double kBytesPerUs = 450e3, kIntegerMacsPerUs = 50e6, kFloatMacsPerUs = 12e6, kLaunchUs = 2;

}  // namespace

keel_status cuda_configure(PlanConfig* config, keel_error* error) {
    keel_cuda_device options;
    KEEL_TRY(read_cuda_options(config->backend_options, &options, error));
    config->own_memory = true;
    // What the host computes at init (vectors widened, tables of means) it does with its own kernels.
    return default_backend()->configure(config, error);
}

WeightUse cuda_weights(const PlanConfig& config, uint32_t weight_type, uint64_t, bool lookup) {
    const uint32_t block = config.q8 ? kernels::kWeightTypes[weight_type].activation_block : 0;
    WeightUse use = {};
    use.product = true;
    use.x = block == 0 ? Activation::kF32 : block == 32 ? Activation::kQ8Block32 : Activation::kQ8Block256;
    // Products with 8-bit activations are only of fragments; tables that are only looked up stay plain.
    use.repacked = block != 0 && !lookup;
    use.skip = use.repacked ? KEEL_REPACK_SKIP_NONE : lookup ? KEEL_REPACK_SKIP_LOOKUP : KEEL_REPACK_SKIP_TYPE;
    return use;
}

uint64_t cuda_cost(const PlanConfig& config, Op* op) {
    const bool integers =
        op->kind == OpKind::kMatmul && config.q8 && kernels::kWeightTypes[op->weight_type].activation_block != 0;
    op->fixed_us = kLaunchUs + static_cast<double>(op->fixed_bytes) / kBytesPerUs;
    op->token_us = static_cast<double>(op->token_bytes) / kBytesPerUs;
    op->compute_us = static_cast<double>(op->token_macs) / (integers ? kIntegerMacsPerUs : kFloatMacsPerUs);
    return 0;
}

double cuda_predict_us(const CudaDevice& d, const Op& op) {
    const Step& step = *d.step;
    const Program& p = *d.program;
    double us = predict_us(op, op.to_logits || op.kind == OpKind::kOutputNorm ? step.logits_rows : step.tokens);
    if (op.kind == OpKind::kAttention) {
        const uint32_t seen = op.window && op.window < step.longest ? op.window : step.longest;
        us += static_cast<double>(p.geometry.row_bytes / p.spec.layers) * seen * step.sessions / kBytesPerUs;
    }
    return us;
}

uint32_t cuda_fuse(const Op*, uint32_t, const StepShape&) {
    return 1;
}

}  // namespace keel
