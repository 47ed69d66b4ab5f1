// Ops in the field's words: what forward.cpp is written in. Each of these functions appends one op (or the few that a
// product needs around it) with its shape, bytes, weights and the buffers it reads and writes.
#pragma once
#include <stddef.h>

#include "sdk/plan/buffers.h"
#include "sdk/plan/config.h"
#include "sdk/plan/weights.h"

namespace keel {

// Told of every op, in order.
struct OpObserver {
    void (*op)(void* context, const Op& op, uint32_t index, uint32_t dispatch);
    void* context;
};

// An activation: f32[width] a token, and those 8-bit layouts of it that products read.
struct Buf {
    const char* name;
    uint32_t width;
    uint32_t producer;  // op of the current stretch that writes its layouts, or kNoProducer
};
constexpr uint32_t kNoProducer = UINT32_MAX;

// Builds the ops of one variant. Ops are gathered by stretches (a layer, or what stands before or behind them); no
// value but the ones that `persist` crosses from one stretch into the next.
class OpBuilder {
  public:
    OpBuilder(const keel_model& model, const PlanConfig& config, PlanWeights* weights, BufferTable* buffers,
              keel_variant variant, bool adapted, OpList* list, uint32_t first_op, const LifetimeObserver* lifetimes,
              const OpObserver* ops)
        : m_(model),
          s_(model.spec),
          c_(config),
          host_(config.host_layer == 0),
          weights_(weights),
          buffers_(buffers),
          variant_(variant),
          adapted_(adapted),
          list_(list),
          first_op_(first_op),
          lifetimes_(buffers, lifetimes),
          observer_(ops) {}

    bool overflowed() const { return overflowed_; }
    const char* refused() const { return refused_; }  // an op that its backend does not run; null: none

  protected:
    Buf embed(const char* name);
    // In place: adds what the token before leaves of its own embedding, where the model has a gate for it.
    void smear(const Buf& x);
    Buf rope_table(const char* name, uint32_t sets);
    // Norms, by weights that every layer or the model has.
    Buf rms_norm(const char* name, const Buf& x, TensorSlot weight);
    Buf output_norm(const char* name, const Buf& x);
    // A norm whose f32 rows later stretches read too. It may write over what it reads.
    Buf kept_norm(const char* name, const Buf& x, TensorSlot weight);
    // sum of c[i] * x[i] by element over the first `terms`, c: f32[terms][embedding], null in count mode. `name` may be
    // that of an x.
    template <size_t N>
    Buf mix(const char* name, TensorSlot slot, const float* c, const Buf (&x)[N], uint32_t terms = N) {
        static_assert(N <= kMaxTerms);
        return mix_of(name, slot, c, x, terms);
    }
    // y = [W x + bias of each slot the model has, one behind another]. In the low-rank variant W x may be W_proj x_sub.
    template <size_t N>
    Buf matmul(const char* name, const TensorSlot (&slots)[N], Buf x) {
        return products(name, slots, N, x);
    }
    // In place; nothing where the model has no such norms.
    void qk_norm(const Buf& qkv);
    void rope(const Buf& qkv, const Buf& table, uint32_t set);
    void kv_append(const Buf& qkv, uint32_t set);
    Buf attention(const char* name, const Buf& qkv, uint32_t set, uint32_t window);  // window 0: all positions
    // In place, where the model has it.
    Buf exclude(const Buf& x, const Buf& qkv);
    Buf head_gate(const Buf& x, const Buf& layer_input);
    Buf glu(const Buf& gate_up);
    Buf activation(const Buf& up);
    // x itself where the model has no such norm.
    Buf post_norm(const Buf& x, TensorSlot weight);
    // x += y. The product or norm that made y adds to x itself, so that y needs no bytes.
    void add(const Buf& x, const Buf& y);
    void logits(const Buf& x);
    // x of every token out of a backend's own memory, and into the host's buffer of that name.
    void to_host(const Buf& x);
    Buf from_own_memory(const Buf& x);
    const float* coefficients(TensorSlot slot) { return weights_->vector(slot).op; }
    BufferId buffer_of(const Buf& x) { return buffers_->find(x.name, Activation::kF32, x.width); }
    // Values that later stretches read keep their name.
    static Buf persist(const Buf& x) { return {x.name, x.width, kNoProducer}; }
    void end_stretch();

    const keel_model& m_;
    const ModelSpec& s_;
    const PlanConfig& c_;
    int32_t layer_ = -1;
    bool host_;  // ops are computed in host memory

  private:
    static constexpr uint32_t kMaxStretch = 48;

    Op& push(OpKind kind, const char* name, TensorSlot slot);
    Buf mix_of(const char* name, TensorSlot slot, const float* c, const Buf* x, uint32_t terms);
    Op& change_attention(OpKind kind, const char* op_name, const Buf& x);
    Buf activate(OpKind kind, const char* op_name, TensorSlot slot, const Buf& x, uint32_t rows, uint32_t row_macs);
    uint32_t last() const { return count_ - 1; }
    BufferId read(Op* op, const Buf& x, Activation type);
    BufferId write(Op* op, const char* name, uint32_t width);
    Buf result(const char* name, uint32_t width) const { return {name, width, last()}; }
    Buf products(const char* name, const TensorSlot* slots, size_t count, Buf x);
    // Where the ops of a product's adapters put their u, and what they add.
    struct AdapterInput {
        AdapterUse use;
        Buf u;
        uint32_t offset;
    };
    void adapter_inputs(const TensorSlot* slots, uint32_t count, const Buf& x, AdapterInput* out);
    void adapter_output(TensorSlot slot, const AdapterInput& input, const char* name, uint32_t width, uint32_t offset);
    Buf project(WprojGroup group, TensorSlot first, const Buf& x);
    Buf quantized(const Buf& x);
    void multiply(Op* op, const Matrix& matrix, const Buf& x);
    void finish(Op* op);
    Activation reading(uint32_t weight_type) const;
    const Backend& backend() const { return host_ ? *c_.host_backend : *c_.own_backend; }

    PlanWeights* weights_;
    BufferTable* buffers_;
    const keel_variant variant_;
    const bool adapted_;  // products add what adapters have for them
    OpList* list_;
    const uint32_t first_op_;  // number of the variant's first op in the plan
    Lifetimes lifetimes_;
    const OpObserver* observer_;
    uint32_t dispatches_ = 0;
    Op stretch_[kMaxStretch];
    uint32_t count_ = 0;
    bool overflowed_ = false;
    const char* refused_ = nullptr;
};

}  // namespace keel
