// Rows in weight types (sdk/tools/lab/quantize/row_quantizer.h): what the core's decoder makes of the bytes, against
// plain rounding, exhaustive search over scales, llama.cpp's reference quantizers, and the published Q8 block.
#include "sdk/tools/lab/quantize/row_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>

#include "kernels/formats/numeric.h"

namespace keel::tools {
namespace {

using Numbers = std::vector<float>;

constexpr uint32_t kBlockTypes[] = {kernels::kQ8_0, kernels::kQ4_0,   kernels::kQ4_1, kernels::kQ5_0,
                                    kernels::kQ5_1, kernels::kIQ4_NL, kernels::kQ2_K, kernels::kQ3_K,
                                    kernels::kQ4_K, kernels::kQ5_K,   kernels::kQ6_K, kernels::kIQ4_XS};

class Source {
  public:
    explicit Source(uint64_t seed) : engine_(seed) {}
    double uniform() { return static_cast<double>((engine_() >> 11) + 1) * 0x1p-53; }
    float normal() {
        return static_cast<float>(std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()));
    }

  private:
    std::mt19937_64 engine_;
};

double weighted_error(const Numbers& a, const Numbers& b, const Numbers& importance) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double e = static_cast<double>(a[i]) - b[i];
        sum += e * e * (importance.empty() ? 1 : importance[i % importance.size()]);
    }
    return sum;
}
Numbers through(uint32_t type, const Numbers& x, uint64_t columns, const Numbers& importance = {}) {
    return decode_rows(type, quantize_rows(type, x, columns, importance), columns);
}

// Rows of several characters, 512 columns each.
Numbers test_rows(uint64_t seed) {
    Source source(seed);
    Numbers x;
    for (int row = 0; row < 6; ++row) {
        for (int j = 0; j < 512; ++j) {
            const float v = source.normal();
            x.push_back(row == 0   ? v
                        : row == 1 ? v * v * v * 0.01f
                        : row == 2 ? v + 5
                        : row == 3 ? std::fabs(v) * 1e-4f
                        : row == 4 ? (j % 37 ? v * 1e-3f : 3 * v)
                                   : -7 - std::fabs(v));
        }
    }
    return x;
}
Numbers test_importance(uint64_t seed) {
    Source source(seed);
    Numbers w;
    for (int j = 0; j < 512; ++j) w.push_back(std::exp(2 * source.normal()));
    return w;
}

TEST(RowQuantizer, IsNeverWorseThanRoundingAndUsuallyBetter) {
    const Numbers x = test_rows(1), importance = test_importance(2);
    for (const uint32_t type : kBlockTypes) {
        SCOPED_TRACE(kernels::kWeightTypes[type].name);
        const Numbers plain = decode_rows(type, nearest_rows(type, x, 512), 512), even = through(type, x, 512),
                      weighted = through(type, x, 512, importance);
        for (size_t row = 0; row < 6; ++row) {  // row by row, and so within any block that decides it
            const auto part = [&](const Numbers& all) {
                return Numbers(all.begin() + static_cast<std::ptrdiff_t>(row * 512),
                               all.begin() + static_cast<std::ptrdiff_t>(row * 512 + 512));
            };
            EXPECT_LE(weighted_error(part(even), part(x), {}), weighted_error(part(plain), part(x), {})) << row;
            EXPECT_LE(weighted_error(part(weighted), part(x), importance),
                      weighted_error(part(plain), part(x), importance))
                << row;
        }
        EXPECT_LT(weighted_error(weighted, x, importance), 0.95 * weighted_error(plain, x, importance));
        EXPECT_LT(weighted_error(weighted, x, importance), weighted_error(even, x, importance));
        EXPECT_LT(weighted_error(even, x, {}), weighted_error(weighted, x, {}));
    }
}

// Mean squared error of unit normal numbers by type, against uniform quantizers of as many levels.
TEST(RowQuantizer, ErrorsAreThoseOfTheTypesBits) {
    Source source(3);
    Numbers x(64 * 256);
    for (float& v : x) v = source.normal();
    const auto mse = [&](uint32_t type) {
        return weighted_error(through(type, x, 256), x, {}) / static_cast<double>(x.size());
    };
    // An N-level uniform quantizer over the range R of 32 normal numbers, about 4.1, has R^2 / (12 N^2).
    EXPECT_LT(mse(kernels::kQ4_0), 4.1 * 4.1 / 12 / 256 * 1.25);
    EXPECT_LT(mse(kernels::kQ4_1), 4.1 * 4.1 / 12 / 256 * 1.05);
    EXPECT_LT(mse(kernels::kQ4_K), 4.1 * 4.1 / 12 / 256 * 1.15);
    EXPECT_LT(mse(kernels::kIQ4_NL), mse(kernels::kQ4_0));
    EXPECT_LT(mse(kernels::kQ5_0), mse(kernels::kQ4_0) / 3.5);
    EXPECT_LT(mse(kernels::kQ5_1), mse(kernels::kQ4_1) / 3.5);
    EXPECT_LT(mse(kernels::kQ6_K), mse(kernels::kQ5_0) / 3);
    EXPECT_LT(mse(kernels::kQ8_0), mse(kernels::kQ6_K) / 7);
    double squared_steps = 0;  // d^2 of plain rounding, d = max |x| / 127
    for (size_t b = 0; b < x.size(); b += 32) {
        double most = 0;
        for (size_t i = b; i < b + 32; ++i) most = std::max<double>(most, std::fabs(x[i]));
        squared_steps += most * most / 127 / 127;
    }
    EXPECT_LT(mse(kernels::kQ8_0), squared_steps / (static_cast<double>(x.size()) / 32) / 12);
}

// The file's lines: type, kind of numbers, error. tests/generators/llama_quantize_oracle.cpp.
TEST(RowQuantizer, ErrorsAreAtMostThoseOfLlamaCpp) {
    std::ifstream lines(KEEL_SOURCE_DIR "/tests/data/quant-blocks/llama-errors.txt");
    std::string name;
    int kind = 0, compared = 0;
    std::getline(lines, name);  // the heading
    for (double theirs = 0; lines >> name >> kind >> theirs; ++compared) {
        uint64_t state = static_cast<uint64_t>(kind) + 1;
        const auto uniform = [&] {
            uint64_t z = state += 0x9e3779b97f4a7c15;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
            return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
        };
        Numbers x;
        for (int i = 0; i < 24 * 512; ++i) {
            double v = -6;
            for (int j = 0; j < 12; ++j) v += uniform();
            x.push_back(static_cast<float>(kind == 0 ? v : kind == 1 ? v * v * v : v + 3));
        }
        uint32_t type = 0;
        while (kernels::kWeightTypes[type].name != name) ++type;
        const double ours = weighted_error(through(type, x, 512), x, {}) / weighted_error(x, Numbers(x.size()), {});
        EXPECT_LE(ours, theirs) << name << ' ' << kind;
    }
    EXPECT_EQ(compared, 36);
}

// A row with fixed scales: the bytes of quantize_rows until codes are chosen, and of the nearest codes afterwards.
TEST(RowQuantizer, CodesChosenColumnByColumn) {
    const Numbers x = test_rows(7), row(x.begin(), x.begin() + 512), importance = test_importance(8);
    for (const uint32_t type : kBlockTypes) {
        SCOPED_TRACE(kernels::kWeightTypes[type].name);
        RowGrid grid(type, row, importance);
        const std::vector<uint8_t> nearest = quantize_rows(type, row, 512, importance);
        std::vector<uint8_t> bytes(nearest.size());
        grid.write(bytes.data());
        EXPECT_EQ(bytes, nearest);
        Numbers values(512);
        for (size_t i = 512; i-- > 0;) values[i] = grid.choose(i, i % 3 ? row[i] : -row[i]);
        grid.write(bytes.data());
        EXPECT_EQ(decode_rows(type, bytes, 512), values);
        for (size_t i = 0; i < 512; ++i) grid.choose(i, row[i]);
        grid.write(bytes.data());
        EXPECT_EQ(bytes, nearest);
    }
    EXPECT_THROW(RowGrid(kernels::kF16, row), std::invalid_argument);
    EXPECT_THROW(RowGrid(kernels::kQ4_K, Numbers(128)), std::invalid_argument);
}

// Every f16 scale there is: the search comes close to the best of them.
TEST(RowQuantizer, ScaleIsNearTheBestOfAllF16) {
    Source source(4);
    const Numbers all = test_importance(5), importance(all.begin(), all.begin() + 32);
    double found = 0, best_sum = 0;
    for (int block = 0; block < 12; ++block) {
        Numbers x(32);
        for (float& v : x) v = source.normal();
        double best = std::numeric_limits<double>::infinity();
        for (uint32_t bits = 0x2000; bits < 0x4000; ++bits) {  // 2^-7 to 2
            for (const float sign : {1.0f, -1.0f}) {
                const float d = sign * kernels::f16_to_f32(static_cast<uint16_t>(bits));
                double error = 0;
                for (size_t i = 0; i < 32; ++i) {
                    const double e = static_cast<double>(d) * std::clamp(std::nearbyint(x[i] / d), -8.0f, 7.0f) - x[i];
                    error += importance[i] * e * e;
                }
                best = std::min(best, error);
            }
        }
        const double own = weighted_error(through(kernels::kQ4_0, x, 32, importance), x, importance);
        EXPECT_GE(own, best * (1 - 1e-9));
        EXPECT_LT(own, 1.25 * best) << block;
        found += own, best_sum += best;
    }
    EXPECT_LT(found, 1.015 * best_sum);
}

TEST(RowQuantizer, RepresentableRowsComeBackExactly) {
    Source source(6);
    for (const uint32_t type : kBlockTypes) {
        SCOPED_TRACE(kernels::kWeightTypes[type].name);
        Numbers x(512);
        for (float& v : x) v = source.normal();
        const Numbers once = through(type, x, 512);
        // Where scales are integers another set of them may come as near; the error stays below that of one code.
        const double left = weighted_error(through(type, once, 512), once, {}), of_x = weighted_error(once, x, {});
        EXPECT_LT(left, kernels::kWeightTypes[type].sub_block ? 0.15 * of_x : 1e-12);
    }
    const Numbers f16 = {1.5f, -0.25f, 65504.0f, 6e-8f};
    EXPECT_EQ(through(kernels::kF16, f16, 4)[2], 65504.0f);
    EXPECT_EQ(through(kernels::kF32, {0.1f, 1e30f}, 2), (Numbers{0.1f, 1e30f}));
}

TEST(RowQuantizer, PublishedBlocks) {
    Numbers x(64, 0.0f);
    for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i - 20) * 0.5f;
    const std::vector<uint8_t> bytes = quantize_rows(kernels::kQ8_F32, x, 64);
    ASSERT_EQ(bytes.size(), 72u);
    float d[2];
    std::memcpy(&d[0], bytes.data(), 4);
    std::memcpy(&d[1], bytes.data() + 36, 4);
    EXPECT_EQ(d[0], 10.0f / 127);
    EXPECT_EQ(d[1], 1.0f);  // all zeros
    EXPECT_EQ(static_cast<int8_t>(bytes[4]), -127);
    EXPECT_EQ(static_cast<int8_t>(bytes[4 + 31]), 70);  // 5.5 / (10 / 127) = 69.85
    EXPECT_EQ(static_cast<int8_t>(bytes[40]), 0);
    EXPECT_EQ(decode_rows(kernels::kQ8_F32, bytes, 64)[0], -127 * (10.0f / 127));
}

TEST(RowQuantizer, ExtremeRowsStayFinite) {
    const float kDenormal = 1e-42f, kHuge = 3e38f;
    for (uint32_t type = 0; type < kernels::kWeightTypeCount; ++type) {
        SCOPED_TRACE(kernels::kWeightTypes[type].name);
        EXPECT_TRUE(can_quantize(type));
        for (const float v : through(type, Numbers(256, 0.0f), 256)) EXPECT_EQ(v, 0);
        Numbers tiny(256, kDenormal), huge(256), mixed(256, 0.0f), one(256, 0.0f);
        for (size_t i = 0; i < 256; ++i) huge[i] = i % 3 ? kHuge : -kHuge;
        mixed[3] = 60000, mixed[40] = kDenormal, mixed[255] = -1e-6f;
        one[77] = -2;
        for (const float v : through(type, tiny, 256)) EXPECT_LE(std::fabs(v), 1e-6f);
        const Numbers back = through(type, huge, 256);
        for (size_t i = 0; i < 256; ++i) {
            EXPECT_TRUE(std::isfinite(back[i]) && std::fabs(back[i]) <= 1.01f * kHuge) << i << ' ' << back[i];
            EXPECT_GE(back[i] * (i % 3 ? 1 : -1), 0) << i;
        }
        const Numbers kept = through(type, mixed, 256);
        EXPECT_NEAR(kept[3], 60000, 60000 * 0.05);
        EXPECT_NEAR(through(type, one, 256)[77], -2, kernels::is_trellis(type) ? 0.2 : 0.05);
        // Importance of zeros: all alike.
        EXPECT_EQ(through(type, mixed, 256, Numbers(256, 0.0f)), kept);
        EXPECT_EQ(quantize_rows(type, mixed, 256, Numbers(256, 2.0f)), quantize_rows(type, mixed, 256));

        Numbers bad(256, 1.0f);
        bad[200] = std::numeric_limits<float>::quiet_NaN();
        EXPECT_THROW(quantize_rows(type, bad, 256), std::invalid_argument);
        EXPECT_THROW(quantize_rows(type, mixed, 256, bad), std::invalid_argument);
        bad[200] = -std::numeric_limits<float>::infinity();
        EXPECT_THROW(quantize_rows(type, bad, 256), std::invalid_argument);
        EXPECT_THROW(nearest_rows(type, bad, 256), std::invalid_argument);
        EXPECT_THROW(quantize_rows(type, mixed, 256, Numbers(256, -1.0f)), std::invalid_argument);
        EXPECT_THROW(quantize_rows(type, mixed, 256, Numbers(128, 1.0f)), std::invalid_argument);
    }
    EXPECT_FALSE(can_quantize(kernels::kWeightTypeCount));
    EXPECT_THROW(quantize_rows(99, Numbers(256), 256), std::invalid_argument);
    EXPECT_THROW(quantize_rows(kernels::kQ4_K, Numbers(128), 128), std::invalid_argument);
    EXPECT_THROW(quantize_rows(kernels::kQ4_0, Numbers(65), 65), std::invalid_argument);
    EXPECT_THROW(decode_rows(kernels::kQ4_0, std::vector<uint8_t>(17), 32), std::invalid_argument);
}

}  // namespace
}  // namespace keel::tools
