// The memory plan: every object of every region is placed here, by one function that counts and places.
#include "sdk/plan/memory.h"

#include <string.h>

#include <new>

#include "sdk/backend/backend.h"
#include "sdk/core/math_f64.h"
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {

const char* const kRegionNames[KEEL_REGION_COUNT] = {"persistent", "scratch", "pinned",
                                                     "weights",    "kv",      "device_scratch"};

namespace {

void place_session(const keel_model& model, const PlanConfig& c, Arena& arena, Session* s) {
    const ModelSpec& spec = model.spec;
    Session local = {};
    Session* out = s ? s : &local;
    out->tokens = arena.place<int32_t>(c.context_tokens);
    out->drawn = arena.place<uint8_t>((c.context_tokens + 7) / 8);
    out->kv.ids = arena.place<uint32_t>(kv_pages_for(c.context_tokens));
    out->work = arena.place_bytes(sampler_work_bytes(spec.vocabulary));
    out->mask = arena.place<uint8_t>((spec.vocabulary + 7) / 8);
}

void place_step(const PlanConfig& c, Arena& arena, Step* step) {
    step->token = arena.place<int32_t>(c.chunk_tokens);
    step->query_block = arena.place<QueryBlock>(c.chunk_tokens);
    step->position = arena.place<uint32_t>(c.chunk_tokens);
    step->slot = arena.place<uint32_t>(c.chunk_tokens);
    step->session = arena.place<uint32_t>(c.chunk_tokens);
    step->logits_token = arena.place<uint32_t>(c.chunk_tokens);
    step->logits_row = arena.place<uint32_t>(c.chunk_tokens);
    step->session_index = arena.place<uint32_t>(c.max_sessions);
    step->session_id = arena.place<uint64_t>(c.max_sessions);
    step->page_first = arena.place<uint32_t>(c.max_sessions + 1);
    step->page_id = arena.place<uint32_t>(uint64_t{c.max_sessions} * kv_pages_for(c.context_tokens));
}

// Rotation frequencies, in f64 (NUMERICS section 4). Set 1 is the local one: its own base, no factors. Frequencies are
// at most 1 unless a file's factors say otherwise; up to 128 every angle of the longest context is within sincos_f64's
// range.
keel_status fill_frequencies(const ModelSpec& s, const ExecutionPlan& plan, double* out, keel_error* error) {
    const uint32_t pairs = s.rope_dims / 2;
    for (uint32_t set = 0; set < plan.rope_sets; ++set) {
        const double log_base = log_f64(set == 0 ? s.rope_base : s.rope_base_local);
        for (uint32_t i = 0; i < pairs; ++i) {
            double f = exp_f64(-2.0 * i / s.rope_dims * log_base);
            if (set == 0) {
                f /= s.rope_linear_factor;
                if (plan.rope_factors) f /= plan.rope_factors[i];
            }
            if (!(f > 0 && f <= 128))
                return fail(error, KEEL_E_FILE_FORMAT, 0, "rope factors",
                            "a rotation frequency is not between 0 and 128");
            out[set * pairs + i] = f;
        }
    }
    return KEEL_OK;
}

}  // namespace

keel_status place_engine(const keel_reader& reader, const keel_model& model, const PlanConfig& config,
                         const keel_hooks& hooks, const uint32_t op_counts[2], uint64_t load_bytes, Arena* arenas,
                         Engine** engine, PlaceResult* result, keel_error* error) {
    Arena& persistent = arenas[KEEL_REGION_PERSISTENT];
    const ModelSpec& spec = model.spec;

    Engine* e = persistent.place<Engine>(1);
    Step local_step = {};
    if (e) {
        new (e) Engine{};
        e->hooks = hooks;
        e->config = config;
        e->spec = spec;
        e->fingerprint = model.gguf.fingerprint;
    }

    // Weights and ops. Weights lie in the order in which ops read them.
    Op* ops = persistent.place<Op>(uint64_t{op_counts[0]} + op_counts[1]);
    WeightPlacer weights{&reader, arenas[KEEL_REGION_WEIGHTS], config.weights, hooks, load_bytes, config.kernels,
                         error};
    ExecutionPlan plan = {};
    build_plan(model, config, weights, ops, op_counts[0], &plan);
    KEEL_TRY(weights.status);
    double* frequencies = persistent.place<double>(uint64_t{plan.rope_sets} * (spec.rope_dims / 2));
    if (frequencies && arenas[KEEL_REGION_WEIGHTS].ok()) KEEL_TRY(fill_frequencies(spec, plan, frequencies, error));
    arenas[KEEL_REGION_SCRATCH].place_bytes(plan.scratch_bytes);

    // KV pages.
    KvLayer* layers = persistent.place<KvLayer>(spec.layers);
    KvGeometry geometry = {spec.layers, spec.kv_heads, spec.head_dim, 0, 0, layers};
    for (uint32_t i = 0; i < spec.layers; ++i) {
        const KvLayer layer = kv_layer(spec.kv_heads, spec.head_dim, config.kv.formats(i), &geometry.page_bytes);
        geometry.row_bytes += uint64_t{spec.kv_heads} *
                              (layer.k.code_bytes + layer.k.scale_bytes + layer.v.code_bytes + layer.v.scale_bytes);
        if (layers) layers[i] = layer;
    }
    geometry.page_bytes = kernels::round64(geometry.page_bytes);
    KvTransform transform = {};
    KEEL_TRY(place_kv_transform(config, model, plan, frequencies, persistent, &transform, error));
    KvPool local_pool = {};
    const KvF16WindowShape f16_window =
        kv_f16_window_shape(spec.layers, spec.kv_heads, spec.head_dim, config.kv_sink_tokens, config.kv_recent_tokens,
                            config.kv_rollback_tokens, config.chunk_tokens);
    kv_pool_place(e ? &e->pool : &local_pool, config.kv_pages, geometry.page_bytes, persistent);
    Arena& kv = arenas[KEEL_REGION_KV];
    const uint64_t most_pages = UINT64_MAX / geometry.page_bytes;
    const uint64_t kv_pages_offset =
        kv.place_offset(config.kv_pages > most_pages ? UINT64_MAX : config.kv_pages * geometry.page_bytes);
    const uint64_t f16_windows_offset = kv.place_offset(config.max_sessions * f16_window.session_bytes);

    // Text, step, sessions, threads.
    Tokenizer* tokenizer = nullptr;
    const Gguf view = model.view();
    KEEL_TRY(tokenizer_place(reader, view, config.max_text_bytes, persistent, &tokenizer, error));
    place_step(config, persistent, e ? &e->step : &local_step);
    Session* sessions = persistent.place<Session>(config.max_sessions);
    for (uint32_t i = 0; i < config.max_sessions; ++i) {
        if (sessions) new (&sessions[i]) Session{};
        place_session(model, config, persistent, sessions ? &sessions[i] : nullptr);
    }
    const uint64_t logits_rows = uint64_t{config.max_sessions} * config.logits_rows;
    float* logits = persistent.place<float>(logits_rows * spec.vocabulary);
    float* hidden = persistent.place<float>(logits_rows * spec.embedding);
    Device* device = config.backend->place(config, hooks, persistent);

    if (result)
        *result = {weights.mapped_bytes,     weights.total_bytes, geometry,
                   f16_window.session_bytes, transform.bytes,     plan};
    if (persistent.counting()) return KEEL_OK;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i)
        if (!arenas[i].ok())
            return fail(error, KEEL_E_MEMORY_TOO_SMALL, 0, kRegionNames[i], "region is smaller than the plan");
    e->plan = plan;
    e->rope_neox = model.row().rope_neox;
    e->chat = model.chat;
    e->geometry = geometry;
    e->f16_window = f16_window;
    e->transform = transform;
    e->kv_identity = kv_identity_of(config, spec.layers);
    e->frequencies = frequencies;
    e->weights_exceed_cache = weights.total_bytes + weights.mapped_bytes > platform::last_level_cache_bytes();
    e->tokenizer = tokenizer;
    e->sessions = sessions;
    for (uint32_t i = 0; i < config.max_sessions; ++i) {
        sessions[i].logits = logits + uint64_t{i} * config.logits_rows * spec.vocabulary;
        sessions[i].hidden = hidden + uint64_t{i} * config.logits_rows * spec.embedding;
    }
    e->logits = logits;
    e->hidden = hidden;
    e->kv_pages_offset = kv_pages_offset;
    e->f16_windows_offset = f16_windows_offset;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) e->region[i] = arenas[i].base();
    e->backend = config.backend;
    e->device = device;
    *engine = e;
    return KEEL_OK;
}

}  // namespace keel
