// Calls of the driver in a context: what engines and keel_cuda_memory share.
#pragma once
#include "keel/keel_cuda.h"
#include "platform/cuda/driver.h"
#include "sdk/core/status.h"

namespace keel {

// The driver, and a context of it that this holds.
struct CudaContext {
    platform::cuda::Driver driver;
    platform::cuda::Context context;
    uint32_t multiprocessors;
    uint64_t cache_bytes;   // of the second cache
    uint64_t window_bytes;  // most of a range whose reads a launch can have pass through it
    bool overlaps;          // a launch may begin before the one in front of it has ended
    int primary_of;         // ordinal of the device whose primary context it is, to be given back; -1: the caller's own
};

// Options of a keel_cuda_device as this library knows it; null: defaults. KEEL_E_ABI, KEEL_E_ARGUMENT.
keel_status read_cuda_options(const void* options, keel_cuda_device* out, keel_error* error);
// Finds driver and context. KEEL_E_DEVICE, KEEL_E_UNSUPPORTED: nothing is held then.
keel_status open_cuda_context(const keel_cuda_device& options, CudaContext* out, keel_error* error);
void close_cuda_context(CudaContext* context);

// KEEL_E_DEVICE with the driver's number, unless `result` is success.
keel_status cuda_result(platform::cuda::Result result, const char* call, keel_error* error);

// Makes the context the calling thread's for a while.
class CurrentCuda {
  public:
    explicit CurrentCuda(const CudaContext& c)
        : c_(c), ok_(c.driver.context_push(c.context) == platform::cuda::kSuccess) {}
    ~CurrentCuda() {
        platform::cuda::Context popped;
        if (ok_) c_.driver.context_pop(&popped);
    }
    CurrentCuda(const CurrentCuda&) = delete;
    bool ok() const { return ok_; }

  private:
    const CudaContext& c_;
    const bool ok_;
};

}  // namespace keel
