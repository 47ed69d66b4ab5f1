// Trellis codes of weights (sdk/tools/lab/quantize/trellis_code.h), nearest and by second moments (trellis_gptq.h).
#ifdef KEEL_HAVE_CALIBRATION
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>

#include "kernels/formats/numeric.h"
#include "sdk/tools/files/synth_random.h"
#include "sdk/tools/lab/quantize/calibration.h"
#include "sdk/tools/lab/quantize/row_quantizer.h"
#include "sdk/tools/lab/quantize/trellis_gptq.h"
#include "tests/test_paths.h"

namespace keel::tools {
namespace {

std::vector<float> normals(uint64_t seed, size_t count) {
    Random random(seed);
    std::vector<float> x(count);
    for (float& v : x)
        v = static_cast<float>(std::sqrt(-2 * std::log(1 - random.uniform())) *
                               std::cos(2 * std::numbers::pi * random.uniform()));
    return x;
}

double relative_error(std::span<const float> x, std::span<const float> y) {
    double error = 0, energy = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double e = double{y[i]} - double{x[i]};
        error += e * e, energy += double{x[i]} * double{x[i]};
    }
    return error / energy;
}

int sum_of(const TrellisCode& code, uint32_t state) {
    return code.tables[0][state & 15] + code.tables[1][state >> 4 & 15] + code.tables[2][state >> 8 & 15];
}

// Gaussian rows of 256: bytes, and the relative error within 2 % of what the codebooks have on many rows. Asked was, by
// 8 / 12 state bits: 4 bits 0.0078 / 0.0071, 3 bits 0.0233 / 0.0223, 2 bits 0.0845 / 0.0792.
TEST(Trellis, RateAndDistortionOfGaussianRows) {
    constexpr struct {
        uint32_t bits, state_bits;
        double error;
    } kExpected[] = {{2, 8, 0.0837},  {3, 8, 0.0232},  {4, 8, 0.00626},
                     {2, 12, 0.0796}, {3, 12, 0.0212}, {4, 12, 0.00572}};
    for (const auto& [bits, state_bits, expected] : kExpected) {
        const TrellisCode& code = trellis_code(bits, state_bits);
        const std::vector<float> x = normals(11, (state_bits == 8 ? 512 : 192) * kTrellisBlock);
        const std::vector<uint8_t> bytes = encode_trellis(code, x, kTrellisBlock);
        EXPECT_EQ(bytes.size(), x.size() / kTrellisBlock * (2 + 32 * bits));
        EXPECT_EQ(trellis_row_bytes(code, 3 * kTrellisBlock + 64), 3 * (2 + 32 * bits) + 2 + 8 * bits);
        const double error = relative_error(x, trellis_values(code, x, kTrellisBlock));
        EXPECT_NEAR(error, expected, 0.02 * expected) << bits << " bits, " << state_bits << " state bits";
        for (uint32_t state = 0; state < 1u << state_bits; ++state) EXPECT_LE(std::abs(sum_of(code, state)), 127);
    }
    EXPECT_THROW(trellis_code(5, 8), std::invalid_argument);
    EXPECT_THROW(trellis_code(3, 10), std::invalid_argument);
}

// By the layout in trellis_code.h, from the bytes: also of a short last block, and of a state that goes round.
TEST(Trellis, BlocksAreWhatTheHeaderSays) {
    constexpr uint64_t kColumns = kTrellisBlock + 32;
    for (const uint32_t bits : {2u, 3u, 4u}) {
        for (const uint32_t state_bits : {8u, 12u}) {
            const TrellisCode& code = trellis_code(bits, state_bits);
            std::vector<float> x = normals(12, 2 * kColumns);
            std::fill(x.begin() + kColumns, x.end(), 0.0f);  // a row of zeros
            const std::vector<uint8_t> bytes = encode_trellis(code, x, kColumns);
            const std::vector<float> values = decode_trellis(code, bytes, kColumns);
            const uint8_t* block = bytes.data();
            for (uint64_t at = 0; at < kColumns;) {
                const uint64_t n = std::min<uint64_t>(kTrellisBlock, kColumns - at), all = n * bits;
                const float d = kernels::f16_to_f32(static_cast<uint16_t>(block[0] | block[1] << 8)) / 32;
                EXPECT_GT(d, 0);
                for (uint64_t i = 0; i < n; ++i) {
                    uint32_t state = 0;  // from its newest bit down to the oldest
                    for (uint32_t b = 0; b < state_bits; ++b) {
                        const uint64_t symbol = (i + n - b / bits) % n, bit = symbol * bits + b % bits;
                        ASSERT_LT(bit, all);
                        state |= (block[2 + bit / 8] >> bit % 8 & 1u) << b;
                    }
                    ASSERT_EQ(values[at + i], d * static_cast<float>(sum_of(code, state))) << at + i;
                }
                block += 2 + all / 8, at += n;
            }
            for (uint64_t i = kColumns; i < 2 * kColumns; ++i) ASSERT_EQ(values[i], 0.0f);
        }
    }
    const TrellisCode& code = trellis_code(3, 8);
    std::vector<float> bad(kColumns, 1.0f);
    EXPECT_THROW(encode_trellis(code, bad, 100), std::invalid_argument);
    EXPECT_THROW(encode_trellis(code, bad, 2 * kColumns), std::invalid_argument);
    EXPECT_THROW(decode_trellis(code, std::vector<uint8_t>(99), kColumns), std::invalid_argument);
    bad[7] = std::numeric_limits<float>::infinity();
    EXPECT_THROW(encode_trellis(code, bad, kColumns), std::invalid_argument);
}

// All 65,536 symbols of a block of eight, with weights: none that go round through the same states costs less.
TEST(Trellis, SearchIsExactBetweenItsEnds) {
    constexpr uint32_t kN = 8;
    const std::vector<float> value = normals(13, 256), none(kN * kN);
    TrellisSearch<8, 2, false> plain(value.data());
    TrellisSearch<8, 2, true> weighted(value.data());
    for (uint64_t seed = 0; seed < 6; ++seed) {
        const std::vector<float> x = normals(20 + seed, kN);
        std::vector<float> weight(kN, 1.0f);
        uint8_t symbol[kN];
        if (seed % 2) {
            for (uint32_t i = 0; i < kN; ++i) weight[i] = 1.0f + static_cast<float>(i * 5 % 7);
            weighted.code(x.data(), kN, {weight.data(), none.data(), kN}, symbol);
        } else {
            plain.code(x.data(), kN, {}, symbol);
        }
        const auto cost_of = [&](uint32_t path) {  // symbol 0 in its highest bits
            double cost = 0;
            for (uint32_t i = 0; i < kN; ++i) {
                const uint32_t turned = path >> (2 * (kN - 1 - i)) | path << (2 * (i + 1));
                const double e = double{x[i]} - double{value[turned & 255]};
                cost += double{weight[i]} * e * e;
            }
            return cost;
        };
        uint32_t found = 0;
        for (const uint8_t s : symbol) found = found << 2 | s;
        double least = 1e9;
        for (uint32_t path = 0; path < 65536; ++path)
            if ((path & 63) == (found & 63)) least = std::min(least, cost_of(path));
        EXPECT_NEAR(cost_of(found), least, 1e-4 * least) << seed;
    }
}

// Of correlated vectors, some of whose elements are much larger.
Eigen::MatrixXd moment(uint64_t seed, Eigen::Index n) {
    const std::vector<float> x = normals(seed, static_cast<size_t>(2 * n * n));
    Eigen::MatrixXd rows(2 * n, n);
    for (Eigen::Index i = 0; i < 2 * n; ++i)
        for (Eigen::Index j = 0; j < n; ++j)
            rows(i, j) = static_cast<double>(x[static_cast<size_t>(i * n + j)]) * (j % 7 ? 1 : 4) +
                         (j ? 0.7 * rows(i, j - 1) : 0);
    return rows.transpose() * rows / static_cast<double>(2 * n);
}

TEST(Trellis, CalibratedCodesLoseLess) {
    constexpr Eigen::Index kColumns = kTrellisBlock + 64;  // the second block takes over errors of the first
    const std::vector<float> x = normals(15, 12 * kColumns);
    const GptqFactor factor(rotated_moment(moment(14, kColumns)),
                            {.damping = 0.01, .activation_order = false, .sweeps = 0, .threads = 1});
    std::vector<float> rotated = x;
    rotate_weights(rotated, kColumns);
    const auto loss_of = [&](const TrellisCode& code, const std::vector<uint8_t>& bytes) {
        std::vector<float> error = decode_trellis(code, bytes, kColumns);
        for (size_t i = 0; i < error.size(); ++i) error[i] -= rotated[i];
        return factor.loss(error);
    };
    for (const uint32_t bits : {2u, 3u}) {
        const TrellisCode& code = trellis_code(bits, 8);
        const std::vector<uint8_t> chosen = quantize_trellis(factor, code, x, 1);
        EXPECT_LT(loss_of(code, chosen), (bits == 2 ? 0.29 : 0.26) * loss_of(code, encode_trellis(code, x, kColumns)))
            << bits;
        EXPECT_EQ(quantize_trellis(factor, code, x, 3), chosen);
    }
}

TEST(Trellis, WithADiagonalMomentCodesAreTheNearest) {
    constexpr Eigen::Index kColumns = 2 * kTrellisBlock;
    const std::vector<float> x = normals(16, 4 * kColumns);
    const GptqFactor factor(Eigen::MatrixXd::Identity(kColumns, kColumns) * 3,
                            {.damping = 0, .activation_order = false, .sweeps = 0, .threads = 1});
    const TrellisCode& code = trellis_code(3, 8);
    EXPECT_EQ(quantize_trellis(factor, code, x, 1), encode_trellis(code, x, kColumns));
}

// A matrix of the bundled model: its outputs suffer less from calibrated codes, and stay as near as was measured.
TEST(Trellis, OfAModel) {
    EngineOptions engine;
    engine.model = keel_test::source_path("samples/models/books-7m-f16.gguf");
    engine.threads = 1;
    const ModelFile source = open_model(engine.model);
    QuantizeRequest request;
    request.matrices = matrices_of(*source.model, *source.reader.get());
    request.types = TypeRules("blk.1.attn_output=F32,blk.0.attn_k=Q4_K").choose(request.matrices, source.model->spec);
    request.trellis = &trellis_code(3, 8);
    CalibrationOptions options;
    options.text = {keel_test::source_path("samples/models/books-val-sample.jsonl"), 2, 128};
    uint64_t hash = 0;
    const auto matrices = calibrate_matrices(
        engine, request, options, {}, [](const std::string&, uint64_t, uint64_t) {}, &hash);
    size_t calibrated = 0;
    for (size_t i = 0; i < matrices.size(); ++i) {
        if (matrices[i].bytes.empty()) continue;
        ++calibrated;
        EXPECT_LT(matrices[i].error, 0.7 * matrices[i].nearest_error) << request.matrices[i].name;
        if (request.types[i] != kernels::kF32) continue;
        const std::vector<float> values = matrix_values(source, request.matrices[i]),
                                 coded = decode_rows(kernels::kF32, matrices[i].bytes, request.matrices[i].columns);
        EXPECT_LT(relative_error(values, coded), 0.1);
    }
    EXPECT_EQ(calibrated, 2u);
}

}  // namespace
}  // namespace keel::tools
#endif
