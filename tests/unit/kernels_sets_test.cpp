// Which kernel sets are found: names and numbers belong together, and those that the environment expects are there.
#include <stdlib.h>

#include "sdk/backend/cpu/kernel_choice.h"
#include "tests/unit/kernels_test_support.h"

namespace {

using namespace keel_test;

TEST(KernelsSets, NumbersAndNames) {
    ASSERT_NE(&kScalarSet, nullptr);
    for (uint32_t isa = kScalar; isa < kIsaLimit; ++isa) {
        const KernelSet* set = find_kernel_set(isa);
        if (set) {
            EXPECT_STREQ(set->name, kIsaNames[isa]);
        }
    }
    EXPECT_EQ(find_kernel_set(0), nullptr);
    EXPECT_EQ(find_kernel_set(kIsaLimit), nullptr);
}

// A set that detection misses would take its tests with it, and nobody would notice: an emulated machine says what it
// has. The set is chosen, and is the one that the tests of kernels get.
TEST(KernelsSets, ExpectedOneIsChosen) {
    const char* expected = getenv("KEEL_EXPECT_KERNELS");
    if (!expected) GTEST_SKIP() << "skipped: KEEL_EXPECT_KERNELS names no kernel set";
    keel_cpu cpu = KEEL_CPU_AUTO;
    const KernelSet* set = nullptr;
    ASSERT_EQ(keel::choose_kernels(&cpu, &set, nullptr), KEEL_OK);
    EXPECT_STREQ(set->name, expected);
    ASSERT_FALSE(fast_sets().empty());
    EXPECT_EQ(fast_sets()[0], set);
}

}  // namespace
