#include "tests/simt/launch.h"

namespace keel_test {

std::string launch_kernel(keel::cuda::KernelId id, keel::cuda::LaunchShape shape, const void* args, simt::Order order,
                          bool together) {
    simt::Options options;
    options.order = order;
    options.cooperative = together;
    return simt::launch(simt::kKernelTable[id], {shape.grid_x, shape.grid_y}, {shape.threads}, shape.shared_bytes, args,
                        options);
}

// The race checker takes long and sees a race in any order.
std::vector<simt::Order> orders() {
    if (simt::checks_races()) return {simt::Order::kRandom};
    return {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom};
}

}  // namespace keel_test
