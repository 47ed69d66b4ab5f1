// Filters, tests and methods of templates, over values.
#pragma once
#include "sdk/text/jinja_value.h"

namespace keel::jinja {

struct Argument {
    Value name;  // undefined: by position
    Value value;
};
struct Arguments {
    const Argument* list = nullptr;
    uint32_t count = 0;
    // The argument at a position (counted among those without a name) or of a name (may be null); null when not given.
    const Value* get(uint32_t position, const char* name = nullptr) const;
    // Those behind the first `skipped` ones by position.
    Arguments after(uint32_t skipped) const { return {list + skipped, count > skipped ? count - skipped : 0}; }
};

// False, and an error, where there are more arguments than the limit allows, others than it names, or one twice.
bool knows_arguments(Heap* heap, const ArgumentLimit& limit, const Arguments& arguments);
Value apply_filter(Heap* heap, Filter filter, const Value& v, const Arguments& arguments);
bool apply_test(Heap* heap, Test test, const Value& v, const Arguments& arguments);
Value apply_method(Heap* heap, Method method, const Value& self, const Arguments& arguments);

// object.name and object[key] as jinja2 resolves them: what is not there is undefined; of what is undefined, an error.
Value attribute_of(Heap* heap, const Value& object, const Value& name);
Value item_of(Heap* heap, const Value& object, const Value& key);
// object[begin:end:step]; the bounds may be none.
Value slice_of(Heap* heap, const Value& object, const Value& begin, const Value& end, const Value& step);
bool contains(Heap* heap, const Value& container, const Value& v);

}  // namespace keel::jinja
