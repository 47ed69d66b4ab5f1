// The low-rank variant: what it computes, that it is planned to the byte, and that sessions may change passes without a
// trace.
#include <gtest/gtest.h>
#include <math.h>

#include <filesystem>

#include "kernels/cpu/kernel_set.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/tools/files/synth.h"
#include "tests/plan_checks.h"
#include "tests/wproj_builder.h"

namespace {

using namespace keel;
using keel_test::InspectedFile;
using keel_test::sized;
using keel_test::WprojBytes;
using keel_test::WprojOptions;

class LowRank : public testing::Test {
  protected:
    std::string path_ = keel_test::temp_path("low_rank_test.gguf");
    mutable keel_wproj_options options_{};  // of the last config(), which points to them
    mutable keel_part part_{};
    void TearDown() override { std::filesystem::remove(path_); }

    void synthesize(const std::string& architecture, const std::string& mix, uint32_t embedding = 128,
                    uint32_t feed_forward = 256) {
        tools::SynthSpec spec;
        spec.architecture = architecture;
        spec.mix = mix;
        spec.embedding = embedding;
        spec.heads = 4;
        spec.kv_heads = 2;
        spec.head_dim = embedding / 4;
        spec.feed_forward = feed_forward;
        spec.vocabulary = 512;
        tools::synth_write(path_, spec);
    }
    keel_config config(const keel_reader* wproj) const {
        keel_config c = sized<keel_config>();
        c.context_tokens = 192;
        c.logits_rows = 64;
        c.threads = 2;
        options_ = sized<keel_wproj_options>();
        part_ = keel_test::part(KEEL_PART_WPROJ, wproj, &options_);
        c.parts = &part_;
        c.part_count = wproj != nullptr;
        return c;
    }
    // Two new sessions over a model with a cache of random factors.
    struct TwoSessions {
        uint32_t chunk_tokens;
        WprojBytes cache;
        keel_test::Engine engine;
        keel_session sessions[2];

        TwoSessions(const LowRank& test, uint32_t chunk)
            : chunk_tokens(chunk),
              cache(tools::encode_wproj_v2(keel_test::random_wproj(InspectedFile(test.path_), {}), 1)),
              engine(test.path_, test.config_of_two(&cache.reader, chunk)),
              sessions{engine.session(), {}} {
            keel_test::check(keel_session_open(engine.handle(), nullptr, &sessions[1]), "open");
        }
    };
    keel_config config_of_two(const keel_reader* wproj, uint32_t chunk_tokens) const {
        keel_config c = config(wproj);
        c.max_sessions = 2;
        c.chunk_tokens = chunk_tokens;
        return c;
    }
};

std::vector<int32_t> ids(uint32_t count, uint32_t seed = 7) {
    std::mt19937 random(seed);
    std::vector<int32_t> out(count);
    for (int32_t& id : out) id = static_cast<int32_t>(random() % 512);
    return out;
}

keel_test::Logits logits_in(keel_test::Engine& engine, keel_variant pass, const std::vector<int32_t>& tokens) {
    keel_test::check(keel_session_set_variant(engine.session(), pass), "set_variant");
    return engine.logits_for(tokens);
}

bool same(const keel_test::Logits& a, const keel_test::Logits& b) {
    return a.values.size() == b.values.size() &&
           memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(float)) == 0;
}

// |a - b|^2 / |b|^2
double distance(const keel_test::Logits& a, const keel_test::Logits& b) {
    double difference = 0, all = 0;
    for (size_t i = 0; i < a.values.size(); ++i) {
        difference += (a.values[i] - b.values[i]) * (a.values[i] - b.values[i]);
        all += b.values[i] * b.values[i];
    }
    return difference / all;
}

std::vector<float> decoded(uint32_t type, const std::vector<uint8_t>& bytes, uint64_t count) {
    std::vector<float> x(count);
    kernels::kScalarSet.dequantize_row[type](bytes.data(), x.data(), static_cast<uint32_t>(count));
    return x;
}

// A basis that is the unit matrix, and records that are the weights.
TEST_F(LowRank, UnitBasisGivesTheBitsOfTheDensePass) {
    for (const char* architecture : {"llama", "qwen2", "gemma3"}) {
        SCOPED_TRACE(architecture);
        synthesize(architecture, "F32");
        const InspectedFile file(path_);
        const WprojShape shape = wproj_shape_of(*file.model);
        tools::WprojImage image;
        image.fingerprint = file.info.fingerprint;
        image.layers.resize(shape.layers);
        for (uint32_t layer = 0; layer < shape.layers; ++layer)
            for (uint32_t slot = 1; slot < kWprojSlots; ++slot) {
                const uint32_t group = wproj_group(static_cast<WprojSlot>(slot)), n = shape.columns[group];
                std::vector<float> unit(uint64_t{n} * n);
                for (uint32_t i = 0; i < n; ++i) unit[uint64_t{i} * n + i] = 1;
                image.layers[layer].basis[group] = {n,  n, kernels::kF32, keel_test::encode_rows(kernels::kF32, unit),
                                                    {}, {}};
                const GgufTensor* t = wproj_tensor(*file.model, layer, slot);
                const uint8_t* data = reinterpret_cast<const uint8_t*>(file.bytes.data()) + t->offset;
                tools::WprojImageRecord& r = image.layers[layer].record[slot];
                r.rows = static_cast<uint32_t>(t->dims[1]);
                r.rank = n;
                r.matrix.assign(data, data + t->bytes);
                r.energy = 1;
            }
        const WprojBytes cache(tools::encode_wproj_v2(image, 1));
        keel_test::Engine engine(path_, config(&cache.reader));
        EXPECT_EQ(engine.plan().low_rank_factors, shape.layers * 7);
        const auto tokens = ids(40);
        const keel_test::Logits dense = logits_in(engine, KEEL_VARIANT_DENSE, tokens),
                                low = logits_in(engine, KEEL_VARIANT_LOW_RANK, tokens);
        EXPECT_TRUE(same(dense, low));
    }
}

// The same model with W replaced by W_proj Pt and its biases by theirs is what the low-rank variant has to compute.
TEST_F(LowRank, ComputesTheProductOfTheFactors) {
    for (const uint32_t slots : {0xfeu, 0x0eu, 0x06u, 0x02u, 0x10u, 0x60u, 0x40u, 0x80u}) {
        SCOPED_TRACE(slots);
        synthesize("qwen2", "F32");  // it has biases of Q, K and V
        const InspectedFile file(path_);
        WprojOptions o;
        o.slots = slots;
        o.bias = false;
        tools::WprojImage image = keel_test::random_wproj(file, o);
        std::mt19937 random(5);
        std::normal_distribution<float> normal;
        std::vector<char> product = file.bytes;
        for (uint32_t layer = 0; layer < image.layers.size(); ++layer)
            for (uint32_t slot = 1; slot < kWprojSlots; ++slot) {
                tools::WprojImageRecord& r = image.layers[layer].record[slot];
                if (r.rank == 0) continue;
                const tools::WprojImageBasis& basis =
                    image.layers[layer].basis[wproj_group(static_cast<WprojSlot>(slot))];
                const std::vector<float> pt = decoded(basis.type, basis.matrix, uint64_t{basis.rank} * basis.columns),
                                         w = decoded(r.type, r.matrix, uint64_t{r.rows} * r.rank);
                std::vector<float> dense(uint64_t{r.rows} * basis.columns);
                for (uint32_t row = 0; row < r.rows; ++row)
                    for (uint32_t i = 0; i < r.rank; ++i)
                        for (uint32_t c = 0; c < basis.columns; ++c)
                            dense[uint64_t{row} * basis.columns + c] +=
                                w[uint64_t{row} * r.rank + i] * pt[uint64_t{i} * basis.columns + c];
                memcpy(product.data() + wproj_tensor(*file.model, layer, slot)->offset, dense.data(), dense.size() * 4);
                constexpr TensorSlot kBiases[] = {kAttnQBias, kAttnKBias, kAttnVBias};
                if (slot > kWprojV) continue;
                r.bias.resize(r.rows);
                for (float& b : r.bias) b = normal(random);
                char* at = product.data() + file.model->tensor(kBiases[slot - kWprojQ], layer)->offset;
                for (uint32_t row = 0; row < r.rows; ++row, at += 4) {
                    float b;
                    memcpy(&b, at, 4);
                    b += r.bias[row];
                    memcpy(at, &b, 4);
                }
            }
        const auto tokens = ids(24);
        const WprojBytes cache(tools::encode_wproj_v2(image, 1));
        keel_config c = config(&cache.reader);
        c.activation = KEEL_ACTIVATION_F32;
        keel_test::Engine engine(path_, c);
        const keel_test::Logits low = logits_in(engine, KEEL_VARIANT_LOW_RANK, tokens),
                                dense = logits_in(engine, KEEL_VARIANT_DENSE, tokens);
        std::ofstream(path_, std::ios::binary).write(product.data(), static_cast<std::streamsize>(product.size()));
        c.part_count = 0;
        keel_test::Engine reference(path_, c);
        const keel_test::Logits expected = reference.logits_for(tokens);
        EXPECT_LT(distance(low, expected), 1e-9);
        EXPECT_GT(distance(dense, expected), 1e-3);
        c.part_count = 1;
        c.activation = KEEL_ACTIVATION_Q8;
        synthesize("qwen2", "F32");
        keel_test::Engine quantized(path_, c);
        EXPECT_LT(distance(logits_in(quantized, KEEL_VARIANT_LOW_RANK, tokens), expected), 1e-2);
    }
}

TEST_F(LowRank, SameBitsHoweverItIsCutAndOnEveryKernelSet) {
    for (const char* mix : {"F16", "Q8_0", "Q4_K_M"}) {
        SCOPED_TRACE(mix);
        synthesize("llama", mix, 256, 512);
        const InspectedFile file(path_);
        const auto tokens = ids(90);
        for (const auto& [basis_type, record_type] : {std::pair{kernels::kF16, kernels::kQ4_0},
                                                      {kernels::kQ8_0, kernels::kQ8_0},
                                                      {kernels::kF32, kernels::kQ8_F32},
                                                      {kernels::kF32, kernels::kF32}}) {
            SCOPED_TRACE(record_type);
            WprojOptions o;
            o.rank = record_type == kernels::kF32 ? 24 : 64;
            o.basis_type = basis_type;
            o.record_type = record_type;
            o.slots = 0xf6;  // K stays dense
            o.bias = true;
            const WprojBytes cache(tools::encode_wproj_v2(keel_test::random_wproj(file, o), 1));
            keel_test::Logits first;
            for (uint32_t isa = KEEL_CPU_SCALAR; isa <= KEEL_CPU_NEON_I8MM; ++isa) {
                if (!find_kernel_set(isa) || isa == KEEL_CPU_AMX) continue;
                for (const auto& [chunk, threads, weights] : {std::tuple{256u, 2u, KEEL_WEIGHTS_DEFAULT},
                                                              {7u, 1u, KEEL_WEIGHTS_MAP},
                                                              {1u, 2u, KEEL_WEIGHTS_REPACK}}) {
                    if (isa == KEEL_CPU_SCALAR && chunk == 1) continue;  // slow
                    keel_config c = config(&cache.reader);
                    c.cpu = static_cast<keel_cpu>(isa);
                    c.chunk_tokens = chunk;
                    c.threads = threads;
                    c.weights = weights;
                    keel_test::Engine engine(path_, c);
                    const keel_test::Logits now = logits_in(engine, KEEL_VARIANT_LOW_RANK, tokens);
                    if (first.rows == 0) first = now;
                    EXPECT_TRUE(same(first, now)) << "kernel set " << isa << " chunk " << chunk;
                }
            }
        }
    }
}

TEST_F(LowRank, DraftsLeaveNoTraceOnceVerified) {
    synthesize("llama", "Q8_0", 256, 512);
    const InspectedFile file(path_);
    const WprojBytes cache(tools::encode_wproj_v2(keel_test::random_wproj(file, {}), 1));
    const auto prompt = ids(70), draft = ids(9, 8);
    keel_config c = config(&cache.reader);
    c.max_sessions = 2;
    keel_test::Engine engine(path_, c);
    engine.feed(prompt);
    engine.feed(draft);
    engine.advance();
    const std::vector<float> expected(engine.row(0), engine.row(0) + 512);

    keel_test::check(keel_session_truncate(engine.session(), 0), "truncate");
    engine.feed(prompt);
    engine.advance();
    keel_test::check(keel_session_set_variant(engine.session(), KEEL_VARIANT_LOW_RANK), "set_variant");
    for (int32_t id : draft) {
        engine.feed({id});
        engine.advance();
    }
    EXPECT_NE(0, memcmp(engine.row(0), expected.data(), 512 * sizeof(float)));
    keel_session_info info = sized<keel_session_info>();
    keel_test::check(keel_session_get(engine.session(), &info), "get");
    EXPECT_EQ(info.variant, KEEL_VARIANT_LOW_RANK);
    keel_session copy{};
    keel_test::check(keel_session_fork(engine.session(), &copy), "fork");
    keel_test::check(keel_session_get(copy, &info), "get");
    EXPECT_EQ(info.variant, KEEL_VARIANT_LOW_RANK);
    keel_test::check(keel_session_close(copy), "close");
    keel_test::check(keel_session_truncate(engine.session(), static_cast<uint32_t>(prompt.size())), "truncate");
    keel_test::check(keel_session_set_variant(engine.session(), KEEL_VARIANT_DENSE), "set_variant");
    engine.feed(draft);
    engine.advance();
    EXPECT_EQ(0, memcmp(engine.row(0), expected.data(), 512 * sizeof(float)));
}

// Two sessions of different passes named in one call: each as alone, whichever has the long prompt.
TEST_F(LowRank, NeighboursOfTheOtherPassChangeNothing) {
    synthesize("llama", "Q8_0", 256, 512);
    TwoSessions two(*this, 16);
    keel_test::Engine& engine = two.engine;
    const keel_session(&sessions)[2] = two.sessions;
    keel_test::check(keel_session_set_variant(sessions[1], KEEL_VARIANT_LOW_RANK), "set_variant");
    const std::vector<int32_t> tokens[2] = {ids(100, 1), ids(33, 2)};
    std::vector<float> alone[2], together[2];
    for (bool both : {false, true}) {
        for (int i = 0; i < 2; ++i) {
            keel_test::check(keel_session_truncate(sessions[i], 0), "truncate");
            keel_test::check(
                keel_session_feed(sessions[i], tokens[i].data(), static_cast<uint32_t>(tokens[i].size()), 0), "feed");
        }
        keel_advance_result results[2] = {sized<keel_advance_result>(), sized<keel_advance_result>()};
        if (both) {
            while (keel_advance(engine.handle(), sessions, 2, 50, results) == KEEL_AGAIN) {
            }
        } else {
            for (int i = 0; i < 2; ++i)
                keel_test::check(keel_advance(engine.handle(), &sessions[i], 1, 0, &results[i]), "advance");
        }
        for (int i = 0; i < 2; ++i) {
            const float* view = nullptr;
            keel_test::check(keel_session_logits(sessions[i], 0, &view, nullptr), "logits");
            (both ? together : alone)[i].assign(view, view + 512);
        }
    }
    for (int i = 0; i < 2; ++i) EXPECT_EQ(0, memcmp(alone[i].data(), together[i].data(), 512 * sizeof(float))) << i;
}

// A session of one token is done long before its neighbour's prompt, whichever pass it is in and whichever is named
// first.
TEST_F(LowRank, NeitherPassWaitsForTheOthersPrompt) {
    synthesize("llama", "Q8_0", 256, 512);
    TwoSessions two(*this, 8);
    keel_test::Engine& engine = two.engine;
    const keel_session(&sessions)[2] = two.sessions;
    const auto tokens = ids(160);
    uint32_t refused = 0;
    for (uint32_t with_prompt : {0u, 1u})
        for (keel_variant pass : {KEEL_VARIANT_DENSE, KEEL_VARIANT_LOW_RANK}) {
            for (uint32_t i = 0; i < 2; ++i) {
                keel_test::check(keel_session_truncate(sessions[i], 0), "truncate");
                keel_test::check(
                    keel_session_set_variant(sessions[i], i == with_prompt             ? pass
                                                          : pass == KEEL_VARIANT_DENSE ? KEEL_VARIANT_LOW_RANK
                                                                                       : KEEL_VARIANT_DENSE),
                    "set_variant");
                keel_test::check(keel_session_feed(sessions[i], tokens.data(), i == with_prompt ? 160 : 1, 0), "feed");
            }
            keel_advance_result results[2] = {sized<keel_advance_result>(), sized<keel_advance_result>()};
            do {
                keel_advance(engine.handle(), sessions, 2, 1, results);
                for (keel_session s : sessions) {
                    keel_session_info info = sized<keel_session_info>();
                    keel_test::check(keel_session_get(s, &info), "get");
                    const keel_status set = keel_session_set_variant(s, static_cast<keel_variant>(info.variant));
                    EXPECT_TRUE(set == KEEL_OK || set == KEEL_E_BUSY);
                    refused += set == KEEL_E_BUSY;
                }
            } while (results[1 - with_prompt].pending_tokens);
            EXPECT_LE(results[with_prompt].computed_tokens, 2 * two.chunk_tokens) << with_prompt << pass;
            while (keel_advance(engine.handle(), sessions, 2, 0, results) == KEEL_AGAIN) {
            }
            EXPECT_EQ(results[with_prompt].computed_tokens, 160u);
        }
    EXPECT_GT(refused, 0u);
}

TEST_F(LowRank, ANewSessionIsDenseWhateverItsSlotWas) {
    synthesize("llama", "Q8_0", 256, 512);
    const InspectedFile file(path_);
    const WprojBytes cache(tools::encode_wproj_v2(keel_test::random_wproj(file, {}), 1));
    keel_test::Engine engine(path_, config(&cache.reader));
    keel_test::check(keel_session_set_variant(engine.session(), KEEL_VARIANT_LOW_RANK), "set_variant");
    keel_test::check(keel_session_close(engine.session()), "close");
    keel_session next{};
    keel_test::check(keel_session_open(engine.handle(), nullptr, &next), "open");
    keel_session_info info = sized<keel_session_info>();
    keel_test::check(keel_session_get(next, &info), "get");
    EXPECT_EQ(info.variant, KEEL_VARIANT_DENSE);
}

// Just below and just at what makes a record not worth it.
TEST_F(LowRank, GuardsAndBoundsToTheLastBit) {
    synthesize("llama", "Q8_0", 128, 256);
    const InspectedFile file(path_);
    WprojOptions o;
    o.basis_type = o.record_type = kernels::kF32;
    const auto reason_of = [&](uint32_t rank, float energy, float error, float bound) {
        o.rank = rank;
        o.slots = 1u << kWprojO;
        tools::WprojImage image = keel_test::random_wproj(file, o);
        for (tools::WprojImageLayer& layer : image.layers) {
            layer.record[kWprojO].energy = energy;
            layer.record[kWprojO].error = error;
        }
        const WprojBytes cache(tools::encode_wproj_v2(image, 1));
        keel_config c = config(&cache.reader);
        options_.max_error = bound;
        keel_memory_plan plan = sized<keel_memory_plan>();
        keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
        EXPECT_EQ(plan.part_status, KEEL_OK);
        for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, c)) {
            if (op.index < plan.op_count) continue;
            if (std::string(op.name) != "attn_output" || op.low_rank_reason == KEEL_LOW_RANK_NONE) continue;
            EXPECT_EQ(op.low_rank_error, error);
            EXPECT_EQ(plan.low_rank_factors, op.low_rank_reason == KEEL_LOW_RANK_USED ? image.layers.size() : 0);
            return op.low_rank_reason;
        }
        ADD_FAILURE() << "no product of O";
        return uint32_t{KEEL_LOW_RANK_NONE};
    };
    EXPECT_EQ(reason_of(8, 0.02f, 0.5f, 0), KEEL_LOW_RANK_USED);
    EXPECT_EQ(reason_of(7, 0.5f, 0.01f, 0), KEEL_LOW_RANK_ENERGY);
    EXPECT_EQ(reason_of(8, nextafterf(0.02f, 0), 0.01f, 0), KEEL_LOW_RANK_ENERGY);
    EXPECT_EQ(reason_of(32, 0.5f, 0.01f, 0.01f), KEEL_LOW_RANK_USED);
    EXPECT_EQ(reason_of(32, 0.5f, nextafterf(0.01f, 1), 0.01f), KEEL_LOW_RANK_ERROR);
    EXPECT_EQ(reason_of(32, 0.5f, -1, 0.01f), KEEL_LOW_RANK_USED);     // an error not known
    EXPECT_EQ(reason_of(7, 0.5f, 0.9f, 0.01f), KEEL_LOW_RANK_ENERGY);  // the first reason is named
}

TEST_F(LowRank, PlanCountsEveryByteAndNamesEveryReason) {
    synthesize("llama", "Q8_0", 256, 512);
    const InspectedFile file(path_);
    WprojOptions o;
    o.slots = 0x7e;  // no down
    o.bias = true;
    tools::WprojImage image = keel_test::random_wproj(file, o);
    image.layers[0].record[kWprojQ].energy = 0.01f;
    const WprojBytes cache(tools::encode_wproj_v2(image, 1));
    keel_config c = config(&cache.reader);
    options_.max_error = 0.055f;  // gate has 0.06
    for (keel_weights weights : {KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP, KEEL_WEIGHTS_REPACK}) {
        c.weights = weights;
        keel_config dense = c;
        dense.part_count = 0;
        keel_memory_plan plan = sized<keel_memory_plan>(), plain = sized<keel_memory_plan>();
        keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
        keel_test::check(keel_plan(&file.reader, file.model, &dense, &plain, nullptr), "plan");
        EXPECT_EQ(plan.part_status, KEEL_OK);
        EXPECT_EQ(plan.op_count, plain.op_count);
        EXPECT_EQ(plain.low_rank_op_count, 0u);
        EXPECT_EQ(plan.decode_bytes, plain.decode_bytes);
        EXPECT_EQ(plan.low_rank_factors, 2u * 5 - 1);
        uint64_t bytes = 0, biases = 0;
        for (uint32_t layer = 0; layer < 2; ++layer) {
            for (const auto group : {kWprojAttnIn, kWprojAttnOut, kWprojFfnIn})
                bytes += image.layers[layer].basis[group].matrix.size();
            for (uint32_t slot = 1; slot < kWprojSlots; ++slot)
                if (slot != kWprojGate && !(layer == 0 && slot == kWprojQ)) {
                    bytes += image.layers[layer].record[slot].matrix.size();
                    biases += image.layers[layer].record[slot].bias.size() * 4;
                }
        }
        EXPECT_EQ(plan.low_rank_bytes, bytes + biases);
        if (weights == KEEL_WEIGHTS_MAP) {
            EXPECT_EQ(plan.mapped_weight_bytes, plain.mapped_weight_bytes + bytes);
        }
        uint64_t moved = 0;
        uint32_t reasons[5] = {};
        const std::vector<keel_op_info> ops = keel_test::plan_ops(&file.reader, file.model, c);
        ASSERT_EQ(ops.size(), plan.op_count + plan.low_rank_op_count);
        for (uint32_t i = plan.op_count; i < ops.size(); ++i) {
            const keel_op_info& op = ops[i];
            EXPECT_EQ(op.low_rank, 1u);
            moved += op.fixed_bytes + op.token_bytes;
            ++reasons[op.low_rank_reason];
            if (op.low_rank_reason == KEEL_LOW_RANK_USED) {
                EXPECT_EQ(op.inner, o.rank);
            }
            if (std::string(op.name) == "ffn_gate") {
                EXPECT_EQ(op.low_rank_reason, KEEL_LOW_RANK_ERROR);
            }
            if (std::string(op.name) == "ffn_down") {
                EXPECT_EQ(op.low_rank_reason, KEEL_LOW_RANK_NO_FACTOR);
            }
        }
        EXPECT_EQ(moved, plan.low_rank_decode_bytes);
        EXPECT_EQ(reasons[KEEL_LOW_RANK_USED], 9u);
        EXPECT_EQ(reasons[KEEL_LOW_RANK_ENERGY], 1u);
        EXPECT_EQ(reasons[KEEL_LOW_RANK_ERROR], 2u);
        EXPECT_EQ(reasons[KEEL_LOW_RANK_NO_FACTOR], 2u);
        keel_test::expect_scratch_is_packed(plan, ops, keel_test::plan_buffers(&file.reader, file.model, c));
        for (int region = 0; region < KEEL_REGION_COUNT; ++region) {
            if (plan.regions[region].bytes == 0) continue;
            const keel_test::Memory memory(plan);
            keel_memory less = *memory.get();
            --less.regions[region].bytes;
            keel_engine engine{};
            EXPECT_EQ(keel_engine_init(&file.reader, file.model, &c, &less, &engine, nullptr), KEEL_E_MEMORY_TOO_SMALL);
            keel_test::check(keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, nullptr), "init");
            keel_stats stats = sized<keel_stats>();
            keel_test::check(keel_engine_stats(engine, &stats), "stats");
            EXPECT_EQ(stats.regions[region].planned_bytes, plan.regions[region].bytes);
            keel_engine_close(engine);
        }
    }
}

// The groups of a version 1 file share one basis: it is placed once.
TEST_F(LowRank, VersionOneIsReadInPlaceOrCopiedOnce) {
    synthesize("llama", "F16", 128, 256);
    const InspectedFile file(path_);
    WprojOptions o;
    o.slots = 0x7e;
    o.basis_type = kernels::kF32;
    o.record_type = kernels::kQ8_F32;
    tools::WprojImage image = keel_test::random_wproj(file, o);
    for (tools::WprojImageLayer& layer : image.layers)
        layer.basis[kWprojAttnOut] = layer.basis[kWprojFfnIn] = layer.basis[kWprojAttnIn];
    const WprojBytes cache(tools::encode_wproj_v1(image, 77));
    keel_test::Logits first;
    for (keel_weights weights : {KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP, KEEL_WEIGHTS_REPACK}) {
        keel_config c = config(&cache.reader);
        c.weights = weights;
        keel_memory_plan plan = sized<keel_memory_plan>();
        keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
        EXPECT_EQ(plan.part_status, KEEL_E_FILE_MISMATCH);  // no key was named
        options_.key = 77;
        keel_test::Engine engine(path_, c);
        EXPECT_EQ(engine.plan().part_status, KEEL_OK);
        EXPECT_EQ(engine.plan().low_rank_bytes, 2u * (32 * 128 * 4 + (128 + 64 + 64 + 128 + 256 + 256) * 36));
        const keel_test::Logits now = logits_in(engine, KEEL_VARIANT_LOW_RANK, ids(20));
        if (first.rows == 0) first = now;
        EXPECT_TRUE(same(first, now));
    }
}

// What a plan does not read is checked when it is loaded.
TEST_F(LowRank, ChangedFactorsAreRefusedWhenTheyAreLoaded) {
    synthesize("llama", "Q8_0", 256, 512);
    const InspectedFile file(path_);
    WprojOptions o;
    o.bias = true;
    const std::vector<uint8_t> good = tools::encode_wproj_v2(keel_test::random_wproj(file, o), 9);
    for (const uint64_t from_end : {uint64_t{1}, uint64_t{good.size()} / 2}) {  // a bias; a matrix
        std::vector<uint8_t> changed = good;
        changed[changed.size() - from_end] ^= 1;
        for (keel_weights weights : {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_REPACK, KEEL_WEIGHTS_MAP}) {
            for (bool damaged : {false, true}) {
                const WprojBytes cache(damaged ? changed : good);
                keel_config c = config(&cache.reader);
                c.weights = weights;
                keel_memory_plan plan = sized<keel_memory_plan>();
                keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "plan");
                EXPECT_EQ(plan.part_status, KEEL_OK);
                const keel_test::Memory memory(plan);
                keel_engine engine{};
                keel_error error = sized<keel_error>();
                const keel_status status =
                    keel_engine_init(&file.reader, file.model, &c, memory.get(), &engine, &error);
                EXPECT_EQ(status, damaged && weights != KEEL_WEIGHTS_MAP ? KEEL_E_FILE_FORMAT : KEEL_OK);
                if (status == KEEL_OK)
                    keel_engine_close(engine);
                else
                    EXPECT_TRUE(strstr(error.reason, ": the contents were changed")) << error.reason;
            }
        }
    }
}

TEST_F(LowRank, ADamagedOrForeignCacheLeavesTheDensePass) {
    synthesize("llama", "Q8_0", 256, 512);
    const InspectedFile file(path_);
    const tools::WprojImage image = keel_test::random_wproj(file, {});
    const std::vector<uint8_t> good = tools::encode_wproj_v2(image, 9);
    keel_test::Engine plain(path_, config(nullptr));
    EXPECT_EQ(keel_session_set_variant(plain.session(), KEEL_VARIANT_LOW_RANK), KEEL_E_STATE);
    EXPECT_EQ(keel_session_set_variant(plain.session(), static_cast<keel_variant>(2)), KEEL_E_ARGUMENT);
    const keel_test::Logits expected = plain.logits_for(ids(20));
    const auto status_with = [&](std::vector<uint8_t> bytes, uint64_t key, uint32_t any_key) {
        const WprojBytes cache(std::move(bytes));
        keel_config c = config(&cache.reader);
        options_.key = key;
        options_.any_key = any_key;
        keel_test::Engine engine(path_, c);
        const keel_memory_plan& plan = engine.plan();
        EXPECT_EQ(plan.part_status == KEEL_OK, plan.low_rank_op_count != 0);
        EXPECT_EQ(plan.part_reason[0] != 0, plan.part_status != KEEL_OK);
        EXPECT_EQ(keel_session_set_variant(engine.session(), KEEL_VARIANT_LOW_RANK),
                  plan.part_status == KEEL_OK ? KEEL_OK : KEEL_E_STATE);
        EXPECT_TRUE(same(logits_in(engine, KEEL_VARIANT_DENSE, ids(20)), expected));
        return plan.part_status;
    };
    EXPECT_EQ(status_with(good, 0, 0), KEEL_OK);
    EXPECT_EQ(status_with(good, 9, 0), KEEL_OK);
    EXPECT_EQ(status_with(good, 10, 0), KEEL_E_FILE_MISMATCH);
    EXPECT_EQ(status_with(good, 10, 1), KEEL_OK);
    std::vector<uint8_t> cut(good.begin(), good.end() - 1);
    EXPECT_NE(status_with(cut, 0, 0), KEEL_OK);
    std::vector<uint8_t> changed = good;
    changed[sizeof(WprojHeader2) + 1] ^= 1;
    EXPECT_EQ(status_with(changed, 0, 0), KEEL_E_FILE_FORMAT);
    EXPECT_NE(status_with({}, 0, 1), KEEL_OK);
    tools::WprojImage foreign = image;
    foreign.fingerprint ^= 1;
    EXPECT_EQ(status_with(tools::encode_wproj_v2(foreign, 9), 9, 0), KEEL_E_FILE_MISMATCH);
    foreign.layers.pop_back();
    EXPECT_EQ(status_with(tools::encode_wproj_v2(foreign, 9), 9, 1), KEEL_E_FILE_MISMATCH);
}

}  // namespace
