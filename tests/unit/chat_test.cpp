// What the published templates write (tests/data/chat, by tests/generators/make_chat_oracles.py), and the edges.
#include "sdk/text/chat.h"

#include <string.h>

#include <sstream>

#include "tests/hex_text.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel::chat_detect;
using keel::chat_named;
using keel::ChatTemplate;
using keel_test::message;
using keel_test::unhex;

// A family's spelling with memory for its text.
class Family {
  public:
    explicit Family(ChatTemplate chat) {
        choice_.chat = chat;
        choice_.named = true;
        EXPECT_EQ(KEEL_OK, keel::chat_place(choice_, kBytes, arena_, &chat_, nullptr));
    }
    keel::Chat* operator->() { return &chat_; }
    const keel::Chat& operator*() const { return chat_; }

  private:
    static constexpr uint32_t kBytes = 4096;
    std::vector<char> memory_ = std::vector<char>(kBytes * 8);
    keel::Arena arena_{memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64, kBytes * 7};
    keel::ChatChoice choice_ = {};
    keel::Chat chat_ = {};
};

struct Conversation {
    std::vector<std::pair<std::string, std::string>> turns;
    bool open = true;

    keel_status format(ChatTemplate family, const std::string& eos, std::string* out) const {
        std::vector<keel_chat_message> messages;
        for (const auto& [role, text] : turns) messages.push_back(message(role.c_str(), text.data(), text.size()));
        Family chat(family);
        keel::JinjaInput input = {};
        input.messages = messages.data();
        input.count = static_cast<uint32_t>(messages.size());
        input.open_assistant = open;
        input.eos = {eos.data(), eos.size()};
        uint32_t bytes = 0;
        const keel_status status = keel::chat_write(*chat, input, &bytes, nullptr);
        if (status != KEEL_OK) return status;
        out->assign(chat->work.out, bytes);
        // Marks: the texts of messages, and nothing else.
        size_t marked = 0;
        for (uint32_t i = 0; i < bytes; ++i) marked += chat->work.out_marks[i];
        size_t said = 0;
        for (const auto& [role, text] : turns) said += text.size();
        EXPECT_LE(marked, said);
        EXPECT_GE(marked + 2 * turns.size() * 4, said) << "but for white space at their ends";
        chat->work.capacity = bytes ? bytes - 1 : 0;
        EXPECT_EQ(bytes ? KEEL_E_TEXT_LIMIT : KEEL_OK, keel::chat_write(*chat, input, &bytes, nullptr));
        return status;
    }
};

TEST(Chat, PublishedTemplates) {
    const std::vector<char> file = keel_test::read_file(keel_test::source_path("tests/data/chat/expected.txt"));
    std::istringstream lines(std::string(file.begin(), file.end()));
    ChatTemplate chat = {KEEL_CHAT_NONE, 0};
    std::string name, eos;
    size_t templates = 0, cases = 0;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string word;
        words >> word;
        if (word == "template") {
            int family;
            words >> name >> family >> eos;
            eos = unhex(eos);
            const std::vector<char> jinja =
                keel_test::read_file(keel_test::source_path("tests/data/chat/" + name + ".jinja"));
            ASSERT_FALSE(jinja.empty()) << name;
            chat = chat_detect(jinja.data(), jinja.size());
            EXPECT_EQ(family, chat.family) << name;
            ++templates;
            continue;
        }
        Conversation c;
        words >> c.open;
        for (words >> word; word != "="; words >> word) {
            const size_t colon = word.find(':');
            c.turns.emplace_back(word.substr(0, colon), unhex(word.substr(colon + 1)));
        }
        words >> word;
        std::string text;
        const keel_status status = c.format(chat, eos, &text);
        if (word == "refused") {
            EXPECT_EQ(KEEL_E_ARGUMENT, status) << name << ": " << line;
        } else {
            EXPECT_EQ(KEEL_OK, status) << name << ": " << line;
            EXPECT_EQ(unhex(word), text) << name << ": " << line;
        }
        ++cases;
    }
    EXPECT_EQ(23u, templates);
    EXPECT_GT(cases, 190u);
}

TEST(Chat, OtherAndNone) {
    EXPECT_EQ(KEEL_CHAT_NONE, chat_detect("", 0).family);
    const char text[] = "{{ messages }}";
    EXPECT_EQ(KEEL_CHAT_OTHER, chat_detect(text, strlen(text)).family);
    std::string out;
    Conversation c = {{{"user", "x"}}};
    EXPECT_EQ(KEEL_E_UNSUPPORTED, c.format({KEEL_CHAT_NONE, 0}, "", &out));
    EXPECT_EQ(KEEL_E_UNSUPPORTED, c.format({KEEL_CHAT_UNKNOWN, 0}, "", &out));
}

TEST(Chat, Arguments) {
    std::string out;
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"tool", "x"}}}.format({KEEL_CHAT_CHATML, 0}, "", &out)));
    // A system message that no user message follows would be lost.
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"system", "x"}}}.format({KEEL_CHAT_MISTRAL, 3}, "", &out)));
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"user", "x"}, {"system", "x"}}}.format({KEEL_CHAT_GEMMA, 1}, "", &out)));
    const keel_chat_message null_role = message(nullptr, "x", 1), null_text = message("user", nullptr, 1);
    Family chat({KEEL_CHAT_CHATML, 0});
    uint32_t bytes = 7;
    for (const keel_chat_message* m : {&null_role, &null_text}) {
        keel::JinjaInput input = {};
        input.messages = m;
        input.count = 1;
        EXPECT_EQ(KEEL_E_ARGUMENT, keel::chat_write(*chat, input, &bytes, nullptr));
    }
    EXPECT_EQ(7u, bytes);
}

TEST(Chat, FamiliesHaveNames) {
    const auto named = [](const char* name) { return chat_named(name, strlen(name)); };
    EXPECT_EQ(KEEL_CHAT_CHATML, named("chatml").family);
    EXPECT_EQ(KEEL_CHAT_MISTRAL, named("mistral-v3\n").family);
    EXPECT_EQ(3u, named("mistral-v3\n").spelling);
    EXPECT_EQ(KEEL_CHAT_GEMMA, named("gemma3").family);
    EXPECT_EQ(1u, named("gemma3").spelling);
    EXPECT_EQ(KEEL_CHAT_ZEPHYR, named("zephyr").family);
    EXPECT_EQ(0u, named("zephyr").spelling);
    for (const char* name : {"", "chat", "chatml2", "mistral"}) EXPECT_EQ(KEEL_CHAT_NONE, named(name).family) << name;
}

// No message at all: an opening, or nothing.
TEST(Chat, Empty) {
    std::string out;
    EXPECT_EQ(KEEL_OK, Conversation{}.format({KEEL_CHAT_CHATML, 0}, "", &out));
    EXPECT_EQ("<|im_start|>assistant\n", out);
}

}  // namespace
