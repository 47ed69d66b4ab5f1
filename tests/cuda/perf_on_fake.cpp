// The kernels of perf/device_kernels.cu for the fake driver.
#include "perf/device_kernels.h"
#include "tests/cuda/fake_driver.h"

extern "C" const unsigned char keel_perf_fatbin[] = {0};

namespace keel::cuda {
#define KEEL_PERF_DECLARATION(name, Args) void name(const void* args);
KEEL_PERF_KERNELS(KEEL_PERF_DECLARATION)
namespace {

const bool known = [] {
#define KEEL_PERF_KNOWN(name, Args) keel_test::FakeDriver::add_kernel(#name, name, sizeof(Args), kPerfThreads);
    KEEL_PERF_KERNELS(KEEL_PERF_KNOWN)
    return true;
}();

}  // namespace
}  // namespace keel::cuda
