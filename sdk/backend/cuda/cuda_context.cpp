#include "sdk/backend/cuda/cuda_context.h"

namespace keel {

using namespace platform::cuda;

keel_status cuda_result(Result result, const char* call, keel_error* error) {
    if (result == kSuccess) return KEEL_OK;
    return fail(error, KEEL_E_DEVICE, static_cast<uint64_t>(result), call,
                result == kOutOfMemory      ? "the device is out of memory"
                : result == kNoDevice       ? "there is no such device"
                : result == kNoBinaryForGpu ? "this build has no kernels for this device"
                : result == kUnsupportedPtx ? "the driver is too old for these kernels"
                                            : "the driver refused (its number is in error->offset)");
}

keel_status read_cuda_options(const void* options, keel_cuda_device* out, keel_error* error) {
    *out = KEEL_CUDA_DEVICE_INIT;
    if (!options) return KEEL_OK;
    KEEL_TRY(read_versioned(static_cast<const keel_cuda_device*>(options), out));
    if (out->ordinal < 0) return fail(error, KEEL_E_ARGUMENT, 0, "keel_cuda_device.ordinal", "below 0");
    if (out->stream && !out->context)
        return fail(error, KEEL_E_ARGUMENT, 0, "keel_cuda_device.context", "a stream needs the context it is of");
    return KEEL_OK;
}

keel_status open_cuda_context(const keel_cuda_device& options, CudaContext* out, keel_error* error) {
    *out = {};
    out->primary_of = -1;
    Driver& driver = out->driver;
    if (const char* missing = load_driver(&driver)) return fail(error, KEEL_E_DEVICE, 0, "CUDA driver", missing);
    keel_status status = KEEL_OK;
    int device = 0;
    if (options.context) {
        out->context = options.context;
    } else {
        status = cuda_result(driver.device_get(&device, options.ordinal), "cuDeviceGet", error);
        if (status == KEEL_OK)
            status = cuda_result(driver.primary_retain(&out->context, device), "cuDevicePrimaryCtxRetain", error);
        if (status == KEEL_OK) out->primary_of = device;
    }
    if (status == KEEL_OK) {
        CurrentCuda current(*out);
        int major = 0, multiprocessors = 0, cache_bytes = 0, window_bytes = 0;
        if (!current.ok()) status = fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
        if (status == KEEL_OK) status = cuda_result(driver.context_device(&device), "cuCtxGetDevice", error);
        const struct {
            int* value;
            int attribute;
        } wanted[] = {{&major, kAttributeMajor},
                      {&multiprocessors, kAttributeMultiprocessors},
                      {&cache_bytes, kAttributeCacheBytes},
                      {&window_bytes, kAttributeWindowBytes}};
        for (const auto& w : wanted)
            if (status == KEEL_OK)
                status =
                    cuda_result(driver.device_attribute(w.value, w.attribute, device), "cuDeviceGetAttribute", error);
        out->multiprocessors = static_cast<uint32_t>(multiprocessors);
        out->cache_bytes = static_cast<uint64_t>(cache_bytes);
        out->window_bytes = static_cast<uint64_t>(window_bytes);
        out->overlaps = major >= 9;
        if (status == KEEL_OK && major < 8)
            status = fail(error, KEEL_E_UNSUPPORTED, static_cast<uint64_t>(major), "compute capability",
                          "Keel runs on devices of compute capability 8.0 and later");
    }
    if (status != KEEL_OK) close_cuda_context(out);
    return status;
}

void close_cuda_context(CudaContext* c) {
    if (c->primary_of >= 0) c->driver.primary_release(c->primary_of);
    *c = {};
    c->primary_of = -1;
}

}  // namespace keel
