// Where weights live and which ops run together: every placement and every number of threads gives the same bits, from
// the planned bytes, and the plan says what it did and why.
#include <gtest/gtest.h>
#include <string.h>

#include <filesystem>

#include "kernels/cpu/kernel_set.h"
#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/tools/files/synth.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel::tools::SynthSpec;
using keel_test::sized;

struct Planned {
    keel_memory_plan plan;
    std::vector<keel_op_info> ops;
};

Planned plan_of(const std::string& path, const keel_config& config) {
    const keel_test::FileReader file(path);
    keel_model_info info = sized<keel_model_info>();
    keel_test::check(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), "inspect");
    std::vector<uint64_t> buffer(info.model_bytes / 8);
    const keel_model* model;
    keel_test::check(keel_inspect(file.get(), nullptr, buffer.data(), info.model_bytes, &model, &info, nullptr),
                     "inspect");
    Planned p{sized<keel_memory_plan>(), {}};
    keel_test::check(keel_plan(file.get(), model, &config, &p.plan, nullptr), "plan");
    p.ops = keel_test::plan_ops(file.get(), model, config);
    return p;
}

class Placement : public testing::Test {
  protected:
    std::string path_ = keel_test::temp_path("placement_test.gguf");
    void TearDown() override { std::filesystem::remove(path_); }

    static keel_config config(keel_weights weights, keel_cpu cpu, uint32_t threads = 2) {
        keel_config c = sized<keel_config>();
        c.context_tokens = 64;
        c.threads = threads;
        c.logits_rows = 8;
        c.weights = weights;
        c.cpu = cpu;
        return c;
    }
    // Logits of a few positions: computed together, and the same bits one by one.
    std::vector<float> logits(const keel_config& c) {
        keel_test::Engine engine(path_, c);
        std::vector<int32_t> ids;
        for (int i = 0; i < 11; ++i) ids.push_back(i * 97 % static_cast<int>(engine.info().vocabulary));
        const keel_test::Logits out = engine.logits_for(ids);
        keel_test::check(keel_session_truncate(engine.session(), 0), "truncate");
        for (size_t i = 0; i < ids.size(); ++i) {
            engine.feed({ids[i]});
            engine.advance();
            EXPECT_EQ(0, memcmp(engine.row(0), out.row(i), out.vocabulary * sizeof(float))) << "position " << i;
        }
        return out.values;
    }
};

constexpr keel_weights kModes[] = {KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_REPACK, KEEL_WEIGHTS_MAP};

TEST_F(Placement, EveryModeGivesTheSameBitsFromThePlannedBytes) {
    // Tied and not; rows of one and of several stretches of an interleaved table; a vocabulary that is no multiple of
    // 16.
    struct Shape {
        const char *architecture, *mix;
        bool tied;
        uint32_t embedding, vocabulary, heads, head_dim, feed_forward;
    };
    // Query heads of a KV head that are whole activation blocks, and not; feed-forward widths whose blocks share out
    // evenly between two threads, and not.
    const Shape shapes[] = {
        {"llama", "Q4_K_M", true, 256, 1024, 8, 64, 512}, {"llama", "Q6_K", false, 512, 1024, 4, 64, 768},
        {"qwen2", "Q8_0", true, 1280, 528, 4, 64, 512},   {"phi3", "Q5_1", true, 256, 1023, 8, 32, 1056},
        {"gemma2", "IQ4_XS", true, 256, 512, 4, 64, 512}, {"llama", "Q3_K_M", true, 256, 640, 2, 128, 1024},
        {"llama", "Q4_0", true, 256, 640, 4, 24, 544},    {"llama", "F16", true, 80, 600, 4, 24, 112}};
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(std::string(shape.architecture) + " " + shape.mix);
        SynthSpec spec;
        spec.architecture = shape.architecture;
        spec.mix = shape.mix;
        spec.tied = shape.tied;
        spec.embedding = shape.embedding;
        spec.vocabulary = shape.vocabulary;
        spec.heads = shape.heads;
        spec.head_dim = shape.head_dim;
        spec.feed_forward = shape.feed_forward;
        keel::tools::synth_write(path_, spec);
        for (uint32_t isa = keel::kernels::kScalar; isa < keel::kernels::kIsaLimit; ++isa) {
            const keel::kernels::KernelSet* set = keel::find_kernel_set(isa);
            if (!set) continue;
            SCOPED_TRACE(set->name);
            const keel_cpu cpu = static_cast<keel_cpu>(isa);
            const std::vector<float> plain = logits(config(KEEL_WEIGHTS_COPY, cpu));
            for (uint32_t threads : {1u, 3u}) {
                const std::vector<float> other = logits(config(KEEL_WEIGHTS_DEFAULT, cpu, threads));
                EXPECT_EQ(0, memcmp(other.data(), plain.data(), plain.size() * sizeof(float))) << threads << " threads";
            }
            const Planned copy = plan_of(path_, config(KEEL_WEIGHTS_COPY, cpu));
            for (keel_weights mode : kModes) {
                SCOPED_TRACE(mode);
                const std::vector<float> other = logits(config(mode, cpu));
                ASSERT_EQ(other.size(), plain.size());
                EXPECT_EQ(0, memcmp(other.data(), plain.data(), plain.size() * sizeof(float)));
                const Planned p = plan_of(path_, config(mode, cpu));
                const bool mapped = mode == KEEL_WEIGHTS_MAP;
                for (int r = 0; r < KEEL_REGION_COUNT; ++r)
                    EXPECT_TRUE(p.plan.regions[r].bytes == copy.plan.regions[r].bytes ||
                                (mapped && r == KEEL_REGION_WEIGHTS))
                        << r;
                uint64_t matrices = 0;
                for (const keel_op_info& op : p.ops) {
                    const uint32_t index = op.index;
                    EXPECT_EQ(op.fixed_bytes, copy.ops[index].fixed_bytes);
                    if (!op.weight_type[0]) {
                        EXPECT_EQ(op.placement, KEEL_WEIGHTS_DEFAULT);
                        EXPECT_EQ(op.repack_skip, KEEL_REPACK_SKIP_NONE);
                        continue;
                    }
                    const bool table = std::string(op.name) == "embed";
                    if (!table) matrices += op.fixed_bytes;
                    uint32_t type = 0;
                    while (strcmp(keel::kernels::kWeightTypes[type].name, op.weight_type) != 0) ++type;
                    const uint32_t rows = table ? shape.vocabulary : op.rows;
                    const bool can = set->matmul_repacked[type] && rows % 16 == 0 && (!table || shape.tied);
                    const bool interleaved = can && (mode == KEEL_WEIGHTS_REPACK ||
                                                     (mode == KEEL_WEIGHTS_DEFAULT && set->repack_pays[type]));
                    EXPECT_EQ(op.placement, interleaved ? KEEL_WEIGHTS_REPACK
                                            : mapped    ? KEEL_WEIGHTS_MAP
                                                        : KEEL_WEIGHTS_COPY)
                        << op.name;
                    keel_repack_skip reason = KEEL_REPACK_SKIP_NONE;
                    if (!interleaved && (mode == KEEL_WEIGHTS_REPACK || mode == KEEL_WEIGHTS_DEFAULT))
                        reason = table && !shape.tied          ? KEEL_REPACK_SKIP_LOOKUP
                                 : !set->matmul_repacked[type] ? KEEL_REPACK_SKIP_TYPE
                                 : rows % 16 != 0              ? KEEL_REPACK_SKIP_ROWS
                                                               : KEEL_REPACK_SKIP_SPEED;
                    EXPECT_EQ(op.repack_skip, reason) << op.name;
                }
                EXPECT_GE(p.plan.mapped_weight_bytes, mapped ? matrices : 0);
            }
        }
    }
}

// Blocks of 256 elements in 512: two units, which three threads would share badly.
TEST_F(Placement, QuantizingJoinsTheGateWhereThreadsStayBusy) {
    SynthSpec spec;
    spec.mix = "Q4_K";
    spec.feed_forward = 512;
    keel::tools::synth_write(path_, spec);
    for (uint32_t threads : {1u, 2u, 3u, 4u}) {
        uint32_t joined = 0, quantizing = 0;
        const Planned p = plan_of(path_, config(KEEL_WEIGHTS_COPY, KEEL_CPU_SCALAR, threads));
        for (const keel_op_info& op : p.ops) {
            if (std::string(op.name) != "quantize") continue;
            ++quantizing;
            joined += op.dispatch == p.ops[op.index - 1].dispatch;
        }
        EXPECT_EQ(quantizing, spec.layers);
        EXPECT_EQ(joined, threads <= 2 ? spec.layers : 0) << threads << " threads";
    }
}

TEST_F(Placement, NothingIsInterleavedForF32Activations) {
    SynthSpec spec;
    spec.mix = "Q8_0";
    keel::tools::synth_write(path_, spec);
    keel_config c = config(KEEL_WEIGHTS_REPACK, KEEL_CPU_SCALAR);
    c.activation = KEEL_ACTIVATION_F32;
    for (const keel_op_info& op : plan_of(path_, c).ops) {
        if (!op.weight_type[0]) continue;
        EXPECT_EQ(op.placement, KEEL_WEIGHTS_COPY) << op.name;
        EXPECT_EQ(op.repack_skip, KEEL_REPACK_SKIP_TYPE) << op.name;
    }
}

// Pairs of bf16 are what float matrices read, and quantized ones their 8 bits. Rows of 80 end within a block of pairs,
// so that rounding them cannot join the gate.
TEST_F(Placement, FloatMatricesReadPairsWhereAsked) {
    SynthSpec spec;
    spec.mix = "F16";
    spec.overrides = {{"attn_q", "Q8_0"}, {"ffn_up", "F32"}};
    for (const uint32_t feed_forward : {128u, 80u}) {
        spec.feed_forward = feed_forward;
        keel::tools::synth_write(path_, spec);
        keel_config c = config(KEEL_WEIGHTS_COPY, KEEL_CPU_SCALAR);
        const std::vector<float> floats = logits(c);
        c.activation = KEEL_ACTIVATION_BF16;
        const keel_test::InspectedFile file(path_);
        const std::vector<keel_buffer_info> buffers = keel_test::plan_buffers(&file.reader, file.model, c);
        uint32_t products = 0, joined = 0;
        const Planned p = plan_of(path_, c);
        for (const keel_op_info& op : p.ops) {
            if (!strcmp(op.name, "quantize")) joined += op.dispatch == p.ops[op.index - 1].dispatch;
            if (!op.weight_type[0] || !strcmp(op.name, "embed")) continue;
            const std::string want = !strcmp(op.weight_type, "Q8_0") ? ".q8_32" : ".bf16";
            uint32_t coded = 0;
            for (uint32_t i = 0; i < op.read_count; ++i) {
                const std::string name = buffers[op.reads[i]].name;
                if (name.find('.') == std::string::npos) continue;
                EXPECT_EQ(name.substr(name.find('.')), want) << op.name;
                ++coded;
            }
            EXPECT_EQ(coded, 1u) << op.name;
            ++products;
        }
        EXPECT_EQ(products, spec.layers * 7 + 1);
        EXPECT_EQ(joined, feed_forward % 32 ? 0 : spec.layers);
        const std::vector<float> pairs = logits(c);
        EXPECT_NE(floats, pairs);
        double error = 0, magnitude = 0;
        for (size_t i = 0; i < pairs.size(); ++i) {
            error += (pairs[i] - floats[i]) * (pairs[i] - floats[i]);
            magnitude += floats[i] * floats[i];
        }
        EXPECT_LT(error, magnitude * 0.02 * 0.02);
        for (const uint32_t threads : {1u, 3u}) {
            c.threads = threads;
            c.cpu = KEEL_CPU_AUTO;
            EXPECT_EQ(0, memcmp(logits(c).data(), pairs.data(), pairs.size() * sizeof(float))) << threads;
        }
    }
}

}  // namespace
