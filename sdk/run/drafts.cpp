// Speculation: tokens guessed behind a session's last one are computed along with it, and each is kept if the draw in
// front of it gives the same token. A draw sees the session as it would be without drafts, so what is drawn does not
// depend on them.
//
// Where several tokens are guessed for a place, drafts are a tree:
//
//     draft      0  1  2  3            text ──> 0 ──> 2        draft i is token and KV row number token_count + i;
//     parent     -  -  0  1                └──> 1 ──> 3        its position is that of its depth
//
// A draft sees the text and its ancestors alone (NUMERICS section 5). Drafts 1 and 3 drawn: they become the next two
// tokens, and their rows move to where the rows of 0 and 1 are.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"

namespace keel {
namespace {

constexpr uint32_t kFollowedTokens = kMaxChunk;  // in one step: some 0.2 ms

// The newest step of the session, without drafts.
DraftStep draft_step(const Engine& e, const Session& s) {
    return {step_costs(e, s), s.draft_tokens, s.draft_sessions};
}

// The draft accepted last.
uint32_t last_hit(const Session& s) {
    return s.hits == 0 ? kNoNode : s.branching ? s.draft_path[s.hits - 1] : s.hits - 1;
}

// The row of logits behind the last accepted token.
uint32_t draw_row(const Engine& e, const Session& s) {
    return s.hits ? s.draft_row + last_hit(s) : e.newest_row_of(&s);
}

// The draft behind the last accepted one that is `token`, or kNoNode. Accepted tokens have taken the place of drafts in
// front of them only: parents come first.
uint32_t next_hit(const Session& s, int32_t token) {
    const int32_t* drafts = s.tokens + (s.token_count - s.hits);
    const uint32_t last = last_hit(s);
    for (uint32_t i = last + 1; i < s.drafted; ++i)
        if (draft_parent(s, i) == last && drafts[i] == token) return i;
    return kNoNode;
}

// Whether drafts of the session may be a tree in a step that begins with its first pending token: rows of sinks are
// read by their position, and a tail has so many tokens.
bool takes_trees(const Engine& e, const Session& s) {
    return s.computed >= e.f16_window.sink_tokens && s.token_count - s.computed + kMaxDrafts <= kMaxTreeNodes;
}

// Of a tree that was proposed, one path remains: the first draft of each place.
void keep_first_path(Session* s) {
    int32_t* drafts = s->tokens + s->token_count;
    uint32_t count = 0, last = kNoNode;
    for (uint32_t i = 0; i < s->proposed; ++i) {
        if (draft_parent(*s, i) != last) continue;
        drafts[count++] = drafts[i];
        last = i;
    }
    s->proposed = count;
    s->branching = false;
}

// Row `from` becomes the session's own.
keel_status keep_row(Engine* e, Session* s, uint64_t from) {
    const uint64_t to = e->first_row_of(s), vocabulary = e->spec.vocabulary, embedding = e->spec.embedding;
    if (!s->rows_on_device) {
        memcpy(e->logits + to * vocabulary, e->logits + from * vocabulary, vocabulary * sizeof(float));
        memcpy(e->hidden + to * embedding, e->hidden + from * embedding, embedding * sizeof(float));
        return KEEL_OK;
    }
    s->rows_on_host = false;
    const auto copy = [&](uint64_t kept, uint64_t columns) {
        const uint64_t bytes = columns * sizeof(float);
        return e->backend->copy(e->device, KEEL_REGION_DEVICE_SCRATCH, kept + to * bytes, kept + from * bytes, bytes);
    };
    return copy(e->kept_logits, vocabulary) == KEEL_OK && copy(e->kept_hidden, embedding) == KEEL_OK
               ? KEEL_OK
               : poison(e, "the backend did not copy logits");
}

// Shows the session's drafter the row that the last draw of a step was made from. Others, from which drafts that were
// right were drawn, teach little that is not known: learning from them as well was worth a hundredth of speed at most,
// and each has to be copied where logits stay on a device.
void recycle_row(Engine* e, Session* s, uint32_t row) {
    if (!e->drafts.recycled || s->drafting || s->draft_private) return;
    s->draw_status = fetch_row(e, s, row);
    if (s->draw_status == KEEL_OK)
        s->drafter->see_logits(s->token_count, e->logits + uint64_t{row} * e->spec.vocabulary);
}

}  // namespace

StepCosts step_costs(const Engine& e, const Session& s) {
    const uint32_t list = s.adapter != KEEL_ADAPTER_OFF ? kAdaptedList : static_cast<uint32_t>(s.variant);
    return {e.plan.variant[list].step_us, KEEL_STEP_COSTS};
}

bool takes_drafts(const Session& s) {
    return s.sample && !s.all_logits && !s.drafting;
}

uint32_t draft_parent(const Session& s, uint32_t node) {
    if (!s.branching) return node - 1;  // of the first one: kNoNode
    return s.draft_parent[node] == kTextEnd ? kNoNode : s.draft_parent[node];
}

bool is_end(const Engine& e, const Session& s, int32_t token) {
    const int32_t* ids;
    const uint32_t count = text_stream_ends(s.text, e.tokenizer, &ids);
    for (uint32_t i = 0; i < count; ++i)
        if (ids[i] == token) return true;
    return false;
}

void reset_drafter(Engine* e, Session* s) {
    s->odds.open();
    if (s->drafter) s->drafter->open(e->drafts, !s->draft_private);
}

void follow_tokens(Session* s) {
    if (!s->drafter || s->drafting) return;
    const uint32_t known = s->drafter->followed(), left = s->token_count - known;
    s->drafter->follow(s->tokens, known + (left < kFollowedTokens ? left : kFollowedTokens), s->drawn);
}

// What the caller proposes goes before what the drafter says.
uint32_t find_drafts(Engine* e, Session* s, uint32_t step_tokens, uint32_t step_sessions, uint32_t most) {
    s->draft_tokens = step_tokens;
    s->draft_sessions = step_sessions;
    if (s->proposed || !s->drafter) {
        if (s->branching && !takes_trees(*e, *s)) keep_first_path(s);
        const uint32_t room = kMaxTreeNodes - (s->token_count - s->computed);
        if (s->branching && most > room) most = room;
        return s->proposed < most ? s->proposed : most;
    }
    s->draft_source = Session::kByDrafter;
    if (s->drafter->followed() != s->token_count) return 0;
    return own_drafts(*e, s, draft_step(*e, *s), most);
}

uint32_t own_drafts(const Engine& e, Session* s, const DraftStep& step, uint32_t most) {
    s->branching = takes_trees(e, *s);
    return s->drafter->draft(s->tokens, step, most, s->tokens + s->token_count,
                             s->branching ? s->draft_parent : nullptr);
}

void draw_next(Engine* e, Session* s) {
    const uint32_t row = draw_row(*e, *s);
    s->draw_status = draw_token(e, s, row, &s->drawn_token);
    s->draw = Session::kDrawn;
    if (s->draw_status != KEEL_OK) return;
    const uint32_t hit = next_hit(*s, s->drawn_token);
    // Who draws an end id stops; a caller that does not feeds it.
    if (hit == kNoNode || is_end(*e, *s, s->drawn_token)) return recycle_row(e, s, row);
    if (s->branching) s->draft_path[s->hits] = static_cast<uint8_t>(hit);
    begin_grammar(s);
    append_token(s, s->drawn_token, true);
    ++s->computed;
    ++s->hits;
    ++s->accepted;
    s->draw = Session::kToDraw;
}

keel_status settle_drafts(Engine* e, Session* s) {
    if (s->draft_tokens) {
        const DraftStep step = draft_step(*e, *s);
        const bool by_session = s->draft_source == Session::kBySession;
        s->odds.verified(step, by_session ? s->drafted : 0, by_session ? s->hits : 0);
        if (s->drafter && s->draft_source == Session::kByDrafter) s->drafter->verified(step, s->drafted, s->hits);
    }
    s->draft_tokens = 0;
    if (s->drafted == 0) return KEEL_OK;
    const uint32_t row = draw_row(*e, *s), hits = s->hits, base = s->token_count - hits;
    // A path ascends, so that no row is overwritten before it has moved.
    KvRowMove moves[kMaxTreeNodes];
    uint32_t moved = 0;
    for (uint32_t i = 0; i < hits && s->branching; ++i)
        if (s->draft_path[i] != i) moves[moved++] = {base + i, base + s->draft_path[i]};
    KEEL_TRY(move_kv_rows(e, *s, moves, moved));
    s->drafts_computed += s->drafted;
    s->drafts_accepted += hits;
    e->drafts_computed.fetch_add(s->drafted, std::memory_order_relaxed);
    e->drafts_accepted.fetch_add(hits, std::memory_order_relaxed);
    (e->progress.decode ? e->decode_tokens : e->prefill_tokens).fetch_add(hits, std::memory_order_relaxed);
    s->drafted = s->hits = 0;
    kv_truncate(&e->pool, &s->kv, s->computed);
    return hits ? keep_row(e, s, row) : KEEL_OK;
}

}  // namespace keel

using namespace keel;

namespace {

// parents: null for a chain.
keel_status propose(Engine* e, Session* s, const int32_t* tokens, const uint32_t* parents, uint32_t count) {
    if (!tokens && count) return bad_argument(e, "tokens", "null, though count is not 0");
    for (uint32_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= e->spec.vocabulary)
            return bad_range(e, "tokens", tokens[i], 0, e->spec.vocabulary - 1);
    if (s->in_step) return KEEL_E_BUSY;
    if (e->config.draft_tokens == 0 || s->computed == s->token_count || !takes_drafts(*s)) return KEEL_E_STATE;
    const uint32_t room = e->config.context_tokens - s->token_count;
    if (count > room) count = room;
    if (count > e->config.draft_tokens) count = e->config.draft_tokens;
    if (parents && count >= kMaxTreeNodes) count = kMaxTreeNodes - 1;
    if (count) memcpy(s->tokens + s->token_count, tokens, count * sizeof(int32_t));
    for (uint32_t i = 0; parents && i < count; ++i)
        s->draft_parent[i] = parents[i] == KEEL_DRAFT_AT_END ? kTextEnd : static_cast<uint8_t>(parents[i]);
    s->branching = parents != nullptr;
    s->proposed = count;
    s->draft_source = Session::kByCaller;
    return KEEL_OK;
}

}  // namespace

extern "C" {

keel_status keel_session_propose(keel_session session, const int32_t* tokens, uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    return propose(e, s, tokens, nullptr, count);
}

keel_status keel_session_propose_tree(keel_session session, const int32_t* tokens, const uint32_t* parents,
                                      uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!parents && count) return bad_argument(e, "parents", "null, though count is not 0");
    for (uint32_t i = 0; i < count; ++i)
        if (parents[i] >= i && parents[i] != KEEL_DRAFT_AT_END)
            return bad_argument(e, "parents", "a draft that does not stand in front of what follows it");
    return propose(e, s, tokens, parents, count);
}

}  // extern "C"
