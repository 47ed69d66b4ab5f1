#include "sdk/backend/cuda/cuda_backend.h"

#include <new>

#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using namespace platform::cuda;

DevicePointer device_pointer(const void* p) {
    return reinterpret_cast<DevicePointer>(p);
}

Device* cuda_place(const PlanConfig&, const keel_hooks&, Arena* arenas) {
    CudaDevice* d = arenas[KEEL_REGION_PERSISTENT].place<CudaDevice>("cuda_device", 1);
    const uint64_t plain = arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset("plain_rows", kUploadRowsBytes);
    if (d) (new (d) CudaDevice{})->at.plain = plain;
    return d;
}

keel_status open_streams(CudaDevice* d, keel_error* error) {
    const Driver& driver = d->cuda.driver;
    d->stream = d->options.stream;
    if (!d->stream)
        KEEL_TRY(cuda_result(driver.stream_create(&d->stream, kStreamNonBlocking, d->options.priority),
                             "cuStreamCreateWithPriority", error));
    KEEL_TRY(cuda_result(driver.stream_create(&d->copies, kStreamNonBlocking, d->options.priority),
                         "cuStreamCreateWithPriority", error));
    KEEL_TRY(cuda_result(driver.stream_create(&d->draws, kStreamNonBlocking, d->options.priority),
                         "cuStreamCreateWithPriority", error));
    const uint32_t sleeps = d->options.sleep_in_wait ? kEventBlockingSync : 0;
    return cuda_result(driver.event_create(&d->computed, kEventDisableTiming | sleeps), "cuEventCreate", error);
}

keel_status open_kernels(CudaDevice* d, keel_error* error) {
    const Driver& driver = d->cuda.driver;
    KEEL_TRY(cuda_result(driver.module_load(&d->module, keel_cuda_fatbin), "cuModuleLoadData", error));
    for (uint32_t i = 0; i < cuda::kKernelCount; ++i)
        KEEL_TRY(cuda_result(driver.module_function(&d->function[i], d->module, cuda::kKernels[i].name),
                             "cuModuleGetFunction", error));
    return KEEL_OK;
}

keel_status cuda_attach(Device* device, const PlanConfig& config, uint8_t* const* region, keel_error* error) {
    CudaDevice* d = cuda_device(device);
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) d->region[i] = region[i];
    KEEL_TRY(read_cuda_options(config.backend_options, &d->options, error));
    KEEL_TRY(open_cuda_context(d->options, &d->cuda, error));
    CurrentCuda current(d->cuda);
    if (!current.ok()) return fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
    // A context that shares the device with graphics may have less than a kernel asks for; others have no such limit.
    size_t shared = 0;
    if (d->cuda.driver.context_limit(&shared, kLimitSharedBytes) == kSuccess && shared &&
        shared < cuda::kMostSharedBytes)
        return fail(error, KEEL_E_UNSUPPORTED, shared, "CU_LIMIT_SHMEM_SIZE",
                    "the context leaves less shared memory than kernels need");
    KEEL_TRY(open_streams(d, error));
    KEEL_TRY(open_kernels(d, error));
    return config.device_numerics ? attach_cublas(d, error) : KEEL_OK;
}

// Bytes of the KV transform's arrays, by what they are.
template <class Visit>
void each_array(KvTransform* t, const ModelSpec& s, uint32_t rope_sets, const Visit& visit) {
    const uint64_t heads = uint64_t{s.layers} * s.kv_heads * s.head_dim * sizeof(float);
    visit(&t->key_mean, heads);
    visit(&t->value_mean, heads);
    visit(&t->gain, heads);
    visit(&t->inverse_gain, heads);
    visit(&t->pair, t->pairs * sizeof(uint32_t));
    visit(&t->tile_rotations, uint64_t{rope_sets} * t->tiles * 2 * t->pairs * sizeof(float));
    visit(&t->offset_rotations, uint64_t{rope_sets} * 2 * t->pairs * kernels::kAttentionTile * sizeof(float));
}

uint64_t frequency_bytes(const Program& p) {
    return uint64_t{p.plan.rope_sets} * (p.spec.rope_dims / 2) * sizeof(double);
}

void cuda_place_copies(Device* device, const Program& p, Arena* arenas) {
    CudaCopies counted;
    CudaCopies& at = device ? cuda_device(device)->at : counted;
    const uint64_t step_bytes = step_block(p.config, p.spec).bytes;
    at.step = arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset("step", step_bytes);
    const uint32_t logits_rows = partly_offloaded(p.config) ? 0 : most_logits_rows(p.config);
    at.logits = arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset(
        "step_logits", uint64_t{logits_rows} * p.spec.vocabulary * sizeof(float));
    if (!partly_offloaded(p.config)) {
        const DrawBlock draw = draw_block(p);
        at.draw = arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset("draw", draw.bytes);
        at.draw_staging = arenas[KEEL_REGION_PINNED].place_offset("draw", draw.input_bytes);
    }
    at.partial = arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset("attention_splits", partial_bytes(p));
    const uint64_t marks = most_marks(p), ops = most_ops(p);
    at.marks = arenas[KEEL_REGION_PINNED].place_offset("launch_times", marks * sizeof(uint64_t));
    CudaMark* marked = arenas[KEEL_REGION_PERSISTENT].place<CudaMark>("launch_marks", marks);
    OpTime* times = arenas[KEEL_REGION_PERSISTENT].place<OpTime>("op_times", ops);
    float* pace = arenas[KEEL_REGION_PERSISTENT].place<float>("op_paces", 2 * kStepKinds * ops);
    CudaDevice* d = device ? cuda_device(device) : nullptr;
    if (d) d->marked = marked, d->times = times, d->pace = pace;
    place_table(d, p, arenas);
    if (p.config.device_numerics) place_cublas(d, p, arenas);
    at.staging = arenas[KEEL_REGION_PINNED].place_offset("step", step_bytes);
    at.tables = arenas[KEEL_REGION_DEVICE_WEIGHTS].place_offset("rope_frequencies", frequency_bytes(p));
    at.transform = arenas[KEEL_REGION_DEVICE_WEIGHTS].place_offset("kv_transform", p.transform.bytes);
}

// Calls put(offset, bytes), which puts a copy on the stream of copies, for one piece of `bytes` after the other.
// Threads take turns: one inside keel_advance with a budget waits for a piece of another one's transfer, not for all.
template <class Put>
keel_status transfer(const CudaDevice& d, uint64_t bytes, const Put& put) {
    constexpr uint64_t kPieceBytes = 512 * 1024;  // some 20 us
    CurrentCuda current(d.cuda);
    bool ok = current.ok();
    for (uint64_t done = 0; ok && done < bytes; done += kPieceBytes) {
        const uint64_t left = bytes - done;
        ok = put(done, static_cast<size_t>(left < kPieceBytes ? left : kPieceBytes)) == kSuccess &&
             d.cuda.driver.stream_synchronize(d.copies) == kSuccess;
    }
    return ok ? KEEL_OK : KEEL_E_DEVICE;
}

keel_status send(const CudaDevice& d, uint8_t* to, const void* from, uint64_t bytes) {
    return transfer(d, bytes, [&](uint64_t at, size_t piece) {
        return d.cuda.driver.copy_to_device(device_pointer(to + at), static_cast<const uint8_t*>(from) + at, piece,
                                            d.copies);
    });
}

// Marks lie in the host's memory, by an address of the device's.
keel_status open_marks(CudaDevice* d, keel_error* error) {
    d->marks = reinterpret_cast<uint64_t*>(d->region[KEEL_REGION_PINNED] + d->at.marks);
    for (uint32_t i = 0; i < most_marks(*d->program); ++i) d->marks[i] = 0;
    CurrentCuda current(d->cuda);
    if (!current.ok()) return fail(error, KEEL_E_DEVICE, 0, "keel_cuda_device.context", "not a context");
    DevicePointer pointer = 0;
    KEEL_TRY(
        cuda_result(d->cuda.driver.host_device_pointer(&pointer, d->marks, 0), "cuMemHostGetDevicePointer", error));
    d->marks_on_device = reinterpret_cast<uint64_t*>(pointer);
    return KEEL_OK;
}

keel_status cuda_open(Device* device, const Program* program, keel_error* error) {
    CudaDevice& d = *cuda_device(device);
    d.program = program;
    d.block = step_block(program->config, program->spec);
    d.draw_block = draw_block(*program);
    d.ranges.open(*program);
    for (uint32_t i = 0; i < 2 * kStepKinds * most_ops(*program); ++i) d.pace[i] = 1;
    const OpList& list = program->plan.variant[KEEL_VARIANT_DENSE];
    for (uint32_t i = 0; i < list.count; ++i)
        if (list.ops[i].kind == OpKind::kOutputNorm) d.hidden = list.ops[i].out;
    KEEL_TRY(open_marks(&d, error));
    uint8_t* weights = d.region[KEEL_REGION_DEVICE_WEIGHTS];
    keel_status status = send(d, weights + d.at.tables, program->frequencies, frequency_bytes(*program));
    // The arrays keep their distances on the device.
    d.transform = program->transform;
    uintptr_t first = UINTPTR_MAX;
    each_array(&d.transform, program->spec, program->plan.rope_sets, [&](auto** array, uint64_t) {
        if (*array && reinterpret_cast<uintptr_t>(*array) < first) first = reinterpret_cast<uintptr_t>(*array);
    });
    each_array(&d.transform, program->spec, program->plan.rope_sets, [&](auto** array, uint64_t bytes) {
        if (!*array) return;
        uint8_t* to = weights + d.at.transform + (reinterpret_cast<uintptr_t>(*array) - first);
        if (status == KEEL_OK) status = send(d, to, *array, bytes);
        *array = reinterpret_cast<decltype(+*array)>(to);
    });
    if (status != KEEL_OK) return fail(error, status, 0, "tables", "the device did not take them");
    const uint32_t launches = open_table(&d);
    if (program->config.device_numerics) KEEL_TRY(open_cublas(&d, launches, error));
    return open_graphs(&d, error);
}

void cuda_close(Device* device) {
    CudaDevice& d = *cuda_device(device);
    d.ranges.close();
    if (!d.cuda.context) return;
    {
        CurrentCuda current(d.cuda);
        const Driver& driver = d.cuda.driver;
        if (current.ok()) {
            if (d.stream) wait_for_steps(d);
            // Where a call failed, its transfer or draw may still be under way.
            for (const Stream stream : {d.copies, d.draws})
                if (stream) driver.stream_synchronize(stream);
            close_graphs(&d);
            close_cublas(&d);
            if (d.module) driver.module_unload(d.module);
            if (d.computed) driver.event_destroy(d.computed);
            if (d.copies) driver.stream_destroy(d.copies);
            if (d.draws) driver.stream_destroy(d.draws);
            if (d.stream && !d.options.stream) driver.stream_destroy(d.stream);
        }
    }
    close_cuda_context(&d.cuda);
}

keel_status cuda_upload(Device* device, keel_region_kind region, uint64_t to, const void* from, uint64_t bytes) {
    const CudaDevice& d = *cuda_device(device);
    return send(d, d.region[region] + to, from, bytes);
}

keel_status cuda_upload_rows(Device* device, uint64_t to, uint32_t weight_type, const void* plain, uint32_t rows,
                             uint32_t k) {
    const CudaDevice& d = *cuda_device(device);
    const uint64_t row_bytes = kernels::weight_row_bytes(weight_type, k);
    KEEL_TRY(send(d, d.scratch(d.at.plain), plain, rows * row_bytes));
    CurrentCuda current(d.cuda);
    const cuda::LayArgs args = {d.scratch(d.at.plain), d.region[KEEL_REGION_DEVICE_WEIGHTS] + to, row_bytes, rows, k};
    return current.ok() &&
                   launch(d, d.copies, cuda::lay_kernel(weight_type), args, lay_shape(args, weight_type)) == kSuccess &&
                   d.cuda.driver.stream_synchronize(d.copies) == kSuccess
               ? KEEL_OK
               : KEEL_E_DEVICE;
}

keel_status cuda_copy(Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes) {
    const CudaDevice& d = *cuda_device(device);
    CurrentCuda current(d.cuda);
    const Driver& driver = d.cuda.driver;
    return current.ok() &&
                   driver.copy_on_device(device_pointer(d.region[region] + to), device_pointer(d.region[region] + from),
                                         static_cast<size_t>(bytes), d.copies) == kSuccess &&
                   driver.stream_synchronize(d.copies) == kSuccess
               ? KEEL_OK
               : KEEL_E_DEVICE;
}

keel_status cuda_download(Device* device, void* to, keel_region_kind region, uint64_t from, uint64_t bytes) {
    const CudaDevice& d = *cuda_device(device);
    return transfer(d, bytes, [&](uint64_t at, size_t piece) {
        return d.cuda.driver.copy_to_host(static_cast<uint8_t*>(to) + at, device_pointer(d.region[region] + from + at),
                                          piece, d.copies);
    });
}

keel_status cuda_move_rows(Device* device, const KvRowMove* moves, uint32_t count, const uint32_t* page_id,
                           uint32_t session_index, uint32_t shift) {
    const CudaDevice& d = *cuda_device(device);
    CurrentCuda current(d.cuda);
    return current.ok() && move_rows(d, moves, count, page_id, session_index, shift) == kSuccess &&
                   d.cuda.driver.stream_synchronize(d.copies) == kSuccess
               ? KEEL_OK
               : KEEL_E_DEVICE;
}

}  // namespace

// A function that the table lacks is an error that names it (GCC).
#pragma GCC diagnostic error "-Wmissing-field-initializers"

constexpr Backend kCudaBackend = {
    .device_numerics = true,
    .configure = cuda_configure,
    .weights = cuda_weights,
    .cost = cuda_cost,
    .runs = cuda_runs,
    .fuse = cuda_fuse,
    .dispatch_us = cuda_dispatch_us,
    .place = cuda_place,
    .attach = cuda_attach,
    .place_copies = cuda_place_copies,
    .open = cuda_open,
    .close = cuda_close,
    .parallel = nullptr,
    .upload = cuda_upload,
    .upload_rows = cuda_upload_rows,
    .copy = cuda_copy,
    .download = cuda_download,
    .move_rows = cuda_move_rows,
    .begin = cuda_begin,
    .enqueue = cuda_enqueue,
    .poll = cuda_poll,
    .drain = cuda_drain,
    .draw = cuda_draw,
    .times = cuda_times,
};

}  // namespace keel

static constinit const keel_backend kTable = {keel::kCudaBackend};

extern "C" const keel_backend* keel_cuda(void) {
    return &kTable;
}
