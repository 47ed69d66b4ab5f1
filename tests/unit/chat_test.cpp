// What the published templates write (tests/data/chat, by tests/generators/make_chat_oracles.py), and the edges.
#include "sdk/text/chat.h"

#include <string.h>

#include <sstream>

#include "tests/hex_text.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel::chat_detect;
using keel::chat_format;
using keel::ChatTemplate;
using keel_test::message;
using keel_test::unhex;

struct Conversation {
    std::vector<std::pair<std::string, std::string>> turns;
    bool open = true;

    keel_status format(ChatTemplate chat, const std::string& eos, std::string* out) const {
        std::vector<keel_chat_message> messages;
        for (const auto& [role, text] : turns) messages.push_back(message(role.c_str(), text.data(), text.size()));
        const uint32_t count = static_cast<uint32_t>(messages.size());
        size_t bytes = 0;
        keel_status status =
            chat_format(chat, eos.data(), eos.size(), messages.data(), count, open, nullptr, 0, &bytes);
        if (status != KEEL_OK) return status;
        out->assign(bytes, '\0');
        status = chat_format(chat, eos.data(), eos.size(), messages.data(), count, open, out->data(), bytes, &bytes);
        EXPECT_EQ(out->size(), bytes);
        if (bytes) {
            std::string less(bytes - 1, '\0');
            size_t need = 0;
            EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, chat_format(chat, eos.data(), eos.size(), messages.data(), count, open,
                                                           less.data(), less.size(), &need));
            EXPECT_EQ(bytes, need);
        }
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
    EXPECT_EQ(26u, templates);
    EXPECT_GT(cases, 200u);
}

TEST(Chat, UnknownAndNone) {
    EXPECT_EQ(KEEL_CHAT_NONE, chat_detect("", 0).family);
    const char text[] = "{{ messages }}";
    EXPECT_EQ(KEEL_CHAT_UNKNOWN, chat_detect(text, strlen(text)).family);
    std::string out;
    Conversation c = {{{"user", "x"}}};
    EXPECT_EQ(KEEL_E_UNSUPPORTED, c.format({KEEL_CHAT_NONE, 0}, "", &out));
    EXPECT_EQ(KEEL_E_UNSUPPORTED, c.format({KEEL_CHAT_UNKNOWN, 0}, "", &out));
    EXPECT_EQ(KEEL_E_UNSUPPORTED, c.format({KEEL_CHAT_CHATML, 1}, "", &out));
}

TEST(Chat, Arguments) {
    std::string out;
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"tool", "x"}}}.format({KEEL_CHAT_CHATML, 0}, "", &out)));
    // A system message that no user message follows would be lost.
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"system", "x"}}}.format({KEEL_CHAT_MISTRAL, 3}, "", &out)));
    EXPECT_EQ(KEEL_E_ARGUMENT, (Conversation{{{"user", "x"}, {"system", "x"}}}.format({KEEL_CHAT_GEMMA, 1}, "", &out)));
    const keel_chat_message null_role = message(nullptr, "x", 1), null_text = message("user", nullptr, 1);
    size_t bytes = 7;
    for (const keel_chat_message* m : {&null_role, &null_text})
        EXPECT_EQ(KEEL_E_ARGUMENT, chat_format({KEEL_CHAT_CHATML, 0}, "", 0, m, 1, true, nullptr, 0, &bytes));
    EXPECT_EQ(7u, bytes);
}

// No message at all: an opening, or nothing.
TEST(Chat, Empty) {
    std::string out;
    EXPECT_EQ(KEEL_OK, Conversation{}.format({KEEL_CHAT_CHATML, 0}, "", &out));
    EXPECT_EQ("<|im_start|>assistant\n", out);
}

}  // namespace
