// Ids of independent tokenizers: the vocabularies and cases of the shared conformance data, and the reference model's own.
#include <sstream>

#include "tests/tokenizer_fixture.h"

namespace {

using keel_test::read_file;
using keel_test::source_path;
using keel_test::TokenizerFixture;

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
    const std::vector<std::string> texts =
        split(std::string(input.begin(), input.end()), "\n__ggml_vocab_test__\n");
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

// SentencePiece's own ids for the reference model's vocabulary (tests/generators/make_reference_tokens.py).
TEST(TokenizerConformance, ReferenceModel) {
    TokenizerFixture fixture(read_file(source_path("samples/models/books-7m-f16.gguf")));
    ASSERT_EQ(KEEL_OK, fixture.status) << fixture.error.field << ": " << fixture.error.reason;
    const struct {
        const char* text;
        std::vector<int32_t> ids;
    } cases[] = {
        {"Hello, world!", {438, 290, 4028, 4043, 901, 4067}},
        {"", {}},
        {" ", {4024, 4024}},
        {"\xc2\xa0nbsp", {4024, 197, 163, 4029, 4045, 1729}},
    };
    for (const auto& c : cases) EXPECT_EQ(c.ids, fixture.encode(c.text)) << c.text;
}

}  // namespace
