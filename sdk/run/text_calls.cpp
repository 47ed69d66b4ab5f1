// Text: the public calls over the tokenizer and the text stream.
#include "sdk/core/status.h"
#include "sdk/run/engine.h"

using namespace keel;

namespace {

// Which token of the session is given to the text stream: one that was drawn and is not fed yet stands behind all; else
// it is the one behind the last that was given, or the first of the newest feed (the prompt before it was not given).
uint32_t position_of_text(const Session& s, int32_t token) {
    const uint32_t count = s.settled(), next = s.text.next_position;
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
    if ((!text && bytes) || (!ids && capacity) || !count ||
        (flags & ~uint32_t{KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS}))
        return KEEL_E_ARGUMENT;
    return tokenizer_encode(e->tokenizer, text, bytes, flags, ids, capacity, count);
}

keel_status keel_detokenize(keel_engine engine, const int32_t* ids, size_t count, uint32_t flags, char* dst,
                            size_t capacity_bytes, size_t* bytes) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if ((!ids && count) || (!dst && capacity_bytes) || !bytes || (flags & ~uint32_t{KEEL_DETOKENIZE_SPECIAL}))
        return KEEL_E_ARGUMENT;
    for (size_t i = 0; i < count; ++i)
        if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= e->spec.vocabulary) return KEEL_E_ARGUMENT;
    return tokenizer_decode(e->tokenizer, ids, count, flags, dst, capacity_bytes, bytes);
}

keel_status keel_token_text(keel_engine engine, int32_t token, uint32_t flags, const char** data, size_t* bytes) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!data || !bytes || (flags & ~uint32_t{KEEL_DETOKENIZE_SPECIAL}) || token < 0 ||
        static_cast<uint32_t>(token) >= e->spec.vocabulary)
        return KEEL_E_ARGUMENT;
    tokenizer_piece(e->tokenizer, token, flags, false, data, bytes);
    return KEEL_OK;
}

keel_status keel_session_set_end_ids(keel_session session, const int32_t* ids, uint32_t count) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    return text_stream_set_ends(&s->text, e->tokenizer, ids, count);
}

keel_status keel_session_end_ids(keel_session session, const int32_t** ids, uint32_t* count) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    if (!ids || !count) return KEEL_E_ARGUMENT;
    *count = text_stream_ends(s->text, e->tokenizer, ids);
    return KEEL_OK;
}

keel_status keel_session_set_stops(keel_session session, const char* const* texts, const size_t* bytes,
                                   uint32_t count) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    if (count && (!texts || !bytes)) return KEEL_E_ARGUMENT;
    return text_stream_set_stops(&s->text, texts, bytes, count);
}

keel_status keel_session_text(keel_session session, int32_t token, keel_text* out) {
    Engine* e;
    Session* s;
    KEEL_TRY(enter(session, &e, &s));
    if (!out || token < -1 || token >= static_cast<int32_t>(e->spec.vocabulary)) return KEEL_E_ARGUMENT;
    if (out->struct_size < sizeof out->struct_size) return KEEL_E_ABI;  // before the stream takes the token
    keel_text text = {};
    text.struct_size = sizeof text;
    KEEL_TRY(text_stream_push(&s->text, e->tokenizer, token, position_of_text(*s, token), &text.data, &text.bytes,
                              &text.stopped));
    return write_versioned(text, out);
}

}  // extern "C"
