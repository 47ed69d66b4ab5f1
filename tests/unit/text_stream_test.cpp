// Streaming: what is shown, when, and what is never shown.
#include <random>

#include "tests/tokenizer_fixture.h"

namespace {

using keel::TextStream;
using keel_test::read_file;
using keel_test::source_path;
using keel_test::TokenizerFixture;

// A vocabulary of single bytes, so that a test can feed any bytes in any cut: id = byte, then the tokens below.
constexpr int32_t kEnd = 256, kLong = 257, kNamed = 258, kControl = 259, kOther = 260;
TokenizerFixture byte_vocabulary() {
    static const char* const kHex = "0123456789ABCDEF";
    std::vector<std::string> tokens;
    std::vector<int32_t> types(256, 6);
    for (int b = 0; b < 256; ++b) tokens.push_back(std::string("<0x") + kHex[b >> 4] + kHex[b & 15] + ">");
    tokens.insert(tokens.end(), {"</s>", std::string(512, '\xff'), "\xe2\x96\x81word", "<|im_start|>", "<|x|>"});
    types.insert(types.end(), {3, 1, 1, 3, 3});
    keel_test::GgufBytes gguf;
    gguf.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
    gguf.numbers("tokenizer.ggml.scores", keel::kGgufF32, std::vector<float>(tokens.size()));
    gguf.numbers("tokenizer.ggml.token_type", keel::kGgufI32, types).u32("tokenizer.ggml.eos_token_id", kEnd);
    return TokenizerFixture(gguf);
}

class TextStreamTest : public testing::Test {
  protected:
    void SetUp() override { ASSERT_EQ(KEEL_OK, fixture_.status) << fixture_.error.reason; }
    std::string push(int32_t token) {
        const char* data = nullptr;
        size_t bytes = 0;
        stopped_ = 99;
        EXPECT_EQ(KEEL_OK, keel::text_stream_push(&stream_, fixture_.t, token, position_++, &data, &bytes, &stopped_));
        return std::string(data, bytes);
    }
    std::string push_bytes(const std::string& text) {
        std::string shown;
        for (char c : text) {
            shown += push(static_cast<uint8_t>(c));
            if (stopped_) break;
        }
        return shown;
    }
    void stops(const std::vector<std::string>& texts) {
        std::vector<const char*> data;
        std::vector<size_t> bytes;
        for (const std::string& s : texts) data.push_back(s.data()), bytes.push_back(s.size());
        ASSERT_EQ(KEEL_OK, keel::text_stream_set_stops(&stream_, data.data(), bytes.data(),
                                                       static_cast<uint32_t>(texts.size())));
    }
    TokenizerFixture fixture_ = byte_vocabulary();
    TextStream stream_ = {};
    uint32_t stopped_ = 0, position_ = 0;
};

TEST_F(TextStreamTest, HoldsUnfinishedCharacters) {
    EXPECT_EQ("", push(0xf0));
    EXPECT_EQ("", push(0x9f));
    EXPECT_EQ("", push(0x98));
    EXPECT_EQ("\xf0\x9f\x98\x80", push(0x80));
    EXPECT_EQ("a", push('a'));
}

// Values of Python's bytes.decode("utf-8", "replace").
TEST_F(TextStreamTest, BrokenBytesBecomeReplacements) {
    const std::string r = "\xef\xbf\xbd";
    const struct {
        std::string bytes, shown;
    } cases[] = {
        {"\x80"
         "a",
         r + "a"},
        {"\xe2\x28\xa1", r + "(" + r},
        {"\xe2\x82\x28", r + "("},
        {"\xf0\x9f\x98", r},
        {"\xc0\xaf", r + r},
        {"\xed\xa0\x80", r + r + r},
        {"\xf4\x90\x80\x80", r + r + r + r},
        {"\xff\xfe", r + r},
        {"\xf0\x9f\xe2\x82\xac", r + "\xe2\x82\xac"},
        {"\xf0\x80\x80", r + r + r},
        {"\xe0\x80", r + r},
        {"\xc3\xc3\xa9", r + "\xc3\xa9"},
    };
    for (const auto& c : cases) {
        stream_ = {};
        const std::string shown = push_bytes(c.bytes);
        EXPECT_EQ(c.shown, shown + push(-1)) << testing::PrintToString(c.bytes);
    }
}

TEST_F(TextStreamTest, StopStringIsNeverShown) {
    stops({"STOP", "\n\n"});
    EXPECT_EQ("go ", push_bytes("go S"));
    EXPECT_EQ("S", push(-1));  // a flush shows what was only suspected
    EXPECT_EQ("go ", push_bytes("go STO"));
    EXPECT_EQ("STOx", push('x'));
    EXPECT_EQ("end ", push_bytes("end STOP"));
    EXPECT_EQ(1u, stopped_);
    EXPECT_EQ("", push(-1));
    EXPECT_EQ("n", push('n'));  // and the stream goes on
    EXPECT_EQ(0u, stopped_);
    EXPECT_EQ("", push('\n'));
    EXPECT_EQ("\n", push('S'));
    EXPECT_EQ("S", push(-1));
}

TEST_F(TextStreamTest, OverlappingStops) {
    stops({"aab", "abc"});
    EXPECT_EQ("a", push_bytes("aaab"));
    EXPECT_EQ(1u, stopped_);
    EXPECT_EQ("x", push_bytes("xabc"));
    EXPECT_EQ(1u, stopped_);
    stops({"bc", "abcd"});
    EXPECT_EQ("a", push_bytes("abc"));  // the shorter is complete
    EXPECT_EQ(1u, stopped_);
}

TEST_F(TextStreamTest, StopInsideTokenDropsItsRest) {
    stops({"or"});
    EXPECT_EQ("w", push(kNamed));
    EXPECT_EQ(1u, stopped_);
    EXPECT_EQ("x", push('x'));
}

TEST_F(TextStreamTest, EndTokenFlushes) {
    stops({"STOP"});
    EXPECT_EQ("a", push_bytes("aST"));
    EXPECT_EQ("ST", push(kEnd));
    EXPECT_EQ(2u, stopped_);
}

// A SentencePiece space that begins the text is the tokenizer's own.
TEST_F(TextStreamTest, LeadingSpace) {
    EXPECT_EQ("word", push(kNamed));
    EXPECT_EQ(" word", push(kNamed));
    stream_ = {};
    keel::text_stream_follow(&stream_, fixture_.t, kNamed);
    EXPECT_EQ(" word", push(kNamed));
    keel::text_stream_follow(&stream_, fixture_.t, kEnd);
    EXPECT_EQ("word", push(kNamed));
}

// A stop string may spell a control token, which is not shown: all of it, alone or between other text.
TEST_F(TextStreamTest, StopsOfControlTokens) {
    stops({"<|im_start|>"});
    EXPECT_EQ("a", push_bytes("a"));
    EXPECT_EQ("", push(kControl));
    EXPECT_EQ(1u, stopped_);
    EXPECT_EQ("b", push('b'));
    EXPECT_EQ("", push(kOther));  // another one is nothing
    EXPECT_EQ(0u, stopped_);
    EXPECT_EQ("", push_bytes("<|im_start|>"));  // spelled in letters it is the same text
    EXPECT_EQ(1u, stopped_);

    stops({"\n<|im_start|>u"});
    EXPECT_EQ("a", push_bytes("a\n"));
    EXPECT_EQ("", push(kControl));
    EXPECT_EQ("\nv", push('v'));  // the control token is not shown
    EXPECT_EQ("", push('\n'));
    EXPECT_EQ("", push(kControl));
    EXPECT_EQ("", push('u'));
    EXPECT_EQ(1u, stopped_);

    stops({"<|", "|", "start|>x", ">"});  // parts of a control token are none
    EXPECT_EQ("", push(kControl));
    EXPECT_EQ(0u, stopped_);
    EXPECT_EQ("x", push('x'));
    EXPECT_EQ(0u, stopped_);
    // A character in two tokens with a control token between them stays one.
    EXPECT_EQ("", push(0xc3));
    EXPECT_EQ("", push(kControl));
    EXPECT_EQ("\xc3\xa9", push(0xa9));
}

TEST_F(TextStreamTest, OwnEnds) {
    const int32_t ends[] = {'!', kOther};
    ASSERT_EQ(KEEL_OK, keel::text_stream_set_ends(&stream_, fixture_.t, ends, 2));
    for (const int32_t token : {int32_t{'!'}, kOther}) {
        EXPECT_EQ("", push(token));
        EXPECT_EQ(2u, stopped_);
    }
    EXPECT_EQ("", push(kEnd));
    EXPECT_EQ(0u, stopped_);
    ASSERT_EQ(KEEL_OK, keel::text_stream_set_ends(&stream_, fixture_.t, ends, 0));  // none
    EXPECT_EQ("!", push('!'));
    ASSERT_EQ(KEEL_OK, keel::text_stream_set_ends(&stream_, fixture_.t, nullptr, 0));
    EXPECT_EQ("", push(kEnd));
    EXPECT_EQ(2u, stopped_);
    const int32_t bad[] = {261, -1};
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::text_stream_set_ends(&stream_, fixture_.t, bad, 1));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::text_stream_set_ends(&stream_, fixture_.t, bad + 1, 1));
    const std::vector<int32_t> many(keel::kMaxEndIds + 1, 1);
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::text_stream_set_ends(&stream_, fixture_.t, many.data(), 33));
}

// What is forgotten leaves nothing: of held bytes those of tokens that stay.
TEST_F(TextStreamTest, Truncate) {
    const std::vector<int32_t> prompt = {kNamed, 'p'};
    const auto truncate = [&](std::vector<int32_t> tokens) {
        position_ = static_cast<uint32_t>(tokens.size());
        keel::text_stream_truncate(&stream_, fixture_.t, tokens.data(), position_);
    };
    for (int32_t token : prompt) keel::text_stream_follow(&stream_, fixture_.t, token);
    // A half character.
    position_ = 2;
    EXPECT_EQ("S", push_bytes("S\xf0\x9f"));
    truncate(prompt);
    EXPECT_EQ("Y", push('Y'));
    EXPECT_EQ("", push(-1));
    // A half stop string.
    stops({"\nUser:"});
    truncate(prompt);
    EXPECT_EQ("Sure.", push_bytes("Sure.\nUse"));
    truncate(prompt);
    EXPECT_EQ("r: the people", push_bytes("r: the people"));
    EXPECT_EQ("", push(-1));
    // Half of it stays, of the rest there is no byte: what is forgotten is not saved either.
    truncate(prompt);
    EXPECT_EQ("a", push_bytes("a\nUse"));
    truncate({kNamed, 'p', 'a', '\n'});
    EXPECT_EQ(std::string("\n") + std::string(keel::kMaxHeldBytes - 1, '\0'),
              std::string(stream_.held, keel::kMaxHeldBytes));
    EXPECT_EQ("\nx", push('x'));
    // A stop is forgotten.
    EXPECT_EQ("", push_bytes("\nUser:"));
    EXPECT_EQ(1u, stopped_);
    truncate(prompt);
    push(-1);
    EXPECT_EQ(0u, stopped_);
    // The text begins anew, or goes on, or begins behind a control token.
    truncate({});
    EXPECT_EQ("word", push(kNamed));
    truncate(prompt);
    EXPECT_EQ(" word", push(kNamed));
    truncate({kNamed, kEnd});
    EXPECT_EQ("word", push(kNamed));
}

// The largest growth: a full hold, then the longest token, all of it broken.
TEST_F(TextStreamTest, LongestTokenFits) {
    std::string stop(128, 's');
    stops({stop});
    EXPECT_EQ("", push_bytes("\xf0\x9f\x98" + stop.substr(1)));
    const std::string shown = push(kLong);
    EXPECT_EQ(3 + 127 + 3 * 512u, shown.size());
    EXPECT_EQ(0u, stopped_);
}

TEST_F(TextStreamTest, Refusals) {
    const char* data;
    size_t bytes;
    uint32_t stopped;
    for (int32_t token : {-2, 261, INT32_MAX, INT32_MIN})
        EXPECT_EQ(KEEL_E_ARGUMENT,
                  keel::text_stream_push(&stream_, fixture_.t, token, position_++, &data, &bytes, &stopped));
    const char* text = "x";
    size_t lengths[] = {0, 129};
    for (size_t& n : lengths) EXPECT_EQ(KEEL_E_ARGUMENT, keel::text_stream_set_stops(&stream_, &text, &n, 1));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::text_stream_set_stops(&stream_, &text, lengths, 17));
    stream_.held_bytes = 3000;
    EXPECT_EQ(KEEL_E_STATE, keel::text_stream_push(&stream_, fixture_.t, 'a', 0, &data, &bytes, &stopped));
    stream_.held_bytes = 1000;  // more than can ever be held
    EXPECT_EQ(KEEL_E_STATE, keel::text_stream_push(&stream_, fixture_.t, 'a', 0, &data, &bytes, &stopped));
}

// Whatever the tokens: what is shown is what the whole shows at once, whole characters only, and no stop string.
TEST_F(TextStreamTest, RandomTokens) {
    TokenizerFixture model(read_file(source_path("samples/models/books-7m-f16.gguf")));
    ASSERT_EQ(KEEL_OK, model.status);
    std::mt19937 random(5);
    for (int round = 0; round < 200; ++round) {
        TextStream one = {}, all = {};
        std::string shown;
        std::vector<int32_t> ids;
        for (int i = 0; i < 60; ++i) ids.push_back(static_cast<int32_t>(3 + random() % (random() % 2 ? 256 : 4093)));
        const char* data;
        size_t bytes;
        uint32_t stopped;
        for (int32_t id : ids) {
            ASSERT_EQ(KEEL_OK, keel::text_stream_push(&one, model.t, id, 0, &data, &bytes, &stopped));
            shown.append(data, bytes);
        }
        ASSERT_EQ(KEEL_OK, keel::text_stream_push(&one, model.t, -1, 0, &data, &bytes, &stopped));
        shown.append(data, bytes);
        // The exact bytes, pushed as one hold each through the byte vocabulary, give the same view.
        std::string at_once;
        for (char c : model.decode(ids)) {
            ASSERT_EQ(KEEL_OK,
                      keel::text_stream_push(&all, fixture_.t, static_cast<uint8_t>(c), 0, &data, &bytes, &stopped));
            at_once.append(data, bytes);
        }
        ASSERT_EQ(KEEL_OK, keel::text_stream_push(&all, fixture_.t, -1, 0, &data, &bytes, &stopped));
        at_once.append(data, bytes);
        // One difference is right: the byte vocabulary drops a first space as its own.
        EXPECT_EQ(model.decode(ids).substr(0, 1) == " " ? shown.substr(1) : shown, at_once);
    }
}

}  // namespace
