// keel_chat_format, keel_chat_tokenize and keel_session_chat on engines.
#include <string.h>

#include <algorithm>
#include <filesystem>

#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::chat;
using keel_test::message;
using keel_test::sized;

constexpr char kTurns[] =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ date }}{{ strftime_now('%Y') if strftime_now is defined }}";

// An engine over the bundled model, whose control tokens are <s> and </s>, with a template of its own.
struct ChatEngine {
    explicit ChatEngine(const char* text, uint32_t max_chat_bytes = 0, bool clock = false, uint32_t recent = 0)
        : template_(text),
          reader_(sized<keel_reader>()),
          part_(keel_test::part(KEEL_PART_CHAT_TEMPLATE, &reader_)),
          hooks_(sized<keel_hooks>()) {
        keel_test::check(keel_reader_from_memory(template_.data(), template_.size(), &reader_), "reader");
        config = sized<keel_config>();
        config.context_tokens = 128;
        config.threads = 1;
        config.parts = &part_;
        config.part_count = 1;
        config.max_chat_bytes = max_chat_bytes;
        config.kv_recent_tokens = recent;
        if (recent) config.k_format = config.v_format = KEEL_KV_TCQ_4;
        hooks_.strftime_now = [](void*, const char* format, char* dst, size_t capacity) -> size_t {
            if (strcmp(format, "%Y") != 0 || capacity < 4) return 0;
            memcpy(dst, "2025", 4);
            return 4;
        };
        if (clock) config.hooks = &hooks_;
        engine = std::make_unique<keel_test::Engine>(keel_test::source_path("samples/models/books-7m-f16.gguf").c_str(),
                                                     config);
    }
    std::string format(const keel_chat& c) {
        char text[1000];
        size_t bytes = 0;
        error = sized<keel_error>();
        status = keel_chat_format(engine->handle(), &c, text, sizeof text, &bytes, &error);
        return status == KEEL_OK ? std::string(text, bytes) : "";
    }
    std::vector<int32_t> ids(const keel_chat& c) {
        std::vector<int32_t> out(200);
        size_t count = 0;
        error = sized<keel_error>();
        status = keel_chat_tokenize(engine->handle(), &c, out.data(), out.size(), &count, &error);
        out.resize(status == KEEL_OK ? count : 0);
        return out;
    }
    std::vector<int32_t> tokenize(const std::string& text, uint32_t flags) {
        std::vector<int32_t> out(200);
        size_t count = 0;
        EXPECT_EQ(KEEL_OK,
                  keel_tokenize(engine->handle(), text.data(), text.size(), flags, out.data(), out.size(), &count));
        out.resize(count);
        return out;
    }

    std::string template_;
    keel_reader reader_;
    keel_part part_;
    keel_hooks hooks_;
    keel_config config;
    std::unique_ptr<keel_test::Engine> engine;
    keel_status status = KEEL_OK;
    keel_error error;
};

TEST(ChatEngine, IdsAreThoseOfTheText) {
    ChatEngine e(kTurns);
    const keel_chat_message said[] = {message("user", "Who are you?", 12), message("assistant", "A book.", 7)};
    const keel_chat c = chat(said, 2, true);
    const std::string text = e.format(c);
    EXPECT_EQ("[user]Who are you?</s>[assistant]A book.</s>[assistant]", text);
    EXPECT_EQ(e.tokenize(text, KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS), e.ids(c));
}

TEST(ChatEngine, ControlTokensComeFromTheTemplateOnly) {
    ChatEngine e(kTurns);
    const auto ends_in = [&](const std::vector<int32_t>& ids) {
        const int32_t end = e.tokenize("</s>", KEEL_TOKENIZE_SPECIAL).back();
        return std::count(ids.begin(), ids.end(), end);
    };
    const keel_chat_message said[] = {message("user", "a</s>b<s>", 9)};
    const keel_chat c = chat(said, 1, false);
    const std::string text = e.format(c);
    EXPECT_EQ("[user]a</s>b<s></s>", text);
    EXPECT_EQ(2, ends_in(e.tokenize(text, KEEL_TOKENIZE_SPECIAL))) << "the text does not say who wrote it";
    const std::vector<int32_t> ids = e.ids(c);
    EXPECT_EQ(1, ends_in(ids));
    char back[200];
    size_t bytes = 0;
    EXPECT_EQ(KEEL_OK, keel_detokenize(e.engine->handle(), ids.data(), ids.size(), 0, back, sizeof back, &bytes));
    EXPECT_NE(std::string::npos, std::string(back, bytes).find("a</s>b<s>"));
    // Neither does a message that the template cuts and joins, or one half of a mark.
    ChatEngine cutting("{% for m in messages %}{{ (m.content|replace('x', ''))[1:] ~ 's>' }}{% endfor %}");
    const keel_chat_message half[] = {message("user", "aa<x/", 5), message("user", ".<xs>", 5)};
    EXPECT_EQ(0, ends_in(cutting.ids(chat(half, 2, false))));
    // JSON is no template either.
    ChatEngine variable("{{ name }}{{ name|tojson }}</s>");
    keel_chat with_name = chat(nullptr, 0, false);
    with_name.variables = R"({"name": "</s>"})";
    with_name.variable_bytes = strlen(with_name.variables);
    EXPECT_EQ(1, ends_in(variable.ids(with_name)));
}

TEST(ChatEngine, ASessionIsGivenWhatFollows) {
    ChatEngine e(kTurns);
    const keel_session session = e.engine->session();
    const keel_chat_message said[] = {message("user", "Hello there", 11), message("assistant", "Hi", 2),
                                      message("user", "More", 4)};
    const std::vector<int32_t> first = e.ids(chat(said, 1, true)), all = e.ids(chat(said, 3, true));
    std::vector<int32_t> rest(all.size());
    uint32_t kept = 99;
    size_t count = 0;
    const auto follow = [&](const keel_chat& c, size_t capacity) {
        return keel_session_chat(session, &c, &kept, rest.data(), capacity, &count, nullptr);
    };
    ASSERT_EQ(KEEL_OK, follow(chat(said, 1, true), rest.size()));
    EXPECT_EQ(0u, kept);
    EXPECT_EQ(first, std::vector<int32_t>(rest.begin(), rest.begin() + count));
    e.engine->feed(first);
    e.engine->advance();
    ASSERT_EQ(KEEL_OK, follow(chat(said, 3, true), rest.size()));
    EXPECT_GT(kept, 5u);
    EXPECT_EQ(all.size(), kept + count);
    EXPECT_TRUE(std::equal(all.begin(), all.begin() + kept, first.begin()));
    EXPECT_TRUE(std::equal(all.begin() + kept, all.end(), rest.begin()));
    // Everything is held: the last token is computed again, so that there is something to sample from.
    ASSERT_EQ(KEEL_OK, follow(chat(said, 1, true), rest.size()));
    EXPECT_EQ(first.size() - 1, kept);
    ASSERT_EQ(1u, count);
    EXPECT_EQ(first.back(), rest[0]);
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, follow(chat(said, 3, true), 2));
    EXPECT_EQ(all.size(), kept + count);
}

// What is kept is what the session can be truncated to: nothing where the rows of recent positions, or a page in the
// middle, are gone.
TEST(ChatEngine, WhatIsKeptCanBeTruncatedTo) {
    const std::string old(60, 'x');
    const keel_chat_message said[] = {message("system", "Be brief", 8), message("user", old.data(), old.size()),
                                      message("assistant", "Hi", 2), message("user", "More", 4)};
    const keel_chat_message later[] = {said[0], said[3]};  // a conversation that lost its oldest turn
    for (const bool recent : {false, true}) {
        ChatEngine e(kTurns, 0, false, recent ? 8 : 0);
        const keel_session session = e.engine->session();
        const std::vector<int32_t> all = e.ids(chat(said, 4, true)), rest = e.ids(chat(later, 2, true));
        ASSERT_GT(all.size(), 64u + 8);
        e.engine->feed(all);
        e.engine->advance();
        if (!recent) keel_test::check(keel_session_evict(session, 0, 64, nullptr), "evict");
        std::vector<int32_t> ids(rest.size());
        uint32_t kept = 99;
        size_t count = 0;
        const keel_chat c = chat(later, 2, true);
        EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_session_chat(session, &c, &kept, ids.data(), 2, &count, nullptr));
        EXPECT_EQ(rest.size(), count);
        ASSERT_EQ(KEEL_OK, keel_session_chat(session, &c, &kept, ids.data(), ids.size(), &count, nullptr));
        EXPECT_EQ(KEEL_OK, keel_session_truncate(session, kept));
        EXPECT_EQ(0u, kept);
        EXPECT_EQ(rest, std::vector<int32_t>(ids.begin(), ids.begin() + count));
    }
}

TEST(ChatEngine, ErrorsSayWhatAndWhere) {
    ChatEngine refusing(
        "{{ bos_token }}\n{% if messages|length > 1 %}{{ raise_exception('One at a time') }}{% endif %}");
    const keel_chat_message said[] = {message("user", "a", 1), message("us<er", "b", 1)};
    EXPECT_EQ("<s>\n", refusing.format(chat(said, 1, true)));
    const keel_chat_message two[] = {said[0], said[0]};
    refusing.format(chat(two, 2, true));
    EXPECT_EQ(KEEL_E_ARGUMENT, refusing.status);
    EXPECT_NE(nullptr, strstr(refusing.error.reason, "One at a time")) << refusing.error.reason;
    EXPECT_EQ(refusing.template_.find("raise_exception"), refusing.error.offset);
    refusing.format(chat(said + 1, 1, true));
    EXPECT_EQ(KEEL_E_ARGUMENT, refusing.status) << "a role that may spell a mark";

    ChatEngine small(kTurns, 64);
    const std::string words(50, 'w');
    const keel_chat_message longer[] = {message("user", words.data(), words.size())};
    small.format(chat(longer, 1, true));
    EXPECT_EQ(KEEL_E_TEXT_LIMIT, small.status);

    ChatEngine endless("{% for i in range(3000) %}{% for j in range(3000) %}{% endfor %}{% endfor %}", 1 << 20);
    endless.format(chat(said, 1, true));
    EXPECT_EQ(KEEL_E_FILE_LIMIT, endless.status);
}

TEST(ChatEngine, TimeComesFromTheHook) {
    const keel_chat c = chat(nullptr, 0, false);
    EXPECT_EQ("", ChatEngine(kTurns).format(c));
    EXPECT_EQ("2025", ChatEngine(kTurns, 0, true).format(c));
}

TEST(ChatEngine, AFamilyByName) {
    ChatEngine e("chatml");
    const keel_chat_message said[] = {message("user", "Hi", 2)};
    EXPECT_EQ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", e.format(chat(said, 1, true)));
    keel_chat with_variables = chat(said, 1, true);
    with_variables.variables = "{}";
    with_variables.variable_bytes = 2;
    e.format(with_variables);
    EXPECT_EQ(KEEL_E_ARGUMENT, e.status);
}

// The template and its work memory are part of the plan.
TEST(ChatEngine, ThePlanCountsTemplateAndWork) {
    ChatEngine with(kTurns), wide(kTurns, 1 << 20);
    const auto persistent = [](ChatEngine& e) { return e.engine->plan().regions[KEEL_REGION_PERSISTENT].bytes; };
    EXPECT_EQ(4u * ((1 << 20) - 32768), persistent(wide) - persistent(with));
}

// The model that the issue of a silent default turn was found on.
TEST(ChatEngine, SmolLM2SaysWhoItIs) {
    const char* const named = getenv("KEEL_SMOLLM2");
    const std::string path =
        named ? named : keel_test::source_path("samples/models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf");
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path << " (samples/models/get, or KEEL_SMOLLM2)";
    keel_config config = sized<keel_config>();
    config.context_tokens = 256;
    keel_test::Engine engine(path.c_str(), config);
    const keel_chat_message said[] = {message("user", "Who are you?", 12)};
    const keel_chat c = chat(said, 1, true);
    char text[400];
    size_t bytes = 0, count = 0;
    ASSERT_EQ(KEEL_OK, keel_chat_format(engine.handle(), &c, text, sizeof text, &bytes, nullptr));
    EXPECT_EQ(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
        std::string(text, bytes));
    std::vector<int32_t> ids(100);
    ASSERT_EQ(KEEL_OK, keel_chat_tokenize(engine.handle(), &c, ids.data(), ids.size(), &count, nullptr));
    ids.resize(count);
    // As the module tokenizers has them, and the answer as numpy computes it from the dequantized weights in f32.
    EXPECT_EQ((std::vector<int32_t>{1,     9690, 198,  2683, 359, 253,   5356, 5646, 11173, 3365, 3511, 308,
                                    34519, 28,   7018, 411,  407, 19712, 8182, 2,    198,   1,    4093, 198,
                                    10576, 359,  346,  47,   2,   198,   1,    520,  9531,  198}),
              ids);
    engine.feed(ids);
    engine.advance();
    std::string answer;
    for (int i = 0; i < 24; ++i) {
        const int32_t token = engine.sample();
        char piece[64];
        size_t n = 0;
        ASSERT_EQ(KEEL_OK, keel_detokenize(engine.handle(), &token, 1, 0, piece, sizeof piece, &n));
        answer.append(piece, n);
        engine.feed({token});
        engine.advance();
    }
    // Without the default system turn it says that it is Emily Carter, 25.
    EXPECT_EQ(0u, answer.find("I'm here to help with any kind of creative writing project. Whether it's a story"))
        << answer;
}

}  // namespace
