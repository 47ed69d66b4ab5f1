/* Keel on an NVIDIA GPU: a backend in a library of its own (libkeel_cuda.a).
 *
 *     keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;
 *     keel_config config = KEEL_CONFIG_INIT;
 *     config.backend = keel_cuda();
 *     config.backend_options = &device;
 *
 * keel_plan works on any machine: what a plan says does not depend on the device. keel_engine_init finds the driver
 * when it runs (libcuda.so.1, nvcuda.dll), so that a program linked with this library starts where there is none; it
 * cannot be in a statically linked executable, which has no dlopen. Devices of compute capability 8.0 and later.
 *
 * Results have the bits of the CPU's, and a session saved on one goes on in the other (sdk/NUMERICS.md). Logits and
 * hidden rows stay on the device: keel_session_sample draws there and waits for the token, and what shows or saves rows
 * (keel_session_logits, _hidden, _top_logprobs, _fork, _save) copies them first. The host draws from rows of a fork, of
 * a restored session, or when another thread is drawing; the token is the same.
 *
 * Memory: regions DEVICE_WEIGHTS, DEVICE_KV and DEVICE_SCRATCH of keel_memory hold device addresses of the context
 * named below, PINNED host memory that is page-locked in it and has an address there (cuMemHostAlloc, or
 * cuMemHostRegister with CU_MEMHOSTREGISTER_DEVICEMAP). One allocation may serve several, cut by the caller.
 * Quantized matrices that are multiplied are uploaded in the order of the device's matrix units, whatever
 * keel_config.weights says; keel_plan_ops calls that KEEL_WEIGHTS_REPACK. Same bits, and the same bytes but for rows up
 * to the next multiple of 16.
 * keel_cuda_memory allocates them; nothing else of Keel does.
 *
 * KEEL_NUMERICS_DEVICE: the library is cuBLASLt of CUDA 13 or 12 (libcublasLt.so.13, .so.12; cublasLt64_13.dll,
 * cublasLt64_12.dll beside the program), found by keel_engine_init and never unloaded; without it that is KEEL_E_DEVICE
 * with "cuBLASLt" in error->field. All algorithms are chosen, and have run once, before it returns. The library's
 * workspace, 32 MiB, is part of DEVICE_SCRATCH; its code and handle lie in memory that no plan counts. */
#ifndef KEEL_CUDA_H
#define KEEL_CUDA_H

#include "keel/keel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What keel_config.backend_options points to. */
typedef struct keel_cuda_device {
    uint32_t struct_size;
    int32_t ordinal; /* of the device, as the driver counts; default 0. Not looked at with a context */
    /* CUcontext to work in. NULL: the device's primary context, which programs with CUDA's runtime share. */
    void* context;
    /* CUstream of that context that all steps run on. NULL: one of Keel's own, with `priority`. */
    void* stream;
    int32_t priority; /* of Keel's own stream: lower numbers go first; default 0, the lowest */
    /* How many of the model's layers, from the first on, the device computes. 0, or as many as there are: all, and the
     * logits. Fewer: the CPU computes the others and the logits, with config.threads, out of SCRATCH, WEIGHTS and KV;
     * keel_plan says how many bytes that takes on either side. No bit of a result depends on it. */
    uint32_t layers;
    void* wait_event; /* CUevent that the first work of each step waits for; NULL: none */
    void* done_event; /* CUevent recorded behind the last work of each step; NULL: none */
    /* How keel_advance waits with budget 0, the only one that waits. 0: the driver asks the device without a pause and
     * notices the end at once. 1: the thread sleeps until the driver wakes it, some tens of microseconds later. Either
     * way such a call puts a whole step onto the device, which takes nothing back: a keel_cancel meanwhile is noticed
     * behind that step. Who wants it sooner gives a budget. */
    uint32_t sleep_in_wait;
    /* 1: decode steps of 1, 2, 4 or 8 sessions that one call enqueues whole are launched as a graph, which the driver
     * takes in one call. Made in keel_engine_init, in memory of the driver's that no plan counts; not with `layers`.
     * No bit of a result depends on it. Off by default: it pays where the host is slower at launching than the device
     * at computing (a launch of a graph costs 0.5 us, one by itself 3 to 4 us of the host; perf/RESULTS.md). */
    uint32_t graphs;
} keel_cuda_device;
#define KEEL_CUDA_DEVICE_INIT \
    { sizeof(keel_cuda_device), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* The backend. Errors of engines with it, beside keel.h's: KEEL_E_DEVICE (no driver, no such device, a call that the
 * driver refused: *error says which), KEEL_E_UNSUPPORTED (a device of compute capability below 8.0, a context that
 * leaves less than 48 KiB of shared memory). A failure while a step runs poisons the engine. */
KEEL_API const keel_backend* keel_cuda(void);

/* Allocates the device's regions and PINNED of a plan, in the context of `device` (NULL: its defaults), and writes
 * their slots of `memory`, whose other slots are the caller's to fill. All or nothing. An object file of its own: who
 * brings device memory does not link it. KEEL_E_DEVICE, KEEL_E_ARGUMENT, KEEL_E_ABI; *error may be NULL. */
KEEL_API keel_status keel_cuda_memory(const keel_memory_plan* plan, const keel_cuda_device* device, keel_memory* memory,
                                      keel_error* error);
/* Gives back what keel_cuda_memory wrote into `memory`, after keel_engine_close, and clears those slots. KEEL_E_DEVICE:
 * the driver did not take back what is in slots that are not cleared; KEEL_E_ARGUMENT, KEEL_E_ABI. */
KEEL_API keel_status keel_cuda_memory_release(const keel_cuda_device* device, keel_memory* memory);

/* How fast a kernel reads `bytes` (rounded down to 16) of device memory at `data`, such as a DEVICE_WEIGHTS region: the
 * yardstick for a decode step, which reads every weight once. In 1e9 bytes per second, the best of five. Takes some
 * tenths of a second and loads a module of its own: for measuring, in an object file of its own. KEEL_E_DEVICE,
 * KEEL_E_ARGUMENT, KEEL_E_ABI; *error may be NULL. */
KEEL_API keel_status keel_cuda_read_stream(const keel_cuda_device* device, const void* data, uint64_t bytes,
                                           double* gb_per_s, keel_error* error);

#ifdef __cplusplus
}
#endif
#endif
