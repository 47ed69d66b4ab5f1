// Template text to nodes: lexer and parser in one pass, precedence as in jinja2's parser. It runs twice, first only
// counting nodes, so it never reads a node.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/format/bytes.h"
#include "sdk/text/jinja_program.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

using namespace jinja;

constexpr uint32_t kMaxNesting = 32;

enum class TokenKind : uint8_t { kEnd, kName, kString, kInteger, kFloat, kOperator };

struct Token {
    TokenKind kind;
    char op[2];  // of an operator; op[1] is 0 for one character
    uint32_t at, bytes;
    uint64_t value;
};

bool is_name_start(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

class Compiler {
  public:
    // `nodes` may be null: then they are counted. A text that has changed since then and has more is refused. `text` is
    // changed: strings are decoded in place.
    Compiler(char* text, size_t bytes, Node* nodes, uint32_t capacity, keel_error* error)
        : text_(text), nodes_(nodes), capacity_(nodes ? capacity : UINT32_MAX), error_(error) {
        normalize_newlines(bytes);
    }
    keel_status compile(uint32_t* first);
    uint32_t node_count() const { return count_; }

  private:
    using N = NodeKind;

    void normalize_newlines(size_t bytes);
    bool ok() const { return status_ == KEEL_OK; }
    // Remembers the first error. `name` is quoted behind `what`.
    uint32_t fail_at(uint32_t at, const char* what, const char* name = nullptr, size_t name_bytes = 0,
                     keel_status status = KEEL_E_UNSUPPORTED);
    uint32_t unexpected(const char* wanted);

    uint32_t add(NodeKind kind, uint32_t at, uint32_t a = 0, uint32_t b = 0, uint32_t c = 0, uint8_t op = 0) {
        if (count_ == capacity_) {
            fail_at(at, "it changed while it was read", nullptr, 0, KEEL_E_FILE_MISMATCH);
            return 0;
        }
        if (nodes_) nodes_[count_] = {kind, op, false, at, a, b, c, 0};
        return count_++;
    }
    struct Chain {
        uint32_t first = 0, last = 0;
    };
    void append(Chain* chain, uint32_t node) {
        if (!node) return;
        if (chain->last && nodes_) nodes_[chain->last].next = node;
        if (!chain->first) chain->first = node;
        chain->last = node;
    }

    // Lexer.
    void next_token();
    void lex_string(char quote);
    bool is_op(const char* op) const {
        return token_.kind == TokenKind::kOperator && same_text(op, token_.op, token_.op[1] ? 2 : 1);
    }
    bool skip_op(const char* op) {
        if (!is_op(op)) return false;
        next_token();
        return true;
    }
    void expect_op(const char* op) {
        if (!skip_op(op)) unexpected(op);
    }
    bool is_word(const char* word) const {
        return token_.kind == TokenKind::kName && same_text(word, text_ + token_.at, token_.bytes);
    }
    bool skip_word(const char* word) {
        if (!is_word(word)) return false;
        next_token();
        return true;
    }
    void expect_word(const char* word) {
        if (!skip_word(word)) unexpected(word);
    }
    char peek_char() const;  // the first character behind the current token that is no blank
    void begin_tag(bool block) {
        in_block_ = block;
        braces_ = 0;
        next_token();
    }
    void end_tag();
    void skip_space();
    uint32_t space_before(uint32_t begin, uint32_t end, bool line) const;

    // Statements. Bodies end at one of `ends` (words, null at the end), which is then the current token.
    uint32_t body(const char* const* ends);
    uint32_t own_body(const char* const* ends);
    uint32_t text_before(uint32_t begin, uint32_t end, uint32_t tag);
    uint32_t statement();
    uint32_t if_statement(uint32_t at);
    uint32_t for_statement(uint32_t at);
    uint32_t set_statement(uint32_t at);
    uint32_t macro_statement(uint32_t at);
    void close(const char* word);

    // Expressions.
    uint32_t name();
    uint32_t expression();  // with a conditional
    uint32_t binary(int level);
    uint32_t unary(bool with_filter);
    uint32_t primary();
    uint32_t postfix(uint32_t node);
    uint32_t filters_and_tests(uint32_t node);
    uint32_t subscript(uint32_t object, uint32_t at);
    uint32_t call(uint32_t callee, uint32_t at, uint32_t name_at, uint32_t name_bytes);
    uint32_t arguments();
    bool defines_macro(uint32_t name_at, uint32_t name_bytes) const;

    struct Deeper {
        explicit Deeper(Compiler* c) : compiler(c) {
            if (++c->depth_ > kMaxNesting) c->fail_at(c->token_.at, "nested too deeply", nullptr, 0, KEEL_E_FILE_LIMIT);
        }
        ~Deeper() { --compiler->depth_; }
        Compiler* compiler;
    };

    char* const text_;
    Node* const nodes_;
    const uint32_t capacity_;
    keel_error* const error_;
    uint32_t bytes_ = 0, at_ = 0, count_ = 1, depth_ = 0, loops_ = 0, scopes_ = 0;
    bool in_block_ = false;
    uint32_t braces_ = 0;
    Token token_ = {};
    keel_status status_ = KEEL_OK;
};

// As jinja2 reads a source: every line end is "\n", and one at the very end does not count.
void Compiler::normalize_newlines(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        if (text_[i] == '\r' && i + 1 < bytes && text_[i + 1] == '\n') continue;
        text_[bytes_++] = text_[i] == '\r' ? '\n' : text_[i];
    }
    if (bytes_ && text_[bytes_ - 1] == '\n') --bytes_;
}

uint32_t Compiler::fail_at(uint32_t at, const char* what, const char* name, size_t name_bytes, keel_status status) {
    if (!ok()) return 0;
    char reason[sizeof error_->reason];
    TextBuilder text(reason, sizeof reason);
    text.text(what);
    if (name) text.text(" \"").text(name, name_bytes < 64 ? name_bytes : 64).text("\"");
    status_ = fail(error_, status, at, "chat template", reason);
    token_ = {};
    return 0;
}

uint32_t Compiler::unexpected(const char* wanted) {
    if (!ok()) return 0;
    char what[64];
    TextBuilder(what, sizeof what).text("expected ").text(wanted).text(", not");
    return fail_at(token_.at, what, text_ + token_.at, token_.bytes);
}

// ---- lexer ----

char Compiler::peek_char() const {
    uint32_t i = at_;
    while (i < bytes_ && is_blank(text_[i])) ++i;
    // "==" is no "="
    return i < bytes_ && !(text_[i] == '=' && i + 1 < bytes_ && text_[i + 1] == '=') ? text_[i] : 0;
}

void Compiler::next_token() {
    if (!ok()) return;
    while (at_ < bytes_ && is_blank(text_[at_])) ++at_;
    token_ = {TokenKind::kEnd, {}, at_, 0, 0};
    if (at_ >= bytes_) {
        fail_at(at_, "the template ends inside a tag");
        return;
    }
    const char c = text_[at_];
    const char following = at_ + 1 < bytes_ ? text_[at_ + 1] : 0;
    if (braces_ == 0) {
        const char close = in_block_ ? '%' : '}';
        uint32_t i = at_;
        if (c == '-' || (in_block_ && c == '+')) ++i;
        if (i + 1 < bytes_ && text_[i] == close && text_[i + 1] == '}') return;  // the end of the tag
    }
    if (is_name_start(c)) {
        while (at_ < bytes_ && (is_name_start(text_[at_]) || is_digit(text_[at_]))) ++at_;
        token_.kind = TokenKind::kName;
    } else if (is_digit(c)) {
        token_.kind = TokenKind::kInteger;
        for (; at_ < bytes_ && is_digit(text_[at_]); ++at_)
            if (token_.value > (INT64_MAX - static_cast<uint64_t>(text_[at_] - '0')) / 10)
                fail_at(token_.at, "an integer beyond 64 bits");
            else
                token_.value = token_.value * 10 + static_cast<uint64_t>(text_[at_] - '0');
        if (at_ + 1 < bytes_ && text_[at_] == '.' && is_digit(text_[at_ + 1])) {
            token_.kind = TokenKind::kFloat;
            for (++at_; at_ < bytes_ && is_digit(text_[at_]);) ++at_;
            if (!is_canonical(text_ + token_.at, at_ - token_.at))
                fail_at(token_.at, "the number", text_ + token_.at, at_ - token_.at);
        }
        const bool zeros = token_.kind == TokenKind::kInteger && c == '0' && token_.value;
        if (zeros || (at_ < bytes_ && is_name_start(text_[at_]))) fail_at(token_.at, "this way of writing a number");
    } else if (c == '"' || c == '\'') {
        lex_string(c);
    } else {
        static constexpr char kTwo[][3] = {"==", "!=", "<=", ">=", "//", "**"};
        token_.kind = TokenKind::kOperator;
        token_.op[0] = c;
        for (const char* two : kTwo)
            if (c == two[0] && following == two[1]) token_.op[1] = following;
        at_ += token_.op[1] ? 2 : 1;
        if (!memchr("+-*/%~[](){}<>=.:|,!", c, 20) || (c == '!' && !token_.op[1]))
            fail_at(token_.at, "character", text_ + token_.at, 1);
        if (c == '(' || c == '[' || c == '{') ++braces_;
        if ((c == ')' || c == ']' || c == '}') && braces_) --braces_;
    }
    if (ok() && token_.kind != TokenKind::kString) token_.bytes = at_ - token_.at;
}

// Decodes as Python's unicode-escape does; the result is never longer.
void Compiler::lex_string(char quote) {
    uint32_t from = at_ + 1, to = from;
    token_.kind = TokenKind::kString;
    token_.at = from;
    for (;; ++from) {
        if (from >= bytes_) {
            fail_at(token_.at, "a string without an end");
            return;
        }
        char c = text_[from];
        if (c == quote) break;
        if (c != '\\') {
            text_[to++] = c;
            continue;
        }
        if (++from >= bytes_) continue;
        c = text_[from];
        const uint32_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        static constexpr char kEscapes[] = "n\nt\tr\r\\\\''\"\"a\ab\bf\fv\v";
        if (digits) {
            uint32_t code = 0, i = 0;
            for (; i < digits && from + 1 < bytes_; ++i, ++from) {
                const char h = text_[from + 1];
                const int value = is_digit(h)            ? h - '0'
                                  : h >= 'a' && h <= 'f' ? h - 'a' + 10
                                  : h >= 'A' && h <= 'F' ? h - 'A' + 10
                                                         : -1;
                if (value < 0) break;
                code = code << 4 | static_cast<uint32_t>(value);
            }
            if (i < digits || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
                fail_at(token_.at, "this escape in a string");
                return;
            }
            to += utf8_encode(code, text_ + to);
        } else if (c >= '0' && c <= '7') {
            fail_at(token_.at, "an octal escape in a string");
            return;
        } else if (c != '\n') {
            size_t i = 0;
            while (i < sizeof kEscapes - 1 && kEscapes[i] != c) i += 2;
            if (i < sizeof kEscapes - 1) {
                text_[to++] = kEscapes[i + 1];
            } else {
                text_[to++] = '\\';
                text_[to++] = c;
            }
        }
    }
    token_.bytes = to - token_.at;
    at_ = from + 1;
}

void Compiler::skip_space() {
    while (at_ < bytes_) {
        const Utf8Char c = utf8_decode(text_ + at_, bytes_ - at_);
        if (!is_space(c.code)) return;
        at_ += c.bytes;
    }
}

// Where the white space in front of `end` begins, `begin` at the earliest. With `line` it ends at a newline.
uint32_t Compiler::space_before(uint32_t begin, uint32_t end, bool line) const {
    while (end > begin) {
        const Utf8Char c = utf8_decode_last(text_ + begin, end - begin);
        if (!is_space(c.code) || (line && c.code == '\n')) break;
        end -= c.bytes;
    }
    return end;
}

// Behind a tag: "-" strips white space; one newline behind a block goes (trim_blocks).
void Compiler::end_tag() {
    if (!ok()) return;
    if (token_.kind != TokenKind::kEnd) {
        unexpected("the end of the tag");
        return;
    }
    const char sign = text_[at_];
    at_ += sign == '-' || sign == '+' ? 3 : 2;
    if (sign == '-')
        skip_space();
    else if (in_block_ && sign != '+' && at_ < bytes_ && text_[at_] == '\n')
        ++at_;
}

// ---- statements ----

// The text [begin, end) in front of a tag of kind `tag` ('{', '%' or '#', or 0 at the end of the template).
uint32_t Compiler::text_before(uint32_t begin, uint32_t end, uint32_t tag) {
    const char sign = tag && end + 2 < bytes_ ? text_[end + 2] : '\0';
    if (sign == '-') {
        end = space_before(begin, end, false);
    } else if (sign != '+' && (tag == '%' || tag == '#')) {  // lstrip_blocks
        const uint32_t line = space_before(begin, end, true);
        if (line > begin ? text_[line - 1] == '\n' : line == 0 || text_[line - 1] == '\n') end = line;
    }
    return end > begin ? add(N::kText, begin, begin, end - begin) : 0;
}

uint32_t Compiler::body(const char* const* ends) {
    Deeper deeper(this);
    Chain chain;
    while (ok()) {
        const uint32_t begin = at_;
        uint32_t tag = begin;
        while (tag < bytes_ && !(text_[tag] == '{' && tag + 1 < bytes_ &&
                                 (text_[tag + 1] == '{' || text_[tag + 1] == '%' || text_[tag + 1] == '#')))
            ++tag;
        if (tag >= bytes_) {
            append(&chain, text_before(begin, bytes_, 0));
            at_ = bytes_;
            if (ends) fail_at(bytes_, "the template ends before", ends[0], strlen(ends[0]));
            break;
        }
        const char kind = text_[tag + 1];
        append(&chain, text_before(begin, tag, static_cast<uint32_t>(kind)));
        at_ = tag + 2;
        if (kind == '#') {
            while (at_ + 1 < bytes_ && !(text_[at_] == '#' && text_[at_ + 1] == '}')) ++at_;
            if (at_ + 1 >= bytes_) {
                fail_at(tag, "a comment without an end");
                break;
            }
            const char sign = at_ > tag + 3 ? text_[at_ - 1] : '\0';  // one at tag + 2 belongs to the begin
            at_ += 2;
            if (sign == '-')
                skip_space();
            else if (sign != '+' && at_ < bytes_ && text_[at_] == '\n')
                ++at_;
            continue;
        }
        if (at_ < bytes_ && (text_[at_] == '-' || (text_[at_] == '+' && kind == '%'))) ++at_;
        begin_tag(kind == '%');
        if (kind == '{') {
            const uint32_t value = expression();
            end_tag();
            append(&chain, add(N::kOutput, tag, value));
            continue;
        }
        for (const char* const* word = ends; word && *word; ++word)
            if (is_word(*word)) return chain.first;
        append(&chain, statement());
    }
    return chain.first;
}

// A body that is a function in jinja2: no break leaves it.
uint32_t Compiler::own_body(const char* const* ends) {
    const uint32_t outer_loops = loops_;
    loops_ = 0;
    ++scopes_;
    const uint32_t inner = body(ends);
    --scopes_;
    loops_ = outer_loops;
    return inner;
}

void Compiler::close(const char* word) {
    expect_word(word);
    end_tag();
}

uint32_t Compiler::statement() {
    const uint32_t at = token_.at;
    if (skip_word("if")) return if_statement(at);
    if (skip_word("for")) return for_statement(at);
    if (skip_word("set")) return set_statement(at);
    if (skip_word("macro")) return macro_statement(at);
    if (skip_word("generation")) {
        static constexpr const char* kEnds[] = {"endgeneration", nullptr};
        end_tag();
        const uint32_t inner = own_body(kEnds);
        close(kEnds[0]);
        return add(N::kBlock, at, inner);
    }
    const bool leave = is_word("break");
    if (leave || is_word("continue")) {
        next_token();
        end_tag();
        if (loops_ == 0) fail_at(at, "a break or continue outside of a loop");
        return add(leave ? N::kBreak : N::kContinue, at);
    }
    return fail_at(at, "statement", text_ + token_.at, token_.bytes);
}

uint32_t Compiler::if_statement(uint32_t at) {
    static constexpr const char* kEnds[] = {"endif", "elif", "else", nullptr};
    const uint32_t condition = binary(0);
    end_tag();
    const uint32_t inner = body(kEnds);
    const uint32_t first = add(N::kIf, at, condition, inner);
    uint32_t last = first;
    const auto otherwise = [&](uint32_t node) {
        if (nodes_) nodes_[last].c = node;
        last = node;
    };
    while (ok() && is_word("elif")) {
        const uint32_t elif_at = token_.at;
        next_token();
        const uint32_t elif_condition = binary(0);
        end_tag();
        const uint32_t elif_body = body(kEnds);
        otherwise(add(N::kIf, elif_at, elif_condition, elif_body, 0, kElif));
    }
    if (skip_word("else")) {
        end_tag();
        otherwise(body(kEnds));
    }
    close(kEnds[0]);
    return first;
}

uint32_t Compiler::for_statement(uint32_t at) {
    static constexpr const char* kEnds[] = {"endfor", "else", nullptr};
    Chain targets;
    const bool bracket = skip_op("(");
    do append(&targets, name());
    while (ok() && skip_op(","));
    if (bracket) expect_op(")");
    expect_word("in");
    const uint32_t iterable = binary(0);
    uint32_t condition = 0, otherwise = 0;
    if (skip_word("if")) condition = binary(0);
    if (is_word("recursive")) fail_at(token_.at, "a recursive loop");
    end_tag();
    ++scopes_;
    ++loops_;
    const uint32_t inner = body(kEnds);
    --loops_;
    if (skip_word("else")) {
        end_tag();
        otherwise = body(kEnds);
    }
    --scopes_;
    close(kEnds[0]);
    const uint32_t parts = add(N::kForParts, at, condition, otherwise, targets.first);
    return add(N::kFor, at, iterable, inner, parts);
}

uint32_t Compiler::set_statement(uint32_t at) {
    const uint32_t target = name();
    if (skip_op(".")) {
        const uint32_t attribute = name();
        expect_op("=");
        const uint32_t value = expression();
        end_tag();
        return add(N::kSetAttribute, at, target, attribute, value);
    }
    if (skip_op("=")) {
        const uint32_t value = expression();
        end_tag();
        return add(N::kSet, at, target, value);
    }
    static constexpr const char* kEnds[] = {"endset", nullptr};
    end_tag();
    ++scopes_;
    const uint32_t inner = body(kEnds);
    --scopes_;
    close(kEnds[0]);
    return add(N::kSetBlock, at, target, inner);
}

uint32_t Compiler::macro_statement(uint32_t at) {
    static constexpr const char* kEnds[] = {"endmacro", nullptr};
    if (scopes_) fail_at(at, "a macro inside of a loop, block or macro");
    const uint32_t macro = name();
    Chain parameters;
    expect_op("(");
    while (ok() && !is_op(")")) {
        const uint32_t parameter_at = token_.at;
        const uint32_t parameter = name();
        const uint32_t value = skip_op("=") ? expression() : 0;
        append(&parameters, add(N::kParameter, parameter_at, parameter, value));
        if (!skip_op(",")) break;
    }
    expect_op(")");
    end_tag();
    const uint32_t inner = own_body(kEnds);
    close(kEnds[0]);
    return add(N::kMacro, at, macro, parameters.first, inner);
}

// ---- expressions ----

uint32_t Compiler::name() {
    if (token_.kind != TokenKind::kName) return unexpected("a name");
    const Token t = token_;
    next_token();
    return add(N::kName, t.at, t.at, t.bytes);
}

uint32_t Compiler::expression() {
    Deeper deeper(this);
    if (!ok()) return 0;
    uint32_t value = binary(0);
    while (ok() && is_word("if")) {
        const uint32_t at = token_.at;
        next_token();
        const uint32_t condition = binary(0);
        const uint32_t otherwise = skip_word("else") ? expression() : 0;
        value = add(N::kConditional, at, condition, value, otherwise);
    }
    return value;
}

struct BinaryRow {
    const char* op;
    int level;
    NodeKind kind;
    Operator what;
};
// Levels as in binary(). `not in` is no row: it is two words.
constexpr BinaryRow kBinary[] = {
    {"or", 0, NodeKind::kOr, {}},
    {"and", 1, NodeKind::kAnd, {}},
    {"==", 3, NodeKind::kBinary, Operator::kEqual},
    {"!=", 3, NodeKind::kBinary, Operator::kNotEqual},
    {"<", 3, NodeKind::kBinary, Operator::kLess},
    {"<=", 3, NodeKind::kBinary, Operator::kLessEqual},
    {">", 3, NodeKind::kBinary, Operator::kGreater},
    {">=", 3, NodeKind::kBinary, Operator::kGreaterEqual},
    {"in", 3, NodeKind::kBinary, Operator::kIn},
    {"+", 4, NodeKind::kBinary, Operator::kAdd},
    {"-", 4, NodeKind::kBinary, Operator::kSubtract},
    {"~", 5, NodeKind::kBinary, Operator::kConcat},
    {"*", 6, NodeKind::kBinary, Operator::kMultiply},
    {"//", 6, NodeKind::kBinary, Operator::kFloorDivide},
    {"%", 6, NodeKind::kBinary, Operator::kModulo},
};
constexpr int kNotLevel = 2, kCompareLevel = 3;
constexpr BinaryRow kNotIn = {"not", kCompareLevel, NodeKind::kBinary, Operator::kNotIn};

// Operators of `level` and above: 0 or, 1 and, 2 not, 3 comparisons, 4 + -, 5 ~, 6 * // %.
uint32_t Compiler::binary(int level) {
    Deeper deeper(this);
    if (!ok()) return 0;
    const uint32_t begin = token_.at;
    uint32_t left;
    if (level <= kNotLevel && skip_word("not")) {
        const uint32_t operand = binary(kNotLevel);
        left = add(N::kNot, begin, operand);
    } else {
        left = unary(true);
    }
    for (bool compared = false; ok();) {
        const BinaryRow* found = nullptr;
        for (const BinaryRow& row : kBinary)
            if (is_word(row.op) || is_op(row.op)) found = &row;
        if (is_word("not")) found = &kNotIn;
        if (is_op("/") || is_op("**")) return fail_at(token_.at, "operator", text_ + token_.at, token_.bytes);
        if (!found || found->level < level) return left;
        const uint32_t at = token_.at;
        if (found->level == kCompareLevel && compared) return fail_at(at, "a chain of comparisons");
        compared = found->level == kCompareLevel;
        next_token();
        if (found == &kNotIn) expect_word("in");
        const uint32_t right = binary(found->level + 1);
        left = add(found->kind, at, left, right, 0, static_cast<uint8_t>(found->what));
    }
    return left;
}

uint32_t Compiler::unary(bool with_filter) {
    const uint32_t at = token_.at;
    uint32_t node;
    if (is_op("-") || is_op("+")) {
        Deeper deeper(this);
        if (!ok()) return 0;
        const bool negative = is_op("-");
        next_token();
        node = unary(false);
        if (negative) node = add(N::kNegate, at, node);
    } else {
        node = primary();
    }
    node = postfix(node);
    return with_filter ? filters_and_tests(node) : node;
}

uint32_t Compiler::primary() {
    const Token t = token_;
    switch (t.kind) {
        case TokenKind::kString: {
            next_token();
            uint32_t node = add(N::kString, t.at, t.at, t.bytes);
            while (ok() && token_.kind == TokenKind::kString) {  // literals side by side are one
                const Token more = token_;
                next_token();
                const uint32_t right = add(N::kString, more.at, more.at, more.bytes);
                node = add(N::kBinary, t.at, node, right, 0, static_cast<uint8_t>(Operator::kConcat));
            }
            return node;
        }
        case TokenKind::kInteger:
            next_token();
            return add(N::kInteger, t.at, static_cast<uint32_t>(t.value), static_cast<uint32_t>(t.value >> 32));
        case TokenKind::kFloat:
            next_token();
            return add(N::kNumber, t.at, t.at, t.bytes);
        case TokenKind::kName: {
            if (skip_word("true") || skip_word("True")) return add(N::kTrue, t.at);
            if (skip_word("false") || skip_word("False")) return add(N::kFalse, t.at);
            if (skip_word("none") || skip_word("None")) return add(N::kNone, t.at);
            static constexpr const char* kReserved[] = {"varargs", "kwargs", "caller", "self", "super",
                                                        "cycler",  "joiner", "lipsum", "in",   "is",
                                                        "and",     "or",     "not",    "if",   "else"};
            if (find_name(kReserved, text_ + t.at, t.bytes) >= 0) return fail_at(t.at, "name", text_ + t.at, t.bytes);
            next_token();
            const uint32_t node = add(N::kName, t.at, t.at, t.bytes);
            return is_op("(") ? call(node, t.at, t.at, t.bytes) : node;
        }
        case TokenKind::kOperator:
            break;
        case TokenKind::kEnd:
            return unexpected("an expression");
    }
    if (skip_op("(")) {
        const uint32_t node = is_op(")") ? 0 : expression();
        if (skip_op(")")) return node || !ok() ? node : add(N::kTuple, t.at);
        Chain items;
        append(&items, add(N::kArgument, t.at, node));
        while (ok() && skip_op(",") && !is_op(")")) {
            const uint32_t at = token_.at;
            const uint32_t value = expression();
            append(&items, add(N::kArgument, at, value));
        }
        expect_op(")");
        return add(N::kTuple, t.at, items.first);
    }
    if (skip_op("[")) {
        Chain items;
        while (ok() && !is_op("]")) {
            const uint32_t at = token_.at;
            const uint32_t value = expression();
            append(&items, add(N::kArgument, at, value));
            if (!skip_op(",")) break;
        }
        expect_op("]");
        return add(N::kList, t.at, items.first);
    }
    if (skip_op("{")) {
        Chain pairs;
        while (ok() && !is_op("}")) {
            const uint32_t at = token_.at;
            const uint32_t key = expression();
            expect_op(":");
            const uint32_t value = expression();
            append(&pairs, add(N::kPair, at, key, value));
            if (!skip_op(",")) break;
        }
        expect_op("}");
        return add(N::kDict, t.at, pairs.first);
    }
    return unexpected("an expression");
}

uint32_t Compiler::postfix(uint32_t node) {
    while (ok()) {
        const uint32_t at = token_.at;
        if (skip_op(".")) {
            if (token_.kind == TokenKind::kInteger) {
                const uint64_t value = token_.value;
                next_token();
                const uint32_t index =
                    add(N::kInteger, at, static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32));
                node = add(N::kItem, at, node, index);
                continue;
            }
            const Token t = token_;
            const uint32_t attribute = name();
            if (!is_op("(")) {
                node = add(N::kAttribute, t.at, node, attribute);
                continue;
            }
            const int method = find_name(kMethodNames, text_ + t.at, t.bytes);
            if (method < 0) return fail_at(t.at, "method", text_ + t.at, t.bytes);
            next_token();
            const uint32_t list = arguments();
            node = add(N::kMethod, t.at, node, list, 0, static_cast<uint8_t>(method));
        } else if (skip_op("[")) {
            node = subscript(node, at);
        } else if (is_op("(")) {
            return fail_at(at, "a call of what is no name");
        } else {
            break;
        }
    }
    return node;
}

uint32_t Compiler::subscript(uint32_t object, uint32_t at) {
    uint32_t parts[3] = {}, count = 0;
    bool slice = false;
    for (;;) {
        if (!is_op(":") && !is_op("]")) parts[count] = expression();
        if (!is_op(":") || count == 2) break;
        slice = true;
        next_token();
        ++count;
    }
    if (is_op(",")) return fail_at(token_.at, "an index of several values");
    expect_op("]");
    if (!slice) return parts[0] || !ok() ? add(N::kItem, at, object, parts[0]) : fail_at(at, "an empty index");
    const uint32_t node = add(N::kSliceParts, at, parts[0], parts[1], parts[2]);
    return add(N::kSlice, at, object, node);
}

uint32_t Compiler::filters_and_tests(uint32_t node) {
    while (ok()) {
        const uint32_t at = token_.at;
        if (skip_op("|")) {
            const Token t = token_;
            if (t.kind != TokenKind::kName) return unexpected("a filter");
            const int filter = find_name(kFilterNames, text_ + t.at, t.bytes);
            if (filter < 0) return fail_at(t.at, "filter", text_ + t.at, t.bytes);
            next_token();
            const uint32_t list = skip_op("(") ? arguments() : 0;
            node = add(N::kFilter, t.at, node, list, 0, static_cast<uint8_t>(filter));
        } else if (skip_word("is")) {
            const bool negated = skip_word("not");
            const Token t = token_;
            if (t.kind != TokenKind::kName) return unexpected("a test");
            const int test = find_name(kTestNames, text_ + t.at, t.bytes);
            if (test < 0) return fail_at(t.at, "test", text_ + t.at, t.bytes);
            next_token();
            if (is_word("is")) return unexpected("one test");
            uint32_t list = 0;
            if (skip_op("(")) {
                list = arguments();
            } else if (token_.kind == TokenKind::kString || token_.kind == TokenKind::kInteger || is_op("[") ||
                       (token_.kind == TokenKind::kName && !is_word("else") && !is_word("or") && !is_word("and"))) {
                const uint32_t argument_at = token_.at;
                const uint32_t value = postfix(primary());
                list = add(N::kArgument, argument_at, value);
            }
            node = add(N::kTest, t.at, node, list, 0, static_cast<uint8_t>(test));
            if (nodes_ && ok()) nodes_[node].negated = negated;
        } else if (is_op("(")) {
            return fail_at(at, "a call of what is no name");
        } else {
            break;
        }
    }
    return node;
}

// Behind "(".
uint32_t Compiler::arguments() {
    Chain list;
    bool named = false;
    while (ok() && !is_op(")")) {
        const uint32_t at = token_.at;
        if (is_op("*") || is_op("**")) return fail_at(at, "an unpacked argument");
        uint32_t keyword = 0;
        if (token_.kind == TokenKind::kName && peek_char() == '=') {
            keyword = name();
            expect_op("=");
            named = true;
        } else if (named) {
            return fail_at(at, "an argument without a name behind one with a name");
        }
        const uint32_t value = expression();
        append(&list, add(N::kArgument, at, value, keyword));
        if (!skip_op(",")) break;
    }
    expect_op(")");
    return list.first;
}

uint32_t Compiler::call(uint32_t callee, uint32_t at, uint32_t name_at, uint32_t name_bytes) {
    if (find_name(kFunctionNames, text_ + name_at, name_bytes) < 0 && !defines_macro(name_at, name_bytes))
        return fail_at(at, "function", text_ + name_at, name_bytes);
    expect_op("(");
    const uint32_t list = arguments();
    return add(N::kCall, at, callee, list);
}

// Looks for "macro NAME(" in the text, as a macro may be called in front of its definition, from another one.
bool Compiler::defines_macro(uint32_t name_at, uint32_t name_bytes) const {
    for (uint32_t i = 0; i + 6 + name_bytes < bytes_; ++i) {
        if (!same_text("macro", text_ + i, 5) || !is_blank(text_[i + 5])) continue;
        uint32_t j = i + 5;
        while (j < bytes_ && is_blank(text_[j])) ++j;
        if (j + name_bytes < bytes_ && memcmp(text_ + j, text_ + name_at, name_bytes) == 0 &&
            (text_[j + name_bytes] == '(' || is_blank(text_[j + name_bytes])))
            return true;
    }
    return false;
}

keel_status Compiler::compile(uint32_t* first) {
    *first = body(nullptr);
    return status_;
}

}  // namespace

keel_status jinja_place(const JinjaSource& source, Arena& arena, const JinjaProgram** out, keel_error* error) {
    *out = nullptr;
    if (source.bytes > kMaxTemplateBytes)
        return fail(error, KEEL_E_FILE_LIMIT, 0, "chat template", "it is longer than 32 KiB");
    char copy[kMaxTemplateBytes];
    if (read_at(source.reader, source.offset, copy, source.bytes) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, source.offset, "chat template", "the reader failed");
    Compiler counter(copy, source.bytes, nullptr, 0, error);
    JinjaProgram program = {};
    KEEL_TRY(counter.compile(&program.first));
    program.node_count = counter.node_count();
    auto* const placed = arena.place<JinjaProgram>("chat_program", 1);
    auto* const nodes = arena.place<Node>("chat_nodes", program.node_count);
    auto* const text = arena.place<char>("chat_template", source.bytes);
    if (!placed || !nodes || !text) return KEEL_OK;
    if (read_at(source.reader, source.offset, text, source.bytes) != KEEL_OK)
        return fail(error, KEEL_E_FILE_READ, source.offset, "chat template", "the reader failed");
    Compiler writer(text, source.bytes, nodes, program.node_count, error);
    KEEL_TRY(writer.compile(&program.first));
    program.text = text;
    program.nodes = nodes;
    memset(nodes, 0, sizeof *nodes);  // node 0 is none
    *placed = program;
    *out = placed;
    return KEEL_OK;
}

void jinja_place_work(uint32_t capacity, Arena& arena, JinjaWork* out) {
    out->out = arena.place<char>("chat_text", capacity);
    out->out_marks = arena.place<uint8_t>("chat_text_marks", capacity);
    out->heap = arena.place<char>("chat_values", capacity);
    out->heap_marks = arena.place<uint8_t>("chat_value_marks", capacity);
    out->capacity = capacity;
}

}  // namespace keel
