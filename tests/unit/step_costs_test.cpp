// What a step of n tokens costs in steps of one: the plan says it, kernel sets of this machine are measured beside it.
// Times are the least of several turns, of the processor's time of this process, as machines that test are busy.
#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/tools/files/synth.h"
#include "tests/test_engine.h"
#include "tests/wproj_builder.h"

namespace {

using Costs = std::array<double, KEEL_STEP_COSTS>;  // of n + 1 tokens, in steps of one

class StepCosts : public testing::Test {
  protected:
    std::string path_ = testing::TempDir() + "keel_step_costs_" + std::to_string(getpid()) + ".gguf";
    void TearDown() override { std::filesystem::remove(path_); }

    void write_model(const std::string& mix) const {
        keel::tools::SynthSpec spec;
        spec.embedding = 512;
        spec.heads = 8;
        spec.feed_forward = 1536;
        spec.vocabulary = 4096;
        spec.mix = mix;
        keel::tools::synth_write(path_, spec);
    }
    static keel_config config(uint32_t cpu) {
        keel_config c = keel_test::sized<keel_config>();
        c.context_tokens = 64;
        c.threads = 1;
        c.logits_rows = KEEL_STEP_COSTS;
        c.cpu = static_cast<keel_cpu>(cpu);
        return c;
    }
};

Costs relative(const double* us) {
    Costs out;
    for (size_t n = 0; n < out.size(); ++n) out[n] = us[n] / us[0];
    return out;
}

TEST_F(StepCosts, GrowWithTheTokensAndWithoutAJump) {
    for (const char* mix : {"Q4_K_M", "Q8_0", "F16"}) {
        write_model(mix);
        for (uint32_t cpu = keel::kernels::kScalar; cpu < keel::kernels::kIsaLimit; ++cpu) {
            if (!keel::find_kernel_set(cpu)) continue;
            SCOPED_TRACE(std::string(mix) + " " + keel::find_kernel_set(cpu)->name);
            const keel_test::InspectedFile file(path_);
            const keel_config c = config(cpu);
            keel_memory_plan plan = keel_test::sized<keel_memory_plan>();
            keel_test::check(keel_plan(&file.reader, file.model, &c, &plan, nullptr), "keel_plan");
            double one = 0;
            for (const keel_op_info& op : keel_test::plan_ops(&file.reader, file.model, c)) one += op.predicted_us;
            EXPECT_NEAR(plan.step_us[0], one, one * 1e-9);
            const Costs cost = relative(plan.step_us);
            for (size_t n = 1; n < cost.size(); ++n) {
                EXPECT_GE(cost[n], cost[n - 1]);
                EXPECT_LE(cost[n] - cost[n - 1], 2);
                EXPECT_LE(cost[n], static_cast<double>(n + 1) * 1.01)
                    << "a step costs no more than its tokens one by one";
            }
            EXPECT_EQ(plan.low_rank_step_us[0], 0) << "there is no such variant";
        }
    }
}

// Other processors are emulated where this is tested, and sanitizers slow parts of a step more than others.
#if defined(__linux__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
double process_us() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

TEST_F(StepCosts, AreWhatStepsTake) {
    constexpr int kTurns = 12;
    // Those whose rates come from a machine and hold in its caches, as this model does. AVX-512's are of models beyond
    // them, the others' guesses: `keel bench --columns` is for these.
    constexpr uint32_t kKnown[] = {keel::kernels::kScalar, keel::kernels::kAvx2};
    constexpr size_t kMeasured[] = {1, 2, 4, 5, 8, 16};
    for (const char* mix : {"Q4_1", "Q4_K"}) {
        write_model(mix);
        for (const uint32_t cpu : kKnown) {
            if (!keel::find_kernel_set(cpu)) continue;
            SCOPED_TRACE(std::string(mix) + " " + keel::find_kernel_set(cpu)->name);
            keel_test::Engine engine(path_, config(cpu));
            double us[KEEL_STEP_COSTS];
            std::fill(std::begin(us), std::end(us), 1e30);
            for (int turn = 0; turn < (cpu == keel::kernels::kScalar ? 3 : kTurns); ++turn)
                for (const size_t tokens : kMeasured) {
                    engine.feed(std::vector<int32_t>(tokens, 7), KEEL_FEED_ALL_LOGITS);
                    const double begin = process_us();
                    engine.advance();
                    us[tokens - 1] = std::min(us[tokens - 1], process_us() - begin);
                    keel_test::check(keel_session_truncate(engine.session(), 0), "truncate");
                }
            const Costs measured = relative(us), planned = relative(engine.plan().step_us);
            for (const size_t tokens : kMeasured) {
                EXPECT_LT(measured[tokens - 1], planned[tokens - 1] * 2.2) << tokens;
                EXPECT_GT(measured[tokens - 1], planned[tokens - 1] / 2.2) << tokens;
            }
            EXPECT_LT(measured[4], measured[3] * 1.6) << "five tokens beside four";
        }
    }
}
#endif

}  // namespace
