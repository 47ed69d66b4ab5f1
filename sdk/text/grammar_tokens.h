// A grammar over the tokens of a vocabulary: what may be sampled next, and what must be.
#pragma once
#include "sdk/text/grammar.h"
#include "sdk/text/tokenizer.h"

namespace keel {

constexpr uint32_t kMaxForcedBytes = 256;

// work->state becomes that behind `count` tokens. Errors as grammar_step; count 0 there when they are not the
// grammar's.
keel_status grammar_state_of(const Grammar& g, const Tokenizer* t, const int32_t* tokens, uint32_t count,
                             GrammarWork* work);
// Clears the bits of tokens that may not follow work->state. End tokens may where the text may end; other control
// tokens, and tokens without bytes, may not.
keel_status grammar_mask(const Grammar& g, const Tokenizer* t, const int32_t* ends, uint32_t end_count,
                         GrammarWork* work, uint8_t* mask);
// Tokens for the bytes that alone may follow work->state, at most kMaxForcedBytes; that state is used up.
// KEEL_E_BUFFER_TOO_SMALL: *count is the need.
keel_status grammar_forced(const Grammar& g, const Tokenizer* t, GrammarWork* work, int32_t* ids, size_t capacity,
                           size_t* count);

}  // namespace keel
