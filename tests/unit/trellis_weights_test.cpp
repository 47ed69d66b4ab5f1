// Models with trellis weights: products over rotated activations give what the decoded rows give, wherever such weights
// stand, and every placement of the weights the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "kernels/formats/numeric.h"
#include "sdk/tools/files/synth.h"
#include "sdk/tools/files/wproj_image.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace keel {
namespace {

using keel_test::check;
using keel_test::Logits;
using keel_test::sized;

class TrellisWeights : public testing::Test {
  protected:
    std::string path_ = keel_test::temp_path("trellis_weights.gguf");
    void TearDown() override { std::filesystem::remove(path_); }

    void synthesize(const std::string& mix, const std::vector<std::pair<std::string, std::string>>& overrides = {}) {
        tools::SynthSpec spec;
        spec.mix = mix;
        spec.overrides = overrides;
        spec.embedding = 256;
        spec.heads = 4;
        spec.kv_heads = 2;
        spec.head_dim = 64;
        spec.feed_forward = 512;
        spec.vocabulary = 512;
        tools::synth_write(path_, spec);
    }
    static keel_config config(keel_activation activation) {
        keel_config c = sized<keel_config>();
        c.context_tokens = 64;
        c.logits_rows = 16;
        c.threads = 2;
        c.activation = activation;
        return c;
    }
};

std::vector<int32_t> ids() {
    std::vector<int32_t> out;
    for (int32_t i = 0; i < 24; ++i) out.push_back(3 + i * 37 % 500);
    return out;
}
// Of all logits, relative to how they spread.
double distance(const Logits& a, const Logits& b) {
    double error = 0, square = 0;
    for (size_t i = 0; i < a.values.size(); ++i) {
        error += std::pow(double{a.values[i]} - double{b.values[i]}, 2);
        square += double{a.values[i]} * double{a.values[i]};
    }
    return std::sqrt(error / square);
}
bool same(const Logits& a, const Logits& b) {
    return a.values.size() == b.values.size() &&
           memcmp(a.values.data(), b.values.data(), a.values.size() * sizeof(float)) == 0;
}

// Random weights blow up what 8 bits lose: Q8_0 is the measure.
TEST_F(TrellisWeights, RotatedProductsAreThoseOfTheRows) {
    const auto lost = [&] {
        keel_test::Engine q8(path_, config(KEEL_ACTIVATION_Q8)), f32(path_, config(KEEL_ACTIVATION_F32));
        return distance(f32.logits_for(ids()), q8.logits_for(ids()));
    };
    synthesize("Q8_0");
    const double usual = lost();
    EXPECT_LT(usual, 0.1);
    using Overrides = std::vector<std::pair<std::string, std::string>>;
    for (const auto& [mix, overrides] : {std::pair<std::string, Overrides>{"WT2", {}},
                                         {"WT3", {}},
                                         {"WT3", {{"attn_v", "Q6_K"}, {"ffn_up", "Q8_0"}}},
                                         {"Q4_K", {{"ffn_down", "WT3"}, {"attn_output", "WT2"}}}}) {
        synthesize(mix, overrides);
        EXPECT_LT(lost(), 2 * usual) << mix << " with " << overrides.size();
    }
}

TEST_F(TrellisWeights, PlacementsAndStepsAgreeBitForBit) {
    synthesize("WT3", {{"ffn_up", "WT2"}});
    keel_config c = config(KEEL_ACTIVATION_Q8);
    keel_test::Engine first(path_, c);
    const Logits want = first.logits_for(ids());
    for (const keel_weights weights : {KEEL_WEIGHTS_COPY, KEEL_WEIGHTS_MAP, KEEL_WEIGHTS_REPACK})
        for (const uint32_t rows : {1u, 2u, 7u, 16u}) {
            c.weights = weights;
            c.logits_rows = rows;
            c.threads = 1 + rows % 2;
            EXPECT_TRUE(same(keel_test::Engine(path_, c).logits_for(ids()), want)) << weights << ' ' << rows;
        }
}

// Text drawn with drafts, right ones and some that end in a wrong one, is that of plain decoding, and so are the logits
// behind it.
TEST_F(TrellisWeights, DraftsChangeNoText) {
    synthesize("WT3", {{"ffn_up", "WT2"}});
    constexpr size_t kDrawn = 24;
    std::vector<std::vector<float>> plain_rows(kDrawn + 1);  // behind so much text
    const auto draw = [&](const std::vector<int32_t>& known, keel_session_info* info) {
        keel_config c = config(KEEL_ACTIVATION_Q8);
        c.draft_tokens = known.empty() ? 0 : 5;
        keel_test::Engine engine(path_, c);
        const keel_session s = engine.session();
        keel_sampling sampling = sized<keel_sampling>();
        sampling.temperature = 0.8f;
        sampling.seed = 5;
        check(keel_session_set_sampling(s, &sampling), "set_sampling");
        std::vector<int32_t> text, pending = ids();
        for (uint32_t step = 0; text.size() < kDrawn; ++step) {
            check(keel_session_feed(s, pending.data(), static_cast<uint32_t>(pending.size()), KEEL_FEED_SAMPLE),
                  "feed");
            if (!known.empty()) {
                std::vector<int32_t> guess(known.begin() + static_cast<ptrdiff_t>(text.size()), known.end());
                if (guess.size() > 1 + step % 5) guess.resize(1 + step % 5);
                if (step % 2) guess.back() ^= 1;
                check(keel_session_propose(s, guess.data(), static_cast<uint32_t>(guess.size())), "propose");
            }
            keel_advance_result result = sized<keel_advance_result>();
            check(keel_advance(engine.handle(), &s, 1, 0, &result), "advance");
            check(keel_session_get(s, info), "session_get");
            const int32_t* const end = info->tokens + info->token_count;
            text.insert(text.end(), end - result.accepted_tokens, end);
            const float* row;
            uint32_t vocabulary;
            check(keel_session_logits(s, 0, &row, &vocabulary), "logits");
            std::vector<float>& plain_row = plain_rows.at(text.size());
            if (known.empty()) plain_row.assign(row, row + vocabulary);
            EXPECT_EQ(0, memcmp(plain_row.data(), row, vocabulary * sizeof(float))) << text.size();
            pending.assign(1, 0);
            check(keel_session_sample(s, pending.data()), "sample");
            text.push_back(pending[0]);
        }
        text.resize(kDrawn);
        return text;
    };
    keel_session_info info = sized<keel_session_info>();
    const std::vector<int32_t> plain = draw({}, &info);
    EXPECT_EQ(plain, draw(plain, &info));
    EXPECT_GT(info.drafts_accepted, 8u);
    EXPECT_GT(info.drafts_computed, info.drafts_accepted);
}

// All that the file has of the matrices and no byte more, and the rotated rows beside others.
TEST_F(TrellisWeights, ArePlannedToTheByte) {
    synthesize("WT3", {{"attn_v", "Q6_K"}});
    const keel_test::InspectedFile file(path_);
    const std::vector<keel_buffer_info> buffers =
        keel_test::plan_buffers(&file.reader, file.model, config(KEEL_ACTIVATION_Q8));
    uint32_t rotated = 0, matrices = 0;
    for (const keel_buffer_info& b : buffers) {
        if (!strcmp(b.name, "attn_in.q8_rotated")) {
            ++rotated;
            const auto plain = std::find_if(buffers.begin(), buffers.end(), [](const keel_buffer_info& other) {
                return !strcmp(other.name, "attn_in.q8_256");
            });
            ASSERT_NE(plain, buffers.end());
            EXPECT_EQ(b.bytes, plain->bytes);
        }
        if (strcmp(b.name, "ffn_down.weight") != 0) continue;
        ++matrices;
        EXPECT_EQ(b.bytes, 256u * 2 * 98);
    }
    EXPECT_GT(rotated, 0u);
    EXPECT_GT(matrices, 0u);
}

// Factors of a W_proj cache may be trellis codes too: both products of the low-rank variant rotate what they read.
TEST_F(TrellisWeights, AreFactors) {
    synthesize("Q8_0");
    const keel_test::InspectedFile file(path_);
    tools::WprojImage image =
        keel_test::random_wproj(file, {.rank = 256, .basis_type = kernels::kF32, .record_type = kernels::kF32});
    std::mt19937 random(1);
    const auto recode = [&](std::vector<uint8_t>* matrix, uint32_t* type) {  // any bits are codes
        constexpr size_t kBytes = kernels::kWeightTypes[kernels::kWT3].block_bytes;
        matrix->resize(matrix->size() / sizeof(float) / 256 * kBytes);
        for (uint8_t& byte : *matrix) byte = static_cast<uint8_t>(random());
        const uint16_t d = kernels::f32_to_f16(0.0035f);
        for (size_t at = 0; at < matrix->size(); at += kBytes) memcpy(matrix->data() + at, &d, 2);
        *type = kernels::kWT3;
    };
    for (tools::WprojImageLayer& layer : image.layers) {
        for (tools::WprojImageBasis& b : layer.basis)
            if (b.rank) recode(&b.matrix, &b.type);
        for (tools::WprojImageRecord& r : layer.record)
            if (r.rank) recode(&r.matrix, &r.type);
    }
    const keel_test::WprojBytes cache(tools::encode_wproj_v2(image, 1));
    keel_wproj_options options = sized<keel_wproj_options>();
    const keel_part part = keel_test::part(KEEL_PART_WPROJ, &cache.reader, &options);
    const auto logits = [&](keel_activation activation, keel_variant variant) {
        keel_config c = config(activation);
        c.parts = &part;
        c.part_count = 1;
        keel_test::Engine engine(path_, c);
        keel_test::check(keel_session_set_variant(engine.session(), variant), "variant");
        return engine.logits_for(ids());
    };
    const double usual =
        distance(logits(KEEL_ACTIVATION_F32, KEEL_VARIANT_DENSE), logits(KEEL_ACTIVATION_Q8, KEEL_VARIANT_DENSE));
    EXPECT_LT(
        distance(logits(KEEL_ACTIVATION_F32, KEEL_VARIANT_LOW_RANK), logits(KEEL_ACTIVATION_Q8, KEEL_VARIANT_LOW_RANK)),
        3 * usual);
}

}  // namespace
}  // namespace keel
