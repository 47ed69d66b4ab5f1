// Drafts by a model: another session, most likely of a smaller model's engine, goes on from the session's tokens, or
// the session itself does in its low-rank variant. Both draw as the session will: same sampling, seed and positions, so
// that they agree as often as their distributions do (sdk/NUMERICS.md, section 6).
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

struct Drafting {
    Engine* e;
    Session* s;  // that is drafted for
    Engine* by_engine;
    Session* by;

    bool own() const { return by == s; }
};

uint32_t common_tokens(const Session& s, const Session& by) {
    const uint32_t most = s.token_count < by.token_count ? s.token_count : by.token_count;
    uint32_t n = 0;
    while (n < most && s.tokens[n] == by.tokens[n]) ++n;
    return n;
}

// The time of one step of `tokens` tokens of what drafts, in steps of one token of the session, by the plans. These are
// of one thread; a team is taken to be so many times faster.
double step_time(const Drafting& d, uint32_t tokens) {
    const StepCosts own = {d.e->plan.variant[KEEL_VARIANT_LOW_RANK].step_us, KEEL_STEP_COSTS};
    const StepCosts costs = d.own() ? own : step_costs(*d.by_engine, *d.by);
    const double faster = static_cast<double>(d.by_engine->config.threads) / d.e->config.threads;
    return costs(tokens) * costs.us[0] / (step_costs(*d.e, *d.s).us[0] * faster);
}

// Tokens that were drawn and that what drafts has yet to compute. Those that were fed are the caller's: it has them
// computed twice by asking at all.
uint32_t tokens_behind(const Drafting& d) {
    uint32_t first = common_tokens(*d.s, *d.by), count = 0;
    if (d.own() || first > d.by->computed) first = d.by->computed;
    for (uint32_t p = first; p < d.s->token_count; ++p) count += d.s->was_drawn(p);
    return count ? count : 1;
}

// Until the deadline, unlike keel_advance: who drafts has nothing else to do meanwhile.
keel_status advance_one(Engine* e, Session* s, uint64_t deadline_ns) {
    for (;;) {
        keel_status status[1] = {KEEL_OK};
        const keel_status overall = advance_sessions(e, &s, 1, deadline_ns, status);
        if (overall != KEEL_AGAIN) return overall == KEEL_OK ? status[0] : overall;
        KEEL_TRY(wait_in_flight(e, deadline_ns));
    }
}

// The other session gets the session's tokens, and draws as it does. What it still computes from an earlier call is
// gone on with if it is of use.
keel_status catch_up(const Drafting& d, uint64_t deadline_ns) {
    Session *s = d.s, *by = d.by;
    Engine* e = d.by_engine;
    by->drafting = true;
    by->sampling = s->sampling;  // also of the step that it is in
    uint32_t common = common_tokens(*s, *by);
    if (by->in_step) KEEL_TRY(common == by->token_count ? advance_one(e, by, deadline_ns) : abandon_step(e, by));
    if (common < s->token_count || common < by->token_count || by->draw == Session::kNoDraw) {
        if (common == s->token_count) --common;  // the last one is computed again, for its logits
        if (!can_rewind(*e, *by, common)) common = 0;
        by->proposed = 0;
        if (common < by->token_count) rewind_session(e, by, common);
        append_tokens(e, by, s->tokens + common, s->token_count - common);
    }
    by->sampled = s->sampled;
    memcpy(by->drawn, s->drawn, (s->token_count + 7) / 8);
    by->all_logits = 0;
    by->sample = KEEL_FEED_SAMPLE;
    return KEEL_OK;
}

// Draws up to `most` tokens behind the session's. KEEL_AGAIN: the deadline came first.
keel_status draw_drafts(const Drafting& d, uint32_t most, uint64_t deadline_ns, int32_t* drafts, uint32_t* count) {
    Session* by = d.by;
    for (*count = 0;;) {
        if (by->draw != Session::kDrawn) KEEL_TRY(advance_one(d.by_engine, by, deadline_ns));
        if (by->draw != Session::kDrawn || by->draw_status != KEEL_OK) return KEEL_OK;
        const int32_t token = by->drawn_token;
        if (is_end(*d.e, *d.s, token)) return KEEL_OK;  // it would not be accepted as a draft
        drafts[(*count)++] = token;
        if (*count == most || by->token_count == d.by_engine->config.context_tokens) return KEEL_OK;
        if (d.s->cancel.load(std::memory_order_acquire)) return KEEL_E_CANCELLED;
        if (deadline_ns && platform::now_ns() >= deadline_ns) return KEEL_AGAIN;
        begin_grammar(by);
        append_token(by, token, true);
        by->draw = Session::kNoDraw;
        by->logits_rows = 0;
    }
}

// The same with the session's own low-rank variant. Afterwards the session is what it was: rows of positions that are
// not computed are written again before anything reads them.
keel_status draw_own_drafts(const Drafting& d, uint32_t most, uint64_t deadline_ns, int32_t* drafts, uint32_t* count) {
    Session* s = d.s;
    const uint32_t tokens = s->token_count, computed = s->computed, sampled = s->sampled, from = s->grammar_from;
    s->proposed = 0;  // they would be part of its steps
    s->drafting = true;
    s->variant = KEEL_VARIANT_LOW_RANK;
    keel_status status = draw_drafts(d, most, deadline_ns, drafts, count);
    if (s->in_step && abandon_step(d.e, s) != KEEL_OK) status = KEEL_E_POISONED;
    // keel_cancel was for the session's next step, too.
    if (status == KEEL_E_CANCELLED) s->cancel.store(1, std::memory_order_release);
    s->drafting = false;
    s->variant = KEEL_VARIANT_DENSE;
    s->token_count = tokens;
    s->computed = computed;
    s->sampled = sampled;
    s->logits_rows = 0;
    s->draw = Session::kNoDraw;
    rewind_grammar(s, tokens);
    s->grammar_from = from;
    kv_truncate(&d.e->pool, &s->kv, computed);
    return status;
}

// How many drafts of `d` are worth making, where the first one takes `behind`, in steps of the session; none where the
// session's own drafters have some.
uint32_t worth_drafting(const Drafting& d, const DraftStep& step, double behind) {
    Session* s = d.s;
    const uint32_t room = d.e->config.context_tokens - s->token_count;
    uint32_t most = room < d.e->config.draft_tokens ? room : d.e->config.draft_tokens;
    if (most > kMaxDrafts) most = kMaxDrafts;
    // A prompt is computed once in the session itself; what drafts by itself may as well begin with it.
    if (d.own() && s->token_count - s->computed != 1) return 0;
    if (s->token_count > d.by_engine->config.context_tokens) return 0;
    follow_tokens(s);
    if (s->drafter && s->drafter->followed() == s->token_count && own_drafts(*d.e, s, step, most)) return 0;
    return s->odds.worth(step, behind, step_time(d, 1), most);
}

keel_status draft(const Drafting& d, uint64_t budget_us, uint32_t* count) {
    Session* s = d.s;
    const uint64_t deadline_ns = deadline_after(budget_us);
    const uint32_t sessions = s->draft_sessions ? s->draft_sessions : 1;
    const DraftStep step = {step_costs(*d.e, *s), sessions - 1 + (s->token_count - s->computed), sessions};
    *count = 0;
    const uint32_t behind = tokens_behind(d);
    const uint32_t most = worth_drafting(d, step, step_time(d, behind));
    if (most == 0) return KEEL_OK;
    int32_t drafts[kMaxDrafts];
    keel_status status = d.own() ? KEEL_OK : catch_up(d, deadline_ns);
    if (status == KEEL_OK) {
        status = d.own() ? draw_own_drafts(d, most, deadline_ns, drafts, count)
                         : draw_drafts(d, most, deadline_ns, drafts, count);
        // A step that goes on in the next call is that call's to pay; one that was given up is paid for.
        const uint32_t left = d.by->in_step ? tokens_behind(d) : 0;
        const double first = left < behind ? step_time(d, behind - left) : 0;
        s->odds.spend(step, first + (*count ? *count - 1 : 0) * step_time(d, 1));
    }
    if (status == KEEL_E_POISONED || *count == 0) return status;
    memcpy(s->tokens + s->token_count, drafts, *count * sizeof *drafts);
    s->proposed = *count;
    s->branching = false;
    s->draft_source = Session::kBySession;
    return status == KEEL_AGAIN ? KEEL_OK : status;
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" keel_status keel_session_draft(keel_session session, keel_session drafter, uint64_t budget_us,
                                          uint32_t* count) {
    Drafting d;
    SessionUse use, by_use;
    uint32_t ignored;
    KEEL_TRY(enter(session, &d.e, &use));
    d.s = d.by = use;
    d.by_engine = d.e;
    if (drafter.id != session.id) {
        KEEL_TRY(enter(drafter, &d.by_engine, &by_use));
        d.by = by_use;
        if (d.e->vocabulary_hash != d.by_engine->vocabulary_hash) return KEEL_E_FILE_MISMATCH;
    } else if (d.e->plan.variant[KEEL_VARIANT_LOW_RANK].count == 0 || d.s->variant != KEEL_VARIANT_DENSE ||
               d.s->adapter != KEEL_ADAPTER_OFF) {
        return KEEL_E_STATE;
    }
    if (d.s->in_step) return KEEL_E_BUSY;
    if (d.e->config.draft_tokens == 0 || d.s->computed == d.s->token_count || !takes_drafts(*d.s)) return KEEL_E_STATE;
    TryLock lock(&d.by_engine->advancing);
    return lock.held() ? draft(d, budget_us, count ? count : &ignored) : KEEL_E_BUSY;
}
