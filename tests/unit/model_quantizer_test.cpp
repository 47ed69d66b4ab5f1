// Type rules and files in other weight types (sdk/tools/lab/quantize).
#include "sdk/tools/lab/quantize/model_quantizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>

#include "sdk/format/bytes.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/row_steps.h"
#include "tests/test_paths.h"

namespace keel::tools {
namespace {

class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& name)
        : path(testing::TempDir() + name + "." + std::to_string(getpid()) + ".gguf") {}
    ~TemporaryFile() { std::filesystem::remove(path); }
    const std::string path;
};

QuantizeRequest request_of(const ModelFile& source, const std::string& types) {
    const TypeRules rules(types);
    QuantizeRequest r;
    r.matrices = matrices_of(*source.model, *source.reader.get());
    r.types = rules.choose(r.matrices, source.model->spec);
    r.file_type = rules.mix() ? rules.mix()->file_type : file_type_of_source(source);
    r.notes = {{"types", types}};
    return r;
}

std::vector<uint8_t> tensor_bytes(const ModelFile& file, uint32_t tensor) {
    const GgufTensor& t = file.model->tensors()[tensor];
    std::vector<uint8_t> bytes(t.bytes);
    check(read_at(*file.reader.get(), t.offset, bytes.data(), t.bytes), "read");
    return bytes;
}

// Every architecture: each kept tensor is the same bytes, each metadata entry is there with its bytes, and the
// rest has the type that was asked for or its stand-in.
TEST(ModelQuantizer, KeepsWhatItDoesNotChange) {
    int files = 0;
    std::vector<std::string> paths = {keel_test::source_path("tests/data/wired/wired.gguf")};
    for (const auto& entry : std::filesystem::directory_iterator(keel_test::source_path("tests/data/architectures")))
        if (entry.path().extension() == ".gguf") paths.push_back(entry.path());
    for (const std::string& path : paths) {
        SCOPED_TRACE(path);
        ++files;
        const ModelFile source = open_model(path);
        const TemporaryFile out("model_quantizer");
        const QuantizeRequest request = request_of(source, "Q5_0,token_embd=keep");
        const std::vector<QuantizedTensor> report = write_quantized(source, request, out.path, [](auto&&...) {});
        const ModelFile result = open_model(out.path);
        const Gguf before = source.model->view(), after = result.model->view();
        ASSERT_EQ(before.tensor_count, after.tensor_count);
        std::vector<uint32_t> type(before.tensor_count);
        for (uint32_t i = 0; i < before.tensor_count; ++i) type[i] = before.tensors[i].type;
        for (size_t i = 0; i < request.matrices.size(); ++i) {
            const ModelMatrix& m = request.matrices[i];
            type[m.tensor] = request.types[i];
            EXPECT_EQ(report[i].bytes, after.tensors[m.tensor].bytes) << m.name;
            EXPECT_EQ(report[i].relative_error > 0, report[i].from != report[i].to) << m.name;
            if (m.name == "token_embd.weight") {
                EXPECT_EQ(report[i].from, report[i].to);
            }
        }
        for (uint32_t i = 0; i < before.tensor_count; ++i) {
            EXPECT_EQ(before.tensors[i].name_hash, after.tensors[i].name_hash);
            EXPECT_EQ(after.tensors[i].type, type[i]);
            if (before.tensors[i].type == type[i]) {
                EXPECT_EQ(tensor_bytes(source, i), tensor_bytes(result, i)) << i;
            }
        }
        for (uint32_t i = 0; i < before.value_count; ++i) {
            const GgufValue& v = before.values[i];
            std::string key(v.key_bytes, 0);
            check(read_at(*source.reader.get(), gguf_key_offset(v), key.data(), key.size()), "read");
            const GgufValue* const kept = gguf_find(after, key.c_str());
            ASSERT_TRUE(kept) << key;
            if (key == "general.file_type" || key == "general.quantization_version") continue;
            ASSERT_EQ(v.bytes, kept->bytes) << key;
            std::string a(v.bytes, 0), b(v.bytes, 0);
            check(read_at(*source.reader.get(), v.offset, a.data(), a.size()), "read");
            check(read_at(*result.reader.get(), kept->offset, b.data(), b.size()), "read");
            EXPECT_EQ(a, b) << key;
        }
        EXPECT_EQ(file_type_of_source(result), 8u);
        EXPECT_TRUE(gguf_find(after, "keel.quantize.source"));
    }
    EXPECT_GT(files, 10);
}

// What a file says of how it was quantized stays, as of before, when it is quantized again.
TEST(ModelQuantizer, KeepsWhatTheSourceSaysOfItself) {
    const ModelFile source = open_model(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"));
    const TemporaryFile once("quantized_once"), twice("quantized_twice");
    QuantizeRequest request = request_of(source, "Q5_0");
    request.notes.push_back({"calibration_text", "0123"});
    write_quantized(source, request, once.path, [](auto&&...) {});
    const ModelFile middle = open_model(once.path);
    write_quantized(middle, request_of(middle, "Q4_0"), twice.path, [](auto&&...) {});
    const ModelFile result = open_model(twice.path);
    const Gguf g = result.model->view();
    EXPECT_TRUE(gguf_find(g, "keel.quantize.before.calibration_text"));
    EXPECT_TRUE(gguf_find(g, "keel.quantize.before.types"));
    EXPECT_TRUE(gguf_find(g, "keel.quantize.types"));
    EXPECT_FALSE(gguf_find(g, "keel.quantize.calibration_text"));
}

TEST(ModelQuantizer, RulesChooseTypesByName) {
    const ModelFile source = open_model(keel_test::source_path("samples/models/books-7m-f16.gguf"));
    const std::vector<ModelMatrix> matrices = matrices_of(*source.model, *source.reader.get());
    const auto type_of = [&](const std::string& rules, const std::string& name) {
        const std::vector<uint32_t> types = TypeRules(rules).choose(matrices, source.model->spec);
        for (size_t i = 0; i < matrices.size(); ++i)
            if (matrices[i].name == name) return std::string(kernels::kWeightTypes[types[i]].name);
        return std::string("no such matrix");
    };
    const std::string mixed = "blk.*.ffn_?own=IQ4_XS,Q4_K_M,token_embd.weight=Q8_0,blk.1.*=keep";
    EXPECT_EQ(type_of(mixed, "blk.0.attn_q.weight"), "Q4_K");
    EXPECT_EQ(type_of(mixed, "blk.1.attn_q.weight"), "F16");
    EXPECT_EQ(type_of(mixed, "blk.1.ffn_down.weight"), "IQ4_XS");  // the first rule decides
    EXPECT_EQ(type_of(mixed, "token_embd.weight"), "Q8_0");
    EXPECT_EQ(type_of("Q4_K_M", "blk.0.ffn_down.weight"), "Q6_K");
    EXPECT_EQ(type_of("Q3_K_L", "blk.3.attn_v.weight"), "Q5_K");
    for (const char* bad : {"", "Q4_K_M,Q8_0", "Q4_X", "=Q8_0", "blk.0.*=Q4_K_M", "Q4_K,blk.0.*=", "a=keep=b"})
        EXPECT_THROW(TypeRules{bad}, std::invalid_argument) << bad;
    EXPECT_THROW(type_of("Q4_K,attn_norm=F16", ""), std::invalid_argument);  // no matrix
    EXPECT_THROW(type_of("*=F16,blk.0.*=Q8_0", ""), std::invalid_argument);  // never reached
}

TEST(ModelQuantizer, ErrorsOfTheReportAreThoseOfTheFile) {
    const ModelFile source = open_model(keel_test::source_path("tests/data/architectures/llama-yarn.gguf"));
    const TemporaryFile searched("searched"), plain("plain");
    QuantizeRequest request = request_of(source, "Q4_0");
    const std::vector<QuantizedTensor> best = write_quantized(source, request, searched.path, [](auto&&...) {});
    request.search = false;
    request.threads = 3;
    const std::vector<QuantizedTensor> nearest = write_quantized(source, request, plain.path, [](auto&&...) {});
    const ModelFile result = open_model(plain.path);
    for (size_t i = 0; i < best.size(); ++i) {
        EXPECT_LT(best[i].relative_error, nearest[i].relative_error);
        const std::vector<float> x = matrix_values(source, request.matrices[i]),
                                 y = matrix_values(result, request.matrices[i]);
        double error = 0, energy = 0;
        for (size_t j = 0; j < x.size(); ++j) {
            error += (static_cast<double>(y[j]) - x[j]) * (static_cast<double>(y[j]) - x[j]);
            energy += static_cast<double>(x[j]) * x[j];
        }
        EXPECT_NEAR(nearest[i].relative_error, error / energy, 1e-12);
    }
    EXPECT_THROW(write_quantized(source, request, source.path, [](auto&&...) {}), ToolError);
}

// Of normal rows the codes take log2(sqrt(2 pi e) / step) bits, and the error is that of a uniform grid.
TEST(RowSteps, TheStepSetsTheBitsOfNormalRows) {
    constexpr uint64_t kColumns = 512, kRows = 200;
    std::mt19937 random(4);
    std::normal_distribution<float> normal;
    std::vector<float> values(kRows * kColumns);
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = normal(random) * std::exp2(static_cast<float>(i / kColumns % 5));
    for (const double step : {0.1, 0.25, 0.4, 0.8}) {
        const std::vector<uint8_t> bytes = quantize_row_steps(values, kColumns, step);
        ASSERT_EQ(bytes.size(), kRows * kColumns / 32 * 34);
        const std::vector<float> decoded = decode_rows(kernels::kQ8_0, bytes, kColumns);
        std::map<int, double> counts;
        std::map<uint16_t, int> scales;
        double error = 0, energy = 0;
        for (size_t block = 0; block < bytes.size() / 34; ++block) {
            uint16_t d, first;
            memcpy(&d, &bytes[block * 34], 2);
            memcpy(&first, &bytes[block / 16 * 16 * 34], 2);
            ASSERT_EQ(d, first) << "a row has one scale";
            ++scales[d];
            for (size_t i = 0; i < 32; ++i) ++counts[static_cast<int8_t>(bytes[block * 34 + 2 + i])];
        }
        double bits = 0;
        for (const auto& [code, n] : counts) {
            const double p = n / static_cast<double>(values.size());
            bits -= p * std::log2(p);
        }
        EXPECT_NEAR(bits, std::log2(std::sqrt(2 * M_PI * M_E) / step), 0.05) << step;
        EXPECT_LT(scales.size(), 40u) << "few scales are few bits";
        for (size_t i = 0; i < values.size(); ++i) {
            error += std::pow(double{values[i]} - decoded[i], 2);
            energy += std::pow(values[i], 2);
        }
        EXPECT_NEAR(error / energy, step * step / 12, 0.05 * step * step / 12) << step;
    }
}

TEST(RowSteps, EdgesOfTheGrid) {
    std::vector<float> row(64, 0.0f);
    EXPECT_EQ(quantize_row_steps(row, 64, 0.4), std::vector<uint8_t>(68, 0));  // no deviation, no scale
    row[5] = 1e6f;                                                             // eight deviations out
    const std::vector<uint8_t> bytes = quantize_row_steps(row, 64, 1.0 / 32);
    EXPECT_EQ(static_cast<int8_t>(bytes[2 + 5]), 127) << "clipped";
    EXPECT_EQ(static_cast<int8_t>(bytes[2 + 4]), 0);
    row[5] = 1e38f;
    for (const float x : decode_rows(kernels::kQ8_0, quantize_row_steps(row, 64, 4), 64)) EXPECT_TRUE(std::isfinite(x));
    row[5] = NAN;
    EXPECT_THROW(quantize_row_steps(row, 64, 0.4), std::invalid_argument);
    EXPECT_THROW(quantize_row_steps(std::vector<float>(66), 33, 0.4), std::invalid_argument);
    EXPECT_THROW(quantize_row_steps(std::vector<float>(65), 64, 0.4), std::invalid_argument);
}

}  // namespace
}  // namespace keel::tools
