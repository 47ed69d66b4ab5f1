// Shapes at the edge of what keel_inspect lets in: they have to run, and in every cut.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "sdk/tools/synth.h"
#include "tests/test_engine.h"

namespace {

using keel_test::sized;

// Many query heads on one KV head: a block of columns has to shrink, as one call takes 128 query rows.
TEST(ModelEdges, ManyQueryHeadsOnOneKvHead) {
    for (uint32_t heads : {24u, 128u}) {
        keel::tools::SynthSpec spec;
        spec.layers = 1;
        spec.embedding = 64;
        spec.heads = heads;
        spec.kv_heads = 1;
        spec.head_dim = 8;
        spec.feed_forward = 64;
        spec.vocabulary = 512;
        spec.context = 128;
        const std::string path = testing::TempDir() + "many-query-heads.gguf";
        keel::tools::synth_write(path, spec);
        std::vector<int32_t> ids(40);
        for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(260 + 5 * i % 200);
        for (keel_cpu cpu : {KEEL_CPU_SCALAR, KEEL_CPU_AUTO}) {
            keel_config c = sized<keel_config>();
            c.threads = 2;
            c.cpu = cpu;
            c.chunk_tokens = 1;
            c.logits_rows = 40;
            const keel_test::Logits one = keel_test::Engine(path, c).logits_for(ids);
            c.chunk_tokens = 40;
            const keel_test::Logits many = keel_test::Engine(path, c).logits_for(ids);
            ASSERT_EQ(one.values.size(), many.values.size());
            EXPECT_EQ(0, memcmp(one.values.data(), many.values.data(), one.values.size() * sizeof(float))) << heads;
        }
        std::remove(path.c_str());
    }
}

TEST(ModelEdges, InspectLeavesItsOutputsAloneOnError) {
    keel::tools::SynthSpec spec;
    spec.layers = 1;
    spec.embedding = 64;
    spec.heads = spec.kv_heads = 1;
    spec.feed_forward = 64;
    spec.vocabulary = 512;
    const std::string path = testing::TempDir() + "inspect-outputs.gguf";
    keel::tools::synth_write(path, spec);
    {
        keel_test::FileReader file(path);
        keel_model_info info = sized<keel_model_info>();
        ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
        std::vector<uint64_t> buffer(info.model_bytes / 8);
        const keel_model* model = nullptr;
        info.struct_size = 0;
        EXPECT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, nullptr), KEEL_E_ABI);
        EXPECT_EQ(model, nullptr);
    }
    std::remove(path.c_str());
}

}  // namespace
