// The executor: walks the execution plan pass by pass, cutting each pass into groups of units that are predicted to
// take no longer than a tile, and looks at the clock and the cancel flags between groups. Results do not depend on the
// cut (sdk/NUMERICS.md): units are rows, columns or (head, block, span) triples that no reduction crosses.
#include <string.h>

#include "sdk/run/engine.h"

namespace keel {
namespace {

using kernels::kKvSplitTokens;

constexpr double kAttentionMacsPerUs = 4000;  // first guess; run_step corrects it
constexpr double kAloneUs = 1;                // what is predicted to take less is not worth waking the other threads
constexpr uint32_t kGateRows = 256;           // rows of gate and up computed before their activation: they stay near
constexpr uint32_t kQuantizeFloats = 256;     // stretch of quantize_part

// Ops that run as one range of units (plan.h).
struct Pass {
    const Op* op;  // the first
    uint32_t ops;
    uint32_t units;  // of one walk; attention by spans walks its units once per span
    uint32_t walks;

    // Gate, up and what joined them: the activation, and quantizing (null where it is a pass of its own).
    bool gated() const { return op->kind == OpKind::kMatmul && op[ops - 1].kind != OpKind::kMatmul; }
    const Op* quantize() const { return op[ops - 1].kind == OpKind::kQuantize ? &op[ops - 1] : nullptr; }
    uint32_t gated_unit_rows() const { return quantize() ? quantize()->unit_rows : kRowsPerUnit; }
};

// What the workers of one dispatch share.
struct Dispatch {
    Engine* engine;
    const Pass* pass;
    uint32_t first, count;            // units
    uint32_t span_first, span_count;  // attention: spans every unit walks
    uint32_t ways;                    // shares the units are cut into
};

// Writes the 8-bit forms the op has to produce; q32 names the form with blocks of 32, the next one has blocks of 256.
void quantize_forms(const Engine& e, const Op& op, const float* x, uint32_t k, uint32_t column, BufferId q32) {
    if (op.want_q32) e.config.kernels->quantize_q8(x, k, 32, e.buffer(q32, column));
    if (op.want_q256) e.config.kernels->quantize_q8(x, k, 256, e.buffer(static_cast<BufferId>(q32 + 1), column));
}

// The same for elements [begin, end) of a column of k, whole blocks: each stretch is quantized on the stack, and its
// planes are copied to where they belong in the column's.
void quantize_part(const Engine& e, const Op& op, const float* x, uint32_t begin, uint32_t end, uint32_t k,
                   uint32_t column, BufferId q32) {
    for (uint32_t form = 0; form < 2; ++form) {
        const uint32_t block = form == 0 ? 32 : 256;
        if (!(form == 0 ? op.want_q32 : op.want_q256)) continue;
        uint8_t* to = e.buffer(static_cast<BufferId>(q32 + form), column);
        alignas(64) uint8_t part[kernels::q8_column_bytes(kQuantizeFloats, 32)];
        for (uint32_t at = begin; at < end; at += kQuantizeFloats) {
            const uint32_t n = end - at < kQuantizeFloats ? end - at : kQuantizeFloats;
            e.config.kernels->quantize_q8(x + at, n, block, part);
            memcpy(kernels::q8_codes(to) + at, kernels::q8_codes(part), n);
            memcpy(kernels::q8_scales(to, k) + at / block, kernels::q8_scales(part, n), n / block * sizeof(float));
            memcpy(kernels::q8_sums(to, k, block) + at / 16, kernels::q8_sums(part, n, block),
                   n / 16 * sizeof(int16_t));
        }
    }
}

// Row `row` of the table in f32. Blocks decode one by one, so an interleaved table is read in stretches that fit the
// stack.
void decode_row(const Engine& e, const Op& op, uint32_t row, float* x) {
    const auto decode = e.config.kernels->dequantize_row[op.weight_type];
    const uint8_t* table = static_cast<const uint8_t*>(op.w);
    if (!op.repacked) return decode(table + row * op.w_row_bytes, x, op.k);
    const kernels::WeightTypeInfo& type = kernels::kWeightTypes[op.weight_type];
    const uint8_t* group = table + uint64_t{row / kernels::kRepackRows} * kernels::kRepackRows * op.w_row_bytes;
    uint8_t plain[1024];
    const uint32_t blocks = op.k / type.block_elements,
                   stretch = static_cast<uint32_t>(sizeof plain) / type.block_bytes;
    for (uint32_t first = 0; first < blocks; first += stretch) {
        const uint32_t count = blocks - first < stretch ? blocks - first : stretch;
        kernels::unpack_row(static_cast<kernels::WeightType>(op.weight_type), group, row % kernels::kRepackRows, first,
                            count, plain);
        decode(plain, x + first * type.block_elements, count * type.block_elements);
    }
}

void run_embed(const Engine& e, const Op& op, uint32_t column) {
    float* x = e.floats(op.out, column);
    decode_row(e, op, static_cast<uint32_t>(e.step.column[column].token), x);
    if (e.spec.embedding_scale != 1.0f) e.config.kernels->scale(x, e.spec.embedding_scale, op.k);
}

void run_rope_table(const Engine& e, const Op& op, uint32_t column) {
    e.config.kernels->rope_table(e.frequencies, op.rows / 2, e.step.column[column].position,
                                 e.spec.rope_attention_factor, e.floats(op.out, column));
}

// Shows elements [first, first + count) of what products multiply.
void show_row(const Engine& e, keel_lab_site site, const Op& op, uint32_t column, const float* x, uint32_t first,
              uint32_t count, uint32_t total) {
    if (!e.row_tap) return;
    const Column& at = e.step.column[column];
    const keel_lab_row row = {sizeof row,
                              site,
                              {at.session->id.load(std::memory_order_relaxed)},
                              static_cast<uint32_t>(op.layer),
                              at.position,
                              first,
                              count,
                              total,
                              0,
                              x + first};
    e.row_tap(e.row_tap_user_data, &row);
}

void run_norm(const Engine& e, const Op& op, uint32_t column, float* local) {
    float* y = op.want_f32 ? e.floats(op.out, column) : local;
    e.config.kernels->rms_norm(e.floats(op.in, column), op.norm, op.k, e.spec.norm_eps, y);
    show_row(e, op.slot == kAttnNorm ? KEEL_LAB_ATTN_IN : KEEL_LAB_FFN_IN, op, column, y, 0, op.k, op.k);
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

// One KV head and its query heads of one column: head norms, rotation, what the KV formats ask for (kv_transform.h),
// and the K and V rows of this position into the session's page.
void run_store_head(const Engine& e, const Op& op, uint32_t column, uint32_t kv_head) {
    const kernels::KernelSet& kernel = *e.config.kernels;
    const ModelSpec& s = e.spec;
    const Column& at = e.step.column[column];
    float* q = e.floats(op.in, column);
    float* k = q + s.q_dim() + kv_head * s.head_dim;
    float* v = k + s.kv_dim();
    const float* cos_sin = e.floats(kBufRope, column) + op.rope_set * s.rope_dims;
    const uint32_t group = s.heads / s.kv_heads, layer = static_cast<uint32_t>(op.layer), rope_pairs = s.rope_dims / 2;
    const KvTransform& t = e.transform;
    const KvLayer& formats = e.geometry.layer[layer];
    const bool rotate_k = kernels::kKvFormats[formats.k.format].rotated,
               rotate_v = kernels::kKvFormats[formats.v.format].rotated;
    float* state = e.floats(kBufAttnState, column);
    float* group_q = q + uint64_t{kv_head} * group * s.head_dim;
    if (op.norm)
        for (uint32_t g = 0; g < group; ++g)
            kernel.rms_norm(group_q + g * s.head_dim, op.norm, s.head_dim, s.norm_eps, group_q + g * s.head_dim);
    if (op.norm2) kernel.rms_norm(k, op.norm2, s.head_dim, s.norm_eps, k);
    keel_lab_heads heads = {sizeof heads,
                            KEEL_LAB_BEFORE_ROPE,
                            {at.session->id.load(std::memory_order_relaxed)},
                            layer,
                            kv_head,
                            at.position,
                            group,
                            s.head_dim,
                            s.rope_dims,
                            e.rope_neox,
                            group_q,
                            k,
                            v,
                            cos_sin};
    if (e.tap) e.tap(e.tap_user_data, &heads);
    for (uint32_t g = 0; g < group; ++g) kernel.rope(group_q + g * s.head_dim, rope_pairs, cos_sin, e.rope_neox);
    heads.stage = KEEL_LAB_AFTER_ROPE;
    if (t.key_mean) remove_key_mean_before_rope(t, layer, kv_head, rope_pairs, e.rope_neox, k);
    kernel.rope(k, rope_pairs, cos_sin, e.rope_neox);
    if (e.tap) e.tap(e.tap_user_data, &heads);

    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        float* head = q + h * s.head_dim;
        if (t.pairs)
            key_mean_coefficients(t, layer, kv_head, rope_pairs, e.rope_neox, s.rope_attention_factor, head,
                                  e.floats(kBufAttnMean, column) + uint64_t{h} * 2 * t.pairs);
        if (t.gain) multiply_row(head, t.gain + t.at(layer, kv_head), s.head_dim);
        if (rotate_k) kernel.kv_rotate(head, s.head_dim);
        state[h] = -__builtin_inff();
    }
    if (t.key_mean) remove_key_mean_after_rope(t, layer, kv_head, rope_pairs, e.rope_neox, k);
    if (t.gain) multiply_row(k, t.inverse_gain + t.at(layer, kv_head), s.head_dim);
    if (rotate_k) kernel.kv_rotate(k, s.head_dim);
    if (t.value_mean) subtract_row(v, t.value_mean + t.at(layer, kv_head), s.head_dim);
    if (rotate_v) kernel.kv_rotate(v, s.head_dim);
    uint8_t* page = const_cast<uint8_t*>(at.session->kv.pages[at.position / kPageTokens]);
    const auto encode = [&](const float* x, const kernels::KvPlane& plane, kernels::KvScaleMode mode) {
        const uint64_t row = at.position % kPageTokens;
        kernel.kv_encode[plane.format](x, s.head_dim, mode, page + plane.codes + row * plane.code_bytes,
                                       page + plane.scales + row * plane.scale_bytes);
    };
    encode(k, formats.k_head(kv_head), formats.k_scale);
    encode(v, formats.v_head(kv_head), formats.v_scale);
    const KvF16WindowShape& f16_window = e.f16_window;
    const auto keep = [&](uint8_t* rows, uint64_t row, const kernels::KvPlane& k_plane,
                          const kernels::KvPlane& v_plane) {
        kernel.kv_encode[kernels::kKvF16](k, s.head_dim, formats.k_scale,
                                          rows + k_plane.codes + row * k_plane.code_bytes, nullptr);
        kernel.kv_encode[kernels::kKvF16](v, s.head_dim, formats.v_scale,
                                          rows + v_plane.codes + row * v_plane.code_bytes, nullptr);
    };
    if (at.position < f16_window.sink_tokens)
        keep(at.session->f16_window.sinks, at.position, f16_window.sink_k(layer, kv_head),
             f16_window.sink_v(layer, kv_head));
    if (f16_window.recent_tokens)
        keep(const_cast<uint8_t*>(at.session->f16_window.recent[at.position / kPageTokens]), at.position % kPageTokens,
             f16_window.recent_k(layer, kv_head), f16_window.recent_v(layer, kv_head));
}

// One KV head, one block of columns, spans [span_first, span_first + span_count).
void run_attention(const Engine& e, const Op& op, uint32_t unit, uint32_t span_first, uint32_t span_count,
                   float* scratch) {
    const ModelSpec& s = e.spec;
    const uint32_t kv_head = unit / e.step.blocks;
    const ColumnBlock& block = e.step.block[unit % e.step.blocks];
    const uint32_t group = s.heads / s.kv_heads, layer = static_cast<uint32_t>(op.layer);
    const float* q[kernels::kMaxQueryRows];
    float* o[kernels::kMaxQueryRows];
    uint32_t begin[kernels::kMaxQueryRows], end[kernels::kMaxQueryRows];
    float m[kernels::kMaxQueryRows], l[kernels::kMaxQueryRows];
    const float* mean[kernels::kMaxQueryRows];
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
            mean[rows] = e.floats(kBufAttnMean, c) + uint64_t{head} * 2 * e.transform.pairs;
            m[rows] = state[head];
            l[rows] = state[s.heads + head];
        }
    }
    kernels::AttentionArgs a = {};
    a.pages = block.session->kv.pages;
    a.page_tokens = kPageTokens;
    a.k = e.geometry.layer[layer].k_head(kv_head);
    a.v = e.geometry.layer[layer].v_head(kv_head);
    if (e.transform.pairs)
        a.mean = {e.transform.pairs, e.transform.set_tile_rotations(op.rope_set),
                  e.transform.set_offset_rotations(op.rope_set), mean};
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
    // Which positions every query reads in which form (kv_f16_window.h): sinks in f16, codes, recent ones in f16, as three
    // calls a span.
    const KvF16WindowShape& f16_window = e.f16_window;
    uint32_t sinks_end[kernels::kMaxQueryRows], coded_begin[kernels::kMaxQueryRows], coded_end[kernels::kMaxQueryRows];
    for (uint32_t r = 0; r < rows; ++r) {
        sinks_end[r] = end[r] < f16_window.sink_tokens ? end[r] : f16_window.sink_tokens;
        coded_begin[r] = begin[r] > f16_window.sink_tokens ? begin[r] : f16_window.sink_tokens;
        coded_end[r] = end[r] > f16_window.recent_tokens ? end[r] - f16_window.recent_tokens : 0;
        if (coded_begin[r] > end[r]) coded_begin[r] = end[r];
        if (coded_end[r] < coded_begin[r]) coded_end[r] = coded_begin[r];
    }
    const uint8_t* sink_page = block.session->f16_window.sinks;
    for (uint32_t span = span_first; span < span_first + span_count; ++span) {
        if (span * kKvSplitTokens >= highest || (span + 1) * kKvSplitTokens <= lowest) continue;
        a.split = span;
        if (span == 0 && f16_window.sink_tokens) {
            kernels::AttentionArgs first = a;
            first.pages = &sink_page;
            first.k = f16_window.sink_k(layer, kv_head);
            first.v = f16_window.sink_v(layer, kv_head);
            first.end = sinks_end;
            e.config.kernels->attention_split(first);
        }
        a.begin = coded_begin;
        a.end = coded_end;
        e.config.kernels->attention_split(a);
        if (f16_window.recent_tokens) {
            kernels::AttentionArgs last = a;
            last.pages = block.session->f16_window.recent;
            last.k = f16_window.recent_k(layer, kv_head);
            last.v = f16_window.recent_v(layer, kv_head);
            last.begin = coded_end;
            last.end = end;
            e.config.kernels->attention_split(last);
        }
        a.begin = begin;
        a.end = end;
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

// Divides by the sums of the weights, rotates back, adds the mean of the values; the query heads of one KV head.
void run_finish_head(const Engine& e, const Op& op, uint32_t column, uint32_t kv_head) {
    const ModelSpec& s = e.spec;
    const uint32_t group = s.heads / s.kv_heads;
    float* o = e.floats(op.in, column);
    const float* sums = e.floats(kBufAttnState, column) + s.heads;
    const uint32_t layer = static_cast<uint32_t>(op.layer);
    const bool rotated = kernels::kKvFormats[e.geometry.layer[layer].v.format].rotated;
    for (uint32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        float* head = o + h * s.head_dim;
        e.config.kernels->attention_finish(head, sums[h], s.head_dim);
        if (rotated) e.config.kernels->kv_unrotate(head, s.head_dim);
        if (e.transform.value_mean) add_row(head, e.transform.value_mean + e.transform.at(layer, kv_head), s.head_dim);
    }
}

void run_attention_finish(const Engine& e, const Op& op, uint32_t column) {
    for (uint32_t h = 0; h < e.spec.kv_heads; ++h) run_finish_head(e, op, column, h);
    show_row(e, KEEL_LAB_ATTN_OUT, op, column, e.floats(op.in, column), 0, op.rows, op.rows);
    quantize_forms(e, op, e.floats(op.in, column), op.rows, column, kBufAttnOut32);
}

// store_kv, attention over all spans and attention_finish for one KV head of one column.
void run_flat_attention(const Engine& e, const Pass& pass, uint32_t unit, float* scratch) {
    const uint32_t kv_head = unit / e.step.columns, column = unit % e.step.columns;
    run_store_head(e, pass.op[0], column, kv_head);
    run_attention(e, pass.op[1], unit, 0, e.step.spans, scratch);
    if (pass.ops < 3) return;
    const Op& finish = pass.op[2];
    run_finish_head(e, finish, column, kv_head);
    const uint32_t floats = e.spec.heads / e.spec.kv_heads * e.spec.head_dim;
    show_row(e, KEEL_LAB_ATTN_OUT, finish, column, e.floats(finish.in, column), kv_head * floats, floats, finish.rows);
    quantize_part(e, finish, e.floats(finish.in, column), kv_head * floats, (kv_head + 1) * floats, finish.rows, column,
                  kBufAttnOut32);
}

// Rows [first, last) of one matrix, for all columns of the step.
void run_rows(const Engine& e, const Op& op, float* const* y, uint32_t first, uint32_t last, float* scratch) {
    kernels::MatmulArgs a = {};
    a.w = op.w;
    a.w_row_bytes = op.w_row_bytes;
    a.row_begin = first;
    a.row_end = last;
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

uint32_t matmul_units(const Op& op) {
    return (op.rows + kRowsPerUnit - 1) / kRowsPerUnit;
}

// Units [first, last) of matrices that follow one another.
void run_matmuls(const Engine& e, const Pass& pass, uint32_t first, uint32_t last, float* scratch) {
    uint32_t before = 0;  // units of the matrices before this one
    for (uint32_t i = 0; i < pass.ops && before < last; ++i) {
        const Op& op = pass.op[i];
        const uint32_t units = matmul_units(op), begin = first > before ? first - before : 0,
                       end = last - before < units ? last - before : units;
        const uint32_t row_end = end * kRowsPerUnit < op.rows ? end * kRowsPerUnit : op.rows;
        if (begin < end)
            run_rows(e, op, e.step.y + uint64_t{i} * e.config.chunk_tokens, begin * kRowsPerUnit, row_end, scratch);
        before += units;
    }
}

// Units [first, last) of gate and up, their activation and its 8-bit form. One matrix may hold both, up behind gate.
void run_gated(const Engine& e, const Pass& pass, uint32_t first, uint32_t last, float* scratch) {
    const Op* quantize = pass.quantize();
    const uint32_t act_at = pass.ops - (quantize ? 2 : 1), unit_rows = pass.gated_unit_rows();
    const Op &gate = pass.op[0], &up = pass.op[act_at - 1], &act = pass.op[act_at];
    const bool together = act_at == 1;
    const uint32_t up_row = together ? act.rows : 0;
    float* const* up_y = e.step.y + (together ? 0 : e.config.chunk_tokens);
    const auto activate = act.gate == Gate::kSilu ? e.config.kernels->gate_silu : e.config.kernels->gate_gelu;
    const uint32_t end = last * unit_rows;
    for (uint32_t row = first * unit_rows; row < end; row += kGateRows) {
        const uint32_t row_end = end - row < kGateRows ? end : row + kGateRows;
        run_rows(e, gate, e.step.y, row, row_end, scratch);
        run_rows(e, up, up_y, up_row + row, up_row + row_end, scratch);
        for (uint32_t column = 0; column < e.step.columns; ++column) {
            float* x = e.floats(act.in, column);
            activate(x + row, x + act.rows + row, row_end - row, x + row);
            show_row(e, KEEL_LAB_FFN_HIDDEN, act, column, x, row, row_end - row, act.rows);
            if (quantize) quantize_part(e, *quantize, x, row, row_end, act.rows, column, kBufFfn32);
        }
    }
}

// The unit at which share `share` of a dispatch begins. Matrices of one pass differ in the bytes of their rows, so the
// cut is by bytes.
uint32_t share_begin(const Dispatch& d, uint32_t share) {
    const Pass& pass = *d.pass;
    if (pass.op->kind != OpKind::kMatmul || pass.ops == 1 || pass.gated())
        return d.first + static_cast<uint32_t>(uint64_t{d.count} * share / d.ways);
    uint64_t bytes_in[kPassMatmuls], units_in[kPassMatmuls], total = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < pass.ops; ++i) {
        const uint32_t units = matmul_units(pass.op[i]), begin = d.first > before ? d.first - before : 0;
        const uint32_t end =
            d.first + d.count < before + units ? (d.first + d.count > before ? d.first + d.count - before : 0) : units;
        units_in[i] = begin < end ? end - begin : 0;
        bytes_in[i] = units_in[i] * pass.op[i].w_row_bytes;
        total += bytes_in[i];
        before += units;
    }
    uint64_t wanted = total * share / d.ways;
    uint32_t unit = d.first;
    for (uint32_t i = 0; i < pass.ops; ++i) {
        if (wanted < bytes_in[i]) return unit + static_cast<uint32_t>(wanted / pass.op[i].w_row_bytes);
        wanted -= bytes_in[i];
        unit += static_cast<uint32_t>(units_in[i]);
    }
    return unit;
}

void run_units(const Dispatch& d, uint32_t first, uint32_t last, float* scratch) {
    Engine& e = *d.engine;
    const Pass& pass = *d.pass;
    const Op& op = *pass.op;
    if (first == last) return;
    if (op.kind == OpKind::kMatmul)
        return pass.gated() ? run_gated(e, pass, first, last, scratch) : run_matmuls(e, pass, first, last, scratch);
    for (uint32_t unit = first; unit < last; ++unit) {
        switch (op.kind) {
            case OpKind::kEmbed:
                run_embed(e, op, unit);
                break;
            case OpKind::kRopeTable:
                run_rope_table(e, op, unit);
                break;
            case OpKind::kNorm:
                run_norm(e, op, unit, scratch);
                break;
            case OpKind::kOutputNorm:
                run_output_norm(e, op, unit);
                break;
            case OpKind::kPostNorm:
                run_post_norm(e, op, unit);
                break;
            case OpKind::kStoreKv:
                if (pass.ops > 1)
                    run_flat_attention(e, pass, unit, scratch);
                else
                    for (uint32_t h = 0; h < e.spec.kv_heads; ++h) run_store_head(e, op, unit, h);
                break;
            case OpKind::kAttention:
                run_attention(e, op, unit, d.span_first, d.span_count, scratch);
                break;
            case OpKind::kAttentionFinish:
                run_attention_finish(e, op, unit);
                break;
            case OpKind::kQuantize:
                quantize_forms(e, op, e.floats(op.in, unit), op.rows, unit, static_cast<BufferId>(op.out + 1));
                break;
            case OpKind::kSoftcap:
                e.config.kernels->softcap(e.step.logits_to[unit], e.spec.logit_softcap, op.rows);
                break;
            case OpKind::kMatmul:
            case OpKind::kGate:
                break;
        }
    }
}

// Share `index` of a dispatch, on worker `index`.
void run_share(void* context, uint32_t index) {
    const Dispatch& d = *static_cast<const Dispatch*>(context);
    run_units(d, share_begin(d, index), share_begin(d, index + 1), d.engine->floats(kBufThread, index));
}

void dispatch(Dispatch* d) {
    Engine* e = d->engine;
    if (d->ways == 1) return run_units(*d, d->first, d->first + d->count, e->floats(kBufThread, 0));
    if (e->hooks.parallel_for)
        e->hooks.parallel_for(e->hooks.user_data, d->ways, run_share, d);
    else
        platform::thread_team_run(
            e->team, d->ways, [](void* context, uint32_t worker, uint32_t, uint32_t) { run_share(context, worker); },
            d);
}

// The pass that begins with op `first`.
Pass pass_at(const Engine& e, uint32_t first) {
    const OpList& list = e.plan.variant[e.step.variant];
    const Op& op = list.ops[first];
    Pass p = {&op, 1, 0, 1};
    double us = predict_us(op, e.step.columns);  // uncorrected, so that a pass stays the same through its step
    while (first + p.ops < list.count) {
        const Op& next = list.ops[first + p.ops];
        const Join join = next.join;
        if (join == Join::kNo || (join == Join::kFlat && !e.step.flat)) break;
        if (join == Join::kNarrow && !is_narrow(next, us, e.config.tile_us)) break;
        us += predict_us(next, e.step.columns);
        ++p.ops;
    }
    switch (op.kind) {
        case OpKind::kMatmul:
            if (p.gated())
                p.units = p.op[p.ops - 1].rows / p.gated_unit_rows();
            else if (!op.to_logits || e.step.logits)
                for (uint32_t i = 0; i < p.ops; ++i) p.units += matmul_units(p.op[i]);
            break;
        case OpKind::kStoreKv:
            p.units = p.ops > 1 ? e.spec.kv_heads * e.step.columns : e.step.columns;
            break;
        case OpKind::kAttention:
            p.units = e.spec.kv_heads * e.step.blocks;
            p.walks = e.step.spans;
            break;
        case OpKind::kOutputNorm:
        case OpKind::kSoftcap:
            p.units = e.step.logits;
            break;
        default:
            p.units = e.step.columns;
    }
    return p;
}

// Scores and sums of one column of all heads over `positions`, in uncorrected microseconds of one thread.
double attention_us(const Engine& e, uint32_t positions) {
    return 2.0 * positions * e.spec.head_dim * e.spec.heads / kAttentionMacsPerUs;
}

// Which measured_over_predicted a pass is corrected by.
uint32_t correction_of(const Pass& p) {
    return static_cast<uint32_t>(p.op->kind == OpKind::kStoreKv && p.ops > 1 ? OpKind::kAttention : p.op->kind);
}

// Predicted microseconds of one unit on one thread.
double unit_us(const Engine& e, const Pass& p) {
    double us = 0;
    for (uint32_t i = 0; i < p.ops; ++i) {
        const Op& op = p.op[i];
        const bool spans = p.walks > 1 || p.ops == 1;  // one walk of attention is over one span
        const uint32_t positions = spans && e.step.longest > kKvSplitTokens ? kKvSplitTokens : e.step.longest;
        const bool logits = op.to_logits || op.kind == OpKind::kOutputNorm || op.kind == OpKind::kSoftcap;
        us += op.kind == OpKind::kAttention ? attention_us(e, positions) * e.step.columns
                                            : predict_us(op, logits ? e.step.logits : e.step.columns);
    }
    return us / p.units * e.measured_over_predicted[correction_of(p)];
}

bool cancelled(const Engine& e) {
    for (uint32_t i = 0; i < e.step.sessions; ++i)
        if (e.step.session[i]->cancel.load(std::memory_order_acquire)) return true;
    return false;
}

}  // namespace

bool flat_step(const Engine& e) {
    return e.step.decode && attention_us(e, e.step.longest) / e.spec.kv_heads <= e.config.tile_us;
}

keel_status run_step(Engine* engine, uint64_t deadline_ns, bool* progressed) {
    Engine& e = *engine;
    Step& step = e.step;
    const double tile_us = e.config.tile_us;
    const uint64_t begin_ns = platform::now_ns();
    uint64_t now_ns = begin_ns;
    keel_status status = KEEL_OK;
    while (step.op < e.plan.variant[step.variant].count) {
        const Pass pass = pass_at(e, step.op);
        const uint32_t units = pass.units;
        if (step.unit == 0 && pass.op->kind == OpKind::kMatmul) {
            for (uint32_t i = 0; i < pass.ops && pass.op[i].kind == OpKind::kMatmul; ++i) {
                const Op& op = pass.op[i];
                float** y = step.y + uint64_t{i} * e.config.chunk_tokens;
                for (uint32_t c = 0; c < (op.to_logits ? step.logits : step.columns); ++c)
                    y[c] = op.to_logits ? step.logits_to[c] : e.floats(op.out, c) + op.out_offset;
            }
        }
        while (step.unit < units * pass.walks) {
            const double one_us = unit_us(e, pass), us = one_us / e.config.threads;
            double fit = tile_us / us;
            if (deadline_ns) {
                // Also no more than what is left of the budget, but at least one unit per thread.
                const double left_us = deadline_ns > now_ns ? static_cast<double>(deadline_ns - now_ns) * 1e-3 : 0;
                if (left_us / us < fit) fit = left_us / us;
            }
            const uint32_t done_in_walk = step.unit % units, left_in_walk = units - done_in_walk;
            uint32_t count = fit >= left_in_walk ? left_in_walk : static_cast<uint32_t>(fit);
            if (count < e.config.threads)
                count = e.config.threads < left_in_walk ? e.config.threads : left_in_walk;
            else if (count < left_in_walk)
                count -= count % e.config.threads;  // equal shares
            Dispatch d = {engine, &pass, done_in_walk, count, step.unit / units, 1, 1};
            uint32_t walks = 1;
            if (count == units && pass.walks > 1) {  // whole walks fit: let every unit take several
                const uint32_t left = pass.walks - d.span_first;
                walks = fit >= static_cast<double>(left) * units ? left : static_cast<uint32_t>(fit / units);
                if (walks == 0) walks = 1;
                d.span_count = walks;
            }
            const bool alone = one_us * count * walks <= kAloneUs;
            if (!alone) d.ways = count < e.config.threads ? count : e.config.threads;
            if (*progressed) {
                if (deadline_ns && now_ns + static_cast<uint64_t>(us * count * walks * 1e3) > deadline_ns)
                    status = KEEL_AGAIN;
                if (cancelled(e)) status = KEEL_E_CANCELLED;
                if (status != KEEL_OK) break;
            }
            dispatch(&d);
            *progressed = true;
            step.unit += count * walks;
            if (alone && count == units) continue;  // a whole little pass: the next look at the clock sees it
            const uint64_t after_ns = platform::now_ns();
            // Learn how this machine compares with the prediction; slow changes only, so that one interruption counts
            // little.
            const double predicted_us = us * count * walks, measured_us = static_cast<double>(after_ns - now_ns) * 1e-3;
            double& ratio = e.measured_over_predicted[correction_of(pass)];
            if (predicted_us > 2 && measured_us > 1) {
                double change = measured_us / predicted_us;
                change = change > 2 ? 2 : change < 0.5 ? 0.5 : change;
                ratio *= 1 + 0.125 * (change - 1);
                ratio = ratio > 100 ? 100 : ratio < 0.01 ? 0.01 : ratio;
            }
            now_ns = after_ns;
        }
        if (status != KEEL_OK) break;
        step.op += pass.ops;
        step.unit = 0;
    }
    step.us += (now_ns - begin_ns) / 1000;
    return status;
}

}  // namespace keel
