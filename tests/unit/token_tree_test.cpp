// Trees of drafts (keel_session_propose_tree): whichever path is drawn, tokens, logits, and all that it leaves are
// those of plain decoding, bit for bit. A hook says what is drawn, so that every leaf of a tree can be the one.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/formats/kv_formats.h"
#include "tests/async_backend.h"
#include "tests/kv_profile_builder.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::AsyncBackend;
using keel_test::check;
using keel_test::sized;
using Tokens = std::vector<int32_t>;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
const std::string kBias = keel_test::source_path("tests/data/architectures/qwen2-mqa-tied.gguf");
const std::string kGemma = keel_test::source_path("tests/data/architectures/gemma3.gguf");
const std::string kWired = keel_test::source_path("tests/data/wired/wired.gguf");

// The tokens that are drawn from position `from` on; behind them any may be.
struct Drawn {
    uint32_t from;
    Tokens tokens;
} drawn;

void only_those(void*, keel_session, const int32_t*, uint32_t count, uint8_t* mask, uint32_t vocabulary) {
    if (count < drawn.from || count - drawn.from >= drawn.tokens.size()) return;
    const uint32_t token = static_cast<uint32_t>(drawn.tokens[count - drawn.from]);
    for (uint32_t i = 0; i < (vocabulary + 7) / 8; ++i)
        mask[i] = i == token / 8 ? static_cast<uint8_t>(1u << token % 8) : uint8_t{0};
}
const keel_hooks* hooks() {
    static const keel_hooks h = [] {
        keel_hooks of = sized<keel_hooks>();
        of.allowed_tokens = only_those;
        return of;
    }();
    return &h;
}

keel_config config(keel_kv_format k, keel_kv_format v) {
    keel_config c = sized<keel_config>();
    c.k_format = k;
    c.v_format = v;
    c.context_tokens = 768;
    c.chunk_tokens = 64;
    c.draft_tokens = 40;
    c.max_sessions = 4;
    c.threads = 2;
    c.hooks = hooks();
    return c;
}

struct Tree {
    Tokens tokens;
    std::vector<uint32_t> parents;

    uint32_t count() const { return static_cast<uint32_t>(tokens.size()); }
    Tokens path(uint32_t node) const {
        Tokens ids;
        for (; node != KEEL_DRAFT_AT_END; node = parents[node]) ids.insert(ids.begin(), tokens[node]);
        return ids;
    }
    bool is_leaf(uint32_t node) const { return std::find(parents.begin(), parents.end(), node) == parents.end(); }
};

// No two drafts are the same token.
Tree random_tree(uint32_t nodes, uint32_t vocabulary, std::mt19937& random) {
    Tree tree;
    const uint32_t step = vocabulary / (nodes + 1), first = static_cast<uint32_t>(random() % vocabulary);
    for (uint32_t i = 0; i < nodes; ++i) {
        tree.tokens.push_back(static_cast<int32_t>((first + i * step) % vocabulary));
        const uint32_t kind = random() % 8;
        tree.parents.push_back(i == 0 || kind == 0 ? KEEL_DRAFT_AT_END
                               : kind < 4          ? static_cast<uint32_t>(random() % i)
                                                   : i - 1);
    }
    return tree;
}

Tokens some_ids(uint32_t count, uint32_t vocabulary, std::mt19937& random) {
    Tokens ids(count);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
    return ids;
}

// What a session shows that has drawn a path and what comes behind it.
struct Shown {
    Tokens tokens;
    int32_t next;
    std::vector<float> logits, hidden;
    bool operator==(const Shown&) const = default;
};

class Walker {
  public:
    Walker(keel_test::Engine& engine, keel_session session) : engine_(engine), session(session) {}
    static Walker fork_of(const Walker& other) {
        keel_session copy;
        check(keel_session_fork(other.session, &copy), "fork");
        return {other.engine_, copy};
    }
    keel_session_info info() const {
        keel_session_info i = sized<keel_session_info>();
        check(keel_session_get(session, &i), "session_get");
        return i;
    }
    void feed(const Tokens& ids) const {
        check(keel_session_feed(session, ids.data(), static_cast<uint32_t>(ids.size()), KEEL_FEED_SAMPLE), "feed");
    }
    keel_advance_result advance(uint64_t budget_us = 0) const {
        keel_advance_result result = sized<keel_advance_result>();
        keel_status status = KEEL_AGAIN;
        while (status == KEEL_AGAIN) status = keel_advance(engine_.handle(), &session, 1, budget_us, &result);
        check(status, "advance");
        return result;
    }
    int32_t sample() const {
        int32_t token;
        check(keel_session_sample(session, &token), "sample");
        return token;
    }
    Shown shown() const {
        Shown s;
        const keel_session_info i = info();
        s.tokens.assign(i.tokens, i.tokens + i.token_count);
        s.next = sample();
        const float* view;
        uint32_t width;
        check(keel_session_logits(session, 0, &view, &width), "logits");
        s.logits.assign(view, view + width);
        check(keel_session_hidden(session, 0, &view, &width), "hidden");
        s.hidden.assign(view, view + width);
        return s;
    }
    // Feeds `head`, draws `path` and one token more; `tree`: of drafts, or null. Returns how many were accepted.
    uint32_t draw(const Tokens& head, const Tokens& path, const Tree* tree, uint64_t budget_us = 0) const {
        const uint32_t end = info().token_count + static_cast<uint32_t>(head.size() + path.size());
        drawn = {end - static_cast<uint32_t>(path.size()), path};
        feed(head);
        if (tree)
            check(keel_session_propose_tree(session, tree->tokens.data(), tree->parents.data(), tree->count()),
                  "propose_tree");
        const uint32_t accepted = advance(budget_us).accepted_tokens;
        while (info().token_count < end) {
            feed({sample()});
            advance();
        }
        EXPECT_EQ(info().token_count, end) << "a step accepts no more than the path";
        return accepted;
    }
    void decode(const Tokens& ids) const {
        for (const int32_t id : ids) {
            check(keel_session_feed(session, &id, 1, 0), "feed");
            advance();
        }
    }
    std::vector<uint8_t> saved() const {
        uint64_t bytes = 0;
        check(keel_session_save_bytes(session, &bytes), "save_bytes");
        std::vector<uint8_t> blob(bytes);
        check(keel_session_save(session, blob.data(), bytes, &bytes), "save");
        return blob;
    }
    void close() const { check(keel_session_close(session), "close"); }

  private:
    keel_test::Engine& engine_;

  public:
    keel_session session;
};

// A session with `base` computed tokens, and trees behind up to three that are pending: every leaf is drawn in a fork.
// One of them is what the session goes on with, and what both ways leave is compared to the last byte.
void verify_trees(keel_test::Engine& engine, uint32_t base, uint32_t nodes, uint32_t rounds, uint64_t budget_us,
                  uint32_t seed, uint32_t* accepted = nullptr) {
    std::mt19937 random(seed);
    const uint32_t vocabulary = engine.info().vocabulary;
    Walker main(engine, engine.session());
    check(keel_session_truncate(main.session, 0), "truncate");
    const int32_t none = 0;  // a drawn end id is not accepted
    check(keel_session_set_end_ids(main.session, &none, 0), "set_end_ids");
    const Tokens prefix = some_ids(base, vocabulary, random);
    check(keel_session_feed(main.session, prefix.data(), base, 0), "feed");
    main.advance();
    for (uint32_t round = 0; round < rounds; ++round) {
        const Tree tree = random_tree(nodes, vocabulary, random);
        const Tokens head = some_ids(1 + round % 3, vocabulary, random);
        std::vector<uint32_t> leaves;
        for (uint32_t i = 0; i < nodes; ++i)
            if (tree.is_leaf(i)) leaves.push_back(i);
        const uint32_t kept = leaves[random() % leaves.size()];
        for (const uint32_t leaf : leaves) {
            if (leaves.size() > 6 && leaf != kept && random() % 2) continue;
            const Tokens path = tree.path(leaf);
            const Walker treed = Walker::fork_of(main), plain = Walker::fork_of(main);
            plain.draw(head, path, nullptr);
            const uint32_t hits = treed.draw(head, path, &tree, budget_us);
            if (budget_us == 0) {
                ASSERT_EQ(hits, path.size()) << "leaf " << leaf << " of " << nodes;
            }
            if (accepted) *accepted += hits;
            ASSERT_TRUE(treed.shown() == plain.shown()) << "leaf " << leaf << " behind " << base;
            if (leaf == kept) {
                // To behind where the tree ended, so that neither session's ring of recent rows is ahead.
                const Tokens more = some_ids(nodes, vocabulary, random);
                treed.decode(more);
                plain.decode(more);
                ASSERT_EQ(treed.saved(), plain.saved()) << "leaf " << leaf << " behind " << base;
            }
            treed.close();
            plain.close();
        }
        main.draw(head, tree.path(kept), &tree);
    }
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

// Trees that cross tiles, pages and KV splits, in models with removed K means, sliding windows, soft caps, and
// embeddings that the token before has a part in.
TEST(TokenTrees, EdgesWindowsAndMeans) {
    uint32_t seed = 100;
    for (const std::string& path : {kTiny, kBias, kGemma, kWired}) {
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

// Slices of a budget that is over at once, so that drafts come too late, and of a backend that lags behind, where there
// is time to draw them.
TEST(TokenTrees, CutIntoSlices) {
    AsyncBackend::reset();
    AsyncBackend::get().lag_polls = 2;
    AsyncBackend::get().ops_per_enqueue = 20;
    for (const bool lagging : {false, true}) {
        keel_config c = config(KEEL_KV_TCQ_4, KEEL_KV_F16);
        c.kv_recent_tokens = 20;
        if (lagging) c.backend = AsyncBackend::table();
        keel_test::Engine engine(kGemma, c);
        uint32_t accepted = 0;
        verify_trees(engine, 50, 33, 3, lagging ? 60'000'000 : 1, 40, &accepted);
        if (testing::Test::HasFatalFailure()) return;
        EXPECT_TRUE(accepted > 0 || !lagging) << "no step took a tree";
    }
    EXPECT_GT(AsyncBackend::get().not_yet, 0u);
    EXPECT_EQ(AsyncBackend::get().refused, 0u);
}

// Trees of two sessions beside a third one's prompt, all in common steps.
TEST(TokenTrees, BesideOtherSessions) {
    keel_config c = config(KEEL_KV_Q4_0, KEEL_KV_F16);
    c.draft_tokens = 30;
    keel_test::Engine engine(kTiny, c);
    std::mt19937 random(3);
    const uint32_t vocabulary = engine.info().vocabulary;
    const Walker first(engine, engine.session());
    first.decode(some_ids(70, vocabulary, random));
    const Tree tree = random_tree(15, vocabulary, random);
    const Tokens path = tree.path(14);
    const Walker alone = Walker::fork_of(first), second = Walker::fork_of(first);
    alone.draw({5}, path, nullptr);
    const Shown want = alone.shown();
    alone.close();
    keel_session third;
    check(keel_session_open(engine.handle(), nullptr, &third), "open");
    const Tokens prompt = some_ids(20, vocabulary, random);
    check(keel_session_feed(third, prompt.data(), 20, 0), "feed");
    for (const Walker& w : {first, second}) {
        w.feed({5});
        check(keel_session_propose_tree(w.session, tree.tokens.data(), tree.parents.data(), 15), "propose_tree");
    }
    const keel_session all[3] = {third, first.session, second.session};
    keel_advance_result results[3] = {sized<keel_advance_result>()};
    check(keel_advance(engine.handle(), all, 3, 0, results), "advance");
    EXPECT_EQ(results[1].accepted_tokens, path.size());
    EXPECT_EQ(results[2].accepted_tokens, path.size());
    EXPECT_TRUE(first.shown() == want);
    EXPECT_TRUE(second.shown() == want);
}

// A fork shares the page in which the tree's rows lie and move: the page becomes the session's own before.
TEST(TokenTrees, AForkKeepsItsRows) {
    keel_test::Engine engine(kTiny, config(KEEL_KV_F16, KEEL_KV_F16));
    std::mt19937 random(6);
    const Walker d(engine, engine.session());
    d.decode(some_ids(10, engine.info().vocabulary, random));
    const Walker fork = Walker::fork_of(d), plain = Walker::fork_of(d);
    const Tree tree = {{1, 2, 3}, {KEEL_DRAFT_AT_END, KEEL_DRAFT_AT_END, 1}};
    EXPECT_EQ(d.draw({7}, {2, 3}, &tree), 2u);
    plain.draw({7}, {2, 3}, nullptr);
    EXPECT_TRUE(d.shown() == plain.shown());
    // What the session drew is a fork's, too, with rows that have moved.
    const Walker behind = Walker::fork_of(d);
    for (const Walker& w : {d, behind, plain}) w.decode({4, 5, 6});
    EXPECT_TRUE(behind.shown() == plain.shown());
    EXPECT_TRUE(d.shown() == plain.shown());
    fork.draw({7}, {2, 3}, nullptr);
    fork.decode({4, 5, 6});
    EXPECT_TRUE(fork.shown() == plain.shown());
}

// Where a step cannot have a tree, it has the first path: rows of sinks in it, or too many pending tokens.
TEST(TokenTrees, TheFirstPathWhereAStepHasNoTree) {
    keel_config c = config(KEEL_KV_TCQ_3, KEEL_KV_TCQ_3);
    c.kv_sink_tokens = 8;
    c.chunk_tokens = 256;
    keel_test::Engine engine(kTiny, c);
    std::mt19937 random(8);
    const Walker s(engine, engine.session());
    const Tree tree = {{1, 2, 3, 4, 5}, {KEEL_DRAFT_AT_END, KEEL_DRAFT_AT_END, 1, 0, 3}};
    const struct {
        uint32_t pending, computed, second;  // drafts taken, and accepted of the second path
    } kCases[] = {{5, 3, 0}, {1, 3, 0}, {1, 5, 2}, {113, 5, 2}, {114, 3, 0}};
    for (const auto& test : kCases) {
        SCOPED_TRACE(testing::Message() << test.pending << " behind " << s.info().token_count);
        const Tokens head = some_ids(test.pending, engine.info().vocabulary, random);
        const Walker first = Walker::fork_of(s), plain = Walker::fork_of(s);
        EXPECT_EQ(3u, first.draw(head, {1, 4, 5}, &tree));
        plain.draw(head, {1, 4, 5}, nullptr);
        EXPECT_TRUE(first.shown() == plain.shown());
        first.close();
        plain.close();
        const uint64_t before = s.info().drafts_computed;
        EXPECT_EQ(test.second, s.draw(head, {2, 3}, &tree));
        EXPECT_EQ(before + test.computed, s.info().drafts_computed);
    }
}

}  // namespace
