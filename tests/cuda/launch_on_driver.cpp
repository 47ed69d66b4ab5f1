// Tests of kernels, run by a driver in place of the executor.
#include "sdk/backend/cuda/cuda_backend.h"
#include "tests/cuda/test_device.h"
#include "tests/simt/launch.h"

namespace keel_test {

std::string launch_kernel(keel::cuda::KernelId id, keel::cuda::LaunchShape shape, const void* args, simt::Order, bool) {
    static keel::platform::cuda::Function function[keel::cuda::kKernelCount];
    TestDevice& device = TestDevice::get();
    if (!function[id]) function[id] = device.kernel(keel_cuda_fatbin, keel::cuda::kKernels[id].name);
    return device.run(function[id], shape, args);
}

std::vector<simt::Order> orders() {
    return {simt::Order::kForward};
}

}  // namespace keel_test
