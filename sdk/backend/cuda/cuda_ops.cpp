// The launches of each op: its buffers, weights and shapes as the arguments of a kernel.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::kSuccess;
using platform::cuda::Result;

Result launch_op(const CudaDevice& d, const Op& op) {
    const ModelSpec& s = d.program->spec;
    const uint32_t rows = rows_of_step(d, op);
    switch (op.kind) {
        case OpKind::kEmbed:
            return launch_embed(d, op);
        case OpKind::kRopeTable: {
            const double* frequencies =
                reinterpret_cast<const double*>(d.region[KEEL_REGION_DEVICE_WEIGHTS] + d.at.tables);
            return launch(d, cuda::kernel_rope_table,
                          cuda::RopeTableArgs{frequencies, d.step_array<uint32_t>(d.block.position), rows_of(d, op.out),
                                              op.rows / 2, rows, s.rope_attention_factor});
        }
        case OpKind::kNorm:
        case OpKind::kOutputNorm:
        case OpKind::kPostNorm:
            return launch_norm(d, op);
        case OpKind::kQkNorm:
            return launch_qk_norm(d, op);
        case OpKind::kRope:
            return launch_rope(d, op);
        case OpKind::kKvAppend:
            return launch_append(d, op);
        case OpKind::kAttention:
            return launch_attention(d, op);
        case OpKind::kAttentionFinish:
            if (const Result result = launch_attention_finish(d, op); result != kSuccess) return result;
            return launch_quantize(d, op, op.in);
        case OpKind::kGlu:
            return launch(d, cuda::kernel_glu, cuda::GluArgs{rows_of(d, op.in), op.rows, rows, op.gate != Gate::kSilu});
        case OpKind::kQuantize:
            return launch_quantize(d, op, op.in);
        case OpKind::kMatmul:  // launch_products
            break;
        case OpKind::kSoftcap:
            return launch(d, cuda::kernel_softcap,
                          cuda::SoftcapArgs{{d.logits(), op.rows}, op.rows, rows, s.logit_softcap});
        case OpKind::kToHost:
            return d.cuda.driver.copy_to_host(d.program->handover,
                                              reinterpret_cast<platform::cuda::DevicePointer>(d.row0(op.in)),
                                              rows * d.buffer(op.in).row_bytes, d.stream);
        case OpKind::kFromOwnMemory:  // the host's
            break;
    }
    return kSuccess;
}

}  // namespace

Result launch_dispatch(const CudaDevice& d, const Op* ops, const CudaDispatch& dispatch) {
    if (dispatch.products == 0) return launch_op(d, *ops);
    if (dispatch.input_joined && ops->kind == OpKind::kAttentionFinish)
        if (const Result result = launch_attention_finish(d, *ops); result != kSuccess) return result;
    return launch_products(d, ops, dispatch);
}

}  // namespace keel
