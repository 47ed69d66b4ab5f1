// The text of a session through the public API: what truncate, restore and fork leave of it, ends, stops, exact bytes of
// tokens, and tokenizing from many threads.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::sized;

// The bundled model: SentencePiece with byte tokens, of which byte b has the id 3 + b.
const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
const std::string kByteLevel = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");

keel_config config() {
    keel_config c = sized<keel_config>();
    c.max_sessions = 2;
    c.context_tokens = 256;
    c.threads = 1;
    return c;
}

// Both e-r and r-e are joined by some token of both models.
std::string unsplittable(size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += "er";
    return text;
}

struct Chat {
    keel_test::Engine engine{kBooks, config()};
    keel_session s = engine.session();
    std::vector<int32_t> prompt = engine.tokenize("Hello", KEEL_TOKENIZE_BOS);
    uint32_t stopped = 0;

    Chat() { begin(); }
    void begin() {
        engine.feed(prompt);
        engine.advance();
    }
    std::string text(int32_t token) { return text(s, token); }
    std::string text(keel_session session, int32_t token) {
        keel_text t = sized<keel_text>();
        check(keel_session_text(session, token, &t), "text");
        stopped = t.stopped;
        return std::string(t.data, t.bytes);
    }
    // Each byte a token of its own; its text before it is fed, or after.
    std::string say(const std::string& bytes, bool text_first = true) {
        std::string shown;
        for (const char c : bytes) {
            const int32_t token = 3 + static_cast<uint8_t>(c);
            if (text_first) shown += text(token);
            engine.feed({token});
            if (!text_first) shown += text(token);
            if (stopped) break;
        }
        return shown;
    }
    // The way applications do it: back to one before the end of the prompt, whose last token is fed again for its logits.
    void back_to_prompt() {
        const uint32_t n = static_cast<uint32_t>(prompt.size());
        check(keel_session_truncate(s, n), "truncate");
        check(keel_session_truncate(s, n - 1), "truncate");
        engine.feed({prompt.back()});
        engine.advance();
    }
    void set_stop(const std::string& stop) {
        const char* texts[] = {stop.data()};
        const size_t bytes[] = {stop.size()};
        check(keel_session_set_stops(s, texts, bytes, 1), "stops");
    }
};

const std::string kHalfEmoji = "Sure \xf0\x9f\x98";

TEST(SessionTextState, TruncateForgetsWhatWasHeldBack) {
    for (const bool text_first : {true, false}) {
        Chat chat;
        EXPECT_EQ("Sure ", chat.say(kHalfEmoji, text_first));
        chat.back_to_prompt();
        EXPECT_EQ("Yes", chat.say("Yes", text_first));
        EXPECT_EQ("", chat.text(-1));

        chat.set_stop("\nUser:");
        chat.back_to_prompt();
        EXPECT_EQ("Sure.", chat.say("Sure.\nUse", text_first));
        chat.back_to_prompt();
        EXPECT_EQ("r: the people who pay", chat.say("r: the people who pay", text_first));
        EXPECT_EQ("", chat.text(-1));

        // An answer of one token, of which only half a character is known.
        chat.back_to_prompt();
        EXPECT_EQ("", chat.say("\xf0", text_first));
        chat.back_to_prompt();
        EXPECT_EQ("Yes", chat.say("Yes", text_first));
    }
}

// Tokens that were fed on trial and are taken back leave the held bytes of those before them.
TEST(SessionTextState, TruncateKeepsWhatStays) {
    for (const bool text_first : {true, false}) {
        Chat chat;
        EXPECT_EQ("Sure ", chat.say(kHalfEmoji, text_first));
        const uint32_t known = static_cast<uint32_t>(chat.prompt.size() + kHalfEmoji.size());
        chat.engine.feed({70, 71, 72});
        chat.engine.advance();
        check(keel_session_truncate(chat.s, known), "truncate");
        EXPECT_EQ("\xf0\x9f\x98\x80", chat.say("\x80", text_first));
    }
}

// Tokens fed together, as a speculative decoder does, and given to the stream afterwards.
TEST(SessionTextState, TokensFedTogether) {
    Chat chat;
    const std::vector<int32_t> accepted = {3 + 'a', 3 + 0xf0, 3 + 0x9f};
    chat.engine.feed(accepted);
    std::string shown;
    for (const int32_t token : accepted) shown += chat.text(token);
    EXPECT_EQ("a", shown);
    check(keel_session_truncate(chat.s, static_cast<uint32_t>(chat.prompt.size()) + 2), "truncate");
    EXPECT_EQ("\xf0\x9f\x98\x80", chat.say("\x9f\x98\x80"));
}

TEST(SessionTextState, RestartForgets) {
    Chat chat;
    chat.say(kHalfEmoji);
    check(keel_session_truncate(chat.s, 0), "truncate");
    // At the beginning of a text the tokenizer's own space is none.
    EXPECT_EQ("the", chat.text(chat.engine.tokenize("the", 0)[0]));
}

TEST(SessionTextState, RestoreBringsItsOwn) {
    Chat chat;
    std::vector<uint8_t> blob(1 << 20);
    uint64_t bytes = 0;
    check(keel_session_save(chat.s, blob.data(), blob.size(), &bytes), "save");
    chat.say(kHalfEmoji);
    check(keel_session_restore(chat.s, blob.data(), bytes, nullptr), "restore");
    EXPECT_EQ("Yes", chat.say("Yes"));
    // And what was held when it was saved is held again.
    chat.say(kHalfEmoji);
    check(keel_session_save(chat.s, blob.data(), blob.size(), &bytes), "save");
    chat.say("xyz");
    check(keel_session_restore(chat.s, blob.data(), bytes, nullptr), "restore");
    EXPECT_EQ("\xf0\x9f\x98\x80", chat.say("\x80"));
    chat.back_to_prompt();
    EXPECT_EQ("Yes", chat.say("Yes"));
}

TEST(SessionTextState, ForksGoTheirOwnWays) {
    Chat chat;
    chat.say(kHalfEmoji);
    keel_session fork;
    check(keel_session_fork(chat.s, &fork), "fork");
    EXPECT_EQ("\xf0\x9f\x98\x80", chat.text(fork, 3 + 0x80));
    check(keel_session_truncate(fork, static_cast<uint32_t>(chat.prompt.size())), "truncate");
    EXPECT_EQ("Yes", chat.text(fork, 3 + 'Y') + chat.text(fork, 3 + 'e') + chat.text(fork, 3 + 's'));
    EXPECT_EQ("\xf0\x9f\x98\x80", chat.say("\x80"));
}

TEST(SessionTextState, EndIds) {
    Chat chat;
    const auto ends = [&](keel_session session) {
        const int32_t* ids = nullptr;
        uint32_t count = 0;
        check(keel_session_end_ids(session, &ids, &count), "end ids");
        return std::vector<int32_t>(ids, ids + count);
    };
    EXPECT_EQ((std::vector<int32_t>{2}), ends(chat.s));
    const int32_t own[] = {3 + '!', 3 + '?'};
    check(keel_session_set_end_ids(chat.s, own, 2), "set");
    EXPECT_EQ((std::vector<int32_t>{3 + '!', 3 + '?'}), ends(chat.s));
    EXPECT_EQ("Yes", chat.say("Yes?no"));
    EXPECT_EQ(2u, chat.stopped);
    // They go with forks, and with saved sessions.
    keel_session fork;
    check(keel_session_fork(chat.s, &fork), "fork");
    EXPECT_EQ(ends(chat.s), ends(fork));
    std::vector<uint8_t> blob(1 << 20);
    uint64_t bytes = 0;
    check(keel_session_save(chat.s, blob.data(), blob.size(), &bytes), "save");
    check(keel_session_set_end_ids(chat.s, own, 0), "none");
    EXPECT_EQ((std::vector<int32_t>{}), ends(chat.s));
    check(keel_session_restore(chat.s, blob.data(), bytes, nullptr), "restore");
    EXPECT_EQ(ends(fork), ends(chat.s));
    check(keel_session_set_end_ids(chat.s, nullptr, 0), "the file's");
    EXPECT_EQ((std::vector<int32_t>{2}), ends(chat.s));
    const int32_t bad[] = {4096};
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_end_ids(chat.s, bad, 1));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_end_ids(chat.s, nullptr, 1));
    // min_tokens keeps them from being drawn.
    chat.back_to_prompt();
    const int32_t greedy = chat.engine.sample();
    check(keel_session_set_end_ids(chat.s, &greedy, 1), "set");
    keel_sampling p = sized<keel_sampling>();
    p.min_tokens = 1;
    check(keel_session_set_sampling(chat.s, &p), "sampling");
    EXPECT_NE(greedy, chat.engine.sample());
}

TEST(SessionTextState, StopStringOfAControlToken) {
    Chat chat;
    chat.set_stop("<s>");
    EXPECT_EQ("a", chat.say("a"));
    EXPECT_EQ("", chat.text(1));
    EXPECT_EQ(1u, chat.stopped);
}

TEST(SessionTextState, TokenText) {
    Chat chat;
    const auto token_text = [&](int32_t token, uint32_t flags = 0) {
        const char* data = nullptr;
        size_t bytes = 99;
        check(keel_token_text(chat.engine.handle(), token, flags, &data, &bytes), "token text");
        return std::string(data, bytes);
    };
    EXPECT_EQ(" the", token_text(chat.engine.tokenize("the", 0)[0]));
    EXPECT_EQ("\xff", token_text(3 + 0xff));
    EXPECT_EQ("", token_text(1));
    EXPECT_EQ("<s>", token_text(1, KEEL_DETOKENIZE_SPECIAL));
    // One behind another they are the text, but for the space that the tokenizer put before it.
    std::string whole;
    const std::string text = "It was the best of times; \xf0\x9f\x98\x80!";
    for (const int32_t id : chat.engine.tokenize(text, 0)) whole += token_text(id);
    EXPECT_EQ(" " + text, whole);
    const char* data;
    size_t bytes;
    for (const int32_t id : {-1, 4096})
        EXPECT_EQ(KEEL_E_ARGUMENT, keel_token_text(chat.engine.handle(), id, 0, &data, &bytes));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_token_text(chat.engine.handle(), 1, 2, &data, &bytes));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_token_text(chat.engine.handle(), 1, 0, nullptr, &bytes));
}

// Any number of threads; only runs of more than 256 bytes that cannot be split wait for nobody and say so.
TEST(SessionTextState, ThreadsTokenizeAtOnce) {
    for (const std::string& path : {kBooks, kByteLevel}) {
        keel_test::Engine engine(path, config());
        const std::string text = "the quick brown fox jumps over the lazy dog and so on and on";
        const std::vector<int32_t> expected = engine.tokenize(text, 0);
        const std::string run = unsplittable(4000);
        const size_t run_tokens = engine.tokenize(run, 0).size();
        std::atomic<uint32_t> wrong{0}, busy{0}, done{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([&] {
                std::vector<int32_t> ids(8192);
                for (int i = 0; i < 300; ++i) {
                    size_t count = 0;
                    if (keel_tokenize(engine.handle(), text.data(), text.size(), 0, ids.data(), ids.size(), &count) ||
                        !std::equal(expected.begin(), expected.end(), ids.begin(), ids.begin() + count))
                        ++wrong;
                    const keel_status long_run =
                        keel_tokenize(engine.handle(), run.data(), run.size(), 0, ids.data(), ids.size(), &count);
                    if (long_run == KEEL_E_BUSY)
                        ++busy;
                    else if (long_run == KEEL_OK && count == run_tokens)
                        ++done;
                }
            });
        for (std::thread& t : threads) t.join();
        EXPECT_EQ(0u, wrong);
        EXPECT_EQ(1200u, busy + done);
        EXPECT_GT(done, 0u);
    }
}

TEST(SessionTextState, ATooLongRunIsNamed) {
    keel_config c = config();
    c.max_text_bytes = 1000;
    keel_test::Engine engine(kByteLevel, c);
    const std::string text = "and then " + unsplittable(20000);
    size_t count = 0;
    EXPECT_EQ(KEEL_E_TEXT_LIMIT, keel_tokenize(engine.handle(), text.data(), text.size(), 0, nullptr, 0, &count));
    keel_error error = sized<keel_error>();
    check(keel_engine_last_error(engine.handle(), &error), "last error");
    EXPECT_EQ(KEEL_E_TEXT_LIMIT, error.status);
    EXPECT_STREQ("max_text_bytes", error.field);
    EXPECT_EQ(9u, error.offset);
}

TEST(SessionTextState, ConfiguredPreTokenizer) {
    keel_config c = config();
    c.pre_tokenizer = "ufakzeka";  // does not cut 're off; "r e" is a later merge than "e r"
    keel_test::Engine engine(kByteLevel, c);
    EXPECT_NE(engine.tokenize("'rer", 0), keel_test::Engine(kByteLevel, config()).tokenize("'rer", 0));
    const auto status = [&](const std::string& path, const char* name) {
        c.pre_tokenizer = name;
        try {
            keel_test::Engine refused(path, c);
        } catch (const keel_test::Error& e) {
            return e.status;
        }
        return KEEL_OK;
    };
    EXPECT_EQ(KEEL_E_UNSUPPORTED, status(kByteLevel, "no such name"));
    EXPECT_EQ(KEEL_E_UNSUPPORTED, status(kByteLevel, ""));
    EXPECT_EQ(KEEL_E_ARGUMENT, status(kBooks, "qwen2"));
}

}  // namespace
