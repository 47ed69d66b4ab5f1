// A grammar over the tokens of a vocabulary.
#include "sdk/text/grammar_tokens.h"

#include <string.h>

#include "sdk/core/status.h"

namespace keel {
namespace {

enum Step : uint8_t { kUnknown, kRefused, kStays, kMoves };

// Bytes of a token inside a text; none for control tokens.
uint32_t piece_of(const Tokenizer* t, uint32_t id, const char** data) {
    size_t bytes = 0;
    tokenizer_piece(t, static_cast<int32_t>(id), 0, false, data, &bytes);
    return static_cast<uint32_t>(bytes);
}

}  // namespace

keel_status grammar_state_of(const Grammar& g, const Tokenizer* t, const int32_t* tokens, uint32_t count,
                             GrammarWork* work) {
    keel_status status = grammar_begin(g, &work->state);
    for (uint32_t i = 0; i < count && status == KEEL_OK; ++i) {
        const char* data = nullptr;
        const uint32_t bytes = piece_of(t, static_cast<uint32_t>(tokens[i]), &data);
        status = grammar_accept(g, &work->state, &work->next, data, bytes);
    }
    return status;
}

// Most tokens are decided by their first bytes. Where a byte leads back to the state it came from (inside a string,
// say) the table of steps goes on being right for the next byte; so a whole vocabulary of words costs a look-up a byte.
keel_status grammar_mask(const Grammar& g, const Tokenizer* t, const int32_t* ends, uint32_t end_count,
                         GrammarWork* work, uint8_t* mask) {
    memset(work->steps, kUnknown, sizeof work->steps);
    const uint32_t vocabulary = tokenizer_vocabulary(t);
    const bool may_end = grammar_may_end(work->state, g);
    for (uint32_t id = 0; id < vocabulary; ++id) {
        const uint8_t bit = static_cast<uint8_t>(1u << id % 8);
        if (!(mask[id / 8] & bit)) continue;
        const char* data = nullptr;
        const uint32_t bytes = piece_of(t, id, &data);
        bool allowed = bytes != 0;
        for (uint32_t i = 0; i < bytes && allowed; ++i) {
            const uint8_t byte = static_cast<uint8_t>(data[i]);
            uint8_t& step = work->steps[byte];
            if (step == kUnknown) {
                KEEL_TRY(grammar_step(g, work->state, byte, &work->next));
                step = work->next.count == 0 ? kRefused : grammar_same(work->next, work->state) ? kStays : kMoves;
            }
            allowed = step != kRefused;
            if (step != kMoves) continue;
            KEEL_TRY(grammar_step(g, work->state, byte, &work->next));
            KEEL_TRY(grammar_accept(g, &work->next, &work->scratch, data + i + 1, bytes - i - 1));
            allowed = work->next.count != 0;
            break;
        }
        for (uint32_t i = 0; i < end_count; ++i)
            if (ends[i] == static_cast<int32_t>(id)) allowed = may_end;
        if (!allowed) mask[id / 8] = static_cast<uint8_t>(mask[id / 8] & ~bit);
    }
    return KEEL_OK;
}

keel_status grammar_forced(const Grammar& g, const Tokenizer* t, GrammarWork* work, int32_t* ids, size_t capacity,
                           size_t* count) {
    char text[kMaxForcedBytes];
    uint32_t bytes = 0;
    while (bytes < sizeof text && !grammar_may_end(work->state, g)) {
        uint32_t ways = 0;
        char only = 0;
        for (uint32_t byte = 0; byte < 256 && ways < 2; ++byte) {
            KEEL_TRY(grammar_step(g, work->state, static_cast<uint8_t>(byte), &work->next));
            if (work->next.count == 0) continue;
            only = static_cast<char>(byte);
            ++ways;
        }
        if (ways != 1) break;
        text[bytes++] = only;
        KEEL_TRY(grammar_accept(g, &work->state, &work->next, &only, 1));
    }
    // The longest token that fits, again and again; what is left when none does stays to be sampled.
    *count = 0;
    for (uint32_t at = 0, length = 1; at < bytes && length; at += length) {
        int32_t best = -1;
        length = 0;
        for (uint32_t id = 0; id < tokenizer_vocabulary(t); ++id) {
            const char* data = nullptr;
            const uint32_t n = piece_of(t, id, &data);
            if (n <= length || n > bytes - at || memcmp(data, text + at, n) != 0) continue;
            best = static_cast<int32_t>(id);
            length = n;
        }
        if (!length) break;
        if (*count < capacity) ids[*count] = best;
        ++*count;
    }
    return ids && *count > capacity ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

}  // namespace keel
