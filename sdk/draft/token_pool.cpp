#include "sdk/draft/token_pool.h"

#include "sdk/core/hash.h"

namespace keel {
namespace {

// An entry: tag, token, count from the high bits down; 0 is an empty one.
constexpr uint64_t entry_of(uint32_t tag, int32_t token, uint32_t count) {
    return uint64_t{tag} << 32 | static_cast<uint64_t>(static_cast<uint32_t>(token)) << 8 | count;
}
constexpr uint32_t tag_of(uint64_t entry) {
    return static_cast<uint32_t>(entry >> 32);
}
constexpr int32_t token_of(uint64_t entry) {
    return static_cast<int32_t>(entry >> 8 & (TokenPool::kMostVocabulary - 1));
}
constexpr uint32_t count_of(uint64_t entry) {
    return static_cast<uint32_t>(entry & TokenPool::kMostCount);
}

}  // namespace

static_assert(sizeof(std::atomic<uint64_t>) == 8 && std::atomic<uint64_t>::is_always_lock_free);

void TokenPool::place(Arena* arena, uint64_t bytes) {
    lines_ = bytes / kLineBytes;
    entries_ = arena->place<std::atomic<uint64_t>>("draft_pool", lines_ * kLineEntries);
}

void TokenPool::clear() {
    for (uint64_t i = 0; i < lines_ * kLineEntries; ++i) entries_[i].store(0, std::memory_order_relaxed);
}

TokenPool::Place TokenPool::place_of(const int32_t* end, uint32_t order) const {
    uint64_t hash = kHashSeed + kOrders[order];
    for (uint32_t i = 1; i <= kOrders[order]; ++i)
        hash = (hash ^ static_cast<uint32_t>(end[-static_cast<int32_t>(i)])) * 0x100000001b3ull;
    hash = hash_finish(hash);
    const uint64_t line = static_cast<uint64_t>(static_cast<unsigned __int128>(hash) * lines_ >> 64);
    const uint32_t tag = static_cast<uint32_t>(hash);
    return {entries_ + line * kLineEntries, tag ? tag : 1};
}

void TokenPool::learn(const int32_t* end, uint32_t count, int32_t next) {
    constexpr std::memory_order kRelaxed = std::memory_order_relaxed;
    for (uint32_t o = 0; o < kOrderCount; ++o) {
        if (count < kOrders[o]) continue;
        const Place at = place_of(end, o);
        std::atomic<uint64_t>* least = at.line;
        std::atomic<uint64_t>* found = nullptr;
        for (uint32_t i = 0; i < kLineEntries; ++i) {
            const uint64_t entry = at.line[i].load(kRelaxed);
            if (tag_of(entry) == at.tag && token_of(entry) == next) found = at.line + i;
            if (count_of(entry) < count_of(least->load(kRelaxed))) least = at.line + i;
        }
        if (found) {
            const uint64_t entry = found->load(kRelaxed);
            if (count_of(entry) < kMostCount) found->store(entry + 1, kRelaxed);
            continue;
        }
        const uint64_t entry = least->load(kRelaxed);
        least->store(count_of(entry) > 1 ? entry - 1 : entry_of(at.tag, next, 1), kRelaxed);
    }
}

PoolMatch TokenPool::find(const int32_t* end, uint32_t count) const {
    PoolMatch best = {0, kOrderCount, 0};
    for (uint32_t o = 0; o < kOrderCount && best.count == 0; ++o) {
        if (count < kOrders[o]) continue;
        const Place at = place_of(end, o);
        for (uint32_t i = 0; i < kLineEntries; ++i) {
            const uint64_t entry = at.line[i].load(std::memory_order_relaxed);
            if (tag_of(entry) != at.tag) continue;
            const uint32_t times = count_of(entry);
            if (times > best.count || (times == best.count && times && token_of(entry) < best.token))
                best = {token_of(entry), o, times};
        }
    }
    return best;
}

}  // namespace keel
