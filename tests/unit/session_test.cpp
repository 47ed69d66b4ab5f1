// Sessions through the public API: what comes in, what goes out, what is refused and what stays as it was.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "sdk/core/hash.h"
#include "tests/async_backend.h"
#include "tests/session_grammar.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");

keel_config config(uint32_t sessions = 1, uint32_t context = 256) {
    keel_config c = sized<keel_config>();
    c.max_sessions = sessions;
    c.context_tokens = context;
    c.threads = 1;
    c.backend = keel_test::OnBackend::backend();
    return c;
}
std::vector<int32_t> some_ids(size_t n, uint32_t seed = 3) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 250);
    return ids;
}
keel_session open_session(keel_engine engine) {
    keel_session s;
    check(keel_session_open(engine, nullptr, &s), "open");
    return s;
}
keel_session_info get(keel_session s) {
    keel_session_info i = sized<keel_session_info>();
    check(keel_session_get(s, &i), "get");
    return i;
}
keel_stats stats(keel_engine e) {
    keel_stats s = sized<keel_stats>();
    check(keel_engine_stats(e, &s), "stats");
    return s;
}
keel_status advance_one(keel_engine e, keel_session s, uint64_t budget_us = 0, keel_advance_result* out = nullptr) {
    keel_advance_result r = sized<keel_advance_result>();
    const keel_status status = keel_advance(e, &s, 1, budget_us, &r);
    if (out) *out = r;
    return status;
}
// Everything observable of a session as one number.
uint64_t fingerprint(keel_session s) {
    const keel_session_info i = get(s);
    uint64_t h =
        keel::hash64(i.tokens, i.token_count * sizeof(int32_t)) ^ i.computed_tokens * 31 ^ i.sampled_tokens * 37;
    const float* view;
    uint32_t n;
    if (keel_session_logits(s, 0, &view, &n) == KEEL_OK) h ^= keel::hash64(view, n * sizeof(float)) * 3;
    return h;
}
std::vector<uint8_t> save(keel_session s) {
    uint64_t bytes = 0, written = 0;
    check(keel_session_save_bytes(s, &bytes), "save_bytes");
    std::vector<uint8_t> blob(bytes);
    check(keel_session_save(s, blob.data(), bytes, &written), "save");
    EXPECT_EQ(written, bytes);
    return blob;
}
// Puts a right checksum behind changed contents, so that the checks behind it are reached.
void seal(std::vector<uint8_t>* blob) {
    const uint64_t sum = keel::hash64(blob->data(), blob->size() - 8);
    memcpy(blob->data() + blob->size() - 8, &sum, 8);
}

class Session : public keel_test::OnBackend {};
class SessionFile : public keel_test::OnBackend {};
class SessionText : public keel_test::OnBackend {};
KEEL_ON_EVERY_BACKEND(Session);
KEEL_ON_EVERY_BACKEND(SessionFile);
KEEL_ON_EVERY_BACKEND(SessionText);

TEST_P(Session, FeedIsAllOrNothing) {
    keel_test::Engine engine(kTiny, config(1, 64));
    const keel_session s = engine.session();
    const std::vector<int32_t> ids = some_ids(60);
    ASSERT_EQ(keel_session_feed(s, ids.data(), 60, 0), KEEL_OK);
    EXPECT_EQ(keel_session_feed(s, ids.data(), 5, 0), KEEL_E_CONTEXT_FULL);
    const int32_t bad[] = {1, 2, -1}, worse[] = {1, static_cast<int32_t>(engine.info().vocabulary)};
    EXPECT_EQ(keel_session_feed(s, bad, 3, 0), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_session_feed(s, worse, 2, 0), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_session_feed(s, ids.data(), 1, 4), KEEL_E_ARGUMENT);
    EXPECT_EQ(keel_session_feed(s, nullptr, 1, 0), KEEL_E_ARGUMENT);
    EXPECT_EQ(get(s).token_count, 60u);
    EXPECT_EQ(keel_session_feed(s, ids.data(), 4, 0), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), s), KEEL_OK);
    EXPECT_EQ(get(s).computed_tokens, 64u);
}

TEST_P(Session, LogitsComeAndGo) {
    keel_test::Engine engine(kTiny, config());
    const keel_session s = engine.session();
    const float* view;
    int32_t token;
    float logprob;
    EXPECT_EQ(keel_session_logits(s, 0, &view, nullptr), KEEL_E_NO_LOGITS);
    EXPECT_EQ(keel_session_sample(s, &token), KEEL_E_NO_LOGITS);
    EXPECT_EQ(keel_session_top_logprobs(s, 1, &token, &logprob), KEEL_E_NO_LOGITS);
    engine.feed(some_ids(10));
    EXPECT_EQ(keel_session_sample(s, &token), KEEL_E_NO_LOGITS) << "pending tokens";
    engine.advance();
    EXPECT_EQ(keel_session_logits(s, 0, &view, nullptr), KEEL_OK);
    EXPECT_EQ(keel_session_logits(s, 1, &view, nullptr), KEEL_E_NO_LOGITS);
    EXPECT_EQ(keel_session_hidden(s, 0, &view, nullptr), KEEL_OK);
    EXPECT_EQ(keel_session_sample(s, &token), KEEL_OK);
    int32_t again;
    EXPECT_EQ(keel_session_sample(s, &again), KEEL_OK);
    EXPECT_EQ(token, again) << "drawing twice";
    EXPECT_EQ(keel_session_truncate(s, 10), KEEL_OK) << "truncating to what is there changes nothing";
    EXPECT_EQ(keel_session_sample(s, &again), KEEL_OK);
    EXPECT_EQ(keel_session_truncate(s, 9), KEEL_OK);
    EXPECT_EQ(keel_session_sample(s, &again), KEEL_E_NO_LOGITS);
    EXPECT_EQ(keel_session_truncate(s, 10), KEEL_E_ARGUMENT);
}

TEST_P(Session, TopLogprobsAreALogSoftmax) {
    keel_test::Engine engine(kTiny, config());
    engine.feed(some_ids(10));
    engine.advance();
    const float* logits = engine.row(0);
    double sum = 0;
    for (uint32_t i = 0; i < engine.info().vocabulary; ++i) sum += std::exp(static_cast<double>(logits[i]));
    int32_t ids[5];
    float logprobs[5];
    ASSERT_EQ(keel_session_top_logprobs(engine.session(), 5, ids, logprobs), KEEL_OK);
    EXPECT_EQ(ids[0], engine.sample());
    for (int i = 0; i < 5; ++i) EXPECT_NEAR(logprobs[i], logits[ids[i]] - std::log(sum), 1e-5);
}

TEST_P(Session, SampledTokensCountOnlyWhatWasDrawn) {
    keel_test::Engine engine(kTiny, config());
    const keel_session s = engine.session();
    engine.feed(some_ids(4));
    engine.advance();
    EXPECT_EQ(get(s).sampled_tokens, 0u);
    const int32_t token = engine.sample();
    engine.feed({token});
    EXPECT_EQ(get(s).sampled_tokens, 1u);
    engine.advance();
    engine.sample();
    engine.feed({token == 9 ? 10 : 9, 3});  // the caller went another way
    EXPECT_EQ(get(s).sampled_tokens, 1u);
    check(keel_session_truncate(s, 5), "truncate");
    EXPECT_EQ(get(s).sampled_tokens, 1u);
    check(keel_session_truncate(s, 4), "truncate");
    EXPECT_EQ(get(s).sampled_tokens, 0u) << "a drawn token that was taken back";
}

TEST_P(Session, FlagsOfPendingTokensStay) {
    keel_test::Engine engine(kTiny, config());
    engine.feed({1, 2});
    const int32_t more = 3;
    EXPECT_EQ(keel_session_feed(engine.session(), &more, 1, KEEL_FEED_ALL_LOGITS), KEEL_E_STATE);
    EXPECT_EQ(keel_session_feed(engine.session(), &more, 1, 0), KEEL_OK);
}

TEST_P(Session, MinTokensHoldsBackTheEnd) {
    keel_test::Engine engine(kBooks, config());
    const keel_session s = engine.session();
    // Make end-of-sequence the best token by a bias; the guard must win until n tokens were drawn.
    const int32_t eos = engine.info().eos_id;
    const float large = 1e6f;
    keel_sampling p = sized<keel_sampling>();
    p.bias_ids = &eos;
    p.bias_values = &large;
    p.bias_count = 1;
    p.min_tokens = 3;
    ASSERT_EQ(keel_session_set_sampling(s, &p), KEEL_OK);
    engine.feed({1, 525});
    for (int i = 0; i < 5; ++i) {
        engine.advance();
        const int32_t token = engine.sample();
        EXPECT_EQ(token == eos, i >= 3) << i;
        engine.feed({token});
    }
}

TEST_P(Session, AllLogitsShowEveryPosition) {
    keel_config c = config();
    c.logits_rows = 8;
    keel_test::Engine engine(kTiny, c);
    const std::vector<int32_t> ids = some_ids(30);
    const keel_test::Logits all = engine.logits_for(ids);
    ASSERT_EQ(all.rows, 30u);
    // The same rows, one at a time.
    for (uint32_t n : {1u, 9u, 30u}) {
        check(keel_session_truncate(engine.session(), 0), "truncate");
        engine.feed({ids.begin(), ids.begin() + n});
        engine.advance();
        EXPECT_EQ(0, memcmp(engine.row(0), all.row(n - 1), all.vocabulary * sizeof(float))) << n;
    }
}

TEST_P(Session, KvFullComesBeforeAnyChange) {
    keel_config c = config(2, 256);
    c.kv_pages = 3;
    keel_test::Engine engine(kTiny, c);
    const keel_session a = engine.session(), b = open_session(engine.handle());
    const std::vector<int32_t> ids = some_ids(200);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 100, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    const uint64_t before = fingerprint(a);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 65, 0), KEEL_OK);  // two pages, one is left
    const uint64_t b_before = fingerprint(b);
    keel_advance_result r = sized<keel_advance_result>();
    EXPECT_EQ(advance_one(engine.handle(), b, 0, &r), KEEL_E_KV_FULL);
    EXPECT_EQ(r.status, KEEL_E_KV_FULL);
    EXPECT_EQ(r.pending_tokens, 65u);
    EXPECT_EQ(fingerprint(a), before);
    EXPECT_EQ(fingerprint(b), b_before);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free, 1u);
    // A neighbour that can go on does.
    ASSERT_EQ(keel_session_feed(a, ids.data(), 1, 0), KEEL_OK);
    keel_session both[] = {b, a};
    keel_advance_result results[2] = {sized<keel_advance_result>()};
    EXPECT_EQ(keel_advance(engine.handle(), both, 2, 0, results), KEEL_E_KV_FULL);
    EXPECT_EQ(results[0].status, KEEL_E_KV_FULL);
    EXPECT_EQ(results[1].status, KEEL_OK);
    EXPECT_EQ(results[1].computed_tokens, 101u);
    // Room again.
    ASSERT_EQ(keel_session_close(a), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_OK);
}

TEST_P(Session, ReservedPages) {
    keel_config c = config(3, 256);
    c.kv_pages = 4;
    keel_test::Engine engine(kTiny, c);
    keel_session_desc desc = sized<keel_session_desc>();
    desc.reserved_pages = 3;
    keel_session reserved, other;
    ASSERT_EQ(keel_session_open(engine.handle(), &desc, &reserved), KEEL_OK);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free, 1u);
    EXPECT_EQ(keel_session_open(engine.handle(), &desc, &other), KEEL_E_KV_FULL);
    EXPECT_EQ(stats(engine.handle()).open_sessions, 2u) << "a failed open leaves no slot behind";
    const std::vector<int32_t> ids = some_ids(192);
    ASSERT_EQ(keel_session_feed(engine.session(), ids.data(), 65, 0), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), engine.session()), KEEL_E_KV_FULL);
    ASSERT_EQ(keel_session_feed(reserved, ids.data(), 192, 0), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), reserved), KEEL_OK);
    ASSERT_EQ(keel_session_truncate(reserved, 0), KEEL_OK);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free, 1u) << "reserved pages stay";
    ASSERT_EQ(keel_session_close(reserved), KEEL_OK);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free, 4u);
}

TEST_P(Session, ForkSharesPagesAndCopiesOnWrite) {
    keel_test::Engine engine(kTiny, config(3, 256));
    const keel_session a = engine.session();
    const std::vector<int32_t> ids = some_ids(150), more = some_ids(40, 9);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 150, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    const uint32_t free_before = stats(engine.handle()).kv_pages_free;
    keel_session b;
    ASSERT_EQ(keel_session_fork(a, &b), KEEL_OK);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free, free_before) << "three pages shared, the partial one too";
    EXPECT_EQ(fingerprint(a), fingerprint(b));
    const uint64_t a_before = fingerprint(a);
    const std::vector<uint8_t> a_saved = save(a);
    // Going back into a shared page and writing there must not touch the other session.
    ASSERT_EQ(keel_session_truncate(b, 70), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, more.data(), 40, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), b), KEEL_OK);
    EXPECT_EQ(fingerprint(a), a_before);
    EXPECT_EQ(save(a), a_saved) << "K and V rows of the original";
    ASSERT_EQ(keel_session_close(a), KEEL_OK);
    ASSERT_EQ(keel_session_close(b), KEEL_OK);
    EXPECT_EQ(stats(engine.handle()).kv_pages_free,
              stats(engine.handle()).regions[KEEL_REGION_KV].planned_bytes / engine.plan().kv_page_bytes);
}

TEST_P(Session, UnfinishedStepHoldsItsSessions) {
    keel_test::Engine engine(kBooks, config(2, 512));
    const keel_session a = engine.session(), b = open_session(engine.handle());
    const std::vector<int32_t> ids = some_ids(300);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 300, 0), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 1, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a, 1), KEEL_AGAIN);
    keel_session fork;
    uint64_t bytes = 0;
    std::vector<uint8_t> blob(1 << 22);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_feed(a, ids.data(), 1, 0), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_fork(a, &fork), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_save(a, blob.data(), blob.size(), &bytes), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_restore(a, blob.data(), blob.size(), nullptr), KEEL_E_BUSY);
    // Naming both goes on; b joins at the next step.
    keel_session both[] = {b, a};
    keel_advance_result r[2] = {sized<keel_advance_result>()};
    int calls = 0;
    while (keel_advance(engine.handle(), both, 2, 200, r) == KEEL_AGAIN) ++calls;
    EXPECT_GT(calls, 3);
    EXPECT_EQ(r[0].pending_tokens + r[1].pending_tokens, 0u);
    // Truncating leaves a step.
    ASSERT_EQ(keel_session_feed(a, ids.data(), 100, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a, 1), KEEL_AGAIN);
    EXPECT_EQ(keel_session_truncate(a, 10), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 1, 0), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_OK);
    // And so does closing.
    ASSERT_EQ(keel_session_feed(a, ids.data(), 100, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a, 1), KEEL_AGAIN);
    EXPECT_EQ(keel_session_close(a), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 1, 0), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_OK);
}

TEST_P(Session, CancelFromAnotherThread) {
    keel_test::Engine engine(kBooks, config(2, 2048));
    const keel_session a = engine.session(), b = open_session(engine.handle());
    const std::vector<int32_t> ids = some_ids(2000);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 2000, 0), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 20, 0), KEEL_OK);
    std::thread canceller([a] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        keel_cancel(a);
    });
    keel_session both[] = {a, b};
    keel_advance_result r[2] = {sized<keel_advance_result>()};
    EXPECT_EQ(keel_advance(engine.handle(), both, 2, 0, r), KEEL_E_CANCELLED);
    canceller.join();
    EXPECT_EQ(r[0].status, KEEL_E_CANCELLED);
    EXPECT_EQ(r[1].status, KEEL_OK) << "the neighbour went on";
    EXPECT_GT(r[0].pending_tokens, 0u);
    EXPECT_EQ(r[1].pending_tokens, 0u);
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK) << "a cancel is taken once";
    const uint64_t cancelled = fingerprint(a);
    ASSERT_EQ(keel_session_truncate(a, 0), KEEL_OK);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 2000, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    EXPECT_EQ(fingerprint(a), cancelled);
}

// KEEL_FEED_SAMPLE: the draw is part of keel_advance and of its budget, and nothing else changes.
TEST_P(Session, AdvanceDrawsTheNextToken) {
    static uint32_t asked;
    keel_hooks hooks = sized<keel_hooks>();
    hooks.allowed_tokens = [](void*, keel_session, const int32_t*, uint32_t, uint8_t*, uint32_t) { ++asked; };
    keel_config c = config(2);
    c.hooks = &hooks;
    keel_test::Engine engine(kTiny, c);
    const keel_session a = engine.session(), b = open_session(engine.handle());
    keel_sampling sampling = sized<keel_sampling>();
    sampling.temperature = 1;
    sampling.seed = 7;
    const std::vector<int32_t> ids = some_ids(20);
    for (const keel_session s : {a, b}) {
        ASSERT_EQ(keel_session_set_sampling(s, &sampling), KEEL_OK);
        ASSERT_EQ(keel_session_feed(s, ids.data(), 20, s.id == a.id ? 0 : KEEL_FEED_SAMPLE), KEEL_OK);
    }
    for (int i = 0; i < 12; ++i) {
        int32_t expected = -1, token = -1, again = -1;
        ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
        ASSERT_EQ(keel_session_sample(a, &expected), KEEL_OK);
        asked = 0;
        keel_status status;
        while ((status = advance_one(engine.handle(), b, i % 2)) == KEEL_AGAIN) {
        }
        ASSERT_EQ(status, KEEL_OK);
        EXPECT_EQ(asked, 1u) << "drawn";
        ASSERT_EQ(keel_session_sample(b, &token), KEEL_OK);
        ASSERT_EQ(keel_session_sample(b, &again), KEEL_OK);
        EXPECT_EQ(asked, 1u) << "looked up";
        EXPECT_EQ(token, expected);
        EXPECT_EQ(again, expected);
        ASSERT_EQ(keel_session_feed(a, &expected, 1, 0), KEEL_OK);
        ASSERT_EQ(keel_session_feed(b, &token, 1, KEEL_FEED_SAMPLE), KEEL_OK);
    }
    // Other parameters: what was drawn is drawn anew.
    ASSERT_EQ(advance_one(engine.handle(), b), KEEL_OK);
    ASSERT_EQ(keel_session_set_sampling(b, nullptr), KEEL_OK);
    asked = 0;
    int32_t token;
    ASSERT_EQ(keel_session_sample(b, &token), KEEL_OK);
    EXPECT_EQ(asked, 1u);
    keel_session_info info = sized<keel_session_info>();
    ASSERT_EQ(keel_session_get(b, &info), KEEL_OK);
    EXPECT_EQ(info.sampled_tokens, 12u);
}

TEST_P(Session, SecondAdvanceIsBusy) {
    static std::function<void()> worker_probe;
    keel_config c = config(2);
    c.threads = 2;
    keel_hooks hooks = sized<keel_hooks>();
    c.hooks = &hooks;
    hooks.parallel_for = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
        if (worker_probe) std::exchange(worker_probe, nullptr)();
        for (uint32_t i = 0; i < tasks; ++i) task(context, i);
    };
    keel_test::Engine engine(kTiny, c);
    const keel_session a = engine.session(), b = open_session(engine.handle());
    const std::vector<int32_t> ids = some_ids(20);
    ASSERT_EQ(keel_session_feed(a, ids.data(), 20, 0), KEEL_OK);
    ASSERT_EQ(keel_session_feed(b, ids.data(), 1, 0), KEEL_OK);
    // The hook of the running call itself is the one moment at which it certainly runs.
    worker_probe = [&] {
        std::thread other([&] {
            EXPECT_EQ(advance_one(engine.handle(), b), KEEL_E_BUSY);
            EXPECT_EQ(keel_engine_close(engine.handle()), KEEL_E_BUSY);
        });
        other.join();
    };
    EXPECT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_OK);
}

TEST_P(Session, BudgetIsKept) {
    // Time is not asserted here (see perf/); that a budget cuts and that the cut does not show, is.
    keel_test::Engine engine(kBooks, config(1, 512));
    const std::vector<int32_t> ids = some_ids(256);
    engine.feed(ids);
    engine.advance();
    const uint64_t whole = fingerprint(engine.session());
    check(keel_session_truncate(engine.session(), 0), "truncate");
    engine.feed(ids);
    int calls = 1;
    while (advance_one(engine.handle(), engine.session(), 1) == KEEL_AGAIN) ++calls;
    EXPECT_GT(calls, 50);
    EXPECT_EQ(fingerprint(engine.session()), whole);
}

TEST_P(SessionFile, RoundTripIntoAnotherEngine) {
    const std::vector<int32_t> ids = some_ids(100);
    std::vector<uint8_t> blob;
    int32_t next = -1;
    {
        keel_test::Engine engine(kTiny, config());
        keel_sampling p = sized<keel_sampling>();
        p.temperature = 1;
        p.seed = 99;
        check(keel_session_set_sampling(engine.session(), &p), "sampling");
        engine.feed(ids);
        engine.advance();
        blob = save(engine.session());
        next = engine.sample();
    }
    keel_config c = config(2, 300);
    c.chunk_tokens = 3;
    keel_test::Engine engine(kTiny, c);
    ASSERT_EQ(keel_session_restore(engine.session(), blob.data(), blob.size(), nullptr), KEEL_OK);
    EXPECT_EQ(engine.sample(), next) << "parameters, logits and position came along";
    EXPECT_EQ(save(engine.session()).size(), blob.size());
    // Exact size, and one byte less.
    uint64_t written;
    EXPECT_EQ(keel_session_save(engine.session(), blob.data(), blob.size() - 1, &written), KEEL_E_BUFFER_TOO_SMALL);
    EXPECT_EQ(keel_session_save(engine.session(), blob.data(), blob.size(), &written), KEEL_OK);
}

TEST_P(SessionFile, HostileBlobsLeaveTheSessionAsItWas) {
    keel_test::Engine engine(kTiny, config(2, 128));
    const keel_session s = engine.session();
    engine.feed(some_ids(90));
    engine.advance();
    const std::vector<uint8_t> good = save(s);
    engine.feed({7, 8});
    engine.advance();
    const uint64_t before = fingerprint(s);
    keel_error error = sized<keel_error>();

    for (size_t n = 1; n < good.size(); n += n < 256 ? 1 : 991) {
        std::vector<uint8_t> cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(n));
        EXPECT_EQ(keel_session_restore(s, cut.data(), cut.size(), &error), KEEL_E_FILE_FORMAT) << n;
    }
    for (size_t i = 0; i < good.size(); i += i < 9000 ? 1 : 997) {
        std::vector<uint8_t> bad = good;
        bad[i] ^= 0x41;
        EXPECT_NE(keel_session_restore(s, bad.data(), bad.size(), &error), KEEL_OK) << "changed byte " << i;
    }
    EXPECT_EQ(fingerprint(s), before);

    // With a right checksum every field check has to hold on its own. Whatever is accepted must be usable.
    std::mt19937 random(1);
    int accepted = 0;
    for (int i = 0; i < 4000; ++i) {
        std::vector<uint8_t> bad = good;
        const size_t at = i < 1200 ? static_cast<size_t>(i) / 8 : random() % 8000;
        bad[at] = i < 1200 ? static_cast<uint8_t>(1u << (i % 8)) ^ bad[at] : static_cast<uint8_t>(random());
        seal(&bad);
        const keel_status status = keel_session_restore(s, bad.data(), bad.size(), &error);
        if (status != KEEL_OK) {
            EXPECT_NE(error.reason[0], 0);
            continue;
        }
        ++accepted;
        int32_t token;
        keel_text text = sized<keel_text>();
        keel_session_sample(s, &token);
        EXPECT_EQ(keel_session_text(s, 5, &text), KEEL_OK);
        EXPECT_EQ(keel_session_text(s, -1, &text), KEEL_OK);
    }
    EXPECT_GT(accepted, 0) << "some bytes (seeds, logits) may be anything";
}

// Seeds of tests/fuzz/session_fuzz.cpp; KEEL_WRITE_CORPUS=1 writes them again after a change of the format.
TEST_P(SessionFile, FuzzCorpusIsCurrent) {
    keel_test::Engine engine(kTiny, keel_test::with_session_grammar(config(2, 128)));
    const std::string dir = keel_test::source_path("tests/fuzz/corpus/session/");
    const struct {
        uint32_t tokens, grammar_from;
        const char* name;
    } seeds[] = {{0, KEEL_GRAMMAR_OFF, "0-tokens"},
                 {3, KEEL_GRAMMAR_OFF, "3-tokens"},
                 {66, KEEL_GRAMMAR_OFF, "66-tokens"},
                 {3, 1, "3-tokens-grammar"}};
    for (const auto& s : seeds) {
        check(keel_session_truncate(engine.session(), 0), "truncate");
        engine.feed(some_ids(s.tokens));
        if (s.tokens) engine.advance();
        check(keel_session_set_grammar(engine.session(), s.grammar_from), "grammar");
        const std::vector<uint8_t> blob = save(engine.session());
        const std::string path = dir + s.name;
        if (getenv("KEEL_WRITE_CORPUS"))
            std::ofstream(path, std::ios::binary)
                .write(reinterpret_cast<const char*>(blob.data()), static_cast<std::streamsize>(blob.size()));
        const std::vector<char> seed = keel_test::read_file(path);
        EXPECT_EQ(keel_session_restore(engine.session(), seed.data(), seed.size(), nullptr), KEEL_OK) << path;
    }
}

TEST_P(SessionFile, OtherModelsAndFormatsAreRefused) {
    keel_test::Engine engine(kTiny, config());
    engine.feed(some_ids(70));
    engine.advance();
    const std::vector<uint8_t> blob = save(engine.session());
    keel_error error = sized<keel_error>();
    keel_test::Engine other(kBooks, config());
    EXPECT_EQ(keel_session_restore(other.session(), blob.data(), blob.size(), &error), KEEL_E_FILE_MISMATCH);
    EXPECT_STREQ(error.field, "fingerprint");
    keel_config f32 = config();
    f32.k_format = KEEL_KV_F32;
    keel_test::Engine wide(kTiny, f32);
    EXPECT_EQ(keel_session_restore(wide.session(), blob.data(), blob.size(), &error), KEEL_E_FILE_MISMATCH);
    EXPECT_STREQ(error.field, "kv_identity");
    keel_test::Engine small(kTiny, config(1, 64));
    EXPECT_EQ(keel_session_restore(small.session(), blob.data(), blob.size(), &error), KEEL_E_CONTEXT_FULL);
    keel_config few = config(2, 256);
    few.kv_pages = 1;
    keel_test::Engine full(kTiny, few);
    EXPECT_EQ(keel_session_restore(full.session(), blob.data(), blob.size(), &error), KEEL_E_KV_FULL);
}

// K and V rows also depend on how they were computed: by which RoPE factors, which the length of the context chooses,
// and from which activations. Files of the default activation, and of models with one set of factors, name neither.
TEST_P(SessionFile, RowsThatWereComputedOtherwiseAreRefused) {
    const std::string longrope = keel_test::source_path("tests/data/architectures/phi3-longrope.gguf");
    const auto saved = [](const std::string& model, const keel_config& c) {
        keel_test::Engine engine(model, c);
        engine.feed(some_ids(30));
        engine.advance();
        return save(engine.session());
    };
    const auto restored = [](const std::string& model, const keel_config& c, const std::vector<uint8_t>& blob) {
        keel_test::Engine engine(model, c);
        keel_error error = sized<keel_error>();
        const keel_status status = keel_session_restore(engine.session(), blob.data(), blob.size(), &error);
        EXPECT_STREQ(error.field, status == KEEL_OK ? "" : "kv_identity");
        return status;
    };
    for (const uint32_t context : {64u, 128u}) {
        const std::vector<uint8_t> blob = saved(longrope, config(1, context));
        EXPECT_EQ(restored(longrope, config(1, context == 64 ? 40 : 200), blob), KEEL_OK) << "the same factors";
        EXPECT_EQ(restored(longrope, config(1, context == 64 ? 65 : 64), blob), KEEL_E_FILE_MISMATCH) << context;
    }
    keel_config exact = config(), pairs = config(), q8 = config();
    exact.activation = KEEL_ACTIVATION_F32;
    pairs.activation = KEEL_ACTIVATION_BF16;
    q8.activation = KEEL_ACTIVATION_Q8;
    const keel_config* const kinds[] = {&exact, &pairs, &q8};
    for (const keel_config* from : kinds) {
        const std::vector<uint8_t> blob = saved(kTiny, *from);
        for (const keel_config* to : kinds)
            EXPECT_EQ(restored(kTiny, *to, blob), from == to ? KEEL_OK : KEEL_E_FILE_MISMATCH);
        EXPECT_EQ(restored(kTiny, config(1, 64), blob), from == &q8 ? KEEL_OK : KEEL_E_FILE_MISMATCH) << "the default";
    }
}

TEST_P(SessionText, StreamsWhatWasGeneratedAndStops) {
    keel_test::Engine engine(kBooks, config(1, 512));
    const keel_session s = engine.session();
    const std::vector<int32_t> prompt = engine.tokenize("It was a dark night", KEEL_TOKENIZE_BOS);
    keel_sampling p = sized<keel_sampling>();
    p.temperature = 0.8f;
    p.repetition_penalty = 1.1f;
    p.seed = 4;
    check(keel_session_set_sampling(s, &p), "sampling");
    const auto generate = [&](int limit, uint32_t* stopped, std::vector<int32_t>* drawn) {
        check(keel_session_truncate(s, 0), "truncate");
        engine.feed(prompt);
        std::string shown;
        *stopped = 0;
        for (int i = 0; i < limit && !*stopped; ++i) {
            engine.advance();
            const int32_t token = engine.sample();
            drawn->push_back(token);
            engine.feed({token});
            keel_text text = sized<keel_text>();
            check(keel_session_text(s, token, &text), "text");
            shown.append(text.data, text.bytes);
            *stopped = text.stopped;
        }
        keel_text text = sized<keel_text>();
        check(keel_session_text(s, -1, &text), "flush");
        return shown.append(text.data, text.bytes);
    };
    uint32_t stopped;
    std::vector<int32_t> drawn, all = prompt;
    const std::string free_text = generate(80, &stopped, &drawn);
    all.insert(all.end(), drawn.begin(), drawn.end());
    char buffer[4096];
    size_t n = 0, prefix = 0;
    check(keel_detokenize(engine.handle(), all.data(), all.size(), 0, buffer, sizeof buffer, &n), "detokenize");
    check(keel_detokenize(engine.handle(), prompt.data(), prompt.size(), 0, nullptr, 0, &prefix), "size");
    EXPECT_EQ(free_text, std::string(buffer + prefix, n - prefix)) << "streamed text is the detokenized text";
    // A stop string taken out of the middle of that text.
    const std::string stop = free_text.substr(free_text.size() / 2, 6);
    const char* texts[] = {stop.c_str()};
    const size_t bytes[] = {stop.size()};
    check(keel_session_set_stops(s, texts, bytes, 1), "stops");
    drawn.clear();
    const std::string stopped_text = generate(80, &stopped, &drawn);
    EXPECT_EQ(stopped, 1u);
    EXPECT_EQ(stopped_text, free_text.substr(0, free_text.find(stop)));
}

}  // namespace
