// Sessions where rules meet: reservations and forks, more sessions than columns, budgets without end, refused calls,
// neighbours on other threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <thread>

#include "platform/threads.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::check;
using keel_test::sized;

const std::string kTiny = keel_test::source_path("tests/data/architectures/smollm2-q8_0.gguf");
const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");

keel_config config(uint32_t sessions, uint32_t context = 256) {
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
keel_session open_session(keel_engine engine, uint64_t reserved_pages = 0) {
    keel_session_desc desc = sized<keel_session_desc>();
    desc.reserved_pages = reserved_pages;
    keel_session s;
    check(keel_session_open(engine, &desc, &s), "open");
    return s;
}
void feed(keel_session s, const std::vector<int32_t>& ids, uint32_t flags = 0) {
    check(keel_session_feed(s, ids.data(), static_cast<uint32_t>(ids.size()), flags), "feed");
}
keel_status advance_one(keel_engine e, keel_session s, uint64_t budget_us = 0, keel_advance_result* out = nullptr) {
    keel_advance_result r = sized<keel_advance_result>();
    const keel_status status = keel_advance(e, &s, 1, budget_us, &r);
    if (out) *out = r;
    return status;
}
std::vector<uint8_t> save(keel_session s) {
    uint64_t bytes = 0, written = 0;
    check(keel_session_save_bytes(s, &bytes), "save_bytes");
    std::vector<uint8_t> blob(bytes);
    check(keel_session_save(s, blob.data(), bytes, &written), "save");
    return blob;
}

class SessionEdges : public keel_test::OnBackend {};
KEEL_ON_EVERY_BACKEND(SessionEdges);

// Truncation keeps reserved pages, also those a fork shares by then: what is written next must not reach the fork.
TEST_P(SessionEdges, ReservedPagesOfAForkAreCopiedBeforeWriting) {
    keel_test::Engine engine(kTiny, config(3));
    const keel_session a = open_session(engine.handle(), 3);
    feed(a, some_ids(192));
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    keel_session b;
    ASSERT_EQ(keel_session_fork(a, &b), KEEL_OK);
    const std::vector<uint8_t> b_before = save(b);
    ASSERT_EQ(keel_session_truncate(a, 10), KEEL_OK);
    feed(a, some_ids(180, 9));
    ASSERT_EQ(advance_one(engine.handle(), a), KEEL_OK);
    EXPECT_EQ(save(b), b_before) << "K and V rows of the fork";
    // All pages come back.
    keel_stats stats = sized<keel_stats>();
    ASSERT_EQ(keel_session_close(a), KEEL_OK);
    ASSERT_EQ(keel_session_close(b), KEEL_OK);
    ASSERT_EQ(keel_engine_stats(engine.handle(), &stats), KEEL_OK);
    EXPECT_EQ(stats.kv_pages_free, engine.plan().kv_pages);
}

// With fewer columns than sessions some wait for the next step; each call brings every one of them on by a step, though
// rows of the step before are still there.
TEST_P(SessionEdges, AllLogitsSessionsThatWaitForAColumnAreServed) {
    keel_config c = config(3);
    c.chunk_tokens = 1;
    keel_test::Engine engine(kTiny, c);
    const keel_session sessions[] = {engine.session(), open_session(engine.handle()), open_session(engine.handle())};
    for (keel_session s : sessions) feed(s, some_ids(5), KEEL_FEED_ALL_LOGITS);
    for (uint32_t call = 1; call <= 5; ++call) {
        keel_advance_result r[3] = {sized<keel_advance_result>()};
        ASSERT_EQ(keel_advance(engine.handle(), sessions, 3, 0, r), KEEL_OK);
        for (int i = 0; i < 3; ++i) {
            EXPECT_EQ(r[i].computed_tokens, call) << i;
            EXPECT_EQ(r[i].logits_rows, 1u) << i;
        }
    }
}

// Prompts are cut at absolute multiples of a page, wherever they began and whoever shares the step.
TEST_P(SessionEdges, ChunksEndAtAbsolutePositions) {
    keel_config c = config(3, 1024);
    c.chunk_tokens = 200;
    keel_test::Engine engine(kTiny, c);
    keel_session sessions[2] = {open_session(engine.handle()), open_session(engine.handle())};
    feed(sessions[0], some_ids(37));
    check(advance_one(engine.handle(), sessions[0]), "first part");
    feed(sessions[0], some_ids(700));
    feed(sessions[1], some_ids(401));
    std::set<uint32_t> edges[2];
    for (bool going = true; going;) {
        keel_advance_result results[2] = {sized<keel_advance_result>()};
        going = keel_advance(engine.handle(), sessions, 2, 1, results) == KEEL_AGAIN;
        for (int i = 0; i < 2; ++i) edges[i].insert(results[i].computed_tokens);
    }
    for (int i = 0; i < 2; ++i) {
        const uint32_t begin = i ? 0 : 37, end = i ? 401 : 737;
        EXPECT_GE(edges[i].size(), 4u);
        EXPECT_TRUE(edges[i].count(end));
        for (uint32_t edge : edges[i]) EXPECT_TRUE(edge == begin || edge == end || edge % 64 == 0) << i << ": " << edge;
    }
}

TEST_P(SessionEdges, BudgetsBeyondTheClockAreNoDeadline) {
    keel_test::Engine engine(kBooks, config(1));
    for (uint64_t budget_us : {UINT64_MAX, UINT64_MAX / 1000 + 1, UINT64_MAX / 1000}) {
        check(keel_session_truncate(engine.session(), 0), "truncate");
        feed(engine.session(), some_ids(100));
        EXPECT_EQ(advance_one(engine.handle(), engine.session(), budget_us), KEEL_OK) << budget_us;
    }
}

TEST_P(SessionEdges, ResultsAreFilledWhenTheCallIsRefused) {
    keel_test::Engine engine(kTiny, config(2));
    const keel_session a = engine.session(), closed = open_session(engine.handle());
    ASSERT_EQ(keel_session_close(closed), KEEL_OK);
    const auto refused = [&](keel_engine e, std::vector<keel_session> named, keel_status status) {
        std::vector<keel_advance_result> r(named.size(), sized<keel_advance_result>());
        memset(r.data(), 0x5a, r.size() * sizeof r[0]);
        r[0].struct_size = sizeof r[0];
        EXPECT_EQ(keel_advance(e, named.data(), static_cast<uint32_t>(named.size()), 0, r.data()), status);
        for (const keel_advance_result& result : r) EXPECT_EQ(result.status, status);
    };
    refused(engine.handle(), {a, closed}, KEEL_E_HANDLE);
    refused(engine.handle(), {a, a}, KEEL_E_ARGUMENT);
    refused(engine.handle(), {a, a, a}, KEEL_E_ARGUMENT);
    refused({12345}, {a}, KEEL_E_HANDLE);
}

TEST_P(SessionEdges, SaveIntoTooLittleNamesTheNeed) {
    keel_test::Engine engine(kTiny, config(1));
    uint64_t need = 0, written = 0;
    uint8_t byte;
    ASSERT_EQ(keel_session_save_bytes(engine.session(), &need), KEEL_OK);
    EXPECT_EQ(keel_session_save(engine.session(), &byte, 1, &written), KEEL_E_BUFFER_TOO_SMALL);
    EXPECT_EQ(written, need);
}

// A call refused for its struct must not swallow the token.
TEST_P(SessionEdges, RefusedTextKeepsTheStream) {
    keel_test::Engine engine(kBooks, config(1));
    const std::vector<int32_t> ids = engine.tokenize("stream", 0);
    ASSERT_FALSE(ids.empty());
    const char* const stop = "streams";
    const size_t stop_bytes = 7;
    ASSERT_EQ(keel_session_set_stops(engine.session(), &stop, &stop_bytes, 1), KEEL_OK);
    keel_text bad = {}, good = sized<keel_text>();
    EXPECT_EQ(keel_session_text(engine.session(), ids[0], &bad), KEEL_E_ABI);
    ASSERT_EQ(keel_session_text(engine.session(), -1, &good), KEEL_OK);
    EXPECT_EQ(good.bytes, 0u) << "nothing was pushed";
}

// Each session on its own thread: one leaves the step they share while the other is used. For the thread sanitizer,
// too.
TEST_P(SessionEdges, LeavingASharedStepBesideANeighbourOnAnotherThread) {
    keel_test::Engine engine(kBooks, config(2, 512));
    const keel_session a = engine.session(), b = open_session(engine.handle());
    const std::vector<int32_t> ids = some_ids(200);
    for (int round = 0; round < 20; ++round) {
        feed(a, ids);
        feed(b, ids);
        const keel_session both[] = {a, b};
        keel_advance_result r[2] = {sized<keel_advance_result>()};
        ASSERT_EQ(keel_advance(engine.handle(), both, 2, 1, r), KEEL_AGAIN);
        std::thread leave([&] { EXPECT_EQ(keel_session_truncate(a, 0), KEEL_OK); });
        keel_session_info info = sized<keel_session_info>();
        while (keel_session_feed(b, ids.data(), 1, 0) == KEEL_E_BUSY) EXPECT_EQ(keel_session_get(b, &info), KEEL_OK);
        leave.join();
        ASSERT_EQ(keel_session_get(b, &info), KEEL_OK);
        EXPECT_EQ(info.token_count, 201u);
        EXPECT_EQ(info.computed_tokens, 0u);
        ASSERT_EQ(keel_session_truncate(b, 0), KEEL_OK);
    }
    keel_stats stats = sized<keel_stats>();
    ASSERT_EQ(keel_engine_stats(engine.handle(), &stats), KEEL_OK);
    EXPECT_EQ(stats.kv_pages_free, engine.plan().kv_pages);
}

// For the thread sanitizer: pages come and go while another thread looks.
TEST_P(SessionEdges, StatsFromAnotherThread) {
    keel_test::Engine engine(kTiny, config(1));
    std::atomic<bool> stop{false};
    std::thread watcher([&] {
        while (!stop) {
            keel_stats stats = sized<keel_stats>();
            EXPECT_EQ(keel_engine_stats(engine.handle(), &stats), KEEL_OK);
            EXPECT_LE(stats.kv_pages_free, engine.plan().kv_pages);
        }
    });
    for (int round = 0; round < 50; ++round) {
        feed(engine.session(), some_ids(100));
        EXPECT_EQ(advance_one(engine.handle(), engine.session()), KEEL_OK);
        EXPECT_EQ(keel_session_truncate(engine.session(), 0), KEEL_OK);
    }
    stop = true;
    watcher.join();
}

// What keel.h says of stacks: all that an application does from a thread of 256 KiB.
TEST(SessionEdges, AThreadWithASmallStack) {
    const auto work = [](void*) {
        static constexpr char kTemplate[] = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}";
        static constexpr char kSchema[] =
            R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}})";
        keel_reader chat_reader = sized<keel_reader>(), schema_reader = sized<keel_reader>();
        check(keel_reader_from_memory(kTemplate, sizeof kTemplate - 1, &chat_reader), "reader");
        check(keel_reader_from_memory(kSchema, sizeof kSchema - 1, &schema_reader), "reader");
        keel_grammar_options options = sized<keel_grammar_options>();
        options.json_schema = 1;
        const keel_part parts[] = {keel_test::part(KEEL_PART_CHAT_TEMPLATE, &chat_reader),
                                   keel_test::part(KEEL_PART_GRAMMAR, &schema_reader, &options)};
        keel_config c = config(2);
        c.threads = 2;
        c.draft_tokens = 4;
        c.drafters = KEEL_DRAFT_SUFFIX;
        c.parts = parts;
        c.part_count = 2;
        keel_test::Engine engine(kBooks, c);
        const keel_chat_message said = keel_test::message("user", "Hello there", 11);
        const keel_chat chat = keel_test::chat(&said, 1, true);
        int32_t ids[64];
        size_t count = 0;
        uint32_t kept = 0;
        check(keel_session_chat(engine.session(), &chat, &kept, ids, 64, &count, nullptr), "chat");
        check(keel_session_feed(engine.session(), ids, static_cast<uint32_t>(count), KEEL_FEED_SAMPLE), "feed");
        check(keel_session_set_grammar(engine.session(), KEEL_GRAMMAR_NEXT), "set_grammar");
        for (int i = 0; i < 4; ++i) {
            int32_t token = 0;
            check(advance_one(engine.handle(), engine.session()), "advance");
            check(keel_session_sample(engine.session(), &token), "sample");
            feed(engine.session(), {token}, KEEL_FEED_SAMPLE);
        }
        check(advance_one(engine.handle(), engine.session()), "advance");
        keel_session fork;
        check(keel_session_fork(engine.session(), &fork), "fork");
        const std::vector<uint8_t> blob = save(fork);
        check(keel_session_restore(fork, blob.data(), blob.size(), nullptr), "restore");
    };
    const size_t bytes = keel::platform::worker_stack_bytes();
    const std::unique_ptr<void, void (*)(void*)> stack(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096),
                                                       std::free);
    keel::platform::Thread thread;
    thread.entry = work;
    ASSERT_EQ(keel::platform::StartResult::kStarted, keel::platform::start_thread(&thread, stack.get()));
    keel::platform::join_thread(&thread);
}

}  // namespace
