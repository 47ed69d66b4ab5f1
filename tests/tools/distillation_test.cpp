// A model in f32 that can be trained (sdk/tools/lab/quantize/trainable_model.h), and codes between which it is
// (distillation.h).
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/lab/quantize/distillation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <random>

#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/kv/kv_run.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/trainable_model.h"
#include "tests/test_paths.h"

namespace keel::tools {
namespace {

std::vector<std::string> models() {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(keel_test::source_path("tests/data/architectures")))
        if (entry.path().extension() == ".gguf") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    return paths;
}

std::vector<int32_t> tokens(size_t count, uint32_t vocabulary) {
    std::mt19937 random(7);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random() % vocabulary));
    return ids;
}

EngineOptions options_of(const std::string& path) {
    EngineOptions options;
    options.model = path;
    options.threads = 1;
    return options;
}

KvSpec exact_rows() {
    KvSpec exact;
    exact.k_format = exact.v_format = KEEL_KV_F32;
    return exact;
}

TEST(TrainableModel, ComputesWhatTheEngineComputes) {
    size_t files = 0;
    for (const std::string& path : models()) {
        SCOPED_TRACE(path);
        const EngineOptions options = options_of(path);
        const uint32_t context = lab_context(options);
        KvRun run(with_exact_activations(options), exact_rows(), context);
        const ModelFile& file = run.model().file;
        const std::vector<int32_t> ids = tokens(std::min<uint32_t>(context, 90), file.info.vocabulary);
        const TrainableModel model(run, static_cast<uint32_t>(ids.size()), 2);
        const FloatRows logits = model.logits(ids);
        double largest = 0, error = 0;
        run.forward(ids, [&](size_t position, std::span<const float> expected) {
            for (size_t i = 0; i < expected.size(); ++i) {
                const double x = expected[i],
                             y = logits(static_cast<Eigen::Index>(position), static_cast<Eigen::Index>(i));
                largest = std::max(largest, std::abs(x));
                error = std::max(error, std::abs(x - y));
            }
        });
        EXPECT_LT(error, 2e-5 * largest);
        ++files;
    }
    EXPECT_GT(files, 10u);
}

// The loss is the sum of the logits, each times a number of its own. Rows of every weight: what it changes by along a
// random direction, beside the difference of two losses.
TEST(TrainableModel, GradientsAreWhatTheLossChangesBy) {
    for (const std::string& path : models()) {
        SCOPED_TRACE(path);
        const EngineOptions options = options_of(path);
        const uint32_t context = lab_context(options);
        KvRun run(options, exact_rows(), context);
        const ModelFile& file = run.model().file;
        const std::vector<int32_t> ids = tokens(std::min<uint32_t>(context, 24), file.info.vocabulary);
        TrainableModel model(run, static_cast<uint32_t>(ids.size()), 2);
        std::mt19937 random(3);
        std::normal_distribution<float> normal;
        const FloatRows parts = FloatRows::NullaryExpr(static_cast<Eigen::Index>(ids.size()), file.info.vocabulary,
                                                       [&](auto, auto) { return normal(random); });
        const auto loss = [&] { return model.logits(ids).cast<double>().cwiseProduct(parts.cast<double>()).sum(); };

        for (TrainableWeight* const w : model.weights()) w->want(true);
        std::vector<LayerTrace> traces(model.layers());
        FloatRows x = model.embed(ids);
        for (uint32_t layer = 0; layer < model.layers(); ++layer) x = model.forward(layer, x, &traces[layer]);
        HeadTrace head;
        model.head(x, &head);
        FloatRows by_x = model.head_back(parts, head);
        for (uint32_t layer = model.layers(); layer-- > 0;) by_x = model.back(layer, by_x, traces[layer]);

        size_t checked = 0;
        for (uint32_t slot = 0; slot < kSlotCount; ++slot) {
            const TensorSlot s = static_cast<TensorSlot>(slot);
            // Of the embedding, the part that comes through its rows is not wanted: only as a head is it complete.
            if (s == kTokenEmbedding || s == kRopeFreqs || s == kRopeFactorsLong || s == kRopeFactorsShort) continue;
            for (uint32_t layer = 0; layer < (slot < kGlobalSlots ? 1 : model.layers()); ++layer) {
                TrainableWeight* const w = model.weight(s, layer);
                if (!w) continue;
                for (int sample = 0; sample < (w->value.rows() > 1 ? 2 : 1); ++sample) {
                    const Eigen::Index row =
                        static_cast<Eigen::Index>(random() % static_cast<uint32_t>(w->value.rows()));
                    const Eigen::RowVectorXf before = w->value.row(row);
                    Eigen::RowVectorXf direction =
                        Eigen::RowVectorXf::NullaryExpr(before.size(), [&](auto) { return normal(random); });
                    direction *= 0.002f * before.norm() / direction.norm();
                    w->value.row(row) = before + direction;
                    const double up = loss();
                    w->value.row(row) = before - direction;
                    const double down = loss();
                    w->value.row(row) = before;
                    const double along = w->gradient.row(row).cast<double>().dot(direction.cast<double>());
                    const double size = w->gradient.row(row).norm() * direction.norm();
                    EXPECT_NEAR((up - down) / 2, along, 0.02 * size + 1e-4) << kSlots[slot].name << ' ' << layer;
                    ++checked;
                }
            }
        }
        EXPECT_GT(checked, 20u);
    }
}

class Distilled : public testing::Test {
  protected:
    Distilled() {
        engine_ = options_of(keel_test::source_path("samples/models/books-7m-f16.gguf"));
        source_ = open_model(engine_.model);
        request_.matrices = matrices_of(*source_.model, *source_.reader.get());
        choose("blk.6.attn_v=Q4_0,blk.7.attn_output=Q4_0,blk.7.ffn_down=Q4_0");
        calibration_.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 3, 96};
        calibration_.gptq.threads = 2;
    }
    void choose(const std::string& rules) {
        request_.types = TypeRules(rules).choose(request_.matrices, source_.model->spec);
    }
    DistilledModel run(
        const std::string& work = {}, const CalibrationProgress& progress = [](auto&&...) {}) {
        return distill_matrices(engine_, request_, calibration_, distillation_, work, progress, &hash_);
    }
    static void expect_equal(const DistilledModel& a, const DistilledModel& b) {
        for (size_t i = 0; i < a.matrices.size(); ++i) EXPECT_EQ(a.matrices[i].bytes, b.matrices[i].bytes) << i;
        EXPECT_EQ(a.vectors, b.vectors);
        EXPECT_EQ(a.divergence, b.divergence);
    }
    EngineOptions engine_;
    ModelFile source_;
    QuantizeRequest request_;
    CalibrationOptions calibration_;
    DistillationOptions distillation_ = {.steps = 2, .last_steps = 3, .texts = 2, .rate = 0.004};
    uint64_t hash_ = 0;
};

// Mean KL of the model from the source on what follows the tokens that it was trained on.
double divergence_of(const EngineOptions& engine, const QuantizeRequest& request,
                     const std::vector<CalibratedMatrix>& matrices, const DistilledModel* distilled) {
    KvRun run(engine, exact_rows(), lab_context(engine));
    TrainableModel before(run, 400, 2), after(run, 400, 2);
    for (size_t i = 0; i < matrices.size(); ++i) {
        if (matrices[i].bytes.empty()) continue;
        const ModelMatrix& m = request.matrices[i];
        const std::vector<float> values = decode_rows(request.types[i], matrices[i].bytes, m.columns);
        std::copy(values.begin(), values.end(), after.weight(m.slot, m.layer)->value.data());
    }
    for (TrainableWeight* const w : after.weights())
        for (size_t i = 0; distilled && i < distilled->vectors.size(); ++i)
            if (distilled->vectors[i].first == w->tensor)
                memcpy(w->value.data(), distilled->vectors[i].second.data(), distilled->vectors[i].second.size());
    const auto documents =
        tokenize_documents(run.model().engine, keel_test::source_path("samples/models/books-val-sample.jsonl"), 4, 400);
    double sum = 0;
    for (const std::vector<int32_t>& ids : documents) {
        const FloatRows p = before.logits(ids), q = after.logits(ids);
        for (Eigen::Index t = 300; t < p.rows(); ++t) {
            const auto log_softmax = [](const auto& row) {
                const Eigen::ArrayXd x = row.template cast<double>().transpose().array();
                return Eigen::ArrayXd(x - x.maxCoeff() - std::log((x - x.maxCoeff()).exp().sum()));
            };
            const Eigen::ArrayXd a = log_softmax(p.row(t)), b = log_softmax(q.row(t));
            sum += (a.exp() * (a - b)).sum() /
                   static_cast<double>((p.rows() - 300) * static_cast<Eigen::Index>(documents.size()));
        }
    }
    return sum;
}

TEST_F(Distilled, PredictsTheSourceBetterThanCodesAlone) {
    choose("blk.6.ffn_up=Q2_K,blk.7.attn_*=Q2_K");
    calibration_.text.documents = 4;
    calibration_.text.tokens = 300;
    distillation_.steps = 8;
    const DistilledModel model = run();
    Calibrator calibrator(engine_, request_, calibration_, {}, [](auto&&...) {});
    const auto& alone = calibrator.matrices();
    size_t coded = 0;
    for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_EQ(model.matrices[i].bytes.size(), alone[i].bytes.size()) << i;
        coded += !alone[i].bytes.empty();
    }
    EXPECT_EQ(coded, 5u);
    const double plain = divergence_of(engine_, request_, alone, nullptr),
                 distilled = divergence_of(engine_, request_, model.matrices, &model);
    EXPECT_LT(distilled, 0.9 * plain);
}

TEST_F(Distilled, IsTheSameForAnyThreadsAndAfterAStop) {
    const DistilledModel whole = run();
    calibration_.gptq.threads = 1;
    expect_equal(whole, run());

    const std::string work = testing::TempDir() + "distillation." + std::to_string(getpid());
    const auto stops = [&](const std::string& what, uint64_t, uint64_t) {
        if (what == "layer 7, training") throw ToolError(kExitCancelled, "stopped");
    };
    EXPECT_THROW(run(work, stops), ToolError);
    std::vector<std::string> done;
    const auto notes = [&](const std::string& what, uint64_t, uint64_t) { done.push_back(what); };
    const auto trained_before_7 = [&] { return std::count(done.begin(), done.end(), "layer 6, training"); };
    expect_equal(whole, run(work, notes));
    EXPECT_EQ(trained_before_7(), 0);
    // A damaged file, and one of another request, are as none.
    std::vector<char> damaged = keel_test::read_file(work);
    damaged[damaged.size() / 2] ^= 1;
    write_file(work, damaged);
    done.clear();
    expect_equal(whole, run(work, notes));
    EXPECT_GT(trained_before_7(), 0);
    distillation_.rate = 0.005;
    done.clear();
    run(work, notes);
    EXPECT_GT(trained_before_7(), 0);
    std::filesystem::remove(work);
}

TEST_F(Distilled, RefusesWiredModels) {
    engine_ = options_of(keel_test::source_path("tests/data/wired/wired.gguf"));
    source_ = open_model(engine_.model);
    request_.matrices = matrices_of(*source_.model, *source_.reader.get());
    choose("blk.0.ffn_up=Q4_0");
    EXPECT_THROW(run(), ToolError);
}

}  // namespace
}  // namespace keel::tools
#endif
