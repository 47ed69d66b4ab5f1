// The engine as it lies in memory: one Engine at the start of the persistent region, then its tables. Only sdk/run sees
// this. Who may touch what:
//   - what it shows the backend (Program), weights: written by init, read by everyone after
//   - step, progress, counters: the thread inside keel_advance (it holds `advancing`)
//   - pool: any thread, without a lock
//   - a Session: the one call that holds its `busy`
// No thread ever waits for another one here: who finds something taken says KEEL_E_BUSY.
#pragma once
#include <atomic>

#include "keel/keel.h"
#include "platform/platform.h"
#include "sdk/backend/backend.h"
#include "sdk/backend/draw.h"
#include "sdk/core/arena.h"
#include "sdk/draft/drafter.h"
#include "sdk/draft/session_odds.h"
#include "sdk/plan/program.h"
#include "sdk/plan/step.h"
#include "sdk/run/sampler.h"
#include "sdk/text/grammar.h"
#include "sdk/text/tokenizer.h"

namespace keel {

constexpr uint32_t kMaxEngines = 16;

struct GrammarSession;  // grammar_tokens.h

// What a fork takes along as it is; of a new session, these values.
struct SessionState {
    uint32_t token_count = 0, computed = 0;
    uint32_t sampled = 0;      // bits set in Session::drawn, up to token_count
    int32_t last_sample = -1;  // token of the last draw at position token_count, or -1
    uint32_t fed_from = 0;     // position of the first token of the newest feed
    uint32_t all_logits = 0;   // KEEL_FEED_ALL_LOGITS of the pending tokens
    uint32_t sample = 0;       // KEEL_FEED_SAMPLE of them
    uint32_t accepted = 0;     // so many tokens at the end were drafts, since the newest feed
    // Draws drafts, for another session or for itself: it takes none. Its text is the other one's until it is emptied
    // and fed, or restored; nothing learns from it.
    bool drafting = false;
    keel_variant variant = KEEL_VARIANT_DENSE;
    uint32_t adapter = KEEL_ADAPTER_OFF;
    float adapter_scale = 0;                   // 0: none
    uint32_t grammar_from = KEEL_GRAMMAR_OFF;  // or a position, or KEEL_GRAMMAR_NEXT
    uint32_t logits_rows = 0;                  // valid rows of Session::logits and hidden
    KvF16Window f16_window = {};
    SamplerParams sampling = {};
    TextStream text = {};
};

struct Session : SessionState {
    std::atomic<uint64_t> id;       // the handle; 0 = free slot
    std::atomic<uint32_t> claimed;  // being opened: no one else may take the slot
    std::atomic<uint32_t> busy;     // a call uses it, a hook of that call included
    std::atomic<uint32_t> cancel;   // set by keel_cancel, taken by keel_advance
    int32_t* tokens;                // [context]
    uint8_t* drawn;                 // [context] bits: the token at this position was drawn and then fed
    // What keel_advance drew from the newest row, or is to draw.
    enum : uint32_t { kNoDraw, kToDraw, kDrawn } draw;
    keel_status draw_status;
    int32_t drawn_token;
    // Drafts lie in `tokens` behind token_count. Outside a step: what the caller proposed.
    uint32_t proposed;
    // They are a tree: each follows the draft of this number, kTextEnd the last token. Else the one before it.
    bool branching;
    uint8_t draft_parent[kMaxTreeNodes];
    // Those of the newest step until they are settled: how many, of them accepted, and their first row of logits.
    uint32_t drafted, hits, draft_row;
    uint8_t draft_path[kMaxTreeNodes];  // where they are a tree: those accepted
    uint64_t drafts_computed, drafts_accepted;
    Drafter* drafter;                       // null: the engine has none
    uint32_t draft_tokens, draft_sessions;  // of the newest step, without drafts
    uint32_t draft_private;
    SessionOdds odds;  // of drafts by another session, or by its own low-rank pass
    // Where what is proposed, or drafted in the newest step, comes from.
    enum : uint32_t { kByDrafter, kByCaller, kBySession } draft_source;
    float* logits;                      // [logits_rows of config][vocabulary], of Program::logits
    float* hidden;                      // [logits_rows of config][embedding], of Program::hidden
    bool rows_on_host, rows_on_device;  // where the valid rows are: at least in one of both
    std::atomic<bool> in_step;  // takes part in the unfinished step; a neighbour's thread may clear it by leaving
    KvPageList kv;
    void* work;               // sampler work memory
    uint8_t* mask;            // allowed-token bits
    GrammarSession* grammar;  // null: the engine has none

    bool was_drawn(uint32_t position) const { return drawn[position / 8] >> position % 8 & 1; }
};

// The step under way. It survives KEEL_AGAIN; its sessions are in_step.
struct StepProgress {
    bool active;
    bool enqueued;  // all of it: the backend is asked until it is done
    bool decode;    // one token per session, drafts aside
    Cursor cursor;  // else where to go on
    uint64_t ns;    // spent in it so far, inside of calls
};

// Why the newest refused call was refused. Several threads may write; who finds it taken leaves it.
struct LastError {
    std::atomic<uint32_t> taken;
    keel_error error;
};

struct PageRange {
    const void* data;
    uint64_t bytes;
};

struct Engine : Program {
    uint64_t id;
    std::atomic<uint32_t> advancing;  // keel_advance is running (or something that must exclude it)
    uint64_t draw_ns;                 // what the last draw inside keel_advance took
    SharedSources drafts;
    double step_pace;                // what steps under a deadline take over what was planned; 0: not known
    std::atomic<uint32_t> chatting;  // the work memory of `chat` is in use
    std::atomic<uint32_t> poisoned;
    LastError last_error;
    const Backend* backend;
    Device* device;
    uint64_t fingerprint, vocabulary_hash;
    Chat chat;
    const Grammar* grammar;  // null: none
    uint64_t kv_identity;    // how saved rows were computed and coded
    KvPool pool;
    Arena arenas[KEEL_REGION_COUNT];
    PageRange locked[2];  // to unlock at close: the model, the W_proj cache
    Tokenizer* tokenizer;
    Session* sessions;  // [max_sessions]
    Step step;
    StepProgress progress;
    uint32_t finished_list;  // Step::op_list of the newest step that was computed whole
    // Counters of keel_stats.
    std::atomic<uint64_t> steps, tokens, prefill_tokens, prefill_us, decode_tokens, decode_us;
    std::atomic<uint64_t> drafts_computed, drafts_accepted;

    uint32_t index_of(const Session* s) const { return static_cast<uint32_t>(s - sessions); }
    // Row of Program::logits that is the first of the session's own.
    uint32_t first_row_of(const Session* s) const { return index_of(s) * config.logits_rows; }
    uint32_t newest_row_of(const Session* s) const { return first_row_of(s) + s->logits_rows - 1; }
    Session* step_session(uint32_t i) const { return &sessions[step.session_index[i]]; }
};

// ---- registry (registry.cpp): handles to objects; the only mutable global ----
// Engine ids: (slot + 1) << 56 | serial. Session ids: (slot + 1) << 56 | (session slot + 1) << 48 | serial. Serials of
// 48 bits never repeat, so a stale handle never resolves.
uint64_t registry_serial();
// Takes an engine slot for regions of memory, [KEEL_REGION_COUNT]. KEEL_E_SLOTS_FULL, KEEL_E_ARGUMENT: a living
// engine, or one that is being made, has some of that memory.
keel_status registry_claim(const keel_region* regions, uint32_t* slot);
void registry_give_up(uint32_t slot);
uint64_t registry_publish(uint32_t slot, Engine* engine);  // the engine's id
void registry_hide(uint64_t id);                           // the id names nothing any more
void registry_remove(uint64_t id);                         // and its memory and slot are free
Engine* registry_engine(uint64_t id);                      // null when stale
Engine* registry_session(uint64_t id, Session** session);  // null when stale

// A flag that one thread holds; who finds it taken does not wait.
class TryLock {
  public:
    TryLock() = default;
    explicit TryLock(std::atomic<uint32_t>* flag) { take(flag); }
    ~TryLock() { release(); }
    TryLock(const TryLock&) = delete;
    TryLock& operator=(const TryLock&) = delete;
    bool take(std::atomic<uint32_t>* flag) {
        if (flag->exchange(1, std::memory_order_acquire)) return false;
        flag_ = flag;
        return true;
    }
    void release() {
        if (flag_) flag_->store(0, std::memory_order_release);
        flag_ = nullptr;
    }
    bool held() const { return flag_ != nullptr; }

  private:
    std::atomic<uint32_t>* flag_ = nullptr;
};

// The session a call works on, while it does.
class SessionUse {
  public:
    // False when another call uses it: on another thread, or one whose hook this call comes from.
    bool claim(Session* session) {
        session_ = session;
        return lock_.take(&session->busy);
    }
    void release() { lock_.release(); }
    operator Session*() const { return session_; }
    Session* operator->() const { return session_; }

  private:
    TryLock lock_;
    Session* session_ = nullptr;
};

// Resolve a handle or return KEEL_E_HANDLE / KEEL_E_POISONED, and KEEL_E_BUSY for a session in use.
keel_status enter(keel_engine handle, Engine** engine);
keel_status enter(keel_session handle, Engine** engine, SessionUse* session);
// Without claiming it: for what laboratories look at from hooks.
keel_status enter(keel_session handle, Engine** engine, Session** session);

// KEEL_E_ARGUMENT, with a detail for keel_engine_last_error: a text, or "7 is not within 0 and 5".
keel_status bad_argument(Engine* engine, const char* field, const char* reason);
keel_status bad_range(Engine* engine, const char* field, int64_t value, int64_t low, int64_t high);
// The same for a detail that another function filled; returns `status`, and keeps none for KEEL_OK.
keel_status keep_error(Engine* engine, keel_status status, const keel_error& error);

// An internal invariant broke: the engine answers only stats, info and close from now on.
keel_status poison(Engine* engine, const char* where);

// Rows of KV memory by their offset in the region. A backend that fails poisons the engine.
keel_status upload_kv(Engine* engine, const KvPart& part, uint64_t to, const void* from, uint64_t bytes);
keel_status copy_kv(Engine* engine, const KvPart& part, uint64_t to, uint64_t from, uint64_t bytes);
keel_status download_kv(Engine* engine, void* to, const KvPart& part, uint64_t from, uint64_t bytes);

// ---- draw_request.cpp ----
// What a draw from row `row` depends on. `ids`: [kMaxForbidden]; work: the sampler's.
DrawRequest draw_request(const SamplerParams& params, const SamplerInput& input, uint32_t row, void* work,
                         uint32_t* ids);

// ---- grammar_calls.cpp ----
// Clears the bits of s->mask that the session's grammar does not allow next.
keel_status apply_grammar(Engine* engine, Session* session);
// KEEL_GRAMMAR_NEXT: the token behind the session's last one is the first of the grammar's text.
void begin_grammar(Session* session);
// The session's tokens from `tokens` on are others now.
void rewind_grammar(Session* session, uint32_t tokens);

// ---- advance.cpp ----
// The end of a call's budget; 0: none.
uint64_t deadline_after(uint64_t budget_us);
// Computes what is pending, and draws. `status`: [count], KEEL_OK at first. The caller holds `advancing` and the
// sessions. KEEL_AGAIN: the deadline would be passed. The call's other results are those of keel_advance.
keel_status advance_sessions(Engine* engine, Session* const* sessions, uint32_t count, uint64_t deadline_ns,
                             keel_status* status);
// Waits for what the active step has in flight, behind a call that said KEEL_AGAIN. KEEL_OK: the next one goes on.
// KEEL_AGAIN: the deadline came, or nothing is in flight: what comes next does not fit. KEEL_E_POISONED.
keel_status wait_in_flight(Engine* engine, uint64_t deadline_ns);
// Copies the rest of a page that kv_make_writable left to be copied, in tiles. KEEL_AGAIN: the deadline
// would be passed; not before the first tile of a call that has done nothing yet.
keel_status copy_page(Engine* engine, KvPageList* list, StepLimits* limits);
// Forgets the active step once the backend has let go of it; its tokens stay pending, and pages taken for them are
// given back. The caller holds `advancing`. `only`: the one session of the step that the calling thread may use; the
// others keep their pages. Null: all of them. KEEL_E_POISONED: the backend did not let go, and no page is given back.
keel_status abandon_step(Engine* engine, const Session* only);

// ---- kv_rows.cpp ----
// Copies KV rows of the session over others, one after the other: all layers and heads, codes and scales, and the f16
// copy that recent rows have. None is a sink, and pages that are written are the session's own.
keel_status move_kv_rows(Engine* engine, const Session& session, const KvRowMove* moves, uint32_t count);

// ---- drafts.cpp: the one place where drafts of a session come from, and the one that says what became of them ----
// What steps of the session's tokens take by the plan.
StepCosts step_costs(const Engine& engine, const Session& session);
// Whether the session's next step may take drafts along, if it computes all that is pending.
bool takes_drafts(const Session& session);
// Tells the session's drafter of tokens that it does not know yet, some at a time.
void follow_tokens(Session* session);
// The draft that draft number `node` follows, of those behind the session's tokens.
uint32_t draft_parent(const Session& session, uint32_t node);
// The session has other tokens now, from the first on.
void reset_drafter(Engine* engine, Session* session);
// Asked when a step is formed, of so many tokens and sessions so far: puts at most `most` drafts behind the session's
// tokens and says how many. The first ones of them may be taken alone.
uint32_t find_drafts(Engine* engine, Session* session, uint32_t step_tokens, uint32_t step_sessions, uint32_t most);
// The same of the session's drafter, which knows the whole text.
uint32_t own_drafts(const Engine& engine, Session* session, const DraftStep& step, uint32_t most);
// Draws the next token. If it is the next draft it becomes a token of the session, as if it had been sampled and fed,
// and there is another draw to be made: kToDraw again.
void draw_next(Engine* engine, Session* session);
// Forgets the drafts of the step that are not accepted, and keeps the row of logits behind the session's last token.
keel_status settle_drafts(Engine* engine, Session* session);

// Whether the token ends the session's text.
bool is_end(const Engine& engine, const Session& session, int32_t token);

// ---- session.cpp ----
// Whether rows of positions before `tokens` are all there.
bool can_rewind(const Engine& engine, const Session& session, uint32_t tokens);
// Rows of logits and hidden states on the host, if they are not yet. KEEL_E_POISONED: the backend failed.
keel_status fetch_rows(Engine* engine, Session* session);
// The same for row `row` of Program::logits, which is the newest one or a draft's.
keel_status fetch_row(Engine* engine, Session* session, uint32_t row);
// Draws the next token from row `row` of Program::logits, that behind the session's last token.
keel_status draw_token(Engine* engine, Session* session, uint32_t row, int32_t* token);
// Puts a token behind those of the session; every one comes this way, but for those of saved sessions.
void append_token(Session* session, int32_t token, bool drawn);
// Puts tokens behind those of the session: the first one may be the token drawn last.
void append_tokens(Engine* engine, Session* session, const int32_t* tokens, uint32_t count);
// Forgets logits, and tokens from `tokens` on. The session is not in a step.
void rewind_session(Engine* engine, Session* session, uint32_t tokens);

}  // namespace keel
