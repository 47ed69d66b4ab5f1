// The published coverage and the identity behind it, on made-up clouds and on the published ones.
#include "sdk/tools/lab/geodesic/coverage.h"

#include <gtest/gtest.h>

#include <cmath>

#include "sdk/tools/lab/geodesic/published_protocol.h"
#include "sdk/tools/lab/geodesic/random.h"
#include "tests/test_paths.h"

namespace keel::geodesic {
namespace {

constexpr size_t kDim = 8;
const std::vector<double> kRadii = {0.1, 1, 2, 3, 4, 6, 8};

std::vector<double> cloud_of_chance(size_t count, uint64_t seed) {
    Random random(seed);
    std::vector<double> points(count * kDim);
    for (double& x : points) x = 2 * random.normal();
    return points;
}

TEST(Coverage, AsManyNeighboursAsDimensionsAreAllAtTheRootOfOneLess) {
    const std::vector<double> points = cloud_of_chance(64, 1);
    const MetricField field(kDim, points, neighbour_metrics(kDim, points, kDim, 1e-9), 1e-3);
    for (size_t p = 0; p < field.count(); ++p)
        for (const size_t other : nearest_others(kDim, points, p, kDim)) {
            std::vector<double> way(kDim);
            for (size_t i = 0; i < kDim; ++i) way[i] = field.point(other)[i] - field.point(p)[i];
            EXPECT_NEAR(g_norm(field, field.point(p), way.data()), std::sqrt(7.0), 1e-4);
        }
}

TEST(Coverage, ChanceOfANeighbourIsHypergeometric) {
    const size_t cached[] = {6, 16, 32, 48};
    const double expected[] = {0.5733, 0.9188, 0.9980, 1.0000};
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(chance_of_neighbour(64, kDim, cached[i]), expected[i], 5e-5);
    EXPECT_DOUBLE_EQ(chance_of_neighbour(3, 1, 1), 0.5);
    EXPECT_DOUBLE_EQ(chance_of_neighbour(3, 1, 2), 1);
}

// Nothing below sqrt(7), and above it what chance says: for clouds of no model at all.
TEST(Coverage, IsWhatChanceSays) {
    const MetricField field = published_field(kDim, cloud_of_chance(64, 2), kDim, 0.6);
    for (const size_t cached : {6, 16, 32, 48}) {
        const Coverage c = coverage(field, cached, kRadii, 64, 3);
        EXPECT_NEAR(c.hits[3], chance_of_neighbour(64, kDim, cached), 0.04) << cached;
        EXPECT_LT(c.hits[2], 0.06);
    }
}

class PublishedClouds : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        KEEL_SHARED_OR_SKIP(path, std::string("data/gtc/") + GetParam() + "/phase1_manifold.json");
        path_ = path;
    }
    std::string path_;
};

TEST_P(PublishedClouds, HaveTheCoverageOfChance) {
    const PublishedCloud cloud = read_published_cloud(path_);
    ASSERT_EQ(cloud.points.size(), 64u * 3);
    const MetricField field = published_field(kDim, lifted(cloud, kDim, 20260427), kDim, 0.6);
    const double published[] = {0.586, 0.910, 0.998, 1};
    const size_t cached[] = {6, 16, 32, 48};
    for (size_t i = 0; i < 4; ++i) {
        const Coverage c = coverage(field, cached[i], kRadii, 64, 4);
        EXPECT_NEAR(c.hits[3], chance_of_neighbour(64, kDim, cached[i]), 0.08);
        EXPECT_NEAR(c.hits[3], published[i], 0.08);  // smoothing moves it where a cloud is dense
    }
}

// The published field is flat between its points: the published propagator is hardly wrong at any distance, and so is
// the identity.
TEST_P(PublishedClouds, AreFlatAsPublished) {
    const MetricField field = published_field(6, lifted(read_published_cloud(path_), 6, 20260427), 8, 0.6);
    const std::vector<ValidityRow> rows = published_validity(field, {0.4, 1}, 4, 5);
    for (const ValidityRow& row : rows) EXPECT_LT(row.published, 0.02) << row.distance;
}

INSTANTIATE_TEST_SUITE_P(Three, PublishedClouds, ::testing::Values("smollm2-135m", "phi-3.5-mini", "gemma-4-e2b"),
                         [](const auto& info) {
                             std::string name = info.param;
                             for (char& c : name)
                                 if (!isalnum(c)) c = '_';
                             return name;
                         });

TEST(PublishedProtocol, TruncationOfTheIdentityLosesThreeOfEight) {
    std::vector<double> identity(64, 0);
    for (size_t i = 0; i < 8; ++i) identity[i * 8 + i] = 1;
    const Truncation error = truncation_error(identity, 8, 5);
    EXPECT_NEAR(error.product, std::sqrt(3.0 / 8), 1e-12);  // .612, published as 0.0
    EXPECT_EQ(error.identity_and_product, 0);
}

}  // namespace
}  // namespace keel::geodesic
