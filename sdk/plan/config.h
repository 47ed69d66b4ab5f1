// A keel_config with all defaults resolved and checked: what everything that plans or runs reads instead of it.
#pragma once
#include "keel/keel.h"
#include "kernels/cpu/kernel_set.h"
#include "sdk/kv/kv_profile.h"
#include "sdk/model/model.h"
#include "sdk/plan/low_rank.h"
#include "sdk/text/grammar.h"
#include "sdk/text/pretokenize.h"

namespace keel {

struct Backend;

constexpr uint32_t kMaxSessions = 64;
constexpr uint32_t kMaxChunk = 512;

struct PlanConfig {
    uint32_t max_sessions, context_tokens, kv_pages, chunk_tokens, logits_rows, threads, tile_us, max_text_bytes;
    KvChoice kv;
    uint32_t kv_sink_tokens, kv_recent_tokens, kv_rollback_tokens;
    uint32_t kv_mean_pairs;  // RoPE pairs of which a K mean is removed before the rotation
    keel_weights weights;
    LowRankChoice low_rank;
    ChatChoice chat;  // of a part, else the model's
    uint32_t max_chat_bytes;
    bool has_grammar;
    GrammarSource grammar;
    const PreTokenizer* pre_tokenizer;  // in place of the file's; null: the file's
    bool q8;                            // 8-bit activations for types that have them
    const Backend* backend;
    const void* backend_options;
    // Set by Backend::configure: it computes in memory of its own. Matrices and KV rows lie there alone, vectors and
    // what `logits` and `hidden` show in both.
    bool own_memory;
    keel_cpu cpu;
    const kernels::KernelSet* kernels;
    bool pin_threads;
};

// Where KV pages and f16 windows lie.
inline keel_region_kind kv_region(const PlanConfig& config) {
    return config.own_memory ? KEEL_REGION_DEVICE_KV : KEEL_REGION_KV;
}

// Also reads the parts and the hooks a configuration points to. Errors as keel_plan.
keel_status resolve_config(const keel_config* config, const keel_model& model, const keel_reader& reader,
                           PlanConfig* out, keel_hooks* hooks, keel_error* error);

// Names the way KV rows are coded: formats, scale modes and what a profile changes.
uint64_t kv_identity_of(const PlanConfig& config, uint32_t layers);

}  // namespace keel
