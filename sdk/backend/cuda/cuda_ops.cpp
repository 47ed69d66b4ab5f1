// The launches of each op: its buffers, weights and shapes as the arguments of a kernel.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::kSuccess;
using platform::cuda::Result;

cuda::Heads heads_of(const CudaDevice& d) {
    const ModelSpec& s = d.program->spec;
    return {s.heads, s.kv_heads, s.head_dim, s.rope_dims / 2, d.program->rope_neox};
}

cuda::KvRows kv_rows(const kernels::KvPlane& plane, uint64_t head_bytes, kernels::KvScaleMode mode) {
    return {plane.format, plane.code_bytes, plane.scale_bytes, plane.codes, plane.scales, head_bytes, mode};
}
cuda::KvPlaces places_of(const CudaDevice& d, uint32_t layer) {
    const Program& p = *d.program;
    const KvLayer& coded = p.geometry.layer[layer];
    const KvPart& part = p.kv_of(layer);
    const KvF16WindowShape& w = part.f16_window;
    cuda::KvPlaces at = {};
    at.base = d.region[KEEL_REGION_DEVICE_KV];
    at.pages = part.page_offset(0);
    at.page_stride = part.page_offset(1) - part.page_offset(0);
    at.k = kv_rows(coded.k, coded.k_head_bytes, coded.k_scale);
    at.v = kv_rows(coded.v, coded.v_head_bytes, coded.v_scale);
    at.windows = part.f16_window_offset(0);
    at.window_stride = part.f16_window_offset(1) - part.f16_window_offset(0);
    at.sink_tokens = w.sink_tokens;
    at.recent_tokens = w.recent_tokens;
    if (w.sink_tokens) {
        at.sink_k = kv_rows(w.sink_k(layer, 0), w.sinks.k_head_bytes, coded.k_scale);
        at.sink_v = kv_rows(w.sink_v(layer, 0), w.sinks.v_head_bytes, coded.v_scale);
    }
    if (w.recent_tokens) {
        at.recent_pages = w.recent_pages;
        at.ring = w.recent_page_offset(0);
        at.recent_page_stride = w.recent_page_bytes;
        at.recent_k = kv_rows(w.recent_k(layer, 0), w.recent.k_head_bytes, coded.k_scale);
        at.recent_v = kv_rows(w.recent_v(layer, 0), w.recent.v_head_bytes, coded.v_scale);
    }
    return at;
}

cuda::KvMeans means_of(const CudaDevice& d, const Op& op) {
    const KvTransform& t = d.transform;
    const uint64_t at = t.at(static_cast<uint32_t>(op.layer), 0);
    const auto layer = [at](const float* array) { return array ? array + at : nullptr; };
    cuda::KvMeans means = {layer(t.key_mean), layer(t.value_mean),
                           layer(t.gain),     layer(t.inverse_gain),
                           t.pairs,           t.pair,
                           nullptr,           nullptr};
    if (t.pairs) {
        means.tile_rotations = t.set_tile_rotations(op.rope_set);
        means.offset_rotations = t.set_offset_rotations(op.rope_set);
    }
    return means;
}

cuda::StepArrays step_of(const CudaDevice& d) {
    const StepBlock& b = d.block;
    const auto array = [&](uint64_t offset) { return d.step_array<uint32_t>(offset); };
    return {d.step_array<int32_t>(b.token),
            array(b.position),
            array(b.slot),
            array(b.session),
            array(b.logits_token),
            array(b.session_index),
            array(b.page_first),
            array(b.page_id),
            array(b.tail_first),
            array(b.tail_parent)};
}

cuda::KvStepArgs kv_step_of(const CudaDevice& d, const Op& op) {
    return {rows_of(d, op.in), rows_of(d, op.state), rows_of(d, op.mean),
            heads_of(d),       means_of(d, op),      places_of(d, static_cast<uint32_t>(op.layer)),
            step_of(d),        d.step->tokens};
}

Result launch_append(const CudaDevice& d, const Op& op) {
    return launch(d, cuda::kernel_kv_append,
                  cuda::KvAppendArgs{kv_step_of(d, op), d.program->spec.rope_attention_factor});
}

Result launch_attention(const CudaDevice& d, const Op& op) {
    const ModelSpec& s = d.program->spec;
    return launch(
        d, cuda::kernel_attention,
        cuda::AttentionArgs{kv_step_of(d, op), rows_of(d, op.out), s.attention_scale, s.attention_softcap, op.window});
}

Result launch_attention_finish(const CudaDevice& d, const Op& op) {
    const uint32_t layer = static_cast<uint32_t>(op.layer);
    const cuda::KvMeans means = means_of(d, op);
    const bool rotated = kernels::kKvFormats[d.program->geometry.layer[layer].v.format].rotated;
    const cuda::AttentionFinishArgs a = {rows_of(d, op.in), rows_of(d, op.state), heads_of(d), means.value_mean,
                                         rotated,           d.step->tokens};
    return launch(d, cuda::kernel_attention_finish, a);
}

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
            return launch(d, cuda::kernel_qk_norm,
                          cuda::QkNormArgs{rows_of(d, op.in), heads_of(d), op.norm, op.norm2, s.norm_eps, rows});
        case OpKind::kRope:
            return launch(d, cuda::kernel_rope,
                          cuda::RopeArgs{rows_of(d, op.in), heads_of(d),
                                         rows_at(rows_of(d, op.rope), uint64_t{op.rope_set} * s.rope_dims),
                                         means_of(d, op), rows});
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
