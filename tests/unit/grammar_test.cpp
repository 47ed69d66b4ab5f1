// Grammars: accepted strings against other implementations (tests/data/grammar), limits, masks, and sampling that is
// held to them.
#include <string.h>

#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/text/grammar_machine.h"
#include "tests/hex_text.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::sized;
using keel_test::unhex;

// An automaton in memory of exactly its size.
class Automaton {
  public:
    Automaton(const std::string& text, bool json_schema) : text_(text) {
        error = sized<keel_error>();
        keel::GrammarSource source = {sized<keel_reader>(), json_schema};
        EXPECT_EQ(KEEL_OK, keel_reader_from_memory(text_.data(), text_.size(), &source.reader));
        keel::Arena counting;
        const keel::Grammar* grammar = nullptr;
        uint32_t classes = 0;
        status = keel::grammar_place(source, counting, &grammar, &classes, &error);
        if (status != KEEL_OK) return;
        keel::grammar_machine_place(counting, nullptr, classes, 0);
        memory_.resize(counting.used_bytes() + 64);
        char* const base = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
        keel::Arena arena(base, counting.used_bytes());
        EXPECT_EQ(KEEL_OK, keel::grammar_place(source, arena, &grammar, &classes, &error));
        machine = keel::grammar_machine_place(arena, grammar, classes, 0);
        EXPECT_EQ(counting.used_bytes(), arena.used_bytes());
    }
    bool accepts(const std::string& text) const {
        const uint16_t state = keel::grammar_accept(machine, keel::grammar_begin(machine), text.data(), text.size());
        too_much = state == keel::kGrammarTooMuch;
        return keel::grammar_may_end(*machine, state);
    }
    keel_status status;
    keel_error error;
    mutable bool too_much = false;  // the last text
    keel::GrammarMachine* machine = nullptr;

  private:
    const std::string text_;
    std::vector<char> memory_;
};

struct CaseCounts {
    size_t grammars = 0, yes = 0, no = 0, bad = 0;
};

CaseCounts run_cases(const char* path) {
    const std::vector<char> file = keel_test::read_file(keel_test::source_path(path));
    std::istringstream lines(std::string(file.begin(), file.end()));
    std::unique_ptr<Automaton> grammar;
    CaseCounts counts;
    std::string name;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string kind, text;
        words >> kind >> text;
        if (kind == "bad") {
            std::string source;
            words >> source;
            const Automaton refused(source == "-" ? "" : unhex(source), text == "schema");
            EXPECT_NE(KEEL_OK, refused.status) << unhex(source);
            EXPECT_NE('\0', refused.error.reason[0]) << unhex(source);
            ++counts.bad;
            continue;
        }
        text = text == "-" ? "" : unhex(text);
        if (kind == "gbnf" || kind == "schema") {
            grammar = std::make_unique<Automaton>(text, kind == "schema");
            name = text;
            EXPECT_EQ(KEEL_OK, grammar->status) << text << ": " << grammar->error.reason;
            ++counts.grammars;
            continue;
        }
        if (grammar->status != KEEL_OK) continue;
        EXPECT_EQ(kind == "yes", grammar->accepts(text)) << name << "\n" << text;
        EXPECT_FALSE(grammar->too_much) << name << "\n" << text;
        ++(kind == "yes" ? counts.yes : counts.no);
    }
    printf("%s: %zu grammars, %zu strings accepted, %zu not, %zu grammars refused\n", path, counts.grammars, counts.yes,
           counts.no, counts.bad);
    return counts;
}

TEST(Grammar, AcceptsWhatOthersAccept) {
    const CaseCounts counts = run_cases("tests/data/grammar/cases.txt");
    EXPECT_GT(counts.grammars, 70u);
    EXPECT_GT(counts.yes, 2000u);
    EXPECT_GT(counts.no, 5800u);
    EXPECT_GT(counts.bad, 55u);
}

// Its own grammars, and its answers.
TEST(Grammar, AcceptsWhatLlamaCppAccepts) {
    const CaseCounts counts = run_cases("tests/data/grammar/llama-cases.txt");
    EXPECT_EQ(8u, counts.grammars);
    EXPECT_GT(counts.yes, 800u);
    EXPECT_GT(counts.no, 350u);
}

TEST(Grammar, RefusalsNameThePlace) {
    const struct {
        const char* text;
        bool schema;
        keel_status status;
        uint64_t offset;
        const char* reason;
    } cases[] = {
        {"root ::= y", false, KEEL_E_FILE_FORMAT, 9, "there is no rule \"y\""},
        {"root ::= [a", false, KEEL_E_FILE_FORMAT, 11, "a class without an end"},
        {"root ::= root", false, KEEL_E_UNSUPPORTED, 0, "left recursion, or a repeat of what may be empty"},
        {"{\"type\": \"array\", \"uniqueItems\": true}", true, KEEL_E_UNSUPPORTED, 18, "keyword \"uniqueItems\""},
        {"{\"type\": \"string\", \"pattern\": \"(?=x)\"}", true, KEEL_E_UNSUPPORTED, 30,
         "a pattern that looks ahead or behind"},
        {"{\"oneOf\": [{\"type\": \"number\"}, {\"type\": \"integer\"}]}", true, KEEL_E_UNSUPPORTED, 31,
         "oneOf of schemas that one value may be of both of; anyOf takes them"},
        {"{\"const\": 1, \"maximum\": 3}", true, KEEL_E_UNSUPPORTED, 13,
         "beside $ref, const, enum, anyOf, oneOf or allOf the keyword \"maximum\""},
        {"{\"type\": \"number\", \"minimum\": 0.5}", true, KEEL_E_UNSUPPORTED, 30,
         "a bound with a fraction, of numbers that are not whole"},
        {"{\"type\": \"odd\"}", true, KEEL_E_FILE_FORMAT, 9, "there is no such type"},
        {"{\"minItems\": 1, \"maxItems\": 0}", true, KEEL_E_FILE_LIMIT, 13, "minItems above maxItems"},
        {"{\"minItems\": 3, \"maxItems\": 2}", true, KEEL_E_FILE_LIMIT, 13, "minItems above maxItems"},
        {"{\"minLength\": 1, \"maxLength\": 0}", true, KEEL_E_FILE_LIMIT, 14, "minLength above maxLength"},
    };
    for (const auto& c : cases) {
        const Automaton grammar(c.text, c.schema);
        EXPECT_EQ(c.status, grammar.status) << c.text;
        EXPECT_EQ(c.offset, grammar.error.offset) << c.text;
        EXPECT_STREQ(c.reason, grammar.error.reason) << c.text;
    }
    EXPECT_EQ(KEEL_E_FILE_LIMIT, Automaton(std::string(keel::kMaxGrammarBytes + 1, ' '), false).status);
    // Schemas that are compared property by property, each with each.
    std::string schema = "{\"$defs\":{\"a\":{\"properties\":{";
    for (int i = 0; i < 1000; ++i) schema += "\"" + std::to_string(i) + "\":{},";
    schema += "\"z\":{\"enum\":[]}},\"required\":[\"z\"]}},\"oneOf\":[{\"const\":1}";
    for (int i = 0; i < 400; ++i) schema += ",{\"$ref\":\"#/$defs/a\"}";
    const Automaton slow(schema + "]}", true);
    EXPECT_EQ(KEEL_E_FILE_LIMIT, slow.status);
    EXPECT_STREQ("a schema that takes too long to read", slow.error.reason);
}

// A grammar that needs a deeper stack, or more threads, than there are says so; it does not accept something else.
TEST(Grammar, StateHasLimits) {
    const Automaton nested("root ::= \"(\" root \")\" | \"x\"", false);
    const auto brackets = [](size_t n) { return std::string(n, '(') + "x" + std::string(n, ')'); };
    EXPECT_TRUE(nested.accepts(brackets(255)));
    EXPECT_FALSE(nested.too_much);
    EXPECT_FALSE(nested.accepts(brackets(256)));
    EXPECT_TRUE(nested.too_much);
    const Automaton wide("root ::= a | a a | a a a\na ::= \"x\" | \"x\" root \"y\"", false);
    EXPECT_FALSE(wide.accepts(std::string(50, 'x')));
    EXPECT_TRUE(wide.too_much);
}

// Alternatives that take nothing and meet again: as many ways as two to the number of pairs, walked once each.
TEST(Grammar, WaysThatMeetAgainAreOneWay) {
    std::string pairs = "root ::= ";
    for (int i = 0; i < 60; ++i) pairs += "(\"\" | \"a\" | \"\") ";
    const Automaton grammar(pairs, false);
    ASSERT_EQ(KEEL_OK, grammar.status);
    EXPECT_TRUE(grammar.accepts(std::string(60, 'a')));
    EXPECT_FALSE(grammar.accepts(std::string(61, 'a')));
    EXPECT_FALSE(grammar.too_much);
}

// An enum of as many values as a schema has room for: what they begin with is one way.
TEST(Grammar, HundredsOfValues) {
    std::string schema = "{\"enum\": [\"\", \"a\", \"a\\\"\"";
    for (int i = 0; i < 700; ++i) schema += ", \"value " + std::to_string(i) + "\"";
    const Automaton grammar(schema + ", \"a\"]}", true);
    ASSERT_EQ(KEEL_OK, grammar.status) << grammar.error.reason;
    for (int i = 0; i < 710; ++i) EXPECT_EQ(i < 700, grammar.accepts("\"value " + std::to_string(i) + "\"")) << i;
    for (const char* good : {"\"\"", "\"a\"", "\"a\\\"\""}) EXPECT_TRUE(grammar.accepts(good)) << good;
    for (const char* bad : {"\"a", "\"value\"", "\"value 07\"", "\"a\\\"", "a"})
        EXPECT_FALSE(grammar.accepts(bad)) << bad;
}

// Objects of hundreds of properties: each may follow each before it, and none behind it.
TEST(Grammar, HundredsOfProperties) {
    constexpr int kCount = 300;
    // Names that begin alike, and names that do not.
    const auto plain = [](int i) { return "p" + std::to_string(i); };
    const auto mixed = [](int i) {
        char hash[16];
        snprintf(hash, sizeof hash, "%08x", static_cast<uint32_t>(i) * 2654435769u);
        return std::string(1, static_cast<char>('a' + i * 7 % 26)) + "_" + std::string(hash, 4);
    };
    const std::function<std::string(int)> names[] = {plain, mixed};
    // A few are objects themselves.
    const auto is_object = [](int i) { return i % 50 == 7; };
    for (const auto& name : names)
        for (const int required : {-1, 0, 150}) {
            std::string schema = "{\"type\":\"object\",\"properties\":{";
            for (int i = 0; i < kCount; ++i)
                schema +=
                    (i ? ",\"" : "\"") + name(i) + "\":" +
                    (is_object(i) ? "{\"properties\":{\"a\":{\"enum\":[\"x\",\"xy\"]},\"ab\":{\"type\":\"null\"}}}"
                                  : "{\"type\":\"integer\"}");
            schema += "}";
            if (required >= 0) schema += ",\"required\":[\"" + name(required) + "\"]";
            const Automaton grammar(schema + "}", true);
            ASSERT_EQ(KEEL_OK, grammar.status) << grammar.error.reason;
            const auto accepts = [&](const std::vector<int>& properties) {
                std::string text = "{";
                for (const int i : properties)
                    text += (text == "{" ? "\"" : ", \"") + name(i) +
                            "\": " + (is_object(i) ? "{\"a\": \"xy\", \"ab\": null}" : "1");
                const bool accepted = grammar.accepts(text + "}");
                EXPECT_FALSE(grammar.too_much) << text;
                return accepted;
            };
            std::vector<int> all;
            if (required >= 0) all.push_back(required);
            for (int i = 0; i < kCount; ++i)
                if (i != required) all.push_back(i);
            EXPECT_TRUE(accepts(all));
            EXPECT_EQ(required < 0, accepts({}));
            const int first = all[0];
            EXPECT_TRUE(accepts({first}));
            for (int i = 1; i < kCount; ++i) {
                EXPECT_TRUE(accepts({first, all[i]})) << all[i];
                EXPECT_EQ(required < 0, accepts({all[i]})) << all[i];
                EXPECT_FALSE(accepts({first, all[i], all[i]})) << all[i];
                if (i > 1) {
                    EXPECT_FALSE(accepts({first, all[i], all[i - 1]})) << all[i];
                }
            }
            for (int i = 1; i < kCount - 2; i += 41)
                for (int k = i + 1; k < kCount - 1; k += 13) {
                    EXPECT_TRUE(accepts({first, all[i], all[k], all[kCount - 1]})) << all[i] << " " << all[k];
                    EXPECT_FALSE(accepts({first, all[k], all[i], all[kCount - 1]})) << all[k] << " " << all[i];
                }
            EXPECT_FALSE(grammar.accepts("{\"" + name(first) + "\": 1,}"));
            EXPECT_FALSE(grammar.accepts("{\"" + name(first) + "x\": 1}"));
            EXPECT_FALSE(grammar.too_much);
        }
}

// Classes of many characters, with all the escapes that these have, side by side.
TEST(Grammar, PatternsOfManyCharacters) {
    const auto matches = [](const std::string& pattern, const std::string& text) {
        const Automaton grammar("{\"type\":\"string\",\"pattern\":\"" + pattern + "\"}", true);
        EXPECT_EQ(KEEL_OK, grammar.status) << pattern << ": " << grammar.error.reason;
        const bool accepted = grammar.status == KEEL_OK && grammar.accepts("\"" + text + "\"");
        EXPECT_FALSE(grammar.too_much) << pattern;
        return accepted;
    };
    EXPECT_TRUE(matches("^.*a.*b.*c.*d.*e.*$", "abcde"));
    EXPECT_FALSE(matches("^.*a.*b.*c.*d.*e.*$", "abced"));
    EXPECT_TRUE(matches("(.+)-(.+)-(.+)-(.+)-(.+)", "a-b-c-d-e"));
    EXPECT_FALSE(matches("(.+)-(.+)-(.+)-(.+)-(.+)", "a-b-c-d"));
    EXPECT_TRUE(matches("^.+\\\\..+\\\\..+\\\\..+\\\\..+\\\\..+$", "1.2.3.4.5.6"));
    std::string many, text;
    for (int i = 0; i < 30; ++i) many += "[^x]y", text += "\\u001fy";
    EXPECT_TRUE(matches("^" + many + "$", text));
    EXPECT_FALSE(matches("^" + many + "$", text.substr(0, text.size() - 1) + "x"));
    // Each character has one spelling, and belongs to a class or to its opposite.
    for (int code = 0; code < 128; ++code) {
        char hex[8];
        snprintf(hex, sizeof hex, "\\u%04x", static_cast<unsigned>(code));
        const char* const letter = code ? strchr("\"\"\\\\\bb\ff\nn\rr\tt", code) : nullptr;
        const bool is_short = letter && (code < 0x20 || code == '"' || code == '\\');
        const std::string spelled = is_short      ? std::string("\\") + letter[1]
                                    : code < 0x20 ? hex
                                                  : std::string(1, static_cast<char>(code));
        const bool space = code == ' ' || (code >= '\t' && code <= '\r');
        EXPECT_EQ(space, matches("^\\\\s$", spelled)) << code;
        EXPECT_EQ(!space, matches("^\\\\S$", spelled)) << code;
        EXPECT_EQ(code != '\n' && code != '\r', matches("^.$", spelled)) << code;
        EXPECT_TRUE(matches("^[^x]y$", code == 'x' ? "zy" : spelled + "y")) << code;
        if (spelled != hex) {
            EXPECT_FALSE(matches("^.$", hex)) << code;
        }
    }
}

// llama.cpp skips white space between an element and what repeats it; within a group line ends, too.
TEST(Grammar, SpaceBeforeARepeat) {
    const struct {
        const char* text;
        const char* yes;
        const char* no;
    } cases[] = {
        {"root ::= (\"a\" | \"b\") +", "abba", ""},  {"root ::= \"a\" *", "aaa", "b"},
        {"root ::= [0-9] {2}", "12", "1"},           {"root ::= x\t? # maybe\nx ::= \"x\"", "", "xx"},
        {"root ::= . {\t1 , 2 } \"!\"", "ab!", "!"}, {"root ::= (\"a\"\n+ \"b\" # then\n{\n2\n})", "aabb", "ab"},
    };
    for (const auto& c : cases) {
        const Automaton grammar(c.text, false);
        ASSERT_EQ(KEEL_OK, grammar.status) << c.text << ": " << grammar.error.reason;
        EXPECT_TRUE(grammar.accepts(c.yes)) << c.text;
        EXPECT_FALSE(grammar.accepts(c.no)) << c.text;
    }
    // Outside of groups a line end ends the rule.
    for (const char* bad : {"root ::= \"a\"\n+", "root ::= \"a\" + \n*", "root ::= \"a\" {\n2}", "root ::= + \"a\""})
        EXPECT_EQ(KEEL_E_FILE_FORMAT, Automaton(bad, false).status) << bad;
}

// An escaped surrogate pair is one character, and half of one is none.
TEST(Grammar, SurrogatePairsAreOneCharacter) {
    const Automaton one("{\"type\":\"string\",\"minLength\":1,\"maxLength\":1}", true);
    for (const char* good : {"\"a\"", "\"\\ud83d\\uDe00\"", "\"\\uDBFF\\udc00\"", "\"\\ud7ff\"", "\"\\uE000\"",
                             "\"\\u00e9\"", "\"\\n\"", "\"\xf0\x9f\x98\x80\""})
        EXPECT_TRUE(one.accepts(good)) << good;
    for (const char* bad : {"\"\\ud83d\"", "\"\\ude00\"", "\"\\ude00\\ud83d\"", "\"\\ud83da\"", "\"\\ud83d\\u0041\"",
                            "\"\\ud83d\\ude00a\"", "\"\\ud83d\\ud83d\"", "\"\\ud83d\\n\""})
        EXPECT_FALSE(one.accepts(bad)) << bad;
    const Automaton any("{\"type\":\"string\"}", true);
    EXPECT_TRUE(any.accepts("\"x\\ud83d\\ude00\\uD83D\\uDE00y\""));
    EXPECT_FALSE(any.accepts("\"x\\ud83d\""));
    EXPECT_FALSE(any.accepts("\"\\udc00\""));
}

// More states than there is room for: what is forgotten on the way is computed again, with the same result.
TEST(Grammar, FullPoolsChangeNothing) {
    const Automaton counted("root ::= ([a-z] | \"(\" root \")\"){1,700} [0-9]{1200}", false);
    ASSERT_EQ(KEEL_OK, counted.status) << counted.error.reason;
    const uint32_t generation = counted.machine->generation;
    const std::string letters(700, 'q'), digits(1200, '7');
    EXPECT_TRUE(counted.accepts(letters + digits));
    EXPECT_NE(generation, counted.machine->generation) << "nothing was forgotten";
    EXPECT_FALSE(counted.accepts(letters + "q" + digits));
    EXPECT_FALSE(counted.accepts(letters + digits + "7"));
    EXPECT_FALSE(counted.accepts(letters + digits.substr(1)));
    EXPECT_TRUE(counted.accepts("(a(bc" + digits + ")" + digits + ")z" + digits));
    EXPECT_FALSE(counted.accepts("(a(bc" + digits + ")" + digits + "z" + digits));
}

// ---- sessions ----

constexpr char kSchema[] =
    "{\"type\": \"object\", \"properties\": {\"title\": {\"type\": \"string\", \"maxLength\": 12}, \"year\": "
    "{\"type\": \"integer\"},"
    "\"kind\": {\"enum\": [\"novel\", \"poem\"]}}, \"required\": [\"title\", \"year\", \"kind\"]}";

struct Held {
    explicit Held(const std::string& text = kSchema, bool schema = true, uint32_t sessions = 2, uint32_t drafts = 0)
        : text_(text) {
        keel_test::check(keel_reader_from_memory(text_.data(), text_.size(), &reader_), "reader");
        options_.json_schema = schema;
        part_ = keel_test::part(KEEL_PART_GRAMMAR, &reader_, &options_);
        config = sized<keel_config>();
        config.context_tokens = 256;
        config.max_sessions = sessions;
        config.draft_tokens = drafts;
        config.threads = 1;
        config.parts = &part_;
        config.part_count = 1;
        engine =
            std::make_unique<keel_test::Engine>(keel_test::source_path("samples/models/books-7m-f16.gguf"), config);
    }
    // Samples with this temperature until an end token; the text.
    std::string write(keel_session session, float temperature, uint64_t seed, bool forced) {
        keel_sampling sampling = sized<keel_sampling>();
        sampling.temperature = temperature;
        sampling.seed = seed;
        EXPECT_EQ(KEEL_OK, keel_session_set_sampling(session, &sampling));
        std::string out;
        for (int i = 0; i < 200; ++i) {
            keel_advance_result result = sized<keel_advance_result>();
            EXPECT_EQ(KEEL_OK, keel_advance(engine->handle(), &session, 1, 0, &result));
            std::vector<int32_t> ids(300);
            size_t count = 0;
            if (forced) {
                EXPECT_EQ(KEEL_OK, keel_session_forced(session, ids.data(), ids.size(), &count));
            }
            if (count == 0) {
                EXPECT_EQ(KEEL_OK, keel_session_sample(session, ids.data())) << out;
                count = 1;
            }
            steps += 1;
            size_t bytes = 0;
            keel_text shown = sized<keel_text>();
            EXPECT_EQ(KEEL_OK, keel_session_text(session, ids[0], &shown));
            if (shown.stopped) return out;
            const char* data;
            for (size_t k = 0; k < count; ++k) {
                EXPECT_EQ(KEEL_OK, keel_token_text(engine->handle(), ids[k], 0, &data, &bytes));
                out.append(data, bytes);
            }
            EXPECT_EQ(KEEL_OK, keel_session_feed(session, ids.data(), static_cast<uint32_t>(count), 0));
        }
        return out + "(no end)";
    }
    std::string text_;
    keel_reader reader_ = sized<keel_reader>();
    keel_grammar_options options_ = sized<keel_grammar_options>();
    keel_part part_;
    keel_config config;
    std::unique_ptr<keel_test::Engine> engine;
    int steps = 0;
};

TEST(GrammarSession, WhatIsSampledIsOfTheSchema) {
    Held h;
    const Automaton schema(kSchema, true);
    const keel_session session = h.engine->session();
    for (uint64_t seed = 0; seed < 5; ++seed) {
        EXPECT_EQ(KEEL_OK, keel_session_truncate(session, 0));
        h.engine->feed({1, 300, 301, 302});
        ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
        const std::string text = h.write(session, seed ? 1.5f : 0.0f, seed, false);
        EXPECT_TRUE(schema.accepts(text)) << text;
    }
}

TEST(GrammarSession, ForcedTokensAreWhatWouldBeSampled) {
    Held h("root ::= \"The answer is \" (\"yes\" | \"no\") \".\"", false);
    const keel_session session = h.engine->session();
    std::string texts[2];
    int steps[2];
    for (const bool forced : {false, true}) {
        EXPECT_EQ(KEEL_OK, keel_session_truncate(session, 0));
        h.engine->feed({1, 300});
        ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, 2));
        h.steps = 0;
        texts[forced] = h.write(session, 0, 0, forced);
        steps[forced] = h.steps;
        EXPECT_TRUE(texts[forced] == "The answer is yes." || texts[forced] == "The answer is no.") << texts[forced];
    }
    EXPECT_LT(steps[1], steps[0]);
}

// Bits of what may come next: keel_session_allowed.
std::vector<uint8_t> allowed(keel_session session, uint32_t vocabulary, const std::vector<int32_t>& draft = {}) {
    std::vector<uint8_t> mask((vocabulary + 7) / 8);
    EXPECT_EQ(KEEL_OK, keel_session_allowed(session, draft.data(), static_cast<uint32_t>(draft.size()), mask.data(),
                                            mask.size()));
    return mask;
}

bool has(const std::vector<uint8_t>& mask, uint32_t id) {
    return mask[id / 8] >> id % 8 & 1;
}

// Some token that may come next, the same for the same `pick`; -1: none but an end.
int32_t allowed_token(keel_engine engine, const std::vector<uint8_t>& mask, uint32_t vocabulary, uint32_t pick) {
    for (uint32_t i = 0; i < vocabulary; ++i) {
        const uint32_t id = (i + pick) % vocabulary;
        const char* data;
        size_t bytes;
        EXPECT_EQ(KEEL_OK, keel_token_text(engine, static_cast<int32_t>(id), 0, &data, &bytes));
        if (bytes && has(mask, id)) return static_cast<int32_t>(id);
    }
    return -1;
}

constexpr char kNested[] =
    "{\"$ref\": \"#/$defs/n\", \"$defs\": {\"n\": {\"type\": \"object\", \"properties\": {\"s\": {\"type\": "
    "\"string\", "
    "\"maxLength\": 9}, \"l\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/n\"}}, \"v\": {}}, \"required\": "
    "[\"s\", \"l\"]}}}";

// A mask is, for each token by itself, whether its bytes go on.
TEST(GrammarSession, MasksAreWhatTheBytesSay) {
    const struct {
        const char* text;
        bool schema;
    } cases[] = {{kNested, true},
                 {"root ::= [a-z ]{3,40} (\"\\n\" root)?", false},
                 {"root ::= \"(\" root \")\" | [a-f] | [\\u00e0-\\uffff] \" \" root", false}};
    size_t written = 0;
    for (const auto& c : cases) {
        Held h(c.text, c.schema);
        const Automaton grammar(c.text, c.schema);
        const uint32_t vocabulary = h.engine->info().vocabulary;
        const keel_session session = h.engine->session();
        ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, 0));
        std::string text;
        std::mt19937 random(5);
        for (int step = 0; step < 25; ++step) {
            const std::vector<uint8_t> mask = allowed(session, vocabulary);
            keel::GrammarMachine* const m = grammar.machine;
            for (uint32_t id = 0; id < vocabulary; ++id) {
                const char* data;
                size_t bytes;
                ASSERT_EQ(KEEL_OK, keel_token_text(h.engine->handle(), static_cast<int32_t>(id), 0, &data, &bytes));
                if (bytes == 0) continue;
                const uint16_t state = keel::grammar_accept(
                    m, keel::grammar_begin(m), (text + std::string(data, bytes)).data(), text.size() + bytes);
                ASSERT_EQ(state >= keel::kGrammarFirst, has(mask, id)) << text << "|" << std::string(data, bytes);
            }
            const int32_t* ends;
            uint32_t end_count;
            ASSERT_EQ(KEEL_OK, keel_session_end_ids(session, &ends, &end_count));
            for (uint32_t i = 0; i < end_count; ++i)
                ASSERT_EQ(grammar.accepts(text), has(mask, static_cast<uint32_t>(ends[i]))) << text;
            const int32_t token =
                allowed_token(h.engine->handle(), mask, vocabulary, static_cast<uint32_t>(random() % vocabulary));
            if (token < 0) break;
            const char* data;
            size_t bytes;
            ASSERT_EQ(KEEL_OK, keel_token_text(h.engine->handle(), token, 0, &data, &bytes));
            text.append(data, bytes);
            h.engine->feed({token});
        }
        written += text.size();
    }
    EXPECT_GT(written, 60u);
}

// Whatever becomes of a session's tokens: the mask is that of a session that is told of them anew.
TEST(GrammarSession, TheStateFollowsTheTokens) {
    Held h(kNested, true, 4);
    const keel_engine engine = h.engine->handle();
    const uint32_t vocabulary = h.engine->info().vocabulary;
    keel_session session = h.engine->session();
    std::mt19937 random(3);
    h.engine->feed({1, 300, 301, 302, 303, 304, 305, 306});
    uint32_t from = 6;
    ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, from));
    ASSERT_EQ(KEEL_OK, keel_session_truncate(session, from));
    const auto get = [&] {
        keel_session_info info = sized<keel_session_info>();
        EXPECT_EQ(KEEL_OK, keel_session_get(session, &info));
        return info;
    };
    int counts[6] = {};
    for (int round = 0; round < 400; ++round) {
        const std::vector<uint8_t> mask = allowed(session, vocabulary);
        {
            const keel_session_info info = get();
            keel_session plain;
            ASSERT_EQ(KEEL_OK, keel_session_open(engine, nullptr, &plain));
            ASSERT_EQ(KEEL_OK, keel_session_feed(plain, info.tokens, info.token_count, 0));
            ASSERT_EQ(KEEL_OK, keel_session_set_grammar(plain, from));
            ASSERT_EQ(mask, allowed(plain, vocabulary)) << "round " << round;
            ASSERT_EQ(KEEL_OK, keel_session_close(plain));
        }
        const uint32_t count = get().token_count, kind = static_cast<uint32_t>(random() % 16);
        const int32_t token = allowed_token(engine, mask, vocabulary, static_cast<uint32_t>(random() % vocabulary));
        if (kind < 10 && token >= 0 && count < 240) {
            ++counts[0];
            ASSERT_EQ(KEEL_OK, keel_session_feed(session, &token, 1, 0));
        } else if (kind < 12 || count >= 240 || token < 0) {
            ++counts[1];
            const uint32_t to = count > 100 ? from + 1 : count - static_cast<uint32_t>(random() % 5);
            if (to >= from) {
                ASSERT_EQ(KEEL_OK, keel_session_truncate(session, to));
            }
        } else if (kind == 12) {
            ++counts[2];
            keel_session fork;
            ASSERT_EQ(KEEL_OK, keel_session_fork(session, &fork));
            ASSERT_EQ(KEEL_OK, keel_session_close(session));
            session = fork;
        } else if (kind == 13) {
            ++counts[3];
            uint64_t bytes = 0;
            ASSERT_EQ(KEEL_OK, keel_session_save_bytes(session, &bytes));
            std::vector<char> saved(bytes);
            ASSERT_EQ(KEEL_OK, keel_session_save(session, saved.data(), saved.size(), &bytes));
            ASSERT_EQ(KEEL_OK, keel_session_close(session));
            ASSERT_EQ(KEEL_OK, keel_session_open(engine, nullptr, &session));
            ASSERT_EQ(KEEL_OK, keel_session_restore(session, saved.data(), saved.size(), nullptr));
        } else if (kind == 14 && from > 2) {
            ++counts[4];
            keel_advance_result result = sized<keel_advance_result>();
            ASSERT_EQ(KEEL_OK, keel_advance(engine, &session, 1, 0, &result));
            ASSERT_EQ(KEEL_OK, keel_session_shift(session, 1, 2));
            --from;
        } else {
            ++counts[5];  // a draft, looked at and not fed
            allowed(session, vocabulary, {token, 5, 6});
        }
    }
    for (const int count : counts) EXPECT_GT(count, 0);
}

// Of a tree of drafts, those that a grammar allows and those that it does not, what is drawn is what a session without
// drafts draws, whichever path that is.
TEST(GrammarSession, DraftsAndTrees) {
    Held h(kNested, true, 3, 24);
    const uint32_t vocabulary = h.engine->info().vocabulary;
    const keel_session session = h.engine->session();
    keel_sampling sampling = sized<keel_sampling>();
    sampling.temperature = 1.5f;
    sampling.seed = 3;
    ASSERT_EQ(KEEL_OK, keel_session_set_sampling(session, &sampling));
    const std::vector<int32_t> prompt = {1, 300};
    h.engine->feed(prompt, KEEL_FEED_SAMPLE);
    ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, 2));
    std::mt19937 random(11);
    uint32_t accepted = 0;
    for (int round = 0; round < 12; ++round) {
        // A fork goes on without drafts: its text is one path of the tree, wherever in it.
        keel_session plain;
        ASSERT_EQ(KEEL_OK, keel_session_fork(session, &plain));
        keel_session_info info = sized<keel_session_info>();
        ASSERT_EQ(KEEL_OK, keel_session_get(session, &info));
        const uint32_t base = info.token_count;
        keel_advance_result result = sized<keel_advance_result>();
        int32_t token;
        for (int i = 0; i < 5; ++i) {
            ASSERT_EQ(KEEL_OK, keel_advance(h.engine->handle(), &plain, 1, 0, &result));
            if (keel_session_sample(plain, &token) != KEEL_OK) break;  // nothing is allowed any more
            ASSERT_EQ(KEEL_OK, keel_session_feed(plain, &token, 1, KEEL_FEED_SAMPLE));
        }
        ASSERT_EQ(KEEL_OK, keel_session_get(plain, &info));
        const std::vector<int32_t> text(info.tokens + base, info.tokens + info.token_count);
        std::vector<int32_t> tokens;
        std::vector<uint32_t> parents;
        uint32_t right = KEEL_DRAFT_AT_END;
        for (uint32_t i = 0, depth = 0; i < 24; ++i) {
            const bool on = random() % 3 == 0 && depth < text.size();
            tokens.push_back(on ? text[depth] : static_cast<int32_t>(random() % vocabulary));
            parents.push_back(on || i == 0 ? right : static_cast<uint32_t>(random() % i));
            if (on) right = i, ++depth;
        }
        ASSERT_EQ(KEEL_OK, keel_session_propose_tree(session, tokens.data(), parents.data(), 24));
        ASSERT_EQ(KEEL_OK, keel_advance(h.engine->handle(), &session, 1, 0, &result));
        accepted += result.accepted_tokens;
        ASSERT_EQ(KEEL_OK, keel_session_get(session, &info));
        ASSERT_LE(info.token_count - base, text.size());
        ASSERT_TRUE(std::equal(info.tokens + base, info.tokens + info.token_count, text.begin()));
        const std::vector<int32_t> mine(info.tokens, info.tokens + info.token_count);
        ASSERT_EQ(KEEL_OK, keel_session_truncate(plain, info.token_count));
        ASSERT_EQ(allowed(session, vocabulary), allowed(plain, vocabulary));
        ASSERT_EQ(KEEL_OK, keel_session_close(plain));
        if (keel_session_sample(session, &token) != KEEL_OK) {
            ASSERT_EQ(KEEL_OK, keel_session_truncate(session, 2));
            ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, 2));
            token = 300;
        }
        ASSERT_EQ(KEEL_OK, keel_session_feed(session, &token, 1, KEEL_FEED_SAMPLE));
    }
    EXPECT_GT(accepted, 20u);
}

// What one engine saves another one goes on with as if nothing had happened, held to the grammar it was held to.
TEST(GrammarSession, SavedAndRestoredElsewhere) {
    std::string texts[2];
    std::vector<char> saved;
    for (const bool restored : {false, true}) {
        Held h;
        const keel_session session = h.engine->session();
        if (restored) {
            ASSERT_EQ(KEEL_OK, keel_session_restore(session, saved.data(), saved.size(), nullptr));
        } else {
            h.engine->feed({1, 300, 301});
            ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
            for (int i = 0; i < 9; ++i) {
                h.engine->advance();
                h.engine->feed({h.engine->sample()});
            }
            uint64_t bytes = 0;
            ASSERT_EQ(KEEL_OK, keel_session_save_bytes(session, &bytes));
            saved.resize(bytes);
            ASSERT_EQ(KEEL_OK, keel_session_save(session, saved.data(), saved.size(), &bytes));
        }
        texts[restored] = h.write(session, 0.9f, 3, false);
    }
    EXPECT_EQ(texts[0], texts[1]);
    EXPECT_NE("", texts[0]);

    // Another grammar, or none, is another continuation.
    keel_error error = sized<keel_error>();
    Held other("root ::= [a-z]*", false);
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, keel_session_restore(other.engine->session(), saved.data(), saved.size(), &error));
    EXPECT_STREQ("grammar", error.field);
    keel_config config = sized<keel_config>();
    config.context_tokens = 256;
    keel_test::Engine none(keel_test::source_path("samples/models/books-7m-f16.gguf"), config);
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, keel_session_restore(none.session(), saved.data(), saved.size(), &error));
    // Every byte counts, the checksum made right again.
    Held h;
    const keel_session session = h.engine->session();
    for (const size_t at : {size_t{104}, size_t{108}, size_t{112}}) {
        std::vector<char> broken = saved;
        for (size_t i = 0; i < 4; ++i) broken[at + i] = static_cast<char>(0x7e);
        const uint64_t checksum = keel::hash64(broken.data(), broken.size() - 8);
        memcpy(broken.data() + broken.size() - 8, &checksum, sizeof checksum);
        const keel_status status = keel_session_restore(session, broken.data(), broken.size(), &error);
        EXPECT_TRUE(status == KEEL_E_FILE_FORMAT || status == KEEL_E_FILE_MISMATCH) << at;
        EXPECT_EQ(0u, std::string(error.field).find("grammar")) << at << " " << error.field;
    }
    EXPECT_EQ(KEEL_OK, keel_session_restore(session, saved.data(), saved.size(), nullptr));
    // What was not held to one restores everywhere, and lets go of what the session was held to.
    none.feed({1, 300});
    none.advance();
    uint64_t bytes = 0;
    ASSERT_EQ(KEEL_OK, keel_session_save_bytes(none.session(), &bytes));
    std::vector<char> free(bytes);
    ASSERT_EQ(KEEL_OK, keel_session_save(none.session(), free.data(), free.size(), &bytes));
    ASSERT_EQ(KEEL_OK, keel_session_restore(session, free.data(), free.size(), nullptr));
    uint8_t mask[4096];
    EXPECT_EQ(KEEL_E_STATE, keel_session_allowed(session, nullptr, 0, mask, sizeof mask));
}

// The text begins with the next token that is sampled: not with one that keel_advance drew and nobody asked for, nor
// where it was only asked what would be forced. The same where the session is forked or saved meanwhile.
TEST(GrammarSession, NextIsTheNextTokenSampled) {
    Held h("root ::= (\"one\" | \"two\") \" more is not enough.\"", false, 3);
    const keel_engine engine = h.engine->handle();
    const keel_session session = h.engine->session();
    const uint32_t vocabulary = h.engine->info().vocabulary;
    std::vector<std::string> texts;
    for (const uint32_t flags : {0u, 0u + KEEL_FEED_SAMPLE})
        for (const int way : {0, 1, 2}) {
            keel_session s = session;
            EXPECT_EQ(KEEL_OK, keel_session_truncate(session, 0));
            ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
            h.engine->feed({1, 300, 301}, flags);
            h.engine->advance();
            const std::vector<uint8_t> first = allowed(session, vocabulary);
            size_t count = 7;
            EXPECT_EQ(KEEL_OK, keel_session_forced(session, nullptr, 0, &count));
            EXPECT_EQ(0u, count);
            if (way == 1) {
                ASSERT_EQ(KEEL_OK, keel_session_fork(session, &s));
            } else if (way == 2) {
                uint64_t bytes = 0;
                ASSERT_EQ(KEEL_OK, keel_session_save_bytes(session, &bytes));
                std::vector<char> saved(bytes);
                ASSERT_EQ(KEEL_OK, keel_session_save(session, saved.data(), saved.size(), &bytes));
                ASSERT_EQ(KEEL_OK, keel_session_open(engine, nullptr, &s));
                ASSERT_EQ(KEEL_OK, keel_session_restore(s, saved.data(), saved.size(), nullptr));
            }
            const int32_t more[] = {302, 303};
            ASSERT_EQ(KEEL_OK, keel_session_feed(s, more, 2, flags));
            EXPECT_EQ(first, allowed(s, vocabulary));
            keel_advance_result result = sized<keel_advance_result>();
            ASSERT_EQ(KEEL_OK, keel_advance(engine, &s, 1, 0, &result));
            int32_t token = -1;
            ASSERT_EQ(KEEL_OK, keel_session_sample(s, &token)) << "flags " << flags << ", way " << way;
            ASSERT_EQ(KEEL_OK, keel_session_feed(s, &token, 1, flags));
            EXPECT_NE(first, allowed(s, vocabulary)) << "it has begun";
            std::string text;
            const char* data;
            size_t bytes;
            ASSERT_EQ(KEEL_OK, keel_token_text(engine, token, 0, &data, &bytes));
            text.assign(data, bytes);
            ASSERT_EQ(KEEL_OK, keel_advance(engine, &s, 1, 0, &result));
            texts.push_back(text + h.write(s, 0, 0, false));
            if (s.id != session.id) {
                ASSERT_EQ(KEEL_OK, keel_session_close(s));
            }
        }
    for (const std::string& text : texts) EXPECT_EQ(texts[0], text);
    EXPECT_TRUE(Automaton(h.text_, false).accepts(texts[0])) << texts[0];
}

// Tokens that are forced and handed out are the text's first ones, as they are fed instead of being sampled.
TEST(GrammarSession, NextIsWhatIsForced) {
    Held h("root ::= \"The answer is \" (\"yes\" | \"no\") \".\"", false);
    const keel_session session = h.engine->session();
    h.engine->feed({1, 300});
    ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
    int32_t ids[64];
    size_t count = 0, need = 0;
    EXPECT_EQ(KEEL_OK, keel_session_forced(session, nullptr, 0, &need));
    ASSERT_GT(need, 1u);
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_session_forced(session, ids, need - 1, &count));
    h.engine->feed({301, 302});  // so far they were only counted
    const std::string text = h.write(session, 0, 0, true);
    EXPECT_TRUE(text == "The answer is yes." || text == "The answer is no.") << text;
}

// The state is that of the tokens: forgotten, forked and restored ones included.
TEST(GrammarSession, TruncateForkSaveAndRestore) {
    Held h;
    const keel_session session = h.engine->session();
    h.engine->feed({1, 300, 301});
    ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_NEXT));
    const std::string whole = h.write(session, 0.9f, 7, false);
    keel_session_info info = sized<keel_session_info>();
    ASSERT_EQ(KEEL_OK, keel_session_get(session, &info));
    const std::vector<int32_t> tokens(info.tokens, info.tokens + info.token_count);
    ASSERT_GT(tokens.size(), 8u);
    for (uint32_t keep = 4; keep < tokens.size(); keep += 11) {
        // Everything up to `keep` again, in another session that was saved and restored.
        keel_session other;
        EXPECT_EQ(KEEL_OK, keel_session_truncate(session, keep));
        EXPECT_EQ(KEEL_OK, keel_session_fork(session, &other));
        uint64_t bytes = 0;
        EXPECT_EQ(KEEL_OK, keel_session_save_bytes(session, &bytes));
        std::vector<char> saved(bytes);
        EXPECT_EQ(KEEL_OK, keel_session_save(session, saved.data(), saved.size(), &bytes));
        EXPECT_EQ(KEEL_OK, keel_session_restore(other, saved.data(), saved.size(), nullptr));
        for (const keel_session s : {session, other}) {
            // The last token is computed again, for its logits.
            EXPECT_EQ(KEEL_OK, keel_session_truncate(s, keep - 1));
            EXPECT_EQ(KEEL_OK, keel_session_feed(s, &tokens[keep - 1], 1, 0));
            const std::string rest = h.write(s, 0.9f, 7, false);
            EXPECT_EQ(whole.substr(whole.size() - rest.size()), rest) << keep;
        }
        EXPECT_EQ(KEEL_OK, keel_session_close(other));
    }
}

TEST(GrammarSession, MisuseIsRefused) {
    Held h;
    const keel_session session = h.engine->session();
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_set_grammar(session, 1)) << "there is no token";
    size_t count = 0;
    EXPECT_EQ(KEEL_E_STATE, keel_session_forced(session, nullptr, 0, &count));
    uint8_t mask[4096];
    EXPECT_EQ(KEEL_E_STATE, keel_session_allowed(session, nullptr, 0, mask, sizeof mask));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_allowed(session, nullptr, 0, nullptr, sizeof mask));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_allowed(session, nullptr, 1, mask, sizeof mask));
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_session_allowed(session, nullptr, 0, mask, 1));
    h.engine->feed({1, 300});
    h.engine->advance();
    EXPECT_EQ(KEEL_OK, keel_session_set_grammar(session, 0)) << "those tokens are no JSON";
    int32_t token;
    EXPECT_EQ(KEEL_E_NUMERIC, keel_session_sample(session, &token));
    EXPECT_EQ(KEEL_OK, keel_session_set_grammar(session, KEEL_GRAMMAR_OFF));
    EXPECT_EQ(KEEL_OK, keel_session_sample(session, &token));
    keel_test::Engine plain(keel_test::source_path("samples/models/books-7m-f16.gguf"));
    EXPECT_EQ(KEEL_E_STATE, keel_session_set_grammar(plain.session(), KEEL_GRAMMAR_NEXT));
}

// Where the grammar cannot say what comes next, nothing is allowed.
TEST(GrammarSession, AMaskThatCannotBeMadeAllowsNothing) {
    Held h("root ::= \"(\" root \")\" | \"x\"", false);
    const keel_session session = h.engine->session();
    const uint32_t vocabulary = h.engine->info().vocabulary;
    ASSERT_EQ(KEEL_OK, keel_session_set_grammar(session, 0));
    std::vector<uint8_t> mask = allowed(session, vocabulary);
    int32_t open = -1;
    for (int32_t id = 0; open < 0 && id < static_cast<int32_t>(vocabulary); ++id) {
        char text[64] = {};
        size_t bytes = 0;
        if (has(mask, static_cast<uint32_t>(id)) &&
            keel_detokenize(h.engine->handle(), &id, 1, 0, text, sizeof text, &bytes) == KEEL_OK && text[0] == '(')
            open = id;
    }
    ASSERT_GE(open, 0);
    const std::vector<int32_t> deep(300, open);
    EXPECT_EQ(KEEL_E_FILE_LIMIT, keel_session_allowed(session, deep.data(), 300, mask.data(), mask.size()));
    EXPECT_EQ(std::vector<uint8_t>(mask.size()), mask);
}

TEST(GrammarSession, ABadGrammarIsABadPart) {
    const std::string text = "root ::= missing";
    keel_reader reader = sized<keel_reader>();
    keel_test::check(keel_reader_from_memory(text.data(), text.size(), &reader), "reader");
    const keel_part part = keel_test::part(KEEL_PART_GRAMMAR, &reader);
    keel_config config = sized<keel_config>();
    config.parts = &part;
    config.part_count = 1;
    const keel_test::FileReader file(keel_test::source_path("samples/models/books-7m-f16.gguf"));
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(KEEL_OK, keel_inspect(file.get(), nullptr, nullptr, 0, nullptr, &info, nullptr));
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model = nullptr;
    ASSERT_EQ(KEEL_OK, keel_inspect(file.get(), nullptr, buffer.data(), buffer.size() * 8, &model, nullptr, nullptr));
    keel_memory_plan plan = sized<keel_memory_plan>();
    keel_error error = sized<keel_error>();
    EXPECT_EQ(KEEL_E_FILE_FORMAT, keel_plan(file.get(), model, &config, &plan, &error));
    EXPECT_STREQ("config.parts[0]", error.field);
    EXPECT_EQ(9u, error.offset);
}

}  // namespace
