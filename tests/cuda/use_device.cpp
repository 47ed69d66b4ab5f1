// The tests of this program run on the CUDA backend, with the driver of this machine; with KEEL_CUDA_LAYERS=N in the
// environment the first N layers only, the others on the CPU; with KEEL_CUDA_GRAPHS=1 with graphs.
#include <stdlib.h>

#include "keel/keel_cuda.h"
#include "tests/backend_under_test.h"
#include "tests/cuda/test_device.h"

namespace keel_test {
namespace {

const bool used = [] {
    static keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
    if (const char* layers = getenv("KEEL_CUDA_LAYERS")) device.layers = static_cast<uint32_t>(atoi(layers));
    device.graphs = getenv("KEEL_CUDA_GRAPHS") != nullptr;
    BackendUnderTest& backend = backend_under_test();
    backend.backend = keel_cuda();
    backend.options = &device;
    backend.allocate = [](int kind, uint64_t bytes, uint64_t) {
        return kind == KEEL_REGION_PINNED ? TestDevice::get().allocate_pinned(bytes)
                                          : TestDevice::get().allocate(bytes);
    };
    backend.release = [](int kind, void* data) {
        kind == KEEL_REGION_PINNED ? TestDevice::get().free_pinned(data) : TestDevice::get().free(data);
    };
    return true;
}();

}  // namespace
}  // namespace keel_test
