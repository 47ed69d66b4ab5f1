// What works on heads and on the KV pages: head norms, rotation, append, attention.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::Result;

cuda::Heads heads_of(const CudaDevice& d) {
    const ModelSpec& s = d.program->spec;
    return {s.heads, s.kv_heads, s.head_dim, s.rope_dims / 2, d.program->rope_neox};
}

cuda::KvRows kv_rows(const kernels::KvPlane& plane, uint64_t head_bytes, kernels::KvScaleMode mode) {
    return {plane.format, plane.code_bytes, plane.scale_bytes, plane.codes, plane.scales, head_bytes, mode};
}
// How many layers from the first of `left` on have rows of the same bytes, the same distance apart.
uint32_t layers_alike(const KvLayer* layer, uint32_t left, uint64_t* distance) {
    *distance = left > 1 ? layer[1].k.codes - layer->k.codes : 0;
    const auto same = [](const kernels::KvPlane& plane, const kernels::KvPlane& first, uint64_t behind) {
        return plane.code_bytes == first.code_bytes && plane.scale_bytes == first.scale_bytes &&
               plane.codes == first.codes + behind && plane.scales == first.scales + behind;
    };
    uint32_t n = 1;
    while (n < left && layer[n].k_head_bytes == layer->k_head_bytes && layer[n].v_head_bytes == layer->v_head_bytes &&
           same(layer[n].k, layer->k, n * *distance) && same(layer[n].v, layer->v, n * *distance))
        ++n;
    return n;
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
        at.ring_rows = w.ring_rows;
        at.ring = w.ring_of(layer);
        at.step_rows = part.step_rows_offset;
        at.ring_k = kv_rows(w.ring.k_head(0), w.ring.k_head_bytes, coded.k_scale);
        at.ring_v = kv_rows(w.ring.v_head(0), w.ring.v_head_bytes, coded.v_scale);
        at.recent_k = kv_rows(w.recent.k_head(0), w.recent.k_head_bytes, coded.k_scale);
        at.recent_v = kv_rows(w.recent.v_head(0), w.recent.v_head_bytes, coded.v_scale);
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
            d.step_array<KvRecentRows>(b.recent),
            array(b.tail_first),
            array(b.tail_parent),
            array(b.query_block)};
}

cuda::KvStepArgs kv_step_of(const CudaDevice& d, const Op& op) {
    return {rows_of(d, op.in),   rows_of(d, op.state),
            rows_of(d, op.mean), heads_of(d),
            means_of(d, op),     places_of(d, static_cast<uint32_t>(op.layer)),
            step_of(d),          0};
}

// Of ops the last of which appends, or is attention.
cuda::KvAppendArgs append_args_of(const CudaDevice& d, const Op* ops, uint32_t count) {
    cuda::KvAppendArgs a = {};
    static_cast<cuda::KvStepArgs&>(a) = kv_step_of(d, ops[count - 1]);
    a.eps = d.program->spec.norm_eps;
    a.attention_factor = d.program->spec.rope_attention_factor;
    for (const Op* op = ops; op < ops + count; ++op) {
        if (op->kind == OpKind::kQkNorm) a.q_norm = op->norm, a.k_norm = op->norm2;
        if (op->kind == OpKind::kRope)
            a.cos_sin = rows_at(rows_of(d, op->rope), uint64_t{op->rope_set} * d.program->spec.rope_dims);
    }
    return a;
}

// The splits that attention goes through apart from each other in the step under way; 0: a block all of its own. A few
// tokens leave most of a GPU idle otherwise; many do not, and their partials would take much memory.
uint32_t splits_apart(const CudaDevice& d) {
    const uint32_t splits = cuda::divide_up(d.step->longest, cuda::kSplitPositions);
    return splits > 1 && d.step->tokens <= most_partial_tokens(d.program->config) ? splits : 0;
}
uint32_t slots_of(const Program& p) {
    return cuda::partial_slots(p.config.context_tokens, p.f16_window.sink_tokens, p.f16_window.recent_tokens);
}

}  // namespace

Result move_rows(const CudaDevice& d, const KvRowMove* moves, uint32_t count, const uint32_t* page_id,
                 uint32_t session_index, uint32_t shift) {
    const Program& p = *d.program;
    const KvPart& part = p.kv_part[0];
    const KvF16WindowShape& f16 = part.f16_window;
    const uint32_t layers = p.config.host_layer < p.geometry.layers ? p.config.host_layer : p.geometry.layers;
    cuda::MoveRowsArgs a = {};
    a.base = d.region[KEEL_REGION_DEVICE_KV];
    Result result = platform::cuda::kSuccess;
    for (uint32_t done = 0; done < count && result == platform::cuda::kSuccess; done += a.count) {
        a.count = count - done < cuda::kMostMoves ? count - done : cuda::kMostMoves;
        for (uint32_t i = 0; i < a.count; ++i) {
            const KvRowMove& m = moves[done + i];
            a.move[i] = {part.page_offset(page_id[m.to / kPageTokens]), part.page_offset(page_id[m.from / kPageTokens]),
                         m.to % kPageTokens, m.from % kPageTokens};
        }
        a.kv_heads = p.geometry.kv_heads;
        for (uint32_t first = 0; first < layers && result == platform::cuda::kSuccess; first += a.layers) {
            a.layers = layers_alike(p.geometry.layer + first, layers - first, &a.layer_bytes);
            const KvLayer& l = p.geometry.layer[first];
            a.k = kv_rows(l.k, l.k_head_bytes, l.k_scale);
            a.v = kv_rows(l.v, l.v_head_bytes, l.v_scale);
            result = launch(d, d.copies, cuda::kernel_move_rows, a, launch_shape(a));
        }
        if (!f16.recent_tokens || result != platform::cuda::kSuccess) continue;
        const uint64_t ring = part.f16_window_offset(session_index) + f16.ring_of(0);
        const auto row = [&](uint32_t slot) { return kernels::kv_ring_row(slot, shift, f16.ring_rows); };
        for (uint32_t i = 0; i < a.count; ++i)
            a.move[i] = {ring, ring, row(moves[done + i].to), row(moves[done + i].from)};
        a.layers = layers;
        a.layer_bytes = f16.ring_layer_bytes;
        a.kv_heads = 1;  // a row has all heads, of V too
        a.k = kv_rows(f16.ring.k, 0, {});
        a.k.codes = 0;
        a.k.scale_bytes = 0;  // part of the row
        a.v = {};
        result = launch(d, d.copies, cuda::kernel_move_rows, a, launch_shape(a));
    }
    return result;
}

uint64_t partial_bytes(const Program& p) {
    return uint64_t{most_partial_tokens(p.config)} * p.spec.heads * slots_of(p) *
           (p.spec.head_dim + cuda::kPartialState) * sizeof(float);
}

void add_append(CudaTable* table, const Op* ops, uint32_t count) {
    table->add(cuda::kernel_kv_append, append_args_of(table->d, ops, count));
}

void add_attention(CudaTable* table, const Op* ops, uint32_t count) {
    const CudaDevice& d = table->d;
    const ModelSpec& s = d.program->spec;
    const Op& op = ops[count - 1];
    cuda::AttentionArgs a = {};
    static_cast<cuda::KvAppendArgs&>(a) = append_args_of(d, ops, count);
    a.out = rows_of(d, op.out);
    a.scale = s.attention_scale;
    a.softcap = s.attention_softcap;
    a.window = op.window;
    a.partial_slots = slots_of(*d.program);
    if (count > 1)
        a.counts = reinterpret_cast<uint32_t*>(d.scratch(d.at.step + d.block.attention_counts)) +
                   static_cast<uint32_t>(op.layer) * cuda::attention_counts(s.kv_heads);
    table->add(cuda::kKernelCount, a);
}

void add_attention_finish(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    const Program& p = *d.program;
    cuda::AttentionFinishArgs a = {};
    a.out = rows_of(d, op.in);
    a.state = rows_of(d, op.state);
    a.shape = heads_of(d);
    a.value_mean = means_of(d, op).value_mean;
    const KvLayer& coded = p.geometry.layer[op.layer];
    a.rotated = kernels::kKvFormats[coded.v.format].rotated;
    a.behind_tokens = cuda::attends_tokens(coded.k.format, coded.v.format, p.spec.head_dim);
    a.partial_slots = slots_of(p);
    a.window = op.window;
    a.sink_tokens = p.f16_window.sink_tokens;
    a.recent_tokens = p.f16_window.recent_tokens;
    a.position = d.step_array<uint32_t>(d.block.position);
    table->add(cuda::kernel_attention_finish, a);
}

// ---- what depends on the step ----
void fit_step(const CudaDevice& d, cuda::AttentionArgs* a, uint32_t rows) {
    const Step& step = *d.step;
    if (a->counts) {
        a->partial = reinterpret_cast<float*>(d.scratch(d.at.partial));
        return fit_tokens(a, rows, step.longest);
    }
    bool trees = step.decode;  // whether there are some then is not looked at: graphs are captured for any step
    for (uint32_t i = 0; !trees && i < step.sessions; ++i) trees = step.tail_first[i] != kNoNode;
    a->tokens = rows;
    a->query_blocks = step.query_blocks;
    a->splits = splits_apart(d);
    if (a->splits) a->partial = reinterpret_cast<float*>(d.scratch(d.at.partial));
    tile_attention(a, step.decode ? 1 : kQueryBlockTokens, trees, step.sessions, d.cuda.multiprocessors);
    a->block_end = attention_blocks(*a);
}
void fit_step(const CudaDevice& d, cuda::AttentionFinishArgs* a, uint32_t rows) {
    a->tokens = rows;
    if (splits_apart(d) || (a->behind_tokens && rows <= kMostTokensApart))
        a->partial = reinterpret_cast<const float*>(d.scratch(d.at.partial));
}
Result launch_rest(const CudaDevice& d, const CudaLaunch&, const cuda::AttentionArgs& a) {
    // Its blocks are counted, which those of another launch of the same layer may not be meanwhile.
    if (a.counts && a.block_begin) d.behind_launch = false;
    return launch(d, attention_kernel(a), a,
                  a.kind == cuda::AttentionKind::kToken ? token_shape(a) : attention_shape(a));
}

// ---- cut ----
uint32_t items_of(const cuda::AttentionArgs& a) {
    return a.block_end;
}
void cut(cuda::AttentionArgs* a, uint32_t first, uint32_t count) {
    a->block_begin = first;
    a->block_end = first + count;
}
void cut(cuda::AttentionFinishArgs* a, uint32_t first, uint32_t count) {
    skip(&a->out, first);
    skip(&a->state, first);
    if (a->partial)
        a->partial += uint64_t{first} * a->shape.heads * a->partial_slots * (a->shape.head_dim + cuda::kPartialState);
    a->position += first;
    a->tokens = count;
}
void cut(cuda::KvAppendArgs* a, uint32_t first, uint32_t count) {
    skip(&a->qkv, first);
    skip(&a->state, first);
    skip(&a->mean, first);
    skip(&a->cos_sin, first);
    a->step.session += first;
    a->step.slot += first;
    a->tokens = count;
}

}  // namespace keel
