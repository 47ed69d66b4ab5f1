// From weights and moments to the layers of a W_proj cache (sdk/tools/lab/lowrank/wproj_solve.h): what is stored
// against what a reader computes of it, the published form against its size formula, acceptance, budgets, and a rebuild
// to the byte.
#ifdef KEEL_HAVE_WPROJ_LAB
#include "sdk/tools/lab/lowrank/wproj_solve.h"

#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>

#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "tests/wproj_sizes.h"

namespace keel::tools {
namespace {

using Eigen::Index;

class Source {
  public:
    explicit Source(uint64_t seed) : engine_(seed) {}
    double uniform() { return static_cast<double>((engine_() >> 11) + 1) * 0x1p-53; }
    float normal() {
        return static_cast<float>(std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()));
    }
    FloatRows normals(Index rows, Index columns) {
        FloatRows m(rows, columns);
        for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal();
        return m;
    }

  private:
    std::mt19937_64 engine_;
};

constexpr uint32_t kColumns = 128, kHidden = 192;
constexpr uint32_t kRows[kWprojSlots] = {0, 128, 64, 64, 128, 192, 192, 128};
uint32_t columns_of(uint32_t slot) {
    return slot == kWprojDown ? kHidden : kColumns;
}

// Two layers. Activations lie mostly in 24 directions about a mean, so that small ranks do; the second layer's in 80.
struct Model {
    explicit Model(uint64_t seed) {
        Source source(seed);
        for (uint32_t l = 0; l < 2; ++l) {
            for (uint32_t s = kWprojQ; s < kWprojSlots; ++s)
                weights[l][s] = source.normals(kRows[s], columns_of(s)) / 11;
            for (uint32_t g = 0; g < kWprojGroups; ++g) {
                const Index n = g == kWprojFfnHidden ? kHidden : kColumns, directions = l ? 80 : 24;
                const FloatRows mix = source.normals(directions, n) / 5, mean = source.normals(1, n);
                ActivationMoments stream(static_cast<uint32_t>(n), 64);
                const auto draw = [&](Index rows) {
                    const FloatRows x =
                        (source.normals(rows, directions) * mix + 0.02f * source.normals(rows, n)).rowwise() +
                        mean.row(0);
                    return x;
                };
                FloatRows x = draw(500);
                x.row(0) = mean.row(0) * 60;  // a massive activation
                stream.add({x.data(), static_cast<size_t>(x.size())});
                const FloatRows held = draw(64);
                stream.hold_out({held.data(), static_cast<size_t>(held.size())});
                moments[l][g] = stream.summary();
            }
        }
    }
    WprojLayerSource source(bool with_moments = true) const {
        return [this, with_moments](uint32_t l) {
            WprojLayerInput input;
            for (uint32_t s = kWprojQ; s < kWprojSlots; ++s) {
                const uint32_t n = columns_of(s);
                input.weight[s] = {weights[l][s].data(), kRows[s], n, uint64_t{kRows[s]} * n * 2, 1};
            }
            for (uint32_t g = 0; g < kWprojGroups && with_moments; ++g) input.moments[g] = &moments[l][g];
            return input;
        };
    }
    FloatRows weights[2][kWprojSlots];
    MomentSummary moments[2][kWprojGroups];
};
const Model& model() {
    static const Model made(1);
    return made;
}

FloatRows decoded(uint32_t type, const std::vector<uint8_t>& bytes, uint32_t rows, uint32_t columns) {
    const std::vector<float> values = decode_rows(type, bytes, columns);
    EXPECT_EQ(values.size(), size_t{rows} * columns);
    return Eigen::Map<const FloatRows>(values.data(), rows, columns);
}

WprojImage image_of(const WprojSolution& solution) {
    WprojImage image;
    image.solver = solution.solver;
    image.layers = solution.layers;
    image.columns = kColumns;
    return image;
}

TEST(WprojSolve, StoresWhatItMeasured) {
    WprojSolveOptions options;
    options.rank = 64;
    options.bound = 0.005;
    const WprojSolution solution = solve_wproj(2, model().source(), options);
    EXPECT_EQ(solution.solver, "whitened");
    ASSERT_EQ(solution.reports.size(), 14u);
    uint64_t bytes = 0;
    for (const WprojSlotReport& report : solution.reports) {
        SCOPED_TRACE(report.layer * 10 + report.slot);
        const WprojGroup group = wproj_group(static_cast<WprojSlot>(report.slot));
        const WprojImageRecord& record = solution.layers[report.layer].record[report.slot];
        const WprojImageBasis& basis = solution.layers[report.layer].basis[group];
        EXPECT_EQ(report.accepted, report.layer == 0);  // 64 of 24 directions, and of 80
        EXPECT_EQ(report.forced, 1u);
        EXPECT_EQ(report.accepted, report.measured <= 0.005);
        EXPECT_GT(report.measured, 0.8 * report.predicted);
        EXPECT_LT(report.measured, 1e-4 + 2 * report.predicted);  // 500 rows of 80 directions, and 8-bit records
        if (!report.accepted) {
            EXPECT_TRUE(record.rank == 0 && record.rows == 0 && record.matrix.empty() && record.bias.empty());
            EXPECT_EQ(basis, WprojImageBasis());
            bytes += uint64_t{kRows[report.slot]} * columns_of(report.slot) * 2;
            continue;
        }
        const FloatRows pt = decoded(basis.type, basis.matrix, basis.rank, basis.columns),
                        w_proj = decoded(record.type, record.matrix, record.rows, record.rank);
        const FloatRows &w = model().weights[report.layer][report.slot],
                        &x = model().moments[report.layer][group].held_out;
        double error = 0, energy = 0;
        for (Index t = 0; t < x.rows(); ++t) {
            const Eigen::VectorXd token = x.row(t).cast<double>(), x_sub = pt.cast<double>() * token,
                                  dense = w.cast<double>() * token;
            const Eigen::VectorXd low =
                w_proj.cast<double>() * x_sub +
                Eigen::Map<const Eigen::VectorXf>(record.bias.data(), record.rows).cast<double>();
            error += (dense - low).squaredNorm();
            energy += dense.squaredNorm();
        }
        EXPECT_NEAR(record.error, error / energy, 1e-5 * error / energy);
        EXPECT_EQ(record.rank, 64u);
        EXPECT_EQ(basis.rank, 64u);
        EXPECT_EQ(basis.columns, columns_of(report.slot));
        EXPECT_FLOAT_EQ(record.compression, 64.0f * (kRows[report.slot] + columns_of(report.slot)) /
                                                (kRows[report.slot] * columns_of(report.slot)));
        const Eigen::VectorXd mu = pt.cast<double>() * model().moments[report.layer][group].mean;
        for (Index i = 0; i < 64; ++i) EXPECT_NEAR(basis.mu[static_cast<size_t>(i)], mu[i], 1e-5 * mu.norm());
        bytes += record.matrix.size() + 4 * record.bias.size();
    }
    for (const WprojImageBasis& basis : solution.layers[0].basis) bytes += basis.matrix.size();
    EXPECT_EQ(solution.bytes, bytes);
    EXPECT_EQ(solution.dense_bytes, 2u * 2 * (kColumns * (128 + 64 + 64 + 128 + 192 + 192) + kHidden * 128));
}

TEST(WprojSolve, SameInputSameFile) {
    WprojSolveOptions options;
    options.rule = WprojRankRule::kBytes;
    options.budget_bytes = 400000;
    options.record_type = kernels::kQ5_1;
    options.basis_type = kernels::kQ8_0;
    options.bound = std::numeric_limits<double>::infinity();
    const WprojSolution a = solve_wproj(2, model().source(), options), b = solve_wproj(2, Model(1).source(), options);
    EXPECT_EQ(a.layers.size(), 2u);
    EXPECT_EQ(encode_wproj_v2(image_of(a), 7), encode_wproj_v2(image_of(b), 7));
    EXPECT_NE(encode_wproj_v2(image_of(a), 7),
              encode_wproj_v2(image_of(solve_wproj(2, Model(2).source(), options)), 7));
}

TEST(WprojSolve, PublishedForm) {
    WprojSolveOptions options;
    options.solver = WprojSolver::kWeightPca;
    options.rank = 32;
    options.basis_type = kernels::kF32;
    options.record_type = kernels::kQ8_F32;
    options.shared_basis = true;
    options.configurations = {1u << kWprojQ | 1u << kWprojK | 1u << kWprojV, 1u << kWprojO};
    options.bound = std::numeric_limits<double>::infinity();
    const WprojSolution solution = solve_wproj(2, model().source(false), options);
    ASSERT_EQ(solution.reports.size(), 8u);
    const WprojImageLayer& layer = solution.layers[1];
    EXPECT_EQ(layer.basis[kWprojAttnIn], layer.basis[kWprojAttnOut]);
    const FloatRows pt = decoded(kernels::kF32, layer.basis[kWprojAttnIn].matrix, 32, kColumns);
    EXPECT_LT((pt * pt.transpose() - FloatRows::Identity(32, 32)).cwiseAbs().maxCoeff(), 1e-5);
    EXPECT_EQ(layer.basis[kWprojAttnIn].mean, std::vector<float>(kColumns, 0.0f));
    for (const uint32_t s : {kWprojQ, kWprojV, kWprojO}) {
        const FloatRows w_proj = decoded(kernels::kQ8_F32, layer.record[s].matrix, kRows[s], 32),
                        exact = model().weights[1][s] * pt.transpose();
        EXPECT_LT((w_proj - exact).norm(), 0.01 * exact.norm());
        EXPECT_NEAR(layer.record[s].energy, w_proj.squaredNorm() / model().weights[1][s].squaredNorm(), 1e-4);
        EXPECT_TRUE(layer.record[s].bias.empty());
        EXPECT_LT(layer.record[s].error, 0);
    }
    WprojImage image = image_of(solution);
    keel_test::WprojSizes sizes;
    sizes.columns = kColumns;
    sizes.ranks = {32, 32};
    for (const uint32_t s : {kWprojQ, kWprojK, kWprojV, kWprojO}) sizes.rows[s] = kRows[s];
    EXPECT_EQ(encode_wproj_v1(image, 1).size(), wproj_v1_bytes(sizes));
    // 32 + L (16 + 4 k n + 4 k + 4 n) + 32 L + L sum (40 + m k / 32 * 36)
    EXPECT_EQ(wproj_v1_bytes(sizes),
              32u + 2 * (16 + 4 * 32 * 128 + 4 * 32 + 4 * 128) + 64 + 2 * (4 * 40 + (128 + 64 + 64 + 128) * 36));
}

TEST(WprojSolve, AcceptsSlotBySlot) {
    Model uneven(3);
    // V alone sees what lies outside the 24 directions: its rows are orthogonal to them but for a little.
    const Eigen::MatrixXd covariance = uneven.moments[0][kWprojAttnIn].covariance;
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(covariance);
    const Eigen::MatrixXd small = solver.eigenvectors().leftCols(60);
    uneven.weights[0][kWprojV] = (uneven.weights[0][kWprojV].cast<double>() * small * small.transpose()).cast<float>();
    uneven.moments[0][kWprojAttnIn].mean.setZero();
    uneven.moments[0][kWprojAttnIn].massive.resize(0, kColumns);
    uneven.moments[0][kWprojAttnIn].held_out.rowwise() -=
        uneven.moments[0][kWprojAttnIn].held_out.colwise().mean().eval();
    WprojSolveOptions options;
    options.rank = 32;
    options.configurations = {1u << kWprojQ | 1u << kWprojK | 1u << kWprojV};
    const WprojLayerSource source = [&](uint32_t l) {
        WprojLayerInput input = uneven.source()(l);
        input.weight[kWprojV].sensitivity = 1e-6;
        return input;
    };
    const WprojSolution solution = solve_wproj(1, source, options);
    EXPECT_EQ(solution.layers[0].record[kWprojQ].rank, 32u);
    EXPECT_EQ(solution.layers[0].record[kWprojK].rank, 32u);
    EXPECT_EQ(solution.layers[0].record[kWprojV].rank, 0u);
    EXPECT_EQ(solution.layers[0].basis[kWprojAttnIn].rank, 32u);
    // Q and K are what they would be had V never been asked for; every slot is reported once.
    WprojSolveOptions without = options;
    without.configurations = {1u << kWprojQ | 1u << kWprojK};
    const WprojSolution alone = solve_wproj(1, source, without);
    EXPECT_EQ(solution.layers[0].basis[kWprojAttnIn].matrix, alone.layers[0].basis[kWprojAttnIn].matrix);
    for (const uint32_t s : {kWprojQ, kWprojK})
        EXPECT_EQ(solution.layers[0].record[s].matrix, alone.layers[0].record[s].matrix);
    ASSERT_EQ(solution.reports.size(), 3u);
    for (const WprojSlotReport& report : solution.reports)
        EXPECT_EQ(report.accepted, report.slot != kWprojV) << report.slot;
    EXPECT_EQ(solution.reports[0].measured, alone.reports[0].measured);
    // Nothing held out, nothing accepted; a bound of infinity asks for no measurement.
    uneven.moments[0][kWprojAttnIn].held_out.resize(0, kColumns);
    EXPECT_EQ(solve_wproj(1, source, options).layers[0].record[kWprojQ].rank, 0u);
    options.bound = std::numeric_limits<double>::infinity();
    EXPECT_EQ(solve_wproj(1, source, options).layers[0].record[kWprojV].rank, 32u);
}

// At rank 80 the basis pays for Q, K and V together, not for Q and K. V passes by prediction and fails on what was held
// out.
TEST(WprojSolve, UnderABudgetWhatIsLeftHasToSaveBytes) {
    Model split(4);
    MomentSummary& moments = split.moments[0][kWprojAttnIn];
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> spectrum(moments.covariance);
    const Eigen::MatrixXd small = spectrum.eigenvectors().leftCols(60), to_small = small * small.transpose();
    for (const uint32_t s : {kWprojQ, kWprojK, kWprojV}) {
        const Eigen::MatrixXd weight = split.weights[0][s].cast<double>(), inside = weight * to_small;
        split.weights[0][s] = (s == kWprojV ? inside : Eigen::MatrixXd(weight - inside)).cast<float>();
    }
    moments.mean.setZero();
    moments.massive.resize(0, kColumns);
    WprojSolveOptions options;
    options.rule = WprojRankRule::kBytes;
    options.configurations = {1u << kWprojQ | 1u << kWprojK | 1u << kWprojV};
    options.record_type = kernels::kF16;
    options.granularity = 16;
    options.budget_bytes = 80 * (2 * 128 + 2 * 256) + 4 * 256;
    options.bound = std::numeric_limits<double>::infinity();
    const WprojSolution all = solve_wproj(1, split.source(), options);
    ASSERT_EQ(all.layers[0].record[kWprojV].rank, 80u);
    const double bound = 0.2;
    for (const WprojSlotReport& report : all.reports) ASSERT_LT(report.predicted, bound) << report.slot;
    // A direction that V alone sees and the basis does not have, strong in what is held out.
    const FloatRows pt =
        decoded(all.layers[0].basis[kWprojAttnIn].type, all.layers[0].basis[kWprojAttnIn].matrix, 80, kColumns);
    const Eigen::MatrixXd kept = pt.cast<double>() * small;
    const Eigen::MatrixXd seen = kept.transpose() * kept;
    const Eigen::VectorXd unseen = small * Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(seen).eigenvectors().col(0);
    Source source(5);
    for (Index r = 0; r < moments.held_out.rows(); ++r)
        moments.held_out.row(r) += (20 * source.normal() * unseen).cast<float>().transpose();
    options.bound = bound;
    const WprojSolution none = solve_wproj(1, split.source(), options);
    ASSERT_EQ(none.reports.size(), 3u);
    for (const WprojSlotReport& report : none.reports) {
        EXPECT_FALSE(report.accepted) << report.slot;
        EXPECT_EQ(report.measured <= bound, report.slot != kWprojV) << report.measured;
        EXPECT_EQ(none.layers[0].record[report.slot].rank, 0u);
    }
    EXPECT_EQ(none.layers[0].basis[kWprojAttnIn].rank, 0u);
    EXPECT_EQ(none.bytes, none.dense_bytes);
    // Whoever asks for the rank gets it.
    options.rule = WprojRankRule::kUniform;
    options.rank = 80;
    const WprojSolution asked = solve_wproj(1, split.source(), options);
    EXPECT_EQ(asked.layers[0].record[kWprojQ].rank, 80u);
    EXPECT_EQ(asked.layers[0].record[kWprojV].rank, 0u);
}

TEST(WprojSolve, BudgetsAreKeptAndSpentWhereTheyHelp) {
    WprojSolveOptions options;
    options.bound = std::numeric_limits<double>::infinity();
    options.rank = 64;
    const uint64_t dense = solve_wproj(2, model().source(), options).dense_bytes;
    options.rule = WprojRankRule::kBytes;
    double last = std::numeric_limits<double>::infinity();
    for (const uint64_t budget : {dense * 4 / 10, dense * 6 / 10, dense * 8 / 10, dense}) {
        options.budget_bytes = budget;
        const WprojSolution solution = solve_wproj(2, model().source(), options);
        EXPECT_LE(solution.bytes, budget);
        EXPECT_LE(solution.predicted_loss, last);
        last = solution.predicted_loss;
        if (budget == dense * 6 / 10) {  // the layer of more directions gets more of it
            uint32_t ranks[2] = {0, 0};
            uint64_t dense_slots[2] = {0, 0};
            for (uint32_t l = 0; l < 2; ++l)
                for (uint32_t s = kWprojQ; s < kWprojSlots; ++s) {
                    ranks[l] += solution.layers[l].record[s].rank;
                    dense_slots[l] += solution.layers[l].record[s].rank == 0;
                }
            EXPECT_TRUE(dense_slots[1] > dense_slots[0] || (dense_slots[1] == dense_slots[0] && ranks[1] > ranks[0]))
                << ranks[0] << ' ' << ranks[1];
        }
    }
    EXPECT_EQ(last, 0);  // all dense
    options.rule = WprojRankRule::kLoss;
    uint64_t bytes = 0;
    for (const double loss : {0.3, 0.05, 0.005, 0.0}) {
        options.budget_loss = loss;
        const WprojSolution solution = solve_wproj(2, model().source(), options);
        EXPECT_LE(solution.predicted_loss, loss * 14 * (1 + 1e-12));
        EXPECT_GE(solution.bytes, bytes);
        bytes = solution.bytes;
    }
    EXPECT_EQ(bytes, dense);
    // What would not be accepted is not chosen either.
    options.budget_loss = 0.3;
    options.bound = 0.02;
    for (const WprojSlotReport& report : solve_wproj(2, model().source(), options).reports)
        EXPECT_LE(report.predicted, 0.02);
}

TEST(WprojSolve, MassiveActivationsSurvive) {
    WprojSolveOptions options;
    options.rank = 32;
    options.bound = std::numeric_limits<double>::infinity();
    options.configurations = {1u << kWprojO};
    options.record_type = kernels::kF32;
    options.basis_type = kernels::kF32;
    const MomentSummary& moments = model().moments[1][kWprojAttnOut];
    ASSERT_EQ(moments.massive.rows(), 1);
    double errors[2];
    for (const bool keep : {false, true}) {
        options.keep_massive = keep;
        const WprojImageLayer layer = solve_wproj(2, model().source(), options).layers[1];
        const FloatRows pt = decoded(kernels::kF32, layer.basis[kWprojAttnOut].matrix, 32, kColumns),
                        w_proj = decoded(kernels::kF32, layer.record[kWprojO].matrix, 128, 32);
        const Eigen::VectorXf x = moments.massive.row(0), dense = model().weights[1][kWprojO] * x;
        const Eigen::VectorXf low =
            w_proj * (pt * x) + Eigen::Map<const Eigen::VectorXf>(layer.record[kWprojO].bias.data(), 128);
        errors[keep] = (dense - low).squaredNorm() / dense.squaredNorm();
    }
    EXPECT_LT(errors[1], 1e-8);
    EXPECT_GT(errors[0], 1e-7);
}

TEST(WprojSolve, RefusesWhatCannotBe) {
    const auto refused = [](auto change, bool with_moments = true) {
        WprojSolveOptions options;
        options.rank = 32;
        change(options);
        EXPECT_THROW(solve_wproj(1, model().source(with_moments), options), std::invalid_argument);
    };
    refused([](WprojSolveOptions& o) { o.rank = 0; });
    refused([](WprojSolveOptions& o) { o.rank = 40; });
    refused([](WprojSolveOptions& o) { o.rank = 256; });
    refused([](WprojSolveOptions& o) { o.record_type = kernels::kQ4_K; });  // ranks of 256
    refused([](WprojSolveOptions& o) { o.record_type = kernels::kQ3_K; });
    refused([](WprojSolveOptions& o) { o.basis_type = 99; });
    refused([](WprojSolveOptions& o) { o.granularity = 0; });
    refused([](WprojSolveOptions& o) { o.configurations = {1u << kWprojQ | 1u << kWprojO}; });
    refused([](WprojSolveOptions& o) { o.configurations = {1}; });
    refused([](WprojSolveOptions& o) { o.bound = std::numeric_limits<double>::quiet_NaN(); });
    refused([](WprojSolveOptions& o) { o.shared_basis = true; });
    refused([](WprojSolveOptions& o) {
        o.rule = WprojRankRule::kBytes;
        o.budget_bytes = 1000;
    });
    refused([](WprojSolveOptions&) {}, false);
}

}  // namespace
}  // namespace keel::tools
#endif
