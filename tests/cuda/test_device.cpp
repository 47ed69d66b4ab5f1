#include "tests/cuda/test_device.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>

namespace keel_test {

namespace cuda = keel::platform::cuda;

namespace {

[[noreturn]] void give_up(const char* what, const char* why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}
void need(cuda::Result result, const char* call) {
    if (result != cuda::kSuccess) give_up(call, ("the driver says " + std::to_string(result)).c_str());
}

}  // namespace

TestDevice::TestDevice() {
    keel_error error = {};
    error.struct_size = sizeof error;
    if (keel::open_cuda_context(KEEL_CUDA_DEVICE_INIT, &cuda_, &error) != KEEL_OK) give_up(error.field, error.reason);
    need(cuda_.driver.context_push(cuda_.context), "cuCtxPushCurrent");
    need(cuda_.driver.stream_create(&stream_, cuda::kStreamNonBlocking, 0), "cuStreamCreateWithPriority");
}

TestDevice& TestDevice::get() {
    static TestDevice* const device = new TestDevice;  // lives as long as the process, as what its kernels read does
    return *device;
}

cuda::Function TestDevice::kernel(const void* image, const char* name) {
    static std::map<const void*, cuda::Module> modules;
    const keel::CurrentCuda current(cuda_);
    cuda::Module& module = modules[image];
    if (!module) need(cuda_.driver.module_load(&module, image), "cuModuleLoadData");
    cuda::Function function;
    need(cuda_.driver.module_function(&function, module, name), name);
    return function;
}

std::string TestDevice::run(cuda::Function kernel, keel::cuda::LaunchShape shape, const void* args) {
    const keel::CurrentCuda current(cuda_);
    uint64_t* nowhere = nullptr;
    void* arguments[2] = {const_cast<void*>(args), &nowhere};
    cuda::Result result = cuda_.driver.launch(kernel, shape.grid_x, shape.grid_y, 1, shape.threads, 1, 1,
                                              shape.shared_bytes, stream_, arguments, nullptr);
    if (result == cuda::kSuccess) result = cuda_.driver.stream_synchronize(stream_);
    return result == cuda::kSuccess ? "" : "the driver says " + std::to_string(result);
}

void* TestDevice::allocate(uint64_t bytes) {
    const keel::CurrentCuda current(cuda_);
    cuda::DevicePointer data;
    need(cuda_.driver.memory_allocate(&data, static_cast<size_t>(bytes)), "cuMemAlloc");
    return reinterpret_cast<void*>(data);
}
void TestDevice::free(void* data) {
    const keel::CurrentCuda current(cuda_);
    need(cuda_.driver.memory_free(reinterpret_cast<cuda::DevicePointer>(data)), "cuMemFree");
}

void* TestDevice::allocate_pinned(uint64_t bytes) {
    const keel::CurrentCuda current(cuda_);
    void* data;
    need(cuda_.driver.host_allocate(&data, static_cast<size_t>(bytes), cuda::kHostAllocDeviceMap), "cuMemHostAlloc");
    return data;
}
void TestDevice::free_pinned(void* data) {
    const keel::CurrentCuda current(cuda_);
    need(cuda_.driver.host_free(data), "cuMemFreeHost");
}

}  // namespace keel_test
