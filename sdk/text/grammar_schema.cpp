// A JSON Schema to the graph of a grammar, read in place: members are found by scanning the text again, which takes no
// memory. What is accepted is JSON that the schema allows, spelled as llama.cpp's converter has it: the properties of
// an object come in the schema's order, required ones first, and white space is bounded. An escaped surrogate pair is
// one character, and half of one is none.
//
// Keywords: type (also a list), properties, required, additionalProperties, items, minItems, maxItems, minLength,
// maxLength, pattern (grammar_pattern.cpp), minimum, maximum, exclusiveMinimum, exclusiveMaximum (grammar_numbers.cpp),
// enum, const, anyOf, oneOf where no value can be of two of its schemas, allOf of objects, $ref within the text, $defs,
// definitions; annotations are passed over. Any other keyword is KEEL_E_UNSUPPORTED, by name, and so is one beside
// another with which it would have to be intersected. Without a type, the first keyword that speaks of one says which.
#include <string.h>

#include "sdk/text/grammar_builder.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

constexpr uint32_t kMaxDepth = 24;
constexpr uint32_t kMaxReferences = 64;
constexpr uint32_t kMaxPatternBytes = 1024;
constexpr uint32_t kMaxTexts = 1024;     // of one enum, and properties of objects within each other
constexpr uint32_t kMaxLooks = 20000;    // at schemas, to see what they have in common
constexpr uint64_t kMaxRead = 1u << 28;  // bytes, over and over
constexpr uint32_t kMaxMerged = 16;      // schemas of one allOf

// A stretch of the text.
struct Span {
    size_t at, end;
    size_t bytes() const { return end - at; }
    explicit operator bool() const { return end > at; }
};

// A value of an enum, or the name of a property. What begins with the nodes of the text, if these are written.
struct Text {
    uint32_t at, bytes;
    Fragment written;
};

// Schemas that one object is of, all of them.
struct Merged {
    Span part[kMaxMerged], properties[kMaxMerged];  // the latter may be empty
    uint32_t count;
};

class SchemaReader {
  public:
    SchemaReader(GrammarBuilder* builder, const char* text, size_t bytes)
        : builder_(*builder), text_(text), bytes_(bytes) {}
    uint32_t read();

  private:
    bool ok() const { return builder_.ok(); }
    void fail(size_t at, const char* what, keel_status status = KEEL_E_FILE_FORMAT) { builder_.fail(status, at, what); }

    // JSON text.
    size_t blanks(size_t at) const;
    size_t skip_string(size_t at);
    size_t skip_value(size_t at, uint32_t depth = 0);
    bool is(Span value, const char* json) const;
    // The next member of an object or element of an array from *at on, which is behind the bracket or the last element.
    bool next(size_t* at, Span* key, Span* value);
    Span member(Span object, const char* key);
    uint32_t number(Span value);
    Span resolve(Span reference);
    bool lists(Span array, Span string);

    // Fragments. `space` is the white space that may follow a token.
    Fragment text(const char* literal) { return builder_.bytes(literal, strlen(literal)); }
    Fragment then(Fragment a, Fragment b) { return builder_.sequence(a, b); }
    Fragment token(const char* literal) { return then(text(literal), space()); }
    Fragment one_of(const CodeRange* ranges, uint32_t count, bool negated = false);
    enum Primitive { kSpace, kCharacter, kString, kInteger, kNumber, kValue, kPrimitives };
    Fragment primitive(Primitive p);
    Fragment define(Primitive p);
    Fragment space() { return primitive(kSpace); }
    Fragment digits(uint32_t at_least, uint32_t at_most);
    Fragment list_of(const char* open, const char* close, uint32_t element, uint32_t at_least, uint32_t at_most);
    uint32_t rule_for(Fragment body);
    Fragment pair_of_any(Fragment value);

    Fragment schema(Span value, uint32_t depth);
    Fragment reference(Span value, uint32_t depth);
    Fragment typed(Span type, Span object, uint32_t depth);
    Fragment string(Span object);
    Fragment numbers(Span object, bool integer);
    Fragment array(Span object, uint32_t depth);
    Fragment object(const Merged& merged, uint32_t depth);
    Fragment constant(Span value);
    void check_keywords(Span object);
    void check_type(Span value, Span type);
    Fragment one_of_list(Span list, Span type, bool values, bool exactly_one, uint32_t depth);
    void sort_in(Text one, Text* texts, uint32_t* count);
    Fragment any_text(const Text* texts, uint32_t count, size_t shared, Fragment end);
    Fragment some_in_order(uint32_t first, bool written);
    bool read_strings(Span list, Text* out, uint32_t* count);
    Fragment of_type(const char* type, Span value, uint32_t depth);
    uint32_t unescaped(Span string, char* out);
    void refuse_beside(Span object, Span keyword, const char* const* allowed, uint32_t count);
    int64_t bound(Span value, bool up, bool integer, bool* moved);
    Span target_of(Span reference, uint32_t depth);
    void merge(Span schema, Merged* out, uint32_t depth);
    bool next_property(const Merged& merged, uint32_t* part, size_t* at, Span* key, Span* value);
    bool is_required(const Merged& merged, Span key);
    uint32_t types_of(Span schema, uint32_t depth);
    bool apart(Span a, Span b, uint32_t depth);
    bool values_apart(Span a, Span b);

    GrammarBuilder& builder_;
    const char* const text_;
    const size_t bytes_;
    uint32_t primitives_[kPrimitives] = {};  // rule + 1
    struct Reference {
        size_t at;
        uint32_t rule;
    } references_[kMaxReferences] = {};
    uint32_t reference_count_ = 0;
    uint32_t looks_ = 0;
    uint64_t read_ = 0;
    uint32_t text_count_ = 0;  // properties of the objects that are being read
    Text texts_[kMaxTexts];
};

// ---- JSON text ----

size_t SchemaReader::blanks(size_t at) const {
    while (at < bytes_ && (text_[at] == ' ' || text_[at] == '\t' || text_[at] == '\n' || text_[at] == '\r')) ++at;
    return at;
}

size_t SchemaReader::skip_string(size_t at) {
    const size_t begin = at;
    for (++at; at < bytes_ && text_[at] != '"'; ++at) {
        if (static_cast<uint8_t>(text_[at]) < 0x20) break;
        if (text_[at] == '\\') ++at;
    }
    if (at >= bytes_ || text_[at] != '"') fail(begin, "a string without an end");
    return ok() ? at + 1 : bytes_;
}

// Behind the value at `at`.
size_t SchemaReader::skip_value(size_t at, uint32_t depth) {
    if (depth > kMaxDepth) fail(at, "nested too deeply", KEEL_E_FILE_LIMIT);
    if (!ok() || at >= bytes_) {
        fail(at, "a value is missing");
        return bytes_;
    }
    const char c = text_[at];
    if (c == '"') return skip_string(at);
    if (c != '{' && c != '[') {
        const size_t begin = at;
        while (at < bytes_ && ((text_[at] >= '0' && text_[at] <= '9') || (text_[at] >= 'a' && text_[at] <= 'z') ||
                               text_[at] == '-' || text_[at] == '+' || text_[at] == '.' || text_[at] == 'E'))
            ++at;
        if (at == begin) fail(at, "a value is missing");
        return at;
    }
    const char close = c == '{' ? '}' : ']';
    at = blanks(at + 1);
    if (at < bytes_ && text_[at] == close) return at + 1;
    while (ok()) {
        if (c == '{') {
            if (at >= bytes_ || text_[at] != '"') {
                fail(at, "expected a key");
                break;
            }
            at = blanks(skip_string(at));
            if (at >= bytes_ || text_[at] != ':') {
                fail(at, "expected :");
                break;
            }
            at = blanks(at + 1);
        }
        at = blanks(skip_value(at, depth + 1));
        if (!ok()) break;
        if (at < bytes_ && text_[at] == close) return at + 1;
        if (at >= bytes_ || text_[at] != ',') fail(at, "expected , or the end");
        at = blanks(at + 1);
    }
    return bytes_;
}

bool SchemaReader::is(Span value, const char* json) const {
    return value.bytes() == strlen(json) && memcmp(text_ + value.at, json, value.bytes()) == 0;
}

// The text was checked as a whole, so that brackets and commas are where they belong.
bool SchemaReader::next(size_t* at, Span* key, Span* value) {
    size_t i = blanks(*at);
    if (!ok() || i >= bytes_ || text_[i] == '}' || text_[i] == ']') return false;
    if (text_[i] == ',') i = blanks(i + 1);
    if (key) {
        *key = {i, skip_string(i)};
        i = blanks(blanks(key->end) + 1);
    }
    *value = {i, skip_value(i)};
    read_ += value->end - *at;
    *at = value->end;
    if (read_ > kMaxRead) fail(i, "a schema that takes too long to read", KEEL_E_FILE_LIMIT);
    return ok();
}

Span SchemaReader::member(Span object, const char* key) {
    Span found = {}, name, value;
    if (!object || text_[object.at] != '{') return found;
    for (size_t at = object.at + 1; next(&at, &name, &value);)
        if (name.bytes() == strlen(key) + 2 && memcmp(text_ + name.at + 1, key, strlen(key)) == 0) found = value;
    return found;
}

uint32_t SchemaReader::number(Span value) {
    uint32_t out = 0;
    for (size_t i = value.at; i < value.end; ++i) {
        if (text_[i] < '0' || text_[i] > '9' || out > kMaxRepeats) {
            fail(value.at, "a bound that is no number up to 2,000", KEEL_E_FILE_LIMIT);
            return 0;
        }
        out = out * 10 + static_cast<uint32_t>(text_[i] - '0');
    }
    return out;
}

bool SchemaReader::lists(Span array, Span string) {
    Span value;
    if (!array) return false;
    for (size_t at = array.at + 1; next(&at, nullptr, &value);)
        if (value.bytes() == string.bytes() && memcmp(text_ + value.at, text_ + string.at, string.bytes()) == 0)
            return true;
    return false;
}

// What "#/$defs/name" means.
Span SchemaReader::resolve(Span reference) {
    Span at = {blanks(0), bytes_};
    size_t i = reference.at + 1;
    const size_t end = reference.end - 1;
    if (i >= end || text_[i] != '#') {
        fail(reference.at, "a $ref to another text", KEEL_E_UNSUPPORTED);
        return {};
    }
    for (++i; i < end && ok();) {
        const size_t begin = ++i;
        while (i < end && text_[i] != '/') ++i;
        char name[128];
        if (i - begin >= sizeof name || memchr(text_ + begin, '~', i - begin) ||
            memchr(text_ + begin, '%', i - begin)) {
            fail(reference.at, "this $ref", KEEL_E_UNSUPPORTED);
            return {};
        }
        memcpy(name, text_ + begin, i - begin);
        name[i - begin] = '\0';
        at = member(at, name);
        if (!at) fail(reference.at, "a $ref to what is not there");
    }
    return at;
}

// ---- fragments ----

Fragment SchemaReader::one_of(const CodeRange* ranges, uint32_t count, bool negated) {
    CodeRange copy[8];
    memcpy(copy, ranges, count * sizeof copy[0]);
    return builder_.any_of(copy, count, negated);
}

uint32_t SchemaReader::rule_for(Fragment body) {
    const uint32_t rule = builder_.new_rule();
    if (ok()) builder_.define(rule, body);
    return rule;
}

Fragment SchemaReader::digits(uint32_t at_least, uint32_t at_most) {
    static constexpr CodeRange kDigits[] = {{'0', '9'}};
    return builder_.repeat(one_of(kDigits, 1), at_least, at_most);
}

Fragment SchemaReader::primitive(Primitive p) {
    if (!primitives_[p] && ok()) {
        const uint32_t rule = builder_.new_rule();
        primitives_[p] = rule + 1;
        const Fragment body = define(p);
        if (ok()) builder_.define(rule, body);
    }
    return ok() ? builder_.call(primitives_[p] - 1) : Fragment{};
}

Fragment SchemaReader::define(Primitive p) {
    static constexpr CodeRange kTabs[] = {{'\t', '\t'}, {' ', ' '}}, kOneToNine[] = {{'1', '9'}},
                               kSign[] = {{'+', '+'}, {'-', '-'}}, kE[] = {{'E', 'E'}, {'e', 'e'}},
                               kHex[] = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}}, kD[] = {{'D', 'D'}, {'d', 'd'}},
                               kNotD[] = {{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}},
                               kZeroToSeven[] = {{'0', '7'}}, kHigh[] = {{'8', '9'}, {'A', 'B'}, {'a', 'b'}},
                               kLow[] = {{'C', 'F'}, {'c', 'f'}},
                               kEscaped[] = {{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'},
                                             {'f', 'f'}, {'n', 'n'}, {'r', 'r'},   {'t', 't'}},
                               kSpecial[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}, {0x7f, 0x7f}};
    switch (p) {
        case kSpace: {
            const Fragment line = then(builder_.repeat(text("\n"), 1, 2), builder_.repeat(one_of(kTabs, 2), 0, 20));
            return builder_.repeat(builder_.either(text(" "), line), 0, 1);
        }
        case kCharacter: {
            // \uXXXX, where one of d800 to dbff and one of dc00 to dfff together are one character.
            const uint32_t hex = rule_for(one_of(kHex, 3));
            const auto hex_digits = [&](uint32_t n) {
                Fragment out = builder_.call(hex);
                while (--n) out = then(out, builder_.call(hex));
                return out;
            };
            const Fragment low = then(then(text("\\u"), one_of(kD, 2)), then(one_of(kLow, 2), hex_digits(2))),
                           pair = then(then(one_of(kHigh, 3), hex_digits(2)), low),
                           alone = then(one_of(kZeroToSeven, 1), hex_digits(2)),
                           unicode = builder_.either(then(one_of(kNotD, 5), hex_digits(3)),
                                                     then(one_of(kD, 2), builder_.either(alone, pair)));
            const Fragment escape = builder_.either(one_of(kEscaped, 8), then(text("u"), unicode));
            return builder_.either(one_of(kSpecial, 4, true), then(text("\\"), escape));
        }
        case kString:
            return then(then(text("\""), builder_.repeat(primitive(kCharacter), 0, UINT32_MAX)), token("\""));
        case kInteger: {
            const Fragment longer = then(one_of(kOneToNine, 1), digits(0, 15));
            return then(builder_.repeat(text("-"), 0, 1), builder_.either(text("0"), longer));
        }
        case kNumber: {
            const Fragment fraction = then(text("."), digits(1, 16));
            const Fragment exponent = then(then(one_of(kE, 2), builder_.repeat(one_of(kSign, 2), 0, 1)), digits(1, 3));
            return then(then(primitive(kInteger), builder_.repeat(fraction, 0, 1)), builder_.repeat(exponent, 0, 1));
        }
        case kValue: {
            const uint32_t value = primitives_[kValue] - 1;
            const uint32_t pair = rule_for(pair_of_any(builder_.call(value)));
            Fragment out = builder_.either(primitive(kString), then(primitive(kNumber), space()));
            static constexpr const char* kWords[] = {"true", "false", "null"};
            for (const char* word : kWords) out = builder_.either(out, token(word));
            out = builder_.either(out, list_of("{", "}", pair, 0, UINT32_MAX));
            return builder_.either(out, list_of("[", "]", value, 0, UINT32_MAX));
        }
        case kPrimitives:
            break;
    }
    return {};
}

Fragment SchemaReader::pair_of_any(Fragment value) {
    return then(then(primitive(kString), token(":")), value);
}

// Elements with commas between brackets.
Fragment SchemaReader::list_of(const char* open, const char* close, uint32_t element, uint32_t at_least,
                               uint32_t at_most) {
    Fragment inner = builder_.nothing();
    if (at_most > 0) {
        const Fragment more = then(token(","), builder_.call(element));
        const uint32_t most = at_most == UINT32_MAX ? at_most : at_most - 1;
        inner = then(builder_.call(element), builder_.repeat(more, at_least ? at_least - 1 : 0, most));
        if (at_least == 0) inner = builder_.repeat(inner, 0, 1);
    }
    return then(then(token(open), inner), token(close));
}

// ---- schemas ----

void SchemaReader::check_keywords(Span object) {
    static constexpr const char* kKnown[] = {"type",
                                             "properties",
                                             "required",
                                             "additionalProperties",
                                             "items",
                                             "minItems",
                                             "maxItems",
                                             "minLength",
                                             "maxLength",
                                             "pattern",
                                             "minimum",
                                             "exclusiveMinimum",
                                             "exclusiveMaximum",
                                             "maximum",
                                             "enum",
                                             "const",
                                             "anyOf",
                                             "oneOf",
                                             "allOf",
                                             "$ref"};
    refuse_beside(object, {}, kKnown, sizeof kKnown / sizeof kKnown[0]);
}

// Refuses members that are neither allowed nor annotations: keywords that Keel does not have, or, beside `keyword`,
// does not have there.
void SchemaReader::refuse_beside(Span object, Span keyword, const char* const* allowed, uint32_t count) {
    static constexpr const char* kAnnotations[] = {"$defs",    "definitions", "title",     "description", "default",
                                                   "examples", "$schema",     "$id",       "$comment",    "format",
                                                   "readOnly", "writeOnly",   "deprecated"};
    Span key, value;
    for (size_t at = object.at + 1; next(&at, &key, &value);) {
        bool known = keyword && value.at == keyword.at;
        const auto look = [&](const char* name) {
            known = known || (key.bytes() == strlen(name) + 2 && memcmp(text_ + key.at + 1, name, strlen(name)) == 0);
        };
        for (const char* name : kAnnotations) look(name);
        for (uint32_t i = 0; i < count; ++i) look(allowed[i]);
        if (!known)
            builder_.fail(KEEL_E_UNSUPPORTED, key.at,
                          keyword ? "beside $ref, const, enum, anyOf, oneOf or allOf the keyword" : "keyword",
                          text_ + key.at + 1, key.bytes() - 2);
    }
}

// A value as it stands, with the white space that the grammar has between tokens.
Fragment SchemaReader::constant(Span value) {
    Fragment out = builder_.nothing();
    for (size_t i = value.at; i < value.end && ok();) {
        const size_t end = text_[i] == '"' ? skip_string(i) : i + 1;
        if (blanks(i) == i) out = then(out, builder_.bytes(text_ + i, end - i));
        if (memchr("{}[],:", text_[i], 6)) out = then(out, space());
        i = end;
    }
    return text_[value.at] == '{' || text_[value.at] == '[' ? out : then(out, space());
}

// ---- which values there are ----

enum : uint32_t {
    kNullType = 1,
    kBooleanType = 2,
    kNumberType = 4,
    kStringType = 8,
    kArrayType = 16,
    kObjectType = 32
};
constexpr uint32_t kAllTypes = 63;

// Types that values of a schema may have, as bits; more than they do where that is not plain to see.
uint32_t SchemaReader::types_of(Span value, uint32_t depth) {
    if (depth > kMaxDepth || !ok() || text_[value.at] != '{' || ++looks_ > kMaxLooks) return kAllTypes;
    if (const Span target = member(value, "$ref")) return types_of(target_of(target, depth), depth + 1);
    const auto of_value = [this](Span v) -> uint32_t {
        switch (text_[v.at]) {
            case '{':
                return kObjectType;
            case '[':
                return kArrayType;
            case '"':
                return kStringType;
            case 't':
            case 'f':
                return kBooleanType;
            case 'n':
                return kNullType;
            default:
                return kNumberType;
        }
    };
    const auto of_name = [this](Span v) -> uint32_t {
        return is(v, "\"null\"")      ? kNullType
               : is(v, "\"boolean\"") ? kBooleanType
               : is(v, "\"string\"")  ? kStringType
               : is(v, "\"array\"")   ? kArrayType
               : is(v, "\"object\"")  ? kObjectType
                                      : kNumberType;
    };
    const auto of_list = [this](Span list, auto of) {
        uint32_t out = 0;
        Span entry;
        for (size_t at = list.at + 1; text_[list.at] == '[' && next(&at, nullptr, &entry);) out |= of(entry);
        return out;
    };
    if (const Span v = member(value, "const")) return of_value(v);
    if (const Span list = member(value, "enum")) return of_list(list, of_value);
    static constexpr const char* kChoices[] = {"anyOf", "oneOf"};
    for (const char* key : kChoices)
        if (const Span list = member(value, key))
            return of_list(list, [&](Span entry) { return types_of(entry, depth + 1); });
    const Span type = member(value, "type");
    if (type) return text_[type.at] == '[' ? of_list(type, of_name) : of_name(type);
    if (member(value, "properties") || member(value, "required") || member(value, "additionalProperties") ||
        member(value, "allOf"))
        return kObjectType;
    return kAllTypes;
}

// Whether no value of one const or enum is one of the other's. Values with more than one spelling are not told apart.
bool SchemaReader::values_apart(Span a, Span b) {
    const auto values = [this](Span schema) {
        const Span only = member(schema, "const");
        return only ? only : member(schema, "enum");
    };
    const auto is_plain = [this](Span v) {
        return memchr("tfn", text_[v.at], 3) || (text_[v.at] == '"' && !memchr(text_ + v.at, '\\', v.bytes()));
    };
    const Span of_a = values(a), of_b = values(b);
    if (!of_a || !of_b) return false;
    const bool list_a = !member(a, "const"), list_b = !member(b, "const");
    const auto each = [&](Span list, bool is_list, auto use) {
        if (!is_list) return use(list);
        Span entry;
        for (size_t at = list.at + 1; next(&at, nullptr, &entry);)
            if (!use(entry)) return false;
        return true;
    };
    return each(of_a, list_a, [&](Span x) {
        return is_plain(x) && each(of_b, list_b, [&](Span y) {
                   return is_plain(y) && (x.bytes() != y.bytes() || memcmp(text_ + x.at, text_ + y.at, x.bytes()) != 0);
               });
    });
}

// Whether it is plain that no value is of both schemas: other types, other values, or objects that a required property
// tells apart.
bool SchemaReader::apart(Span a, Span b, uint32_t depth) {
    const auto follow = [&](Span* s) {
        for (uint32_t i = 0; i < kMaxDepth && ok() && text_[s->at] == '{'; ++i) {
            const Span reference = member(*s, "$ref");
            if (!reference) break;
            *s = target_of(reference, depth);
        }
    };
    follow(&a);
    follow(&b);
    if (!ok() || depth > kMaxDepth || ++looks_ > kMaxLooks || text_[a.at] != '{' || text_[b.at] != '{') return false;
    const uint32_t both = types_of(a, depth) & types_of(b, depth);
    if (both == 0 || values_apart(a, b)) return true;
    if (both != kObjectType) return false;
    const Span of_a = member(a, "properties"), required_a = member(a, "required"), required_b = member(b, "required"),
               of_b = member(b, "properties");
    Span key, x, other, y;
    for (size_t at = of_a.at + 1; of_a && of_b && next(&at, &key, &x);)
        for (size_t of = of_b.at + 1; next(&of, &other, &y);)
            if (key.bytes() == other.bytes() && memcmp(text_ + key.at, text_ + other.at, key.bytes()) == 0 &&
                lists(required_a, key) && lists(required_b, key) && apart(x, y, depth + 1))
                return true;
    return false;
}

Fragment SchemaReader::schema(Span value, uint32_t depth) {
    if (depth > kMaxDepth) fail(value.at, "nested too deeply", KEEL_E_FILE_LIMIT);
    if (!ok()) return {};
    if (is(value, "true")) return primitive(kValue);
    if (text_[value.at] != '{') {
        fail(value.at, "a schema that is no object");
        return {};
    }
    check_keywords(value);
    if (const Span target = member(value, "$ref")) {
        refuse_beside(value, target, nullptr, 0);
        return ok() ? reference(resolve(target), depth) : Fragment{};
    }
    const Span type = member(value, "type");
    static constexpr const char* kType[] = {"type"};
    static constexpr const char* kLists[] = {"const", "enum", "anyOf", "oneOf"};
    for (const char* key : kLists) {
        const Span list = member(value, key);
        if (!list) continue;
        const bool values = key[0] == 'c' || key[0] == 'e';
        refuse_beside(value, list, kType, values);
        if (key[0] == 'c') {
            check_type(list, type);
            return ok() ? constant(list) : Fragment{};
        }
        return ok() ? one_of_list(list, type, key[0] == 'e', key[0] == 'o', depth) : Fragment{};
    }
    if (const Span parts = member(value, "allOf")) {
        static constexpr const char* kMergeable[] = {"type", "properties", "required", "additionalProperties"};
        refuse_beside(value, parts, kMergeable, 4);
        Merged merged = {};
        merge(value, &merged, depth);
        if (!ok()) return {};
        if (merged.count == 0) return primitive(kValue);
        const bool another = merged.count == 1 && merged.part[0].at != value.at;
        return another ? schema(merged.part[0], depth + 1) : object(merged, depth);
    }
    if (type && text_[type.at] == '[') {
        Fragment out = {};
        bool any = false;
        Span entry;
        for (size_t at = type.at + 1; ok() && next(&at, nullptr, &entry);) {
            const Fragment one = typed(entry, value, depth + 1);
            out = any ? builder_.either(out, one) : one;
            any = true;
        }
        if (!any) fail(type.at, "an empty list of alternatives");
        return out;
    }
    if (type) return typed(type, value, depth);
    static constexpr const char* kImplied[][2] = {{"properties", "\"object\""},
                                                  {"required", "\"object\""},
                                                  {"additionalProperties", "\"object\""},
                                                  {"items", "\"array\""},
                                                  {"minItems", "\"array\""},
                                                  {"maxItems", "\"array\""},
                                                  {"pattern", "\"string\""},
                                                  {"minLength", "\"string\""},
                                                  {"maxLength", "\"string\""},
                                                  {"minimum", "\"number\""},
                                                  {"maximum", "\"number\""},
                                                  {"exclusiveMinimum", "\"number\""},
                                                  {"exclusiveMaximum", "\"number\""}};
    for (const auto& implied : kImplied)
        if (member(value, implied[0])) return of_type(implied[1], value, depth);
    return primitive(kValue);
}

// Puts a text where it belongs by its bytes, unless it is there.
void SchemaReader::sort_in(Text one, Text* texts, uint32_t* count) {
    const auto order = [this](const Text& a, const Text& b) {
        const int first = memcmp(text_ + a.at, text_ + b.at, a.bytes < b.bytes ? a.bytes : b.bytes);
        return first ? first : a.bytes < b.bytes ? -1 : a.bytes > b.bytes;
    };
    uint32_t place = *count;
    while (place > 0 && order(one, texts[place - 1]) < 0) --place;
    if (place > 0 && order(one, texts[place - 1]) == 0) return;
    memmove(texts + place + 1, texts + place, (*count - place) * sizeof texts[0]);
    texts[place] = one;
    ++*count;
}

// Any of the texts, which are sorted, with what begins alike written once: so that one of hundreds is not as many
// alternatives. They are alike in the first `shared` bytes, which are written. Behind those that are not written yet
// stands `end`.
Fragment SchemaReader::any_text(const Text* texts, uint32_t count, size_t shared, Fragment end) {
    if (!ok()) return {};
    if (count == 1) {
        const Fragment written = texts[0].written;
        if (written.start) return {static_cast<uint16_t>(written.start + shared), written.last};
        return then(builder_.bytes(text_ + texts[0].at + shared, texts[0].bytes - shared), end);
    }
    Fragment out = {};
    for (uint32_t i = 0, next = 0; i < count && ok(); i = next) {
        // Those with one next byte, and all they have in common. The first is the shortest; no other one ends there, as
        // quotes end them and equal ones were left out.
        const auto byte = [&](uint32_t k, size_t at) { return text_[texts[k].at + at]; };
        for (next = i; next < count && byte(next, shared) == byte(i, shared);) ++next;
        size_t alike = shared;
        while (next - i > 1 && byte(i, alike) == byte(next - 1, alike)) ++alike;
        Fragment one = any_text(texts + i, next - i, alike, end);
        if (alike > shared) one = then(builder_.bytes(text_ + texts[i].at + shared, alike - shared), one);
        out = out.start ? builder_.fork(out, one) : one;
    }
    return out;
}

// Whether it is a list of nothing but strings; these, sorted by their bytes, once each.
bool SchemaReader::read_strings(Span list, Text* out, uint32_t* count) {
    *count = 0;
    Span value;
    for (size_t at = list.at + 1; next(&at, nullptr, &value);) {
        if (text_[value.at] != '"' || out + *count == texts_ + kMaxTexts) return false;
        sort_in({static_cast<uint32_t>(value.at), static_cast<uint32_t>(value.bytes()), {}}, out, count);
    }
    return *count > 0;
}

// Values, or schemas, of a list.
Fragment SchemaReader::one_of_list(Span list, Span type, bool values, bool exactly_one, uint32_t depth) {
    if (text_[list.at] != '[') fail(list.at, "expected a list");
    Fragment out = {};
    bool any = false;
    Span entry, other;
    if (values && ok()) {
        Text* const texts = texts_ + text_count_;
        uint32_t count;
        if (read_strings(list, texts, &count)) {
            check_type({texts[0].at, texts[0].at + texts[0].bytes}, type);
            return any_text(texts, count, 0, space());
        }
    }
    for (size_t at = list.at + 1; ok() && next(&at, nullptr, &entry);) {
        if (values) check_type(entry, type);
        size_t behind = at;
        while (exactly_one && ok() && next(&behind, nullptr, &other))
            if (!apart(entry, other, depth))
                fail(other.at, "oneOf of schemas that one value may be of both of; anyOf takes them",
                     KEEL_E_UNSUPPORTED);
        const Fragment one = values ? constant(entry) : schema(entry, depth + 1);
        out = any ? builder_.either(out, one) : one;
        any = true;
    }
    if (!any) fail(list.at, "an empty list of alternatives");
    return out;
}

// Refuses a value that is not of the type beside it.
void SchemaReader::check_type(Span value, Span type) {
    if (!type || !ok()) return;
    const char c = text_[value.at];
    const bool whole = (c == '-' || (c >= '0' && c <= '9')) && !memchr(text_ + value.at, '.', value.bytes()) &&
                       !memchr(text_ + value.at, 'e', value.bytes()) && !memchr(text_ + value.at, 'E', value.bytes());
    const char* const name = c == '"'               ? "\"string\""
                             : c == '{'             ? "\"object\""
                             : c == '['             ? "\"array\""
                             : c == 'n'             ? "\"null\""
                             : c == 't' || c == 'f' ? "\"boolean\""
                                                    : "\"number\"";
    const auto fits = [&](Span t) { return is(t, name) || (whole && is(t, "\"integer\"")); };
    bool found = text_[type.at] != '[' && fits(type);
    Span entry;
    for (size_t at = type.at + 1; text_[type.at] == '[' && next(&at, nullptr, &entry);) found = found || fits(entry);
    if (!found) fail(value.at, "a value that is not of the type beside it", KEEL_E_UNSUPPORTED);
}

// Each target once, as a rule, so that schemas may refer to themselves.
Fragment SchemaReader::reference(Span target, uint32_t depth) {
    if (!ok()) return {};
    for (uint32_t i = 0; i < reference_count_; ++i)
        if (references_[i].at == target.at) return builder_.call(references_[i].rule);
    if (reference_count_ == kMaxReferences) fail(target.at, "more than 64 references", KEEL_E_FILE_LIMIT);
    const uint32_t rule = builder_.new_rule();
    if (!ok()) return {};
    references_[reference_count_++] = {target.at, rule};
    const Fragment body = schema(target, depth + 1);
    if (ok()) builder_.define(rule, body);
    return builder_.call(rule);
}

Fragment SchemaReader::typed(Span type, Span value, uint32_t depth) {
    static constexpr const char* kTypes[] = {"\"string\"", "\"integer\"", "\"number\"", "\"boolean\"",
                                             "\"null\"",   "\"array\"",   "\"object\""};
    for (const char* name : kTypes)
        if (is(type, name)) return of_type(name, value, depth);
    fail(type.at, "there is no such type");
    return {};
}

// `type` in quotes.
Fragment SchemaReader::of_type(const char* type, Span value, uint32_t depth) {
    switch (type[1]) {
        case 's':
            return string(value);
        case 'i':
            return then(numbers(value, true), space());
        case 'b':
            return builder_.either(token("true"), token("false"));
        case 'a':
            return array(value, depth);
        case 'o':
            return object({{value}, {member(value, "properties")}, 1}, depth);
        default:
            return type[2] == 'u' && type[3] == 'l' ? token("null") : then(numbers(value, false), space());
    }
}

// A bound as a whole number. One with a fraction moves `up` or down to the next whole number, and *moved says so; only
// whole numbers may be bounded by one.
int64_t SchemaReader::bound(Span value, bool up, bool integer, bool* moved) {
    *moved = false;
    size_t at = value.at;
    const bool negative = text_[at] == '-';
    int64_t out = 0;
    uint32_t digits = 0;
    bool fraction = false;
    for (at += negative; at < value.end && text_[at] >= '0' && text_[at] <= '9'; ++at) {
        if (++digits > (integer ? 15u : 12u)) break;
        out = out * 10 + (text_[at] - '0');
    }
    if (at < value.end && text_[at] == '.')
        for (++at; at < value.end && text_[at] >= '0' && text_[at] <= '9'; ++at) fraction |= text_[at] != '0';
    if (digits == 0 || at < value.end)
        fail(value.at, "a bound with more than 15 digits (12 where numbers are not whole), or an exponent",
             KEEL_E_UNSUPPORTED);
    if (fraction && !integer)
        fail(value.at, "a bound with a fraction, of numbers that are not whole", KEEL_E_UNSUPPORTED);
    if (negative) out = -out;
    if (fraction && up != negative) out += up ? 1 : -1;
    *moved = fraction;
    return out;
}

Fragment SchemaReader::numbers(Span value, bool integer) {
    NumberBounds bounds = {};
    bounds.integer = integer;
    size_t place = 0;
    static constexpr const char* kLow[] = {"minimum", "exclusiveMinimum"};
    static constexpr const char* kHigh[] = {"maximum", "exclusiveMaximum"};
    for (const char* key : kLow)
        if (const Span v = member(value, key)) {
            bool moved;
            const int64_t low = bound(v, true, integer, &moved);
            const bool exclusive = key[0] == 'e' && !moved;
            place = v.at;
            if (bounds.has_low && (low < bounds.low || (low == bounds.low && !exclusive))) continue;
            bounds.has_low = true;
            bounds.low = low;
            bounds.low_exclusive = exclusive;
        }
    for (const char* key : kHigh)
        if (const Span v = member(value, key)) {
            bool moved;
            const int64_t high = bound(v, false, integer, &moved);
            const bool exclusive = key[0] == 'e' && !moved;
            place = v.at;
            if (bounds.has_high && (high > bounds.high || (high == bounds.high && !exclusive))) continue;
            bounds.has_high = true;
            bounds.high = high;
            bounds.high_exclusive = exclusive;
        }
    if (!bounds.has_low && !bounds.has_high) return primitive(integer ? kInteger : kNumber);
    return ok() ? numbers_within(&builder_, bounds, place) : Fragment{};
}

// The text between the quotes, without JSON's escapes.
uint32_t SchemaReader::unescaped(Span string, char* out) {
    uint32_t bytes = 0;
    for (size_t i = string.at + 1; i + 1 < string.end && ok(); ++i) {
        char c = text_[i];
        if (bytes + 4 > kMaxPatternBytes) fail(string.at, "a pattern of more than 1,024 bytes", KEEL_E_FILE_LIMIT);
        if (c == '\\') {
            c = text_[++i];
            static constexpr char kLetters[] = "bfnrt", kMeaning[] = "\b\f\n\r\t";
            if (const void* const known = memchr(kLetters, c, sizeof kLetters - 1))
                c = kMeaning[static_cast<const char*>(known) - kLetters];
            if (c == 'u') {
                uint32_t code = 0;
                for (uint32_t digit = 0; digit < 4 && ok(); ++digit) {
                    const char h = text_[++i], lower = static_cast<char>(h | 32);
                    const bool is_digit = h >= '0' && h <= '9';
                    if (i + 1 >= string.end || !(is_digit || (lower >= 'a' && lower <= 'f')))
                        fail(string.at, "an escape with other than hexadecimal digits");
                    code = code << 4 | static_cast<uint32_t>(is_digit ? h - '0' : lower - 'a' + 10);
                }
                if (code >= 0xd800 && code < 0xe000)
                    fail(string.at, "a pattern with half a surrogate pair", KEEL_E_UNSUPPORTED);
                if (ok()) bytes += utf8_encode(code, out + bytes);
                continue;
            }
        }
        out[bytes++] = c;
    }
    return bytes;
}

Fragment SchemaReader::string(Span value) {
    const Span least = member(value, "minLength"), most = member(value, "maxLength"),
               pattern = member(value, "pattern");
    if (pattern) {
        if (least || most) fail((least ? least : most).at, "minLength or maxLength beside pattern", KEEL_E_UNSUPPORTED);
        if (text_[pattern.at] != '"') fail(pattern.at, "a pattern that is no string");
        char plain[kMaxPatternBytes];
        const uint32_t bytes = ok() ? unescaped(pattern, plain) : 0;
        primitive(kCharacter);  // so that there is its rule
        if (!ok()) return {};
        const Fragment body = read_pattern(&builder_, plain, bytes, pattern.at, primitives_[kCharacter] - 1);
        return ok() ? then(then(text("\""), body), token("\"")) : Fragment{};
    }
    if (!least && !most) return primitive(kString);
    const uint32_t low = least ? number(least) : 0, high = most ? number(most) : UINT32_MAX;
    if (low > high) fail(least.at, "minLength above maxLength", KEEL_E_FILE_LIMIT);
    return then(then(text("\""), builder_.repeat(primitive(kCharacter), low, high)), token("\""));
}

Fragment SchemaReader::array(Span value, uint32_t depth) {
    const Span items = member(value, "items"), least = member(value, "minItems"), most = member(value, "maxItems");
    const uint32_t element = rule_for(items ? schema(items, depth + 1) : primitive(kValue));
    const uint32_t low = least ? number(least) : 0, high = most ? number(most) : UINT32_MAX;
    if (low > high) fail(least.at, "minItems above maxItems", KEEL_E_FILE_LIMIT);
    return list_of("[", "]", element, low, high);
}

// What a $ref means, references that it goes through included.
Span SchemaReader::target_of(Span reference, uint32_t depth) {
    if (depth > kMaxDepth) fail(reference.at, "nested too deeply", KEEL_E_FILE_LIMIT);
    return ok() ? resolve(reference) : Span{};
}

// The schema without its allOf, then those in that.
void SchemaReader::merge(Span value, Merged* out, uint32_t depth) {
    if (depth > kMaxDepth || ++looks_ > kMaxLooks) fail(value.at, "nested too deeply", KEEL_E_FILE_LIMIT);
    if (!ok() || is(value, "true")) return;
    if (text_[value.at] != '{') {
        fail(value.at, "a schema that is no object");
        return;
    }
    check_keywords(value);
    if (const Span target = member(value, "$ref")) {
        refuse_beside(value, target, nullptr, 0);
        const Span schema = target_of(target, depth);
        if (ok()) merge(schema, out, depth + 1);
        return;
    }
    const Span parts = member(value, "allOf");
    const bool more = member(value, "properties") || member(value, "required") ||
                      member(value, "additionalProperties") || member(value, "type") || !parts;
    if (more) {
        if (out->count == kMaxMerged) fail(value.at, "allOf of more than 16 schemas", KEEL_E_FILE_LIMIT);
        if (!ok()) return;
        out->properties[out->count] = member(value, "properties");
        out->part[out->count++] = value;
    }
    Span entry;
    if (parts && text_[parts.at] != '[') fail(parts.at, "expected a list");
    for (size_t at = parts.at + 1; parts && ok() && next(&at, nullptr, &entry);) merge(entry, out, depth + 1);
}

// The next property of the schemas, from *part 0 and *at 0 on.
bool SchemaReader::next_property(const Merged& merged, uint32_t* part, size_t* at, Span* key, Span* value) {
    for (; *part < merged.count && ok(); ++*part, *at = 0) {
        const Span properties = merged.properties[*part];
        if (!properties) continue;
        if (*at == 0) *at = properties.at + 1;
        if (next(at, key, value)) return true;
    }
    return false;
}

bool SchemaReader::is_required(const Merged& merged, Span key) {
    for (uint32_t i = 0; i < merged.count; ++i)
        if (lists(member(merged.part[i], "required"), key)) return true;
    return false;
}

Fragment SchemaReader::object(const Merged& merged, uint32_t depth) {
    Span key, inner, entry;
    const auto same = [this](Span a, Span b) {
        return a.bytes() == b.bytes() && memcmp(text_ + a.at, text_ + b.at, a.bytes()) == 0;
    };
    bool properties = false, required = false;
    Span others = {};
    for (uint32_t i = 0; i < merged.count && ok(); ++i) {
        const Span part = merged.part[i], given = member(part, "additionalProperties");
        if (merged.count > 1) {
            static constexpr const char* kOfObjects[] = {"type", "properties", "required", "additionalProperties",
                                                         "allOf"};
            refuse_beside(part, part, kOfObjects, 5);
            const Span type = member(part, "type");
            if (type && !is(type, "\"object\"")) fail(type.at, "allOf of what are no objects", KEEL_E_UNSUPPORTED);
        }
        if (given && !is(given, "true")) {
            if (merged.count > 1) fail(given.at, "additionalProperties within or beside allOf", KEEL_E_UNSUPPORTED);
            others = given;
        }
        properties = properties || merged.properties[i];
        const Span list = member(part, "required");
        for (size_t at = list ? list.at + 1 : bytes_; ok() && next(&at, nullptr, &entry);) {
            bool there = false;
            uint32_t of = 0;
            for (size_t p = 0; next_property(merged, &of, &p, &key, &inner);) there = there || same(key, entry);
            if (!there) fail(entry.at, "a required property that is not described", KEEL_E_UNSUPPORTED);
            required = true;
        }
    }
    if (!ok()) return {};
    if (!properties) {
        if (others && is(others, "false")) return then(token("{"), token("}"));
        const Fragment any = others ? schema(others, depth + 1) : primitive(kValue);
        return list_of("{", "}", rule_for(pair_of_any(any)), 0, UINT32_MAX);
    }
    if (others && !is(others, "false")) fail(others.at, "additionalProperties beside properties", KEEL_E_UNSUPPORTED);
    uint32_t part = 0;
    for (size_t at = 0; next_property(merged, &part, &at, &key, &inner);) {
        uint32_t other = part;
        size_t behind = at;
        Span again, unused;
        while (next_property(merged, &other, &behind, &again, &unused))
            if (same(key, again)) fail(again.at, "a property that is described twice", KEEL_E_UNSUPPORTED);
    }
    const auto pair = [&] {
        return then(then(builder_.bytes(text_ + key.at, key.bytes()), token(":")), schema(inner, depth + 1));
    };
    // Required ones first.
    Fragment body = builder_.nothing();
    bool any = false;
    part = 0;
    for (size_t at = 0; required && ok() && next_property(merged, &part, &at, &key, &inner);) {
        if (!is_required(merged, key)) continue;
        if (any) body = then(body, token(","));
        body = then(body, pair());
        any = true;
    }
    const uint32_t first = text_count_;
    part = 0;
    for (size_t at = 0; ok() && next_property(merged, &part, &at, &key, &inner);) {
        if (required && is_required(merged, key)) continue;
        const Fragment one = pair();
        if (text_count_ == kMaxTexts) fail(key.at, "more than 1,024 properties", KEEL_E_FILE_LIMIT);
        if (ok()) texts_[text_count_++] = {static_cast<uint32_t>(key.at), static_cast<uint32_t>(key.bytes()), one};
    }
    body = then(body, some_in_order(first, required));
    text_count_ = first;
    return then(then(token("{"), body), token("}"));
}

// Any of the properties from `first` on, in their order, with commas between them, and in front of them where others
// are `written`. Behind a property may come each one up to the next multiple of 8, from there each group of 8 up to the
// next multiple of 64, and from there each group of 64. A group has what its names begin with written once: so there
// are few ways at a time, however many properties there are.
Fragment SchemaReader::some_in_order(uint32_t first, bool written) {
    static constexpr uint32_t kGroups[] = {1, 8, 64};
    constexpr uint32_t kLevels = sizeof kGroups / sizeof kGroups[0];
    const Fragment end = builder_.nothing();
    const uint32_t count = text_count_ - first;
    Text* const texts = texts_ + first;
    Fragment from[kLevels] = {}, rest = end;  // what begins at the next group of a level; what may follow a property
    for (uint32_t i = count; i-- > 0 && ok();) {
        then(texts[i].written, rest);
        texts[i].written.last = end.last;
        uint32_t level = kLevels - 1;
        while (i % kGroups[level]) --level;
        const uint32_t size = kGroups[level] < count - i ? kGroups[level] : count - i;
        for (uint32_t k = 0, sorted = 0; k < size; ++k) sort_in(texts[i + k], texts + i, &sorted);
        Fragment next = any_text(texts + i, size, 0, end);
        if (i + size < count) next = builder_.fork(next, from[level]);
        for (uint32_t k = 0; k <= level; ++k) from[k] = next;
        const Fragment more = i > 0 || written ? then(token(","), next) : next;
        rest = builder_.fork(more, end);
    }
    return {rest.start, end.last};
}

uint32_t SchemaReader::read() {
    const size_t begin = blanks(0);
    const size_t end = skip_value(begin);
    if (ok() && blanks(end) != bytes_) fail(end, "text behind the schema");
    return ok() ? rule_for(reference({begin, end}, 0)) : 0;
}

}  // namespace

uint32_t read_json_schema(GrammarBuilder* builder, const char* text, size_t bytes) {
    return SchemaReader(builder, text, bytes).read();
}

}  // namespace keel
