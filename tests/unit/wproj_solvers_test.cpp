// Solvers of W_proj caches (sdk/tools/lab/lowrank): moments, eigenpairs, weight PCA, the whitened optimum, rank
// allocation and held-out errors, against closed forms, two-pass references, dense decompositions and exhaustive
// search.
#ifdef KEEL_HAVE_WPROJ_LAB
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>

#include "sdk/tools/lab/lowrank/activation_moments.h"
#include "sdk/tools/lab/lowrank/lowrank_error.h"
#include "sdk/tools/lab/lowrank/rank_allocation.h"
#include "sdk/tools/lab/lowrank/weight_pca.h"
#include "sdk/tools/lab/lowrank/whitened.h"
#include "sdk/tools/lab/quantize/symmetric_top.h"

namespace keel::tools {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;
using Eigen::VectorXd;

class Source {
  public:
    explicit Source(uint64_t seed) : engine_(seed) {}
    double uniform() { return static_cast<double>((engine_() >> 11) + 1) * 0x1p-53; }  // (0, 1]
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); }
    MatrixXd normals(Index rows, Index columns) {
        MatrixXd m(rows, columns);
        for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal();
        return m;
    }
    MatrixXd orthonormal(Index rows, Index columns) {
        return Eigen::HouseholderQR<MatrixXd>(normals(rows, columns)).householderQ() *
               MatrixXd::Identity(rows, columns);
    }
    // Q diag(values) Q^T
    MatrixXd symmetric(const VectorXd& values) {
        const MatrixXd q = orthonormal(values.size(), values.size());
        const MatrixXd m = q * values.asDiagonal() * q.transpose();
        return (m + m.transpose()) / 2;
    }
    uint64_t integer() { return engine_(); }

  private:
    std::mt19937_64 engine_;
};

WeightView view(const FloatRows& m) {
    return {m.data(), m.rows(), m.cols()};
}
std::span<const float> numbers(const FloatRows& m) {
    return {m.data(), static_cast<size_t>(m.size())};
}
template <class M>
bool same_bytes(const M& a, const M& b) {
    return a.rows() == b.rows() && a.cols() == b.cols() &&
           !std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(a.data()[0]));
}
// sum_i alpha_i tr((W_i - C_i A) S (W_i - C_i A)^T)
double loss_of(const std::vector<FloatRows>& weights, const std::vector<double>& alpha, const MatrixXd& s,
               const MatrixXd& a, const std::vector<MatrixXd>& c) {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
        const MatrixXd e = weights[i].cast<double>() - c[i] * a;
        sum += alpha[i] * (e * s).cwiseProduct(e).sum();
    }
    return sum;
}

// ---- activation_moments ----

TEST(WprojMoments, AgreeWithTwoPassesUnderAHugeMean) {
    Source source(1);
    constexpr Index kColumns = 24, kRows = 700;  // two whole blocks and a partial one
    const MatrixXd mix = source.normals(kColumns, kColumns);
    FloatRows rows = (source.normals(kRows, kColumns) * mix * 0.1).cast<float>();
    for (Index j = 0; j < kColumns; ++j)
        rows.col(j).array() += static_cast<float>(j % 2 ? 50000 : -3) * (j == 5 ? 0.0f : 1.0f);
    rows.topRows(300).col(7).array() += 4096;  // the first block is not like the others
    ActivationMoments moments(kColumns, 0);
    moments.add(numbers(rows));
    const MomentSummary summary = moments.summary();
    const MatrixXd exact = rows.cast<double>();
    const Eigen::RowVectorXd mean = exact.colwise().mean();
    const MatrixXd centred = exact.rowwise() - mean, covariance = centred.transpose() * centred / kRows;
    EXPECT_EQ(summary.rows, static_cast<uint64_t>(kRows));
    EXPECT_LT((summary.mean.transpose() - mean).cwiseAbs().maxCoeff(), 1e-9);
    EXPECT_LT((summary.covariance - covariance).norm(), 1e-11 * covariance.norm());
    for (Index j = 0; j < kColumns; ++j)
        EXPECT_NEAR(summary.covariance(j, j), covariance(j, j), 1e-9 * covariance(j, j)) << j;
    EXPECT_TRUE(summary.covariance == summary.covariance.transpose());
    EXPECT_NEAR(summary.mean_norm, exact.rowwise().norm().mean(), 1e-6);
}

TEST(WprojMoments, DependOnTheRowsAndNotOnTheCalls) {
    Source source(2);
    const FloatRows rows = source.normals(600, 8).cast<float>();
    ActivationMoments whole(8, 10), pieces(8, 10);
    whole.add(numbers(rows));
    whole.hold_out(numbers(rows));
    for (Index at = 0, step = 1; at < rows.rows(); at += step, step = step % 97 + 13) {
        const FloatRows part = rows.middleRows(at, std::min(step, rows.rows() - at));
        pieces.add(numbers(part));
        pieces.hold_out(numbers(part));
        pieces.summary();
    }
    const MomentSummary a = whole.summary(), b = pieces.summary();
    EXPECT_TRUE(same_bytes(a.covariance, b.covariance));
    EXPECT_TRUE(same_bytes(a.mean, b.mean));
    EXPECT_TRUE(same_bytes(a.held_out, b.held_out));
    EXPECT_EQ(a.held_out.rows(), 10);
}

TEST(WprojMoments, FindMassiveActivationsByDirection) {
    Source source(3);
    FloatRows rows = source.normals(1000, 32).cast<float>();
    const FloatRows ordinary = rows;
    for (const Index r : {Index{0}, Index{400}, Index{777}}) rows(r, 3) += 300;  // one direction
    for (const Index r : {Index{10}, Index{20}}) rows(r, 9) -= 280;              // another
    ActivationMoments moments(32, 0), none(32, 0);
    moments.add(numbers(rows));
    none.add(numbers(FloatRows::Ones(300, 32)));
    const MomentSummary summary = moments.summary();
    ASSERT_EQ(summary.massive.rows(), 2);
    const Eigen::RowVectorXf first = (rows.row(0) + rows.row(400) + rows.row(777)) / 3,
                             second = (rows.row(10) + rows.row(20)) / 2;
    EXPECT_LT((summary.massive.row(0) - first).norm(), 1e-3);
    EXPECT_LT((summary.massive.row(1) - second).norm(), 1e-3);
    EXPECT_EQ(none.summary().massive.rows(), 0);
}

TEST(WprojMoments, RefuseWhatIsNoRow) {
    ActivationMoments moments(4, 2);
    const std::vector<float> partial(6, 1.0f), bad = {1, 2, std::numeric_limits<float>::quiet_NaN(), 4},
                                               endless = {1, std::numeric_limits<float>::infinity(), 3, 4};
    EXPECT_THROW(moments.add(partial), std::invalid_argument);
    EXPECT_THROW(moments.add(bad), std::invalid_argument);
    EXPECT_THROW(moments.hold_out(endless), std::invalid_argument);
    EXPECT_THROW(ActivationMoments(0, 1), std::invalid_argument);
    const MomentSummary empty = moments.summary();
    EXPECT_EQ(empty.rows, 0u);
    EXPECT_TRUE(empty.covariance.isZero(0));
    EXPECT_EQ(empty.held_out.rows(), 0);
}

// ---- symmetric_top ----

struct Spectrum {
    const char* name;
    Index n, k;
    double angle;  // largest sine between the spans allowed; 2: the span is not defined
    VectorXd values;
};
std::vector<Spectrum> spectra() {
    std::vector<Spectrum> all;
    const auto add = [&](const char* name, Index n, Index k, double angle, auto value) {
        VectorXd v(n);
        for (Index i = 0; i < n; ++i) v[i] = value(static_cast<double>(i));
        all.push_back({name, n, k, angle, v});
    };
    add("geometric", 96, 24, 1e-6, [](double i) { return std::pow(0.85, i); });
    add("power law", 256, 40, 2, [](double i) { return 1e6 / std::pow(i + 1, 1.5); });
    add("flat", 160, 16, 2, [](double) { return 3.0; });
    add("clustered", 200, 20, 1e-6, [](double i) { return i < 20 ? 100 + 1e-9 * i : 1 + 1e-3 / (i + 1); });
    add("rank-deficient", 128, 32, 2, [](double i) { return i < 10 ? 5 - 0.1 * i : 0; });
    add("zero", 64, 8, 2, [](double) { return 0.0; });
    add("one large", 512, 4, 2, [](double i) { return i < 1 ? 1e8 : 1 / (i + 1); });
    return all;
}

TEST(WprojEigenpairs, AgreeWithTheSpectrumTheyWereMadeOf) {
    Source source(4);
    for (const Spectrum& s : spectra()) {
        VectorXd sorted = s.values;
        std::sort(sorted.data(), sorted.data() + sorted.size(), std::greater<>());
        const MatrixXd q = source.orthonormal(s.n, s.n);
        // Largest values in the first columns of q: spectra() are descending but for clusters, whose order is within
        // the span.
        MatrixXd matrix = q * s.values.asDiagonal() * q.transpose();
        matrix = ((matrix + matrix.transpose()) / 2).eval();
        for (const EigenMethod method : {EigenMethod::kDense, EigenMethod::kRandomized}) {
            SCOPED_TRACE(std::string(s.name) + (method == EigenMethod::kDense ? " dense" : " randomized"));
            const Eigenpairs pairs = top_eigenpairs(matrix, s.k, method);
            ASSERT_EQ(pairs.values.size(), s.k);
            EXPECT_EQ(pairs.method, method);
            const double largest = std::max(sorted[0], 1e-300);
            const bool exact = method == EigenMethod::kDense;
            // A power law without a gap: the smallest of the values asked for come out low by what 8 passes leave.
            const double tolerance = exact ? 1e-13 : std::string(s.name) == "power law" ? 1e-6 : 1e-11;
            EXPECT_LT((pairs.values - sorted.head(s.k)).cwiseAbs().maxCoeff(),
                      tolerance * largest * static_cast<double>(s.n) / 64);
            EXPECT_LT((pairs.vectors.transpose() * pairs.vectors - MatrixXd::Identity(s.k, s.k)).cwiseAbs().maxCoeff(),
                      1e-12);
            EXPECT_LT((matrix * pairs.vectors - pairs.vectors * pairs.values.asDiagonal()).colwise().norm().maxCoeff(),
                      largest * 1e-12 + 1.001 * pairs.residual * largest);
            EXPECT_LT(pairs.residual, exact ? 1e-12 : 1e-4);
            if (s.angle < 2) {
                const MatrixXd outside =
                    pairs.vectors - q.leftCols(s.k) * (q.leftCols(s.k).transpose() * pairs.vectors);
                EXPECT_LT(outside.norm(), s.angle);
            }
            for (Index c = 0; c < s.k; ++c) {
                Index at;
                pairs.vectors.col(c).cwiseAbs().maxCoeff(&at);
                EXPECT_GT(pairs.vectors(at, c), 0) << c;
            }
            const Eigenpairs again = top_eigenpairs(matrix, s.k, method);
            EXPECT_TRUE(same_bytes(pairs.vectors, again.vectors) && same_bytes(pairs.values, again.values));
        }
    }
}

TEST(WprojEigenpairs, SayHowTheyWereFound) {
    Source source(5);
    VectorXd values(600);
    for (Index i = 0; i < 600; ++i) values[i] = std::pow(0.9, static_cast<double>(i));
    const MatrixXd matrix = source.symmetric(values);
    const Eigenpairs pairs = top_eigenpairs(matrix, 20);
    EXPECT_EQ(pairs.method, EigenMethod::kRandomized);
    EXPECT_TRUE(pairs.converged);
    EXPECT_GE(pairs.passes, 2u);
    EXPECT_LT(pairs.passes, 8u);
    EXPECT_LT((pairs.values - values.head(20)).cwiseAbs().maxCoeff(), 1e-11);
    for (Index i = 0; i < 600; ++i) values[i] = 1 + 0.3 * (1 - static_cast<double>(i) / 600);
    const Eigenpairs slow = top_eigenpairs(source.symmetric(values), 20);
    EXPECT_FALSE(slow.converged);
    EXPECT_EQ(slow.passes, 8u);
    EXPECT_GT(slow.values.sum(),
              0.95 * values.head(20).sum());  // a random subspace has the mean eigenvalue, 0.89 of it
    EXPECT_EQ(top_eigenpairs(matrix.topLeftCorner(100, 100), 20).method, EigenMethod::kDense);
    EXPECT_EQ(top_eigenpairs(matrix.topLeftCorner(100, 100), 0).values.size(), 0);
    EXPECT_THROW(top_eigenpairs(matrix.topRows(3), 1), std::invalid_argument);
    EXPECT_THROW(top_eigenpairs(MatrixXd::Identity(4, 4), 5), std::invalid_argument);
    MatrixXd bad = MatrixXd::Identity(4, 4);
    bad(1, 2) = std::numeric_limits<double>::quiet_NaN();
    EXPECT_THROW(top_eigenpairs(bad, 2), std::invalid_argument);
}

// ---- weight_pca ----

TEST(WprojWeightPca, IsTheTruncatedSvdOfOneMatrix) {
    Source source(6);
    const FloatRows w = (source.normals(40, 24) * source.symmetric(VectorXd::LinSpaced(24, 0.05, 2))).cast<float>();
    const NestedFactors factors = weight_pca({{view(w)}}, 24);
    const Eigen::JacobiSVD<MatrixXd> svd(w.cast<double>(), Eigen::ComputeThinU | Eigen::ComputeThinV);
    double left = svd.singularValues().squaredNorm();
    const double whole = left;
    for (Index k = 0; k <= 24; ++k) {
        const LowRankFactors part = factors.leading(k);
        const double squared =
            (w.cast<double>() - part.w_proj[0].cast<double>() * part.pt.cast<double>()).squaredNorm();
        EXPECT_NEAR(squared, left, 1e-6 * whole) << k;  // Eckart and Young; factors are f32
        EXPECT_NEAR(factors.error(0, k), left / whole, 1e-12) << k;
        if (k < 24) left -= svd.singularValues()[k] * svd.singularValues()[k];
    }
    EXPECT_LT((factors.pt.cast<double>() * factors.pt.cast<double>().transpose() - MatrixXd::Identity(24, 24))
                  .cwiseAbs()
                  .maxCoeff(),
              1e-6);
    EXPECT_THROW(factors.leading(25), std::invalid_argument);
    EXPECT_THROW(weight_pca({{view(w)}}, 25), std::invalid_argument);
    EXPECT_THROW(weight_pca({}, 1), std::invalid_argument);
}

// Q and V in different row spaces, V a hundredth of Q: the published sum starves V, the normalised one does not.
TEST(WprojWeightPca, StarvesASmallMatrixThatWhitenedKeeps) {
    Source source(7);
    const MatrixXd q = source.orthonormal(32, 32);
    const FloatRows wq = (source.normals(48, 16) * q.leftCols(16).transpose()).cast<float>(),
                    wv = (0.01 * source.normals(24, 8) * q.rightCols(8).transpose()).cast<float>();
    const std::vector<SolverSlot> slots = {{view(wq)}, {view(wv)}};
    const NestedFactors published = weight_pca(slots, 24);
    EXPECT_GT(published.error(1, 16), 0.999);
    EXPECT_LT(published.error(0, 16), 1e-9);
    WhitenedOptions options;
    options.max_rank = 24;
    const NestedFactors fair = whitened(slots, MatrixXd::Identity(32, 32), options);
    EXPECT_LT(fair.error(1, 16), 0.2);
    EXPECT_LT(fair.error(0, 16) + fair.error(1, 16), published.error(0, 16) + published.error(1, 16));
}

// ---- whitened ----

struct Problem {
    std::vector<FloatRows> weights;
    MatrixXd covariance;
    VectorXd mean;
    std::vector<SolverSlot> slots(std::vector<double> sensitivities = {}) const {
        std::vector<SolverSlot> all;
        for (size_t i = 0; i < weights.size(); ++i)
            all.push_back({view(weights[i]), i < sensitivities.size() ? sensitivities[i] : 1.0});
        return all;
    }
};
Problem problem(uint64_t seed, Index n = 20) {
    Source source(seed);
    Problem p;
    for (const Index rows : {Index{24}, Index{10}, Index{10}})
        p.weights.push_back(source.normals(rows, n).cast<float>());
    VectorXd values(n);
    for (Index i = 0; i < n; ++i) values[i] = std::pow(0.7, static_cast<double>(i)) * 10;
    p.covariance = source.symmetric(values);
    p.mean = source.normals(n, 1) * 3;
    return p;
}
WhitenedOptions rank_options(Index rank) {
    WhitenedOptions options;
    options.max_rank = rank;
    options.ridge = 1e-10;
    return options;
}

TEST(WprojWhitened, IsTheTruncatedSvdInTheMetricOfTheActivations) {
    const Problem p = problem(8);
    const MatrixXd root = Eigen::SelfAdjointEigenSolver<MatrixXd>(p.covariance).operatorSqrt(),
                   w = p.weights[0].cast<double>();
    const VectorXd singular = Eigen::JacobiSVD<MatrixXd>(w * root).singularValues();
    const NestedFactors factors = whitened({{view(p.weights[0])}}, p.covariance, rank_options(20));
    for (Index k = 0; k <= 20; ++k) {
        const double best = singular.tail(20 - k).squaredNorm();
        const LowRankFactors part = factors.leading(k);
        EXPECT_NEAR(loss_of({p.weights[0]}, {1}, p.covariance, part.pt.cast<double>(), {part.w_proj[0].cast<double>()}),
                    best, 2e-7 * singular.squaredNorm())
            << k;
        EXPECT_NEAR(factors.error(0, k), best / singular.squaredNorm(), 1e-8) << k;
    }
    EXPECT_NEAR(factors.energy[0], singular.squaredNorm(), 1e-7 * singular.squaredNorm());
}

TEST(WprojWhitened, NoOtherFactorsAreBetter) {
    const Problem p = problem(9);
    const std::vector<double> sensitivities = {1, 1, 3};
    const NestedFactors nested = whitened(p.slots(sensitivities), p.covariance, rank_options(8));
    std::vector<double> alpha;
    for (size_t i = 0; i < 3; ++i)
        alpha.push_back(sensitivities[i] /
                        (p.weights[i].cast<double>() * p.covariance).cwiseProduct(p.weights[i].cast<double>()).sum());
    const LowRankFactors factors = nested.leading(6);
    const MatrixXd a = factors.pt.cast<double>();
    std::vector<MatrixXd> c;
    for (const FloatRows& w : factors.w_proj) c.push_back(w.cast<double>());
    const double own = loss_of(p.weights, alpha, p.covariance, a, c);
    double predicted = 0;
    for (Index i = 0; i < 3; ++i) predicted += sensitivities[static_cast<size_t>(i)] * nested.error(i, 6);
    EXPECT_NEAR(own, predicted, 1e-6);

    // The gradients vanish: W_proj is the least-squares answer to Pt, and Pt to W_proj.
    double scale = 0, gradient_c = 0;
    MatrixXd gradient_a = MatrixXd::Zero(a.rows(), a.cols()), size_a = gradient_a;
    for (size_t i = 0; i < 3; ++i) {
        const MatrixXd e = p.weights[i].cast<double>() - c[i] * a;
        gradient_c = std::max(gradient_c, alpha[i] * (e * p.covariance * a.transpose()).cwiseAbs().maxCoeff());
        scale = std::max(scale,
                         alpha[i] * (p.weights[i].cast<double>() * p.covariance * a.transpose()).cwiseAbs().maxCoeff());
        gradient_a += alpha[i] * c[i].transpose() * e * p.covariance;
        size_a += alpha[i] * c[i].transpose() * p.weights[i].cast<double>() * p.covariance;
    }
    EXPECT_LT(gradient_c, 1e-5 * scale);
    EXPECT_LT(gradient_a.cwiseAbs().maxCoeff(), 1e-5 * size_a.cwiseAbs().maxCoeff());

    // Competitors: other subspaces, near and far, each with its own best W_proj.
    Source source(10);
    for (int trial = 0; trial < 300; ++trial) {
        const double distance = trial % 3 ? std::pow(10.0, -(trial % 5)) : 100;
        const MatrixXd other = a + distance * source.normals(a.rows(), a.cols());
        const MatrixXd middle = (other * p.covariance * other.transpose()).ldlt().solve(other * p.covariance);
        std::vector<MatrixXd> best;
        for (const FloatRows& w : p.weights) best.push_back((middle * w.transpose().cast<double>()).transpose());
        EXPECT_GE(loss_of(p.weights, alpha, p.covariance, other, best), own * (1 - 1e-6)) << trial;
    }
}

TEST(WprojWhitened, IsWeightPcaWhereActivationsAreWhite) {
    const Problem p = problem(11);
    WhitenedOptions options = rank_options(12);
    options.normalise = false;
    options.ridge = 0;
    const NestedFactors a = whitened(p.slots(), MatrixXd::Identity(20, 20), options), b = weight_pca(p.slots(), 12);
    EXPECT_LT((a.pt - b.pt).cwiseAbs().maxCoeff(), 1e-6);
    for (size_t i = 0; i < 3; ++i) EXPECT_LT((a.w_proj[i] - b.w_proj[i]).cwiseAbs().maxCoeff(), 1e-5);
    EXPECT_LT((a.error - b.error).cwiseAbs().maxCoeff(), 1e-12);
    EXPECT_LT((a.second_moment - b.second_moment).cwiseAbs().maxCoeff(), 1e-9);
}

TEST(WprojWhitened, RowsOfPtHaveNormOneAndKnownMoments) {
    const Problem p = problem(12);
    const NestedFactors f = whitened(p.slots(), p.covariance, rank_options(10));
    EXPECT_LT((f.pt.cast<double>().rowwise().norm().array() - 1).abs().maxCoeff(), 1e-6);
    const MatrixXd moments = f.pt.cast<double>() * p.covariance * f.pt.cast<double>().transpose();
    for (Index i = 0; i < 10; ++i) {
        EXPECT_NEAR(moments(i, i), f.second_moment[i], 1e-4 * f.second_moment[i]);
        for (Index j = 0; j < i; ++j)
            EXPECT_LT(std::abs(moments(i, j)), 1e-4 * std::sqrt(moments(i, i) * moments(j, j)));
    }
    for (Index s = 0; s < 3; ++s)
        for (Index k = 0; k < 10; ++k) EXPECT_LE(f.error(s, k + 1), f.error(s, k));
    EXPECT_TRUE(same_bytes(f.pt, whitened(p.slots(), p.covariance, rank_options(10)).pt));
}

TEST(WprojWhitened, BiasMakesAConstantInputExact) {
    const Problem p = problem(13);
    const LowRankFactors f = whitened(p.slots(), p.covariance, rank_options(4)).leading(4);
    for (size_t i = 0; i < 3; ++i) {
        const Eigen::VectorXf bias = factor_bias(view(p.weights[i]), f.pt, f.w_proj[i], p.mean);
        const VectorXd dense = p.weights[i].cast<double>() * p.mean,
                       low = f.w_proj[i].cast<double>() * (f.pt.cast<double>() * p.mean) + bias.cast<double>();
        EXPECT_LT((dense - low).norm(), 1e-6 * dense.norm()) << i;
        EXPECT_GT((dense - (low - bias.cast<double>())).norm(), 1e-2 * dense.norm()) << i;
    }
}

TEST(WprojWhitened, ForcedDirectionsAreExact) {
    const Problem p = problem(14);
    Source source(15);
    WhitenedOptions options = rank_options(6);
    options.forced.resize(4, 20);
    // What the covariance hardly knows, a zero and a multiple.
    options.forced.row(0) = source.normals(1, 20).cast<float>();
    options.forced.row(1).setZero();
    options.forced.row(2) = -2.5f * options.forced.row(0);
    options.forced.row(3) = source.normals(1, 20).cast<float>() * 1000;
    const NestedFactors with = whitened(p.slots(), p.covariance, options),
                        without = whitened(p.slots(), p.covariance, rank_options(6));
    EXPECT_EQ(with.forced, 2);
    for (const Index rank : {Index{2}, Index{6}}) {
        const LowRankFactors f = with.leading(rank);
        for (size_t i = 0; i < 3; ++i) {
            const MatrixXd dense = p.weights[i].cast<double>() * options.forced.transpose().cast<double>();
            const MatrixXd low =
                f.w_proj[i].cast<double>() * (f.pt.cast<double>() * options.forced.transpose().cast<double>());
            for (const Index d : {Index{0}, Index{3}})
                EXPECT_LT((dense - low).col(d).norm(), 1e-4 * dense.col(d).norm()) << rank << ' ' << i << ' ' << d;
            const LowRankFactors g = without.leading(rank);
            const MatrixXd plain =
                g.w_proj[i].cast<double>() * (g.pt.cast<double>() * options.forced.transpose().cast<double>());
            EXPECT_GT((dense - plain).col(3).norm(), 1e-2 * dense.col(3).norm());
        }
    }
    // The rest of the rank is the best there is beside them: errors predicted are errors measured, and not far above
    // the unforced ones.
    const LowRankFactors f = with.leading(6);
    for (Index i = 0; i < 3; ++i) {
        const std::vector<FloatRows> own = {p.weights[static_cast<size_t>(i)]};
        EXPECT_NEAR(loss_of(own, {1 / with.energy[i]}, p.covariance, f.pt.cast<double>(),
                            {f.w_proj[static_cast<size_t>(i)].cast<double>()}),
                    with.error(i, 6), 1e-5);
    }
    WhitenedOptions plain = rank_options(6);
    options.normalise = plain.normalise = false;  // the same objective for both
    const NestedFactors a = whitened(p.slots(), p.covariance, options), b = whitened(p.slots(), p.covariance, plain);
    EXPECT_LE(a.error.col(6).dot(a.energy), b.error.col(4).dot(b.energy) * (1 + 1e-9));
    EXPECT_GE(a.error.col(6).dot(a.energy), b.error.col(6).dot(b.energy) * (1 - 1e-9));
    options.max_rank = 1;
    EXPECT_THROW(whitened(p.slots(), p.covariance, options), std::invalid_argument);
}

// S = S_0 + c d d^T with d forced: energies and errors are nearly those of S_0 however large c is.
TEST(WprojWhitened, ForcedDirectionsDoNotHideTheRest) {
    const Problem p = problem(23);
    Source source(24);
    WhitenedOptions options = rank_options(8);
    options.ridge = 0;
    options.forced = source.normals(1, 20).cast<float>();
    const VectorXd d = options.forced.row(0).transpose().cast<double>();
    const NestedFactors large = whitened(p.slots(), p.covariance + 1e7 * d * d.transpose(), options),
                        none = whitened(p.slots(), p.covariance, options);
    EXPECT_LT((large.energy - none.energy).cwiseAbs().maxCoeff(), 1e-4 * none.energy.maxCoeff());
    EXPECT_LT((large.error - none.error).cwiseAbs().maxCoeff(), 1e-4);
    EXPECT_LT(none.energy[0],
              (p.weights[0].cast<double>() * p.covariance).cwiseProduct(p.weights[0].cast<double>()).sum());
}

TEST(WprojWhitened, DegenerateCovariancesHaveDefinedAnswers) {
    Problem p = problem(16);
    Source source(17);
    WhitenedOptions options;
    options.max_rank = 20;
    // Nothing known of x: the identity.
    const NestedFactors zero = whitened(p.slots(), MatrixXd::Zero(20, 20), options),
                        one = whitened(p.slots(), MatrixXd::Identity(20, 20), options);
    EXPECT_LT((zero.error - one.error).cwiseAbs().maxCoeff(), 1e-9);
    // Five directions: five ranks hold all but the ridge.
    const MatrixXd some = source.normals(20, 5);
    const NestedFactors deficient = whitened(p.slots(), some * some.transpose(), options);
    EXPECT_TRUE(deficient.pt.allFinite() && deficient.w_proj[0].allFinite());
    EXPECT_LT(deficient.error.col(5).maxCoeff(), 1e-4);
    EXPECT_GT(deficient.error.col(4).maxCoeff(), 1e-3);
    EXPECT_LT(loss_of({p.weights[1]}, {1 / deficient.energy[1]}, some * some.transpose(),
                      deficient.leading(5).pt.cast<double>(), {deficient.leading(5).w_proj[1].cast<double>()}),
              1e-4);
    // Weights of lower rank than asked for: the rest is zeros.
    const FloatRows thin = source.normals(3, 20).cast<float>(), none = FloatRows::Zero(4, 20);
    const NestedFactors three = whitened({{view(thin)}, {view(none)}}, p.covariance, options);
    EXPECT_LT(three.error(0, 3), 1e-10);
    EXPECT_TRUE(three.pt.bottomRows(17).isZero(0) && three.w_proj[0].rightCols(17).isZero(0));
    EXPECT_TRUE(three.error.row(1).isZero(0));
    EXPECT_EQ(three.energy[1], 0);
    // No covariance at all.
    MatrixXd indefinite = MatrixXd::Identity(20, 20);
    indefinite(4, 4) = -1;
    EXPECT_THROW(whitened(p.slots(), indefinite, options), std::invalid_argument);
    EXPECT_THROW(whitened(p.slots(), MatrixXd::Identity(19, 19), options), std::invalid_argument);
    p.weights[0](1, 1) = std::numeric_limits<float>::infinity();
    EXPECT_THROW(whitened(p.slots(), p.covariance, options), std::invalid_argument);
}

// Beyond 512 columns the randomized solver takes part; it must not cost quality that anyone would notice.
TEST(WprojWhitened, RandomizedAndDenseSolutionsAreAlikeInError) {
    Source source(18);
    constexpr Index kColumns = 160;
    VectorXd values(kColumns);
    for (Index i = 0; i < kColumns; ++i) values[i] = 1 / std::pow(1 + static_cast<double>(i), 1.2);
    const MatrixXd covariance = source.symmetric(values);
    const FloatRows w = source.normals(64, kColumns).cast<float>();
    WhitenedOptions options;
    options.max_rank = 24;
    options.method = EigenMethod::kDense;
    const NestedFactors dense = whitened({{view(w)}}, covariance, options);
    options.method = EigenMethod::kRandomized;
    const NestedFactors randomized = whitened({{view(w)}}, covariance, options);
    EXPECT_NE(randomized.error, dense.error);  // or one method made both
    for (const Index k : {Index{8}, Index{16}, Index{24}})
        EXPECT_LT(randomized.error(0, k), dense.error(0, k) * (1 + 1e-4)) << k;
}

// ---- lowrank_error ----

TEST(WprojOutputError, IsTheErrorOfWhatARuntimeComputes) {
    Source source(19);
    const FloatRows w = source.normals(300, 12).cast<float>(), pt = source.normals(4, 12).cast<float>(),
                    w_proj = source.normals(300, 4).cast<float>(), x = source.normals(30, 12).cast<float>();
    const Eigen::VectorXf bias = source.normals(300, 1).cast<float>();
    const OutputError sums = output_error(view(w), pt, w_proj, bias, x);
    double error = 0, energy = 0;
    for (Index t = 0; t < 30; ++t) {
        for (Index r = 0; r < 300; ++r) {
            double dense = 0, low = bias[r];
            for (Index j = 0; j < 12; ++j) dense += static_cast<double>(w(r, j)) * x(t, j);
            for (Index k = 0; k < 4; ++k) {
                double x_sub = 0;
                for (Index j = 0; j < 12; ++j) x_sub += static_cast<double>(pt(k, j)) * x(t, j);
                low += w_proj(r, k) * x_sub;
            }
            error += (dense - low) * (dense - low);
            energy += dense * dense;
        }
    }
    EXPECT_NEAR(sums.error, error, 1e-10 * error);
    EXPECT_NEAR(sums.energy, energy, 1e-10 * energy);
    EXPECT_LT(sums.variance, sums.energy);
    EXPECT_GT(sums.variance, 0.9 * sums.energy * 29 / 30);
    EXPECT_NEAR(sums.relative(), error / energy, 1e-9);
    EXPECT_TRUE(sums.accepted(sums.relative()));
    EXPECT_FALSE(sums.accepted(sums.relative() * 0.999));
    EXPECT_FALSE(output_error(view(w), pt, w_proj, bias, FloatRows(0, 12)).accepted(1e9));
    EXPECT_FALSE(output_error(view(w), pt, w_proj, bias, FloatRows::Zero(2, 12)).accepted(1e9));
    EXPECT_THROW(output_error(view(w), pt, w_proj, bias, FloatRows::Zero(2, 11)), std::invalid_argument);
    EXPECT_NEAR(projected_energy(view(w), 0.5f * w), 0.25, 1e-6);
    EXPECT_EQ(projected_energy(view(w), 2 * w), 1);
}

// Solved on one half of a stream, the whitened factors beat the published ones on the other half, and the bias helps.
TEST(WprojOutputError, WhitenedBeatsWeightPcaOnHeldOutRows) {
    Source source(20);
    const Problem p = problem(21);
    const MatrixXd root = Eigen::SelfAdjointEigenSolver<MatrixXd>(p.covariance).operatorSqrt();
    ActivationMoments moments(20, 200);
    const auto draw = [&] {
        return FloatRows(((source.normals(400, 20) * root).rowwise() + p.mean.transpose()).cast<float>());
    };
    moments.add(numbers(draw()));
    moments.hold_out(numbers(draw()));
    const MomentSummary summary = moments.summary();
    WhitenedOptions options;
    options.max_rank = 6;
    const LowRankFactors white = whitened(p.slots(), summary.covariance, options).leading(6),
                         published = weight_pca(p.slots(), 6).leading(6);
    for (size_t i = 0; i < 3; ++i) {
        const WeightView w = view(p.weights[i]);
        const OutputError best = output_error(
            w, white.pt, white.w_proj[i], factor_bias(w, white.pt, white.w_proj[i], summary.mean), summary.held_out);
        const OutputError unbiased = output_error(w, white.pt, white.w_proj[i], {}, summary.held_out),
                          plain = output_error(w, published.pt, published.w_proj[i], {}, summary.held_out);
        EXPECT_EQ(best.rows, 200u);
        EXPECT_LT(best.relative(), 0.5 * plain.relative()) << i;
        EXPECT_LT(best.relative(), unbiased.relative()) << i;
    }
}

// ---- rank_allocation ----

RankFamily random_family(Source& source, size_t candidates) {
    RankFamily family;
    for (size_t c = 0; c < candidates; ++c)
        family.candidates.push_back({static_cast<uint32_t>(c), 32 * static_cast<uint32_t>(c),
                                     100 + source.integer() % 900, std::floor(source.uniform() * 1000) / 64});
    family.candidates.push_back({0, 0, 1000, 0});
    return family;
}

// Every combination of candidates: bytes and loss.
std::vector<std::pair<uint64_t, double>> all_allocations(const std::vector<RankFamily>& families) {
    std::vector<std::pair<uint64_t, double>> sums = {{0, 0}};
    for (const RankFamily& family : families) {
        std::vector<std::pair<uint64_t, double>> next;
        for (const auto& [bytes, loss] : sums)
            for (const RankCandidate& c : family.candidates) next.emplace_back(bytes + c.bytes, loss + c.loss);
        sums = std::move(next);
    }
    return sums;
}

TEST(WprojRankAllocation, AgreesWithExhaustiveSearch) {
    Source source(22);
    for (int trial = 0; trial < 40; ++trial) {
        std::vector<RankFamily> families;
        for (int f = 0; f < 4; ++f) families.push_back(random_family(source, 5));
        const auto every = all_allocations(families);
        double last = std::numeric_limits<double>::infinity(), span = 0;
        for (const RankFamily& f : families)
            for (const RankCandidate& c : f.candidates) span = std::max(span, c.loss);
        for (uint64_t budget = 300; budget <= 4200; budget += 100) {
            double best = std::numeric_limits<double>::infinity();
            for (const auto& [bytes, loss] : every)
                if (bytes <= budget) best = std::min(best, loss);
            const RankAllocation found = allocate_bytes(families, budget);
            if (best == std::numeric_limits<double>::infinity()) {
                EXPECT_TRUE(found.choice.empty());
                continue;
            }
            ASSERT_EQ(found.choice.size(), 4u);
            uint64_t bytes = 0;
            double loss = 0;
            for (size_t f = 0; f < 4; ++f) {
                bytes += families[f].candidates[found.choice[f]].bytes;
                loss += families[f].candidates[found.choice[f]].loss;
            }
            EXPECT_EQ(bytes, found.bytes);
            EXPECT_DOUBLE_EQ(loss, found.loss);
            EXPECT_LE(bytes, budget);
            EXPECT_LE(found.loss, last) << "a larger budget, a larger loss";
            EXPECT_GE(found.loss, best - 1e-9);
            EXPECT_LE(found.loss, best + span);  // within one step of one family
            last = found.loss;

            // Where the answer is on the hull of all allocations it is the best there is.
            const RankAllocation cheaper = allocate_loss(families, found.loss);
            EXPECT_LE(cheaper.bytes, found.bytes);
            EXPECT_LE(cheaper.loss, found.loss);
        }
        // The hull of the sums, by brute force: points no line between two others goes below.
        for (const double price : {0.0005, 0.002, 0.005, 0.01, 0.02, 0.05}) {
            double least = std::numeric_limits<double>::infinity();
            std::pair<uint64_t, double> at;
            for (const auto& point : every)
                if (const double value = point.second + price * static_cast<double>(point.first); value < least)
                    least = value, at = point;
            EXPECT_NEAR(allocate_bytes(families, at.first).loss, at.second, 1e-9) << price;
            EXPECT_EQ(allocate_loss(families, at.second + 1e-9).bytes, at.first) << price;
        }
    }
}

TEST(WprojRankAllocation, TiesAndEdges) {
    const RankFamily two = {{{0, 0, 100, 0}, {1, 32, 50, 1}, {2, 32, 50, 1}}};
    const std::vector<RankFamily> families = {two, two};
    EXPECT_EQ(allocate_bytes(families, 1000).choice, (std::vector<uint32_t>{0, 0}));
    EXPECT_EQ(allocate_bytes(families, 150).choice, allocate_bytes(families, 150).choice);
    EXPECT_EQ(allocate_bytes(families, 150).bytes, 150u);
    EXPECT_EQ(allocate_bytes(families, 100).loss, 2);
    EXPECT_TRUE(allocate_bytes(families, 99).choice.empty());
    EXPECT_EQ(allocate_loss(families, 1).bytes, 150u);
    EXPECT_EQ(allocate_loss(families, 0.5).bytes, 200u);
    EXPECT_TRUE(allocate_loss(families, -1).choice.empty());
    EXPECT_THROW(allocate_bytes({RankFamily{}}, 1), std::invalid_argument);
    EXPECT_THROW(allocate_bytes({RankFamily{{{0, 0, 1, std::numeric_limits<double>::quiet_NaN()}}}}, 1),
                 std::invalid_argument);
    // A larger choice that is not on the hull still fills what is left.
    const RankFamily bent = {{{0, 0, 100, 0}, {1, 32, 60, 7}, {1, 64, 20, 9}}};
    EXPECT_EQ(allocate_bytes({bent}, 70).choice[0], 1u);
}

}  // namespace
}  // namespace keel::tools
#endif
