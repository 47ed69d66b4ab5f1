// Where the newest tokens of a text stood before: the longest suffix that occurred earlier, and what followed it then.
//
//     tokens   a b c d x a b c | ?         suffix "a b c" of length 3 ends at position 3 and at the end
//                    ^ next = 3            draft: d, x, a, ...
//
// A hash table for each length in kOrders holds the latest position with such a suffix; positions of one bucket are
// chained, newest first. A lookup takes the longest order that has a match and looks at the first kMostTries positions
// of its chain, comparing at most kMostLength tokens each, so that a token costs the same whatever the text is. Where
// the chain is no longer than that, the match is the longest there is (up to kMostLength), and of equally long ones the
// latest.
#pragma once
#include "sdk/core/arena.h"

namespace keel {

struct SuffixMatch {
    uint32_t next;    // tokens[next - length, next) are the newest `length` tokens
    uint32_t length;  // 0: there is no match
};

class SuffixIndex {
  public:
    static constexpr uint32_t kOrders[] = {8, 4, 2};
    static constexpr uint32_t kOrderCount = 3, kLeastLength = 2, kMostLength = 32, kMostTries = 8;

    // Of texts of at most `capacity` tokens: 4 bytes for each bucket and token, of each order.
    void place(Arena* arena, uint32_t capacity, int32_t index);
    void clear();
    uint32_t indexed() const { return indexed_; }  // positions below can be found
    // Goes on to `count` tokens, of which the first indexed() are those of before.
    void add(const int32_t* tokens, uint32_t count);
    // Forgets positions from `count` on, exactly: as if they had never been added. The tokens are still in place.
    void rewind(const int32_t* tokens, uint32_t count);
    // For the text of `count` = indexed() tokens.
    SuffixMatch find(const int32_t* tokens, uint32_t count) const;

  private:
    uint32_t bucket(const int32_t* end, uint32_t order) const;

    uint32_t *head_[kOrderCount], *before_[kOrderCount];  // positions; 0: none
    uint32_t buckets_, capacity_, indexed_;
};

}  // namespace keel
