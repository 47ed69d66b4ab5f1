// Launches of listed kernels in tests: every order must run without complaint.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/simt/kernel_table.h"

namespace keel_test {

// Where a test program runs kernels: the executor (launch_on_executor.cpp) or a driver
// (tests/cuda/launch_on_driver.cpp). Runs the kernel to its end; "" or what went wrong. The executor has its blocks one
// after another, or all together.
std::string launch_kernel(keel::cuda::KernelId id, keel::cuda::LaunchShape shape, const void* args, simt::Order order,
                          bool together);
// The orders that are worth running: a GPU has its own.
std::vector<simt::Order> orders();

// Runs the kernel with its shape; fails the test where something is wrong.
template <class Args>
void launch(keel::cuda::KernelId id, const Args& args, keel::cuda::LaunchShape shape, simt::Order order,
            bool together = false) {
    ASSERT_EQ(sizeof(Args), keel::cuda::kKernels[id].args_bytes);
    ASSERT_LE(shape.threads, keel::cuda::kKernels[id].max_threads);
    EXPECT_EQ(launch_kernel(id, shape, &args, order, together), "") << keel::cuda::kKernels[id].name;
}

}  // namespace keel_test
