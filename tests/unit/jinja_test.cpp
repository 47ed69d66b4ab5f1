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

}  // namespace
