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

Device* cpu_place(const PlanConfig& config, const keel_hooks& hooks, Arena& persistent) {
    CpuDevice* d = persistent.place<CpuDevice>("cpu_device", 1);
    CpuDevice local = {};
    if (d) new (d) CpuDevice{};
    CpuDevice* out = d ? d : &local;
    const uint64_t pages = uint64_t{config.max_sessions} * kv_pages_for(config.context_tokens);
    out->page = persistent.place<const uint8_t*>("page_addresses", pages);
    if (config.kv_recent_tokens) out->recent_page = persistent.place<const uint8_t*>("recent_addresses", pages);
    out->product_row = persistent.place<float*>("product_rows", uint64_t{kMaxMatmuls} * config.chunk_tokens);
    if (config.threads > 1 && !hooks.parallel_for)
        out->team_memory = persistent.place_bytes("threads", platform::thread_team_bytes(config.threads), 4096);
    return d;
}

keel_status cpu_open(Device* device, const Program* program, keel_error* error) {
    CpuDevice& d = *cpu(device);
    d.program = program;
    for (double& ratio : d.measured_over_predicted) ratio = 1;
    const PlanConfig& config = program->config;
    const uint32_t pages = kv_pages_for(config.context_tokens);
    for (uint32_t session = 0; d.recent_page && session < config.max_sessions; ++session)
        for (uint32_t page = 0; page < pages; ++page)
            d.recent_page[uint64_t{session} * pages + page] =
                d.kv(program->f16_window_offset(session) + program->f16_window.recent_page_offset(page));
    if (d.team_memory) {
        const char* reason;
        d.team = platform::thread_team_start(d.team_memory, config.threads, config.pin_threads, &reason);
        if (!d.team) return fail(error, KEEL_E_PLATFORM, 0, "config.threads", reason);
    }
    return KEEL_OK;
}

void cpu_close(Device* device) {
    if (cpu(device)->team) platform::thread_team_stop(cpu(device)->team);
    cpu(device)->team = nullptr;
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

keel_status cpu_poll(Device*, bool* done) {
    *done = true;
    return KEEL_OK;
}

keel_status cpu_drain(Device*) {
    return KEEL_OK;
}

}  // namespace

// A function that the table lacks is an error that names it (GCC).
#pragma GCC diagnostic error "-Wmissing-field-initializers"

const Backend kCpuBackend = {
    .name = "cpu",
    .configure = cpu_configure,
    .product = cpu_product,
    .layout = cpu_layout,
    .predict = cpu_predict,
    .thread_bytes = cpu_thread_bytes,
    .fuse = cpu_fuse,
    .place = cpu_place,
    .open = cpu_open,
    .close = cpu_close,
    .upload = cpu_upload,
    .copy = cpu_copy,
    .download = cpu_download,
    .begin = cpu_begin,
    .enqueue = cpu_enqueue,
    .poll = cpu_poll,
    .drain = cpu_drain,
};

const Backend* default_backend() {
    return &kCpuBackend;
}

}  // namespace keel
