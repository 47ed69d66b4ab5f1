// A JSON Schema to the graph of a grammar, read in place: members are found by scanning the text again, which takes no
// memory. What is accepted is JSON that the schema allows, spelled as llama.cpp's converter has it: the properties of
// an object come in the schema's order, required ones first, and white space is bounded.
//
// Keywords: type (also a list), properties, required, additionalProperties, items, minItems, maxItems, minLength,
// maxLength, enum, const, anyOf, oneOf (as anyOf), $ref within the text, $defs, definitions; annotations are passed
// over. Any other keyword is KEEL_E_UNSUPPORTED, by name.
#include <string.h>

#include "sdk/text/grammar_builder.h"

namespace keel {
namespace {

constexpr uint32_t kMaxDepth = 24;
constexpr uint32_t kMaxReferences = 64;

// A stretch of the text.
struct Span {
    size_t at, end;
    size_t bytes() const { return end - at; }
    explicit operator bool() const { return end > at; }
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
    Fragment array(Span object, uint32_t depth);
    Fragment object(Span object, uint32_t depth);
    Fragment constant(Span value);
    void check_keywords(Span object);

    GrammarBuilder& builder_;
    const char* const text_;
    const size_t bytes_;
    uint32_t primitives_[kPrimitives] = {};  // rule + 1
    struct Reference {
        size_t at;
        uint32_t rule;
    } references_[kMaxReferences] = {};
    uint32_t reference_count_ = 0;
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
    *at = value->end;
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
                               kHex[] = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}},
                               kEscaped[] = {{'"', '"'}, {'/', '/'}, {'\\', '\\'}, {'b', 'b'},
                                             {'f', 'f'}, {'n', 'n'}, {'r', 'r'},   {'t', 't'}},
                               kSpecial[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}, {0x7f, 0x7f}};
    switch (p) {
        case kSpace: {
            const Fragment line = then(builder_.repeat(text("\n"), 1, 2), builder_.repeat(one_of(kTabs, 2), 0, 20));
            return builder_.repeat(builder_.either(text(" "), line), 0, 1);
        }
        case kCharacter: {
            const Fragment unicode = then(text("u"), builder_.repeat(one_of(kHex, 3), 4, 4));
            const Fragment escape = then(text("\\"), builder_.either(one_of(kEscaped, 8), unicode));
            return builder_.either(one_of(kSpecial, 4, true), escape);
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
    static constexpr const char* kKnown[] = {"type",      "properties",  "required",  "additionalProperties",
                                             "items",     "minItems",    "maxItems",  "minLength",
                                             "maxLength", "enum",        "const",     "anyOf",
                                             "oneOf",     "$ref",        "$defs",     "definitions",
                                             "title",     "description", "default",   "examples",
                                             "$schema",   "$id",         "$comment",  "format",
                                             "readOnly",  "writeOnly",   "deprecated"};
    Span key, value;
    for (size_t at = object.at + 1; next(&at, &key, &value);) {
        bool known = false;
        for (const char* name : kKnown)
            known = known || (key.bytes() == strlen(name) + 2 && memcmp(text_ + key.at + 1, name, strlen(name)) == 0);
        if (!known) builder_.fail(KEEL_E_UNSUPPORTED, key.at, "keyword", text_ + key.at + 1, key.bytes() - 2);
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

Fragment SchemaReader::schema(Span value, uint32_t depth) {
    if (depth > kMaxDepth) fail(value.at, "nested too deeply", KEEL_E_FILE_LIMIT);
    if (!ok()) return {};
    if (is(value, "true")) return primitive(kValue);
    if (text_[value.at] != '{') {
        fail(value.at, "a schema that is no object");
        return {};
    }
    check_keywords(value);
    if (const Span target = member(value, "$ref")) return reference(resolve(target), depth);
    if (const Span only = member(value, "const")) return constant(only);
    Span list = member(value, "enum"), entry;
    const bool values = static_cast<bool>(list);
    if (!values) list = member(value, "anyOf");
    if (!list) list = member(value, "oneOf");
    const Span type = member(value, "type");
    const bool types = !list && type && text_[type.at] == '[';
    if (types) list = type;
    if (!list) {
        if (type) return typed(type, value, depth);
        if (member(value, "properties") || member(value, "additionalProperties")) return object(value, depth);
        if (member(value, "items")) return array(value, depth);
        return primitive(kValue);
    }
    if (text_[list.at] != '[') fail(list.at, "expected a list");
    Fragment out = {};
    bool any = false;
    for (size_t at = list.at + 1; ok() && next(&at, nullptr, &entry);) {
        const Fragment one = values  ? constant(entry)
                             : types ? typed(entry, value, depth + 1)
                                     : schema(entry, depth + 1);
        out = any ? builder_.either(out, one) : one;
        any = true;
    }
    if (!any) fail(list.at, "an empty list of alternatives");
    return out;
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
    if (is(type, "\"string\"")) return string(value);
    if (is(type, "\"integer\"")) return then(primitive(kInteger), space());
    if (is(type, "\"number\"")) return then(primitive(kNumber), space());
    if (is(type, "\"boolean\"")) return builder_.either(token("true"), token("false"));
    if (is(type, "\"null\"")) return token("null");
    if (is(type, "\"array\"")) return array(value, depth);
    if (is(type, "\"object\"")) return object(value, depth);
    fail(type.at, "there is no such type");
    return {};
}

Fragment SchemaReader::string(Span value) {
    const Span least = member(value, "minLength"), most = member(value, "maxLength");
    if (!least && !most) return primitive(kString);
    const uint32_t low = least ? number(least) : 0, high = most ? number(most) : UINT32_MAX;
    return then(then(text("\""), builder_.repeat(primitive(kCharacter), low, high)), token("\""));
}

Fragment SchemaReader::array(Span value, uint32_t depth) {
    const Span items = member(value, "items"), least = member(value, "minItems"), most = member(value, "maxItems");
    const uint32_t element = rule_for(items ? schema(items, depth + 1) : primitive(kValue));
    return list_of("[", "]", element, least ? number(least) : 0, most ? number(most) : UINT32_MAX);
}

Fragment SchemaReader::object(Span value, uint32_t depth) {
    const Span properties = member(value, "properties"), required = member(value, "required"),
               others = member(value, "additionalProperties");
    Span key, inner, entry;
    if (!properties) {
        size_t first = required.at + 1;
        if (required && next(&first, nullptr, &entry))
            fail(required.at, "required without properties", KEEL_E_UNSUPPORTED);
        if (others && is(others, "false")) return then(token("{"), token("}"));
        const Fragment any = others ? schema(others, depth + 1) : primitive(kValue);
        return list_of("{", "}", rule_for(pair_of_any(any)), 0, UINT32_MAX);
    }
    if (others && !is(others, "false")) fail(others.at, "additionalProperties beside properties", KEEL_E_UNSUPPORTED);
    for (size_t at = required ? required.at + 1 : bytes_; ok() && next(&at, nullptr, &entry);) {
        bool there = false;
        for (size_t p = properties.at + 1; next(&p, &key, &inner);)
            there =
                there || (key.bytes() == entry.bytes() && memcmp(text_ + key.at, text_ + entry.at, key.bytes()) == 0);
        if (!there) fail(entry.at, "a required property that is not described", KEEL_E_UNSUPPORTED);
    }
    const auto pair = [&] {
        return then(then(builder_.bytes(text_ + key.at, key.bytes()), token(":")), schema(inner, depth + 1));
    };
    Fragment body = builder_.nothing();
    bool any = false;
    for (size_t at = properties.at + 1; ok() && next(&at, &key, &inner);) {
        if (!lists(required, key)) continue;
        if (any) body = then(body, token(","));
        body = then(body, pair());
        any = true;
    }
    if (any) {
        for (size_t at = properties.at + 1; ok() && next(&at, &key, &inner);)
            if (!lists(required, key)) body = then(body, builder_.repeat(then(token(","), pair()), 0, 1));
        return then(then(token("{"), body), token("}"));
    }
    // All are optional: `some` is what may follow the first i of them when nothing is written yet, `more` when there
    // is. Both go through the properties from the last to the first, by their number.
    uint32_t count = 0;
    for (size_t at = properties.at + 1; next(&at, &key, &inner);) ++count;
    Fragment some = builder_.nothing(), more = builder_.nothing();
    for (uint32_t i = count; i-- > 0 && ok();) {
        size_t at = properties.at + 1;
        for (uint32_t k = 0; k <= i; ++k) next(&at, &key, &inner);
        const uint32_t one = rule_for(pair()), rest = rule_for(more);
        more = then(builder_.repeat(then(token(","), builder_.call(one)), 0, 1), builder_.call(rest));
        some = builder_.either(then(builder_.call(one), builder_.call(rest)), some);
    }
    return then(then(token("{"), some), token("}"));
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
