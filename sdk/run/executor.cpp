// The executor: walks the execution plan op by op, cutting each op into groups of units that are predicted to take no
// longer than a tile, and looks at the clock and the cancel flags between groups. Results do not depend on the cut
// (sdk/NUMERICS.md): units are rows, columns or (head, block, span) triples that no reduction crosses.
#include <string.h>

#include "kernels/numeric.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

using kernels::kAttentionSpan;

constexpr uint32_t kRowsPerUnit = 16;           // output rows of a matmul unit
constexpr double kAttentionMacsPerUs = 4000;   // first guess; run_step corrects it

// What the workers of one dispatch share.
struct Dispatch {
    Engine* engine;
    const Op* op;
    uint32_t first;         // first unit
    uint32_t span_first, span_count;  // attention: spans every unit walks
    float* const* y;        // matmul
};

// Writes the 8-bit forms the op has to produce; q32 names the form with blocks of 32, the next one has blocks of 256.
void quantize_forms(const Engine& e, const Op& op, const float* x, uint32_t k, uint32_t column, BufferId q32) {
    if (op.want_q32) e.config.kernels->quantize_q8(x, k, 32, e.buffer(q32, column));
    if (op.want_q256) e.config.kernels->quantize_q8(x, k, 256, e.buffer(static_cast<BufferId>(q32 + 1), column));
}

void run_embed(const Engine& e, const Op& op, uint32_t column) {
    float* x = e.floats(op.out, column);
    const uint8_t* row = static_cast<const uint8_t*>(op.w) + static_cast<uint64_t>(e.step.column[column].token) * op.w_row_bytes;
    e.config.kernels->dequantize_row[op.weight_type](row, x, op.k);
    if (e.spec.embedding_scale != 1.0f) e.config.kernels->scale(x, e.spec.embedding_scale, op.k);
}

// cos and sin of position x frequency, in f64, rounded once (NUMERICS section 4).
void run_rope_table(const Engine& e, const Op& op, uint32_t column) {
    float* out = e.floats(op.out, column);
    const uint32_t count = op.rows / 2;
    const float factor = e.spec.rope_attention_factor;
    for (uint32_t i = 0; i < count; ++i) {
        double s, c;
        kernels::sincos_f64(e.step.column[column].position * e.frequencies[i], &s, &c);
        out[2 * i] = static_cast<float>(c);
        out[2 * i + 1] = static_cast<float>(s);
        if (factor != 1.0f) {
            out[2 * i] *= factor;
            out[2 * i + 1] *= factor;
        }
    }
}

void run_norm(const Engine& e, const Op& op, uint32_t column, float* local) {
    float* y = op.want_f32 ? e.floats(op.out, column) : local;
    e.config.kernels->rms_norm(e.floats(op.in, column), op.norm, op.k, e.spec.norm_eps, y);
    quantize_forms(e, op, y, op.k, column, static_cast<BufferId>(op.out + 1));
}

// As run_norm, for the columns whose logits are wanted; the normalised row is also the hidden-state view.
void run_output_norm(const Engine& e, const Op& op, uint32_t row) {
    float* y = e.floats(op.out, row);
    e.config.kernels->rms_norm(e.floats(op.in, e.step.logits_column[row]), op.norm, op.k, e.spec.norm_eps, y);
    memcpy(e.step.hidden_to[row], y, uint64_t{op.k} * sizeof(float));
    quantize_forms(e, op, y, op.k, row, static_cast<BufferId>(op.out + 1));
}

// Normalises a product and adds it to the residual (architectures with post-norms).
void run_post_norm(const Engine& e, const Op& op, uint32_t column) {
    float* y = e.floats(op.in, column);
    e.config.kernels->rms_norm(y, op.norm, op.k, e.spec.norm_eps, y);
    e.config.kernels->add(e.floats(op.out, column), y, op.k);
}

// Head norms, rotation, and the K and V rows of this position into the session's page.
void run_store_kv(const Engine& e, const Op& op, uint32_t column) {
    const kernels::KernelSet& kernel = *e.config.kernels;
    const ModelSpec& s = e.spec;
    const Column& at = e.step.column[column];
    float* q = e.floats(op.in, column);
    float* k = q + s.q_dim();
    float* v = k + s.kv_dim();
    const float* cos_sin = e.floats(kBufRope, column) + op.rope_set * s.rope_dims;
    uint8_t* page = const_cast<uint8_t*>(at.session->kv.pages[at.position / kPageTokens]);
    const uint32_t row = at.position % kPageTokens;
    for (uint32_t h = 0; h < s.heads; ++h) {
        float* head = q + h * s.head_dim;
        if (op.norm) kernel.rms_norm(head, op.norm, s.head_dim, s.norm_eps, head);
        kernel.rope(head, s.rope_dims / 2, cos_sin, e.rope_neox);
    }
    for (uint32_t h = 0; h < s.kv_heads; ++h) {
        float* head = k + h * s.head_dim;
        if (op.norm2) kernel.rms_norm(head, op.norm2, s.head_dim, s.norm_eps, head);
        kernel.rope(head, s.rope_dims / 2, cos_sin, e.rope_neox);
        const uint32_t layer = static_cast<uint32_t>(op.layer);
        kernel.kv_encode[e.geometry.k_format](head, s.head_dim, page + e.geometry.k_offset(layer, h) + uint64_t{row} * e.geometry.k_row_bytes);
        kernel.kv_encode[e.geometry.v_format](v + h * s.head_dim, s.head_dim, page + e.geometry.v_offset(layer, h) + uint64_t{row} * e.geometry.v_row_bytes);
    }
    float* state = e.floats(kBufAttnState, column);
    for (uint32_t h = 0; h < s.heads; ++h) state[h] = -__builtin_inff();
}

// One KV head, one block of columns, spans [span_first, span_first + span_count).
void run_attention(const Engine& e, const Op& op, uint32_t unit, uint32_t span_first, uint32_t span_count, float* scratch) {
    const ModelSpec& s = e.spec;
    const uint32_t kv_head = unit / e.step.blocks;
    const ColumnBlock& block = e.step.block[unit % e.step.blocks];
    const uint32_t group = s.heads / s.kv_heads, layer = static_cast<uint32_t>(op.layer);
    const float* q[kernels::kMaxQueryRows];
    float* o[kernels::kMaxQueryRows];
    uint32_t begin[kernels::kMaxQueryRows], end[kernels::kMaxQueryRows];
    float m[kernels::kMaxQueryRows], l[kernels::kMaxQueryRows];
    uint32_t rows = 0, lowest = UINT32_MAX, highest = 0;
    for (uint32_t c = block.first; c < block.first + block.count; ++c) {
        const uint32_t position = e.step.column[c].position;
        const float* state = e.floats(kBufAttnState, c);
        for (uint32_t g = 0; g < group; ++g, ++rows) {
            const uint32_t head = kv_head * group + g;
            q[rows] = e.floats(kBufQkv, c) + head * s.head_dim;
            o[rows] = e.floats(kBufAttnOut, c) + head * s.head_dim;
            end[rows] = position + 1;
            begin[rows] = op.window && position + 1 > op.window ? position + 1 - op.window : 0;
            if (begin[rows] < lowest) lowest = begin[rows];
            if (end[rows] > highest) highest = end[rows];
            m[rows] = state[head];
            l[rows] = state[s.heads + head];
        }
    }
    kernels::AttentionArgs a = {};
    a.pages = block.session->kv.pages;
    a.page_tokens = kPageTokens;
    a.k_offset = e.geometry.k_offset(layer, kv_head);
    a.v_offset = e.geometry.v_offset(layer, kv_head);
    a.k_row_bytes = e.geometry.k_row_bytes;
    a.v_row_bytes = e.geometry.v_row_bytes;
    a.k_format = e.geometry.k_format;
    a.v_format = e.geometry.v_format;
    a.head_dim = s.head_dim;
    a.rows = rows;
    a.q = q;
    a.begin = begin;
    a.end = end;
    a.scale = s.attention_scale;
    a.softcap = s.attention_softcap;
    a.m = m;
    a.l = l;
    a.o = o;
    a.scratch = scratch;
    for (uint32_t span = span_first; span < span_first + span_count; ++span) {
        if (span * kAttentionSpan >= highest || (span + 1) * kAttentionSpan <= lowest) continue;
        a.span = span;
        e.config.kernels->attention_span(a);
    }
    rows = 0;
    for (uint32_t c = block.first; c < block.first + block.count; ++c) {
        float* state = e.floats(kBufAttnState, c);
        for (uint32_t g = 0; g < group; ++g, ++rows) {
            state[kv_head * group + g] = m[rows];
            state[s.heads + kv_head * group + g] = l[rows];
        }
    }
}

void run_attention_finish(const Engine& e, const Op& op, uint32_t column) {
    const ModelSpec& s = e.spec;
    float* o = e.floats(op.in, column);
    const float* sums = e.floats(kBufAttnState, column) + s.heads;
    for (uint32_t h = 0; h < s.heads; ++h) e.config.kernels->attention_finish(o + h * s.head_dim, sums[h], s.head_dim);
    quantize_forms(e, op, o, s.q_dim(), column, kBufAttnOut32);
}

void run_gate(const Engine& e, const Op& op, uint32_t column) {
    float* gate = e.floats(op.in, column);
    const auto function = op.gate == Gate::kSilu ? e.config.kernels->gate_silu : e.config.kernels->gate_gelu;
    function(gate, gate + op.rows, op.rows, gate);
    quantize_forms(e, op, gate, op.rows, column, kBufFfn32);
}

void run_matmul(const Engine& e, const Op& op, float* const* y, uint32_t first, uint32_t last, float* scratch) {
    kernels::MatmulArgs a = {};
    a.w = op.w;
    a.w_row_bytes = op.w_row_bytes;
    a.row_begin = first * kRowsPerUnit;
    a.row_end = last * kRowsPerUnit < op.rows ? last * kRowsPerUnit : op.rows;
    a.k = op.k;
    a.columns = op.to_logits ? e.step.logits : e.step.columns;
    a.x = e.buffer(op.in, 0);
    a.x_column_bytes = e.plan.buffers[op.in].column_bytes;
    a.y = y;
    a.bias = op.bias;
    a.accumulate = op.accumulate != 0;
    a.scratch = scratch;
    a.from_memory = e.weights_exceed_cache;
    const bool q8 = e.config.q8 && kernels::kWeightTypes[op.weight_type].activation_block != 0;
    const kernels::KernelSet& k = *e.config.kernels;
    (op.repacked ? k.matmul_repacked : q8 ? k.matmul_q8 : k.matmul_f32)[op.weight_type](a);
}

// Units [begin, end), relative to the dispatch's first one, on one worker.
void run_units(void* context, uint32_t worker, uint32_t begin, uint32_t end) {
    const Dispatch& d = *static_cast<const Dispatch*>(context);
    Engine& e = *d.engine;
    const Op& op = *d.op;
    if (begin == end) return;
    float* scratch = e.floats(kBufThread, worker);
    if (op.kind == OpKind::kMatmul) return run_matmul(e, op, d.y, d.first + begin, d.first + end, scratch);
    for (uint32_t unit = d.first + begin; unit < d.first + end; ++unit) {
        switch (op.kind) {
            case OpKind::kEmbed: run_embed(e, op, unit); break;
            case OpKind::kRopeTable: run_rope_table(e, op, unit); break;
            case OpKind::kNorm: run_norm(e, op, unit, scratch); break;
            case OpKind::kOutputNorm: run_output_norm(e, op, unit); break;
            case OpKind::kPostNorm: run_post_norm(e, op, unit); break;
            case OpKind::kStoreKv: run_store_kv(e, op, unit); break;
            case OpKind::kAttention: run_attention(e, op, unit, d.span_first, d.span_count, scratch); break;
            case OpKind::kAttentionFinish: run_attention_finish(e, op, unit); break;
            case OpKind::kGate: run_gate(e, op, unit); break;
            case OpKind::kSoftcap: e.config.kernels->softcap(e.step.logits_to[unit], e.spec.logit_softcap, op.rows); break;
            case OpKind::kMatmul: break;
        }
    }
}

struct HookContext {
    Dispatch* dispatch;
    uint32_t units, ways;
};
void hook_task(void* context, uint32_t index) {
    const HookContext& h = *static_cast<const HookContext*>(context);
    run_units(h.dispatch, index, static_cast<uint32_t>(uint64_t{h.units} * index / h.ways), static_cast<uint32_t>(uint64_t{h.units} * (index + 1) / h.ways));
}

void dispatch(Engine* e, Dispatch* d, uint32_t units) {
    if (units == 1 || e->config.threads == 1) return run_units(d, 0, 0, units);
    if (e->hooks.parallel_for) {
        HookContext h = {d, units, units < e->config.threads ? units : e->config.threads};
        e->hooks.parallel_for(e->hooks.user_data, h.ways, hook_task, &h);
    } else {
        platform::thread_team_run(e->team, units, run_units, d);
    }
}

// Units of one pass over the op. Attention makes one pass per span; its units are numbered span after span.
uint32_t pass_units(const Engine& e, const Op& op) {
    switch (op.kind) {
        case OpKind::kMatmul: return op.to_logits && e.step.logits == 0 ? 0 : (op.rows + kRowsPerUnit - 1) / kRowsPerUnit;
        case OpKind::kAttention: return e.spec.kv_heads * e.step.blocks;
        case OpKind::kOutputNorm:
        case OpKind::kSoftcap: return e.step.logits;
        default: return e.step.columns;
    }
}

// Predicted microseconds of one unit on one thread.
double unit_us(const Engine& e, const Op& op, uint32_t units) {
    const double correction = e.measured_over_predicted[static_cast<uint32_t>(op.kind)];
    if (op.kind == OpKind::kAttention) {
        // One span, one KV head, one block of columns: scores and sums over at most 512 positions.
        const uint32_t positions = e.step.longest < kAttentionSpan ? e.step.longest : kAttentionSpan;
        const double macs = 2.0 * positions * e.spec.head_dim * (e.spec.heads / e.spec.kv_heads) * (static_cast<double>(e.step.columns) / e.step.blocks);
        return macs / kAttentionMacsPerUs * correction;
    }
    const uint32_t columns = op.to_logits || op.kind == OpKind::kOutputNorm || op.kind == OpKind::kSoftcap ? e.step.logits : e.step.columns;
    return predict_us(op, e.config, columns) / units * correction;
}

bool cancelled(const Engine& e) {
    for (uint32_t i = 0; i < e.step.sessions; ++i)
        if (e.step.session[i]->cancel.load(std::memory_order_acquire)) return true;
    return false;
}

}  // namespace

keel_status run_step(Engine* engine, uint64_t deadline_ns, bool* progressed) {
    Engine& e = *engine;
    Step& step = e.step;
    const double tile_us = e.config.tile_us;
    const uint64_t begin_ns = platform::now_ns();
    uint64_t now_ns = begin_ns;
    keel_status status = KEEL_OK;
    while (step.op < e.plan.op_count) {
        const Op& op = e.plan.ops[step.op];
        const uint32_t units = pass_units(e, op), passes = op.kind == OpKind::kAttention ? step.spans : 1;
        if (step.unit == 0 && op.kind == OpKind::kMatmul) {
            for (uint32_t c = 0; c < (op.to_logits ? step.logits : step.columns); ++c)
                step.y[c] = op.to_logits ? step.logits_to[c] : e.floats(op.out, c) + op.out_offset;
        }
        while (step.unit < units * passes) {
            const double us = unit_us(e, op, units) / e.config.threads;
            double fit = tile_us / us;
            if (deadline_ns) {
                // Also no more than what is left of the budget, but at least one unit per thread.
                const double left_us = deadline_ns > now_ns ? static_cast<double>(deadline_ns - now_ns) * 1e-3 : 0;
                if (left_us / us < fit) fit = left_us / us;
            }
            const uint32_t done_in_pass = step.unit % units, left_in_pass = units - done_in_pass;
            uint32_t count = fit >= left_in_pass ? left_in_pass : static_cast<uint32_t>(fit);
            if (count < e.config.threads) count = e.config.threads < left_in_pass ? e.config.threads : left_in_pass;
            Dispatch d = {engine, &op, done_in_pass, step.unit / units, 1, step.y};
            uint32_t spans = 1;
            if (count == units && passes > 1) {  // whole spans fit: let every unit walk several
                const uint32_t left = passes - d.span_first;
                spans = fit >= static_cast<double>(left) * units ? left : static_cast<uint32_t>(fit / units);
                if (spans == 0) spans = 1;
                d.span_count = spans;
            }
            if (*progressed) {
                if (deadline_ns && now_ns + static_cast<uint64_t>(us * count * spans * 1e3) > deadline_ns) status = KEEL_AGAIN;
                if (cancelled(e)) status = KEEL_E_CANCELLED;
                if (status != KEEL_OK) break;
            }
            dispatch(engine, &d, count);
            *progressed = true;
            const uint64_t after_ns = platform::now_ns();
            // Learn how this machine compares with the prediction; slow changes only, so that one interruption counts little.
            const double predicted_us = us * count * spans, measured_us = static_cast<double>(after_ns - now_ns) * 1e-3;
            double& ratio = e.measured_over_predicted[static_cast<uint32_t>(op.kind)];
            if (predicted_us > 2 && measured_us > 1) {
                double change = measured_us / predicted_us;
                change = change > 2 ? 2 : change < 0.5 ? 0.5 : change;
                ratio *= 1 + 0.125 * (change - 1);
                ratio = ratio > 100 ? 100 : ratio < 0.01 ? 0.01 : ratio;
            }
            now_ns = after_ns;
            step.unit += count * spans;
        }
        if (status != KEEL_OK) break;
        ++step.op;
        step.unit = 0;
    }
    step.us += (now_ns - begin_ns) / 1000;
    return status;
}

}  // namespace keel
