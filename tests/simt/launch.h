// Launches of listed kernels in tests: every order must run without complaint.
#pragma once
#include <gtest/gtest.h>

#include "tests/simt/kernel_table.h"

namespace keel_test {

// Runs the kernel with its shape; fails the test where the executor complains.
template <class Args>
void launch(keel::cuda::KernelId id, const Args& args, keel::cuda::LaunchShape shape, simt::Order order) {
    ASSERT_EQ(sizeof(Args), keel::cuda::kKernels[id].args_bytes);
    ASSERT_LE(shape.threads, keel::cuda::kKernels[id].max_threads);
    simt::Options options;
    options.order = order;
    EXPECT_EQ(simt::launch(simt::kKernelTable[id], {shape.grid_x, shape.grid_y}, {shape.threads}, shape.shared_bytes,
                           &args, options),
              "")
        << keel::cuda::kKernels[id].name;
}

// The race checker takes long and sees a race in any order.
inline std::vector<simt::Order> orders() {
    if (simt::checks_races()) return {simt::Order::kRandom};
    return {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom};
}

}  // namespace keel_test
