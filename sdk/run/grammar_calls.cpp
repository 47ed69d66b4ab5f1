// Constrained output: the public calls over the grammar. A session's way through it goes on from where it was; what
// changes its tokens says so (grammar_session_rewind, _clear).
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/text/grammar_tokens.h"

namespace keel {
namespace {

// The state behind the session's first `count` tokens. Where the grammar is yet to begin, that of its beginning.
uint16_t state_of(const Session& s, uint32_t count) {
    const uint32_t from = s.grammar_from < count ? s.grammar_from : count;
    return grammar_state_of(s.grammar, s.tokens + from, count - from);
}

keel_status mask_of(const Engine& e, const Session& s, uint16_t state, uint8_t* mask) {
    const int32_t* ends;
    const uint32_t end_count = text_stream_ends(s.text, e.tokenizer, &ends);
    return grammar_mask(s.grammar, state, ends, end_count, mask);
}

}  // namespace

keel_status apply_grammar(Engine* e, Session* s) {
    return mask_of(*e, *s, state_of(*s, s->token_count), s->mask);
}

void begin_grammar(Session* s) {
    if (s->grammar_from == KEEL_GRAMMAR_NEXT) s->grammar_from = s->token_count;
}

void rewind_grammar(Session* s, uint32_t tokens) {
    if (!s->grammar || s->grammar_from >= KEEL_GRAMMAR_NEXT) return;
    grammar_session_rewind(s->grammar, tokens > s->grammar_from ? tokens - s->grammar_from : 0);
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
    grammar_session_clear(s->grammar);
    return KEEL_OK;
}

keel_status keel_session_allowed(keel_session session, const int32_t* tokens, uint32_t count, uint8_t* mask,
                                 size_t capacity_bytes) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if ((!tokens && count) || !mask) return bad_argument(e, !mask ? "mask" : "tokens", "null");
    const uint32_t mask_bytes = (e->spec.vocabulary + 7) / 8;
    if (capacity_bytes < mask_bytes) return KEEL_E_BUFFER_TOO_SMALL;
    for (uint32_t i = 0; i < count; ++i)
        if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= e->spec.vocabulary)
            return bad_range(e, "tokens", tokens[i], 0, e->spec.vocabulary - 1);
    if (!e->grammar || s->grammar_from == KEEL_GRAMMAR_OFF) return KEEL_E_STATE;
    memset(mask, 0xff, mask_bytes);
    const uint16_t state = state_of(*s, s->token_count);
    const keel_status status = mask_of(*e, *s, grammar_state_behind(s->grammar, state, tokens, count), mask);
    if (status != KEEL_OK) memset(mask, 0, mask_bytes);
    return status;
}

keel_status keel_session_forced(keel_session session, int32_t* ids, size_t capacity, size_t* count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if ((!ids && capacity) || !count) return bad_argument(e, !count ? "count" : "ids", "null");
    if (!e->grammar || s->grammar_from == KEEL_GRAMMAR_OFF) return KEEL_E_STATE;
    KEEL_TRY(grammar_forced(s->grammar, state_of(*s, s->token_count), ids, capacity, count));
    if (ids && *count) begin_grammar(s);  // they are fed in place of sampled ones
    return KEEL_OK;
}

}  // extern "C"
