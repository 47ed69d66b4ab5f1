// Ids to text, and small questions about a tokenizer.
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/text/tokenizer_layout.h"

namespace keel {

void tokenizer_piece(const Tokenizer* t, int32_t id, uint32_t flags, bool first, const char** data, size_t* bytes) {
    *data = "";
    *bytes = 0;
    if (id < 0 || static_cast<uint32_t>(id) >= t->vocabulary) return;
    const uint8_t type = t->types[id];
    if (is_hidden(type) && !(flags & KEEL_DETOKENIZE_SPECIAL)) return;
    uint32_t n;
    const char* text = token_text(*t, static_cast<uint32_t>(id), &n);
    if (first && t->add_space_prefix && !is_special(type) && n && *text == ' ') {
        ++text;
        --n;
    }
    *data = text;
    *bytes = n;
}

bool tokenizer_begins_text(const Tokenizer* t, int32_t previous_id, bool previous_first) {
    if (previous_id < 0 || static_cast<uint32_t>(previous_id) >= t->vocabulary) return previous_first;
    if (is_special(t->types[previous_id])) return true;
    return previous_first && t->offsets[previous_id] == t->offsets[previous_id + 1];
}

keel_status tokenizer_decode(const Tokenizer* t, const int32_t* ids, size_t count, uint32_t flags, char* dst,
                             size_t capacity, size_t* bytes) {
    if (!bytes || (!ids && count) || (!dst && capacity) || (flags & ~uint32_t{KEEL_DETOKENIZE_SPECIAL}))
        return KEEL_E_ARGUMENT;
    for (size_t i = 0; i < count; ++i)
        if (ids[i] < 0 || static_cast<uint32_t>(ids[i]) >= t->vocabulary) return KEEL_E_ARGUMENT;
    size_t need = 0;
    bool first = true;
    for (size_t i = 0; i < count; ++i) {
        const char* text;
        size_t n;
        tokenizer_piece(t, ids[i], flags, first, &text, &n);
        if (need <= capacity && n <= capacity - need && n) memcpy(dst + need, text, n);
        need += n;
        first = tokenizer_begins_text(t, ids[i], first);
    }
    *bytes = need;
    return dst && need > capacity ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

uint32_t tokenizer_vocabulary(const Tokenizer* t) {
    return t->vocabulary;
}
uint32_t tokenizer_end_ids(const Tokenizer* t, const int32_t** ids) {
    *ids = t->end_ids;
    return t->end_count;
}
int32_t tokenizer_bos(const Tokenizer* t) {
    return t->bos_id;
}

uint64_t tokenizer_identity(const Tokenizer* t) {
    uint64_t state = kHashSeed;
    for (uint32_t id = 0; id < t->vocabulary; ++id) {
        const char* text;
        size_t bytes;
        tokenizer_piece(t, static_cast<int32_t>(id), KEEL_DETOKENIZE_SPECIAL, false, &text, &bytes);
        const uint32_t length = static_cast<uint32_t>(bytes);
        state = hash_update(state, reinterpret_cast<const char*>(&length), sizeof length);
        state = hash_update(state, text, bytes);
    }
    return hash_finish(state);
}
int32_t tokenizer_eos(const Tokenizer* t) {
    return t->eos_id;
}

}  // namespace keel
