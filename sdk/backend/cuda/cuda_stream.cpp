// keel_cuda_read_stream: what a device's memory delivers.
#include "kernels/cuda/kernels.h"
#include "platform/platform.h"
#include "sdk/backend/cuda/cuda_backend.h"
#include "sdk/backend/cuda/cuda_context.h"

using namespace keel;

namespace {

constexpr uint32_t kRepeats = 5;
constexpr uint64_t kRepeatBytes = uint64_t{8} << 30;  // of a repeat at least, where the memory is not small
constexpr uint64_t kMostReads = 1000;

struct Reading {
    const CudaContext& cuda;
    platform::cuda::Stream stream;
    platform::cuda::Function kernel;
    cuda::ReadStreamArgs args;
    cuda::LaunchShape shape;

    // Nanoseconds of so many reads, 0 when the driver refused.
    uint64_t run(uint64_t reads) const {
        cuda::ReadStreamArgs copy = args;
        uint64_t* nowhere = nullptr;
        void* arguments[2] = {&copy, &nowhere};
        const uint64_t begin_ns = platform::now_ns();
        for (uint64_t i = 0; i < reads; ++i)
            if (cuda.driver.launch(kernel, shape.grid_x, 1, 1, shape.threads, 1, 1, 0, stream, arguments, nullptr))
                return 0;
        if (cuda.driver.stream_synchronize(stream)) return 0;
        const uint64_t ns = platform::now_ns() - begin_ns;
        return ns ? ns : 1;
    }
};

}  // namespace

extern "C" keel_status keel_cuda_read_stream(const keel_cuda_device* device, const void* data, uint64_t bytes,
                                             double* gb_per_s, keel_error* error) {
    if (!data || !gb_per_s || bytes < 16) return fail(error, KEEL_E_ARGUMENT, 0, !data ? "data" : "bytes", "none");
    keel_cuda_device options;
    KEEL_TRY(read_cuda_options(device, &options, error));
    CudaContext c;
    KEEL_TRY(open_cuda_context(options, &c, error));
    keel_status status = KEEL_OK;
    {
        CurrentCuda current(c);
        platform::cuda::Module module = nullptr;
        platform::cuda::Function kernel = nullptr;
        platform::cuda::Stream stream = nullptr;
        if (!current.ok()) status = fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
        const auto need = [&](platform::cuda::Result result, const char* call) {
            if (status == KEEL_OK) status = cuda_result(result, call, error);
            return status == KEEL_OK;
        };
        const platform::cuda::Driver& driver = c.driver;
        bool ready = status == KEEL_OK && need(driver.module_load(&module, keel_cuda_fatbin), "cuModuleLoadData");
        ready = ready && need(driver.module_function(&kernel, module, cuda::kKernels[cuda::kernel_read_stream].name),
                              "cuModuleGetFunction");
        ready = ready && need(driver.stream_create(&stream, platform::cuda::kStreamNonBlocking, 0),
                              "cuStreamCreateWithPriority");
        if (ready) {
            const cuda::ReadStreamArgs args = {static_cast<const uint8_t*>(data), bytes / 16, nullptr};
            const Reading reading = {c, stream, kernel, args, launch_shape(args, c.multiprocessors)};
            const uint64_t wanted = kRepeatBytes / bytes, reads = wanted > kMostReads ? kMostReads : wanted + 1;
            uint64_t best_ns = reading.run(1);
            for (uint32_t i = 0; i < kRepeats && best_ns; ++i) {
                const uint64_t ns = reading.run(reads);
                best_ns = !ns ? 0 : i == 0 || ns < best_ns ? ns : best_ns;
            }
            if (best_ns)
                *gb_per_s =
                    static_cast<double>(bytes / 16 * 16) * static_cast<double>(reads) / static_cast<double>(best_ns);
            else
                status = fail(error, KEEL_E_DEVICE, 0, "read_stream", "the driver refused");
        }
        if (stream) driver.stream_destroy(stream);
        if (module) driver.module_unload(module);
    }
    close_cuda_context(&c);
    return status;
}
