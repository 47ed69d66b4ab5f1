// A compiled template: a tree of nodes over the template's text, and the names it may use.
#pragma once
#include "sdk/text/jinja.h"

namespace keel::jinja {

enum class NodeKind : uint8_t {
    // Statements, chained by `next`.
    kText,          // text a, bytes b
    kOutput,        // expression a
    kIf,            // condition a, body b, else c: statements, or one kIf with op kElif
    kFor,           // iterable a, body b, kForParts c
    kForParts,      // condition a, else b, targets c (names, chained)
    kSet,           // name a, expression b
    kSetAttribute,  // name a, attribute name b, expression c
    kSetBlock,      // name a, body b
    kMacro,         // name a, parameters b, body c
    kBlock,         // body a, in a scope of its own (generation)
    kBreak,
    kContinue,
    kParameter,  // name a, default b or 0
    // Expressions.
    kString,   // text a, bytes b
    kNumber,   // text a, bytes b: carried as it is
    kInteger,  // low half a, high half b
    kTrue,
    kFalse,
    kNone,
    kName,        // text a, bytes b, hash c
    kAttribute,   // object a, name b
    kItem,        // object a, index b
    kSlice,       // object a, kSliceParts b
    kSliceParts,  // begin a, end b, step c, each or 0
    kCall,        // name a, arguments b
    kMethod,      // object a, arguments b, op a Method
    kFilter,      // operand a, arguments b, op a Filter
    kTest,        // operand a, arguments b, op a Test
    kArgument,    // expression a, keyword name b or 0; chained
    kNot,
    kNegate,
    kAnd,
    kOr,
    kBinary,       // op an Operator, a and b
    kConditional,  // condition a, value b, otherwise c or 0
    kList,         // arguments a
    kTuple,        // arguments a
    kDict,         // pairs a
    kPair,         // key a, value b; chained
};

constexpr uint8_t kElif = 1;

enum class Operator : uint8_t {
    kAdd,
    kSubtract,
    kMultiply,
    kFloorDivide,
    kModulo,
    kConcat,
    kEqual,
    kNotEqual,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kIn,
    kNotIn
};

// X(enumerator, name in a template). Version 14 of clang-format lays them out anew each time.
// clang-format off
#define KEEL_JINJA_FILTERS(X) \
    X(kAbs, "abs") X(kCapitalize, "capitalize") X(kCount, "count") X(kD, "d") X(kDefault, "default") \
    X(kDictsort, "dictsort") X(kFirst, "first") X(kIndent, "indent") X(kInt, "int") X(kItems, "items") \
    X(kJoin, "join") X(kLast, "last") X(kLength, "length") X(kList, "list") X(kLower, "lower") X(kMap, "map") \
    X(kMax, "max") X(kMin, "min") X(kReject, "reject") X(kRejectattr, "rejectattr") X(kReplace, "replace") \
    X(kReverse, "reverse") X(kSafe, "safe") X(kSelect, "select") X(kSelectattr, "selectattr") X(kString, "string") \
    X(kTitle, "title") X(kTojson, "tojson") X(kTrim, "trim") X(kUnique, "unique") X(kUpper, "upper")
#define KEEL_JINJA_TESTS(X) \
    X(kBoolean, "boolean") X(kDefined, "defined") X(kDivisibleby, "divisibleby") X(kEq, "eq") X(kEqualto, "equalto") \
    X(kEven, "even") X(kFalse, "false") X(kFloat, "float") X(kGe, "ge") X(kGt, "gt") X(kIn, "in") \
    X(kInteger, "integer") X(kIterable, "iterable") X(kLe, "le") X(kLt, "lt") X(kMapping, "mapping") X(kNe, "ne") \
    X(kNone, "none") X(kNumber, "number") X(kOdd, "odd") X(kSequence, "sequence") X(kString, "string") \
    X(kTrue, "true") X(kUndefined, "undefined")
#define KEEL_JINJA_METHODS(X) \
    X(kCapitalize, "capitalize") X(kCount, "count") X(kEndswith, "endswith") X(kFind, "find") X(kGet, "get") \
    X(kItems, "items") X(kJoin, "join") X(kKeys, "keys") X(kLower, "lower") X(kLstrip, "lstrip") \
    X(kRemoveprefix, "removeprefix") X(kRemovesuffix, "removesuffix") X(kReplace, "replace") X(kRsplit, "rsplit") \
    X(kRstrip, "rstrip") X(kSplit, "split") X(kStartswith, "startswith") X(kStrip, "strip") X(kTitle, "title") \
    X(kUpper, "upper") X(kValues, "values")
// clang-format on
#define KEEL_JINJA_FUNCTIONS(X)  \
    X(kDict, "dict")             \
    X(kNamespace, "namespace")   \
    X(kRaise, "raise_exception") \
    X(kRange, "range")           \
    X(kNow,                      \
      "strftime_"                \
      "now")

#define KEEL_JINJA_ENUMERATOR(symbol, text) symbol,
#define KEEL_JINJA_NAME(symbol, text) text,
enum class Filter : uint8_t { KEEL_JINJA_FILTERS(KEEL_JINJA_ENUMERATOR) };
enum class Test : uint8_t { KEEL_JINJA_TESTS(KEEL_JINJA_ENUMERATOR) };
enum class Method : uint8_t { KEEL_JINJA_METHODS(KEEL_JINJA_ENUMERATOR) };
enum class Function : uint8_t { KEEL_JINJA_FUNCTIONS(KEEL_JINJA_ENUMERATOR) };
constexpr const char* kFilterNames[] = {KEEL_JINJA_FILTERS(KEEL_JINJA_NAME)};
constexpr const char* kTestNames[] = {KEEL_JINJA_TESTS(KEEL_JINJA_NAME)};
constexpr const char* kMethodNames[] = {KEEL_JINJA_METHODS(KEEL_JINJA_NAME)};
constexpr const char* kFunctionNames[] = {KEEL_JINJA_FUNCTIONS(KEEL_JINJA_NAME)};

constexpr bool same_text(const char* literal, const char* text, size_t bytes) {
    size_t i = 0;
    for (; i < bytes && literal[i]; ++i)
        if (literal[i] != text[i]) return false;
    return i == bytes && !literal[i];
}
// Index of a name in one of the tables above, or -1.
template <size_t kCount>
constexpr int find_name(const char* const (&names)[kCount], const char* text, size_t bytes) {
    for (size_t i = 0; i < kCount; ++i)
        if (same_text(names[i], text, bytes)) return static_cast<int>(i);
    return -1;
}

struct Node {
    NodeKind kind;
    uint8_t op;
    bool negated;            // kTest
    uint32_t at;             // byte in the template, for errors
    uint32_t a, b, c, next;  // nodes (0: none) or what the kind says
};

}  // namespace keel::jinja

namespace keel {

struct JinjaProgram {
    const char* text;  // strings decoded in place
    const jinja::Node* nodes;
    uint32_t node_count, first;
};

}  // namespace keel
