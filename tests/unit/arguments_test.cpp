// Refused arguments: what keel_engine_last_error says of them, and memory that an engine may not have.
#include <gtest/gtest.h>
#include <math.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/adapter_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");

keel_config config() {
    keel_config c = sized<keel_config>();
    c.context_tokens = 128;
    c.threads = 1;
    return c;
}

TEST(Arguments, TheLastErrorNamesParameterValueAndRange) {
    keel_test::Engine engine(kTiny, config());
    const keel_session s = engine.session();
    keel_error error = sized<keel_error>();
    ASSERT_EQ(keel_engine_last_error(engine.handle(), &error), KEEL_OK);
    EXPECT_EQ(error.status, KEEL_OK) << "none so far";
    const auto expect = [&](keel_status status, const std::string& field, const std::string& reason) {
        EXPECT_EQ(status, KEEL_E_ARGUMENT) << field;
        ASSERT_EQ(keel_engine_last_error(engine.handle(), &error), KEEL_OK);
        EXPECT_EQ(error.status, KEEL_E_ARGUMENT);
        EXPECT_EQ(error.field, field);
        EXPECT_EQ(error.reason, reason) << field;
    };
    const std::string last_id = std::to_string(engine.info().vocabulary - 1);
    int32_t id = -7;
    size_t count = 0;
    uint64_t bytes = 0;
    float logprob = 0;
    keel_advance_result results[5] = {sized<keel_advance_result>()};
    keel_text text = sized<keel_text>();
    expect(keel_session_feed(s, &id, 1, 0), "tokens", "-7 is not within 0 and " + last_id);
    expect(keel_session_feed(s, nullptr, 1, 0), "tokens", "null, though count is not 0");
    expect(keel_session_feed(s, &id, 1, 6), "flags", "6 is not within 0 and 3");
    expect(keel_advance(engine.handle(), &s, 5, 0, results), "count", "5 is not within 1 and 1");
    expect(keel_advance(engine.handle(), nullptr, 1, 0, results), "sessions", "null");
    expect(keel_session_truncate(s, 3), "tokens", "3 is not within 0 and 0");
    expect(keel_session_evict(s, 0, 9, nullptr), "to", "9 is not within 0 and 0");
    expect(keel_session_top_logprobs(s, 300, &id, &logprob), "n",
           "300 is not within 1 and " + std::to_string(std::min(256u, engine.info().vocabulary)));
    expect(keel_session_logits(s, 0, nullptr, nullptr), "view", "null");
    expect(keel_session_set_variant(s, static_cast<keel_variant>(4)), "variant", "4 is not within 0 and 1");
    expect(keel_session_sample(s, nullptr), "token", "null");
    expect(keel_session_text(s, -2, &text), "token", "-2 is not within -1 and " + last_id);
    expect(keel_session_save(s, nullptr, 0, &bytes), "dst", "null");
    expect(keel_session_restore(s, nullptr, 0, nullptr), "src", "null");
    expect(keel_tokenize(engine.handle(), "a", 1, 64, nullptr, 0, &count), "flags", "64 is not within 0 and 3");
    expect(keel_detokenize(engine.handle(), &id, 1, 0, nullptr, 0, &count), "ids", "-7 is not within 0 and " + last_id);
    const char* stop = "";
    expect(keel_session_set_stops(s, &stop, &count, 1), "bytes", "0 is not within 1 and 128");
    keel_session_desc desc = sized<keel_session_desc>();
    desc.reserved_pages = 1000;
    keel_session other;
    expect(keel_session_open(engine.handle(), &desc, &other), "desc.reserved_pages", "1000 is not within 0 and 2");

    keel_sampling sampling = sized<keel_sampling>();
    const auto set = [&](float keel_sampling::*field, float value) {
        keel_sampling one = sized<keel_sampling>();
        one.*field = value;
        return keel_session_set_sampling(s, &one);
    };
    expect(set(&keel_sampling::temperature, NAN), "temperature", "not a finite number of at least 0");
    expect(set(&keel_sampling::top_p, 1.5f), "top_p", "not within 0 and 1");
    expect(set(&keel_sampling::repetition_penalty, -1), "repetition_penalty", "not a finite number above 0");
    sampling.bias_count = 257;
    expect(keel_session_set_sampling(s, &sampling), "bias_count", "257 is not within 0 and 256");
}

class Regions : public testing::Test {
  protected:
    Regions() : reader_(kTiny) {
        keel_model_info info = sized<keel_model_info>();
        keel_test::check(keel_inspect(reader_.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), "inspect");
        buffer_.resize((info.model_bytes + 7) / 8);
        keel_test::check(
            keel_inspect(reader_.get(), nullptr, buffer_.data(), buffer_.size() * 8, &model_, nullptr, nullptr),
            "inspect");
        keel_test::check(keel_plan(reader_.get(), model_, &config_, &plan_, nullptr), "plan");
    }
    keel_status init(const keel_memory& memory, keel_engine* out, const char* field, const char* reason) {
        keel_error error = sized<keel_error>();
        const keel_status status = keel_engine_init(reader_.get(), model_, &config_, &memory, out, &error);
        EXPECT_STREQ(error.field, field);
        EXPECT_STREQ(error.reason, reason);
        return status;
    }
    keel_config config_ = config();
    keel_test::FileReader reader_;
    std::vector<uint64_t> buffer_;
    const keel_model* model_ = nullptr;
    keel_memory_plan plan_ = sized<keel_memory_plan>();
};

TEST_F(Regions, AreApartFromEachOtherAndFromWhatIsRead) {
    const keel_test::Memory good(plan_);
    keel_engine engine = {};
    keel_memory memory = *good.get();
    memory.regions[KEEL_REGION_KV].data = static_cast<char*>(memory.regions[KEEL_REGION_PERSISTENT].data) + 4096;
    EXPECT_EQ(init(memory, &engine, "kv", "overlaps another region"), KEEL_E_ARGUMENT);
    memory = *good.get();
    memory.regions[KEEL_REGION_SCRATCH].data = const_cast<void*>(reader_.get()->mapped);
    EXPECT_EQ(init(memory, &engine, "scratch", "overlaps the file of the reader"), KEEL_E_ARGUMENT);
    EXPECT_EQ(engine.id, 0u);
    EXPECT_EQ(init(*good.get(), &engine, "", ""), KEEL_OK);
    EXPECT_EQ(keel_engine_close(engine), KEEL_OK);
}

// Files of parts are read where they are mapped, as the model's is: the last byte of a region may not be one of theirs.
TEST_F(Regions, AreApartFromMappedParts) {
    const keel_test::InspectedFile model(kTiny);
    const keel_test::WprojBytes cache(keel::tools::encode_wproj_v2(keel_test::random_wproj(model, {}), 1));
    const keel_test::AdapterBytes adapter = keel_test::random_adapter(model, {});
    const std::string grammar = "root ::= [a-z]*";
    const std::vector<uint8_t> files[] = {{grammar.begin(), grammar.end()}, cache.bytes, adapter.bytes};
    keel_reader readers[3];
    keel_part parts[3];
    config_.parts = parts;
    config_.part_count = 3;
    for (int moved = 0; moved < 3; ++moved) {
        const auto use = [&](int i, const void* data) {
            keel_test::check(keel_reader_from_memory(data, files[i].size(), &readers[i]), "reader");
        };
        for (int i = 0; i < 3; ++i) {
            readers[i] = sized<keel_reader>();
            use(i, files[i].data());
            parts[i] = keel_test::part(i == 0   ? KEEL_PART_GRAMMAR
                                       : i == 1 ? KEEL_PART_WPROJ
                                                : KEEL_PART_ADAPTER,
                                       &readers[i]);
        }
        keel_test::check(keel_plan(reader_.get(), model_, &config_, &plan_, nullptr), "plan");
        const keel_test::Memory good(plan_);
        keel_memory memory = *good.get();
        const uint64_t bytes = plan_.regions[KEEL_REGION_SCRATCH].bytes,
                       align = plan_.regions[KEEL_REGION_SCRATCH].align_bytes;
        std::vector<uint8_t> both(align + bytes + files[moved].size());
        uint8_t* region = both.data() + (align - reinterpret_cast<uintptr_t>(both.data()) % align);
        memory.regions[KEEL_REGION_SCRATCH] = {region, bytes};
        keel_engine engine = {};
        for (const bool apart : {false, true}) {
            uint8_t* at = region + bytes - !apart;
            memcpy(at, files[moved].data(), files[moved].size());
            use(moved, at);
            if (apart) {
                ASSERT_EQ(init(memory, &engine, "", ""), KEEL_OK);
            } else {
                EXPECT_EQ(init(memory, &engine, "scratch", "overlaps the file of a part"), KEEL_E_ARGUMENT);
                if (engine.id) keel_engine_close(engine);
            }
        }
        EXPECT_EQ(keel_engine_close(engine), KEEL_OK);
    }
}

TEST_F(Regions, OfALivingEngineAreRefusedUntilItIsClosed) {
    const keel_test::Memory first(plan_), second(plan_);
    keel_engine one = {}, two = {};
    ASSERT_EQ(init(*first.get(), &one, "", ""), KEEL_OK);
    EXPECT_EQ(init(*first.get(), &two, "memory", "some of it belongs to a living engine"), KEEL_E_ARGUMENT);
    keel_memory mixed = *second.get();
    mixed.regions[KEEL_REGION_KV] = first.get()->regions[KEEL_REGION_KV];
    EXPECT_EQ(init(mixed, &two, "memory", "some of it belongs to a living engine"), KEEL_E_ARGUMENT);
    keel_stats stats = sized<keel_stats>();
    EXPECT_EQ(keel_engine_stats(one, &stats), KEEL_OK) << "it was not touched";
    ASSERT_EQ(keel_engine_close(one), KEEL_OK);
    ASSERT_EQ(init(*first.get(), &two, "", ""), KEEL_OK);
    EXPECT_EQ(keel_engine_close(two), KEEL_OK);
}

}  // namespace
