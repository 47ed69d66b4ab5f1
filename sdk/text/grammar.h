// Constrained output: a grammar (GBNF, or a JSON Schema) compiled into a pushdown automaton over bytes, in fixed
// memory.
//
// The automaton is a graph of at most kMaxGrammarNodes nodes; its state is a set of at most kGrammarThreads threads,
// each a node and a stack of at most kGrammarDepth return nodes. A state is a function of the bytes accepted so far and
// of nothing else, so that it can always be computed again: that is how sessions truncate, fork, restore and draft.
//
// GBNF is llama.cpp's: rules NAME ::= ..., "literals", [classes] of code points, ., (groups), |, * + ? {m} {m,} {m,n},
// # comments; the first rule is `root`. Escapes: \n \t \r \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH. Left recursion, and
// repeats of what may be empty, are refused.
#pragma once
#include "keel/keel.h"
#include "sdk/core/arena.h"

namespace keel {

constexpr uint32_t kMaxGrammarBytes = 32 * 1024;
constexpr uint32_t kMaxGrammarNodes = 4096;
constexpr uint32_t kGrammarThreads = 64;
constexpr uint32_t kGrammarDepth = 62;

struct GrammarNode {
    enum Kind : uint8_t {
        kBytes,   // a byte within [low, high], then `next`
        kJump,    // to `next`
        kSplit,   // to `next` or to `other`
        kCall,    // the rule that begins at `other`, then `next`
        kReturn,  // from a rule
        kEnd      // the text may end
    };
    uint8_t kind, low, high, unused;
    uint16_t next, other;
};

struct Grammar {
    const GrammarNode* nodes;
    uint32_t node_count;
    uint16_t root;  // a call of the first rule with the end behind it
};

struct GrammarThread {
    uint16_t node;   // kBytes or kEnd
    uint16_t depth;  // of the stack
    uint16_t stack[kGrammarDepth];
};
struct GrammarState {
    uint32_t count;  // 0: nothing is accepted any more
    GrammarThread threads[kGrammarThreads];
};
// Memory for one session's masks; contents do not matter between calls.
struct GrammarWork {
    GrammarState state, next, scratch;
    uint8_t steps[256];
};

// Where the text of a grammar is, and what it is.
struct GrammarSource {
    keel_reader reader;
    bool json_schema;
};
// Places the automaton; in count mode *out is null. KEEL_E_FILE_FORMAT names what is not well formed,
// KEEL_E_UNSUPPORTED what Keel does not have (both with error->offset in the text), KEEL_E_FILE_LIMIT what is too much,
// KEEL_E_FILE_READ.
keel_status grammar_place(const GrammarSource& source, Arena& arena, const Grammar** out, keel_error* error);

// KEEL_E_FILE_LIMIT from these: the state needs more threads or a deeper stack than there are.
keel_status grammar_begin(const Grammar& g, GrammarState* state);
// The state behind one more byte; count 0 when it is not accepted. `next` is another state than `state`.
keel_status grammar_step(const Grammar& g, const GrammarState& state, uint8_t byte, GrammarState* next);
// Behind several bytes, in place; `scratch` is any other state.
keel_status grammar_accept(const Grammar& g, GrammarState* state, GrammarState* scratch, const char* text,
                           size_t bytes);
// Whether the text may end here.
bool grammar_may_end(const GrammarState& state, const Grammar& g);
bool grammar_same(const GrammarState& a, const GrammarState& b);

}  // namespace keel
