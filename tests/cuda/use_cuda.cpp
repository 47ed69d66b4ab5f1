// The tests of this program run on the CUDA backend, over the fake driver; with KEEL_CUDA_LAYERS=N in the environment
// the first N layers only, the others on the CPU; with KEEL_CUDA_GRAPHS=1 with graphs.
#include <gtest/gtest.h>
#include <stdlib.h>

#include "keel/keel_cuda.h"
#include "tests/backend_under_test.h"
#include "tests/cuda/fake_driver.h"

namespace keel_test {
namespace {

const bool used = [] {
    static keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
    if (const char* layers = getenv("KEEL_CUDA_LAYERS")) device.layers = static_cast<uint32_t>(atoi(layers));
    device.graphs = getenv("KEEL_CUDA_GRAPHS") != nullptr;
    backend_under_test() = {keel_cuda(), &device, fake_region_allocate, fake_region_free};
    return true;
}();

// Nothing of a test was refused by the driver, and nothing of it is left open.
class DriverWatch : public testing::EmptyTestEventListener {
    void OnTestStart(const testing::TestInfo&) override { FakeDriver::reset(); }
    void OnTestEnd(const testing::TestInfo&) override {
        EXPECT_EQ(FakeDriver::get().fault, "");
        EXPECT_EQ(FakeDriver::get().open_objects, 0);
    }
};
const bool watched = [] {
    testing::UnitTest::GetInstance()->listeners().Append(new DriverWatch);
    return true;
}();

}  // namespace
}  // namespace keel_test
