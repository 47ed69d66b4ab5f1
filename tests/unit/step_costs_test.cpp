// What a step of n tokens costs in steps of one: the plan says it, kernel sets of this machine are measured beside it.
// Times are the least of several turns, of the processor's time of this process, as machines that test are busy.
#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>

#include "platform/platform.h"
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

    void write_model(const std::string& mix, uint32_t width = 512, uint32_t layers = 2) const {
        keel::tools::SynthSpec spec;
        spec.embedding = width;
        spec.layers = layers;
        spec.heads = 8;
        spec.feed_forward = 3 * width;
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

// Least times of steps of so many tokens, in steps of one. On a machine that other programs use some least times are
// not the least: while they are not `near` what is planned, they are taken again, and the smaller one counts.
template <class Near>
Costs measure(keel_test::Engine& engine, std::span<const size_t> tokens, int turns, const Near& near) {
    constexpr int kMostRounds = 6;
    double us[KEEL_STEP_COSTS];
    std::fill(std::begin(us), std::end(us), 1e30);
    for (int round = 0; round < kMostRounds && (round == 0 || !near(relative(us))); ++round)
        for (int turn = 0; turn < turns; ++turn)
            for (const size_t count : tokens) {
                engine.feed(std::vector<int32_t>(count, 7), KEEL_FEED_ALL_LOGITS);
                const double begin = process_us();
                engine.advance();
                us[count - 1] = std::min(us[count - 1], process_us() - begin);
                keel_test::check(keel_session_truncate(engine.session(), 0), "truncate");
            }
    return relative(us);
}
constexpr double kNear = 2.2;  // times more or less
bool all_near(const Costs& measured, const Costs& planned, std::span<const size_t> tokens) {
    return std::all_of(tokens.begin(), tokens.end(), [&](size_t n) {
        return measured[n - 1] < planned[n - 1] * kNear && measured[n - 1] > planned[n - 1] / kNear;
    });
}

// Sets whose rates come from a machine; the others' are guesses: `keel bench --columns` is for these.
constexpr uint32_t kKnown[] = {keel::kernels::kScalar, keel::kernels::kAvx2, keel::kernels::kAvx512,
                               keel::kernels::kAmx};

TEST_F(StepCosts, AreWhatStepsTake) {
    constexpr size_t kMeasured[] = {1, 2, 4, 5, 8, 16};
    for (const char* mix : {"Q4_1", "Q4_K"}) {
        write_model(mix);
        for (const uint32_t cpu : kKnown) {
            if (!keel::find_kernel_set(cpu)) continue;
            SCOPED_TRACE(std::string(mix) + " " + keel::find_kernel_set(cpu)->name);
            keel_test::Engine engine(path_, config(cpu));
            const Costs planned = relative(engine.plan().step_us),
                        measured =
                            measure(engine, kMeasured, cpu == keel::kernels::kScalar ? 3 : 12, [&](const Costs&now) {
                                return all_near(now, planned, kMeasured) && now[4] < now[3] * 1.6;
                            });
            for (const size_t tokens : kMeasured) {
                EXPECT_LT(measured[tokens - 1], planned[tokens - 1] * kNear) << tokens;
                EXPECT_GT(measured[tokens - 1], planned[tokens - 1] / kNear) << tokens;
            }
            EXPECT_LT(measured[4], measured[3] * 1.6) << "five tokens beside four";
        }
    }
}

// Weights that no cache holds, where drafts have to pay. That two tokens cost little more than one is what every draft
// rests on, whatever the memory gives, so they are held to more.
TEST_F(StepCosts, AreWhatStepsTakeFromMemory) {
    constexpr size_t kMeasured[] = {1, 2, 4, 8};
    write_model("Q4_1", 1024, 13);
    if (std::filesystem::file_size(path_) < 2 * keel::platform::last_level_cache_bytes())
        GTEST_SKIP() << "the last-level cache holds " << keel::platform::last_level_cache_bytes() << " bytes";
    for (const uint32_t cpu : kKnown) {
        if (cpu == keel::kernels::kScalar || !keel::find_kernel_set(cpu)) continue;
        SCOPED_TRACE(keel::find_kernel_set(cpu)->name);
        keel_test::Engine engine(path_, config(cpu));
        const Costs planned = relative(engine.plan().step_us),
                    measured = measure(engine, kMeasured, 12, [&](const Costs&now) {
                        return all_near(now, planned, kMeasured) && now[1] < planned[1] * 1.5;
                    });
        EXPECT_LT(measured[1], planned[1] * 1.5);
        for (const size_t tokens : kMeasured) {
            EXPECT_LT(measured[tokens - 1], planned[tokens - 1] * kNear) << tokens;
            EXPECT_GT(measured[tokens - 1], planned[tokens - 1] / kNear) << tokens;
        }
    }
}
#endif

}  // namespace
