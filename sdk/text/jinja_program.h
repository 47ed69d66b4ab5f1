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

constexpr uint8_t kAnyNumber = 255;

// X(enumerator, name in a template, most arguments, their names). The names are words, in the order of the positions;
// null: any. Version 14 of clang-format lays them out anew each time.
// clang-format off
#define KEEL_JINJA_FILTERS(X) \
    X(kAbs, "abs", 0, "") X(kCapitalize, "capitalize", 0, "") X(kCount, "count", 0, "") \
    X(kD, "d", 2, "default_value boolean") X(kDefault, "default", 2, "default_value boolean") \
    X(kDictsort, "dictsort", 0, "") X(kFirst, "first", 0, "") X(kIndent, "indent", 3, "width first blank") \
    X(kInt, "int", 1, "default") X(kItems, "items", 0, "") X(kJoin, "join", 2, "d attribute") X(kLast, "last", 0, "") \
    X(kLength, "length", 0, "") X(kList, "list", 0, "") X(kLower, "lower", 0, "") X(kMap, "map", kAnyNumber, nullptr) \
    X(kMax, "max", 0, "") X(kMin, "min", 0, "") X(kReject, "reject", kAnyNumber, nullptr) \
    X(kRejectattr, "rejectattr", kAnyNumber, nullptr) X(kReplace, "replace", 3, "old new count") \
    X(kReverse, "reverse", 0, "") X(kSafe, "safe", 0, "") X(kSelect, "select", kAnyNumber, nullptr) \
    X(kSelectattr, "selectattr", kAnyNumber, nullptr) X(kString, "string", 0, "") X(kTitle, "title", 0, "") \
    X(kTojson, "tojson", 4, "ensure_ascii indent separators sort_keys") X(kTrim, "trim", 1, "chars") \
    X(kUnique, "unique", 0, "") X(kUpper, "upper", 0, "")
#define KEEL_JINJA_TESTS(X) \
    X(kBoolean, "boolean", 0, "") X(kDefined, "defined", 0, "") X(kDivisibleby, "divisibleby", 1, "") \
    X(kEq, "eq", 1, "") X(kEqualto, "equalto", 1, "") X(kEven, "even", 0, "") X(kFalse, "false", 0, "") \
    X(kFloat, "float", 0, "") X(kGe, "ge", 1, "") X(kGt, "gt", 1, "") X(kIn, "in", 1, "") \
    X(kInteger, "integer", 0, "") X(kIterable, "iterable", 0, "") X(kLe, "le", 1, "") X(kLt, "lt", 1, "") \
    X(kMapping, "mapping", 0, "") X(kNe, "ne", 1, "") X(kNone, "none", 0, "") X(kNumber, "number", 0, "") \
    X(kOdd, "odd", 0, "") X(kSequence, "sequence", 0, "") X(kString, "string", 0, "") X(kTrue, "true", 0, "") \
    X(kUndefined, "undefined", 0, "")
#define KEEL_JINJA_METHODS(X) \
    X(kCapitalize, "capitalize", 0, "") X(kCount, "count", 1, "") X(kEndswith, "endswith", 1, "") \
    X(kFind, "find", 1, "") X(kGet, "get", 2, "") X(kItems, "items", 0, "") X(kJoin, "join", 1, "") \
    X(kKeys, "keys", 0, "") X(kLower, "lower", 0, "") X(kLstrip, "lstrip", 1, "") \
    X(kRemoveprefix, "removeprefix", 1, "") X(kRemovesuffix, "removesuffix", 1, "") X(kReplace, "replace", 3, "") \
    X(kRsplit, "rsplit", 2, "sep maxsplit") X(kRstrip, "rstrip", 1, "") X(kSplit, "split", 2, "sep maxsplit") \
    X(kStartswith, "startswith", 1, "") X(kStrip, "strip", 1, "") X(kTitle, "title", 0, "") X(kUpper, "upper", 0, "") \
    X(kValues, "values", 0, "")
#define KEEL_JINJA_FUNCTIONS(X) \
    X(kDict, "dict", 0, nullptr) X(kNamespace, "namespace", 0, nullptr) X(kRaise, "raise_exception", 1, "message") \
    X(kRange, "range", 3, "") X(kNow, "strftime_now", 1, "")
// clang-format on

#define KEEL_JINJA_ENUMERATOR(symbol, ...) symbol,
#define KEEL_JINJA_NAME(symbol, text, ...) text,
#define KEEL_JINJA_LIMIT(symbol, text, most, names) {text, most, names},
enum class Filter : uint8_t { KEEL_JINJA_FILTERS(KEEL_JINJA_ENUMERATOR) };
enum class Test : uint8_t { KEEL_JINJA_TESTS(KEEL_JINJA_ENUMERATOR) };
enum class Method : uint8_t { KEEL_JINJA_METHODS(KEEL_JINJA_ENUMERATOR) };
enum class Function : uint8_t { KEEL_JINJA_FUNCTIONS(KEEL_JINJA_ENUMERATOR) };
constexpr const char* kFilterNames[] = {KEEL_JINJA_FILTERS(KEEL_JINJA_NAME)};
constexpr const char* kTestNames[] = {KEEL_JINJA_TESTS(KEEL_JINJA_NAME)};
constexpr const char* kMethodNames[] = {KEEL_JINJA_METHODS(KEEL_JINJA_NAME)};
constexpr const char* kFunctionNames[] = {KEEL_JINJA_FUNCTIONS(KEEL_JINJA_NAME)};
struct ArgumentLimit {
    const char* of;
    uint8_t most;
    const char* names;
};
constexpr ArgumentLimit kFilterLimits[] = {KEEL_JINJA_FILTERS(KEEL_JINJA_LIMIT)};
constexpr ArgumentLimit kTestLimits[] = {KEEL_JINJA_TESTS(KEEL_JINJA_LIMIT)};
constexpr ArgumentLimit kMethodLimits[] = {KEEL_JINJA_METHODS(KEEL_JINJA_LIMIT)};
constexpr ArgumentLimit kFunctionLimits[] = {KEEL_JINJA_FUNCTIONS(KEEL_JINJA_LIMIT)};

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

// White space as Python's str.strip knows it.
bool is_space(uint32_t code);

// Whether Python writes a number of digits, a point and digits as it stands here.
constexpr bool is_canonical(const char* text, size_t bytes) {
    size_t point = 0;
    while (point < bytes && text[point] != '.') ++point;
    if (point == 0 || point + 1 >= bytes || bytes - 1 > 15) return false;
    const bool zero = text[0] == '0', small = zero && bytes >= 6 && same_text("0.0000", text, 6);
    return (!zero || point == 1) && (bytes - point == 2 || text[bytes - 1] != '0') && !small;
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
