// The seam between engine and backend (sdk/backend/backend.h), seen through a backend that lags behind: nothing changes
// hands before it is done or drained, and one that fails poisons its engine and nothing else.
#include <gtest/gtest.h>

#include <random>

#include "sdk/core/hash.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::AsyncBackend;
using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");

std::vector<int32_t> some_ids(size_t n, uint32_t seed = 3) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 250);
    return ids;
}
void feed(keel_session s, const std::vector<int32_t>& ids) {
    check(keel_session_feed(s, ids.data(), static_cast<uint32_t>(ids.size()), 0), "feed");
}
keel_session open_session(keel_engine engine) {
    keel_session s;
    check(keel_session_open(engine, nullptr, &s), "open");
    return s;
}
keel_status advance_one(keel_engine e, keel_session s, uint64_t budget_us = 0) {
    keel_advance_result r = keel_test::sized<keel_advance_result>();
    const keel_status status = keel_advance(e, &s, 1, budget_us, &r);
    EXPECT_EQ(r.status, status);
    return status;
}
uint64_t logits_hash(keel_session s) {
    const float* view;
    uint32_t n;
    check(keel_session_logits(s, 0, &view, &n), "logits");
    return keel::hash64(view, n * sizeof(float));
}

#define KEEL_TEST_TRY(expression)                                       \
    do {                                                                \
        if (const keel_status s = (expression); s != KEEL_OK) return s; \
    } while (0)

class Backend : public testing::Test {
  protected:
    void SetUp() override { AsyncBackend::reset(); }
    static keel_config config(bool async, uint32_t sessions = 2) {
        keel_config c = sized<keel_config>();
        c.max_sessions = sessions;
        c.context_tokens = 256;
        c.kv_pages = 8;
        c.threads = 1;
        c.kv_sink_tokens = 4;
        c.kv_recent_tokens = 20;
        c.backend = async ? AsyncBackend::table() : nullptr;
        return c;
    }
    static uint64_t expected(const std::vector<int32_t>& ids) {
        keel_test::Engine cpu(kTiny, config(false));
        cpu.feed(ids);
        cpu.advance();
        return logits_hash(cpu.session());
    }
};

TEST_F(Backend, NotYetIsAgainAndNothingIsSeenBefore) {
    const std::vector<int32_t> ids = some_ids(100);
    const uint64_t whole = expected(ids);
    keel_test::Engine engine(kTiny, config(true));
    feed(engine.session(), ids);
    uint32_t calls = 0;
    keel_session_info info = sized<keel_session_info>();
    keel_status status;
    while ((status = advance_one(engine.handle(), engine.session(), 1000000)) == KEEL_AGAIN) {
        ++calls;
        const float* view;
        EXPECT_EQ(keel_session_logits(engine.session(), 0, &view, nullptr), KEEL_E_NO_LOGITS);
        check(keel_session_get(engine.session(), &info), "get");
        EXPECT_EQ(info.computed_tokens, 0u);
    }
    EXPECT_EQ(status, KEEL_OK);
    EXPECT_GT(calls, 20u);
    EXPECT_GT(AsyncBackend::get().not_yet, 10u);
    EXPECT_EQ(logits_hash(engine.session()), whole);
    EXPECT_EQ(AsyncBackend::get().refused, 0u);
}

// A session leaves a step in flight; its pages go to another one, whose rows late work must not touch.
TEST_F(Backend, PagesOfAStepInFlightChangeHandsAfterADrain) {
    const std::vector<int32_t> ids = some_ids(250), others = some_ids(200, 9);
    const uint64_t whole = expected(others);
    for (const bool drops : {false, true}) {
        for (const char* way : {"truncate", "close", "cancel"}) {
            SCOPED_TRACE(std::string(way) + (drops ? ", dropping" : ""));
            AsyncBackend::reset();
            AsyncBackend::get().drain_drops = drops;
            keel_test::Engine engine(kTiny, config(true));
            const keel_session a = engine.session(), b = open_session(engine.handle());
            feed(a, ids);
            for (int call = 0; call < 12; ++call)  // all of it is enqueued, most of it is not computed
                ASSERT_EQ(advance_one(engine.handle(), a, 1000000), KEEL_AGAIN);
            if (*way == 't') {
                ASSERT_EQ(keel_session_truncate(a, 0), KEEL_OK);
            } else if (way[1] == 'l') {
                ASSERT_EQ(keel_session_close(a), KEEL_OK);
            } else {
                ASSERT_EQ(keel_cancel(a), KEEL_OK);
                ASSERT_EQ(advance_one(engine.handle(), a, 1000000), KEEL_E_CANCELLED);
                ASSERT_EQ(keel_session_truncate(a, 0), KEEL_OK);
            }
            EXPECT_EQ(AsyncBackend::get().drained_in_flight, 1u);
            feed(b, others);
            ASSERT_EQ(advance_one(engine.handle(), b), KEEL_OK);
            EXPECT_EQ(logits_hash(b), whole);
            EXPECT_EQ(AsyncBackend::get().refused, 0u);
        }
    }
}

TEST_F(Backend, ClosingAnEngineWithAStepInFlight) {
    keel_test::Engine engine(kTiny, config(true));
    feed(engine.session(), some_ids(100));
    ASSERT_EQ(advance_one(engine.handle(), engine.session(), 1000000), KEEL_AGAIN);
    ASSERT_EQ(keel_engine_close(engine.handle()), KEEL_OK);
    EXPECT_EQ(AsyncBackend::get().drained_in_flight, 1u);
}

// Prompt, fork into a shared page, save and restore: every call of the backend fails once.
TEST_F(Backend, FailuresPoisonTheEngineAndNothingElse) {
    const std::vector<int32_t> ids = some_ids(70), more = some_ids(40, 9);
    const auto scenario = [&](keel_engine engine, keel_session a) -> keel_status {
        KEEL_TEST_TRY(keel_session_feed(a, ids.data(), 70, 0));
        keel_status status;
        while ((status = advance_one(engine, a, 1000000)) == KEEL_AGAIN) {
        }
        KEEL_TEST_TRY(status);
        keel_session b;
        KEEL_TEST_TRY(keel_session_fork(a, &b));
        KEEL_TEST_TRY(keel_session_truncate(b, 66));
        KEEL_TEST_TRY(keel_session_feed(b, more.data(), 40, 0));
        KEEL_TEST_TRY(advance_one(engine, b));
        std::vector<uint8_t> blob(1 << 20);
        uint64_t bytes = 0;
        KEEL_TEST_TRY(keel_session_save(b, blob.data(), blob.size(), &bytes));
        KEEL_TEST_TRY(keel_session_restore(a, blob.data(), bytes, nullptr));
        // A step that is left by a session, and one that is given up for a cancelled session.
        const uint32_t drained = AsyncBackend::get().drained_in_flight;
        KEEL_TEST_TRY(keel_session_feed(a, more.data(), 40, 0));
        if (const keel_status s = advance_one(engine, a, 1); s != KEEL_AGAIN) return s;
        KEEL_TEST_TRY(keel_session_truncate(a, 90));
        KEEL_TEST_TRY(keel_session_feed(b, more.data(), 40, 0));
        if (const keel_status s = advance_one(engine, b, 1); s != KEEL_AGAIN) return s;
        KEEL_TEST_TRY(keel_cancel(b));
        if (const keel_status s = advance_one(engine, b); s != KEEL_E_CANCELLED) return s;
        EXPECT_EQ(AsyncBackend::get().drained_in_flight, drained + 2);
        return KEEL_OK;
    };
    const struct {
        const char* name;
        uint32_t AsyncBackend::*left;
        bool every_call;
    } calls[] = {{"begin", &AsyncBackend::begins_left, true},
                 {"enqueue", &AsyncBackend::enqueues_left, true},
                 {"poll", &AsyncBackend::polls_left, false},
                 {"copy", &AsyncBackend::copies_left, true},
                 {"upload and download", &AsyncBackend::transfers_left, false},
                 {"drain", &AsyncBackend::drains_left, true}};
    for (const auto& call : calls) {
        SCOPED_TRACE(call.name);
        uint32_t failed = 0;
        for (uint32_t before = 0;; before += call.every_call ? 1 : 1 + before) {
            AsyncBackend::reset();
            AsyncBackend::get().ranges_per_poll = 100;
            AsyncBackend::get().*call.left = before;
            static uint32_t faults;
            static keel_engine watched;
            faults = 0;
            keel_config c = config(true, 3);
            keel_hooks hooks = keel_test::sized<keel_hooks>();
            hooks.fault = [](void*, const char*) {
                ++faults;
                keel_stats seen = sized<keel_stats>();  // no lock is held that this takes
                EXPECT_EQ(keel_engine_stats(watched, &seen), KEEL_OK);
            };
            c.hooks = &hooks;
            keel_test::Engine engine(kTiny, c);
            watched = engine.handle();
            const keel_status status = scenario(engine.handle(), engine.session());
            if (status == KEEL_OK) break;  // that many calls there are not
            ++failed;
            ASSERT_EQ(status, KEEL_E_POISONED);
            EXPECT_EQ(faults, 1u);
            EXPECT_EQ(AsyncBackend::get().refused, 0u);
            keel_stats stats = sized<keel_stats>();
            EXPECT_EQ(keel_engine_stats(engine.handle(), &stats), KEEL_OK);
            EXPECT_EQ(stats.engine_status, KEEL_E_POISONED);
            EXPECT_EQ(keel_session_feed(engine.session(), ids.data(), 1, 0), KEEL_E_POISONED);
            EXPECT_EQ(advance_one(engine.handle(), engine.session()), KEEL_E_POISONED);
            EXPECT_EQ(keel_session_close(engine.session()), KEEL_OK);
            EXPECT_EQ(keel_engine_close(engine.handle()), KEEL_OK);
        }
        EXPECT_GE(failed, 2u);
    }
    EXPECT_NE(expected(ids), 0u) << "other engines work";
}

}  // namespace
