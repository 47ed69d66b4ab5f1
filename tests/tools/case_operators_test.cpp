#include "sdk/tools/common/case_operators.h"

#include <gtest/gtest.h>

#include <random>

namespace {

using keel::tools::CaseDecoder;
using keel::tools::decode_case;
using keel::tools::encode_case;

// Operators as letters, to be read: ^ title, + capitals, > next, ! escape.
std::string shown(const std::string& text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text.compare(i, 2, "\xee\x80") == 0 && i + 2 < text.size() && text[i + 2] >= '\x81' &&
            text[i + 2] <= '\x84') {
            out.push_back("^+>!"[text[i + 2] - '\x81']);
            i += 2;
        } else {
            out.push_back(text[i]);
        }
    }
    return out;
}
std::string hidden(const std::string& text) {
    std::string out;
    for (const char c : text) {
        const size_t which = std::string("^+>!").find(c);
        out += which == std::string::npos ? std::string(1, c)
                                          : std::string("\xee\x80") + static_cast<char>('\x81' + which);
    }
    return out;
}

TEST(CaseOperators, WordsAreWrittenAsTheRulesSay) {
    const std::pair<const char*, const char*> cases[] = {
        {"", ""},
        {"the end", "the end"},
        {"The End", "^the ^end"},
        {"I", "^i"},
        {"NBA's", "+nba's"},
        {"OK", "+ok"},
        {"iPhone", "i>phone"},
        {"McDonald", "^mc>donald"},
        {"ABc", "^a>bc"},
        {"aB", "a>b"},
        {"A1B_CD", "^a1^b_+cd"},
        {"\xc3\x89t\xc3\xa9 TEMPS", "\xc3\x89t\xc3\xa9 +temps"},  // E with an accent is no ASCII letter
        {"\xc3\x89TAT", "\xc3\x89+tat"},
        {"\xee\x80\x81", "!^"},
        {"a\xee\x80\x84"
         "B",
         "a!!^b"},
        {"\xee\x80\x85\xee\x80", "\xee\x80\x85\xee\x80"},  // no operator, and half of one
        {"\xff\x80Z", "\xff\x80^z"},
    };
    for (const auto& [plain, encoded] : cases) {
        EXPECT_EQ(encoded, shown(encode_case(plain)));
        EXPECT_EQ(plain, decode_case(encode_case(plain)).text);
    }
}

TEST(CaseOperators, EveryTextComesBack) {
    const std::string parts[] = {"a",
                                 "b",
                                 "z",
                                 "A",
                                 "B",
                                 "Z",
                                 " ",
                                 "'",
                                 "7",
                                 "_",
                                 "\n",
                                 "\xc3\xa9",
                                 "\xc3\x89",
                                 "\xee\x80\x81",
                                 "\xee\x80\x82",
                                 "\xee\x80\x83",
                                 "\xee\x80\x84",
                                 "\xee\x80\x80",
                                 "\xee",
                                 "\x80",
                                 "\x81",
                                 "\xff"};
    std::mt19937 random(3);
    for (int round = 0; round < 20000; ++round) {
        std::string text;
        for (uint32_t left = random() % 24; left; --left) text += parts[random() % std::size(parts)];
        const std::string encoded = encode_case(text);
        const auto decoded = decode_case(encoded);
        ASSERT_EQ(text, decoded.text) << shown(encoded);
        ASSERT_TRUE(decoded.well_formed) << shown(encoded);
        ASSERT_LE(encoded.size(), 4 * text.size());
        for (const char c : encoded) ASSERT_FALSE(c >= 'A' && c <= 'Z');
        // A first part is that of the text, and perhaps an operator that waits for its letter, or a part of one.
        size_t cut = random() % (encoded.size() + 1);
        for (const size_t back : {1u, 2u})
            if (cut >= back && encoded[cut - back] == '\xee') cut -= back;
        const std::string part = decode_case(std::string_view(encoded).substr(0, cut)).text;
        ASSERT_TRUE(text.starts_with(part)) << shown(encoded);
        // It may come in any pieces.
        CaseDecoder decoder;
        std::string streamed;
        for (size_t at = 0; at < encoded.size();) {
            const size_t piece = std::min<size_t>(random() % 4, encoded.size() - at);
            decoder.add(std::string_view(encoded).substr(at, piece), &streamed);
            ASSERT_TRUE(text.starts_with(streamed)) << shown(encoded);
            ASSERT_LE(streamed.size(), at += piece);
        }
        ASSERT_TRUE(decoder.finish(&streamed));
        ASSERT_EQ(text, streamed);
        ASSERT_EQ(0u, decoder.malformed());
    }
}

TEST(CaseOperators, WhatNoTextBecomesIsMalformed) {
    for (const char* bad : {"^", "+", "a>", "!", "^ a", "+1", "a^b", "a+b", ">a", " >a", "^^a", "^+a", "a>>b", "a>^b",
                            "+ab>c", "!a", "^!^", "^\xc3\xa9"})
        EXPECT_FALSE(decode_case(hidden(bad)).well_formed) << bad;
    EXPECT_EQ("ab", decode_case(hidden("ab^c")).text);  // up to there
    for (const char* good : {"^a>b", "+a", "AbC", "!^^a", "a!>b"})
        EXPECT_TRUE(decode_case(hidden(good)).well_formed) << good;
}

TEST(CaseOperators, AStreamGoesOnBehindWhatIsMalformed) {
    struct Case {
        const char *encoded, *text;
        uint64_t malformed;
        bool complete;
    };
    const Case cases[] = {
        {"a^b +c", "ab C", 1, true},
        {"^^a", "A", 1, true},
        {"^ a", " a", 1, true},
        {">a b>c", "a bC", 1, true},
        {"+ab>c d", "ABC d", 1, true},
        {"!a ^b", "a B", 1, true},
        {"a^", "a", 1, true},
        {"a ^", "a ", 0, false},
        {"!", "", 0, false},
        {"^+>x", "X", 2, true},
        {"x!", "x", 0, false},
        {"^\xc3\xa9^e",
         "\xc3\xa9"
         "E",
         1, true},
    };
    for (const Case& c : cases) {
        CaseDecoder decoder;
        std::string text;
        decoder.add(hidden(c.encoded), &text);
        EXPECT_EQ(c.complete, decoder.finish(&text)) << c.encoded;
        EXPECT_EQ(c.text, text) << c.encoded;
        EXPECT_EQ(c.malformed, decoder.malformed()) << c.encoded;
    }
    CaseDecoder decoder;
    std::string text;
    decoder.add("x\xee\x80", &text);
    EXPECT_EQ("x", text);  // an operator, perhaps
    EXPECT_TRUE(decoder.finish(&text));
    EXPECT_EQ("x\xee\x80", text);
}

}  // namespace
