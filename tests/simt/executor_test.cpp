// The executor itself: orders, meetings, asynchronous copies, and the mistakes it must name.
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <set>

#include "tests/simt/simt.h"
#include "tests/simt/small_kernels.h"

namespace {

using namespace small_kernels;
using simt::Options;
using simt::Order;

constexpr uint32_t kThreads = 64, kBlocks = 3;

struct Outcome {
    std::vector<uint32_t> out = std::vector<uint32_t>(kThreads * kBlocks + 2);
    std::string error;
};
Outcome run(simt::Kernel kernel, Options options = {}, uint32_t shared_bytes = 4 * kThreads * 4, uint32_t n = 0) {
    static std::vector<uint32_t> from = [] {
        std::vector<uint32_t> v(kThreads * kBlocks * 4 + 4);
        std::iota(v.begin(), v.end(), 1000);
        return v;
    }();
    Outcome r;
    const uint32_t* aligned = from.data() + (16 - reinterpret_cast<uintptr_t>(from.data()) % 16) % 16 / 4;
    const Args args = {r.out.data(), aligned, n};
    r.error = simt::launch(kernel, {kBlocks}, {kThreads}, shared_bytes, &args, options);
    return r;
}
::testing::AssertionResult fails_with(const Outcome& r, const char* text) {
    if (r.error.find(text) != std::string::npos) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "'" << r.error << "', not '" << text << "'";
}

TEST(Executor, OrdersDifferAndRunEveryThreadOnce) {
    if (simt::checks_races()) GTEST_SKIP() << "the kernel counts without a barrier";
    std::set<std::vector<uint32_t>> seen;
    for (Order order : {Order::kForward, Order::kReverse, Order::kRandom})
        for (uint64_t seed : {1, 2}) {
            Options options;
            options.order = order;
            options.seed = seed;
            Outcome r = run(writes_turn, options);
            EXPECT_EQ(r.error, "");
            EXPECT_EQ(r.out[kThreads * kBlocks], kThreads * kBlocks);
            EXPECT_EQ(std::set<uint32_t>(r.out.begin(), r.out.end() - 2).size(), kThreads * kBlocks);
            seen.insert(r.out);
        }
    EXPECT_EQ(seen.size(), 4u) << "two of random orders, one of each of the others";
}

TEST(Executor, RunsAGridInPieces) {
    Options options;
    options.first_block = 1;
    options.blocks = 1;
    const Outcome r = run(exchanges, options);
    EXPECT_EQ(r.error, "");
    for (uint32_t i = 0; i < kThreads * kBlocks; ++i)
        EXPECT_EQ(r.out[i], i / kThreads == 1 ? kThreads + (kThreads - 1 - i % kThreads) : 0) << i;
}

TEST(Executor, NamesThreadsThatDoNotMeet) {
    EXPECT_TRUE(fails_with(run(meets_in_two_barriers), "threads meet in different barriers"));
    EXPECT_TRUE(fails_with(run(leaves_before_barrier), "threads wait for others that never come"));
    EXPECT_TRUE(fails_with(run(leaves_before_shuffle), "a lane ended before its warp's collective call"));
    EXPECT_TRUE(fails_with(run(shuffles_in_two_places), "lanes of a warp meet in different calls"));
    EXPECT_TRUE(fails_with(run(exchanges_between_blocks), "a grid barrier in a launch that is not cooperative"));
    // Where it happened.
    EXPECT_TRUE(fails_with(run(meets_in_two_barriers), "small_kernels.cpp:"));
}

TEST(Executor, SharedMemoryIsNanAndExact) {
    EXPECT_EQ(run(reads_what_nobody_wrote).out[5], 0xffffffffu);
    EXPECT_EQ(run(writes_behind_shared_memory, {}, 1024, 1023).error, "");
#if !defined(__SANITIZE_ADDRESS__)
    EXPECT_TRUE(fails_with(run(writes_behind_shared_memory, {}, 1024, 1024), "written 0 bytes behind shared memory"));
#else
    EXPECT_DEATH(run(writes_behind_shared_memory, {}, 1024, 1024), "heap-buffer-overflow");
#endif
}

TEST(Executor, CopiesArriveAtTheWait) {
    const Outcome whole = run(copies);
    EXPECT_EQ(whole.error, "");
    for (uint32_t i = 0; i < kThreads * kBlocks; ++i) EXPECT_EQ(whole.out[i], whole.out[0] + i);
    EXPECT_TRUE(fails_with(run(copies_without_commit), "a thread ended with cp.async pending"));
    EXPECT_TRUE(fails_with(run(copies_without_wait), "a thread ended with cp.async pending"));
    EXPECT_TRUE(fails_with(run(copies_to_odd_place), "no multiples of its size"));
    if (!simt::checks_races()) {
        EXPECT_EQ(run(copies_and_reads_at_once).out[5], 0xffffffffu) << "not there before the wait";
    }
}

TEST(Executor, GridBarriersRunAllBlocks) {
    Options options;
    options.cooperative = true;
    for (Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
        options.order = order;
        const Outcome r = run(exchanges_between_blocks, options);
        EXPECT_EQ(r.error, "");
        for (uint32_t i = 0; i < kThreads * kBlocks; ++i) EXPECT_EQ(r.out[i], kThreads * kBlocks - 1 - i);
    }
}

TEST(Executor, KnowsTheLastBlock) {
    for (Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
        Options options;
        options.order = order;
        const Outcome r = run(last_block_reads_all, options);
        EXPECT_EQ(r.error, "");
        EXPECT_EQ(r.out[kThreads * kBlocks], 0u) << "the counter";
        uint32_t changed = 0;
        for (uint32_t i = 0; i < kThreads * kBlocks; ++i) changed += r.out[i] == (i ? i - 1 : kThreads * kBlocks - 1);
        EXPECT_EQ(changed, kThreads) << "one block's";
    }
}

TEST(Executor, BlocksWaitForThoseThatBegan) {
    for (Order order : {Order::kForward, Order::kReverse, Order::kRandom})
        for (const bool together : {false, true}) {
            Options options;
            options.order = order;
            options.cooperative = together;
            const auto of = [&](uint32_t wrong) {
                return run(adds_to_the_first_block, options, 4 * kThreads * 4, wrong);
            };
            const Outcome r = of(0);
            EXPECT_EQ(r.error, "");
            EXPECT_EQ(r.out[kThreads * kBlocks], 0u) << "tickets";
            EXPECT_EQ(r.out[kThreads * kBlocks + 1], 1u);
            for (uint32_t i = 0; i < kThreads * kBlocks; ++i) EXPECT_EQ(r.out[i], i < kThreads ? 1u : 2u) << i;
            EXPECT_TRUE(fails_with(of(3), "threads wait for others that never come"));
            if (!together) {
                EXPECT_TRUE(fails_with(of(4), "a counter is beyond all that is awaited"));
            }
        }
}

TEST(Executor, Votes) {
    EXPECT_EQ(run(votes).out[40], 0x55555555u);
}

TEST(Executor, TurnsArePassedOn) {
    for (Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
        Options options;
        options.order = order;
        const Outcome r = run(takes_turns, options);
        EXPECT_EQ(r.error, "");
        for (uint32_t i = 0; i < kThreads * kBlocks; ++i) EXPECT_EQ(r.out[i], i / 32 % 2 ? 34u : 21u) << i;
        const auto wrong = [&](uint32_t how) { return run(takes_turns, options, 4 * kThreads * 4, how); };
        EXPECT_TRUE(fails_with(wrong(2), "a turn is passed on before the one before was taken"));
        EXPECT_TRUE(fails_with(wrong(3), "a block ended with a turn that nobody took"));
        EXPECT_TRUE(fails_with(wrong(4), "threads wait for others that never come"));
        EXPECT_TRUE(fails_with(wrong(5), "a block meets in the barrier in which warp 0 takes its turn"));
    }
}

TEST(Executor, RunsTheLaunchBeforeWhenItIsWaitedFor) {
    alignas(16) uint32_t from[4] = {7};
    std::vector<uint32_t> out(2 * kThreads);
    const Args args = {out.data(), from, 0};
    Options options;
    uint32_t calls = 0;
    options.before = [&] {
        const Args within = {out.data(), from, 0};
        std::vector<uint32_t> elsewhere(kThreads);
        const Args votes_args = {elsewhere.data(), from, 0};
        EXPECT_EQ(simt::launch(votes, {1}, {kThreads}, 0, &votes_args), "") << "a launch within a launch";
        EXPECT_EQ(within.out[0], 0u) << "no thread has gone on";
        from[0] = 9;
        ++calls;
    };
    EXPECT_EQ(simt::launch(reads_around_the_wait, {2}, {kThreads}, kThreads * 16, &args, options), "");
    EXPECT_EQ(calls, 1u);
    for (uint32_t i = 0; i < 2 * kThreads; ++i) EXPECT_EQ(out[i], i < kThreads && i % kThreads % 3 != 2 ? 7u : 9u) << i;
    options.before = [] {};
    EXPECT_TRUE(fails_with(run(votes, options), "no thread waits for the launch before"));
}

TEST(Executor, NamesAStackThatIsTooSmall) {
#if !defined(__SANITIZE_ADDRESS__)
    EXPECT_TRUE(fails_with(run(needs_much_stack), "a thread's stack is too small"));
#endif
}

TEST(Executor, RefusesShapesNoGpuTakes) {
    const Args args = {};
    EXPECT_NE(simt::launch(votes, {1}, {33}, 0, &args), "");
    EXPECT_NE(simt::launch(votes, {1}, {2048}, 0, &args), "");
    EXPECT_NE(simt::launch(votes, {0}, {32}, 0, &args), "");
}

// What a missing line leaves behind is what the kernel without it computes.
TEST(Executor, MutationsLeaveCallsOut) {
    const auto line_of = [](const char* text) {
        std::ifstream source(KEEL_SOURCE_DIR "/tests/simt/small_kernels.cpp");
        std::string line;
        for (uint32_t n = 1; std::getline(source, line); ++n)
            if (line.find(text) != std::string::npos) return n;
        return 0u;
    };
    const uint32_t shuffle = line_of("const uint32_t all = shuffle"), commit = line_of("copy_commit();");
    simt::set_mutation({"small_kernels.cpp", shuffle, false});
    Options options;
    options.order = Order::kReverse;
    const Outcome r = run(exchanges_in_warps_by_shuffle, options);
    simt::set_mutation({"small_kernels.cpp", commit, false});
    const Outcome copied = run(copies);
    simt::set_mutation({"small_kernels.cpp", commit + 1, true});
    const Outcome waited = run(copies);
    simt::set_mutation({});
    if (!simt::checks_races()) {
        EXPECT_EQ(r.out[1], 0xffffffffu) << "lane 1 ran before lane 0, whose word it reads";
    }
    EXPECT_TRUE(fails_with(copied, "cp.async pending"));
    EXPECT_TRUE(fails_with(waited, "cp.async pending"));
    EXPECT_EQ(run(copies).error, "");
}

}  // namespace
