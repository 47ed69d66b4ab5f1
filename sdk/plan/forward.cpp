#include "sdk/plan/forward.h"

#include "sdk/core/status.h"

namespace keel {
namespace {

// One token's way. A buffer is named where its value is made; what an architecture has no weights for is not there.
class Forward : OpBuilder {
  public:
    using OpBuilder::OpBuilder;
    using OpBuilder::overflowed;

    // Returns the residual.
    BufferId begin(uint32_t rope_sets) {
        rope_sets_ = rope_sets;
        x_ = embed("residual");
        cos_sin_ = rope_table("rope", rope_sets);
        const BufferId residual = buffer_of(x_);
        end_stretch();
        return residual;
    }

    void layer(uint32_t l) {
        if (l == c_.host_layer && l > 0) cross_to_host();
        layer_ = static_cast<int32_t>(l);
        const bool windowed = s_.windowed(l);
        const uint32_t rope_set = m_.row().local_rope && windowed ? 1 : 0;

        const Buf h = rms_norm("attn_in", x_, kAttnNorm);
        const Buf qkv = matmul("qkv", {kAttnQkv, kAttnQ, kAttnK, kAttnV}, h);
        qk_norm(qkv);
        rope(qkv, cos_sin_, rope_set);
        kv_append(qkv, rope_set);
        const Buf a = attention("attn_out", qkv, rope_set, windowed ? s_.window : 0);
        add(x_, post_norm(matmul("attn_product", {kAttnOutput}, a), kAttnPostNorm));

        const Buf f = rms_norm("ffn_in", x_, kFfnNorm);
        const Buf u = glu(matmul("ffn", {kFfnGateUp, kFfnGate, kFfnUp}, f));
        add(x_, post_norm(matmul("ffn_product", {kFfnDown}, u), kFfnPostNorm));
        end_stretch();
    }

    void head() {
        layer_ = -1;
        logits(output_norm("head_in", x_));
        end_stretch();
    }

  private:
    // From a backend's own memory: the layers before end here.
    void cross_to_host() {
        layer_ = -1;
        to_host(x_);
        end_stretch();
        host_ = true;
        x_ = from_own_memory(x_);
        cos_sin_ = rope_table("rope", rope_sets_);
        end_stretch();
    }

    Buf x_ = {}, cos_sin_ = {};
    uint32_t rope_sets_ = 0;
};

}  // namespace

void build_plan(const keel_reader& reader, const keel_model& model, const PlanConfig& config, WeightPlacer& placer,
                Op* ops, const uint32_t op_counts[kOpLists], const PlanObservers& observers, ExecutionPlan* plan) {
    *plan = {};
    plan->rope_sets = model.row().local_rope && model.spec.window ? 2 : 1;
    uint32_t first_op[kOpLists] = {};
    for (uint32_t i = 0, count = 0; i < kOpLists; count += op_counts[i++]) {
        first_op[i] = count;
        if (ops) plan->variant[i] = {ops + count, 0, 0, op_counts[i], 0, {}};
    }
    PlanWeights weights(reader, model, config, placer);
    BufferTable buffers(plan);
    if (model.tensor(kRopeFactorsLong, 0))
        plan->rope_factors =
            weights
                .vector(config.context_tokens > model.spec.rope_original_context ? kRopeFactorsLong : kRopeFactorsShort)
                .host;
    else
        plan->rope_factors = weights.vector(kRopeFreqs).host;

    // The variants go side by side, layer by layer: they share weights, buffers and KV rows.
    const auto forward = [&](uint32_t list, keel_variant variant) {
        return Forward(model, config, &weights, &buffers, variant, list == kAdaptedList, &plan->variant[list],
                       first_op[list], observers.lifetimes, observers.ops);
    };
    Forward variants[kOpLists] = {forward(0, KEEL_VARIANT_DENSE), forward(1, KEEL_VARIANT_LOW_RANK),
                                  forward(kAdaptedList, KEEL_VARIANT_DENSE)};
    const bool used[kOpLists] = {true, config.low_rank.usable, config.adapters.count != 0};
    const auto each = [&](auto&& build) {
        for (uint32_t v = 0; v < kOpLists; ++v)
            if (used[v]) build(variants[v]);
    };
    each([&](Forward& f) { plan->residual = f.begin(plan->rope_sets); });
    for (uint32_t layer = 0; layer < model.spec.layers; ++layer) {
        weights.open_layer(layer);
        each([&](Forward& f) { f.layer(layer); });
    }
    weights.open_head();
    each([](Forward& f) { f.head(); });
    plan->low_rank_records = weights.low_rank_records();
    plan->low_rank_bytes = weights.low_rank_bytes();
    plan->adapter_bytes = weights.adapter_bytes();
    buffers.pack(config.chunk_tokens, config.threads);
    bool overflowed = buffers.full();
    each([&](const Forward& f) { overflowed |= f.overflowed(); });
    if (overflowed && placer.status == KEEL_OK)
        placer.status =
            fail(placer.error, KEEL_E_UNSUPPORTED, 0, "plan", "a layer has more ops or buffers than expected");
    for (const OpList& list : plan->variant)
        if (ops && list.count != list.capacity && placer.status == KEEL_OK)
            placer.status = fail(placer.error, KEEL_E_FILE_READ, 0, "plan", "a file changed while it was read");
}

}  // namespace keel
