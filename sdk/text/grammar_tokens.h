// A grammar over the tokens of a vocabulary: what may be sampled next, and what must be.
#pragma once
#include "sdk/text/grammar_machine.h"
#include "sdk/text/tokenizer.h"

namespace keel {

constexpr uint32_t kMaxForcedBytes = 256;
constexpr uint32_t kGrammarTrail = 64;  // positions that a session goes back to without running its text again
constexpr uint32_t kGrammarMasks = 8;   // kept for states met before

// Tokens that have text, sorted by it (equal ones by id), so that what tokens have in common is walked once.
struct TokenOrder {
    const Tokenizer* tokenizer;
    uint32_t count;
    uint32_t* ids;       // [vocabulary], `count` used, as below
    const char** texts;  // in the tokenizer's memory
    uint16_t* bytes;
    uint16_t* shared;  // bytes at the front that are also the token's before
};
// In count mode null; `t` may be null then.
TokenOrder* token_order_place(Arena& arena, const Tokenizer* t, uint32_t vocabulary);

// What a session keeps of its text's way through the grammar. A text here is a number of tokens.
struct GrammarSession {
    GrammarMachine* machine;
    const TokenOrder* order;
    // States behind the first n tokens at [n % kGrammarTrail], for `oldest` <= n <= `newest`, while the machine is of
    // this generation.
    uint16_t trail[kGrammarTrail];
    uint32_t oldest, newest, generation;
    struct Mask {
        uint32_t generation, used;  // the newest time it was used; 0: never
        uint16_t state;
        bool none_fits;  // tokens were left out because they need more than a state may have, and none is left
    } mask[kGrammarMasks];
    uint32_t uses;
    uint32_t mask_bytes;
    uint8_t* mask_bits;  // [kGrammarMasks][mask_bytes]
};
// In count mode null; grammar and order may be null then.
GrammarSession* grammar_session_place(Arena& arena, const Grammar* grammar, uint32_t classes, const TokenOrder* order,
                                      uint32_t vocabulary, int32_t index);
// The session's text is another one now.
void grammar_session_clear(GrammarSession* s);
// Its tokens from `count` on are others now.
void grammar_session_rewind(GrammarSession* s, uint32_t count);
void grammar_session_copy(GrammarSession* to, const GrammarSession& from);

// The state behind `tokens`, which go on with what was asked last unless clear or rewind said otherwise.
uint16_t grammar_state_of(GrammarSession* s, const int32_t* tokens, uint32_t count);
// The state behind more tokens, which are not the session's.
uint16_t grammar_state_behind(GrammarSession* s, uint16_t state, const int32_t* tokens, uint32_t count);
// Clears the bits of tokens that may not follow a state. End tokens may where the text may end; other control tokens,
// and tokens without bytes, may not. A token that needs more than a state may have may not follow; KEEL_E_FILE_LIMIT
// when the state does, or when there are such tokens and no other.
keel_status grammar_mask(GrammarSession* s, uint16_t state, const int32_t* ends, uint32_t end_count, uint8_t* mask);
// Tokens for the bytes that alone may follow a state, at most kMaxForcedBytes. KEEL_E_BUFFER_TOO_SMALL: *count is the
// need. KEEL_E_FILE_LIMIT as above.
keel_status grammar_forced(GrammarSession* s, uint16_t state, int32_t* ids, size_t capacity, size_t* count);

}  // namespace keel
