// The race checker: kernels whose values may be right in every order, and which are wrong all the same.
#include <gtest/gtest.h>

#include "tests/simt/simt.h"
#include "tests/simt/small_kernels.h"

namespace {

using namespace small_kernels;

std::string run(simt::Kernel kernel, simt::Order order, bool cooperative = false, uint32_t n = 0) {
    static uint32_t out[130];
    out[128] = out[129] = 0;  // counters
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
        for (const bool together : {false, true}) EXPECT_EQ(run(adds_to_the_first_block, order, together), "");
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
        for (const uint32_t wrong : {1u, 2u})
            EXPECT_NE(run(adds_to_the_first_block, order, false, wrong).find("global memory"), std::string::npos);
    }
}

}  // namespace
