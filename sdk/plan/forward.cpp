#include "sdk/plan/forward.h"

#include "sdk/core/status.h"

namespace keel {
namespace {

// One token's way. A buffer is named where its value is made; what an architecture has no weights for is not there.
class Forward : OpBuilder {
  public:
    using OpBuilder::OpBuilder;
    using OpBuilder::overflowed;
    using OpBuilder::refused;

    // Returns the residual.
    BufferId begin(uint32_t rope_sets) {
        rope_sets_ = rope_sets;
        x_ = embed("residual");
        const BufferId residual = buffer_of(x_);
        if (s_.wired) begin_wired();
        cos_sin_ = rope_table("rope", rope_sets);
        end_stretch();
        return residual;
    }

    void layer(uint32_t l) {
        if (l == c_.host_layer && l > 0) cross_to_host();
        layer_ = static_cast<int32_t>(l);
        if (s_.wired) return wired_layer(l);
        add(x_, post_norm(attend(l, x_), kAttnPostNorm));
        add(x_, post_norm(feed_forward(x_), kFfnPostNorm));
        end_stretch();
    }

    void head() {
        layer_ = -1;
        if (s_.two_lanes(s_.layers - 1)) x_ = mix("residual", kLaneEnd, coefficients(kLaneEnd), {x_, lane_});
        logits(output_norm("head_in", x_));
        end_stretch();
    }

  private:
    Buf attend(uint32_t l, const Buf& x) {
        const bool windowed = s_.windowed(l);
        const uint32_t rope_set = m_.row().local_rope && windowed ? 1 : 0;
        const Buf h = rms_norm("attn_in", x, kAttnNorm);
        const Buf qkv = matmul("qkv", {kAttnQkv, kAttnQ, kAttnK, kAttnV}, h);
        qk_norm(qkv);
        rope(qkv, cos_sin_, rope_set);
        kv_append(qkv, rope_set);
        const Buf a = attention("attn_out", qkv, rope_set, windowed ? s_.window : 0);
        return matmul("attn_product", {kAttnOutput}, head_gate(exclude(a, qkv), h));
    }

    Buf feed_forward(const Buf& x) {
        const Buf f = matmul("ffn", {kFfnGateUp, kFfnGate, kFfnUp}, rms_norm("ffn_in", x, kFfnNorm));
        return matmul("ffn_product", {kFfnDown}, m_.row().gate == Gate::kLeakySquare ? activation(f) : glu(f));
    }

    // ---- wired models (sdk/model/WIRED_MODELS.md) ----
    void begin_wired() {
        smear(x_);
        x_ = input_ = kept_norm("input", x_, kTokenNorm);
        input_mix_ = coefficients(kInputMix);
        if (s_.two_lanes(s_.layers - 1)) lane_mix_ = coefficients(kLaneMix);
    }

    // Where the output of a layer lies: by itself while later layers read it.
    const char* output_of(uint32_t l) const {
        static constexpr const char* kKept[] = {"skip_0",  "skip_1",  "skip_2",  "skip_3", "skip_4",  "skip_5",
                                                "skip_6",  "skip_7",  "skip_8",  "skip_9", "skip_10", "skip_11",
                                                "skip_12", "skip_13", "skip_14", "skip_15"};
        static_assert(sizeof kKept / sizeof kKept[0] == Wiring::kMaxKept);
        if (!s_.wiring.keeps(l, s_.layers)) return "residual";
        uint32_t kept = 0;
        for (uint32_t earlier = 0; earlier < l; ++earlier) kept += s_.wiring.keeps(earlier, s_.layers);
        return kKept[kept];
    }

    // Row `row` of the coefficients of a mix; null in count mode.
    const float* row_of(const float* c, uint32_t row) const { return c ? c + uint64_t{row} * s_.embedding : nullptr; }

    void wired_layer(uint32_t l) {
        const uint32_t from = s_.wiring.skip[l];
        const bool skips = from != Wiring::kNone, two_lanes = s_.two_lanes(l);
        const Buf skip = skips ? Buf{output_of(from), s_.embedding, kNoProducer} : Buf{};
        const char* output = output_of(l);
        const Buf in = mix(two_lanes ? "attn_mix" : output, kInputMix, row_of(input_mix_, l * kInputTerms),
                           {x_, input_, skip}, skips ? 3 : 2);
        if (!two_lanes) {
            add(in, attend(l, in));
            add(in, feed_forward(in));
            x_ = persist(in);
            return end_stretch();
        }
        const uint32_t two = l - s_.wiring.two_lanes_from;
        const Buf other = two ? lane_ : x_;
        const Buf a = attend(l, in), f = feed_forward(other);
        const float* c = row_of(lane_mix_, two * (kFirstLaneTerms + kSecondLaneTerms));
        lane_ = persist(mix("lane", kLaneMix, row_of(c, kFirstLaneTerms), {other, a, f}));
        x_ = persist(mix(output, kLaneMix, c, {x_, a, f, skip}, skips ? 4 : 3));
        end_stretch();
    }

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
    Buf input_ = {}, lane_ = {};  // what the first layer reads; the second lane
    const float *input_mix_ = nullptr, *lane_mix_ = nullptr;
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
        plan->rope_factors = weights.vector(rope_factors_of(config, model.spec)).host;
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
    const char* refused = nullptr;
    each([&](const Forward& f) {
        overflowed |= f.overflowed();
        if (f.refused()) refused = f.refused();
    });
    if (refused && placer.status == KEEL_OK)
        placer.status = fail(placer.error, KEEL_E_UNSUPPORTED, 0, refused, "the backend has no kernel for this op");
    if (overflowed && placer.status == KEEL_OK)
        placer.status =
            fail(placer.error, KEEL_E_UNSUPPORTED, 0, "plan", "a layer has more ops or buffers than expected");
    for (const OpList& list : plan->variant)
        if (ops && list.count != list.capacity && placer.status == KEEL_OK)
            placer.status = fail(placer.error, KEEL_E_FILE_READ, 0, "plan", "a file changed while it was read");
}

}  // namespace keel
