// Plan, init, close, stats: everything about an engine but running it.
#include "sdk/run/engine.h"

#include "sdk/core/status.h"
#include "sdk/plan/memory.h"

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

// Everything keel_plan, keel_plan_op and keel_engine_init need to know first.
struct Sizing {
    keel_reader reader;
    PlanConfig config;
    keel_hooks hooks;
    uint32_t op_counts[2];
    Arena arenas[KEEL_REGION_COUNT];
    PlaceResult result;
};
keel_status size_engine(const keel_reader* reader, const keel_model* model, const keel_config* config, Sizing* s,
                        keel_error* error) {
    if (!reader || !model || !config) return KEEL_E_ARGUMENT;
    if (model->magic != keel_model::kMagic) return KEEL_E_ARGUMENT;
    KEEL_TRY(read_versioned(reader, &s->reader, sizeof s->reader));
    if (s->reader.size_bytes != model->gguf.file_bytes)
        return fail(error, KEEL_E_FILE_MISMATCH, 0, "reader", "not the file that was inspected");
    KEEL_TRY(resolve_config(config, *model, s->reader, &s->config, &s->hooks, error));
    // Ops are counted first, because their table is placed like everything else.
    Arena none;
    WeightPlacer weights{&s->reader, none, s->config.weights, s->hooks, 0, s->config.kernels, error};
    ExecutionPlan plan = {};
    build_plan(*model, s->config, weights, nullptr, 0, &plan);
    KEEL_TRY(weights.status);
    for (int i = 0; i < 2; ++i) s->op_counts[i] = plan.variant[i].count;
    Engine* engine = nullptr;
    return place_engine(s->reader, *model, s->config, s->hooks, s->op_counts, 0, s->arenas, &engine, &s->result, error);
}

// KvPageCopier of the pool.
keel_status copy_page(void* context, uint32_t to, uint32_t from) {
    Engine* e = static_cast<Engine*>(context);
    return copy_kv(e, e->kv_page_offset(to), e->kv_page_offset(from), e->geometry.page_bytes);
}

void unlock_weights(const Engine& e) {
    for (const PageRange& range : e.locked)
        if (range.data) platform::unlock_pages(range.data, range.bytes);
}

void write_note(const keel_model& model, const PlanConfig& c, char* dst, size_t capacity) {
    TextBuilder note(dst, capacity);
    if (model.tensor(kRopeFactorsLong, 0))
        note.text(c.context_tokens > model.spec.rope_original_context ? "rope: long factors; "
                                                                      : "rope: short factors; ");
    if (c.context_tokens > model.spec.train_context) note.text("context exceeds the trained length; ");
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_plan(const keel_reader* reader, const keel_model* model, const keel_config* config,
                      keel_memory_plan* out, keel_error* error) {
    if (!out) return KEEL_E_ARGUMENT;
    Sizing s = {};
    KEEL_TRY(size_engine(reader, model, config, &s, error));
    keel_memory_plan p = {};
    p.struct_size = sizeof p;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        if (!s.arenas[i].ok()) return fail(error, KEEL_E_ARGUMENT, 0, kRegionNames[i], "size exceeds 64 bits");
        p.regions[i].bytes = s.arenas[i].used_bytes();
        p.regions[i].align_bytes = s.arenas[i].region_align();
        p.regions[i].padding_bytes = s.arenas[i].padding_bytes();
    }
    const PlanConfig& c = s.config;
    p.kv_page_tokens = kPageTokens;
    p.mapped_weight_bytes = s.result.mapped_weight_bytes;
    p.kv_page_bytes = s.result.geometry.page_bytes;
    p.kv_bytes_per_token = p.kv_page_bytes / kPageTokens;
    p.kv_session_bytes = s.result.kv_session_bytes;
    p.kv_side_bytes = s.result.kv_side_bytes;
    p.kv_pages = c.kv_pages;
    p.context_tokens = c.context_tokens;
    p.chunk_tokens = c.chunk_tokens;
    p.max_sessions = c.max_sessions;
    p.threads = c.threads;
    p.op_count = s.op_counts[KEEL_VARIANT_DENSE];
    p.cpu = c.cpu;
    p.decode_bytes = s.result.plan.variant[KEEL_VARIANT_DENSE].decode_bytes;
    p.low_rank_op_count = s.op_counts[KEEL_VARIANT_LOW_RANK];
    p.low_rank_decode_bytes = s.result.plan.variant[KEEL_VARIANT_LOW_RANK].decode_bytes;
    p.low_rank_records = s.result.plan.low_rank_records;
    p.low_rank_bytes = s.result.plan.low_rank_bytes;
    if (c.low_rank.given && !c.low_rank.usable) {
        p.wproj_status = c.low_rank.error.status;
        p.wproj_error = c.low_rank.error;
    }
    write_note(*model, c, p.note, sizeof p.note);
    return write_versioned(&p, sizeof p, out);
}

keel_status keel_plan_op(const keel_reader* reader_in, const keel_model* model, const keel_config* config,
                         uint32_t index, keel_op_info* out) {
    if (!reader_in || !model || !config || !out || model->magic != keel_model::kMagic) return KEEL_E_ARGUMENT;
    keel_reader reader;
    PlanConfig c;
    keel_hooks hooks;
    KEEL_TRY(read_versioned(reader_in, &reader, sizeof reader));
    KEEL_TRY(resolve_config(config, *model, reader, &c, &hooks, nullptr));
    Arena none;
    WeightPlacer weights{&reader, none, c.weights, hooks, 0, c.kernels, nullptr};
    ExecutionPlan plan = {};
    PlanQuery query = {};
    query.index = index;
    KEEL_TRY(query_plan(*model, c, weights, &query, &plan));

    const Op& op = query.op;
    const Buffer& b = plan.buffers[op.out];
    keel_op_info info = {};
    info.struct_size = sizeof info;
    info.index = index;
    TextBuilder(info.name, sizeof info.name).text(op_name(op));
    if (op.w_row_bytes)
        TextBuilder(info.weight_type, sizeof info.weight_type).text(kernels::kWeightTypes[op.weight_type].name);
    info.layer = op.layer;
    info.rows = op.rows;
    info.columns = op.k;
    info.fixed_bytes = op.fixed_bytes;
    info.token_bytes = op.token_bytes;
    info.output_offset = op.to_logits ? 0 : b.offset;
    info.output_bytes = op.to_logits ? 0 : b.bytes;
    info.first_op = op.to_logits ? index : query.first_op;
    info.last_op = op.to_logits ? index : query.last_op;
    TextBuilder(info.output_buffer, sizeof info.output_buffer).text(op.to_logits ? "logits" : kBufferNames[op.out]);
    const bool mapped = c.weights == KEEL_WEIGHTS_MAP || c.weights == KEEL_WEIGHTS_MAP_LOCKED;
    info.placement = op.w_row_bytes == 0 ? KEEL_WEIGHTS_DEFAULT
                     : op.repacked       ? KEEL_WEIGHTS_REPACK
                     : mapped            ? c.weights
                                         : KEEL_WEIGHTS_COPY;
    info.repack_skip = op.repack_skip;
    info.predicted_us = predict_us(op, 1);
    info.dispatch = query.dispatch;
    info.low_rank = query.low_rank;
    info.low_rank_reason = op.low_rank_reason;
    info.low_rank_error = op.low_rank_error;
    return write_versioned(&info, sizeof info, out);
}

keel_status keel_engine_init(const keel_reader* reader, const keel_model* model, const keel_config* config,
                             const keel_memory* memory_in, keel_engine* out, keel_error* error) {
    if (!memory_in || !out) return KEEL_E_ARGUMENT;
    Sizing s = {};
    KEEL_TRY(size_engine(reader, model, config, &s, error));
    keel_memory memory;
    KEEL_TRY(read_versioned(memory_in, &memory, sizeof memory));
    Arena arenas[KEEL_REGION_COUNT];
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        const keel_region& region = memory.regions[i];
        const uint64_t need = s.arenas[i].used_bytes();
        if (region.bytes < need || (need && !region.data))
            return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, kRegionNames[i], "region is smaller than the plan");
        if (reinterpret_cast<uintptr_t>(region.data) % s.arenas[i].region_align() != 0)
            return fail(error, KEEL_E_MEMORY_ALIGN, 0, kRegionNames[i], "region is not aligned as the plan says");
        // A region of 0 bytes still has to be in place mode: an address that is never read.
        arenas[i] = Arena(region.data ? region.data : arenas, need);
    }
    Engine* e = nullptr;
    KEEL_TRY(place_engine(s.reader, *model, s.config, s.hooks, s.op_counts, s.result.load_bytes, arenas, &e, nullptr,
                          error));
    if (s.config.weights == KEEL_WEIGHTS_MAP_LOCKED) {
        const keel_reader* readers[2] = {&s.reader,
                                         s.config.low_rank.usable ? &s.config.low_rank.file.reader : nullptr};
        for (int i = 0; i < 2 && readers[i]; ++i) {
            if (!platform::lock_pages(readers[i]->mapped, readers[i]->size_bytes)) {
                unlock_weights(*e);
                return fail(error, KEEL_E_PLATFORM, 0, "config.weights",
                            "the system refused to lock the mapped weights");
            }
            e->locked[i] = {readers[i]->mapped, readers[i]->size_bytes};
        }
    }
    e->pool.copier = {copy_page, e};
    const keel_status opened = e->backend->open(e->device, e, error);
    if (opened != KEEL_OK) {
        unlock_weights(*e);
        return opened;
    }
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        arenas[i].seal();
        e->arenas[i] = arenas[i];
    }
    const keel_status status = registry_add(e, &e->id);
    if (status != KEEL_OK) {
        e->backend->close(e->device);
        unlock_weights(*e);
        return fail(error, status, 0, "engine", "all engine slots are in use");
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
    return KEEL_OK;
}

keel_status keel_attach(keel_engine engine, keel_attachment kind, const keel_reader* reader_in, keel_error* error) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!reader_in) return KEEL_E_ARGUMENT;
    keel_reader reader;
    KEEL_TRY(read_versioned(reader_in, &reader, sizeof reader));
    for (uint32_t i = 0; i < e->config.max_sessions; ++i)
        if (e->sessions[i].id.load(std::memory_order_acquire))
            return fail(error, KEEL_E_STATE, 0, "session", "close all sessions before attaching");
    if (kind != KEEL_ATTACH_CHAT_TEMPLATE)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "kind", "this library has no such optional part");
    ChatTemplate chat;
    KEEL_TRY(read_chat_template(reader, 0, reader.size_bytes, &chat, error));
    if (chat.family == KEEL_CHAT_UNKNOWN)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "chat template", "matches none of the known families");
    e->chat = chat;
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
    return write_versioned(&stats, sizeof stats, out);
}

}  // extern "C"
