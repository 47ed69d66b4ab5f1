// keel_lab_op_times on the CPU: every op of a step once, in order, within the time that the step took.
#include <gtest/gtest.h>

#include <chrono>

#include "keel/keel_lab.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::Engine;
using keel_test::sized;

std::vector<keel_lab_op_time> op_times(const Engine& engine) {
    uint32_t count = 0;
    check(keel_lab_op_times(engine.handle(), nullptr, 0, &count), "keel_lab_op_times");
    std::vector<keel_lab_op_time> times(count, sized<keel_lab_op_time>());
    check(keel_lab_op_times(engine.handle(), times.data(), count, &count), "keel_lab_op_times");
    return times;
}

TEST(OpTimes, CoverAStep) {
    keel_config config = sized<keel_config>();
    config.context_tokens = 128;
    config.threads = 2;
    Engine engine(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"), config);
    engine.feed(std::vector<int32_t>(40, 5));
    engine.advance();
    EXPECT_EQ(op_times(engine).size(), 0u) << "nobody asked for them";
    check(keel_lab_time_ops(engine.handle(), 1), "keel_lab_time_ops");
    for (const uint32_t tokens : {1u, 30u})
        for (const uint64_t budget_us : {0ull, 1ull}) {
            engine.feed(std::vector<int32_t>(tokens, 7));
            keel_advance_result result = sized<keel_advance_result>();
            keel_session session = engine.session();
            const auto start = std::chrono::steady_clock::now();
            keel_status status;
            while ((status = keel_advance(engine.handle(), &session, 1, budget_us, &result)) == KEEL_AGAIN) {
                EXPECT_EQ(op_times(engine).size(), 0u) << "of a step that is not done";
                EXPECT_EQ(keel_lab_time_ops(engine.handle(), 0), KEEL_E_BUSY);
            }
            ASSERT_EQ(status, KEEL_OK);
            const double step_us =
                std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
            uint32_t next = 0;
            double sum_us = 0;
            const auto times = op_times(engine);
            for (const keel_lab_op_time& t : times) {
                EXPECT_EQ(t.op, next);
                next += t.ops;
                EXPECT_DOUBLE_EQ(t.begin_us, sum_us);
                EXPECT_GE(t.us, 0);
                EXPECT_GT(t.predicted_us, 0);
                sum_us += t.us;
            }
            EXPECT_GT(sum_us, 0);
            EXPECT_LE(sum_us, step_us);
            keel_memory_plan plan = engine.plan();
            EXPECT_EQ(next, plan.op_count);
            // A smaller array gets the first of them.
            uint32_t count = 0;
            keel_lab_op_time first = sized<keel_lab_op_time>();
            EXPECT_EQ(keel_lab_op_times(engine.handle(), &first, 1, &count), KEEL_E_BUFFER_TOO_SMALL);
            EXPECT_EQ(count, times.size());
            EXPECT_EQ(first.ops, times[0].ops);
            count = 0;
            EXPECT_EQ(keel_lab_op_times(engine.handle(), nullptr, 5, &count), KEEL_OK) << "as for keel_plan_ops";
            EXPECT_EQ(count, times.size());
        }
    check(keel_lab_time_ops(engine.handle(), 0), "keel_lab_time_ops");
    EXPECT_EQ(op_times(engine).size(), 0u);
    EXPECT_EQ(keel_lab_op_times(engine.handle(), nullptr, 0, nullptr), KEEL_E_ARGUMENT);
}

}  // namespace
