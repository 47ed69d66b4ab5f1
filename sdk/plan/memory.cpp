#include "sdk/plan/memory.h"

#include <string.h>

#include <new>

#include "platform/platform.h"
#include "sdk/core/status.h"
#include "sdk/format/coded_file.h"
#include "sdk/plan/parts.h"
#include "sdk/plan/rope_frequencies.h"
#include "sdk/text/grammar_tokens.h"

namespace keel {

const char* const kRegionNames[KEEL_REGION_COUNT] = {"persistent", "scratch",        "pinned",         "weights",
                                                     "kv",         "device_scratch", "device_weights", "device_kv"};

namespace {

// Rotation frequencies of every pair; set 1 is the local one. They are at most 1 unless a file's factors say otherwise;
// up to 128 every angle of the longest context is within sincos_f64's range.
keel_status fill_frequencies(const ModelSpec& s, const ExecutionPlan& plan, double* out, keel_error* error) {
    const uint32_t pairs = s.rope_dims / 2;
    for (uint32_t set = 0; set < plan.rope_sets; ++set) {
        for (uint32_t i = 0; i < pairs; ++i) {
            const double f = rope_frequency(s, set == 1, i, plan.rope_factors ? plan.rope_factors[i] : 1);
            if (!(f > 0 && f <= 128))
                return fail(error, KEEL_E_FILE_FORMAT, 0, "rope factors",
                            "a rotation frequency is not between 0 and 128");
            out[set * pairs + i] = f;
        }
    }
    return KEEL_OK;
}

static_assert(platform::kMaxThreads <= kMostCodedThreads);

// A coded model, decoded on the threads of the backend while it is loaded.
struct CodedModel {
    CodedFile file;
    const Backend* backend;
    Device* device;

    void open(const LayoutRequest& r, Device* host, void* work) {
        backend = r.config.backend;
        device = host;
        const auto run = [](void* self, uint32_t tasks, void (*task)(void* context, uint32_t i), void* context) {
            const CodedModel& m = *static_cast<CodedModel*>(self);
            m.backend->parallel(m.device, tasks, task, context);
        };
        file.open(r.reader, {r.config.kernels->rans_decode, r.config.threads, backend->parallel ? +run : nullptr, this},
                  work);
    }
};

// Ops, weights in the order in which ops read them, scratch.
keel_status place_plan(const LayoutRequest& r, Arena* arenas, Layout* out, keel_error* error) {
    Arena& persistent = arenas[KEEL_REGION_PERSISTENT];
    const ModelSpec& spec = r.model.spec;
    Op* ops = persistent.place<Op>("ops", uint64_t{r.op_counts[0]} + r.op_counts[1] + r.op_counts[kAdaptedList]);
    const uint64_t factor_count = uint64_t{spec.blocks} * kAdapterSlotCount * r.config.adapters.count;
    AdapterFactor* factors = factor_count ? persistent.place<AdapterFactor>("adapter_factors", factor_count) : nullptr;
    if (factors) memset(factors, 0, factor_count * sizeof *factors);
    const uint64_t shared_count = spec.blocks != spec.layers ? uint64_t{spec.blocks} * kLayerSlots : 0;
    PlacedWeight* of_blocks = shared_count ? persistent.place<PlacedWeight>("block_weights", shared_count) : nullptr;
    if (of_blocks) memset(of_blocks, 0, shared_count * sizeof *of_blocks);
    // Where layers are computed in two places, each has all buffers, at the same offsets. The host's are used by nobody
    // before the first step: weights that are coded are decoded there.
    const bool own = r.config.host_layer != 0, host = r.config.host_layer != kNoHostLayer;
    const uint64_t decoding = r.reader.coded_bytes ? CodedFile::work_bytes(r.config.threads) : 0;
    const uint64_t host_bytes = host && r.scratch_bytes > decoding ? r.scratch_bytes : decoding;
    void* work = host || decoding ? arenas[KEEL_REGION_SCRATCH].place_bytes("activations", host_bytes) : nullptr;
    CodedModel coded;
    keel_reader plain = r.reader;
    if (decoding && work) {
        coded.open(r, out->device, work);
        plain = coded.file.reader();
    }
    WeightPlacer weights{arenas[KEEL_REGION_WEIGHTS],
                         arenas[KEEL_REGION_DEVICE_WEIGHTS],
                         r.config.weights,
                         r.hooks,
                         r.load_bytes,
                         r.config.kernels,
                         error};
    weights.backend = r.config.backend;
    weights.device = out->device;
    weights.adapter_factors = factors;
    weights.of_blocks = of_blocks;
    weights.coded = decoding && work ? &coded.file : nullptr;
    ExecutionPlan& plan = out->program.plan;
    build_plan(plain, r.model, r.config, weights, ops, r.op_counts, r.observers, &plan);
    KEEL_TRY(weights.status);
    // Ranks of W_proj caches and adapters are read anew, and rows are as wide.
    if (plan.scratch_bytes != r.scratch_bytes)
        return fail(error, KEEL_E_FILE_READ, 0, "plan", "a file changed while it was read");
    out->mapped_weight_bytes = weights.mapped_bytes;
    out->load_bytes = weights.total_bytes;
    double* frequencies = persistent.place<double>("rope_frequencies", uint64_t{plan.rope_sets} * (spec.rope_dims / 2));
    if (frequencies && arenas[KEEL_REGION_WEIGHTS].ok()) KEEL_TRY(fill_frequencies(spec, plan, frequencies, error));
    out->program.frequencies = frequencies;
    if (own) arenas[KEEL_REGION_DEVICE_SCRATCH].place_offset("activations", plan.scratch_bytes);
    if (own && host) {
        const Buffer& residual = plan.buffers[plan.residual];
        out->program.handover = static_cast<uint8_t*>(
            arenas[KEEL_REGION_PINNED].place_bytes("residual", residual.row_bytes * r.config.chunk_tokens));
    }
    return KEEL_OK;
}

// Pages of the KV formats, f16 rows of sinks and recent positions, the tables of both.
keel_status place_kv(const LayoutRequest& r, Arena* arenas, Layout* out, keel_error* error) {
    Arena& persistent = arenas[KEEL_REGION_PERSISTENT];
    const ModelSpec& spec = r.model.spec;
    const PlanConfig& config = r.config;
    Program& program = out->program;
    KvLayer* layers = persistent.place<KvLayer>("kv_layers", spec.layers);
    KvGeometry& geometry = program.geometry;
    geometry = {spec.layers, spec.kv_heads, spec.head_dim, 0, 0, layers};
    const uint32_t own = config.host_layer < spec.layers ? config.host_layer : spec.layers;
    if (own) program.kv_part[program.kv_parts++] = {KEEL_REGION_DEVICE_KV, 0, 0, {}, 0, 0, 0};
    if (own < spec.layers) program.kv_part[program.kv_parts++] = {KEEL_REGION_KV, own, 0, {}, 0, 0, 0};
    for (uint32_t i = 0; i < spec.layers; ++i) {
        KvPart& part = program.kv_part[i >= own && own];
        const KvLayer layer = kv_layer(spec.kv_heads, spec.head_dim, config.kv.formats(i), &part.page_bytes);
        geometry.row_bytes += uint64_t{spec.kv_heads} *
                              (layer.k.code_bytes + layer.k.scale_bytes + layer.v.code_bytes + layer.v.scale_bytes);
        if (layers) layers[i] = layer;
    }
    KEEL_TRY(place_kv_transform(r.reader, config, r.model, program.plan, program.frequencies, persistent,
                                &program.transform, error));
    const KvF16WindowLimits limits = {config.kv_sink_tokens, config.kv_recent_tokens, config.kv_rollback_tokens,
                                      config.chunk_tokens,   config.max_sessions,     config.draft_tokens};
    kernels::KvFormat ring = kernels::kKvQ8_0;
    for (uint32_t i = 0; i < spec.layers; ++i)
        if (kv_ring_format(config.kv.formats(i).k, config.kv.formats(i).v, spec.head_dim) != ring)
            ring = kernels::kKvF16;
    const auto f16_window = [&](uint32_t first_layer, uint32_t layers) {
        return kv_f16_window_shape(first_layer, layers, spec.kv_heads, spec.head_dim, ring, limits);
    };
    program.f16_window = f16_window(0, spec.layers);
    out->kv_next_free = persistent.place<std::atomic<uint32_t>>("kv_next_free", config.kv_pages);
    out->kv_references = persistent.place<std::atomic<uint32_t>>("kv_references", config.kv_pages);
    for (uint32_t i = 0; i < program.kv_parts; ++i) {
        KvPart& part = program.kv_part[i];
        const uint32_t end = part.first_layer < own ? own : spec.layers;
        Arena& kv = arenas[part.region];
        part.page_bytes = kernels::round64(part.page_bytes);
        part.f16_window = f16_window(part.first_layer, end - part.first_layer);
        geometry.page_bytes += part.page_bytes;
        const uint64_t window = part.f16_window.session_bytes;
        part.pages_offset = kv.place_offsets("pages", config.kv_pages, part.page_bytes);
        part.f16_windows_offset =
            window ? kv.place_offsets("f16_windows", config.max_sessions, window) : kv.used_bytes();
        const uint64_t step = part.f16_window.step_bytes;
        part.step_rows_offset = step ? kv.place_offsets("recent_rows_of_a_step", 1, step) : kv.used_bytes();
    }
    return KEEL_OK;
}

void place_step(const PlanConfig& c, Arena& arena, Step* step) {
    step->token = arena.place<int32_t>("step_token", c.chunk_tokens);
    step->token_before = arena.place<int32_t>("step_token_before", c.chunk_tokens);
    step->query_block = arena.place<QueryBlock>("step_query_block", c.chunk_tokens);
    step->position = arena.place<uint32_t>("step_position", c.chunk_tokens);
    step->slot = arena.place<uint32_t>("step_slot", c.chunk_tokens);
    step->session = arena.place<uint32_t>("step_session", c.chunk_tokens);
    step->logits_token = arena.place<uint32_t>("step_logits_token", c.chunk_tokens);
    step->logits_row = arena.place<uint32_t>("step_logits_row", c.chunk_tokens);
    step->session_index = arena.place<uint32_t>("step_session_index", c.max_sessions);
    step->recent = arena.place<KvRecentRows>("step_recent", c.max_sessions);
    step->session_id = arena.place<uint64_t>("step_session_id", c.max_sessions);
    step->adapter = arena.place<uint32_t>("step_adapter", c.max_sessions);
    step->adapter_scale = arena.place<float>("step_adapter_scale", c.max_sessions);
    step->page_first = arena.place<uint32_t>("step_page_first", c.max_sessions + 1);
    step->page_id = arena.place<uint32_t>("step_page_id", uint64_t{c.max_sessions} * kv_pages_for(c.context_tokens));
    step->tail_first = arena.place<uint32_t>("step_tail_first", c.max_sessions);
    step->tail_parent = arena.place<uint32_t>("step_tail_parent", uint64_t{c.max_sessions} * kMaxTreeNodes);
}

// `classes` and `order` are of the grammar, if there is one.
void place_sessions(const LayoutRequest& r, uint32_t classes, const TokenOrder* order, Arena& arena, Layout* out) {
    const PlanConfig& c = r.config;
    const ModelSpec& spec = r.model.spec;
    out->sessions = arena.place_bytes("sessions", c.max_sessions * r.session_bytes);
    for (uint32_t i = 0; i < c.max_sessions; ++i) {
        SessionMemory& s = out->session[i];
        const int32_t index = static_cast<int32_t>(i);
        s.tokens = arena.place<int32_t>("tokens", c.context_tokens, index);
        s.drawn = arena.place<uint8_t>("drawn", (c.context_tokens + 7) / 8, index);
        s.page_ids = arena.place<uint32_t>("page_ids", kv_pages_for(c.context_tokens), index);
        s.sampler_work = arena.place_bytes("sampler_work", r.sampler_bytes, Arena::kAlign, index);
        s.allowed_tokens = arena.place<uint8_t>("allowed_tokens", (spec.vocabulary + 7) / 8, index);
        if (c.has_grammar)
            s.grammar = grammar_session_place(arena, out->grammar, classes, order, spec.vocabulary, index);
        if (!c.drafters.any) continue;
        Drafter counted;
        s.drafter = arena.place<Drafter>("drafter", 1, index);
        (s.drafter ? new (s.drafter) Drafter : &counted)
            ->place(&arena, c.drafters.suffix ? c.context_tokens : 0, index);
    }
}

// What drafters of all sessions share. A pool's file is read in place mode, when the tokenizer is there.
keel_status place_draft_sources(const LayoutRequest& r, Arena& arena, Layout* out, keel_error* error) {
    const DraftSources& c = r.config.drafters;
    if (c.pool_bytes) {
        TokenPool counted;
        TokenPool* pool = out->drafts.pool = arena.place<TokenPool>("draft_pool_table", 1);
        (pool ? new (pool) TokenPool : &counted)->place(&arena, c.pool_bytes);
        if (pool && arena.ok()) {
            pool->clear();
            if (c.pool_given) {
                keel_error detail = {};
                detail.struct_size = sizeof detail;
                const keel_status status =
                    pool->read(c.pool_file, tokenizer_identity(out->tokenizer), r.model.spec.vocabulary, &detail);
                if (status != KEEL_OK) return fail_part(error, status, c.pool_part, "", detail.reason);
            }
        }
    }
    if (c.logits) {
        RecycledLogits counted;
        RecycledLogits* recycled = out->drafts.recycled = arena.place<RecycledLogits>("draft_logits_table", 1);
        (recycled ? new (recycled) RecycledLogits : &counted)->place(&arena, r.model.spec.vocabulary);
        if (recycled && arena.ok()) recycled->clear();
    }
    return KEEL_OK;
}

}  // namespace

keel_status lay_out(const LayoutRequest& r, Arena* arenas, Layout* out, keel_error* error) {
    Arena& persistent = arenas[KEEL_REGION_PERSISTENT];
    *out = {};
    out->program.hooks = r.hooks;
    out->program.config = r.config;
    out->program.spec = r.model.spec;
    out->program.rope_neox = r.model.row().rope_neox;
    out->engine = persistent.place_bytes("engine", r.engine_bytes);
    out->device = r.config.backend->place(r.config, r.hooks, arenas);
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) out->program.region[i] = arenas[i].base();
    if (out->device) KEEL_TRY(r.config.backend->attach(out->device, r.config, out->program.region, error));
    KEEL_TRY(place_plan(r, arenas, out, error));
    KEEL_TRY(place_kv(r, arenas, out, error));
    const Gguf view = r.model.view();
    KEEL_TRY(tokenizer_place(r.reader, view, r.config.max_text_bytes, r.config.pre_tokenizer, persistent,
                             &out->tokenizer, error));
    KEEL_TRY(chat_place(r.config.chat, r.config.max_chat_bytes, persistent, &out->chat, error));
    uint32_t classes = 0;
    const TokenOrder* order = nullptr;
    if (r.config.has_grammar) {
        KEEL_TRY(grammar_place(r.config.grammar, persistent, &out->grammar, &classes, error));
        order = token_order_place(persistent, out->tokenizer, r.model.spec.vocabulary);
    }
    KEEL_TRY(place_draft_sources(r, persistent, out, error));
    place_step(r.config, persistent, &out->step);
    place_sessions(r, classes, order, persistent, out);
    const bool device_head = r.config.host_layer == kNoHostLayer;
    Arena& rows = device_head ? arenas[KEEL_REGION_PINNED] : persistent;
    const uint64_t logits_rows = r.config.all_logits_rows();
    out->program.logits = rows.place<float>("logits", logits_rows * r.model.spec.vocabulary);
    out->program.hidden = rows.place<float>("hidden", logits_rows * r.model.spec.embedding);
    if (device_head) {
        Arena& kept = arenas[KEEL_REGION_DEVICE_SCRATCH];
        out->program.kept_logits = kept.place_offset("logits", logits_rows * r.model.spec.vocabulary * sizeof(float));
        out->program.kept_hidden = kept.place_offset("hidden", logits_rows * r.model.spec.embedding * sizeof(float));
    }
    r.config.backend->place_copies(out->device, out->program, arenas);
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        if (!arenas[i].ok())
            return persistent.counting()
                       ? fail(error, KEEL_E_ARGUMENT, 0, kRegionNames[i], "size exceeds 64 bits")
                       : fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, kRegionNames[i], "region is smaller than the plan");
    }
    return KEEL_OK;
}

}  // namespace keel
