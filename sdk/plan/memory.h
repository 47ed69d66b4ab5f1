// The memory plan: every object of every region of an engine, in one place. Counting gives the sizes that keel_plan
// reports, placing the addresses that keel_engine_init uses, both by the same function.
#pragma once
#include "sdk/backend/backend.h"
#include "sdk/core/arena.h"
#include "sdk/draft/drafter.h"
#include "sdk/plan/config.h"
#include "sdk/plan/forward.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"
#include "sdk/text/grammar.h"
#include "sdk/text/tokenizer.h"

namespace keel {

struct GrammarSession;  // grammar_tokens.h

extern const char* const kRegionNames[KEEL_REGION_COUNT];

// What is laid out, and for whom.
struct LayoutRequest {
    const keel_reader& reader;
    const keel_model& model;
    const PlanConfig& config;
    const keel_hooks& hooks;
    uint64_t engine_bytes, session_bytes, sampler_bytes;  // what sdk/run keeps of an engine, of a session, of sampling
    uint32_t op_counts[kOpLists];                         // of a plan that was counted
    uint64_t scratch_bytes;                               // of the same
    uint64_t load_bytes;                                  // place mode: Layout::load_bytes of the count run
    PlanObservers observers;
};

// Arrays of a session slot.
struct SessionMemory {
    int32_t* tokens;     // [context]
    uint8_t* drawn;      // [context] bits
    uint32_t* page_ids;  // [pages of a context]
    void* sampler_work;
    uint8_t* allowed_tokens;  // [vocabulary] bits
    GrammarSession* grammar;  // null: none
    Drafter* drafter;         // null: none
};

// Where everything is. Addresses are null in count mode.
struct Layout {
    void* engine;    // engine_bytes, at the start of the persistent region
    void* sessions;  // [max_sessions] of session_bytes
    SessionMemory session[kMaxSessions];
    Program program;
    Step step;
    std::atomic<uint32_t>*kv_next_free, *kv_references;  // [kv_pages]
    Tokenizer* tokenizer;
    Chat chat;
    const Grammar* grammar;  // null: none
    SharedSources drafts;
    Device* device;  // not null: it has to be closed
    uint64_t mapped_weight_bytes;
    uint64_t load_bytes;  // what init reads from files into memory: the total of the progress hook
};

// Arenas that count, or arenas over the regions: then weights are loaded and tables filled, and KEEL_E_MEMORY_TOO_SMALL
// says that a region ends too early. Errors as keel_plan and keel_engine_init.
keel_status lay_out(const LayoutRequest& request, Arena* arenas, Layout* out, keel_error* error);

}  // namespace keel
