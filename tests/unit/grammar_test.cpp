// Grammars: accepted strings against other implementations (tests/data/grammar/cases.txt, by
// tests/generators/make_grammar_oracles.py), limits, and sampling that is held to them.
#include "sdk/text/grammar.h"

#include <string.h>

#include <memory>
#include <sstream>
#include <vector>

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
        status = keel::grammar_place(source, counting, &grammar_, &error);
        if (status != KEEL_OK) return;
        memory_.resize(counting.used_bytes() + 64);
        char* const base = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
        keel::Arena arena(base, counting.used_bytes());
        EXPECT_EQ(KEEL_OK, keel::grammar_place(source, arena, &grammar_, &error));
        EXPECT_EQ(counting.used_bytes(), arena.used_bytes());
    }
    bool accepts(const std::string& text) const {
        auto state = std::make_unique<keel::GrammarState>(), scratch = std::make_unique<keel::GrammarState>();
        EXPECT_EQ(KEEL_OK, keel::grammar_begin(*grammar_, state.get()));
        last = keel::grammar_accept(*grammar_, state.get(), scratch.get(), text.data(), text.size());
        return last == KEEL_OK && keel::grammar_may_end(*state, *grammar_);
    }
    keel_status status;
    keel_error error;
    mutable keel_status last = KEEL_OK;

  private:
    const std::string text_;
    std::vector<char> memory_;
    const keel::Grammar* grammar_ = nullptr;
};

TEST(Grammar, AcceptsWhatOthersAccept) {
    const std::vector<char> file = keel_test::read_file(keel_test::source_path("tests/data/grammar/cases.txt"));
    std::istringstream lines(std::string(file.begin(), file.end()));
    std::unique_ptr<Automaton> grammar;
    size_t grammars = 0, yes = 0, no = 0, bad = 0;
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
            ++bad;
            continue;
        }
        text = text == "-" ? "" : unhex(text);
        if (kind == "gbnf" || kind == "schema") {
            grammar = std::make_unique<Automaton>(text, kind == "schema");
            name = text;
            EXPECT_EQ(KEEL_OK, grammar->status) << text << ": " << grammar->error.reason;
            ++grammars;
            continue;
        }
        if (grammar->status != KEEL_OK) continue;
        EXPECT_EQ(kind == "yes", grammar->accepts(text)) << name << "\n" << text;
        EXPECT_EQ(KEEL_OK, grammar->last) << name << "\n" << text;
        ++(kind == "yes" ? yes : no);
    }
    printf("%zu grammars, %zu strings accepted, %zu not, %zu grammars refused\n", grammars, yes, no, bad);
    EXPECT_GT(grammars, 20u);
    EXPECT_GT(yes, 700u);
    EXPECT_GT(no, 3000u);
    EXPECT_GT(bad, 30u);
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
        {"{\"type\": \"string\", \"pattern\": \"x\"}", true, KEEL_E_UNSUPPORTED, 19, "keyword \"pattern\""},
        {"{\"type\": \"odd\"}", true, KEEL_E_FILE_FORMAT, 9, "there is no such type"},
    };
    for (const auto& c : cases) {
        const Automaton grammar(c.text, c.schema);
        EXPECT_EQ(c.status, grammar.status) << c.text;
        EXPECT_EQ(c.offset, grammar.error.offset) << c.text;
        EXPECT_STREQ(c.reason, grammar.error.reason) << c.text;
    }
    EXPECT_EQ(KEEL_E_FILE_LIMIT, Automaton(std::string(keel::kMaxGrammarBytes + 1, ' '), false).status);
}

// A grammar that needs a deeper stack, or more threads, than there are says so; it does not accept something else.
TEST(Grammar, StateHasLimits) {
    const Automaton nested("root ::= \"(\" root \")\" | \"x\"", false);
    std::string text = std::string(40, '(') + "x" + std::string(40, ')');
    EXPECT_TRUE(nested.accepts(text));
    EXPECT_FALSE(nested.accepts(std::string(80, '(')));
    EXPECT_EQ(KEEL_E_FILE_LIMIT, nested.last);
    const Automaton wide("root ::= a | a a | a a a\na ::= \"x\" | \"x\" root \"y\"", false);
    EXPECT_FALSE(wide.accepts(std::string(50, 'x')));
    EXPECT_EQ(KEEL_E_FILE_LIMIT, wide.last);
}

// ---- sessions ----

constexpr char kSchema[] =
    "{\"type\": \"object\", \"properties\": {\"title\": {\"type\": \"string\", \"maxLength\": 12}, \"year\": "
    "{\"type\": \"integer\"},"
    "\"kind\": {\"enum\": [\"novel\", \"poem\"]}}, \"required\": [\"title\", \"year\", \"kind\"]}";

struct Held {
    explicit Held(const std::string& text = kSchema, bool schema = true, uint32_t sessions = 2) : text_(text) {
        keel_test::check(keel_reader_from_memory(text_.data(), text_.size(), &reader_), "reader");
        options_.json_schema = schema;
        part_ = keel_test::part(KEEL_PART_GRAMMAR, &reader_, &options_);
        config = sized<keel_config>();
        config.context_tokens = 256;
        config.max_sessions = sessions;
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
