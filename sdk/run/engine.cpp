// Init, close, stats: everything about an engine but planning and running it.
#include "sdk/run/engine.h"

#include <new>

#include "sdk/core/status.h"
#include "sdk/run/engine_size.h"

namespace keel {

keel_status upload_kv(Engine* e, uint64_t to, const void* from, uint64_t bytes) {
    const keel_status status = e->backend->upload(e->device, KEEL_REGION_KV, to, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not store KV rows");
}

keel_status copy_kv(Engine* e, uint64_t to, uint64_t from, uint64_t bytes) {
    const keel_status status = e->backend->copy(e->device, KEEL_REGION_KV, to, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not copy KV rows");
}

keel_status download_kv(Engine* e, void* to, uint64_t from, uint64_t bytes) {
    const keel_status status = e->backend->download(e->device, to, KEEL_REGION_KV, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not read KV rows");
}

namespace {

// KvPageCopier of the pool, called under its lock: who asked the pool poisons the engine once the lock is free, as the
// fault hook may ask for statistics.
keel_status copy_page(void* context, uint32_t to, uint32_t from) {
    Engine* e = static_cast<Engine*>(context);
    const keel_status status = e->backend->copy(e->device, KEEL_REGION_KV, e->kv_page_offset(to),
                                                e->kv_page_offset(from), e->geometry.page_bytes);
    return status == KEEL_OK ? KEEL_OK : KEEL_E_POISONED;
}

void unlock_weights(const Engine& e) {
    for (const PageRange& range : e.locked)
        if (range.data) platform::unlock_pages(range.data, range.bytes);
}

// The engine of a layout in place mode.
Engine* make_engine(const Layout& layout, const keel_model& model) {
    Engine* e = new (layout.engine) Engine{};
    static_cast<Program&>(*e) = layout.program;
    const PlanConfig& config = e->config;
    e->backend = config.backend;
    e->device = layout.device;
    e->fingerprint = model.gguf.fingerprint;
    e->chat = layout.chat;
    e->kv_identity = kv_identity_of(config, e->spec.layers);
    kv_pool_init(&e->pool, config.kv_pages, e->geometry.page_bytes, layout.kv_free_list, layout.kv_references);
    e->pool.copier = {copy_page, e};
    e->tokenizer = layout.tokenizer;
    e->step = layout.step;
    e->sessions = static_cast<Session*>(layout.sessions);
    for (uint32_t i = 0; i < config.max_sessions; ++i) {
        Session* s = new (&e->sessions[i]) Session{};
        const SessionMemory& memory = layout.session[i];
        s->tokens = memory.tokens;
        s->drawn = memory.drawn;
        s->kv.ids = memory.page_ids;
        s->work = memory.sampler_work;
        s->mask = memory.allowed_tokens;
        s->logits = e->logits + uint64_t{i} * config.logits_rows * e->spec.vocabulary;
        s->hidden = e->hidden + uint64_t{i} * config.logits_rows * e->spec.embedding;
    }
    return e;
}

// Maps, locks and starts what an engine needs of the system.
keel_status start_engine(Engine* e, const keel_reader& reader, keel_error* error) {
    if (e->config.weights == KEEL_WEIGHTS_MAP_LOCKED) {
        const keel_reader* readers[2] = {&reader,
                                         e->config.low_rank.usable ? &e->config.low_rank.file.reader : nullptr};
        for (int i = 0; i < 2 && readers[i]; ++i) {
            if (!platform::lock_pages(readers[i]->mapped, readers[i]->size_bytes))
                return fail(error, KEEL_E_PLATFORM, 0, "config.weights",
                            "the system refused to lock the mapped weights");
            e->locked[i] = {readers[i]->mapped, readers[i]->size_bytes};
        }
    }
    KEEL_TRY(e->backend->open(e->device, e, error));
    const keel_status status = registry_add(e, &e->id);
    if (status == KEEL_OK) return KEEL_OK;
    e->backend->close(e->device);
    return fail(error, status, 0, "engine", "all engine slots are in use");
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                             const keel_memory* memory_in, keel_engine* out, keel_error* error) {
    if (!memory_in || !out) return KEEL_E_ARGUMENT;
    EngineSize size;
    KEEL_TRY(size_engine(reader, model, config, &size, error));
    keel_memory memory;
    KEEL_TRY(read_versioned(memory_in, &memory));
    Arena arenas[KEEL_REGION_COUNT];
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        const keel_region& region = memory.regions[i];
        const uint64_t need = size.arenas[i].used_bytes();
        if (region.bytes < need || (need && !region.data))
            return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, kRegionNames[i], "region is smaller than the plan");
        if (reinterpret_cast<uintptr_t>(region.data) % size.arenas[i].region_align() != 0)
            return fail(error, KEEL_E_MEMORY_ALIGN, 0, kRegionNames[i], "region is not aligned as the plan says");
        arenas[i] = Arena(region.data, need);
    }
    Layout layout;
    Engine* e = nullptr;
    keel_status status = lay_out(size.request(*model, size.layout.load_bytes), arenas, &layout, error);
    if (status == KEEL_OK) {
        e = make_engine(layout, *model);
        for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
            arenas[i].seal();
            e->arenas[i] = arenas[i];
        }
        status = start_engine(e, size.reader, error);
        if (status != KEEL_OK) unlock_weights(*e);
    }
    if (status != KEEL_OK) {
        for (Arena& arena : arenas) arena.release();
        return status;
    }
    out->id = e->id;
    const LowRankChoice& low_rank = e->config.low_rank;
    if (e->hooks.log && low_rank.given && !low_rank.usable)
        e->hooks.log(e->hooks.user_data, KEEL_LOG_WARN, low_rank.error.status,
                     "the W_proj cache is not used: there is no low-rank variant");
    if (e->hooks.log) e->hooks.log(e->hooks.user_data, KEEL_LOG_INFO, KEEL_OK, "engine ready");
    return KEEL_OK;
}

keel_status keel_engine_close(keel_engine engine) {
    Engine* e = registry_engine(engine.id);
    if (!e) return KEEL_E_HANDLE;
    if (e->advancing.exchange(1, std::memory_order_acquire)) return KEEL_E_BUSY;
    registry_remove(engine.id);
    for (uint32_t i = 0; i < e->config.max_sessions; ++i) e->sessions[i].id.store(0, std::memory_order_release);
    if (e->progress.active) e->backend->drain(e->device);  // what it says no longer matters
    e->backend->close(e->device);
    unlock_weights(*e);
    Arena arenas[KEEL_REGION_COUNT];  // the engine lies in one of them
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) arenas[i] = e->arenas[i];
    for (Arena& arena : arenas) arena.release();
    return KEEL_OK;
}

keel_status keel_engine_stats(keel_engine engine, keel_stats* out) {
    Engine* e = registry_engine(engine.id);
    if (!e) return KEEL_E_HANDLE;
    if (!out) return KEEL_E_ARGUMENT;
    keel_stats stats = {};
    stats.struct_size = sizeof stats;
    for (uint32_t i = 0; i < e->config.max_sessions; ++i)
        stats.open_sessions += e->sessions[i].id.load(std::memory_order_acquire) != 0;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        stats.regions[i].planned_bytes = e->arenas[i].used_bytes();
        stats.regions[i].used_bytes = stats.regions[i].high_water_bytes = e->arenas[i].used_bytes();
        stats.allocations_after_init += e->arenas[i].refused_after_seal();
    }
    const KvUsage kv = kv_usage(&e->pool);
    stats.regions[KEEL_REGION_KV].used_bytes = uint64_t{e->pool.page_count - kv.free_pages} * e->pool.page_bytes;
    stats.regions[KEEL_REGION_KV].high_water_bytes = uint64_t{kv.high_water_pages} * e->pool.page_bytes;
    stats.steps = e->steps.load(std::memory_order_relaxed);
    stats.tokens = e->tokens.load(std::memory_order_relaxed);
    stats.prefill_tokens = e->prefill_tokens.load(std::memory_order_relaxed);
    stats.prefill_us = e->prefill_us.load(std::memory_order_relaxed);
    stats.decode_tokens = e->decode_tokens.load(std::memory_order_relaxed);
    stats.decode_us = e->decode_us.load(std::memory_order_relaxed);
    stats.kv_pages_free = kv.free_pages;
    stats.threads = e->config.threads;
    TextBuilder(stats.kernel_set, sizeof stats.kernel_set).text(e->config.kernels->name);
    stats.engine_status = e->poisoned.load(std::memory_order_acquire) ? KEEL_E_POISONED : KEEL_OK;
    return write_versioned(stats, out);
}

}  // extern "C"
