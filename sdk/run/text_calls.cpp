// Text: the public calls over the tokenizer and the text stream.
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

using namespace keel;

namespace {

// Which token of the session is given to the text stream: an accepted draft that was not given yet, in their order; one
// that was drawn and is not fed yet stands behind all; else it is the one behind the last that was given, or the first
// of the newest feed (the prompt before it was not given).
uint32_t position_of_text(const Session& s, int32_t token) {
    const uint32_t count = s.token_count, next = s.text.next_position;
    if (s.accepted) {
        const uint32_t first = count - s.accepted;
        const bool fed_is_next = next + 1 == first && s.was_drawn(next);
        const uint32_t at = next < first && !fed_is_next ? first : next;
        if (at < count && s.tokens[at] == token) return at;
    }
    if (token == s.last_sample) return count;
    if (next < count && s.tokens[next] == token) return next;
    if (s.fed_from >= next && s.fed_from < count && s.tokens[s.fed_from] == token) return s.fed_from;
    return count;
}

}  // namespace

extern "C" {

keel_status keel_tokenize(keel_engine engine, const char* text, size_t bytes, uint32_t flags, int32_t* ids,
                          size_t capacity, size_t* count) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!text && bytes) return bad_argument(e, "text", "null, though bytes is not 0");
    if (!ids && capacity) return bad_argument(e, "ids", "null, though capacity is not 0");
    if (!count) return bad_argument(e, "count", "null");
    if (flags & ~uint32_t{KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS})
        return bad_range(e, "flags", flags, 0, KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS);
    keel_error error = {};
    error.struct_size = sizeof error;
    const keel_status status = tokenizer_encode(e->tokenizer, text, bytes, flags, ids, capacity, count, &error);
    return status == KEEL_E_TEXT_LIMIT ? keep_error(e, status, error) : status;
}

keel_status keel_detokenize(keel_engine engine, const int32_t* ids, size_t count, uint32_t flags, char* dst,
                            size_t capacity_bytes, size_t* bytes) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!ids && count) return bad_argument(e, "ids", "null, though count is not 0");
    if (!dst && capacity_bytes) return bad_argument(e, "dst", "null, though capacity_bytes is not 0");
    if (!bytes) return bad_argument(e, "bytes", "null");
    if (flags & ~uint32_t{KEEL_DETOKENIZE_SPECIAL}) return bad_range(e, "flags", flags, 0, KEEL_DETOKENIZE_SPECIAL);
    for (size_t i = 0; i < count; ++i)
        if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= e->spec.vocabulary)
            return bad_range(e, "ids", ids[i], 0, e->spec.vocabulary - 1);
    return tokenizer_decode(e->tokenizer, ids, count, flags, dst, capacity_bytes, bytes);
}

keel_status keel_token_text(keel_engine engine, int32_t token, uint32_t flags, const char** data, size_t* bytes) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!data || !bytes) return bad_argument(e, !data ? "data" : "bytes", "null");
    if (flags & ~uint32_t{KEEL_DETOKENIZE_SPECIAL}) return bad_range(e, "flags", flags, 0, KEEL_DETOKENIZE_SPECIAL);
    if (token < 0 || static_cast<uint32_t>(token) >= e->spec.vocabulary)
        return bad_range(e, "token", token, 0, int64_t{e->spec.vocabulary} - 1);
    tokenizer_piece(e->tokenizer, token, flags, false, data, bytes);
    return KEEL_OK;
}

keel_status keel_session_set_end_ids(keel_session session, const int32_t* ids, uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    const keel_status status = text_stream_set_ends(&s->text, e->tokenizer, ids, count);
    s->draw = Session::kNoDraw;  // min_tokens looks at them
    return status == KEEL_E_ARGUMENT ? bad_argument(e, "ids", "null, too many, or one is outside the vocabulary")
                                     : status;
}

keel_status keel_session_end_ids(keel_session session, const int32_t** ids, uint32_t* count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!ids || !count) return bad_argument(e, !ids ? "ids" : "count", "null");
    *count = text_stream_ends(s->text, e->tokenizer, ids);
    return KEEL_OK;
}

keel_status keel_session_set_stops(keel_session session, const char* const* texts, const size_t* bytes,
                                   uint32_t count) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (count && (!texts || !bytes)) return bad_argument(e, !texts ? "texts" : "bytes", "null");
    if (count > kMaxStops) return bad_range(e, "count", count, 0, kMaxStops);
    for (uint32_t i = 0; i < count; ++i) {
        if (!texts[i]) return bad_argument(e, "texts", "one of them is null");
        if (bytes[i] == 0 || bytes[i] > kMaxStopBytes)
            return bad_range(e, "bytes", static_cast<int64_t>(bytes[i]), 1, kMaxStopBytes);
    }
    return text_stream_set_stops(&s->text, texts, bytes, count);
}

keel_status keel_session_text(keel_session session, int32_t token, keel_text* out) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!out) return bad_argument(e, "out", "null");
    if (token < -1 || token >= static_cast<int32_t>(e->spec.vocabulary))
        return bad_range(e, "token", token, -1, int64_t{e->spec.vocabulary} - 1);
    KEEL_TRY(check_versioned(out));  // before the stream takes the token
    keel_text text = {};
    text.struct_size = sizeof text;
    KEEL_TRY(text_stream_push(&s->text, e->tokenizer, token, position_of_text(*s, token), &text.data, &text.bytes,
                              &text.stopped));
    return write_versioned(text, out);
}

}  // extern "C"
