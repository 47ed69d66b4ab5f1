#include "sdk/text/jinja_value.h"

#include "sdk/core/status.h"
#include "sdk/text/unicode_tables.h"
#include "sdk/text/utf8.h"

namespace keel::jinja {
namespace {

constexpr uint64_t kMaxSteps = 1u << 23;
constexpr uint32_t kMaxDepth = 24;

// Decimal digits of v; returns their number.
uint32_t decimal(int64_t v, char (&out)[24]) {
    uint64_t magnitude = v < 0 ? uint64_t{0} - static_cast<uint64_t>(v) : static_cast<uint64_t>(v);
    uint32_t at = sizeof out;
    do out[--at] = static_cast<char>('0' + magnitude % 10);
    while (magnitude /= 10);
    if (v < 0) out[--at] = '-';
    memmove(out, out + at, sizeof out - at);
    return static_cast<uint32_t>(sizeof out) - at;
}

}  // namespace

Value Heap::fail(keel_status status, const char* what, const char* name, size_t name_bytes) {
    if (!ok()) return {};
    char reason[sizeof error_->reason];
    TextBuilder text(reason, sizeof reason);
    text.text(what);
    if (name) text.text(" \"").text(name, name_bytes < 64 ? name_bytes : 64).text("\"");
    status_ = keel::fail(error_, status, place_, "chat template", reason);
    return {};
}

bool Heap::spend(uint64_t steps) {
    steps_ += steps;
    if (steps_ > kMaxSteps) fail(KEEL_E_FILE_LIMIT, "the template takes too many steps");
    return ok();
}

bool Heap::room(uint64_t end) {
    if (ok() && end > back_) fail(KEEL_E_TEXT_LIMIT, "the values of the template are beyond max_chat_bytes");
    return ok();
}

void Heap::write(const char* text, size_t bytes, bool message) {
    if (!room(uint64_t{top_} + bytes) || bytes == 0) return;
    memmove(base_ + top_, text, bytes);
    memset(marks_ + top_, message, bytes);
    top_ += static_cast<uint32_t>(bytes);
    spend(1 + bytes / 16);
}

void Heap::write(const Value& text) {
    if (!room(uint64_t{top_} + text.size) || text.size == 0) return;
    memmove(base_ + top_, text.text, text.size);
    copy_marks(text, marks_ + top_);
    top_ += text.size;
    spend(1 + text.size / 16);
}

void Heap::copy_marks(const Value& text, uint8_t* to) const {
    if (text.origin == Origin::kHeap)
        memmove(to, marks_ + (text.text - base_), text.size);
    else
        memset(to, text.origin == Origin::kMessage, text.size);
}

// Chains of + are common: a left side that ends where the heap does is continued in place.
Value Heap::concat(const Value& left, const Value& right) {
    if (right.size == 0) return left;
    if (left.size == 0) return right;
    if (left.origin == Origin::kHeap && left.text + left.size == base_ + top_) {
        string_ = top_ - left.size;
    } else {
        begin();
        write(left);
    }
    write(right);
    return finish();
}

Value Heap::take(const char* text, const uint8_t* marks, uint32_t bytes) {
    begin();
    write(text, bytes, false);
    if (ok()) memcpy(marks_ + string_, marks, bytes);
    return finish();
}

void Heap::push(const Value& value) {
    if (!room(uint64_t{top_} + sizeof value)) return;
    back_ -= sizeof value;
    memcpy(base_ + back_, &value, sizeof value);
    spend(1);
}

Value Heap::list_from(uint32_t pushed, Shape shape) {
    if (shape == Shape::kIterator) push(Value::boolean(false));
    if (!ok()) return {};
    const uint32_t count = (pushed - back_) / sizeof(Value);
    Value* const items = make<Value>(count);
    if (!items) return {};
    for (uint32_t i = 0; i < count; ++i) memcpy(&items[i], base_ + pushed - (i + 1) * sizeof(Value), sizeof(Value));
    back_ = pushed;
    Value out;
    out.type = Type::kList;
    out.shape = shape;
    out.size = count - (shape == Shape::kIterator);
    out.items = items;
    return out;
}

Value Heap::dict_from(uint32_t pushed) {
    const Value flat = list_from(pushed);
    Entry* const entries = make<Entry>(flat.size / 2);
    if (!ok()) return {};
    Value out;
    out.type = Type::kDict;
    out.entries = entries;
    for (uint32_t i = 0; i + 1 < flat.size; i += 2) {
        const Value* const known = find_entry(this, out, flat.items[i]);
        if (!ok()) return {};
        if (known)
            *const_cast<Value*>(known) = flat.items[i + 1];
        else
            entries[out.size++] = {flat.items[i], flat.items[i + 1]};
    }
    return out;
}

bool truthy(const Value& v) {
    switch (v.type) {
        case Type::kUndefined:
        case Type::kNone:
            return false;
        case Type::kBool:
        case Type::kInteger:
            return v.integer != 0;
        case Type::kNumber:
            for (uint32_t i = 0; i < v.size; ++i)
                if (v.text[i] >= '1' && v.text[i] <= '9') return true;
            return false;
        case Type::kList:
            return v.size != 0 || v.shape == Shape::kIterator;
        case Type::kString:
        case Type::kDict:
            return v.size != 0;
        case Type::kNamespace:
        case Type::kLoop:
        case Type::kMethod:
        case Type::kMacro:
            return true;
    }
    return false;
}

bool equal(Heap* heap, const Value& a, const Value& b, uint32_t depth) {
    if (depth > kMaxDepth) heap->fail(KEEL_E_FILE_LIMIT, "lists or dicts that are compared are nested too deeply");
    if (!heap->spend(1)) return false;
    const bool integers = (a.is(Type::kInteger) || a.is(Type::kBool)) && (b.is(Type::kInteger) || b.is(Type::kBool));
    if (integers) return a.integer == b.integer;
    if (a.is(Type::kNumber) || b.is(Type::kNumber)) {
        if (a.type == b.type)
            return (a.size == b.size && memcmp(a.text, b.text, a.size) == 0) || (!truthy(a) && !truthy(b));
        const Type other = a.is(Type::kNumber) ? b.type : a.type;
        if (other == Type::kInteger || other == Type::kBool) heap->unsupported("comparing a number that is no integer");
        return false;
    }
    if (a.type != b.type) return false;
    switch (a.type) {
        case Type::kUndefined:
        case Type::kNone:
            return true;
        case Type::kString:
            heap->spend(a.size == b.size ? a.size / 16 : 0);
            return a.size == b.size && memcmp(a.text, b.text, a.size) == 0;
        case Type::kList:
            if (!a.is_plain_list() || !b.is_plain_list()) heap->unsupported("comparing iterators, ranges or views");
            if (!heap->ok() || a.size != b.size || a.shape != b.shape) return false;
            for (uint32_t i = 0; i < a.size; ++i)
                if (!equal(heap, a.items[i], b.items[i], depth + 1)) return false;
            return true;
        case Type::kDict:
            if (a.size != b.size) return false;
            for (uint32_t i = 0; i < a.size; ++i) {
                const Value* const other = find_entry(heap, b, a.entries[i].key, depth + 1);
                if (!other || !equal(heap, a.entries[i].value, *other, depth + 1)) return false;
            }
            return true;
        default:
            return a.integer == b.integer;
    }
}

int compare(Heap* heap, const Value& a, const Value& b) {
    const bool integers = (a.is(Type::kInteger) || a.is(Type::kBool)) && (b.is(Type::kInteger) || b.is(Type::kBool));
    if (integers) return a.integer < b.integer ? -1 : a.integer > b.integer;
    if (a.is(Type::kString) && b.is(Type::kString)) {
        const uint32_t shared = a.size < b.size ? a.size : b.size;
        heap->spend(shared / 16);
        const int order = shared ? memcmp(a.text, b.text, shared) : 0;
        if (order) return order < 0 ? -1 : 1;
        return a.size < b.size ? -1 : a.size > b.size;
    }
    if (a.is(Type::kNumber) || b.is(Type::kNumber) || a.is(Type::kList))
        heap->unsupported("ordering these values");
    else
        heap->refuse("these values have no order");
    return 0;
}

const Value* find_entry(Heap* heap, const Value& dict, const Value& key, uint32_t depth) {
    for (uint32_t i = 0; i < dict.size && heap->ok(); ++i)
        if (equal(heap, dict.entries[i].key, key, depth)) return &dict.entries[i].value;
    return nullptr;
}

int64_t find_text(Heap* heap, const Value& text, const Value& what, uint32_t from) {
    if (what.size == 0) return from <= text.size ? from : -1;
    uint64_t work = 0;
    int64_t found = -1;
    for (uint32_t i = from; found < 0 && what.size <= text.size && i <= text.size - what.size; ++i) {
        uint32_t same = 0;
        while (same < what.size && text.text[i + same] == what.text[same]) ++same;
        work += same + 1;
        if (same == what.size) found = i;
    }
    heap->spend(work / 8);
    return found;
}

namespace {

// A string as Python's repr() writes it: visible characters as they are.
void write_repr_string(Heap* heap, const Value& s) {
    static constexpr char kHex[] = "0123456789abcdef";
    static constexpr char kShort[] = "\nn\rr\tt\\\\";
    const bool apostrophe = s.size && memchr(s.text, '\'', s.size), quote = s.size && memchr(s.text, '"', s.size);
    const char* const mark = apostrophe && !quote ? "\"" : "'";
    heap->write(mark);
    for (uint32_t i = 0; i < s.size && heap->ok();) {
        const Utf8Char c = utf8_decode(s.text + i, s.size - i);
        char escape[4] = {'\\', 'x', kHex[(c.code >> 4) & 15], kHex[c.code & 15]};
        uint32_t bytes = c.code < 0x20 || c.code == 0x7f ? 4 : 0;
        for (size_t k = 0; k + 1 < sizeof kShort; k += 2)
            if (static_cast<uint32_t>(kShort[k]) == c.code) {
                escape[1] = kShort[k + 1];
                bytes = 2;
            }
        if (c.code == static_cast<uint8_t>(*mark)) {
            escape[1] = *mark;
            bytes = 2;
        }
        const uint32_t kind = c.code < 0x80 ? kClassLo : char_class(c.code);
        if (kind == kClassOther || kind == kClassSpace)
            heap->unsupported("the text of a list or dict with invisible characters");
        if (bytes)
            heap->write(escape, bytes, heap->message_byte(s, i));
        else
            heap->write(s.part(i, c.bytes));
        i += c.bytes;
    }
    heap->write(mark);
}

// As Python's repr().
void write_repr(Heap* heap, const Value& v, uint32_t depth) {
    if (depth > kMaxDepth) heap->fail(KEEL_E_FILE_LIMIT, "a list or dict is nested too deeply");
    if (!heap->spend(1)) return;
    char digits[24];
    switch (v.type) {
        case Type::kNone:
            return heap->write("None");
        case Type::kBool:
            return heap->write(v.integer ? "True" : "False");
        case Type::kInteger: {
            const uint32_t bytes = decimal(v.integer, digits);
            return heap->write(digits, bytes, false);
        }
        case Type::kNumber:
            return heap->write(v);
        case Type::kString:
            return write_repr_string(heap, v);
        case Type::kList:
        case Type::kDict:
            break;
        default:
            heap->unsupported("the text of an object");
            return;
    }
    if (v.is(Type::kList) && v.shape != Shape::kList) heap->unsupported("the text of a tuple, iterator, range or view");
    const bool list = v.is(Type::kList);
    heap->write(list ? "[" : "{");
    for (uint32_t i = 0; i < v.size && heap->ok(); ++i) {
        if (i) heap->write(", ");
        if (!list) {
            write_repr(heap, v.entries[i].key, depth + 1);
            heap->write(": ");
        }
        write_repr(heap, list ? v.items[i] : v.entries[i].value, depth + 1);
    }
    heap->write(list ? "]" : "}");
}

}  // namespace

Value to_string(Heap* heap, const Value& v) {
    switch (v.type) {
        case Type::kUndefined:
            return Value::literal("");
        case Type::kNone:
            return Value::literal("None");
        case Type::kBool:
            return Value::literal(v.integer ? "True" : "False");
        case Type::kInteger: {
            char digits[24];
            const uint32_t bytes = decimal(v.integer, digits);
            heap->begin();
            heap->write(digits, bytes, false);
            return heap->finish();
        }
        case Type::kNumber:
            return Value::string(v.text, v.size, v.origin);
        case Type::kString:
            return v;
        default:
            heap->begin();
            write_repr(heap, v, 0);
            return heap->finish();
    }
}

Value to_list(Heap* heap, const Value& v) {
    const uint32_t begin = heap->pushed();
    switch (v.type) {
        case Type::kList: {
            Value out = v;
            out.shape = Shape::kList;
            if (v.shape == Shape::kIterator && v.size) {
                Value* const read = const_cast<Value*>(v.items + v.size);
                if (truthy(*read)) return heap->unsupported("an iterator that is read twice");
                *read = Value::boolean(true);
            }
            return out;
        }
        case Type::kUndefined:
            break;
        case Type::kDict:
            for (uint32_t i = 0; i < v.size; ++i) heap->push(v.entries[i].key);
            break;
        case Type::kString:
            for (uint32_t i = 0; i < v.size && heap->ok();) {
                const uint32_t bytes = utf8_decode(v.text + i, v.size - i).bytes;
                heap->push(v.part(i, bytes));
                i += bytes;
            }
            break;
        default:
            return heap->refuse("a loop over what has no elements");
    }
    return heap->list_from(begin);
}

Value items_of(Heap* heap, const Value& dict, Shape shape) {
    const uint32_t begin = heap->pushed();
    for (uint32_t i = 0; i < dict.size && heap->ok(); ++i) {
        const uint32_t pair = heap->pushed();
        heap->push(dict.entries[i].key);
        heap->push(dict.entries[i].value);
        heap->push(heap->list_from(pair, Shape::kTuple));
    }
    return heap->list_from(begin, shape);
}

uint32_t characters(Heap* heap, const Value& text) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < text.size; ++count) i += utf8_decode(text.text + i, text.size - i).bytes;
    heap->spend(count / 16);
    return count;
}

// ---- JSON ----

namespace {

void write_json_string(Heap* heap, const Value& s) {
    static constexpr char kHex[] = "0123456789abcdef";
    static constexpr char kShort[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    heap->write("\"");
    uint32_t plain = 0;
    for (uint32_t i = 0; i < s.size && heap->ok(); ++i) {
        const char c = s.text[i];
        if (static_cast<uint8_t>(c) >= 0x20 && c != '"' && c != '\\') continue;
        heap->write(s.part(plain, i - plain));
        plain = i + 1;
        char escape[6] = {'\\', 'u', '0', '0', kHex[(c >> 4) & 15], kHex[c & 15]};
        uint32_t bytes = 6;
        for (size_t k = 0; k + 1 < sizeof kShort; k += 2)
            if (kShort[k] == c) {
                escape[1] = kShort[k + 1];
                bytes = 2;
            }
        heap->write(escape, bytes, heap->message_byte(s, i));
    }
    heap->write(s.part(plain, s.size - plain));
    heap->write("\"");
}

void new_line(Heap* heap, int64_t indent, uint32_t depth) {
    if (indent < 0) return;
    heap->write("\n");
    for (int64_t i = 0; i < indent * depth && heap->ok(); ++i) heap->write(" ");
}

void write_json(Heap* heap, const Value& v, const JsonStyle& style, uint32_t depth) {
    if (depth > kMaxDepth) heap->fail(KEEL_E_FILE_LIMIT, "JSON is nested too deeply");
    if (!heap->spend(1)) return;
    switch (v.type) {
        case Type::kNone:
            return heap->write("null");
        case Type::kBool:
            return heap->write(v.integer ? "true" : "false");
        case Type::kInteger: {
            char digits[24];
            const uint32_t bytes = decimal(v.integer, digits);
            return heap->write(digits, bytes, false);
        }
        case Type::kNumber:
            return heap->write(v);
        case Type::kString:
            return write_json_string(heap, v);
        case Type::kList:
        case Type::kDict:
            break;
        default:
            heap->refuse("JSON of what is no JSON value");
            return;
    }
    if (v.is(Type::kList) && !v.is_plain_list()) heap->refuse("JSON of what is no JSON value");
    const bool list = v.is(Type::kList);
    heap->write(list ? "[" : "{");
    for (uint32_t i = 0; i < v.size && heap->ok(); ++i) {
        if (i) heap->write(style.comma);
        new_line(heap, style.indent, depth + 1);
        if (!list) {
            if (!v.entries[i].key.is(Type::kString)) heap->unsupported("JSON of a key that is no string");
            if (!heap->ok()) return;
            write_json_string(heap, v.entries[i].key);
            heap->write(style.colon);
        }
        write_json(heap, list ? v.items[i] : v.entries[i].value, style, depth + 1);
    }
    if (v.size) new_line(heap, style.indent, depth);
    heap->write(list ? "]" : "}");
}

// Parses text of the caller: its strings are message, its numbers and words too, as to where they come from.
class JsonReader {
  public:
    JsonReader(Heap* heap, const JinjaText& json) : heap_(heap), text_(json.data), bytes_(json.bytes) {}
    Value all() {
        const Value v = value(0);
        blanks();
        return at_ == bytes_ ? v : bad();
    }

  private:
    Value bad() { return heap_->refuse("JSON that is not well formed"); }
    void blanks() {
        while (at_ < bytes_ && memchr(" \t\r\n", text_[at_], 4)) ++at_;
    }
    bool skip(char c) {
        blanks();
        if (at_ >= bytes_ || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    Value word(const char* text, const Value& v) {
        const size_t n = strlen(text);
        if (n > bytes_ - at_ || memcmp(text_ + at_, text, n) != 0) return bad();
        at_ += n;
        return v;
    }
    Value value(uint32_t depth);
    Value number();
    Value string();
    bool hex4(uint32_t* out);

    Heap* const heap_;
    const char* const text_;
    const size_t bytes_;
    size_t at_ = 0;
};

Value JsonReader::value(uint32_t depth) {
    if (depth > kMaxDepth) heap_->refuse("JSON that is nested too deeply");
    if (!heap_->spend(1)) return {};
    blanks();
    if (at_ >= bytes_) return bad();
    const char c = text_[at_];
    if (c == '"') return string();
    if (c == 't') return word("true", Value::boolean(true));
    if (c == 'f') return word("false", Value::boolean(false));
    if (c == 'n') return word("null", Value::none());
    if (c != '{' && c != '[') return number();
    ++at_;
    const bool list = c == '[';
    const char close = list ? ']' : '}';
    const uint32_t begin = heap_->pushed();
    if (!skip(close)) do {
            if (!list) {
                blanks();
                if (at_ >= bytes_ || text_[at_] != '"') return bad();
                const Value key = string();
                if (!skip(':')) return bad();
                heap_->push(key);
            }
            const Value element = value(depth + 1);
            if (!heap_->ok()) return {};
            heap_->push(element);
            if (skip(close)) break;
            if (!skip(',')) return bad();
        } while (heap_->ok());
    return list ? heap_->list_from(begin) : heap_->dict_from(begin);
}

// Integers of 64 bits are values. Others are carried as their text, which must be what Python would write.
Value JsonReader::number() {
    const size_t begin = at_;
    const auto digits = [&] {
        const size_t from = at_;
        while (at_ < bytes_ && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        return at_ - from;
    };
    const bool negative = text_[at_] == '-';
    at_ += negative;
    const size_t first = at_;
    const size_t whole = digits();
    if (whole == 0 || (whole > 1 && text_[first] == '0')) return bad();
    const bool point = at_ < bytes_ && text_[at_] == '.';
    if (point) {
        ++at_;
        if (digits() == 0) return bad();
    }
    if (at_ < bytes_ && (text_[at_] == 'e' || text_[at_] == 'E'))
        return heap_->unsupported("a number with an exponent");
    const Value text = Value::string(text_ + begin, at_ - begin, Origin::kMessage);
    if (!point) {
        int64_t v = 0;
        for (size_t i = first; i < at_; ++i)
            if (__builtin_mul_overflow(v, int64_t{10}, &v) || __builtin_sub_overflow(v, text_[i] - '0', &v))
                return heap_->unsupported("an integer beyond 64 bits", text.text, text.size);
        if (!negative && v == INT64_MIN) return heap_->unsupported("an integer beyond 64 bits", text.text, text.size);
        return Value::number(negative ? v : -v);
    }
    if (!is_canonical(text_ + first, at_ - first)) return heap_->unsupported("the number", text.text, text.size);
    Value out = text;
    out.type = Type::kNumber;
    return out;
}

bool JsonReader::hex4(uint32_t* out) {
    if (bytes_ - at_ < 4) return false;
    *out = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
        const char c = text_[at_];
        const int v = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (v < 0) return false;
        *out = *out << 4 | static_cast<uint32_t>(v);
    }
    return true;
}

Value JsonReader::string() {
    const size_t begin = ++at_;
    while (at_ < bytes_ && text_[at_] != '"' && text_[at_] != '\\' && static_cast<uint8_t>(text_[at_]) >= 0x20) ++at_;
    if (at_ < bytes_ && text_[at_] == '"') return Value::string(text_ + begin, at_++ - begin, Origin::kMessage);
    at_ = begin;
    heap_->begin();
    while (heap_->ok()) {
        if (at_ >= bytes_ || static_cast<uint8_t>(text_[at_]) < 0x20) return bad();
        const char c = text_[at_++];
        if (c == '"') break;
        if (c != '\\') {
            heap_->write(&c, 1, true);
            continue;
        }
        if (at_ >= bytes_) return bad();
        const char kind = text_[at_++];
        static constexpr char kShort[] = "\"\"\\\\//n\nr\rt\tb\bf\f";
        if (kind == 'u') {
            uint32_t code, low = 0;
            if (!hex4(&code)) return bad();
            if (code >= 0xd800 && code < 0xdc00 && bytes_ - at_ >= 6 && text_[at_] == '\\' && text_[at_ + 1] == 'u') {
                at_ += 2;
                if (!hex4(&low) || low < 0xdc00 || low > 0xdfff) return bad();
                code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
            }
            if (code >= 0xd800 && code < 0xe000) return bad();
            char encoded[4];
            heap_->write(encoded, utf8_encode(code, encoded), true);
            continue;
        }
        size_t i = 0;
        while (i + 1 < sizeof kShort && kShort[i] != kind) i += 2;
        if (i + 1 >= sizeof kShort) return bad();
        heap_->write(kShort + i + 1, 1, true);
    }
    return heap_->finish();
}

}  // namespace

Value to_json(Heap* heap, const Value& v, const JsonStyle& style) {
    heap->begin();
    write_json(heap, v, style, 0);
    return heap->finish();
}

Value from_json(Heap* heap, const JinjaText& json) {
    return JsonReader(heap, json).all();
}

}  // namespace keel::jinja
