// The GPU that a test program runs on, or the fake driver in its place, and memory that host and GPU read and write by
// the same address.
#pragma once
#include <string>

#include "kernels/cuda/args.h"
#include "sdk/backend/cuda/cuda_context.h"

namespace keel_test {

class TestDevice {
  public:
    // The one of this process. Ends the program with a message where there is none.
    static TestDevice& get();

    // The entry point of an image (a fatbin). Ends the program where it has none.
    keel::platform::cuda::Function kernel(const void* image, const char* name);
    // Runs it to its end; "" or what went wrong.
    std::string run(keel::platform::cuda::Function kernel, keel::cuda::LaunchShape shape, const void* args);

    void* allocate(uint64_t bytes);  // device memory
    void free(void* data);
    void* allocate_pinned(uint64_t bytes);  // of the host, which the device reads and writes too
    void free_pinned(void* data);

  private:
    TestDevice();
    keel::CudaContext cuda_ = {};
    keel::platform::cuda::Stream stream_ = nullptr;
};

}  // namespace keel_test
