// Frequencies of YaRN against transformers 5.24 (_compute_yarn_parameters): pairs that are kept, mixed and stretched.
// Logits of whole models, attention factors included: tests/data/architectures, qwen3-yarn and llama-yarn.
#include "sdk/plan/rope_frequencies.h"

#include <gtest/gtest.h>

#include <cmath>

namespace {

struct Pair {
    uint32_t index;
    double frequency;
};
struct Case {
    const char* name;
    uint32_t dims;
    double base, factor;
    keel::ModelSpec::Yarn yarn;
    Pair pairs[8];
};
const Case kCases[] = {
    {"Qwen with four times its context",
     128,
     1e6,
     4,
     {1, 32, 1, 32768},
     {{0, 1.0},
      {1, 0.8058422207832336},
      {16, 0.03162277862429619},
      {21, 0.010746078565716743},
      {32, 0.0006029411451891065},
      {36, 0.0001798411540221423},
      {54, 2.1649109385180054e-06},
      {63, 3.102344408034696e-07}}},
    {"other turns",
     64,
     5e5,
     8,
     {1, 16, 4, 8192},
     {{0, 1.0},
      {1, 0.663601279258728},
      {8, 0.03760603070259094},
      {13, 0.0022987250704318285},
      {16, 0.00017677668074611574},
      {20, 3.428102354519069e-05},
      {22, 1.5096217794052791e-05},
      {31, 3.76732259610435e-07}}},
    {"a large factor",
     64,
     1e4,
     40,
     {1, 32, 1, 4096},
     {{0, 1.0},
      {1, 0.7498942017555237},
      {8, 0.10000000149011612},
      {13, 0.01837814413011074},
      {16, 0.005500000435858965},
      {20, 0.0007905694073997438},
      {22, 0.00017782794020604342},
      {31, 3.3338035336782923e-06}}},
};

keel::ModelSpec spec_of(const Case& c) {
    keel::ModelSpec s = {};
    s.rope_dims = c.dims;
    s.rope_base = c.base;
    s.rope_base_local = 1e4;
    s.rope_linear_factor = c.factor;
    s.yarn = c.yarn;
    return s;
}

TEST(RopeFrequencies, YarnIsThatOfTransformers) {
    for (const Case& c : kCases)
        for (const Pair& pair : c.pairs) {
            const double ours = keel::rope_frequency(spec_of(c), false, pair.index, 1);
            EXPECT_NEAR(ours / pair.frequency, 1, 1e-6) << c.name << ", pair " << pair.index;
        }
}

// Half of what is kept: half way between the interpolated frequency and YaRN's. Nothing changes local frequencies.
TEST(RopeFrequencies, YarnInPart) {
    keel::ModelSpec whole = spec_of(kCases[0]), half = whole, none = whole;
    half.yarn.extrapolation = 0.5f;
    none.yarn.extrapolation = 0;
    for (uint32_t pair = 0; pair < 64; ++pair) {
        const double expected =
            (keel::rope_frequency(whole, false, pair, 2) + keel::rope_frequency(none, false, pair, 2)) / 2;
        EXPECT_NEAR(keel::rope_frequency(half, false, pair, 2) / expected, 1, 1e-12);
        EXPECT_NEAR(keel::rope_frequency(none, false, pair, 2) * std::pow(1e6, pair / 64.0), 0.125, 1e-12);
        EXPECT_NEAR(keel::rope_frequency(whole, true, pair, 2) * std::pow(1e4, pair / 64.0), 1, 1e-12);
    }
}

// A trained context so long or short that every pair is kept, or stretched.
TEST(RopeFrequencies, YarnAtItsEnds) {
    keel::ModelSpec s = spec_of(kCases[0]);
    s.yarn.original_context = UINT32_MAX;
    s.yarn.fast_turns = s.yarn.slow_turns = 1e-30f;
    EXPECT_NEAR(keel::rope_frequency(s, false, 60, 1) * std::pow(1e6, 60 / 64.0), 1, 1e-12);
    s.yarn.original_context = 1;
    s.yarn.fast_turns = s.yarn.slow_turns = 3e38f;
    EXPECT_NEAR(keel::rope_frequency(s, false, 60, 1) * std::pow(1e6, 60 / 64.0), 0.25, 1e-12);
}

}  // namespace
