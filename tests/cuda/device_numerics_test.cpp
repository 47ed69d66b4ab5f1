// KEEL_NUMERICS_DEVICE on the device under test, or on the fakes of driver and library: near the contract's results,
// and the same for the same steps. Skipped where the library is not found, and where the CPU computes layers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <optional>

#include "sdk/backend/cpu/cpu_backend.h"
#include "sdk/tools/files/synth.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::Engine;
using keel_test::Logits;
using keel_test::sized;

std::vector<int32_t> tokens(uint32_t count) {
    std::vector<int32_t> ids(count);
    for (uint32_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((7 + i * 37) % 200 + 3);
    return ids;
}

class DeviceNumerics : public testing::Test {
  protected:
    // Logits of every position of `ids`, in steps of at most `chunk` tokens, calls with a budget.
    std::optional<Logits> logits(const std::string& path, const std::vector<int32_t>& ids, keel_numerics numerics,
                                 uint32_t chunk = 100, uint64_t budget_us = 0) {
        static const keel_backend cpu = {keel::kCpuBackend};
        keel_config config = sized<keel_config>();
        config.context_tokens = 256;
        config.chunk_tokens = config.logits_rows = chunk;
        config.numerics = numerics;
        if (numerics == KEEL_NUMERICS_DEFAULT) config.backend = &cpu;
        try {
            Engine engine(path, config);
            Logits out = {0, engine.info().vocabulary, {}};
            engine.feed(ids, KEEL_FEED_ALL_LOGITS);
            keel_advance_result result = sized<keel_advance_result>();
            keel_session session = engine.session();
            do {
                const keel_status status = keel_advance(engine.handle(), &session, 1, budget_us, &result);
                if (status == KEEL_AGAIN) continue;
                check(status, "keel_advance");
                const uint32_t fresh = result.computed_tokens - out.rows;  // the newest rows are this step's
                for (uint32_t row = result.logits_rows - fresh; row < result.logits_rows; ++row)
                    out.values.insert(out.values.end(), engine.row(row), engine.row(row) + out.vocabulary);
                out.rows += fresh;
            } while (out.rows < ids.size());
            return out;
        } catch (const keel_test::Error& error) {
            if (numerics != KEEL_NUMERICS_DEVICE || (error.status != KEEL_E_UNSUPPORTED && !missing(error))) throw;
            return std::nullopt;
        }
    }
    static bool missing(const keel_test::Error& error) {
        return error.status == KEEL_E_DEVICE && std::string(error.what()).find("'cuBLASLt'") != std::string::npos;
    }
    std::string synthetic(const char* type) {
        keel::tools::SynthSpec spec;
        spec.embedding = 96;
        spec.heads = 3;
        spec.kv_heads = 1;
        spec.head_dim = 32;
        spec.feed_forward = 160;
        spec.vocabulary = 512;
        spec.mix = type;
        made_.push_back(keel_test::temp_path(std::string(type) + ".gguf"));
        keel::tools::synth_write(made_.back(), spec);
        return made_.back();
    }
    void TearDown() override {
        for (const std::string& path : made_) std::remove(path.c_str());
    }
    std::vector<std::string> made_;
};

TEST_F(DeviceNumerics, LogitsAreNearTheContracts) {
    const std::vector<int32_t> ids = tokens(90);
    const std::string models[] = {keel_test::source_path("tests/data/architectures/llama-linear.gguf"),
                                  keel_test::source_path("tests/data/architectures/qwen2-mqa-tied.gguf"),  // biases
                                  synthetic("F16"), synthetic("BF16")};
    for (const std::string& model : models) {
        const std::optional<Logits> got = logits(model, ids, KEEL_NUMERICS_DEVICE),
                                    want = logits(model, ids, KEEL_NUMERICS_DEFAULT);
        if (!got) GTEST_SKIP() << "no library, or layers on the CPU";
        double worst = 0;
        for (uint32_t row = 0; row < want->rows; ++row) {
            double largest = 0, off = 0;
            for (uint32_t i = 0; i < want->vocabulary; ++i) {
                largest = std::max<double>(largest, std::fabs(want->row(row)[i]));
                off = std::max<double>(off, std::fabs(want->row(row)[i] - got->row(row)[i]));
            }
            worst = std::max(worst, std::isfinite(off) ? off / largest : INFINITY);
        }
        EXPECT_LT(worst, model.ends_with("BF16.gguf") ? 0.05 : 0.01) << model;
        EXPECT_GT(worst, 1e-6) << model << ": the library took no part";
    }
}

TEST_F(DeviceNumerics, SameStepsHaveTheSameBits) {
    const std::vector<int32_t> ids = tokens(85);
    const std::string model = synthetic("F16");
    const std::optional<Logits> want = logits(model, ids, KEEL_NUMERICS_DEVICE);
    if (!want) GTEST_SKIP() << "no library, or layers on the CPU";
    for (const uint64_t budget_us : {0u, 1u})
        EXPECT_EQ(logits(model, ids, KEEL_NUMERICS_DEVICE, 100, budget_us)->values, want->values) << budget_us;
    // Steps of up to 8 tokens are the contract's.
    EXPECT_EQ(logits(model, tokens(20), KEEL_NUMERICS_DEVICE, 8)->values,
              logits(model, tokens(20), KEEL_NUMERICS_DEFAULT, 8)->values);
}

}  // namespace
