// Low-rank correction of codes (sdk/tools/lab/quantize/correction.h), and the adapter that it is written as.
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/lab/quantize/correction.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "sdk/model/adapter_file.h"
#include "sdk/tools/common/atomic_file.h"
#include "sdk/tools/lab/kv/kv_quality.h"
#include "sdk/tools/lab/quantize/calibration.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "tests/test_paths.h"
#include "tests/tools/bundled_request.h"

namespace keel::tools {
namespace {

FloatRows normals(uint32_t seed, Eigen::Index rows, Eigen::Index columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    return FloatRows::NullaryExpr(rows, columns, [&](auto, auto) { return normal(random); });
}

// Of vectors whose elements are correlated and differ in size.
Eigen::MatrixXd moment_of(uint32_t seed, Eigen::Index n) {
    Eigen::MatrixXd x = normals(seed, 3 * n, n).cast<double>();
    for (Eigen::Index j = 1; j < n; ++j) x.col(j) = x.col(j) * static_cast<double>(1 + j % 3) + 0.5 * x.col(j - 1);
    return x.transpose() * x / static_cast<double>(3 * n);
}

double loss_of(const Eigen::MatrixXd& error, const Eigen::MatrixXd& moment) {
    return (error * moment * error.transpose()).trace();
}

// Every rank of matrices that are wide, high and square: what is left is the sum of the squared singular values that
// are cut off of E H^(1/2), and no change of the factors leaves less.
TEST(Correction, IsTheBestOfItsRank) {
    for (const auto& [rows, columns] : {std::pair<Eigen::Index, Eigen::Index>{5, 8}, {8, 5}, {6, 6}}) {
        const FloatRows error = normals(2, rows, columns);
        const Eigen::MatrixXd moment = moment_of(3, columns);
        const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> root(moment);
        const Eigen::VectorXd singular =
            Eigen::JacobiSVD<Eigen::MatrixXd>(error.cast<double>() * root.operatorSqrt()).singularValues();
        const double all = singular.squaredNorm();
        for (Eigen::Index rank = 1; rank <= std::min(rows, columns); ++rank) {
            const LowRankCorrection c = correction_of(error, moment, static_cast<uint32_t>(rank), 1);
            ASSERT_EQ(c.rank, rank);
            const FloatRows product = c.product();
            const double left = loss_of((error - product).cast<double>(), moment),
                         least = singular.tail(singular.size() - rank).squaredNorm();
            EXPECT_NEAR(left, least, 2e-3 * all) << rows << ' ' << columns << ' ' << rank;
            EXPECT_GE(left, least - 1e-4 * all);
            const Eigen::JacobiSVD<Eigen::MatrixXd> factors(product.cast<double>(),
                                                            Eigen::ComputeThinU | Eigen::ComputeThinV);
            for (uint32_t i = 0; i < 200; ++i) {
                const Eigen::MatrixXd u = factors.matrixU().leftCols(rank) *
                                          factors.singularValues().head(rank).asDiagonal(),
                                      v = factors.matrixV().leftCols(rank);
                const Eigen::MatrixXd other = (u + 0.1 * normals(10 + i, rows, rank).cast<double>()) *
                                              (v + 0.1 * normals(500 + i, columns, rank).cast<double>()).transpose();
                EXPECT_GE(loss_of(error.cast<double>() - other, moment), left - 2e-3 * all);
            }
        }
    }
}

TEST(Correction, OfFullRankRestoresTheMatrix) {
    const FloatRows error = normals(4, 40, 64) * 0.003f;
    const LowRankCorrection c = correction_of(error, moment_of(5, 64), 4096, 1);
    EXPECT_EQ(c.rank, 40u);
    EXPECT_EQ(c.a.size(), 2u * 40 * 64);
    EXPECT_EQ(c.b.size(), 2u * 40 * 40);
    EXPECT_LT((error - c.product()).norm(), 2e-3f * error.norm());  // f16 factors
}

TEST(Correction, SingularAndHostileMoments) {
    const FloatRows error = normals(6, 8, 16);
    const LowRankCorrection none = correction_of(FloatRows::Zero(8, 16), moment_of(7, 16), 2, 1),
                            blind = correction_of(error, Eigen::MatrixXd::Zero(16, 16), 2, 1);
    EXPECT_EQ(none.product().norm(), 0);
    EXPECT_TRUE(blind.product().allFinite());
    Eigen::MatrixXd h = moment_of(7, 16);
    EXPECT_THROW(correction_of(error, h, 0, 1), std::invalid_argument);
    EXPECT_THROW(correction_of(error, moment_of(7, 8), 2, 1), std::invalid_argument);
    EXPECT_THROW(correction_of(FloatRows(0, 16), h, 2, 1), std::invalid_argument);
    h(3, 3) = std::numeric_limits<double>::quiet_NaN();
    EXPECT_THROW(correction_of(error, h, 2, 1), std::invalid_argument);
}

double divergence(const EngineOptions& options, const std::vector<KvReference>& references) {
    KvRun run(with_exact_activations(options), exact_kv(), lab_context(options));
    double sum = 0;
    for (const KvReference& reference : references)
        run.forward(reference.input(), [&](size_t position, std::span<const float> logits) {
            sum += compare(reference, position, logits).kl / static_cast<double>(reference.positions());
        });
    return sum;
}

// Of the bundled model, a block in few bits: a library reads the file as an adapter of the coded model, whose
// predictions are nearer to the source's with it, and the nearer the higher its rank. A later run takes what is done.
TEST(Correction, IsAnAdapterThatBringsBackWhatCodesLose) {
    keel_test::BundledRequest bundled("blk.2.*=Q2_K,token_embd=Q8_0", 2, 128);
    const EngineOptions& engine = bundled.engine;
    const ModelFile& source = bundled.source;
    QuantizeRequest& request = bundled.request;
    CalibrationOptions& options = bundled.options;
    request.file_type = 0;
    std::vector<KvReference> references;
    {
        KvRun run(with_exact_activations(engine), exact_kv(), lab_context(engine));
        for (std::vector<int32_t>& ids : tokenize_documents(run.model().engine, options.text.file, 2, 128))
            references.emplace_back(run, std::move(ids));
    }
    const std::string stem = testing::TempDir() + "correction." + std::to_string(getpid());
    const RemovedAtTheEnd removed[] = {{stem + ".gguf"}, {stem + ".lora"}, {stem + ".work"}};
    const auto nothing = [](const std::string&, uint64_t, uint64_t) {};
    double before = 0;
    for (const uint32_t rank : {8u, 64u}) {
        options.correction_rank = rank;
        Calibrator calibrator(engine, request, options, stem + ".work", nothing);
        const std::vector<CalibratedMatrix>& matrices = calibrator.matrices();
        bool read = false;
        Calibrator again(engine, request, options, stem + ".work",
                         [&](const std::string&, uint64_t, uint64_t) { read = true; });
        std::vector<CorrectedTensor> tensors;
        uint64_t bytes = 0;
        for (size_t i = 0; i < matrices.size(); ++i) {
            const ModelMatrix& m = request.matrices[i];
            const CalibratedMatrix &one = matrices[i], &kept = again.matrices()[i];
            EXPECT_EQ(one.correction.a, kept.correction.a);
            EXPECT_EQ(one.correction.b, kept.correction.b);
            EXPECT_EQ(one.corrected_error, kept.corrected_error);
            EXPECT_EQ(one.correction.rank, m.slot > kLastGlobalSlot && !one.bytes.empty() ? rank : 0) << m.name;
            if (one.correction.rank == 0) continue;
            EXPECT_LT(one.corrected_error, (rank == 8 ? 0.95 : 0.6) * one.error) << m.name;
            tensors.push_back({m.name, m.rows, m.columns, &one.correction});
            bytes += 2 * rank * (m.rows + m.columns);
        }
        EXPECT_FALSE(read) << "nothing is done twice";
        request.quantize = [&](size_t matrix) { return matrices[matrix].bytes; };
        write_quantized(source, request, stem + ".gguf", nothing);
        const uint64_t file_bytes =
            write_correction(stem + ".lora", source.info.architecture, {{"source", "test"}}, tensors);
        EXPECT_GT(file_bytes, bytes);
        EXPECT_LT(file_bytes, bytes + 4096);
        const ModelFile coded = open_model(stem + ".gguf");
        const FileReader adapter_reader = open_file(stem + ".lora");
        AdapterFile adapter;
        keel_error error{};
        ASSERT_EQ(adapter_open(*adapter_reader.get(), coded.model, &adapter, &error), KEEL_OK) << error.reason;
        EXPECT_EQ(adapter.pairs, 7u);
        EXPECT_EQ(adapter.largest_rank, rank);
        EXPECT_EQ(adapter.weight_bytes, bytes);
        EngineOptions corrected = engine;
        corrected.model = stem + ".gguf";
        const double without = divergence(corrected, references);
        corrected.lora = stem + ".lora";
        const double with = divergence(corrected, references);
        EXPECT_LT(with, 0.97 * without) << rank;
        if (before > 0) {
            EXPECT_LT(with, 0.8 * before);
        }
        before = with;
    }
}

}  // namespace
}  // namespace keel::tools
#endif
