// The tests of this program run on the CUDA backend, with the driver of this machine.
#include "keel/keel_cuda.h"
#include "tests/backend_under_test.h"
#include "tests/cuda/test_device.h"

namespace keel_test {
namespace {

const bool used = [] {
    backend_under_test() = {keel_cuda(), [](uint64_t bytes, uint64_t) { return TestDevice::get().allocate(bytes); },
                            [](void* data) { TestDevice::get().free(data); }};
    return true;
}();

}  // namespace
}  // namespace keel_test
