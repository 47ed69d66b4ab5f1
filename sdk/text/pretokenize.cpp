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

// \s*[\r\n]+|\s+(?!\S)|\s+ at the start of the text.
size_t lines_or_white_space(const char* text, size_t bytes) {
    size_t newline_end = 0;
    for (size_t at = 0;;) {
        const Char c = char_at(text, bytes, at);
        if (!(c.set & kSpace)) break;
        at += c.bytes;
        if (is_newline(c)) newline_end = at;
    }
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

// Tails of the newer patterns, in the order of their alternatives:
// \p{N}{1,kDigits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+     with kSlash: [\r\n/]*
template <uint32_t kDigits, bool kSlash>
size_t numbers_marks_spaces(const char* text, size_t bytes) {
    size_t end = 0;
    for (uint32_t i = 0; i < kDigits; ++i) {
        const Char c = char_at(text, bytes, end);
        if (!(c.set & kNumber)) break;
        end += c.bytes;
    }
    if (end) return end;
    const size_t skip = text[0] == ' ' ? 1 : 0;
    end = span(text, bytes, skip, kOther);
    if (end == skip) return lines_or_white_space(text, bytes);
    while (end < bytes && (text[end] == '\r' || text[end] == '\n' || (kSlash && text[end] == '/'))) ++end;
    return end;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,kDigits}| ?[^\s\p{L}\p{N}]+[\r\n]*|...
template <uint32_t kDigits>
bool match_cl100k(const char* text, size_t bytes, Match* match) {
    if (bytes == 0) return false;
    if (const size_t end = contraction(text, bytes, 0, true)) return from_start(text, bytes, end, match);
    const Char first = char_at(text, bytes, 0);
    const size_t skip = first.set & (kLetter | kNumber) || is_newline(first) ? 0 : first.bytes;
    const size_t end = span(text, bytes, skip, kLetter);
    if (end > skip) return from_start(text, bytes, end, match);
    return from_start(text, bytes, numbers_marks_spaces<kDigits, false>(text, bytes), match);
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
    if (!end) return from_start(text, bytes, numbers_marks_spaces<kDigits, true>(text, bytes), match);
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
constexpr Matcher kEastAsian = match_set<in_east_asian, 1, UINT32_MAX>;

// Names as in tokenizer.ggml.pre. The patterns are those the models' tokenizers were published with, in the form GGUF
// runtimes use them (no Unicode normalisation, also where the published tokenizer has one, as qwen2's NFC).
// The published pattern decides where a runtime only approximates it: white space from U+2000 on inside deepseek's
// character ranges, and tekken's and gpt-4o's case classes outside ASCII.
constexpr PreTokenizer kPreTokenizers[] = {
    // name, ignore_merges, add_bos, stages
    {"gpt-2", false, false, {match_gpt2}},
    {"mpt", false, false, {match_gpt2}},
    {"llama-bpe", true, true, {match_cl100k<3>}},
    {"llama3", true, true, {match_cl100k<3>}},
    {"llama-v3", true, true, {match_cl100k<3>}},
    {"qwen2", false, false, {match_cl100k<1>}},
    {"deepseek-r1-qwen", false, false, {match_cl100k<1>}},
    {"tekken", true, true, {match_cased<1, false>}},
    {"gpt-4o", false, false, {match_cased<3, true>}},
    {"smollm", false, false, {kDigit, match_gpt2}},
    {"starcoder", false, false, {kDigit, match_gpt2}},
    {"refact", false, false, {kDigit, match_gpt2}},
    {"falcon", false, false, {match_set<in_ascii_marks, 1, UINT32_MAX>, match_gpt2, kThreeDigits}},
    {"default",
     false,
     false,
     {match_set<in_ascii_marks_but_backtick, 1, UINT32_MAX>, match_gpt2, kDigits, kThreeDigits}},
    {"deepseek-llm",
     false,
     false,
     {match_newline, match_set<in_cased_letters, 1, UINT32_MAX, true>, match_set<in_wide_marks, 1, UINT32_MAX, true>,
      match_trailing_space, kEastAsian, kDigits}},
    {"deepseek-coder",
     false,
     false,
     {match_newline, match_set<in_letter, 1, UINT32_MAX, true>, match_set<in_punctuation, 1, UINT32_MAX, true>,
      kEastAsian, kDigit}},
};

}  // namespace

const PreTokenizer* pretokenizer_find(const char* name, size_t bytes, const char** reason) {
    for (const PreTokenizer& p : kPreTokenizers)
        if (strlen(p.name) == bytes && memcmp(p.name, name, bytes) == 0) return &p;
    if (reason) *reason = "unknown pre-tokenizer (tokenizer.ggml.pre)";
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
