// The models of samples/models/get against llama.cpp: tokens, prompts of their own templates, greedy text and
// perplexity. tests/data/real-models holds what llama.cpp gave, with the generator's name in tests/README.md. Where a
// model was not fetched its tests are skipped. Both sides multiply 4-bit weights with 8-bit activations, each rounded
// its own way, so probabilities agree to a few percent.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "tests/oracle.h"
#include "tests/test_engine.h"

namespace {

using namespace keel_test;

struct Model {
    const char* name;
    // Log-probabilities differ by at most this, nats; where the best two tokens are closer, either may be chosen. Of
    // gemma3-270m ours differ as much between f32 and 8-bit activations.
    double token_tolerance;
};
// Means over a text of 42 tokens, nats.
constexpr double kMeanTolerance = 0.02;

class RealModels : public testing::TestWithParam<Model> {
  protected:
    void SetUp() override {
        if (!getenv("KEEL_LONG_TESTS")) GTEST_SKIP() << "skipped: set KEEL_LONG_TESTS=1 to run it";
        expected_ = read_json(source_path(std::string("tests/data/real-models/") + GetParam().name + ".json"));
        path_ = source_path("samples/models/fetched/" + expected_["model"].get<std::string>());
        if (!std::filesystem::exists(path_))
            GTEST_SKIP() << "skipped: samples/models/get " << GetParam().name << " fetches it";
    }

    // Fed the other side's tokens whatever we would have chosen, so that one tie cannot hide what follows.
    void expect_greedy(Engine& engine, const std::vector<int32_t>& prompt, const nlohmann::json& answer) {
        const std::vector<int32_t> ids = answer["ids"];
        check(keel_session_truncate(engine.session(), 0), "keel_session_truncate");
        engine.feed(prompt);
        for (size_t i = 0; i < ids.size(); i++) {
            engine.advance();
            const float* row = engine.row(0);
            const double theirs = answer["logprobs"][i];
            const double ours = -nll(row, engine.info().vocabulary, ids[i]);
            EXPECT_NEAR(ours, theirs, GetParam().token_tolerance) << answer["text"] << " token " << i;
            worst_ = std::max(worst_, std::fabs(ours - theirs));
            compared_++;
            if (answer["margins"][i].get<double>() > 2 * GetParam().token_tolerance) {
                EXPECT_EQ(static_cast<int32_t>(argmax(row, engine.info().vocabulary)), ids[i])
                    << answer["text"] << " token " << i;
            }
            engine.feed({ids[i]});
        }
    }

    nlohmann::json expected_;
    std::string path_;
    double worst_ = 0;
    size_t compared_ = 0;
};

TEST_P(RealModels, TokenizeAsLlamaCpp) {
    const Engine engine(path_);
    for (const nlohmann::json& entry : expected_["tokens"])
        EXPECT_EQ(engine.tokenize(entry["text"], 0), entry["ids"].get<std::vector<int32_t>>()) << entry["text"];
}

TEST_P(RealModels, ChatPromptsAreTheTemplates) {
    const Engine engine(path_);
    if (expected_["chat"].empty()) {  // the file has no template, and Keel does not guess one
        EXPECT_EQ(KEEL_CHAT_NONE, engine.info().chat_family);
        const keel_chat_message hello = message("user", "Hello", 5);
        keel_chat conversation = sized<keel_chat>();
        conversation.messages = &hello;
        conversation.message_count = 1;
        size_t bytes = 0;
        EXPECT_EQ(KEEL_E_UNSUPPORTED, keel_chat_format(engine.handle(), &conversation, nullptr, 0, &bytes, nullptr));
    }
    for (const nlohmann::json& chat : expected_["chat"]) {
        std::vector<std::string> texts;
        for (const nlohmann::json& m : chat["messages"]) {
            texts.push_back(m["role"]);
            texts.push_back(m["content"]);
        }
        std::vector<keel_chat_message> messages;
        for (size_t i = 0; i < texts.size(); i += 2)
            messages.push_back(message(texts[i].c_str(), texts[i + 1].data(), texts[i + 1].size()));
        keel_chat conversation = sized<keel_chat>();
        conversation.messages = messages.data();
        conversation.message_count = static_cast<uint32_t>(messages.size());
        conversation.open_assistant = 1;
        std::string prompt(4096, '\0');
        size_t bytes = 0, count = 0;
        keel_error error = sized<keel_error>();
        check(keel_chat_format(engine.handle(), &conversation, prompt.data(), prompt.size(), &bytes, &error),
              "keel_chat_format", &error);
        prompt.resize(bytes);
        EXPECT_EQ(prompt, chat["prompt"].get<std::string>());
        std::vector<int32_t> ids(1024);
        check(keel_chat_tokenize(engine.handle(), &conversation, ids.data(), ids.size(), &count, &error),
              "keel_chat_tokenize", &error);
        ids.resize(count);
        EXPECT_EQ(ids, chat["ids"].get<std::vector<int32_t>>());
    }
}

TEST_P(RealModels, GreedyTextIsLlamaCpps) {
    Engine engine(path_);
    for (const nlohmann::json& entry : expected_["greedy"]) {
        EXPECT_EQ(engine.tokenize(entry["prompt"], KEEL_TOKENIZE_BOS), entry["prompt_ids"].get<std::vector<int32_t>>());
        expect_greedy(engine, entry["prompt_ids"], entry);
    }
    for (const nlohmann::json& chat : expected_["chat"]) expect_greedy(engine, chat["ids"], chat["answer"]);
    std::printf("    %zu tokens, log-probabilities at most %.3f apart\n", compared_, worst_);
    EXPECT_GE(compared_, 128u);
}

TEST_P(RealModels, PerplexityIsLlamaCpps) {
    keel_config config = sized<keel_config>();
    config.logits_rows = 64;
    Engine engine(path_, config);
    const nlohmann::json& passage = expected_["passage"];
    const std::vector<int32_t> ids = passage["ids"];
    const std::vector<double> theirs = passage["logprobs"];
    ASSERT_EQ(engine.tokenize(passage["text"], KEEL_TOKENIZE_BOS), ids);
    double our_sum = 0, their_sum = 0;
    engine.for_each_row({ids.begin(), ids.end() - 1}, [&](uint32_t i, const float* row) {
        our_sum += nll(row, engine.info().vocabulary, ids[i + 1]);
        their_sum -= theirs[i];
    });
    const double n = static_cast<double>(theirs.size());
    std::printf("    NLL %.4f, llama.cpp %.4f\n", our_sum / n, their_sum / n);
    EXPECT_NEAR(our_sum / n, their_sum / n, kMeanTolerance);
}

INSTANTIATE_TEST_SUITE_P(Fetched, RealModels, testing::Values(Model{"smollm2", 0.25}, Model{"gemma3-270m", 0.35}),
                         [](const auto& info) {
                             std::string name = info.param.name;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

}  // namespace
