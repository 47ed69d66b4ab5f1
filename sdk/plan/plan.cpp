#include "sdk/plan/plan.h"

#include "sdk/core/status.h"

namespace keel {

using kernels::kWeightTypes;

const char* const kBufferNames[kBufferCount] = {
    "residual",   "rope",           "attn_in",         "attn_in.q32",  "attn_in.q256",  "qkv",
    "attn_out",   "attn_state",     "attn_mean",       "attn_out.q32", "attn_out.q256", "post",
    "ffn_in",     "ffn_in.q32",     "ffn_in.q256",     "ffn",          "ffn.q32",       "ffn.q256",
    "head_in",    "head_in.q32",    "head_in.q256",    "attn_sub",     "attn_sub.q32",  "attn_sub.q256",
    "output_sub", "output_sub.q32", "output_sub.q256", "ffn_sub",      "ffn_sub.q32",   "ffn_sub.q256",
    "down_sub",   "down_sub.q32",   "down_sub.q256",   "thread",
};

namespace {

// Points in time at which buffers begin and end. A layer runs kStageAttnNorm..kStageFfnPost; all layers share buffers.
enum Stage : uint8_t {
    kStageEmbed,
    kStageRope,
    kStageAttnNorm,
    kStageAttnSub,
    kStageQkv,
    kStageStore,
    kStageAttention,
    kStageFinish,
    kStageOutputSub,
    kStageAttnOutput,
    kStageAttnPost,
    kStageFfnNorm,
    kStageFfnSub,
    kStageFfnUp,
    kStageGate,
    kStageQuantize,
    kStageDownSub,
    kStageFfnDown,
    kStageFfnPost,
    kStageOutputNorm,
    kStageHead,
    kStageSoftcap
};

struct Lifetime {
    Stage first, last;
};
// The ops of a pass run at the same time: what its first stage reads is alive to its last, what its last writes from
// its first.
constexpr Lifetime kLifetimes[kBufferCount] = {
    {kStageEmbed, kStageOutputNorm},  // residual
    {kStageRope, kStageFfnPost},      // rope
    {kStageAttnNorm, kStageQkv},         {kStageAttnNorm, kStageQkv},
    {kStageAttnNorm, kStageQkv},         {kStageQkv, kStageFinish},  // qkv
    {kStageStore, kStageAttnOutput},                                 // attn_out
    {kStageStore, kStageFinish},                                     // attn_state
    {kStageStore, kStageAttention},                                  // attn_mean
    {kStageStore, kStageAttnOutput},     {kStageStore, kStageAttnOutput},
    {kStageAttnOutput, kStageFfnPost},  // post
    {kStageFfnNorm, kStageQuantize},     {kStageFfnNorm, kStageQuantize},
    {kStageFfnNorm, kStageQuantize},     {kStageFfnUp, kStageFfnDown},  // ffn
    {kStageFfnUp, kStageFfnDown},        {kStageFfnUp, kStageFfnDown},
    {kStageOutputNorm, kStageHead},      {kStageOutputNorm, kStageHead},
    {kStageOutputNorm, kStageHead},      {kStageAttnSub, kStageQkv},
    {kStageAttnSub, kStageQkv},          {kStageAttnSub, kStageQkv},
    {kStageOutputSub, kStageAttnOutput}, {kStageOutputSub, kStageAttnOutput},
    {kStageOutputSub, kStageAttnOutput}, {kStageFfnSub, kStageQuantize},
    {kStageFfnSub, kStageQuantize},      {kStageFfnSub, kStageQuantize},
    {kStageDownSub, kStageFfnDown},      {kStageDownSub, kStageFfnDown},
    {kStageDownSub, kStageFfnDown},      {kStageEmbed, kStageSoftcap},  // thread
};

// Greedy packing: largest buffer first, each at the lowest offset where it meets no placed buffer that is alive at the
// same time. (Optimal packing is NP-complete; with two dozen buffers greedy is within a few percent of the lower
// bound.)
void pack_buffers(ExecutionPlan* plan) {
    bool placed[kBufferCount] = {};
    plan->scratch_bytes = 0;
    for (;;) {
        uint32_t next = kBufferCount;
        for (uint32_t i = 0; i < kBufferCount; ++i)
            if (!placed[i] && plan->buffers[i].bytes &&
                (next == kBufferCount || plan->buffers[i].bytes > plan->buffers[next].bytes))
                next = i;
        if (next == kBufferCount) break;
        Buffer& b = plan->buffers[next];
        b.offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (uint32_t i = 0; i < kBufferCount; ++i) {
                const Buffer& other = plan->buffers[i];
                const bool together = other.first_stage <= b.last_stage && b.first_stage <= other.last_stage;
                if (!placed[i] || !together || b.offset >= other.offset + other.bytes ||
                    other.offset >= b.offset + b.bytes)
                    continue;
                b.offset = other.offset + other.bytes;
                moved = true;
            }
        }
        placed[next] = true;
        if (b.offset + b.bytes > plan->scratch_bytes) plan->scratch_bytes = b.offset + b.bytes;
    }
}

// Rates of the prediction: bytes and multiply-adds per microsecond and thread. They need only be right within a factor
// of two or so: the executor corrects them by what it measures, and results never depend on them.
struct Rates {
    double bytes_per_us, q8_macs_per_us, f32_macs_per_us, decode_macs_per_us;
};
constexpr Rates kRates[] = {
    // by keel_cpu
    {},
    {8000, 700, 250, 120},          // scalar
    {10000, 60000, 30000, 10000},   // avx2
    {20000, 200000, 60000, 20000},  // avx512
    {20000, 200000, 60000, 20000},  // amx
    {10000, 60000, 30000, 10000},   // neon
};
static_assert(sizeof kRates / sizeof kRates[0] == kernels::kIsaLimit);

struct Forms {
    bool f32 = false, q32 = false, q256 = false;
    void need(uint32_t activation_block) {
        f32 |= activation_block == 0;
        q32 |= activation_block == 32;
        q256 |= activation_block == 256;
    }
    void need(const Forms& o) {
        f32 |= o.f32;
        q32 |= o.q32;
        q256 |= o.q256;
    }
};

// The three forms an activation can be read in.
struct Input {
    BufferId f32, q32, q256;
    BufferId of(uint32_t activation_block) const {
        return activation_block == 0 ? f32 : activation_block == 32 ? q32 : q256;
    }
};
constexpr BufferId sub_buffer(WprojGroup group) {
    return static_cast<BufferId>(kBufSub + 3 * group);
}
constexpr Input forms_from(BufferId f32) {
    return {f32, static_cast<BufferId>(f32 + 1), static_cast<BufferId>(f32 + 2)};
}
constexpr Input kAttnInput = forms_from(kBufAttnIn), kFfnInput = forms_from(kBufFfnIn),
                kHiddenInput = forms_from(kBufFfn), kHeadInput = forms_from(kBufHeadIn);
constexpr Input kOutputInput = {kBufAttnOut, kBufAttnOut32, kBufAttnOut256};

// Emits ops one by one into the arrays of the plan's passes, or nowhere, keeping the one that was asked for. Layer by
// layer, first what the dense variant has, then what the low-rank variant has; the second finds the first one's weights in
// placed_.
class Builder {
  public:
    Builder(const keel_model& model, const PlanConfig& config, WeightPlacer& weights, ExecutionPlan* plan)
        : m_(model), s_(model.spec), c_(config), weights_(weights), plan_(plan) {}
    void find_op(uint32_t low_rank, uint32_t index, Op* out, uint32_t* pass) {
        wanted_list_ = low_rank;
        wanted_index_ = index;
        wanted_ = out;
        wanted_pass_ = pass;
    }
    // Notes the first and last op of `stages` in `layer` (any layer when null) of a list.
    void find_range(uint32_t low_rank, Lifetime stages, const int32_t* layer, uint32_t* first, uint32_t* last) {
        wanted_list_ = low_rank;
        range_stages_ = stages;
        range_layer_ = layer;
        range_first_ = first;
        range_last_ = last;
        *first = UINT32_MAX;
    }

    void build() {
        for (OpList& list : plan_->variant) list.count = 0, list.decode_bytes = 0;
        plan_->low_rank_records = 0;
        plan_->low_rank_bytes = 0;
        plan_->rope_sets = m_.row().local_rope && s_.window ? 2 : 1;
        plan_->rope_factors = nullptr;
        const GgufTensor* factors = m_.tensor(kRopeFreqs, 0);
        if (m_.tensor(kRopeFactorsLong, 0))
            factors = m_.tensor(c_.context_tokens > s_.rope_original_context ? kRopeFactorsLong : kRopeFactorsShort, 0);
        if (factors) plan_->rope_factors = weights_.vector(*factors);

        const GgufTensor& embedding = *m_.tensor(kTokenEmbedding, 0);
        Op embed = make(OpKind::kEmbed, kStageEmbed, kTokenEmbedding, -1);
        place(&embed, embedding, !s_.tied);
        embed.weight_type = embedding.type;
        embed.rows = s_.embedding;
        embed.k = s_.embedding;
        embed.w_row_bytes = kernels::weight_row_bytes(embedding.type, s_.embedding);
        embed.out = kBufResidual;
        embed.token_bytes = embed.w_row_bytes + uint64_t{s_.embedding} * 4;
        each_list([&] { emit(embed); });

        Op rope = make(OpKind::kRopeTable, kStageRope, kRopeFreqs, -1);
        rope.out = kBufRope;
        rope.rows = plan_->rope_sets * s_.rope_dims;
        rope.token_bytes = uint64_t{rope.rows} * 4;
        rope.token_macs = uint64_t{rope.rows} * 30;
        each_list([&] { emit(rope); });

        for (uint32_t layer = 0; layer < s_.layers; ++layer) {
            for (uint32_t slot = kGlobalSlots; slot < kSlotCount; ++slot) placed_[slot] = {};
            if (c_.low_rank.usable) read_records(layer);
            each_list([&] { build_layer(layer); });
        }
        each_list([&] { build_head(embedding, embed); });
        size_buffers();
        pack_buffers(plan_);
    }

  private:
    // Weights of a slot of the current layer, or of the whole model: both lists refer to them.
    struct Placed {
        bool done, repacked;
        keel_repack_skip repack_skip;
        const void* matrix;
        const float* vector;
    };

    template <class Fn>
    void each_list(Fn&& fn) {
        for (list_ = 0; list_ < (c_.low_rank.usable ? 2u : 1u); ++list_) fn();
    }
    // The current layer's records; in place mode their contents are checked, unless they are to be left where they are
    // until needed.
    void read_records(uint32_t layer) {
        const keel_status status = low_rank_layer(c_.low_rank, &cursor_, &low_);
        if (weights_.status == KEEL_OK && status != KEEL_OK)
            weights_.status = fail(weights_.error, status, 0, "W_proj cache", "the reader failed");
        if (weights_.status == KEEL_OK && !weights_.arena.counting() && weights_.mode != KEEL_WEIGHTS_MAP)
            weights_.status = wproj_check_payload(c_.low_rank.file, low_.parts, layer, weights_.error);
        if (weights_.status != KEEL_OK) low_ = {};
        for (const void*& basis : basis_) basis = nullptr;
    }
    // Whether the op for this tensor is to be one over a record.
    bool low_rank(TensorSlot slot) const {
        return list_ == 1 && wproj_slot_of(slot) < kWprojSlots && low_.uses(wproj_slot_of(slot));
    }

    Op make(OpKind kind, Stage stage, TensorSlot slot, int32_t layer) {
        Op op = {};
        op.kind = kind;
        op.stage = stage;
        op.slot = slot;
        op.layer = layer;
        return op;
    }
    void emit(Op op) {
        predict(&op);
        OpList& list = plan_->variant[list_];
        const uint32_t index = list.count++;
        list.decode_bytes += op.fixed_bytes + op.token_bytes;
        double& pass_us = pass_us_[list_];
        const bool joins = op.join != Join::kNo && (op.join != Join::kNarrow || is_narrow(op, pass_us, c_.tile_us));
        pass_us = (joins ? pass_us : 0) + predict_us(op, 1);
        if (!joins) ++passes_[list_];
        if (list.ops) list.ops[index] = op;
        if (list_ != wanted_list_) return;
        if (wanted_ && index == wanted_index_) {
            *wanted_ = op;
            *wanted_pass_ = passes_[list_] - 1;
        }
        if (range_first_ && op.stage >= range_stages_.first && op.stage <= range_stages_.last &&
            (!range_layer_ || *range_layer_ == op.layer)) {
            if (*range_first_ == UINT32_MAX) *range_first_ = index;
            *range_last_ = index;
        }
    }
    void predict(Op* op) const {
        const Rates& rates = kRates[c_.cpu];
        const bool is_float = op->kind != OpKind::kMatmul || kWeightTypes[op->weight_type].activation_block == 0;
        const double macs_per_us = is_float ? rates.f32_macs_per_us
                                   : c_.q8  ? rates.q8_macs_per_us
                                            : rates.decode_macs_per_us;
        op->fixed_us = static_cast<double>(op->fixed_bytes) / rates.bytes_per_us;
        op->token_us = static_cast<double>(op->token_bytes) / rates.bytes_per_us;
        op->compute_us = static_cast<double>(op->token_macs) / macs_per_us;
    }
    // Activation block of a product with weights of this type: 0 = f32.
    uint32_t block_of(uint32_t type) const { return c_.q8 ? kWeightTypes[type].activation_block : 0; }
    // Forms that the products with these weights (those that exist in the layer) read.
    template <size_t N>
    Forms forms_of(const TensorSlot (&slots)[N], uint32_t layer) const {
        Forms f;
        for (TensorSlot slot : slots)
            if (const GgufTensor* t = m_.tensor(slot, layer))
                f.need(block_of(low_rank(slot) ? low_.parts.basis[wproj_group(wproj_slot_of(slot))].type : t->type));
        return f;
    }
    void set_forms(Op* op, const Forms& f) {
        op->want_f32 = f.f32;
        op->want_q32 = f.q32;
        op->want_q256 = f.q256;
    }
    // Elements that a stretch of an activation must be a multiple of to be written in these forms.
    static uint32_t widest_block(const Forms& f) { return f.q256 ? 256 : f.q32 ? 32 : 1; }
    const float* vector_of(TensorSlot slot, uint32_t layer) {
        Placed& p = placed_[slot];
        const GgufTensor* t = m_.tensor(slot, layer);
        if (t && !p.done) p.vector = weights_.vector(*t);
        p.done = true;
        return p.vector;
    }

    void norm(OpKind kind, Stage stage, TensorSlot slot, uint32_t layer, BufferId in, BufferId out,
              const Forms& forms) {
        Op op = make(kind, stage, slot, static_cast<int32_t>(layer));
        op.norm = vector_of(slot, layer);
        op.in = in;
        op.out = out;
        op.rows = op.k = s_.embedding;
        set_forms(&op, forms);
        op.fixed_bytes = uint64_t{s_.embedding} * 4;
        op.token_bytes = uint64_t{s_.embedding} * 8;
        op.token_macs = uint64_t{s_.embedding} * 4;
        emit(op);
    }
    // Places the weights of an op, once.
    void place(Op* op, const GgufTensor& t, bool lookup) {
        Placed& p = placed_[op->slot];
        if (!p.done) place_matrix(t, lookup, &p);
        set_matrix(op, p);
    }
    void place_matrix(const GgufTensor& t, bool lookup, Placed* p) {
        p->done = true;
        p->repacked = weights_.interleaves(t, c_.q8, lookup, &p->repack_skip);
        p->matrix = p->repacked ? weights_.interleaved_matrix(t) : weights_.matrix(t);
    }
    static void set_matrix(Op* op, const Placed& p) {
        op->w = p.matrix;
        op->repacked = p.repacked;
        op->repack_skip = p.repack_skip;
    }
    // A matrix of the W_proj cache. `shared`: it is placed already, at *shared (null in count mode).
    Placed place_factor(uint32_t type, uint32_t columns, uint32_t rows, uint64_t offset, uint64_t bytes,
                        const void* const* shared) {
        GgufTensor t = {};
        t.type = type;
        t.dims[0] = columns;
        t.dims[1] = rows;
        t.offset = offset;
        t.bytes = bytes;
        Placed p = {};
        if (shared) {
            p.repacked = weights_.interleaves(t, c_.q8, false, &p.repack_skip);
            p.matrix = *shared;
            return p;
        }
        const keel_reader* model = weights_.reader;
        weights_.reader = &c_.low_rank.file.reader;
        place_matrix(t, false, &p);
        weights_.reader = model;
        plan_->low_rank_bytes += bytes;
        return p;
    }

    // What follows from the shape of an op's matrix: in which form it reads its input, sizes, bytes and work.
    void set_shape(Op* op, uint32_t type, uint32_t k, uint32_t rows, const Input& in) {
        const uint32_t block = block_of(type);
        op->in = in.of(block);
        op->weight_type = type;
        op->k = k;
        op->rows = rows;
        op->w_row_bytes = kernels::weight_row_bytes(type, k);
        if (k > longest_row_) longest_row_ = k;
        op->fixed_bytes = op->w_row_bytes * rows;
        op->token_bytes = (block == 0 ? uint64_t{k} * 4 : kernels::q8_column_bytes(k, block)) + uint64_t{rows} * 4;
        op->token_macs = uint64_t{rows} * k;
    }
    // The product with a layer's tensor, if there is one, or with its record.
    void layer_matmul(Join join, Stage stage, TensorSlot slot, TensorSlot bias, uint32_t layer, const Input& in,
                      BufferId out, uint32_t out_offset, bool accumulate) {
        const GgufTensor* t = m_.tensor(slot, layer);
        if (!t) return;
        Op op = make(OpKind::kMatmul, stage, slot, static_cast<int32_t>(layer));
        op.join = join;
        op.out = out;
        op.out_offset = out_offset;
        op.accumulate = accumulate;
        if (bias < kSlotCount) op.bias = vector_of(bias, layer);
        const WprojSlot record_slot = list_ == 1 ? wproj_slot_of(slot) : kWprojSlots;
        if (record_slot < kWprojSlots) {
            op.low_rank_reason = low_.reason[record_slot];
            op.low_rank_error = low_.parts.record[record_slot].error;
        }
        if (low_rank(slot)) {
            const WprojRecord& r = low_.parts.record[record_slot];
            set_matrix(&op, place_factor(r.type, r.rank, r.rows, r.offset, r.bytes, nullptr));
            set_shape(&op, r.type, r.rank, r.rows, forms_from(sub_buffer(wproj_group(record_slot))));
            if (r.bias) {
                op.bias = weights_.record_bias(c_.low_rank.file.reader, r.bias, r.rows, op.bias);
                plan_->low_rank_bytes += uint64_t{r.rows} * 4;
            }
            ++plan_->low_rank_records;
        } else {
            place(&op, *t, false);
            set_shape(&op, t->type, static_cast<uint32_t>(t->dims[0]), static_cast<uint32_t>(t->dims[1]), in);
        }
        emit(op);
    }
    // x_sub = Pt x of a group, where its records need it.
    void project(Stage stage, WprojGroup group, TensorSlot first, uint32_t layer, const Input& in) {
        if (list_ == 0 || !low_.uses(group)) return;
        const WprojBasis& basis = low_.parts.basis[group];
        Forms forms;
        for (uint32_t slot = 0; slot < kWprojSlots; ++slot)
            if (wproj_group(static_cast<WprojSlot>(slot)) == group && low_.uses(static_cast<WprojSlot>(slot)))
                forms.need(block_of(low_.parts.record[slot].type));
        sub_[group].need(forms);
        sub_[group].f32 = true;
        if (basis.rank > sub_rank_[group]) sub_rank_[group] = basis.rank;
        const void* const* shared = nullptr;  // the groups of a version 1 file have one basis
        for (uint32_t other = 0; other < group; ++other)
            if (low_.uses(static_cast<WprojGroup>(other)) && low_.parts.basis[other].offset == basis.offset)
                shared = &basis_[other];
        Op op = make(OpKind::kMatmul, stage, first, static_cast<int32_t>(layer));
        op.projects = 1;
        op.out = sub_buffer(group);
        set_matrix(&op, place_factor(basis.type, basis.columns, basis.rank, basis.offset, basis.bytes, shared));
        set_shape(&op, basis.type, basis.columns, basis.rank, in);
        basis_[group] = op.w;
        emit(op);
        if (!forms.q32 && !forms.q256) return;
        Op quantize = make(OpKind::kQuantize, stage, first, static_cast<int32_t>(layer));
        quantize.projects = 1;
        quantize.in = quantize.out = sub_buffer(group);
        quantize.rows = basis.rank;
        set_forms(&quantize, forms);
        quantize.token_bytes = uint64_t{basis.rank} * 4 + kernels::q8_column_bytes(basis.rank, widest_block(forms));
        quantize.token_macs = uint64_t{basis.rank} * 2;
        emit(quantize);
    }

    uint32_t kv_row_bytes_of(kernels::KvFormat f) const {
        return kernels::kv_code_bytes(f, s_.head_dim) + kernels::kv_scale_bytes(f, s_.head_dim);
    }

    void build_layer(uint32_t layer) {
        const bool post = m_.row().required & slot_bit(kAttnPostNorm);
        const int32_t l = static_cast<int32_t>(layer);

        const Forms qkv = forms_of({kAttnQkv, kAttnQ, kAttnK, kAttnV}, layer);
        attn_in_.need(qkv);
        norm(OpKind::kNorm, kStageAttnNorm, kAttnNorm, layer, kBufResidual, kBufAttnIn, qkv);
        project(kStageAttnSub, kWprojAttnIn, kAttnQ, layer, kAttnInput);
        layer_matmul(Join::kNo, kStageQkv, kAttnQkv, kSlotCount, layer, kAttnInput, kBufQkv, 0, false);
        layer_matmul(Join::kNo, kStageQkv, kAttnQ, kAttnQBias, layer, kAttnInput, kBufQkv, 0, false);
        layer_matmul(Join::kYes, kStageQkv, kAttnK, kAttnKBias, layer, kAttnInput, kBufQkv, s_.q_dim(), false);
        layer_matmul(Join::kYes, kStageQkv, kAttnV, kAttnVBias, layer, kAttnInput, kBufQkv, s_.q_dim() + s_.kv_dim(),
                     false);

        const KvLayerFormats& formats = c_.kv.formats(layer);
        const uint32_t kv_row_bytes = kv_row_bytes_of(formats.k) + kv_row_bytes_of(formats.v);
        Op store = make(OpKind::kStoreKv, kStageStore, kAttnQNorm, l);
        store.in = store.out = kBufQkv;
        store.norm = vector_of(kAttnQNorm, layer);
        store.norm2 = vector_of(kAttnKNorm, layer);
        store.rope_set = m_.row().local_rope && s_.windowed(layer) ? 1 : 0;
        store.rows = s_.qkv_dim();
        store.token_bytes = uint64_t{s_.qkv_dim()} * 8 + uint64_t{s_.kv_heads} * kv_row_bytes;
        store.token_macs = uint64_t{s_.qkv_dim()} * 4;
        emit(store);

        Op attention = make(OpKind::kAttention, kStageAttention, kAttnOutput, l);
        attention.join = Join::kFlat;
        attention.in = kBufQkv;
        attention.out = kBufAttnOut;
        attention.rows = s_.q_dim();
        attention.k = s_.head_dim;
        attention.rope_set = store.rope_set;
        attention.window = s_.windowed(layer) ? s_.window : 0;
        attention.token_bytes = uint64_t{s_.q_dim()} * 8;
        emit(attention);

        const Forms attn_out = forms_of({kAttnOutput}, layer);
        attn_out_.need(attn_out);
        Op finish = make(OpKind::kAttentionFinish, kStageFinish, kAttnOutput, l);
        finish.in = finish.out = kBufAttnOut;
        finish.rows = s_.q_dim();
        set_forms(&finish, attn_out);
        // A unit can write its part of the 8-bit forms if its heads are whole blocks.
        const uint32_t unit_floats = s_.heads / s_.kv_heads * s_.head_dim;
        if (unit_floats % widest_block(attn_out) == 0) finish.join = Join::kFlat;
        finish.token_bytes = uint64_t{s_.q_dim()} * 8;
        finish.token_macs = uint64_t{s_.q_dim()} * 3;
        emit(finish);

        project(kStageOutputSub, kWprojAttnOut, kAttnOutput, layer, kOutputInput);
        layer_matmul(Join::kNo, kStageAttnOutput, kAttnOutput, kSlotCount, layer, kOutputInput,
                     post ? kBufPost : kBufResidual, 0, !post);
        if (post) norm(OpKind::kPostNorm, kStageAttnPost, kAttnPostNorm, layer, kBufPost, kBufResidual, {});

        const Forms up = forms_of({kFfnGate, kFfnUp, kFfnGateUp}, layer);
        ffn_in_.need(up);
        norm(OpKind::kNorm, kStageFfnNorm, kFfnNorm, layer, kBufResidual, kBufFfnIn, up);
        project(kStageFfnSub, kWprojFfnIn, kFfnGate, layer, kFfnInput);
        layer_matmul(Join::kNo, kStageFfnUp, kFfnGateUp, kSlotCount, layer, kFfnInput, kBufFfn, 0, false);
        layer_matmul(Join::kNo, kStageFfnUp, kFfnGate, kSlotCount, layer, kFfnInput, kBufFfn, 0, false);
        layer_matmul(Join::kYes, kStageFfnUp, kFfnUp, kSlotCount, layer, kFfnInput, kBufFfn, s_.feed_forward, false);

        const Forms down = forms_of({kFfnDown}, layer);
        ffn_out_.need(down);
        Op gate = make(OpKind::kGate, kStageGate, kFfnGate, l);
        gate.gate = m_.row().gate;
        gate.in = gate.out = kBufFfn;
        gate.rows = s_.feed_forward;
        gate.token_bytes = uint64_t{s_.feed_forward} * 12;
        gate.token_macs = uint64_t{s_.feed_forward} * 12;
        gate.join =
            Join::kYes;  // its units compute the same rows of gate and up; inspect saw to a multiple of kRowsPerUnit
        gate.want_f32 = 1;
        emit(gate);
        if (down.q32 || down.q256) {
            // Joins in units of whole blocks, unless the larger units would leave threads idle for more than 1/32 of
            // the pass.
            const uint32_t block = widest_block(down), units = s_.feed_forward / block,
                           rounds = (units + c_.threads - 1) / c_.threads;
            Op quantize = make(OpKind::kQuantize, kStageQuantize, kFfnGate, l);
            quantize.join = uint64_t{rounds} * c_.threads * 32 <= uint64_t{units} * 33 ? Join::kNarrow : Join::kNo;
            quantize.unit_rows = static_cast<uint16_t>(block);
            quantize.in = quantize.out = kBufFfn;
            quantize.rows = s_.feed_forward;
            set_forms(&quantize, down);
            quantize.token_bytes = uint64_t{s_.feed_forward} * 4 + kernels::q8_column_bytes(s_.feed_forward, block);
            quantize.token_macs = uint64_t{s_.feed_forward} * 2;
            emit(quantize);
        }
        project(kStageDownSub, kWprojFfnHidden, kFfnDown, layer, kHiddenInput);
        layer_matmul(Join::kNo, kStageFfnDown, kFfnDown, kSlotCount, layer, kHiddenInput,
                     post ? kBufPost : kBufResidual, 0, !post);
        if (post) norm(OpKind::kPostNorm, kStageFfnPost, kFfnPostNorm, layer, kBufPost, kBufResidual, {});
    }

    void build_head(const GgufTensor& embedding, const Op& embed) {
        const GgufTensor& head = s_.tied ? embedding : *m_.tensor(kOutput, 0);
        head_in_.need(block_of(head.type));
        Forms forms = head_in_;
        forms.f32 = true;  // the hidden-state view shows it
        head_in_.f32 = true;
        Op op = make(OpKind::kOutputNorm, kStageOutputNorm, kOutputNorm, -1);
        op.norm = vector_of(kOutputNorm, 0);
        op.in = kBufResidual;
        op.out = kBufHeadIn;
        op.rows = op.k = s_.embedding;
        set_forms(&op, forms);
        op.fixed_bytes = uint64_t{s_.embedding} * 4;
        op.token_bytes = uint64_t{s_.embedding} * 12;
        op.token_macs = uint64_t{s_.embedding} * 4;
        emit(op);
        Op product = make(OpKind::kMatmul, kStageHead, kOutput, -1);
        if (s_.tied) {
            product.w = embed.w;
            product.repacked = embed.repacked;
            product.repack_skip = embed.repack_skip;
        } else {
            place(&product, head, false);
        }
        product.out = kBufHeadIn;
        product.to_logits = 1;
        set_shape(&product, head.type, static_cast<uint32_t>(head.dims[0]), static_cast<uint32_t>(head.dims[1]),
                  kHeadInput);
        emit(product);
        if (s_.logit_softcap > 0) {
            Op cap = make(OpKind::kSoftcap, kStageSoftcap, kOutput, -1);
            cap.in = cap.out = kBufHeadIn;
            cap.to_logits = 1;
            cap.rows = s_.vocabulary;
            cap.token_bytes = uint64_t{s_.vocabulary} * 8;
            cap.token_macs = uint64_t{s_.vocabulary} * 20;
            emit(cap);
        }
    }

    void size(BufferId id, uint64_t column_bytes, uint64_t columns) {
        Buffer& b = plan_->buffers[id];
        b = {};
        b.column_bytes = column_bytes;
        b.bytes = kernels::round64(column_bytes * columns);
        b.first_stage = kLifetimes[id].first;
        b.last_stage = kLifetimes[id].last;
    }
    void size_forms(BufferId f32, BufferId q32, BufferId q256, uint32_t k, const Forms& forms, bool f32_elsewhere) {
        const uint64_t n = c_.chunk_tokens;
        if (!f32_elsewhere) size(f32, kernels::round64(uint64_t{k} * 4), forms.f32 ? n : 0);
        size(q32, forms.q32 ? kernels::q8_column_bytes(k, 32) : 0, n);
        size(q256, forms.q256 ? kernels::q8_column_bytes(k, 256) : 0, n);
    }
    void size_buffers() {
        const uint64_t n = c_.chunk_tokens;
        const auto floats = [](uint64_t count) { return kernels::round64(count * 4); };
        size(kBufResidual, floats(s_.embedding), n);
        size(kBufRope, floats(uint64_t{plan_->rope_sets} * s_.rope_dims), n);
        size_forms(kBufAttnIn, kBufAttnIn32, kBufAttnIn256, s_.embedding, attn_in_, false);
        size(kBufQkv, floats(s_.qkv_dim()), n);
        size(kBufAttnOut, floats(s_.q_dim()), n);
        size(kBufAttnState, floats(uint64_t{2} * s_.heads), n);
        size(kBufAttnMean, floats(uint64_t{2} * s_.heads * c_.kv_mean_pairs), n);
        size_forms(kBufAttnOut, kBufAttnOut32, kBufAttnOut256, s_.q_dim(), attn_out_, true);
        size(kBufPost, m_.row().required & slot_bit(kAttnPostNorm) ? floats(s_.embedding) : 0, n);
        size_forms(kBufFfnIn, kBufFfnIn32, kBufFfnIn256, s_.embedding, ffn_in_, false);
        size(kBufFfn, floats(uint64_t{2} * s_.feed_forward), n);
        size_forms(kBufFfn, kBufFfn32, kBufFfn256, s_.feed_forward, ffn_out_, true);
        size_forms(kBufHeadIn, kBufHeadIn32, kBufHeadIn256, s_.embedding, head_in_, false);
        for (uint32_t group = 0; group < kWprojGroups; ++group) {
            const Input sub = forms_from(sub_buffer(static_cast<WprojGroup>(group)));
            size_forms(sub.f32, sub.q32, sub.q256, sub_rank_[group], sub_[group], false);
        }
        const uint32_t attention = kernels::attention_scratch_floats(s_.head_dim);
        uint64_t thread_floats = attention > s_.embedding ? attention : s_.embedding;
        const uint64_t matmul_floats = kernels::matmul_scratch_bytes(longest_row_) / 4;
        if (thread_floats < matmul_floats) thread_floats = matmul_floats;
        size(kBufThread, floats(thread_floats), c_.threads);
    }

    const keel_model& m_;
    const ModelSpec& s_;
    const PlanConfig& c_;
    WeightPlacer& weights_;
    ExecutionPlan* plan_;
    uint32_t list_ = 0;  // keel_variant of the list that is written
    Placed placed_[kSlotCount] = {};
    LowRankLayer low_ = {};  // of the current layer
    WprojCursor cursor_ = {};
    const void* basis_[kWprojGroups] = {};
    Forms sub_[kWprojGroups];
    uint32_t sub_rank_[kWprojGroups] = {};
    uint32_t longest_row_ = 0;  // of a matrix
    uint32_t wanted_list_ = 0, wanted_index_ = 0;
    Op* wanted_ = nullptr;
    uint32_t *wanted_pass_ = nullptr, passes_[2] = {};
    double pass_us_[2] = {};  // predicted for the ops of the current range of work, by list
    Lifetime range_stages_ = {};
    const int32_t* range_layer_ = nullptr;
    uint32_t *range_first_ = nullptr, *range_last_ = nullptr;
    Forms attn_in_, attn_out_, ffn_in_, ffn_out_, head_in_;
};

}  // namespace

void build_plan(const keel_model& model, const PlanConfig& config, WeightPlacer& weights, Op* ops, uint32_t dense_count,
                ExecutionPlan* plan) {
    plan->variant[KEEL_VARIANT_DENSE].ops = ops;
    plan->variant[KEEL_VARIANT_LOW_RANK].ops = ops ? ops + dense_count : nullptr;
    Builder(model, config, weights, plan).build();
}

keel_status query_plan(const keel_model& model, const PlanConfig& config, WeightPlacer& weights, PlanQuery* query,
                       ExecutionPlan* plan) {
    Builder(model, config, weights, plan).build();
    const uint32_t dense_count = plan->variant[KEEL_VARIANT_DENSE].count;
    if (query->index >= dense_count + plan->variant[KEEL_VARIANT_LOW_RANK].count) return KEEL_E_ARGUMENT;
    query->low_rank = query->index >= dense_count;
    const uint32_t before = query->low_rank ? dense_count : 0;
    Builder find(model, config, weights, plan);
    find.find_op(query->low_rank, query->index - before, &query->op, &query->dispatch);
    find.build();
    const Buffer& b = plan->buffers[query->op.out];
    const bool per_layer = b.first_stage >= kStageAttnNorm && b.last_stage <= kStageFfnPost;
    Builder range(model, config, weights, plan);
    range.find_range(query->low_rank, kLifetimes[query->op.out], per_layer ? &query->op.layer : nullptr,
                     &query->first_op, &query->last_op);
    range.build();
    query->first_op += before;
    query->last_op += before;
    return KEEL_OK;
}

const char* op_name(const Op& op) {
    if (op.projects) {
        const uint32_t group = wproj_group(wproj_slot_of(op.slot));
        return op.kind == OpKind::kMatmul ? kBufferNames[kBufSub + 3 * group] : "sub_quantize";
    }
    switch (op.kind) {
        case OpKind::kStoreKv:
            return "store_kv";
        case OpKind::kAttention:
            return "attention";
        case OpKind::kAttentionFinish:
            return "attention_finish";
        case OpKind::kGate:
            return "gate";
        case OpKind::kQuantize:
            return "ffn_quantize";
        case OpKind::kSoftcap:
            return "softcap";
        case OpKind::kRopeTable:
            return "rope_table";
        default:
            return kSlots[op.slot].op;
    }
}

}  // namespace keel
