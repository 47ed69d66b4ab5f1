// Values of a rendering template, and the memory they live in.
#pragma once
#include <string.h>

#include "sdk/text/jinja_program.h"

namespace keel::jinja {

enum class Type : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInteger,
    kNumber,  // any other number, as its text
    kString,
    kList,
    kDict,
    kNamespace,
    kLoop,
    kMethod,  // an attribute of a dict or string that was not called
    kMacro,   // node
};

// Where the bytes of a text come from.
enum class Origin : uint8_t {
    kScaffold,
    kMessage,
    kHeap,  // the heap's marks say, byte by byte
};

// What Python has in place of a list.
enum class Shape : uint8_t {
    kList,
    kTuple,     // written otherwise, and equal to no list
    kView,      // a range, or keys, values or items of a dict: has a length, but no text, JSON or element by index here
    kIterator,  // true, without a length, and read once; behind the elements is a value, true when it was read
};

struct Entry;
struct Namespace;
struct Loop;

struct Value {
    Type type = Type::kUndefined;
    Origin origin = Origin::kScaffold;  // kString, kNumber
    Shape shape = Shape::kList;         // kList
    uint32_t size = 0;                  // bytes, elements or entries
    union {
        int64_t integer = 0;  // kInteger, kBool, kMacro
        const char* text;
        const Value* items;
        const Entry* entries;
        Namespace* names;
        Loop* loop;
    };

    bool is(Type t) const { return type == t; }
    // A list or tuple, of which everything is known.
    bool is_plain_list() const { return type == Type::kList && shape <= Shape::kTuple; }
    static Value none() { return of(Type::kNone); }
    static Value boolean(bool v) {
        Value out = of(Type::kBool);
        out.integer = v;
        return out;
    }
    static Value number(int64_t v) {
        Value out = of(Type::kInteger);
        out.integer = v;
        return out;
    }
    static Value string(const char* text, size_t bytes, Origin origin) {
        Value out = of(Type::kString);
        out.text = text;
        out.size = static_cast<uint32_t>(bytes);
        out.origin = origin;
        return out;
    }
    static Value literal(const char* text) { return string(text, strlen(text), Origin::kScaffold); }
    // A part of a string.
    Value part(uint32_t begin, uint32_t bytes) const { return string(text + begin, bytes, origin); }

  private:
    static Value of(Type t) {
        Value out;
        out.type = t;
        return out;
    }
};

struct Entry {
    Value key, value;
};
struct NamespaceItem {
    Value name, value;
    NamespaceItem* next;
};
struct Namespace {
    NamespaceItem* first;
};
struct Loop {
    Value list;
    uint32_t index;
};

// A stack of memory: values grow from the front, and a second stack of values, for lists of unknown length, from the
// back. Whatever fails, fails for good: status() says so, and every pointer is null from then on.
class Heap {
  public:
    Heap(const JinjaWork& work, keel_error* error)
        : base_(work.heap), marks_(work.heap_marks), back_(work.capacity & ~7u), error_(error) {}

    keel_status status() const { return status_; }
    bool ok() const { return status_ == KEEL_OK; }
    // Remembers the first error; returns an undefined value.
    Value fail(keel_status status, const char* what, const char* name = nullptr, size_t name_bytes = 0);
    Value refuse(const char* what, const char* name = nullptr, size_t name_bytes = 0) {
        return fail(KEEL_E_ARGUMENT, what, name, name_bytes);
    }
    Value unsupported(const char* what, const char* name = nullptr, size_t name_bytes = 0) {
        return fail(KEEL_E_UNSUPPORTED, what, name, name_bytes);
    }
    void at(uint32_t place) { place_ = place; }  // of the template; goes into errors
    // Counts work; false once it is too much.
    bool spend(uint64_t steps);

    uint32_t mark() const { return top_; }
    // Gives up everything since `mark` but for what a namespace may hold.
    void release(uint32_t mark) {
        if (ok()) top_ = mark < kept_ ? kept_ : mark;
    }
    void keep() { kept_ = top_; }

    template <class T>
    T* make(uint32_t count) {
        static_assert(alignof(T) <= 8);
        const uint64_t begin = (uint64_t{top_} + 7) & ~uint64_t{7};
        const uint64_t end = begin + uint64_t{count} * sizeof(T);
        if (!room(end)) return nullptr;
        top_ = static_cast<uint32_t>(end);
        return reinterpret_cast<T*>(base_ + begin);
    }

    // Strings: begin(), any number of write(), finish().
    void begin() { string_ = top_; }
    void write(const Value& text);
    void write(const char* text, size_t bytes, bool message);
    void write(const char* scaffold) { write(scaffold, strlen(scaffold), false); }
    Value finish() { return ok() ? Value::string(base_ + string_, top_ - string_, Origin::kHeap) : Value(); }
    Value concat(const Value& left, const Value& right);
    // Takes what was captured elsewhere.
    Value take(const char* text, const uint8_t* marks, uint32_t bytes);
    // Whether byte i of a text is from a message.
    bool message_byte(const Value& text, uint32_t i) const {
        return text.origin == Origin::kHeap ? marks_[text.text - base_ + i] != 0 : text.origin == Origin::kMessage;
    }
    void copy_marks(const Value& text, uint8_t* to) const;

    // Lists of unknown length: push each element, then collect from where pushed() was.
    uint32_t pushed() const { return back_; }
    void push(const Value& value);
    Value list_from(uint32_t pushed, Shape shape = Shape::kList);
    Value dict_from(uint32_t pushed);  // keys and values in turn; of equal keys the last value counts

  private:
    bool room(uint64_t end);

    char* const base_;
    uint8_t* const marks_;
    uint32_t top_ = 0, back_, kept_ = 0, string_ = 0, place_ = 0;
    uint64_t steps_ = 0;
    keel_status status_ = KEEL_OK;
    keel_error* const error_;
};

bool truthy(const Value& v);
// As Python's ==. Spends what it compares.
bool equal(Heap* heap, const Value& a, const Value& b, uint32_t depth = 0);
// -1, 0 or 1; refuses what has no order.
int compare(Heap* heap, const Value& a, const Value& b);
// The value of a key, or null.
const Value* find_entry(Heap* heap, const Value& dict, const Value& key, uint32_t depth = 0);
// Byte offset of `what` in `text` from `from` on, or -1.
int64_t find_text(Heap* heap, const Value& text, const Value& what, uint32_t from);
// As Python's str().
Value to_string(Heap* heap, const Value& v);
// Elements of what can be iterated: a list, the keys of a dict, the characters of a string, nothing of undefined. Reads
// iterators.
Value to_list(Heap* heap, const Value& v);
// Tuples of key and value.
Value items_of(Heap* heap, const Value& dict, Shape shape);
uint32_t characters(Heap* heap, const Value& text);
struct JsonStyle {
    int64_t indent = -1;  // negative: on one line
    Value comma, colon;   // separators
};
// As json.dumps(ensure_ascii=False) writes it.
Value to_json(Heap* heap, const Value& v, const JsonStyle& style);
// A value of JSON text, all of it.
Value from_json(Heap* heap, const JinjaText& json);

}  // namespace keel::jinja
