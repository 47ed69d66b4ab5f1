// The CUDA driver, as far as Keel calls it: one table of functions, found in the system's driver library when an engine
// is made. Nothing of CUDA's toolkit is needed to compile or link this; a machine without a driver runs the program.
//
// Types and numbers are those of the driver's binary interface (cuda.h of CUDA 12.4 and later). Pointers of devices are
// 64-bit integers.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace keel::platform::cuda {

using Result = int;
constexpr Result kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNoDevice = 100, kNoBinaryForGpu = 209,
                 kUnsupportedPtx = 222, kNotReady = 600;

using DevicePointer = uint64_t;
using Context = void*;
using Stream = void*;
using Event = void*;
using Module = void*;
using Function = void*;
using Graph = void*;
using GraphExec = void*;

constexpr uint32_t kStreamNonBlocking = 1, kEventBlockingSync = 1, kEventDisableTiming = 2, kHostAllocPortable = 1,
                   kHostAllocDeviceMap = 2;
constexpr int kCaptureThreadLocal = 1;
constexpr int kAttributeMultiprocessors = 16, kAttributeCacheBytes = 38, kAttributeMajor = 75,
              kAttributeWindowBytes = 109, kLimitSharedBytes = 7;

// CUlaunchAttribute: CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, _ACCESS_POLICY_WINDOW.
constexpr uint32_t kAttributeWindow = 1, kAttributeProgrammatic = 6;
constexpr int32_t kAccessNormal = 0, kAccessStreaming = 1;
struct AccessWindow {  // CUaccessPolicyWindow
    DevicePointer base;
    size_t bytes;
    float hit_ratio;
    int32_t hit, miss;
};
struct LaunchAttribute {
    uint32_t id, pad;
    union {
        AccessWindow window;
        int32_t programmatic;
        uint8_t value[64];
    };
};
// CUlaunchConfig.
struct LaunchConfig {
    uint32_t grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Stream stream;
    const LaunchAttribute* attributes;
    uint32_t count;
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56);

// name of the member, symbol in the library, parameters
#define KEEL_CUDA_DRIVER(X)                                                                                        \
    X(init, "cuInit", (uint32_t flags))                                                                            \
    X(device_get, "cuDeviceGet", (int* device, int ordinal))                                                       \
    X(device_attribute, "cuDeviceGetAttribute", (int* value, int attribute, int device))                           \
    X(primary_retain, "cuDevicePrimaryCtxRetain", (Context * context, int device))                                 \
    X(primary_release, "cuDevicePrimaryCtxRelease_v2", (int device))                                               \
    X(context_push, "cuCtxPushCurrent_v2", (Context context))                                                      \
    X(context_pop, "cuCtxPopCurrent_v2", (Context * context))                                                      \
    X(context_device, "cuCtxGetDevice", (int* device))                                                             \
    X(context_limit, "cuCtxGetLimit", (size_t * value, int limit))                                                 \
    X(stream_create, "cuStreamCreateWithPriority", (Stream * stream, uint32_t flags, int priority))                \
    X(stream_destroy, "cuStreamDestroy_v2", (Stream stream))                                                       \
    X(stream_synchronize, "cuStreamSynchronize", (Stream stream))                                                  \
    X(stream_wait_event, "cuStreamWaitEvent", (Stream stream, Event event, uint32_t flags))                        \
    X(event_create, "cuEventCreate", (Event * event, uint32_t flags))                                              \
    X(event_destroy, "cuEventDestroy_v2", (Event event))                                                           \
    X(event_record, "cuEventRecord", (Event event, Stream stream))                                                 \
    X(event_query, "cuEventQuery", (Event event))                                                                  \
    X(event_synchronize, "cuEventSynchronize", (Event event))                                                      \
    X(stream_begin_capture, "cuStreamBeginCapture_v2", (Stream stream, int mode))                                  \
    X(stream_end_capture, "cuStreamEndCapture", (Stream stream, Graph * graph))                                    \
    X(graph_instantiate, "cuGraphInstantiateWithFlags", (GraphExec * executable, Graph graph, uint64_t flags))     \
    X(graph_upload, "cuGraphUpload", (GraphExec executable, Stream stream))                                        \
    X(graph_launch, "cuGraphLaunch", (GraphExec executable, Stream stream))                                        \
    X(graph_destroy, "cuGraphDestroy", (Graph graph))                                                              \
    X(graph_exec_destroy, "cuGraphExecDestroy", (GraphExec executable))                                            \
    X(memory_allocate, "cuMemAlloc_v2", (DevicePointer * pointer, size_t bytes))                                   \
    X(memory_free, "cuMemFree_v2", (DevicePointer pointer))                                                        \
    X(host_allocate, "cuMemHostAlloc", (void** pointer, size_t bytes, uint32_t flags))                             \
    X(host_free, "cuMemFreeHost", (void* pointer))                                                                 \
    X(host_device_pointer, "cuMemHostGetDevicePointer_v2", (DevicePointer * device, void* host, uint32_t flags))   \
    X(copy_to_device, "cuMemcpyHtoDAsync_v2", (DevicePointer to, const void* from, size_t bytes, Stream stream))   \
    X(copy_to_host, "cuMemcpyDtoHAsync_v2", (void* to, DevicePointer from, size_t bytes, Stream stream))           \
    X(copy_on_device, "cuMemcpyDtoDAsync_v2", (DevicePointer to, DevicePointer from, size_t bytes, Stream stream)) \
    X(module_load, "cuModuleLoadData", (Module * module, const void* image))                                       \
    X(module_unload, "cuModuleUnload", (Module module))                                                            \
    X(module_function, "cuModuleGetFunction", (Function * function, Module module, const char* name))              \
    X(launch, "cuLaunchKernel",                                                                                    \
      (Function function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x, uint32_t block_y,   \
       uint32_t block_z, uint32_t shared_bytes, Stream stream, void** arguments, void** extra))                    \
    X(launch_with, "cuLaunchKernelEx", (const LaunchConfig* config, Function function, void** arguments, void** extra))

struct Driver {
#define KEEL_MEMBER(name, symbol, parameters) Result(*name) parameters;
    KEEL_CUDA_DRIVER(KEEL_MEMBER)
#undef KEEL_MEMBER
};

// Finds the driver and initialises it. Returns null, or what is missing: a text for a person, of static storage. May be
// called again and again, on any thread. The library stays in the process: memory that was allocated with it does too.
const char* load_driver(Driver* out);

}  // namespace keel::platform::cuda
