// Sessions: open and close, feed, views of logits, sampling, truncate, evict, fork.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/text/grammar_tokens.h"

namespace keel {
namespace {

void reset_session(Session* s) {
    static_cast<SessionState&>(*s) = {};
    sampler_set(nullptr, 1, &s->sampling);
    memset(&s->text, 0, sizeof s->text);  // saved as it lies in memory
    if (s->grammar) grammar_session_clear(s->grammar);
    s->in_step = false;
    s->cancel.store(0, std::memory_order_relaxed);
    s->kv.count = s->kv.reserved = 0;
    s->kv.copy_id = kNoPage;
    s->draw = Session::kNoDraw;
    s->proposed = s->drafted = s->hits = s->draft_tokens = s->draft_sessions = 0;
    s->draft_source = Session::kByDrafter;
    s->branching = false;
    s->drafts_computed = s->drafts_accepted = 0;
}

// Claims a free slot: the caller fills it and then publishes its id.
Session* claim_slot(Engine* e, uint64_t* id) {
    for (uint32_t i = 0; i < e->config.max_sessions; ++i) {
        Session* s = &e->sessions[i];
        if (s->id.load(std::memory_order_acquire) || s->claimed.exchange(1, std::memory_order_acquire)) continue;
        if (s->id.load(std::memory_order_acquire) == 0) {
            *id = (e->id & uint64_t{0xff} << 56) | uint64_t{i + 1} << 48 | registry_serial();
            return s;
        }
        s->claimed.store(0, std::memory_order_release);  // another thread opened it meanwhile
    }
    return nullptr;
}

void publish_slot(Session* s, uint64_t id) {
    s->id.store(id, std::memory_order_release);
    s->claimed.store(0, std::memory_order_release);
}

// Leaves the unfinished step, if it is in one. KEEL_E_BUSY when that step is running in another thread; KEEL_E_POISONED
// when the backend did not let go of it.
keel_status leave_step(Engine* e, Session* s) {
    if (!s->in_step) return KEEL_OK;
    TryLock lock(&e->advancing);
    if (!lock.held()) return KEEL_E_BUSY;
    return s->in_step ? abandon_step(e, s) : KEEL_OK;  // a neighbour may have done so meanwhile
}

// Row `row` of one of the session's tables of kept rows; `columns` is the model dimension that is its width.
keel_status view_row(keel_session session, uint32_t row, float* Session::*table, uint32_t ModelSpec::*columns,
                     const float** view, uint32_t* width) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!view) return bad_argument(e, "view", "null");
    if (row >= s->logits_rows) return KEEL_E_NO_LOGITS;
    KEEL_TRY(fetch_rows(e, s));
    *view = s->*table + uint64_t{row} * (e->spec.*columns);
    if (width) *width = e->spec.*columns;
    return KEEL_OK;
}

SamplerInput sampler_input(const Engine& e, const Session& s, uint32_t row, const uint8_t* mask) {
    SamplerInput input = {};
    input.logits = e.logits + uint64_t{row} * e.spec.vocabulary;
    input.vocabulary = e.spec.vocabulary;
    input.history = s.tokens;
    input.history_count = s.token_count;
    input.sampled_count = s.sampled;
    input.end_count = text_stream_ends(s.text, e.tokenizer, &input.end_ids);
    input.mask = mask;
    input.kernel = e.config.kernels;
    return input;
}

// Rows of Program::logits and hidden from where the backend keeps them.
keel_status download_rows(Engine* e, uint64_t first, uint64_t rows) {
    const auto fetch = [&](float* to, uint64_t kept, uint64_t columns) {
        return e->backend->download(e->device, to + first * columns, KEEL_REGION_DEVICE_SCRATCH,
                                    kept + first * columns * sizeof(float), rows * columns * sizeof(float));
    };
    return fetch(e->logits, e->kept_logits, e->spec.vocabulary) == KEEL_OK &&
                   fetch(e->hidden, e->kept_hidden, e->spec.embedding) == KEEL_OK
               ? KEEL_OK
               : poison(e, "the backend did not give back logits");
}

}  // namespace

keel_status draw_token(Engine* e, Session* s, uint32_t row, int32_t* token) {
    const uint8_t* mask = nullptr;
    const bool held = s->grammar_from != KEEL_GRAMMAR_OFF;
    if (held || e->hooks.allowed_tokens) memset(s->mask, 0xff, (e->spec.vocabulary + 7) / 8);
    if (e->hooks.allowed_tokens) {
        e->hooks.allowed_tokens(e->hooks.user_data, {s->id.load(std::memory_order_relaxed)}, s->tokens, s->token_count,
                                s->mask, e->spec.vocabulary);
        mask = s->mask;
    }
    if (held) {
        KEEL_TRY(apply_grammar(e, s));
        mask = s->mask;
    }
    const SamplerInput input = sampler_input(*e, *s, row, mask);
    if (e->backend->draw && s->rows_on_device) {
        uint32_t ids[kMaxForbidden];
        const keel_status status =
            e->backend->draw(e->device, draw_request(s->sampling, input, row, s->work, ids), token);
        if (status == KEEL_OK || status == KEEL_E_NUMERIC) return status;
        if (status != KEEL_E_BUSY) return poison(e, "the backend failed in a draw");
    }
    KEEL_TRY(fetch_row(e, s, row));
    return sampler_draw(s->sampling, input, s->work, token);
}

keel_status fetch_rows(Engine* e, Session* s) {
    if (s->rows_on_host || s->logits_rows == 0) return KEEL_OK;
    KEEL_TRY(download_rows(e, e->first_row_of(s), s->logits_rows));
    s->rows_on_host = true;
    return KEEL_OK;
}

keel_status fetch_row(Engine* e, Session* s, uint32_t row) {
    return row >= e->config.draft_rows_first() && s->rows_on_device ? download_rows(e, row, 1) : fetch_rows(e, s);
}

void append_token(Session* s, int32_t token, bool drawn) {
    const uint32_t position = s->token_count++;
    const uint8_t bit = static_cast<uint8_t>(1u << position % 8), others = s->drawn[position / 8] & ~bit;
    s->drawn[position / 8] = static_cast<uint8_t>(drawn ? others | bit : others);
    s->sampled += drawn;
    s->tokens[position] = token;
}

void append_tokens(Engine* e, Session* s, const int32_t* tokens, uint32_t count) {
    const bool drawn = tokens[0] == s->last_sample;
    s->fed_from = s->token_count;
    s->draw = Session::kNoDraw;
    s->proposed = s->accepted = 0;
    for (uint32_t i = 0; i < count; ++i) append_token(s, tokens[i], drawn && i == 0);
    s->last_sample = -1;
    s->logits_rows = 0;
    // A drawn token is followed by keel_session_text, before or after it is fed; a prompt is only fed.
    for (uint32_t i = drawn ? 1 : 0; i < count; ++i) text_stream_follow(&s->text, e->tokenizer, tokens[i]);
}

bool can_rewind(const Engine& e, const Session& s, uint32_t tokens) {
    if (tokens >= s.computed) return true;
    const bool page_there = tokens % kPageTokens == 0 || s.kv.ids[tokens / kPageTokens] != kNoPage;
    return page_there && kv_f16_window_reaches(e.f16_window, s.f16_window, tokens);
}

void rewind_session(Engine* e, Session* s, uint32_t tokens) {
    if (s->drafter) s->drafter->rewind(s->tokens, tokens);
    const uint32_t fed = s->token_count - s->accepted;
    s->accepted = tokens > fed ? tokens - fed : 0;
    for (uint32_t position = tokens; position < s->token_count; ++position) s->sampled -= s->was_drawn(position);
    if (s->computed > tokens) s->computed = tokens;
    s->token_count = tokens;
    if (s->fed_from > tokens) s->fed_from = tokens;
    s->last_sample = -1;
    s->logits_rows = 0;
    s->draw = Session::kNoDraw;
    rewind_grammar(s, tokens);
    if (s->grammar_from < KEEL_GRAMMAR_NEXT && tokens < s->grammar_from) s->grammar_from = tokens;
    kv_truncate(&e->pool, &s->kv, s->computed);
    if (tokens == 0) s->f16_window = {};
}

}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_session_open(keel_engine engine, const keel_session_desc* desc_in, keel_session* out) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!out) return bad_argument(e, "out", "null");
    keel_session_desc desc = {};
    if (desc_in) KEEL_TRY(read_versioned(desc_in, &desc));
    if (desc.reserved_pages > kv_pages_for(e->config.context_tokens))
        return bad_range(e, "desc.reserved_pages", static_cast<int64_t>(desc.reserved_pages), 0,
                         kv_pages_for(e->config.context_tokens));
    uint64_t id;
    Session* s = claim_slot(e, &id);
    if (!s) return KEEL_E_SLOTS_FULL;
    reset_session(s);
    s->draft_private = desc.draft_private;
    reset_drafter(e, s);
    const keel_status status =
        kv_make_writable(&e->pool, &s->kv, 0, static_cast<uint32_t>(desc.reserved_pages) * kPageTokens);
    s->kv.reserved = s->kv.count;
    publish_slot(s, status == KEEL_OK ? id : 0);
    if (status == KEEL_OK) out->id = id;
    return status;
}

keel_status keel_session_close(keel_session session) {
    Session* s;
    Engine* e = registry_session(session.id, &s);  // also when poisoned
    if (!e) return KEEL_E_HANDLE;
    SessionUse use;
    if (!use.claim(s) || leave_step(e, s) == KEEL_E_BUSY) return KEEL_E_BUSY;
    kv_release(&e->pool, &s->kv);
    use.release();  // the slot's next session begins unused
    s->id.store(0, std::memory_order_release);
    return KEEL_OK;
}

keel_status keel_session_feed(keel_session session, const int32_t* tokens, uint32_t count, uint32_t flags) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!tokens && count) return bad_argument(e, "tokens", "null, though count is not 0");
    constexpr uint32_t kFlags = KEEL_FEED_ALL_LOGITS | KEEL_FEED_SAMPLE;
    if (flags & ~kFlags) return bad_range(e, "flags", flags, 0, kFlags);
    if (s->in_step) return KEEL_E_BUSY;
    if (count > e->config.context_tokens - s->token_count) return KEEL_E_CONTEXT_FULL;
    for (uint32_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= e->spec.vocabulary)
            return bad_range(e, "tokens", tokens[i], 0, e->spec.vocabulary - 1);
    if (count == 0) return KEEL_OK;
    if (s->token_count != s->computed && (s->all_logits | s->sample) != flags) return KEEL_E_STATE;
    if (s->token_count == 0) s->drafting = false;
    append_tokens(e, s, tokens, count);
    s->all_logits = flags & KEEL_FEED_ALL_LOGITS;
    s->sample = flags & KEEL_FEED_SAMPLE;
    return KEEL_OK;
}

keel_status keel_session_get(keel_session session, keel_session_info* out) {
    Engine* e = nullptr;
    Session* s;
    e = registry_session(session.id, &s);
    if (!e) return KEEL_E_HANDLE;
    if (!out) return bad_argument(e, "out", "null");
    keel_session_info info = {};
    info.struct_size = sizeof info;
    info.token_count = s->token_count;
    info.computed_tokens = s->computed;
    info.sampled_tokens = s->sampled;
    info.tokens = s->tokens;
    for (uint32_t i = 0; i < s->kv.count; ++i) info.kv_pages += s->kv.ids[i] != kNoPage;
    info.context_tokens = e->config.context_tokens;
    info.variant = s->variant;
    info.drafts_computed = s->drafts_computed;
    info.drafts_accepted = s->drafts_accepted;
    info.adapter = s->adapter;
    info.adapter_scale = s->adapter_scale;
    return write_versioned(info, out);
}

keel_status keel_session_set_variant(keel_session session, keel_variant variant) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (variant != KEEL_VARIANT_DENSE && variant != KEEL_VARIANT_LOW_RANK)
        return bad_range(e, "variant", variant, KEEL_VARIANT_DENSE, KEEL_VARIANT_LOW_RANK);
    if (e->plan.variant[variant].count == 0) return KEEL_E_STATE;
    if (variant != KEEL_VARIANT_DENSE && s->adapter != KEEL_ADAPTER_OFF) return KEEL_E_STATE;
    if (s->in_step) return KEEL_E_BUSY;
    s->variant = variant;
    return KEEL_OK;
}

keel_status keel_session_set_adapter(keel_session session, uint32_t adapter, float scale) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    const AdapterChoice& adapters = e->config.adapters;
    const bool off = adapter == KEEL_ADAPTER_OFF || scale == 0;
    if (adapter != KEEL_ADAPTER_OFF && adapter >= adapters.count)
        return bad_range(e, "adapter", adapter, 0, static_cast<int64_t>(adapters.count) - 1);
    if (!off && !adapter_scale_fits(adapters.file[adapter], scale))
        return bad_argument(e, "scale", "not finite, or not with the adapter's alpha");
    if (!off && s->variant != KEEL_VARIANT_DENSE) return KEEL_E_STATE;
    if (s->in_step) return KEEL_E_BUSY;
    s->adapter = off ? KEEL_ADAPTER_OFF : adapter;
    s->adapter_scale = off ? 0 : scale;
    return KEEL_OK;
}

keel_status keel_session_logits(keel_session session, uint32_t row, const float** view, uint32_t* vocabulary) {
    return view_row(session, row, &Session::logits, &ModelSpec::vocabulary, view, vocabulary);
}

keel_status keel_session_hidden(keel_session session, uint32_t row, const float** view, uint32_t* embedding) {
    return view_row(session, row, &Session::hidden, &ModelSpec::embedding, view, embedding);
}

keel_status keel_session_top_logprobs(keel_session session, uint32_t n, int32_t* ids, float* logprobs) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!ids || !logprobs) return bad_argument(e, !ids ? "ids" : "logprobs", "null");
    const uint32_t most = kMaxLogprobs < e->spec.vocabulary ? kMaxLogprobs : e->spec.vocabulary;
    if (n == 0 || n > most) return bad_range(e, "n", n, 1, most);
    if (s->logits_rows == 0) return KEEL_E_NO_LOGITS;
    KEEL_TRY(fetch_rows(e, s));
    return top_logprobs(*e->config.kernels, s->logits + uint64_t{s->logits_rows - 1} * e->spec.vocabulary,
                        e->spec.vocabulary, n, s->work, ids, logprobs);
}

keel_status keel_session_set_sampling(keel_session session, const keel_sampling* sampling) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    SamplerParams params = {};
    keel_error error = {};
    error.struct_size = sizeof error;
    KEEL_TRY(keep_error(e, sampler_set(sampling, e->spec.vocabulary, &params, &error), error));
    s->sampling = params;
    s->draw = Session::kNoDraw;
    return KEEL_OK;
}

keel_status keel_session_sample(keel_session session, int32_t* token) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!token) return bad_argument(e, "token", "null");
    if (s->logits_rows == 0 || s->computed != s->token_count) return KEEL_E_NO_LOGITS;
    int32_t drawn = s->drawn_token;
    KEEL_TRY(s->draw == Session::kDrawn ? s->draw_status : draw_token(e, s, e->newest_row_of(s), &drawn));
    begin_grammar(s);
    s->last_sample = drawn;
    *token = drawn;
    return KEEL_OK;
}

keel_status keel_session_truncate(keel_session session, uint32_t tokens) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (tokens > s->token_count) return bad_range(e, "tokens", tokens, 0, s->token_count);
    if (!can_rewind(*e, *s, tokens)) return KEEL_E_STATE;
    KEEL_TRY(leave_step(e, s));
    s->proposed = 0;
    if (tokens < s->token_count) rewind_session(e, s, tokens);
    text_stream_truncate(&s->text, e->tokenizer, s->tokens, tokens);
    return KEEL_OK;
}

keel_status keel_session_evict(keel_session session, uint32_t from, uint32_t to, uint32_t* evicted_tokens) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (to > s->computed) return bad_range(e, "to", to, 0, s->computed);
    if (from > to) return bad_range(e, "from", from, 0, to);
    if (s->in_step) return KEEL_E_BUSY;
    // Sinks are read from rows of their own, and so are positions that are recent, also of a query after a rollback.
    const uint32_t kept = e->f16_window.kept_tokens, end = s->computed > kept ? s->computed - kept : 0;
    const uint32_t first = kv_pages_for(from), last = (to < end ? to : end) / kPageTokens;
    const uint32_t pages = first < last ? kv_evict(&e->pool, &s->kv, first, last) : 0;
    if (evicted_tokens) *evicted_tokens = pages * kPageTokens;
    return KEEL_OK;
}

keel_status keel_session_fork(keel_session session, keel_session* out) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!out) return bad_argument(e, "out", "null");
    if (s->in_step) return KEEL_E_BUSY;
    uint64_t id;
    Session* copy = claim_slot(e, &id);
    if (!copy) return KEEL_E_SLOTS_FULL;
    reset_session(copy);
    copy->draft_private = s->draft_private;
    reset_drafter(e, copy);
    const uint32_t tokens = s->token_count, computed = s->computed, logits_rows = s->logits_rows;
    kv_fork(&e->pool, s->kv, &copy->kv, computed);
    keel_status status = KEEL_OK;
    for (uint32_t i = 0; i < e->kv_parts && status == KEEL_OK; ++i) {
        const KvPart& part = e->kv_part[i];
        if (const uint64_t bytes = part.f16_window.session_bytes)
            status = copy_kv(e, part, part.f16_window_offset(e->index_of(copy)), part.f16_window_offset(e->index_of(s)),
                             bytes);
    }
    if (status == KEEL_OK && logits_rows) status = fetch_rows(e, s);
    if (status == KEEL_OK) {
        copy->rows_on_host = true;
        copy->rows_on_device = false;
        static_cast<SessionState&>(*copy) = *s;
        memcpy(copy->tokens, s->tokens, tokens * sizeof(int32_t));
        memcpy(copy->drawn, s->drawn, (tokens + 7) / 8);
        memcpy(copy->logits, s->logits, uint64_t{logits_rows} * e->spec.vocabulary * sizeof(float));
        memcpy(copy->hidden, s->hidden, uint64_t{logits_rows} * e->spec.embedding * sizeof(float));
        if (s->grammar) grammar_session_copy(copy->grammar, *s->grammar);
    }
    if (status != KEEL_OK) kv_release(&e->pool, &copy->kv);
    publish_slot(copy, status == KEEL_OK ? id : 0);
    if (status == KEEL_OK) out->id = id;
    return status;
}

}  // extern "C"
