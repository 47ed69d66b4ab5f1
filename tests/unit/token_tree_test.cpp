// Token trees: logits of every node, and all that an accepted path leaves, against sessions that decode plainly, bit
// for bit.
#include <gtest/gtest.h>

#include <random>

#include "kernels/formats/kv_formats.h"
#include "sdk/kv/kv_arena.h"
#include "sdk/run/tree.h"
#include "tests/async_backend.h"
#include "tests/kv_profile_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel::kNoNode;
using keel_test::AsyncBackend;
using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
const std::string kBias = keel_test::source_path("tests/data/architectures/qwen2-mqa-tied.gguf");
const std::string kGemma = keel_test::source_path("tests/data/architectures/gemma3.gguf");

keel_config config(keel_kv_format k, keel_kv_format v) {
    keel_config c = sized<keel_config>();
    c.k_format = k;
    c.v_format = v;
    c.context_tokens = 768;
    c.chunk_tokens = 64;
    c.logits_rows = 64;
    c.max_sessions = 4;
    c.threads = 2;
    return c;
}

using Row = std::vector<float>;

// A session and the tokens it is to have.
struct Decoder {
    keel_test::Engine& engine;
    keel_session session;

    Row logits(uint32_t row) const {
        const float* view;
        uint32_t vocabulary;
        check(keel_session_logits(session, row, &view, &vocabulary), "keel_session_logits");
        return Row(view, view + vocabulary);
    }
    // Computes what is pending in slices of `budget_us`, 0: as a whole; calls use(row) for each row of logits. Returns
    // how many rows the last step has.
    template <class Use>
    uint32_t advance(uint64_t budget_us, Use use) const {
        keel_advance_result result = keel_test::sized<keel_advance_result>();
        do {
            const uint32_t before = result.computed_tokens;
            const keel_status status = keel_advance(engine.handle(), &session, 1, budget_us, &result);
            if (status != KEEL_AGAIN) check(status, "keel_advance");
            if (result.computed_tokens != before)
                for (uint32_t row = 0; row < result.logits_rows; ++row) use(row);
        } while (result.pending_tokens);
        return result.logits_rows;
    }
    // Decodes token by token; the logits after each.
    std::vector<Row> decode(const std::vector<int32_t>& tokens) const {
        std::vector<Row> rows;
        for (int32_t token : tokens) {
            check(keel_session_feed(session, &token, 1, 0), "keel_session_feed");
            advance(0, [&](uint32_t row) { rows.push_back(logits(row)); });
        }
        return rows;
    }
    std::vector<uint8_t> saved() const {
        uint64_t bytes = 0;
        check(keel_session_save_bytes(session, &bytes), "keel_session_save_bytes");
        std::vector<uint8_t> blob(bytes);
        check(keel_session_save(session, blob.data(), bytes, &bytes), "keel_session_save");
        return blob;
    }
    uint32_t count() const {
        keel_session_info info = sized<keel_session_info>();
        check(keel_session_get(session, &info), "keel_session_get");
        return info.token_count;
    }
};

struct Tree {
    std::vector<int32_t> tokens;
    std::vector<uint32_t> parents;

    std::vector<uint32_t> path(uint32_t node) const {
        std::vector<uint32_t> nodes;
        for (; node != kNoNode; node = parents[node]) nodes.insert(nodes.begin(), node);
        return nodes;
    }
    std::vector<int32_t> tokens_of(const std::vector<uint32_t>& path) const {
        std::vector<int32_t> ids;
        for (uint32_t node : path) ids.push_back(tokens[node]);
        return ids;
    }
};

Tree random_tree(uint32_t nodes, uint32_t vocabulary, std::mt19937& random) {
    Tree tree;
    for (uint32_t i = 0; i < nodes; ++i) {
        tree.tokens.push_back(static_cast<int32_t>(random() % vocabulary));
        const uint32_t kind = random() % 8;
        tree.parents.push_back(i == 0 || kind == 0 ? kNoNode : kind < 4 ? static_cast<uint32_t>(random() % i) : i - 1);
    }
    return tree;
}

std::vector<int32_t> some_ids(uint32_t count, uint32_t vocabulary, std::mt19937& random) {
    std::vector<int32_t> ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    return ids;
}

// Two sessions with one prefix of `base` tokens: one verifies trees, accepts paths and decodes on; the other one only
// decodes, and its forks decode the paths that are not accepted.
void verify_trees(keel_test::Engine& engine, uint32_t base, uint32_t nodes, uint32_t rounds, uint64_t budget_us,
                  uint32_t seed) {
    std::mt19937 random(seed);
    const uint32_t vocabulary = engine.info().vocabulary;
    Decoder treed{engine, {}}, plain{engine, engine.session()};
    check(keel_session_truncate(plain.session, 0), "keel_session_truncate");
    check(keel_session_open(engine.handle(), nullptr, &treed.session), "keel_session_open");
    const std::vector<int32_t> prefix = some_ids(base, vocabulary, random);
    for (const Decoder& d : {treed, plain}) {
        if (base == 0) continue;
        check(keel_session_feed(d.session, prefix.data(), base, 0), "keel_session_feed");
        d.advance(0, [](uint32_t) {});
    }
    for (uint32_t round = 0; round < rounds; ++round) {
        const Tree tree = random_tree(nodes, vocabulary, random);
        const uint32_t before = plain.count();
        check(keel::session_feed_tree(treed.session, tree.tokens.data(), tree.parents.data(), nodes),
              "session_feed_tree");
        std::vector<Row> got;
        const uint32_t last_rows = treed.advance(budget_us, [&](uint32_t row) { got.push_back(treed.logits(row)); });
        ASSERT_EQ(got.size(), nodes);

        std::vector<bool> compared(nodes);
        for (uint32_t leaf = nodes; leaf-- > 0;) {
            if (compared[leaf]) continue;
            const std::vector<uint32_t> path = tree.path(leaf);
            Decoder fork{engine, {}};
            check(keel_session_fork(plain.session, &fork.session), "keel_session_fork");
            const std::vector<Row> want = fork.decode(tree.tokens_of(path));
            check(keel_session_close(fork.session), "keel_session_close");
            for (size_t i = 0; i < path.size(); ++i) {
                compared[path[i]] = true;
                ASSERT_EQ(got[path[i]], want[i]) << "node " << path[i] << " at depth " << i << " behind " << before;
            }
        }

        const std::vector<uint32_t> path = tree.path(static_cast<uint32_t>(random() % nodes));
        check(keel::session_accept(treed.session, path.data(), static_cast<uint32_t>(path.size())), "session_accept");
        const std::vector<Row> want = plain.decode(tree.tokens_of(path));
        ASSERT_EQ(treed.count(), before + path.size());
        if (path.back() + last_rows >= nodes) {
            ASSERT_EQ(treed.logits(0), want.back());
        }
        // To behind where the tree ended, so that neither session's ring of recent rows is ahead.
        const std::vector<int32_t> more = some_ids(nodes, vocabulary, random);
        ASSERT_EQ(treed.decode(more), plain.decode(more)) << "after " << path.size() << " of " << nodes << " nodes";
        ASSERT_EQ(treed.saved(), plain.saved()) << "round " << round;
    }
    check(keel_session_close(treed.session), "keel_session_close");
}

TEST(TokenTrees, EveryKvFormatHasTheBitsOfPlainDecoding) {
    uint32_t seed = 1;
    for (uint32_t f = 1; f <= keel::kernels::kKvFormatCount; ++f) {
        const keel_kv_format format = static_cast<keel_kv_format>(f);
        SCOPED_TRACE(keel::kernels::kKvFormats[f - 1].name);
        for (const bool window : {false, true}) {
            keel_config c = config(format, format);
            if (window) {
                c.kv_sink_tokens = 4;
                c.kv_recent_tokens = 20;
            }
            keel_test::Engine engine(kTiny, c);
            verify_trees(engine, 57, 15, 2, 0, ++seed);
            if (testing::Test::HasFatalFailure()) return;
        }
    }
}

// Trees that cross tiles, pages and KV splits, in models with removed K means, sliding windows and soft caps.
TEST(TokenTrees, EdgesWindowsAndMeans) {
    uint32_t seed = 100;
    for (const std::string& path : {kTiny, kBias, kGemma}) {
        SCOPED_TRACE(path);
        for (const bool window : {false, true}) {
            keel_config c = config(KEEL_KV_TCQ_3, KEEL_KV_E8_4);
            c.kv_sink_tokens = window ? 3 : 0;
            c.kv_recent_tokens = window ? 37 : 0;
            keel_test::Engine engine(path, c);
            for (const uint32_t base : {3u, 64u, 120u, 500u, 512u}) {
                verify_trees(engine, base, 40, 2, 0, ++seed);
                if (testing::Test::HasFatalFailure()) return;
            }
        }
    }
}

TEST(TokenTrees, ProfilesWithMeansAndGains) {
    keel_test::Engine plain(kBias, config(KEEL_KV_F16, KEEL_KV_F16));
    keel_test::KvProfileBuilder builder(plain.info(), KEEL_KV_TCQ_4, KEEL_KV_TCQ_4);
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < builder.floats(); ++i) {
        builder.key_means.push_back(normal(random));
        builder.value_means.push_back(normal(random));
        builder.gains.push_back(std::exp2(normal(random)));
    }
    builder.pairs = {0, 1, 3};
    const std::vector<uint8_t> bytes = builder.bytes();
    keel_reader reader = sized<keel_reader>();
    check(keel_reader_from_memory(bytes.data(), bytes.size(), &reader), "reader");
    keel_config c = config(KEEL_KV_DEFAULT, KEEL_KV_DEFAULT);
    const keel_part part = keel_test::part(KEEL_PART_KV_PROFILE, &reader);
    c.parts = &part;
    c.part_count = 1;
    keel_test::Engine engine(kBias, c);
    verify_trees(engine, 125, 30, 3, 0, 7);
}

// Slices of a budget, steps smaller than the tree, one row of logits a step; on a backend that lags behind, too.
TEST(TokenTrees, CutIntoStepsAndSlices) {
    AsyncBackend::reset();
    for (const bool lagging : {false, true})
        for (const uint32_t chunk : {40u, 64u})
            for (const uint32_t rows : {1u, 5u, 64u}) {
                keel_config c = config(KEEL_KV_TCQ_4, KEEL_KV_F16);
                c.chunk_tokens = chunk;
                c.logits_rows = rows;
                c.kv_recent_tokens = 20;
                if (lagging) c.backend = AsyncBackend::table();
                keel_test::Engine engine(kGemma, c);
                verify_trees(engine, 50, 33, 2, 1, chunk + rows);
                if (testing::Test::HasFatalFailure()) return;
            }
    EXPECT_GT(AsyncBackend::get().not_yet, 0u);
    EXPECT_EQ(AsyncBackend::get().refused, 0u);
}

// A tree beside sessions that are fed a prompt: all of them in common steps.
TEST(TokenTrees, BesideOtherSessions) {
    keel_test::Engine engine(kTiny, config(KEEL_KV_Q4_0, KEEL_KV_F16));
    std::mt19937 random(3);
    const uint32_t vocabulary = engine.info().vocabulary;
    Decoder sessions[2] = {{engine, engine.session()}, {engine, {}}};
    check(keel_session_open(engine.handle(), nullptr, &sessions[1].session), "keel_session_open");
    const std::vector<int32_t> prefix = some_ids(70, vocabulary, random), prompt = some_ids(150, vocabulary, random);
    sessions[0].decode(prefix);
    const Tree tree = random_tree(20, vocabulary, random);
    Decoder alone{engine, {}};
    check(keel_session_fork(sessions[0].session, &alone.session), "keel_session_fork");
    std::vector<Row> want, got;
    for (const Decoder* d : {&alone, &sessions[0]})
        check(keel::session_feed_tree(d->session, tree.tokens.data(), tree.parents.data(), 20), "session_feed_tree");
    alone.advance(0, [&](uint32_t row) { want.push_back(alone.logits(row)); });
    check(keel_session_feed(sessions[1].session, prompt.data(), 150, 0), "keel_session_feed");
    const keel_session both[2] = {sessions[1].session, sessions[0].session};
    keel_advance_result results[2] = {sized<keel_advance_result>(), sized<keel_advance_result>()};
    do {
        const uint32_t before = results[1].computed_tokens;
        check(keel_advance(engine.handle(), both, 2, 0, results), "keel_advance");
        if (results[1].computed_tokens != before)
            for (uint32_t row = 0; row < results[1].logits_rows; ++row) got.push_back(sessions[0].logits(row));
    } while (results[0].pending_tokens || results[1].pending_tokens);
    EXPECT_EQ(got, want);
}

// A fork shares the page in which the tree lies. Accepting a path moves rows there: the page becomes the session's own.
TEST(TokenTrees, AForkSharesThePageUntilRowsMove) {
    keel_test::Engine engine(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    std::mt19937 random(6);
    const auto free_pages = [&] {
        keel_stats stats = sized<keel_stats>();
        check(keel_engine_stats(engine.handle(), &stats), "keel_engine_stats");
        return stats.kv_pages_free;
    };
    const Decoder d{engine, engine.session()};
    d.decode(some_ids(10, engine.info().vocabulary, random));
    Decoder plain{engine, {}}, fork{engine, {}};
    check(keel_session_fork(d.session, &plain.session), "keel_session_fork");
    const int32_t tokens[3] = {1, 2, 3};
    const uint32_t parents[3] = {kNoNode, 0, 0}, path[2] = {0, 2};
    check(keel::session_feed_tree(d.session, tokens, parents, 3), "session_feed_tree");
    d.advance(0, [](uint32_t) {});
    check(keel_session_fork(d.session, &fork.session), "keel_session_fork");
    const uint32_t before = free_pages();
    check(keel::session_accept(d.session, path, 2), "session_accept");
    EXPECT_EQ(free_pages(), before - 1);
    const std::vector<Row> want = plain.decode({1, 3, 5});
    EXPECT_EQ(fork.decode({1, 3, 5}), want);
    EXPECT_EQ(d.decode({5}).back(), want.back());
}

TEST(TokenTrees, WhatIsRefusedMeanwhileAndHowATreeEnds) {
    keel_config c = config(KEEL_KV_F16, KEEL_KV_F16);
    c.kv_sink_tokens = 4;
    c.context_tokens = 128;
    keel_test::Engine engine(kTiny, c);
    std::mt19937 random(5);
    const uint32_t vocabulary = engine.info().vocabulary;
    const keel_session s = engine.session();
    const Decoder d{engine, s};
    const int32_t tokens[3] = {1, 2, 3}, unknown[1] = {-1};
    const uint32_t parents[3] = {kNoNode, 0, 0}, forward[3] = {kNoNode, 2, 0}, path[2] = {0, 2}, siblings[2] = {1, 2};
    const auto feed = [&](uint32_t count) { return keel::session_feed_tree(s, tokens, parents, count); };
    EXPECT_EQ(feed(3), KEEL_E_STATE) << "its rows would be sinks";
    EXPECT_EQ(keel::session_accept(s, path, 2), KEEL_E_STATE);
    const std::vector<int32_t> prefix = some_ids(10, vocabulary, random);
    engine.feed(prefix);
    EXPECT_EQ(feed(3), KEEL_E_STATE) << "tokens are pending";
    engine.advance();
    const std::vector<uint8_t> before = d.saved();
    EXPECT_EQ(feed(0), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel::session_feed_tree(s, tokens, forward, 3), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel::session_feed_tree(s, unknown, parents, 1), KEEL_E_ARGUMENT);
    EXPECT_EQ(d.saved(), before);

    ASSERT_EQ(feed(3), KEEL_OK);
    uint64_t bytes = 0;
    uint8_t byte;
    int32_t token;
    EXPECT_EQ(keel::session_accept(s, path, 2), KEEL_E_STATE) << "not computed";
    EXPECT_EQ(feed(3), KEEL_E_STATE);
    EXPECT_EQ(keel_session_feed(s, tokens, 1, KEEL_FEED_ALL_LOGITS), KEEL_E_STATE);
    engine.advance();
    EXPECT_EQ(keel_session_feed(s, tokens, 1, 0), KEEL_E_STATE);
    EXPECT_EQ(keel_session_sample(s, &token), KEEL_E_STATE);
    EXPECT_EQ(keel_session_save_bytes(s, &bytes), KEEL_E_STATE);
    EXPECT_EQ(keel_session_save(s, &byte, 1, &bytes), KEEL_E_STATE);
    EXPECT_EQ(keel_session_evict(s, 0, 13, nullptr), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_session_truncate(s, 11), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel::session_accept(s, siblings, 2), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel::session_accept(s, path + 1, 1), KEEL_E_ARGUMENT);

    // A fork has what is in front of the tree.
    Decoder fork{engine, {}};
    check(keel_session_fork(s, &fork.session), "keel_session_fork");
    EXPECT_EQ(fork.count(), 10u);
    const std::vector<int32_t> more = some_ids(9, vocabulary, random);
    const std::vector<Row> want = fork.decode(more);

    // Truncating to where it began drops it, as to anything in front of that.
    EXPECT_EQ(keel_session_truncate(s, 10), KEEL_OK);
    EXPECT_EQ(d.count(), 10u);
    EXPECT_EQ(d.decode(more), want);
    EXPECT_EQ(d.saved(), fork.saved());
    ASSERT_EQ(feed(2), KEEL_OK);
    EXPECT_EQ(keel_session_truncate(s, 10), KEEL_OK);
    EXPECT_EQ(d.decode(more), want);
    check(keel_session_truncate(s, 10), "keel_session_truncate");
    ASSERT_EQ(feed(3), KEEL_OK);
    EXPECT_EQ(keel_session_restore(s, before.data(), before.size(), nullptr), KEEL_OK);
    EXPECT_EQ(d.saved(), before);
    EXPECT_EQ(d.decode(more), want);
    d.decode(some_ids(128 - d.count() - 2, vocabulary, random));
    EXPECT_EQ(feed(3), KEEL_E_CONTEXT_FULL);
    EXPECT_EQ(feed(2), KEEL_OK);
    EXPECT_EQ(keel_session_close(s), KEEL_OK);
}

// A drawn token that becomes the root of a tree counts as drawn once it is accepted.
TEST(TokenTrees, ADrawnRootStaysDrawn) {
    keel_test::Engine engine(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    std::mt19937 random(6);
    engine.feed(some_ids(10, engine.info().vocabulary, random));
    engine.advance();
    const Decoder d{engine, engine.session()};
    Decoder fork{engine, {}};
    check(keel_session_fork(d.session, &fork.session), "keel_session_fork");
    const int32_t token = engine.sample();
    int32_t same = -1;
    check(keel_session_sample(fork.session, &same), "keel_session_sample");
    ASSERT_EQ(token, same);
    const int32_t tokens[3] = {token, 5, 7};
    const uint32_t parents[3] = {kNoNode, 0, 0}, path[2] = {0, 2};
    ASSERT_EQ(keel::session_feed_tree(d.session, tokens, parents, 3), KEEL_OK);
    engine.advance();
    ASSERT_EQ(keel::session_accept(d.session, path, 2), KEEL_OK);
    fork.decode({token, 7});
    EXPECT_EQ(d.saved(), fork.saved());
}

}  // namespace
