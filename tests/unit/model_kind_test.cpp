// Files that are GGUF and no model this library runs: what keel_inspect says of them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "keel/keel.h"
#include "sdk/tools/files/synth.h"
#include "tests/test_engine.h"
#include "tests/tokenizer_fixture.h"

namespace {

using keel_test::check;
using keel_test::GgufBytes;

keel_error inspect(const GgufBytes& gguf) {
    const std::vector<char> file = gguf.bytes();
    keel_reader reader = keel_test::sized<keel_reader>();
    keel_error error = keel_test::sized<keel_error>();
    EXPECT_EQ(KEEL_OK, keel_reader_from_memory(file.data(), file.size(), &reader));
    std::vector<uint64_t> buffer(1 << 16);
    EXPECT_EQ(KEEL_E_UNSUPPORTED,
              keel_inspect(&reader, nullptr, buffer.data(), buffer.size() * 8, nullptr, nullptr, &error));
    return error;
}

GgufBytes llama() {
    GgufBytes gguf;
    gguf.string("general.architecture", "llama");
    return gguf;
}

TEST(ModelKind, APartOfASplitModel) {
    const keel_error e = inspect(llama().u32("split.no", 0).u32("split.count", 2));
    EXPECT_STREQ("split.count", e.field);
    EXPECT_NE(nullptr, strstr(e.reason, "join the parts"));
}

TEST(ModelKind, AnAdapter) {
    const keel_error e = inspect(llama().string("general.type", "adapter"));
    EXPECT_STREQ("general.type", e.field);
    EXPECT_NE(nullptr, strstr(e.reason, "LoRA"));
    // Of an architecture that is none of a language model.
    GgufBytes projector;
    projector.string("general.architecture", "clip").string("general.type", "mmproj");
    EXPECT_NE(nullptr, strstr(inspect(projector).reason, "image"));
}

TEST(ModelKind, AMixtureOfExperts) {
    const keel_error e = inspect(llama().u32("llama.expert_count", 4));
    EXPECT_STREQ("llama.expert_count", e.field);
    EXPECT_NE(nullptr, strstr(e.reason, "mixture of experts"));
}

// What an engine would refuse of a vocabulary is refused here; but a pre-tokenizer, which a configuration can name.
TEST(ModelKind, VocabulariesAreLookedAt) {
    keel::tools::SynthSpec spec;
    spec.layers = 1;
    spec.embedding = 64;
    spec.heads = spec.kv_heads = 1;
    spec.feed_forward = 64;
    spec.vocabulary = 512;
    spec.architecture = "qwen2";
    const std::string path = testing::TempDir() + "vocabulary-" + std::to_string(getpid()) + ".gguf";
    keel::tools::synth_write(path, spec);
    const std::vector<char> good = keel_test::read_file(path);
    std::remove(path.c_str());
    const auto status = [&](const std::string& from, const std::string& to) {
        std::vector<char> file = good;
        const auto at = std::search(file.begin(), file.end(), from.begin(), from.end());
        EXPECT_NE(file.end(), at) << from;
        std::copy(to.begin(), to.end(), at);
        keel_reader reader = keel_test::sized<keel_reader>();
        check(keel_reader_from_memory(file.data(), file.size(), &reader), "reader");
        std::vector<uint64_t> buffer(1 << 16);
        return keel_inspect(&reader, nullptr, buffer.data(), buffer.size() * 8, nullptr, nullptr, nullptr);
    };
    EXPECT_EQ(KEEL_OK, status("tokenizer.ggml.pre", "tokenizer.ggml.pro"));
    EXPECT_EQ(KEEL_E_FILE_FORMAT, status("tokenizer.ggml.merges", "tokenizer.ggml.mergos"));
    EXPECT_EQ(KEEL_E_UNSUPPORTED, status("tokenizer.ggml.model", "tokenizer.ggml.modol"));
}

TEST(ModelKind, AnUnknownRopeScalingIsNamed) {
    const auto scaled = [](const char* type) {
        GgufBytes gguf = llama();
        for (const char* key : {"block_count", "attention.head_count", "context_length"})
            gguf.u32(std::string("llama.") + key, 1);
        return gguf.u32("llama.embedding_length", 64)
            .u32("llama.feed_forward_length", 64)
            .string("llama.rope.scaling.type", type);
    };
    const keel_error e = inspect(scaled("dynamic"));
    EXPECT_STREQ("llama.rope.scaling.type", e.field);
    EXPECT_NE(nullptr, strstr(e.reason, "yarn or longrope"));
    // What is not a share of a frequency.
    EXPECT_STREQ("llama.rope.scaling.yarn_ext_factor",
                 inspect(scaled("yarn").f32("llama.rope.scaling.yarn_ext_factor", -1)).field);
}

}  // namespace
