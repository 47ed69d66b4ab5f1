#include "sdk/plan/op_builder.h"

#include "keel/keel_lab.h"
#include "sdk/backend/backend.h"
#include "sdk/plan/dispatch.h"

namespace keel {
namespace {

constexpr const char* kSubNames[kWprojGroups] = {"attn_sub", "output_sub", "ffn_sub", "down_sub"};

// By kAdapterSlots.
constexpr const char *kLoraANames[] = {"attn_q_lora_a",   "attn_k_lora_a",      "attn_v_lora_a",
                                       "attn_qkv_lora_a", "attn_out_lora_a",    "ffn_gate_lora_a",
                                       "ffn_up_lora_a",   "ffn_gate_up_lora_a", "ffn_down_lora_a"},
                     *kLoraBNames[] = {"attn_q_lora_b",   "attn_k_lora_b",      "attn_v_lora_b",
                                       "attn_qkv_lora_b", "attn_out_lora_b",    "ffn_gate_lora_b",
                                       "ffn_up_lora_b",   "ffn_gate_up_lora_b", "ffn_down_lora_b"};
static_assert(sizeof kLoraANames / sizeof kLoraANames[0] == kAdapterSlotCount);
constexpr uint32_t kLoraAlign = 16;  // floats: the u of every product begins at a cache line

TensorSlot bias_of(TensorSlot slot) {
    return slot == kAttnQ ? kAttnQBias : slot == kAttnK ? kAttnKBias : slot == kAttnV ? kAttnVBias : kSlotCount;
}
bool writes_coded(OpKind kind) {
    return kind == OpKind::kNorm || kind == OpKind::kOutputNorm || kind == OpKind::kAttentionFinish ||
           kind == OpKind::kExclude || kind == OpKind::kHeadGate || kind == OpKind::kActivation ||
           kind == OpKind::kQuantize;
}

// The largest A or B of adapters: rows x k.
void multiply_factor(Op* op, const AdapterUse& use, uint32_t type, uint64_t bytes, uint32_t rows, uint32_t k) {
    op->factors = use.factors;
    op->weight_type = type;
    op->w_row_bytes = bytes / rows;
    op->rows = rows;
    op->k = k;
    op->fixed_bytes = bytes;
    op->token_bytes = (uint64_t{k} + rows) * 4;
    op->token_macs = uint64_t{k} * rows;
}

}  // namespace

// How a product with weights of this type reads its activations. PlanWeights sees to it that there is one.
Activation OpBuilder::reading(uint32_t weight_type) const {
    return backend().weights(c_, c_.weights, weight_type, 0, false).x;
}

Op& OpBuilder::push(OpKind kind, const char* name, TensorSlot slot) {
    overflowed_ |= count_ == kMaxStretch;
    if (overflowed_) count_ = 0;
    Op& op = stretch_[count_++];
    op = {};
    op.kind = kind;
    op.name = name;
    op.slot = slot;
    op.layer = layer_;
    op.host = host_;
    op.in = op.out = op.rope = op.state = op.mean = kNoBuffer;
    for (BufferId& coded : op.out_coded) coded = kNoBuffer;
    for (BufferId& more : op.more) more = kNoBuffer;
    op.site = kNoSite;
    return op;
}

BufferId OpBuilder::write(Op* op, const char* name, uint32_t width) {
    const BufferId id = buffers_->find(name, Activation::kF32, width);
    op->writes |= buffer_bit(id);
    return id;
}

// Who made x writes what is read of it: a norm no f32 row if all its readers want 8 bits.
BufferId OpBuilder::read(Op* op, const Buf& x, Activation type) {
    const BufferId id = buffers_->find(x.name, type, x.width);
    op->reads |= buffer_bit(id);
    if (x.producer == kNoProducer) return id;
    Op& producer = stretch_[x.producer];
    if (type != Activation::kF32)
        producer.out_coded[index_of_coded(type)] = id;
    else if (producer.kind != OpKind::kQuantize)
        producer.out = id;
    else
        return id;
    producer.writes |= buffer_bit(id);
    return id;
}

Buf OpBuilder::embed(const char* name) {
    // Where the head is the host's, it has a table of its own.
    const Matrix table = weights_->table(kTokenEmbedding, s_.tied && !partly_offloaded(c_));
    Op& op = push(OpKind::kEmbed, "embed", kTokenEmbedding);
    op.w = table.data;
    op.repacked = table.repacked;
    op.repack_skip = table.repack_skip;
    op.weight_type = table.type;
    op.rows = op.k = s_.embedding;
    op.w_row_bytes = kernels::weight_row_bytes(table.type, s_.embedding);
    op.out = write(&op, name, s_.embedding);
    op.token_bytes = op.w_row_bytes + uint64_t{s_.embedding} * 4;
    return persist(result(name, s_.embedding));
}

void OpBuilder::smear(const Buf& x) {
    if (!weights_->has(kSmearGate)) return;
    const TensorSlot slot[] = {kSmearGate};
    const Buf gate = products("smear", slot, 1, x);
    const Matrix table = weights_->table(kTokenEmbedding, s_.tied && !partly_offloaded(c_));
    Op& op = push(OpKind::kSmear, "smear", kTokenEmbedding);
    op.w = table.data;
    op.repacked = table.repacked;
    op.weight_type = table.type;
    op.rows = op.k = s_.embedding;
    op.w_row_bytes = kernels::weight_row_bytes(table.type, s_.embedding);
    op.in = read(&op, x, Activation::kF32);
    op.more[0] = read(&op, gate, Activation::kF32);
    op.out = write(&op, x.name, x.width);
    op.token_bytes = op.w_row_bytes + uint64_t{s_.embedding} * 8;
    op.token_macs = uint64_t{s_.embedding} * 3;
}

Buf OpBuilder::mix_of(const char* name, TensorSlot slot, const float* c, const Buf* x, uint32_t terms) {
    Op& op = push(OpKind::kMix, kSlots[slot].op, slot);
    op.norm = c;
    op.rows = op.k = s_.embedding;
    op.in = read(&op, x[0], Activation::kF32);
    for (uint32_t i = 1; i < terms; ++i) op.more[i - 1] = read(&op, x[i], Activation::kF32);
    op.out = write(&op, name, s_.embedding);
    op.fixed_bytes = uint64_t{terms} * s_.embedding * 4;
    op.token_bytes = uint64_t{terms + 1} * s_.embedding * 4;
    op.token_macs = uint64_t{terms} * s_.embedding;
    return result(name, s_.embedding);
}

Buf OpBuilder::rope_table(const char* name, uint32_t sets) {
    Op& op = push(OpKind::kRopeTable, "rope_table", kRopeFreqs);
    op.rows = sets * s_.rope_dims;
    op.out = write(&op, name, op.rows);
    op.token_bytes = uint64_t{op.rows} * 4;
    op.token_macs = uint64_t{op.rows} * 30;
    return persist(result(name, op.rows));
}

Buf OpBuilder::rms_norm(const char* name, const Buf& x, TensorSlot weight) {
    const float* norm = weights_->vector(weight).op;
    Op& op = push(OpKind::kNorm, kSlots[weight].op, weight);
    op.norm = norm;
    op.in = read(&op, x, Activation::kF32);
    if (weight == kAttnNorm) op.site = KEEL_LAB_ATTN_IN;
    if (weight == kFfnNorm) op.site = KEEL_LAB_FFN_IN;
    op.rows = op.k = s_.embedding;
    op.fixed_bytes = uint64_t{s_.embedding} * 4;
    op.token_bytes = uint64_t{s_.embedding} * 8;
    op.token_macs = uint64_t{s_.embedding} * 4;
    return result(name, s_.embedding);
}

Buf OpBuilder::kept_norm(const char* name, const Buf& x, TensorSlot weight) {
    const Buf y = rms_norm(name, x, weight);
    Op& op = stretch_[last()];
    op.out = write(&op, name, s_.embedding);
    return persist(y);
}

// Its f32 rows are also the hidden-state view.
Buf OpBuilder::output_norm(const char* name, const Buf& x) {
    const Buf y = rms_norm(name, x, kOutputNorm);
    Op& op = stretch_[last()];
    op.kind = OpKind::kOutputNorm;
    op.out = write(&op, name, s_.embedding);
    op.token_bytes = uint64_t{s_.embedding} * 12;
    return y;
}

// Shape, bytes and work of a product; how it reads x follows from its weights.
void OpBuilder::multiply(Op* op, const Matrix& matrix, const Buf& x) {
    const WeightUse use = backend().weights(c_, c_.weights, matrix.type, matrix.rows, false);
    const Activation type = use.x;
    op->in = read(op, x, type);
    op->fp32_reason = use.fp32;
    op->w = matrix.data;
    op->repacked = matrix.repacked;
    op->repack_skip = matrix.repack_skip;
    op->weight_type = matrix.type;
    op->k = matrix.k;
    op->rows = matrix.rows;
    op->w_row_bytes = kernels::weight_row_bytes(matrix.type, matrix.k);
    op->fixed_bytes = op->w_row_bytes * matrix.rows;
    op->token_bytes = activation_bytes(type, matrix.k) + uint64_t{matrix.rows} * 4;
    op->token_macs = uint64_t{matrix.rows} * matrix.k;
}

Buf OpBuilder::quantized(const Buf& x) {
    Op& op = push(OpKind::kQuantize, "quantize", kSlotCount);
    op.in = read(&op, x, Activation::kF32);
    op.rows = x.width;
    return result(x.name, x.width);
}

// x_sub = Pt x of a group, and its 8-bit layouts where factors read those.
Buf OpBuilder::project(WprojGroup group, TensorSlot first, const Buf& x) {
    const Matrix basis = weights_->basis(group);
    Op& op = push(OpKind::kMatmul, kSubNames[group], first);
    multiply(&op, basis, x);
    op.out = write(&op, kSubNames[group], basis.rows);
    return result(kSubNames[group], basis.rows);
}

// One op for each product that an adapter has a pair for: they read the f32 row that x is, whatever the product reads.
void OpBuilder::adapter_inputs(const TensorSlot* slots, uint32_t count, const Buf& x, AdapterInput* out) {
    uint32_t width = 0;
    for (uint32_t i = 0; i < count; ++i) {
        out[i] = {};
        out[i].offset = width;
        width += (weights_->adapter_rank(slots[i]) + kLoraAlign - 1) / kLoraAlign * kLoraAlign;
    }
    bool first = true;
    for (uint32_t i = 0; i < count; ++i) {
        if (weights_->adapter_rank(slots[i]) == 0) continue;
        const AdapterUse use = weights_->adapters(slots[i]);
        Op& op = push(OpKind::kLoraA, kLoraANames[adapter_slot_of(slots[i])], slots[i]);
        op.in = read(&op, x, Activation::kF32);
        op.out = write(&op, "lora", width);
        if (!first) op.reads |= op.writes;  // the parts before it stay
        first = false;
        op.out_offset = out[i].offset;
        multiply_factor(&op, use, use.a_type, use.a_bytes, use.rank, use.k);
        out[i].use = use;
        out[i].u = {"lora", width, kNoProducer};
    }
}

void OpBuilder::adapter_output(TensorSlot slot, const AdapterInput& input, const char* name, uint32_t width,
                               uint32_t offset) {
    const AdapterUse& use = input.use;
    Op& op = push(OpKind::kLoraB, kLoraBNames[adapter_slot_of(slot)], slot);
    op.in = read(&op, input.u, Activation::kF32);
    op.in_offset = input.offset;
    op.out = write(&op, name, width);
    op.reads |= op.writes;
    op.out_offset = offset;
    op.accumulate = true;
    multiply_factor(&op, use, use.b_type, use.b_bytes, use.rows, use.rank);
    op.token_bytes += uint64_t{use.rows} * 4;  // what it is added to
}

Buf OpBuilder::products(const char* name, const TensorSlot* slots, size_t count, Buf x) {
    TensorSlot slot[kMaxMatmuls];
    uint32_t n = 0, width = 0;
    bool coded = false, factor_coded = false;
    WprojGroup group = kWprojGroups;
    for (size_t i = 0; i < count; ++i) {
        if (!weights_->has(slots[i])) continue;
        overflowed_ |= n == kMaxMatmuls;
        if (overflowed_) break;
        coded |= reading(weights_->reading_type(variant_, slots[i])) != Activation::kF32;
        if (weights_->group_of(variant_, slots[i]) < kWprojGroups) {
            group = weights_->group_of(variant_, slots[i]);
            factor_coded |= reading(weights_->factor_type(slots[i])) != Activation::kF32;
        }
        width += weights_->rows(slots[i]);
        slot[n++] = slots[i];
    }
    if (coded && (x.producer == kNoProducer || !writes_coded(stretch_[x.producer].kind))) x = quantized(x);
    Buf sub = {};
    if (group < kWprojGroups) sub = project(group, slot[0], x);
    if (factor_coded) sub = quantized(sub);
    AdapterInput inputs[kMaxMatmuls] = {};
    if (adapted_) adapter_inputs(slot, n, x, inputs);
    uint32_t offset = 0;
    for (uint32_t i = 0; i < n; ++i) {
        const Product p = weights_->product(variant_, slot[i], bias_of(slot[i]));
        Op& op = push(OpKind::kMatmul, kSlots[slot[i]].op, slot[i]);
        multiply(&op, p.matrix, p.low_rank ? sub : x);
        op.bias = p.bias;
        op.low_rank_reason = p.reason;
        op.low_rank_error = p.error;
        op.out = write(&op, name, width);
        if (offset) op.reads |= op.writes;  // the parts before it stay
        op.out_offset = offset;
        offset += op.rows;
    }
    offset = 0;
    for (uint32_t i = 0; i < n; ++i) {
        if (inputs[i].use.rank) adapter_output(slot[i], inputs[i], name, width, offset);
        offset += weights_->rows(slot[i]);
    }
    return result(name, width);
}

void OpBuilder::qk_norm(const Buf& qkv) {
    const TensorSlot slot = weights_->has(kAttnQNorms) ? kAttnQNorms : kAttnQNorm;
    if (!weights_->has(slot) && !weights_->has(kAttnKNorm)) return;
    const float *q = weights_->vector(slot).op, *k = weights_->vector(kAttnKNorm).op;
    Op& op = push(OpKind::kQkNorm, "qk_norm", slot);
    op.norm = q;
    op.norm2 = k;
    op.norm_step = slot == kAttnQNorms ? s_.head_dim : 0;
    op.in = read(&op, qkv, Activation::kF32);
    op.out = write(&op, qkv.name, qkv.width);
    op.rows = s_.q_dim() + s_.kv_dim();
    op.k = s_.head_dim;
    op.fixed_bytes = uint64_t{s_.head_dim} * 8;
    op.token_bytes = uint64_t{op.rows} * 8;
    op.token_macs = uint64_t{op.rows} * 4;
}

void OpBuilder::rope(const Buf& qkv, const Buf& table, uint32_t set) {
    Op& op = push(OpKind::kRope, "rope", kRopeFreqs);
    op.in = read(&op, qkv, Activation::kF32);
    op.rope = read(&op, table, Activation::kF32);
    op.out = write(&op, qkv.name, qkv.width);
    op.rope_set = static_cast<uint8_t>(set);
    op.rows = s_.q_dim() + s_.kv_dim();
    op.k = s_.rope_dims;
    op.token_bytes = uint64_t{op.rows} * 8 + uint64_t{s_.rope_dims} * 4;
    op.token_macs = uint64_t{op.rows} * 2;
}

void OpBuilder::kv_append(const Buf& qkv, uint32_t set) {
    const KvLayerFormats& formats = c_.kv.formats(static_cast<uint32_t>(layer_));
    const auto row_bytes = [&](kernels::KvFormat f) {
        return kernels::kv_code_bytes(f, s_.head_dim) + kernels::kv_scale_bytes(f, s_.head_dim);
    };
    Op& op = push(OpKind::kKvAppend, "kv_append", kAttnK);
    op.in = read(&op, qkv, Activation::kF32);
    op.out = write(&op, qkv.name, qkv.width);
    op.state = write(&op, "attn_state", 2 * s_.heads);
    if (c_.kv_mean_pairs) op.mean = write(&op, "attn_mean", 2 * s_.heads * c_.kv_mean_pairs);
    op.rope_set = static_cast<uint8_t>(set);
    op.k_format = formats.k;
    op.v_format = formats.v;
    op.rows = 2 * s_.kv_dim();
    op.k = s_.head_dim;
    op.token_bytes = uint64_t{op.rows} * 4 + uint64_t{s_.kv_heads} * (row_bytes(formats.k) + row_bytes(formats.v));
    op.token_macs = uint64_t{op.rows} * 4;
}

Buf OpBuilder::attention(const char* name, const Buf& qkv, uint32_t set, uint32_t window) {
    Op& op = push(OpKind::kAttention, "attention", kAttnOutput);
    op.in = read(&op, qkv, Activation::kF32);
    op.state = write(&op, "attn_state", 2 * s_.heads);
    op.reads |= buffer_bit(op.state);
    if (c_.kv_mean_pairs) {
        op.mean = buffers_->find("attn_mean", Activation::kF32, 2 * s_.heads * c_.kv_mean_pairs);
        op.reads |= buffer_bit(op.mean);
    }
    op.out = write(&op, name, s_.q_dim());
    op.rope_set = static_cast<uint8_t>(set);
    const KvLayerFormats& formats = c_.kv.formats(static_cast<uint32_t>(layer_));
    op.k_format = formats.k;
    op.v_format = formats.v;
    op.window = window;
    op.rows = s_.q_dim();
    op.k = s_.head_dim;
    op.token_bytes = uint64_t{s_.q_dim()} * 8;
    const BufferId state = op.state;
    const Buf o = result(name, s_.q_dim());

    Op& end = push(OpKind::kAttentionFinish, "attention_finish", kAttnOutput);
    end.in = read(&end, o, Activation::kF32);
    end.out = write(&end, name, s_.q_dim());
    end.state = state;
    end.reads |= buffer_bit(state);
    end.site = KEEL_LAB_ATTN_OUT;
    end.rows = s_.q_dim();
    end.k = s_.heads / s_.kv_heads * s_.head_dim;
    end.window = window;
    end.token_bytes = uint64_t{s_.q_dim()} * 8;
    end.token_macs = uint64_t{s_.q_dim()} * 3;
    return result(name, s_.q_dim());
}

// An op on attention's output, which it is then the last one to change.
Op& OpBuilder::change_attention(OpKind kind, const char* op_name, const Buf& x) {
    stretch_[x.producer].site = kNoSite;
    Op& op = push(kind, op_name, kAttnOutput);
    op.site = KEEL_LAB_ATTN_OUT;
    op.in = read(&op, x, Activation::kF32);
    op.out = write(&op, x.name, x.width);
    op.rows = x.width;
    op.k = s_.head_dim;
    op.token_bytes = uint64_t{x.width} * 8;
    return op;
}

Buf OpBuilder::exclude(const Buf& x, const Buf& qkv) {
    if (!s_.exclusive) return x;
    Op& op = change_attention(OpKind::kExclude, "exclude", x);
    op.more[0] = read(&op, qkv, Activation::kF32);
    op.token_bytes += uint64_t{s_.kv_dim()} * 4;
    op.token_macs = uint64_t{x.width} * 3;
    return result(x.name, x.width);
}

Buf OpBuilder::head_gate(const Buf& x, const Buf& layer_input) {
    if (!weights_->has(kAttnGate)) return x;
    const TensorSlot slot[] = {kAttnGate};
    const Buf gate = products("head_gates", slot, 1, layer_input);
    Op& op = change_attention(OpKind::kHeadGate, "head_gate", x);
    op.more[0] = read(&op, gate, Activation::kF32);
    op.token_macs = uint64_t{x.width} + uint64_t{s_.heads} * 20;
    return result(x.name, x.width);
}

// In place: of a row that has gate and up the first half, of one that has up alone all of it.
Buf OpBuilder::activate(OpKind kind, const char* op_name, TensorSlot slot, const Buf& x, uint32_t rows,
                        uint32_t row_macs) {
    Op& op = push(kind, op_name, slot);
    op.gate = m_.row().gate;
    op.site = KEEL_LAB_FFN_HIDDEN;
    op.in = read(&op, x, Activation::kF32);
    op.out = write(&op, x.name, x.width);
    op.rows = rows;
    op.token_bytes = uint64_t{x.width + rows} * 4;
    op.token_macs = uint64_t{rows} * row_macs;
    return result(x.name, rows);
}

Buf OpBuilder::glu(const Buf& gate_up) {
    return activate(OpKind::kGlu, "glu", kFfnGate, gate_up, gate_up.width / 2, 12);
}

Buf OpBuilder::activation(const Buf& up) {
    return activate(OpKind::kActivation, "activation", kFfnUp, up, up.width, 2);
}

Buf OpBuilder::post_norm(const Buf& x, TensorSlot weight) {
    if (!weights_->has(weight)) return x;
    const float* norm = weights_->vector(weight).op;
    Op& op = push(OpKind::kPostNorm, kSlots[weight].op, weight);
    op.norm = norm;
    op.in = read(&op, x, Activation::kF32);
    op.out = write(&op, x.name, x.width);
    op.rows = op.k = s_.embedding;
    op.fixed_bytes = uint64_t{s_.embedding} * 4;
    op.token_bytes = uint64_t{s_.embedding} * 8;
    op.token_macs = uint64_t{s_.embedding} * 4;
    return result(x.name, x.width);
}

void OpBuilder::add(const Buf& x, const Buf& y) {
    const auto redirect = [&](Op& op) {
        if (op.kind != OpKind::kPostNorm) {  // which still works in y
            op.reads &= ~op.writes;
            op.writes = 0;
        }
        op.accumulate = true;
        op.out = write(&op, x.name, x.width);
        op.reads |= buffer_bit(op.out);
    };
    Op& op = stretch_[y.producer];
    redirect(op);
    if (op.kind == OpKind::kLoraB) redirect(stretch_[y.producer - 1]);  // the one product that it adds to
}

void OpBuilder::logits(const Buf& x) {
    const Matrix matrix = s_.tied ? weights_->table(kTokenEmbedding, true)
                                  : weights_->product(KEEL_VARIANT_DENSE, kOutput, kSlotCount).matrix;
    Op& product = push(OpKind::kMatmul, "output", kOutput);
    multiply(&product, matrix, x);
    product.to_logits = true;
    if (!(s_.logit_softcap > 0)) return;
    Op& cap = push(OpKind::kSoftcap, "softcap", kOutput);
    cap.to_logits = true;
    cap.rows = s_.vocabulary;
    cap.token_bytes = uint64_t{s_.vocabulary} * 8;
    cap.token_macs = uint64_t{s_.vocabulary} * 20;
}

void OpBuilder::to_host(const Buf& x) {
    Op& op = push(OpKind::kToHost, "residual_to_host", kSlotCount);
    op.in = read(&op, x, Activation::kF32);
    op.rows = x.width;
    op.token_bytes = uint64_t{x.width} * 8;
}

Buf OpBuilder::from_own_memory(const Buf& x) {
    Op& op = push(OpKind::kFromOwnMemory, "residual_from_device", kSlotCount);
    op.out = write(&op, x.name, x.width);
    op.rows = x.width;
    op.token_bytes = uint64_t{x.width} * 8;
    return persist(result(x.name, x.width));
}

// What is known of an op once all its readers are.
void OpBuilder::finish(Op* op) {
    if (op->kind == OpKind::kQuantize) {
        op->token_bytes = uint64_t{op->rows} * 4;
        for (uint32_t i = 0; i < kCodedLayouts; ++i)
            if (op->out_coded[i] != kNoBuffer) op->token_bytes += activation_bytes(coded_layout(i), op->rows);
        op->token_macs = uint64_t{op->rows} * 2;
    }
    if (backend().runs && !backend().runs(*op)) refused_ = op->name;
    if (const uint64_t bytes = backend().cost(c_, op)) {
        buffers_->need_thread_bytes(bytes);
        op->writes |= buffer_bit(kThreadBuffer);
    }
    list_->decode_bytes += op->fixed_bytes + op->token_bytes;
    for (uint32_t n = 0; n < KEEL_STEP_COSTS; ++n) list_->step_us[n] += predict_us(*op, n + 1);
}

void OpBuilder::end_stretch() {
    for (uint32_t i = 0; i < count_; ++i) finish(&stretch_[i]);
    const StepShape shape = most_joined_shape(c_.threads, c_.tile_us);
    for (uint32_t i = 0, ops; i < count_; i += ops, ++dispatches_) {
        ops = backend().fuse(stretch_ + i, count_ - i, shape);
        lifetimes_.dispatch(stretch_ + i, ops, first_op_ + list_->count);
        if (backend().dispatch_us) stretch_[i].fixed_us += backend().dispatch_us(stretch_ + i, ops);
        for (uint32_t j = 0; j < ops; ++j) {
            if (observer_) observer_->op(observer_->context, stretch_[i + j], first_op_ + list_->count, dispatches_);
            // A file that changed since the ops were counted may ask for more of them.
            if (list_->count < list_->capacity) list_->ops[list_->count] = stretch_[i + j];
            ++list_->count;
            list_->own_count += !host_;
        }
    }
    count_ = 0;
}

}  // namespace keel
