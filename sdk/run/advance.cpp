// keel_advance: forms steps from the pending tokens of several sessions, runs them, keeps the books.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

constexpr uint64_t kCopyTileBytes = 64 * 1024;  // of a page, between two looks at the clock: some 10 us

uint32_t pending(const Session& s) {
    return s.token_count - s.computed;
}

// How many tokens of `s` fit into `room`. A cut prompt ends at a multiple of the page size (absolute position), so that
// chunks and pages align; chunks below a page are cut where they are full. Never fewer than `least`.
uint32_t taken_tokens(const Engine& e, const Session& s, uint32_t room, uint32_t least) {
    const uint32_t most =
        s.all_logits && e.config.logits_rows < e.config.chunk_tokens ? e.config.logits_rows : e.config.chunk_tokens;
    const uint32_t grain = most < kPageTokens ? 1 : kPageTokens;
    if (most < room) room = most;
    if (pending(s) <= room) return pending(s);
    const uint32_t end = (s.computed + room) / grain * grain;
    return end > s.computed + least ? end - s.computed : least;
}

// What a step takes by its plan, in microseconds of one thread, without attention.
double planned_us(const Engine& e, uint32_t tokens, uint32_t logits_rows) {
    const OpList& list = e.plan.variant[e.step.op_list];
    double us = 0;
    for (uint32_t i = 0; i < list.count; ++i) {
        const Op& op = list.ops[i];
        const bool logits = op.to_logits || op.kind == OpKind::kOutputNorm || op.kind == OpKind::kSoftcap;
        us += predict_us(op, logits ? logits_rows : tokens);
    }
    return us;
}

// How many of `most` drafts a step of `tokens` tokens can take along and still be done and drawn in time; `rows`: of
// logits. All where the step alone is not, none where nothing is known of steps.
uint32_t drafts_in_time(const Engine& e, uint32_t tokens, uint32_t rows, uint32_t most, const StepLimits& limits) {
    if (!limits.deadline_ns) return most;
    if (e.step_pace == 0) return 0;
    const uint64_t now_ns = platform::now_ns();
    if (now_ns >= limits.deadline_ns) return most;
    const double left_us = static_cast<double>(limits.deadline_ns - now_ns) / 1000;
    const auto fits = [&](uint32_t drafts) {
        const double draws_us = static_cast<double>(e.draw_ns) / 1000 * (rows + drafts);
        return e.step_pace * planned_us(e, tokens + drafts, rows + drafts) + draws_us <= left_us;
    };
    // A step that is cut anyway may as well be longer: it brings more tokens for the time.
    if (!fits(0)) return most;
    uint32_t some = 0, too_many = most + 1;
    while (too_many - some > 1) {
        const uint32_t middle = (some + too_many) / 2;
        (fits(middle) ? some : too_many) = middle;
    }
    return some;
}

// What the step that is done took, in microseconds: inside of calls, or by the clock of a backend that computed beside
// them. How long nobody asked for it does not count.
double step_us(const Engine& e) {
    const double inside_us = static_cast<double>(e.progress.ns) / 1000;
    double us = 0;
    for (uint32_t i = 0, count = 1; e.backend->times && i < count; ++i) {
        OpTime t = {};
        count = e.backend->times(e.device, i, &t);
        us += t.us;
    }
    return us > inside_us ? us : inside_us;
}

// Learns how steps compare with their plan; slow changes only, so that one interruption counts little.
void learn_pace(Engine* e, double us) {
    const double now = us / planned_us(*e, e->step.tokens, e->step.logits_rows);
    const double most = 2 * e->step_pace;
    e->step_pace = e->step_pace == 0 ? now : e->step_pace + ((now < most ? now : most) - e->step_pace) / 8;
}

// How many drafts each session takes along that computes all it has pending: at most as many as there are rows and
// room for, given out one at a time. For drafts no other session goes without a page.
void share_drafts(Engine* e, Session* const* sessions, uint32_t count, const uint32_t* share, uint32_t room_left,
                  const StepLimits& limits, uint32_t* drafts) {
    uint32_t left = e->config.draft_tokens < room_left ? e->config.draft_tokens : room_left;
    uint32_t found[kMaxSessions] = {}, rows = 0, in_step = 0;
    for (uint32_t i = 0; i < count; ++i) rows += sessions[i]->all_logits ? share[i] : share[i] != 0;
    left = drafts_in_time(*e, e->config.chunk_tokens - room_left, rows, left, limits);
    for (uint32_t i = 0; i < count; ++i) {
        if (!share[i]) continue;
        follow_tokens(sessions[i]);
        ++in_step;
    }
    for (uint32_t i = 0; i < count && left; ++i) {
        Session* s = sessions[i];
        if (!share[i] || share[i] != pending(*s) || !takes_drafts(*s)) continue;
        const uint32_t room = e->config.context_tokens - s->token_count;
        found[i] = find_drafts(e, s, e->config.chunk_tokens - room_left, in_step, room < left ? room : left);
    }
    for (bool more = true; more && left;) {
        more = false;
        for (uint32_t i = 0; i < count && left; ++i) {
            if (drafts[i] == found[i]) continue;
            ++drafts[i];
            --left;
            more = true;
        }
    }
    for (uint32_t i = 0; i < count; ++i) {
        Session* s = sessions[i];
        if (!drafts[i] || kv_make_writable(&e->pool, &s->kv, s->computed, s->token_count + drafts[i]) == KEEL_OK)
            continue;
        const uint32_t page_left = kv_pages_for(s->token_count) * kPageTokens - s->token_count;
        if (page_left < drafts[i]) drafts[i] = page_left;
    }
}

// Notes what each of the session's tokens in the step follows, where drafts are a tree: its tail then begins with the
// first token of the step. depth: [drafts], in tokens behind the session's last one.
void add_tail(Engine* e, const Session& s, uint32_t count, uint32_t drafts, uint32_t* depth) {
    Step& step = e->step;
    uint32_t* parent = step.tail_parent + uint64_t{step.sessions} * kMaxTreeNodes;
    bool tree = false;
    for (uint32_t i = 0; i < drafts; ++i) {
        const uint32_t before = draft_parent(s, i);
        depth[i] = before == kNoNode ? 0 : depth[before] + 1;
        tree = tree || depth[i] != i;
    }
    step.tail_first[step.sessions] = tree ? s.computed : kNoNode;
    if (!tree) return;
    for (uint32_t i = 0; i < count; ++i) parent[i] = i - 1;  // the first one: kNoNode
    for (uint32_t i = 0; i < drafts; ++i) {
        const uint32_t before = draft_parent(s, i);
        parent[count + i] = before == kNoNode ? count - 1 : count + before;
    }
}

// The id in front of the token in a slot of the session, or of its drafts; -1: none.
int32_t token_before(const Session& s, uint32_t slot) {
    if (slot > s.token_count) {
        const uint32_t before = draft_parent(s, slot - s.token_count);
        slot = before == kNoNode ? s.token_count : s.token_count + before + 1;
    }
    return slot ? s.tokens[slot - 1] : -1;
}

// Puts the next `count` tokens of `s`, the drafts behind them and its pages into the step, and notes whose logits to
// keep: of the drafts' rows the step uses `*draft_rows` so far.
void add_session(Engine* e, Session* s, uint32_t count, uint32_t drafts, uint32_t* draft_rows) {
    Step& step = e->step;
    const uint32_t most_tokens =
        kernels::kMaxQueryRows / (e->spec.heads / e->spec.kv_heads);  // inspect saw to at least 1
    const uint32_t block_tokens = most_tokens < kQueryBlockTokens ? most_tokens : kQueryBlockTokens;
    s->drafted = drafts;
    s->hits = 0;
    s->draft_row = e->config.draft_rows_first() + *draft_rows;
    uint32_t depth[kMaxChunk];
    add_tail(e, *s, count, drafts, depth);
    for (uint32_t i = 0; i < count + drafts; ++i) {
        const uint32_t slot = s->computed + i, position = s->computed + (i < count ? i : count + depth[i - count]);
        if (i % block_tokens == 0) step.query_block[step.query_blocks++] = {step.tokens, 0};
        ++step.query_block[step.query_blocks - 1].tokens;
        step.token[step.tokens] = s->tokens[slot];
        step.token_before[step.tokens] = token_before(*s, slot);
        step.position[step.tokens] = position;
        step.slot[step.tokens] = slot;
        step.session[step.tokens] = step.sessions;
        if (position >= step.longest) step.longest = position + 1;
        const bool draft = i >= count, newest = slot + 1 == s->token_count;
        if (s->all_logits || newest || draft) {
            step.logits_token[step.logits_rows] = step.tokens;
            step.logits_row[step.logits_rows++] =
                draft ? e->config.draft_rows_first() + (*draft_rows)++ : e->first_row_of(s) + (s->all_logits ? i : 0);
        }
        ++step.tokens;
    }
    const uint32_t first = step.page_first[step.sessions], pages = kv_pages_for(s->computed + count + drafts);
    memcpy(step.page_id + first, s->kv.ids, pages * sizeof(uint32_t));
    step.session_index[step.sessions] = e->index_of(s);
    step.recent[step.sessions] = kv_recent_rows(e->f16_window, s->f16_window, s->computed, count, drafts,
                                                step.tokens - count - drafts, step.sessions);
    step.adapter[step.sessions] = s->adapter;
    step.adapter_scale[step.sessions] = s->adapter_scale;
    step.session_id[step.sessions] = s->id.load(std::memory_order_relaxed);
    step.page_first[++step.sessions] = first + pages;
    step.decode = step.decode && count + drafts == 1;
    e->progress.decode = e->progress.decode && count == 1;
    s->in_step = true;
    s->logits_rows = 0;
}

// All sessions of a step run the same ops: the variant that did not have the last step comes first, so that neither
// waits for the other's long prompt.
keel_variant next_variant(keel_variant last, Session* const* sessions, uint32_t count, const bool* done) {
    for (uint32_t i = 0; i < count; ++i)
        if (!done[i] && sessions[i]->variant != last) return sessions[i]->variant;
    return last;
}

// A new step over the sessions whose entry in `done` is false. First every session gets one token, so that a long
// prompt never keeps a decoding neighbour waiting, then what is left of its page as far as that goes; then the first
// ones fill the chunk. Sessions of the other variant wait. Sessions that cannot go on are marked done with their
// status. KEEL_AGAIN: the budget is spent before pages are copied. KEEL_E_POISONED: one could not be copied.
keel_status form_step(Engine* e, Session* const* sessions, uint32_t count, StepLimits* limits, bool* done,
                      keel_status* status) {
    Step& step = e->step;
    uint32_t share[kMaxSessions] = {}, drafts[kMaxSessions] = {}, room_left = e->config.chunk_tokens;
    step.tokens = step.query_blocks = step.logits_rows = step.sessions = step.longest = 0;
    step.page_first[0] = 0;
    step.decode = true;
    // Of drafts of a step that was abandoned.
    for (uint32_t i = 0; i < count && e->config.draft_tokens; ++i) {
        KvPageList& kv = sessions[i]->kv;
        const uint32_t tokens = sessions[i]->token_count;
        if (kv.count > kv_pages_for(tokens) && kv.count > kv.reserved) kv_truncate(&e->pool, &kv, tokens);
    }
    for (uint32_t i = 0; i < count; ++i) {
        if (done[i]) continue;
        Session* s = sessions[i];
        if (s->cancel.exchange(0, std::memory_order_acq_rel))
            status[i] = KEEL_E_CANCELLED;
        else if (pending(*s))
            status[i] = kv_make_writable(&e->pool, &s->kv, s->computed, s->token_count);
        if (status[i] == KEEL_OK) KEEL_TRY(copy_page(e, &s->kv, limits));
        done[i] = status[i] != KEEL_OK || pending(*s) == 0;
    }
    step.variant = next_variant(step.variant, sessions, count, done);
    for (uint32_t i = 0; i < count; ++i) {
        if (done[i] || sessions[i]->variant != step.variant || !room_left) continue;
        share[i] = 1;
        --room_left;
    }
    step.op_list = step.variant;
    for (uint32_t i = 0; i < count; ++i)
        if (share[i] && sessions[i]->adapter != KEEL_ADAPTER_OFF) step.op_list = kAdaptedList;
    for (uint32_t i = 0; i < count; ++i) {
        if (!share[i]) continue;
        const uint32_t page_left = kPageTokens - sessions[i]->computed % kPageTokens, room = 1 + room_left;
        share[i] = taken_tokens(*e, *sessions[i], page_left < room ? page_left : room, 1);
        room_left -= share[i] - 1;
    }
    for (uint32_t i = 0; i < count; ++i) {
        if (!share[i]) continue;
        const uint32_t more = taken_tokens(*e, *sessions[i], share[i] + room_left, share[i]);
        room_left -= more - share[i];
        share[i] = more;
    }
    if (e->config.draft_tokens) share_drafts(e, sessions, count, share, room_left, *limits, drafts);
    e->progress = {};
    e->progress.decode = true;
    uint32_t draft_rows = 0;
    for (uint32_t i = 0; i < count; ++i)
        if (share[i]) add_session(e, sessions[i], share[i], drafts[i], &draft_rows);
    e->progress.active = step.sessions != 0;
    return KEEL_OK;
}

// Hands the formed step to the backend. From now on rows are written, even if the step is abandoned.
keel_status begin_step(Engine* e) {
    const Step& step = e->step;
    for (uint32_t i = 0; i < step.tokens; ++i) {
        const uint32_t session = step.session[i];
        kv_f16_window_write(e->f16_window, &e->step_session(session)->f16_window, step.recent[session], step.slot[i]);
    }
    return e->backend->begin(e->device, &e->step) == KEEL_OK ? KEEL_OK : poison(e, "the backend refused a step");
}

// Both. Afterwards no step is active when nothing is left to compute.
keel_status start_step(Engine* e, Session* const* sessions, uint32_t count, StepLimits* limits, bool* done,
                       keel_status* status) {
    KEEL_TRY(form_step(e, sessions, count, limits, done, status));
    return e->progress.active ? begin_step(e) : KEEL_OK;
}

bool cancelled(const void* engine) {
    const Engine& e = *static_cast<const Engine*>(engine);
    for (uint32_t i = 0; i < e.step.sessions; ++i)
        if (e.step_session(i)->cancel.load(std::memory_order_acquire)) return true;
    return false;
}

// Asks until the step is done (KEEL_OK); with a deadline once (KEEL_AGAIN: not yet). KEEL_E_CANCELLED as enqueue.
keel_status wait_for_step(Engine* e, const StepLimits& limits) {
    for (;;) {
        bool done = false;
        const keel_status status = e->backend->poll(e->device, !limits.deadline_ns, &done);
        if (status != KEEL_OK) return KEEL_E_POISONED;
        if (done) return KEEL_OK;
        if (cancelled(e)) return KEEL_E_CANCELLED;
        if (limits.deadline_ns) return KEEL_AGAIN;
    }
}

// Runs the step on. KEEL_OK: it is done. KEEL_AGAIN: the budget is spent, or the backend is not done yet.
// KEEL_E_CANCELLED: a session of it is to be taken out.
keel_status run_step(Engine* e, StepLimits* limits) {
    StepProgress& progress = e->progress;
    const uint64_t begin_ns = platform::now_ns();
    keel_status status = KEEL_OK;
    if (!progress.enqueued) status = e->backend->enqueue(e->device, &progress.cursor, limits);
    progress.enqueued = status == KEEL_OK;
    if (progress.enqueued) status = wait_for_step(e, *limits);
    progress.ns += platform::now_ns() - begin_ns;
    if (status == KEEL_OK || status == KEEL_AGAIN || status == KEEL_E_CANCELLED) return status;
    return poison(e, "the backend failed in a step");
}

// The step is complete: its tokens count as computed, its logits may be read.
keel_status finish_step(Engine* e, const StepLimits& limits) {
    Step& step = e->step;
    uint32_t token = 0, drafts = 0;
    for (uint32_t i = 0; i < step.sessions; ++i) {
        Session* s = e->step_session(i);
        const uint32_t first = token;
        while (token < step.tokens && step.session[token] == i) ++token;
        const uint32_t tokens = token - first - s->drafted;
        if (s->drafting) drafts += tokens;  // they count where they are accepted
        if (tokens == 0 || s->computed + tokens > s->token_count) return poison(e, "step does not match its session");
        kv_f16_window_finish(&s->f16_window, step.recent[i]);
        s->computed += tokens;
        drafts += s->drafted;
        if (s->computed == s->token_count) s->proposed = 0;
        s->logits_rows = s->all_logits ? tokens : s->computed == s->token_count ? 1 : 0;
        s->rows_on_device = e->config.host_layer == kNoHostLayer;
        s->rows_on_host = !s->rows_on_device;
        if (s->sample && s->computed == s->token_count) s->draw = Session::kToDraw;
        s->in_step = false;
    }
    e->steps.fetch_add(1, std::memory_order_relaxed);
    e->tokens.fetch_add(step.tokens, std::memory_order_relaxed);
    const bool decode = e->progress.decode;
    (decode ? e->decode_tokens : e->prefill_tokens).fetch_add(step.tokens - drafts, std::memory_order_relaxed);
    const double us = step_us(*e);
    (decode ? e->decode_us : e->prefill_us).fetch_add(static_cast<uint64_t>(us), std::memory_order_relaxed);
    if (e->config.draft_tokens && limits.deadline_ns) learn_pace(e, us);
    e->finished_list = step.op_list;
    e->progress.active = false;
    return KEEL_OK;
}

// Whether `s` is one of the step's sessions, the step being active or just finished.
bool in_step(const Engine& e, const Session* s) {
    for (uint32_t i = 0; i < e.step.sessions; ++i)
        if (e.step_session(i) == s) return true;
    return false;
}

// Whether every session of the step is among those named.
bool all_named(const Engine& e, Session* const* sessions, uint32_t count) {
    uint32_t named = 0;
    for (uint32_t i = 0; i < count; ++i) named += in_step(e, sessions[i]);
    return named == e.step.sessions;
}

// Draws what is to be drawn. KEEL_AGAIN when the budget does not allow all of it; not before one is drawn in a call
// that has done nothing yet. Drafts that come too late are forgotten: their rows are the next step's.
keel_status draw_tokens(Engine* e, Session* const* sessions, uint32_t count, StepLimits* limits) {
    keel_status status = KEEL_OK;
    for (uint32_t i = 0; i < count; ++i) {
        Session* s = sessions[i];
        if (s->draw != Session::kToDraw) continue;
        while (s->draw == Session::kToDraw) {
            const uint64_t begin_ns = platform::now_ns();
            if (limits->deadline_ns && limits->progressed && begin_ns + e->draw_ns > limits->deadline_ns) break;
            draw_next(e, s);
            if (s->draw_status == KEEL_E_POISONED) return KEEL_E_POISONED;
            limits->progressed = true;
            e->draw_ns = platform::now_ns() - begin_ns;
        }
        KEEL_TRY(settle_drafts(e, s));
        if (s->draw == Session::kToDraw) status = KEEL_AGAIN;
    }
    return status;
}

}  // namespace

uint64_t deadline_after(uint64_t budget_us) {
    const uint64_t now_ns = platform::now_ns(), longest_us = (UINT64_MAX - now_ns) / 1000;
    return budget_us && budget_us <= longest_us ? now_ns + budget_us * 1000 : 0;
}

keel_status advance_sessions(Engine* e, Session* const* sessions, uint32_t count, uint64_t deadline_ns,
                             keel_status* status) {
    StepLimits limits = {deadline_ns, false, cancelled, e};
    bool done[kMaxSessions] = {};
    if (e->progress.active && !all_named(*e, sessions, count)) {
        for (uint32_t i = 0; i < count; ++i) status[i] = KEEL_E_BUSY;
        return KEEL_E_BUSY;
    }
    for (;;) {
        const keel_status drawn = e->progress.active ? KEEL_OK : draw_tokens(e, sessions, count, &limits);
        if (drawn == KEEL_E_POISONED) return drawn;
        if (drawn == KEEL_AGAIN ||
            (!e->progress.active && deadline_ns && limits.progressed && platform::now_ns() >= deadline_ns)) {
            bool left = false;
            for (uint32_t i = 0; i < count; ++i) {
                const bool to_draw = sessions[i]->draw == Session::kToDraw;
                if (!to_draw && (done[i] || pending(*sessions[i]) == 0)) continue;
                status[i] = KEEL_AGAIN;
                left = true;
            }
            if (left) return KEEL_AGAIN;
        }
        const keel_status formed = e->progress.active ? KEEL_OK : start_step(e, sessions, count, &limits, done, status);
        if (formed == KEEL_OK && !e->progress.active) break;
        const keel_status run = formed == KEEL_OK ? run_step(e, &limits) : formed;
        if (run == KEEL_OK) {
            KEEL_TRY(finish_step(e, limits));
            // Rows of a session that waits for room are those of an earlier call: it is not done yet.
            for (uint32_t i = 0; i < count; ++i)
                if (sessions[i]->all_logits && in_step(*e, sessions[i])) done[i] = true;
        } else if (run == KEEL_AGAIN) {
            for (uint32_t i = 0; i < count; ++i)
                if (!done[i] && pending(*sessions[i])) status[i] = KEEL_AGAIN;
            return KEEL_AGAIN;
        } else if (run != KEEL_E_CANCELLED) {
            return run;
        } else {
            KEEL_TRY(abandon_step(e, nullptr));  // the next step is formed without the cancelled ones
        }
    }
    keel_status stopped = KEEL_OK;
    for (uint32_t i = 0; i < count; ++i)
        if (status[i] != KEEL_OK) stopped = status[i];
    return stopped;
}

keel_status wait_in_flight(Engine* e, uint64_t deadline_ns) {
    const uint64_t begin_ns = platform::now_ns();
    uint64_t now_ns = begin_ns;
    if (!e->progress.active || now_ns >= deadline_ns) return KEEL_AGAIN;
    if (e->progress.enqueued) return KEEL_OK;  // it is not done, and the next call asks again
    bool waited = false, done = false;
    for (; now_ns < deadline_ns; waited = true, now_ns = platform::now_ns()) {
        if (e->backend->poll(e->device, false, &done) != KEEL_OK) return poison(e, "the backend failed in a step");
        if (done) break;
    }
    e->progress.ns += now_ns - begin_ns;
    return waited && done ? KEEL_OK : KEEL_AGAIN;
}

keel_status copy_page(Engine* e, KvPageList* list, StepLimits* limits) {
    if (list->copy_id == kNoPage) return KEEL_OK;
    for (uint64_t tile_ns = 0; list->copied_bytes < e->geometry.page_bytes;) {
        const KvPart* part = e->kv_part;
        uint64_t done = list->copied_bytes;  // of this part
        for (; done >= part->page_bytes; ++part) done -= part->page_bytes;
        const uint64_t begin_ns = platform::now_ns(), left = part->page_bytes - done,
                       bytes = left < kCopyTileBytes ? left : kCopyTileBytes,
                       to = part->page_offset(list->copy_id) + done,
                       from = part->page_offset(list->ids[list->copy_index]) + done;
        if (limits->deadline_ns && limits->progressed && begin_ns + tile_ns > limits->deadline_ns) return KEEL_AGAIN;
        KEEL_TRY(copy_kv(e, *part, to, from, bytes));
        list->copied_bytes += bytes;
        limits->progressed = true;
        tile_ns = platform::now_ns() - begin_ns;
    }
    kv_copied(&e->pool, list);
    return KEEL_OK;
}

keel_status abandon_step(Engine* e, const Session* only) {
    const bool drained = !e->progress.active || e->backend->drain(e->device) == KEEL_OK;
    for (uint32_t i = 0; i < e->step.sessions; ++i) {
        Session* s = e->step_session(i);
        if (drained && (!only || s == only)) kv_truncate(&e->pool, &s->kv, s->computed);
        s->in_step = false;
    }
    e->progress.active = false;
    e->step.sessions = 0;
    return drained ? KEEL_OK : poison(e, "the backend did not drain");
}

}  // namespace keel

using namespace keel;

namespace {

keel_status resolve_sessions(keel_engine engine, const keel_session* handles, uint32_t count, Engine** e,
                             Session** sessions) {
    KEEL_TRY(enter(engine, e));
    if (!handles) return bad_argument(*e, "sessions", "null");
    if (count == 0 || count > (*e)->config.max_sessions)
        return bad_range(*e, "count", count, 1, (*e)->config.max_sessions);
    for (uint32_t i = 0; i < count; ++i) {
        if (registry_session(handles[i].id, &sessions[i]) != *e) return KEEL_E_HANDLE;
        for (uint32_t j = 0; j < i; ++j)
            if (sessions[j] == sessions[i]) return bad_argument(*e, "sessions", "one is named twice");
    }
    return KEEL_OK;
}

// The results of a call that is refused before it may look at a session.
keel_status refuse(keel_status status, uint32_t count, keel_advance_result* results) {
    keel_advance_result r = {};
    r.status = status;
    for (uint32_t i = 0; i < count; ++i) KEEL_TRY(write_versioned(r, results, i));
    return status;
}

}  // namespace

extern "C" keel_status keel_advance(keel_engine engine, const keel_session* handles, uint32_t count, uint64_t budget_us,
                                    keel_advance_result* results) {
    if (!results) return KEEL_E_ARGUMENT;
    if (count) KEEL_TRY(check_versioned(results));  // before anything is computed
    Engine* e;
    Session* sessions[kMaxSessions];
    const keel_status resolved = resolve_sessions(engine, handles, count, &e, sessions);
    if (resolved != KEEL_OK) return refuse(resolved, count, results);
    TryLock lock(&e->advancing);
    if (!lock.held()) return refuse(KEEL_E_BUSY, count, results);
    SessionUse uses[kMaxSessions];
    for (uint32_t i = 0; i < count; ++i)
        if (!uses[i].claim(sessions[i])) return refuse(KEEL_E_BUSY, count, results);
    keel_status status[kMaxSessions] = {};
    const keel_status overall = advance_sessions(e, sessions, count, deadline_after(budget_us), status);
    if (overall == KEEL_E_POISONED)
        for (uint32_t i = 0; i < count; ++i) status[i] = overall;
    for (uint32_t i = 0; i < count; ++i) {
        const Session& s = *sessions[i];
        const keel_advance_result r = {0, status[i], s.computed, pending(s), s.logits_rows, s.accepted};
        KEEL_TRY(write_versioned(r, results, i));
    }
    return overall;
}

extern "C" keel_status keel_cancel(keel_session session) {
    Session* s;
    if (!registry_session(session.id, &s)) return KEEL_E_HANDLE;
    s->cancel.store(1, std::memory_order_release);
    return KEEL_OK;
}
