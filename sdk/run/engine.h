// The engine as it lies in memory: one Engine at the start of the persistent region, then its tables. Only sdk/run sees
// this. Who may touch what:
//   - spec, geometry, plan, kernels, weights: written by init, read by everyone after
//   - step, rates, counters: the thread inside keel_advance (it holds `advancing`)
//   - pool: any thread, under the pool's lock
//   - a Session: the one thread that uses it, and keel_advance when it is named there
#pragma once
#include <atomic>

#include "keel/keel.h"
#include "keel/keel_lab.h"
#include "platform/platform.h"
#include "sdk/core/arena.h"
#include "sdk/kv/kv_arena.h"
#include "sdk/kv/kv_f16_window.h"
#include "sdk/plan/kv_transform.h"
#include "sdk/plan/plan.h"
#include "sdk/run/sampler.h"
#include "sdk/text/tokenizer.h"

namespace keel {

constexpr uint32_t kMaxEngines = 16;
constexpr uint32_t kBlockColumns = 8;  // most columns of a session that attention handles together
constexpr uint32_t kOpKinds = static_cast<uint32_t>(OpKind::kSoftcap) + 1;

struct Session {
    std::atomic<uint64_t> id;       // the handle; 0 = free slot
    std::atomic<uint32_t> claimed;  // being opened: no one else may take the slot
    std::atomic<uint32_t> cancel;   // set by keel_cancel, taken by keel_advance
    int32_t* tokens;                // [context]
    uint32_t token_count, computed;
    uint8_t* drawn;       // [context] bits: the token at this position was drawn and then fed
    uint32_t sampled;     // bits set in drawn, up to token_count
    int32_t last_sample;  // token of the last draw at position token_count, or -1
    uint32_t all_logits;  // KEEL_FEED_ALL_LOGITS of the pending tokens
    keel_variant variant;
    uint32_t logits_rows;       // valid rows below
    float* logits;              // [logits_rows of config][vocabulary]
    float* hidden;              // [logits_rows of config][embedding]
    std::atomic<bool> in_step;  // takes part in the unfinished step; a neighbour's thread may clear it by leaving
    KvPageList kv;
    KvF16Window f16_window;
    SamplerParams sampling;
    TextStream text;
    void* work;     // sampler work memory
    uint8_t* mask;  // allowed-token bits
};

// One column of a step: a token of a session at a position.
struct Column {
    Session* session;
    uint32_t position;
    int32_t token;
};
// Consecutive columns of one session that attention handles together.
struct ColumnBlock {
    Session* session;
    uint32_t first, count;
};

// The forward pass under way. It survives KEEL_AGAIN: op and unit say where to continue.
struct Step {
    bool active;
    keel_variant variant;  // of all its sessions; stays when the step is over
    uint32_t columns, blocks, logits, sessions;
    uint32_t op, unit;
    uint32_t longest;         // positions the longest session sees
    uint32_t spans;           // attention spans that is
    uint64_t us;              // time spent in it so far
    bool decode;              // one column per session
    bool flat;                // attention is one pass, in units of (KV head, column) that walk all spans
    Column* column;           // [chunk]
    ColumnBlock* block;       // [chunk]
    uint32_t* logits_column;  // [chunk] column of each logits row
    float** logits_to;        // [chunk] where its logits go
    float** hidden_to;        // [chunk]
    float** y;                // [kPassMatmuls][chunk] output column pointers of the current pass
    Session** session;        // [max_sessions] sessions in the step
};

struct PageRange {
    const void* data;
    uint64_t bytes;
};

struct Engine {
    uint64_t id;
    std::atomic<uint32_t> advancing;  // keel_advance is running (or something that must exclude it)
    std::atomic<uint32_t> tokenizing;
    std::atomic<uint32_t> slots_lock;
    std::atomic<uint32_t> poisoned;
    keel_hooks hooks;
    void (*tap)(void* user_data, const keel_lab_heads* heads);  // keel_lab_set_tap
    void* tap_user_data;
    void (*row_tap)(void* user_data, const keel_lab_row* row);  // keel_lab_set_row_tap
    void* row_tap_user_data;
    PlanConfig config;
    ModelSpec spec;
    uint64_t fingerprint;
    ChatTemplate chat;
    bool rope_neox;
    ExecutionPlan plan;
    KvGeometry geometry;
    KvF16WindowShape f16_window;
    KvTransform transform;
    uint64_t kv_identity;  // hash of formats and profile: what saved rows were coded with
    KvPool pool;
    Arena arenas[KEEL_REGION_COUNT];
    PageRange locked[2];        // to unlock at close: the model, the W_proj cache
    double* frequencies;        // [rope sets][rope_dims / 2]
    bool weights_exceed_cache;  // all weights together are larger than the last-level cache
    Tokenizer* tokenizer;
    platform::ThreadTeam* team;  // null with a parallel_for hook or one thread
    void* team_memory;
    Session* sessions;  // [max_sessions]
    Step step;
    double measured_over_predicted[kOpKinds];
    // Counters of keel_stats.
    std::atomic<uint64_t> steps, tokens, prefill_tokens, prefill_us, decode_tokens, decode_us;

    uint8_t* buffer(BufferId id, uint32_t column) const {
        return arenas[KEEL_REGION_SCRATCH].base() + plan.buffers[id].offset + column * plan.buffers[id].column_bytes;
    }
    float* floats(BufferId id, uint32_t column) const { return reinterpret_cast<float*>(buffer(id, column)); }
};

// ---- registry (registry.cpp): handles to objects; the only mutable global ----
// Engine ids: (slot + 1) << 56 | serial. Session ids: (slot + 1) << 56 | (session slot + 1) << 48 | serial. Serials of
// 48 bits never repeat, so a stale handle never resolves.
uint64_t registry_serial();
keel_status registry_add(Engine* engine, uint64_t* id);  // KEEL_E_SLOTS_FULL
void registry_remove(uint64_t id);
Engine* registry_engine(uint64_t id);                      // null when stale
Engine* registry_session(uint64_t id, Session** session);  // null when stale

// Resolve a handle or return KEEL_E_HANDLE / KEEL_E_POISONED.
keel_status enter(keel_engine handle, Engine** engine);
keel_status enter(keel_session handle, Engine** engine, Session** session);

// An internal invariant broke: the engine answers only stats, info and close from now on.
keel_status poison(Engine* engine, const char* where);

struct TryLock {  // a flag that one thread holds; never waits
    explicit TryLock(std::atomic<uint32_t>* flag)
        : flag_(flag), held_(flag->exchange(1, std::memory_order_acquire) == 0) {}
    ~TryLock() {
        if (held_) flag_->store(0, std::memory_order_release);
    }
    TryLock(const TryLock&) = delete;
    bool held() const { return held_; }

  private:
    std::atomic<uint32_t>* flag_;
    bool held_;
};

// ---- executor.cpp ----
// Runs tiles of the active step until it is complete (KEEL_OK), the deadline would be passed (KEEL_AGAIN; 0 = none) or
// a session of it is cancelled (KEEL_E_CANCELLED). Until *progressed is true it does not stop; it sets it with the
// first group of tiles, so that a call always makes progress.
keel_status run_step(Engine* engine, uint64_t deadline_ns, bool* progressed);

// Whether the formed step is to be flat: a decode step of a context so short that a unit of attention fits a tile.
bool flat_step(const Engine& engine);

// ---- advance.cpp ----
// Forgets the active step; its tokens stay pending, and pages taken for them are given back. The caller holds
// `advancing`. `only`: the one session of the step that the calling thread may use; the others keep their pages. Null:
// all of them.
void abandon_step(Engine* engine, const Session* only);

// ---- session.cpp ----
// Forgets logits, and tokens from `tokens` on. The session is not in a step.
void rewind_session(Engine* engine, Session* session, uint32_t tokens);

}  // namespace keel
