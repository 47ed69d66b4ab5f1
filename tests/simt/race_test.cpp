// The race checker: kernels whose values may be right in every order, and which are wrong all the same.
#include <gtest/gtest.h>

#include "tests/simt/simt.h"
#include "tests/simt/small_kernels.h"

namespace {

using namespace small_kernels;

std::string run(simt::Kernel kernel, simt::Order order, bool cooperative = false, uint32_t n = 0) {
    static uint32_t out[129];
    out[128] = 0;  // a counter
    const Args args = {out, out, n};
    simt::Options options;
    options.order = order;
    options.cooperative = cooperative;
    return simt::launch(kernel, {2}, {64}, 64 * 4, &args, options);
}
constexpr simt::Order kOrders[] = {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom};

TEST(RaceChecker, IsPartOfThisProgram) {
    EXPECT_TRUE(simt::checks_races());
}

TEST(RaceChecker, BarriersOrder) {
    for (simt::Order order : kOrders) {
        EXPECT_EQ(run(exchanges, order), "");
        EXPECT_EQ(run(exchanges_in_warps, order), "");
        EXPECT_EQ(run(takes_turns, order), "");
        EXPECT_EQ(run(exchanges_between_blocks, order, true), "");
        EXPECT_EQ(run(last_block_reads_all, order), "");
    }
}

TEST(RaceChecker, NamesWhatNothingOrders) {
    for (simt::Order order : kOrders) {
        EXPECT_NE(run(exchanges_without_barrier, order).find("race: "), std::string::npos);
        EXPECT_NE(run(exchanges_in_warps_by_shuffle, order).find("shared memory +"), std::string::npos);
        EXPECT_NE(run(exchanges_between_blocks_without_barrier, order).find("global memory"), std::string::npos);
        EXPECT_NE(run(takes_turns, order, false, 1).find("race: "), std::string::npos);
        EXPECT_NE(run(last_block_without_counting, order).find("global memory"), std::string::npos);
        EXPECT_NE(run(writes_turn, order).find("race: "), std::string::npos);
    }
}

}  // namespace
