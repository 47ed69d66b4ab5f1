#include "sdk/text/grammar_machine.h"

#include <string.h>

#include "sdk/core/hash.h"

namespace keel {
namespace {

uint32_t bucket_of(uint64_t key) {
    return static_cast<uint32_t>(hash_finish(key)) & (kGrammarBuckets - 1);
}

bool before(GrammarThread a, GrammarThread b) {
    return a.node != b.node ? a.node < b.node : a.stack < b.stack;
}

uint32_t bucket_of(const GrammarThread* threads, uint32_t count) {
    uint64_t key = count;
    for (uint32_t i = 0; i < count; ++i) key = hash_finish(key ^ (uint64_t{threads[i].node} << 16 | threads[i].stack));
    return bucket_of(key);
}

// What a step comes to when it does not come to a state.
enum class Stop { kNo, kTooMuch, kFull };

// The stack of `parent` with `node` on top.
Stop push(GrammarMachine* m, uint16_t node, uint16_t parent, uint16_t* out) {
    uint16_t& bucket = m->stack_buckets[bucket_of(uint64_t{node} << 16 | parent)];
    for (uint16_t i = bucket; i; i = m->stacks[i].next_in_bucket)
        if (m->stacks[i].node == node && m->stacks[i].parent == parent) {
            *out = i;
            return Stop::kNo;
        }
    const uint16_t depth = parent ? m->stacks[parent].depth : 0;
    if (depth == kGrammarDepth) return Stop::kTooMuch;
    if (m->stack_count == kGrammarStacks) return Stop::kFull;
    *out = static_cast<uint16_t>(m->stack_count++);
    m->stacks[*out] = {node, parent, static_cast<uint16_t>(depth + 1), bucket};
    bucket = *out;
    return Stop::kNo;
}

// Each node is visited once with each stack: ways that meet again are followed once, however many they are.
Stop visit(GrammarMachine* m, uint16_t node, uint16_t stack) {
    constexpr uint32_t kSlots = 2 * kGrammarVisits;
    uint32_t slot = ((uint32_t{node} << 16 | stack) * 0x9e3779b1u) / (UINT32_MAX / kSlots + 1);
    for (; m->visit_slots[slot].step == m->step; slot = (slot + 1) % kSlots) {
        const GrammarThread& known = m->visits[m->visit_slots[slot].place];
        if (known.node == node && known.stack == stack) return Stop::kNo;
    }
    if (m->visit_count == kGrammarVisits) return Stop::kTooMuch;
    m->visit_slots[slot] = {m->step, static_cast<uint16_t>(m->visit_count)};
    m->visits[m->visit_count++] = {node, stack};
    return Stop::kNo;
}

// Follows what takes no byte, from the nodes visited on. Counts the nodes where a byte is taken or the text may end.
Stop follow(GrammarMachine* m, uint32_t* thread_count) {
    const GrammarNode* const nodes = m->grammar->nodes;
    uint32_t threads = 0;
    Stop stop = Stop::kNo;
    for (uint32_t i = 0; i < m->visit_count && stop == Stop::kNo; ++i) {
        const GrammarThread at = m->visits[i];
        const GrammarNode& n = nodes[at.node];
        switch (n.kind) {
            case GrammarNode::kJump:
                stop = visit(m, n.next, at.stack);
                break;
            case GrammarNode::kSplit:
                stop = visit(m, n.next, at.stack);
                if (stop == Stop::kNo) stop = visit(m, n.other, at.stack);
                break;
            case GrammarNode::kCall: {
                // A call in last place returns where its caller does.
                uint16_t stack = at.stack;
                if (nodes[n.next].kind != GrammarNode::kReturn) stop = push(m, n.next, at.stack, &stack);
                if (stop == Stop::kNo) stop = visit(m, n.other, stack);
                break;
            }
            case GrammarNode::kReturn:
                stop = visit(m, m->stacks[at.stack].node, m->stacks[at.stack].parent);
                break;
            default:
                ++threads;
        }
    }
    *thread_count = threads;
    return stop;
}

// The number of the state that the visited threads are, sorted in place.
uint16_t state_of_visits(GrammarMachine* m, uint32_t thread_count) {
    if (thread_count > kGrammarThreads) return kGrammarTooMuch;
    const GrammarNode* const nodes = m->grammar->nodes;
    GrammarThread threads[kGrammarThreads];
    uint32_t count = 0;
    bool may_end = false;
    for (uint32_t i = 0; i < m->visit_count; ++i) {
        const GrammarThread t = m->visits[i];
        const uint8_t kind = nodes[t.node].kind;
        if (kind != GrammarNode::kBytes && kind != GrammarNode::kEnd) continue;
        may_end = may_end || kind == GrammarNode::kEnd;
        uint32_t at = count++;
        for (; at > 0 && before(t, threads[at - 1]); --at) threads[at] = threads[at - 1];
        threads[at] = t;
    }
    if (count == 0) return kGrammarDead;
    uint16_t& bucket = m->state_buckets[bucket_of(threads, count)];
    for (uint16_t i = bucket; i; i = m->rows[i].next_in_bucket)
        if (m->rows[i].count == count && memcmp(m->pool + m->rows[i].first, threads, count * sizeof threads[0]) == 0)
            return i;
    if (m->state_count == kGrammarStates || m->pool_count + count > kGrammarPool) return kGrammarUnknown;
    const uint16_t state = static_cast<uint16_t>(m->state_count++);
    m->rows[state] = {static_cast<uint16_t>(m->pool_count), static_cast<uint16_t>(count), bucket, may_end};
    bucket = state;
    memcpy(m->pool + m->pool_count, threads, count * sizeof threads[0]);
    m->pool_count += count;
    const uint32_t classes = m->grammar->class_count;
    memset(m->next + state * classes, 0, classes * sizeof m->next[0]);
    return state;
}

uint16_t finish_step(GrammarMachine* m, Stop stop) {
    uint32_t threads = 0;
    if (stop == Stop::kNo) stop = follow(m, &threads);
    if (stop == Stop::kFull) return kGrammarUnknown;
    return stop == Stop::kTooMuch ? static_cast<uint16_t>(kGrammarTooMuch) : state_of_visits(m, threads);
}

void begin_step(GrammarMachine* m) {
    m->visit_count = 0;
    if (++m->step) return;
    memset(m->visit_slots, 0, sizeof m->visit_slots);
    m->step = 1;
}

void clear_buckets(GrammarMachine* m) {
    memset(m->state_buckets, 0, sizeof m->state_buckets);
    memset(m->stack_buckets, 0, sizeof m->stack_buckets);
    ++m->generation;
}

}  // namespace

GrammarMachine* grammar_machine_place(Arena& arena, const Grammar* grammar, uint32_t classes, int32_t index) {
    auto* const m = arena.place<GrammarMachine>("grammar_machine", 1, index);
    auto* const next = arena.place<uint16_t>("grammar_transitions", uint64_t{kGrammarStates} * classes, index);
    auto* const rows = arena.place<GrammarRow>("grammar_states", kGrammarStates, index);
    auto* const pool = arena.place<GrammarThread>("grammar_threads", kGrammarPool, index);
    auto* const stacks = arena.place<GrammarStack>("grammar_stacks", kGrammarStacks, index);
    if (!m || !next || !rows || !pool || !stacks) return nullptr;
    m->grammar = grammar;
    m->next = next;
    m->rows = rows;
    m->pool = pool;
    m->stacks = stacks;
    m->generation = 0;
    m->step = UINT16_MAX;  // the first one clears the slots
    grammar_machine_clear(m);
    return m;
}

void grammar_machine_clear(GrammarMachine* m) {
    clear_buckets(m);
    m->state_count = kGrammarFirst;
    m->pool_count = 0;
    m->stack_count = 1;
}

void grammar_machine_copy(GrammarMachine* to, const GrammarMachine& from) {
    memcpy(to->next, from.next, from.state_count * uint64_t{from.grammar->class_count} * sizeof from.next[0]);
    memcpy(to->rows, from.rows, from.state_count * sizeof from.rows[0]);
    memcpy(to->pool, from.pool, from.pool_count * sizeof from.pool[0]);
    memcpy(to->stacks, from.stacks, from.stack_count * sizeof from.stacks[0]);
    to->state_count = from.state_count;
    to->pool_count = from.pool_count;
    to->stack_count = from.stack_count;
    to->generation = from.generation;
    memcpy(to->state_buckets, from.state_buckets, sizeof from.state_buckets);
    memcpy(to->stack_buckets, from.stack_buckets, sizeof from.stack_buckets);
}

uint16_t grammar_begin(GrammarMachine* m) {
    begin_step(m);
    return finish_step(m, visit(m, m->grammar->root, 0));
}

uint16_t grammar_compute(GrammarMachine* m, uint16_t state, uint32_t byte_class) {
    const Grammar& g = *m->grammar;
    const uint8_t byte = g.class_byte[byte_class];
    begin_step(m);
    Stop stop = Stop::kNo;
    const GrammarRow row = m->rows[state];
    uint32_t low = 0, high = 255;  // bytes that the same threads take
    for (uint32_t i = 0; i < row.count && stop == Stop::kNo; ++i) {
        const GrammarThread t = m->pool[row.first + i];
        const GrammarNode& n = g.nodes[t.node];
        if (n.kind != GrammarNode::kBytes || n.low > n.high) continue;
        const bool taken = byte >= n.low && byte <= n.high;
        const uint32_t from = taken           ? n.low
                              : byte > n.high ? n.high + 1u
                                              : 0,
                       to = taken          ? n.high
                            : byte < n.low ? n.low - 1u
                                           : 255;
        low = from > low ? from : low;
        high = to < high ? to : high;
        if (taken) stop = visit(m, n.next, t.stack);
    }
    const uint16_t next = finish_step(m, stop);
    if (stop != Stop::kNo) low = high = byte;  // not all threads were looked at
    uint16_t* const of_state = m->next + state * uint32_t{g.class_count};
    for (uint32_t c = g.class_of[low]; c <= g.class_of[high]; ++c) of_state[c] = next;
    of_state[byte_class] = next;
    return next;
}

// Parents of a stack have lower numbers than it has, here too: so one pass marks, and one moves.
uint16_t grammar_compact(GrammarMachine* m, uint16_t state) {
    uint16_t moved[kGrammarStacks] = {};
    const GrammarRow row = m->rows[state];
    for (uint32_t i = 0; i < row.count; ++i) moved[m->pool[row.first + i].stack] = 1;
    for (uint32_t i = m->stack_count; i-- > 1;)
        if (moved[i]) moved[m->stacks[i].parent] = 1;
    clear_buckets(m);
    moved[0] = 0;
    uint32_t stacks = 1;
    for (uint32_t i = 1; i < m->stack_count; ++i) {
        if (!moved[i]) continue;
        GrammarStack s = m->stacks[i];
        s.parent = moved[s.parent];
        uint16_t& bucket = m->stack_buckets[bucket_of(uint64_t{s.node} << 16 | s.parent)];
        s.next_in_bucket = bucket;
        bucket = moved[i] = static_cast<uint16_t>(stacks);
        m->stacks[stacks++] = s;
    }
    m->stack_count = stacks;
    memmove(m->pool, m->pool + row.first, row.count * sizeof m->pool[0]);
    for (uint32_t i = 0; i < row.count; ++i) m->pool[i].stack = moved[m->pool[i].stack];
    m->pool_count = row.count;
    m->rows[kGrammarFirst] = {0, row.count, 0, row.may_end};
    m->state_buckets[bucket_of(m->pool, row.count)] = kGrammarFirst;
    m->state_count = kGrammarFirst + 1;
    const uint32_t classes = m->grammar->class_count;
    memset(m->next + kGrammarFirst * classes, 0, classes * sizeof m->next[0]);
    return kGrammarFirst;
}

uint16_t grammar_accept(GrammarMachine* m, uint16_t state, const char* text, size_t bytes) {
    for (size_t i = 0; i < bytes && state >= kGrammarFirst; ++i) {
        const uint8_t byte = static_cast<uint8_t>(text[i]);
        uint16_t next = grammar_step(m, state, byte);
        if (next == kGrammarUnknown) {
            state = grammar_compact(m, state);
            next = grammar_step(m, state, byte);
        }
        state = next == kGrammarUnknown ? static_cast<uint16_t>(kGrammarTooMuch) : next;
    }
    return state;
}

}  // namespace keel
