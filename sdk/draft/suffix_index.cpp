#include "sdk/draft/suffix_index.h"

#include <string.h>

#include <bit>

namespace keel {

void SuffixIndex::place(Arena* arena, uint32_t capacity, int32_t index) {
    capacity_ = capacity;
    buckets_ = std::bit_ceil(capacity + 1);
    for (uint32_t o = 0; o < kOrderCount; ++o) {
        head_[o] = arena->place<uint32_t>("draft_suffix_heads", buckets_, index);
        before_[o] = arena->place<uint32_t>("draft_suffix_chains", capacity, index);
    }
}

void SuffixIndex::clear() {
    for (uint32_t* head : head_) memset(head, 0, buckets_ * sizeof *head);
    indexed_ = 0;
}

// Of the kOrders[order] tokens before `end`.
uint32_t SuffixIndex::bucket(const int32_t* end, uint32_t order) const {
    uint64_t hash = 0;
    for (uint32_t i = 1; i <= kOrders[order]; ++i)
        hash = (hash + static_cast<uint32_t>(end[-static_cast<int32_t>(i)]) + 1) * 0x9e3779b97f4a7c15ull;
    return static_cast<uint32_t>(hash >> 32) & (buckets_ - 1);
}

// Position p is entered when the token behind it is known, as that is what it is looked up for.
void SuffixIndex::add(const int32_t* tokens, uint32_t count) {
    for (uint32_t p = indexed_; p < count; ++p)
        for (uint32_t o = 0; o < kOrderCount; ++o) {
            if (p < kOrders[o]) continue;
            uint32_t& head = head_[o][bucket(tokens + p, o)];
            before_[o][p] = head;
            head = p;
        }
    indexed_ = count;
}

void SuffixIndex::rewind(const int32_t* tokens, uint32_t count) {
    for (; indexed_ > count; --indexed_) {
        const uint32_t p = indexed_ - 1;
        for (uint32_t o = 0; o < kOrderCount; ++o)
            if (p >= kOrders[o]) head_[o][bucket(tokens + p, o)] = before_[o][p];
    }
}

SuffixMatch SuffixIndex::find(const int32_t* tokens, uint32_t count) const {
    SuffixMatch best = {0, 0};
    for (uint32_t o = 0; o < kOrderCount && best.length == 0; ++o) {
        if (count < kOrders[o]) continue;
        uint32_t p = head_[o][bucket(tokens + count, o)];
        for (uint32_t i = 0; i < kMostTries && p != 0; ++i, p = before_[o][p]) {
            const uint32_t most = p < kMostLength ? p : kMostLength;
            uint32_t length = 0;
            while (length < most && tokens[p - 1 - length] == tokens[count - 1 - length]) ++length;
            if (length >= kOrders[o] && length > best.length) best = {p, length};
        }
    }
    return best;
}

}  // namespace keel
