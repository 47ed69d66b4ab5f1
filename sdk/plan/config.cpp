#include "sdk/plan/config.h"

#include <string.h>

#include "platform/platform.h"
#include "sdk/backend/backend.h"
#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/draft/token_pool.h"
#include "sdk/format/coded.h"
#include "sdk/kv/kv_f16_window.h"
#include "sdk/plan/kv_transform.h"
#include "sdk/plan/parts.h"

namespace keel {
namespace {

constexpr uint32_t kDefaultContext = 4096;
constexpr uint32_t kMaxRollback = 65536;
constexpr uint64_t kDefaultPoolBytes = uint64_t{4} << 20;

uint32_t or_default(uint32_t v, uint32_t fallback) {
    return v ? v : fallback;
}

keel_status check_range(const char* field, uint32_t v, uint32_t low, uint32_t high, keel_error* error) {
    return v >= low && v <= high ? KEEL_OK : fail_range(error, field, v, low, high);
}

#define KEEL_SAME_NUMBER(id, public_name, ...)                                          \
    static_assert(static_cast<uint32_t>(KEEL_KV_##public_name) == kernels::kKv##id + 1, \
                  "keel_kv_format is KvFormat + 1");
KEEL_KV_FORMATS(KEEL_SAME_NUMBER)
#undef KEEL_SAME_NUMBER

// Profile first, then what the configuration asks for all layers, then f16.
keel_status choose_kv_formats(const keel_config& c, const Part& profile, const keel_model& model, PlanConfig* out,
                              keel_error* error) {
    const ModelSpec& s = model.spec;
    KvChoice& kv = out->kv;
    if (profile.given) {
        keel_error detail = {};
        detail.struct_size = sizeof detail;
        const KvModelShape shape = {model.gguf.fingerprint, s.layers, s.kv_heads, s.head_dim, s.rope_dims / 2};
        const keel_status status = read_kv_profile(profile.reader, shape, &kv, &detail);
        if (status != KEEL_OK) return fail_part(error, status, profile.index, detail);
        kv.part_index = profile.index;
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

bool rows_are_coded(const KvChoice& kv, uint32_t layers) {
    bool coded = false;
    for (uint32_t layer = 0; layer < layers; ++layer)
        for (const kernels::KvFormat format : {kv.formats(layer).k, kv.formats(layer).v})
            coded |= format != kernels::kKvF16 && format != kernels::kKvF32;
    return coded;
}

// A cache that is damaged or another model's is not used; what the caller asks wrongly is an error.
keel_status choose_low_rank(const keel_config& c, const Part& cache, const keel_model& model,
                            const keel_reader& weights, LowRankChoice* out, keel_error* error) {
    if (!cache.given) return KEEL_OK;
    if (model.spec.wired)
        return fail_part(error, KEEL_E_UNSUPPORTED, cache.index, "", "wired models have no W_proj caches");
    keel_wproj_options options = {};
    if (cache.options && read_versioned(static_cast<const keel_wproj_options*>(cache.options), &options) != KEEL_OK)
        return fail_part(error, KEEL_E_ABI, cache.index, ".options", "struct_size does not fit this library");
    if (!(options.max_error >= 0 && options.max_error <= 1e6f))
        return fail_part(error, KEEL_E_ARGUMENT, cache.index, ".options.max_error", "not a bound");
    const bool mapped = c.weights == KEEL_WEIGHTS_MAP || c.weights == KEEL_WEIGHTS_MAP_LOCKED;
    if (mapped && weights.mapped && !cache.reader.mapped)
        return fail_part(error, KEEL_E_ARGUMENT, cache.index, ".reader", "mapping needs a reader with `mapped` set");
    out->given = true;
    out->part_index = cache.index;
    out->max_error = options.max_error;
    out->error.struct_size = sizeof out->error;
    out->usable = wproj_open(cache.reader, wproj_shape_of(model), options.key, options.any_key != 0, &out->file,
                             &out->error) == KEEL_OK;
    return KEEL_OK;
}

// The part's template, or the family it names, before the model's own.
keel_status choose_chat(const Part& part, const keel_model& model, const keel_reader& reader, ChatChoice* out,
                        keel_error* error) {
    *out = {};
    out->chat = model.chat;
    if (!part.given) {
        out->source = {reader, model.chat_offset, model.chat_bytes};
        return KEEL_OK;
    }
    char name[32];
    const uint64_t bytes = part.reader.size_bytes;
    if (bytes && bytes < sizeof name) {
        if (read_at(part.reader, 0, name, bytes) != KEEL_OK)
            return fail_part(error, KEEL_E_FILE_READ, part.index, ".reader", "the reader failed");
        out->chat = chat_named(name, bytes);
        out->named = out->chat.family != KEEL_CHAT_NONE;
        if (out->named) return KEEL_OK;
        if (!memchr(name, '{', bytes))
            return fail_part(error, KEEL_E_UNSUPPORTED, part.index, "", "neither a template nor the name of a family");
    }
    out->source = {part.reader, 0, bytes};
    keel_error detail = {};
    detail.struct_size = sizeof detail;
    const keel_status status = read_chat_template(out->source, &out->chat, &detail);
    return status == KEEL_OK ? KEEL_OK : fail_part(error, status, part.index, "", detail.reason, detail.offset);
}

// A grammar that does not compile is refused here, under the name of its part.
keel_status choose_grammar(const Part& part, PlanConfig* out, keel_error* error) {
    out->has_grammar = part.given;
    if (!part.given) return KEEL_OK;
    keel_grammar_options options = {};
    if (part.options && read_versioned(static_cast<const keel_grammar_options*>(part.options), &options) != KEEL_OK)
        return fail_part(error, KEEL_E_ABI, part.index, ".options", "struct_size does not fit this library");
    out->grammar = {part.reader, options.json_schema != 0};
    Arena counting;
    const Grammar* grammar;
    uint32_t classes;
    keel_error detail = {};
    detail.struct_size = sizeof detail;
    const keel_status status = grammar_place(out->grammar, counting, &grammar, &classes, &detail);
    return status == KEEL_OK ? KEEL_OK : fail_part(error, status, part.index, "", detail.reason, detail.offset);
}

keel_status choose_drafters(const keel_config& c, const Part& pool, uint32_t vocabulary, DraftSources* out,
                            keel_error* error) {
    constexpr uint32_t kKnown = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS;
    constexpr uint64_t kMostPoolBytes = uint64_t{1} << 40;
    if (c.drafters & ~kKnown) return fail(error, KEEL_E_UNSUPPORTED, 0, "config.drafters", "an unknown drafter");
    *out = {};
    out->any = c.drafters != 0 || pool.given;
    if (out->any && c.draft_tokens == 0)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.drafters", "drafters without config.draft_tokens");
    out->suffix = (c.drafters & KEEL_DRAFT_SUFFIX) != 0;
    out->logits = (c.drafters & KEEL_DRAFT_LOGITS) != 0;
    if (pool.given) {
        keel_error detail = {};
        detail.struct_size = sizeof detail;
        const keel_status status = TokenPool::file_pool_bytes(pool.reader, &out->pool_bytes, &detail);
        if (status != KEEL_OK) return fail_part(error, status, pool.index, "", detail.reason);
        out->pool_given = true;
        out->pool_file = pool.reader;
        out->pool_part = pool.index;
    } else if (c.drafters & KEEL_DRAFT_POOL) {
        const uint64_t asked = c.draft_pool_bytes ? c.draft_pool_bytes : kDefaultPoolBytes;
        if (asked < TokenPool::kLineBytes || asked > kMostPoolBytes)
            return fail(error, KEEL_E_ARGUMENT, 0, "config.draft_pool_bytes", "out of range");
        out->pool_bytes = asked / TokenPool::kLineBytes * TokenPool::kLineBytes;
    }
    if (out->pool_bytes && vocabulary > TokenPool::kMostVocabulary)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "config.drafters", "a pool holds ids below 2^24");
    if (c.draft_pool_bytes && c.draft_pool_bytes / TokenPool::kLineBytes * TokenPool::kLineBytes != out->pool_bytes)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.draft_pool_bytes", "no pool, or one of another size");
    return KEEL_OK;
}

keel_status choose_adapters(const Parts& parts, const keel_model& model, AdapterChoice* out, keel_error* error) {
    *out = {};
    for (; out->count < parts.adapter_count; ++out->count) {
        const Part& part = parts.adapter[out->count];
        out->part_index[out->count] = part.index;
        keel_error detail = {};
        detail.struct_size = sizeof detail;
        const keel_status status = adapter_open(part.reader, &model, &out->file[out->count], &detail);
        if (status != KEEL_OK) return fail_part(error, status, part.index, detail);
    }
    return KEEL_OK;
}

}  // namespace

keel_status resolve_config(const keel_config* config, const keel_model& model, const keel_reader& reader,
                           PlanConfig* out, keel_hooks* hooks, keel_error* error) {
    keel_config c;
    KEEL_TRY(read_versioned(config, &c, "config", error));
    if (c.api_version != 0 && c.api_version != KEEL_API_VERSION)
        return fail(error, KEEL_E_ABI, 0, "config.api_version", "another version of the API");
    *hooks = {};
    if (c.hooks) KEEL_TRY(read_versioned(c.hooks, hooks, "config.hooks", error));
    Parts parts;
    KEEL_TRY(read_parts(c, &parts, error));
    if (reader.coded_bytes) KEEL_TRY(check_coded(reader, error));
    const uint32_t default_context =
        model.spec.train_context < kDefaultContext ? model.spec.train_context : kDefaultContext;
    *out = {};
    out->max_sessions = or_default(c.max_sessions, 1);
    out->context_tokens = or_default(c.context_tokens, default_context);
    out->chunk_tokens = or_default(c.chunk_tokens, 256);
    out->logits_rows = or_default(c.logits_rows, 1);
    out->draft_tokens = c.draft_tokens;
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
    KEEL_TRY(check_range("config.draft_tokens", out->draft_tokens, 0, out->chunk_tokens - 1, error));
    KEEL_TRY(check_range("config.threads", out->threads, 1, platform::kMaxThreads, error));
    KEEL_TRY(check_range("config.tile_us", out->tile_us, 1, 1000000, error));
    KEEL_TRY(check_range("config.max_text_bytes", out->max_text_bytes, 64, 1u << 24, error));
    out->kv_pages = or_default(c.kv_pages, out->max_sessions * kv_pages_for(out->context_tokens));
    KEEL_TRY(check_range("config.kv_pages", out->kv_pages, 1, 1u << 24, error));
    KEEL_TRY(check_range("config.weights", c.weights, KEEL_WEIGHTS_DEFAULT, KEEL_WEIGHTS_REPACK, error));
    KEEL_TRY(check_range("config.activation", c.activation, KEEL_ACTIVATION_DEFAULT, KEEL_ACTIVATION_BF16, error));
    KEEL_TRY(check_range("config.numerics", c.numerics, KEEL_NUMERICS_DEFAULT, KEEL_NUMERICS_DEVICE, error));
    KEEL_TRY(check_range("config.cpu", c.cpu, KEEL_CPU_AUTO, KEEL_CPU_NEON_I8MM, error));
    KEEL_TRY(choose_kv_formats(c, parts.of[KEEL_PART_KV_PROFILE], model, out, error));
    KEEL_TRY(choose_low_rank(c, parts.of[KEEL_PART_WPROJ], model, reader, &out->low_rank, error));
    KEEL_TRY(choose_adapters(parts, model, &out->adapters, error));
    KEEL_TRY(choose_chat(parts.of[KEEL_PART_CHAT_TEMPLATE], model, reader, &out->chat, error));
    KEEL_TRY(choose_grammar(parts.of[KEEL_PART_GRAMMAR], out, error));
    KEEL_TRY(choose_drafters(c, parts.of[KEEL_PART_DRAFT_POOL], model.spec.vocabulary, &out->drafters, error));
    const uint32_t chat_bytes = out->context_tokens * 8 < 32768 ? 32768 : out->context_tokens * 8;
    out->max_chat_bytes = or_default(c.max_chat_bytes, chat_bytes);
    KEEL_TRY(check_range("config.max_chat_bytes", out->max_chat_bytes, 64, 1u << 28, error));
    if (c.pre_tokenizer) {
        const char* reason;
        out->pre_tokenizer = pretokenizer_find(c.pre_tokenizer, strlen(c.pre_tokenizer), &reason);
        if (!out->pre_tokenizer) return fail(error, KEEL_E_UNSUPPORTED, 0, "config.pre_tokenizer", reason);
    }
    out->kv_sink_tokens = or_default(c.kv_sink_tokens, rows_are_coded(out->kv, model.spec.layers) ? kDefaultSinks : 0);
    if (c.kv_sink_tokens == KEEL_KV_NO_SINKS) out->kv_sink_tokens = 0;
    out->kv_recent_tokens = c.kv_recent_tokens;
    out->kv_rollback_tokens = or_default(c.kv_rollback_tokens, 16);
    KEEL_TRY(check_range("config.kv_sink_tokens", out->kv_sink_tokens, 0, kMaxSinks, error));
    KEEL_TRY(check_range("config.kv_recent_tokens", out->kv_recent_tokens, 0, kMaxRecent, error));
    KEEL_TRY(check_range("config.kv_rollback_tokens", out->kv_rollback_tokens, 1, kMaxRollback, error));
    out->weights = c.weights;
    out->q8 = c.activation != KEEL_ACTIVATION_F32;
    out->bf16 = c.activation == KEEL_ACTIVATION_BF16;
    out->device_numerics = c.numerics == KEEL_NUMERICS_DEVICE;
    out->cpu = c.cpu;
    out->backend = c.backend ? c.backend : default_backend();
    out->own_backend = out->host_backend = out->backend;
    out->backend_options = c.backend_options;
    for (uint32_t i = 0; i < model.gguf.tensor_count; ++i) out->weight_bytes += model.tensors()[i].bytes;
    out->cache_bytes = platform::last_level_cache_bytes();
    KEEL_TRY(out->backend->configure(out, model.spec, error));
    if (out->device_numerics && !out->backend->device_numerics)
        return fail(error, KEEL_E_UNSUPPORTED, 0, "config.numerics",
                    "KEEL_NUMERICS_DEVICE, but no device with a library computes all layers");
    if (out->adapters.count && out->host_layer != 0)
        return fail_part(error, KEEL_E_UNSUPPORTED, parts.adapter[0].index, "",
                         "adapters, but a device computes layers: only the CPU adds them");
    const bool mapped = out->weights == KEEL_WEIGHTS_MAP || out->weights == KEEL_WEIGHTS_MAP_LOCKED;
    if (mapped && reader.coded_bytes)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.weights", "packed weights cannot be used as they are mapped");
    if (mapped && !reader.mapped)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.weights", "mapping needs a reader with `mapped` set");
    return KEEL_OK;
}

uint64_t kv_identity_of(const PlanConfig& config, const keel_model& model) {
    const KvChoice& kv = config.kv;
    uint64_t hash = kHashSeed;
    const auto add = [&hash](const void* data, size_t bytes) {
        hash = hash_update(hash, static_cast<const char*>(data), bytes);
    };
    for (uint32_t layer = 0; layer < model.spec.layers; ++layer) add(&kv.formats(layer), sizeof(KvLayerFormats));
    if (kv.has_profile) add(&kv.checksum, sizeof kv.checksum);
    const uint32_t f16_window[] = {config.kv_sink_tokens, config.kv_recent_tokens};
    if (f16_window[0] || f16_window[1]) add(f16_window, sizeof f16_window);
    // What is as it is by default, or as it is for every engine of the model, is left out: older files have none of it.
    const auto choose = [&add](bool chosen, const char* name) {
        if (chosen) add(name, strlen(name));
    };
    const uint32_t numerics = KEEL_NUMERICS_DEVICE;
    if (config.device_numerics) add(&numerics, sizeof numerics);
    choose(!config.q8, "f32");
    choose(config.bf16, "bf16");
    if (model.tensor(kRopeFactorsLong, 0))
        choose(true, rope_factors_of(config, model.spec) == kRopeFactorsLong ? "long" : "short");
    return hash_finish(hash);
}

}  // namespace keel
