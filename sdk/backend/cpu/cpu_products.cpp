// Matrix products: rows of one matrix or of several, what adapters add, and gate and up with their activation.
#include "sdk/backend/cpu/cpu_device.h"

namespace keel {
namespace {

constexpr uint32_t kGateRows = 256;  // rows of gate and up computed before their activation: they stay near

float** product_rows(const CpuDevice& d, uint32_t matrix) {
    return d.product_row + uint64_t{matrix} * d.program->config.chunk_tokens;
}

// Rows [first, last) of one matrix, for all tokens of the step.
void run_rows(const CpuDevice& d, const Op& op, float* const* y, uint32_t first, uint32_t last, float* scratch) {
    const Program& p = *d.program;
    kernels::MatmulArgs a = {};
    a.w = op.w;
    a.w_row_bytes = op.w_row_bytes;
    a.row_begin = first;
    a.row_end = last;
    a.k = op.k;
    a.tokens = op.to_logits ? d.step->logits_rows : d.step->tokens;
    a.x = d.buffer(op.in, 0);
    a.x_token_bytes = p.plan.buffers[op.in].row_bytes;
    a.y = y;
    a.bias = op.bias;
    a.accumulate = op.accumulate;
    a.scratch = scratch;
    a.from_memory = p.config.weights_exceed_cache();
    const bool coded = kernels::kWeightTypes[op.weight_type].activation_block != 0;
    const kernels::KernelSet& k = d.kernels();
    (op.repacked               ? k.matmul_repacked
     : coded && p.config.q8    ? k.matmul_q8
     : !coded && p.config.bf16 ? k.matmul_bf16
                               : k.matmul_f32)[op.weight_type](a);
}

bool multiplies(const Op& op) {
    return op.kind == OpKind::kMatmul || op.kind == OpKind::kLoraA || op.kind == OpKind::kLoraB;
}

// Rows [first, last) of A or B, as far as the adapter's matrix has them, for tokens [token, token_end), whose adapter
// has one.
void run_factor(const CpuDevice& d, const Op& op, const AdapterFactor& factor, float alpha, float* const* y,
                uint32_t token, uint32_t token_end, uint32_t first, uint32_t last, float* scratch) {
    const bool is_a = op.kind == OpKind::kLoraA;
    if (is_a && last > factor.rank) last = factor.rank;
    if (first >= last) return;
    kernels::MatmulArgs a = {};
    a.w = is_a ? factor.a : factor.b;
    a.w_row_bytes = is_a ? factor.a_row_bytes : factor.b_row_bytes;
    a.row_begin = first;
    a.row_end = last;
    a.k = is_a ? op.k : factor.rank;
    a.tokens = token_end - token;
    a.x = d.floats(op.in, token) + op.in_offset;
    a.x_token_bytes = d.program->plan.buffers[op.in].row_bytes;
    a.y = y + token;
    a.accumulate = op.accumulate;
    a.scratch = scratch;
    a.from_memory = d.program->config.weights_exceed_cache();
    d.kernels().matmul_f32[is_a ? factor.a_type : factor.b_type](a);
    for (uint32_t t = token; is_a && t < token_end; ++t) {
        const float scale = d.step->adapter_scale[d.step->session[t]],
                    s = alpha != 0 ? scale * alpha / static_cast<float>(factor.rank) : scale;
        d.kernels().scale(y[t] + first, s, last - first);
    }
}

// The same for all tokens [token, token_end): neighbours with one adapter together.
void run_factors(const CpuDevice& d, const Op& op, float* const* y, uint32_t token, uint32_t token_end, uint32_t first,
                 uint32_t last, float* scratch) {
    const Step& step = *d.step;
    while (token < token_end) {
        const uint32_t adapter = step.adapter[step.session[token]];
        uint32_t end = token + 1;
        while (end < token_end && step.adapter[step.session[end]] == adapter) ++end;
        if (adapter != KEEL_ADAPTER_OFF && op.factors[adapter].rank)
            run_factor(d, op, op.factors[adapter], d.program->config.adapters.file[adapter].alpha, y, token, end, first,
                       last, scratch);
        token = end;
    }
}

}  // namespace

void aim_products(const CpuDevice& d, const Dispatch& dispatch) {
    for (uint32_t i = 0; i < dispatch.ops && multiplies(dispatch.op[i]); ++i) {
        const Op& op = dispatch.op[i];
        float** y = product_rows(d, i);
        if (op.to_logits)
            for (uint32_t row = 0; row < d.step->logits_rows; ++row)
                y[row] = d.program->logits + uint64_t{d.step->logits_row[row]} * d.program->spec.vocabulary;
        else
            for (uint32_t token = 0; token < d.step->tokens; ++token)
                y[token] = d.floats(op.out, token) + op.out_offset;
    }
}

void run_products(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch) {
    uint32_t before = 0;  // work items of the matrices before this one
    for (uint32_t i = 0; i < dispatch.ops && before < last; ++i) {
        const Op& op = dispatch.op[i];
        const uint32_t items = product_items(op), begin = first > before ? first - before : 0,
                       end = last - before < items ? last - before : items;
        const uint32_t row_end = end * kItemRows < op.rows ? end * kItemRows : op.rows;
        if (begin < end) run_rows(d, op, product_rows(d, i), begin * kItemRows, row_end, scratch);
        before += items;
    }
}

void run_lora(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch) {
    const uint32_t tokens = d.step->tokens;
    if (!Dispatch::cut_rows(tokens)) {
        for (uint32_t i = 0; i < dispatch.ops; ++i)
            run_factors(d, dispatch.op[i], product_rows(d, i), first, last, 0, dispatch.op[i].rows, scratch);
        return;
    }
    uint32_t before = 0;  // work items of the matrices before this one
    for (uint32_t i = 0; i < dispatch.ops && before < last; ++i) {
        const Op& op = dispatch.op[i];
        const uint32_t items = product_items(op), begin = first > before ? first - before : 0,
                       end = last - before < items ? last - before : items;
        const uint32_t row_end = end * kItemRows < op.rows ? end * kItemRows : op.rows;
        if (begin < end) run_factors(d, op, product_rows(d, i), 0, tokens, begin * kItemRows, row_end, scratch);
        before += items;
    }
}

void run_gated(const CpuDevice& d, const Dispatch& dispatch, uint32_t first, uint32_t last, float* scratch) {
    const Op* quantize = dispatch.quantize();
    const uint32_t act_at = dispatch.ops - (quantize ? 2 : 1), item_rows = dispatch.gated_item_rows();
    const Op &gate = dispatch.op[0], &up = dispatch.op[act_at - 1], &act = dispatch.op[act_at];
    const bool together = act_at == 1;
    const uint32_t up_row = together ? act.rows : 0;
    float* const* up_y = product_rows(d, together ? 0 : 1);
    const auto activate = act.gate == Gate::kSilu ? d.kernels().gate_silu : d.kernels().gate_gelu;
    const uint32_t end = last * item_rows;
    for (uint32_t row = first * item_rows; row < end; row += kGateRows) {
        const uint32_t row_end = end - row < kGateRows ? end : row + kGateRows;
        run_rows(d, gate, product_rows(d, 0), row, row_end, scratch);
        run_rows(d, up, up_y, up_row + row, up_row + row_end, scratch);
        for (uint32_t token = 0; token < d.step->tokens; ++token) {
            float* x = d.floats(act.in, token);
            activate(x + row, x + act.rows + row, row_end - row, x + row);
            show_row(d, act, token, x, row, row_end - row, act.rows);
            if (quantize) quantize_part(d, *quantize, x, row, row_end, act.rows, token);
        }
    }
}

}  // namespace keel
