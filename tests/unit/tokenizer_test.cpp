// Properties of the tokenizer and its behaviour on vocabularies no honest file has.
#include <algorithm>
#include <chrono>
#include <random>
#include <set>

#include "sdk/text/pretokenize.h"
#include "sdk/text/tokenizer_layout.h"
#include "tests/tokenizer_fixture.h"

namespace {

using keel_test::GgufBytes;
using keel_test::read_file;
using keel_test::source_path;
using keel_test::TokenizerFixture;
using Ids = std::vector<int32_t>;

std::string utf8(uint32_t c) {
    std::string s;
    if (c < 0x80) return {static_cast<char>(c)};
    if (c >= 0x10000) s += static_cast<char>(0xf0 | c >> 18);
    if (c >= 0x800) s += static_cast<char>(c >= 0x10000 ? 0x80 | (c >> 12 & 63) : 0xe0 | c >> 12);
    s += static_cast<char>(c >= 0x800 ? 0x80 | (c >> 6 & 63) : 0xc0 | c >> 6);
    return s + static_cast<char>(0x80 | (c & 63));
}

// How byte-level vocabularies spell bytes (GPT-2's table).
std::string spell(const std::string& bytes) {
    std::string out;
    for (unsigned char b : bytes) {
        uint32_t code = b, next = 0x100;
        for (uint32_t i = 0; i <= b; ++i) {
            const bool printable = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
            if (printable) continue;
            if (i == b) code = next;
            ++next;
        }
        out += utf8(code);
    }
    return out;
}

// A SentencePiece vocabulary: <unk> <s> </s>, 256 byte tokens, then the pieces, the first scored best.
constexpr int32_t kFirstPiece = 259;
struct Spm {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
    std::vector<float> scores = {0, 0, 0};
    std::vector<int32_t> types = {2, 3, 3};
    explicit Spm(const std::vector<std::string>& pieces) {
        for (int b = 0; b < 256; ++b) {
            char text[8];
            snprintf(text, sizeof text, "<0x%02X>", b);
            add(text, 6);
        }
        for (const std::string& p : pieces) add(p, 1);
    }
    void add(const std::string& text, int32_t type) {
        tokens.push_back(text);
        scores.push_back(-static_cast<float>(scores.size()));
        types.push_back(type);
    }
    GgufBytes gguf() const {
        GgufBytes g;
        g.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
        g.numbers("tokenizer.ggml.scores", keel::kGgufF32, scores);
        g.numbers("tokenizer.ggml.token_type", keel::kGgufI32, types);
        g.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
        return g.u32("tokenizer.ggml.unknown_token_id", 0);
    }
};

// A byte-level vocabulary: the 256 bytes, then the results of the merges, in order.
struct Bpe {
    std::vector<std::string> tokens, merges;
    std::vector<int32_t> types;
    using Pairs = std::vector<std::pair<std::string, std::string>>;
    explicit Bpe(const Pairs& pairs) {
        for (int b = 0; b < 256; ++b) add(spell(std::string(1, static_cast<char>(b))), 1);
        for (const auto& [a, b] : pairs) {
            add(spell(a + b), 1);
            merges.push_back(spell(a) + " " + spell(b));
        }
    }
    void add(const std::string& text, int32_t type) {
        tokens.push_back(text);
        types.push_back(type);
    }
    GgufBytes gguf(const std::string& pre = "gpt-2") const {
        GgufBytes g;
        g.string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", tokens);
        return g.strings("tokenizer.ggml.merges", merges).numbers("tokenizer.ggml.token_type", keel::kGgufI32, types);
    }
};

const std::string kSpace = "\xe2\x96\x81";

// ---- round trips ----

std::string random_text(std::mt19937& random, bool valid) {
    std::string text;
    for (uint32_t n = random() % 60; n > 0; --n) {
        if (!valid) {
            text += static_cast<char>(random());
            continue;
        }
        uint32_t c = 0;
        switch (random() % 4) {
            case 0:
                c = " \n\tabcABC019.,'!"[random() % 16];
                break;
            case 1:
                c = random() % 0x800;
                break;
            case 2:
                c = random() % 0x10000;
                break;
            default:
                c = random() % 0x110000;
        }
        if ((c >= 0xd800 && c < 0xe000) || c == 0x2581) continue;
        text += utf8(c);
    }
    return text;
}

void check_round_trips(TokenizerFixture& fixture) {
    ASSERT_EQ(KEEL_OK, fixture.status) << fixture.error.reason;
    std::mt19937 random(11);
    for (int i = 0; i < 3000; ++i) {
        const std::string text = random_text(random, i % 3 != 0);
        if (text.find(kSpace) != std::string::npos) continue;
        EXPECT_EQ(text, fixture.decode(fixture.encode(text))) << testing::PrintToString(text);
    }
}

TEST(Tokenizer, RoundTripsSentencePiece) {
    TokenizerFixture fixture(read_file(source_path("samples/models/books-7m-f16.gguf")));
    check_round_trips(fixture);
}

TEST(Tokenizer, RoundTripsByteLevel) {
    const Bpe bpe({{"a", "b"}, {" ", "ab"}, {"\xc3", "\xa9"}, {"0", "1"}, {"\n", "\n"}, {" ", " "}});
    for (const char* pre :
         {"gpt-2",       "llama-bpe",    "qwen2",          "tekken",   "gpt-4o",   "smollm", "falcon",
          "default",     "deepseek-llm", "deepseek-coder", "jais-2",   "qwen35",   "laguna", "exaone-moe",
          "deepseek-v3", "spark2_5",     "afmoe",          "tiny_aya", "superbpe", "viking", "chameleon",
          "youtu",       "minicpm5",     "seed-coder",     "ufakzeka"}) {
        TokenizerFixture fixture(bpe.gguf(pre));
        SCOPED_TRACE(pre);
        check_round_trips(fixture);
    }
}

// A user-defined token splits the text; the space SentencePiece adds behind it is not the text's.
TEST(Tokenizer, RoundTripsAroundSpecialTokens) {
    Spm spm({kSpace, "a"});
    spm.add("<x>", 4);
    spm.add("", 4);
    TokenizerFixture fixture(spm.gguf());
    for (const char* text : {"<x>", "a<x>a", "a <x> a", " <x><x> ", "<x", "  "})
        EXPECT_EQ(text, fixture.decode(fixture.encode(text)));
}

// ---- SentencePiece ----

TEST(Tokenizer, MergesBestScoreFirstThenLeftmost) {
    // "abc": bc scores better than ab; "aaa": equal pairs, the left one first.
    TokenizerFixture fixture(Spm({"bc", "ab", "a", "b", "c", "aa", kSpace}).gguf());
    const int32_t bc = kFirstPiece, a = kFirstPiece + 2, aa = kFirstPiece + 5, space = kFirstPiece + 6;
    EXPECT_EQ((Ids{space, a, bc}), fixture.encode("abc"));
    EXPECT_EQ((Ids{space, aa, a}), fixture.encode("aaa"));
}

TEST(Tokenizer, BytesForUnknownCharacters) {
    TokenizerFixture fixture(Spm({kSpace}).gguf());
    EXPECT_EQ((Ids{kFirstPiece, 3 + 0xc3, 3 + 0xa9}), fixture.encode("\xc3\xa9"));
    EXPECT_EQ((Ids{kFirstPiece, 3 + 0xff, 3 + 0xc3, kFirstPiece}), fixture.encode("\xff\xc3 "));
}

TEST(Tokenizer, SpacePrefixIsOptional) {
    GgufBytes gguf = Spm({kSpace, "a"}).gguf();
    gguf.boolean("tokenizer.ggml.add_space_prefix", false);
    TokenizerFixture fixture(gguf);
    EXPECT_EQ((Ids{kFirstPiece + 1}), fixture.encode("a"));
    EXPECT_EQ(" a", fixture.decode(fixture.encode(" a")));
}

// ---- byte-level ----

TEST(Tokenizer, MergesLowestRankFirst) {
    TokenizerFixture fixture(Bpe({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}}).gguf());
    EXPECT_EQ((Ids{258}), fixture.encode("abc"));
    EXPECT_EQ((Ids{259, 'a'}), fixture.encode("aaa"));
}

// A byte without a token is the unknown token where the file has one, and else lost.
TEST(Tokenizer, MissingByteTokens) {
    Bpe bpe({});
    bpe.tokens[0] = "gone";  // of byte 0
    TokenizerFixture fixture(bpe.gguf());
    ASSERT_EQ(KEEL_OK, fixture.status);
    EXPECT_EQ((Ids{'a'}), fixture.encode(std::string("a\0", 2)));
    TokenizerFixture with_unknown(bpe.gguf().u32("tokenizer.ggml.unknown_token_id", 5));
    EXPECT_EQ((Ids{5, 5}), with_unknown.encode(std::string("\0\0", 2)));
}

// No text becomes a control token that it does not spell: one that is also the file's unknown token (GPT-2's
// <|endoftext|>) stands for nothing.
TEST(Tokenizer, AControlTokenIsNoUnknownToken) {
    for (const bool typed : {true, false}) {
        Bpe bpe({});
        bpe.tokens[0xfc] = "gone";
        bpe.add("<|endoftext|>", 3);
        GgufBytes gguf = bpe.gguf();
        if (!typed) {
            gguf = GgufBytes();
            gguf.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
            gguf.strings("tokenizer.ggml.tokens", bpe.tokens).strings("tokenizer.ggml.merges", bpe.merges);
        }
        gguf.u32("tokenizer.ggml.unknown_token_id", 256).u32("tokenizer.ggml.eos_token_id", 256);
        TokenizerFixture fixture(gguf);
        ASSERT_EQ(KEEL_OK, fixture.status) << fixture.error.reason;
        for (const uint32_t flags : {0u, uint32_t{KEEL_TOKENIZE_SPECIAL}})
            EXPECT_EQ((Ids{'M', 'l'}), fixture.encode("M\xfcl", flags));
    }
    // SentencePiece's <unk> is no control token.
    Spm spm({kSpace});
    spm.types.resize(3), spm.tokens.resize(3), spm.scores.resize(3);  // without byte tokens
    spm.add(kSpace, 1);
    EXPECT_EQ((Ids{3, 0}), TokenizerFixture(spm.gguf()).encode("x"));
}

// Every name of a GGUF runtime has a pattern or a reason why not.
TEST(Tokenizer, EveryPreTokenizerNameIsKnown) {
    for (const char* name : {"default",
                             "minicpm5",
                             "llama3",
                             "llama-v3",
                             "llama-bpe",
                             "falcon3",
                             "falcon-h1",
                             "pixtral",
                             "midm-2.0",
                             "lfm2",
                             "jina-v5-nano",
                             "deepseek-llm",
                             "deepseek-coder",
                             "deepseek-v3",
                             "spark2_5",
                             "youtu",
                             "falcon",
                             "mpt",
                             "starcoder",
                             "gpt-2",
                             "phi-2",
                             "jina-es",
                             "jina-de",
                             "gigachat",
                             "jina-v2-es",
                             "jina-v2-de",
                             "a.x-4.0",
                             "mellum",
                             "modern-bert",
                             "jais-2",
                             "jina-v1-en",
                             "jina-v2-code",
                             "roberta-bpe",
                             "refact",
                             "command-r",
                             "qwen2",
                             "deepseek-r1-qwen",
                             "kormo",
                             "f2llmv2",
                             "qwen35",
                             "stablelm2",
                             "olmo",
                             "dbrx",
                             "smaug-bpe",
                             "poro-chat",
                             "glm4",
                             "chatglm-bpe",
                             "viking",
                             "jais",
                             "tekken",
                             "smollm",
                             "codeshell",
                             "bloom",
                             "gpt3-finnish",
                             "exaone",
                             "exaone4",
                             "exaone-moe",
                             "chameleon",
                             "minerva-7b",
                             "megrez",
                             "gpt-4o",
                             "llama4",
                             "kanana2",
                             "talkie",
                             "granite-embed-multi-97m",
                             "tiny_aya",
                             "cohere2moe",
                             "superbpe",
                             "trillion",
                             "granite-docling",
                             "bailingmoe",
                             "bailingmoe2",
                             "llada-moe",
                             "seed-coder",
                             "hunyuan",
                             "hunyuan-dense",
                             "hy_v4",
                             "joyai-llm",
                             "ufakzeka",
                             "grok-2",
                             "afmoe",
                             "laguna",
                             "minimax-m2",
                             "solar-open",
                             "mellum2"}) {
        const keel::PreTokenizer* const pre = keel::pretokenizer_find(name, strlen(name), nullptr);
        ASSERT_NE(nullptr, pre) << name;
        uint32_t stages = 0;
        while (pre->stages[stages]) ++stages;
        EXPECT_LE(stages, keel::kMaxStages) << name;
    }
    for (const char* name : {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace", "kimi-k2"}) {
        const char* reason = nullptr;
        EXPECT_EQ(nullptr, keel::pretokenizer_find(name, strlen(name), &reason));
        EXPECT_NE(nullptr, strstr(reason, "merges")) << name;
    }
    const char* reason = nullptr;
    EXPECT_EQ(nullptr, keel::pretokenizer_find("gpt-22", 6, &reason));
    EXPECT_NE(nullptr, strstr(reason, "config.pre_tokenizer"));
}

// No pattern takes more than linear time over what a text may repeat.
TEST(Tokenizer, LongRunsArePreTokenizedInLinearTime) {
    const Bpe bpe({{"a", "b"}, {" ", "ab"}});
    for (const char* pre : {"gpt-2", "llama-bpe", "deepseek-v3", "afmoe", "tiny_aya", "superbpe", "viking", "chameleon",
                            "exaone-moe", "youtu", "jais-2"}) {
        TokenizerFixture fixture(bpe.gguf(pre), 1u << 20);
        for (const std::string unit :
             {"1", "a", " ", "\n", "!", "a ", "1a", "\x01", "\xcc\x81", "<sentinel:", "IMGIMG"}) {
            std::string text;
            while (text.size() < 60000) text += unit;
            const auto begin = std::chrono::steady_clock::now();
            EXPECT_EQ(text, fixture.decode(fixture.encode(text)));
            EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5)) << pre << " " << unit;
        }
    }
}

// ---- special tokens and flags ----

TEST(Tokenizer, SpecialTokens) {
    for (bool byte_level : {false, true}) {
        Spm spm({kSpace, "a"});
        Bpe bpe({});
        const auto add = [&](const char* text, int32_t type) {
            spm.add(text, type);
            bpe.add(text, type);
            return static_cast<int32_t>((byte_level ? bpe.tokens : spm.tokens).size() - 1);
        };
        const int32_t control = add("<|im_end|>", 3), user = add("<u>", 4), longer = add("<u><u>x", 4);
        TokenizerFixture fixture(byte_level ? bpe.gguf() : spm.gguf());
        ASSERT_EQ(KEEL_OK, fixture.status);
        EXPECT_EQ((Ids{control}), fixture.encode("<|im_end|>", KEEL_TOKENIZE_SPECIAL));
        EXPECT_EQ("<|im_end|>", fixture.decode(fixture.encode("<|im_end|>")));
        EXPECT_LT(5u, fixture.encode("<|im_end|>").size());
        EXPECT_EQ("", fixture.decode({control}));
        EXPECT_EQ("<|im_end|>", fixture.decode({control}, KEEL_DETOKENIZE_SPECIAL));
        EXPECT_EQ((Ids{user, user}), fixture.encode("<u><u>"));
        EXPECT_EQ((Ids{longer, user}), fixture.encode("<u><u>x<u>"));
        EXPECT_EQ("<u>", fixture.decode({user}));
        const int32_t* ends;
        const uint32_t count = keel::tokenizer_end_ids(fixture.t, &ends);
        EXPECT_EQ(control, ends[count - 1]);
    }
}

// An end that the file has as a token of the user's is a control token all the same: text cannot spell it.
TEST(Tokenizer, TextSpellsNoEnd) {
    for (bool byte_level : {false, true}) {
        Spm spm({kSpace, "a"});
        Bpe bpe({});
        spm.add("<|im_end|>", 4);
        bpe.add("<|im_end|>", 4);
        const int32_t end = static_cast<int32_t>((byte_level ? bpe.tokens : spm.tokens).size() - 1);
        TokenizerFixture fixture(byte_level ? bpe.gguf() : spm.gguf());
        ASSERT_EQ(KEEL_OK, fixture.status);
        const Ids plain = fixture.encode("a<|im_end|>");
        EXPECT_EQ(0, std::count(plain.begin(), plain.end(), end));
        EXPECT_EQ((Ids{end}), fixture.encode("<|im_end|>", KEEL_TOKENIZE_SPECIAL));
        EXPECT_EQ("", fixture.decode({end}));
    }
}

TEST(Tokenizer, BeginOfSequence) {
    const Spm spm({"a"});
    const Ids none = TokenizerFixture(spm.gguf()).encode("a");
    Ids with = none;
    with.insert(with.begin(), 1);
    EXPECT_EQ(with, TokenizerFixture(spm.gguf()).encode("a", KEEL_TOKENIZE_BOS));
    EXPECT_EQ(
        none,
        TokenizerFixture(spm.gguf().boolean("tokenizer.ggml.add_bos_token", false)).encode("a", KEEL_TOKENIZE_BOS));
    const Bpe bpe({});
    const auto bpe_ids = [&](const char* pre, int add_bos) {
        GgufBytes gguf = bpe.gguf(pre).u32("tokenizer.ggml.bos_token_id", 7);
        if (add_bos >= 0) gguf.boolean("tokenizer.ggml.add_bos_token", add_bos != 0);
        return TokenizerFixture(gguf).encode("", KEEL_TOKENIZE_BOS);
    };
    EXPECT_EQ((Ids{}), bpe_ids("gpt-2", -1));
    EXPECT_EQ((Ids{7}), bpe_ids("gpt-2", 1));
    EXPECT_EQ((Ids{7}), bpe_ids("llama-bpe", -1));
    EXPECT_EQ((Ids{}), bpe_ids("llama-bpe", 0));
    // A file that asks for it but names no id.
    EXPECT_EQ((Ids{}), TokenizerFixture(bpe.gguf("llama-bpe").boolean("tokenizer.ggml.add_bos_token", true))
                           .encode("", KEEL_TOKENIZE_BOS));
}

// A text that begins with BOS gets no second one; one that has it further on is left as it is.
TEST(Tokenizer, NoSecondBeginOfSequence) {
    TokenizerFixture fixture(Spm({kSpace, "a"}).gguf());
    constexpr uint32_t kBoth = KEEL_TOKENIZE_BOS | KEEL_TOKENIZE_SPECIAL;
    const int32_t space = kFirstPiece, a = kFirstPiece + 1;
    EXPECT_EQ((Ids{1, space, a}), fixture.encode("<s>a", kBoth));
    EXPECT_EQ((Ids{1, space, a, 1}), fixture.encode("a<s>", kBoth));
    EXPECT_EQ((Ids{1, 1}), fixture.encode("<s><s>", kBoth));
    EXPECT_EQ((Ids{1, 2}), fixture.encode("</s>", kBoth));
    EXPECT_EQ((Ids{1, 1}), fixture.encode("<s><s>", KEEL_TOKENIZE_SPECIAL));
    EXPECT_EQ((Ids{1}), fixture.encode("<s>", kBoth));
}

// A chat: what the template writes is special, what somebody says is not.
TEST(Tokenizer, Segments) {
    for (const bool byte_level : {false, true}) {
        Spm spm({kSpace, "a", "<", "x", ">"});
        Bpe bpe({{"a", "b"}, {" ", "a"}});
        const auto add = [&](const char* text, int32_t type) {
            spm.add(text, type);
            bpe.add(text, type);
        };
        add("<x>", 3), add("<x><x>", 3), add("<u>", 4);
        TokenizerFixture fixture(byte_level ? bpe.gguf() : spm.gguf());
        ASSERT_EQ(KEEL_OK, fixture.status);
        struct Part {
            std::string text;
            bool special;
        };
        const auto encode = [&](const std::vector<Part>& parts) {
            std::string text;
            std::vector<keel::TextSegment> segments;
            for (const Part& p : parts) text += p.text, segments.push_back({p.text.size(), p.special});
            Ids ids(100);
            size_t count = 0;
            EXPECT_EQ(KEEL_OK, keel::tokenizer_encode_segments(fixture.t, text.data(), segments.data(),
                                                               static_cast<uint32_t>(segments.size()), 0, ids.data(),
                                                               ids.size(), &count));
            ids.resize(count);
            return ids;
        };
        // Without marks in what is said: as the whole text, merges across the segments too.
        const Ids whole = fixture.encode("<x>a a<x>ab", KEEL_TOKENIZE_SPECIAL);
        EXPECT_EQ(whole, encode({{"<x>a ", true}, {"a", false}, {"<x>a", true}, {"b", false}}));
        EXPECT_EQ(whole, encode({{"<x", true}, {"", false}, {">a a<x>ab", true}}));
        // Marks in what is said, whole or half, are text; user-defined tokens are found everywhere.
        EXPECT_EQ(fixture.encode("a<x>a"), encode({{"a", true}, {"<x>", false}, {"a", true}}));
        EXPECT_EQ(fixture.encode("<x>a"), encode({{"<x", true}, {">a", false}}));
        EXPECT_EQ(fixture.encode("<x>a"), encode({{"<", false}, {"x>a", true}}));
        EXPECT_EQ(fixture.encode("a<u>"), encode({{"a<", false}, {"u>", true}}));
        // The longest control token that is allowed, not the longest there is.
        Ids first = fixture.encode("<x>", KEEL_TOKENIZE_SPECIAL), second = fixture.encode("<x>");
        first.insert(first.end(), second.begin(), second.end());
        EXPECT_EQ(first, encode({{"<x>", true}, {"<x>", false}}));
        EXPECT_EQ((Ids{}), encode({}));
    }
}

// Phi-3's special tokens swallow the white space behind them, but for three.
TEST(Tokenizer, Phi3StripsAfterSpecialTokens) {
    Spm spm({kSpace, "a"});
    spm.add("<|user|>", 3);
    spm.add("<|mine|>", 4);
    spm.add("<|endoftext|>", 3);
    GgufBytes gguf = spm.gguf();
    gguf.string("general.architecture", "phi3");
    const int32_t a = kFirstPiece + 1, user = kFirstPiece + 2, mine = kFirstPiece + 3, end = kFirstPiece + 4;
    EXPECT_EQ((Ids{mine, kFirstPiece, a}), TokenizerFixture(gguf).encode("<|mine|>  a"));
    EXPECT_EQ((Ids{end, kFirstPiece, kFirstPiece, a}),
              TokenizerFixture(gguf).encode("<|endoftext|> a", KEEL_TOKENIZE_SPECIAL));
    EXPECT_EQ((Ids{user, kFirstPiece, a}), TokenizerFixture(gguf).encode("<|user|> \n\ta", KEEL_TOKENIZE_SPECIAL));
    EXPECT_EQ((Ids{user, kFirstPiece, kFirstPiece, a}),
              TokenizerFixture(spm.gguf()).encode("<|user|> a", KEEL_TOKENIZE_SPECIAL));
}

TEST(Tokenizer, EndIds) {
    Spm spm({});
    spm.add("<end_of_turn>", 3);
    spm.add("<|eot_id|>", 3);
    TokenizerFixture fixture(spm.gguf().u32("tokenizer.ggml.eot_token_id", 9));
    const int32_t* ids;
    const uint32_t count = keel::tokenizer_end_ids(fixture.t, &ids);
    EXPECT_EQ((Ids{2, 9, kFirstPiece + 1, kFirstPiece}), Ids(ids, ids + count));
}

// Tokens that GGUF runtimes take for ends, and those that are none beside others.
TEST(Tokenizer, EndIdsByText) {
    const auto ends = [](const std::vector<std::string>& texts, int32_t type) {
        Spm spm({});
        for (const std::string& text : texts) spm.add(text, type);
        TokenizerFixture fixture(spm.gguf().u32("tokenizer.ggml.fim_pad_token_id", 8));
        const int32_t* ids;
        const uint32_t count = keel::tokenizer_end_ids(fixture.t, &ids);
        std::set<std::string> out;
        for (uint32_t i = 0; i < count; ++i)
            if (ids[i] >= kFirstPiece) out.insert(texts[static_cast<size_t>(ids[i] - kFirstPiece)]);
        EXPECT_EQ(1, std::count(ids, ids + count, 8));
        return out;
    };
    using Set = std::set<std::string>;
    EXPECT_EQ(
        (Set{"<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}),
        ends({"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"},
             3));
    EXPECT_EQ((Set{"<|return|>", "<|call|>"}), ends({"<|end|>", "<|return|>", "<|call|>"}, 3));
    EXPECT_EQ((Set{"<|end|>", "<|return|>"}), ends({"<|end|>", "<|return|>"}, 4));
    EXPECT_EQ((Set{}), ends({"<|im_end|>", "<PAD>"}, 1));  // ordinary text ends nothing
}

// ---- buffers and limits ----

TEST(Tokenizer, Buffers) {
    TokenizerFixture fixture(Spm({"a", kSpace}).gguf());
    int32_t ids[8];
    size_t count = 77, bytes = 77;
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel::tokenizer_encode(fixture.t, "aaa", 3, 0, ids, 3, &count));
    EXPECT_EQ(4u, count);
    EXPECT_EQ(KEEL_OK, keel::tokenizer_encode(fixture.t, "aaa", 3, 0, ids, 4, &count));
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel::tokenizer_encode(fixture.t, "aaa", 3, 0, ids, 0, &count));
    char text[4] = "???";
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel::tokenizer_decode(fixture.t, ids, 4, 0, text, 2, &bytes));
    EXPECT_EQ(3u, bytes);
    EXPECT_EQ('?', text[2]);
    EXPECT_EQ(KEEL_OK, keel::tokenizer_decode(fixture.t, ids, 4, 0, text, 3, &bytes));
    EXPECT_STREQ("aaa", text);
    count = bytes = 77;
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::tokenizer_encode(fixture.t, nullptr, 1, 0, ids, 8, &count));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::tokenizer_encode(fixture.t, "a", 1, 0, nullptr, 8, &count));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::tokenizer_encode(fixture.t, "a", 1, 4, ids, 8, &count));
    const int32_t bad[] = {3, -1, 1 << 20};
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::tokenizer_decode(fixture.t, bad, 2, 0, text, 3, &bytes));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel::tokenizer_decode(fixture.t, bad + 2, 1, 0, text, 3, &bytes));
    EXPECT_EQ(77u, count);
    EXPECT_EQ(77u, bytes);
}

// The detail of a run that is too long: which limit, and where it begins.
TEST(Tokenizer, TextLimitSaysWhere) {
    TokenizerFixture fixture(Bpe({{"a", "a"}, {"b", "b"}}).gguf(), 100);
    const std::string text = "hello " + std::string(200, 'a') + " b";
    size_t count = 0;
    keel_error error = {};
    error.struct_size = sizeof error;
    EXPECT_EQ(KEEL_E_TEXT_LIMIT,
              keel::tokenizer_encode(fixture.t, text.data(), text.size(), 0, nullptr, 0, &count, &error));
    EXPECT_EQ(6u, error.offset);
    EXPECT_STREQ("max_text_bytes", error.field);
}

TEST(Tokenizer, TextLimit) {
    const Spm spm({"a", "aa", "b", kSpace, kSpace + "b"});
    TokenizerFixture fixture(spm.gguf(), 100);
    size_t count = 0;
    const auto status = [&](const std::string& text) {
        return keel::tokenizer_encode(fixture.t, text.data(), text.size(), 0, nullptr, 0, &count);
    };
    EXPECT_EQ(KEEL_OK, status(std::string(100, 'a')));
    EXPECT_EQ(KEEL_E_TEXT_LIMIT, status(std::string(102, 'a')));
    // Nothing joins a and b, or b and b: a text of any length is cut there.
    EXPECT_EQ(KEEL_OK, status(std::string(100000, 'b')));
    std::string words;
    for (int i = 0; i < 2000; ++i) words += std::string(97, 'a') + " b";
    EXPECT_EQ(KEEL_OK, status(words));
    TokenizerFixture large(spm.gguf());
    EXPECT_EQ(large.encode(words), fixture.encode(words));

    const Bpe bpe({{"a", "a"}, {"b", "a"}});
    TokenizerFixture bytes(bpe.gguf(), 100);
    const std::string run(102, 'a'), cut(100000, 'b');
    EXPECT_EQ(KEEL_E_TEXT_LIMIT, keel::tokenizer_encode(bytes.t, run.data(), run.size(), 0, nullptr, 0, &count));
    EXPECT_EQ(KEEL_OK, keel::tokenizer_encode(bytes.t, cut.data(), cut.size(), 0, nullptr, 0, &count));
}

// Where a run may be cut must not change the ids: a work buffer just large enough gives what a large one gives.
TEST(Tokenizer, WorkBufferDoesNotChangeIds) {
    const std::vector<char> file = read_file(source_path("samples/models/books-7m-f16.gguf"));
    TokenizerFixture small(file, 64), large(file);
    std::mt19937 random(3);
    size_t compared = 0;
    for (int i = 0; i < 1000; ++i) {
        const std::string text = random_text(random, true);
        size_t count = 0;
        if (keel::tokenizer_encode(small.t, text.data(), text.size(), 0, nullptr, 0, &count) != KEEL_OK) continue;
        EXPECT_EQ(large.encode(text), small.encode(text));
        ++compared;
    }
    EXPECT_GT(compared, 900u);
}

// Eight times the vocabulary takes about eight times as long; a quadratic build would take sixty-four.
TEST(Tokenizer, LargeVocabularyBuildsInLinearTime) {
    const auto best_seconds = [](size_t vocabulary) {
        std::mt19937 random(2);
        Bpe bpe({});
        while (bpe.tokens.size() < vocabulary) {
            const std::string a = bpe.tokens[random() % bpe.tokens.size()], b = bpe.tokens[random() % 256];
            bpe.add(a + b, 1);
            bpe.merges.push_back(a + " " + b);
        }
        for (std::string& t : bpe.tokens)
            if (t.size() > 200) t = "x" + std::to_string(&t - bpe.tokens.data());
        const GgufBytes gguf = bpe.gguf("qwen2");
        double best = 1e9;
        for (int i = 0; i < 3; ++i) {
            const auto start = std::chrono::steady_clock::now();
            TokenizerFixture fixture(gguf);
            best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
            EXPECT_EQ(KEEL_OK, fixture.status) << fixture.error.reason;
        }
        return best;
    };
    EXPECT_LT(best_seconds(152000), 40 * best_seconds(19000));
}

// ---- vocabularies no honest file has ----

struct Refusal {
    const char* what;
    keel_status status;
    GgufBytes gguf;
};
void check_refusals(const std::vector<Refusal>& refusals) {
    for (const Refusal& r : refusals) {
        TokenizerFixture fixture(r.gguf);
        EXPECT_EQ(r.status, fixture.status) << r.what << ": " << fixture.error.field << ": " << fixture.error.reason;
        EXPECT_EQ(r.status, fixture.error.status) << r.what;
        EXPECT_STRNE("", fixture.error.field) << r.what;
        EXPECT_STRNE("", fixture.error.reason) << r.what;
    }
}

TEST(Tokenizer, Refusals) {
    const auto spm = [](auto change) {
        Spm s({"a"});
        change(s);
        return s.gguf();
    };
    const auto bpe = [](const char* pre) {
        GgufBytes g;
        g.string("tokenizer.ggml.model", "gpt2");
        if (pre) g.string("tokenizer.ggml.pre", pre);
        return g.strings("tokenizer.ggml.tokens", {"a"});
    };
    check_refusals({
        {"no model", KEEL_E_UNSUPPORTED, GgufBytes()},
        {"other model", KEEL_E_UNSUPPORTED, GgufBytes().string("tokenizer.ggml.model", "t5")},
        {"no vocabulary", KEEL_E_FILE_FORMAT, GgufBytes().string("tokenizer.ggml.model", "llama")},
        {"vocabulary of numbers", KEEL_E_FILE_FORMAT,
         GgufBytes().string("tokenizer.ggml.model", "llama").numbers("tokenizer.ggml.tokens", keel::kGgufI32, Ids{1})},
        {"empty vocabulary", KEEL_E_FILE_FORMAT,
         GgufBytes().string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {})},
        {"no scores", KEEL_E_FILE_FORMAT,
         GgufBytes().string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", {"a"})},
        {"few scores", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.scores.pop_back(); })},
        {"many types", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.types.push_back(1); })},
        {"unknown type", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.types[5] = 7; })},
        {"negative type", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.types[5] = -1; })},
        {"score NaN", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.scores[4] = NAN; })},
        {"misspelled byte", KEEL_E_FILE_FORMAT, spm([](Spm& s) { s.tokens[7] = "<0xGG>"; })},
        {"long token", KEEL_E_FILE_LIMIT, spm([](Spm& s) { s.tokens.back() = std::string(513, 'x'); })},
        {"very long token", KEEL_E_FILE_LIMIT, spm([](Spm& s) { s.tokens.back() = std::string(5000, 'x'); })},
        {"id outside", KEEL_E_FILE_FORMAT, spm([](Spm&) {}).u32("tokenizer.ggml.eot_token_id", 260)},
        {"id of another type", KEEL_E_FILE_FORMAT, spm([](Spm&) {}).string("tokenizer.ggml.eot_token_id", "x")},
        {"no pre-tokenizer", KEEL_E_UNSUPPORTED, bpe(nullptr)},
        {"unknown pre-tokenizer", KEEL_E_UNSUPPORTED, bpe("gpt-2x")},
        {"no merges", KEEL_E_FILE_FORMAT, bpe("gpt-2")},
    });
    // An unknown name is named.
    EXPECT_STREQ("gpt-2x", TokenizerFixture(bpe("gpt-2x")).error.field);
}

TEST(Tokenizer, RulesForOddVocabularies) {
    // Two tokens with one text: the lower id is encoded, both decode. Empty tokens decode to nothing.
    TokenizerFixture spm(Spm({kSpace, "a", "a", "", " "}).gguf());
    ASSERT_EQ(KEEL_OK, spm.status);
    EXPECT_EQ((Ids{kFirstPiece, kFirstPiece + 1}), spm.encode("a"));
    EXPECT_EQ("aa", spm.decode({kFirstPiece + 1, kFirstPiece + 3, kFirstPiece + 2}));
    // Merges that name no tokens, are no pairs, or repeat one, are left out.
    Bpe bpe(Bpe::Pairs{{"a", "b"}});
    bpe.merges.insert(bpe.merges.begin(),
                      {"x y", "nope nope", "", " ", "a", "a ", " b", "a b c", "\xff \xfe", std::string(9000, 'q')});
    bpe.merges.push_back("a b");
    TokenizerFixture fixture(bpe.gguf());
    ASSERT_EQ(KEEL_OK, fixture.status);
    EXPECT_EQ((Ids{256}), fixture.encode("ab"));
    EXPECT_EQ("xy", fixture.decode(fixture.encode("xy")));
    // Of a merge written twice the first counts.
    Bpe twice(Bpe::Pairs{{"a", "b"}, {"b", "c"}});
    twice.merges.push_back("a b");
    EXPECT_EQ((Ids{256, 'c'}), TokenizerFixture(twice.gguf()).encode("abc"));
    // A token that is no byte spelling is its own text.
    bpe.add("a b\xe4\xb8\xad", 1);
    TokenizerFixture own(bpe.gguf());
    EXPECT_EQ("a b\xe4\xb8\xad", own.decode({257}));
    // Without types: the ids the file names are control and unknown tokens.
    GgufBytes untyped;
    untyped.string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x41>", "b"});
    untyped.numbers("tokenizer.ggml.scores", keel::kGgufF32, std::vector<float>(5))
        .u32("tokenizer.ggml.unknown_token_id", 0);
    untyped.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
    TokenizerFixture no_types(untyped);
    ASSERT_EQ(KEEL_OK, no_types.status);
    EXPECT_EQ((Ids{0, 3, 4, 1}), no_types.encode("Ab<s>", KEEL_TOKENIZE_SPECIAL));
}

// Every prefix of a file, and files with bytes changed: a status or a working tokenizer, never more.
TEST(Tokenizer, DamagedFiles) {
    Spm spm({kSpace, "a", "b", "ab", kSpace + "a", "\xc3\xa9"});
    spm.add("<x>", 4);
    Bpe bpe({{"a", "b"}, {" ", "ab"}, {"\xc3", "\xa9"}});
    bpe.add("<x>", 3);
    std::mt19937 random(9);
    for (const std::vector<char>& whole : {spm.gguf().bytes(), bpe.gguf().bytes()}) {
        for (size_t bytes = 0; bytes < whole.size(); bytes += 1 + random() % 7) {
            TokenizerFixture cut(std::vector<char>(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(bytes)), 64);
            EXPECT_TRUE(cut.status != KEEL_OK || bytes + 64 > whole.size()) << bytes;
        }
        for (int i = 0; i < 3000; ++i) {
            std::vector<char> changed = whole;
            for (uint32_t n = 1 + random() % 4; n > 0; --n)
                changed[random() % changed.size()] = static_cast<char>(random());
            TokenizerFixture fixture(changed, 64);
            if (fixture.status != KEEL_OK) continue;
            const std::string text = "ab <x> \xc3\xa9 " + random_text(random, false);
            size_t count = 0;
            if (keel::tokenizer_encode(fixture.t, text.data(), text.size(), i % 4, nullptr, 0, &count) == KEEL_OK)
                fixture.decode(fixture.encode(text, i % 4));
        }
    }
}

// Texts whose hashes begin probing at one slot after another, and pairs of bytes likewise: every slot of a long row is
// full, though nothing is displaced. A look-up of what is not there must not walk the row.
std::vector<std::string> clustered_texts(uint32_t count, uint32_t slots, bool one_slot) {
    std::vector<std::string> out(count);
    uint32_t found = 0;
    for (uint64_t i = 0; found < count; ++i) {
        std::string text = "t" + std::to_string(i);
        const uint32_t slot =
            keel::first_slot(static_cast<uint32_t>(keel::hash64(text.data(), text.size()) >> 32), slots);
        std::string* place = one_slot ? slot == 7 ? &out[found] : nullptr : slot < count ? &out[slot] : nullptr;
        if (place && place->empty()) *place = text, ++found;
    }
    return out;
}
// Slots that a look-up visits which begins at slot 0 and finds nothing.
template <class Free>
uint32_t visited(uint32_t slots, uint32_t longest, Free free) {
    uint32_t n = 0;
    keel::probe(0, slots, longest, [&](uint32_t slot) { return ++n, free(slot); });
    return n;
}

TEST(Tokenizer, LookUpsAreBoundedByTheLongestDisplacement) {
    constexpr uint32_t kTexts = 2000;
    TokenizerFixture plain(Spm(std::vector<std::string>(kTexts, "same")).gguf());
    ASSERT_EQ(plain.status, KEEL_OK);
    const uint32_t slots = plain.t->pieces.slot_count;
    TokenizerFixture row(Spm(clustered_texts(kTexts, slots, false)).gguf());
    ASSERT_EQ(row.status, KEEL_OK);
    const keel::PieceTable& pieces = row.t->pieces;
    ASSERT_EQ(pieces.slot_count, slots);
    EXPECT_EQ(pieces.longest, 0u);
    EXPECT_EQ(visited(slots, pieces.longest, [&](uint32_t slot) { return pieces.slots[slot] == 0; }), 1u);
    const std::string text = clustered_texts(kTexts, slots, false)[99];
    EXPECT_EQ(keel::find_piece(*row.t, pieces, text.data(), text.size()), kFirstPiece + 99);
    EXPECT_EQ(keel::find_piece(*row.t, pieces, "absent", 6), -1);

    const auto colliding = [&](uint32_t count) {
        std::vector<std::string> texts = clustered_texts(count, slots, true);
        texts.resize(kTexts, texts[0]);  // the table stays as large
        return Spm(texts).gguf();
    };
    EXPECT_EQ(TokenizerFixture(colliding(keel::kMaxDisplacement + 1)).status, KEEL_OK);
    TokenizerFixture refused(colliding(keel::kMaxDisplacement + 2));
    EXPECT_EQ(refused.status, KEEL_E_FILE_LIMIT);
    EXPECT_STREQ(refused.error.reason, "the texts are made to collide");
}

TEST(Tokenizer, MergeLookUpsAreBoundedByTheLongestDisplacement) {
    constexpr uint32_t kMerges = 600, kSlots = kMerges + kMerges / 2 + 1;
    const auto vocabulary = [&](uint32_t count, bool one_slot) {
        Bpe::Pairs pairs(kMerges);
        uint32_t found = 0;
        for (uint32_t a = 0; a < 256 && found < count; ++a)
            for (uint32_t b = 0; b < 256 && found < count; ++b) {
                const uint32_t slot = keel::first_slot(static_cast<uint32_t>(keel::merge_hash(a, b) >> 32), kSlots);
                auto* place = one_slot       ? slot / 8 == 1 ? &pairs[found] : nullptr
                              : slot < count ? &pairs[slot]
                                             : nullptr;
                if (!place || !place->first.empty()) continue;
                *place = {std::string(1, static_cast<char>(a)), std::string(1, static_cast<char>(b))};
                ++found;
            }
        EXPECT_EQ(found, count);
        for (auto& pair : pairs)
            if (pair.first.empty()) pair = pairs[0];
        return Bpe(pairs).gguf();
    };
    TokenizerFixture row(vocabulary(kMerges, false));
    ASSERT_EQ(row.status, KEEL_OK);
    ASSERT_EQ(row.t->merge_slots, kSlots);
    EXPECT_EQ(row.t->longest_merge, 0u);
    EXPECT_EQ(
        visited(kSlots, row.t->longest_merge, [&](uint32_t slot) { return row.t->merges[slot].result_plus_1 == 0; }),
        1u);
    TokenizerFixture refused(vocabulary(keel::kMaxDisplacement + 10, true));
    EXPECT_EQ(refused.status, KEEL_E_FILE_LIMIT);
    EXPECT_STREQ(refused.error.reason, "the merges are made to collide");
}

}  // namespace
