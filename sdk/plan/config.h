// A keel_config with all defaults resolved and checked: what everything that plans or runs reads instead of it.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/kv/kv_profile.h"
#include "sdk/model/adapter_file.h"
#include "sdk/model/model.h"
#include "sdk/plan/low_rank.h"
#include "sdk/text/grammar.h"
#include "sdk/text/pretokenize.h"

namespace keel {

struct Backend;

constexpr uint32_t kMaxSessions = 64;
constexpr uint32_t kMaxChunk = 512;
constexpr uint32_t kNoHostLayer = UINT32_MAX;

// Drafters of the library's own.
struct DraftSources {
    bool any, suffix, logits;
    uint64_t pool_bytes;  // 0: no pool
    bool pool_given;      // it begins as this file
    keel_reader pool_file;
    uint32_t pool_part;  // in config.parts
};

// By the numbers that sessions choose them by.
struct AdapterChoice {
    uint32_t count;
    uint32_t part_index[kMaxAdapters];  // in config.parts
    AdapterFile file[kMaxAdapters];
};

struct PlanConfig {
    uint32_t max_sessions, context_tokens, kv_pages, chunk_tokens, logits_rows, threads, tile_us, max_text_bytes;
    uint32_t draft_tokens;  // of a step
    DraftSources drafters;
    KvChoice kv;
    uint32_t kv_sink_tokens, kv_recent_tokens, kv_rollback_tokens;
    uint32_t kv_mean_pairs;  // RoPE pairs of which a K mean is removed before the rotation
    keel_weights weights;
    uint64_t weight_bytes, cache_bytes;  // of all tensors of the model; of this machine's last-level cache
    LowRankChoice low_rank;
    AdapterChoice adapters;
    ChatChoice chat;  // of a part, else the model's
    uint32_t max_chat_bytes;
    bool has_grammar;
    GrammarSource grammar;
    const PreTokenizer* pre_tokenizer;  // in place of the file's; null: the file's
    bool q8;                            // 8-bit activations for types that have them
    bool bf16;                          // bf16 pairs for types that have none
    bool device_numerics;               // KEEL_NUMERICS_DEVICE
    const Backend* backend;             // what an engine calls
    const void* backend_options;
    // Where layers are computed, set by Backend::configure. The first ones in memory of a backend's own: their matrices
    // and KV rows lie there alone, vectors in both. Those from host_layer on, and the head, in host memory. 0: all of
    // them; kNoHostLayer: none, and what `logits` and `hidden` show lies in both.
    uint32_t host_layer;
    const Backend *own_backend, *host_backend;  // `backend` itself, unless it is made of two
    keel_cpu cpu;
    const kernels::KernelSet* kernels;
    bool pin_threads;

    // Rows of logits: logits_rows of each session, and behind them those of a step's drafts.
    uint32_t draft_rows_first() const { return max_sessions * logits_rows; }
    uint32_t all_logits_rows() const { return draft_rows_first() + draft_tokens; }
    bool weights_exceed_cache() const { return weight_bytes > cache_bytes; }
};

// The backend that computes a layer; the embedding is as layer 0, the head as one behind the last.
inline const Backend& backend_of(const PlanConfig& c, uint32_t layer) {
    return layer < c.host_layer ? *c.own_backend : *c.host_backend;
}
inline bool partly_offloaded(const PlanConfig& c) {
    return c.host_layer != 0 && c.host_layer != kNoHostLayer;
}

// Also reads the parts and the hooks a configuration points to. Errors as keel_plan.
keel_status resolve_config(const keel_config* config, const keel_model& model, const keel_reader& reader,
                           PlanConfig* out, keel_hooks* hooks, keel_error* error);

// Which RoPE factors are used of a model that has two sets.
inline TensorSlot rope_factors_of(const PlanConfig& c, const ModelSpec& s) {
    return c.context_tokens > s.rope_original_context ? kRopeFactorsLong : kRopeFactorsShort;
}

// Names the way KV rows are computed and coded: formats, scale modes, what a profile changes, RoPE factors,
// activations, numerics.
uint64_t kv_identity_of(const PlanConfig& config, const keel_model& model);

}  // namespace keel
