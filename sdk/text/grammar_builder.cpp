#include "sdk/text/grammar_builder.h"

#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/text/utf8.h"

namespace keel {

void GrammarBuilder::fail(keel_status status, size_t at, const char* what, const char* name, size_t name_bytes) {
    if (!ok()) return;
    char reason[sizeof error_->reason];
    TextBuilder text(reason, sizeof reason);
    text.text(what);
    if (name) text.text(" \"").text(name, name_bytes < 64 ? name_bytes : 64).text("\"");
    status_ = keel::fail(error_, status, at, "grammar", reason);
}

uint16_t GrammarBuilder::add(GrammarNode::Kind kind, uint8_t low, uint8_t high, uint16_t next, uint16_t other) {
    if (count_ == kMaxGrammarNodes) fail(KEEL_E_FILE_LIMIT, 0, "the grammar is too large");
    if (!ok()) return 0;
    nodes_[count_] = {kind, low, high, 0, next, other};
    return static_cast<uint16_t>(count_++);
}

Fragment GrammarBuilder::bytes(const char* text, size_t n) {
    if (n == 0) return nothing();
    Fragment out = {};
    for (size_t i = 0; i < n && ok(); ++i) {
        const uint8_t byte = static_cast<uint8_t>(text[i]);
        const uint16_t node = add(GrammarNode::kBytes, byte, byte);
        const Fragment one = {node, node};
        out = i ? sequence(out, one) : one;
    }
    return out;
}

Fragment GrammarBuilder::code_point(uint32_t code) {
    char text[4];
    return bytes(text, utf8_encode(code, text));
}

Fragment GrammarBuilder::sequence(Fragment a, Fragment b) {
    nodes_[a.last].next = b.start;
    return {a.start, b.last};
}

Fragment GrammarBuilder::either(Fragment a, Fragment b) {
    const uint16_t split = add(GrammarNode::kSplit, 0, 0, a.start, b.start);
    const uint16_t join = add(GrammarNode::kJump);
    nodes_[a.last].next = join;
    nodes_[b.last].next = join;
    return {split, join};
}

Fragment GrammarBuilder::call(uint32_t rule) {
    // The number of the rule, until place() knows where it begins.
    const uint16_t node = add(GrammarNode::kCall, 0, 0, 0, static_cast<uint16_t>(rule));
    return {node, node};
}

uint32_t GrammarBuilder::new_rule() {
    if (rule_count_ == kMaxGrammarRules) fail(KEEL_E_FILE_LIMIT, 0, "too many rules");
    return ok() ? rule_count_++ : 0;
}

void GrammarBuilder::define(uint32_t rule, Fragment body) {
    nodes_[body.last].next = add(GrammarNode::kReturn);
    if (ok()) rules_[rule] = body.start;
}

Fragment GrammarBuilder::repeat(Fragment body, uint32_t at_least, uint32_t at_most) {
    if (at_most != UINT32_MAX && (at_most < at_least || at_most > kMaxRepeats))
        fail(KEEL_E_FILE_LIMIT, 0, "a repeat with bounds in the wrong order or beyond 2,000");
    if (at_least > kMaxRepeats) fail(KEEL_E_FILE_LIMIT, 0, "a repeat beyond 2,000");
    if (!ok()) return {};
    const bool once = at_least <= 1 && (at_most == 1 || at_most == UINT32_MAX);
    uint32_t rule = 0;
    if (!once) {
        rule = new_rule();
        define(rule, body);
    }
    const auto one = [&] { return once ? body : call(rule); };
    // x+ and x*, x and x?.
    if (once) {
        const uint16_t end = add(GrammarNode::kJump);
        const uint16_t split = add(GrammarNode::kSplit, 0, 0, body.start, end);
        nodes_[body.last].next = at_most == UINT32_MAX ? split : end;
        return {at_least ? body.start : split, end};
    }
    Fragment out = nothing();
    for (uint32_t i = 0; i < at_least && ok(); ++i) out = sequence(out, one());
    if (at_most == UINT32_MAX) {
        const Fragment more = call(rule);
        const uint16_t end = add(GrammarNode::kJump);
        const uint16_t split = add(GrammarNode::kSplit, 0, 0, more.start, end);
        nodes_[more.last].next = split;
        return sequence(out, {split, end});
    }
    const uint16_t end = add(GrammarNode::kJump);
    for (uint32_t i = at_least; i < at_most && ok(); ++i) {
        const Fragment more = call(rule);
        const uint16_t split = add(GrammarNode::kSplit, 0, 0, more.start, end);
        nodes_[out.last].next = split;
        out.last = more.last;
    }
    nodes_[out.last].next = end;
    return {out.start, end};
}

// Characters are alternatives of byte ranges. Those that end in the same number of any continuation bytes share the
// nodes of these, so that the states behind them are few.
struct GrammarBuilder::CharacterClass {
    uint16_t start, join;  // 0: none yet
    uint16_t any[4];       // begins that many continuation bytes and then `join`; [0] is `join`
};

void GrammarBuilder::add_bytes(CharacterClass* c, const uint8_t* low, const uint8_t* high, uint32_t n) {
    if (!c->join) c->join = c->any[0] = add(GrammarNode::kJump);
    uint32_t rest = 0;
    while (rest < n - 1 && low[n - 1 - rest] == 0x80 && high[n - 1 - rest] == 0xbf) ++rest;
    for (uint32_t i = 1; i <= rest; ++i)
        if (!c->any[i]) c->any[i] = add(GrammarNode::kBytes, 0x80, 0xbf, c->any[i - 1]);
    uint16_t next = c->any[rest];
    for (uint32_t i = n - rest; i-- > 0;) next = add(GrammarNode::kBytes, low[i], high[i], next);
    c->start = c->start ? add(GrammarNode::kSplit, 0, 0, c->start, next) : next;
}

// The code points [low, high], cut until those of a piece have encodings whose bytes are independent of each other.
void GrammarBuilder::add_range(CharacterClass* c, uint32_t low, uint32_t high) {
    static constexpr uint32_t kLast[] = {0x7f, 0x7ff, 0xd7ff, 0xffff, 0x10ffff};
    for (uint32_t at = low; at <= high && ok();) {
        if (at >= 0xd800 && at < 0xe000) {  // no characters
            at = 0xe000;
            continue;
        }
        uint32_t end = high;
        for (uint32_t i = sizeof kLast / sizeof kLast[0]; i-- > 0;)
            if (at <= kLast[i] && end > kLast[i]) end = kLast[i];
        char first[4], last[4];
        const uint32_t n = utf8_encode(at, first);
        // Shorten until every byte behind the first that differs covers all of 80 to bf.
        for (uint32_t bits = 6 * (n - 1); bits > 0; bits -= 6) {
            const uint32_t mask = (1u << bits) - 1;
            if ((at & ~mask) == (end & ~mask)) continue;  // they differ further down only
            if ((at & mask) != 0) {
                end = at | mask;
            } else if ((end & mask) != mask) {
                end = (end & ~mask) - 1;
            }
        }
        utf8_encode(end, last);
        uint8_t from[4], to[4];
        memcpy(from, first, sizeof from);
        memcpy(to, last, sizeof to);
        add_bytes(c, from, to, n);
        at = end + 1;
    }
}

Fragment GrammarBuilder::any_of(CodeRange* ranges, uint32_t count, bool negated) {
    CharacterClass c = {};
    uint32_t next = 0;  // the first code point not yet looked at
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t low = ranges[i].low < next ? next : ranges[i].low;
        if (negated && low > next) add_range(&c, next, low - 1);
        if (!negated && low <= ranges[i].high) add_range(&c, low, ranges[i].high);
        if (ranges[i].high >= next) next = ranges[i].high + 1;
    }
    if (negated && next <= 0x10ffff) add_range(&c, next, 0x10ffff);
    if (c.start) return {c.start, c.join};
    // A byte from 1 to 0 never comes.
    const uint16_t node = add(GrammarNode::kBytes, 1, 0);
    return {node, node};
}

uint16_t GrammarBuilder::behind_jumps(uint16_t node) const {
    for (uint32_t i = 0; i < count_ && nodes_[node].kind == GrammarNode::kJump; ++i) node = nodes_[node].next;
    return node;
}

// Refuses cycles that take no byte: left recursion, and repeats of what may be empty. Which rules may be empty is found
// first, by trying until nothing changes.
void GrammarBuilder::check_cycles() {
    uint8_t empty[kMaxGrammarRules] = {}, seen[kMaxGrammarNodes];
    uint16_t stack[kMaxGrammarNodes];
    const auto rule_of = [&](uint16_t start) {
        uint32_t rule = 0;
        while (rules_[rule] != start) ++rule;
        return rule;
    };
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t rule = 0; rule < rule_count_; ++rule) {
            if (empty[rule]) continue;
            memset(seen, 0, sizeof seen);
            uint32_t count = 0;
            stack[count++] = rules_[rule];
            while (count) {
                const uint16_t at = stack[--count];
                if (seen[at]) continue;
                seen[at] = 1;
                const GrammarNode& n = nodes_[at];
                const auto push = [&](uint16_t node) {
                    if (!seen[node] && count < kMaxGrammarNodes) stack[count++] = node;
                };
                if (n.kind == GrammarNode::kReturn) {
                    empty[rule] = 1;
                    changed = true;
                    break;
                }
                if (n.kind == GrammarNode::kJump || n.kind == GrammarNode::kSplit) push(n.next);
                if (n.kind == GrammarNode::kSplit) push(n.other);
                if (n.kind == GrammarNode::kCall && empty[rule_of(n.other)]) push(n.next);
            }
        }
    }
    // Depth first: a node met again while it is on the way is on a cycle. seen: 1 on the way, 2 done.
    memset(seen, 0, sizeof seen);
    for (uint32_t root = 1; root < count_; ++root) {
        uint32_t count = 0;
        if (seen[root]) continue;
        stack[count++] = static_cast<uint16_t>(root);
        while (count) {
            const uint16_t at = stack[count - 1];
            const GrammarNode& n = nodes_[at];
            uint16_t ways[2] = {};
            if (n.kind == GrammarNode::kJump || n.kind == GrammarNode::kSplit) ways[0] = n.next;
            if (n.kind == GrammarNode::kSplit || n.kind == GrammarNode::kCall) ways[1] = n.other;
            if (n.kind == GrammarNode::kCall && empty[rule_of(n.other)]) ways[0] = n.next;
            seen[at] = 1;
            bool deeper = false;
            for (const uint16_t way : ways) {
                if (way && seen[way] == 1) {
                    fail(KEEL_E_UNSUPPORTED, 0, "left recursion, or a repeat of what may be empty");
                    return;
                }
                if (way && !seen[way] && !deeper) {
                    stack[count++] = way;
                    deeper = true;
                }
            }
            if (!deeper) {
                seen[at] = 2;
                --count;
            }
        }
    }
}

// A byte begins a new class where the range of some node begins, or has just ended.
void GrammarBuilder::find_classes(Grammar* out) const {
    bool begins[257] = {};
    for (uint32_t i = 1; i < count_; ++i) {
        const GrammarNode& n = nodes_[i];
        if (n.kind != GrammarNode::kBytes || n.low > n.high) continue;
        begins[n.low] = begins[n.high + 1] = true;
    }
    for (uint32_t byte = 0; byte < 256; ++byte) {
        if (byte == 0 || begins[byte]) out->class_byte[out->class_count++] = static_cast<uint8_t>(byte);
        out->class_of[byte] = static_cast<uint8_t>(out->class_count - 1);
        ++out->class_size[out->class_count - 1];
    }
}

keel_status GrammarBuilder::place(uint32_t rule, uint64_t identity, Arena& arena, const Grammar** out,
                                  uint32_t* classes) {
    *out = nullptr;
    const Fragment root = call(rule);
    nodes_[root.start].next = add(GrammarNode::kEnd);
    for (uint32_t i = 1; i < count_ && ok(); ++i) {
        GrammarNode& n = nodes_[i];
        if (n.kind == GrammarNode::kCall) n.other = rules_[n.other];
    }
    if (ok()) check_cycles();
    if (!ok()) return status_;
    for (uint32_t i = 1; i < count_; ++i) {
        GrammarNode& n = nodes_[i];
        n.next = behind_jumps(n.next);
        if (n.kind == GrammarNode::kSplit || n.kind == GrammarNode::kCall) n.other = behind_jumps(n.other);
    }
    Grammar grammar = {};
    grammar.node_count = count_;
    grammar.identity = identity;
    grammar.root = behind_jumps(root.start);
    find_classes(&grammar);
    *classes = grammar.class_count;
    auto* const placed = arena.place<Grammar>("grammar", 1);
    auto* const nodes = arena.place<GrammarNode>("grammar_nodes", count_);
    if (!placed || !nodes) return KEEL_OK;
    memcpy(nodes, nodes_, count_ * sizeof nodes[0]);
    grammar.nodes = nodes;
    *placed = grammar;
    *out = placed;
    return KEEL_OK;
}

keel_status grammar_place(const GrammarSource& source, Arena& arena, const Grammar** out, uint32_t* classes,
                          keel_error* error) {
    *out = nullptr;
    const uint64_t bytes = source.reader.size_bytes;
    if (bytes > kMaxGrammarBytes) return fail(error, KEEL_E_FILE_LIMIT, 0, "grammar", "it is longer than 32 KiB");
    char text[kMaxGrammarBytes];
    if (bytes && read_at(source.reader, 0, text, bytes) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, 0, "grammar", "the reader failed");
    GrammarBuilder builder(error);
    const uint32_t root =
        source.json_schema ? read_json_schema(&builder, text, bytes) : read_gbnf(&builder, text, bytes);
    const uint64_t identity = hash_finish(hash64(text, bytes) + source.json_schema);
    return builder.ok() ? builder.place(root, identity, arena, out, classes) : builder.status();
}

}  // namespace keel
