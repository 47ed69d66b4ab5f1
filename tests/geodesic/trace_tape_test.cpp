// Trace tapes: what is written is read, and bytes that are no tape are refused.
#include "sdk/tools/lab/geodesic/trace_tape.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>

#include "sdk/tools/lab/geodesic/random.h"

namespace keel::geodesic {
namespace {

constexpr uint32_t kDim = 5;

std::vector<unsigned char> tape() {
    const TraceHeader header{.dim = kDim, .layer = 30, .width = 8, .fingerprint = 11, .tokenizer_hash = 12};
    std::vector<unsigned char> file(sizeof header);
    memcpy(file.data(), &header, sizeof header);
    const float state[kDim] = {1, -2, 0.5f, 65504, -0.0f};
    append_trace_step(file, 3, 70, state, 0.25f);
    append_trace_step(file, 4, 71, state, 1.5f);
    append_trace_step(file, 0, 1, state, 0);
    return file;
}

TEST(TraceTape, IsReadAsItWasWritten) {
    const std::vector<unsigned char> file = tape();
    EXPECT_EQ(file.size(), 40 + 3 * (4 + 4 + 2 * kDim + 4));
    TraceTape t;
    ASSERT_EQ(read_trace(file, &t), nullptr);
    ASSERT_EQ(t.steps, 3u);
    EXPECT_EQ(t.header.fingerprint, 11u);
    EXPECT_EQ(t.position(1), 4);
    EXPECT_EQ(t.token(1), 71);
    EXPECT_EQ(t.margin(1), 1.5f);
    float state[kDim];
    t.state(1, state);
    EXPECT_EQ(state[1], -2);
    EXPECT_EQ(state[3], 65504);
    EXPECT_TRUE(t.goes_on(0));
    EXPECT_FALSE(t.goes_on(1));  // position 0 begins another text
    EXPECT_FALSE(t.goes_on(2));
}

TEST(TraceTape, RefusesEveryOtherLengthAndWhatIsNoNumber) {
    const std::vector<unsigned char> good = tape();
    TraceTape t;
    const size_t step = trace_step_bytes(kDim);
    for (size_t bytes = 0; bytes < good.size(); ++bytes) {
        const bool whole = bytes >= 40 && (bytes - 40) % step == 0;
        EXPECT_EQ(read_trace(std::span(good).first(bytes), &t) == nullptr, whole) << bytes;
    }
    const auto with = [&](size_t at, std::vector<unsigned char> bytes) {
        std::vector<unsigned char> file = good;
        memcpy(&file[at], bytes.data(), bytes.size());
        return read_trace(file, &t) != nullptr;
    };
    EXPECT_TRUE(with(0, {'X'}));                           // magic
    EXPECT_TRUE(with(8, {2}));                             // version
    EXPECT_TRUE(with(12, {0}));                            // no dimensions
    EXPECT_TRUE(with(12, {9}));                            // more than the model has
    EXPECT_TRUE(with(20, {0xff, 0xff, 0xff, 0xff}));       // wider than any model
    EXPECT_TRUE(with(40, {0, 0, 0, 0x80}));                // position
    EXPECT_TRUE(with(44, {0, 0, 0, 0x80}));                // token
    EXPECT_TRUE(with(48, {0, 0x7c}));                      // an infinite state
    EXPECT_TRUE(with(40 + step - 4, {0, 0, 0xc0, 0x7f}));  // a margin that is NaN
}

TEST(TraceTape, ProjectionKeepsDistances) {
    Random random(1);
    std::vector<float> a(2000), b(2000);
    double exact = 0, projected = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        a[i] = static_cast<float>(random.normal()), b[i] = static_cast<float>(random.normal());
        exact += std::pow(a[i] - b[i], 2);
    }
    EXPECT_EQ(project_state(a, 2000), a);
    const std::vector<float> p = project_state(a, 512), q = project_state(b, 512);
    for (size_t i = 0; i < p.size(); ++i) projected += std::pow(p[i] - q[i], 2);
    EXPECT_NEAR(projected / 512 / (exact / 2000), 1, 0.2);
}

}  // namespace
}  // namespace keel::geodesic
