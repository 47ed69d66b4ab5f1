// Runs the automaton of a grammar. Its state is a set of threads, each a node and a stack of return nodes; it is a
// function of the bytes accepted so far and of nothing else. Every state met gets a number and keeps the states behind
// it once they are known, so that a text is followed by one look-up a byte. Stacks are shared between threads.
//
// States, threads and stacks lie in pools of fixed size; when one is full everything but one state is forgotten
// (grammar_compact), and numbers from before mean nothing any more.
#pragma once
#include "sdk/text/grammar.h"

namespace keel {

constexpr uint32_t kGrammarThreads = 256;  // of one state
constexpr uint32_t kGrammarDepth = 256;    // of one stack
constexpr uint32_t kGrammarVisits = 1024;  // nodes that a byte may lead through
constexpr uint32_t kGrammarStates = 1024;  // the pools
constexpr uint32_t kGrammarPool = 16384;   // threads
constexpr uint32_t kGrammarStacks = 4096;
constexpr uint32_t kGrammarBuckets = 1024;  // a power of two

// Numbers of states.
enum : uint16_t {
    kGrammarUnknown,  // not computed yet
    kGrammarDead,     // the text is not the grammar's
    kGrammarTooMuch,  // it needs more threads, visits or depth than there are; so does whatever follows
    kGrammarFirst     // from here on states
};

struct GrammarThread {
    uint16_t node;   // kBytes or kEnd; on the way, any
    uint16_t stack;  // 0: empty
};
struct GrammarStack {
    uint16_t node, parent, depth, next_in_bucket;
};
struct GrammarRow {         // a state
    uint16_t first, count;  // threads, sorted
    uint16_t next_in_bucket;
    bool may_end;
};

struct GrammarMachine {
    const Grammar* grammar;
    uint16_t* next;        // [kGrammarStates][class_count]
    GrammarRow* rows;      // [kGrammarStates]
    GrammarThread* pool;   // [kGrammarPool]
    GrammarStack* stacks;  // [kGrammarStacks]
    uint32_t state_count, pool_count, stack_count;
    uint32_t generation;  // of numbers: one more when they change
    uint16_t state_buckets[kGrammarBuckets], stack_buckets[kGrammarBuckets];
    // Of the step being computed.
    uint32_t visit_count;
    GrammarThread visits[kGrammarVisits];
    // Places in `visits` by hash; those of other steps are free.
    uint16_t step;
    struct {
        uint16_t step, place;
    } visit_slots[2 * kGrammarVisits];
};

// In count mode null; `grammar` may be null then.
GrammarMachine* grammar_machine_place(Arena& arena, const Grammar* grammar, uint32_t classes, int32_t index);
// Forgets all states.
void grammar_machine_clear(GrammarMachine* m);
// Makes `to`, of the same grammar, know what `from` does.
void grammar_machine_copy(GrammarMachine* to, const GrammarMachine& from);

// The state of an empty text, kGrammarTooMuch, or kGrammarUnknown when a pool is full.
uint16_t grammar_begin(GrammarMachine* m);
// The state behind one more byte, or kGrammarUnknown when a pool is full. `state` may be dead or too much.
uint16_t grammar_compute(GrammarMachine* m, uint16_t state, uint32_t byte_class);
inline uint16_t grammar_step(GrammarMachine* m, uint16_t state, uint8_t byte) {
    const uint32_t byte_class = m->grammar->class_of[byte];
    if (state < kGrammarFirst) return state;
    const uint16_t next = m->next[state * uint32_t{m->grammar->class_count} + byte_class];
    return next ? next : grammar_compute(m, state, byte_class);
}
// Forgets all but `state`; its new number.
uint16_t grammar_compact(GrammarMachine* m, uint16_t state);
// Behind several bytes; compacts where it must.
uint16_t grammar_accept(GrammarMachine* m, uint16_t state, const char* text, size_t bytes);
// Whether the text may end here.
inline bool grammar_may_end(const GrammarMachine& m, uint16_t state) {
    return state >= kGrammarFirst && m.rows[state].may_end;
}

}  // namespace keel
