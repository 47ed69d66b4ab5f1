// keel_advance: forms steps from the pending tokens of several sessions, runs them, keeps the books.
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

uint32_t pending(const Session& s) {
    return s.token_count - s.computed;
}

// Columns session `s`, which has `least` of a step, takes of `room`. What does not fit is cut at an absolute multiple
// of a page, wherever the prompt began, so that chunks end where pages do; chunks below a page are cut where they are
// full.
uint32_t taken_columns(const Engine& e, const Session& s, uint32_t room, uint32_t least) {
    const uint32_t most =
        s.all_logits && e.config.logits_rows < e.config.chunk_tokens ? e.config.logits_rows : e.config.chunk_tokens;
    const uint32_t grain = most < kPageTokens ? 1 : kPageTokens;
    if (most < room) room = most;
    if (pending(s) <= room) return pending(s);
    const uint32_t end = (s.computed + room) / grain * grain;
    return end > s.computed + least ? end - s.computed : least;
}

// Puts `count` columns of `s` into the step and notes whose logits to keep.
void add_session(Engine* e, Session* s, uint32_t count) {
    Step& step = e->step;
    const uint32_t most_columns =
        kernels::kMaxQueryRows / (e->spec.heads / e->spec.kv_heads);  // inspect saw to at least 1
    const uint32_t block_columns = most_columns < kBlockColumns ? most_columns : kBlockColumns;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t position = s->computed + i;
        if (i % block_columns == 0) step.block[step.blocks++] = {s, step.columns, 0};
        ++step.block[step.blocks - 1].count;
        step.column[step.columns] = {s, position, s->tokens[position]};
        const bool newest = position + 1 == s->token_count;
        if (s->all_logits || newest) {
            const uint64_t row = s->all_logits ? i : 0;
            step.logits_column[step.logits] = step.columns;
            step.logits_to[step.logits] = s->logits + row * e->spec.vocabulary;
            step.hidden_to[step.logits++] = s->hidden + row * e->spec.embedding;
        }
        ++step.columns;
    }
    kv_f16_window_advance(e->f16_window, &s->f16_window,
                          s->computed + count);  // its rows are written even if the step is abandoned
    if (s->computed + count > step.longest) step.longest = s->computed + count;
    step.decode = step.decode && count == 1;
    step.session[step.sessions++] = s;
    s->in_step = true;
    s->logits_rows = 0;
}

// All sessions of a step run the same ops: the variant that did not have the last step comes first, so that neither waits
// for the other's long prompt.
keel_variant next_variant(keel_variant last, Session* const* sessions, uint32_t count, const bool* done) {
    for (uint32_t i = 0; i < count; ++i)
        if (!done[i] && sessions[i]->variant != last) return sessions[i]->variant;
    return last;
}

// A new step over the sessions whose entry in `done` is false. First every session gets one column, so that a long
// prompt never keeps a decoding neighbour waiting, then what is left of its page as far as that goes; then the first
// ones fill the chunk. Sessions of the other variant wait. Sessions that cannot go on are marked done with their status.
void form_step(Engine* e, Session* const* sessions, uint32_t count, bool* done, keel_status* status) {
    Step& step = e->step;
    uint32_t share[kMaxSessions] = {}, free_columns = e->config.chunk_tokens;
    step.columns = step.blocks = step.logits = step.sessions = step.op = step.unit = step.longest = 0;
    step.us = 0;
    step.decode = true;
    for (uint32_t i = 0; i < count; ++i) {
        if (done[i]) continue;
        Session* s = sessions[i];
        if (s->cancel.exchange(0, std::memory_order_acq_rel))
            status[i] = KEEL_E_CANCELLED;
        else if (pending(*s))
            status[i] = kv_make_writable(&e->pool, &s->kv, s->computed, s->token_count);
        done[i] = status[i] != KEEL_OK || pending(*s) == 0;
    }
    step.variant = next_variant(step.variant, sessions, count, done);
    for (uint32_t i = 0; i < count; ++i) {
        if (done[i] || sessions[i]->variant != step.variant || !free_columns) continue;
        share[i] = 1;
        --free_columns;
    }
    for (uint32_t i = 0; i < count; ++i) {
        if (!share[i]) continue;
        const uint32_t page_left = kPageTokens - sessions[i]->computed % kPageTokens, room = 1 + free_columns;
        share[i] = taken_columns(*e, *sessions[i], page_left < room ? page_left : room, 1);
        free_columns -= share[i] - 1;
    }
    for (uint32_t i = 0; i < count; ++i) {
        if (!share[i]) continue;
        const uint32_t more = taken_columns(*e, *sessions[i], share[i] + free_columns, share[i]);
        free_columns -= more - share[i];
        share[i] = more;
    }
    for (uint32_t i = 0; i < count; ++i)
        if (share[i]) add_session(e, sessions[i], share[i]);
    step.spans = (step.longest + kernels::kKvSplitTokens - 1) / kernels::kKvSplitTokens;
    step.flat = flat_step(*e);
    step.active = step.sessions != 0;
}

// The step is complete: its tokens count as computed, its logits may be read.
keel_status finish_step(Engine* e) {
    Step& step = e->step;
    uint32_t column = 0;
    for (uint32_t i = 0; i < step.sessions; ++i) {
        Session* s = step.session[i];
        uint32_t columns = 0;
        while (column < step.columns && step.column[column].session == s) {
            ++column;
            ++columns;
        }
        if (columns == 0 || s->computed + columns > s->token_count) return poison(e, "step does not match its session");
        s->computed += columns;
        s->logits_rows = s->all_logits ? columns : s->computed == s->token_count ? 1 : 0;
        s->in_step = false;
    }
    e->steps.fetch_add(1, std::memory_order_relaxed);
    e->tokens.fetch_add(step.columns, std::memory_order_relaxed);
    (step.decode ? e->decode_tokens : e->prefill_tokens).fetch_add(step.columns, std::memory_order_relaxed);
    (step.decode ? e->decode_us : e->prefill_us).fetch_add(step.us, std::memory_order_relaxed);
    step.active = false;
    return KEEL_OK;
}

// Sessions of the step that are not among those named.
bool all_named(const Step& step, Session* const* sessions, uint32_t count) {
    for (uint32_t i = 0; i < step.sessions; ++i) {
        bool named = false;
        for (uint32_t j = 0; j < count; ++j) named = named || sessions[j] == step.session[i];
        if (!named) return false;
    }
    return true;
}

keel_status advance(Engine* e, Session* const* sessions, uint32_t count, uint64_t budget_us, keel_status* status) {
    const uint64_t now_ns = platform::now_ns(), longest_us = (UINT64_MAX - now_ns) / 1000;
    const uint64_t deadline_ns = budget_us && budget_us <= longest_us ? now_ns + budget_us * 1000 : 0;
    bool done[kMaxSessions] = {}, progressed = false;
    if (e->step.active && !all_named(e->step, sessions, count)) {
        for (uint32_t i = 0; i < count; ++i) status[i] = KEEL_E_BUSY;
        return KEEL_E_BUSY;
    }
    for (;;) {
        if (!e->step.active) {
            if (deadline_ns && progressed && platform::now_ns() >= deadline_ns) {
                bool left = false;
                for (uint32_t i = 0; i < count; ++i) {
                    if (done[i] || pending(*sessions[i]) == 0) continue;
                    status[i] = KEEL_AGAIN;
                    left = true;
                }
                if (left) return KEEL_AGAIN;
            }
            form_step(e, sessions, count, done, status);
            if (!e->step.active) break;
        }
        const keel_status run = run_step(e, deadline_ns, &progressed);
        if (run == KEEL_OK) {
            KEEL_TRY(finish_step(e));
            // Rows of a session that waits for a column are those of an earlier call: it is not done yet.
            for (uint32_t i = 0; i < count; ++i)
                for (uint32_t j = 0; j < e->step.sessions; ++j)
                    if (e->step.session[j] == sessions[i] && sessions[i]->all_logits) done[i] = true;
        } else if (run == KEEL_AGAIN) {
            for (uint32_t i = 0; i < count; ++i)
                if (!done[i] && pending(*sessions[i])) status[i] = KEEL_AGAIN;
            return KEEL_AGAIN;
        } else {
            abandon_step(e, nullptr);  // the next step is formed without the cancelled ones
        }
    }
    keel_status worst = KEEL_OK;
    for (uint32_t i = 0; i < count; ++i)
        if (status[i] != KEEL_OK) worst = status[i];
    return worst;
}

}  // namespace

void abandon_step(Engine* e, const Session* only) {
    for (uint32_t i = 0; i < e->step.sessions; ++i) {
        Session* s = e->step.session[i];
        if (!only || s == only) kv_truncate(&e->pool, &s->kv, s->computed);
        s->in_step = false;
    }
    e->step.active = false;
    e->step.sessions = 0;
}

}  // namespace keel

using namespace keel;

namespace {

keel_status resolve_sessions(keel_engine engine, const keel_session* handles, uint32_t count, Engine** e,
                             Session** sessions) {
    KEEL_TRY(enter(engine, e));
    if (!handles || count == 0 || count > (*e)->config.max_sessions) return KEEL_E_ARGUMENT;
    for (uint32_t i = 0; i < count; ++i) {
        if (registry_session(handles[i].id, &sessions[i]) != *e) return KEEL_E_HANDLE;
        for (uint32_t j = 0; j < i; ++j)
            if (sessions[j] == sessions[i]) return KEEL_E_ARGUMENT;
    }
    return KEEL_OK;
}

// The results of a call that is refused before it may look at a session.
keel_status refuse(keel_status status, uint32_t count, keel_advance_result* results) {
    for (uint32_t i = 0; i < count; ++i) results[i] = {status, 0, 0, 0};
    return status;
}

}  // namespace

extern "C" keel_status keel_advance(keel_engine engine, const keel_session* handles, uint32_t count, uint64_t budget_us,
                                    keel_advance_result* results) {
    if (!results) return KEEL_E_ARGUMENT;
    Engine* e;
    Session* sessions[kMaxSessions];
    const keel_status resolved = resolve_sessions(engine, handles, count, &e, sessions);
    if (resolved != KEEL_OK) return refuse(resolved, count, results);
    TryLock lock(&e->advancing);
    if (!lock.held()) return refuse(KEEL_E_BUSY, count, results);
    keel_status status[kMaxSessions] = {};
    const keel_status overall = advance(e, sessions, count, budget_us, status);
    for (uint32_t i = 0; i < count; ++i)
        results[i] = {status[i], sessions[i]->computed, pending(*sessions[i]), sessions[i]->logits_rows};
    return overall;
}

extern "C" keel_status keel_cancel(keel_session session) {
    Session* s;
    if (!registry_session(session.id, &s)) return KEEL_E_HANDLE;
    s->cancel.store(1, std::memory_order_release);
    return KEEL_OK;
}
