// A regular expression, as JSON Schema's `pattern` has it, to the graph of a grammar: what a JSON string may hold
// between its quotes. Characters are spelled in one way each: as they are where JSON allows it, else with the short
// escape that JSON has, else as \u00XX.
//
// ECMA 262 without flags that change the language: characters, ., [classes], \d \w \s \D \W \S, \t \n \v \f \r \0 \xHH
// \uHHHH and escaped punctuation, groups ( ) (?: ) (?<name> ), |, * + ? {m} {m,} {m,n} and their lazy forms, and ^ and
// $ at the ends of an alternative of the whole; anything else is KEEL_E_UNSUPPORTED, by name. Characters: code points.
#include <string.h>

#include "sdk/text/grammar_builder.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

constexpr uint32_t kMaxNesting = 32;
constexpr uint32_t kLastCode = 0x10ffff;

// Ranges, as they are read.
struct Ranges {
    CodeRange range[kMaxClassRanges];
    uint32_t count;
};

constexpr CodeRange kDigits[] = {{'0', '9'}};
constexpr CodeRange kWord[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
constexpr CodeRange kSpaces[] = {{'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680},
                                 {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                                 {0x3000, 0x3000}, {0xfeff, 0xfeff}};
constexpr CodeRange kLineEnds[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

// What stands for a character within a string: itself, or an escape.
constexpr struct {
    char code;
    char letter;
} kEscapes[] = {{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}};

class PatternReader {
  public:
    PatternReader(GrammarBuilder* builder, const char* text, size_t bytes, size_t place, uint32_t character)
        : builder_(*builder), text_(text), bytes_(bytes), place_(place), character_(character) {}
    Fragment read();

  private:
    bool ok() const { return builder_.ok(); }
    void refuse(const char* what) { builder_.fail(KEEL_E_UNSUPPORTED, place_, what); }
    void fail(const char* what) { builder_.fail(KEEL_E_FILE_FORMAT, place_, what); }
    char peek(size_t ahead = 0) const { return at_ + ahead < bytes_ ? text_[at_ + ahead] : '\0'; }
    bool take(char c) {
        const bool there = at_ < bytes_ && text_[at_] == c;
        at_ += there;
        return there;
    }
    Fragment anything() { return builder_.repeat(builder_.call(character_), 0, UINT32_MAX); }
    Fragment alternatives(uint32_t nesting);
    Fragment sequence(uint32_t nesting);
    Fragment atom(uint32_t nesting);
    Fragment repeated(Fragment body);
    Fragment group(uint32_t nesting);
    void read_class(Ranges* out);
    bool set_escape(Ranges* out);
    uint32_t character_escape();
    uint32_t hexadecimal(uint32_t digits);
    uint32_t number();
    void add(Ranges* out, CodeRange range);
    void add_all(Ranges* out, const CodeRange* ranges, uint32_t count, bool negated);
    void negate(Ranges* ranges);
    Fragment characters(Ranges* ranges);

    GrammarBuilder& builder_;
    const char* const text_;
    const size_t bytes_, place_;
    const uint32_t character_;
    size_t at_ = 0;
};

// Kept sorted by where they begin.
void PatternReader::add(Ranges* out, CodeRange range) {
    if (out->count && range.low == out->range[out->count - 1].high + 1) {
        out->range[out->count - 1].high = range.high;
        return;
    }
    if (out->count == kMaxClassRanges)
        builder_.fail(KEEL_E_FILE_LIMIT, place_, "a pattern with a class of more than 64 ranges");
    if (!ok()) return;
    uint32_t at = out->count++;
    for (; at > 0 && out->range[at - 1].low > range.low; --at) out->range[at] = out->range[at - 1];
    out->range[at] = range;
}

void PatternReader::add_all(Ranges* out, const CodeRange* ranges, uint32_t count, bool negated) {
    Ranges set = {};
    for (uint32_t i = 0; i < count; ++i) add(&set, ranges[i]);
    if (negated) negate(&set);
    for (uint32_t i = 0; i < set.count; ++i) add(out, set.range[i]);
}

void PatternReader::negate(Ranges* ranges) {
    const Ranges of = *ranges;
    *ranges = {};
    uint32_t next = 0;
    for (uint32_t i = 0; i < of.count; ++i) {
        if (of.range[i].low > next) add(ranges, {next, of.range[i].low - 1});
        if (of.range[i].high >= next) next = of.range[i].high + 1;
    }
    if (next <= kLastCode) add(ranges, {next, kLastCode});
}

// Any one character of the ranges, as a string spells it.
Fragment PatternReader::characters(Ranges* ranges) {
    if (!ok()) return {};
    const auto holds = [ranges](uint32_t code) {
        for (uint32_t i = 0; i < ranges->count; ++i)
            if (code >= ranges->range[i].low && code <= ranges->range[i].high) return true;
        return false;
    };
    Ranges plain = {};
    for (uint32_t i = 0; i < ranges->count; ++i) {
        // The parts of the range that need no escape.
        constexpr CodeRange kPlain[] = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, kLastCode}};
        for (const CodeRange& p : kPlain) {
            const CodeRange& r = ranges->range[i];
            const uint32_t low = r.low > p.low ? r.low : p.low, high = r.high < p.high ? r.high : p.high;
            if (low <= high) add(&plain, {low, high});
        }
    }
    Ranges letters = {}, last_digits[2] = {};  // of the escapes: those of \u000X and \u001X
    for (uint32_t code = 0; code <= '\\'; ++code) {
        if ((code >= 0x20 && code != '"' && code != '\\') || !holds(code)) continue;
        Ranges* to = &last_digits[code >> 4 & 1];
        char last = "0123456789abcdef"[code & 15];
        for (const auto& known : kEscapes)
            if (static_cast<uint32_t>(known.code) == code) {
                to = &letters;
                last = known.letter;
            }
        add(to, {static_cast<uint8_t>(last), static_cast<uint8_t>(last)});
    }
    // What escapes begin with is written once, so that it is one way.
    const auto also = [this](Fragment* out, Fragment one) { *out = out->start ? builder_.either(*out, one) : one; };
    const auto any_of = [this](Ranges* of) { return builder_.any_of(of->range, of->count, false); };
    Fragment digits = {}, escapes = {}, out = {};
    for (uint32_t i = 0; i < 2; ++i)
        if (last_digits[i].count)
            also(&digits, builder_.sequence(builder_.bytes(&"01"[i], 1), any_of(&last_digits[i])));
    if (letters.count) also(&escapes, any_of(&letters));
    if (digits.start) also(&escapes, builder_.sequence(builder_.bytes("u00", 3), digits));
    if (plain.count) also(&out, any_of(&plain));
    if (escapes.start) also(&out, builder_.sequence(builder_.bytes("\\", 1), escapes));
    return out.start ? out : builder_.any_of(nullptr, 0, false);  // nothing at all
}

Fragment PatternReader::read() {
    Fragment out = {};
    bool any = false;
    do {
        const bool from_start = take('^');
        Fragment one = sequence(0);
        const bool to_end = take('$');
        if (!from_start) one = builder_.sequence(anything(), one);
        if (!to_end) one = builder_.sequence(one, anything());
        out = any ? builder_.either(out, one) : one;
        any = true;
    } while (ok() && take('|'));
    if (ok() && at_ < bytes_) {
        if (peek() == ')')
            fail("a pattern with ) and no (");
        else
            refuse("a pattern with ^ or $ inside");
    }
    return out;
}

Fragment PatternReader::alternatives(uint32_t nesting) {
    if (nesting > kMaxNesting) builder_.fail(KEEL_E_FILE_LIMIT, place_, "a pattern nested too deeply");
    if (!ok()) return {};
    Fragment out = sequence(nesting);
    while (ok() && take('|')) out = builder_.either(out, sequence(nesting));
    return out;
}

Fragment PatternReader::sequence(uint32_t nesting) {
    Fragment out = builder_.nothing();
    while (ok() && at_ < bytes_ && !memchr("|)^$", text_[at_], 5)) {
        const Fragment one = atom(nesting);
        if (ok()) out = builder_.sequence(out, repeated(one));
    }
    return out;
}

Fragment PatternReader::group(uint32_t nesting) {
    if (take('?')) {
        if (take('<') && peek() != '=' && peek() != '!') {
            while (at_ < bytes_ && peek() != '>') ++at_;
            take('>');
        } else if (!take(':')) {
            refuse("a pattern that looks ahead or behind");
        }
    }
    const Fragment out = alternatives(nesting + 1);
    if (ok() && (peek() == '^' || peek() == '$')) refuse("a pattern with ^ or $ inside");
    if (ok() && !take(')')) fail("a pattern with ( and no )");
    return out;
}

Fragment PatternReader::atom(uint32_t nesting) {
    Ranges ranges = {};
    const char c = peek();
    if (take('(')) return group(nesting);
    if (memchr("*+?{}]", c, 6)) {
        fail("a pattern with a repeat of nothing, or an unescaped { } ]");
        return {};
    }
    if (take('.')) {
        add_all(&ranges, kLineEnds, 3, true);
    } else if (take('[')) {
        read_class(&ranges);
    } else if (c == '\\') {
        if (!set_escape(&ranges)) {
            const uint32_t code = character_escape();
            add(&ranges, {code, code});
        }
    } else {
        const Utf8Char one = utf8_decode(text_ + at_, bytes_ - at_);
        if (one.code >= kInvalidByte) fail("a pattern that is not UTF-8");
        at_ += one.bytes;
        add(&ranges, {one.code, one.code});
    }
    return characters(&ranges);
}

// Behind the bracket.
void PatternReader::read_class(Ranges* out) {
    const bool negated = take('^');
    while (ok() && peek() != ']') {
        if (at_ >= bytes_) fail("a pattern with [ and no ]");
        const auto one = [this]() -> uint32_t {
            if (peek() == '\\') return character_escape();
            const Utf8Char c = utf8_decode(text_ + at_, bytes_ - at_);
            if (c.code >= kInvalidByte) fail("a pattern that is not UTF-8");
            at_ += c.bytes;
            return c.code;
        };
        if (!ok() || (peek() == '\\' && set_escape(out))) continue;
        CodeRange range;
        range.low = range.high = one();
        if (ok() && peek() == '-' && at_ + 1 < bytes_ && peek(1) != ']') {
            ++at_;
            Ranges none = {};
            if (peek() == '\\' && set_escape(&none)) refuse("a pattern with a class within a range");
            range.high = ok() ? one() : range.low;
            if (ok() && range.high < range.low) fail("a pattern with a range in the wrong order");
        }
        add(out, range);
    }
    ++at_;
    if (ok() && negated) negate(out);
}

// \d and the like, if it is one.
bool PatternReader::set_escape(Ranges* out) {
    const char c = peek(1), lower = static_cast<char>(c | 32);
    if (lower != 'd' && lower != 'w' && lower != 's') return false;
    at_ += 2;
    const bool negated = c != lower;
    if (lower == 'd') add_all(out, kDigits, 1, negated);
    if (lower == 'w') add_all(out, kWord, 4, negated);
    if (lower == 's') add_all(out, kSpaces, sizeof kSpaces / sizeof kSpaces[0], negated);
    return true;
}

uint32_t PatternReader::hexadecimal(uint32_t digits) {
    uint32_t code = 0;
    for (uint32_t i = 0; i < digits && ok(); ++i, ++at_) {
        const char h = peek(), lower = static_cast<char>(h | 32);
        if (!((h >= '0' && h <= '9') || (lower >= 'a' && lower <= 'f')))
            fail("a pattern with an escape of other than hexadecimal digits");
        code = code << 4 | static_cast<uint32_t>(h <= '9' ? h - '0' : lower - 'a' + 10);
    }
    if (ok() && code >= 0xd800 && code < 0xe000) refuse("a pattern with half a surrogate pair");
    return code;
}

uint32_t PatternReader::character_escape() {
    const char c = peek(1);
    at_ += 2;
    switch (c) {
        case 't':
            return '\t';
        case 'n':
            return '\n';
        case 'v':
            return '\v';
        case 'f':
            return '\f';
        case 'r':
            return '\r';
        case '0':
            if (peek() >= '0' && peek() <= '9') refuse("a pattern with an octal escape");
            return 0;
        case 'x':
            return hexadecimal(2);
        case 'u':
            return hexadecimal(4);
        default:
            break;
    }
    if (at_ > bytes_ || static_cast<uint8_t>(c) >= 0x80) {
        fail("a pattern with an escape of nothing");
    } else if ((c >= '1' && c <= '9') || c == 'k') {
        refuse("a pattern with a reference back");
    } else if (c == 'b' || c == 'B') {
        refuse("a pattern with \\b or \\B");
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        builder_.fail(KEEL_E_UNSUPPORTED, place_, "a pattern with the escape", &text_[at_ - 1], 1);
    }
    return static_cast<uint8_t>(c);
}

uint32_t PatternReader::number() {
    uint32_t value = 0;
    const size_t begin = at_;
    for (; peek() >= '0' && peek() <= '9' && value <= kMaxRepeats; ++at_)
        value = value * 10 + static_cast<uint32_t>(peek() - '0');
    if (at_ == begin) fail("a pattern with { that is no repeat");
    return value;
}

Fragment PatternReader::repeated(Fragment body) {
    uint32_t low = 1, high = 1;
    if (take('*') || take('+')) {
        low = text_[at_ - 1] == '+';
        high = UINT32_MAX;
    } else if (take('?')) {
        low = 0;
    } else if (take('{')) {
        low = high = number();
        if (ok() && take(',')) high = peek() == '}' ? UINT32_MAX : number();
        if (ok() && !take('}')) fail("a pattern with { that is no repeat");
    } else {
        return body;
    }
    take('?');  // lazy: the same texts
    if (ok() && memchr("*+?{", peek(), 4)) fail("a pattern with a repeat of a repeat");
    return ok() ? builder_.repeat(body, low, high) : body;
}

}  // namespace

Fragment read_pattern(GrammarBuilder* builder, const char* text, size_t bytes, size_t place, uint32_t character) {
    return PatternReader(builder, text, bytes, place, character).read();
}

}  // namespace keel
