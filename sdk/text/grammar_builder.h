// Builds the graph of a grammar, for the two languages that describe one.
#pragma once
#include "sdk/text/grammar.h"

namespace keel {

constexpr uint32_t kMaxGrammarRules = 512;
constexpr uint32_t kMaxClassRanges = 64;
constexpr uint32_t kMaxRepeats = 2000;

// A piece of the graph: enter at `start`; `last` is a node whose `next` is still open.
struct Fragment {
    uint16_t start, last;
};
struct CodeRange {
    uint32_t low, high;
};

class GrammarBuilder {
  public:
    explicit GrammarBuilder(keel_error* error) : error_(error) {}

    keel_status status() const { return status_; }
    bool ok() const { return status_ == KEEL_OK; }
    // Remembers the first error. `name` is quoted behind `what`.
    void fail(keel_status status, size_t at, const char* what, const char* name = nullptr, size_t name_bytes = 0);

    Fragment nothing() { return single(GrammarNode::kJump); }
    // A node for each byte, one behind the other: those behind k of them begin at start + k.
    Fragment bytes(const char* text, size_t n);
    Fragment code_point(uint32_t code);
    // Any code point of the ranges; `ranges` is sorted. None: a fragment that takes nothing at all.
    Fragment any_of(CodeRange* ranges, uint32_t count, bool negated);
    Fragment sequence(Fragment a, Fragment b);
    Fragment either(Fragment a, Fragment b);
    // Either of two that end in the same node.
    Fragment fork(Fragment a, Fragment b) { return {add(GrammarNode::kSplit, 0, 0, a.start, b.start), a.last}; }
    Fragment repeat(Fragment body, uint32_t at_least, uint32_t at_most);  // UINT32_MAX: without end

    // Rules by number; calls may stand in front of the definition.
    Fragment call(uint32_t rule);
    uint32_t new_rule();
    uint32_t rule_count() const { return rule_count_; }
    void define(uint32_t rule, Fragment body);
    bool defined(uint32_t rule) const { return rules_[rule] != 0; }

    // Checks the graph with `rule` as its root, shortens it, and places it.
    keel_status place(uint32_t rule, uint64_t identity, Arena& arena, const Grammar** out, uint32_t* classes);

  private:
    uint16_t add(GrammarNode::Kind kind, uint8_t low = 0, uint8_t high = 0, uint16_t next = 0, uint16_t other = 0);
    Fragment single(GrammarNode::Kind kind) {
        const uint16_t node = add(kind);
        return {node, node};
    }
    struct CharacterClass;
    void add_bytes(CharacterClass* c, const uint8_t* low, const uint8_t* high, uint32_t n);
    void add_range(CharacterClass* c, uint32_t low, uint32_t high);
    void check_cycles();
    uint16_t behind_jumps(uint16_t node) const;
    void find_classes(Grammar* out) const;

    keel_error* const error_;
    keel_status status_ = KEEL_OK;
    uint32_t count_ = 1, rule_count_ = 0;    // node 0 is none
    uint16_t rules_[kMaxGrammarRules] = {};  // first node; 0: not defined
    GrammarNode nodes_[kMaxGrammarNodes] = {};
};

// Numbers, in decimals without an exponent. Bounds have at most 15 digits, 12 where numbers are not whole.
struct NumberBounds {
    bool integer, has_low, has_high, low_exclusive, high_exclusive;
    int64_t low, high;
};
// KEEL_E_UNSUPPORTED at `place` where there are none.
Fragment numbers_within(GrammarBuilder* builder, const NumberBounds& bounds, size_t place);
// The characters of a JSON string in which a regular expression finds something; `character` is the rule of any
// character of a string. What is wrong is wrong at `place`.
Fragment read_pattern(GrammarBuilder* builder, const char* text, size_t bytes, size_t place, uint32_t character);

// Describe a grammar of `text` and return the number of its root rule.
uint32_t read_gbnf(GrammarBuilder* builder, const char* text, size_t bytes);
uint32_t read_json_schema(GrammarBuilder* builder, const char* text, size_t bytes);

}  // namespace keel
