// The block codecs of sdk/tools/lab/codecs: Besicovitch, Riemann and, with Eigen, KakeyaTurbo. Sizes against their
// formulas, errors on Gaussian rows against published figures and numerical integration, properties that broken
// decoders lack.
#include <gtest/gtest.h>
#include <math.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>
#include <span>
#include <stdexcept>
#include <tuple>

#include "sdk/tools/lab/codecs/besicovitch_codebook.h"
#include "sdk/tools/lab/codecs/calibrated_codec.h"
#include "sdk/tools/lab/codecs/codebook_fit.h"
#include "sdk/tools/lab/codecs/gaussian_codebook.h"
#include "sdk/tools/lab/codecs/kv_codec.h"
#include "sdk/tools/lab/codecs/layer_set.h"
#include "sdk/tools/lab/codecs/plane_directions.h"
#include "sdk/tools/lab/codecs/query_whitening.h"
#include "sdk/tools/lab/codecs/row_rotation.h"
#include "tests/test_paths.h"
#ifdef KEEL_HAVE_EIGEN
#include <Eigen/Eigenvalues>

#include "sdk/tools/lab/codecs/block_pca.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_block.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_codec.h"
#include "sdk/tools/lab/codecs/kakeyaturbo_recipes.h"
#include "sdk/tools/lab/codecs/spherical_kmeans.h"
#endif

namespace keel::tools {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Rows = std::vector<float>;

// The same numbers with every standard library.
class Source {
  public:
    explicit Source(uint64_t seed) : engine_(seed) {}
    double uniform() { return static_cast<double>((engine_() >> 11) + 1) * 0x1p-53; }  // (0, 1]
    float normal() { return static_cast<float>(sqrt(-2 * log(uniform())) * cos(2 * std::numbers::pi * uniform())); }
    Rows normals(size_t count) {
        Rows x(count);
        for (float& value : x) value = normal();
        return x;
    }
    uint8_t byte() { return static_cast<uint8_t>(engine_()); }

  private:
    std::mt19937_64 engine_;
};

KvCodecContext context_of(uint32_t head_dim, bool value = false, const KvCodecCalibration* calibration = nullptr) {
    KvCodecContext context;
    context.head_dim = head_dim, context.value = value, context.calibration = calibration;
    return context;
}
uint32_t count_of(const Rows& rows, const KvCodecContext& context) {
    return static_cast<uint32_t>(rows.size() / context.head_dim);
}

std::vector<uint8_t> encoded(const KvCodec& codec, const Rows& rows, const KvCodecContext& context) {
    std::vector<uint8_t> bytes;
    codec.encode(rows.data(), count_of(rows, context), context, bytes);
    return bytes;
}
Rows decoded(const KvCodec& codec, const std::vector<uint8_t>& bytes, const Rows& like, const KvCodecContext& context) {
    Rows rows(like.size(), kNan);
    codec.decode(bytes, count_of(like, context), context, rows.data());
    return rows;
}
Rows round_trip(const KvCodec& codec, const Rows& rows, const KvCodecContext& context) {
    return decoded(codec, encoded(codec, rows, context), rows, context);
}
double energy(const Rows& x) {
    double sum = 0;
    for (const float value : x) sum += double{value} * value;
    return sum;
}
Rows difference(const Rows& a, const Rows& b) {
    Rows d(a.size());
    for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
    return d;
}
double relative_error(const KvCodec& codec, const Rows& rows, const KvCodecContext& context) {
    return energy(difference(round_trip(codec, rows, context), rows)) / energy(rows);
}
double relative_error(const std::string& spec, const Rows& rows, const KvCodecContext& context) {
    const auto codec = make_kv_codec(spec);
    EXPECT_NE(codec, nullptr) << spec;
    return codec ? relative_error(*codec, rows, context) : NAN;
}
void expect_near_relative(double value, double expected, double tolerance, const std::string& what) {
    EXPECT_NEAR(value, expected, tolerance * expected) << what;
}

// Rows of independent coordinates with the standard deviations deviation(j), in a rotated basis.
template <class Deviation>
Rows rotated_rows(uint64_t seed, uint32_t count, uint32_t dim, const Deviation& deviation) {
    Rows rows = Source(seed).normals(size_t{count} * dim);
    for (uint32_t r = 0; r < count; ++r) {
        const std::span<float> row(rows.data() + size_t{r} * dim, dim);
        for (uint32_t j = 0; j < dim; ++j) row[j] *= static_cast<float>(deviation(j));
        hadamard(row);
    }
    return rows;
}
// H diag(eigenvalue(j)) H.
template <class Eigenvalue>
std::vector<double> rotated_covariance(uint32_t dim, const Eigenvalue& eigenvalue) {
    std::vector<double> s(size_t{dim} * dim);
    for (uint32_t a = 0; a < dim; ++a)
        for (uint32_t b = 0; b < dim; ++b)
            for (uint32_t j = 0; j < dim; ++j)
                s[size_t{a} * dim + b] +=
                    (std::popcount(a & j) + std::popcount(b & j)) % 2 ? -eigenvalue(j) / dim : eigenvalue(j) / dim;
    return s;
}
// tr(E S E^T) with S of head row mod heads, ridge of the whitening included.
double weighted_energy(const Rows& rows, std::span<const double> covariance, uint32_t dim) {
    const size_t square = size_t{dim} * dim, heads = covariance.size() / square;
    double sum = 0;
    for (size_t r = 0; r < rows.size() / dim; ++r) {
        const double* s = covariance.data() + r % heads * square;
        const float* e = rows.data() + r * dim;
        double trace = 0, norm = 0;
        for (size_t i = 0; i < dim; ++i) {
            double projected = 0;
            for (size_t j = 0; j < dim; ++j) projected += s[i * dim + j] * e[j];
            sum += projected * e[i];
            trace += s[i * dim + i];
            norm += double{e[i]} * e[i];
        }
        sum += QueryWhitening::kRidge * trace / dim * norm;
    }
    return sum;
}

// ---- codebooks ----

TEST(KvCodecsBlocks, FittedLevelsAreTheMeansOfTheirSamples) {
    const Rows samples = {kNan, -3, -1, 0, 0.5f, 4, 6};
    const Rows start = {-1, 1, 30};  // cells below 0, below 15.5, above: the last stays empty
    const Rows one = fit_codebook(samples, start, 1);
    EXPECT_EQ(one, (Rows{-2, 2.625f, 30}));  // 0 lies halfway and goes up
    // Of the Gaussian's samples, its Lloyd-Max levels.
    const Rows fitted = fit_codebook(Source(1).normals(200000), Rows{-1, -0.5f, 0.5f, 1}, 200);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(fitted[i], gaussian_codebook(2)[i], 0.02);
}

TEST(KvCodecsBlocks, QuantileLevelsEndWhereTheyWerePublished) {
    const Rows four = quantile_codebook(4);
    EXPECT_NEAR(four.back(), 1.863, 0.001);
    EXPECT_NEAR(four.front(), -1.863, 0.001);
    EXPECT_NEAR(quantile_codebook(1)[1], 0.67449, 1e-5);  // the quartile
    EXPECT_TRUE(std::is_sorted(four.begin(), four.end()));
}

TEST(KvCodecsBlocks, BesicovitchLevelsAreThoseOfProjectedPairs) {
    // With d = 1 the projection on one of two perpendicular directions is far from the radius.
    Source source(32);
    const PlaneCodes codes = PlaneDirections(1).split(source.normals(200000));
    double square = 0;
    for (const float alpha : codes.alpha) square += double{alpha} * alpha;
    Rows scaled;
    for (const float alpha : codes.alpha)
        scaled.push_back(static_cast<float>(alpha / sqrt(square / static_cast<double>(codes.alpha.size()))));
    const Rows fitted = fit_codebook(scaled, gaussian_codebook(3), 2000), book = besicovitch_codebook(1, 3);
    ASSERT_EQ(book.size(), 8u);
    for (size_t i = 0; i < 8; ++i) {
        EXPECT_NEAR(book[i], fitted[i], 0.02);
        EXPECT_EQ(book[i], -book[7 - i]);
    }
}

TEST(KvCodecsBlocks, LayerSetsCountFromBothEndsAndInParts) {
    const auto six = LayerSet::parse("0+1+Ldiv4+Ldiv2+-2+-1");
    ASSERT_TRUE(six);
    for (uint32_t layer = 0; layer < 28; ++layer)
        EXPECT_EQ(six->contains(layer, 28), layer == 0 || layer == 1 || layer == 7 || layer == 14 || layer >= 26)
            << layer;
    EXPECT_FALSE(LayerSet::parse("")->contains(0, 28));
    EXPECT_FALSE(LayerSet::parse("-3")->contains(0, 2));
    for (const char* text : {"+", "0+", "+0", "-0", "Ldiv0", "L", "Ldiv", "x", "0,1", "--1"})
        EXPECT_FALSE(LayerSet::parse(text)) << text;
}

// ---- Besicovitch ----

TEST(KvCodecsBlocks, BesicovitchErrorsAreThoseOfTheSpecification) {
    const Rows rows = Source(2).normals(1024 * 128);
    const KvCodecContext context = context_of(128);
    const std::pair<const char*, double> expected[] = {
        {"3:4:published", 0.0394}, {"4:4:published", 0.0302}, {"6:4:published", 0.0273},
        {"2:2:fitted", 0.118},     {"2:3:fitted", 0.0707},    {"3:3:fitted", 0.0341},
        {"3:4:fitted", 0.0187},    {"4:4:fitted", 0.0093},    {"6:4:fitted", 0.0063},
    };
    for (const auto& [form, error] : expected)
        expect_near_relative(relative_error(std::string("besicovitch:") + form, rows, context), error, 0.02, form);
    EXPECT_EQ(relative_error("besicovitch:3:4", rows, context),
              relative_error("besicovitch:3:4:published", rows, context));
    // With f16 lengths only the direction errs: 1/2 (1 - sin(a) / a) of the energy, a = pi / 2^d.
    const double a = std::numbers::pi / 4;
    expect_near_relative(relative_error("besicovitch:2:f16", rows, context), 0.5 * (1 - sin(a) / a), 0.02, "f16");
}

TEST(KvCodecsBlocks, BesicovitchSizesAreTheFormula) {
    for (const uint32_t dim : {64u, 80u, 128u})
        for (const uint32_t d : {2u, 3u, 6u})
            for (const uint32_t m : {0u, 2u, 3u, 4u}) {
                const uint64_t groups = dim / 2,
                               row = (groups * d + 7) / 8 + (m ? (groups * m + 7) / 8 + 2 : 2 * groups);
                const std::string spec = "besicovitch:" + std::to_string(d) + ":" + (m ? std::to_string(m) : "f16");
                const KvCodecContext context = context_of(dim, true);
                for (const uint32_t count : {0u, 1u, 35u}) {
                    const Rows rows = Source(3).normals(size_t{count} * dim);
                    EXPECT_EQ(encoded(*make_kv_codec(spec), rows, context).size(), count * row);
                    const uint64_t blocks = count / 16;
                    EXPECT_EQ(encoded(*make_kv_codec(spec + ":fitted:mean=16"), rows, context).size(),
                              blocks * (2 * dim + 16 * row) + count % 16 * 2 * dim);
                }
            }
    const KvCodecContext context = context_of(128, true);
    EXPECT_EQ(encoded(*make_kv_codec("besicovitch:3:4"), Rows(128, 1.0f), context).size(), 58u);
    EXPECT_EQ(encoded(*make_kv_codec("besicovitch:3:4:mean"), Rows(1024 * 128, 1.0f), context).size() / 1024.0, 58.25);
    EXPECT_EQ(make_kv_codec("besicovitch:3:4:mean")->block_rows(true), 1024u);
    EXPECT_EQ(make_kv_codec("besicovitch:3:4")->block_rows(true), 1u);
}

TEST(KvCodecsBlocks, BesicovitchPublishedNeverUsesHalfOfItsLevels) {
    const Rows rows = Source(4).normals(256 * 128);
    const KvCodecContext context = context_of(128);
    for (const bool fitted : {false, true}) {
        const auto bytes =
            encoded(*make_kv_codec(fitted ? "besicovitch:3:4:fitted" : "besicovitch:3:4"), rows, context);
        std::vector<uint64_t> used(16);
        for (size_t row = 0; row < 256; ++row)
            for (size_t i = 24; i < 56; ++i) ++used[bytes[row * 58 + i] & 15], ++used[bytes[row * 58 + i] >> 4];
        for (size_t level = 0; level < 16; ++level)
            EXPECT_EQ(used[level] > 0, fitted || (level >= 4 && level < 12)) << level;
    }
}

TEST(KvCodecsBlocks, BesicovitchMeanTakesAnOffsetOut) {
    const Rows rows = Source(5).normals(64 * 64);
    Rows shifted = rows;
    for (size_t i = 0; i < rows.size(); ++i) shifted[i] += static_cast<float>(i % 64) - 20;
    const KvCodecContext context = context_of(64, true);
    const auto mean = make_kv_codec("besicovitch:4:4:fitted:mean=32"), plain = make_kv_codec("besicovitch:4:4:fitted");
    const double without = energy(difference(round_trip(*plain, shifted, context), shifted));
    const double with = energy(difference(round_trip(*mean, shifted, context), shifted));
    expect_near_relative(with, energy(difference(round_trip(*mean, rows, context), rows)), 0.02, "offset");
    EXPECT_LT(10 * with, without);
}

// ---- Riemann ----

// Mean squared error over mean square of Gaussian pairs with these levels times `scale`, by integration.
double polar_error(uint32_t direction_bits, std::span<const float> levels, double scale) {
    constexpr int kRadii = 4000, kAngles = 64;
    double error = 0;
    for (int i = 0; i < kRadii; ++i)
        for (int j = 0; j < kAngles; ++j) {
            const double r = (i + 0.5) * 8 / kRadii,
                         angle = (j + 0.5) / kAngles * std::numbers::pi / (2 << direction_bits);
            const double alpha = r * cos(angle);
            double best = INFINITY;
            for (const float level : levels) best = std::min(best, pow(alpha - level * scale, 2));
            error += (best + pow(r * sin(angle), 2)) * r * exp(-0.5 * r * r) * (8.0 / kRadii) / kAngles;
        }
    return error / 2;
}

TEST(KvCodecsBlocks, RiemannErrorIsThatOfItsTableAndOfflineScales) {
    const KvCodecContext uncalibrated = context_of(64);
    const Rows other = Source(6).normals(8192 * 64), rows = Source(7).normals(1024 * 64);
    const double pct99 = sqrt(-2 * log(0.01));  // of Rayleigh's distribution, which |alpha| nearly has
    const float calibrated4[] = {0.2556f, 0.5596f, 0.8555f, 1.1603f, 1.4761f, 1.8087f, 2.1725f, 2.6055f};
    const float calibrated3[] = {0.422f, 0.992f, 1.595f, 2.276f};
    std::vector<float> quantile4 = quantile_codebook(4);
    const struct {
        const char* spec;
        uint32_t d;
        std::span<const float> levels;
        double scale;
    } cases[] = {
        {"riemann:6:4:plain", 6, calibrated4, pct99 / 2.7},
        {"riemann:5:3:plain:calibrated", 5, calibrated3, pct99 / 2.7},
        {"riemann:6:4:quantile:plain", 6, std::span(quantile4).subspan(8), pct99 / 2.7},
        {"riemann:6:4:plain:rms", 6, calibrated4, sqrt(2)},
        {"riemann:6:4:plain:trace", 6, calibrated4, 1},
        {"riemann:6:4:plain:pct95", 6, calibrated4, sqrt(-2 * log(0.05)) / 2.7},
        {"riemann:6:4:plain:pct99.9", 6, calibrated4, sqrt(-2 * log(0.001)) / 2.7},
    };
    for (const auto& c : cases) {
        const auto codec = make_kv_codec(c.spec);
        ASSERT_NE(codec, nullptr) << c.spec;
        KvCodecCalibration calibration;
        calibrate_codec(*codec, other.data(), 8192, uncalibrated, &calibration);
        ASSERT_EQ(calibration.group_scales.size(), 32u);
        double mean = 0;
        for (const float scale : calibration.group_scales) mean += scale / 32;
        expect_near_relative(mean, c.scale, 0.02, c.spec);
        expect_near_relative(relative_error(*codec, rows, context_of(64, false, &calibration)),
                             polar_error(c.d, c.levels, c.scale), 0.04, c.spec);
    }
    // The quantile table clips what the scales expect.
    EXPECT_GT(polar_error(6, std::span(quantile4).subspan(8), pct99 / 2.7),
              1.3 * polar_error(6, calibrated4, pct99 / 2.7));
}

TEST(KvCodecsBlocks, RiemannSizesAndTablesAreCharged) {
    KvCodecCalibration calibration;
    calibration.group_scales.assign(64, 1.0f);
    calibration.query_covariance = rotated_covariance(128, [](uint32_t j) { return 1.0 + j; });
    const KvCodecContext context = context_of(128, false, &calibration);
    const Rows rows = Source(8).normals(70 * 128);
    const auto codec = make_kv_codec("riemann:6:4:block=32");
    EXPECT_EQ(encoded(*codec, rows, context).size(), 2 * (32 * (64 * 10 / 8) + 256) + 6 * 256u);
    EXPECT_EQ(make_kv_codec("riemann:5:4")->block_rows(false), 1024u);
    EXPECT_EQ(codec->side_bytes(context), 64 * 4 + 128 * 129 / 2 * 4u);
    EXPECT_EQ(codec->side_bytes(context_of(128, true, &calibration)), 64 * 4u);  // V is not whitened
    EXPECT_EQ(make_kv_codec("riemann:6:4:plain:own")->side_bytes(context), 64 * 4 + 16 * 4u);
    // What fills no block comes back as f16.
    const Rows back = round_trip(*codec, rows, context);
    for (size_t i = 64 * 128; i < rows.size(); ++i) EXPECT_NEAR(back[i], rows[i], fabs(rows[i]) * 0x1p-11 + 1e-7);
}

TEST(KvCodecsBlocks, RiemannFitsItsOwnLevelsAndScalesPerHead) {
    // Two pooled heads, one twice as large; four coordinates uniform on the sphere have shorter tails than a Gaussian.
    const uint32_t dim = 4, count = 4096;
    const auto sphere_rows = [&](uint64_t seed) {
        Rows rows = Source(seed).normals(size_t{count} * dim);
        for (uint32_t r = 0; r < count; ++r) {
            double square = 0;
            for (uint32_t j = 0; j < dim; ++j) square += pow(rows[r * dim + j], 2);
            for (uint32_t j = 0; j < dim; ++j) rows[r * dim + j] *= static_cast<float>((r % 2 ? 2 : 1) / sqrt(square));
        }
        return rows;
    };
    const Rows other = sphere_rows(9), rows = sphere_rows(10);
    KvCodecCalibration per_head[2], identity;
    for (uint32_t i = 0; i < dim; ++i)
        for (uint32_t j = 0; j < dim; ++j) identity.query_covariance.push_back(i == j);
    per_head[0] = per_head[1] = identity;
    KvCodecCalibration pooled = pooled_calibration(per_head);
    EXPECT_EQ(pooled.query_covariance.size(), 32u);
    const KvCodecContext context = context_of(dim, false, &pooled);
    const auto own = make_kv_codec("riemann:6:3:own"), published = make_kv_codec("riemann:6:3");
    EXPECT_THROW(encoded(*own, rows, context), std::invalid_argument);
    calibrate_codec(*own, other.data(), count, context, &pooled);
    ASSERT_EQ(pooled.group_scales.size(), 4u);
    expect_near_relative(pooled.group_scales[2] / pooled.group_scales[0], 2, 0.05, "second head");
    ASSERT_EQ(pooled.codebook.size(), 8u);
    EXPECT_LT(1.2 * relative_error(*own, rows, context), relative_error(*published, rows, context));
}

TEST(KvCodecsBlocks, RiemannRefusesWithoutItsTables) {
    const auto codec = make_kv_codec("riemann:6:4");
    const Rows rows(64, 1.0f);
    KvCodecCalibration calibration;
    EXPECT_THROW(encoded(*codec, rows, context_of(64)), std::invalid_argument);
    calibration.group_scales.assign(32, 1.0f);
    EXPECT_THROW(encoded(*codec, rows, context_of(64, false, &calibration)), std::invalid_argument);  // no covariance
    EXPECT_EQ(encoded(*codec, rows, context_of(64, true, &calibration)).size(), 128u);
    calibration.group_scales.push_back(1);
    EXPECT_THROW(encoded(*codec, rows, context_of(64, true, &calibration)), std::invalid_argument);
    calibration.group_scales.assign(32, kNan);
    EXPECT_THROW(encoded(*codec, rows, context_of(64, true, &calibration)), std::invalid_argument);
}

// ---- Q-preconditioning ----

// Tensor of a safetensors file (u64 bytes of JSON, the JSON, data) as f64; empty where there is none of that name.
std::vector<double> safetensor(const std::vector<char>& file, const std::string& name) {
    uint64_t header_bytes = 0;
    if (file.size() < 8) return {};
    memcpy(&header_bytes, file.data(), 8);
    const auto header =
        nlohmann::json::parse(file.begin() + 8, file.begin() + 8 + static_cast<ptrdiff_t>(header_bytes));
    if (!header.contains(name)) return {};
    const uint64_t begin = header[name]["data_offsets"][0], end = header[name]["data_offsets"][1];
    std::vector<float> values((end - begin) / 4);
    memcpy(values.data(), file.data() + 8 + header_bytes + begin, end - begin);
    return {values.begin(), values.end()};
}

TEST(KvCodecsBlocks, WhiteningTurnsErrorsIntoScores) {
    const uint32_t dim = 32;
    std::vector<double> covariance = rotated_covariance(dim, [](uint32_t j) { return pow(10, -3.0 * j / 31); });
    const auto second = rotated_covariance(dim, [](uint32_t j) { return 2.0 + j % 3; });
    covariance.insert(covariance.end(), second.begin(), second.end());
    const QueryWhitening whitening(covariance, dim);
    ASSERT_EQ(whitening.heads(), 2u);
    const Rows rows = Source(11).normals(2 * dim);
    for (uint32_t r = 0; r < 2; ++r) {
        const Rows row(rows.begin() + r * dim, rows.begin() + (r + 1) * dim);
        std::vector<double> wide(row.begin(), row.end());
        whitening.whiten(r, wide);
        double square = 0, trace = 0;
        for (const double x : wide) square += x * x;
        for (uint32_t i = 0; i < dim; ++i) trace += covariance[r * dim * dim + i * dim + i];
        // ||x L||^2 = x S x^T, in units of the mean diagonal.
        const double expected = weighted_energy(row, std::span(covariance).subspan(r * dim * dim, dim * dim), dim);
        EXPECT_NEAR(square * trace / dim * (1 + QueryWhitening::kRidge), expected, 1e-5 * expected);
        whitening.unwhiten(r, wide);
        for (uint32_t j = 0; j < dim; ++j) EXPECT_NEAR(wide[j], row[j], 1e-9);
    }
    EXPECT_THROW(QueryWhitening(covariance, 31), std::invalid_argument);
    for (double& x : covariance) x = -x;
    EXPECT_THROW(QueryWhitening(covariance, dim), std::invalid_argument);
    covariance.assign(dim * dim, 0);
    EXPECT_THROW(QueryWhitening(covariance, dim), std::invalid_argument);
    covariance[5] = NAN;
    EXPECT_THROW(QueryWhitening(covariance, dim), std::invalid_argument);
}

TEST(KvCodecsBlocks, WhiteningHasThePublishedFactors) {
    KEEL_SHARED_OR_SKIP(path, "data/qwen2.5-0.5b-query-covariance.safetensors");
    const std::vector<char> file = keel_test::read_file(path);
    const uint32_t dim = 64;
    for (const char* layer : {"layer_0", "layer_12", "layer_23"}) {
        const std::vector<double> sigma = safetensor(file, std::string(layer) + "_sigma"),
                                  chol = safetensor(file, std::string(layer) + "_chol");
        ASSERT_EQ(sigma.size(), 2u * dim * dim);
        ASSERT_EQ(chol.size(), sigma.size());
        const QueryWhitening whitening(sigma, dim);
        for (uint32_t head = 0; head < 2; ++head) {
            double trace = 0;
            for (uint32_t i = 0; i < dim; ++i) trace += sigma[head * dim * dim + i * dim + i];
            const double unit = sqrt(trace / dim * (1 + QueryWhitening::kRidge));
            for (uint32_t i = 0; i < dim; ++i) {
                std::vector<double> row(dim);
                row[i] = 1;
                whitening.whiten(head, row);
                for (uint32_t j = 0; j < dim; ++j)
                    EXPECT_NEAR(row[j] * unit, chol[head * dim * dim + i * dim + j], 2e-4 * unit) << layer;
            }
        }
    }
}

#ifdef KEEL_HAVE_EIGEN

// ---- principal components and centres ----

TEST(KvCodecsBlocks, PcaFindsTheRankOfLowRankRows) {
    const uint32_t dim = 64, count = 512;
    Rows rows = rotated_rows(12, count, dim, [](uint32_t j) { return j < 5 ? 3 : 0.02; });
    for (size_t i = 0; i < rows.size(); ++i) rows[i] += static_cast<float>(i % dim) * 0.1f;
    for (const char* pca : {"exact", "rsvd"}) {
        const auto codec = make_kv_codec(std::string("kakeyaturbo:vr=0.95,k=16,bits=4,bs=512,pca=") + pca);
        ASSERT_NE(codec, nullptr);
        const auto bytes = encoded(*codec, rows, context_of(dim));
        EXPECT_EQ(bytes[0] + bytes[1] * 256, 5) << pca;
        EXPECT_LT(relative_error(*codec, rows, context_of(dim)), 0.01) << pca;
    }
}

TEST(KvCodecsBlocks, RandomizedPcaAgreesWithExact) {
    const uint32_t dim = 64, count = 512;
    const Rows rows = rotated_rows(13, count, dim, [](uint32_t j) { return exp2(-0.125 * j); });
    RowMatrix wide(count, dim);
    std::copy(rows.begin(), rows.end(), wide.data());
    const BlockBasis exact = exact_pca(wide, 1, 16), randomized = randomized_pca(wide, 1, 16);
    ASSERT_EQ(exact.directions.rows(), 16);
    ASSERT_EQ(randomized.directions.rows(), 16);
    const auto lost = [&](const BlockBasis& basis) {
        return (wide.rowwise() - basis.mean - basis.coefficients(wide) * basis.directions).squaredNorm();
    };
    // The variances of the sample's own covariance that 16 directions leave.
    const RowMatrix centred = wide.rowwise() - wide.colwise().mean();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(Eigen::MatrixXd(centred.transpose() * centred));
    EXPECT_NEAR(lost(exact), solver.eigenvalues().head(dim - 16).sum(), 1e-4 * lost(exact));
    EXPECT_GE(lost(randomized), lost(exact) * (1 - 1e-6));
    EXPECT_LT(lost(randomized), lost(exact) * 1.03);
    const std::string rest = ",rank=16,vr=1,k=16,bits=3,bs=512";
    const double e = relative_error("kakeyaturbo:pca=exact" + rest, rows, context_of(dim));
    expect_near_relative(relative_error("kakeyaturbo:pca=rsvd" + rest, rows, context_of(dim)), e, 0.03, "rsvd");
}

TEST(KvCodecsBlocks, VarianceRatioKeepsTheFewestDirectionsThatHoldIt) {
    const uint32_t dim = 32;
    const Rows rows = rotated_rows(14, 512, dim, [](uint32_t j) { return exp2(-0.25 * j); });
    RowMatrix wide(512, dim);
    std::copy(rows.begin(), rows.end(), wide.data());
    const RowMatrix centred = wide.rowwise() - wide.colwise().mean();
    for (const double ratio : {0.5, 0.9, 0.95, 0.99}) {
        const auto lost = [&](uint32_t cap) {
            const BlockBasis basis = exact_pca(wide, ratio, cap);
            const double left = (centred - centred * basis.directions.transpose() * basis.directions).squaredNorm();
            return std::pair(basis.directions.rows(), left / centred.squaredNorm());
        };
        const auto [kept, share] = lost(0);
        EXPECT_LE(share, 1 - ratio + 1e-5);
        EXPECT_GT(lost(static_cast<uint32_t>(kept - 1)).second, 1 - ratio);
    }
    EXPECT_EQ(exact_pca(wide, 1, 0).directions.rows(), dim);
    EXPECT_EQ(exact_pca(RowMatrix::Zero(8, dim), 0.95, 0).directions.rows(), 1);
}

TEST(KvCodecsBlocks, CentresFindDirectionsWhateverTheirSigns) {
    Source source(15);
    RowMatrix rows(200, 8);
    for (int r = 0; r < 200; ++r)
        for (int j = 0; j < 8; ++j)
            rows(r, j) =
                0.01 * source.normal() + (j == r % 4 ? (r / 4 % 2 ? 5.0 : -2.0) : 0);  // as many of either sign
    const RowMatrix centres = spherical_centres(rows, 4);
    const auto nearest = nearest_centres(rows, centres);
    for (int r = 0; r < 200; ++r) {
        EXPECT_NEAR(fabs(centres(nearest[static_cast<size_t>(r)], r % 4)), 1, 1e-3);
        EXPECT_EQ(nearest[static_cast<size_t>(r)], nearest[static_cast<size_t>(r % 4)]);
    }
    EXPECT_EQ(spherical_centres(RowMatrix::Zero(8, 3), 4), RowMatrix(RowMatrix::Zero(4, 3)));
}

// ---- KakeyaTurbo ----

std::unique_ptr<KakeyaturboCodec> kakeyaturbo(const std::string& options) {
    const auto parsed = parse_kakeyaturbo_options(options);
    EXPECT_TRUE(parsed) << options;
    return parsed ? std::make_unique<KakeyaturboCodec>(options, *parsed) : nullptr;
}

// Rows about few directions: their clusters are found in few rounds, and what is left is Gaussian.
Rows clustered_rows(uint64_t seed, uint32_t count, uint32_t dim) {
    Source source(seed);
    const Rows directions = source.normals(size_t{16} * dim);
    Rows rows = source.normals(size_t{count} * dim);
    for (uint32_t r = 0; r < count; ++r)
        for (uint32_t j = 0; j < dim; ++j) rows[size_t{r} * dim + j] += 2 * directions[r % 16 * dim + j];
    return rows;
}

uint64_t outliers_of(const KakeyaturboCodec& codec, const Rows& rows, const KvCodecContext& context, double threshold) {
    uint64_t n = 0;
    for (const float z : codec.scaled_residuals(rows.data(), count_of(rows, context), context))
        n += fabs(z) > threshold;
    return n;
}

TEST(KvCodecsBlocks, KakeyaturboPublishedBytesAreTheFormula) {
    // The formula's examples at D = 128; shared bases are spread over 4096 rows.
    const struct {
        const char* options;
        uint32_t rank, bits, block;
        double outlier;
        bool share;
        double bytes;
    } cases[] = {
        {"pca=rsvd,vr=1,bits=3,outlier=2.0,bs=512", 64, 3, 512, 2, false, 82.1},
        {"pca=exact,vr=1,bits=4,bs=1024", 128, 4, 1024, 0, false, 110.2},
        {"pca=rsvd,vr=1,bits=2,bs=512,share=1", 64, 2, 512, 0, true, 34.1},
        {"pca=exact,vr=1,bits=2,bs=1024,share=1", 128, 2, 1024, 0, true, 54.1},
    };
    const uint32_t dim = 128, centres = 16;
    const KvCodecContext context = context_of(dim);
    const Rows all = clustered_rows(16, 2048, dim);
    for (const auto& c : cases) {
        const auto published = kakeyaturbo(std::string(c.options) + ",bytes=published"),
                   minimum = kakeyaturbo(c.options);
        ASSERT_TRUE(published && minimum);
        const uint64_t skeleton = 2 * dim + 2 * c.rank * dim, width = c.rank;
        std::vector<uint64_t> sizes;
        for (const uint32_t blocks : {1u, 2u}) {
            if (blocks == 2 && !c.share) continue;
            const Rows rows(all.begin(), all.begin() + size_t{blocks} * c.block * dim);
            const uint64_t bases = c.share ? 1 : blocks, coded = blocks * c.block;
            const uint64_t outliers = c.outlier > 0 ? outliers_of(*published, rows, context, c.outlier) : 0;
            const uint64_t codes =
                coded * (width * c.bits / 8) + 4 * outliers + blocks * 2 * centres * c.rank + bases * skeleton;
            const auto bytes = encoded(*published, rows, context);
            EXPECT_EQ(bytes.size(), coded * 10 + codes) << c.options;
            sizes.push_back(bytes.size());
            const auto fewest = encoded(*minimum, rows, context);
            EXPECT_EQ(fewest.size(),
                      bases * 2 + coded * 4 + coded * 4 / 8 + (c.outlier > 0 ? coded * 7 / 8 : 0) + codes)
                << c.options;
            EXPECT_EQ(decoded(*published, bytes, rows, context), decoded(*minimum, fewest, rows, context)) << c.options;
        }
        const double blocks = 4096.0 / c.block;
        const double whole =
            c.share ? static_cast<double>(sizes[0]) + (blocks - 1) * static_cast<double>(sizes[1] - sizes[0])
                    : static_cast<double>(sizes[0]) * blocks;
        expect_near_relative(whole / 4096, c.bytes, 0.01, c.options);
    }
}

TEST(KvCodecsBlocks, KakeyaturboRowsThatFillNoBlockAreF16) {
    const auto codec = kakeyaturbo("bits=3,bs=32,vr=1,k=4");
    const KvCodecContext context = context_of(20);  // 20 directions, coded as 32 coordinates
    const Rows rows = Source(17).normals(70 * 20);
    const auto bytes = encoded(*codec, rows, context);
    EXPECT_EQ(bytes.size(),
              2 * (2 + 2 * 20 + 2 * 20 * 20 + 2 * 4 * 20 + 32 * 2 / 8 + 32 * 4 + 32 * 32 * 3 / 8) + 6 * 20 * 2u);
    const Rows back = decoded(*codec, bytes, rows, context);
    for (size_t i = 64 * 20; i < rows.size(); ++i) EXPECT_NEAR(back[i], rows[i], fabs(rows[i]) * 0x1p-11 + 1e-7);
    EXPECT_TRUE(encoded(*codec, {}, context).empty());
    EXPECT_EQ(encoded(*codec, Rows(31 * 20), context).size(), 31 * 20 * 2u);
}

TEST(KvCodecsBlocks, KakeyaturboScaleGivesUnitVariance) {
    const KvCodecContext context = context_of(64);
    Rows rows = Source(18).normals(512 * 64);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] *= exp2f(static_cast<float>(i / 64 % 13) - 6);
    const Rows z = kakeyaturbo("vr=1,bs=256,bits=3")->scaled_residuals(rows.data(), 512, context);
    ASSERT_EQ(z.size(), rows.size());
    for (auto row = z.begin(); row != z.end(); row += 64) EXPECT_NEAR(energy(Rows(row, row + 64)), 64, 0.01);
    // Close to normal: 4.55 % beyond 2, 13.4 % beyond 1.5.
    const auto beyond = [&](float t) {
        return static_cast<double>(std::count_if(z.begin(), z.end(), [&](float x) { return fabsf(x) > t; })) /
               static_cast<double>(z.size());
    };
    EXPECT_NEAR(beyond(2), 0.0455, 0.005);
    EXPECT_NEAR(beyond(1.5f), 0.134, 0.01);
}

TEST(KvCodecsBlocks, KakeyaturboResidualIsWhatTheCentreDoesNotExplain) {
    const Rows rows = Source(33).normals(256 * 32);
    RowMatrix wide(256, 32);
    std::copy(rows.begin(), rows.end(), wide.data());
    const KakeyaturboBlock block = analyse_kakeyaturbo(wide, *parse_kakeyaturbo_options("vr=1,bs=256"), nullptr);
    const RowMatrix coefficients = block.basis.coefficients(wide);
    for (int r = 0; r < 256; ++r) {
        const auto& row = block.rows[static_cast<size_t>(r)];
        const double whole = coefficients.row(r).squaredNorm();
        EXPECT_NEAR(double{row.residual_norm} * row.residual_norm, whole - double{row.t} * row.t, 2e-3 * whole);
        EXPECT_NEAR(row.norm, wide.row(r).norm(), 1e-5 * row.norm);
        for (int c = 0; c < block.centres.rows(); ++c)
            EXPECT_LE(fabs(coefficients.row(r).dot(block.centres.row(c))), fabs(row.t) * (1 + 1e-6));
    }
}

TEST(KvCodecsBlocks, KakeyaturboErrorIsThatOfItsLevels) {
    // All directions kept: only the residual errs, by the Gaussian's D(b), and it holds at most all the energy.
    const KvCodecContext context = context_of(64);
    const Rows rows = Source(19).normals(512 * 64);
    const double distortion[] = {0.3634, 0.1175, 0.03454, 0.009497};
    double before = 1;
    for (uint32_t bits = 1; bits <= 4; ++bits) {
        const double error = relative_error("kakeyaturbo:vr=1,bs=512,k=1,bits=" + std::to_string(bits), rows, context);
        // One centre explains about the largest of 64 variances, and the z of a row are not quite independent.
        EXPECT_LT(error, distortion[bits - 1]) << bits;
        EXPECT_GT(error, 0.9 * distortion[bits - 1]) << bits;
        EXPECT_LT(error, before);
        before = error;
    }
    // More centres leave a smaller residual.
    EXPECT_LT(relative_error("kakeyaturbo:vr=1,bs=512,k=64,bits=2", rows, context),
              relative_error("kakeyaturbo:vr=1,bs=512,k=1,bits=2", rows, context));
}

TEST(KvCodecsBlocks, KakeyaturboKeepsNormsUnderBothMetrics) {
    const uint32_t dim = 64, count = 256;
    const KvCodecContext context = context_of(dim);
    Rows rows = Source(20).normals(size_t{count} * dim);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] *= exp2f(static_cast<float>(i / dim % 9) - 4);
    const std::string rest = ",vr=1,bits=4,bs=256,k=16";
    const auto mse = kakeyaturbo("metric=mse,bytes=published" + rest),
               ip = kakeyaturbo("metric=ip,bytes=published" + rest);
    const auto mse_bytes = encoded(*mse, rows, context), ip_bytes = encoded(*ip, rows, context);
    EXPECT_NE(mse_bytes, ip_bytes);
    EXPECT_EQ(mse_bytes.size(), ip_bytes.size());
    const Rows back = decoded(*ip, ip_bytes, rows, context);
    EXPECT_EQ(back, decoded(*mse, mse_bytes, rows, context));
    EXPECT_EQ(back, round_trip(*kakeyaturbo("metric=ip" + rest), rows, context));
    EXPECT_EQ(back, round_trip(*kakeyaturbo("metric=mse" + rest), rows, context));
    for (uint32_t r = 0; r < count; ++r) {
        const auto begin = static_cast<ptrdiff_t>(r * dim), end = begin + dim;
        const Rows x(rows.begin() + begin, rows.begin() + end), y(back.begin() + begin, back.begin() + end);
        EXPECT_NEAR(sqrt(energy(y) / energy(x)), 1, 0.1) << r;
        EXPECT_LT(energy(difference(x, y)), 0.04 * energy(x)) << r;
    }
}

TEST(KvCodecsBlocks, KakeyaturboOutliersReduceTheError) {
    const KvCodecContext context = context_of(64);
    const Rows rows = Source(21).normals(512 * 64);
    for (const char* bits : {"1", "2", "3"}) {
        const std::string spec = std::string("kakeyaturbo:vr=1,bs=512,bits=") + bits;
        const double none = relative_error(spec, rows, context),
                     at2 = relative_error(spec + ",outlier=2.0", rows, context);
        EXPECT_LT(at2, 0.9 * none) << bits;
        EXPECT_LT(relative_error(spec + ",outlier=1.5", rows, context), at2) << bits;
    }
}

TEST(KvCodecsBlocks, KakeyaturboSharedBasisIsTheFirstBlocks) {
    const uint32_t dim = 32;
    const KvCodecContext context = context_of(dim);
    Rows rows = rotated_rows(22, 128, dim, [](uint32_t j) { return j < 4 ? 1 : 0.001; });
    const Rows elsewhere = Source(23).normals(128 * dim);  // in directions that the first block lacks
    rows.insert(rows.end(), elsewhere.begin(), elsewhere.end());
    const auto shared = make_kv_codec("kakeyaturbo:share=1,bs=128,bits=4,vr=0.99"),
               own = make_kv_codec("kakeyaturbo:share=0,bs=128,bits=4,vr=0.99");
    EXPECT_EQ(shared->block_rows(true), 1u << 20);
    EXPECT_EQ(own->block_rows(true), 128u);
    const Rows lost = difference(round_trip(*shared, rows, context), rows);
    const Rows first(lost.begin(), lost.begin() + 128 * dim), second(lost.begin() + 128 * dim, lost.end());
    EXPECT_LT(energy(first), 0.02 * 128 * 4);
    EXPECT_NEAR(energy(second) / energy(elsewhere), 28.0 / 32, 0.05);
    EXPECT_LT(relative_error(*own, rows, context), 0.1);
}

// With a cap on the directions, whitening makes the error of scores that of the best subspace for them.
void expect_whitening_pays(const std::vector<double>& covariance, uint32_t dim, uint32_t rank, double gain) {
    const uint32_t count = 512;
    const Rows rows = Source(24).normals(size_t{count} * dim);
    KvCodecCalibration calibration;
    calibration.query_covariance = covariance;
    KvCodecContext context = context_of(dim, false, &calibration);
    context.layer = 3, context.layers = 24;
    const std::string rest = ",vr=1,bits=4,bs=512,rank=" + std::to_string(rank);
    const auto whitened = kakeyaturbo("qp=1,skip=0" + rest), plain = kakeyaturbo("qp=0" + rest);
    const Rows e_whitened = difference(round_trip(*whitened, rows, context), rows),
               e_plain = difference(round_trip(*plain, rows, context), rows);
    const double scores = weighted_energy(e_whitened, covariance, dim);
    EXPECT_LT(scores * gain, weighted_energy(e_plain, covariance, dim));
    EXPECT_GT(energy(e_whitened), energy(e_plain));  // each is best by its own measure

    // No subspace of that rank loses less than the small eigenvalues of (K - mean) L; 4 bits add less than a hundredth
    // of the rest.
    RowMatrix wide(count, dim);
    std::copy(rows.begin(), rows.end(), wide.data());
    const QueryWhitening whitening(covariance, dim);
    for (uint32_t r = 0; r < count; ++r) whitening.whiten(r, {wide.row(r).data(), dim});
    const RowMatrix centred = wide.rowwise() - wide.colwise().mean();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(Eigen::MatrixXd(centred.transpose() * centred));
    double trace = 0;
    for (uint32_t i = 0; i < dim; ++i) trace += covariance[size_t{i} * dim + i];
    const double unit = trace / dim * (1 + QueryWhitening::kRidge),
                 least = unit * solver.eigenvalues().head(dim - rank).sum();
    EXPECT_GT(scores, least * 0.999);
    EXPECT_LT(scores, least + 0.01 * unit * solver.eigenvalues().sum());

    // Not in layers that are skipped, and not for V.
    context.layer = 0;
    EXPECT_EQ(encoded(*whitened, rows, context), encoded(*plain, rows, context));
    context.layer = 3, context.value = true;
    EXPECT_EQ(encoded(*whitened, rows, context), encoded(*plain, rows, context));
    EXPECT_EQ(whitened->side_bytes(context), 0u);
    context.value = false;
    EXPECT_EQ(whitened->side_bytes(context), uint64_t{dim} * (dim + 1) / 2 * 4);
    context.calibration = nullptr;
    EXPECT_THROW(encoded(*whitened, rows, context), std::invalid_argument);
}

TEST(KvCodecsBlocks, KakeyaturboWhiteningIsBestForScores) {
    expect_whitening_pays(rotated_covariance(32, [](uint32_t j) { return pow(10, -3.0 * j / 31); }), 32, 8, 2);
}

TEST(KvCodecsBlocks, KakeyaturboWhiteningIsBestForScoresOfARealModel) {
    KEEL_SHARED_OR_SKIP(path, "data/qwen2.5-0.5b-query-covariance.safetensors");
    const std::vector<char> file = keel_test::read_file(path);
    for (const char* layer : {"layer_1_sigma", "layer_12_sigma"}) {
        const std::vector<double> sigma = safetensor(file, layer);
        ASSERT_EQ(sigma.size(), 2u * 64 * 64);
        expect_whitening_pays({sigma.begin(), sigma.begin() + 64 * 64}, 64, 32, 1.5);
    }
}

TEST(KvCodecsBlocks, KakeyaturboPooledRowsAreWhitenedByTheirOwnHead) {
    const uint32_t dim = 16, count = 512;
    const Rows rows = Source(25).normals(size_t{count} * dim);
    KvCodecCalibration heads[2];
    heads[0].query_covariance = rotated_covariance(dim, [](uint32_t j) { return j < 4 ? 100.0 : 1; });
    heads[1].query_covariance = rotated_covariance(dim, [](uint32_t j) { return j < 12 ? 1 : 100.0; });
    const KvCodecCalibration right = pooled_calibration(heads);
    std::swap(heads[0], heads[1]);
    const KvCodecCalibration wrong = pooled_calibration(heads);
    const auto codec = kakeyaturbo("qp=1,vr=1,bits=4,bs=512,rank=8");
    EXPECT_TRUE(codec->pools_heads());
    EXPECT_FALSE(kakeyaturbo("pool=0")->pools_heads());
    const auto scores = [&](const KvCodecCalibration& calibration) {
        const Rows lost = difference(round_trip(*codec, rows, context_of(dim, false, &calibration)), rows);
        return weighted_energy(lost, right.query_covariance, dim);
    };
    EXPECT_LT(2 * scores(right), scores(wrong));
    EXPECT_EQ(codec->side_bytes(context_of(dim, false, &right)), 2 * 16 * 17 / 2 * 4u);
}

TEST(KvCodecsBlocks, KakeyaturboFitsItsOwnLevels) {
    // The z of 8 coordinates lie on a sphere: shorter tails than the Gaussian's.
    const uint32_t dim = 8, count = 2048;
    const Rows other = Source(26).normals(size_t{count} * dim), rows = Source(27).normals(size_t{count} * dim);
    KvCodecCalibration calibration;
    const auto own = make_kv_codec("kakeyaturbo:codebook=own,vr=1,bits=3,bs=512,k=4"),
               gaussian = make_kv_codec("kakeyaturbo:vr=1,bits=3,bs=512,k=4");
    const KvCodecContext context = context_of(dim, false, &calibration);
    EXPECT_EQ(encoded(*own, rows, context), encoded(*gaussian, rows, context));  // not fitted yet
    EXPECT_EQ(own->side_bytes(context), 0u);
    calibrate_codec(*gaussian, other.data(), count, context_of(dim), &calibration);
    EXPECT_TRUE(calibration.codebook.empty());
    calibrate_codec(*own, other.data(), count, context_of(dim), &calibration);
    ASSERT_EQ(calibration.codebook.size(), 8u);
    EXPECT_EQ(own->side_bytes(context), 32u);
    EXPECT_LT(relative_error(*own, rows, context), 0.95 * relative_error(*gaussian, rows, context));
    // The published tables were fitted to something else: worse than the Gaussian's levels for K, and charged.
    const auto published = make_kv_codec("kakeyaturbo:codebook=ds,vr=1,bits=3,bs=512,k=4");
    const KvCodecContext wide = context_of(64);
    const Rows more = Source(28).normals(512 * 64);
    EXPECT_GT(relative_error(*published, more, wide), 1.2 * relative_error(*gaussian, more, wide));
    EXPECT_EQ(published->side_bytes(wide), 32u);
    EXPECT_EQ(published->side_bytes(context_of(64, true)), 0u);
}

// ---- recipes ----

TEST(KvCodecsBlocks, RecipesHaveTheRatiosThatWerePublishedForThem) {
    // 28 layers of D = 128 against bf16, of bytes as published; shared bases are spread over 4096 rows. v1.2 and v1.3
    // depend on data.
    const std::pair<const char*, double> expected[] = {{"v1.4-pareto", 2.91}, {"p6", 3.16}, {"b3", 4.20}, {"r3", 3.67},
                                                       {"v1.3-ppl", 2.55},    {"f1", 3.35}, {"f2", 3.49}};
    const uint32_t dim = 128, layers = 28, boundary[] = {0, 1, 7, 14, 26, 27};
    const Rows rows = clustered_rows(29, 2048, dim);
    KvCodecCalibration calibration;
    calibration.query_covariance = rotated_covariance(dim, [](uint32_t) { return 1.0; });
    calibration.group_scales.assign(dim / 2, 1.0f);
    std::map<std::tuple<std::string_view, bool>, double> known;  // many recipes share a codec
    for (const auto& [name, ratio] : expected) {
        const KakeyaturboRecipe* recipe = nullptr;
        for (const KakeyaturboRecipe& r : kakeyaturbo_recipes())
            if (r.name == name) recipe = &r;
        ASSERT_NE(recipe, nullptr) << name;
        const auto codec = make_kv_codec(std::string("kakeyaturbo:") + name + ":published-bytes");
        ASSERT_NE(codec, nullptr) << name;
        double bytes = 0;
        for (const uint32_t layer : {3u, 0u, 7u})  // neither; of both sets; of the six
            for (const bool value : {false, true}) {
                const bool six = recipe->layers.find("div") != std::string_view::npos,
                           outside = layer == 0 || (layer == 7 && six);
                const std::string_view part = outside ? recipe->boundary : value ? recipe->v : recipe->k;
                KvCodecContext context = context_of(dim, value, &calibration);
                context.layer = layer, context.layers = layers;
                auto [entry, fresh] = known.try_emplace({part, value});
                if (fresh) {
                    const auto size = [&](uint32_t n) {
                        return static_cast<double>(
                            encoded(*codec, Rows(rows.begin(), rows.begin() + size_t{n} * dim), context).size());
                    };
                    const uint32_t block = part.find("bs=512") != std::string_view::npos ? 512 : 1024;
                    entry->second = part.find("share=1") != std::string_view::npos
                                        ? (size(block) + (4096.0 / block - 1) * (size(2 * block) - size(block))) / 4096
                                        : size(block) / block;
                }
                const double times = layer == 3 ? 28 - (six ? 6 : 4) : layer == 0 ? (six ? 5 : 4) : (six ? 1 : 0);
                bytes += times * entry->second;
            }
        EXPECT_NEAR(layers * 2 * 256 / bytes, ratio, 0.006 * ratio) << name;
    }
    // Which layers are boundaries.
    const auto f16 = make_kv_codec("kakeyaturbo:v1.3-ppl");
    for (uint32_t layer = 0; layer < layers; ++layer) {
        KvCodecContext context = context_of(dim, true, &calibration);
        context.layer = layer, context.layers = layers;
        const bool edge = std::find(std::begin(boundary), std::end(boundary), layer) != std::end(boundary);
        const Rows block(512 * dim, 1.0f);
        EXPECT_EQ(encoded(*f16, block, context).size() == 512 * 256, edge) << layer;
    }
}

TEST(KvCodecsBlocks, RecipesSayWhatTheyNeed) {
    const auto v12 = make_kv_codec("kakeyaturbo:v1.2"), f1 = make_kv_codec("kakeyaturbo:f1"),
               pareto = make_kv_codec("kakeyaturbo:v1.4-pareto:per-head");
    ASSERT_TRUE(v12 && f1 && pareto);
    EXPECT_TRUE(v12->pools_heads());
    EXPECT_FALSE(v12->before_rope());
    EXPECT_EQ(v12->block_rows(false), 512u);
    EXPECT_EQ(v12->block_rows(true), 1u << 20);
    EXPECT_TRUE(f1->pools_heads());
    EXPECT_TRUE(f1->before_rope());
    EXPECT_FALSE(pareto->pools_heads());
    EXPECT_EQ(pareto->block_rows(false), 1024u);
    EXPECT_EQ(pareto->block_rows(true), 1024u);
}

#endif  // KEEL_HAVE_EIGEN

// ---- names ----

TEST(KvCodecsBlocks, NamesMakeCodecsThatBearThem) {
    std::vector<std::string> good = {
        "besicovitch:3:4", "besicovitch:8:8:fitted:mean", "besicovitch:1:1:published:mean=7", "besicovitch:2:f16:mean",
        "riemann:6:4",     "riemann:1:8:plain",           "riemann:5:3:pct99.9:own:block=256"};
    std::vector<std::string> bad = {"besicovitch",
                                    "besicovitch:3",
                                    "besicovitch:0:4",
                                    "besicovitch:9:4",
                                    "besicovitch:3:0",
                                    "besicovitch:3:9",
                                    "besicovitch:3:4:",
                                    "besicovitch:3:4:mean:fitted",
                                    "besicovitch:3:4:mean=0",
                                    "besicovitch:3:4:meanx",
                                    "riemann:6",
                                    "riemann:6:4:",
                                    "riemann:6:4:pct98",
                                    "riemann:6:5:calibrated",
                                    "riemann:6:4:block=0",
                                    "kakeyaturbo",
                                    "kakeyaturbo:",
                                    "kakeyaturbo:v1.5",
                                    "kakeyaturbo:v1.2:",
                                    "kakeyaturbo:v1.2:per-head:published-bytes",
                                    "kakeyaturbo:bits=5",
                                    "kakeyaturbo:bits=3,",
                                    "kakeyaturbo:bits=3//",
                                    "kakeyaturbo:bits=3/bits=2/0",
                                    "kakeyaturbo:bits=3/bits=2/@f16",
                                    "kakeyaturbo:bits=3/bits=2/0@",
                                    "kakeyaturbo:bits",
                                    "kakeyaturbo:x=1",
                                    "kakeyaturbo:vr=0",
                                    "kakeyaturbo:vr=1.1",
                                    "kakeyaturbo:vr=1e-1",
                                    "kakeyaturbo:outlier=-1",
                                    "kakeyaturbo:k=0",
                                    "kakeyaturbo:bs=0",
                                    "kakeyaturbo:bits=4,codebook=ds",
                                    "kakeyaturbo:=3",
                                    "kakeyaturbo:share=2"};
#ifdef KEEL_HAVE_EIGEN
    for (const KakeyaturboRecipe& recipe : kakeyaturbo_recipes())
        for (const char* suffix : {"", ":published-bytes", ":per-head", ":published-bytes:per-head"})
            good.push_back("kakeyaturbo:" + std::string(recipe.name) + suffix);
    good.insert(good.end(),
                {"kakeyaturbo:pca=exact,vr=0.95,k=16,bits=3,outlier=2.0,bs=512", "kakeyaturbo:bits=3/bits=2,share=1",
                 "kakeyaturbo:bits=3/besicovitch:3:4:fitted", "kakeyaturbo:riemann:6:4/bits=2/0+-1@f16",
                 "kakeyaturbo:bits=3,codebook=ds,outlier=0/bits=2/0+Ldiv2@pca=rsvd,rank=32"});
    for (const KakeyaturboRecipe& recipe : kakeyaturbo_recipes())
        EXPECT_NE(kv_codec_names().find(recipe.name), std::string_view::npos) << recipe.name;
#endif
    for (const std::string& spec : good) {
        const auto codec = make_kv_codec(spec);
        ASSERT_NE(codec, nullptr) << spec;
        EXPECT_EQ(codec->name(), spec);
    }
    for (const std::string& spec : bad) EXPECT_EQ(make_kv_codec(spec), nullptr) << spec;
    for (const char* form : {"besicovitch:D:M", "riemann:D:M", "kakeyaturbo:"})
        EXPECT_NE(kv_codec_names().find(form), std::string_view::npos) << form;
}

// ---- rows and bytes that no one expects ----

std::vector<std::string> hardy_specs() {
    std::vector<std::string> specs = {"besicovitch:3:4:published", "besicovitch:3:4:fitted",
                                      "besicovitch:2:f16:mean=16", "besicovitch:8:8:fitted:mean=16",
                                      "riemann:6:4:block=16",      "riemann:5:3:plain:quantile:block=16"};
#ifdef KEEL_HAVE_EIGEN
    for (const char* options :
         {"vr=1,bits=4,bs=32", "vr=0.95,bits=2,outlier=1.5,bs=32,share=1", "pca=rsvd,bits=1,bs=16,k=40",
          "qp=1,bits=3,bs=32,outlier=2,bytes=published", "metric=ip,bytes=published,bits=3,bs=16,share=1,vr=1"})
        specs.push_back(std::string("kakeyaturbo:") + options);
#endif
    return specs;
}

TEST(KvCodecsBlocks, AnyRowsHaveADefinedResult) {
    const uint32_t dim = 16, count = 72;
    KvCodecCalibration calibration;
    calibration.query_covariance = rotated_covariance(dim, [](uint32_t j) { return 1.0 + j; });
    calibration.group_scales.assign(dim / 2, 1.0f);
    calibration.group_scales[3] = 0;
    std::map<std::string, Rows> inputs;
    const Rows normal = Source(30).normals(size_t{count} * dim);
    inputs["zero"] = Rows(normal.size(), 0.0f);
    inputs["constant"] = Rows(normal.size(), 0.3f);
    inputs["equal rows"] = normal;
    for (size_t i = dim; i < normal.size(); ++i) inputs["equal rows"][i] = normal[i % dim];
    for (const float odd : {kNan, kInf, -kInf, 3e38f, 1e-45f, 7e4f}) {
        inputs["all " + std::to_string(odd)] = Rows(normal.size(), odd);
        Rows& one = inputs["one " + std::to_string(odd)] = normal;
        one[5 * dim + 3] = one[70 * dim] = odd;
    }
    Rows& tiny = inputs["tiny"] = normal;
    for (float& x : tiny) x *= 1e-42f;

    for (const std::string& spec : hardy_specs()) {
        const auto codec = make_kv_codec(spec);
        ASSERT_NE(codec, nullptr) << spec;
        const KvCodecContext context = context_of(dim, false, &calibration);
        for (const auto& [name, rows] : inputs) {
            const auto bytes = encoded(*codec, rows, context);
            EXPECT_EQ(bytes, encoded(*codec, rows, context)) << spec << ", " << name;
            for (const float x : decoded(*codec, bytes, rows, context))
                ASSERT_TRUE(isfinite(x)) << spec << ", " << name;
        }
        const Rows zero = round_trip(*codec, inputs["zero"], context);
        if (!spec.starts_with("riemann")) {  // its fixed scales have no level at 0
            for (const float x : zero) EXPECT_EQ(x, 0) << spec;
        }
        const Rows constant = round_trip(*codec, inputs["constant"], context);
        if (spec.starts_with("kakeyaturbo")) {
            for (const float x : constant) EXPECT_NEAR(x, 0.3f, 1e-3f) << spec;
        }
    }
}

TEST(KvCodecsBlocks, DamagedBytesAreRefusedOrDecoded) {
    const uint32_t dim = 16, count = 72;
    KvCodecCalibration calibration;
    calibration.query_covariance = rotated_covariance(dim, [](uint32_t j) { return 1.0 + j; });
    calibration.group_scales.assign(dim / 2, 1.0f);
    const KvCodecContext context = context_of(dim, false, &calibration);
    Source source(31);
    const Rows rows = source.normals(size_t{count} * dim);
    for (const std::string& spec : hardy_specs()) {
        const auto codec = make_kv_codec(spec);
        const std::vector<uint8_t> bytes = encoded(*codec, rows, context);
        Rows out(rows.size());
        std::vector<uint8_t> longer = bytes;
        longer.push_back(0);
        EXPECT_THROW(codec->decode(longer, count, context, out.data()), std::invalid_argument) << spec;
        EXPECT_THROW(codec->decode(std::span(bytes).first(bytes.size() - 1), count, context, out.data()),
                     std::invalid_argument)
            << spec;
        EXPECT_THROW(codec->decode({}, count, context, out.data()), std::invalid_argument) << spec;
        if (spec.ends_with("outlier=2,bytes=published")) {  // an outlier of another place, before 8 rows in f16
            std::vector<uint8_t> damaged = bytes;
            const size_t last = bytes.size() - 8 * dim * 2 - 4;
            damaged[last] = dim;
            damaged[last + 1] = 0;
            EXPECT_THROW(codec->decode(damaged, count, context, out.data()), std::invalid_argument);
        }
        for (int round = 0; round < 100; ++round) {
            std::vector<uint8_t> damaged = bytes;
            const size_t first = round % 2 ? 0 : damaged.size() * static_cast<size_t>(round) / 100;
            for (size_t i = first; i < std::min(first + 40, damaged.size()); ++i) damaged[i] = source.byte();
            try {
                codec->decode(damaged, count, context, out.data());
            } catch (const std::invalid_argument&) {
            }
        }
    }
    for (const std::string& spec : hardy_specs()) {
        std::vector<uint8_t> none;
        if (!spec.starts_with("kakeyaturbo")) {
            EXPECT_THROW(encoded(*make_kv_codec(spec), Rows(15), context_of(15, false, &calibration)),
                         std::invalid_argument);
        }
        EXPECT_THROW(make_kv_codec(spec)->encode(rows.data(), 1, context_of(0, false, &calibration), none),
                     std::invalid_argument)
            << spec;
    }
}

}  // namespace
}  // namespace keel::tools
