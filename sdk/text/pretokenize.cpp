// Pre-tokenizer patterns as hand-written matchers. The pattern a matcher stands for is written above it; alternatives
// are tried in its order and repeat greedily, as in the regular expression. Only where a pattern can give back
// characters does the code do so, and says why it stays linear.
#include "sdk/text/pretokenize.h"

#include <string.h>

#include "sdk/text/unicode_tables.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

// ---- sets of classes ----

constexpr uint32_t bit(uint32_t char_class) {
    return 1u << char_class;
}
constexpr uint32_t kUpper = bit(kClassLu) | bit(kClassLt) | bit(kClassLm) | bit(kClassLo) | bit(kClassM);
constexpr uint32_t kLower = bit(kClassLl) | bit(kClassLm) | bit(kClassLo) | bit(kClassM);
constexpr uint32_t kLetter = bit(kClassLu) | bit(kClassLl) | bit(kClassLt) | bit(kClassLm) | bit(kClassLo);
constexpr uint32_t kMark = bit(kClassM);
constexpr uint32_t kNumber = bit(kClassN);
constexpr uint32_t kPunctuation = bit(kClassP);
constexpr uint32_t kSymbol = bit(kClassS);
constexpr uint32_t kSpace = bit(kClassSpace);
constexpr uint32_t kAny = bit(kClassSpace + 1) - 1;

constexpr uint32_t kOther = kAny & ~(kSpace | kLetter | kNumber);
constexpr uint32_t kWordSets[] = {kLetter, kNumber, kOther};

// A character of the text: its set, and its code; past the end the set is empty.
struct Char {
    uint32_t set, code, bytes;
};
Char char_at(const char* text, size_t bytes, size_t at) {
    if (at >= bytes) return {0, UINT32_MAX, 0};
    const Utf8Char c = utf8_decode(text + at, bytes - at);
    return {c.code < kInvalidByte ? bit(char_class(c.code)) : bit(kClassOther), c.code, c.bytes};
}
bool is_newline(const Char& c) {
    return c.code == '\r' || c.code == '\n';
}

// End of the longest run from `at` of characters in `set`.
size_t span(const char* text, size_t bytes, size_t at, uint32_t set) {
    for (Char c; (c = char_at(text, bytes, at)).set & set;) at += c.bytes;
    return at;
}

// ---- pieces patterns share ----

// 's|'t|'re|'ve|'m|'ll|'d, letters in either case if `any_case`: its end, or 0.
size_t contraction(const char* text, size_t bytes, size_t at, bool any_case) {
    if (bytes - at < 2 || text[at] != '\'') return 0;
    const char fold = any_case ? 0x20 : 0;
    const char a = static_cast<char>(text[at + 1] | fold);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
    if (bytes - at < 3) return 0;
    const char b = static_cast<char>(text[at + 2] | fold);
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? at + 3 : 0;
}

// \s+(?!\S)|\s+ at the start of the text: a run of white space leaves its last character to what follows it.
size_t white_space(const char* text, size_t bytes) {
    size_t end = 0, last = 0;
    for (Char c; (c = char_at(text, bytes, end)).set & kSpace; end += c.bytes) last = end;
    return end == bytes || last == 0 ? end : last;
}

// \s*[\r\n]+ at the start of the text; 0: none.
size_t newlines_after_space(const char* text, size_t bytes) {
    size_t newline_end = 0;
    for (size_t at = 0;;) {
        const Char c = char_at(text, bytes, at);
        if (!(c.set & kSpace)) break;
        at += c.bytes;
        if (is_newline(c)) newline_end = at;
    }
    return newline_end;
}
// \s*[\r\n]+|\s+(?!\S)|\s+ at the start of the text.
size_t lines_or_white_space(const char* text, size_t bytes) {
    const size_t newline_end = newlines_after_space(text, bytes);
    return newline_end ? newline_end : white_space(text, bytes);
}

// A match at the start of the text, else the first character alone.
bool from_start(const char* text, size_t bytes, size_t end, Match* match) {
    *match = {0, end ? end : char_at(text, bytes, 0).bytes};
    return true;
}

// ---- the main patterns: some alternative matches at every position ----

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
bool match_gpt2(const char* text, size_t bytes, Match* match) {
    if (bytes == 0) return false;
    if (const size_t end = contraction(text, bytes, 0, false)) return from_start(text, bytes, end, match);
    const size_t skip = text[0] == ' ' ? 1 : 0;
    const uint32_t first = char_at(text, bytes, skip).set;
    for (const uint32_t set : kWordSets)
        if (first & set) return from_start(text, bytes, span(text, bytes, skip, set), match);
    return from_start(text, bytes, white_space(text, bytes), match);
}

// What tells the newer patterns apart. CONTRACTION: (?i:'s|'t|'re|'ve|'m|'ll|'d). OTHER: [^\s\p{L}\p{N}], without marks.
struct Style {
    uint32_t digits;             // \p{N}{1,digits}
    bool contractions = true;    // CONTRACTION| comes first
    uint32_t word = kLetter;     // what words are of
    uint32_t other = kOther;     // what is neither white space nor word nor number
    bool newlines = true;        // OTHER+[\r\n]*, else OTHER+
    bool slashes = false;        // OTHER+[\r\n/]*
    bool one_newline = false;    // OTHER+[\r\n/]?; a `/` is OTHER already
    bool powers_of_two = false;  // white space in runs of 512, 256, ... 4, 2 or 1 characters
};

// Behind \s*[\r\n]+|, for which every call looks through the whole run of white space: \s{512}(?!\S)|\s{256}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}
size_t spaces_in_powers_of_two(const char* text, size_t bytes) {
    size_t ends[513] = {};
    uint32_t count = 0;
    for (Char c; count < 512 && (c = char_at(text, bytes, ends[count])).set & kSpace; ++count)
        ends[count + 1] = ends[count] + c.bytes;
    const auto fits = [&](uint32_t n) {  // and what follows is white space or the end
        return n <= count && (ends[n] == bytes || char_at(text, bytes, ends[n]).set & kSpace);
    };
    for (uint32_t n = 512; n >= 2; n /= 2)
        if (fits(n)) return ends[n];
    return ends[count < 1 ? count : 1];
}

// \p{N}{1,digits}| ?OTHER+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
template <Style kStyle>
size_t numbers_marks_spaces(const char* text, size_t bytes) {
    size_t end = 0;
    for (uint32_t i = 0; i < kStyle.digits; ++i) {
        const Char c = char_at(text, bytes, end);
        if (!(c.set & kNumber)) break;
        end += c.bytes;
    }
    if (end) return end;
    const size_t skip = text[0] == ' ' ? 1 : 0;
    end = span(text, bytes, skip, kStyle.other);
    if (end == skip) {
        if constexpr (!kStyle.powers_of_two) return lines_or_white_space(text, bytes);
        const size_t lines = newlines_after_space(text, bytes);
        return lines ? lines : spaces_in_powers_of_two(text, bytes);
    }
    while (kStyle.newlines && end < bytes &&
           (text[end] == '\r' || text[end] == '\n' || (kStyle.slashes && text[end] == '/'))) {
        ++end;
        if (kStyle.one_newline) break;
    }
    return end;
}

// CONTRACTION|[^\r\n\p{L}\p{N}]?WORD+|\p{N}{1,digits}| ?OTHER+[\r\n]*|...
// A mark that stands in the optional place and is of WORD itself is given back where nothing else follows, and is then
// a word: so the word may begin with it at once.
template <Style kStyle>
bool match_cl100k(const char* text, size_t bytes, Match* match) {
    if (bytes == 0) return false;
    if (kStyle.contractions)
        if (const size_t end = contraction(text, bytes, 0, true)) return from_start(text, bytes, end, match);
    const Char first = char_at(text, bytes, 0);
    const size_t skip = first.set & (kStyle.word | kLetter | kNumber) || is_newline(first) ? 0 : first.bytes;
    const size_t end = span(text, bytes, skip, kStyle.word);
    if (end > skip) return from_start(text, bytes, end, match);
    return from_start(text, bytes, numbers_marks_spaces<kStyle>(text, bytes), match);
}

// CONTRACTION|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?OTHER+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+
// Words with the single spaces between them. \s*[\r\n] takes all newlines of a run of white space, as \s*[\r\n]+ does.
bool match_joined_words(const char* text, size_t bytes, Match* match) {
    if (bytes == 0) return false;
    if (const size_t end = contraction(text, bytes, 0, true)) return from_start(text, bytes, end, match);
    const Char first = char_at(text, bytes, 0);
    size_t end = first.set & (kLetter | kNumber) || is_newline(first) ? 0 : first.bytes;
    if (!(char_at(text, bytes, end).set & kLetter)) {
        constexpr Style kStyle = {.digits = 1, .one_newline = true};
        return from_start(text, bytes, numbers_marks_spaces<kStyle>(text, bytes), match);
    }
    for (;;) {
        end = span(text, bytes, span(text, bytes, end, kLetter), kMark);
        if (char_at(text, bytes, end).set & kLetter) continue;
        if (end == bytes || text[end] != ' ' || !(char_at(text, bytes, end + 1).set & kLetter)) break;
        ++end;
    }
    return from_start(text, bytes, end, match);
}

// [^\r\n\p{L}\p{N}]?UPPER*LOWER+SUFFIX|[^\r\n\p{L}\p{N}]?UPPER+LOWER*SUFFIX|\p{N}{1,kDigits}|
//  ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
// UPPER: [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], LOWER: [\p{Ll}\p{Lm}\p{Lo}\p{M}], SUFFIX: (?i:'s|'t|'re|'ve|'m|'ll|'d)? with
// kSuffix, else nothing.
//
// When no LOWER follows the UPPER run, the first form gives characters back until one of the run is itself LOWER; all
// behind that one are not, so the next match does not give back over them again and the whole stays linear. When the
// run has none, a mark in the optional place is given back too, and is a word by itself. Only then the second form
// takes the UPPER run.
template <uint32_t kDigits, bool kSuffix>
bool match_cased(const char* text, size_t bytes, Match* match) {
    if (bytes == 0) return false;
    const Char first = char_at(text, bytes, 0);
    const size_t skip = first.set & (kLetter | kNumber) || is_newline(first) ? 0 : first.bytes;
    size_t upper_end = skip, shared_end = 0;
    for (Char c; (c = char_at(text, bytes, upper_end)).set & kUpper;) {
        upper_end += c.bytes;
        if (c.set & kLower) shared_end = upper_end;
    }
    size_t end = span(text, bytes, upper_end, kLower);
    if (end == upper_end) end = shared_end ? shared_end : first.set & kMark ? skip : upper_end > skip ? upper_end : 0;
    if (!end)
        return from_start(text, bytes, numbers_marks_spaces<Style{.digits = kDigits, .slashes = true}>(text, bytes),
                          match);
    if (kSuffix)
        if (const size_t suffix_end = contraction(text, bytes, end, true)) end = suffix_end;
    return from_start(text, bytes, end, match);
}

// ---- stages that search: what they do not match is handed on between the matches ----

struct Range {
    uint32_t first, last;
};
template <size_t kCount>
bool in_ranges(const Range (&ranges)[kCount], uint32_t code) {
    for (const Range& r : ranges)
        if (code <= r.last) return code >= r.first;  // ascending
    return false;
}

// Sets as functions of a character.
bool in_number(const Char& c) {
    return c.set & kNumber;
}
bool in_letter(const Char& c) {
    return c.set & kLetter;
}
bool in_punctuation(const Char& c) {
    return c.set & kPunctuation;
}
// [\p{P}\$\+<=>\^~\|`]
bool in_ascii_marks(const Char& c) {
    return (c.set & kPunctuation) || (c.code < 0x80 && (c.set & kSymbol));
}
// [\p{P}\$\+<=>\^~\|]
bool in_ascii_marks_but_backtick(const Char& c) {
    return in_ascii_marks(c) && c.code != '`';
}
bool in_ascii_digits(const Char& c) {
    return c.code >= '0' && c.code <= '9';
}

// The letters deepseek-llm cuts at: scripts with case.
bool in_cased_letters(const Char& c) {
    static constexpr Range kRanges[] = {
        {0x41, 0x5a},       {0x61, 0x7a},       {0xb5, 0xb5},       {0xc0, 0xd6},       {0xd8, 0xf6},
        {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},     {0x295, 0x2af},     {0x370, 0x373},
        {0x376, 0x376},     {0x377, 0x377},     {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},
        {0x388, 0x38a},     {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},
        {0x48a, 0x52f},     {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},   {0x13f8, 0x13fd},
        {0x1c90, 0x1cba},   {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},   {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},
        {0x1e00, 0x1f15},   {0x1f18, 0x1f1d},   {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},
        {0x1f59, 0x1f59},   {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},
        {0x1fb6, 0x1fbc},   {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},   {0x1fd0, 0x1fd3},
        {0x1fd6, 0x1fdb},   {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},   {0x1ff6, 0x1ffc},   {0x2102, 0x2102},
        {0x2107, 0x2107},   {0x210a, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},
        {0x2126, 0x2126},   {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},
        {0x213c, 0x213f},   {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2183},   {0x2184, 0x2184},
        {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},   {0x2ceb, 0x2cee},   {0x2cf2, 0x2cf2},   {0x2cf3, 0x2cf3},
        {0xa640, 0xa66d},   {0xa680, 0xa69b},   {0xa722, 0xa76f},   {0xa771, 0xa787},   {0xa78b, 0xa78e},
        {0xab70, 0xabbf},   {0xfb00, 0xfb06},   {0xfb13, 0xfb17},   {0xff21, 0xff3a},   {0xff41, 0xff5a},
        {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb}, {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2},
        {0x118a0, 0x118df}, {0x1e900, 0x1e943},
    };
    return in_ranges(kRanges, c.code);
}
// [!-/:-~！-／：-～‘-‟　-。]
bool in_wide_marks(const Char& c) {
    static constexpr Range kRanges[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201f},
                                        {0x3000, 0x3002}, {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
    return in_ranges(kRanges, c.code);
}
// [一-龥ࠀ-一가-퟿]
bool in_east_asian(const Char& c) {
    static constexpr Range kRanges[] = {{0x800, 0x9fa5}, {0xac00, 0xd7ff}};
    return in_ranges(kRanges, c.code);
}

// [一-龥぀-ゟ゠-ヿ]
bool in_han_and_kana(const Char& c) {
    static constexpr Range kRanges[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
    return in_ranges(kRanges, c.code);
}
// [一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]
bool in_scripts_without_spaces(const Char& c) {
    static constexpr Range kRanges[] = {
        {0xe40, 0xeff},   {0x1000, 0x109f}, {0x1100, 0x11ff}, {0x1780, 0x17ff}, {0x2f00, 0x2fdf},
        {0x3040, 0x30ff}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xa9e0, 0xa9ff}, {0xaa60, 0xaa7f},
        {0xac00, 0xd7af}, {0xf900, 0xfaff}, {0xff65, 0xff9f},
    };
    return in_ranges(kRanges, c.code);
}
// [\p{P}!-/:-@\[-`{-~]
bool in_punctuation_or_ascii_marks(const Char& c) {
    return in_ascii_marks(c);
}

// SET{kLeast,kMost}, leftmost; with kSpaceBefore \s?SET...: one white space character before belongs to it.
template <bool (*kIn)(const Char&), uint32_t kLeast, uint32_t kMost, bool kSpaceBefore = false>
bool match_set(const char* text, size_t bytes, Match* match) {
    uint32_t count = 0;
    size_t begin = 0, before = SIZE_MAX;
    for (size_t at = 0; at < bytes;) {
        const Char c = char_at(text, bytes, at);
        if (kIn(c)) {
            if (count++ == 0) begin = kSpaceBefore && before != SIZE_MAX ? before : at;
            if (count == kMost) return *match = {begin, at + c.bytes}, true;
        } else {
            if (count >= kLeast) return *match = {begin, at}, true;
            count = 0;
            before = c.set & kSpace ? at : SIZE_MAX;
        }
        at += c.bytes;
    }
    return count >= kLeast ? (*match = {begin, bytes}, true) : false;
}

// A pattern that matches at the start of what it is given, or not (0), searched for.
template <size_t (*kHere)(const char*, size_t)>
bool search(const char* text, size_t bytes, Match* match) {
    for (size_t at = 0; at < bytes; at += char_at(text, bytes, at).bytes)
        if (const size_t length = kHere(text + at, bytes - at)) return *match = {at, at + length}, true;
    return false;
}

bool ascii_letter(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+NEWLINES|SPACES
// NEWLINES: [\r\n]*, SPACES: \s*[\r\n]+|\s+(?!\S)|\s+; with kNewlineAlone nothing, and [\r\n]|\s+(?!\S)|\s+.
template <bool kNewlineAlone>
size_t deepseek3_here(const char* text, size_t bytes) {
    constexpr uint32_t kWord = kLetter | kMark, kMarks = kPunctuation | kSymbol;
    const Char first = char_at(text, bytes, 0);
    if (first.code < 0x80 && first.set & kMarks && bytes > 1 && ascii_letter(text[1])) {
        size_t end = 1;
        while (end < bytes && ascii_letter(text[end])) ++end;
        return end;
    }
    const size_t skip = first.set & (kWord | kMarks) || is_newline(first) ? 0 : first.bytes;
    size_t end = span(text, bytes, skip, kWord);
    if (end > skip) return end;
    const size_t space = text[0] == ' ' ? 1 : 0;
    end = span(text, bytes, space, kMarks);
    if (end > space) {
        while (!kNewlineAlone && end < bytes && (text[end] == '\r' || text[end] == '\n')) ++end;
        return end;
    }
    if (kNewlineAlone) return is_newline(first) ? 1 : white_space(text, bytes);
    return lines_or_white_space(text, bytes);
}

//  ?[^(\s|.,!?…。，、।۔،)]+
size_t bloom_here(const char* text, size_t bytes) {
    const auto in = [](const Char& c) {
        switch (c.code) {
            case '(':
            case ')':
            case '|':
            case '.':
            case ',':
            case '!':
            case '?':
            case 0x2026:
            case 0x3002:
            case 0xff0c:
            case 0x3001:
            case 0x964:
            case 0x6d4:
            case 0x60c:
                return false;
            default:
                return c.set != 0 && !(c.set & kSpace);
        }
    };
    const size_t skip = text[0] == ' ' ? 1 : 0;
    size_t end = skip;
    for (Char c; in(c = char_at(text, bytes, end));) end += c.bytes;
    return end > skip ? end : 0;
}

// [^\n]+|[\n]+
size_t lines_here(const char* text, size_t bytes) {
    const bool newline = text[0] == '\n';
    size_t end = 0;
    while (end < bytes && (text[end] == '\n') == newline) ++end;
    return end;
}

size_t literal(const char* text, size_t bytes, const char* word) {
    const size_t n = strlen(word);
    return n <= bytes && memcmp(text, word, n) == 0 ? n : 0;
}
// <sentinel:[0-9]+>
size_t sentinel_here(const char* text, size_t bytes) {
    const size_t begin = literal(text, bytes, "<sentinel:");
    size_t end = begin;
    while (begin && end < bytes && text[end] >= '0' && text[end] <= '9') ++end;
    return end > begin && end < bytes && text[end] == '>' ? end + 1 : 0;
}
// (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z
size_t image_here(const char* text, size_t bytes) {
    const size_t begin = literal(text, bytes, "IMGIMG");
    size_t end = begin;
    while (begin && end < bytes && end < begin + 4 && text[end] >= 'A' && text[end] <= 'I') ++end;
    return end > begin && end < bytes && text[end] == 'Z' ? end + 1 : 0;
}
// [\t\n]|    |  (four spaces, or two)
size_t indent_here(const char* text, size_t bytes) {
    if (text[0] == '\t' || text[0] == '\n') return 1;
    const size_t four = literal(text, bytes, "    ");
    return four ? four : literal(text, bytes, "  ");
}

// [가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+: classes that share no character.
size_t youtu_here(const char* text, size_t bytes) {
    struct Class {
        Range ranges[9];
    };
    static constexpr Class kClasses[] = {
        {{{0x3131, 0x318e}, {0xac00, 0xd7a3}}},
        {{{0x2014, 0x2014},
          {0x2018, 0x2019},
          {0x201c, 0x201d},
          {0x2026, 0x2026},
          {0x3001, 0x303f},
          {0xfe30, 0xfe4f},
          {0xff01, 0xff01},
          {0xff0c, 0xff0c},
          {0xff1a, 0xff1b}}},
        {{{0x3105, 0x312f}}},
        {{{0x3040, 0x30ff}, {0x4e00, 0x9fa5}}},
    };
    const auto in = [](const Class& c, uint32_t code) {
        for (const Range& r : c.ranges)
            if (r.last && code >= r.first && code <= r.last) return true;
        return false;
    };
    for (const Class& c : kClasses) {
        size_t end = 0;
        for (Char at; in(c, (at = char_at(text, bytes, end)).code);) end += at.bytes;
        if (end) return end;
    }
    return 0;
}

// \d: decimal digits of every script.
bool in_decimal(const Char& c) {
    static constexpr Range kRanges[] = {
        {0x30, 0x39},       {0x660, 0x669},     {0x6f0, 0x6f9},     {0x7c0, 0x7c9},     {0x966, 0x96f},
        {0x9e6, 0x9ef},     {0xa66, 0xa6f},     {0xae6, 0xaef},     {0xb66, 0xb6f},     {0xbe6, 0xbef},
        {0xc66, 0xc6f},     {0xce6, 0xcef},     {0xd66, 0xd6f},     {0xde6, 0xdef},     {0xe50, 0xe59},
        {0xed0, 0xed9},     {0xf20, 0xf29},     {0x1040, 0x1049},   {0x1090, 0x1099},   {0x17e0, 0x17e9},
        {0x1810, 0x1819},   {0x1946, 0x194f},   {0x19d0, 0x19d9},   {0x1a80, 0x1a89},   {0x1a90, 0x1a99},
        {0x1b50, 0x1b59},   {0x1bb0, 0x1bb9},   {0x1c40, 0x1c49},   {0x1c50, 0x1c59},   {0xa620, 0xa629},
        {0xa8d0, 0xa8d9},   {0xa900, 0xa909},   {0xa9d0, 0xa9d9},   {0xa9f0, 0xa9f9},   {0xaa50, 0xaa59},
        {0xabf0, 0xabf9},   {0xff10, 0xff19},   {0x104a0, 0x104a9}, {0x10d30, 0x10d39}, {0x11066, 0x1106f},
        {0x110f0, 0x110f9}, {0x11136, 0x1113f}, {0x111d0, 0x111d9}, {0x112f0, 0x112f9}, {0x11450, 0x11459},
        {0x114d0, 0x114d9}, {0x11650, 0x11659}, {0x116c0, 0x116c9}, {0x11730, 0x11739}, {0x118e0, 0x118e9},
        {0x11950, 0x11959}, {0x11c50, 0x11c59}, {0x11d50, 0x11d59}, {0x11da0, 0x11da9}, {0x11f50, 0x11f59},
        {0x16a60, 0x16a69}, {0x16ac0, 0x16ac9}, {0x16b50, 0x16b59}, {0x1d7ce, 0x1d7ff}, {0x1e140, 0x1e149},
        {0x1e2f0, 0x1e2f9}, {0x1e4f0, 0x1e4f9}, {0x1e950, 0x1e959}, {0x1fbf0, 0x1fbf9},
    };
    return c.set & kNumber && in_ranges(kRanges, c.code);
}
// \w; of numbers that are no digits some are, in one implementation or another.
bool in_word(const Char& c) {
    return c.set & (kLetter | kMark | kNumber) || c.code == '_' || c.code == 0x203f || c.code == 0x2040 ||
           c.code == 0x2054 || (c.code >= 0xfe33 && c.code <= 0xfe34) || (c.code >= 0xfe4d && c.code <= 0xfe4f) ||
           c.code == 0xff3f;
}

// Threes of a run of DIGITs, counted from its end, take two stages. This one finds all that whole threes cover; what is
// left over in front of them belongs to what is before: (?:DIGIT{3})+(?!DIGIT), or, with kRest, is found by itself
// first. With kBoundary only in runs that no \w follows. The other one cuts threes off.
template <bool (*kDigit)(const Char&), bool kRest, bool kBoundary>
bool match_threes(const char* text, size_t bytes, Match* match) {
    for (size_t at = 0; at < bytes;) {
        const Char c = char_at(text, bytes, at);
        uint32_t digits = 0;
        size_t end = at;
        for (Char d; kDigit(d = char_at(text, bytes, end)); ++digits) end += d.bytes;
        const bool counts = digits >= (kRest ? 1 : 3) && !(kBoundary && in_word(char_at(text, bytes, end)));
        if (!counts) {
            at = digits ? end : at + c.bytes;
            continue;
        }
        size_t whole = at;
        for (uint32_t i = 0; i < digits % 3; ++i) whole += char_at(text, bytes, whole).bytes;
        *match = kRest && whole > at ? Match{at, whole} : Match{whole, end};
        return true;
    }
    return false;
}
// Also of a run that the stage before left alone because a \w follows: \p{N}{1,3} cuts it alike.
template <bool (*kDigit)(const Char&)>
bool match_three_at_start(const char* text, size_t bytes, Match* match) {
    size_t end = 0;
    for (int i = 0; i < 3; ++i) {
        const Char d = char_at(text, bytes, end);
        if (!kDigit(d)) return false;
        end += d.bytes;
    }
    return *match = {0, end}, true;
}

// [\r\n]
bool match_newline(const char* text, size_t bytes, Match* match) {
    for (size_t at = 0; at < bytes; ++at)
        if (text[at] == '\r' || text[at] == '\n') return *match = {at, at + 1}, true;
    return false;
}

// \s+$
bool match_trailing_space(const char* text, size_t bytes, Match* match) {
    size_t begin = SIZE_MAX;
    for (size_t at = 0; at < bytes;) {
        const Char c = char_at(text, bytes, at);
        if (!(c.set & kSpace))
            begin = SIZE_MAX;
        else if (begin == SIZE_MAX)
            begin = at;
        at += c.bytes;
    }
    return begin != SIZE_MAX ? (*match = {begin, bytes}, true) : false;
}

constexpr Matcher kDigit = match_set<in_number, 1, 1>;
constexpr Matcher kDigits = match_set<in_number, 1, UINT32_MAX>;
constexpr Matcher kThreeDigits = match_set<in_ascii_digits, 3, 3>;
constexpr Matcher kUpToThreeDigits = match_set<in_number, 1, 3>;
constexpr Matcher kEastAsian = match_set<in_east_asian, 1, UINT32_MAX>;
constexpr Matcher kHanAndKana = match_set<in_han_and_kana, 1, UINT32_MAX>;

// ---- the pre-tokenizers ----

using Stages = Matcher[kMaxStages + 1];  // end with null
constexpr Stages kGpt2 = {match_gpt2};
constexpr Stages kLlama3 = {match_cl100k<Style{.digits = 3}>};
constexpr Stages kQwen2 = {match_cl100k<Style{.digits = 1}>};
constexpr Stages kQwen35 = {match_cl100k<Style{.digits = 1, .word = kLetter | kMark, .other = kOther & ~kMark}>};
constexpr Stages kSeedCoder = {match_cl100k<Style{.digits = 1, .newlines = false}>};
constexpr Stages kUfakzeka = {match_cl100k<Style{.digits = 1, .contractions = false}>};
constexpr Stages kJais2 = {match_cl100k<Style{.digits = 3, .powers_of_two = true}>};
constexpr Stages kLaguna = {search<lines_here>, match_cl100k<Style{.digits = 1}>};
constexpr Stages kMinicpm5 = {kUpToThreeDigits, match_cl100k<Style{.digits = UINT32_MAX}>};
constexpr Stages kExaoneMoe = {match_joined_words};
constexpr Stages kTekken = {match_cased<1, false>};
constexpr Stages kGpt4o = {match_cased<3, true>};
constexpr Stages kYoutu = {search<youtu_here>, match_cased<1, true>};
constexpr Stages kTinyAya = {match_threes<in_decimal, true, true>, match_three_at_start<in_decimal>,
                             match_cased<3, true>};
constexpr Stages kStarcoder = {kDigit, match_gpt2};
constexpr Stages kFalcon = {match_set<in_ascii_marks, 1, UINT32_MAX>, match_gpt2, kThreeDigits};
constexpr Stages kDefault = {match_set<in_ascii_marks_but_backtick, 1, UINT32_MAX>, match_gpt2, kDigits, kThreeDigits};
constexpr Stages kDeepseekLlm = {match_newline,
                                 match_set<in_cased_letters, 1, UINT32_MAX, true>,
                                 match_set<in_wide_marks, 1, UINT32_MAX, true>,
                                 match_trailing_space,
                                 kEastAsian,
                                 kDigits};
constexpr Stages kDeepseekCoder = {match_newline, match_set<in_letter, 1, UINT32_MAX, true>,
                                   match_set<in_punctuation, 1, UINT32_MAX, true>, kEastAsian, kDigit};
constexpr Stages kDeepseek3 = {kUpToThreeDigits, kHanAndKana, search<deepseek3_here<false>>};
constexpr Stages kSpark = {kUpToThreeDigits, kHanAndKana, search<deepseek3_here<true>>, kDigit};
constexpr Stages kAfmoe = {match_threes<in_number, true, false>, match_three_at_start<in_number>,
                           match_set<in_scripts_without_spaces, 1, UINT32_MAX>, search<deepseek3_here<false>>};
constexpr Stages kSuperbpe = {kDigits, match_threes<in_decimal, false, false>, match_three_at_start<in_decimal>};
constexpr Stages kBloom = {search<bloom_here>};
constexpr Stages kViking = {search<bloom_here>, kDigit};
constexpr Stages kChameleon = {search<sentinel_here>,
                               search<image_here>,
                               search<indent_here>,
                               kDigit,
                               match_set<in_punctuation_or_ascii_marks, 1, 1>,
                               match_gpt2};

// Names as in tokenizer.ggml.pre, of the pre-tokenizers that GGUF runtimes know. The patterns are those the models'
// tokenizers were published with, in the form GGUF runtimes use them (no Unicode normalisation, also where the
// published tokenizer has one, as qwen2's NFC). The published pattern decides where a runtime only approximates it:
// white space from U+2000 on inside deepseek's character ranges, tekken's and gpt-4o's case classes outside ASCII, and
// the word boundary behind tiny_aya's digits.
// Many names stand for one pattern: converters name the tokenizer they met, not how it cuts.
constexpr PreTokenizer kPreTokenizers[] = {
    // name, ignore_merges, add_bos, stages
    {"default", false, false, kDefault},
    {"gpt-2", false, false, kGpt2},
    {"mpt", false, false, kGpt2},
    {"olmo", false, false, kGpt2},
    {"phi-2", false, false, kGpt2},
    {"jais", false, false, kGpt2},
    {"jina-es", false, false, kGpt2},
    {"jina-de", false, false, kGpt2},
    {"jina-v1-en", false, false, kGpt2},
    {"jina-v2-es", false, false, kGpt2},
    {"jina-v2-de", false, false, kGpt2},
    {"jina-v2-code", false, false, kGpt2},
    {"roberta-bpe", false, false, kGpt2},
    {"modern-bert", false, false, kGpt2},
    {"gigachat", false, false, kGpt2},
    {"a.x-4.0", false, false, kGpt2},
    {"mellum", false, false, kGpt2},
    {"exaone4", false, false, kGpt2},
    {"trillion", false, false, kGpt2},
    {"granite-docling", false, false, kGpt2},
    {"llama-bpe", true, true, kLlama3},
    {"llama3", true, true, kLlama3},
    {"llama-v3", true, true, kLlama3},
    {"falcon3", true, true, kLlama3},
    {"falcon-h1", true, true, kLlama3},
    {"pixtral", true, true, kLlama3},
    {"midm-2.0", true, true, kLlama3},
    {"lfm2", true, true, kLlama3},
    {"jina-v5-nano", true, true, kLlama3},
    {"dbrx", false, false, kLlama3},
    {"smaug-bpe", false, false, kLlama3},
    {"glm4", false, false, kLlama3},
    {"chatglm-bpe", false, false, kLlama3},
    {"jais-2", false, false, kJais2},
    {"qwen2", false, false, kQwen2},
    {"deepseek-r1-qwen", false, false, kQwen2},
    {"kormo", false, false, kQwen2},
    {"f2llmv2", false, false, kQwen2},
    {"megrez", false, false, kQwen2},
    {"stablelm2", false, false, kQwen2},
    {"hunyuan", false, false, kQwen2},
    {"solar-open", false, false, kQwen2},
    {"grok-2", false, false, kQwen2},
    {"bailingmoe", false, false, kQwen2},  // its \s*[\r\n] takes what \s*[\r\n]+ takes
    {"bailingmoe2", false, false, kQwen2},
    {"llada-moe", false, false, kQwen2},
    {"qwen35", false, false, kQwen35},
    {"seed-coder", false, false, kSeedCoder},
    {"ufakzeka", false, false, kUfakzeka},
    {"laguna", false, false, kLaguna},
    {"minicpm5", true, false, kMinicpm5},
    {"exaone-moe", false, false, kExaoneMoe},
    {"tekken", true, true, kTekken},
    {"gpt-4o", false, false, kGpt4o},
    {"llama4", false, false, kGpt4o},
    {"kanana2", false, false, kGpt4o},
    {"talkie", false, false, kGpt4o},
    {"minimax-m2", false, false, kGpt4o},
    {"granite-embed-multi-97m", true, false, kGpt4o},
    {"youtu", true, false, kYoutu},
    {"tiny_aya", false, false, kTinyAya},
    {"cohere2moe", false, false, kTinyAya},
    {"smollm", false, false, kStarcoder},
    {"starcoder", false, false, kStarcoder},
    {"refact", false, false, kStarcoder},
    {"command-r", false, false, kStarcoder},
    {"codeshell", false, false, kStarcoder},
    {"exaone", false, false, kStarcoder},
    {"minerva-7b", false, false, kStarcoder},
    {"mellum2", false, false, kStarcoder},
    {"falcon", false, false, kFalcon},
    {"deepseek-llm", false, false, kDeepseekLlm},
    {"deepseek-coder", false, false, kDeepseekCoder},
    {"deepseek-v3", false, false, kDeepseek3},
    {"hunyuan-dense", false, false, kDeepseek3},
    {"joyai-llm", false, false, kDeepseek3},
    {"hy_v4", false, false, kDeepseek3},
    {"spark2_5", false, false, kSpark},
    {"afmoe", false, false, kAfmoe},
    {"superbpe", false, false, kSuperbpe},
    {"poro-chat", false, false, kBloom},
    {"bloom", false, false, kBloom},
    {"gpt3-finnish", false, false, kBloom},
    {"viking", false, false, kViking},
    {"chameleon", false, true, kChameleon},
};

// Known, and refused.
struct Refusal {
    const char *name, *reason;
};
constexpr char kCharacters[] = "its merges are of characters and not of bytes, which this library does not have";
constexpr Refusal kRefusals[] = {
    {"gemma4", kCharacters},
    {"granite-embed-multi-311m", kCharacters},
    {"sarvam-moe", kCharacters},
    {"whitespace", kCharacters},
    {"kimi-k2", "its vocabulary is without merges, which this library needs"},
};

}  // namespace

const PreTokenizer* pretokenizer_find(const char* name, size_t bytes, const char** reason) {
    const auto is = [&](const char* other) { return strlen(other) == bytes && memcmp(other, name, bytes) == 0; };
    for (const PreTokenizer& p : kPreTokenizers)
        if (is(p.name)) return &p;
    if (!reason) return nullptr;
    *reason = "unknown pre-tokenizer: config.pre_tokenizer can name one that cuts alike";
    for (const Refusal& r : kRefusals)
        if (is(r.name)) *reason = r.reason;
    return nullptr;
}

PreTokenCursor::PreTokenCursor(const PreTokenizer& pre, const char* text, size_t bytes) : pre_(&pre), text_(text) {
    levels_[0] = {0, bytes, {0, 0}, false};
}

bool PreTokenCursor::next(size_t* begin, size_t* end) {
    for (;;) {
        Level& level = levels_[depth_];
        if (level.at == level.end) {
            if (depth_ == 0) return false;
            --depth_;
            continue;
        }
        if (!level.has_match) {
            Match m;
            level.has_match = pre_->stages[depth_](text_ + level.at, level.end - level.at, &m);
            level.match = level.has_match ? Match{level.at + m.begin, level.at + m.end} : Match{level.end, level.end};
        }
        *begin = level.at;
        if (level.at < level.match.begin) {
            *end = level.match.begin;
        } else {
            *end = level.match.end;
            level.has_match = false;
        }
        level.at = *end;
        if (!pre_->stages[depth_ + 1]) return true;
        levels_[++depth_] = {*begin, *end, {0, 0}, false};
    }
}

}  // namespace keel
