#include "sdk/backend/offload/offload_backend.h"

#include <new>

#include "platform/platform.h"
#include "sdk/core/status.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"

namespace keel {
namespace {

struct OffloadDevice : Device {
    const Backend *own, *host;
    Device *own_device, *host_device;
    const Program* program;
    const Step* step;  // under way
    bool handed_over;  // the first layers are computed
};
OffloadDevice* offload(Device* device) {
    return static_cast<OffloadDevice*>(device);
}

Device* offload_place(const PlanConfig& config, const keel_hooks& hooks, Arena* arenas) {
    OffloadDevice* d = arenas[KEEL_REGION_PERSISTENT].place<OffloadDevice>("offload_device", 1);
    Device* own = config.own_backend->place(config, hooks, arenas);
    Device* host = config.host_backend->place(config, hooks, arenas);
    if (!d || !own || !host) return nullptr;
    *new (d) OffloadDevice{} = {{}, config.own_backend, config.host_backend, own, host, nullptr, nullptr, false};
    return d;
}

keel_status offload_attach(Device* device, const PlanConfig& config, uint8_t* const* region, keel_error* error) {
    OffloadDevice& d = *offload(device);
    KEEL_TRY(d.own->attach(d.own_device, config, region, error));
    return d.host->attach(d.host_device, config, region, error);
}

void offload_place_copies(Device* device, const Program& program, Arena* arenas) {
    const OffloadDevice* d = offload(device);
    program.config.own_backend->place_copies(d ? d->own_device : nullptr, program, arenas);
    program.config.host_backend->place_copies(d ? d->host_device : nullptr, program, arenas);
}

keel_status offload_open(Device* device, const Program* program, keel_error* error) {
    OffloadDevice& d = *offload(device);
    d.program = program;
    KEEL_TRY(d.own->open(d.own_device, program, error));
    return d.host->open(d.host_device, program, error);
}

void offload_close(Device* device) {
    OffloadDevice& d = *offload(device);
    d.host->close(d.host_device);
    d.own->close(d.own_device);
}

void offload_parallel(Device* device, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context) {
    const OffloadDevice& d = *offload(device);
    d.host->parallel(d.host_device, tasks, task, context);
}

bool is_own(keel_region_kind region) {
    return region == KEEL_REGION_DEVICE_SCRATCH || region == KEEL_REGION_DEVICE_WEIGHTS ||
           region == KEEL_REGION_DEVICE_KV;
}

keel_status offload_upload(Device* device, keel_region_kind region, uint64_t to, const void* from, uint64_t bytes) {
    const OffloadDevice& d = *offload(device);
    return is_own(region) ? d.own->upload(d.own_device, region, to, from, bytes)
                          : d.host->upload(d.host_device, region, to, from, bytes);
}

keel_status offload_upload_rows(Device* device, uint64_t to, uint32_t weight_type, const void* plain, uint32_t rows,
                                uint32_t k) {
    const OffloadDevice& d = *offload(device);
    return d.own->upload_rows(d.own_device, to, weight_type, plain, rows, k);
}

keel_status offload_copy(Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes) {
    const OffloadDevice& d = *offload(device);
    return is_own(region) ? d.own->copy(d.own_device, region, to, from, bytes)
                          : d.host->copy(d.host_device, region, to, from, bytes);
}

keel_status offload_download(Device* device, void* to, keel_region_kind region, uint64_t from, uint64_t bytes) {
    const OffloadDevice& d = *offload(device);
    return is_own(region) ? d.own->download(d.own_device, to, region, from, bytes)
                          : d.host->download(d.host_device, to, region, from, bytes);
}

keel_status offload_move_rows(Device* device, const KvRowMove* moves, uint32_t count, const uint32_t* page_id,
                              uint32_t session_index, uint32_t shift) {
    const OffloadDevice& d = *offload(device);
    return d.own->move_rows(d.own_device, moves, count, page_id, session_index, shift);
}

keel_status offload_begin(Device* device, const Step* step) {
    OffloadDevice& d = *offload(device);
    d.step = step;
    d.handed_over = false;
    KEEL_TRY(d.own->begin(d.own_device, step));
    return d.host->begin(d.host_device, step);
}

// Until the first layers are computed, which is what the others wait for. KEEL_AGAIN: not by the deadline.
keel_status hand_over(OffloadDevice* d, const StepLimits& limits) {
    while (!d->handed_over) {
        KEEL_TRY(d->own->poll(d->own_device, !limits.deadline_ns, &d->handed_over));
        if (d->handed_over) break;
        if (limits.cancelled(limits.context)) return KEEL_E_CANCELLED;
        if (limits.deadline_ns && platform::now_ns() >= limits.deadline_ns) return KEEL_AGAIN;
    }
    return KEEL_OK;
}

keel_status offload_enqueue(Device* device, Cursor* cursor, StepLimits* limits) {
    OffloadDevice& d = *offload(device);
    const uint32_t own_count = d.program->plan.variant[d.step->op_list].own_count;
    if (cursor->op < own_count) KEEL_TRY(d.own->enqueue(d.own_device, cursor, limits));
    KEEL_TRY(hand_over(&d, *limits));
    return d.host->enqueue(d.host_device, cursor, limits);
}

// All is enqueued, and so the first layers are done.
keel_status offload_poll(Device* device, bool wait, bool* done) {
    const OffloadDevice& d = *offload(device);
    return d.host->poll(d.host_device, wait, done);
}

// Those of the first layers, then the host's.
uint32_t offload_times(Device* device, uint32_t index, OpTime* out) {
    const OffloadDevice& d = *offload(device);
    OpTime t = {};
    const uint32_t own = d.own->times(d.own_device, 0, &t);
    if (own) d.own->times(d.own_device, own - 1, &t);
    const double handed_over_us = t.begin_us + t.us;
    const uint32_t host = d.host->times(d.host_device, index < own ? 0 : index - own, &t);
    if (index < own) d.own->times(d.own_device, index, &t);
    if (index >= own) t.begin_us += handed_over_us;
    *out = t;
    return own && host ? own + host : 0;
}

keel_status offload_drain(Device* device) {
    const OffloadDevice& d = *offload(device);
    const keel_status status = d.own->drain(d.own_device);
    const keel_status host = d.host->drain(d.host_device);
    return status == KEEL_OK ? host : status;
}

}  // namespace

// A function that the table lacks is an error that names it (GCC).
#pragma GCC diagnostic error "-Wmissing-field-initializers"

constexpr Backend kOffloadBackend = {
    .device_numerics = false,
    .configure = nullptr,
    .weights = nullptr,
    .cost = nullptr,
    .runs = nullptr,
    .fuse = nullptr,
    .dispatch_us = nullptr,
    .place = offload_place,
    .attach = offload_attach,
    .place_copies = offload_place_copies,
    .open = offload_open,
    .close = offload_close,
    .parallel = offload_parallel,
    .upload = offload_upload,
    .upload_rows = offload_upload_rows,
    .copy = offload_copy,
    .download = offload_download,
    .move_rows = offload_move_rows,
    .begin = offload_begin,
    .enqueue = offload_enqueue,
    .poll = offload_poll,
    .drain = offload_drain,
    .draw = nullptr,
    .times = offload_times,
};

}  // namespace keel
