// Init, close, stats: everything about an engine but planning and running it.
#include "sdk/run/engine.h"

#include <new>

#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/run/engine_size.h"

namespace keel {

keel_status upload_kv(Engine* e, const KvPart& part, uint64_t to, const void* from, uint64_t bytes) {
    const keel_status status = e->backend->upload(e->device, part.region, to, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not store KV rows");
}

keel_status copy_kv(Engine* e, const KvPart& part, uint64_t to, uint64_t from, uint64_t bytes) {
    const keel_status status = e->backend->copy(e->device, part.region, to, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not copy KV rows");
}

keel_status download_kv(Engine* e, void* to, const KvPart& part, uint64_t from, uint64_t bytes) {
    const keel_status status = e->backend->download(e->device, to, part.region, from, bytes);
    return status == KEEL_OK ? KEEL_OK : poison(e, "the backend did not read KV rows");
}

namespace {

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
    e->grammar = layout.grammar;
    e->drafts = layout.drafts;
    e->kv_identity = kv_identity_of(config, model);
    kv_pool_init(&e->pool, config.kv_pages, layout.kv_next_free, layout.kv_references);
    e->tokenizer = layout.tokenizer;
    e->vocabulary_hash = tokenizer_identity(e->tokenizer);
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
        s->grammar = memory.grammar;
        s->drafter = memory.drafter;
        s->logits = e->logits + uint64_t{i} * config.logits_rows * e->spec.vocabulary;
        s->hidden = e->hidden + uint64_t{i} * config.logits_rows * e->spec.embedding;
    }
    return e;
}

// Maps, locks and starts what an engine needs of the system.
keel_status start_engine(Engine* e, const keel_reader& reader, keel_error* error) {
    if (e->config.weights == KEEL_WEIGHTS_MAP_LOCKED && e->config.host_layer != kNoHostLayer) {
        const keel_reader* readers[2] = {&reader,
                                         e->config.low_rank.usable ? &e->config.low_rank.file.reader : nullptr};
        for (int i = 0; i < 2 && readers[i]; ++i) {
            const keel_reader& r = *readers[i];
            const PageRange range = {mapped_at(r, r.text_bytes), stored_bytes(r)};
            if (!platform::lock_pages(range.data, range.bytes))
                return fail(error, KEEL_E_PLATFORM, 0, "config.weights",
                            "the system refused to lock the mapped weights");
            e->locked[i] = range;
        }
    }
    return e->backend->open(e->device, e, error);
}

bool overlap(const void* a, uint64_t a_bytes, const void* b, uint64_t b_bytes) {
    const uintptr_t x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
    return x < y + b_bytes && y < x + a_bytes;
}

// The regions must be apart from each other and from what init reads while it writes them.
keel_status check_apart(const keel_region* regions, const keel_reader& reader, const keel_model& model,
                        const keel_config& config, keel_error* error) {
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        if (regions[i].bytes == 0) continue;
        const char* with = nullptr;
        const auto meets = [&](const keel_reader& r, const char* file, const char* text) {
            if (r.mapped && overlap(regions[i].data, regions[i].bytes, r.mapped, r.text_stored_bytes + stored_bytes(r)))
                with = file;
            if (r.text_bytes && overlap(regions[i].data, regions[i].bytes, r.text, r.text_bytes)) with = text;
        };
        meets(reader, "overlaps the file of the reader", "overlaps the text of the reader");
        for (uint32_t k = 0; k < config.part_count; ++k) {
            keel_part part;
            keel_reader r;
            KEEL_TRY(read_versioned(config.parts, &part, k));
            KEEL_TRY(read_versioned(part.reader, &r));
            meets(r, "overlaps the file of a part", "overlaps the text of a part");
        }
        if (overlap(regions[i].data, regions[i].bytes, &model, model.bytes)) with = "overlaps the model's buffer";
        for (int k = 0; k < i; ++k)
            if (regions[k].bytes && overlap(regions[i].data, regions[i].bytes, regions[k].data, regions[k].bytes))
                with = "overlaps another region";
        if (with) return fail(error, KEEL_E_ARGUMENT, 0, kRegionNames[i], with);
    }
    return KEEL_OK;
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                             const keel_memory* memory_in, keel_engine* out, keel_error* error) {
    if (!memory_in || !out) return fail(error, KEEL_E_ARGUMENT, 0, !out ? "out" : "memory", "null");
    keel_memory memory;
    KEEL_TRY(read_versioned(memory_in, &memory, "memory", error));
    EngineSize size;
    KEEL_TRY(size_engine(reader, model, config, SameFile::kByFingerprint, &size, error));
    Arena arenas[KEEL_REGION_COUNT];
    keel_region used[KEEL_REGION_COUNT];
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        const keel_region& region = memory.regions[i];
        const uint64_t need = size.arenas[i].used_bytes();
        if (region.bytes < need || (need && !region.data))
            return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, kRegionNames[i], "region is smaller than the plan");
        if (reinterpret_cast<uintptr_t>(region.data) % size.arenas[i].region_align() != 0)
            return fail(error, KEEL_E_MEMORY_ALIGN, 0, kRegionNames[i], "region is not aligned as the plan says");
        arenas[i] = Arena(region.data, need);
        used[i] = {region.data, need};
    }
    keel_config given;
    KEEL_TRY(read_versioned(config, &given));
    KEEL_TRY(check_apart(used, size.reader, *model, given, error));
    uint32_t slot;
    const keel_status claimed = registry_claim(used, &slot);
    if (claimed != KEEL_OK)
        return claimed == KEEL_E_ARGUMENT ? fail(error, claimed, 0, "memory", "some of it belongs to a living engine")
                                          : fail(error, claimed, 0, "engine", "all engine slots are in use");
    Layout layout = {};
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
        if (layout.device) layout.program.config.backend->close(layout.device);
        for (Arena& arena : arenas) arena.release();
        registry_give_up(slot);
        return status;
    }
    TryLock lock(&e->advancing);  // the log hook may know the handle, but does not close what calls it
    out->id = registry_publish(slot, e);
    if (e->hooks.log) {
        const LowRankChoice& low_rank = e->config.low_rank;
        if (low_rank.given && !low_rank.usable)
            e->hooks.log(e->hooks.user_data, KEEL_LOG_WARN, low_rank.error.status,
                         "the W_proj cache is not used: there is no low-rank variant");
        e->hooks.log(e->hooks.user_data, KEEL_LOG_INFO, KEEL_OK, "engine ready");
    }
    return KEEL_OK;
}

keel_status keel_engine_close(keel_engine engine) {
    Engine* e = registry_engine(engine.id);
    if (!e) return KEEL_E_HANDLE;
    if (e->advancing.exchange(1, std::memory_order_acquire)) return KEEL_E_BUSY;
    bool used = e->chatting.load() != 0;
    for (uint32_t i = 0; i < e->config.max_sessions; ++i) used |= e->sessions[i].busy.load() != 0;
    if (used) {
        e->advancing.store(0, std::memory_order_release);
        return KEEL_E_BUSY;
    }
    registry_hide(engine.id);
    for (uint32_t i = 0; i < e->config.max_sessions; ++i) e->sessions[i].id.store(0, std::memory_order_release);
    if (e->progress.active) e->backend->drain(e->device);  // what it says no longer matters
    e->backend->close(e->device);
    unlock_weights(*e);
    Arena arenas[KEEL_REGION_COUNT];  // the engine lies in one of them
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) arenas[i] = e->arenas[i];
    for (Arena& arena : arenas) arena.release();
    registry_remove(engine.id);  // from here on the memory may be another engine's
    return KEEL_OK;
}

keel_status keel_engine_last_error(keel_engine engine, keel_error* out) {
    Engine* e = registry_engine(engine.id);  // also when poisoned
    if (!e) return KEEL_E_HANDLE;
    if (!out) return KEEL_E_ARGUMENT;
    KEEL_TRY(check_versioned(out));
    TryLock lock(&e->last_error.taken);
    if (!lock.held()) return KEEL_E_BUSY;
    return write_versioned(e->last_error.error, out);
}

keel_status keel_engine_save_draft_pool(keel_engine engine, void* dst, uint64_t capacity_bytes, uint64_t* bytes) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!bytes) return bad_argument(e, "bytes", "null");
    if (!e->drafts.pool) return KEEL_E_STATE;
    *bytes = TokenPool::file_bytes(e->drafts.pool->bytes());
    if (!dst) return KEEL_OK;
    if (capacity_bytes < *bytes) return KEEL_E_BUFFER_TOO_SMALL;
    e->drafts.pool->write(e->vocabulary_hash, e->spec.vocabulary, dst);
    return KEEL_OK;
}

keel_status keel_engine_stats(keel_engine engine, keel_stats* out) {
    Engine* e = registry_engine(engine.id);
    if (!e) return KEEL_E_HANDLE;
    if (!out) return bad_argument(e, "out", "null");
    keel_stats stats = {};
    stats.struct_size = sizeof stats;
    for (uint32_t i = 0; i < e->config.max_sessions; ++i)
        stats.open_sessions += e->sessions[i].id.load(std::memory_order_acquire) != 0;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        stats.regions[i].planned_bytes = e->arenas[i].used_bytes();
        stats.regions[i].used_bytes = stats.regions[i].high_water_bytes = e->arenas[i].used_bytes();
        stats.allocations_after_init += e->arenas[i].refused_after_seal();
    }
    const KvUsage kv = kv_usage(e->pool);
    for (uint32_t i = 0; i < e->kv_parts; ++i) {
        const KvPart& part = e->kv_part[i];
        stats.regions[part.region].used_bytes = uint64_t{e->pool.page_count - kv.free_pages} * part.page_bytes;
        stats.regions[part.region].high_water_bytes = uint64_t{kv.high_water_pages} * part.page_bytes;
    }
    stats.steps = e->steps.load(std::memory_order_relaxed);
    stats.tokens = e->tokens.load(std::memory_order_relaxed);
    stats.prefill_tokens = e->prefill_tokens.load(std::memory_order_relaxed);
    stats.prefill_us = e->prefill_us.load(std::memory_order_relaxed);
    stats.decode_tokens = e->decode_tokens.load(std::memory_order_relaxed);
    stats.decode_us = e->decode_us.load(std::memory_order_relaxed);
    stats.drafts_computed = e->drafts_computed.load(std::memory_order_relaxed);
    stats.drafts_accepted = e->drafts_accepted.load(std::memory_order_relaxed);
    stats.kv_pages_free = kv.free_pages;
    stats.threads = e->config.threads;
    TextBuilder(stats.kernel_set, sizeof stats.kernel_set).text(e->config.kernels->name);
    stats.engine_status = e->poisoned.load(std::memory_order_acquire) ? KEEL_E_POISONED : KEEL_OK;
    stats.vocabulary_hash = e->vocabulary_hash;
    return write_versioned(stats, out);
}

}  // extern "C"
