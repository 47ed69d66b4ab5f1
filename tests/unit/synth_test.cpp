// sdk/tools: synthetic models and the writer under them, read back by the library's own scan.
#include "sdk/tools/files/synth.h"

#include <math.h>

#include <map>
#include <set>

#include "kernels/cpu/kernel_set.h"
#include "sdk/tools/files/gguf_writer.h"
#include "tests/gguf_exercise.h"
#include "tests/test_paths.h"

namespace keel {
namespace {

using tools::SynthSpec;

struct ReadBack {
    std::vector<char> data;
    keel_reader reader;
    keel_test::GgufTables t;

    explicit ReadBack(const std::string& path) : data(keel_test::read_file(path)) {
        reader = keel_test::memory_reader(data.data(), data.size());
        keel_error error = {sizeof error, KEEL_OK, 0, "", ""};
        EXPECT_EQ(keel_test::exercise(reader, keel_test::default_limits(), &error), KEEL_OK)
            << error.field << error.reason;
        EXPECT_EQ(keel_test::scan(reader, keel_test::default_limits(), &t, &error), KEEL_OK);
    }
    std::string name(const GgufTensor& tensor) const {
        return keel_test::file_text(reader, tensor.name_offset, tensor.name_bytes);
    }
    const GgufTensor* tensor(const std::string& wanted) const {
        for (const GgufTensor& tensor : t.tensors)
            if (name(tensor) == wanted) return &tensor;
        return nullptr;
    }
    uint32_t u32(const std::string& key) const {
        uint32_t v = 0;
        bool present = false;
        EXPECT_EQ(gguf_u32(reader, t.view, key.c_str(), &v, &present, nullptr), KEEL_OK) << key;
        EXPECT_TRUE(present) << key;
        return v;
    }
    std::string string(const char* key) const {
        char text[256] = "";
        EXPECT_EQ(gguf_string(reader, t.view, key, text, sizeof text, nullptr, nullptr, nullptr), KEEL_OK);
        return text;
    }
    std::vector<std::string> strings(const char* key) const {
        std::vector<std::string> out;
        const GgufValue* v = gguf_find(t.view, key);
        if (!v) return out;
        GgufStringCursor cursor(reader, *v);
        for (uint64_t bytes; cursor.left();) {
            EXPECT_EQ(cursor.next(&bytes), KEEL_OK);
            out.emplace_back(bytes, 0);
            EXPECT_EQ(cursor.read(out.back().data()), KEEL_OK);
        }
        return out;
    }
};

class Synth : public testing::Test {
  protected:
    std::string path_ = keel_test::temp_path("synth_test.gguf");
    void TearDown() override { std::filesystem::remove(path_); }
    ReadBack make(const SynthSpec& spec) {
        tools::synth_write(path_, spec);
        EXPECT_EQ(std::filesystem::file_size(path_), tools::synth_size(spec).file_bytes);
        return ReadBack(path_);
    }
};

constexpr const char* kArchitectures[] = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "glm4", "keel-wired"};
constexpr const char* kTypes[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1",   "Q5_0",   "Q5_1", "Q8_0", "Q2_K",
                                  "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "WT2",  "WT3"};

TEST_F(Synth, EveryArchitectureHasItsTensors) {
    const std::map<std::string, std::vector<std::string>> own = {
        {"llama", {"rope_freqs.weight", "blk.1.attn_q.weight", "blk.1.ffn_gate.weight"}},
        {"qwen2", {"blk.1.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias"}},
        {"qwen3", {"blk.1.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}},
        {"gemma2", {"blk.1.post_attention_norm.weight", "blk.1.post_ffw_norm.weight"}},
        {"gemma3", {"blk.1.attn_q_norm.weight", "blk.1.post_ffw_norm.weight"}},
        {"phi3", {"blk.1.attn_qkv.weight", "rope_factors_long.weight", "rope_factors_short.weight"}},
        {"glm4", {"blk.1.attn_q.weight", "blk.1.post_attention_norm.weight", "blk.1.post_ffw_norm.weight"}},
        {"keel-wired", {"input_mix.weight", "lane_mix.weight", "smear_gate.weight", "blk.1.attn_gate.weight"}}};
    for (const char* architecture : kArchitectures) {
        SCOPED_TRACE(architecture);
        SynthSpec spec;
        spec.architecture = architecture;
        spec.rope_factor = 8;
        spec.mix = "Q4_0";
        const ReadBack file = make(spec);
        EXPECT_EQ(file.string("general.architecture"), architecture);
        EXPECT_EQ(file.u32(spec.architecture + ".block_count"), 2u);
        EXPECT_EQ(file.u32(spec.architecture + ".attention.head_count_kv"), 2u);
        for (const std::string& name : own.at(architecture)) EXPECT_NE(file.tensor(name), nullptr) << name;
        for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight",
                                 "blk.1.attn_output.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_down.weight"})
            EXPECT_NE(file.tensor(name), nullptr) << name;
        EXPECT_EQ(file.tensor("output.weight"), nullptr);
        if (spec.architecture.starts_with("gemma")) {
            EXPECT_EQ(file.u32(spec.architecture + ".attention.sliding_window"), 1024u);
        }
    }
}

TEST_F(Synth, WeightsKeepTheVariance) {
    for (const char* type : kTypes) {
        SCOPED_TRACE(type);
        SynthSpec spec;
        spec.mix = type;
        spec.layers = 1;
        const ReadBack file = make(spec);
        const GgufTensor* tensor = file.tensor("token_embd.weight");
        ASSERT_NE(tensor, nullptr);
        EXPECT_STREQ(kernels::weight_type_info(tensor->type)->name, type);
        const auto decode = kernels::kScalarSet.dequantize_row[tensor->type];
        double sum = 0, square = 0;
        std::vector<float> row(tensor->dims[0]);
        const uint64_t row_bytes = kernels::weight_row_bytes(tensor->type, row.size());
        for (uint64_t r = 0; r < tensor->dims[1]; ++r) {
            decode(file.data.data() + tensor->offset + r * row_bytes, row.data(), static_cast<uint32_t>(row.size()));
            for (float w : row) {
                sum += w;
                square += double{w} * w;
            }
        }
        const double n = static_cast<double>(row.size() * tensor->dims[1]),
                     unit = sqrt(static_cast<double>(row.size()));
        EXPECT_NEAR(sqrt(square / n) * unit, 1, 0.05);
        EXPECT_NEAR(sum / n * unit, 0, 0.02);
    }
}

TEST_F(Synth, MixturesFallBackWhereRowsDoNotFit) {
    SynthSpec spec;
    spec.mix = "Q4_K_M";
    spec.embedding = 96;
    spec.heads = 3;
    spec.kv_heads = 3;
    spec.head_dim = 32;
    spec.feed_forward = 256;
    spec.layers = 8;
    spec.overrides = {{"blk.3.ffn_up", "Q8_0"}};
    const ReadBack file = make(spec);
    const auto type = [&](const char* name) {
        return std::string(kernels::weight_type_info(file.tensor(name)->type)->name);
    };
    EXPECT_EQ(type("blk.1.attn_q.weight"), "Q5_0");  // Q4_K
    EXPECT_EQ(type("blk.0.attn_v.weight"), "Q8_0");  // Q6_K: first eighth
    EXPECT_EQ(type("blk.1.attn_v.weight"), "Q5_0");
    EXPECT_EQ(type("blk.0.ffn_down.weight"), "Q6_K");
    EXPECT_EQ(type("blk.1.ffn_down.weight"), "Q4_K");
    EXPECT_EQ(type("blk.3.ffn_up.weight"), "Q8_0");
    EXPECT_EQ(type("token_embd.weight"), "Q8_0");  // the output matrix, Q6_K
    EXPECT_EQ(type("blk.0.attn_norm.weight"), "F32");
    spec.embedding = 90;
    EXPECT_EQ(make(spec).tensor("blk.1.attn_q.weight")->type, kernels::kF16);
}

TEST_F(Synth, VocabulariesAreComplete) {
    for (const tools::SynthTokenizer kind : {tools::SynthTokenizer::kSpm, tools::SynthTokenizer::kBpe})
        for (const char* architecture : kArchitectures) {
            SCOPED_TRACE(architecture);
            SynthSpec spec;
            spec.architecture = architecture;
            spec.tokenizer = kind;
            spec.vocabulary = 2000;
            spec.layers = 1;
            const ReadBack file = make(spec);
            const std::vector<std::string> tokens = file.strings("tokenizer.ggml.tokens");
            ASSERT_EQ(tokens.size(), 2000u);
            const std::set<std::string> known(tokens.begin(), tokens.end());
            EXPECT_EQ(known.size(), 2000u);
            EXPECT_EQ(gguf_find(file.t.view, "tokenizer.ggml.token_type")->count, 2000u);
            EXPECT_LT(file.u32("tokenizer.ggml.eos_token_id"), 2000u);
            if (kind == tools::SynthTokenizer::kSpm) {
                EXPECT_EQ(file.string("tokenizer.ggml.model"), "llama");
                EXPECT_EQ(gguf_find(file.t.view, "tokenizer.ggml.scores")->count, 2000u);
                EXPECT_TRUE(known.count("<0x00>") && known.count("<0xFF>"));
                continue;
            }
            EXPECT_EQ(file.string("tokenizer.ggml.model"), "gpt2");
            for (const std::string& merge : file.strings("tokenizer.ggml.merges")) {
                const size_t space = merge.find(' ');
                ASSERT_TRUE(known.count(merge.substr(0, space)) && known.count(merge.substr(space + 1))) << merge;
                ASSERT_TRUE(known.count(merge.substr(0, space) + merge.substr(space + 1))) << merge;
            }
        }
}

// Parameter counts of the published models, from their configurations.
TEST(SynthShapes, HaveTheSizesTheyAreNamedFor) {
    const std::map<std::string, uint64_t> exact = {
        {"smollm2-135m", 134515008}, {"1b", 1235814400}, {"3b", 3212749824}, {"8b", 8030261248}};
    for (const auto& [name, parameters] : exact) {
        const SynthSpec spec = tools::synth_shape(name);
        EXPECT_EQ(tools::synth_size(spec).parameters - (spec.rope_factor > 0 ? spec.head_dim / 2 : 0), parameters)
            << name;
    }
    EXPECT_NEAR(static_cast<double>(tools::synth_size(tools::synth_shape("738m")).parameters), 738e6, 1e6);
    EXPECT_EQ(tools::synth_shape_names().size(), 6u);
    EXPECT_THROW(tools::synth_shape("9b"), std::invalid_argument);
}

TEST_F(Synth, SameSeedSameFile) {
    SynthSpec spec;
    spec.mix = "Q4_K_M";
    const std::vector<char> first = make(spec).data;
    EXPECT_EQ(make(spec).data, first);
    spec.seed = 2;
    const std::vector<char> other = make(spec).data;
    EXPECT_EQ(other.size(), first.size());
    EXPECT_NE(other, first);
}

TEST_F(Synth, ProgressReachesTheEnd) {
    SynthSpec spec;
    spec.vocabulary = 30000;  // more than one chunk
    uint64_t last = 0, calls = 0;
    tools::synth_write(path_, spec, [&](uint64_t done, uint64_t total) {
        EXPECT_GT(done, last);
        EXPECT_EQ(total, tools::synth_size(spec).file_bytes);
        last = done;
        ++calls;
    });
    EXPECT_EQ(last, tools::synth_size(spec).file_bytes);
    EXPECT_GT(calls, 4u);
}

TEST_F(Synth, RefusesWhatCannotBe) {
    const auto refused = [&](auto change) {
        SynthSpec spec;
        change(spec);
        EXPECT_THROW(tools::synth_size(spec), std::invalid_argument);
    };
    refused([](SynthSpec& s) { s.architecture = "mamba"; });
    refused([](SynthSpec& s) { s.mix = "IQ2_XXS"; });
    refused([](SynthSpec& s) { s.kv_heads = 3; });
    refused([](SynthSpec& s) { s.head_dim = 63; });
    refused([](SynthSpec& s) { s.vocabulary = 511; });
    refused([](SynthSpec& s) { s.layers = 0; });
    refused([](SynthSpec& s) { s.architecture = "phi3", s.head_dim = 32; });
    EXPECT_THROW(tools::synth_write("/nonexistent/file.gguf", SynthSpec()), std::runtime_error);
    EXPECT_NO_THROW(tools::synth_check(SynthSpec()));
    SynthSpec spec;
    spec.layers = 600;  // the default of keel_limits.max_layers is 512
    EXPECT_NO_THROW(tools::synth_size(spec));
    EXPECT_THROW(tools::synth_check(spec), std::invalid_argument);
}

TEST(GgufWriter, EveryValueType) {
    const std::string path = keel_test::temp_path("writer_test.gguf");
    tools::GgufWriter w(128);
    w.number<uint8_t>("u8", 1);
    w.number<int8_t>("i8", 2);
    w.number<uint16_t>("u16", 3);
    w.number<int16_t>("i16", 4);
    w.number<uint32_t>("u32", 5);
    w.number<int32_t>("i32", 6);
    w.number<uint64_t>("u64", 7);
    w.number<int64_t>("i64", 8);
    w.number<float>("f32", 9.5f);
    w.number<double>("f64", 10.5);
    w.boolean("bool", true);
    w.string("string", "text");
    w.strings("strings", {"a", "", "ccc"});
    w.numbers<int16_t>("numbers", {1, -2, 3});
    w.tensor("a", {32, 3}, kernels::kQ4_0);
    w.tensor("b", {5}, kernels::kF32);
    EXPECT_THROW(w.tensor("c", {33}, kernels::kQ4_0), std::invalid_argument);
    EXPECT_THROW(w.tensor("c", {256}, kernels::kWeightTypeCount), std::invalid_argument);
    EXPECT_THROW(w.tensor("c", {32}, kernels::kQ8_F32), std::invalid_argument);
    w.write(path, [](size_t tensor, uint64_t offset, uint8_t* dst, uint64_t bytes) {
        for (uint64_t i = 0; i < bytes; ++i) dst[i] = static_cast<uint8_t>(100 * tensor + offset + i);
    });
    const ReadBack file(path);
    std::filesystem::remove(path);
    EXPECT_EQ(file.t.view.alignment, 128u);
    const char* integers[] = {"u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"};
    const uint32_t types[] = {kGgufU8, kGgufI8, kGgufU16, kGgufI16, kGgufU32, kGgufI32, kGgufU64, kGgufI64};
    for (uint32_t i = 0; i < 8; ++i) {
        EXPECT_EQ(file.u32(integers[i]), i + 1);
        EXPECT_EQ(gguf_find(file.t.view, integers[i])->type, types[i]);
    }
    EXPECT_EQ(gguf_find(file.t.view, "f32")->type, kGgufF32);
    EXPECT_EQ(gguf_find(file.t.view, "f64")->type, kGgufF64);
    EXPECT_EQ(file.string("string"), "text");
    EXPECT_EQ(file.strings("strings"), (std::vector<std::string>{"a", "", "ccc"}));
    EXPECT_EQ(gguf_find(file.t.view, "numbers")->element_type, kGgufI16);
    EXPECT_EQ(file.data[file.tensor("a")->offset + 53], 53);
    EXPECT_EQ(file.data[file.tensor("b")->offset + 19], 119);
    EXPECT_EQ(file.data.size() % 128, 0u);
}

}  // namespace
}  // namespace keel
