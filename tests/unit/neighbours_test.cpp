// Sessions beside each other: what one does may cost a neighbour no more than its own budget, whatever their threads'
// priorities, and a call from inside a hook is refused, not run.
#include <gtest/gtest.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "sdk/core/hash.h"
#include "tests/async_backend.h"
#include "tests/test_engine.h"
#include "tests/test_paths.h"

namespace {

using keel_test::sized;

const std::string kBooks = keel_test::source_path("samples/models/books-7m-f16.gguf");
constexpr uint32_t kTileBytes = 64 * 1024;

std::vector<int32_t> ids(uint32_t n) {
    std::vector<int32_t> out(n);
    for (uint32_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(100 + i * 31 % 900);
    return out;
}
keel_config config(uint32_t sessions) {
    keel_config c = sized<keel_config>();
    c.context_tokens = 256;
    c.max_sessions = sessions;
    c.threads = 1;
    c.k_format = c.v_format = KEEL_KV_F32;  // pages of several tiles
    return c;
}
keel_status advance_one(keel_engine engine, keel_session s, uint64_t budget_us = 0) {
    keel_advance_result r = sized<keel_advance_result>();
    return keel_advance(engine, &s, 1, budget_us, &r);
}
uint64_t logits_hash(keel_session s) {
    const float* view;
    uint32_t n;
    keel_test::check(keel_session_logits(s, 0, &view, &n), "logits");
    return keel::hash64(view, n * sizeof(float));
}
uint32_t free_pages(keel_engine engine) {
    keel_stats stats = sized<keel_stats>();
    keel_test::check(keel_engine_stats(engine, &stats), "stats");
    return stats.kv_pages_free;
}

// The CPU backend, with every copy counted.
uint32_t copies, largest_copy;
const keel_backend* counting_backend() {
    static const keel_backend backend = [] {
        keel_backend b = {keel::kCpuBackend};
        b.copy = [](keel::Device* device, keel_region_kind region, uint64_t to, uint64_t from, uint64_t bytes) {
            ++copies;
            if (bytes > largest_copy) largest_copy = static_cast<uint32_t>(bytes);
            return keel::kCpuBackend.copy(device, region, to, from, bytes);
        };
        return b;
    }();
    return &backend;
}

TEST(Neighbours, TheFirstWriteIntoASharedPageIsCutByTheBudget) {
    keel_config c = config(2);
    c.backend = counting_backend();
    keel_test::Engine engine(kBooks, c);
    const keel_session a = engine.session();
    const uint32_t tiles = static_cast<uint32_t>((engine.plan().kv_page_bytes + kTileBytes - 1) / kTileBytes);
    ASSERT_GE(tiles, 3u);
    engine.feed(ids(64));
    engine.advance();
    const uint64_t whole = logits_hash(a);
    copies = largest_copy = 0;
    for (const char* way : {"to the end", "truncated", "closed"}) {
        SCOPED_TRACE(way);
        keel_session b;
        ASSERT_EQ(keel_session_fork(a, &b), KEEL_OK);
        ASSERT_EQ(copies, 0u) << "a full page is shared";
        ASSERT_EQ(keel_session_truncate(b, 63), KEEL_OK);
        const int32_t last = ids(64)[63];
        ASSERT_EQ(keel_session_feed(b, &last, 1, 0), KEEL_OK);
        for (uint32_t call = 1; call <= 2; ++call) {
            ASSERT_EQ(advance_one(engine.handle(), b, 1), KEEL_AGAIN);
            EXPECT_EQ(copies, call) << "one tile a call, where the budget allows none";
        }
        EXPECT_EQ(free_pages(engine.handle()), engine.plan().kv_pages - 2);
        if (*way == 't' && way[1] == 'r') {
            ASSERT_EQ(keel_session_truncate(b, 0), KEEL_OK);
            EXPECT_EQ(free_pages(engine.handle()), engine.plan().kv_pages - 1);
        } else if (*way == 't') {
            keel_status status;
            while ((status = advance_one(engine.handle(), b, 1)) == KEEL_AGAIN) {
            }
            ASSERT_EQ(status, KEEL_OK);
            EXPECT_EQ(copies, tiles);
            EXPECT_EQ(logits_hash(b), whole);
        }
        ASSERT_EQ(keel_session_close(b), KEEL_OK);
        EXPECT_EQ(free_pages(engine.handle()), engine.plan().kv_pages - 1);
        EXPECT_LE(largest_copy, kTileBytes);
        copies = 0;
    }
}

// A fork shares the page that is not full yet as well: it copies nothing, however large pages are, and who appends
// first copies it tile by tile. What both compute is what a session alone computes.
TEST(Neighbours, AForkCopiesNoPageAndTheFirstToAppendDoes) {
    keel_config c = config(3);
    c.backend = counting_backend();
    keel_test::Engine engine(kBooks, c);
    const keel_session a = engine.session();
    const uint32_t tiles = static_cast<uint32_t>((engine.plan().kv_page_bytes + kTileBytes - 1) / kTileBytes);
    ASSERT_GE(tiles, 3u);
    keel_session alone;
    ASSERT_EQ(keel_session_open(engine.handle(), nullptr, &alone), KEEL_OK);
    const auto all = ids(101);
    ASSERT_EQ(keel_session_feed(alone, all.data(), 101, 0), KEEL_OK);
    ASSERT_EQ(advance_one(engine.handle(), alone), KEEL_OK);
    const uint64_t expected = logits_hash(alone);
    ASSERT_EQ(keel_session_close(alone), KEEL_OK);
    for (const bool origin_first : {false, true}) {
        SCOPED_TRACE(origin_first);
        ASSERT_EQ(keel_session_truncate(a, 0), KEEL_OK);
        engine.feed(ids(100));
        engine.advance();
        const uint32_t free_before = free_pages(engine.handle());
        copies = largest_copy = 0;
        keel_session b;
        ASSERT_EQ(keel_session_fork(a, &b), KEEL_OK);
        EXPECT_EQ(copies, 0u);
        EXPECT_EQ(free_pages(engine.handle()), free_before);
        for (const keel_session s : {origin_first ? a : b, origin_first ? b : a}) {
            ASSERT_EQ(keel_session_feed(s, &all[100], 1, 0), KEEL_OK);
            uint32_t calls = 0;
            keel_status status;
            while ((status = advance_one(engine.handle(), s, 1)) == KEEL_AGAIN) ++calls;
            ASSERT_EQ(status, KEEL_OK);
            EXPECT_EQ(copies, tiles) << "the first one copies, the other one has the page for itself";
            EXPECT_GE(calls, tiles);
            EXPECT_EQ(logits_hash(s), expected);
        }
        EXPECT_LE(largest_copy, kTileBytes);
        EXPECT_EQ(free_pages(engine.handle()), free_before - 1);
        ASSERT_EQ(keel_session_close(b), KEEL_OK);
    }
}

// Where no page is left for the copy, who wants to append stops with KEEL_E_KV_FULL, and goes on once the other is
// gone.
TEST(Neighbours, ASharedPageWithoutRoomForACopy) {
    keel_config c = config(2);
    c.kv_pages = 2;
    keel_test::Engine engine(kBooks, c);
    const keel_session a = engine.session();
    engine.feed(ids(100));
    engine.advance();
    keel_session b;
    ASSERT_EQ(keel_session_fork(a, &b), KEEL_OK);
    const int32_t next = ids(101)[100];
    for (const keel_session s : {a, b}) {
        ASSERT_EQ(keel_session_feed(s, &next, 1, 0), KEEL_OK);
        EXPECT_EQ(advance_one(engine.handle(), s), KEEL_E_KV_FULL);
    }
    ASSERT_EQ(keel_session_close(a), KEEL_OK);
    EXPECT_EQ(advance_one(engine.handle(), b), KEEL_OK);
}

#ifdef __linux__
// One core, two threads: a neighbour without priority forks all the time, a thread under SCHED_FIFO advances with a
// budget. Whenever it waits for something its neighbour holds, it keeps that neighbour from running: it would stand
// until the kernel throttles it, for most of a second.
TEST(Neighbours, AForkingNeighbourDoesNotHoldUpARealTimeThread) {
    cpu_set_t before, one;
    if (sched_getaffinity(0, sizeof before, &before) != 0) GTEST_SKIP() << "no affinity";
    CPU_ZERO(&one);
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &before)) {
            CPU_SET(core, &one);
            break;
        }
    keel_test::Engine engine(kBooks, config(3));
    const keel_session a = engine.session();
    engine.feed(ids(60));
    engine.advance();
    keel_session b;
    ASSERT_EQ(keel_session_open(engine.handle(), nullptr, &b), KEEL_OK);
    std::atomic<bool> stop{false}, refused{false};
    std::atomic<uint32_t> forks{0};
    std::thread neighbour([&] {
        sched_setaffinity(0, sizeof one, &one);
        while (!stop) {
            keel_session copy;
            EXPECT_EQ(keel_session_fork(a, &copy), KEEL_OK);
            EXPECT_EQ(keel_session_close(copy), KEEL_OK);
            ++forks;
        }
    });
    constexpr std::chrono::milliseconds kLimit(400);
    std::chrono::nanoseconds longest{0};
    std::thread real_time([&] {
        sched_setaffinity(0, sizeof one, &one);
        sched_param parameters = {};
        parameters.sched_priority = 1;
        if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) {
            refused = true;
            return;
        }
        const int32_t token = 100;
        for (int round = 0; round < 300 && longest < kLimit; ++round) {
            std::this_thread::sleep_for(std::chrono::microseconds(700 + round % 7 * 50));
            const auto begin = std::chrono::steady_clock::now();
            EXPECT_EQ(keel_session_feed(b, &token, 1, 0), KEEL_OK);
            const keel_status status = advance_one(engine.handle(), b, 300);
            EXPECT_TRUE(status == KEEL_OK || status == KEEL_AGAIN);
            EXPECT_EQ(keel_session_truncate(b, 0), KEEL_OK);
            longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - begin);
        }
    });
    real_time.join();
    stop = true;
    neighbour.join();
    if (refused) GTEST_SKIP() << "SCHED_FIFO is not permitted";
    EXPECT_GT(forks, 0u);
    EXPECT_LT(longest, kLimit);
}

#endif

// ---- hooks ----

// What a hook calls; set by the tests.
std::function<void(keel_session)> inside;
bool entered;
void enter_once(keel_session s) {
    if (!inside) return;
    entered = true;
    std::exchange(inside, nullptr)(s);
}

// Every call that works on a session is refused while another call uses it; what any thread may call works.
void expect_busy(keel_engine engine, keel_session s) {
    int32_t id = 5;
    uint64_t bytes = 0;
    uint8_t blob[256] = {};
    const float* view;
    float logprob;
    keel_session fork;
    keel_text text = sized<keel_text>();
    EXPECT_EQ(keel_session_feed(s, &id, 1, 0), KEEL_E_BUSY);
    EXPECT_EQ(advance_one(engine, s), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_sample(s, &id), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_truncate(s, 0), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_evict(s, 0, 0, nullptr), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_fork(s, &fork), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_save_bytes(s, &bytes), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_save(s, blob, sizeof blob, &bytes), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_restore(s, blob, sizeof blob, nullptr), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_set_sampling(s, nullptr), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_set_stops(s, nullptr, nullptr, 0), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_set_variant(s, KEEL_VARIANT_DENSE), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_text(s, -1, &text), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_logits(s, 0, &view, nullptr), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_hidden(s, 0, &view, nullptr), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_top_logprobs(s, 1, &id, &logprob), KEEL_E_BUSY);
    EXPECT_EQ(keel_session_close(s), KEEL_E_BUSY);
    EXPECT_EQ(keel_engine_close(engine), KEEL_E_BUSY);
    size_t count = 0;
    EXPECT_EQ(keel_tokenize(engine, "text", 4, 0, nullptr, 0, &count), KEEL_OK);
    EXPECT_EQ(keel_detokenize(engine, &id, 1, 0, nullptr, 0, &count), KEEL_OK);
    keel_session_info info = sized<keel_session_info>();
    EXPECT_EQ(keel_session_get(s, &info), KEEL_OK);
}

TEST(Neighbours, HooksThatCallBackAreBusy) {
    static keel_engine engine_here;
    static keel_session session_here;
    keel_hooks hooks = sized<keel_hooks>();
    hooks.allowed_tokens = [](void*, keel_session s, const int32_t*, uint32_t, uint8_t*, uint32_t) { enter_once(s); };
    hooks.parallel_for = [](void*, uint32_t tasks, void (*task)(void*, uint32_t), void* context) {
        enter_once(session_here);
        for (uint32_t i = 0; i < tasks; ++i) task(context, i);
    };
    keel_config c = config(2);
    c.threads = 2;
    c.hooks = &hooks;
    keel_test::Engine engine(kBooks, c);
    engine_here = engine.handle(), session_here = engine.session();
    engine.feed(ids(20));
    inside = [](keel_session s) { expect_busy(engine_here, s); };
    engine.advance();
    EXPECT_TRUE(std::exchange(entered, false)) << "parallel_for";
    inside = [](keel_session s) { expect_busy(engine_here, s); };
    EXPECT_GE(engine.sample(), 0);
    EXPECT_TRUE(std::exchange(entered, false)) << "allowed_tokens";
    EXPECT_EQ(keel_session_truncate(engine.session(), 0), KEEL_OK) << "and is free again";
}

TEST(Neighbours, TheFaultHookClosesNothing) {
    static keel_engine engine_here;
    static keel_session session_here;
    keel_test::AsyncBackend::reset();
    keel_hooks hooks = sized<keel_hooks>();
    hooks.fault = [](void*, const char*) {
        entered = true;
        EXPECT_EQ(keel_session_close(session_here), KEEL_E_BUSY);
        EXPECT_EQ(keel_engine_close(engine_here), KEEL_E_BUSY);
    };
    keel_config c = config(2);
    c.hooks = &hooks;
    c.backend = keel_test::AsyncBackend::table();
    keel_test::Engine engine(kBooks, c);
    engine_here = engine.handle(), session_here = engine.session();
    engine.feed(ids(20));
    while (advance_one(engine_here, session_here) == KEEL_AGAIN) {
    }
    keel_test::AsyncBackend::get().copies_left = 0;
    entered = false;
    EXPECT_EQ(keel_session_shift(session_here, 0, 5), KEEL_E_POISONED);
    EXPECT_TRUE(std::exchange(entered, false));
    keel_test::AsyncBackend::reset();
}

TEST(Neighbours, TheLogHookDoesNotCloseWhatCallsIt) {
    // The handle is written before the hook is called.
    static keel_engine out;
    static keel_status closed;
    keel_hooks hooks = sized<keel_hooks>();
    hooks.log = [](void*, keel_log_level, keel_status, const char*) { closed = keel_engine_close(out); };
    keel_config c = config(1);
    c.hooks = &hooks;
    keel_test::FileReader reader(kBooks);
    keel_model_info info = sized<keel_model_info>();
    ASSERT_EQ(keel_inspect(reader.get(), nullptr, nullptr, 0, nullptr, &info, nullptr), KEEL_OK);
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model;
    ASSERT_EQ(keel_inspect(reader.get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, nullptr), KEEL_OK);
    keel_memory_plan plan = sized<keel_memory_plan>();
    ASSERT_EQ(keel_plan(reader.get(), model, &c, &plan, nullptr), KEEL_OK);
    keel_test::Memory memory(plan);
    ASSERT_EQ(keel_engine_init(reader.get(), model, &c, memory.get(), &out, nullptr), KEEL_OK);
    EXPECT_EQ(closed, KEEL_E_BUSY);
    EXPECT_EQ(keel_engine_close(out), KEEL_OK);
}

}  // namespace
