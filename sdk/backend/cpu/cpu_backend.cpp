#include "sdk/backend/cpu/cpu_backend.h"

#include <string.h>

#include <new>

#include "sdk/backend/cpu/cpu_device.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

CpuDevice* cpu(Device* device) {
    return static_cast<CpuDevice*>(device);
}

// The red zones between pages and between f16 windows (arena.h).
void each_red_zone(const CpuDevice& d, void (*visit)(void* data, uint64_t bytes)) {
    const PlanConfig& config = d.program->config;
    const KvPart& part = *d.kv_part;
    for (uint32_t id = 0; id < config.kv_pages; ++id)
        visit(d.kv(part.page_offset(id) + part.page_bytes), kRedZoneBytes);
    for (uint32_t i = 0; i < config.max_sessions && part.f16_window.session_bytes; ++i)
        visit(d.kv(part.f16_window_offset(i) + part.f16_window.session_bytes), kRedZoneBytes);
    if (part.f16_window.step_bytes) visit(d.kv(part.step_rows_offset + part.f16_window.step_bytes), kRedZoneBytes);
}

Device* cpu_place(const PlanConfig& config, const keel_hooks& hooks, Arena* arenas) {
    Arena& persistent = arenas[KEEL_REGION_PERSISTENT];
    CpuDevice* d = persistent.place<CpuDevice>("cpu_device", 1);
    CpuDevice local = {};
    if (d) new (d) CpuDevice{};
    CpuDevice* out = d ? d : &local;
    out->hooks = hooks;
    const uint64_t pages = uint64_t{config.max_sessions} * kv_pages_for(config.context_tokens);
    out->page = persistent.place<const uint8_t*>("page_addresses", pages);
    out->product_row = persistent.place<float*>("product_rows", uint64_t{kMaxMatmuls} * config.chunk_tokens);
    if (config.threads > 1 && !hooks.parallel_for)
        out->team_memory = persistent.place_bytes("threads", platform::thread_team_bytes(config.threads), 4096);
    return d;
}

// Threads come before the weights, which may have to be decoded.
keel_status cpu_attach(Device* device, const PlanConfig& config, uint8_t* const*, keel_error* error) {
    CpuDevice& d = *cpu(device);
    if (!d.team_memory) return KEEL_OK;
    const char* reason;
    d.team = platform::thread_team_start(d.team_memory, config.threads, config.pin_threads, &reason);
    return d.team ? KEEL_OK : fail(error, KEEL_E_PLATFORM, 0, "config.threads", reason);
}

void cpu_place_copies(Device* device, const Program& program, Arena* arenas) {
    uint32_t most = 0;
    for (const OpList& list : program.plan.variant) most = list.count > most ? list.count : most;
    OpTime* times = arenas[KEEL_REGION_PERSISTENT].place<OpTime>("op_times", most);
    if (device) cpu(device)->times = times;
}

keel_status cpu_open(Device* device, const Program* program, keel_error*) {
    CpuDevice& d = *cpu(device);
    d.program = program;
    d.kv_part = &program->kv_part[program->kv_parts - 1];
    for (double& ratio : d.measured_over_predicted) ratio = 1;
    if (kRedZoneBytes) each_red_zone(d, poison);
    return KEEL_OK;
}

void cpu_close(Device* device) {
    if (cpu(device)->team) platform::thread_team_stop(cpu(device)->team);
    cpu(device)->team = nullptr;
    if (!cpu(device)->program) return;  // never opened
    const Program& program = *cpu(device)->program;
    unpoison(program.region[KEEL_REGION_SCRATCH], program.plan.scratch_bytes);
    if (kRedZoneBytes) each_red_zone(*cpu(device), unpoison);
}

}  // namespace

void run_tasks(const CpuDevice& d, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context) {
    struct Tasks {
        void (*task)(void* context, uint32_t index);
        void* context;
    } all = {task, context};
    if (d.hooks.parallel_for) return d.hooks.parallel_for(d.hooks.user_data, tasks, task, context);
    const auto some = [](void* self, uint32_t, uint32_t begin, uint32_t end) {
        const Tasks& t = *static_cast<Tasks*>(self);
        for (uint32_t i = begin; i < end; ++i) t.task(t.context, i);
    };
    if (d.team) return platform::thread_team_run(d.team, tasks, some, &all);
    some(&all, 0, 0, tasks);
}

namespace {

void cpu_parallel(Device* device, uint32_t tasks, void (*task)(void* context, uint32_t index), void* context) {
    run_tasks(*cpu(device), tasks, task, context);
}

uint8_t* at(Device* device, keel_region_kind region, uint64_t offset) {
    return cpu(device)->program->region[region] + offset;
}

keel_status cpu_upload(Device* device, keel_region_kind region, uint64_t to, const void* from, uint64_t bytes) {
    memcpy(at(device, region, to), from, bytes);
    return KEEL_OK;
}

keel_status cpu_copy(Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes) {
    memcpy(at(device, region, to), at(device, region, from), bytes);
    return KEEL_OK;
}

keel_status cpu_download(Device* device, void* to, keel_region_kind region, uint64_t from, uint64_t bytes) {
    memcpy(to, at(device, region, from), bytes);
    return KEEL_OK;
}

keel_status cpu_poll(Device*, bool, bool* done) {
    *done = true;
    return KEEL_OK;
}

keel_status cpu_drain(Device*) {
    return KEEL_OK;
}

uint32_t cpu_times(Device* device, uint32_t index, OpTime* out) {
    const CpuDevice& d = *cpu(device);
    if (index < d.times_of_step) *out = d.times[index];
    return d.times_of_step;
}

}  // namespace

// A function that the table lacks is an error that names it (GCC).
#pragma GCC diagnostic error "-Wmissing-field-initializers"

const Backend kCpuBackend = {
    .device_numerics = false,
    .configure = cpu_configure,
    .weights = cpu_weights,
    .cost = cpu_cost,
    .runs = nullptr,
    .fuse = cpu_fuse,
    .dispatch_us = nullptr,
    .place = cpu_place,
    .attach = cpu_attach,
    .place_copies = cpu_place_copies,
    .open = cpu_open,
    .close = cpu_close,
    .parallel = cpu_parallel,
    .upload = cpu_upload,
    .upload_rows = nullptr,
    .copy = cpu_copy,
    .download = cpu_download,
    .move_rows = nullptr,
    .begin = cpu_begin,
    .enqueue = cpu_enqueue,
    .poll = cpu_poll,
    .drain = cpu_drain,
    .draw = nullptr,
    .times = cpu_times,
};

const Backend* default_backend() {
    return &kCpuBackend;
}

}  // namespace keel
