// GBNF text to the graph of a grammar.
#include <string.h>

#include "sdk/text/grammar_builder.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

constexpr uint32_t kMaxNesting = 32;

class GbnfReader {
  public:
    GbnfReader(GrammarBuilder* builder, const char* text, size_t bytes)
        : builder_(*builder), text_(text), bytes_(bytes) {}
    uint32_t read();

  private:
    struct Name {
        size_t at, bytes;
    };

    bool ok() const { return builder_.ok(); }
    void fail(const char* what) { builder_.fail(KEEL_E_FILE_FORMAT, at_, what); }
    char peek() const { return at_ < bytes_ ? text_[at_] : '\0'; }
    void blanks(bool lines);
    bool read_name(Name* out);
    uint32_t rule_of(Name name);
    Fragment alternates(uint32_t nesting);
    Fragment one_sequence(uint32_t nesting);
    Fragment element(uint32_t nesting);
    Fragment repeated(Fragment body, bool lines);
    Fragment char_class();
    uint32_t character();
    uint32_t number();

    GrammarBuilder& builder_;
    const char* const text_;
    const size_t bytes_;
    size_t at_ = 0;
    Name names_[kMaxGrammarRules] = {};  // by rule; repeats have rules without a name
};

bool is_name_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

// White space and comments; line ends only with `lines`.
void GbnfReader::blanks(bool lines) {
    for (; at_ < bytes_; ++at_) {
        const char c = text_[at_];
        if (c == '#') {
            while (at_ + 1 < bytes_ && text_[at_ + 1] != '\n' && text_[at_ + 1] != '\r') ++at_;
        } else if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r'))) {
            break;
        }
    }
}

bool GbnfReader::read_name(Name* out) {
    *out = {at_, 0};
    while (at_ < bytes_ && is_name_character(text_[at_])) ++at_;
    out->bytes = at_ - out->at;
    return out->bytes != 0;
}

uint32_t GbnfReader::rule_of(Name name) {
    for (uint32_t i = 0; i < builder_.rule_count(); ++i)
        if (names_[i].bytes == name.bytes && memcmp(text_ + names_[i].at, text_ + name.at, name.bytes) == 0) return i;
    const uint32_t rule = builder_.new_rule();
    names_[rule] = name;
    return rule;
}

uint32_t GbnfReader::read() {
    Name root = {};
    for (blanks(true); ok() && at_ < bytes_; blanks(true)) {
        Name name;
        if (!read_name(&name)) {
            fail("expected the name of a rule");
            break;
        }
        const uint32_t rule = rule_of(name);
        blanks(false);
        if (bytes_ - at_ < 3 || memcmp(text_ + at_, "::=", 3) != 0) {
            fail("expected ::=");
            break;
        }
        at_ += 3;
        if (ok() && builder_.defined(rule)) fail("a rule that is defined twice");
        blanks(true);
        const Fragment body = alternates(0);
        builder_.define(rule, body);
        if (ok() && at_ < bytes_ && peek() != '\n' && peek() != '\r') fail("expected the end of the rule");
        if (name.bytes == 4 && memcmp(text_ + name.at, "root", 4) == 0) root = name;
    }
    if (ok() && root.bytes == 0) fail("there is no rule \"root\"");
    for (uint32_t i = 0; i < builder_.rule_count() && ok(); ++i)
        if (!builder_.defined(i))
            builder_.fail(KEEL_E_FILE_FORMAT, names_[i].at, "there is no rule", text_ + names_[i].at, names_[i].bytes);
    return ok() ? rule_of(root) : 0;
}

Fragment GbnfReader::alternates(uint32_t nesting) {
    if (nesting > kMaxNesting) builder_.fail(KEEL_E_FILE_LIMIT, at_, "nested too deeply");
    if (!ok()) return {};
    Fragment out = one_sequence(nesting);
    while (ok() && peek() == '|') {
        ++at_;
        blanks(true);
        out = builder_.either(out, one_sequence(nesting));
    }
    return out;
}

Fragment GbnfReader::one_sequence(uint32_t nesting) {
    Fragment out = builder_.nothing();
    while (ok()) {
        const char c = peek();
        if (c != '"' && c != '[' && c != '(' && c != '.' && !is_name_character(c)) break;
        const Fragment one = element(nesting);
        out = builder_.sequence(out, repeated(one, nesting > 0));
    }
    return out;
}

Fragment GbnfReader::element(uint32_t nesting) {
    const char c = text_[at_];
    if (c == '"') {
        Fragment out = builder_.nothing();
        for (++at_; ok() && peek() != '"';) {
            if (at_ >= bytes_) fail("a literal without an end");
            if (ok()) out = builder_.sequence(out, builder_.code_point(character()));
        }
        ++at_;
        return out;
    }
    if (c == '[') return char_class();
    if (c == '.') {
        ++at_;
        return builder_.any_of(nullptr, 0, true);
    }
    if (c == '(') {
        ++at_;
        blanks(true);
        const Fragment out = alternates(nesting + 1);
        if (ok() && peek() != ')') fail("expected )");
        ++at_;
        return out;
    }
    Name name;
    read_name(&name);
    return builder_.call(rule_of(name));
}

// Behind an element white space and postfixes, one after the other, as in llama.cpp; line ends only with `lines`.
Fragment GbnfReader::repeated(Fragment body, bool lines) {
    for (blanks(lines); ok(); blanks(lines)) {
        const char c = peek();
        if (c == '*' || c == '+' || c == '?') {
            ++at_;
            body = builder_.repeat(body, c == '+', c == '?' ? 1 : UINT32_MAX);
        } else if (c == '{') {
            ++at_;
            blanks(lines);
            uint32_t low = 0, high = UINT32_MAX;
            const bool has_low = peek() != ',';
            if (has_low) low = high = number();
            blanks(lines);
            if (peek() == ',') {
                ++at_;
                blanks(lines);
                high = peek() == '}' ? UINT32_MAX : number();
            }
            blanks(lines);
            if (ok() && peek() != '}') fail("expected }");
            ++at_;
            if (ok()) body = builder_.repeat(body, low, high);
        } else {
            break;
        }
    }
    return body;
}

uint32_t GbnfReader::number() {
    uint32_t value = 0;
    const size_t begin = at_;
    for (; peek() >= '0' && peek() <= '9' && value <= kMaxRepeats; ++at_)
        value = value * 10 + static_cast<uint32_t>(peek() - '0');
    if (at_ == begin) fail("expected a number");
    return value;
}

// A code point as it stands, or an escape.
uint32_t GbnfReader::character() {
    if (text_[at_] != '\\') {
        const Utf8Char c = utf8_decode(text_ + at_, bytes_ - at_);
        if (c.code >= kInvalidByte) fail("text that is not UTF-8");
        at_ += c.bytes;
        return c.code;
    }
    if (bytes_ - at_ < 2) {
        fail("an escape without an end");
        return 0;
    }
    const char c = text_[at_ + 1];
    at_ += 2;
    const uint32_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    for (uint32_t i = 0; i < digits; ++i, ++at_) {
        const char h = peek(), lower = static_cast<char>(h | 32);
        if (!((h >= '0' && h <= '9') || (lower >= 'a' && lower <= 'f'))) {
            fail("an escape with other than hexadecimal digits");
            return 0;
        }
        code = code << 4 | static_cast<uint32_t>(h <= '9' ? h - '0' : lower - 'a' + 10);
    }
    if (digits) {
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) fail("an escape of no character");
        return code;
    }
    switch (c) {
        case 'n':
            return '\n';
        case 't':
            return '\t';
        case 'r':
            return '\r';
        case '\\':
        case '"':
        case '[':
        case ']':
        case '-':
            return static_cast<uint8_t>(c);
        default:
            --at_;
            fail("this escape");
            return 0;
    }
}

Fragment GbnfReader::char_class() {
    CodeRange ranges[kMaxClassRanges];
    uint32_t count = 0;
    ++at_;
    const bool negated = peek() == '^';
    at_ += negated;
    while (ok() && peek() != ']') {
        if (at_ >= bytes_) fail("a class without an end");
        if (count == kMaxClassRanges) builder_.fail(KEEL_E_FILE_LIMIT, at_, "a class of more than 64 ranges");
        if (!ok()) return {};
        CodeRange r;
        r.low = r.high = character();
        if (peek() == '-' && at_ + 1 < bytes_ && text_[at_ + 1] != ']') {
            ++at_;
            r.high = character();
            if (ok() && r.high < r.low) fail("a range in the wrong order");
        }
        uint32_t at = count++;  // sorted by where they begin
        for (; at > 0 && ranges[at - 1].low > r.low; --at) ranges[at] = ranges[at - 1];
        ranges[at] = r;
    }
    ++at_;
    return ok() ? builder_.any_of(ranges, count, negated) : Fragment{};
}

}  // namespace

uint32_t read_gbnf(GrammarBuilder* builder, const char* text, size_t bytes) {
    return GbnfReader(builder, text, bytes).read();
}

}  // namespace keel
