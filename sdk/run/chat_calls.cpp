// Chats: the public calls over the chat template.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/text/chat.h"

namespace keel {
namespace {

// The text of a token as a template variable; null when there is no such token.
JinjaText token_text_of(const Tokenizer* t, int32_t id) {
    JinjaText out = {};
    if (id >= 0) tokenizer_piece(t, id, KEEL_DETOKENIZE_SPECIAL, false, &out.data, &out.bytes);
    return out;
}

// Writes a chat into the engine's work memory. The caller holds Engine::chatting.
keel_status write_chat(const Engine& e, const keel_chat* chat_in, uint32_t* bytes, keel_error* error) {
    keel_chat chat;
    KEEL_TRY(read_versioned(chat_in, &chat, "chat", error));
    if ((!chat.messages && chat.message_count) || (!chat.variables && chat.variable_bytes))
        return fail(error, KEEL_E_ARGUMENT, 0, "chat", "a null with a size");
    JinjaInput input = {};
    input.messages = chat.messages;
    input.count = chat.message_count;
    input.open_assistant = chat.open_assistant != 0;
    input.variables = {chat.variables, chat.variable_bytes};
    input.bos = token_text_of(e.tokenizer, tokenizer_bos(e.tokenizer));
    input.eos = token_text_of(e.tokenizer, tokenizer_eos(e.tokenizer));
    input.hooks = &e.hooks;
    return chat_write(e.chat, input, bytes, error);
}

// Stretches of one mark, as the tokenizer takes them; in memory that rendering no longer needs.
keel_status segments_of(const JinjaWork& work, uint32_t bytes, TextSegment** segments, uint32_t* count,
                        keel_error* error) {
    TextSegment* const out = reinterpret_cast<TextSegment*>(work.heap);
    const uint32_t capacity = work.capacity / sizeof(TextSegment);
    *count = 0;
    for (uint32_t begin = 0, end; begin < bytes; begin = end) {
        const uint8_t mark = work.out_marks[begin];
        for (end = begin; end < bytes && work.out_marks[end] == mark;) ++end;
        if (*count == capacity)
            return fail(error, KEEL_E_TEXT_LIMIT, 0, "chat template",
                        "more messages than max_chat_bytes can tell apart");
        out[(*count)++] = {end - begin, mark == 0};
    }
    *segments = out;
    return KEEL_OK;
}

keel_status tokenize_chat(Engine* e, const keel_chat* chat, HeldTokens* held, int32_t* ids, size_t capacity,
                          size_t* count, keel_error* error) {
    TryLock lock(&e->chatting);
    if (!lock.held()) return KEEL_E_BUSY;
    uint32_t bytes = 0, segment_count = 0;
    TextSegment* segments = nullptr;
    KEEL_TRY(write_chat(*e, chat, &bytes, error));
    KEEL_TRY(segments_of(e->chat.work, bytes, &segments, &segment_count, error));
    return tokenizer_encode_segments(e->tokenizer, e->chat.work.out, segments, segment_count, KEEL_TOKENIZE_BOS, ids,
                                     capacity, count, error, held);
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_chat_format(keel_engine engine, const keel_chat* chat, char* dst, size_t capacity_bytes, size_t* bytes,
                             keel_error* error) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!chat || !bytes) return bad_argument(e, !chat ? "chat" : "bytes", "null");
    if (!dst && capacity_bytes) return bad_argument(e, "dst", "null, though capacity_bytes is not 0");
    TryLock lock(&e->chatting);
    if (!lock.held()) return KEEL_E_BUSY;
    uint32_t need = 0;
    KEEL_TRY(write_chat(*e, chat, &need, error));
    *bytes = need;
    if (dst && need) memcpy(dst, e->chat.work.out, need < capacity_bytes ? need : capacity_bytes);
    return dst && need > capacity_bytes ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

keel_status keel_chat_tokenize(keel_engine engine, const keel_chat* chat, int32_t* ids, size_t capacity, size_t* count,
                               keel_error* error) {
    Engine* e;
    KEEL_TRY(enter(engine, &e));
    if (!chat || !count) return bad_argument(e, !chat ? "chat" : "count", "null");
    if (!ids && capacity) return bad_argument(e, "ids", "null, though capacity is not 0");
    return tokenize_chat(e, chat, nullptr, ids, capacity, count, error);
}

keel_status keel_session_chat(keel_session session, const keel_chat* chat, uint32_t* kept, int32_t* ids,
                              size_t capacity, size_t* count, keel_error* error) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!chat || !kept || !count) return bad_argument(e, !chat ? "chat" : !kept ? "kept" : "count", "null");
    if (!ids && capacity) return bad_argument(e, "ids", "null, though capacity is not 0");
    HeldTokens held = {s->tokens, s->token_count, 0};
    keel_status status = tokenize_chat(e, chat, &held, ids, capacity, count, error);
    if (status != KEEL_OK && status != KEEL_E_BUFFER_TOO_SMALL) return status;
    if (!can_rewind(*e, *s, static_cast<uint32_t>(held.kept))) {
        held = {};
        status = tokenize_chat(e, chat, &held, ids, capacity, count, error);
    }
    if (status == KEEL_OK || status == KEEL_E_BUFFER_TOO_SMALL) *kept = static_cast<uint32_t>(held.kept);
    return status;
}

}  // extern "C"
