// Constrained output: a grammar (GBNF, or a JSON Schema) compiled into a pushdown automaton over bytes, in fixed
// memory. The automaton is a graph of at most kMaxGrammarNodes nodes; grammar_machine.h runs it.
//
// GBNF is llama.cpp's: rules NAME ::= ..., "literals", [classes] of code points, ., (groups), |, * + ? {m} {m,} {m,n},
// # comments; the first rule is `root`. Escapes: \n \t \r \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH. Left recursion, and
// repeats of what may be empty, are refused.
#pragma once
#include "keel/keel.h"
#include "sdk/core/arena.h"

namespace keel {

constexpr uint32_t kMaxGrammarBytes = 32 * 1024;
constexpr uint32_t kMaxGrammarNodes = 8192;

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
    // Bytes that no node tells apart are one class.
    uint16_t class_count;
    uint8_t class_of[256];
    uint8_t class_byte[256];   // a byte of the class
    uint16_t class_size[256];  // bytes it has
    uint64_t identity;         // of the text: what a saved session was held to
};

// Where the text of a grammar is, and what it is.
struct GrammarSource {
    keel_reader reader;
    bool json_schema;
};
// Places the automaton; in count mode *out is null. *classes is Grammar::class_count. KEEL_E_FILE_FORMAT names what is
// not well formed, KEEL_E_UNSUPPORTED what Keel does not have (both with error->offset in the text), KEEL_E_FILE_LIMIT
// what is too much, KEEL_E_FILE_READ.
keel_status grammar_place(const GrammarSource& source, Arena& arena, const Grammar** out, uint32_t* classes,
                          keel_error* error);

}  // namespace keel
