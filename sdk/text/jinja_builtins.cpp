#include "sdk/text/jinja_builtins.h"

#include "sdk/text/utf8.h"

namespace keel::jinja {
namespace {

constexpr int64_t kNoBound = INT64_MAX;

// Line ends as Python's str.splitlines knows them.
bool ends_line(uint32_t code) {
    return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 || code == 0x2028 ||
           code == 0x2029;
}

// Whether a character is to be stripped: one of `set`, or white space without a set.
bool strips(uint32_t code, const Value* set) {
    if (!set) return is_space(code);
    for (uint32_t i = 0; i < set->size;) {
        const Utf8Char c = utf8_decode(set->text + i, set->size - i);
        if (c.code == code) return true;
        i += c.bytes;
    }
    return false;
}

Value strip(Heap* heap, const Value& text, const Value* set, bool left, bool right) {
    if (set && set->is(Type::kNone)) set = nullptr;
    if (set && !set->is(Type::kString)) return heap->refuse("strip by what is no string");
    uint32_t begin = 0, end = text.size;
    const uint64_t look = 1 + (set ? set->size / 16 : 0);  // steps a character takes
    while (left && begin < end && heap->spend(look)) {
        const Utf8Char c = utf8_decode(text.text + begin, end - begin);
        if (!strips(c.code, set)) break;
        begin += c.bytes;
    }
    while (right && end > begin && heap->spend(look)) {
        const Utf8Char c = utf8_decode_last(text.text + begin, end - begin);
        if (!strips(c.code, set)) break;
        end -= c.bytes;
    }
    return text.part(begin, end - begin);
}

enum class Case { kLower, kUpper, kCapitalize, kTitle };

Value change_case(Heap* heap, const Value& text, Case how) {
    heap->begin();
    bool inside = false;  // of a word
    for (uint32_t i = 0; i < text.size && heap->ok(); ++i) {
        char c = text.text[i];
        if (static_cast<uint8_t>(c) >= 0x80) return heap->unsupported("changing the case of letters beyond ASCII");
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool upper =
            how == Case::kUpper || (how == Case::kCapitalize && i == 0) || (how == Case::kTitle && !inside);
        if (letter) c = static_cast<char>(upper ? c & ~32 : c | 32);
        inside = letter;
        heap->write(&c, 1, heap->message_byte(text, i));
    }
    return heap->finish();
}

// The filter `title` of jinja2: words are what stands between white space and -([{<.
Value filter_title(Heap* heap, const Value& text) {
    heap->begin();
    bool first = true;
    for (uint32_t i = 0; i < text.size && heap->ok(); ++i) {
        char c = text.text[i];
        if (static_cast<uint8_t>(c) >= 0x80) return heap->unsupported("changing the case of letters beyond ASCII");
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (letter) c = static_cast<char>(first ? c & ~32 : c | 32);
        first = is_space(static_cast<uint8_t>(c)) || memchr("-([{<", c, 5);
        heap->write(&c, 1, heap->message_byte(text, i));
    }
    return heap->finish();
}

bool need_string(Heap* heap, const Value* v, const char* what) {
    if (v && v->is(Type::kString)) return true;
    heap->refuse(what);
    return false;
}

// How often something is done at most.
int64_t count_of(Heap* heap, const Value* limit) {
    if (!limit) return INT64_MAX;
    if (!limit->is(Type::kInteger) && !limit->is(Type::kBool))
        return heap->unsupported("a count that is no integer"), 0;
    return limit->integer < 0 ? INT64_MAX : limit->integer;
}

Value replace(Heap* heap, const Value& text, const Arguments& arguments) {
    const Value *from = arguments.get(0, "old"), *to = arguments.get(1, "new"), *limit = arguments.get(2, "count");
    if (!need_string(heap, from, "replace of what is no string") ||
        !need_string(heap, to, "replace by what is no string"))
        return {};
    if (from->size == 0) return heap->unsupported("replace of an empty string");
    int64_t left = count_of(heap, limit);
    int64_t found = left ? find_text(heap, text, *from, 0) : -1;
    if (found < 0) return text;
    heap->begin();
    uint32_t at = 0;
    for (; found >= 0 && heap->ok(); found = left ? find_text(heap, text, *from, at) : -1, heap->spend(1)) {
        heap->write(text.part(at, static_cast<uint32_t>(found) - at));
        heap->write(*to);
        at = static_cast<uint32_t>(found) + from->size;
        --left;
    }
    heap->write(text.part(at, text.size - at));
    return heap->finish();
}

Value split(Heap* heap, const Value& text, const Arguments& arguments, bool from_right) {
    const Value *separator = arguments.get(0, "sep"), *limit = arguments.get(1, "maxsplit");
    int64_t left = count_of(heap, limit);
    const uint32_t begin = heap->pushed();
    if (!separator || separator->is(Type::kNone)) {
        if (limit) return heap->unsupported("a bounded split at white space");
        uint32_t word = 0;
        for (uint32_t i = 0; heap->ok();) {
            const Utf8Char c = i < text.size ? utf8_decode(text.text + i, text.size - i) : Utf8Char{' ', 1};
            if (is_space(c.code)) {
                if (i > word) heap->push(text.part(word, i - word));
                word = i + c.bytes;
            }
            if (i >= text.size) break;
            i += c.bytes;
        }
        return heap->list_from(begin);
    }
    if (!need_string(heap, separator, "split at what is no string")) return {};
    if (separator->size == 0) return heap->refuse("split at an empty string");
    if (from_right) {
        // Splits are counted from the right: pass over those that are too many.
        int64_t total = 0;
        for (int64_t at = 0; heap->ok() && (at = find_text(heap, text, *separator, static_cast<uint32_t>(at))) >= 0;
             at += separator->size)
            ++total;
        if (total > left && separator->size > 1) return heap->unsupported("a bounded rsplit at several characters");
        uint32_t at = 0;
        for (int64_t passed = total - left; passed > 0; --passed)
            at = static_cast<uint32_t>(find_text(heap, text, *separator, at)) + separator->size;
        uint32_t piece = 0;
        while (heap->ok()) {
            const int64_t found = find_text(heap, text, *separator, at);
            if (found < 0) break;
            heap->push(text.part(piece, static_cast<uint32_t>(found) - piece));
            piece = at = static_cast<uint32_t>(found) + separator->size;
        }
        heap->push(text.part(piece, text.size - piece));
        return heap->list_from(begin);
    }
    uint32_t at = 0;
    for (; left > 0 && heap->ok(); --left) {
        const int64_t found = find_text(heap, text, *separator, at);
        if (found < 0) break;
        heap->push(text.part(at, static_cast<uint32_t>(found) - at));
        at = static_cast<uint32_t>(found) + separator->size;
    }
    heap->push(text.part(at, text.size - at));
    return heap->list_from(begin);
}

// "a.b.0", as select, map and join by attribute take it.
Value path_of(Heap* heap, Value object, const Value& path) {
    if (path.is(Type::kInteger)) return item_of(heap, object, path);
    if (!need_string(heap, &path, "an attribute that is no string")) return {};
    for (uint32_t begin = 0; begin <= path.size && heap->ok();) {
        // jinja2 looks when the element is read, and these change.
        if (object.is(Type::kNamespace) || object.is(Type::kLoop))
            return heap->unsupported("a path through a namespace or loop");
        uint32_t end = begin;
        bool digits = true;
        int64_t number = 0;
        for (; end < path.size && path.text[end] != '.'; ++end) {
            digits = digits && path.text[end] >= '0' && path.text[end] <= '9' && end - begin < 9;
            if (digits) number = number * 10 + (path.text[end] - '0');
        }
        object = item_of(heap, object, digits && end > begin ? Value::number(number) : path.part(begin, end - begin));
        begin = end + 1;
    }
    return object;
}

Value join(Heap* heap, const Value& separator, const Value& list, const Value* attribute, bool strings_only) {
    const uint32_t begin = heap->pushed();
    for (uint32_t i = 0; i < list.size && heap->ok(); ++i) {
        const Value v = attribute ? path_of(heap, list.items[i], *attribute) : list.items[i];
        if (strings_only && !v.is(Type::kString)) return heap->refuse("join of what is no string");
        heap->push(to_string(heap, v));
    }
    const Value texts = heap->list_from(begin);
    heap->begin();
    for (uint32_t i = 0; i < texts.size && heap->ok(); ++i) {
        if (i) heap->write(separator);
        heap->write(texts.items[i]);
    }
    return heap->finish();
}

bool starts(const Value& text, const Value& with) {
    return with.size <= text.size && (with.size == 0 || memcmp(text.text, with.text, with.size) == 0);
}
bool ends(const Value& text, const Value& with) {
    return with.size <= text.size &&
           (with.size == 0 || memcmp(text.text + text.size - with.size, with.text, with.size) == 0);
}
// One string, or any of several.
Value starts_or_ends(Heap* heap, const Value& text, const Value* with, bool (*matches)(const Value&, const Value&)) {
    if (with && with->is(Type::kList) && with->shape == Shape::kTuple) {
        for (uint32_t i = 0; i < with->size && heap->spend(1 + with->items[i].size / 16); ++i)
            if (with->items[i].is(Type::kString) && matches(text, with->items[i])) return Value::boolean(true);
        return Value::boolean(false);
    }
    if (!need_string(heap, with, "a prefix or suffix that is no string")) return {};
    return Value::boolean(matches(text, *with));
}

Value length(Heap* heap, const Value& v) {
    switch (v.type) {
        case Type::kUndefined:
            return Value::number(0);
        case Type::kString:
            return Value::number(characters(heap, v));
        case Type::kList:
            if (v.shape == Shape::kIterator) break;
            return Value::number(v.size);
        case Type::kDict:
            return Value::number(v.size);
        default:
            break;
    }
    return heap->refuse("the length of what has none");
}

Value reversed(Heap* heap, const Value& list, Shape shape) {
    const uint32_t begin = heap->pushed();
    for (uint32_t i = list.size; i-- > 0 && heap->ok();) heap->push(list.items[i]);
    return heap->list_from(begin, shape);
}

// select, reject, selectattr and rejectattr.
Value select(Heap* heap, const Value& list, const Arguments& arguments, bool by_attribute, bool wanted) {
    const Value* const path = by_attribute ? arguments.get(0) : nullptr;
    if (by_attribute && !path) return heap->refuse("selectattr without an attribute");
    const Arguments rest = arguments.after(by_attribute ? 1 : 0);
    const Value* const name = rest.get(0);
    int test = -1;
    if (name) {
        if (!need_string(heap, name, "a test that is no string")) return {};
        const bool equals = same_text("==", name->text, name->size);
        test = equals ? static_cast<int>(Test::kEq) : find_name(kTestNames, name->text, name->size);
        if (test < 0) return heap->unsupported("test", name->text, name->size);
    }
    const uint32_t begin = heap->pushed();
    for (uint32_t i = 0; i < list.size && heap->spend(1); ++i) {
        const Value v = path ? path_of(heap, list.items[i], *path) : list.items[i];
        const bool passes = test < 0 ? truthy(v) : apply_test(heap, static_cast<Test>(test), v, rest.after(1));
        if (passes == wanted) heap->push(list.items[i]);
    }
    return heap->list_from(begin, Shape::kIterator);
}

Value map(Heap* heap, const Value& list, const Arguments& arguments) {
    static constexpr ArgumentLimit kByAttribute = {"map", 0, "attribute default"};
    const Value* const name = arguments.get(0);
    const Value* const path = name ? nullptr : arguments.get(UINT32_MAX, "attribute");
    const Value* const otherwise = path ? arguments.get(UINT32_MAX, "default") : nullptr;
    int filter = -1;
    if (path) {
        if (!knows_arguments(heap, kByAttribute, arguments)) return {};
    } else {
        if (!need_string(heap, name, "map without a filter")) return {};
        filter = find_name(kFilterNames, name->text, name->size);
        if (filter < 0 || filter == static_cast<int>(Filter::kMap))
            return heap->unsupported("filter", name->text, name->size);
    }
    const uint32_t begin = heap->pushed();
    for (uint32_t i = 0; i < list.size && heap->spend(1); ++i) {
        Value v = path ? path_of(heap, list.items[i], *path)
                       : apply_filter(heap, static_cast<Filter>(filter), list.items[i], arguments.after(1));
        if (v.is(Type::kUndefined) && otherwise && !otherwise->is(Type::kNone)) v = *otherwise;
        heap->push(v);
    }
    return heap->list_from(begin, Shape::kIterator);
}

Value to_integer(Heap* heap, const Value& v, const Value* otherwise) {
    if (v.is(Type::kInteger) || v.is(Type::kBool)) return Value::number(v.integer);
    if (v.is(Type::kNumber)) return heap->unsupported("an integer of a number that is none");
    if (v.is(Type::kUndefined)) return heap->refuse("an integer of what is undefined");
    const Value digits = v.is(Type::kString) ? strip(heap, v, nullptr, true, true) : Value::literal("");
    const bool sign = digits.size && (digits.text[0] == '-' || digits.text[0] == '+');
    int64_t value = 0;
    bool good = digits.size > sign;
    for (uint32_t i = sign; i < digits.size && good; ++i) {
        const char c = digits.text[i];
        if (c == '_' || c == '.' || c == 'e' || c == 'E' || static_cast<uint8_t>(c) >= 0x80)
            return heap->unsupported("an integer of the text", digits.text, digits.size);
        good = c >= '0' && c <= '9';
        if (good &&
            (__builtin_mul_overflow(value, int64_t{10}, &value) || __builtin_add_overflow(value, c - '0', &value)))
            return heap->unsupported("an integer beyond 64 bits");
    }
    if (!good) return otherwise ? *otherwise : Value::number(0);
    return Value::number(sign && digits.text[0] == '-' ? -value : value);
}

// Ascending, stable; keys and strings without regard to case, as jinja2 sorts by default.
Value lower_key(Heap* heap, const Value& v) {
    return v.is(Type::kString) ? change_case(heap, v, Case::kLower) : v;
}

Value dictsort(Heap* heap, const Value& dict) {
    if (!dict.is(Type::kDict)) return heap->refuse("dictsort of what is no dict");
    const Value pairs = items_of(heap, dict, Shape::kList);
    if (!heap->ok()) return {};
    Value* const sorted = const_cast<Value*>(pairs.items);
    for (uint32_t i = 1; i < pairs.size; ++i) {
        const Value pair = sorted[i];
        uint32_t at = i;
        for (; at > 0 && heap->spend(1); --at) {
            const uint32_t mark = heap->mark();
            const Value left = lower_key(heap, sorted[at - 1].items[0]), right = lower_key(heap, pair.items[0]);
            const bool stays = compare(heap, left, right) <= 0;
            heap->release(mark);
            if (stays) break;
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = pair;
    }
    return pairs;
}

Value extreme(Heap* heap, const Value& list, int sign) {
    if (list.size == 0) return {};
    Value best = list.items[0];
    for (uint32_t i = 1; i < list.size && heap->ok(); ++i) {
        const Value left = lower_key(heap, list.items[i]), right = lower_key(heap, best);
        if (compare(heap, left, right) * sign > 0) best = list.items[i];
    }
    return best;
}

Value unique(Heap* heap, const Value& list) {
    const uint32_t begin = heap->pushed();
    for (uint32_t i = 0; i < list.size && heap->ok(); ++i) {
        bool known = false;
        const Value key = lower_key(heap, list.items[i]);
        for (uint32_t k = 0; k < i && !known && heap->ok(); ++k) {
            const uint32_t mark = heap->mark();
            known = equal(heap, key, lower_key(heap, list.items[k]));
            heap->release(mark);
        }
        if (!known) heap->push(list.items[i]);
    }
    return heap->list_from(begin, Shape::kIterator);
}

Value indent(Heap* heap, const Value& text, const Arguments& arguments) {
    const Value *width = arguments.get(0, "width"), *first = arguments.get(1, "first"),
                *blank = arguments.get(2, "blank");
    if (width && !width->is(Type::kInteger)) return heap->unsupported("indent by what is no number");
    const int64_t spaces = width ? width->integer : 4;
    const bool at_first = first && truthy(*first), blanks = blank && truthy(*blank);
    if (!need_string(heap, &text, "indent of what is no string")) return {};
    heap->begin();
    for (uint32_t line = 0, next; heap->ok(); line = next) {
        uint32_t end = line;
        Utf8Char c = {0, 0};
        for (; end < text.size; end += c.bytes)
            if (ends_line((c = utf8_decode(text.text + end, text.size - end)).code)) break;
        if (line == 0 ? at_first : blanks || end > line)
            for (int64_t k = 0; k < spaces && heap->ok(); ++k) heap->write(" ");
        heap->write(text.part(line, end - line));
        next = end + c.bytes;
        // jinja2 splits the text with a newline behind it, of which a last "\r" becomes a part.
        if (end == text.size || (c.code == '\r' && next == text.size)) break;
        if (c.code == '\r' && text.text[next] == '\n') ++next;
        heap->write("\n", 1, heap->message_byte(text, end));
    }
    return heap->finish();
}

// json.dumps by the name that transformers gives it.
Value tojson(Heap* heap, const Value& v, const Arguments& arguments) {
    const Value *ensure_ascii = arguments.get(0, "ensure_ascii"), *width = arguments.get(1, "indent");
    const Value *separators = arguments.get(2, "separators"), *sort = arguments.get(3, "sort_keys");
    // jinja2's own filter has `indent` first.
    if (ensure_ascii && !ensure_ascii->is(Type::kBool)) return heap->unsupported("tojson with an argument by position");
    if ((ensure_ascii && truthy(*ensure_ascii)) || (sort && truthy(*sort)))
        return heap->unsupported("tojson with ensure_ascii or sort_keys");
    JsonStyle style;
    if (width && !width->is(Type::kNone)) {
        if (!width->is(Type::kInteger)) return heap->unsupported("tojson with an indent that is no integer");
        style.indent = width->integer < 0 ? 0 : width->integer;
    }
    style.comma = Value::literal(style.indent < 0 ? ", " : ",");
    style.colon = Value::literal(": ");
    if (separators && !separators->is(Type::kNone)) {
        const bool pair = separators->is_plain_list() && separators->size == 2 &&
                          separators->items[0].is(Type::kString) && separators->items[1].is(Type::kString);
        if (!pair) return heap->refuse("separators of tojson that are no two strings");
        style.comma = separators->items[0];
        style.colon = separators->items[1];
    }
    return to_json(heap, v, style);
}

// Bounds of a slice as Python resolves them, for `size` elements.
struct Range {
    int64_t begin, end, step;
};
bool resolve(Heap* heap, const Value& begin, const Value& end, const Value& step, int64_t size, Range* out) {
    const Value* const all[3] = {&begin, &end, &step};
    int64_t bound[3] = {kNoBound, kNoBound, 1};
    for (int i = 0; i < 3; ++i) {
        if (all[i]->is(Type::kNone)) continue;
        if (!all[i]->is(Type::kInteger) && !all[i]->is(Type::kBool))
            return heap->refuse("a slice by what is no integer"), false;
        bound[i] = all[i]->integer;
    }
    if (bound[2] == 0) return heap->refuse("a slice with step 0"), false;
    const bool up = bound[2] > 0;
    const int64_t low = up ? 0 : -1, high = up ? size : size - 1;
    for (int i = 0; i < 2; ++i) {
        if (bound[i] == kNoBound) {
            bound[i] = (i == 0) == up ? low : high;
            continue;
        }
        if (bound[i] < 0) bound[i] = bound[i] < -size ? low : bound[i] + size;
        bound[i] = bound[i] < low ? low : bound[i] > high ? high : bound[i];
    }
    *out = {bound[0], bound[1], bound[2]};
    return true;
}

bool names_method(const Value& object, const Value& name) {
    static constexpr const char* kDict[] = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                            "pop",   "popitem", "setdefault", "update", "values"};
    static constexpr const char* kList[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                            "insert", "pop",   "remove", "reverse", "sort"};
    if (!name.is(Type::kString)) return false;
    if (object.is(Type::kDict)) return find_name(kDict, name.text, name.size) >= 0;
    if (object.is(Type::kList)) return find_name(kList, name.text, name.size) >= 0;
    return object.is(Type::kString) && find_name(kMethodNames, name.text, name.size) >= 0 &&
           find_name(kDict, name.text, name.size) < 0;
}
Value method_value() {
    Value out;
    out.type = Type::kMethod;
    return out;
}

Value loop_attribute(Heap* heap, const Loop& loop, const Value& name) {
    enum { kIndex, kIndex0, kRevindex, kRevindex0, kFirst, kLast, kLength, kPrevious, kNext };
    static constexpr const char* kNames[] = {"index", "index0", "revindex", "revindex0", "first",
                                             "last",  "length", "previtem", "nextitem"};
    const uint32_t i = loop.index, n = loop.list.size;
    switch (find_name(kNames, name.text, name.size)) {
        case kIndex:
            return Value::number(i + 1);
        case kIndex0:
            return Value::number(i);
        case kRevindex:
            return Value::number(n - i);
        case kRevindex0:
            return Value::number(n - i - 1);
        case kFirst:
            return Value::boolean(i == 0);
        case kLast:
            return Value::boolean(i + 1 == n);
        case kLength:
            return Value::number(n);
        case kPrevious:
            return i ? loop.list.items[i - 1] : Value();
        case kNext:
            return i + 1 < n ? loop.list.items[i + 1] : Value();
        default:
            return heap->unsupported("loop attribute", name.text, name.size);
    }
}

// The place of a word in a list of words with spaces between them, or -1.
int word_index(const char* words, const Value& word) {
    for (int i = 0; *words; ++i) {
        size_t bytes = 0;
        while (words[bytes] && words[bytes] != ' ') ++bytes;
        if (bytes == word.size && memcmp(words, word.text, bytes) == 0) return i;
        words += bytes + (words[bytes] == ' ');
    }
    return -1;
}

}  // namespace

bool is_space(uint32_t code) {
    static constexpr uint32_t kOthers[] = {0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000};
    if (code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x1f)) return true;
    for (uint32_t other : kOthers)
        if (code == other) return true;
    return code >= 0x2000 && code <= 0x200a;
}

bool knows_arguments(Heap* heap, const ArgumentLimit& limit, const Arguments& arguments) {
    int positions = 0;
    bool known = true;
    for (uint32_t i = 0; i < arguments.count; ++i) {  // those without a name come first
        const Value& name = arguments.list[i].name;
        if (!name.is(Type::kString))
            ++positions;
        else if (limit.names && word_index(limit.names, name) < positions)
            known = false;
    }
    known = known && (limit.most == kAnyNumber || positions <= limit.most);
    if (!known) heap->unsupported("these arguments of", limit.of, strlen(limit.of));
    return known;
}

const Value* Arguments::get(uint32_t position, const char* name) const {
    for (uint32_t i = 0, at = 0; i < count; ++i) {
        const Argument& a = list[i];
        const bool positional = !a.name.is(Type::kString);
        if (positional ? at++ == position : name && same_text(name, a.name.text, a.name.size)) return &a.value;
    }
    return nullptr;
}

Value attribute_of(Heap* heap, const Value& object, const Value& name) {
    if (object.is(Type::kLoop)) return loop_attribute(heap, *object.loop, name);
    if (object.is(Type::kUndefined)) return heap->refuse("an attribute of what is undefined:", name.text, name.size);
    if (object.is(Type::kNamespace)) {
        for (const NamespaceItem* item = object.names->first; item; item = item->next)
            if (equal(heap, item->name, name)) return item->value;
        return {};
    }
    if (object.is(Type::kList) && !object.is_plain_list())
        return heap->unsupported("an attribute of an iterator, range or view:", name.text, name.size);
    if (names_method(object, name)) return method_value();
    const Value* const found = object.is(Type::kDict) ? find_entry(heap, object, name) : nullptr;
    return found ? *found : Value();
}

Value item_of(Heap* heap, const Value& object, const Value& key) {
    if (object.is(Type::kDict)) {
        const Value* const found = find_entry(heap, object, key);
        return found ? *found : names_method(object, key) ? method_value() : Value();
    }
    const bool integer = key.is(Type::kInteger) || key.is(Type::kBool);
    if (object.is(Type::kList) && !object.is_plain_list())
        return heap->unsupported("an element by index of an iterator, range or view");
    if (object.is(Type::kList) && integer) {
        const int64_t index = key.integer < 0 ? key.integer + object.size : key.integer;
        return index >= 0 && index < object.size ? object.items[index] : Value();
    }
    if (object.is(Type::kString) && integer) {
        const Value one = to_list(heap, object);
        return heap->ok() ? item_of(heap, one, key) : Value();
    }
    if (object.is(Type::kUndefined)) return heap->refuse("an element of what is undefined");
    return key.is(Type::kString) ? attribute_of(heap, object, key) : Value();
}

Value slice_of(Heap* heap, const Value& object, const Value& begin, const Value& end, const Value& step) {
    Range r;
    if (object.is(Type::kString)) {
        if (!resolve(heap, begin, end, step, characters(heap, object), &r)) return {};
        if (r.step != 1) return heap->unsupported("a slice of a string with a step");
        uint32_t from = 0, at = 0;
        for (int64_t i = 0; at < object.size && i < r.end; ++i) {
            if (i == r.begin) from = at;
            at += utf8_decode(object.text + at, object.size - at).bytes;
        }
        return r.begin < r.end ? object.part(from, at - from) : object.part(0, 0);
    }
    if (object.is(Type::kUndefined)) return heap->refuse("a slice of what is undefined");
    if (!object.is(Type::kList)) return heap->refuse("a slice of what has no order");
    if (!object.is_plain_list()) return heap->unsupported("a slice of an iterator, range or view");
    if (!resolve(heap, begin, end, step, object.size, &r)) return {};
    const uint32_t pushed = heap->pushed();
    for (int64_t i = r.begin; (r.step > 0 ? i < r.end : i > r.end) && heap->ok();) {
        heap->push(object.items[i]);
        if (__builtin_add_overflow(i, r.step, &i)) break;
    }
    return heap->list_from(pushed, object.shape);
}

bool contains(Heap* heap, const Value& container, const Value& v) {
    switch (container.type) {
        case Type::kString:
            return need_string(heap, &v, "`in` a string for what is none") && find_text(heap, container, v, 0) >= 0;
        case Type::kList: {
            const Value list = to_list(heap, container);
            for (uint32_t i = 0; i < list.size && heap->ok(); ++i)
                if (equal(heap, list.items[i], v)) return true;
            return false;
        }
        case Type::kDict:
            return find_entry(heap, container, v) != nullptr;
        case Type::kUndefined:
            return false;
        case Type::kNamespace:
            heap->unsupported("`in` a namespace");
            return false;
        default:
            heap->refuse("`in` what has no elements");
            return false;
    }
}

Value apply_filter(Heap* heap, Filter filter, const Value& v, const Arguments& arguments) {
    if (!knows_arguments(heap, kFilterLimits[static_cast<uint8_t>(filter)], arguments)) return {};
    const bool iterator = v.is(Type::kList) && v.shape == Shape::kIterator;
    switch (filter) {
        case Filter::kAbs:
            if (!v.is(Type::kInteger) || v.integer == INT64_MIN) return heap->unsupported("abs of what is no integer");
            return Value::number(v.integer < 0 ? -v.integer : v.integer);
        case Filter::kCapitalize:
            return change_case(heap, to_string(heap, v), Case::kCapitalize);
        case Filter::kCount:
        case Filter::kLength:
            return length(heap, v);
        case Filter::kD:
        case Filter::kDefault: {
            const Value *value = arguments.get(0, "default_value"), *boolean = arguments.get(1, "boolean");
            const bool replaced = v.is(Type::kUndefined) || (boolean && truthy(*boolean) && !truthy(v));
            return !replaced ? v : value ? *value : Value::literal("");
        }
        case Filter::kDictsort:
            return dictsort(heap, v);
        case Filter::kFirst:
        case Filter::kLast: {
            if (iterator && filter == Filter::kLast) return heap->refuse("the last element of an iterator");
            const Value list = to_list(heap, v);
            if (list.size == 0) return {};
            return list.items[filter == Filter::kFirst ? 0 : list.size - 1];
        }
        case Filter::kIndent:
            return indent(heap, v, arguments);
        case Filter::kInt:
            return to_integer(heap, v, arguments.get(0, "default"));
        case Filter::kItems:
            if (v.is(Type::kUndefined)) return heap->list_from(heap->pushed(), Shape::kIterator);
            return v.is(Type::kDict) ? items_of(heap, v, Shape::kIterator) : heap->refuse("items of what is no dict");
        case Filter::kJoin: {
            const Value *separator = arguments.get(0, "d"), *attribute = arguments.get(1, "attribute");
            if (attribute && attribute->is(Type::kNone)) attribute = nullptr;
            const Value list = to_list(heap, v);
            const Value between = separator ? to_string(heap, *separator) : Value::literal("");
            return join(heap, between, list, attribute, false);
        }
        case Filter::kList:
            return to_list(heap, v);
        case Filter::kLower:
            return change_case(heap, to_string(heap, v), Case::kLower);
        case Filter::kMap:
            return map(heap, to_list(heap, v), arguments);
        case Filter::kMax:
        case Filter::kMin:
            return extreme(heap, to_list(heap, v), filter == Filter::kMax ? 1 : -1);
        case Filter::kReject:
            return select(heap, to_list(heap, v), arguments, false, false);
        case Filter::kRejectattr:
            return select(heap, to_list(heap, v), arguments, true, false);
        case Filter::kReplace:
            return replace(heap, to_string(heap, v), arguments);
        case Filter::kReverse:
            if (v.is(Type::kString)) {
                const Value list = reversed(heap, to_list(heap, v), Shape::kList);
                return join(heap, Value::literal(""), list, nullptr, true);
            }
            return reversed(heap, to_list(heap, v), iterator ? Shape::kList : Shape::kIterator);  // as in jinja2
        case Filter::kSafe:
        case Filter::kString:
            return to_string(heap, v);
        case Filter::kSelect:
            return select(heap, to_list(heap, v), arguments, false, true);
        case Filter::kSelectattr:
            return select(heap, to_list(heap, v), arguments, true, true);
        case Filter::kTitle:
            return filter_title(heap, to_string(heap, v));
        case Filter::kTojson:
            return tojson(heap, v, arguments);
        case Filter::kTrim:
            return strip(heap, to_string(heap, v), arguments.get(0, "chars"), true, true);
        case Filter::kUnique:
            return unique(heap, to_list(heap, v));
        case Filter::kUpper:
            return change_case(heap, to_string(heap, v), Case::kUpper);
    }
    return {};
}

bool apply_test(Heap* heap, Test test, const Value& v, const Arguments& arguments) {
    if (!knows_arguments(heap, kTestLimits[static_cast<uint8_t>(test)], arguments)) return false;
    const Value* const other = arguments.get(0);
    const bool integer = v.is(Type::kInteger) || v.is(Type::kBool);
    const auto need_other = [&] {
        if (!other) heap->refuse("a test without its argument");
        return other != nullptr;
    };
    const auto need_integer = [&] {
        if (!integer) heap->refuse("a test of what is no integer");
        return integer;
    };
    switch (test) {
        case Test::kBoolean:
            return v.is(Type::kBool);
        case Test::kDefined:
            return !v.is(Type::kUndefined);
        case Test::kDivisibleby:
            if (!need_integer() || !need_other()) return false;
            if (!other->is(Type::kInteger) || other->integer == 0) heap->refuse("divisibleby what is no number");
            return heap->ok() && other->integer != -1 ? v.integer % other->integer == 0 : true;
        case Test::kEq:
        case Test::kEqualto:
            return need_other() && equal(heap, v, *other);
        case Test::kEven:
            return need_integer() && v.integer % 2 == 0;
        case Test::kFalse:
            return v.is(Type::kBool) && !v.integer;
        case Test::kFloat:
            return v.is(Type::kNumber);
        case Test::kGe:
            return need_other() && compare(heap, v, *other) >= 0;
        case Test::kGt:
            return need_other() && compare(heap, v, *other) > 0;
        case Test::kIn:
            return need_other() && contains(heap, *other, v);
        case Test::kInteger:
            return v.is(Type::kInteger);
        case Test::kSequence:
            if (v.is(Type::kList) && v.shape == Shape::kView) heap->unsupported("sequence of a range or view");
            if (v.is(Type::kList) && v.shape == Shape::kIterator) return false;
            [[fallthrough]];
        case Test::kIterable:
            return v.is(Type::kString) || v.is(Type::kList) || v.is(Type::kDict) || v.is(Type::kUndefined);
        case Test::kLe:
            return need_other() && compare(heap, v, *other) <= 0;
        case Test::kLt:
            return need_other() && compare(heap, v, *other) < 0;
        case Test::kMapping:
            return v.is(Type::kDict);
        case Test::kNe:
            return need_other() && !equal(heap, v, *other);
        case Test::kNone:
            return v.is(Type::kNone);
        case Test::kNumber:
            return integer || v.is(Type::kNumber);
        case Test::kOdd:
            return need_integer() && v.integer % 2 != 0;
        case Test::kString:
            return v.is(Type::kString);
        case Test::kTrue:
            return v.is(Type::kBool) && v.integer;
        case Test::kUndefined:
            return v.is(Type::kUndefined);
    }
    return false;
}

Value apply_method(Heap* heap, Method method, const Value& self, const Arguments& arguments) {
    const char* const name = kMethodNames[static_cast<uint8_t>(method)];
    if (!knows_arguments(heap, kMethodLimits[static_cast<uint8_t>(method)], arguments)) return {};
    const Value* const first = arguments.get(0);
    if (self.is(Type::kUndefined)) return heap->refuse("a method of what is undefined");
    if (self.is(Type::kDict)) {
        switch (method) {
            case Method::kGet: {
                if (!first) return heap->refuse("get without a key");
                const Value *found = find_entry(heap, self, *first), *otherwise = arguments.get(1);
                return found ? *found : otherwise ? *otherwise : Value::none();
            }
            case Method::kItems:
                return items_of(heap, self, Shape::kView);
            case Method::kKeys: {
                Value keys = to_list(heap, self);
                keys.shape = Shape::kView;
                return keys;
            }
            case Method::kValues: {
                const uint32_t begin = heap->pushed();
                for (uint32_t i = 0; i < self.size; ++i) heap->push(self.entries[i].value);
                return heap->list_from(begin, Shape::kView);
            }
            default:
                break;
        }
    }
    if (!self.is(Type::kString)) return heap->refuse("this value has no method", name, strlen(name));
    switch (method) {
        case Method::kCapitalize:
            return change_case(heap, self, Case::kCapitalize);
        case Method::kCount: {
            if (!need_string(heap, first, "count of what is no string")) return {};
            if (first->size == 0) return heap->unsupported("count of an empty string");
            int64_t count = 0;
            for (int64_t at = 0; heap->ok() && (at = find_text(heap, self, *first, static_cast<uint32_t>(at))) >= 0;
                 at += first->size)
                ++count;
            return Value::number(count);
        }
        case Method::kEndswith:
            return starts_or_ends(heap, self, first, ends);
        case Method::kFind: {
            if (!need_string(heap, first, "find of what is no string")) return {};
            const int64_t at = find_text(heap, self, *first, 0);
            return Value::number(at < 0 ? at : characters(heap, self.part(0, static_cast<uint32_t>(at))));
        }
        case Method::kJoin: {
            if (!first) return heap->refuse("join without a list");
            const Value list = to_list(heap, *first);
            return join(heap, self, list, nullptr, true);
        }
        case Method::kLower:
            return change_case(heap, self, Case::kLower);
        case Method::kLstrip:
            return strip(heap, self, first, true, false);
        case Method::kRemoveprefix:
            if (!need_string(heap, first, "removeprefix of what is no string")) return {};
            return starts(self, *first) ? self.part(first->size, self.size - first->size) : self;
        case Method::kRemovesuffix:
            if (!need_string(heap, first, "removesuffix of what is no string")) return {};
            return ends(self, *first) ? self.part(0, self.size - first->size) : self;
        case Method::kReplace:
            return replace(heap, self, arguments);
        case Method::kRsplit:
            return split(heap, self, arguments, true);
        case Method::kRstrip:
            return strip(heap, self, first, false, true);
        case Method::kSplit:
            return split(heap, self, arguments, false);
        case Method::kStartswith:
            return starts_or_ends(heap, self, first, starts);
        case Method::kStrip:
            return strip(heap, self, first, true, true);
        case Method::kTitle:
            return change_case(heap, self, Case::kTitle);
        case Method::kUpper:
            return change_case(heap, self, Case::kUpper);
        case Method::kGet:
        case Method::kItems:
        case Method::kKeys:
        case Method::kValues:
            break;
    }
    return heap->refuse("this value has no method", name, strlen(name));
}

}  // namespace keel::jinja
