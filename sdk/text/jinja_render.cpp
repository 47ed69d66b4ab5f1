// Renders a template by walking its nodes. Values of an output, of a turn of a loop and of a macro are given up behind
// it; what a namespace may hold stays.
#include "sdk/core/status.h"
#include "sdk/text/jinja_builtins.h"

namespace keel {
namespace {

using namespace jinja;

constexpr uint32_t kMaxDepth = 128;     // nodes within nodes, macros included
constexpr uint32_t kMaxBindings = 128;  // variables at one time
constexpr uint32_t kMaxScopes = 32;
constexpr uint32_t kMaxFormatBytes = 64;  // of strftime_now, and of what it gives

struct Binding {
    Value name, value;
};
struct Scope {
    uint32_t first;   // binding
    uint32_t parent;  // where names are looked up next; of the root, itself
};

class Renderer {
  public:
    Renderer(const JinjaProgram& program, const JinjaInput& input, const JinjaWork& work, keel_error* error)
        : program_(program), input_(input), work_(work), heap_(work, error) {}

    keel_status run(uint32_t* bytes) {
        scope_count_ = 1;
        bind_input();
        execute(program_.first);
        *bytes = out_bytes_;
        return heap_.status();
    }

  private:
    enum class Flow { kOn, kBreak, kContinue };

    const Node& node(uint32_t index) const { return program_.nodes[index]; }
    Value text_of(const Node& n) const { return Value::string(program_.text + n.a, n.b, Origin::kScaffold); }
    Value name_of(uint32_t index) const { return text_of(node(index)); }

    void bind_input();
    Value message(uint32_t index);

    // Scopes and variables.
    bool enter(uint32_t parent);
    void leave() { binding_count_ = scopes_[--scope_count_].first; }
    void bind(const Value& name, const Value& value);
    void bind(const char* name, const Value& value) { bind(Value::literal(name), value); }
    const Value* find(const Value& name);

    // Statements.
    Flow execute(uint32_t first);
    Flow statement(const Node& n);
    void emit(const Value& text);
    void output(const Node& n);
    Flow choose(const Node& n);
    Flow loop(const Node& n);
    bool holds(const Node& parts, const Value& item);
    void hold_again(const Node& parts, const Value& all, uint32_t begin, uint32_t end, bool for_last);
    void bind_targets(uint32_t targets, const Value& item);
    void set_attribute(const Node& n);
    Value captured(uint32_t body, uint32_t out_begin, uint32_t mark, Flow* flow);

    // Expressions.
    Value evaluate(uint32_t index);
    Value evaluate_or_none(uint32_t index) { return index ? evaluate(index) : Value::none(); }
    Value binary(const Node& n);
    Value arithmetic(Operator op, const Value& a, const Value& b);
    Value slice(const Node& n);
    Value list(const Node& n);
    Value dict(const Node& n);
    Value name(const Node& n);
    Value filter(const Node& n);
    Value test(const Node& n);
    Value method(const Node& n);
    Value call(const Node& n);
    Value call_function(Function function, const Arguments& arguments);
    Value call_macro(const Node& macro, const Arguments& arguments);
    Value range(const Arguments& arguments);
    Value make_namespace(const Arguments& arguments);
    Value strftime_now(const Arguments& arguments);
    Arguments arguments(uint32_t first);

    struct Deeper {
        explicit Deeper(Renderer* r) : renderer(r) {
            if (++r->depth_ > kMaxDepth) r->heap_.fail(KEEL_E_FILE_LIMIT, "the template is nested too deeply");
        }
        ~Deeper() { --renderer->depth_; }
        Renderer* renderer;
    };

    const JinjaProgram& program_;
    const JinjaInput& input_;
    const JinjaWork& work_;
    Heap heap_;
    uint32_t out_bytes_ = 0, depth_ = 0, binding_count_ = 0, scope_count_ = 0;
    Scope scopes_[kMaxScopes] = {};
    Binding bindings_[kMaxBindings];
};

// ---- input ----

bool is_role_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// A message as a dict. Templates build control tokens around roles ("<|" + role + "|>"), so a role counts as scaffold,
// and can therefore be nothing but a word.
Value Renderer::message(uint32_t index) {
    keel_chat_message m;
    if (read_versioned(input_.messages, &m, index) != KEEL_OK)
        return heap_.fail(KEEL_E_ABI, "struct_size of the messages does not fit this library");
    if (!m.role || (!m.text && m.bytes) || (!m.fields && m.field_bytes)) return heap_.refuse("a null in a message");
    uint32_t role_bytes = 0;
    while (role_bytes <= kMaxRoleBytes && is_role_character(m.role[role_bytes])) ++role_bytes;
    if (m.role[role_bytes] || role_bytes == 0 || role_bytes > kMaxRoleBytes)
        return heap_.refuse("a role is a word of letters, digits, _ and -");
    if (m.bytes > UINT32_MAX / 2) return heap_.fail(KEEL_E_TEXT_LIMIT, "a message of more than 2 GiB");
    const uint32_t begin = heap_.pushed();
    heap_.push(Value::literal("role"));
    heap_.push(Value::string(m.role, role_bytes, Origin::kScaffold));
    heap_.push(Value::literal("content"));
    heap_.push(m.text ? Value::string(m.text, m.bytes, Origin::kMessage) : Value::none());
    if (m.field_bytes) {
        const Value fields = from_json(&heap_, {m.fields, m.field_bytes});
        if (heap_.ok() && !fields.is(Type::kDict)) heap_.refuse("fields of a message are no JSON object");
        for (uint32_t i = 0; i < fields.size && heap_.ok(); ++i) {
            if (equal(&heap_, fields.entries[i].key, Value::literal("role")))
                return heap_.refuse("a role among the fields of a message");
            heap_.push(fields.entries[i].key);
            heap_.push(fields.entries[i].value);
        }
    }
    return heap_.dict_from(begin);
}

void Renderer::bind_input() {
    const uint32_t begin = heap_.pushed();
    for (uint32_t i = 0; i < input_.count && heap_.ok(); ++i) heap_.push(message(i));
    bind("messages", heap_.list_from(begin));
    bind("add_generation_prompt", Value::boolean(input_.open_assistant));
    bind("tools", Value::none());
    bind("documents", Value::none());
    if (input_.bos.data) bind("bos_token", Value::string(input_.bos.data, input_.bos.bytes, Origin::kScaffold));
    if (input_.eos.data) bind("eos_token", Value::string(input_.eos.data, input_.eos.bytes, Origin::kScaffold));
    if (!input_.variables.bytes || !heap_.ok()) return;
    const Value variables = from_json(&heap_, input_.variables);
    if (heap_.ok() && !variables.is(Type::kDict)) heap_.refuse("variables are no JSON object");
    for (uint32_t i = 0; i < variables.size && heap_.ok(); ++i)
        bind(variables.entries[i].key, variables.entries[i].value);
}

// ---- scopes ----

bool Renderer::enter(uint32_t parent) {
    if (heap_.ok() && scope_count_ == kMaxScopes) heap_.fail(KEEL_E_FILE_LIMIT, "the template is nested too deeply");
    if (!heap_.ok()) return false;
    scopes_[scope_count_++] = {binding_count_, parent};
    return true;
}

void Renderer::bind(const Value& name, const Value& value) {
    if (!heap_.ok()) return;
    for (uint32_t i = scopes_[scope_count_ - 1].first; i < binding_count_; ++i)
        if (equal(&heap_, bindings_[i].name, name)) {
            bindings_[i].value = value;
            return;
        }
    if (binding_count_ == kMaxBindings) {
        heap_.fail(KEEL_E_FILE_LIMIT, "too many variables");
        return;
    }
    bindings_[binding_count_++] = {name, value};
}

// The variables of a scope end where those of the scope opened next begin.
const Value* Renderer::find(const Value& name) {
    for (uint32_t s = scope_count_ - 1;; s = scopes_[s].parent) {
        const uint32_t end = s + 1 < scope_count_ ? scopes_[s + 1].first : binding_count_;
        for (uint32_t i = scopes_[s].first; i < end; ++i)
            if (equal(&heap_, bindings_[i].name, name)) return &bindings_[i].value;
        if (s == 0) return nullptr;
    }
}

// ---- statements ----

void Renderer::emit(const Value& text) {
    if (!heap_.ok() || text.size == 0) return;
    if (text.size > work_.capacity - out_bytes_) {
        heap_.fail(KEEL_E_TEXT_LIMIT, "the text is longer than max_chat_bytes");
        return;
    }
    memcpy(work_.out + out_bytes_, text.text, text.size);
    heap_.copy_marks(text, work_.out_marks + out_bytes_);
    out_bytes_ += text.size;
    heap_.spend(text.size / 16);
}

Renderer::Flow Renderer::execute(uint32_t first) {
    Flow flow = Flow::kOn;
    for (uint32_t i = first; i && flow == Flow::kOn && heap_.spend(1); i = node(i).next) flow = statement(node(i));
    return flow;
}

Renderer::Flow Renderer::statement(const Node& n) {
    Deeper deeper(this);
    if (!heap_.ok()) return Flow::kOn;
    heap_.at(n.at);
    switch (n.kind) {
        case NodeKind::kText:
            emit(text_of(n));
            break;
        case NodeKind::kOutput:
            output(n);
            break;
        case NodeKind::kIf:
            return choose(n);
        case NodeKind::kFor:
            return loop(n);
        case NodeKind::kSet:
            bind(name_of(n.a), evaluate(n.b));
            break;
        case NodeKind::kSetAttribute:
            set_attribute(n);
            break;
        case NodeKind::kSetBlock: {
            const uint32_t begin = out_bytes_, mark = heap_.mark();
            if (!enter(scope_count_ - 1)) break;
            Flow flow;
            const Value text = captured(n.b, begin, mark, &flow);
            if (flow == Flow::kOn) bind(name_of(n.a), text);
            return flow;
        }
        case NodeKind::kMacro: {
            Value macro;
            macro.type = Type::kMacro;
            macro.integer = &n - program_.nodes;
            bind(name_of(n.a), macro);
            break;
        }
        case NodeKind::kBlock: {
            if (!enter(scope_count_ - 1)) break;
            const Flow flow = execute(n.a);
            leave();
            return flow;
        }
        case NodeKind::kBreak:
            return Flow::kBreak;
        case NodeKind::kContinue:
            return Flow::kContinue;
        default:
            break;
    }
    return Flow::kOn;
}

void Renderer::output(const Node& n) {
    const uint32_t mark = heap_.mark();
    emit(to_string(&heap_, evaluate(n.a)));
    heap_.release(mark);
}

Renderer::Flow Renderer::choose(const Node& first) {
    for (const Node* n = &first;; n = &node(n->c)) {
        const uint32_t mark = heap_.mark();
        const bool chosen = truthy(evaluate(n->a));
        heap_.release(mark);
        if (!heap_.ok()) return Flow::kOn;
        if (chosen) return execute(n->b);
        if (!n->c) return Flow::kOn;
        if (node(n->c).kind != NodeKind::kIf || node(n->c).op != kElif) return execute(n->c);
    }
}

void Renderer::bind_targets(uint32_t targets, const Value& item) {
    if (!node(targets).next) return bind(name_of(targets), item);
    const Value parts = to_list(&heap_, item);
    uint32_t i = 0;
    for (uint32_t t = targets; t; t = node(t).next, ++i)
        if (i < parts.size) bind(name_of(t), parts.items[i]);
    if (heap_.ok() && i != parts.size) heap_.refuse("a loop with another number of names than its elements have");
}

// Whether the condition of a loop holds for an element.
bool Renderer::holds(const Node& parts, const Value& item) {
    const uint32_t mark = heap_.mark();
    if (!enter(scope_count_ - 1)) return false;
    bind_targets(parts.c, item);
    const bool held = truthy(evaluate(parts.a));
    leave();
    heap_.release(mark);
    return held;
}

// jinja2 evaluates the condition of a loop turn by turn. Here it is evaluated before the first turn, and once more for
// the elements [begin, end) when their turn comes: it has to hold for the last of them, or for none, as before.
void Renderer::hold_again(const Node& parts, const Value& all, uint32_t begin, uint32_t end, bool for_last) {
    for (uint32_t i = begin; i < end && heap_.ok(); ++i)
        if (holds(parts, all.items[i]) != (for_last && i + 1 == end))
            heap_.unsupported("a loop whose condition changes while it runs");
}

// As jinja2, runs `else` where no turn came to its end.
Renderer::Flow Renderer::loop(const Node& n) {
    const Node& parts = node(n.c);
    const uint32_t mark = heap_.mark();
    Loop* const state = heap_.make<Loop>(1);
    const Value all = to_list(&heap_, evaluate(n.a));
    Value list = all, places;  // the elements of turns, and with a condition where they are in `all`
    if (parts.a) {
        uint32_t begin = heap_.pushed();
        for (uint32_t i = 0; i < all.size && heap_.ok(); ++i)
            if (holds(parts, all.items[i])) heap_.push(Value::number(i));
        places = heap_.list_from(begin);
        begin = heap_.pushed();
        for (uint32_t i = 0; i < places.size && heap_.ok(); ++i) heap_.push(all.items[places.items[i].integer]);
        list = heap_.list_from(begin);
    }
    if (!heap_.ok()) return Flow::kOn;
    *state = {list, 0};
    Value variable;
    variable.type = Type::kLoop;
    variable.loop = state;
    const uint32_t turn = heap_.mark();
    Flow flow = Flow::kOn;
    bool ended = false;
    uint32_t passed = 0;  // of `all`
    for (; state->index < list.size && flow != Flow::kBreak; ++state->index) {
        if (parts.a) {
            const uint32_t end = static_cast<uint32_t>(places.items[state->index].integer) + 1;
            hold_again(parts, all, passed, end, true);
            passed = end;
        }
        if (!heap_.spend(1) || !enter(scope_count_ - 1)) return Flow::kOn;
        bind("loop", variable);
        bind_targets(parts.c, list.items[state->index]);
        flow = execute(n.b);
        ended = ended || flow == Flow::kOn;
        leave();
        heap_.release(turn);
    }
    if (parts.a && flow != Flow::kBreak) hold_again(parts, all, passed, all.size, false);
    flow = Flow::kOn;
    if (!ended && parts.b && enter(scope_count_ - 1)) {
        flow = execute(parts.b);
        leave();
    }
    heap_.release(mark);
    return flow;
}

void Renderer::set_attribute(const Node& n) {
    const Value* const object = find(name_of(n.a));
    if (!object || !object->is(Type::kNamespace)) {
        heap_.refuse("an attribute set of what is no namespace");
        return;
    }
    Namespace* const names = object->names;
    const Value name = name_of(n.b);
    const Value value = evaluate(n.c);
    NamespaceItem* item = names->first;
    while (item && !equal(&heap_, item->name, name)) item = item->next;
    if (!item) {
        item = heap_.make<NamespaceItem>(1);
        if (!item) return;
        *item = {name, {}, names->first};
        names->first = item;
    }
    item->value = value;
    heap_.keep();
}

// Runs a body in the scope just entered, leaves it, and takes what it wrote as a string.
Value Renderer::captured(uint32_t body, uint32_t out_begin, uint32_t mark, Flow* flow) {
    *flow = execute(body);
    leave();
    heap_.release(mark);
    const uint32_t bytes = out_bytes_ - out_begin;
    out_bytes_ = out_begin;
    return heap_.take(work_.out + out_begin, work_.out_marks + out_begin, bytes);
}

// ---- expressions ----

Value Renderer::evaluate(uint32_t index) {
    Deeper deeper(this);
    if (!heap_.spend(1)) return {};
    const Node& n = node(index);
    switch (n.kind) {
        case NodeKind::kString:
            return text_of(n);
        case NodeKind::kNumber: {
            Value number = text_of(n);
            number.type = Type::kNumber;
            return number;
        }
        case NodeKind::kInteger:
            return Value::number(static_cast<int64_t>(uint64_t{n.b} << 32 | n.a));
        case NodeKind::kTrue:
            return Value::boolean(true);
        case NodeKind::kFalse:
            return Value::boolean(false);
        case NodeKind::kNone:
            return Value::none();
        case NodeKind::kName:
            return name(n);
        case NodeKind::kAttribute: {
            const Value object = evaluate(n.a);
            heap_.at(n.at);
            return attribute_of(&heap_, object, name_of(n.b));
        }
        case NodeKind::kItem: {
            const Value object = evaluate(n.a), key = evaluate(n.b);
            heap_.at(n.at);
            return item_of(&heap_, object, key);
        }
        case NodeKind::kSlice:
            return slice(n);
        case NodeKind::kCall:
            return call(n);
        case NodeKind::kMethod:
            return method(n);
        case NodeKind::kFilter:
            return filter(n);
        case NodeKind::kTest:
            return test(n);
        case NodeKind::kNot:
            return Value::boolean(!truthy(evaluate(n.a)));
        case NodeKind::kNegate: {
            const Value v = evaluate(n.a);
            if (!v.is(Type::kInteger) || v.integer == INT64_MIN)
                return heap_.unsupported("- before what is no integer");
            return Value::number(-v.integer);
        }
        case NodeKind::kAnd: {
            const Value left = evaluate(n.a);
            return truthy(left) ? evaluate(n.b) : left;
        }
        case NodeKind::kOr: {
            const Value left = evaluate(n.a);
            return truthy(left) ? left : evaluate(n.b);
        }
        case NodeKind::kBinary:
            return binary(n);
        case NodeKind::kConditional:
            if (truthy(evaluate(n.a))) return evaluate(n.b);
            return n.c ? evaluate(n.c) : Value();
        case NodeKind::kList:
        case NodeKind::kTuple:
            return list(n);
        case NodeKind::kDict:
            return dict(n);
        default:
            return {};
    }
}

Value Renderer::name(const Node& n) {
    const Value name = text_of(n);
    if (const Value* const found = find(name)) return *found;
    const int function = find_name(kFunctionNames, name.text, name.size);
    if (function < 0) return {};
    if (static_cast<Function>(function) == Function::kNow && !(input_.hooks && input_.hooks->strftime_now)) return {};
    Value out;  // callable, and nothing else
    out.type = Type::kMethod;
    return out;
}

Value Renderer::binary(const Node& n) {
    const Operator op = static_cast<Operator>(n.op);
    const Value a = evaluate(n.a), b = evaluate(n.b);
    heap_.at(n.at);
    if (!heap_.ok()) return {};
    switch (op) {
        case Operator::kConcat: {
            if (a.is(Type::kString) && b.is(Type::kString)) return heap_.concat(a, b);
            const Value left = to_string(&heap_, a), right = to_string(&heap_, b);
            return heap_.concat(left, right);
        }
        case Operator::kEqual:
            return Value::boolean(equal(&heap_, a, b));
        case Operator::kNotEqual:
            return Value::boolean(!equal(&heap_, a, b));
        case Operator::kLess:
            return Value::boolean(compare(&heap_, a, b) < 0);
        case Operator::kLessEqual:
            return Value::boolean(compare(&heap_, a, b) <= 0);
        case Operator::kGreater:
            return Value::boolean(compare(&heap_, a, b) > 0);
        case Operator::kGreaterEqual:
            return Value::boolean(compare(&heap_, a, b) >= 0);
        case Operator::kIn:
            return Value::boolean(contains(&heap_, b, a));
        case Operator::kNotIn:
            return Value::boolean(!contains(&heap_, b, a));
        default:
            return arithmetic(op, a, b);
    }
}

Value Renderer::arithmetic(Operator op, const Value& a, const Value& b) {
    if (op == Operator::kAdd && a.is(Type::kString) && b.is(Type::kString)) return heap_.concat(a, b);
    if (op == Operator::kAdd && a.is_plain_list() && b.is_plain_list() && a.shape == b.shape) {
        const uint32_t begin = heap_.pushed();
        for (uint32_t i = 0; i < a.size && heap_.ok(); ++i) heap_.push(a.items[i]);
        for (uint32_t i = 0; i < b.size && heap_.ok(); ++i) heap_.push(b.items[i]);
        return heap_.list_from(begin, a.shape);
    }
    const auto integer = [](const Value& v) { return v.is(Type::kInteger) || v.is(Type::kBool); };
    if (!integer(a) || !integer(b)) {
        const bool number = a.is(Type::kNumber) || b.is(Type::kNumber);
        if (number || (op == Operator::kModulo && a.is(Type::kString)) || op == Operator::kMultiply)
            return heap_.unsupported("arithmetic with what are no integers");
        return heap_.refuse("an operator between values that have none");
    }
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
        case Operator::kAdd:
            overflow = __builtin_add_overflow(a.integer, b.integer, &result);
            break;
        case Operator::kSubtract:
            overflow = __builtin_sub_overflow(a.integer, b.integer, &result);
            break;
        case Operator::kMultiply:
            overflow = __builtin_mul_overflow(a.integer, b.integer, &result);
            break;
        default: {  // rounded down, as in Python
            if (b.integer == 0) return heap_.refuse("a division by zero");
            if (b.integer == -1) {
                overflow = op == Operator::kFloorDivide && a.integer == INT64_MIN;
                result = op == Operator::kFloorDivide && !overflow ? -a.integer : 0;
                break;
            }
            const int64_t rest = a.integer % b.integer;
            const bool down = rest != 0 && (rest < 0) != (b.integer < 0);
            result = op == Operator::kFloorDivide ? a.integer / b.integer - down : rest + (down ? b.integer : 0);
        }
    }
    return overflow ? heap_.unsupported("an integer beyond 64 bits") : Value::number(result);
}

Value Renderer::slice(const Node& n) {
    const Node& parts = node(n.b);
    const Value object = evaluate(n.a);
    const Value begin = evaluate_or_none(parts.a), end = evaluate_or_none(parts.b), step = evaluate_or_none(parts.c);
    heap_.at(n.at);
    return heap_.ok() ? slice_of(&heap_, object, begin, end, step) : Value();
}

Value Renderer::list(const Node& n) {
    const uint32_t begin = heap_.pushed();
    for (uint32_t i = n.a; i && heap_.ok(); i = node(i).next) heap_.push(evaluate(node(i).a));
    return heap_.list_from(begin, n.kind == NodeKind::kTuple ? Shape::kTuple : Shape::kList);
}

Value Renderer::dict(const Node& n) {
    const uint32_t begin = heap_.pushed();
    for (uint32_t i = n.a; i && heap_.ok(); i = node(i).next) {
        heap_.push(evaluate(node(i).a));
        heap_.push(evaluate(node(i).b));
    }
    return heap_.dict_from(begin);
}

Arguments Renderer::arguments(uint32_t first) {
    uint32_t count = 0;
    for (uint32_t i = first; i; i = node(i).next) ++count;
    if (count == 0) return {};
    Argument* const list = heap_.make<Argument>(count);
    if (!list) return {};
    uint32_t at = 0;
    for (uint32_t i = first; i && heap_.ok(); i = node(i).next) {
        list[at] = {node(i).b ? name_of(node(i).b) : Value(), evaluate(node(i).a)};
        for (uint32_t k = 0; k < at && node(i).b; ++k)
            if (equal(&heap_, list[k].name, list[at].name)) heap_.refuse("an argument given twice");
        ++at;
    }
    return {list, at};
}

Value Renderer::filter(const Node& n) {
    const Value v = evaluate(n.a);
    const Arguments given = arguments(n.b);
    heap_.at(n.at);
    return heap_.ok() ? apply_filter(&heap_, static_cast<Filter>(n.op), v, given) : Value();
}

Value Renderer::test(const Node& n) {
    const Value v = evaluate(n.a);
    const Arguments given = arguments(n.b);
    heap_.at(n.at);
    return Value::boolean(heap_.ok() && apply_test(&heap_, static_cast<Test>(n.op), v, given) != n.negated);
}

Value Renderer::method(const Node& n) {
    const Value self = evaluate(n.a);
    const Arguments given = arguments(n.b);
    heap_.at(n.at);
    return heap_.ok() ? apply_method(&heap_, static_cast<Method>(n.op), self, given) : Value();
}

Value Renderer::call(const Node& n) {
    const Value name = name_of(n.a);
    const Arguments given = arguments(n.b);
    heap_.at(n.at);
    if (!heap_.ok()) return {};
    const Value* const found = find(name);
    if (found && found->is(Type::kMacro)) return call_macro(node(static_cast<uint32_t>(found->integer)), given);
    const int function = found ? -1 : find_name(kFunctionNames, name.text, name.size);
    if (function < 0) return heap_.refuse("a call of what is no function:", name.text, name.size);
    return call_function(static_cast<Function>(function), given);
}

Value Renderer::call_function(Function function, const Arguments& given) {
    if (!knows_arguments(&heap_, kFunctionLimits[static_cast<uint8_t>(function)], given)) return {};
    switch (function) {
        case Function::kDict: {
            const uint32_t begin = heap_.pushed();
            for (uint32_t i = 0; i < given.count; ++i) {
                heap_.push(given.list[i].name);
                heap_.push(given.list[i].value);
            }
            return heap_.dict_from(begin);
        }
        case Function::kNamespace:
            return make_namespace(given);
        case Function::kRaise: {
            const Value* const what = given.get(0, "message");
            const Value text = what ? to_string(&heap_, *what) : Value::literal("");
            return heap_.refuse("the template refuses:", text.text, text.size);
        }
        case Function::kRange:
            return range(given);
        case Function::kNow:
            return strftime_now(given);
    }
    return {};
}

Value Renderer::call_macro(const Node& macro, const Arguments& given) {
    const uint32_t begin = out_bytes_, mark = heap_.mark();
    if (!enter(0)) return {};
    uint32_t position = 0, taken = 0;
    for (uint32_t i = macro.b; i && heap_.ok(); i = node(i).next) {
        const Value name = name_of(node(i).a);
        const Value* value = given.get(position++);
        for (uint32_t k = 0; k < given.count && !value; ++k)
            if (given.list[k].name.is(Type::kString) && equal(&heap_, given.list[k].name, name))
                value = &given.list[k].value;
        taken += value != nullptr;
        bind(name, value ? *value : node(i).b ? evaluate(node(i).b) : Value());
    }
    if (heap_.ok() && taken != given.count) heap_.refuse("a macro called with arguments that it does not take");
    Flow flow;
    return captured(macro.c, begin, mark, &flow);
}

Value Renderer::range(const Arguments& given) {
    int64_t bound[3] = {0, 0, 1};
    for (uint32_t i = 0; i < given.count; ++i) {
        if (!given.list[i].value.is(Type::kInteger)) return heap_.refuse("range of what are no integers");
        bound[given.count == 1 ? 1 : i] = given.list[i].value.integer;
    }
    if (given.count == 0 || bound[2] == 0) return heap_.refuse("range without an end, or with step 0");
    const uint32_t begin = heap_.pushed();
    for (int64_t i = bound[0]; (bound[2] > 0 ? i < bound[1] : i > bound[1]) && heap_.ok();) {
        heap_.push(Value::number(i));
        if (__builtin_add_overflow(i, bound[2], &i)) break;
    }
    return heap_.list_from(begin, Shape::kView);
}

Value Renderer::make_namespace(const Arguments& given) {
    Namespace* const names = heap_.make<Namespace>(1);
    if (!names) return {};
    names->first = nullptr;
    for (uint32_t i = 0; i < given.count; ++i) {
        NamespaceItem* const item = heap_.make<NamespaceItem>(1);
        if (!item) return {};
        *item = {given.list[i].name, given.list[i].value, names->first};
        names->first = item;
    }
    Value out;
    out.type = Type::kNamespace;
    out.names = names;
    return out;
}

Value Renderer::strftime_now(const Arguments& given) {
    const Value* const format = given.get(0);
    if (!input_.hooks || !input_.hooks->strftime_now) return heap_.refuse("strftime_now without the hook");
    if (!format || !format->is(Type::kString) || format->size >= kMaxFormatBytes)
        return heap_.refuse("strftime_now without a format, or with one of 64 bytes and more");
    char text[kMaxFormatBytes] = {}, now[kMaxFormatBytes];
    if (format->size) memcpy(text, format->text, format->size);
    const size_t bytes = input_.hooks->strftime_now(input_.hooks->user_data, text, now, sizeof now);
    if (bytes > sizeof now) return heap_.refuse("the hook strftime_now says that it wrote too much");
    heap_.begin();
    heap_.write(now, bytes, false);
    return heap_.finish();
}

}  // namespace

keel_status jinja_render(const JinjaProgram& program, const JinjaInput& input, const JinjaWork& work, uint32_t* bytes,
                         keel_error* error) {
    Renderer renderer(program, input, work, error);
    return renderer.run(bytes);
}

}  // namespace keel
