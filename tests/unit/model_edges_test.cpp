// Shapes at the edge of what keel_inspect lets in: they have to run, and in every cut.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "sdk/tools/files/synth.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

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
        const std::string path = keel_test::temp_path("many-query-heads.gguf");
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
    const std::string path = keel_test::temp_path("inspect-outputs.gguf");
    keel::tools::synth_write(path, spec);
    {
        keel_test::FileReader file(path);
        keel_model_info info = sized<keel_model_info>();
        ASSERT_EQ(keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
        std::vector<uint64_t> buffer(info.model_bytes / 8);
        const keel_model* model = nullptr;
        info.struct_size = 0;
        EXPECT_EQ(keel_inspect(file.get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, nullptr),
                  KEEL_E_ABI);
        EXPECT_EQ(model, nullptr);
    }
    std::remove(path.c_str());
}

// A reader over bytes in memory that fails on its n-th call.
struct FailingReader {
    std::vector<char> bytes;
    uint64_t calls = 0, fail_at = 0;

    static keel_status read_at(void* user, uint64_t offset, void* dst, size_t n) {
        auto* r = static_cast<FailingReader*>(user);
        if (r->calls++ == r->fail_at) return KEEL_E_FILE_READ;
        memcpy(dst, r->bytes.data() + offset, n);
        return KEEL_OK;
    }
};

TEST(ModelEdges, EveryFailureOfTheReaderIsDetailed) {
    for (const char* file :
         {"architectures/smollm2-q8_0", "architectures/gemma3", "architectures/phi3-longrope", "wired/wired"}) {
        FailingReader source{keel_test::read_file(keel_test::source_path(std::string("tests/data/") + file + ".gguf"))};
        keel_reader reader = sized<keel_reader>();
        reader.size_bytes = source.bytes.size();
        reader.read_at = FailingReader::read_at;
        reader.user_data = &source;
        std::vector<uint64_t> buffer(1 << 16);
        for (uint64_t fail_at = 0;; ++fail_at) {
            source.calls = 0;
            source.fail_at = fail_at;
            keel_error error = sized<keel_error>();
            const keel_model* model = nullptr;
            keel_status status =
                keel_inspect(&reader, nullptr, buffer.data(), buffer.size() * 8, &model, nullptr, &error);
            keel_config config = sized<keel_config>();
            config.threads = 1;
            keel_memory_plan plan = sized<keel_memory_plan>();
            if (status == KEEL_OK) status = keel_plan(&reader, model, &config, &plan, &error);
            if (status == KEEL_OK) break;
            EXPECT_EQ(status, KEEL_E_FILE_READ);
            EXPECT_EQ(error.status, status) << file << " read " << fail_at;
            EXPECT_STRNE(error.reason, "") << file << " read " << fail_at;
        }
    }
}

}  // namespace
