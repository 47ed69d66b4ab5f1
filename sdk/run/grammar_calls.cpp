// Constrained output: the public calls over the grammar. The state is computed from the session's tokens each time, so
// that there is none to keep right when tokens are forgotten, drafted, forked or restored.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/text/grammar_tokens.h"

namespace keel {
namespace {

keel_status state_of(const Engine& e, const Session& s) {
    const uint32_t from = s.grammar_from < s.token_count ? s.grammar_from : s.token_count;
    return grammar_state_of(*e.grammar, e.tokenizer, s.tokens + from, s.token_count - from, s.grammar_work);
}

}  // namespace

keel_status apply_grammar(Engine* e, Session* s) {
    if (s->grammar_from == KEEL_GRAMMAR_NEXT) s->grammar_from = s->token_count;
    const int32_t* ends;
    const uint32_t end_count = text_stream_ends(s->text, e->tokenizer, &ends);
    KEEL_TRY(state_of(*e, *s));
    return grammar_mask(*e->grammar, e->tokenizer, ends, end_count, s->grammar_work, s->mask);
}

}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_session_set_grammar(keel_session session, uint32_t from) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!e->grammar) return KEEL_E_STATE;
    if (from != KEEL_GRAMMAR_OFF && from != KEEL_GRAMMAR_NEXT && from > s->token_count)
        return bad_range(e, "from", from, 0, s->token_count);
    s->grammar_from = from;
    s->draw = Session::kNoDraw;
    return KEEL_OK;
}

keel_status keel_session_forced(keel_session session, int32_t* ids, size_t capacity, size_t* count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if ((!ids && capacity) || !count) return bad_argument(e, !count ? "count" : "ids", "null");
    if (!e->grammar || s->grammar_from == KEEL_GRAMMAR_OFF || s->has_tree()) return KEEL_E_STATE;
    if (s->grammar_from == KEEL_GRAMMAR_NEXT) s->grammar_from = s->token_count;
    KEEL_TRY(state_of(*e, *s));
    return grammar_forced(*e->grammar, e->tokenizer, s->grammar_work, ids, capacity, count);
}

}  // extern "C"
