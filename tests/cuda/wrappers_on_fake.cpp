// The kernels of wrapper_kernels.cu for the fake driver.
#include "tests/cuda/fake_driver.h"
#include "tests/cuda/wrapper_kernels.h"

extern "C" const unsigned char keel_wrappers_fatbin[] = {0};

namespace keel::cuda {
#define KEEL_WRAPPER_DECLARATION(name, ...) void wrapper_##name(const void* args);
KEEL_WRAPPERS(KEEL_WRAPPER_DECLARATION)
namespace {

const bool known = [] {
#define KEEL_WRAPPER_KNOWN(name, ...) \
    keel_test::FakeDriver::add_kernel("wrapper_" #name, wrapper_##name, sizeof(WrapperArgs), kWrapperThreads);
    KEEL_WRAPPERS(KEEL_WRAPPER_KNOWN)
    return true;
}();

}  // namespace
}  // namespace keel::cuda
