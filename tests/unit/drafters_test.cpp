// Drafters of the library's own: texts are those of plain decoding whatever they draft, and pools are what their files
// and sessions say. How good drafts are is another matter: draft_test.cpp, perf/speculation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
constexpr uint32_t kContext = 512;
constexpr uint32_t kAll = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS;

keel_config config(uint32_t drafters, uint32_t sessions = 1) {
    keel_config c = sized<keel_config>();
    c.context_tokens = kContext;
    c.max_sessions = sessions;
    c.threads = 1;
    c.drafters = drafters;
    c.draft_tokens = drafters ? 5 : 0;
    c.draft_pool_bytes = drafters & KEEL_DRAFT_POOL ? 1 << 16 : 0;
    return c;
}
keel_sampling sampling(float temperature, uint64_t seed) {
    keel_sampling s = sized<keel_sampling>();
    s.temperature = temperature;
    s.seed = seed;
    if (temperature > 0) s.top_k = 20, s.top_p = 0.9f, s.repetition_penalty = 1.1f;
    return s;
}
keel_session_info info_of(keel_session s) {
    keel_session_info i = sized<keel_session_info>();
    check(keel_session_get(s, &i), "session_get");
    return i;
}
keel_stats stats_of(const keel_test::Engine& engine) {
    keel_stats stats = sized<keel_stats>();
    check(keel_engine_stats(engine.handle(), &stats), "stats");
    return stats;
}
keel_session open_session(keel_engine engine, uint32_t is_private = 0) {
    keel_session s;
    keel_session_desc desc = sized<keel_session_desc>();
    desc.draft_private = is_private;
    check(keel_session_open(engine, &desc, &s), "open");
    return s;
}
std::vector<int32_t> tokens_of(keel_session s) {
    const keel_session_info i = info_of(s);
    return {i.tokens, i.tokens + i.token_count};
}
void feed(keel_session s, const std::vector<int32_t>& ids) {
    check(keel_session_feed(s, ids.data(), static_cast<uint32_t>(ids.size()), KEEL_FEED_SAMPLE), "feed");
}
// One call of keel_advance, and what was drawn is fed. A step that takes longer is gone on with.
void advance_all(keel_engine engine, const std::vector<keel_session>& sessions, uint64_t budget_us = 0) {
    std::vector<keel_advance_result> results(sessions.size(), sized<keel_advance_result>());
    keel_status status = KEEL_AGAIN;
    while (status == KEEL_AGAIN)
        status =
            keel_advance(engine, sessions.data(), static_cast<uint32_t>(sessions.size()), budget_us, results.data());
    check(status, "advance");
    for (const keel_session s : sessions) {
        int32_t token;
        check(keel_session_sample(s, &token), "sample");
        feed(s, {token});
    }
}
// A text that comes back to what it said, which a greedy model soon does by itself.
std::vector<int32_t> prompt(const keel_test::Engine& engine, const char* more = "") {
    const std::string line = "The captain went down to the harbour, and the ship lay at anchor. ";
    return engine.tokenize(line + more + line + line.substr(0, 30), KEEL_TOKENIZE_BOS);
}
// Without the token that was only fed, and not beyond `count`, as drafts end at different places.
void expect_same(const std::vector<int32_t>& want, const std::vector<int32_t>& got, const char* what) {
    const size_t count = std::min(want.size(), got.size());
    ASSERT_GT(count, 70u) << what;
    EXPECT_EQ(0, memcmp(want.data(), got.data(), count * sizeof(int32_t))) << what;
}
std::vector<int32_t> plain(const keel_config& like, float temperature, uint64_t seed, const char* more = "") {
    keel_config c = like;
    c.drafters = c.draft_tokens = 0;
    c.draft_pool_bytes = 0;
    c.part_count = 0;
    keel_test::Engine engine(kBooks, c);
    const keel_sampling s = sampling(temperature, seed);
    check(keel_session_set_sampling(engine.session(), &s), "set_sampling");
    feed(engine.session(), prompt(engine, more));
    while (info_of(engine.session()).token_count < 200) advance_all(engine.handle(), {engine.session()});
    return tokens_of(engine.session());
}

std::vector<uint8_t> save_pool(keel_engine engine) {
    uint64_t bytes = 0;
    check(keel_engine_save_draft_pool(engine, nullptr, 0, &bytes), "save_draft_pool");
    std::vector<uint8_t> file(bytes);
    EXPECT_EQ(KEEL_E_BUFFER_TOO_SMALL, keel_engine_save_draft_pool(engine, file.data(), bytes - 1, &bytes));
    check(keel_engine_save_draft_pool(engine, file.data(), bytes, &bytes), "save_draft_pool");
    return file;
}
keel_reader reader_of(const std::vector<uint8_t>& file) {
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(file.data(), file.size(), &reader), "reader");
    return reader;
}

TEST(Drafters, TextsAreThoseOfPlainDecoding) {
    for (const float temperature : {0.0f, 0.8f}) {
        const std::vector<int32_t> want = plain(config(0), temperature, 3);
        for (const uint32_t drafters : {0u + KEEL_DRAFT_SUFFIX, 0u + KEEL_DRAFT_POOL, 0u + KEEL_DRAFT_LOGITS, kAll}) {
            SCOPED_TRACE(drafters);
            keel_test::Engine engine(kBooks, config(drafters));
            const keel_session s = engine.session();
            const keel_sampling how = sampling(temperature, 3);
            check(keel_session_set_sampling(s, &how), "set_sampling");
            feed(s, prompt(engine));
            uint32_t steps = 0;
            for (; info_of(s).token_count < 200; ++steps) advance_all(engine.handle(), {s});
            expect_same(want, tokens_of(s), "alone");
            if (temperature == 0 && drafters != KEEL_DRAFT_LOGITS) {
                EXPECT_GT(info_of(s).drafts_accepted, 20u);
                EXPECT_LT(steps + 20, want.size());
            }
            EXPECT_EQ(0u, stats_of(engine).allocations_after_init);
        }
    }
}

// Sessions that draft beside each other, under a budget, with rows in f16 and codes; one is cut, copied, saved and
// restored on the way.
TEST(Drafters, WhateverHappensOnTheWay) {
    keel_config c = config(kAll, 4);
    c.k_format = c.v_format = KEEL_KV_TCQ_3;
    c.kv_recent_tokens = 64;
    c.kv_rollback_tokens = 64;
    std::vector<std::vector<int32_t>> want;
    const char* more[] = {"", "Nobody was there. ", "It rained. "};
    for (uint32_t i = 0; i < 3; ++i) want.push_back(plain(c, i == 2 ? 0.8f : 0.0f, i, more[i]));
    for (const uint64_t budget_us : {0u, 500u}) {
        keel_test::Engine engine(kBooks, c);
        std::vector<keel_session> sessions;
        for (uint32_t i = 0; i < 3; ++i) {
            sessions.push_back(i ? open_session(engine.handle(), i == 1) : engine.session());
            const keel_sampling how = sampling(i == 2 ? 0.8f : 0.0f, i);
            check(keel_session_set_sampling(sessions[i], &how), "set_sampling");
            feed(sessions[i], prompt(engine, more[i]));
        }
        for (uint32_t turn = 0; turn < 60; ++turn) {
            advance_all(engine.handle(), sessions, budget_us);
            const keel_session s = sessions[0];
            const uint32_t count = info_of(s).token_count;
            if (turn == 9 || turn == 22) {  // back, and the token that stood there again
                const int32_t again = tokens_of(s)[count - 8];
                check(keel_session_truncate(s, count - 8), "truncate");
                feed(s, {again});
            } else if (turn == 14) {  // a fork goes on in its place
                keel_session copy;
                check(keel_session_fork(s, &copy), "fork");
                check(keel_session_truncate(copy, count - 1), "truncate");
                feed(copy, {tokens_of(s)[count - 1]});
                check(keel_session_close(s), "close");
                sessions[0] = copy;
            } else if (turn == 30) {
                uint64_t bytes = 0;
                check(keel_session_save_bytes(s, &bytes), "save_bytes");
                std::vector<uint8_t> saved(bytes);
                check(keel_session_save(s, saved.data(), bytes, &bytes), "save");
                advance_all(engine.handle(), sessions, budget_us);
                check(keel_session_restore(s, saved.data(), bytes, nullptr), "restore");
                check(keel_session_truncate(s, count - 1), "truncate");
                feed(s, {want[0][count - 1]});
            }
        }
        for (uint32_t i = 0; i < 3; ++i) expect_same(want[i], tokens_of(sessions[i]), more[i]);
        // Steps that take longer than the budget take no drafts along.
        if (budget_us == 0) {
            EXPECT_GT(stats_of(engine).drafts_accepted, 20u);
        }
    }
}

// The engine of a model that drafts has the text written in fewer steps, and the text is the same. It draws as the
// session does, so that at a temperature it is right as often.
TEST(Drafters, AnotherEngineDrafts) {
    struct {
        uint32_t drafters;
        uint64_t budget_us;
    } const kWays[] = {{0, 0}, {KEEL_DRAFT_SUFFIX, 0}, {0, 500}};
    for (const float temperature : {0.0f, 0.8f}) {
        const std::vector<int32_t> want = plain(config(0), temperature, 3);
        for (const auto& way : kWays) {
            SCOPED_TRACE(testing::Message() << temperature << " " << way.drafters << " " << way.budget_us);
            keel_config c = config(way.drafters);
            c.draft_tokens = 5;
            keel_test::Engine engine(kBooks, c), other(kBooks, keel_test::cheap(config(0), 1));
            const keel_session s = engine.session();
            const keel_sampling how = sampling(temperature, 3);
            check(keel_session_set_sampling(s, &how), "set_sampling");
            feed(s, prompt(engine));
            uint32_t steps = 0, drafted = 0;
            for (; info_of(s).token_count < 200; ++steps) {
                uint32_t count = 7;
                const keel_status status = keel_session_draft(s, other.session(), way.budget_us, &count);
                if (status != KEEL_AGAIN) check(status, "draft");
                EXPECT_TRUE(status == KEEL_OK || count == 0);
                drafted += count;
                advance_all(engine.handle(), {s});
            }
            expect_same(want, tokens_of(s), "by another engine");
            if (way.budget_us == 0) {
                EXPECT_GT(drafted, way.drafters ? 10u : 40u);
            }
            if (way.budget_us == 0 && way.drafters == 0) {
                EXPECT_EQ(info_of(s).drafts_accepted, info_of(s).drafts_computed) << "they are all right";
                EXPECT_LT(steps, 60u);
            }
            EXPECT_EQ(0u, stats_of(engine).allocations_after_init);
            EXPECT_EQ(0u, stats_of(other).allocations_after_init);
        }
    }
}

keel_test::WprojBytes factors_that_know_nothing() {
    keel_test::WprojOptions factors;
    factors.rank = 8;
    factors.record_type = keel::kernels::kF16;
    return keel_test::WprojBytes(
        keel::tools::encode_wproj_v2(keel_test::random_wproj(keel_test::InspectedFile(kBooks), factors), 1));
}

// A session whose low-rank variant drafts, with factors that know nothing, writes the text of plain decoding into the
// same rows: saved sessions are the same to the last byte.
TEST(Drafters, TheLowRankPassLeavesNothingBehind) {
    const keel_test::WprojBytes cache = factors_that_know_nothing();
    const keel_part part = keel_test::part(KEEL_PART_WPROJ, &cache.reader);
    // Of the session behind its first `count` tokens; what it computed further is forgotten.
    const auto saved = [](keel_session s, uint32_t count) {
        check(keel_session_truncate(s, count), "truncate");
        uint64_t bytes = 0;
        check(keel_session_save_bytes(s, &bytes), "save_bytes");
        std::vector<uint8_t> file(bytes);
        check(keel_session_save(s, file.data(), bytes, &bytes), "save");
        return file;
    };
    for (const float temperature : {0.0f, 0.8f})
        for (const bool coded : {false, true}) {
            SCOPED_TRACE(testing::Message() << temperature << " " << coded);
            std::vector<uint8_t> want;
            struct Way {
                uint64_t budget_us;
                bool late;  // a backend that computes beside the caller
            };
            constexpr uint64_t kAmple_us = 1000000;
            for (const auto& [budget_us, late] : {Way{0, false}, {0, false}, {500, false}, {kAmple_us, true}}) {
                SCOPED_TRACE(testing::Message() << budget_us << " " << late);
                keel_test::AsyncBackend::reset();
                keel_config c = config(0, 2);
                if (late) c.backend = keel_test::AsyncBackend::table();
                if (coded) c.k_format = c.v_format = KEEL_KV_TCQ_3, c.kv_recent_tokens = 20;
                c.parts = &part;
                c.part_count = 1;
                c.draft_tokens = want.empty() ? 0 : 5;  // first without drafts
                keel_test::Engine engine(kBooks, c);
                keel_session s = engine.session();
                const keel_sampling how = sampling(temperature, 3);
                check(keel_session_set_sampling(s, &how), "set_sampling");
                feed(s, prompt(engine));
                for (uint32_t turn = 0; info_of(s).token_count < 120; ++turn) {
                    if (!want.empty()) {
                        const keel_status status = keel_session_draft(s, s, budget_us, nullptr);
                        if (status != KEEL_AGAIN) check(status, "draft");
                    }
                    if (turn == 20) {
                        const int32_t last = tokens_of(s).back();
                        const std::vector<uint8_t> file = saved(s, info_of(s).token_count - 1);
                        check(keel_session_restore(s, file.data(), file.size(), nullptr), "restore");
                        feed(s, {last});
                    }
                    advance_all(engine.handle(), {s}, budget_us);
                }
                if (!want.empty() && (budget_us == 0 || budget_us == kAmple_us)) {
                    EXPECT_GT(info_of(s).drafts_computed, 5u);
                }
                EXPECT_EQ(keel_test::AsyncBackend::get().refused, 0u);
                const std::vector<uint8_t> got = saved(s, 115);
                if (want.empty()) want = got;
                EXPECT_TRUE(got == want) << "drafts changed the session";
                EXPECT_EQ(0u, stats_of(engine).allocations_after_init);
            }
        }
}

// A grammar that begins with the next token that is sampled: drafts, by the low-rank pass as by another engine, are
// held to it from the first one on, and in the session it begins with the first one that is accepted.
TEST(Drafters, DraftsBeginAGrammarThatIsYetToBegin) {
    const keel_test::WprojBytes cache = factors_that_know_nothing();
    const std::string only = "~^|~^|~^|~^|~^|~^|", grammar = "root ::= \"" + only + "\"";  // each a token of its own
    const std::vector<uint8_t> text(grammar.begin(), grammar.end());
    const keel_reader reader = reader_of(text);
    const keel_part parts[] = {keel_test::part(KEEL_PART_WPROJ, &cache.reader),
                               keel_test::part(KEEL_PART_GRAMMAR, &reader)};
    keel_config c = config(0), alike = keel_test::cheap(config(0), 1);
    c.parts = parts;
    c.part_count = 2;
    c.draft_tokens = 5;
    alike.parts = &parts[1];
    alike.part_count = 1;
    for (const bool own : {true, false}) {
        SCOPED_TRACE(own);
        keel_test::Engine engine(kBooks, c), other(kBooks, alike);
        const keel_session s = engine.session(), by = own ? s : other.session();
        check(keel_session_set_grammar(s, KEEL_GRAMMAR_NEXT), "set_grammar");
        if (!own) check(keel_session_set_grammar(by, KEEL_GRAMMAR_NEXT), "set_grammar");
        const auto allowed = [&] {
            std::vector<uint8_t> mask((engine.info().vocabulary + 7) / 8);
            check(keel_session_allowed(s, nullptr, 0, mask.data(), mask.size()), "allowed");
            return mask;
        };
        keel_advance_result result = sized<keel_advance_result>();
        const auto advance = [&] { check(keel_advance(engine.handle(), &s, 1, 0, &result), "advance"); };
        uint32_t count = 0;
        const std::vector<int32_t> ids = prompt(engine);
        feed(s, ids);
        advance();
        const std::vector<uint8_t> first = allowed();
        feed(s, {ids[0]});
        if (own) {
            check(keel_session_draft(s, s, 0, &count), "draft");
            ASSERT_GT(count, 1u);
            feed(s, {ids[1]});  // and they are forgotten
            EXPECT_EQ(first, allowed()) << "drafts have begun it";
            advance();
            feed(s, {ids[2]});
        }
        check(keel_session_draft(s, by, 0, &count), "draft");
        ASSERT_GT(count, 1u);
        EXPECT_EQ(first, allowed());
        advance();
        EXPECT_EQ(count, result.accepted_tokens) << "nothing else was allowed";
        std::vector<int32_t> drawn = tokens_of(s);
        drawn.erase(drawn.begin(), drawn.end() - count);
        drawn.push_back(-1);
        check(keel_session_sample(s, &drawn.back()), "sample");
        std::string written;
        for (const int32_t token : drawn) {
            const char* data;
            size_t bytes;
            check(keel_token_text(engine.handle(), token, 0, &data, &bytes), "token_text");
            written.append(data, bytes);
        }
        EXPECT_EQ(only.substr(0, count + 1), written);
    }
}

// A session that has drafted for another one is a session like others again when it is emptied and fed, or restored: it
// takes drafts, its drafters work and its tokens count. Of the other one's text nobody learns.
TEST(Drafters, WhoHasDraftedIsASessionAgain) {
    for (const bool restored : {false, true}) {
        SCOPED_TRACE(restored);
        keel_config c = config(0, 2);
        c.draft_tokens = 5;
        keel_test::Engine engine(kBooks, c), other(kBooks, keel_test::cheap(config(kAll, 3), 3));
        const keel_session s = open_session(engine.handle(), 1), by = other.session();
        const std::vector<int32_t> ids = prompt(engine), own = prompt(other, "Nobody was there. ");
        const std::vector<uint8_t> nothing = save_pool(other.handle());
        uint32_t count = 0;
        feed(s, ids);
        check(keel_session_draft(s, by, 0, &count), "draft");
        EXPECT_GT(count, 0u);
        // Behind the other one's text, and in a fork, it is still one that drafts.
        check(keel_session_truncate(by, 30), "truncate");
        feed(by, {ids[2], ids[1]});
        EXPECT_EQ(KEEL_E_STATE, keel_session_propose(by, ids.data(), 2));
        advance_all(other.handle(), {by});
        keel_session copy;
        check(keel_session_fork(by, &copy), "fork");
        for (int i = 0; i < 3; ++i) advance_all(other.handle(), {by, copy});
        check(keel_session_close(copy), "close");
        EXPECT_TRUE(nothing == save_pool(other.handle())) << "the pool has learned a private text";
        if (restored) {
            const keel_session from = open_session(other.handle(), 1);
            feed(from, own);
            advance_all(other.handle(), {from});
            uint64_t bytes = 0;
            check(keel_session_save_bytes(from, &bytes), "save_bytes");
            std::vector<uint8_t> file(bytes);
            check(keel_session_save(from, file.data(), bytes, &bytes), "save");
            check(keel_session_restore(by, file.data(), bytes, nullptr), "restore");
        } else {
            check(keel_session_truncate(by, 0), "truncate");
        }
        EXPECT_TRUE(nothing == save_pool(other.handle()));
        const uint64_t before = stats_of(other).prefill_tokens;
        feed(by, own);
        EXPECT_EQ(KEEL_OK, keel_session_propose(by, own.data(), 0));
        EXPECT_EQ(KEEL_OK, keel_session_draft(by, engine.session(), 0, &count));
        for (int i = 0; i < 30; ++i) advance_all(other.handle(), {by});
        EXPECT_LE(before + own.size(), stats_of(other).prefill_tokens) << "its tokens do not count";
        EXPECT_GT(info_of(by).drafts_computed, 0u) << "its drafters are silent";
        EXPECT_FALSE(nothing == save_pool(other.handle())) << "nobody learns from it";
    }
}

// A draft that is put off or refused leaves what drafts with flags and counts of its own, and what was proposed.
TEST(Drafters, ADraftThatIsNotMadeChangesNothing) {
    keel_config c = config(0, 2);
    c.draft_tokens = 5;
    keel_config rows = config(0, 2);
    rows.logits_rows = 64;
    keel_test::Engine engine(kBooks, c), other(kBooks, keel_test::cheap(rows, 2));
    const keel_session s = engine.session(), by = other.session(), neighbour = open_session(other.handle());
    const std::vector<int32_t> ids = prompt(engine);
    // Put off: it is behind, and counts no tokens that it does not have.
    feed(s, ids);
    for (int turn = 0; turn < 3; ++turn) {
        advance_all(engine.handle(), {s});
        EXPECT_EQ(KEEL_AGAIN, keel_session_draft(s, by, 1, nullptr));
        uint32_t drawn = 0;
        for (uint32_t p = static_cast<uint32_t>(ids.size()); p < info_of(by).token_count; ++p) ++drawn;
        EXPECT_EQ(drawn, info_of(by).sampled_tokens);
    }
    check(keel_session_truncate(by, 0), "truncate");
    EXPECT_EQ(0u, info_of(by).sampled_tokens);
    const std::vector<int32_t> text = tokens_of(s),
                               right(text.begin() + static_cast<ptrdiff_t>(ids.size()), text.end());
    // Refused, inside a step of several rows of logits.
    std::vector<float> newest[2];
    for (const bool refused : {false, true}) {
        for (const keel_session x : {s, by, neighbour}) check(keel_session_truncate(x, 0), "truncate");
        feed(s, ids);
        const uint32_t count = static_cast<uint32_t>(ids.size());
        for (const keel_session x : {by, neighbour})
            check(keel_session_feed(x, ids.data(), count, KEEL_FEED_ALL_LOGITS), "feed");
        const keel_session both[] = {by, neighbour};
        keel_advance_result results[] = {sized<keel_advance_result>(), sized<keel_advance_result>()};
        ASSERT_EQ(KEEL_AGAIN, keel_advance(other.handle(), both, 2, 1, results));
        check(keel_session_propose(s, right.data(), 3), "propose");
        if (refused) {
            EXPECT_EQ(KEEL_E_BUSY, keel_session_draft(s, by, 0, nullptr));
        }
        keel_advance_result of_s = sized<keel_advance_result>();
        check(keel_advance(engine.handle(), &s, 1, 0, &of_s), "advance");
        EXPECT_EQ(3u, of_s.accepted_tokens);
        check(keel_advance(other.handle(), both, 2, 0, results), "advance");
        for (const keel_session x : both) {
            EXPECT_EQ(count, results[x.id == by.id ? 0 : 1].logits_rows);
            const float* view;
            uint32_t n;
            check(keel_session_logits(x, count - 1, &view, &n), "logits");
            newest[refused].insert(newest[refused].end(), view, view + n);
        }
    }
    EXPECT_EQ(newest[0], newest[1]);
}

// It follows its session wherever that goes, and what it cannot follow it does not draft.
TEST(Drafters, AnotherEngineFollowsItsSession) {
    keel_config c = config(0, 2);
    c.draft_tokens = 5;
    keel_config small = keel_test::cheap(config(0), 2);
    small.context_tokens = 60;
    keel_test::Engine engine(kBooks, c), other(kBooks, small);
    const keel_session s = engine.session(), by = other.session();
    const std::vector<int32_t> ids = prompt(engine);
    const auto draft = [&] {
        uint32_t count = 0;
        check(keel_session_draft(s, by, 0, &count), "draft");
        return count;
    };
    feed(s, {ids.begin(), ids.begin() + 20});
    EXPECT_GT(draft(), 0u);
    EXPECT_GE(info_of(by).token_count, 20u);
    EXPECT_GT(draft(), 0u) << "asked again";
    advance_all(engine.handle(), {s});
    check(keel_session_truncate(s, 7), "truncate");
    feed(s, {ids[3], ids[2]});
    EXPECT_GT(draft(), 0u);
    EXPECT_EQ(0, memcmp(info_of(by).tokens, info_of(s).tokens, 9 * sizeof(int32_t)));
    advance_all(engine.handle(), {s});
    check(keel_session_truncate(s, 0), "truncate");
    feed(s, std::vector<int32_t>(58, ids[1]));
    EXPECT_LE(draft(), 3u) << "its context ends";
    advance_all(engine.handle(), {s});
    feed(s, std::vector<int32_t>(10, ids[1]));
    EXPECT_EQ(0u, draft());
}

TEST(Drafters, WhoCannotDraftSaysWhy) {
    keel_config c = config(0);
    c.draft_tokens = 5;
    keel_test::Engine engine(kBooks, c), other(kBooks, keel_test::cheap(config(0), 1)), without(kBooks, config(0)),
        foreign(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"));
    const keel_session s = engine.session();
    const auto draft = [](keel_session session, keel_session by) {
        return keel_session_draft(session, by, 0, nullptr);
    };
    EXPECT_EQ(stats_of(engine).vocabulary_hash, stats_of(other).vocabulary_hash);
    EXPECT_NE(stats_of(engine).vocabulary_hash, stats_of(foreign).vocabulary_hash);
    EXPECT_EQ(KEEL_E_STATE, draft(s, other.session())) << "nothing is pending";
    feed(s, prompt(engine));
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, draft(s, foreign.session()));
    EXPECT_EQ(KEEL_E_STATE, draft(s, s)) << "no low-rank variant";
    EXPECT_EQ(KEEL_E_HANDLE, draft(s, keel_session{}));
    EXPECT_EQ(KEEL_E_HANDLE, draft(keel_session{}, s));
    feed(without.session(), prompt(engine));
    EXPECT_EQ(KEEL_E_STATE, draft(without.session(), other.session())) << "no drafts are planned";
    check(draft(s, other.session()), "draft");
    check(keel_session_truncate(s, 0), "truncate");
    const std::vector<int32_t> ids = prompt(engine);
    check(keel_session_feed(s, ids.data(), 9, 0), "feed");
    EXPECT_EQ(KEEL_E_STATE, draft(s, other.session())) << "fed without KEEL_FEED_SAMPLE";
}

keel_status status_of(const std::string& model, const keel_config& c, std::string* what = nullptr) {
    try {
        keel_test::Engine engine(model, c);
        return KEEL_OK;
    } catch (const keel_test::Error& e) {
        if (what) *what = e.what();
        return e.status;
    }
}

TEST(Drafters, PoolsAreKeptInFiles) {
    keel_test::Engine first(kBooks, config(KEEL_DRAFT_POOL, 2));
    const std::vector<uint8_t> nothing = save_pool(first.handle());
    // A private session leaves nothing behind.
    const keel_session hidden = open_session(first.handle(), 1);
    feed(hidden, prompt(first));
    for (int i = 0; i < 20; ++i) advance_all(first.handle(), {hidden});
    EXPECT_EQ(nothing, save_pool(first.handle()));
    feed(first.session(), prompt(first));
    while (info_of(first.session()).token_count < 200) advance_all(first.handle(), {first.session()});
    const std::vector<uint8_t> file = save_pool(first.handle());
    EXPECT_NE(nothing, file);

    const keel_reader reader = reader_of(file);
    const keel_part part = keel_test::part(KEEL_PART_DRAFT_POOL, &reader);
    keel_config c = config(0);
    c.draft_tokens = 5;
    c.parts = &part;
    c.part_count = 1;
    keel_test::Engine second(kBooks, c);
    EXPECT_EQ(file, save_pool(second.handle()));
    feed(second.session(), prompt(second));
    advance_all(second.handle(), {second.session()});
    EXPECT_GT(info_of(second.session()).drafts_accepted, 0u) << "what the first one wrote is drafted at once";

    // Another vocabulary, damage, another size.
    std::string what;
    EXPECT_EQ(KEEL_E_FILE_MISMATCH,
              status_of(keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf"), c, &what));
    EXPECT_NE(std::string::npos, what.find("parts[0]")) << what;
    for (const size_t at : {size_t{3}, size_t{50}, file.size() / 2, file.size() - 1}) {
        std::vector<uint8_t> damaged = file;
        damaged[at] ^= 4;
        const keel_reader bad = reader_of(damaged);
        const keel_part bad_part = keel_test::part(KEEL_PART_DRAFT_POOL, &bad);
        keel_config with = c;
        with.parts = &bad_part;
        const keel_status status = status_of(kBooks, with);
        EXPECT_TRUE(status == KEEL_E_FILE_FORMAT || status == KEEL_E_UNSUPPORTED) << at;
    }
    std::vector<uint8_t> cut(file.begin(), file.end() - 64);
    const keel_reader short_reader = reader_of(cut);
    const keel_part short_part = keel_test::part(KEEL_PART_DRAFT_POOL, &short_reader);
    keel_config with = c;
    with.parts = &short_part;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, status_of(kBooks, with));
    with = c;
    with.draft_pool_bytes = 64;
    EXPECT_EQ(KEEL_E_ARGUMENT, status_of(kBooks, with)) << "the file says how large it is";
}

// What the caller proposes counts neither for nor against the library's own drafts.
TEST(Drafters, AreNotBlamedForWhatIsProposed) {
    const std::vector<int32_t> want = plain(config(0), 0, 3);
    keel_test::Engine engine(kBooks, config(KEEL_DRAFT_SUFFIX));
    const keel_session s = engine.session();
    feed(s, prompt(engine));
    const uint32_t begin = info_of(s).token_count;
    for (uint32_t count = begin; count < begin + 60; ++count) {
        const std::vector<int32_t> wrong(5, want[count] == 7 ? 8 : 7);
        check(keel_session_propose(s, wrong.data(), 5), "propose");
        advance_all(engine.handle(), {s});
    }
    ASSERT_EQ(0u, info_of(s).drafts_accepted);
    ASSERT_EQ(300u, info_of(s).drafts_computed);
    while (info_of(s).token_count < 300) advance_all(engine.handle(), {s});
    EXPECT_GT(info_of(s).drafts_accepted, 20u);
}

TEST(Drafters, WhatContradictsItselfIsRefused) {
    keel_config c = config(KEEL_DRAFT_SUFFIX);
    c.draft_tokens = 0;
    EXPECT_EQ(KEEL_E_ARGUMENT, status_of(kBooks, c)) << "no room for drafts";
    c = config(8);
    EXPECT_EQ(KEEL_E_UNSUPPORTED, status_of(kBooks, c)) << "an unknown drafter";
    c = config(KEEL_DRAFT_SUFFIX);
    c.draft_pool_bytes = 4096;
    EXPECT_EQ(KEEL_E_ARGUMENT, status_of(kBooks, c)) << "bytes of a pool that is not asked for";
    c = config(KEEL_DRAFT_POOL);
    c.draft_pool_bytes = 63;
    EXPECT_EQ(KEEL_E_ARGUMENT, status_of(kBooks, c));
    keel_test::Engine engine(kBooks, config(KEEL_DRAFT_SUFFIX));
    uint64_t bytes;
    EXPECT_EQ(KEEL_E_STATE, keel_engine_save_draft_pool(engine.handle(), nullptr, 0, &bytes));
}

// Each drafter takes what the header says of it.
TEST(Drafters, MemoryIsThatOfTheDrafters) {
    const auto persistent = [](uint32_t drafters) {
        keel_config c = config(drafters, 2);
        c.draft_tokens = 5;
        return keel_test::Engine(kBooks, c).plan().regions[KEEL_REGION_PERSISTENT].bytes;
    };
    const uint64_t none = persistent(0);
    const keel_test::Engine books(kBooks, config(0));
    const uint64_t session = 4096;  // of a drafter itself, less
    const uint64_t suffix = persistent(KEEL_DRAFT_SUFFIX) - none, pool = persistent(KEEL_DRAFT_POOL) - none,
                   logits = persistent(KEEL_DRAFT_LOGITS) - none;
    EXPECT_GE(suffix, 2u * 24 * kContext);  // 3 orders, 4 bytes a token and bucket
    EXPECT_LE(suffix, 2u * 36 * kContext + 2 * session);
    EXPECT_GE(pool, 1u << 16);
    EXPECT_LE(pool, (1u << 16) + 2 * session);
    EXPECT_GE(logits, 32ull * books.info().vocabulary);
    EXPECT_LE(logits, 32ull * books.info().vocabulary + 2 * session);
}

}  // namespace
