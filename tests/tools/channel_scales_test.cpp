// Scales of channels (sdk/tools/lab/quantize/channel_scales.h): the model computes what it did, and a calibration that
// chooses them.
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/lab/quantize/channel_scales.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <random>

#include "keel/keel_lab.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/kv/kv_run.h"
#include "sdk/tools/lab/quantize/calibration.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "tests/test_paths.h"

namespace keel::tools {
namespace {

EngineOptions options_of(const std::string& path) {
    EngineOptions options;
    options.model = path;
    options.threads = 1;
    return options;
}

QuantizeRequest request_of(const ModelFile& source, const std::string& types) {
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.reader.get());
    request.types = TypeRules(types).choose(request.matrices, source.model->spec);
    request.file_type = 0;
    return request;
}

std::vector<float> logits_of(const std::string& path) {
    const EngineOptions options = options_of(path);
    KvRun run(with_exact_activations(options), exact_kv(), lab_context(options));
    std::mt19937 random(7);
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(static_cast<int32_t>(random() % run.info().vocabulary));
    std::vector<float> out;
    run.forward(ids, [&](size_t, std::span<const float> row) { out.insert(out.end(), row.begin(), row.end()); });
    return out;
}

// Every architecture, written in f32 (bf16 where it is f32 already) with and without scales on all inputs of all
// layers. Powers of two round nothing, so logits are the same bits. Of other scales each weight and norm is rounded
// once more, by 2^-24 of itself: the bound is that of sums in another order, 2e-5 of the largest logit, or 336 such
// roundings.
TEST(ChannelScales, AModelComputesWhatItDid) {
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(keel_test::source_path("tests/data/architectures"))) {
        if (entry.path().extension() != ".gguf") continue;
        SCOPED_TRACE(entry.path());
        ++files;
        const ModelFile source = open_model(entry.path());
        const bool f32 = source.model->block_tensor(kAttnOutput, 0)->type == kernels::kF32;
        const std::string path = testing::TempDir() + "scaled." + std::to_string(getpid()) + ".gguf";
        const RemovedAtTheEnd removed = {path};
        const QuantizeRequest plain = request_of(source, f32 ? "blk.*=BF16" : "blk.*=F32");
        std::vector<std::string> skipped;
        std::vector<ChannelFold> folds = channel_folds(source, plain, &skipped);
        EXPECT_EQ(folds.size(), 4 * source.model->spec.blocks);
        EXPECT_TRUE(skipped.empty()) << skipped[0];
        write_quantized(source, plain, path, [](auto&&...) {});
        const std::vector<float> expected = logits_of(path);
        double largest = 0;
        for (const float x : expected) largest = std::max(largest, std::abs(static_cast<double>(x)));
        for (const bool powers_of_two : {true, false}) {
            std::mt19937 random(11);
            for (ChannelFold& fold : folds) {
                fold.scales.assign(1 + *std::max_element(fold.channel.begin(), fold.channel.end()), 1);
                for (float& s : fold.scales)
                    s = powers_of_two ? std::ldexp(1.0f, static_cast<int>(random() % 7) - 3)
                                      : std::exp2(static_cast<float>(random() % 1000) / 250 - 2);
            }
            if (f32 && !powers_of_two) continue;  // bf16 codes of other values
            QuantizeRequest scaled = plain;
            use_scales(source, folds, &scaled);
            const std::vector<QuantizedTensor> report = write_quantized(source, scaled, path, [](auto&&...) {});
            for (const QuantizedTensor& t : report) EXPECT_EQ(f32 ? 0 : t.relative_error, 0) << t.name;
            const std::vector<float> logits = logits_of(path);
            ASSERT_EQ(logits.size(), expected.size());
            if (powers_of_two) {
                EXPECT_EQ(logits, expected);
                continue;
            }
            EXPECT_NE(logits, expected);
            for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 2e-5 * largest) << i;
        }
    }
    EXPECT_GT(files, 10u);
}

TEST(ChannelScales, ArePowersOfTheChannelsMoments) {
    ChannelFold fold = {0, KEEL_LAB_ATTN_OUT, {0}, kNoMaker, 0, 0, {0, 1, 0, 1, 2, 3, 2, 3}, {}};  // two heads read one
    Eigen::MatrixXd moment = Eigen::MatrixXd::Zero(8, 8);
    for (Eigen::Index i = 0; i < 8; ++i) moment(i, i) = i == 7 || i == 5 ? 0 : std::pow(4, static_cast<double>(i));
    const std::vector<float> none = channel_scales(fold, moment, 0), half = channel_scales(fold, moment, 0.5),
                             whole = channel_scales(fold, moment, 1);
    double product = 1;
    for (size_t c = 0; c < 4; ++c) {
        EXPECT_EQ(none[c], 1);
        EXPECT_NEAR(half[c] * half[c], whole[c], 1e-5 * static_cast<double>(whole[c]));
        product *= static_cast<double>(whole[c]);
    }
    EXPECT_NEAR(product, 1, 1e-5);
    EXPECT_NEAR(whole[1] / whole[0], 2, 1e-5);  // 4 + 64 over 1 + 16
    EXPECT_NEAR(whole[2] / whole[0], std::sqrt((256.0 + 4096) / 17), 1e-4);
    EXPECT_GT(whole[3], 0);  // nothing is ever there
    EXPECT_TRUE(std::isfinite(1 / whole[3]));
    for (const float s : channel_scales(fold, Eigen::MatrixXd::Zero(8, 8), 1)) EXPECT_EQ(s, 1);
}

// A block of the bundled model: of the powers the one of least error at each input, so never more than without; the
// same after a run that was stopped, and bytes of today where nothing is scaled.
TEST(ChannelScales, TheCalibrationChoosesThePowerOfLeastError) {
    const EngineOptions engine = options_of(keel_test::source_path("samples/models/books-7m-f16.gguf"));
    const ModelFile source = open_model(engine.model);
    for (const bool nearest : {true, false}) {
        SCOPED_TRACE(nearest);
        const QuantizeRequest request = request_of(source, "blk.0.*=Q4_0,blk.1.attn_q=Q4_0");
        CalibrationOptions options;
        options.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 1, 96};
        options.nearest_codes = nearest;
        const auto nothing = [](const std::string&, uint64_t, uint64_t) {};
        const auto plain = Calibrator(engine, request, options, {}, nothing).matrices();
        options.scaling = true;
        const std::string work = testing::TempDir() + "scales." + std::to_string(getpid());
        const RemovedAtTheEnd removed = {work};
        size_t matrices = 0;
        const auto stops = [&](const std::string& what, uint64_t, uint64_t) {
            if (what.starts_with("blk.") && ++matrices == 5) throw ToolError(kExitCancelled, "stopped");
        };
        EXPECT_THROW(Calibrator(engine, request, options, work, stops).matrices(), ToolError);
        Calibrator calibrator(engine, request, options, work, nothing);
        const auto& scaled = calibrator.matrices();
        ASSERT_EQ(calibrator.not_scaled().size(), 4u);
        EXPECT_EQ(calibrator.not_scaled()[1],
                  "7 inputs of attn_q, attn_k, attn_v are not scaled, because attn_v.weight keeps its type");
        const auto whole = nearest ? Calibrator(engine, request, options, {}, nothing).matrices() : scaled;
        std::map<std::pair<uint32_t, uint32_t>, std::array<double, 3>> sites;  // error without and with, power
        for (size_t i = 0; i < plain.size(); ++i) {
            ASSERT_EQ(plain[i].bytes.empty(), scaled[i].bytes.empty());
            EXPECT_EQ(scaled[i].bytes, whole[i].bytes) << i;
            EXPECT_EQ(scaled[i].scales, whole[i].scales) << i;
            if (plain[i].bytes.empty()) continue;
            const ModelMatrix& m = request.matrices[i];
            EXPECT_EQ(scaled[i].scaling > 0, !scaled[i].scales.empty());
            auto& site = sites[{m.layer, input_of(m.slot, source.model->spec.tied)}];
            site[0] += plain[i].error;
            site[1] += scaled[i].error;
            site[2] = scaled[i].scaling;
            const bool rows = m.slot == kAttnV || m.slot == kFfnUp;  // divided, for another input
            if (scaled[i].scaling == 0 && !rows) {
                EXPECT_EQ(scaled[i].bytes, plain[i].bytes) << m.name;
            }
            if (!rows) {
                EXPECT_EQ(scaled[i].nearest_error, plain[i].nearest_error) << m.name;
            }
        }
        size_t better = 0;
        for (const auto& [site, of] : sites) {
            // Divided rows of V and up count by other weights in the sum of their matrix.
            const bool divided = site.second == KEEL_LAB_ATTN_IN || site.second == KEEL_LAB_FFN_IN;
            EXPECT_LE(of[1], of[0] * (divided ? 1.03 : 1)) << site.first << ' ' << site.second;
            better += of[2] > 0 && of[1] < 0.99 * of[0];
        }
        EXPECT_EQ(sites.size(), 5u);
        EXPECT_EQ(sites[std::pair(1u, 0u)][2], 0) << "K and V keep their type";
        EXPECT_GE(better, nearest ? 3u : 1u);
    }
}

TEST(ChannelScales, RefuseWhatCannotBeScaled) {
    const auto calibrator = [](const std::string& path, const std::string& types) {
        const EngineOptions engine = options_of(keel_test::source_path(path));
        CalibrationOptions options;
        options.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 1, 64};
        options.scaling = true;
        Calibrator(engine, request_of(open_model(engine.model), types), options, {}, [](auto&&...) {}).matrices(0);
    };
    EXPECT_THROW(calibrator("tests/data/wired/wired.gguf", "blk.*=Q4_0"), ToolError);
    EXPECT_THROW(calibrator("samples/models/books-7m-f16.gguf", "blk.0.attn_q=Q4_0"), ToolError);
    EXPECT_THROW(calibrator("samples/models/books-7m-f16.gguf", "token_embd=Q4_0"), ToolError);
}

}  // namespace
}  // namespace keel::tools
#endif
