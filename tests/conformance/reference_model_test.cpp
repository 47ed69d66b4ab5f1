// The bundled reference model against golden outputs of other implementations: tokens, logits, greedy text, perplexity.
// tests/data/reference-model/books-golden.json states the protocol; samples/models/README.md describes the model.
#include <cmath>
#include <cstdio>
#include <sstream>

#include "tests/oracle.h"
#include "tests/test_engine.h"

namespace {

using namespace keel_test;

const std::string kModel = source_path("samples/models/books-7m-f16.gguf");

nlohmann::json golden() {
    return read_json(source_path("tests/data/reference-model/books-golden.json"));
}

std::vector<std::string> documents(const std::string& jsonl_path) {
    const std::vector<char> bytes = read_file(jsonl_path);
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    std::vector<std::string> texts;
    for (std::string line; std::getline(lines, line);) texts.push_back(nlohmann::json::parse(line)["text"]);
    return texts;
}

TEST(ReferenceModel, TokenizesAsSentencePiece) {
    const Engine engine(kModel);
    const nlohmann::json expected = golden();
    for (const nlohmann::json& entry : expected["tokenize"])
        EXPECT_EQ(engine.tokenize(entry["text"], 0), entry["ids"].get<std::vector<int32_t>>()) << entry["text"];
}

TEST(ReferenceModel, F32LogitsMatchBothImplementations) {
    KEEL_SHARED_OR_SKIP(path, "reference-model/logits-doc0.f32");
    const nlohmann::json all = golden();
    const nlohmann::json& logits = all["logits"];
    const std::vector<int32_t> ids = logits["ids"];
    const size_t rows = logits["shape"][0], vocabulary = logits["shape"][1], stride = ids.size() / rows;
    const std::vector<float> reference = read_f32(path);
    ASSERT_EQ(reference.size(), rows * vocabulary);
    keel_config config = f32_config();
    config.logits_rows = 128;
    const Logits ours = Engine(kModel, config).logits_for(ids);
    double worst = 0;
    for (size_t i = 0; i < rows; i++) {  // positions 15, 31, ... 255
        const size_t position = (i + 1) * stride - 1;
        const double error = row_error(ours.row(position), reference.data() + i * vocabulary, vocabulary);
        EXPECT_LE(error, 1e-5) << "position " << position;
        worst = std::max(worst, error);
    }
    std::printf("    largest row error %.1e\n", worst);
}

// Greedy continuation, fed the golden token whatever we would have chosen, so that one tie cannot hide what follows.
void expect_greedy(keel_config config, double smallest_margin) {
    Engine engine(kModel, config);
    size_t compared = 0;
    const nlohmann::json all = golden();
    for (const nlohmann::json& entry : all["greedy"]) {
        const std::vector<int32_t> expected = entry["greedy_ids"];
        const std::vector<double> margins = entry["margins"];
        check(keel_session_truncate(engine.session(), 0), "keel_session_truncate");
        engine.feed(entry["prompt_ids"]);
        for (size_t i = 0; i < expected.size(); i++) {
            engine.advance();
            if (margins[i] > smallest_margin) {
                EXPECT_EQ(engine.sample(), expected[i])
                    << entry["prompt"] << " token " << i << " margin " << margins[i];
                compared++;
            }
            engine.feed({expected[i]});
        }
    }
    EXPECT_GE(compared, 120u);
}
TEST(ReferenceModel, GreedyF32IsGolden) {
    expect_greedy(f32_config(), 1e-3);
}
TEST(ReferenceModel, GreedyScalarIsGolden) {
    expect_greedy(f32_config(KEEL_CPU_SCALAR), 1e-3);
}
TEST(ReferenceModel, GreedyDefaultIsGolden) {
    expect_greedy(sized<keel_config>(), 1e-3);
}

// What f16 KV and float32 rounding may move: measured 2e-6 of the perplexity over the four sample documents.
constexpr double kPerplexityTolerance = 2e-4;

// Scores documents by the protocol on the default path and compares each with its golden sum. The portable kernels
// score the first document only: they need 40 s for one.
void expect_golden_perplexity(std::vector<std::string> texts) {
    const nlohmann::json expected = golden();
    keel_config config = sized<keel_config>();
    config.context_tokens = 2048;
    config.logits_rows = 128;
    Engine engine(kModel, config);
    if (engine.plan().cpu == KEEL_CPU_SCALAR) texts.resize(1);
    double total = 0, golden_total = 0, bytes = 0;
    size_t targets = 0;
    for (size_t d = 0; d < texts.size(); d++) {
        std::vector<int32_t> ids = engine.tokenize(texts[d], KEEL_TOKENIZE_BOS);
        ids.resize(std::min<size_t>(ids.size(), 2049));
        const std::vector<int32_t> inputs(ids.begin(), ids.end() - 1);
        double sum = 0;
        engine.for_each_row(
            inputs, [&](uint32_t i, const float* row) { sum += nll(row, engine.info().vocabulary, ids[i + 1]); });
        const nlohmann::json& document = expected["per_document"][d];
        const double golden_sum = document["nll_sum"];
        ASSERT_EQ(inputs.size(), document["targets"].get<size_t>());
        EXPECT_NEAR(sum, golden_sum, kPerplexityTolerance * golden_sum) << "document " << d;
        total += sum;
        golden_total += golden_sum;
        bytes += document["bytes"].get<double>();
        targets += inputs.size();
    }
    const double ppl = std::exp(total / static_cast<double>(targets));
    const double golden_ppl = std::exp(golden_total / static_cast<double>(targets));
    std::printf("    %zu documents, %zu targets: PPL %.4f (golden %.4f, %+.4f %%), %.5f bits per byte\n", texts.size(),
                targets, ppl, golden_ppl, 100 * (ppl / golden_ppl - 1), total / std::log(2.0) / bytes);
    EXPECT_NEAR(ppl, golden_ppl, kPerplexityTolerance * golden_ppl);
}

TEST(ReferenceModel, PerplexityOfSampleDocumentsIsGolden) {
    const std::vector<std::string> texts = documents(source_path("samples/models/books-val-sample.jsonl"));
    ASSERT_EQ(texts.size(), 4u);
    expect_golden_perplexity(texts);
}

TEST(ReferenceModel, PerplexityOfAllDocumentsIsGolden) {
    const char* wanted = getenv("KEEL_LONG_TESTS");
    if (!wanted || std::string(wanted) != "1") GTEST_SKIP() << "skipped: minutes long; set KEEL_LONG_TESTS=1 to run it";
    KEEL_SHARED_OR_SKIP(path, "reference-model/books-val.jsonl");
    const std::vector<std::string> texts = documents(path);
    ASSERT_EQ(texts.size(), 50u);
    expect_golden_perplexity(texts);
}

}  // namespace
