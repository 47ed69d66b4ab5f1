// The trellises of more states (sdk/tools/lab/codecs/long_trellis_codec.cpp): with 8-bit states the tcq formats
// themselves, the search against every path, the layout read by another reader, and errors of Gaussian rows.
#include <gtest/gtest.h>
#include <math.h>

#include <limits>
#include <stdexcept>

#include "sdk/tools/lab/codecs/kv_codec.h"
#include "sdk/tools/lab/codecs/long_trellis_tables.h"
#include "sdk/tools/lab/codecs/trellis_search.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

using keel::tools::KvCodec;
using keel::tools::KvCodecContext;

constexpr uint32_t kGaussianRows = 400;
constexpr double kGaussianTolerance = 0.02;

KvCodecContext context_of(uint32_t head_dim) {
    KvCodecContext context;
    context.head_dim = head_dim;
    return context;
}
std::vector<uint8_t> encoded(const KvCodec& codec, const std::vector<float>& row) {
    std::vector<uint8_t> bytes;
    codec.encode(row.data(), 1, context_of(static_cast<uint32_t>(row.size())), bytes);
    return bytes;
}
std::vector<float> decoded(const KvCodec& codec, const std::vector<uint8_t>& bytes, uint32_t n) {
    std::vector<float> row(n);
    codec.decode(bytes, 1, context_of(n), row.data());
    return row;
}
double squared_error(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    return sum;
}
std::string spec_of(int state_bits, int bits) {
    return "tcq" + std::to_string(state_bits) + "-" + std::to_string(bits);
}
std::vector<float> table_of(const keel::tools::LongTrellisTable& t) {
    std::vector<float> value;
    for (size_t s = 0; s < t.table.size() / 2; ++s)
        value.push_back(
            static_cast<float>(static_cast<int8_t>(std::stoi(std::string(t.table.substr(2 * s, 2)), nullptr, 16))));
    return value;
}

TEST(KvCodecsTrellis, BytesAreThoseOfTheFormats) {
    for (const int state_bits : {8, 10, 12})
        for (const int bits : {2, 3, 4}) {
            if (state_bits == 12 && bits == 4) continue;
            const auto codec = keel::tools::make_kv_codec(spec_of(state_bits, bits));
            ASSERT_NE(codec, nullptr);
            for (const uint32_t n : {64u, 80u, 128u, 256u})
                EXPECT_EQ(encoded(*codec, std::vector<float>(n, 1.0f)).size(), n * static_cast<uint32_t>(bits) / 8 + 2)
                    << codec->name() << " " << n;
            EXPECT_THROW(encoded(*codec, std::vector<float>(60)), std::invalid_argument);
            EXPECT_THROW(encoded(*codec, std::vector<float>(264)), std::invalid_argument);
        }
    for (const char* spec :
         {"tcq-3", "tcq9-3", "tcq10-5", "tcq10-1", "tcq10-", "tcq10", "tcq10-3:", "tcq010-3", "tcq14-3", "tcq12-4"})
        EXPECT_EQ(keel::tools::make_kv_codec(spec), nullptr) << spec;
}

TEST(KvCodecsTrellis, EightBitStatesAreTheFormats) {
    Random random(61);
    const KernelSet* set = &kScalarSet;
    for (const KvFormat f : {kKvTcq2, kKvTcq3, kKvTcq4}) {
        const auto codec = keel::tools::make_kv_codec(spec_of(8, kKvFormats[f].bits));
        for (const uint32_t n : {64u, 80u, 128u}) {
            int same = 0;
            for (int round = 0; round < 20; ++round) {
                const std::vector<float> row = random.normals(n);
                std::vector<float> x = row;
                set->kv_rotate(x.data(), n);
                std::vector<uint8_t> bytes(kv_code_bytes(f, n) + 2);
                set->kv_encode[f](x.data(), n, KvScaleMode::kLeastSquares, bytes.data(),
                                  bytes.data() + kv_code_bytes(f, n));
                const std::vector<float> own = decoded(*codec, bytes, n);
                set->kv_decode[f](bytes.data(), bytes.data() + kv_code_bytes(f, n), n, x.data());
                set->kv_unrotate(x.data(), n);
                ASSERT_TRUE(same_floats(x.data(), own.data(), n)) << codec->name() << " " << n;
                // The searches differ by the rounding of their sums alone: another path has to be as good.
                const std::vector<uint8_t> own_bytes = encoded(*codec, row);
                same += own_bytes == bytes;
                const double error = squared_error(row, own);
                ASSERT_NEAR(squared_error(row, decoded(*codec, own_bytes, n)), error, 1e-4 * error)
                    << codec->name() << " " << n;
            }
            EXPECT_GE(same, 19) << codec->name() << " " << n;
        }
    }
}

// Every path of three elements whose last state is below 256.
template <int kStateBits, int kBits>
void check_search(Random& random, const std::vector<float>& value) {
    constexpr int kStates = 1 << kStateBits;
    for (int round = 0; round < 5; ++round) {
        float x[3];
        for (float& v : x) v = random.normal() * 40;
        double best = std::numeric_limits<double>::infinity();
        for (int s2 = 0; s2 < 256; ++s2)
            for (int w1 = 0; w1 < 1 << kBits; ++w1)
                for (int w0 = 0; w0 < 1 << kBits; ++w0) {
                    const int s1 = (s2 << kBits | w1) % kStates, s0 = (s1 << kBits | w0) % kStates;
                    const double a = x[2] - value[static_cast<size_t>(s2)], b = x[1] - value[static_cast<size_t>(s1)],
                                 c = x[0] - value[static_cast<size_t>(s0)];
                    best = std::min(best, a * a + b * b + c * c);
                }
        uint16_t state[3];
        keel::tools::search_trellis<kStateBits, kBits>(x, 3, value.data(), state);
        ASSERT_LT(state[2], 256);
        double found = 0;
        for (int i = 0; i < 3; ++i) {
            found += (double{x[i]} - value[state[i]]) * (double{x[i]} - value[state[i]]);
            if (i < 2) {
                ASSERT_EQ(state[i] >> kBits, state[i + 1] % (kStates >> kBits));
            }
        }
        ASSERT_NEAR(found, best, 1e-5 * (best + 1)) << kStateBits << " " << kBits;
    }
}
TEST(KvCodecsTrellis, SearchIsExact) {
    Random random(62);
    for (const keel::tools::LongTrellisTable& t : keel::tools::kLongTrellisTables) {
        const std::vector<float> value = table_of(t);
        ASSERT_EQ(value.size(), size_t{1} << t.state_bits);
        if (t.state_bits == 10 && t.bits == 2) check_search<10, 2>(random, value);
        if (t.state_bits == 10 && t.bits == 4) check_search<10, 4>(random, value);
        if (t.state_bits == 12 && t.bits == 3) check_search<12, 3>(random, value);
    }
}

// The row as a string of bits: the codes, the start bits, zeros. State i is the window at bit i * b.
TEST(KvCodecsTrellis, StatesAreWindowsOfTheCodes) {
    Random random(63);
    for (const keel::tools::LongTrellisTable& t : keel::tools::kLongTrellisTables) {
        const auto codec = keel::tools::make_kv_codec(spec_of(t.state_bits, t.bits));
        const std::vector<float> value = table_of(t);
        constexpr uint32_t n = 64;
        const uint32_t bits = static_cast<uint32_t>(t.bits), state_bits = static_cast<uint32_t>(t.state_bits);
        std::vector<uint8_t> bytes(n * bits / 8 + 2);
        for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.bits());
        bytes[bytes.size() - 1] = 0x3c;  // a scale that is finite whatever the other byte
        const uint32_t field = bytes[bytes.size() - 2] | 0x3c00;
        std::vector<uint32_t> text;
        for (uint32_t i = 0; i < n * bits; ++i) text.push_back(bytes[i / 8] >> i % 8 & 1);
        for (uint32_t i = 0; i < 8 - bits; ++i) text.push_back(field >> i & 1);
        text.resize(text.size() + state_bits - 8);
        const float scale = f16_to_f32(static_cast<uint16_t>(field >> (8 - bits) << (7 - bits)));
        std::vector<float> row(n);
        for (uint32_t i = 0; i < n; ++i) {
            uint32_t state = 0;
            for (uint32_t k = 0; k < state_bits; ++k) state |= text[i * bits + k] << k;
            row[i] = scale * value[state];
        }
        kScalarSet.kv_unrotate(row.data(), n);
        EXPECT_EQ(decoded(*codec, bytes, n), row) << codec->name();
    }
}

// Relative squared errors of Gaussian rows. 10-bit states were asked for 0.0707, 0.0195 and 0.0053 at 128 elements;
// annealed tables do better, and no trellis does better than 4^-b.
TEST(KvCodecsTrellis, MoreStatesLeaveLess) {
    for (const int bits : {2, 3, 4}) {
        double error[3] = {};
        const int kinds = bits == 4 ? 2 : 3;
        for (int i = 0; i < kinds; ++i) {
            const auto codec = keel::tools::make_kv_codec(spec_of(8 + 2 * i, bits));
            Random random(64);
            double left = 0, all = 0;
            for (uint32_t r = 0; r < kGaussianRows; ++r) {
                const std::vector<float> row = random.normals(128);
                left += squared_error(row, decoded(*codec, encoded(*codec, row), 128));
                all += squared_error(row, std::vector<float>(128));
            }
            error[i] = left / all;
            EXPECT_GT(error[i], pow(0.25, bits)) << codec->name();
        }
        EXPECT_LT(error[1], 0.99 * error[0]) << bits;
        if (kinds == 3) {
            EXPECT_LT(error[2], 0.99 * error[1]) << bits;
        }
        const double asked[] = {0.0707, 0.0195, 0.0053};
        EXPECT_LT(error[1], asked[bits - 2] * (1 + kGaussianTolerance)) << bits;
        EXPECT_GT(error[1], asked[bits - 2] * 0.9) << bits;
    }
}

}  // namespace
}  // namespace keel_test
