// Speculation: what is drawn is the same with and without drafts, whatever the drafts are and whatever happens on the
// way. Plain decoding, one token a step, fixes the tokens and the logits behind each; sessions whose drafts are right,
// wrong, half right, end ids or forbidden have to meet them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "sdk/core/hash.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"
#include "tests/wproj_builder.h"

namespace {

using keel_test::AsyncBackend;
using keel_test::BackendKind;
using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
constexpr uint32_t kPrompt = 50, kDrawn = 60;

keel_sampling sampling_of(uint32_t kind) {
    keel_sampling s = sized<keel_sampling>();
    s.seed = 11 + kind;
    if (kind % 4 == 0) return s;  // greedy
    s.temperature = kind % 4 == 3 ? 1.5f : 0.8f;
    if (kind % 4 == 1) s.top_k = 12, s.top_p = 0.9f;
    s.repetition_penalty = 1.2f;
    s.frequency_penalty = 0.3f;
    s.penalty_window = 16;
    s.min_tokens = 10 * (kind % 3);
    return s;
}

struct Reference {
    std::vector<int32_t> tokens;  // the prompt, then what was drawn
    std::vector<uint64_t> rows;   // behind tokens [0, i), from the prompt's end on
};

// Logits and hidden state.
uint64_t row_hash(keel_session s) {
    const float *logits = nullptr, *hidden = nullptr;
    uint32_t vocabulary = 0, embedding = 0;
    check(keel_session_logits(s, 0, &logits, &vocabulary), "logits");
    check(keel_session_hidden(s, 0, &hidden, &embedding), "hidden");
    return keel::hash64(logits, vocabulary * sizeof(float)) + 3 * keel::hash64(hidden, embedding * sizeof(float));
}
keel_session_info info_of(keel_session s) {
    keel_session_info i = sized<keel_session_info>();
    check(keel_session_get(s, &i), "session_get");
    return i;
}
keel_session open_session(keel_engine engine) {
    keel_session s;
    check(keel_session_open(engine, nullptr, &s), "open");
    return s;
}
void feed(keel_session s, const std::vector<int32_t>& ids, uint32_t flags = KEEL_FEED_SAMPLE) {
    check(keel_session_feed(s, ids.data(), static_cast<uint32_t>(ids.size()), flags), "feed");
}
keel_status propose(keel_session s, const std::vector<int32_t>& ids) {
    return keel_session_propose(s, ids.data(), static_cast<uint32_t>(ids.size()));
}
keel_advance_result advance(keel_engine engine, keel_session s) {
    keel_advance_result r = sized<keel_advance_result>();
    check(keel_advance(engine, &s, 1, 0, &r), "advance");
    return r;
}
int32_t sample(keel_session s) {
    int32_t token = -1;
    check(keel_session_sample(s, &token), "sample");
    return token;
}

struct Way {
    bool grammar = false, low_rank = false;  // of every other session
};

// Session number `index`: its settings, its prompt, and how it goes on alone and without drafts.
void set_up(keel_session s, uint32_t index, Way way = {}) {
    const keel_sampling sampling = sampling_of(index);
    check(keel_session_set_sampling(s, &sampling), "set_sampling");
    if (way.grammar && index % 2) check(keel_session_set_grammar(s, kPrompt), "set_grammar");
    if (way.low_rank && index % 2) check(keel_session_set_variant(s, KEEL_VARIANT_LOW_RANK), "set_variant");
}
std::vector<int32_t> prompt_of(uint32_t index) {
    std::mt19937 random(index + 1);
    std::vector<int32_t> ids(kPrompt);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 250);
    return ids;
}
Reference run_plain(const keel_config& config, uint32_t index, uint32_t drawn = 12, Way way = {}) {
    keel_config plain = config;
    plain.draft_tokens = 0;
    plain.max_sessions = 1;
    keel_test::Engine engine(kTiny, plain);
    const keel_session s = engine.session();
    Reference r;
    r.tokens = prompt_of(index);
    feed(s, r.tokens);
    set_up(s, index, way);
    for (uint32_t i = 0; i < drawn; ++i) {
        advance(engine.handle(), s);
        r.rows.push_back(row_hash(s));
        r.tokens.push_back(sample(s));
        feed(s, {r.tokens.back()});
    }
    return r;
}

// A mask that depends on the tokens in front of it.
void allow(void*, keel_session, const int32_t* tokens, uint32_t count, uint8_t* mask, uint32_t vocabulary) {
    const uint32_t last = static_cast<uint32_t>(tokens[count - 1]);
    for (uint32_t id = (last + count) % 3; id < vocabulary; id += 3)
        mask[id / 8] = static_cast<uint8_t>(mask[id / 8] & ~(1u << id % 8));
}

keel_config config(uint32_t drafts, uint32_t sessions = 1) {
    keel_config c = sized<keel_config>();
    c.context_tokens = kPrompt + kDrawn + 20;
    c.max_sessions = sessions;
    c.draft_tokens = drafts;
    c.threads = 1;
    return c;
}

std::vector<int32_t> part(const Reference& r, uint32_t from, uint32_t count) {
    return {r.tokens.begin() + from, r.tokens.begin() + from + count};
}

TEST(Drafts, RightOnesAreAcceptedAndOneTokenMoreIsDrawn) {
    const Reference r = run_plain(config(0), 1);
    keel_test::Engine engine(kTiny, config(7));
    const keel_session s = engine.session();
    set_up(s, 1);
    feed(s, prompt_of(1));
    ASSERT_EQ(KEEL_OK, propose(s, part(r, kPrompt, 3)));
    keel_advance_result got = advance(engine.handle(), s);
    EXPECT_EQ(3u, got.accepted_tokens);
    EXPECT_EQ(kPrompt + 3, got.computed_tokens);
    EXPECT_EQ(1u, got.logits_rows);
    EXPECT_EQ(r.rows[3], row_hash(s));
    EXPECT_EQ(r.tokens[kPrompt + 3], sample(s));
    EXPECT_EQ(3u, info_of(s).sampled_tokens);
    EXPECT_EQ(0, memcmp(info_of(s).tokens, r.tokens.data(), (kPrompt + 3) * sizeof(int32_t)));

    feed(s, {sample(s)});
    std::vector<int32_t> drafts = part(r, kPrompt + 4, 4);
    drafts[2] = (drafts[2] + 1) % 250;
    ASSERT_EQ(KEEL_OK, propose(s, drafts));
    got = advance(engine.handle(), s);
    EXPECT_EQ(2u, got.accepted_tokens) << "those in front of the wrong one";
    EXPECT_EQ(r.rows[6], row_hash(s));
    EXPECT_EQ(r.tokens[kPrompt + 6], sample(s));
    EXPECT_EQ(6u, info_of(s).sampled_tokens);

    feed(s, {sample(s)});
    ASSERT_EQ(KEEL_OK, propose(s, {(r.tokens[kPrompt + 7] + 1) % 250, r.tokens[kPrompt + 8]}));
    got = advance(engine.handle(), s);
    EXPECT_EQ(0u, got.accepted_tokens);
    EXPECT_EQ(r.rows[7], row_hash(s));
    EXPECT_EQ(r.tokens[kPrompt + 7], sample(s));

    EXPECT_EQ(9u, info_of(s).drafts_computed);
    EXPECT_EQ(5u, info_of(s).drafts_accepted);
    keel_stats stats = sized<keel_stats>();
    check(keel_engine_stats(engine.handle(), &stats), "stats");
    EXPECT_EQ(9u, stats.drafts_computed);
    EXPECT_EQ(5u, stats.drafts_accepted);
    EXPECT_EQ(3u, stats.steps);
    EXPECT_EQ(kPrompt + 2 + 9, stats.tokens);
    EXPECT_EQ(kPrompt + 3, stats.prefill_tokens);
    EXPECT_EQ(2u + 2, stats.decode_tokens) << "drafts count when they are accepted";
    EXPECT_EQ(1u, info_of(s).kv_pages) << "those of forgotten drafts are given back";
}

TEST(Drafts, AreRefusedWhereTheyMeanNothing) {
    keel_test::Engine without(kTiny, config(0));
    feed(without.session(), {1, 2});
    EXPECT_EQ(KEEL_E_STATE, propose(without.session(), {3}));

    keel_test::Engine engine(kTiny, config(4));
    const keel_session s = engine.session();
    EXPECT_EQ(KEEL_E_STATE, propose(s, {3})) << "nothing is pending";
    feed(s, {1, 2}, 0);
    EXPECT_EQ(KEEL_E_STATE, propose(s, {3})) << "fed without KEEL_FEED_SAMPLE";
    check(keel_session_truncate(s, 0), "truncate");
    feed(s, {1, 2}, KEEL_FEED_SAMPLE | KEEL_FEED_ALL_LOGITS);
    EXPECT_EQ(KEEL_E_STATE, propose(s, {3})) << "with KEEL_FEED_ALL_LOGITS";
    check(keel_session_truncate(s, 0), "truncate");
    feed(s, {1, 2});
    const int32_t outside = static_cast<int32_t>(engine.info().vocabulary);
    EXPECT_EQ(KEEL_E_ARGUMENT, propose(s, {3, outside}));
    EXPECT_EQ(KEEL_E_ARGUMENT, propose(s, {-1}));
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_propose(s, nullptr, 1));
    keel_error error = sized<keel_error>();
    check(keel_engine_last_error(engine.handle(), &error), "last_error");
    EXPECT_STREQ("tokens", error.field);
    EXPECT_EQ(KEEL_OK, propose(s, {3, 4, 5, 6, 7, 8})) << "those behind the fourth are cut";
    advance(engine.handle(), s);
    EXPECT_EQ(4u, info_of(s).drafts_computed);
    EXPECT_EQ(KEEL_E_STATE, propose(s, {3})) << "all is computed";

    // Forgotten: replaced by nothing, by a feed, by a truncate.
    const auto computed = [&] {
        const uint64_t before = info_of(s).drafts_computed;
        advance(engine.handle(), s);
        return info_of(s).drafts_computed - before;
    };
    feed(s, {1});
    check(propose(s, {3}), "propose");
    check(keel_session_propose(s, nullptr, 0), "propose");
    EXPECT_EQ(0u, computed());
    feed(s, {1});
    check(propose(s, {3}), "propose");
    feed(s, {2});
    EXPECT_EQ(0u, computed());
    feed(s, {1, 2});
    check(propose(s, {3}), "propose");
    check(keel_session_truncate(s, info_of(s).token_count), "truncate");
    EXPECT_EQ(0u, computed());
    // Kept by a cancelled step.
    feed(s, {1});
    check(propose(s, {3, 4}), "propose");
    keel_advance_result result = sized<keel_advance_result>();
    check(keel_cancel(s), "cancel");
    EXPECT_EQ(KEEL_E_CANCELLED, keel_advance(engine.handle(), &s, 1, 0, &result));
    EXPECT_EQ(2u, computed());
}

constexpr uint32_t kEnd = KEEL_DRAFT_AT_END;

keel_status propose_tree(keel_session s, const std::vector<int32_t>& ids, const std::vector<uint32_t>& parents) {
    return keel_session_propose_tree(s, ids.data(), parents.data(), static_cast<uint32_t>(ids.size()));
}

// Which path is drawn is all that counts: in front or last of its siblings, whole or not, behind a sibling of the same
// token, or none at all.
TEST(Drafts, OfATreeThePathThatIsDrawnIsAccepted) {
    const Reference r = run_plain(config(0), 1, 20);
    const auto right = [&](uint32_t i) { return r.tokens[kPrompt + i]; };
    const auto wrong = [&](uint32_t i) { return (r.tokens[kPrompt + i] + 1) % 250; };
    const struct {
        const char* name;
        std::vector<int32_t> tokens;
        std::vector<uint32_t> parents;
        uint32_t accepted;
    } kTrees[] = {
        {"all wrong", {wrong(0), wrong(0) + 1, right(1), right(1)}, {kEnd, kEnd, 0, 1}, 0},
        {"the last branch", {wrong(0), wrong(1), right(0), wrong(1), right(1), right(2)}, {kEnd, 0, kEnd, 2, 2, 4}, 3},
        {"the first branch", {right(0), right(1), wrong(0), right(2), right(1)}, {kEnd, 0, kEnd, 1, 2}, 3},
        {"half a branch", {right(0), wrong(1), wrong(1) + 1, right(2)}, {kEnd, 0, 0, 1}, 1},
        {"a sibling of the same token", {right(0), right(0), right(1)}, {kEnd, kEnd, 1}, 1},
        {"the same, behind the first", {right(0), right(0), right(1)}, {kEnd, kEnd, 0}, 2},
        {"only siblings", {wrong(0), wrong(0) + 1, wrong(0) + 2, right(0)}, {kEnd, kEnd, kEnd, kEnd}, 1},
        {"a chain", {right(0), right(1), right(2)}, {kEnd, 0, 1}, 3},
    };
    for (const auto& tree : kTrees) {
        SCOPED_TRACE(tree.name);
        keel_test::Engine engine(kTiny, config(7));
        const keel_session s = engine.session();
        set_up(s, 1);
        feed(s, prompt_of(1));
        ASSERT_EQ(KEEL_OK, propose_tree(s, tree.tokens, tree.parents));
        EXPECT_EQ(tree.accepted, advance(engine.handle(), s).accepted_tokens);
        EXPECT_EQ(tree.tokens.size(), info_of(s).drafts_computed);
        EXPECT_EQ(tree.accepted, info_of(s).drafts_accepted);
        EXPECT_EQ(tree.accepted, info_of(s).sampled_tokens);
        for (uint32_t i = tree.accepted; i < 16; ++i) {  // and rows that moved are read from then on
            EXPECT_EQ(r.rows[i], row_hash(s)) << i;
            ASSERT_EQ(right(i), sample(s)) << i;
            feed(s, {right(i)});
            advance(engine.handle(), s);
        }
    }
}

// Pending tokens of a fork, or of a session that was saved and restored, were fed as the session's own were: more of
// them may follow, drafts too.
TEST(Drafts, CopiesMayGuessBehindWhatIsPending) {
    const Reference r = run_plain(config(0, 2), 1);
    keel_test::Engine engine(kTiny, config(3, 2));
    const keel_session s = engine.session();
    set_up(s, 1);
    feed(s, part(r, 0, kPrompt - 1));
    keel_session copy;
    check(keel_session_fork(s, &copy), "fork");
    uint64_t bytes = 0;
    check(keel_session_save_bytes(s, &bytes), "save_bytes");
    std::vector<uint8_t> saved(bytes);
    check(keel_session_save(s, saved.data(), bytes, &bytes), "save");
    for (bool restored : {false, true}) {
        SCOPED_TRACE(restored ? "restored" : "forked");
        if (restored) check(keel_session_restore(copy, saved.data(), bytes, nullptr), "restore");
        const int32_t last = r.tokens[kPrompt - 1];
        ASSERT_EQ(KEEL_OK, keel_session_feed(copy, &last, 1, KEEL_FEED_SAMPLE));
        ASSERT_EQ(KEEL_OK, propose(copy, part(r, kPrompt, 3)));
        EXPECT_EQ(3u, advance(engine.handle(), copy).accepted_tokens);
        EXPECT_EQ(r.rows[3], row_hash(copy));
        EXPECT_EQ(r.tokens[kPrompt + 3], sample(copy));
    }
}

TEST(Drafts, TreesThatAreNoneAreRefused) {
    keel_test::Engine engine(kTiny, config(4));
    const keel_session s = engine.session();
    EXPECT_EQ(KEEL_E_STATE, propose_tree(s, {3}, {kEnd})) << "nothing is pending";
    feed(s, {1, 2});
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {3, 4}, {kEnd, 1})) << "behind itself";
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {3, 4}, {1, 0})) << "a cycle";
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {3, 4, 5}, {kEnd, 2, 0})) << "forward";
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {3, 4}, {kEnd, 7})) << "behind none";
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {3, 4, 5, 6, 7, 8}, {kEnd, 0, 1, 2, 3, 5})) << "also where it is cut";
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_propose_tree(s, nullptr, nullptr, 1));
    const int32_t token = 3;
    EXPECT_EQ(KEEL_E_ARGUMENT, keel_session_propose_tree(s, &token, nullptr, 1));
    keel_error error = sized<keel_error>();
    check(keel_engine_last_error(engine.handle(), &error), "last_error");
    EXPECT_STREQ("parents", error.field);
    EXPECT_EQ(KEEL_E_ARGUMENT, propose_tree(s, {static_cast<int32_t>(engine.info().vocabulary)}, {kEnd}));
    advance(engine.handle(), s);
    EXPECT_EQ(0u, info_of(s).drafts_computed) << "what was refused was not proposed";
    feed(s, {1});
    EXPECT_EQ(KEEL_OK, propose_tree(s, {3, 4, 5, 6, 7, 8}, {kEnd, kEnd, 0, 1, 0, 2})) << "the last two are cut";
    advance(engine.handle(), s);
    EXPECT_EQ(4u, info_of(s).drafts_computed);
    feed(s, {1});
    EXPECT_EQ(KEEL_OK, propose_tree(s, {3}, {kEnd}));
    EXPECT_EQ(KEEL_OK, keel_session_propose_tree(s, nullptr, nullptr, 0)) << "takes it back";
    advance(engine.handle(), s);
    EXPECT_EQ(4u, info_of(s).drafts_computed);
}

// More siblings than a step has room for: the first ones are taken, among them the one that is drawn.
TEST(Drafts, TreesEndWhereATailIsFull) {
    const Reference r = run_plain(config(0), 1);
    keel_config c = config(200);
    c.context_tokens = 400;
    c.chunk_tokens = 256;
    keel_test::Engine engine(kTiny, c);
    const keel_session s = engine.session();
    set_up(s, 1);
    std::vector<int32_t> ids(200);
    for (uint32_t i = 0; i < 200; ++i) ids[i] = static_cast<int32_t>(i);
    const int32_t next = r.tokens[kPrompt];
    ids[70] = next;
    for (const bool again : {false, true}) {
        feed(s, again ? std::vector<int32_t>{next} : prompt_of(1));
        check(propose_tree(s, ids, std::vector<uint32_t>(200, kEnd)), "propose_tree");
        ids[70] = r.tokens[kPrompt + 1];
        const uint64_t before = info_of(s).drafts_computed;
        EXPECT_EQ(1u, advance(engine.handle(), s).accepted_tokens);
        EXPECT_EQ(again ? 127u : 128u - kPrompt, info_of(s).drafts_computed - before);
        if (again) {
            EXPECT_EQ(r.rows[2], row_hash(s));
            EXPECT_EQ(r.tokens[kPrompt + 2], sample(s));
        } else {
            check(keel_session_truncate(s, kPrompt), "truncate");
        }
    }
}

// A step takes as many drafts as it can and still end within the budget, by what steps took before: all where it does
// not end itself, as it is cut anyway.
TEST(Drafts, AreThoseThatABudgetHasRoomFor) {
    const Reference r = run_plain(config(0), 1);
    keel_test::Engine engine(kTiny, config(3));
    const keel_session s = engine.session();
    set_up(s, 1);
    feed(s, prompt_of(1));
    uint64_t computed = 0;
    const uint64_t budgets[] = {60'000'000, 60'000'000, 1, 60'000'000};
    const bool room[] = {false, true, true, true};  // nothing is known of steps at first
    for (uint32_t i = 0; i < 4; ++i) {
        check(propose(s, part(r, info_of(s).token_count, 2)), "propose");
        keel_advance_result result = sized<keel_advance_result>();
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) status = keel_advance(engine.handle(), &s, 1, budgets[i], &result);
        check(status, "advance");
        EXPECT_EQ(room[i], info_of(s).drafts_computed > computed) << i;
        computed = info_of(s).drafts_computed;
        EXPECT_EQ(r.tokens[info_of(s).token_count], sample(s));
        feed(s, {sample(s)});
    }
    EXPECT_EQ(6u, computed);
}

TEST(Drafts, MoreThanAChunkHoldsAreNotPlanned) {
    keel_config c = config(16);
    c.chunk_tokens = 16;
    try {
        keel_test::Engine engine(kTiny, c);
        FAIL();
    } catch (const keel_test::Error& e) {
        EXPECT_EQ(KEEL_E_ARGUMENT, e.status);
        EXPECT_NE(std::string::npos, std::string(e.what()).find("config.draft_tokens")) << e.what();
    }
}

// A row of logits and one of hidden states each, and nothing else.
TEST(Drafts, MemoryIsThatOfTheirRows) {
    const keel_test::Engine without(kTiny, config(0)), with(kTiny, config(5));
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        const uint64_t more = with.plan().regions[i].bytes - without.plan().regions[i].bytes;
        const uint64_t rows = 5ull * sizeof(float) * (with.info().vocabulary + with.info().embedding);
        const bool host = i == KEEL_REGION_PERSISTENT || i == KEEL_REGION_PINNED;
        const uint64_t most = i == KEEL_REGION_DEVICE_SCRATCH ? 2 * rows + 128 : host ? rows + 128 : 0;
        EXPECT_LE(more, most) << i;
    }
}

TEST(Drafts, AnEndIdIsDrawnAndNotAccepted) {
    const Reference r = run_plain(config(0), 2);
    keel_test::Engine engine(kTiny, config(7));
    const keel_session s = engine.session();
    const keel_sampling sampling = sampling_of(2);
    keel_sampling free = sampling;
    free.min_tokens = 0;
    check(keel_session_set_sampling(s, &free), "set_sampling");
    const int32_t end = r.tokens[kPrompt + 1];
    ASSERT_NE(end, r.tokens[kPrompt]);
    check(keel_session_set_end_ids(s, &end, 1), "set_end_ids");
    feed(s, prompt_of(2));
    check(propose(s, part(r, kPrompt, 4)), "propose");
    EXPECT_EQ(1u, advance(engine.handle(), s).accepted_tokens);
    EXPECT_EQ(end, sample(s));
    keel_text text = sized<keel_text>();
    check(keel_session_text(s, end, &text), "text");
    EXPECT_EQ(2u, text.stopped);
}

// Drafts go with the step that computes the prompt's last token, and fill the context to its last position.
TEST(Drafts, FollowAPromptOfSeveralStepsAndStopAtTheContext) {
    const Reference r = run_plain(config(0), 3, 16);
    keel_config c = config(15);
    c.chunk_tokens = 16;
    c.context_tokens = kPrompt + 6;
    keel_test::Engine engine(kTiny, c);
    const keel_session s = engine.session();
    set_up(s, 3);
    feed(s, prompt_of(3));
    check(propose(s, part(r, kPrompt, 15)), "propose");
    EXPECT_EQ(6u, advance(engine.handle(), s).accepted_tokens);
    EXPECT_EQ(6u, info_of(s).drafts_computed);
    EXPECT_EQ(r.tokens[kPrompt + 6], sample(s));
    const int32_t next = sample(s);
    EXPECT_EQ(KEEL_E_CONTEXT_FULL, keel_session_feed(s, &next, 1, KEEL_FEED_SAMPLE));

    // Cut in the middle of what was accepted: as if no more had been drawn.
    check(keel_session_truncate(s, kPrompt + 2), "truncate");
    EXPECT_EQ(2u, info_of(s).sampled_tokens);
    feed(s, {r.tokens[kPrompt + 2]});
    advance(engine.handle(), s);
    EXPECT_EQ(r.rows[3], row_hash(s));
    EXPECT_EQ(r.tokens[kPrompt + 3], sample(s));
}

// A page that only a draft needs is taken when nobody goes without one for it, and given back.
TEST(Drafts, NeverCostANeighbourItsPage) {
    keel_config c = config(8, 2);
    c.kv_pages = 3;
    keel_test::Engine engine(kTiny, c);
    keel_session s[2] = {engine.session(), open_session(engine.handle())};
    const std::vector<int32_t> ids = prompt_of(0);
    std::vector<int32_t> longer(62, 7);
    keel_advance_result results[2] = {sized<keel_advance_result>()};
    feed(s[0], longer);
    check(propose(s[0], {1, 2, 3, 4, 5, 6, 7, 8}), "propose");
    feed(s[1], std::vector<int32_t>(65, 9));
    ASSERT_EQ(KEEL_OK, keel_advance(engine.handle(), s, 2, 0, results));
    EXPECT_EQ(2u, info_of(s[0]).drafts_computed) << "as many as the page has room for";
    check(keel_session_truncate(s[0], 61), "truncate");
    check(keel_session_truncate(s[1], 0), "truncate");
    feed(s[0], {7});
    check(propose(s[0], {1, 2, 3, 4, 5, 6, 7, 8}), "propose");
    advance(engine.handle(), s[0]);
    EXPECT_EQ(2u + 8, info_of(s[0]).drafts_computed);
    EXPECT_EQ(1u, info_of(s[0]).kv_pages);
}

// A neighbour that leaves the step takes drafts' pages from nobody for good: the next step that names their session
// gives them back before anybody needs one.
TEST(Drafts, OfAnAbandonedStepGiveTheirPagesBack) {
    keel_config c = config(8, 3);
    c.kv_pages = 4;
    AsyncBackend::reset();
    c.backend = AsyncBackend::table();
    keel_test::Engine engine(kTiny, c);
    keel_session s[3] = {engine.session(), open_session(engine.handle()), open_session(engine.handle())};
    keel_advance_result results[3] = {sized<keel_advance_result>()};
    constexpr uint64_t kLongUs = 60'000'000;
    feed(s[0], std::vector<int32_t>(61, 7));
    keel_status status = KEEL_AGAIN;
    while (status == KEEL_AGAIN) status = keel_advance(engine.handle(), s, 1, kLongUs, results);
    check(status, "advance");
    feed(s[0], {7});
    feed(s[1], {1});
    check(propose(s[0], {1, 2, 3, 4, 5, 6, 7, 8}), "propose");
    ASSERT_EQ(KEEL_AGAIN, keel_advance(engine.handle(), s, 2, kLongUs, results)) << "the backend lags behind";
    EXPECT_EQ(2u, info_of(s[0]).kv_pages);
    check(keel_session_truncate(s[1], 0), "truncate");  // leaves the step: s[0] is another thread's
    feed(s[1], std::vector<int32_t>(65, 9));
    feed(s[2], {1});
    const keel_session order[] = {s[1], s[2], s[0]};
    EXPECT_EQ(KEEL_OK, keel_advance(engine.handle(), order, 3, 0, results));
}

// Recent rows: however many drafts are forgotten, a session can go back by kv_rollback_tokens.
TEST(Drafts, LeaveTheRollbackThatWasPlanned) {
    keel_config c = config(8);
    c.context_tokens = 600;
    c.chunk_tokens = 9;
    c.k_format = c.v_format = KEEL_KV_TCQ_3;
    c.kv_recent_tokens = 127;  // with the rollback one less than pages have, so that a step counts
    c.kv_rollback_tokens = 64;
    keel_test::Engine engine(kTiny, c);
    const keel_session s = engine.session();
    feed(s, std::vector<int32_t>(300, 5), 0);
    advance(engine.handle(), s);
    for (uint32_t count = 301; count < 500; ++count) {
        const int32_t token = static_cast<int32_t>(count % 250);
        feed(s, {token});
        check(propose(s, {249, 3, 249, 3, 249, 3, 249, 3}), "propose");
        advance(engine.handle(), s);
        const uint32_t now = info_of(s).token_count;
        ASSERT_EQ(KEEL_OK, keel_session_truncate(s, now - 64)) << now;
        feed(s, std::vector<int32_t>(64, 5), 0);
        advance(engine.handle(), s);
    }
}

// Bytes shown, whether text is given as it comes or late, and where a stop string ends it among accepted tokens.
TEST(Drafts, TextIsThatOfPlainDecoding) {
    const std::string books = keel_test::source_path("samples/models/books-7m-f16.gguf");
    keel_config c = config(0);
    const auto run = [&](uint32_t drafts, const std::string& stop, std::string* text, std::vector<int32_t>* tokens) {
        c.draft_tokens = drafts;
        keel_test::Engine engine(books, c);
        const keel_session s = engine.session();
        const char* stops = stop.data();
        const size_t stop_bytes = stop.size();
        if (stop_bytes) check(keel_session_set_stops(s, &stops, &stop_bytes, 1), "set_stops");
        std::vector<int32_t> known = *tokens;
        tokens->clear();
        const auto show = [&](int32_t token) {
            keel_text out = sized<keel_text>();
            check(keel_session_text(s, token, &out), "text");
            text->append(out.data, out.bytes);
            tokens->push_back(token);
            return out.stopped != 0;
        };
        std::vector<int32_t> ids = engine.tokenize("It was a dark night", KEEL_TOKENIZE_BOS);
        const uint32_t prompt = static_cast<uint32_t>(ids.size());
        feed(s, ids);
        uint32_t kept = prompt;
        for (bool stopped = false; !stopped && tokens->size() < 40;) {
            const size_t at = tokens->size();
            if (drafts && at + drafts < known.size())
                check(propose(s, {known.begin() + static_cast<ptrdiff_t>(at),
                                  known.begin() + static_cast<ptrdiff_t>(at + drafts)}),
                      "propose");
            const uint32_t accepted = advance(engine.handle(), s).accepted_tokens;
            const keel_session_info i = info_of(s);
            const std::vector<int32_t> fresh(i.tokens + i.token_count - accepted, i.tokens + i.token_count);
            const int32_t next = sample(s);
            kept = i.token_count;
            for (size_t k = 0; k < fresh.size() && !stopped; ++k) {
                stopped = show(fresh[k]);
                if (stopped) kept = i.token_count - accepted + static_cast<uint32_t>(k) + 1;
            }
            if (stopped) break;
            stopped = show(next);
            if (!stopped) feed(s, {next});
        }
        check(keel_session_truncate(s, kept), "truncate");
        EXPECT_EQ(info_of(s).sampled_tokens, kept - prompt);
        EXPECT_EQ(info_of(s).drafts_accepted > 0, drafts > 0);
    };
    std::string plain, drafted;
    std::vector<int32_t> tokens, again;
    run(0, "", &plain, &tokens);
    again = tokens;
    run(6, "", &drafted, &again);
    EXPECT_EQ(plain, drafted);
    EXPECT_EQ(tokens, again);
    ASSERT_GT(plain.size(), 40u);
    const std::string stop = plain.substr(30, 5);
    std::string plain_stopped, drafted_stopped;
    std::vector<int32_t> none;
    run(0, stop, &plain_stopped, &none);
    again = tokens;
    run(6, stop, &drafted_stopped, &again);
    EXPECT_EQ(plain_stopped, drafted_stopped);
    EXPECT_EQ(none, again);
}

// Accepted tokens that are the drawn one again have positions of their own: what is held back of them is forgotten with
// them.
TEST(Drafts, HeldTextOfAcceptedTokensIsForgottenWithThem) {
    keel_test::Engine engine(keel_test::source_path("samples/models/books-7m-f16.gguf"), config(3));
    const keel_session s = engine.session();
    const int32_t id = engine.tokenize("x", 0).back();
    const float bias = 1000;
    keel_sampling sampling = sized<keel_sampling>();
    sampling.bias_ids = &id;
    sampling.bias_values = &bias;
    sampling.bias_count = 1;
    check(keel_session_set_sampling(s, &sampling), "set_sampling");
    const char* piece;
    size_t bytes;
    check(keel_token_text(engine.handle(), id, 0, &piece, &bytes), "token_text");
    std::string word(piece, bytes), stop;
    for (int i = 0; i < 5; ++i) stop += word;
    const char* stops = stop.data();
    const size_t stop_bytes = stop.size();
    check(keel_session_set_stops(s, &stops, &stop_bytes, 1), "set_stops");
    feed(s, engine.tokenize("It was a dark night", KEEL_TOKENIZE_BOS));
    const uint32_t prompt = info_of(s).token_count;
    check(propose(s, {id, id, id}), "propose");
    ASSERT_EQ(3u, advance(engine.handle(), s).accepted_tokens);
    EXPECT_EQ(id, sample(s));
    keel_text text = sized<keel_text>();
    for (int i = 0; i < 3; ++i) {
        check(keel_session_text(s, id, &text), "text");
        EXPECT_EQ(0u, text.bytes) << "it may begin the stop string";
    }
    check(keel_session_truncate(s, prompt + 2), "truncate");
    check(keel_session_text(s, -1, &text), "text");
    EXPECT_EQ(word + word, std::string(text.data, text.bytes));
}

struct Case {
    const char* name;
    keel_kv_format k, v;
    uint32_t sinks, recent;
    uint32_t sessions;
    bool hook;
    Way way;
};

// Sessions that go their own ways through one engine: whatever is proposed, cut, copied and put off, each draws what it
// draws alone.
class Walk {
  public:
    Walk(const Case& c, BackendKind backend, const keel_config& plain, const std::vector<Reference>& references,
         uint32_t seed)
        : case_(c),
          references_(references),
          random_(seed),
          engine_(kTiny, drafting(plain, backend)),
          drafter_(kTiny, keel_test::cheap(plain, c.sessions)) {
        for (uint32_t i = 0; i < c.sessions; ++i)
            drafters_.push_back(i ? open_session(drafter_.handle()) : drafter_.session());
        for (uint32_t i = 0; i < c.sessions; ++i) {
            sessions_.push_back(i ? open_session(engine_.handle()) : engine_.session());
            begin(i);
        }
    }

    void run() {
        for (int turn = 0; turn < 4000 && !done(); ++turn) {
            // Past the wandering every session is led to its end.
            const uint32_t i = pick(case_.sessions);
            if (turn < 150) wander(i);
            for (uint32_t k = 0; k < case_.sessions; ++k) look(k);
            if (testing::Test::HasFailure()) return;
            advance_some(turn < 150);
        }
        EXPECT_TRUE(done());
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine_.handle(), &stats), "stats");
        EXPECT_GT(stats.drafts_accepted, 5u);
        EXPECT_GT(stats.drafts_computed, stats.drafts_accepted + 5);
        EXPECT_EQ(0u, stats.allocations_after_init);
        for (const keel_session s : sessions_) check(keel_session_close(s), "close");
        check(keel_engine_stats(engine_.handle(), &stats), "stats");
        EXPECT_EQ(engine_.plan().kv_pages, stats.kv_pages_free) << "a draft kept a page";
    }

  private:
    keel_config drafting(keel_config c, BackendKind backend) {
        const uint32_t drafts[] = {1, 3, 7, 12}, chunks[] = {13, 17, 32, 64, 128};
        c.draft_tokens = drafts[pick(4)];
        c.chunk_tokens = chunks[pick(5)];
        c.max_sessions = case_.sessions + 1;
        c.threads = 1 + pick(2);
        c.tile_us = 1 + pick(300);
        c.kv_rollback_tokens = 1 + pick(100);
        if (backend == BackendKind::kAsync) {
            AsyncBackend::reset();
            AsyncBackend& async = AsyncBackend::get();
            async.lag_polls = pick(3);
            async.ranges_per_poll = 1 + pick(3000);
            async.ops_per_enqueue = 1 + pick(300);
            c.backend = AsyncBackend::table();
        }
        return c;
    }
    uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
    bool done() {
        for (uint32_t i = 0; i < case_.sessions; ++i)
            if (info_of(sessions_[i]).token_count < kPrompt + kDrawn - 1) return false;
        return true;
    }
    void begin(uint32_t i) {
        feed(sessions_[i], prompt_of(i));
        set_up(sessions_[i], i, case_.way);
        guess(i);
    }

    // Has another engine draft, or the session itself where there is a low-rank variant.
    void draft(uint32_t i) {
        const keel_session by = case_.way.low_rank && i % 2 == 0 ? sessions_[i] : drafters_[i];
        const uint64_t budgets[] = {0, 0, 1, 30, 500};
        const keel_status status = keel_session_draft(sessions_[i], by, budgets[pick(5)], nullptr);
        if (status != KEEL_AGAIN && status != KEEL_E_BUSY && status != KEEL_E_CANCELLED) check(status, "draft");
    }

    // What follows the session's tokens as a path of a tree, among other tokens, end ids and the same again.
    void guess_tree(uint32_t i, uint32_t at, uint32_t count) {
        std::vector<int32_t> ids;
        std::vector<uint32_t> parents;
        uint32_t right = kEnd, depth = 0;
        for (uint32_t k = 0; k < count; ++k) {
            const int32_t next = references_[i].tokens[at + depth];
            const uint32_t way = pick(8), any = k ? pick(k + 1) : 0;
            ids.push_back(way < 5 ? next : way == 5 ? engine_.info().eos_id : static_cast<int32_t>(random_() % 250));
            parents.push_back(way < 5 ? right : any == k ? kEnd : any);
            if (way < 4) right = k, ++depth;
        }
        check(propose_tree(sessions_[i], ids, parents), "propose_tree");
    }

    // Proposes what follows the session's tokens, spoiled in one of several ways.
    void guess(uint32_t i) {
        if (pick(2)) return draft(i);
        const Reference& r = references_[i];
        const uint32_t at = info_of(sessions_[i]).token_count;
        std::vector<int32_t> ids(std::min(pick(14), kPrompt + kDrawn - 1 - at));  // as far as the reference goes
        if (pick(2)) return guess_tree(i, at, static_cast<uint32_t>(ids.size()));
        const uint32_t way = pick(6), wrong_from = pick(6);
        for (uint32_t k = 0; k < ids.size(); ++k) {
            ids[k] = r.tokens[at + k];
            if (way == 1 || (way == 2 && k >= wrong_from)) ids[k] = static_cast<int32_t>(random_() % 250);
            if (way == 3 && k == wrong_from) ids[k] = engine_.info().eos_id;
            if (way == 4) ids[k] = (ids[k] + 1) % 250;
        }
        if (way != 5) check(propose(sessions_[i], ids), "propose");
    }

    void wander(uint32_t i) {
        keel_session& s = sessions_[i];
        const keel_session_info info = info_of(s);
        switch (pick(12)) {
            case 0: {  // leaves the step and forgets drafts, or begins again
                const uint32_t to = pick(3) ? info.token_count : kPrompt + pick(info.token_count - kPrompt + 1);
                const keel_status status = keel_session_truncate(s, to);
                if (status != KEEL_E_STATE || !case_.recent) check(status, "truncate");
                if (to == info.token_count) break;
                if (status == KEEL_OK) {
                    EXPECT_EQ(to - kPrompt, info_of(s).sampled_tokens);
                }
                check(keel_session_truncate(s, 0), "truncate");
                begin(i);
                break;
            }
            case 1: {
                if (in_step_) break;
                keel_session copy;
                check(keel_session_fork(s, &copy), "fork");
                if (pick(2)) std::swap(copy, s);
                check(keel_session_close(copy), "close");
                break;
            }
            case 2: {
                if (in_step_) break;
                uint64_t bytes = 0, written = 0;
                check(keel_session_save_bytes(s, &bytes), "save_bytes");
                std::vector<uint8_t> blob(bytes);
                check(keel_session_save(s, blob.data(), bytes, &written), "save");
                keel_session fresh = open_session(engine_.handle());
                keel_error error = sized<keel_error>();
                check(keel_session_restore(fresh, blob.data(), bytes, &error), "restore", &error);
                if (info.variant) check(keel_session_set_variant(fresh, KEEL_VARIANT_LOW_RANK), "set_variant");
                check(keel_session_close(s), "close");
                s = fresh;
                break;
            }
            case 3:
                check(keel_cancel(s), "cancel");
                break;
            default:
                break;
        }
    }

    // Compares what session i has now with its reference, and feeds what it drew.
    void look(uint32_t i) {
        const keel_session s = sessions_[i];
        const Reference& r = references_[i];
        const keel_session_info info = info_of(s);
        ASSERT_EQ(0, memcmp(info.tokens, r.tokens.data(), info.token_count * sizeof(int32_t))) << "session " << i;
        EXPECT_EQ(info.token_count - kPrompt, info.sampled_tokens) << "session " << i;
        if (in_step_ || info.computed_tokens != info.token_count) return;
        EXPECT_EQ(r.rows[info.token_count - kPrompt], row_hash(s)) << i << " behind " << info.token_count;
        const int32_t token = sample(s);
        EXPECT_EQ(r.tokens[info.token_count], token) << "session " << i << " at " << info.token_count;
        if (info.token_count >= kPrompt + kDrawn - 1) return;
        feed(s, {token});
        guess(i);
    }

    void advance_some(bool random_budget) {
        std::vector<keel_session> batch;
        for (uint32_t i = 0; i < case_.sessions; ++i)
            if (in_step_ || !random_budget || pick(4)) batch.push_back(sessions_[i]);
        if (batch.empty()) return;
        if (pick(2)) std::swap(batch.front(), batch.back());
        std::vector<keel_advance_result> results(batch.size(), sized<keel_advance_result>());
        const uint64_t budgets[] = {0, 1, 30, 500, 500};
        const keel_status status = keel_advance(engine_.handle(), batch.data(), static_cast<uint32_t>(batch.size()),
                                                random_budget ? budgets[pick(5)] : 0, results.data());
        in_step_ = status == KEEL_AGAIN;
        if (status != KEEL_E_CANCELLED && status != KEEL_AGAIN) check(status, "advance");
    }

    const Case case_;
    const std::vector<Reference>& references_;
    std::mt19937 random_;
    keel_test::Engine engine_;
    std::vector<keel_session> sessions_;
    keel_test::Engine drafter_;
    std::vector<keel_session> drafters_;
    bool in_step_ = false;
};

class DraftWalks : public testing::TestWithParam<std::tuple<Case, BackendKind>> {};

TEST_P(DraftWalks, DrawWhatIsDrawnWithoutDrafts) {
    const Case& c = std::get<0>(GetParam());
    keel_config plain = config(0);
    plain.k_format = c.k;
    plain.v_format = c.v;
    plain.kv_sink_tokens = c.sinks;
    plain.kv_recent_tokens = c.recent;
    keel_hooks hooks = sized<keel_hooks>();
    hooks.allowed_tokens = allow;
    if (c.hook) plain.hooks = &hooks;
    const std::string words = "root ::= ([a-m] [n-z])*";
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(words.data(), words.size(), &reader), "reader");
    keel_test::WprojOptions factors;
    factors.rank = 16;
    factors.record_type = keel::kernels::kF16;
    const keel_test::WprojBytes cache(
        keel::tools::encode_wproj_v2(keel_test::random_wproj(keel_test::InspectedFile(kTiny), factors), 1));
    const keel_part parts[] = {c.way.grammar ? keel_test::part(KEEL_PART_GRAMMAR, &reader)
                                             : keel_test::part(KEEL_PART_WPROJ, &cache.reader)};
    plain.parts = parts;
    plain.part_count = c.way.grammar || c.way.low_rank;
    std::vector<Reference> references;
    for (uint32_t i = 0; i < c.sessions; ++i)
        references.push_back(run_plain(plain, i, kDrawn + 13, c.way));  // drafts may go on
    for (uint32_t walk = 0; walk < 3; ++walk) {
        SCOPED_TRACE("walk " + std::to_string(walk));
        Walk(c, std::get<1>(GetParam()), plain, references, walk + 100).run();
        EXPECT_EQ(AsyncBackend::get().refused, 0u) << "rules of sdk/backend/backend.h were broken";
        if (HasFailure()) return;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Drafts, DraftWalks,
    testing::Combine(testing::Values(Case{"one", KEEL_KV_F16, KEEL_KV_F16, 0, 0, 1, false, {}},
                                     Case{"eight", KEEL_KV_F16, KEEL_KV_F16, 0, 0, 8, true, {}},
                                     Case{"held_to_a_grammar", KEEL_KV_F16, KEEL_KV_F16, 0, 0, 3, false, {true, false}},
                                     Case{"low_rank", KEEL_KV_F16, KEEL_KV_F16, 0, 0, 2, false, {false, true}},
                                     Case{"tcq_recent", KEEL_KV_TCQ_3, KEEL_KV_TCQ_3, 4, 20, 4, false, {}}),
                     testing::Values(BackendKind::kCpu, BackendKind::kAsync)),
    [](const auto& info) {
        return std::string(std::get<0>(info.param).name) +
               (std::get<1>(info.param) == BackendKind::kCpu ? "_cpu" : "_async");
    });

// ---- every kind of draft beside every way of decoding ----

// Whoever has the worst intentions, and whoever is right: what is proposed at each step.
enum class Adversary { kNone, kWrong, kRight, kEnd, kStop, kForbidden, kTree, kDrafters };
constexpr Adversary kAdversaries[] = {Adversary::kWrong,     Adversary::kRight, Adversary::kEnd,     Adversary::kStop,
                                      Adversary::kForbidden, Adversary::kTree,  Adversary::kDrafters};
constexpr uint32_t kGuesses = 7;

// How session `index` draws and ends: even ones greedily; a third by a stop string, a third by an end id, all at last
// by their length.
struct Scene {
    keel_sampling sampling = sized<keel_sampling>();
    std::string stop;
    int32_t end = -1;
    std::vector<int32_t> tokens;  // the prompt and what plain decoding draws, also behind the end
};
// What a session wrote: text, tokens, how it ended, and all that is saved of it, rows of K and V among it.
struct Written {
    std::string text;
    std::vector<int32_t> tokens;
    uint32_t stopped = 0;
    std::vector<uint8_t> saved;
};

class Scenes {
  public:
    explicit Scenes(bool coded) : plain_(keel_test::cheap(config(0), 9)) {
        plain_.k_format = plain_.v_format = coded ? KEEL_KV_TCQ_3 : KEEL_KV_F16;
        plain_.kv_recent_tokens = coded ? 20 : 0;
        plain_.kv_rollback_tokens = 16;
        hooks_ = *plain_.hooks;
        hooks_.allowed_tokens = allow;
        plain_.hooks = &hooks_;
        for (uint32_t i = 0; i < 8; ++i) {
            scenes_.push_back({});
            Scene& scene = scenes_.back();
            scene.sampling.seed = 31 + i;
            scene.sampling.min_tokens = 10;
            if (i % 2) {
                scene.sampling.temperature = 0.8f;
                scene.sampling.top_k = 12;
                scene.sampling.top_p = 0.9f;
                scene.sampling.repetition_penalty = 1.2f;
                scene.sampling.frequency_penalty = 0.3f;
                scene.sampling.penalty_window = 16;
            }
            const std::vector<int32_t> freely = draw(i);
            if (i / 2 % 3 == 0) scene.stop = text_of({freely.begin() + kPrompt + 18, freely.begin() + kPrompt + 21});
            if (i / 2 % 3 == 1) scene.end = freely[kPrompt + 20];
            scene.tokens = draw(i);
        }
    }

    // The sessions of `indices` beside each other, each saved and restored in the middle.
    std::vector<Written> write(const std::vector<uint32_t>& indices, Adversary adversary, uint64_t budget_us) const {
        keel_config c = plain_;
        if (adversary != Adversary::kNone) c.draft_tokens = kGuesses;
        if (adversary == Adversary::kDrafters) {
            c.drafters = KEEL_DRAFT_SUFFIX | KEEL_DRAFT_POOL | KEEL_DRAFT_LOGITS;
            c.draft_pool_bytes = 1 << 12;
        }
        keel_test::Engine engine(kTiny, c);
        check(keel_session_close(engine.session()), "close");
        std::vector<keel_session> all;
        std::vector<Written> out(indices.size());
        std::vector<uint32_t> going(indices.size());
        for (uint32_t k = 0; k < indices.size(); ++k) {
            going[k] = k;
            all.push_back(open_session(engine.handle()));
            dress(all[k], scenes_[indices[k]]);
            feed(all[k], prompt_of(indices[k]));
            guess(all[k], scenes_[indices[k]], adversary, engine);
        }
        std::vector<bool> restored(indices.size());
        while (!going.empty()) {
            std::vector<keel_session> batch;
            for (const uint32_t k : going) batch.push_back(all[k]);
            std::vector<keel_advance_result> results(batch.size(), sized<keel_advance_result>());
            keel_status status = KEEL_AGAIN;
            while (status == KEEL_AGAIN)
                status = keel_advance(engine.handle(), batch.data(), static_cast<uint32_t>(batch.size()), budget_us,
                                      results.data());
            check(status, "advance");
            for (size_t g = going.size(); g-- > 0;) {
                const uint32_t k = going[g];
                if (!show(all[k], results[g].accepted_tokens, &out[k])) {
                    if (!restored[k] && info_of(all[k]).token_count >= kPrompt + 12) {
                        restored[k] = true;
                        all[k] = saved_and_restored(engine, all[k]);
                    }
                    guess(all[k], scenes_[indices[k]], adversary, engine);
                    continue;
                }
                out[k].saved = saved(all[k]);
                going.erase(going.begin() + static_cast<ptrdiff_t>(g));
            }
        }
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine.handle(), &stats), "stats");
        computed_ += stats.drafts_computed;
        accepted_ += stats.drafts_accepted;
        EXPECT_EQ(0u, stats.allocations_after_init);
        return out;
    }
    // Drafts of all calls of write() since the last take().
    std::pair<uint64_t, uint64_t> take() const { return {std::exchange(computed_, 0), std::exchange(accepted_, 0)}; }

  private:
    static constexpr uint32_t kLongest = 34;  // tokens that are drawn

    static void dress(keel_session s, const Scene& scene) {
        check(keel_session_set_sampling(s, &scene.sampling), "set_sampling");
        const char* stop = scene.stop.data();
        const size_t bytes = scene.stop.size();
        if (bytes) check(keel_session_set_stops(s, &stop, &bytes, 1), "set_stops");
        if (scene.end >= 0) check(keel_session_set_end_ids(s, &scene.end, 1), "set_end_ids");
    }
    std::vector<int32_t> draw(uint32_t index) const {
        keel_test::Engine engine(kTiny, plain_);
        const keel_session s = engine.session();
        dress(s, scenes_[index]);
        std::vector<int32_t> tokens = prompt_of(index);
        feed(s, tokens);
        while (tokens.size() < kPrompt + kLongest + kGuesses + 1) {
            advance(engine.handle(), s);
            tokens.push_back(sample(s));
            feed(s, {tokens.back()});
        }
        return tokens;
    }
    std::string text_of(const std::vector<int32_t>& tokens) const {
        keel_test::Engine engine(kTiny, plain_);
        std::string text;
        for (const int32_t token : tokens) {
            const char* piece;
            size_t bytes;
            check(keel_token_text(engine.handle(), token, 0, &piece, &bytes), "token_text");
            text.append(piece, bytes);
        }
        return text;
    }

    // Takes what a step brought: tokens and their text up to an end, or what was drawn is fed. Whether it ended.
    static bool show(keel_session s, uint32_t accepted, Written* out) {
        const keel_session_info i = info_of(s);
        std::vector<int32_t> fresh(i.tokens + i.token_count - accepted, i.tokens + i.token_count);
        fresh.push_back(sample(s));
        for (const int32_t& token : fresh) {
            keel_text text = sized<keel_text>();
            check(keel_session_text(s, token, &text), "text");
            out->text.append(text.data, text.bytes);
            out->tokens.push_back(token);
            out->stopped = text.stopped;
            EXPECT_TRUE(text.stopped != 2 || &token == &fresh.back()) << "an end id was accepted as a draft";
            if (text.stopped || out->tokens.size() == kLongest) {
                // Without the row that the last token was drawn from: of accepted tokens that one is gone.
                check(keel_session_truncate(s, kPrompt + static_cast<uint32_t>(out->tokens.size()) - 2), "truncate");
                return true;
            }
        }
        feed(s, {fresh.back()});
        return false;
    }
    static std::vector<uint8_t> saved(keel_session s) {
        uint64_t bytes = 0;
        check(keel_session_save_bytes(s, &bytes), "save_bytes");
        std::vector<uint8_t> file(bytes);
        check(keel_session_save(s, file.data(), bytes, &bytes), "save");
        return file;
    }
    static keel_session saved_and_restored(const keel_test::Engine& engine, keel_session s) {
        const std::vector<uint8_t> file = saved(s);
        const keel_session fresh = open_session(engine.handle());
        check(keel_session_restore(fresh, file.data(), file.size(), nullptr), "restore");
        check(keel_session_close(s), "close");
        return fresh;
    }

    static void guess(keel_session s, const Scene& scene, Adversary adversary, const keel_test::Engine& engine) {
        const uint32_t at = info_of(s).token_count;
        const std::vector<int32_t> right(scene.tokens.begin() + at, scene.tokens.begin() + at + kGuesses);
        const int32_t end = scene.end >= 0 ? scene.end : engine.info().eos_id;
        // Of those that allow() forbids behind what is there now.
        const int32_t forbidden = (scene.tokens[at - 1] + static_cast<int32_t>(at)) % 3 + 30;
        std::vector<int32_t> ids = right;
        switch (adversary) {
            case Adversary::kNone:
            case Adversary::kDrafters:
                return;
            case Adversary::kRight:
                break;
            case Adversary::kWrong:
                for (int32_t& id : ids) id = (id + 1) % 250;
                break;
            case Adversary::kEnd:
                ids.assign(kGuesses, end);
                break;
            case Adversary::kStop: {
                const std::vector<int32_t> stop = engine.tokenize(scene.stop.empty() ? "no" : scene.stop, 0);
                for (uint32_t k = 0; k < kGuesses; ++k) ids[k] = stop[k % stop.size()];
                break;
            }
            case Adversary::kForbidden:
                ids[0] = forbidden;
                break;
            case Adversary::kTree:
                check(propose_tree(s, {forbidden, end, (right[0] + 1) % 250, right[0], right[0], right[1], right[2]},
                                   {kEnd, kEnd, kEnd, kEnd, 0, 3, 5}),
                      "propose_tree");
                return;
        }
        check(propose(s, ids), "propose");
    }

    keel_config plain_;
    keel_hooks hooks_;
    std::vector<Scene> scenes_;
    mutable uint64_t computed_ = 0, accepted_ = 0;
};

class DraftAdversaries : public testing::TestWithParam<bool> {};

TEST_P(DraftAdversaries, ChangeNothing) {
    const Scenes scenes(GetParam());
    std::vector<Written> plain;
    bool ends[3] = {};
    for (uint32_t i = 0; i < 8; ++i) {
        plain.push_back(scenes.write({i}, Adversary::kNone, 0).front());
        EXPECT_GT(plain[i].tokens.size(), 15u) << "drawn on behind where it is saved";
        ends[plain[i].stopped] = true;
    }
    EXPECT_TRUE(ends[0] && ends[1] && ends[2]) << "by length, stop strings and end ids";
    const std::vector<uint32_t> kGroups[] = {{0}, {1}, {2}, {3}, {5}, {0, 1}, {1, 2, 4}, {0, 1, 2, 3, 4, 5, 6, 7}};
    for (const Adversary adversary : kAdversaries) {
        for (const uint64_t budget_us : {0u, 500u})
            for (const std::vector<uint32_t>& group : kGroups) {
                const std::vector<Written> got = scenes.write(group, adversary, budget_us);
                for (uint32_t k = 0; k < group.size(); ++k) {
                    SCOPED_TRACE(testing::Message() << "adversary " << static_cast<int>(adversary) << ", budget "
                                                    << budget_us << ", session " << group[k] << " of " << group.size());
                    const Written& want = plain[group[k]];
                    EXPECT_EQ(want.text, got[k].text);
                    EXPECT_EQ(want.tokens, got[k].tokens);
                    EXPECT_EQ(want.stopped, got[k].stopped);
                    EXPECT_TRUE(want.saved == got[k].saved) << "rows, logits or settings differ";
                }
                if (HasFailure()) return;
            }
        const auto [computed, accepted] = scenes.take();
        const bool right = adversary == Adversary::kRight || adversary == Adversary::kTree;
        EXPECT_GT(computed, adversary == Adversary::kDrafters ? 30u : 500u);
        if (adversary != Adversary::kDrafters) {
            EXPECT_EQ(accepted > computed / 8, right);
        }
        if (adversary == Adversary::kForbidden) {
            EXPECT_EQ(accepted, 0u);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Drafts, DraftAdversaries, testing::Values(false, true),
                         [](const auto& info) { return std::string(info.param ? "tcq_recent" : "f16"); });

}  // namespace
