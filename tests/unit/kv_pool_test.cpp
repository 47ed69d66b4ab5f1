// The pool of KV pages (sdk/kv/kv_arena.h) by itself: lists over the same pages, copies that are under way, and
// threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "sdk/kv/kv_arena.h"

namespace {

using keel::kNoPage;
using keel::kPageTokens;
using keel::KvPageList;

struct Pool : keel::KvPool {
    explicit Pool(uint32_t pages) : next(pages), counts(pages), owner(pages) {
        keel::kv_pool_init(this, pages, next.data(), counts.data());
    }
    std::vector<std::atomic<uint32_t>> next, counts;
    std::vector<uint32_t> owner;  // who wrote to the page last; plain memory, so that a thread sanitizer sees a race
    uint32_t free() { return keel::kv_usage(*this).free_pages; }
};

struct List : KvPageList {
    explicit List(uint32_t pages) : KvPageList{}, memory(pages) {
        ids = memory.data();
        copy_id = kNoPage;
    }
    std::vector<uint32_t> memory;
    std::vector<uint32_t> pages() const { return {ids, ids + count}; }
};

TEST(KvPool, ACopyUnderWayIsGivenUpByEveryChange) {
    enum Change { kTruncate, kEvict, kReplace, kRelease, kDone, kChanges };
    for (int change = 0; change < kChanges; ++change) {
        Pool pool(6);
        List a(4), b(4);
        ASSERT_EQ(keel::kv_make_writable(&pool, &a, 0, 2 * kPageTokens), KEEL_OK);
        keel::kv_fork(&pool, a, &b, 2 * kPageTokens);
        EXPECT_EQ(b.copy_id, kNoPage) << "full pages are shared";
        const uint32_t shared = b.ids[1];
        ASSERT_EQ(keel::kv_make_writable(&pool, &b, 2 * kPageTokens - 1, 3 * kPageTokens), KEEL_OK);
        ASSERT_NE(b.copy_id, kNoPage);
        EXPECT_EQ(b.copy_index, 1u);
        EXPECT_EQ(b.ids[1], shared) << "until all is copied";
        EXPECT_EQ(pool.free(), 2u);
        const uint32_t copy = b.copy_id;
        ASSERT_EQ(keel::kv_make_writable(&pool, &b, 2 * kPageTokens - 1, 3 * kPageTokens), KEEL_OK);
        EXPECT_EQ(b.copy_id, copy) << "asked again, it goes on";
        EXPECT_EQ(pool.free(), 2u);
        switch (change) {
            case kTruncate:
                keel::kv_truncate(&pool, &b, 2 * kPageTokens);
                break;
            case kEvict:
                keel::kv_evict(&pool, &b, 0, 1);
                break;
            case kReplace:
                ASSERT_EQ(keel::kv_replace(&pool, &b, 1, nullptr), KEEL_OK);
                break;
            case kRelease:
                keel::kv_release(&pool, &b);
                break;
            default:
                keel::kv_copied(&pool, &b);
                EXPECT_EQ(b.ids[1], copy);
        }
        EXPECT_EQ(b.copy_id, kNoPage);
        keel::kv_release(&pool, &b);
        EXPECT_EQ(pool.free(), 4u);
        keel::kv_release(&pool, &a);
        EXPECT_EQ(pool.free(), 6u);
    }
}

// Against a plain count: own pages are used again, no page is lost or held twice.
TEST(KvPool, ReplaceTakesWhatIsMissingOrNothing) {
    std::mt19937 random(5);
    for (int round = 0; round < 2000; ++round) {
        Pool pool(8);
        List a(8), b(8);
        const uint32_t have = random() % 5, shared = have ? random() % (have + 1) : 0,
                       tokens = random() % 9 * kPageTokens;
        const uint8_t evicted = static_cast<uint8_t>(random());
        ASSERT_EQ(keel::kv_make_writable(&pool, &a, 0, have * kPageTokens), KEEL_OK);
        keel::kv_fork(&pool, a, &b, shared * kPageTokens);
        const std::vector<uint32_t> before = a.pages();
        uint32_t want = 0;
        for (uint32_t i = 0; i < tokens / kPageTokens; ++i) want += !(evicted >> i & 1);
        const bool fits = want <= pool.free() + have - shared;
        ASSERT_EQ(keel::kv_replace(&pool, &a, tokens, &evicted), fits ? KEEL_OK : KEEL_E_KV_FULL);
        if (!fits) {
            EXPECT_EQ(a.pages(), before);
            continue;
        }
        ASSERT_EQ(a.count, tokens / kPageTokens);
        std::set<uint32_t> seen;
        for (uint32_t i = 0; i < a.count; ++i) {
            EXPECT_EQ(a.ids[i] == kNoPage, (evicted >> i & 1) != 0);
            if (a.ids[i] == kNoPage) continue;
            EXPECT_TRUE(seen.insert(a.ids[i]).second);
            EXPECT_EQ(std::count(b.ids, b.ids + b.count, a.ids[i]), 0) << "a page of another list";
        }
        EXPECT_EQ(pool.free(), 8 - want - shared);
        keel::kv_release(&pool, &a);
        keel::kv_release(&pool, &b);
        EXPECT_EQ(pool.free(), 8u);
    }
}

// Sessions come, fork, write, truncate and go on four threads over few pages: a page is written by one list only.
TEST(KvPool, ThreadsShareItWithoutALock) {
    constexpr uint32_t kThreads = 4, kRounds = 3000;
    Pool pool(24);
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < kThreads; ++t)
        threads.emplace_back([&pool, t] {
            std::mt19937 random(t);
            const auto write = [&](List* list, uint32_t from, uint32_t to) {
                if (keel::kv_make_writable(&pool, list, from, to) != KEEL_OK) return false;
                if (list->copy_id != kNoPage) {
                    pool.owner[list->copy_id] = pool.owner[list->ids[list->copy_index]];
                    keel::kv_copied(&pool, list);
                }
                for (uint32_t page = from / kPageTokens; page < keel::kv_pages_for(to); ++page)
                    pool.owner[list->ids[page]] = t;
                for (uint32_t page = from / kPageTokens; page < keel::kv_pages_for(to); ++page)
                    EXPECT_EQ(pool.owner[list->ids[page]], t);
                return true;
            };
            List a(8), b(8);
            for (uint32_t round = 0; round < kRounds; ++round) {
                const uint32_t tokens = 1 + random() % (6 * kPageTokens);
                if (!write(&a, 0, tokens)) continue;
                keel::kv_fork(&pool, a, &b, tokens - 1);
                if (random() % 2) keel::kv_evict(&pool, &b, 0, (tokens - 1) / kPageTokens);
                write(&b, tokens - 1, tokens + 1);
                write(&a, tokens - 1, tokens + 1);
                keel::kv_release(&pool, random() % 2 ? &a : &b);
                keel::kv_release(&pool, &a);
                keel::kv_release(&pool, &b);
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(pool.free(), 24u);
    EXPECT_LE(keel::kv_usage(pool).high_water_pages, 24u);
}

}  // namespace
