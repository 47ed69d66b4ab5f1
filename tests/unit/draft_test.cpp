// What drafts tokens (sdk/draft): each source against plain code, pool files against damage, and how many drafts are
// worth a step.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/draft/drafter.h"
#include "sdk/draft/session_odds.h"

namespace {

using keel::Arena;
using keel::Drafter;
using keel::PoolMatch;
using keel::RecycledLogits;
using keel::StepCosts;
using keel::SuffixIndex;
using keel::SuffixMatch;
using keel::TokenPool;
using Tokens = std::vector<int32_t>;

// Anything that is placed, in memory of exactly the bytes that it counts.
template <class T>
struct Placed : T {
    template <class... Args>
    explicit Placed(Args... args) {
        Arena count;
        T().place(&count, args...);
        memory.resize(count.used_bytes() + 64);
        uint8_t* begin = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        Arena arena(begin, count.used_bytes());
        T::place(&arena, args...);
        EXPECT_TRUE(arena.ok());
        EXPECT_EQ(count.used_bytes(), arena.used_bytes());
    }
    std::vector<uint8_t> memory;
};

Tokens random_text(std::mt19937& random, uint32_t count, int32_t alphabet) {
    Tokens text(count);
    for (int32_t& token : text) token = static_cast<int32_t>(random() % static_cast<uint32_t>(alphabet));
    return text;
}

// ---- suffixes ----

// Length of the common suffix of the first `a` and the first `b` tokens, up to what the index looks at.
uint32_t common(const Tokens& text, uint32_t a, uint32_t b) {
    uint32_t length = 0;
    while (length < std::min(a, b) && length < SuffixIndex::kMostLength && text[a - 1 - length] == text[b - 1 - length])
        ++length;
    return length;
}

// *easy counts texts whose longest suffix has few occurrences, *exact those of them where it was found: not, where
// other suffixes share its bucket and fill the chain.
void expect_longest(const Tokens& text, uint32_t count, const SuffixMatch& match, uint32_t* easy, uint32_t* exact) {
    uint32_t longest = 0, latest = 0;
    std::array<uint32_t, SuffixIndex::kOrderCount> occurrences = {};
    for (uint32_t p = 1; p < count; ++p) {
        const uint32_t length = common(text, p, count);
        if (length >= longest && length) longest = length, latest = p;
        for (uint32_t o = 0; o < SuffixIndex::kOrderCount; ++o) occurrences[o] += length >= SuffixIndex::kOrders[o];
    }
    if (match.length) {
        ASSERT_EQ(match.length, common(text, match.next, count));
    }
    if (longest < SuffixIndex::kLeastLength) {
        ASSERT_EQ(0u, match.length);
        return;
    }
    uint32_t order = 0;
    while (SuffixIndex::kOrders[order] > longest) ++order;
    if (occurrences[order] > SuffixIndex::kMostTries) return;
    ++*easy;
    *exact += longest == match.length && latest == match.next;
}

TEST(DraftSuffixIndex, FindsTheLongestEarlierSuffix) {
    std::mt19937 random(1);
    uint32_t easy = 0, exact = 0;
    for (int32_t alphabet : {2, 3, 8, 40}) {
        const Tokens text = random_text(random, 600, alphabet);
        Placed<SuffixIndex> index(600u, 0);
        index.clear();
        for (uint32_t count = 0; count <= text.size(); ++count) {
            index.add(text.data(), count);
            expect_longest(text, count, index.find(text.data(), count), &easy, &exact);
        }
    }
    EXPECT_GT(easy, 900u);
    EXPECT_GT(exact, 0.99 * easy);
}

TEST(DraftSuffixIndex, RewindingLeavesNoTrace) {
    std::mt19937 random(2);
    Tokens text = random_text(random, 400, 4);
    Placed<SuffixIndex> index(400u, 0), fresh(400u, 0);
    index.clear();
    for (int round = 0; round < 60; ++round) {
        const uint32_t more = index.indexed() + static_cast<uint32_t>(random() % (400 - index.indexed() + 1));
        index.add(text.data(), more);
        const uint32_t less = static_cast<uint32_t>(random() % (more + 1));
        index.rewind(text.data(), less);
        for (uint32_t i = less; i < text.size(); ++i) text[i] = static_cast<int32_t>(random() % 4);
        fresh.clear();
        fresh.add(text.data(), less);
        const SuffixMatch a = index.find(text.data(), less), b = fresh.find(text.data(), less);
        ASSERT_EQ(b.next, a.next);
        ASSERT_EQ(b.length, a.length);
    }
}

// ---- the pool ----

TEST(DraftPool, TheMostFrequentBehindTheLongestContext) {
    Placed<TokenPool> pool(uint64_t{1} << 16);
    pool.clear();
    const Tokens context = {1, 2, 3, 4, 5};
    const auto end = context.data() + context.size();
    EXPECT_EQ(0u, pool.find(end, 5).count);
    pool.learn(end, 5, 70);
    pool.learn(end, 5, 60);
    EXPECT_EQ(60, pool.find(end, 5).token) << "equal counts: the lowest id";
    pool.learn(end, 5, 70);
    PoolMatch match = pool.find(end, 5);
    EXPECT_EQ(70, match.token);
    EXPECT_EQ(2u, match.count);
    EXPECT_EQ(0u, match.order);
    const Tokens other = {9, 2, 3, 4, 5};  // the last three are the same, the last five are not
    match = pool.find(other.data() + 5, 5);
    EXPECT_EQ(70, match.token);
    EXPECT_EQ(1u, match.order);
    EXPECT_EQ(2u, pool.find(end, 2).order) << "only two tokens are there";
    EXPECT_EQ(0u, pool.find(end, 1).count);
    for (int i = 0; i < 600; ++i) pool.learn(end, 5, 70);
    EXPECT_EQ(TokenPool::kMostCount, pool.find(end, 5).count);
}

// A line that is full: what is frequent stays whatever passes by, and gives way to what is more frequent.
TEST(DraftPool, FrequentEntriesStay) {
    Placed<TokenPool> pool(uint64_t{TokenPool::kLineBytes});
    pool.clear();
    const Tokens context = {1, 2};
    for (int i = 0; i < 40; ++i) pool.learn(context.data() + 2, 2, 5);
    for (int32_t next = 100; next < 130; ++next) pool.learn(context.data() + 2, 2, next);
    EXPECT_EQ(5, pool.find(context.data() + 2, 2).token);
    for (int i = 0; i < 100; ++i) pool.learn(context.data() + 2, 2, 6);
    EXPECT_EQ(6, pool.find(context.data() + 2, 2).token);
    // Eight that came twice: a ninth wears one of them down first, then takes its place.
    pool.clear();
    for (int32_t next = 0; next < 16; ++next) pool.learn(context.data() + 2, 2, next / 2);
    for (int i = 0; i < 9; ++i) pool.learn(context.data() + 2, 2, 50);
    EXPECT_EQ(50, pool.find(context.data() + 2, 2).token);
    EXPECT_EQ(8u, pool.find(context.data() + 2, 2).count);
}

TEST(DraftPool, ThreadsLearnAndFind) {
    Placed<TokenPool> pool(uint64_t{1} << 12);
    pool.clear();
    std::vector<std::thread> threads;
    std::atomic<uint32_t> strange{0};
    for (uint32_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            std::mt19937 random(t);
            const Tokens text = random_text(random, 4000, 7);
            for (uint32_t p = 0; p < text.size(); ++p) {
                pool.learn(text.data() + p, p, text[p]);
                const PoolMatch match = pool.find(text.data() + p, p);
                strange += match.count && (match.token < 0 || match.token >= 7);
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(0u, strange);
}

struct PoolFile {
    static constexpr uint64_t kTokenizer = 0x1234567890abcdefull;
    static constexpr uint32_t kVocabulary = 50;
    Placed<TokenPool> pool{uint64_t{4 * TokenPool::kLineBytes}};
    std::string bytes;

    PoolFile() {
        pool.clear();
        std::mt19937 random(3);
        const Tokens text = random_text(random, 40, kVocabulary);
        for (uint32_t p = 0; p < text.size(); ++p) pool.learn(text.data() + p, p, text[p]);
        bytes.resize(TokenPool::file_bytes(pool.bytes()));
        pool.write(kTokenizer, kVocabulary, bytes.data());
    }
    static keel_status read(TokenPool* into, const std::string& file, uint64_t tokenizer = kTokenizer,
                            uint32_t vocabulary = kVocabulary) {
        keel_reader reader = KEEL_READER_INIT;
        EXPECT_EQ(KEEL_OK, keel_reader_from_memory(file.data(), file.size(), &reader));
        return into->read(reader, tokenizer, vocabulary, nullptr);
    }
    void seal() {
        const uint64_t checksum = keel::hash64(bytes.data(), bytes.size() - 8);
        memcpy(bytes.data() + bytes.size() - 8, &checksum, 8);
    }
};

bool empty(const TokenPool& pool) {
    std::string bytes(TokenPool::file_bytes(pool.bytes()), 0);
    pool.write(0, 0, bytes.data());
    return std::all_of(bytes.begin() + sizeof(keel::TokenPoolHeader), bytes.end() - 8, [](char c) { return c == 0; });
}

TEST(DraftPool, FilesAreTheSameAgain) {
    const PoolFile file;
    Placed<TokenPool> pool(file.pool.bytes());
    keel_reader reader = KEEL_READER_INIT;
    ASSERT_EQ(KEEL_OK, keel_reader_from_memory(file.bytes.data(), file.bytes.size(), &reader));
    uint64_t bytes = 0;
    ASSERT_EQ(KEEL_OK, TokenPool::file_pool_bytes(reader, &bytes, nullptr));
    EXPECT_EQ(file.pool.bytes(), bytes);
    ASSERT_EQ(KEEL_OK, PoolFile::read(&pool, file.bytes));
    std::string again(file.bytes.size(), 0);
    pool.write(PoolFile::kTokenizer, PoolFile::kVocabulary, again.data());
    EXPECT_EQ(file.bytes, again);
    EXPECT_FALSE(empty(pool));
}

TEST(DraftPool, DamagedAndForeignFilesLeaveAnEmptyPool) {
    PoolFile file;
    Placed<TokenPool> pool(file.pool.bytes());
    for (size_t bit = 0; bit < file.bytes.size() * 8; ++bit) {
        std::string flipped = file.bytes;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
        ASSERT_NE(KEEL_OK, PoolFile::read(&pool, flipped)) << bit;
        ASSERT_TRUE(empty(pool)) << bit;
    }
    for (size_t bytes = 0; bytes < file.bytes.size(); bytes += 3)
        ASSERT_NE(KEEL_OK, PoolFile::read(&pool, file.bytes.substr(0, bytes))) << bytes;
    EXPECT_EQ(KEEL_E_FILE_FORMAT, PoolFile::read(&pool, file.bytes + "x"));
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, PoolFile::read(&pool, file.bytes, PoolFile::kTokenizer + 1));
    EXPECT_EQ(KEEL_E_FILE_MISMATCH, PoolFile::read(&pool, file.bytes, PoolFile::kTokenizer, 49));
    Placed<TokenPool> larger(2 * file.pool.bytes());
    EXPECT_EQ(KEEL_E_FILE_FORMAT, PoolFile::read(&larger, file.bytes)) << "changed since it was planned";
    // Entries that no pool writes, under a right checksum: a token beyond the vocabulary, none at all, no tag.
    const size_t first = sizeof(keel::TokenPoolHeader);
    for (uint64_t entry : {uint64_t{7} << 32 | 50 << 8 | 1, uint64_t{7} << 32 | 3 << 8, uint64_t{3 << 8 | 1}}) {
        PoolFile hostile;
        memcpy(hostile.bytes.data() + first, &entry, sizeof entry);
        hostile.seal();
        EXPECT_EQ(KEEL_E_FILE_FORMAT, PoolFile::read(&pool, hostile.bytes)) << entry;
        EXPECT_TRUE(empty(pool));
    }
}

// ---- recycled logits ----

TEST(DraftRecycledLogits, TheLargestOfARow) {
    std::mt19937 random(4);
    for (uint32_t vocabulary : {1u, 7u, 8u, 9u, 30u, 1000u}) {
        Placed<RecycledLogits> recycled(vocabulary);
        recycled.clear();
        EXPECT_EQ(-1, recycled.at(0, 0));
        for (int round = 0; round < 50; ++round) {
            std::vector<float> logits(vocabulary);
            for (float& x : logits) {
                x = static_cast<float>(random() % 40);  // with ties
                if (random() % 16 == 0) x = -INFINITY;
                if (random() % 64 == 0) x = NAN;
            }
            std::vector<uint32_t> order;
            for (uint32_t i = 0; i < vocabulary; ++i)
                if (!std::isnan(logits[i])) order.push_back(i);
            std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
            const int32_t token = static_cast<int32_t>(random() % vocabulary);
            int32_t ids[RecycledLogits::kWidth];
            recycled.largest(logits.data(), ids);
            recycled.learn(token, ids);
            for (uint32_t i = 0; i < RecycledLogits::kWidth; ++i)
                ASSERT_EQ(i < order.size() ? static_cast<int32_t>(order[i]) : -1, recycled.at(token, i));
        }
    }
}

// A row answers for the next time: what it says of the token drawn from it counts for nothing.
TEST(DraftRecycledLogits, AreAskedBeforeTheyLearn) {
    constexpr uint32_t kVocabulary = 40, kTokens = 300;
    std::mt19937 random(11);
    // Every token is followed by another one each time, so that what came last is always wrong.
    Tokens text = {0};
    std::vector<int32_t> last(kVocabulary, 0);
    while (text.size() < kTokens) {
        int32_t& before = last[static_cast<size_t>(text.back())];
        before = static_cast<int32_t>((static_cast<uint32_t>(before) + 1 + random() % (kVocabulary - 1)) % kVocabulary);
        text.push_back(before);
    }
    Placed<RecycledLogits> recycled(kVocabulary);
    recycled.clear();
    Placed<Drafter> drafter(0u, 0);
    drafter.open({nullptr, &recycled}, true);
    const std::vector<uint8_t> drawn(kTokens / 8 + 1, 0xff);
    const double cheap[] = {1, 1.05};
    uint32_t drafted = 0;
    for (uint32_t count = 1; count < kTokens; ++count) {
        drafter.follow(text.data(), count, drawn.data());
        int32_t drafts[keel::kMaxDrafts];
        const uint32_t n = drafter.draft(text.data(), {{cheap, 2}, 1, 1}, 1, drafts, nullptr);
        if (n) {
            EXPECT_NE(text[count], drafts[0]);
        }
        drafted += n;
        std::vector<float> logits(kVocabulary, 0);
        logits[static_cast<size_t>(text[count])] = 1;
        drafter.see_logits(count, logits.data());
        drafter.verified({{cheap, 2}, 1, 1}, n, 0);
    }
    EXPECT_LT(drafted, 60u) << "nothing was right in 300 tokens";
}

// What a row said of a token that was taken back is not learned for the one that stands there now.
TEST(DraftRecycledLogits, ForgetRowsOfATextThatIsCut) {
    constexpr uint32_t kVocabulary = 40;
    Placed<RecycledLogits> recycled(kVocabulary);
    recycled.clear();
    Placed<Drafter> drafter(0u, 0);
    drafter.open({nullptr, &recycled}, true);
    Tokens text = {1, 2, 3, 4, 5, 6};
    const std::vector<uint8_t> drawn(1, 0xff);
    std::vector<float> logits(kVocabulary, 0);
    logits[6] = 1;
    // Accepted drafts are tokens that follow() is not told of before the next step.
    for (const uint32_t cut : {4u, 5u}) {
        drafter.follow(text.data(), 3, drawn.data());
        drafter.see_logits(5, logits.data());
        drafter.rewind(text.data(), cut);
        Tokens other = text;
        if (cut < 5) other[4] = 9;
        drafter.follow(other.data(), 6, drawn.data());
        EXPECT_EQ(cut < 5 ? -1 : 6, recycled.at(other[4], 0)) << "cut to " << cut;
        drafter.rewind(other.data(), 0);
    }
}

// ---- how many ----

constexpr double kAvx2Costs[] = {1, 1.35, 1.5, 1.7, 2.1, 2.5, 2.9, 3.2};
constexpr double kMemoryBoundCosts[] = {1, 1.05, 1.1, 1.2, 1.25, 1.3, 1.4, 1.45};
constexpr double kLinearCosts[] = {1, 2};

struct Replayed {
    uint32_t steps = 0, drafted = 0, accepted = 0;
    double time = 0;  // in steps of one token
};

// The text behind its first `prompt` tokens, as a session that drafts would write it.
Replayed replay(const Tokens& text, uint32_t prompt, const StepCosts& costs, const keel::SharedSources& sources = {}) {
    Placed<Drafter> drafter(static_cast<uint32_t>(text.size()), 0);
    drafter.open(sources, true);
    std::vector<uint8_t> drawn(text.size() / 8 + 1);
    Replayed result;
    for (uint32_t count = prompt; count < text.size();) {
        drafter.follow(text.data(), count, drawn.data());
        int32_t drafts[keel::kMaxDrafts];
        const uint32_t left = static_cast<uint32_t>(text.size()) - count - 1;
        const uint32_t n = drafter.draft(text.data(), {costs, 1, 1}, std::min(left, keel::kMaxDrafts), drafts, nullptr);
        uint32_t right = 0;
        while (right < n && drafts[right] == text[count + right]) ++right;
        drafter.verified({costs, 1, 1}, n, right);
        ++result.steps;
        result.drafted += n;
        result.accepted += right;
        result.time += costs(n + 1);
        for (uint32_t i = 0; i < right + 1; ++i, ++count)
            drawn[count / 8] = static_cast<uint8_t>(drawn[count / 8] | 1 << count % 8);
    }
    return result;
}

TEST(DraftLength, RepetitionIsWrittenInFewSteps) {
    std::mt19937 random(5);
    Tokens text = random_text(random, 60, 1000);
    for (int i = 0; i < 10; ++i) text.insert(text.end(), text.begin(), text.begin() + 60);
    const Replayed fast = replay(text, 120, {kMemoryBoundCosts, 8}), slow = replay(text, 120, {kAvx2Costs, 8});
    const uint32_t tokens = static_cast<uint32_t>(text.size()) - 120;
    EXPECT_EQ(tokens, fast.steps + fast.accepted);
    EXPECT_LT(fast.steps, tokens / 8);
    EXPECT_LT(slow.time, tokens / 1.8);
}

// Where a token more costs as much as a step there is nothing to be gained, whatever the sources say.
TEST(DraftLength, NothingIsDraftedWhereItCannotPay) {
    Tokens text(500, 3);
    EXPECT_EQ(0u, replay(text, 100, {kLinearCosts, 2}).drafted);
}

// Texts made so that what stood there before never comes again: every suffix is followed by another token each time.
TEST(DraftLength, LossIsBounded) {
    std::mt19937 random(6);
    for (uint32_t alphabet : {2u, 5u, 20u}) {
        Tokens text = random_text(random, 100, static_cast<int32_t>(alphabet));
        Placed<SuffixIndex> index(1400u, 0);
        index.clear();
        while (text.size() < 1400) {
            index.add(text.data(), static_cast<uint32_t>(text.size()));
            const SuffixMatch match = index.find(text.data(), static_cast<uint32_t>(text.size()));
            int32_t next = static_cast<int32_t>(random() % alphabet);
            if (match.length && next == text[match.next]) next = (next + 1) % static_cast<int32_t>(alphabet);
            text.push_back(next);
        }
        for (const StepCosts& costs : {StepCosts{kAvx2Costs, 8}, StepCosts{kMemoryBoundCosts, 8}}) {
            const Replayed r = replay(text, 100, costs);
            EXPECT_LT(r.time, 1300 * 1.01 + 3) << alphabet;
            EXPECT_LT(r.drafted, 400u) << alphabet;
        }
    }
}

// The worst there is: what would have been drafted is right as long as nothing is drafted, and wrong when it is.
TEST(DraftLength, LossIsBoundedAgainstAnAdversary) {
    for (const StepCosts& costs : {StepCosts{kAvx2Costs, 8}, StepCosts{kMemoryBoundCosts, 8}}) {
        std::mt19937 random(12);
        Tokens text = random_text(random, 200, 6);
        Placed<SuffixIndex> index(2300u, 0);
        index.clear();
        Placed<Drafter> drafter(2300u, 0);
        drafter.open({}, true);
        const std::vector<uint8_t> drawn(300, 0xff);
        double lost = 0;
        uint32_t steps = 0, drafted = 0;
        for (; steps < 2000; ++steps) {
            const uint32_t count = static_cast<uint32_t>(text.size());
            drafter.follow(text.data(), count, drawn.data());
            index.add(text.data(), count);
            int32_t drafts[keel::kMaxDrafts];
            const uint32_t n = drafter.draft(text.data(), {costs, 1, 1}, keel::kMaxDrafts, drafts, nullptr);
            drafter.verified({costs, 1, 1}, n, 0);
            lost += costs(n + 1) - 1;
            drafted += n;
            ASSERT_LE(lost, 1 + 0.012 * (steps + 1)) << steps;
            const SuffixMatch match = index.find(text.data(), count);
            const int32_t usual = match.length ? text[match.next] : static_cast<int32_t>(random() % 6);
            text.push_back(n ? (drafts[0] + 1) % 6 : usual);
        }
        EXPECT_GT(drafted, 10u);
    }
}

// What drafts by steps of its own is asked while it pays, and given up where it does not.
TEST(SessionOdds, AskOnlyWhatPays) {
    const keel::DraftStep step = {{kMemoryBoundCosts, 8}, 1, 1}, slow = {{kAvx2Costs, 8}, 1, 1};
    keel::SessionOdds odds;
    odds.open();
    EXPECT_EQ(0u, odds.worth(step, 1, 1, 7)) << "as slow as the session";
    EXPECT_EQ(0u, odds.worth(slow, 0.5, 0.5, 7));
    const uint32_t first = odds.worth(step, 0.2, 0.2, 7);
    EXPECT_GT(first, 0u);
    for (int i = 0; i < 40; ++i) {
        odds.spend(step, 0.2 * 7);
        odds.verified(step, 7, 7);
    }
    EXPECT_EQ(7u, odds.worth(step, 0.2, 0.2, 7));
    EXPECT_GT(odds.worth(step, 0.1, 0.1, 7), 0u);
    EXPECT_EQ(0u, odds.worth(step, 30, 0.2, 7)) << "it is too far behind";
}

TEST(SessionOdds, LossIsBounded) {
    for (const double each : {0.05, 0.3}) {
        const keel::DraftStep step = {{kMemoryBoundCosts, 8}, 1, 1};
        keel::SessionOdds odds;
        odds.open();
        double lost = 0;
        uint32_t drafted = 0;
        for (uint32_t steps = 0; steps < 2000; ++steps) {
            const uint32_t n = odds.worth(step, each, each, 7);
            if (n) odds.spend(step, n * each);
            odds.verified(step, n, 0);
            lost += n * each + step.cost(n);
            drafted += n;
            ASSERT_LE(lost, 4 + 0.012 * (steps + 1)) << steps;
        }
        EXPECT_GT(drafted, 4u);
    }
}

// ---- trees ----

constexpr double kGpuCosts[] = {1, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14};

// A text in which every token is followed by one of two, and rows of logits that have both in front.
struct Forking {
    static constexpr uint32_t kVocabulary = 60;
    Tokens text = {0};

    static int32_t follower(int32_t token, uint32_t which) {
        return static_cast<int32_t>((static_cast<uint32_t>(token) * 7 + 3 + which * 29) % kVocabulary);
    }
    explicit Forking(uint32_t count, uint32_t seed) {
        std::mt19937 random(seed);
        while (text.size() < count) text.push_back(follower(text.back(), random() % 10 < 6 ? 0 : 1));
    }
    // Of the token at `position`.
    std::vector<int32_t> largest(uint32_t position) const {
        std::vector<int32_t> ids(RecycledLogits::kWidth, -1);
        for (uint32_t which : {0u, 1u}) ids[which] = follower(text[position - 1], which);
        return ids;
    }
};

struct Grown {
    uint32_t steps = 0, branches = 0;
};

Grown grow(const Forking& f, const StepCosts& costs, bool trees, uint32_t most, bool suffixes = false) {
    Placed<RecycledLogits> recycled(Forking::kVocabulary);
    recycled.clear();
    Placed<Drafter> drafter(suffixes ? static_cast<uint32_t>(f.text.size()) : 0, 0);
    drafter.open({nullptr, &recycled}, true);
    std::vector<uint8_t> drawn(f.text.size() / 8 + 1, 0xff);
    Grown grown;
    for (uint32_t count = 1; count < f.text.size(); ++grown.steps) {
        drafter.follow(f.text.data(), count, drawn.data());
        int32_t drafts[keel::kMaxDrafts];
        uint8_t parents[keel::kMaxDrafts];
        const uint32_t left = static_cast<uint32_t>(f.text.size()) - count - 1;
        const uint32_t n =
            drafter.draft(f.text.data(), {costs, 1, 1}, std::min(left, most), drafts, trees ? parents : nullptr);
        uint32_t right = 0, last = keel::kTextEnd;
        for (uint32_t i = 0; i < n; ++i) {
            const uint32_t parent = trees ? parents[i] : i ? i - 1 : keel::kTextEnd;
            EXPECT_TRUE(parent == keel::kTextEnd || parent < i);
            const int32_t before = parent == keel::kTextEnd ? f.text[count - 1] : drafts[parent];
            EXPECT_TRUE(drafts[i] == Forking::follower(before, 0) || drafts[i] == Forking::follower(before, 1));
            for (uint32_t k = 0; k < i && trees; ++k)
                EXPECT_FALSE(parents[k] == parent && drafts[k] == drafts[i]) << "a place has a token twice";
            grown.branches += parent != (i ? i - 1 : keel::kTextEnd);
            if (parent == last && drafts[i] == f.text[count + right]) last = i, ++right;
        }
        drafter.see_largest(count + right, f.largest(count + right).data());
        drafter.verified({costs, 1, 1}, n, right);
        count += right + 1;
    }
    return grown;
}

// Where columns cost next to nothing both followers are drafted, and two places ahead are always right; where they cost
// more, if only as much as on a CPU that waits for memory, or a chain is asked for, there is one draft for a place.
TEST(DraftTree, BranchesWhereThatPays) {
    const Forking f(3000, 3);
    const Grown tree = grow(f, {kGpuCosts, 8}, true, 7), chain = grow(f, {kGpuCosts, 8}, false, 7),
                dear = grow(f, {kMemoryBoundCosts, 8}, true, 7);
    EXPECT_LT(tree.steps, 1300u) << "six drafts hold all that may follow in two places";
    EXPECT_LT(tree.steps * 4, chain.steps * 3);
    EXPECT_GT(tree.branches, tree.steps * 2);
    EXPECT_LT(grow(f, {kGpuCosts, 8}, true, 7, true).steps, 1500u) << "what suffixes say is as random";
    EXPECT_EQ(chain.branches, 0u);
    EXPECT_EQ(dear.branches, 0u);
    EXPECT_LT(dear.steps, 2200u);
}

// The same text and steps, the same drafts; fewer of them are the first ones.
TEST(DraftTree, FollowsFromTheHistory) {
    const Forking f(400, 5);
    const auto drafts_of = [&](uint32_t most) {
        Placed<RecycledLogits> recycled(Forking::kVocabulary);
        recycled.clear();
        Placed<Drafter> drafter(400u, 0);
        drafter.open({nullptr, &recycled}, true);
        std::vector<uint8_t> drawn(60, 0xff);
        std::vector<int32_t> all;
        for (uint32_t count = 1; count < 400; ++count) {
            drafter.follow(f.text.data(), count, drawn.data());
            int32_t drafts[keel::kMaxDrafts];
            uint8_t parents[keel::kMaxDrafts];
            const uint32_t n = drafter.draft(f.text.data(), {{kGpuCosts, 8}, 1, 1}, most, drafts, parents);
            if (n >= 3)
                for (uint32_t i = 0; i < 3; ++i) all.insert(all.end(), {drafts[i], parents[i]});
            drafter.see_largest(count, f.largest(count).data());
            drafter.verified({{kGpuCosts, 8}, 1, 1}, 7, 1);
        }
        return all;
    };
    const std::vector<int32_t> want = drafts_of(7);
    EXPECT_GT(want.size(), 1000u);
    EXPECT_EQ(want, drafts_of(7));
    EXPECT_EQ(want, drafts_of(3));
}

// Beside other sessions a draft takes their time as well: the same text is worth fewer drafts, or none.
TEST(DraftLength, OthersTimeCounts) {
    std::mt19937 random(10);
    Tokens text = random_text(random, 40, 500);
    text.insert(text.end(), text.begin(), text.begin() + 3);
    const uint32_t count = static_cast<uint32_t>(text.size());
    Placed<Drafter> drafter(200u, 0);
    drafter.open({}, true);
    const std::vector<uint8_t> drawn(32, 0);
    drafter.follow(text.data(), count, drawn.data());
    int32_t drafts[keel::kMaxDrafts];
    const StepCosts costs = {kAvx2Costs, 8};
    EXPECT_GT(drafter.draft(text.data(), {costs, 1, 1}, 8, drafts, nullptr), 0u);
    EXPECT_EQ(0u, drafter.draft(text.data(), {costs, 8, 8}, 8, drafts, nullptr));
    EXPECT_NEAR(0.3 * 8 / 3.2, (keel::DraftStep{costs, 8, 8}).cost(1), 1e-12);
}

// Rewinding and writing the same again gives the same drafts of suffixes.
TEST(DraftLength, RewindsWithItsSession) {
    std::mt19937 random(7);
    Tokens text = random_text(random, 40, 500);
    text.insert(text.end(), text.begin(), text.begin() + 20);
    const uint32_t count = static_cast<uint32_t>(text.size());
    Placed<Drafter> drafter(200u, 0);
    drafter.open({}, true);
    const std::vector<uint8_t> drawn(32, 0);
    const StepCosts costs = {kMemoryBoundCosts, 8};
    int32_t first[keel::kMaxDrafts], second[keel::kMaxDrafts];
    drafter.follow(text.data(), count, drawn.data());
    const uint32_t n = drafter.draft(text.data(), {costs, 1, 1}, 8, first, nullptr);
    ASSERT_GT(n, 4u);
    EXPECT_TRUE(std::equal(first, first + n, text.begin() + 20));
    Tokens other = text;
    other.insert(other.end(), {7, 7, 7, 7});
    drafter.follow(other.data(), count + 4, drawn.data());
    drafter.rewind(other.data(), count);
    ASSERT_EQ(n, drafter.draft(text.data(), {costs, 1, 1}, 8, second, nullptr));
    EXPECT_TRUE(std::equal(first, first + n, second));
}

// A session that others read is not learned from when it says so.
TEST(DraftPool, AnExcludedSessionLeavesNothing) {
    std::mt19937 random(8);
    const Tokens text = random_text(random, 100, 30);
    const std::vector<uint8_t> drawn(16, 0);
    Placed<TokenPool> pool(uint64_t{1} << 12);
    pool.clear();
    Placed<Drafter> drafter(100u, 0);
    drafter.open({&pool, nullptr}, false);
    drafter.follow(text.data(), 100, drawn.data());
    EXPECT_TRUE(empty(pool));
    drafter.open({&pool, nullptr}, true);
    drafter.follow(text.data(), 100, drawn.data());
    EXPECT_FALSE(empty(pool));
}

// What one session wrote is drafted for the next one.
TEST(DraftPool, SharedBySessions) {
    std::mt19937 random(9);
    const Tokens text = random_text(random, 300, 2000);
    Placed<TokenPool> pool(uint64_t{1} << 16);
    pool.clear();
    const StepCosts costs = {kMemoryBoundCosts, 8};
    const Replayed alone = replay(text, 10, costs, {&pool, nullptr});
    EXPECT_EQ(0u, alone.accepted);
    const Replayed again = replay(text, 10, costs, {&pool, nullptr});
    EXPECT_GT(again.accepted, 200u);
}

}  // namespace
