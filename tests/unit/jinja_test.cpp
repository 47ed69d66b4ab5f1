// Chat templates against jinja2 (tests/data/chat/rendered.txt, by tests/generators/make_jinja_oracles.py), and the
// edges.
#include "sdk/text/jinja.h"

#include <string.h>
#include <time.h>

#include <sstream>
#include <vector>

#include "sdk/text/jinja_program.h"
#include "tests/hex_text.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::sized;
using keel_test::unhex;

// The generator's time.
size_t fixed_time(void*, const char* format, char* dst, size_t capacity) {
    tm t = {};
    t.tm_year = 125;
    t.tm_mon = 2;
    t.tm_mday = 4;
    t.tm_wday = 2;
    t.tm_yday = 62;
    t.tm_hour = 15;
    t.tm_min = 16;
    t.tm_sec = 17;
    return strftime(dst, capacity, format, &t);
}

// A program in memory of exactly its size.
class Template {
  public:
    explicit Template(const std::string& text) {
        keel::Arena counting;
        error = sized<keel_error>();
        keel::JinjaSource source = {sized<keel_reader>(), 0, text.size()};
        EXPECT_EQ(KEEL_OK, keel_reader_from_memory(text.data(), text.size(), &source.reader));
        status = keel::jinja_place(source, counting, &program, &error);
        if (status != KEEL_OK) return;
        memory_.resize(counting.used_bytes() + 64);
        char* const base = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
        keel::Arena arena(base, counting.used_bytes());
        status = keel::jinja_place(source, arena, &program, &error);
        EXPECT_EQ(counting.used_bytes(), arena.used_bytes());
        EXPECT_TRUE(program);
    }
    keel_status status;
    keel_error error;
    const keel::JinjaProgram* program = nullptr;

  private:
    std::vector<char> memory_;
};

struct Message {
    std::string role, text, fields;
    bool has_text = true;
};

struct Rendering {
    std::vector<Message> messages;
    bool open = true;
    std::string variables;
    uint32_t capacity = 1 << 16;
    bool clock = true;

    std::string text, marks;  // results; marks: 's' or 'm' a byte
    keel_error error = {};

    keel_status run(const keel::JinjaProgram& program) {
        std::vector<keel_chat_message> views;
        for (const Message& m : messages) {
            keel_chat_message view = sized<keel_chat_message>();
            view.role = m.role.c_str();
            view.text = m.has_text ? m.text.data() : nullptr;
            view.bytes = m.text.size();
            view.fields = m.fields.empty() ? nullptr : m.fields.data();
            view.field_bytes = m.fields.size();
            views.push_back(view);
        }
        keel_hooks hooks = sized<keel_hooks>();
        hooks.strftime_now = fixed_time;
        keel::JinjaInput input = {};
        input.messages = views.data();
        input.count = static_cast<uint32_t>(views.size());
        input.open_assistant = open;
        input.variables = {variables.data(), variables.size()};
        input.bos = {"<s>", 3};
        input.eos = {"</s>", 4};
        input.hooks = clock ? &hooks : nullptr;
        std::vector<uint64_t> memory[4];
        for (std::vector<uint64_t>& m : memory) m.resize(capacity / 8);
        const auto bytes_of = [&](int i) { return reinterpret_cast<uint8_t*>(memory[i].data()); };
        const keel::JinjaWork work = {reinterpret_cast<char*>(bytes_of(0)), bytes_of(1),
                                      reinterpret_cast<char*>(bytes_of(2)), bytes_of(3), capacity};
        error = sized<keel_error>();
        uint32_t bytes = 0;
        const keel_status status = keel::jinja_render(program, input, work, &bytes, &error);
        text.assign(work.out, bytes);
        marks.clear();
        for (uint32_t i = 0; i < bytes; ++i) marks += work.out_marks[i] ? 'm' : 's';
        EXPECT_EQ(status, error.status);
        return status;
    }
};

// "12s3m1x" against 's' and 'm' a byte.
bool marks_fit(const std::string& runs, const std::string& marks) {
    std::istringstream in(runs);
    size_t at = 0, length = 0;
    for (char kind; in >> length >> kind; at += length)
        for (size_t i = at; i < at + length; ++i)
            if (i >= marks.size() || (kind != 'x' && marks[i] != kind)) return false;
    return at == marks.size();
}

const char* environment(const char* name, const char* otherwise) {
    const char* const value = getenv(name);
    return value ? value : otherwise;
}

TEST(Jinja, PublishedTemplates) {
    const std::string own = keel_test::source_path("tests/data/chat");
    const std::string folder = environment("KEEL_CHAT_TEMPLATES", own.c_str());
    const std::vector<char> file =
        keel_test::read_file(environment("KEEL_CHAT_CASES", (own + "/rendered.txt").c_str()));
    std::istringstream lines(std::string(file.begin(), file.end()));
    std::unique_ptr<Template> jinja;
    std::string name;
    std::vector<std::vector<Message>> conversations;
    std::vector<std::string> variables;
    const auto text_of = [](const std::string& hex) { return hex == "-" ? std::string() : unhex(hex); };
    size_t templates = 0, cases = 0, refused = 0, marked = 0;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string word;
        words >> word;
        if (word == "template") {
            words >> name;
            const std::vector<char> text = keel_test::read_file(folder + "/" + name + ".jinja");
            ASSERT_FALSE(text.empty()) << name;
            jinja = std::make_unique<Template>(std::string(text.begin(), text.end()));
            EXPECT_EQ(KEEL_OK, jinja->status) << name << " at " << jinja->error.offset << ": " << jinja->error.reason;
            ++templates;
            continue;
        }
        if (word == "variables") {
            words >> word;
            variables.push_back(text_of(word));
            continue;
        }
        if (word == "conversation") {
            conversations.emplace_back();
            while (words >> word) {
                const size_t a = word.find(':'), b = word.rfind(':');
                const std::string text = word.substr(a + 1, b - a - 1);
                conversations.back().push_back({word.substr(0, a), text == "null" ? "" : text_of(text),
                                                text_of(word.substr(b + 1)), text != "null"});
            }
            continue;
        }
        if (jinja->status != KEEL_OK) continue;
        size_t conversation, variable;
        Rendering r;
        std::string expected, marks;
        words >> conversation >> variable >> r.open >> expected >> marks;
        r.messages = conversations.at(conversation);
        r.variables = variables.at(variable);
        const keel_status status = r.run(*jinja->program);
        ++cases;
        if (expected == "refused") {
            EXPECT_EQ(KEEL_E_ARGUMENT, status) << name << ": " << line << "\n" << r.error.reason << "\n" << r.text;
            ++refused;
            continue;
        }
        EXPECT_EQ(KEEL_OK, status) << name << " at " << r.error.offset << ": " << r.error.reason << "\n" << line;
        if (status != KEEL_OK) continue;
        EXPECT_EQ(text_of(expected), r.text) << name << ": " << line;
        if (marks == "-") continue;
        EXPECT_TRUE(marks_fit(marks, r.marks)) << name << ": " << marks << "\n" << r.text << "\n" << r.marks;
        ++marked;
    }
    printf("%zu templates, %zu conversations, %zu refused, marks of %zu\n", templates, cases, refused, marked);
    EXPECT_GE(templates, 30u);
    EXPECT_GT(cases, 1500u);
    EXPECT_GT(refused, 10u);
    EXPECT_GT(marked, 500u);
}

// One construct a line. What jinja2 writes is written or, where Keel does not have it, named; never anything else.
TEST(Jinja, Constructs) {
    const std::vector<char> file = keel_test::read_file(keel_test::source_path("tests/data/chat/constructs.txt"));
    std::istringstream lines(std::string(file.begin(), file.end()));
    std::string variables, line;
    std::getline(lines, variables);
    size_t same = 0, refused = 0;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string source, expected;
        words >> source >> expected;
        source = unhex(source);
        Template jinja(source);
        Rendering r;
        r.variables = unhex(variables);
        const keel_status status = jinja.status == KEEL_OK ? r.run(*jinja.program) : jinja.status;
        const char* const reason = jinja.status == KEEL_OK ? r.error.reason : jinja.error.reason;
        if (expected == "refused") {
            EXPECT_TRUE(status == KEEL_E_ARGUMENT || status == KEEL_E_UNSUPPORTED) << source << ": " << r.text;
            EXPECT_NE('\0', reason[0]) << source;
            ++refused;
            continue;
        }
        EXPECT_EQ(KEEL_OK, status) << source << ": " << reason;
        EXPECT_EQ(expected == "-" ? "" : unhex(expected), status == KEEL_OK ? r.text : reason) << source;
        ++same;
    }
    EXPECT_GT(same, 70u);
    EXPECT_GT(refused, 25u);
}

// What is not known is named, with its place.
TEST(Jinja, UnknownConstructsAreNamed) {
    const struct {
        const char *text, *reason;
        uint64_t offset;
    } cases[] = {
        {"{{ x|groupby('a') }}", "filter \"groupby\"", 5},
        {"{{ x is callable }}", "test \"callable\"", 8},
        {"{{ x.format(1) }}", "method \"format\"", 5},
        {"{{ cycler(1) }}", "name \"cycler\"", 3},
        {"{{ nothing(1) }}", "function \"nothing\"", 3},
        {"{% include 'a' %}", "statement \"include\"", 3},
        {"a{% for x in y recursive %}{% endfor %}", "a recursive loop", 15},
        {"{{ 2 ** 3 }}", "operator \"**\"", 5},
        {"{{ 1 < 2 < 3 }}", "a chain of comparisons", 9},
        {"{{ f(*x) }}{% macro f(a) %}{% endmacro %}", "an unpacked argument", 5},
        {"{% for x in y %}{% macro f() %}{% endmacro %}{% endfor %}", "a macro inside of a loop, block or macro", 19},
        {"{{ 'a", "a string without an end", 4},
        {"{% if x %}a", "the template ends before \"endif\"", 11},
        {"{{ x", "the template ends inside a tag", 4},
        {"{{ x ? y }}", "character \"?\"", 5},
    };
    for (const auto& c : cases) {
        const Template jinja(c.text);
        EXPECT_EQ(KEEL_E_UNSUPPORTED, jinja.status) << c.text;
        EXPECT_STREQ(c.reason, jinja.error.reason) << c.text;
        EXPECT_EQ(c.offset, jinja.error.offset) << c.text;
    }
    std::string deep;
    for (int i = 0; i < 100; ++i) deep += "(";
    EXPECT_EQ(KEEL_E_FILE_LIMIT, Template("{{ " + deep).status);
    EXPECT_EQ(KEEL_E_FILE_LIMIT, Template(std::string(keel::kMaxTemplateBytes + 1, 'x')).status);
    EXPECT_EQ(KEEL_OK, Template(std::string(keel::kMaxTemplateBytes, 'x')).status);
}

// Every size of work memory that is too small is an error and nothing else.
TEST(Jinja, WorkMemoryOfAnySize) {
    const Template jinja(
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content|upper %}"
        "{{ [m, ns.t]|tojson(indent=1) }}{% endfor %}");
    ASSERT_EQ(KEEL_OK, jinja.status);
    Rendering r;
    r.messages = {{"user", "some words", "{\"a\": [1, {\"b\": \"\\u00e9\"}]}"}, {"assistant", "more", ""}};
    ASSERT_EQ(KEEL_OK, r.run(*jinja.program));
    const std::string whole = r.text;
    bool fits = false;
    for (uint32_t capacity = 0; capacity < 4096; capacity += 8) {
        r.capacity = capacity;
        const keel_status status = r.run(*jinja.program);
        if (status == KEEL_OK) {
            EXPECT_EQ(whole, r.text);
            fits = true;
        } else {
            EXPECT_EQ(KEEL_E_TEXT_LIMIT, status) << capacity;
            EXPECT_FALSE(fits) << capacity;
        }
    }
    EXPECT_TRUE(fits);
}

// Whatever takes time counts as steps, and nothing nests deeper than the stack goes.
TEST(Jinja, WorkIsBounded) {
    const std::string long_b =
        "{% set ns = namespace(b='bbbbbbbbbbbbbbbb') %}{% for i in range(13) %}{% set ns.b = ns.b ~ ns.b %}{% endfor "
        "%}";
    const std::string cases[] = {
        long_b + "{% set a = 'a' ~ ns.b.replace('b', 'a') %}{{ a.strip(ns.b ~ 'a')|length }}",
        long_b +
            "{% set b = ns.b ~ 'x' %}{% set c = ns.b ~ 'y' %}{% for i in range(200) %}"
            "{% if b.startswith((c, c, c, c, c, c, c, c)) %}{% endif %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(8) %}{% set ns.l = [[[[ns.l]]]] %}{% endfor %}{{ ns.l == ns.l "
        "}}",
    };
    for (const std::string& text : cases) {
        const Template jinja(text);
        ASSERT_EQ(KEEL_OK, jinja.status) << text << jinja.error.reason;
        Rendering r;
        r.capacity = 1 << 21;
        EXPECT_EQ(KEEL_E_FILE_LIMIT, r.run(*jinja.program)) << text << r.error.reason;
    }
}

// What jinja2 makes of a template; null: an error here, be it that jinja2 has one or that Keel does not know it.
struct Made {
    const char *text, *expected;
};
void expect_made(const std::vector<Made>& cases) {
    for (const Made& c : cases) {
        const Template jinja(c.text);
        Rendering r;
        r.variables =
            R"({"l": [3, 1, 2, 3], "e": [], "d": {"a": "x", "b": 1}, "f": 1.5, "m": "a\r\nb",
                "p": [{"k": "u", "v": {"z": 5}}, {"k": "w", "v": {"z": 6}}]})";
        const keel_status status = jinja.status == KEEL_OK ? r.run(*jinja.program) : jinja.status;
        if (c.expected) {
            EXPECT_EQ(KEEL_OK, status) << c.text << ": "
                                       << (jinja.status == KEEL_OK ? r.error.reason : jinja.error.reason);
            EXPECT_EQ(c.expected, r.text) << c.text;
        } else {
            EXPECT_TRUE(status == KEEL_E_ARGUMENT || status == KEEL_E_UNSUPPORTED) << c.text << ": " << r.text;
        }
    }
}

// As in jinja2, `else` also follows a loop no turn of which came to its end.
TEST(Jinja, BreakInsideOfElseAndSet) {
    expect_made({
        {"{% for i in [1, 2, 3] %}{{ i }}{% for j in [] %}{% else %}{% break %}{% endfor %}{% endfor %}!", "1!"},
        {"{% for i in [1, 2] %}{% for j in [] %}{% else %}{% continue %}{% endfor %}{{ i }}{% endfor %}!", "!"},
        {"{% for i in [1, 2] %}{% for j in [3] %}{% else %}{% break %}{% endfor %}{{ i }}{% endfor %}!", "12!"},
        {"{% for i in [1, 2] %}{{ i }}{% set x %}a{% break %}{% endset %}{{ x }}{% endfor %}!{{ x }}", "1!"},
        {"{% for i in [1, 2] %}{{ i }}{% set x %}a{% continue %}{% endset %}b{% endfor %}!", "12!"},
        {"{% for i in [1] %}{% break %}{% else %}E{% endfor %}!", "E!"},
        {"{% for i in [1, 2] %}{% continue %}{% else %}E{{ i }}{% endfor %}!", "E!"},
        {"{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}!", "!"},
        {"{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", nullptr},
    });
}

// jinja2 evaluates conditions of loops turn by turn.
TEST(Jinja, ConditionsThatTheBodyChanges) {
    const std::string ns = "{% set n = namespace(a=0) %}";
    const std::string changed[] = {
        ns + "{% for i in l if n.a < 2 %}{% set n.a = n.a + 1 %}{{ i }}{% endfor %}",
        ns + "{% for i in l if i > n.a %}{% set n.a = i %}{{ loop.last }}{% endfor %}",
        ns + "{% for i in l if i < 2 or n.b is defined %}{% set n.b = i %}{{ i }}{% endfor %}",
    };
    for (const std::string& text : changed) expect_made({{text.c_str(), nullptr}});
    const std::string kept[] = {
        ns + "{% for i in l if n.a < 1 and i > 1 %}{{ i }}{{ loop.length }}{% endfor %}",
        ns + "{% for i in l if n.a < 1 and i > 1 %}{% set n.b = i %}{{ i }}{{ loop.length }}{% endfor %}",
        ns + "{% for i in l if n.a < 1 and i > 1 %}{{ i }}{{ loop.length }}{% if loop.last %}{% set n.a = 1 %}{% break "
             "%}"
             "{% endif %}{% endfor %}",
    };
    for (const std::string& text : kept) expect_made({{text.c_str(), "332333"}});
}

TEST(Jinja, FiltersThatGiveIterators) {
    const std::string filters[] = {"l|select('gt', 9)", "l|reject",        "p|selectattr('k', 'eq', 'x')",
                                   "p|rejectattr('k')", "e|map('string')", "e|reverse",
                                   "e|unique",          "{}|items",        "{}.items()|reverse"};
    for (const std::string& filter : filters) {
        const std::string v = "(" + filter + ")";
        const std::string same[] = {"{% if " + v + " %}yes{% endif %}",
                                    "{{ 'yes' if " + v + " is iterable }}",
                                    "{{ 'no' if not " + v + " else 'yes' }}",
                                    "{{ 'no' if " + v + " is sequence else 'yes' }}",
                                    "{% for i in " + v + " %}{{ i }}{% else %}yes{% endfor %}",
                                    "{% if not " + v + "|list %}yes{% endif %}",
                                    "{{ " + v + "|first|default('yes') }}",
                                    "{{ " + v + "|join }}{{ 'yes' if 7 not in " + v + " }}"};
        for (const std::string& text : same) expect_made({{text.c_str(), "yes"}});
        const std::string refused[] = {"{{ " + v + " }}",       "{{ " + v + "|length }}", "{{ " + v + " + [] }}",
                                       "{{ [] + " + v + " }}",  "{{ " + v + "|tojson }}", "{{ " + v + "[0] }}",
                                       "{{ " + v + "[:1] }}",   "{{ " + v + " ~ '' }}",   "{{ [" + v + "] }}",
                                       "{{ " + v + " == [] }}", "{{ " + v + "|last }}",   "{{ " + v + ".append }}"};
        for (const std::string& text : refused) expect_made({{text.c_str(), nullptr}});
    }
    expect_made({
        {"{{ p|map(attribute='k')|list|length }}{{ p|map(attribute='k')|list }}", "2['u', 'w']"},
        {"{% for i in l|reverse %}{{ i }}{{ loop.last }}{{ loop.length }}{% endfor %}", "3False42False41False43True4"},
        {"{{ l|reverse|first }}{{ 'ab'|reverse }}{{ 'ab'|reverse|length }}{{ l|select|reverse|length }}", "3ba24"},
        {"{% set i = l|select %}{{ i|join }}{{ i|join }}", nullptr},  // nothing the second time
        {"{% set i = l|select %}{% for x in i %}{{ x }}{% endfor %}{{ 3 in i }}", nullptr},
        {"{{ d|dictsort|length }}{{ d|items|list|length }}{{ d.items()|length }}{{ d.keys()|list }}", "222['a', 'b']"},
        {"{{ 'a' if {}.items() else 'b' }}{{ 'a' if range(0) else 'b' }}{{ range(3)|length }}{{ range(3)|last }}",
         "bb32"},
        {"{{ range(3) }}", nullptr},
        {"{{ {}.keys() }}", nullptr},
        {"{{ range(3) == [0, 1, 2] }}", nullptr},
        {"{{ range(2) + range(2) }}", nullptr},
        {"{{ d.items()[0] }}", nullptr},
        {"{{ p|map(attribute='none', default=none)|map('string')|join }}", ""},
    });
}

TEST(Jinja, ArgumentsThatAreNotKnown) {
    expect_made({
        {"{{ 'one'.startswith('o', 1) }}", nullptr},
        {"{{ 'one'.endswith('o', 0, 1) }}", nullptr},
        {"{{ 'one'.count('o', 1) }}", nullptr},
        {"{{ 'one'.strip(chars='o') }}", nullptr},
        {"{{ '11'|int(0, 2) }}", nullptr},
        {"{{ 'z'|int(default=3, base=16) }}", nullptr},
        {"{{ 'z'|int(default=3) }}", "3"},
        {"{{ 'z'|upper(1) }}", nullptr},
        {"{{ l|first(1) }}", nullptr},
        {"{{ ['a b']|map('trim', side='a')|list }}", nullptr},
        {"{{ ['a b']|map('upper', attribute='a')|list }}", nullptr},
        {"{{ [1]|select('odd', 1)|list }}", nullptr},
        {"{{ nope|default('a', default_value='b') }}", nullptr},
        {"{{ nope|default(default_value='b') }}", "b"},
        {"{{ 3 is odd(1) }}", nullptr},
        {"{{ 4 is divisibleby(num=2) }}", nullptr},
        {"{{ range(3, step=2)|list }}", nullptr},
        {"{{ 'aaa'.replace('a', 'b', true) }}{{ 'aaa'|replace('a', 'b', count=2) }}", "baabba"},
        {"{{ 'aaa'.replace('a', 'b', 'c') }}", nullptr},
        {"{{ 'a b c'.split(' ', maxsplit=true) }}", "['a', 'b c']"},
        {"{{ 'a b c'.split(' ', none) }}", nullptr},
        {"{{ 'abc'.startswith(['a']) }}", nullptr},
        {"{{ 'abc'.startswith(('x', 'a')) }}", "True"},
        {"{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(b=3, a=1) }}{{ m(1) }}", "1312"},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, z=3) }}", nullptr},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", nullptr},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, a=2) }}", nullptr},
        {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(a=1, 2) }}", nullptr},
    });
}

TEST(Jinja, JoinFollowsPaths) {
    expect_made({
        {"{{ p|join('-', attribute='v.z') }}", "5-6"},
        {"{% set n = namespace(a=1) %}{{ [n]|map(attribute='a')|join }}", nullptr},  // it may change until it is read
        {"{{ [[1, 2], [3, 4]]|join('-', 1) }}{{ l|join('', none) }}", "2-43123"},
    });
}

TEST(Jinja, IndentOfAnyLineEnd) {
    expect_made({
        {"{{ m|indent(2) }}", "a\n  b"},
        {"{{ '\\na'|indent(2, true) }}", "  \n  a"},
        {"{{ ''|indent(2, true) }}", "  "},
        {"{{ ''|indent(2, false, true) }}", ""},
        {"{{ 'a\\n'|indent(2, false, true) }}", "a\n  "},
        {"{{ 'a\\n'|indent(2) }}", "a\n"},
        {"{{ 'a\\r'|indent(2, true, true) }}", "  a"},
        {"{{ 'a\\r\\r\\nb'|indent(2, false, true) }}", "a\n  \n  b"},
        {"{{ 'a\\vb\\fc\\x1cd\\x1de\\x1ef\\x85g\\u2028h\\u2029i\\x1fj'|indent(1) }}",
         "a\n b\n c\n d\n e\n f\n g\n h\n i\x1fj"},
        {"{{ 5|indent }}", nullptr},
    });
    Rendering r;
    r.messages = {{"user", "a\r\nb", ""}};
    const Template jinja("{{ messages[0].content|indent(2) }}");
    ASSERT_EQ(KEEL_OK, jinja.status);
    ASSERT_EQ(KEEL_OK, r.run(*jinja.program));
    EXPECT_EQ("mmssm", r.marks);
}

TEST(Jinja, TuplesStayTuples) {
    expect_made({
        {"{{ (1, 2)[:1] == (1,) }}{{ (1, 2)[:1] == [1] }}{{ (1, 2)[::-1]|list }}", "TrueFalse[2, 1]"},
        {"{{ (1, 2) + (3,) == (1, 2, 3) }}{{ ((1, 2) + (3,))|length }}", "True3"},
        {"{{ ((1, 2)|list) == [1, 2] }}{{ (1, 2)|list }}{{ [1, 2] == (1, 2) }}", "True[1, 2]False"},
        {"{{ [1] + (2,) }}", nullptr},
        {"{{ (1,) + [2] }}", nullptr},
        {"{{ (1, 2)[:1] }}", nullptr},
    });
}

TEST(Jinja, NumbersAsPythonWritesThem) {
    expect_made({
        {"{{ 1.5 }} {{ 0.0001 }} {{ 10.0 }} {{ 1.5 == f }} {{ 0.0 == 1.5 }}", "1.5 0.0001 10.0 True False"},
        {"{{ 1.50 }}", nullptr},
        {"{{ 0.00001 }}", nullptr},
        {"{{ 00.5 }}", nullptr},
        {"{{ 1234567890123456.5 }}", nullptr},
        {"{{ 1.0 == 1.00 }}", nullptr},
        {"{{ true == 1.0 }}", nullptr},
        {"{{ 1.0 in [true] }}", nullptr},
        {"{{ 007 }}", nullptr},
        {"{{ nope|int(1) }}", nullptr},
        {"{{ 00 }}{{ 0 }}", "00"},
    });
    Rendering r;
    r.variables = "{\"x\": -0.0}";
    const Template jinja("{{ x == 0.0 }}");
    ASSERT_EQ(KEEL_OK, jinja.status);
    ASSERT_EQ(KEEL_OK, r.run(*jinja.program));
    EXPECT_EQ("True", r.text);
}

TEST(Jinja, UnicodeWhiteSpaceBesideTags) {
    expect_made({
        {"a\u00a0\u2003\n{%- if true -%}\u00a0\u3000b{%- endif %}", "ab"},
        {"a\x1f{{- 'b' -}}\u2028 c\u0085{#- x -#}\u205f d", "abcd"},
        {"a\n\u00a0{% if true %}x{% endif %}\u00a0", "a\nx\u00a0"},
        {"a\u00a0{{ 'b' }}\u00a0", "a\u00a0b\u00a0"},
        {"a {#-#} b{#+#}\nc{#--#} d", "a bcd"},
        {"\u00e9{%- if true -%}\u00e9{%- endif %}", "\u00e9\u00e9"},
    });
}

}  // namespace
