// Running the automaton.
#include "sdk/text/grammar.h"

#include <string.h>

namespace keel {
namespace {

bool same_thread(const GrammarThread& a, const GrammarThread& b) {
    return a.node == b.node && a.depth == b.depth && memcmp(a.stack, b.stack, a.depth * sizeof a.stack[0]) == 0;
}

// Adds threads, following what takes no byte. Compiling has made sure that this ends: no cycle of nodes takes no byte.
class Closure {
  public:
    Closure(const Grammar& g, GrammarState* out) : g_(g), out_(*out) { out_.count = 0; }

    // A thread with the stack of `from` at `node`.
    keel_status add(const GrammarThread& from, uint16_t node) {
        thread_ = from;
        thread_.node = node;
        for (;;) {
            const GrammarNode& n = g_.nodes[thread_.node];
            switch (n.kind) {
                case GrammarNode::kJump:
                    thread_.node = n.next;
                    break;
                case GrammarNode::kSplit:
                    if (waiting_count_ == kGrammarThreads) return KEEL_E_FILE_LIMIT;
                    waiting_[waiting_count_] = thread_;
                    waiting_[waiting_count_++].node = n.other;
                    thread_.node = n.next;
                    break;
                case GrammarNode::kCall:
                    // A call in last place returns where its caller does.
                    if (g_.nodes[n.next].kind != GrammarNode::kReturn) {
                        if (thread_.depth == kGrammarDepth) return KEEL_E_FILE_LIMIT;
                        thread_.stack[thread_.depth++] = n.next;
                    }
                    thread_.node = n.other;
                    break;
                case GrammarNode::kReturn:
                    thread_.node = thread_.stack[--thread_.depth];
                    break;
                default: {
                    const keel_status status = insert();
                    if (status != KEEL_OK || waiting_count_ == 0) return status;
                    thread_ = waiting_[--waiting_count_];
                }
            }
        }
    }

  private:
    keel_status insert() {
        for (uint32_t i = 0; i < out_.count; ++i)
            if (same_thread(out_.threads[i], thread_)) return KEEL_OK;
        if (out_.count == kGrammarThreads) return KEEL_E_FILE_LIMIT;
        out_.threads[out_.count++] = thread_;
        return KEEL_OK;
    }

    const Grammar& g_;
    GrammarState& out_;
    GrammarThread thread_ = {};
    uint32_t waiting_count_ = 0;
    GrammarThread waiting_[kGrammarThreads];
};

}  // namespace

keel_status grammar_begin(const Grammar& g, GrammarState* state) {
    return Closure(g, state).add({}, g.root);
}

keel_status grammar_step(const Grammar& g, const GrammarState& state, uint8_t byte, GrammarState* next) {
    Closure closure(g, next);
    for (uint32_t i = 0; i < state.count; ++i) {
        const GrammarNode& n = g.nodes[state.threads[i].node];
        if (n.kind != GrammarNode::kBytes || byte < n.low || byte > n.high) continue;
        const keel_status status = closure.add(state.threads[i], n.next);
        if (status != KEEL_OK) return status;
    }
    return KEEL_OK;
}

keel_status grammar_accept(const Grammar& g, GrammarState* state, GrammarState* scratch, const char* text,
                           size_t bytes) {
    for (size_t i = 0; i < bytes && state->count; ++i) {
        const keel_status status = grammar_step(g, *state, static_cast<uint8_t>(text[i]), scratch);
        if (status != KEEL_OK) return status;
        state->count = scratch->count;
        memcpy(state->threads, scratch->threads, scratch->count * sizeof scratch->threads[0]);
    }
    return KEEL_OK;
}

bool grammar_may_end(const GrammarState& state, const Grammar& g) {
    for (uint32_t i = 0; i < state.count; ++i)
        if (g.nodes[state.threads[i].node].kind == GrammarNode::kEnd) return true;
    return false;
}

bool grammar_same(const GrammarState& a, const GrammarState& b) {
    if (a.count != b.count) return false;
    for (uint32_t i = 0; i < a.count; ++i)
        if (!same_thread(a.threads[i], b.threads[i])) return false;
    return true;
}

}  // namespace keel
