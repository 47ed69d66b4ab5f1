// What names a model (keel_model_info.fingerprint): two files of one header and other weights are two models, and what
// was made for one of them is refused for the other.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/kv_profile_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::sized;

class Fingerprint : public testing::Test {
  protected:
    const std::string one_ = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
    const std::string two_ = testing::TempDir() + "keel_fingerprint_" + std::to_string(getpid()) + ".gguf";

    // The weights of the second file differ from those of the first in their lowest bits.
    void SetUp() override {
        const keel_test::InspectedFile one(one_);
        std::vector<char> data = one.bytes;
        for (size_t at = data.size() - one.info.weight_bytes; at < data.size(); ++at) data[at] ^= 1;
        std::ofstream(two_, std::ios::binary).write(data.data(), static_cast<std::streamsize>(data.size()));
    }
    void TearDown() override { std::filesystem::remove(two_); }

    static keel_config config() {
        keel_config c = sized<keel_config>();
        c.context_tokens = 128;
        c.threads = 1;
        return c;
    }
};

TEST_F(Fingerprint, SameShapeOtherWeights) {
    const keel_test::InspectedFile one(one_), two(two_);
    EXPECT_EQ(one.info.file_bytes, two.info.file_bytes);
    EXPECT_NE(one.info.fingerprint, two.info.fingerprint);
    EXPECT_EQ(one.info.fingerprint, keel_test::InspectedFile(one_).info.fingerprint);
}

TEST_F(Fingerprint, InitRefusesAnotherFileOfEqualSize) {
    const keel_test::InspectedFile one(one_);
    const keel_test::FileReader two(two_);
    std::vector<char> renamed = one.bytes;
    const std::string name = "general.architecture";
    *std::search(renamed.begin(), renamed.end(), name.begin(), name.end()) = 'G';
    keel_reader other_header = sized<keel_reader>();
    ASSERT_EQ(keel_reader_from_memory(renamed.data(), renamed.size(), &other_header), KEEL_OK);
    const keel_config c = config();
    keel_memory_plan plan = sized<keel_memory_plan>();
    ASSERT_EQ(keel_plan(&one.reader, one.model, &c, &plan, nullptr), KEEL_OK);
    const keel_test::Memory memory(plan);
    for (const keel_reader* reader : {two.get(), static_cast<const keel_reader*>(&other_header)}) {
        keel_engine engine = {};
        keel_error error = sized<keel_error>();
        EXPECT_EQ(keel_engine_init(reader, one.model, &c, memory.get(), &engine, &error), KEEL_E_FILE_MISMATCH);
        EXPECT_STREQ(error.field, "reader");
    }
    keel_engine engine = {};
    ASSERT_EQ(keel_engine_init(&one.reader, one.model, &c, memory.get(), &engine, nullptr), KEEL_OK);
    EXPECT_EQ(keel_engine_close(engine), KEEL_OK);
}

TEST_F(Fingerprint, SavedSessionsKvProfilesAndCachesBelongToOneOfThem) {
    keel_test::Engine one(one_, config()), two(two_, config());
    one.feed({1, 2, 3});
    one.advance();
    two.feed({4, 5});
    two.advance();
    uint64_t bytes = 0;
    ASSERT_EQ(keel_session_save_bytes(one.session(), &bytes), KEEL_OK);
    std::vector<uint8_t> saved(bytes);
    ASSERT_EQ(keel_session_save(one.session(), saved.data(), bytes, &bytes), KEEL_OK);
    keel_error error = sized<keel_error>();
    EXPECT_EQ(keel_session_restore(two.session(), saved.data(), bytes, &error), KEEL_E_FILE_MISMATCH);
    EXPECT_STREQ(error.field, "fingerprint");
    keel_session_info info = sized<keel_session_info>();
    ASSERT_EQ(keel_session_get(two.session(), &info), KEEL_OK);
    EXPECT_EQ(info.computed_tokens, 2u) << "as before";
    EXPECT_EQ(keel_session_restore(one.session(), saved.data(), bytes, nullptr), KEEL_OK);

    const keel_test::InspectedFile first(one_), second(two_);
    keel_test::KvProfileBuilder builder(first.info, KEEL_KV_Q8_0, KEEL_KV_Q8_0);
    const std::vector<uint8_t> profile = builder.bytes();
    keel_reader profile_reader = sized<keel_reader>();
    ASSERT_EQ(keel_reader_from_memory(profile.data(), profile.size(), &profile_reader), KEEL_OK);
    const keel_test::WprojBytes cache(keel::tools::encode_wproj_v2(keel_test::random_wproj(first, {}), 9));
    keel_config c = config();
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &profile_reader);
    c.parts = &part;
    c.part_count = 1;
    EXPECT_EQ(keel_plan(&first.reader, first.model, &c, &plan, nullptr), KEEL_OK);
    EXPECT_EQ(keel_plan(&second.reader, second.model, &c, &plan, nullptr), KEEL_E_FILE_MISMATCH);
    part = keel_test::part(KEEL_PART_WPROJ, &cache.reader);
    ASSERT_EQ(keel_plan(&first.reader, first.model, &c, &plan, nullptr), KEEL_OK);
    EXPECT_EQ(plan.part_status, KEEL_OK);
    ASSERT_EQ(keel_plan(&second.reader, second.model, &c, &plan, nullptr), KEEL_OK);
    EXPECT_EQ(plan.part_status, KEEL_E_FILE_MISMATCH);
}

}  // namespace
