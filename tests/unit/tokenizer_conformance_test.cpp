// Ids of independent tokenizers: the vocabularies and cases of the shared conformance data, and the reference model's
// own.
#include <memory>
#include <sstream>

#include "sdk/text/pretokenize.h"
#include "sdk/text/unicode_tables.h"
#include "tests/hex_text.h"
#include "tests/tokenizer_fixture.h"

namespace {

using keel_test::read_file;
using keel_test::source_path;
using keel_test::TokenizerFixture;
using keel_test::unhex;

std::vector<std::vector<int32_t>> read_id_lines(const std::string& path) {
    const std::vector<char> bytes = read_file(path);
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    std::vector<std::vector<int32_t>> out;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        out.emplace_back();
        for (int32_t id; words >> id;) out.back().push_back(id);
    }
    return out;
}

// Parts of `text`, each ended by the separator.
std::vector<std::string> split(const std::string& text, const std::string& separator) {
    std::vector<std::string> out;
    size_t at = 0;
    for (size_t next; (next = text.find(separator, at)) != std::string::npos; at = next + separator.size())
        out.push_back(text.substr(at, next - at));
    return out;
}

void check_shared(const std::string& path) {
    TokenizerFixture fixture(read_file(path));
    ASSERT_EQ(KEEL_OK, fixture.status) << fixture.error.field << ": " << fixture.error.reason;
    EXPECT_EQ(fixture.planned_bytes, fixture.used_bytes);
    const std::vector<char> input = read_file(path + ".inp");
    const std::vector<std::string> texts = split(std::string(input.begin(), input.end()), "\n__ggml_vocab_test__\n");
    const std::vector<std::vector<int32_t>> expected = read_id_lines(path + ".out");
    ASSERT_EQ(texts.size(), expected.size());
    ASSERT_GT(texts.size(), 40u);
    for (size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(expected[i], fixture.encode(texts[i])) << "case " << i << ": " << texts[i];
        EXPECT_EQ(texts[i], fixture.decode(fixture.encode(texts[i]))) << "case " << i;
    }
}

TEST(TokenizerConformance, LlamaSentencePiece) {
    KEEL_SHARED_OR_SKIP(path, "conformance/tokenizers/llama-spm.gguf");
    check_shared(path);
}

TEST(TokenizerConformance, Gpt2) {
    KEEL_SHARED_OR_SKIP(path, "conformance/tokenizers/gpt-2.gguf");
    check_shared(path);
}

// ---- tests/data/text, by tests/generators/make_tokenizer_oracles.py ----

// Lines of an oracle file: a word, then the rest.
struct Line {
    std::string word;
    std::istringstream rest;
    // The next word, decoded; an empty text is no word at all.
    std::string text() {
        const bool has_text = rest.get() == ' ' && rest.peek() != ' ' && rest.peek() != EOF;
        std::string hex;
        if (has_text) rest >> hex;
        return unhex(hex);
    }
    std::vector<int32_t> numbers() {
        std::vector<int32_t> out;
        for (int32_t n; rest >> n;) out.push_back(n);
        return out;
    }
};
std::vector<Line> read_oracle(const std::string& name) {
    const std::vector<char> bytes = read_file(source_path("tests/data/text/" + name));
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    std::vector<Line> out;
    for (std::string line; std::getline(lines, line);) {
        const size_t space = line.find(' ');
        out.push_back(
            {line.substr(0, space), std::istringstream(space == std::string::npos ? "" : line.substr(space))});
    }
    EXPECT_GT(out.size(), 100u) << name;
    return out;
}

TEST(TokenizerConformance, PreTokens) {
    std::string text;
    size_t checked = 0;
    for (Line& line : read_oracle("pretokens.txt")) {
        if (line.word == "text") {
            text = line.text();
            continue;
        }
        const keel::PreTokenizer* const pre = keel::pretokenizer_find(line.word.data(), line.word.size(), nullptr);
        ASSERT_NE(nullptr, pre) << line.word;
        std::vector<int32_t> lengths;
        keel::PreTokenCursor cursor(*pre, text.data(), text.size());
        size_t at = 0;
        for (size_t begin, end; cursor.next(&begin, &end); at = end) {
            EXPECT_EQ(at, begin);
            lengths.push_back(static_cast<int32_t>(end - begin));
        }
        EXPECT_EQ(text.size(), at);
        EXPECT_EQ(line.numbers(), lengths) << line.word << ": " << text;
        ++checked;
    }
    EXPECT_GT(checked, 2000u);
}

// Totals of DerivedGeneralCategory-15.1.0 and the 25 White_Space code points, of which 6 are controls.
TEST(TokenizerConformance, UnicodeClasses) {
    uint32_t counts[keel::kClassSpace + 1] = {};
    for (uint32_t code = 0; code < 0x110000; ++code) {
        ASSERT_LE(keel::char_class(code), keel::kClassSpace);
        ++counts[keel::char_class(code)];
    }
    const uint32_t letters[] = {1831, 2233, 31, 397, 132234};
    for (uint32_t i = 0; i < 5; ++i) EXPECT_EQ(letters[i], counts[keel::kClassLu + i]) << i;
    EXPECT_EQ(2450u, counts[keel::kClassM]);
    EXPECT_EQ(1831u, counts[keel::kClassN]);
    EXPECT_EQ(842u, counts[keel::kClassP]);
    EXPECT_EQ(7775u, counts[keel::kClassS]);
    EXPECT_EQ(25u, counts[keel::kClassSpace]);
}

TEST(TokenizerConformance, TrainedByteLevel) {
    std::vector<std::string> tokens, merges;
    std::unique_ptr<TokenizerFixture> fixture;
    size_t checked = 0;
    for (Line& line : read_oracle("bpe.txt")) {
        if (line.word == "token") tokens.push_back(line.text());
        if (line.word == "merge") merges.push_back(line.text());
        if (line.word == "pre") {
            std::string name;
            line.rest >> name;
            keel_test::GgufBytes gguf;
            gguf.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", name);
            gguf.strings("tokenizer.ggml.tokens", tokens).strings("tokenizer.ggml.merges", merges);
            fixture = std::make_unique<TokenizerFixture>(gguf);
            ASSERT_EQ(KEEL_OK, fixture->status) << fixture->error.field << ": " << fixture->error.reason;
            EXPECT_EQ(fixture->planned_bytes, fixture->used_bytes);
        }
        if (line.word != "ids") continue;
        const std::string text = line.text();
        const std::vector<int32_t> ids = line.numbers();
        EXPECT_EQ(ids, fixture->encode(text)) << text;
        EXPECT_EQ(text, fixture->decode(ids));
        ++checked;
    }
    EXPECT_GT(checked, 500u);
}

// Without byte tokens: neighbouring unknown characters are one unknown token.
TEST(TokenizerConformance, SentencePieceUnknown) {
    std::vector<std::string> tokens;
    std::vector<float> scores;
    std::vector<int32_t> types;
    std::unique_ptr<TokenizerFixture> fixture;
    for (Line& line : read_oracle("spm.txt")) {
        if (line.word == "token") {
            line.rest >> types.emplace_back() >> scores.emplace_back();
            tokens.push_back(line.text());
            continue;
        }
        if (!fixture) {
            keel_test::GgufBytes gguf;
            gguf.string("tokenizer.ggml.model", "llama").strings("tokenizer.ggml.tokens", tokens);
            gguf.numbers("tokenizer.ggml.scores", keel::kGgufF32, scores);
            gguf.numbers("tokenizer.ggml.token_type", keel::kGgufI32, types).u32("tokenizer.ggml.unknown_token_id", 0);
            fixture = std::make_unique<TokenizerFixture>(gguf);
            ASSERT_EQ(KEEL_OK, fixture->status) << fixture->error.field << ": " << fixture->error.reason;
            EXPECT_EQ(fixture->planned_bytes, fixture->used_bytes);
        }
        const std::string text = line.text();
        EXPECT_EQ(line.numbers(), fixture->encode(text)) << text;
    }
}

TEST(TokenizerConformance, ReferenceModel) {
    TokenizerFixture fixture(read_file(source_path("samples/models/books-7m-f16.gguf")));
    ASSERT_EQ(KEEL_OK, fixture.status) << fixture.error.field << ": " << fixture.error.reason;
    EXPECT_EQ(fixture.planned_bytes, fixture.used_bytes);
    EXPECT_EQ(4096u, keel::tokenizer_vocabulary(fixture.t));
    EXPECT_EQ(std::vector<int32_t>{1}, fixture.encode("", KEEL_TOKENIZE_BOS));
    const int32_t* end_ids;
    ASSERT_EQ(1u, keel::tokenizer_end_ids(fixture.t, &end_ids));
    EXPECT_EQ(2, end_ids[0]);
    for (Line& line : read_oracle("reference.txt")) {
        const std::string text = line.text();
        const std::vector<int32_t> ids = line.numbers();
        EXPECT_EQ(ids, fixture.encode(text)) << text;
        const bool spells_space = text.find("\xe2\x96\x81") != std::string::npos;  // U+2581 is a space to SentencePiece
        EXPECT_EQ(spells_space, text != fixture.decode(ids));
    }
}

}  // namespace
