// Products of f32 rows (sdk/tools/lab/quantize/fast_product.h).
#ifdef KEEL_HAVE_CALIBRATION
#include "sdk/tools/lab/quantize/fast_product.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

namespace keel::tools {
namespace {

using Eigen::Index;

FloatRows random_rows(Index rows, Index columns, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    return FloatRows::NullaryExpr(rows, columns, [&](auto, auto) { return normal(random); });
}

// Columns of a wider matrix, as heads are of a row of q, k and v.
struct Wide {
    FloatRows all;
    Wide(Index rows, Index columns, uint32_t seed) : all(random_rows(rows, columns + 3, seed)) {}
    RowsView part() const { return all.middleCols(2, all.cols() - 3); }
};

void expect_near(const FloatRows& got, const Eigen::MatrixXd& want, Index k) {
    ASSERT_EQ(got.rows(), want.rows());
    ASSERT_EQ(got.cols(), want.cols());
    EXPECT_LT((got.cast<double>() - want).cwiseAbs().maxCoeff(), 1e-6 * static_cast<double>(k));
}

TEST(FastProduct, ComputesProducts) {
    for (const auto& [m, n, k] : {std::array<Index, 3>{1, 1, 1}, {3, 700, 5}, {65, 256, 40}, {300, 257, 130}}) {
        const Wide a(m, k, 1), b(n, k, 2), across_a(k, m, 3), across_b(k, n, 4);
        const auto f64 = [](const Wide& w) { return Eigen::MatrixXd(w.part().cast<double>()); };
        expect_near(product_transposed(a.part(), b.part(), 2), f64(a) * f64(b).transpose(), k);
        expect_near(product(a.part(), across_b.part(), 2), f64(a) * f64(across_b), k);
        expect_near(product_of_transposed(across_a.part(), across_b.part(), 2),
                    f64(across_a).transpose() * f64(across_b), k);
    }
    EXPECT_EQ(product_transposed(FloatRows(0, 4), FloatRows(5, 4), 2).size(), 0);
}

TEST(FastProduct, IsTheSameForAnyThreads) {
    const FloatRows a = random_rows(70, 90, 1), b = random_rows(1500, 90, 2);
    const FloatRows one = product_transposed(a, b, 1);
    for (const uint32_t threads : {2u, 3u, 7u}) EXPECT_EQ(one, product_transposed(a, b, threads)) << threads;
}

}  // namespace
}  // namespace keel::tools
#endif
