// What followed the last few tokens, most often in other texts and last in this one: the drafters that records of
// states have to beat.
#pragma once
#include <stdint.h>

#include <span>
#include <utility>
#include <vector>

#include "sdk/tools/lab/geodesic/trace_tape.h"

namespace keel::geodesic {

struct Continuation {
    int32_t token = -1;  // -1: these tokens were never seen
    uint32_t count = 0;  // how often it followed
    uint32_t of = 0;     // how often anything did
};

class TokenTable {
  public:
    static constexpr uint32_t kOrders[] = {5, 3, 2, 1};  // lengths of the contexts that are counted

    // `next` came behind the `order` tokens before `end`.
    void count(const int32_t* end, uint32_t order, int32_t next);
    void settle();  // after the last count, before the first find
    // The most frequent token behind a context; of equals the smallest id.
    Continuation find(const int32_t* end, uint32_t order) const;
    // The same behind the longest known context of at most `most` tokens, of the `known` tokens before `end`.
    Continuation longest(const int32_t* end, uint32_t known, uint32_t most) const;

  private:
    struct Row {
        uint64_t context;  // hash of its tokens and their number
        int32_t next;
    };
    std::vector<Row> rows_;
    std::vector<std::pair<uint64_t, Continuation>> best_;  // by context
};

// All contexts of the tapes' texts that have a token before their last one and one behind it.
TokenTable token_table(std::span<const TraceTape> tapes);

// Where the last tokens of a text stood before: the longest such suffix, up to 16 tokens, and of equally long ones the
// latest.
struct EarlierSuffix {
    size_t next = 0;    // text[next] followed it then
    size_t length = 0;  // 0: the last token is new
};
EarlierSuffix earlier_suffix(std::span<const int32_t> text);

// The tokens of each text of a tape.
std::vector<std::vector<int32_t>> texts_of(const TraceTape& tape);

}  // namespace keel::geodesic
