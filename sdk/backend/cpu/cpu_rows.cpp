// Ops on one token's row: embedding, rotation table, mixes, norms, activations, quantizing, soft cap.
#include <string.h>

#include "sdk/backend/cpu/cpu_device.h"

namespace keel {
namespace {

constexpr uint32_t kQuantizeFloats = 256;  // of a stretch: a rotated block

// Row `row` of the table in f32. Blocks decode one by one, so a repacked table is read in stretches that fit the stack.
void decode_row(const CpuDevice& d, const Op& op, uint32_t row, float* x) {
    const auto decode = d.kernels().dequantize_row[op.weight_type];
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

void embed_row(const CpuDevice& d, const Op& op, int32_t id, float* x) {
    decode_row(d, op, static_cast<uint32_t>(id), x);
    if (d.program->spec.embedding_scale != 1.0f) d.kernels().scale(x, d.program->spec.embedding_scale, op.k);
}

// Elements [begin, end) of a row of k. Each stretch is quantized on the stack, and its planes are copied to where they
// belong in the row's.
void quantize_stretches(const CpuDevice& d, Activation layout, const float* x, uint32_t begin, uint32_t end, uint32_t k,
                        uint8_t* to) {
    const uint32_t block = block_of(layout);
    alignas(64) uint8_t part[kernels::q8_token_bytes(kQuantizeFloats, 32)];
    alignas(64) float rotated[kQuantizeFloats];
    for (uint32_t at = begin; at < end; at += kQuantizeFloats) {
        const uint32_t n = end - at < kQuantizeFloats ? end - at : kQuantizeFloats;
        const float* from = x + at;
        if (layout == Activation::kQ8Rotated) {
            memcpy(rotated, from, sizeof rotated);
            d.kernels().kv_rotate(rotated, kQuantizeFloats);
            from = rotated;
        }
        d.kernels().quantize_q8(from, n, block, part);
        memcpy(kernels::q8_codes(to) + at, kernels::q8_codes(part), n);
        memcpy(kernels::q8_scales(to, k) + at / block, kernels::q8_scales(part, n), n / block * sizeof(float));
        memcpy(kernels::q8_sums(to, k, block) + at / 16, kernels::q8_sums(part, n, block), n / 16 * sizeof(int16_t));
    }
}

}  // namespace

void quantize_row(const CpuDevice& d, const Op& op, const float* x, uint32_t k, uint32_t token) {
    for (uint32_t i = 0; i < kCodedLayouts; ++i) {
        if (op.out_coded[i] == kNoBuffer) continue;
        uint8_t* to = d.buffer(op.out_coded[i], token);
        if (coded_layout(i) == Activation::kBf16Pairs)
            d.kernels().round_bf16(x, 0, k, to);
        else if (coded_layout(i) == Activation::kQ8Rotated)
            quantize_stretches(d, coded_layout(i), x, 0, k, k, to);
        else
            d.kernels().quantize_q8(x, k, block_of(coded_layout(i)), to);
    }
}

void quantize_part(const CpuDevice& d, const Op& op, const float* x, uint32_t begin, uint32_t end, uint32_t k,
                   uint32_t token) {
    for (uint32_t i = 0; i < kCodedLayouts; ++i) {
        if (op.out_coded[i] == kNoBuffer) continue;
        uint8_t* to = d.buffer(op.out_coded[i], token);
        if (coded_layout(i) == Activation::kBf16Pairs)
            d.kernels().round_bf16(x, begin, end, to);
        else
            quantize_stretches(d, coded_layout(i), x, begin, end, k, to);
    }
}

void show_row(const CpuDevice& d, const Op& op, uint32_t token, const float* x, uint32_t first, uint32_t count,
              uint32_t total) {
    const Program& p = *d.program;
    if (!p.row_tap || op.site == kNoSite) return;
    const keel_lab_row row = {sizeof row,
                              static_cast<keel_lab_site>(op.site),
                              {d.step->session_id[d.step->session[token]]},
                              static_cast<uint32_t>(op.layer),
                              d.step->position[token],
                              first,
                              count,
                              total,
                              0,
                              x + first};
    p.row_tap(p.row_tap_user_data, &row);
}

void run_embed(const CpuDevice& d, const Op& op, uint32_t token) {
    embed_row(d, op, d.step->token[token], d.floats(op.out, token));
}

void run_smear(const CpuDevice& d, const Op& op, uint32_t token, float* before) {
    const ModelSpec& spec = d.program->spec;
    if (d.step->token_before[token] < 0 || d.step->token[token] == spec.first_id) return;
    embed_row(d, op, d.step->token_before[token], before);
    d.kernels().gate_rows(before, d.floats(op.more[0], token), 1, op.k);
    d.kernels().scale(before, spec.smear_scale, op.k);
    d.kernels().add(d.floats(op.out, token), before, op.k);
}

void run_mix(const CpuDevice& d, const Op& op, uint32_t token) {
    const float* x[kMaxTerms] = {d.floats(op.in, token)};
    uint32_t terms = 1;
    for (; terms < kMaxTerms && op.more[terms - 1] != kNoBuffer; ++terms)
        x[terms] = d.floats(op.more[terms - 1], token);
    d.kernels().mix(x, op.norm, terms, op.k, d.floats(op.out, token));
}

void run_rope_table(const CpuDevice& d, const Op& op, uint32_t token) {
    const Program& p = *d.program;
    d.kernels().rope_table(p.frequencies, op.rows / 2, d.step->position[token], p.spec.rope_attention_factor,
                           d.floats(op.out, token));
}

void run_norm(const CpuDevice& d, const Op& op, uint32_t token, float* local) {
    float* y = op.out != kNoBuffer ? d.floats(op.out, token) : local;
    d.kernels().rms_norm(d.floats(op.in, token), op.norm, op.k, d.program->spec.norm_eps, y);
    show_row(d, op, token, y, 0, op.k, op.k);
    quantize_row(d, op, y, op.k, token);
}

void run_output_norm(const CpuDevice& d, const Op& op, uint32_t row) {
    float* y = d.floats(op.out, row);
    d.kernels().rms_norm(d.floats(op.in, d.step->logits_token[row]), op.norm, op.k, d.program->spec.norm_eps, y);
    memcpy(d.program->hidden + uint64_t{d.step->logits_row[row]} * op.k, y, uint64_t{op.k} * sizeof(float));
    quantize_row(d, op, y, op.k, row);
}

void run_post_norm(const CpuDevice& d, const Op& op, uint32_t token) {
    float* y = d.floats(op.in, token);
    d.kernels().rms_norm(y, op.norm, op.k, d.program->spec.norm_eps, y);
    d.kernels().add(d.floats(op.out, token), y, op.k);
}

void run_glu(const CpuDevice& d, const Op& op, uint32_t token) {
    float* x = d.floats(op.in, token);
    (op.gate == Gate::kSilu ? d.kernels().gate_silu : d.kernels().gate_gelu)(x, x + op.rows, op.rows, x);
    show_row(d, op, token, x, 0, op.rows, op.rows);
}

void run_activation(const CpuDevice& d, const Op& op, uint32_t token) {
    float* x = d.floats(op.in, token);
    d.kernels().leaky_square(x, d.program->spec.leak, op.rows, x);
    show_row(d, op, token, x, 0, op.rows, op.rows);
    quantize_row(d, op, x, op.rows, token);
}

void run_softcap(const CpuDevice& d, const Op& op, uint32_t row) {
    d.kernels().softcap(d.program->logits + uint64_t{d.step->logits_row[row]} * op.rows, d.program->spec.logit_softcap,
                        op.rows);
}

void run_from_own_memory(const CpuDevice& d, const Op& op, uint32_t token) {
    const uint64_t row_bytes = d.program->plan.buffers[op.out].row_bytes;
    memcpy(d.buffer(op.out, token), d.program->handover + token * row_bytes, uint64_t{op.rows} * sizeof(float));
}

}  // namespace keel
