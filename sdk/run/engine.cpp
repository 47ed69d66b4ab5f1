// Plan, init, close, stats: everything about an engine but running it.
#include "sdk/run/engine.h"

#include <string.h>

#include <new>

#include "sdk/backend/cpu/kernel_choice.h"
#include "sdk/core/hash.h"
#include "sdk/core/math_f64.h"
#include "sdk/core/status.h"

namespace keel {
namespace {

constexpr uint32_t kDefaultContext = 4096;
constexpr uint32_t kMaxRecent = 65536;

const char* const kRegionNames[KEEL_REGION_COUNT] = {"persistent", "scratch", "pinned",
                                                     "weights",    "kv",      "device_scratch"};

uint32_t or_default(uint32_t v, uint32_t fallback) {
    return v ? v : fallback;
}

keel_status check_range(const char* field, uint32_t v, uint32_t low, uint32_t high, keel_error* error) {
    return v >= low && v <= high ? KEEL_OK : fail(error, KEEL_E_ARGUMENT, 0, field, "out of range");
}

void place_session(const keel_model& model, const PlanConfig& c, const KvF16WindowShape& f16_window, Arena& arena,
                   Arena& kv, Session* s) {
    const ModelSpec& spec = model.spec;
    Session local = {};
    Session* out = s ? s : &local;
    out->tokens = arena.place<int32_t>(c.context_tokens);
    out->drawn = arena.place<uint8_t>((c.context_tokens + 7) / 8);
    out->logits = arena.place<float>(uint64_t{c.logits_rows} * spec.vocabulary);
    out->hidden = arena.place<float>(uint64_t{c.logits_rows} * spec.embedding);
    out->kv.ids = arena.place<uint32_t>(kv_pages_for(c.context_tokens));
    out->kv.pages = arena.place<const uint8_t*>(kv_pages_for(c.context_tokens));
    if (f16_window.session_bytes) {
        uint8_t* rows = static_cast<uint8_t*>(kv.place_bytes(f16_window.session_bytes));
        out->f16_window.recent =
            arena.place<const uint8_t*>(f16_window.recent_pages ? kv_pages_for(c.context_tokens) : 0);
        out->f16_window.sinks = rows;
        const uint8_t* ring =
            rows + (f16_window.session_bytes - f16_window.recent_pages * f16_window.recent_page_bytes);
        for (uint32_t page = 0;
             rows && out->f16_window.recent && f16_window.recent_pages && page < kv_pages_for(c.context_tokens); ++page)
            out->f16_window.recent[page] = ring + page % f16_window.recent_pages * f16_window.recent_page_bytes;
    }
    out->work = arena.place_bytes(sampler_work_bytes(spec.vocabulary));
    out->mask = arena.place<uint8_t>((spec.vocabulary + 7) / 8);
}

void place_step(const PlanConfig& c, Arena& arena, Step* step) {
    step->column = arena.place<Column>(c.chunk_tokens);
    step->block = arena.place<ColumnBlock>(c.chunk_tokens);
    step->logits_column = arena.place<uint32_t>(c.chunk_tokens);
    step->logits_to = arena.place<float*>(c.chunk_tokens);
    step->hidden_to = arena.place<float*>(c.chunk_tokens);
    step->y = arena.place<float*>(uint64_t{kPassMatmuls} * c.chunk_tokens);
    step->session = arena.place<Session*>(c.max_sessions);
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

static_assert(static_cast<int>(KEEL_KV_F16) == kernels::kKvF16 + 1 &&
                  static_cast<int>(KEEL_KV_TCQ_6) == kernels::kKvFormatCount,
              "keel_kv_format is KvFormat + 1");

// Profile first, then what the configuration asks for all layers, then f16.
keel_status choose_kv_formats(const keel_config& c, const keel_model& model, PlanConfig* out, keel_error* error) {
    const ModelSpec& s = model.spec;
    KvChoice& kv = out->kv;
    if (c.kv_profile) {
        keel_reader reader;
        KEEL_TRY(read_versioned(c.kv_profile, &reader, sizeof reader));
        KEEL_TRY(read_kv_profile(reader, {model.gguf.fingerprint, s.layers, s.kv_heads, s.head_dim, s.rope_dims / 2},
                                 &kv, error));
    }
    const struct {
        const char* field;
        uint32_t asked;
        kernels::KvFormat KvLayerFormats::*format;
    } sides[] = {{"config.k_format", c.k_format, &KvLayerFormats::k},
                 {"config.v_format", c.v_format, &KvLayerFormats::v}};
    for (const auto& side : sides) {
        KEEL_TRY(check_range(side.field, side.asked, KEEL_KV_DEFAULT, kernels::kKvFormatCount, error));
        kv.all.*side.format = side.asked ? static_cast<kernels::KvFormat>(side.asked - 1) : kernels::kKvF16;
        if (!kv_format_fits(kv.all.*side.format, s.head_dim))
            return fail(error, KEEL_E_UNSUPPORTED, 0, side.field, "the model's head size does not fit the format");
        for (uint32_t layer = 0; side.asked && kv.has_profile && layer < s.layers; ++layer)
            kv.layer[layer].*side.format = kv.all.*side.format;
    }
    out->kv_mean_pairs = kv_mean_pairs(kv, model);
    return KEEL_OK;
}

// Names the way rows are coded: formats, scale modes and what a profile changes.
uint64_t kv_identity_of(const PlanConfig& config, uint32_t layers) {
    const KvChoice& kv = config.kv;
    uint64_t hash = kHashSeed;
    const auto add = [&hash](const void* data, size_t bytes) {
        hash = hash_update(hash, static_cast<const char*>(data), bytes);
    };
    for (uint32_t layer = 0; layer < layers; ++layer) add(&kv.formats(layer), sizeof(KvLayerFormats));
    if (kv.has_profile) add(&kv.checksum, sizeof kv.checksum);
    const uint32_t f16_window[] = {config.kv_sink_tokens, config.kv_recent_tokens};
    if (f16_window[0] || f16_window[1]) add(f16_window, sizeof f16_window);
    return hash_finish(hash);
}

// A cache that is damaged or another model's is not used; what the caller asks wrongly is an error.
keel_status choose_low_rank(const keel_config& c, const keel_model& model, const keel_reader& weights,
                            LowRankChoice* out, keel_error* error) {
    if (!c.wproj) return KEEL_OK;
    if (!(c.wproj_max_error >= 0 && c.wproj_max_error <= 1e6f))
        return fail(error, KEEL_E_ARGUMENT, 0, "config.wproj_max_error", "not a bound");
    keel_reader reader;
    KEEL_TRY(read_versioned(c.wproj, &reader, sizeof reader));
    if ((c.weights == KEEL_WEIGHTS_MAP || c.weights == KEEL_WEIGHTS_MAP_LOCKED) && weights.mapped && !reader.mapped)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.wproj", "mapping needs a reader with `mapped` set");
    out->given = true;
    out->max_error = c.wproj_max_error;
    out->error.struct_size = sizeof out->error;
    out->usable = wproj_open(reader, wproj_shape_of(model), c.wproj_key, c.wproj_any_key != 0, &out->file,
                             &out->error) == KEEL_OK;
    return KEEL_OK;
}

keel_status resolve_config(const keel_config* config, const keel_model& model, const keel_reader& reader,
                           PlanConfig* out, keel_hooks* hooks, keel_error* error) {
    keel_config c;
    KEEL_TRY(read_versioned(config, &c, sizeof c));
    if (c.api_version != 0 && c.api_version != KEEL_API_VERSION)
        return fail(error, KEEL_E_ABI, 0, "config.api_version", "another version of the API");
    *hooks = c.hooks;  // nested by value: its size is fixed by this library's keel_config
    const uint32_t default_context =
        model.spec.train_context < kDefaultContext ? model.spec.train_context : kDefaultContext;
    *out = {};
    out->max_sessions = or_default(c.max_sessions, 1);
    out->context_tokens = or_default(c.context_tokens, default_context);
    out->chunk_tokens = or_default(c.chunk_tokens, 256);
    out->logits_rows = or_default(c.logits_rows, 1);
    out->tile_us = or_default(c.tile_us, 250);
    out->max_text_bytes = or_default(c.max_text_bytes, 16384);
    out->threads = c.threads;
    if (out->threads == 0) {
        const uint32_t cores = platform::usable_cores();
        out->threads = cores < platform::kMaxThreads ? cores : platform::kMaxThreads;
    }
    out->pin_threads = c.pin_threads != 0;
    KEEL_TRY(check_range("config.max_sessions", out->max_sessions, 1, kMaxSessions, error));
    KEEL_TRY(check_range("config.context_tokens", out->context_tokens, 1, 1u << 24, error));
    KEEL_TRY(check_range("config.chunk_tokens", out->chunk_tokens, 1, kMaxChunk, error));
    KEEL_TRY(check_range("config.logits_rows", out->logits_rows, 1, kMaxChunk, error));
    KEEL_TRY(check_range("config.threads", out->threads, 1, platform::kMaxThreads, error));
    KEEL_TRY(check_range("config.tile_us", out->tile_us, 1, 1000000, error));
    KEEL_TRY(check_range("config.max_text_bytes", out->max_text_bytes, 64, 1u << 24, error));
    out->kv_pages = or_default(c.kv_pages, out->max_sessions * kv_pages_for(out->context_tokens));
    KEEL_TRY(check_range("config.kv_pages", out->kv_pages, 1, 1u << 24, error));
    KEEL_TRY(check_range("config.weights", c.weights, KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_REPACK, error));
    KEEL_TRY(check_range("config.activation", c.activation, KEEL_ACTIVATION_DEFAULT, KEEL_ACTIVATION_F32, error));
    KEEL_TRY(check_range("config.cpu", c.cpu, KEEL_CPU_AUTO, KEEL_CPU_NEON, error));
    KEEL_TRY(choose_kv_formats(c, model, out, error));
    KEEL_TRY(choose_low_rank(c, model, reader, &out->low_rank, error));
    out->kv_sink_tokens = c.kv_sink_tokens;
    out->kv_recent_tokens = c.kv_recent_tokens;
    out->kv_rollback_tokens = or_default(c.kv_rollback_tokens, 64);
    KEEL_TRY(check_range("config.kv_sink_tokens", out->kv_sink_tokens, 0, kMaxSinks, error));
    KEEL_TRY(check_range("config.kv_recent_tokens", out->kv_recent_tokens, 0, kMaxRecent, error));
    KEEL_TRY(check_range("config.kv_rollback_tokens", out->kv_rollback_tokens, 1, kMaxRecent, error));
    out->weights = c.weights;
    out->q8 = c.activation != KEEL_ACTIVATION_F32;
    out->cpu = c.cpu;
    KEEL_TRY(choose_kernels(&out->cpu, &out->kernels, error));
    if ((out->weights == KEEL_WEIGHTS_MAP || out->weights == KEEL_WEIGHTS_MAP_LOCKED) && !reader.mapped)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.weights", "mapping needs a reader with `mapped` set");
    return KEEL_OK;
}

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
    kv_pool_place(e ? &e->pool : &local_pool, config.kv_pages, geometry.page_bytes, persistent, arenas[KEEL_REGION_KV]);

    // Text, step, sessions, threads.
    Tokenizer* tokenizer = nullptr;
    const Gguf view = model.view();
    KEEL_TRY(tokenizer_place(reader, view, config.max_text_bytes, persistent, &tokenizer, error));
    place_step(config, persistent, e ? &e->step : &local_step);
    Session* sessions = persistent.place<Session>(config.max_sessions);
    for (uint32_t i = 0; i < config.max_sessions; ++i) {
        if (sessions) new (&sessions[i]) Session{};
        place_session(model, config, f16_window, persistent, arenas[KEEL_REGION_KV], sessions ? &sessions[i] : nullptr);
    }
    void* team_memory = nullptr;
    if (config.threads > 1 && !hooks.parallel_for)
        team_memory = persistent.place_bytes(platform::thread_team_bytes(config.threads), 4096);

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
    e->team_memory = team_memory;
    for (double& ratio : e->measured_over_predicted) ratio = 1;
    *engine = e;
    return KEEL_OK;
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
    if (e->team_memory) {
        e->team = platform::thread_team_start(e->team_memory, s.config.threads, s.config.pin_threads);
        if (!e->team) {
            unlock_weights(*e);
            return fail(error, KEEL_E_PLATFORM, 0, "config.threads", "the system refused to start threads");
        }
    }
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        arenas[i].seal();
        e->arenas[i] = arenas[i];
    }
    const keel_status status = registry_add(e, &e->id);
    if (status != KEEL_OK) {
        if (e->team) platform::thread_team_stop(e->team);
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
    if (e->team) platform::thread_team_stop(e->team);
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
